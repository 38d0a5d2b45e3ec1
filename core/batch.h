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

#include "segment.h"
#include "session.h"
#include "worker.h"

struct mc_batch;
struct mc_path;
struct mc_route;

struct mc_req {
	uint64_t local, offset, len;
	void *user;
	uint64_t left; /* atomic: bytes whose pieces have not ended; 0: complete */
	int32_t status;
	uint8_t scope, state; /* state: enum mc_request_state, written last (release) */
	uint8_t opcode;
	uint8_t failed; /* atomic: a piece failed, the rest is not sent */
	uint64_t done_len; /* atomic */
};

struct mc_piece {
	struct mc_piece *next; /* in a retry stack or orphan list */
	uint32_t first, nr;    /* requests, batch index */
	uint64_t off, len;     /* nr == 1: the part of that request */
	uint32_t tries;
	int32_t status;        /* of the last try */
	uint8_t scope;
};

/* "This run has work for this path"; in the inbox of the path's worker, then in its queue. */
struct mc_link {
	struct mc_post post;
	struct mc_link *next; /* path's queue */
	struct mc_run *run;
	struct mc_path *path; /* atomic: NULL when the link is free */
};

#define MC_RUN_LINKS 8
struct mc_run {
	struct mc_run *next; /* of its batch */
	struct mc_batch *batch;
	const struct mc_route *route;
	struct mc_session *session;     /* borrowed from the segment handle */
	struct mc_local_buf *lbuf;      /* held: users counts us */
	struct mc_remote_buf *rbuf;     /* kept by snapshot */
	struct mc_snapshot *snapshot;   /* a reference */
	uint32_t first, nr;             /* requests, batch index */
	uint64_t chunk;                 /* bytes into which large requests are cut */
	uint64_t bytes;
	uint64_t cursor;                /* atomic: request idx << 32 | chunk idx within it */
	uint32_t left;                  /* atomic: requests not complete */
	uint32_t links_out;             /* atomic: links that a worker or an inbox holds */
	uint8_t opcode;
	struct mc_piece *retry;         /* atomic stack */
	uint32_t nr_links;
	struct mc_link links[MC_RUN_LINKS];
};

struct mc_batch {
	struct mc_engine *engine;
	struct mc_batch *prev, *next; /* the engine's list; under engine_batches lock */
	size_t capacity, nr;          /* requests submitted */
	struct mc_req *reqs;
	uint64_t span_ns, deadline_ns; /* deadline_ns 0: nothing submitted; UINT64_MAX: none */
	struct mc_run *runs;          /* newest first; memory is the arena's */
	struct mc_arena *arena;
	uint32_t open_runs;  /* atomic: runs not complete, + 1 while a submit is under way */
	uint32_t failed;     /* atomic: requests */
	uint32_t stop;       /* atomic: 0, or the -errno with which what is left shall end */
	uint32_t complete;   /* atomic: 1 once everything submitted is complete */
	uint32_t finishing;  /* atomic: threads inside batch_finish */
	struct mc_bell bell;
	int event_fd; /* -1: none */
	void (*done)(void *arg, struct mc_batch *batch);
	void *done_arg;
	struct mc_session *notify_session;
	void *notify_data;
	size_t notify_len;
	bool need_flush;     /* some path was VISIBLE_AFTER_FLUSH: flushes before the notify */
	struct mc_worker *workers[16]; /* that ever worked for it; appended under the submit */
	uint32_t nr_workers; /* atomic */
};

/* ---- for route.c and path.c ------------------------------------------------------------------ */

/* Take the next piece of at most max bytes (a whole request, part of one, or several adjacent ones);
 * false: nothing left to take now.  Pieces of failed requests and of stopped batches are not given
 * out but ended here.  [worker] */
bool mc_run_cut(struct mc_run *run, uint64_t max, struct mc_piece *ret_piece);
/* A piece has ended for good.  done_len bytes are known to have moved.  May complete the batch and
 * then run the user's callback.  [any] */
void mc_piece_end(struct mc_run *run, const struct mc_piece *piece, int status, int scope,
		  uint64_t done_len);
/* Put a piece back for another try.  Copies it; if memory is out the piece fails.  [any] */
void mc_piece_retry(struct mc_run *run, const struct mc_piece *piece);
/* End everything of a run that nobody has taken yet.  [any] */
void mc_run_stop(struct mc_run *run, int status, int scope);
/* True if the run has something to take. */
bool mc_run_has_work(const struct mc_run *run);
/* Its deadline or a cancel: 0, or the -errno with which its pieces shall end now. */
int mc_run_expired(const struct mc_run *run, uint64_t now_ns);
/* A run that holds its memory: links in flight. */
void mc_run_link_done(struct mc_run *run, struct mc_link *link);

static inline uint64_t mc_piece_local(const struct mc_run *run, const struct mc_piece *piece);
static inline uint64_t mc_piece_remote(const struct mc_run *run, const struct mc_piece *piece);

static inline uint64_t mc_piece_local(const struct mc_run *run, const struct mc_piece *piece)
{
	return run->batch->reqs[piece->first].local + piece->off;
}

static inline uint64_t mc_piece_remote(const struct mc_run *run, const struct mc_piece *piece)
{
	return run->batch->reqs[piece->first].offset + piece->off;
}

/* ---- for engine.c ---------------------------------------------------------------------------- */

/* End every batch of the engine with status; all are complete when their sessions are gone. */
void mc_batches_stop(struct mc_engine *engine, int status);
/* Free those that the application left. */
void mc_batches_free(struct mc_engine *engine);

#endif
