/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A path: one lane's share of a rail (local device, remote device, wire).  The
 * active one belongs to an active session and carries slices; the passive one
 * stands at the other end and serves them.
 *
 *   IDLE --need--> OPENING --ready--> UP --broken--> FENCING --both ends fenced--> DOWN
 *                     |                                                              |
 *                     +---broken---> FENCING               OPENING <--back-off over--+
 *
 * After a failure the path probes by connecting again, and its window grows from
 * one slice (ramp).  A path of a session that is gone ends in CLOSED.  Everything
 * but what is marked atomic is the worker's.
 */
#ifndef MC_CORE_PATH_H
#define MC_CORE_PATH_H

#include "batch.h"
#include "explain.h"
#include "lane.h"
#include "path_wire.h"
#include "session.h"
#include "stream.h"

enum mc_path_state {
	MC_PATH_IDLE = 0,
	MC_PATH_OPENING,
	MC_PATH_UP,
	MC_PATH_FENCING,
	MC_PATH_DOWN,
	MC_PATH_CLOSED
};

/* A remote buffer on one path: header of the plugin's area. */
struct mc_import {
	struct mc_import *next;
	struct mc_path *path;
	uint32_t buf_id;
	int32_t status; /* 0, -EINPROGRESS, -errno */
	_Alignas(MC_CACHE_LINE) char area[];
};

/* Header of the plugin's area of a peer. */
struct mc_peer_area {
	struct mc_path *path;
	_Alignas(MC_CACHE_LINE) char area[];
};

struct mc_hslice {
	struct mc_slice s; /* first: what the plugin sees */
	struct mc_hslice *prev, *next; /* in flight; next also links free, unflushed and orphan lists */
	struct mc_path *path;
	struct mc_piece piece; /* piece.run NULL: a flush */
	struct mc_stage *stage; /* staging that carries the bytes, or NULL */
	struct mc_hslice *any_next; /* complete_any */
	int32_t status;         /* complete_any, orphans */
	int32_t scope;
	bool cancelling;
	bool visible;           /* a write that needs no flush */
	uint64_t counted;       /* bytes of it in the counts of what is in flight */
	_Alignas(16) char priv[];
};

struct mc_path {
	struct mc_lane *lane;
	struct mc_session *session; /* a reference */
	struct mc_paths *paths;     /* the session's */
	struct mc_path *next;       /* lane->paths */
	struct mc_path *next_ready; /* lane->ready */
	struct mc_path *next_attend; /* lane->attend */
	bool active, listed, in_ready, in_attend;
	uint32_t rail_id;           /* with lane_id the path's name on the wire */
	uint16_t lane_id;           /* the active side's lane */
	uint16_t remote_lane;
	uint16_t remote_device;     /* active: index in session->peer->devices */
	uint16_t wire_version;
	char remote_label[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];

	struct mc_peer_area *peer;  /* NULL while not open */
	_Atomic uint32_t state;     /* enum mc_path_state */
	uint32_t epoch;             /* of the current connection */
	bool remote_open;           /* active: the other end has accepted this epoch */
	bool fence_local, fence_remote; /* still awaited */
	bool fence_asked;           /* passive: the other end wants it fenced */
	bool parked;                /* submit said -EAGAIN */
	bool held_valid;
	bool dead;                  /* the session is gone: no reconnecting */
	bool logged_up;
	bool wanted_break;          /* for a request of ours, not for a fault: no back-off follows */
	bool leaving;               /* closed because its device has left, not for a fault */
	bool break_due;             /* asked for from inside the plugin; done at the next attend */
	int32_t break_status;
	char break_why[320];        /* stays, for whoever asks: of the newest break */
	struct mc_piece held;       /* taken from its run, but -EAGAIN */
	struct mc_transport_caps caps; /* narrowed for this peer */
	uint64_t nominal;           /* bytes per second */
	_Atomic uint64_t rate;      /* learned */
	_Atomic uint64_t inflight;  /* bytes */
	uint32_t nr_inflight;
	uint64_t window;            /* bytes allowed in flight */
	uint64_t ramp;              /* upper bound of the window after a failure; UINT64_MAX: none */
	uint64_t learn_since, learn_bytes, last_used, last_heard;
	_Atomic uint32_t failures;  /* in a row, for the back-off; 0 again when the ramp is over */
	struct mc_timer timer;      /* back-off, or the bound of opening */
	struct mc_link *queue, **queue_tail;
	struct mc_hslice *inflight_list;
	struct mc_hslice *unflushed; /* writes that are done, but not yet visible */
	struct mc_hslice *flushing;  /* the flush under way; its piece list is flush_list */
	struct mc_hslice *flush_list;
	struct mc_hslice *orphans;   /* ended by the break; tried again once it is fenced */
	/* Staging, see stage.h. */
	struct mc_stage *stages;
	uint32_t nr_stages;
	uint32_t nr_chunks;  /* of the lane's pool that are ours: own or lent */
	bool stage_due;      /* a stage waits for room or for an import */
	bool stage_wait;     /* the held piece waits for a chunk */
	uint32_t stage_pool; /* active: the target's, 0 before the first grant */
	uint64_t stage_tag;  /* active: the last one given */
	struct mc_grant *grants; /* passive */
	uint32_t nr_grants, nr_copies;
	struct mc_import **imports;  /* hash by buffer id, power of two */
	uint32_t nr_imports, cap_imports;
	_Atomic uint64_t bytes_read, bytes_written, slices, breaks; /* counters */
	_Atomic uint64_t requests, retries, errors[MC_SCOPE_COUNT]; /* counters */
	/* Passive, [control]: the streams that the plugin was given, as they were then. */
	struct mc_admitted {
		int fd;
		uint32_t epoch;
		uint64_t ino, token;
	} admitted[MC_STREAMS_PER_PATH];
	uint32_t nr_admitted;
};

