/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches inside the core: the requests of the application, grouped into runs.
 *
 *   batch    what the application submits and waits for
 *   request  one READ or WRITE of it
 *   run      consecutive requests between one local and one remote buffer, same opcode; the unit
 *            that travels to workers
 *   piece    what a rail cuts from a run when it has room: part of one request, or several
 *            small adjacent ones; becomes a slice
 *
 * A run's cursor is shared by the rails that work on it, without a lock: each takes the next
 * piece by compare-and-swap.  A piece that must be tried again goes to the run's retry stack.
 */
#ifndef MC_CORE_BATCH_H
#define MC_CORE_BATCH_H

#include <pthread.h>
#include <stdatomic.h>

#include "arena.h"
#include "segment.h"
#include "session.h"
#include "worker.h"

struct mc_batch;
struct mc_deferred;
struct mc_path;
struct mc_request;
struct mc_route;

struct mc_req {
	uint64_t local, offset, len;
	void *user;
	_Atomic uint64_t left;     /* bytes whose pieces have not ended; 0: complete */
	_Atomic uint64_t done_len; /* bytes that moved; only counted for cut requests */
	int32_t status;            /* written once, by whoever set `failed` */
	atomic_bool failed;        /* a piece failed: the rest is not sent */
	uint8_t scope;
	_Atomic uint8_t state;     /* enum mc_request_state, written last */
	uint8_t opcode;
	bool sole; /* MC_REQUEST_SOLE */
};

struct mc_piece {
	struct mc_piece *next; /* in a retry stack or a list of a path */
	struct mc_run *run;
	uint32_t first, nr;    /* requests, batch index */
	uint64_t off, len;     /* nr == 1: the part of that request; else off is 0, len the sum */
	uint32_t tries;
	uint8_t stage;         /* MC_STAGE_*: what the path that took it does not reach */
};

/* "This run has work for this path"; in the inbox of the path's worker, then in its queue. */
struct mc_link {
	struct mc_post post;
	struct mc_link *next; /* path's queue */
	struct mc_run *run;
	struct mc_path *path;
	uint8_t stage; /* for the pieces */
};

#define MC_RUN_LINKS 8
struct mc_run {
	struct mc_run *next; /* of its batch */
	struct mc_batch *batch;
	struct mc_req *reqs;            /* batch->reqs */
	const struct mc_route *route;
	struct mc_session *session;     /* borrowed from the segment handle */
	struct mc_local_buf *lbuf;      /* held: its users count us */
	struct mc_remote_buf *rbuf;     /* kept by snapshot */
	struct mc_snapshot *snapshot;   /* a reference */
	uint32_t first, nr;             /* requests, batch index */
	uint64_t chunk;                 /* bytes into which large requests are cut */
	uint64_t max_piece;             /* no piece is larger, on whatever path */
	uint64_t bytes;
	uint64_t ored;                  /* addresses and lengths of all requests, or-ed: their alignment */
	uint8_t opcode;
	bool sole;                      /* of all its requests */
	_Alignas(MC_CACHE_LINE) _Atomic uint64_t cursor; /* request idx << 32 | chunk idx within it */
	_Atomic uint32_t left;          /* requests not complete */
	_Atomic uint32_t refs;          /* 1 for the requests, 1 per link in use */
	_Atomic(struct mc_piece *) retry;
	_Atomic uint32_t links_used;    /* bit per entry of links */
	struct mc_link links[MC_RUN_LINKS];
	/* Paths that cannot reach the remote buffer, and the last one's reason. */
	_Atomic uint32_t nr_barred;
	_Atomic int32_t barred_status;
	struct mc_path *_Atomic barred[MC_RUN_LINKS];
};

#define MC_BATCH_WORKERS 16
struct mc_batch {
	struct mc_engine *engine;
	struct mc_batch *prev, *next; /* the engine's list */
	size_t capacity, nr;          /* requests submitted */
	struct mc_req *reqs;
	uint64_t span_ns, deadline_ns; /* deadline_ns 0: nothing submitted; UINT64_MAX: none */
	pthread_mutex_t lock;          /* arena, runs, workers, deferred: submit against a deferred resolve */
	struct mc_run *runs;           /* newest first; memory is the arena's */
	struct mc_arena arena;
	/* That were given links: one by one, under the lock; read without, what was there is there. */
	struct mc_worker *workers[MC_BATCH_WORKERS];
	_Atomic uint32_t nr_workers;
	struct mc_deferred *deferred; /* wait for a refresh */
	_Atomic uint32_t open_runs;  /* runs not complete, + 1 while a submit, resolve or notify is under way */
	_Atomic uint32_t failed;     /* requests */
	_Atomic int32_t stop;        /* 0, or the -errno with which what is left shall end */
	atomic_bool complete;        /* everything submitted is complete */
	_Atomic uint32_t finishing;  /* threads inside batch_finish */
	struct mc_bell bell;
	int event_fd; /* -1: none */
	void (*done)(void *arg, struct mc_batch *batch);
	void *done_arg;
	struct mc_session *notify_session; /* a reference */
	void *notify_data;
	size_t notify_len;
	int32_t notify_status;
};

/* ---- for route.c and path.c ------------------------------------------------------------------ */

/* Take the next piece; false: nothing left to take now.  Pieces of failed requests and of stopped
 * batches are not given out but ended here.  [worker] */
bool mc_run_cut(struct mc_run *run, struct mc_piece *ret_piece);
/* A piece has ended for good.  May complete the batch and run the user's callback; the run may be
 * gone afterwards, unless the caller holds a link.  [any] */
