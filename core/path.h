/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A path: one lane's share of a rail (local device, remote device, wire).  The
 * active one belongs to an active session and carries slices; the passive one
 * stands at the other end and serves them.
 *
 *        need            opened + ready                 broken
 *   IDLE ----> OPENING ----------------> UP ---------------------> FENCING
 *                 |                       ^                           | both ends fenced
 *                 +--------- broken ------|---> DOWN <----------------+
 *                                         |      | back-off over
 *                                         +------+ (ramp: the window grows from one slice)
 *
 * Everything but `usable` and the rates is the worker's.
 */
#ifndef MC_CORE_PATH_H
#define MC_CORE_PATH_H

#include "batch.h"
#include "lane.h"
#include "session.h"
#include "stream.h"

enum mc_path_state { MC_PATH_IDLE = 0, MC_PATH_OPENING, MC_PATH_UP, MC_PATH_FENCING, MC_PATH_DOWN, MC_PATH_CLOSED };

struct mc_remote_import { /* one per (path, remote buffer): header before the plugin's area */
	struct mc_path *path;
	uint32_t buf_id;
	int status;         /* 0, -EINPROGRESS, -errno */
	struct mc_remote_import *next;
};

struct mc_hslice {
	struct mc_slice s; /* first: what the plugin sees */
	struct mc_hslice *prev, *next; /* path->inflight_list; next also links the free list */
	struct mc_path *path;
	struct mc_run *run; /* NULL: a flush of a batch, or a staging slice */
	struct mc_piece piece;
	int any_status, any_scope; /* complete_any */
	uint64_t any_len;
	bool cancelling;
	struct mc_stage *stage; /* staging that this slice is part of, or NULL */
};

struct mc_path {
	struct mc_lane *lane;
	struct mc_session *session; /* a reference */
	struct mc_path *next;       /* lane->paths */
	struct mc_path *next_ready; /* lane->ready */
	bool active, is_ready, listed;
	uint32_t rail_id;
	uint16_t lane_idx;        /* ours; with rail_id the path's name on the wire */
	uint16_t remote_lane;
	uint16_t remote_device;   /* index in session->peer->devices (active) */
	uint16_t wire_version;
	char remote_label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
	void *peer;               /* plugin's area, or NULL while not open */
	uint32_t state;           /* enum mc_path_state; atomic for readers */
	uint32_t usable;          /* atomic: may be chosen for new runs */
	uint32_t epoch;           /* of the current connection */
	bool peer_open;           /* the plugin has the peer */
	bool remote_open;         /* the other end has accepted (active) */
	bool fence_local, fence_remote; /* still awaited */
	bool parked;              /* submit said -EAGAIN */
	bool ready_said;
	bool dead;                /* session gone: no reconnecting */
	bool logged;
	int break_status;
	uint64_t nominal, rate;   /* bytes per second; atomic for readers */
	uint64_t inflight;        /* bytes; atomic for readers */
	uint32_t nr_inflight;
	uint64_t window;          /* bytes allowed in flight */
	uint64_t ramp;            /* upper bound of the window after a failure; UINT64_MAX: none */
	uint64_t learn_since, learn_bytes, last_used;
	uint32_t failures;        /* in a row, for the back-off */
	struct mc_timer retry_timer;
	struct mc_link *queue, **queue_tail;
	struct mc_hslice *inflight_list;
	struct mc_piece *orphans; /* ended by the fence, to be tried again when it is complete */
	struct mc_orphan *orphan_list;
	struct mc_remote_import **imports; /* hash by buffer id */
	uint32_t nr_imports, cap_imports;
	uint64_t bytes_read, bytes_written; /* counters; atomic for readers */
	uint32_t holds;           /* passive: ranges held; [worker] */
	struct mc_transport_caps caps; /* narrowed for this peer */
};

/* ---- routes: route.c ---------------------------------------------------------------------------- */

struct mc_route_tier {
	size_t nr;
	struct mc_path **paths;
};
/* The candidates between a local location and a remote one, best tier first; immutable, the session's. */
struct mc_route {
	struct mc_route *next;
	const struct mc_matrix_row *row;
	char local_kind[MC_PLUGIN_NAME_MAX + 1];
	char remote_location[MC_LOCATION_MAX + 1];
	size_t nr_tiers;
	struct mc_route_tier *tiers;
	const char *why; /* nr_tiers 0: the reason */
};

/* Everything of a session on the data side. */
struct mc_paths {
	struct mc_session *session;
	pthread_mutex_t lock;     /* active: guards building routes and paths (cold) */
	struct mc_route *routes;  /* atomic list head; entries are immutable */
	struct mc_path **list;    /* active: all; passive: those the peer opened.  Passive: [control] */
	size_t nr, cap;
	uint32_t open;            /* atomic: paths that are not CLOSED */
	bool gone;                /* under lock */
};

/* The route, built on first need; NULL: out of memory.  [any] */
const struct mc_route *mc_route_get(struct mc_session *s, const struct mc_local_buf *lbuf,
				    const struct mc_remote_buf *rbuf);
/* Choose paths for a run and hand it to their workers; the caller's own batons are used.  If no path
 * exists, or the session is gone, the run ends with a status.  [any] */
void mc_route_dispatch(struct mc_run *run);
/* Is there any rail between the two engines?  -EPROTONOSUPPORT with the wires of both sides in err. */
int mc_route_check(struct mc_session *s, struct mc_error *err);

/* ---- paths: path.c ------------------------------------------------------------------------------- */

extern const struct mc_session_events mc_path_session_events; /* up, gone, snapshot, message */
/* The owner of data streams, for mc_stream_set_owners. */
int mc_path_stream(struct mc_engine *engine, struct mc_session *session, int fd,
		   const struct mc_stream_hello *hello);
/* Break a path: fence both ends, then reconnect (or close if it is dead).  [worker] */
void mc_path_break(struct mc_path *path, int status, const char *why);
/* The device of this lane came up, went down or is gone (MC_DEVICE_*).  [worker] */
void mc_lane_device_event(struct mc_lane *lane, int event, const char *why);
/* Look at every slice and queue entry for deadlines and cancels.  [worker] */
void mc_lane_expire(struct mc_lane *lane, uint64_t now_ns);
/* Cut off every use of a local buffer on all lanes: fences what is in flight.  [any] but workers */
void mc_paths_fence_buffer(struct mc_engine *engine, struct mc_local_buf *buf);

/* ---- host services that concern peers, slices, streams and ranges ------------------------------- */

void mc_host_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
		      uint64_t done_len);
void mc_host_complete_any(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			  uint64_t done_len);
int mc_host_peer_send(const struct mc_host *h, void *peer, const void *msg, size_t len);
void mc_host_peer_ready(const struct mc_host *h, void *peer, int status,
			const struct mc_transport_caps *caps, const char *why);
void mc_host_peer_writable(const struct mc_host *h, void *peer);
void mc_host_fenced(const struct mc_host *h, void *peer, uint32_t epoch);
int mc_host_stream_dial(const struct mc_host *h, void *peer, uint64_t token);
void mc_host_imported(const struct mc_host *h, void *remote, int status);
int mc_host_range_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
		      uint64_t len, uint32_t access, struct mc_range *range);
void mc_host_range_put(const struct mc_host *h, struct mc_range *range);

#endif