/* ---- routes: route.c ---------------------------------------------------------------------------- */

struct mc_route_tier {
	size_t nr;
	uint32_t tier; /* of the matrix; one of it may be several of ours */
	bool partner;  /* its pairs of devices are not for failover only */
	uint8_t stage; /* MC_STAGE_*: what its paths do not reach */
	struct mc_path **paths;
};
/* The candidates between a local location and a remote one, best tier first; immutable, the session's. */
struct mc_route {
	struct mc_route *next;
	const struct mc_matrix_row *row;
	const struct mc_peer_info *peer; /* what the peer was when it was built */
	char local_kind[MC_PLUGIN_NAME_MAX + 1];
	char remote_location[MC_LOCATION_MAX + 1];
	uint64_t chunk, max_piece;
	uint64_t alignment; /* of the path that asks for most; chunks are multiples of it */
	size_t nr_tiers;
	struct mc_route_tier *tiers;
};

/* Everything of a session on the data side; hangs on session->paths. */
struct mc_paths {
	struct mc_session *session;
	pthread_mutex_t lock;       /* guards building routes and active paths (cold) */
	_Atomic(struct mc_route *) routes; /* entries are immutable */
	struct mc_path **list;      /* active: under lock.  Passive: [control] */
	size_t nr, cap;
	_Atomic uint32_t open;      /* paths whose plugin object exists or is being made */
	_Atomic size_t note_bytes;  /* messages and events that the workers have not looked at yet */
	bool gone;                  /* under lock */
};

/* The route, built on first need; NULL: out of memory.  [any] */
const struct mc_route *mc_route_get(struct mc_session *s, const struct mc_local_buf *lbuf,
				    const struct mc_remote_buf *rbuf);
/* Choose paths for a run that has work and hand it to their workers.  Without a path, or when the
 * session is gone, the run's remainder ends with a status.  The caller holds the run.  [any] */
void mc_route_dispatch(struct mc_run *run);
/* Is there any rail between the two engines?  -EPROTONOSUPPORT with the wires of both sides in err. */
int mc_route_check(struct mc_session *s, struct mc_error *err);
/* Some path is up, being opened or untried. */
bool mc_route_usable(const struct mc_run *run);

/* A pair of devices of the two rows that is no rail. */
struct mc_no_rail {
	const struct mc_matrix_entry *local_entry, *remote_entry; /* remote NULL: LOCAL_ABSENT */
	const struct mc_device *device;       /* NULL: LOCAL_ABSENT */
	const struct mc_remote_device *remote; /* NULL: it is not open there */
	uint32_t tier;
	enum mc_verdict why;
};
/* Call each for every one between the buffers, for explain.c.  0; -ENOMEM.  [any] */
int mc_route_refusals(struct mc_session *s, const struct mc_local_buf *lbuf, const struct mc_remote_buf *rbuf,
		      void (*each)(void *ctx, const struct mc_no_rail *pair), void *ctx);
/* What dispatching a run that has a route would make of each of its paths now, in the route's order;
 * nothing is dispatched.  [any] */
