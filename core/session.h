/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session: the control connection from one engine to another, under one random
 * id, alive over reconnections on any of the peer's addresses.  It is directed:
 * the engine that opened it (active) submits requests, the other (passive) serves
 * them; two engines that use each other's memory have two.
 *
 * It carries typed messages, each exactly once and in order while the session
 * lives, and ends when the peer is gone (P6), has a new generation (P5), says
 * goodbye or is evicted.
 */
#ifndef MC_CORE_SESSION_H
#define MC_CORE_SESSION_H

#include <mooncake/types.h>

#include <stdatomic.h>

#include "log.h"

struct mc_device;
struct mc_engine;
struct mc_matrix;

/* One device of the peer, from its hello. */
struct mc_remote_device {
	char transport[MC_PLUGIN_NAME_MAX + 1];
	char name[MC_DEVICE_NAME_MAX + 1];
	char wire[MC_PLUGIN_NAME_MAX + 1];
	uint16_t wire_min, wire_max;
	uint16_t nr_lanes;
	char address[64]; /* "host:port" where data streams of it are dialled; empty: the engine's addresses */
	char subnet[64];
	char filters[128];     /* over it, space-separated */
	char remote_kinds[64]; /* space-separated kinds that this device reaches in its own host; "*" */
};

/* Who is at the other end; immutable, lives as long as the session.  When the peer has reloaded its matrix
 * another one takes its place, whose first devices are the same. */
struct mc_peer_info {
	char name[MC_SEGMENT_NAME_MAX + 1];
	uint64_t generation;
	char **addresses; /* "192.0.2.1:12001", "[::1]:12001"; ends with NULL */
	char *local_path; /* of its Unix socket, if it is an engine of this host; or NULL */
	size_t nr_devices;
	struct mc_remote_device *devices;
	struct mc_matrix *matrix; /* the peer's own, for the tiers of remote locations */
};

/* A buffer of the peer as its table says it. */
struct mc_remote_blob {
	uint16_t device_idx; /* in the peer's devices */
	uint16_t len;
	const uint8_t *data;
};
/* We have fewer rights than the buffer gives to others: its devices' keys are kept from us. */
#define MC_REMOTE_NO_KEYS (1u << 31)
struct mc_remote_buf {
	uint64_t base, len;
	uint32_t id; /* unique in the generation */
	uint32_t access; /* MC_ACCESS_*, MC_REMOTE_NO_KEYS */
	int32_t ordinal;
	uint32_t size; /* bytes of memory that it takes */
	char location[MC_LOCATION_MAX + 1];
	char kind[MC_PLUGIN_NAME_MAX + 1];
	size_t nr_blobs;
	struct mc_remote_blob *blobs;
};

/* The peer's buffer table at one moment: immutable, refcounted, sorted by base.  Entries are shared
 * between snapshots: the same buffer keeps its mc_remote_buf (refcounted within) over versions. */
struct mc_snapshot {
	uint32_t refs;
	uint64_t version;
	size_t nr;
	struct mc_remote_buf **bufs;
};
struct mc_snapshot *mc_snapshot_ref(struct mc_snapshot *s);
void mc_snapshot_unref(struct mc_snapshot *s);
/* The buffer that holds [offset, offset + len), or NULL. */
struct mc_remote_buf *mc_snapshot_find(const struct mc_snapshot *s, uint64_t offset, uint64_t len);

struct mc_session {
	struct mc_engine *engine;
	uint32_t refs;
	bool active;
	uint64_t id;
	_Atomic(const struct mc_peer_info *) peer; /* set before `up`; the latest, swapped on [control] */
	uint32_t state;             /* enum mc_session_state; written on [control], read anywhere (atomic) */
	uint32_t denied;            /* passive: MC_ACCESS_REMOTE_* that this peer does not have here; set before `up` */
	int gone_status;            /* -EHOSTDOWN, -ESTALE, -ECANCELED; valid in GONE */
	uint64_t heard_ns;          /* CLOCK_BOOTTIME of the last sign of life; atomic, any thread */
	struct mc_snapshot *snapshot; /* active: latest; swapped on [control], read through get_snapshot */
	void *paths;                /* route's: see path.h */
	struct mc_ratelimit denials; /* of requests that the peer's table does not allow */
	struct mc_session_impl *impl;
};
enum mc_session_state { MC_SESSION_CONNECTING = 0, MC_SESSION_UP, MC_SESSION_GONE };