void mc_piece_end(const struct mc_piece *piece, int status, int scope);
/* Put a piece back for another try.  Copies it; if memory is out the piece fails.  [any] */
void mc_piece_retry(const struct mc_piece *piece, int status, int scope);
/* Keep at most max bytes of a piece; the rest goes back to its run.  [worker] */
void mc_piece_split(struct mc_piece *piece, uint64_t max);
/* End everything of a run that nobody has taken yet; the caller holds a link or a reference.  [any] */
void mc_run_stop(struct mc_run *run, int status, int scope);
bool mc_run_has_work(const struct mc_run *run);
/* About how many bytes no piece has been cut of yet. */
uint64_t mc_run_uncut(const struct mc_run *run);
/* Give the run to this path no more; false: there is no room to remember it.  [any] */
bool mc_run_bar(struct mc_run *run, struct mc_path *path, int status);
bool mc_run_barred(const struct mc_run *run, const struct mc_path *path);
/* 0, or the -errno with which its pieces shall end now: deadline, cancel. */
int mc_run_expired(const struct mc_run *run, uint64_t now_ns);
/* A free link, marked in use and holding the run; NULL: all are.  [any] */
struct mc_link *mc_run_link(struct mc_run *run, struct mc_path *path);
void mc_link_drop(struct mc_link *link);
/* The run stays while it has requests, links or references. */
void mc_run_unref(struct mc_run *run);
/* The batch's waiters shall drive this worker too.  The batch's lock is not held.  [any] */
void mc_batch_add_worker(struct mc_batch *batch, struct mc_worker *worker);

static inline uint64_t mc_piece_local(const struct mc_piece *piece)
{
	return piece->run->reqs[piece->first].local + piece->off;
}

static inline uint64_t mc_piece_remote(const struct mc_piece *piece)
{
	return piece->run->reqs[piece->first].offset + piece->off;
}

/* ---- between batch.c, batch_build.c and batch_life.c --------------------------------------------------------- */

void mc_batch_open(struct mc_batch *batch);  /* a submit begins: it is not complete any more */
void mc_batch_begin(struct mc_batch *batch); /* one more reason not to be complete */
void mc_batch_end(struct mc_batch *batch);   /* one less; the last one completes the batch */
/* Wait for threads that are on their way out of completing it. */
void mc_batch_settle(struct mc_batch *batch);
bool mc_batch_is_complete(void *batch);
void mc_req_fail(struct mc_batch *batch, struct mc_req *req, int status, int scope);
/* batch->stop is set: what waits for a refresh ends soon, on [control].  The batch's lock is held. */
void mc_batch_stop_deferred(struct mc_batch *batch);

/* ---- between batch_build.c and batch_list.c ----------------------------------------------------- */

/* Of one submit or one resolve after a refresh; lies on the stack of the thread that builds. */
struct mc_builder {
	struct mc_batch *batch;
	struct mc_run *run;        /* being filled */
	struct mc_run **ready;     /* small array of runs to dispatch */
	size_t nr_ready, cap_ready;
	struct mc_deferred *deferred;
	bool last_try;             /* after the refresh: what is not there fails */
	uint64_t now;              /* when the submit began; 0: not known */
	struct mc_run *ready_inline[16]; /* last: it needs no clearing */
};

/* Before anything of the nr is looked at: is there room for them?  -ENOSPC, or as the engine stands.
 * [any] */
int mc_submit_check(const struct mc_batch *batch, size_t nr, size_t *reterr_idx);
/* One request of the caller's array, alone: -EINVAL.  [any] */
int mc_req_check(const struct mc_engine *engine, const struct mc_request *r);
void mc_req_fill(struct mc_req *req, const struct mc_request *r);
/* Begin to fill requests in; takes the batch's lock, which mc_submit_end gives back.  [any] */
void mc_submit_begin(struct mc_batch *batch, struct mc_builder *b);
/* The runs are made: take the batons that are free, so that the work begins on this thread.  [any] */
void mc_submit_end(struct mc_batch *batch, struct mc_builder *b);
/* Put one filled request into a run, defer it, or end it with its failure.  The batch's lock is held.
 * [any] */
void mc_build_add(struct mc_builder *b, struct mc_req *req, struct mc_session *session);
/* The buffer that has the range and the right to it, kept by the snapshot; NULL: none.  [any] */
struct mc_remote_buf *mc_req_find_remote(const struct mc_snapshot *snapshot, const struct mc_req *req);

/* The run takes the request behind its last one.  The batch's lock is held.  [any] */
static inline void mc_run_append(struct mc_run *run, struct mc_req *req)
{
	run->nr++;
	run->bytes += req->len;
	run->ored |= req->local | req->offset | req->len;
	atomic_store_explicit(&req->left, req->len, memory_order_relaxed);
}

/* ---- batch_deny.c ----------------------------------------------------------------------------- */

/* Does the peer's table, as we have it, allow the range?  0, or -EACCES and which bound, right or
 * list forbids it; -ENOTCONN: there is no table.  [any] */
int mc_req_explain(struct mc_session *s, uint32_t opcode, uint64_t offset, uint64_t len, struct mc_error *err);
/* A request was refused for the table: say why, one line per session in ten seconds.  [any] */
void mc_req_denied(struct mc_session *s, const struct mc_req *req);

/* ---- for engine.c ---------------------------------------------------------------------------- */

/* End every batch of the engine with status; all are complete when their sessions are gone. */
void mc_batches_stop(struct mc_engine *engine, int status);
/* How many batches there are, and how many of them are under way.  [any] */
void mc_batches_count(struct mc_engine *engine, uint64_t *ret_nr, uint64_t *ret_open);
/* Free those that the application left. */
void mc_batches_free(struct mc_engine *engine);

#endif