struct mc_judged {
	struct mc_path *path;
	const struct mc_route_tier *tier;
	enum mc_verdict verdict;
	double finish_s;
	uint64_t queued;
	bool waits; /* none may carry it: the run would wait for this one */
};
void mc_route_judge(const struct mc_run *run, void (*each)(void *ctx, const struct mc_judged *judged), void *ctx);
/* Let the route find another path for a link's run; drops the link.  [any] */
void mc_link_give_back(struct mc_link *link);
void mc_routes_free(struct mc_paths *paths);

/* Batons that the submitting thread takes while it dispatches: work for them is queued directly and
 * done by this thread before mc_lend_end returns. */
struct mc_lending {
	struct mc_worker *held[8];
	size_t nr;
	bool has_copy, off;
	uint64_t now; /* about; 0: not yet known */
	struct mc_lending *outer;
};
void mc_lend_begin(struct mc_lending *lending, uint64_t now_ns);
void mc_lend_end(struct mc_lending *lending);

/* ---- paths: path.c, path_pump.c, path_msg.c, path_stream.c ------------------------------------------ */

extern const struct mc_session_events mc_path_session_events; /* up, gone, snapshot, message */

struct mc_path *mc_path_new(struct mc_paths *paths, struct mc_lane *lane, bool active);
void mc_path_free(struct mc_path *path);
/* Begin to connect an IDLE or DOWN path.  [worker] */
void mc_path_connect(struct mc_path *path);
/* The other end accepted (status 0) or refused our epoch.  [worker] */
void mc_path_opened(struct mc_path *path, uint32_t epoch, int status, const char *why);
/* Serve a path that a peer opens.  [worker] */
void mc_path_accept(struct mc_path *path);
/* Break a path: fence both ends, then reconnect (or close it, if it is dead).  Not from inside a
 * plugin's call.  [worker] */
void mc_path_break(struct mc_path *path, int status, const char *why);
/* The same, soon: for services that a plugin calls.  [worker] */
void mc_path_break_soon(struct mc_path *path, int status, const char *why);
/* The same because a request must end: the rail is well, and connects again at once. */
void mc_path_break_request(struct mc_path *path, int status, const char *why);
/* Close an active path of a device that has left, now or once nothing has used it for a while; one of a device
 * that has not is left alone.  [worker] */
void mc_path_leave(struct mc_path *path);
/* Have mc_path_attended called once the plugin has returned.  [worker] */
void mc_path_attend(struct mc_path *path);
void mc_path_attended(struct mc_path *path);
/* The other end has answered our fence.  [worker] */
void mc_path_fenced_remote(struct mc_path *path, uint32_t epoch);
/* Queue a link and make the path ready, opening it if needed.  [worker] */
void mc_path_enqueue(struct mc_path *path, struct mc_link *link);
/* Take a link to the path's worker: at once under its baton, else through its inbox.  [any] */
void mc_path_hand(struct mc_path *path, struct mc_link *link);
void mc_path_set_ready(struct mc_path *path);
void mc_path_unready(struct mc_path *path);
/* Give queued work back to the route, which finds another path.  [worker] */
void mc_path_reroute(struct mc_path *path);
/* What the fence collected: try again or end.  [worker] */
void mc_path_settle_orphans(struct mc_path *path);
void mc_path_drop_imports(struct mc_path *path);
/* Free what a session had on the data side; nothing of it is open.  [any] */
void mc_paths_free(struct mc_session *s);
/* A session ended: its paths die.  Waits for none.  [control] */
void mc_paths_gone(struct mc_session *s, int status, const char *why);
/* End every session of a generation and wait until nothing of it lives here.  -ENOENT, -ETIMEDOUT.
 * [any] that may wait */
int mc_paths_evict(struct mc_engine *engine, uint64_t generation, uint64_t deadline_ns);
/* Wait until no path is open on any lane.  -ETIMEDOUT */
int mc_paths_wait(struct mc_engine *engine, uint64_t deadline_ns);
/* Cut off every use of a local buffer on all lanes: fences what is in flight.  [any] that may wait */
void mc_paths_fence_buffer(struct mc_engine *engine, struct mc_local_buf *buf);

