/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stream.c (the port), stream_admit.c (accepted streams), stream_dial.c (dials) and
 * stream_targets.c (the addresses of one) share.
 */
#ifndef MC_CORE_STREAM_PORT_H
#define MC_CORE_STREAM_PORT_H

#include "access.h"
#include "admit.h"
#include "engine.h"
#include "stream_local.h"
#include "stream_wire.h"
#include <sys/socket.h>

struct mc_admit;
struct mc_dial;

struct mc_port {
	struct mc_engine *engine;
	struct mc_stream_owners owners;
	uint32_t refs; /* the engine's, one per open handle, one per dial; atomic */
	int fd;        /* listens; -1: not open */
	int local_fd;     /* the Unix socket's; -1: there is none */
	char *local_path; /* of its file; as long as the port */
	bool v6;
	bool closed;   /* unlisten was called; atomic, written on [control] */
	char **addresses;
	struct mc_admit_key *key; /* immutable while open; NULL: whoever comes is admitted */
	struct mc_access *access; /* likewise; NULL: to everything */

	/* [control] */
	bool has_handles;
	uv_poll_t poll;
	uv_poll_t local_poll; /* in use if local_fd is */
	uv_timer_t timer;
	uint64_t resume_ns; /* accepting pauses until then (no descriptors left); 0: it does not */
	struct mc_admit *admits; /* oldest first */
	size_t nr_admits;
	struct mc_port_counts {
		uint64_t accepted;
		uint64_t admitted[MC_STREAM_RPC + 1]; /* by kind */
		uint64_t refused;  /* by the owner of its kind, or for want of rights */
		uint64_t unproven; /* the cluster key */
		uint64_t dropped;  /* unadmitted: malformed, late, too many */
	} counts;
	struct mc_dial *dials;
	/* The stream that is being handed to its owner, for mc_stream_admit. */
	int current_fd;
	bool current_told;
	struct mc_admit_talk *current_talk; /* NULL: without a key */
};

/* For a TCP connection that is established, at either end: nothing waits to be sent with more, and within a host nothing
 * is paced, as a host-wide choice of BBR would have it (a timer per 64 KiB, at a rate guessed from the reader's pauses), and
 * little is held back for want of room at the other end. */
void mc_stream_tune(int fd);
struct mc_port *mc_port_ref(struct mc_port *port);
void mc_port_unref(struct mc_port *port);
/* stream_admit.c: accept on port->fd; stop, and close what is not admitted.  [control] */
void mc_port_accept_start(struct mc_port *port);
void mc_port_accept_stop(struct mc_port *port);
/* End every dial with -ECANCELED.  [control] */
void mc_dials_cancel(struct mc_port *port);

/* ---- stream_targets.c ------------------------------------------------------------------------- */

#define MC_TARGETS_MAX 16

struct mc_target {
	struct sockaddr_storage ss;
	socklen_t len;
};

/* Addresses resolved, by the loop or by a helper; then the dial's. */
struct mc_targets {
	size_t nr;
	struct mc_target at[MC_TARGETS_MAX];
	bool named; /* a name was met and left out */
	int status; /* of the last address that gave none */
	char why[256];
};

/* The targets in the order of the addresses: those of names, which may block, or the others.  t is
 * the caller's alone.  [control; for names a helper] */
void mc_targets_fill(char *const *addresses, bool names, struct mc_targets *t);
/* One more, if there is room for it.  Likewise. */
void mc_targets_add(struct mc_targets *t, const void *sa, socklen_t len);

#endif