struct mc_session *mc_session_ref(struct mc_session *s);
void mc_session_unref(struct mc_session *s);
/* A reference to the latest table; NULL on a passive session and until the first is complete.  [any] */
struct mc_snapshot *mc_session_snapshot(struct mc_session *s);
/* A sign of life that came by another way than the control connection (data, completions).  [any] */
void mc_session_heard(struct mc_session *s);

/* The active session to the engine of this name, opening it if there is none; waits until it is up
 * and its buffer table is here.  One per peer generation, shared by all users.  [any] but control
 * and workers; returns a reference */
int mc_session_open(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		    struct mc_session **ret_session, struct mc_error *err);

/* Send a message: head and body are copied, together at most 64 KiB.  -ENOTCONN once the session
 * is gone; -ENOBUFS when more than 16 MiB wait.  [any], never blocks */
int mc_session_send(struct mc_session *s, uint16_t type, const void *head, size_t head_len,
		    const void *body, size_t body_len);

/* The peer breaks the rules, or floods us: end the session, with one sentence in the log.  [control] */
void mc_session_fail(struct mc_session *s, int status, const char *why);

/* Message types of the session layer itself are below 0x100; others belong to whoever handles them. */
#define MC_MSG_PATH_FIRST 0x100   /* path.c: rails, fences, handshakes of plugins */
#define MC_MSG_PATH_LAST 0x1ff
#define MC_MSG_STAGE_FIRST 0x200  /* stage.c */
#define MC_MSG_STAGE_LAST 0x2ff
#define MC_MSG_NOTIFY_FIRST 0x300 /* notify.c */
#define MC_MSG_NOTIFY_LAST 0x3ff

/* What the session layer calls, all on [control].  Given once, before the port is opened. */
struct mc_session_events {
	/* A message of the ranges above.  payload is borrowed. */
	void (*message)(struct mc_session *s, uint16_t type, const void *payload, size_t len);
	/* The session came up (either side), before any message of it. */
	void (*up)(struct mc_session *s);
	/* It ended; no message follows.  Called once, also when it never came up. */
	void (*gone)(struct mc_session *s, int status, const char *why);
	/* A new snapshot has been put in place (active side). */
	void (*snapshot)(struct mc_session *s);
	/* The last reference is gone; s->paths is still there.  [any] */
	void (*freed)(struct mc_session *s);
};
void mc_session_set_events(struct mc_engine *engine, const struct mc_session_events *events);

/* Make engine->sessions, before the port is opened, and become the owner of control streams.
 * table: who knows our own buffers (mc_local_each).  [any] but control */
struct mc_local_buf;
typedef uint32_t (*mc_table_each)(struct mc_engine *engine,
				  void (*f)(const struct mc_local_buf *buf, void *arg), void *arg);
int mc_sessions_open(struct mc_engine *engine, mc_table_each table);
/* Say goodbye and end every session (gone() with -ECANCELED); no other is opened or accepted.
 * Before mc_sessions_free, while plugins still live.  [any] but control and workers */
void mc_sessions_close(struct mc_engine *engine);
/* After mc_stream_free.  Sessions that others still reference stay readable, as GONE. */
void mc_sessions_free(struct mc_engine *engine);

/* Ask the peer for what we have not seen yet of its table; done(arg) runs on [control] when the
 * answer is in place (status 0) or the session has ended.  [any] */
int mc_session_refresh(struct mc_session *s, void (*done)(void *arg, int status), void *arg);

/* Push a change of our own table to every passive session.  buf is encoded before the return; add
 * again after its blobs have changed. */
void mc_session_push_add(struct mc_engine *engine, struct mc_local_buf *buf);    /* [any] */
void mc_session_push_remove(struct mc_engine *engine, uint32_t buf_id);          /* [any] */

/* Tell every peer who we are now: our devices and matrix have changed.  It is on its way at the return, before
 * any message that is sent later.  [any] but control and workers */
void mc_session_tell_self(struct mc_engine *engine);
/* Could peers be told of this matrix, and of these devices beside those that are open?  -E2BIG: not in one
 * message.  [any] */
int mc_hello_fits(struct mc_engine *engine, const struct mc_matrix *matrix, struct mc_device *const *more,
		  size_t nr_more, struct mc_error *err);

/* End passive and active sessions with this generation; gone() has run for each when it returns.
 * -ENOENT: none.  [any] but control and workers */
int mc_session_end(struct mc_engine *engine, uint64_t generation, int status, const char *why);
/* Call f for each session.  [control] */
void mc_session_each(struct mc_engine *engine, void (*f)(struct mc_session *s, void *arg), void *arg);

#endif