/* Messages, path_msg.c.  [worker] */
int mc_path_send(struct mc_path *path, uint16_t type, int32_t status, const void *body, size_t len);
int mc_path_send_open(struct mc_path *path);
/* The worker is done with a passive path: forget it on [control], free it.  [worker] */
void mc_path_retire(struct mc_path *path);
enum {
	MC_MSG_PATH_OPEN = MC_MSG_PATH_FIRST, /* active to passive */
	MC_MSG_PATH_OPENED,                   /* back, with a status */
	MC_MSG_PATH_HANDSHAKE,                /* peer_send, both ways */
	MC_MSG_PATH_FENCE,                    /* active to passive */
	MC_MSG_PATH_FENCED,                   /* back */
	MC_MSG_PATH_BROKEN,                   /* passive to active: please fence me */
};

/* The path of a rail and lane of the active side.  Of an active session under the paths' lock, of a
 * passive one [control]. */
struct mc_path *mc_paths_find(const struct mc_paths *paths, uint32_t rail_id, uint16_t lane_id);

/* A data stream on its way to the path's worker, path_msg.c for path_stream.c.  room: bytes for the
 * sentence of a failure.  NULL: out of memory; free() takes back what is not posted.
 * [control, worker] */
struct mc_path_note;
struct mc_path_note *mc_path_note_stream(struct mc_path *path, uint32_t epoch, uint64_t token,
					 bool passive, size_t room);
/* fd, or -errno and why.  The note keeps the session until it has run.  [control] */
void mc_path_note_stream_post(struct mc_path_note *n, int fd, const char *why);

/* Data streams, path_stream.c.  One more for the plugin; it, or its failure, comes by peer_attach.
 * [worker] */
void mc_path_dial(struct mc_path *path, uint64_t token);
/* The owner of data streams, for mc_stream_set_owners.  [control] */
int mc_path_stream(struct mc_engine *engine, struct mc_session *session, int fd,
		   const struct mc_stream_hello *hello);

/* Slices and imports: path_pump.c, used by path_done.c too.  [worker] */
struct mc_hslice *mc_slice_get(struct mc_lane *lane);
void mc_slice_put(struct mc_lane *lane, struct mc_hslice *hs);
void mc_slice_fill(struct mc_hslice *hs, struct mc_path *path, const struct mc_piece *piece,
		   struct mc_import *imp);
void mc_inflight_add(struct mc_path *path, struct mc_hslice *hs);
void mc_inflight_remove(struct mc_path *path, struct mc_hslice *hs);
/* Made on first use: 0, -EINPROGRESS (later), or why it cannot be. */
int mc_import_get(struct mc_path *path, const struct mc_remote_buf *rbuf, struct mc_import **ret_imp);
/* Release what the peer has withdrawn, once it is much. */
void mc_path_prune_imports(struct mc_path *path);
struct mc_import *mc_import_find(struct mc_path *path, uint32_t buf_id);
/* First use of a remote registration: let the plugin prepare it.  NULL: out of memory. */
struct mc_import *mc_import_new(struct mc_path *path, uint32_t id, const struct mc_remote_buffer *desc);
/* What a refusal of submit has broken. */
int mc_scope_of_submit(int r);
/* The window from the rate, and an idle path's rate back towards its nominal one. */
void mc_path_flush(struct mc_path *path); /* the writes that have ended, if none is under way */
void mc_path_set_window(struct mc_path *path);
void mc_path_decay(struct mc_path *path, uint64_t now_ns);

/* Completion of a slice, whoever reports it.  [worker] */
void mc_slice_complete(struct mc_hslice *hs, int status, int scope, uint64_t done_len);
/* Look at every slice and queue entry for deadlines and cancels.  [worker] */
void mc_lane_expire(struct mc_lane *lane, uint64_t now_ns);
/* The device changed: DOWN and GONE break its paths, UP lets them probe at once.  [worker] */
void mc_lane_device_event(struct mc_lane *lane, int event, const char *why);

/* ---- host services of paths: path_host.c; signatures of their slots in struct mc_host ----------------- */

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

static inline struct mc_path *mc_path_of(void *peer)
{
	return MC_CONTAINER_OF(peer, struct mc_peer_area, area)->path;
}

/* Add to a counter that only this thread writes and others read. */
static inline void mc_bump(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* What a device said about itself holds until it says otherwise: nothing is opened over one that is
 * down. */
static inline bool mc_path_device_up(const struct mc_path *path)
{
	return __atomic_load_n(&path->lane->device->state, __ATOMIC_RELAXED) == MC_STATE_ACTIVE;
}

static inline bool mc_path_is(const struct mc_path *path, enum mc_path_state state)
{
	return atomic_load_explicit(&((struct mc_path *)(uintptr_t)path)->state,
				    memory_order_relaxed) == (uint32_t)state;
}

#endif
