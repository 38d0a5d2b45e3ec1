/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port: accepts and dials every connection, reads and writes the preamble,
 * has the cluster key proven, and hands admitted streams to their owners: control connections to session.c,
 * data streams to path.c, rpc streams to rpc.c.
 */
#ifndef MC_CORE_STREAM_H
#define MC_CORE_STREAM_H

#include <mooncake/types.h>

struct mc_engine;
struct mc_session;

enum mc_stream_kind { MC_STREAM_CONTROL = 1, MC_STREAM_DATA = 2, MC_STREAM_RPC = 3 };

/* What the preamble says; the wire layout is in stream_wire.h and docs/wire.md. */
struct mc_stream_hello {
	uint32_t kind;          /* enum mc_stream_kind */
	uint64_t session_id;    /* DATA: of the session it belongs to; CONTROL: the session's own; RPC: 0 */
	uint64_t from_generation;
	uint64_t to_generation; /* 0: whoever listens (a control connection to a peer seen first) */
	uint32_t rail_id, lane, epoch; /* DATA */
	uint64_t token;                /* DATA */
	uint32_t admission;            /* schemes that the dialler offers, MC_ADMIT_*; set by mc_stream_dial */
	uint32_t denied;               /* not on the wire: MC_ACCESS_REMOTE_* that `from` does not have here */
	char from[MC_SEGMENT_NAME_MAX + 1]; /* segment name of the dialler */
};

/* Bind the port (one that the user named, or the first free one from the default) and listen.  Sets engine->port.  Who connects waits until
 * mc_stream_start.  [any] before the loop has other users */
int mc_stream_listen(struct mc_engine *engine, struct mc_error *err);
/* Accept and admit from now on: what a hello tells of us is complete.  Once.  [any] but control */
void mc_stream_start(struct mc_engine *engine);
/* Stop accepting; unadmitted connections are closed, dials under way end with -ECANCELED and later
 * ones are not begun (-ESHUTDOWN).  Accepts an engine that never listened.  [any] but control */
void mc_stream_unlisten(struct mc_engine *engine);
/* Unlisten, and free what mc_stream_set_owners or mc_stream_listen made.  [any] but control */
void mc_stream_free(struct mc_engine *engine);

/* Dial the first of addresses that answers (NULL-terminated, tried one after another with 300 ms
 * head start each), from local_address if not empty, say hello and wait to be admitted.  done runs
 * once on [control], never inside this call: fd >= 0 (non-blocking, TCP_NODELAY, the callee's) or
 * -errno and a sentence.  With a cluster key the other end has proven that it knows it, and so have
 * we; -EACCES: one of the two could not, or we may not do this there.  -ECONNREFUSED: no address has a listener; -ESTALE: another generation
 * answers; another errno: some address may yet answer.  Returns -errno without calling done.
 * [any], never blocks */
int mc_stream_dial(struct mc_engine *engine, const char *const *addresses, const char *local_address,
		   const struct mc_stream_hello *hello, uint64_t deadline_ns,
		   void (*done)(void *arg, int fd, const char *why), void *arg);

/* The same over the Unix socket of an engine of this host, whose file is at path. */
int mc_stream_dial_local(struct mc_engine *engine, const char *path, const struct mc_stream_hello *hello,
			 uint64_t deadline_ns, void (*done)(void *arg, int fd, const char *why), void *arg);

/* Owners of accepted streams, on [control]; they own fd and return 0, or refuse with -errno (the
 * dialler is told).  Set before the port is opened. */
struct mc_stream_owners {
	int (*control)(struct mc_engine *engine, int fd, const struct mc_stream_hello *hello);
	int (*data)(struct mc_engine *engine, struct mc_session *session, int fd,
		    const struct mc_stream_hello *hello);
	int (*rpc)(struct mc_engine *engine, int fd, const struct mc_stream_hello *hello);
	/* A connection that begins like HTTP; nothing of it was read.  On -errno why says what the
	 * user can do. */
	int (*http)(struct mc_engine *engine, int fd, char *why, size_t why_size);
};
/* Tell the dialler now that it is admitted, instead of after the owner's return: for an owner that
 * hands the fd to a thread that may write first.  Inside an owner's call only; nothing can be
 * refused any more.  [control] */
void mc_stream_admit(struct mc_engine *engine);
int mc_stream_set_owners(struct mc_engine *engine, const struct mc_stream_owners *owners);

#endif
