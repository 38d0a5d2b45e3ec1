/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging: bytes of memory that a wire cannot reach travel through chunks of host
 * memory that it can, by the copy operations of the memory's kind.
 *
 *   local   WRITE: copy to a chunk, slice from it.  READ: slice into a chunk, copy from it.
 *   remote  the same at the target, which lends a chunk of its own: REQUEST, GRANT, the slice,
 *           then COMMIT and ACK (WRITE) or RELEASE (READ); see stage_wire.h.  Only for wires
 *           without an agent: one with an agent places into any kind itself.
 *
 * A tier of a route says which of the two its paths need.  A staged piece becomes a slice as any
 * other and stays in path->inflight_list until it ends, but it is with the plugin only in phase
 * WIRE.  A break ends those in other phases as orphans and
 * waits for copies that run, so a retry starts only when nothing touches the ranges any more (P2); a
 * passive path answers a fence only after its copies have ended.  A cancelled remote piece ends with
 * the target's ABORTED, after which the target copies nothing for it.
 *
 * Each lane has two pools, one for its own pieces and one that it lends to peers, so that two engines
 * that stage to each other cannot wait in a circle.  A pool is allocated and registered once, on
 * first need, on a helper; pieces stay queued meanwhile.  One path takes at most half of a pool.  All
 * pools together stay below the setting staging_pool, but for one chunk of 4 KiB per pool.
 *
 * A lent pool is one registration: who may write to one chunk could write to the others.  So what a
 * hostile peer can reach is what other peers stage at that moment, never a buffer.
 *
 * Everything here runs on the lane's worker unless marked.
 */
#ifndef MC_CORE_STAGE_H
#define MC_CORE_STAGE_H

#include "helper.h"
#include "kind.h"
#include "path.h"
#include "stage_wire.h"

/* What a path needs, a bit for each end: mc_route_tier, mc_link, mc_piece.stage. */
#define MC_STAGE_LOCAL 1u
#define MC_STAGE_REMOTE 2u

struct mc_stage_chunk {
	struct mc_stage_chunk *next;
	unsigned char *addr;
};

struct mc_stage_pool {
	struct mc_lane *lane;
	bool lend;      /* registered for peers */
	bool pinned;    /* the kinds know of it */
	enum { MC_POOL_NONE = 0, MC_POOL_OPENING, MC_POOL_OPEN, MC_POOL_FAILED } state;
	int status;     /* FAILED */
	uint64_t chunk; /* bytes of one */
	uint32_t nr;
	unsigned char *base;
	void *region;   /* lane 0's area, or NULL: the transport registers nothing */
	struct mc_stage_chunk *chunks, *free;
	uint16_t blob_len;
	uint8_t blob[MC_EXPORT_BLOB_MAX];
	struct mc_job job;   /* opens it */
	struct mc_post post; /* brings the answer */
	void (*opened)(struct mc_stage_pool *pool);
};

/* A copy that is tried again while its kind is busy. */
struct mc_stage_copy {
	struct mc_copy copy; /* first */
	struct mc_stage_copy *next;
	struct mc_lane *lane;
	void (*done)(struct mc_stage_copy *c, int status); /* never from inside mc_stage_copy */
};

enum mc_stage_phase {
	MC_STAGE_COPY,      /* between the buffer and our chunk */
	MC_STAGE_ASKED,     /* for a chunk of the target */
	MC_STAGE_IMPORT,    /* its registration is being imported */
	MC_STAGE_READY,     /* the plugin had no room */
	MC_STAGE_WIRE,      /* with the plugin */
	MC_STAGE_FLUSHING,  /* written, not yet visible; in path->unflushed or flush_list */
	MC_STAGE_COMMITTED, /* the target copies */
	MC_STAGE_ABORTING   /* cancelled; the target has not said yet that it is over */
};

/* One piece on its way. */
struct mc_stage {
	struct mc_stage *prev, *next; /* path->stages; next also links free ones */
	struct mc_hslice *hs;
	enum mc_stage_phase phase;
	uint8_t mode; /* MC_STAGE_LOCAL | MC_STAGE_REMOTE */
	bool granted; /* we owe the target a COMMIT, RELEASE or ABORT */
	struct mc_stage_chunk *chunk; /* LOCAL */
	uint64_t tag;
	uint64_t done, part; /* REMOTE: bytes of earlier rounds, of this one */
	uint64_t addr;       /* of the target's chunk */
	struct mc_import *import;
	struct mc_stage_copy copy;
};

/* A chunk that a peer has asked for or holds. */
struct mc_grant {
	struct mc_grant *next;       /* path->grants */
	struct mc_grant *queue_next; /* waiting for a chunk */
	struct mc_path *path;
	uint64_t tag, offset, len, part;
	uint8_t opcode;
	enum { MC_GRANT_QUEUED, MC_GRANT_FILLING, MC_GRANT_GRANTED, MC_GRANT_DRAINING } phase;
	bool aborted;
	struct mc_stage_chunk *chunk;
	struct mc_local_buf *buf; /* held while a copy runs */
	struct mc_stage_copy copy;
};

struct mc_stage_slab;
/* Staging of a lane, made on first need. */
struct mc_stage_lane {
	struct mc_lane *lane;
	struct mc_stage_pool own, lent;
	struct mc_stage *free;
	struct mc_stage_slab *slabs;
	struct mc_stage_copy *again; /* the kind was busy */
	struct mc_timer timer;
	struct mc_grant *queue, **queue_tail;
	bool serving, serve_again; /* inside mc_stage_serve_next */
};

/* ---- pools and copies: stage_pool.c -------------------------------------------------------------- */

/* Memory of its pieces.  stage.c */
void mc_stage_slabs_free(struct mc_stage_lane *sl);
/* Bytes of a chunk and chunks of a pool, with so many lanes in the engine.  [any] */
void mc_stage_sizes(const struct mc_settings *set, size_t nr_lanes, uint64_t max_reg,
		    uint64_t *ret_chunk, uint32_t *ret_nr);
/* Bytes that a staged piece may have on the engine's lanes; 0: staging is off.  [any] */
uint64_t mc_stage_piece_max(const struct mc_engine *engine);
struct mc_stage_lane *mc_stage_lane_get(struct mc_lane *lane);
/* Give everything back; nothing is staged any more.  [any] that may block */
void mc_stage_lane_close(struct mc_lane *lane);
/* A chunk for a path that holds `held` already.  -EAGAIN: pool->opened, or a put, tells when to ask
 * again; other errors: the pool could not be opened (the next call tries anew). */
int mc_stage_take(struct mc_stage_pool *pool, uint32_t held, struct mc_stage_chunk **ret_chunk);
void mc_stage_give(struct mc_stage_pool *pool, struct mc_stage_chunk *chunk);
/* MC_DONE, 0 (done follows) or -errno. */
int mc_stage_copy(struct mc_stage_copy *c);

/* ---- pieces: stage.c, stage_remote.c ------------------------------------------------------------------ */

/* Take a piece that needs staging; imp: of its remote buffer, NULL if that end is staged.  False: it is
 * held until there is room. */
bool mc_stage_submit(struct mc_path *path, const struct mc_piece *piece, struct mc_import *imp);
/* A slice with hs->stage came back from the plugin.  True: it goes on; false: it ends as it is. */
bool mc_stage_took(struct mc_hslice *hs, int status, int scope);
/* Its bytes are visible at the target. */
void mc_stage_flushed(struct mc_hslice *hs);
/* What waited for the plugin, or for an import. */
void mc_stage_pump(struct mc_path *path);
/* Its request is over; hs->cancelling is set. */
void mc_stage_cancel(struct mc_hslice *hs);
/* The path is being fenced. */
void mc_stage_broken(struct mc_path *path, int status);
/* Take a slice out of staging, whatever becomes of it. */
void mc_stage_drop(struct mc_hslice *hs);
static inline bool mc_stage_with_plugin(const struct mc_hslice *hs)
{
	return !hs->stage || hs->stage->phase == MC_STAGE_WIRE;
}
/* A message of this path's epoch. */
void mc_stage_message(struct mc_path *path, uint16_t type, int status, const void *body, size_t len);

/* Between stage.c and stage_remote.c. */
void mc_stage_ask(struct mc_stage *st);
void mc_stage_commit(struct mc_stage *st);
void mc_stage_import(struct mc_stage *st);
void mc_stage_abort(struct mc_stage *st);
void mc_stage_release(struct mc_stage *st);
void mc_stage_wire(struct mc_stage *st);
void mc_stage_round_done(struct mc_stage *st);
void mc_stage_finish(struct mc_stage *st, int status, int scope);
/* 0, or the status with which the piece ends instead of going on. */
int mc_stage_over(const struct mc_stage *st, int *ret_scope);

/* ---- lending: stage_serve.c --------------------------------------------------------------------------- */

void mc_stage_serve(struct mc_path *path, uint16_t type, const struct mc_stage_msg *msg);
/* Lend what there is to who waits. */
void mc_stage_serve_next(struct mc_stage_lane *sl);
/* The passive path is being fenced: begin nothing any more. */
void mc_stage_serve_broken(struct mc_path *path);
/* It is fenced and no copy runs: take back what it holds. */
void mc_stage_serve_end(struct mc_path *path);

#endif
