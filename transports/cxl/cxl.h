/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the cxl transport.
 *
 *   device  a pool with its ledger and its memory; lane 0's, used by all lanes
 *   ledger  our dealings with the grants at the metadata service; lane 0's worker
 *   memory  free ranges of our extents, keys of our buffers; helpers, under a lock
 *   lane    an instance: peers, and the guard that says whose memory it touches
 */
#ifndef MC_CXL_H
#define MC_CXL_H

#include <pthread.h>
#include <mooncake/transport.h>

#include "cxl_doc.h"
#include "cxl_pool.h"

#define CXL_CHUNK ((uint64_t)1 << 20) /* the lease is looked at before each */

enum { CXL_OPT_POOL_DIR, CXL_OPT_SOLE, CXL_OPT_GROWTH, CXL_OPT_QUARANTINE, CXL_OPT_LANES, CXL_NR_OPTS };

struct cxl;
struct cxl_device;

/* ---- cxl_ledger.c --------------------------------------------------------------------------------- */

/* Another engine, and since when its key is missing at the metadata service. */
struct cxl_known {
	uint64_t generation;
	uint64_t missing_since; /* 0: it is there */
	uint32_t slot;
	uint64_t beat, seen, quiet; /* of one that the grants do not know: its beat, when it was found, when it last beat */
	bool beats;    /* it has, since it was found */
	bool checked;  /* we have asked, or heard, whether it is there */
	bool stripped; /* dead: its keys are gone; ours to clear */
	bool cleared;  /* and nobody touches its memory any more */
};

enum cxl_step { CXL_IDLE, CXL_ALIVE, CXL_WATCH, CXL_GET, CXL_CAS, CXL_CHECK, CXL_GOODBYE };

struct cxl_ledger {
	struct cxl_device *device;
	const struct mc_host *host; /* of lane 0 */
	uint64_t generation;
	uint64_t quarantine_ns;
	char name[CXL_NAME_MAX + 1];

	/* Worker of lane 0 only. */
	enum cxl_step step;
	bool again;           /* somebody asked while a step was under way */
	bool alive, watching; /* our own key stands; others' are watched */
	bool stopping, gone;  /* stop was called; we are out of the grants */
	struct mc_kv_call call, watch;
	char key[96], prefix[64];
	char *text;      /* of the CAS under way */
	uint64_t revision;
	struct cxl_doc *doc, *next; /* as it stands; as it shall be */
	uint32_t check;  /* of known, that is asked for */
	struct mc_timer timer, beat_timer;
	uint64_t beat;
	char stranger[CXL_NAME_MAX + 1]; /* who uses the pool by another service */
	struct mc_work kick;

	/* Guards all below: the worker writes, helpers and lanes ask. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool kicked;
	bool joined;       /* we have a slot; read without the lock too */
	uint32_t slot;
	bool doubt;        /* our lease lapsed, and the grants have not been read since; read by lanes */
	bool evicted;      /* our grants were given back behind our back */
	int status;        /* why the last step failed, for who waits; 0: it did not */
	char why[256];
	uint32_t least, wanted; /* units that are asked for; 0: none */
	struct cxl_grant granted; /* the answer; nr 0: none yet */
	int refused;              /* the other answer: -errno, and why it is in refusal */
	char refusal[256];
	struct cxl_known known[CXL_SLOTS_MAX];
	uint32_t nr_known;
	struct cxl_extent extents[CXL_EXTENTS_MAX];
	uint32_t nr_extents;
};

int cxl_ledger_init(struct cxl_ledger *l, struct cxl_device *device, const struct mc_open_args *args);
void cxl_ledger_fini(struct cxl_ledger *l);
/* Join the pool; goes on by itself.  [any] */
void cxl_ledger_kick(struct cxl_ledger *l);
/* Leave it, as far as the service answers.  [worker] */
void cxl_ledger_stop(struct cxl_ledger *l);
/* Ask for units in a row and wait for them.  [helper], one at a time */
int cxl_ledger_grow(struct cxl_ledger *l, uint32_t least, uint32_t wanted, struct cxl_grant *ret,
		    struct mc_error *err);
/* Somebody has given our extents back: nothing of ours may be touched any more.  [worker] */
void cxl_ledger_evicted(struct cxl_ledger *l);

/* ---- cxl_known.c ---------------------------------------------------------------------------------- */

/* The rest of what is known of an engine; NULL: nothing.  [worker], or under the lock */
struct cxl_known *cxl_known_find(struct cxl_ledger *l, uint64_t generation);
/* Those that the grants name are known, no others.  [worker] */
void cxl_known_members(struct cxl_ledger *l);
/* Its key is missing at the service, or is there.  [worker] */
void cxl_known_missing(struct cxl_ledger *l, uint64_t generation, bool missing);
/* Before we join: who has a slot in the pool and no place in the grants.  0: those of our own service that has lost
 * the grants, and dead ones; -EAGAIN: ask again; -EXDEV: l->stranger lives by another service.  [worker] */
int cxl_known_strangers(struct cxl_ledger *l, struct cxl_doc *doc);
/* When to ask again, by now_ns. */
uint64_t cxl_known_look(const struct cxl_ledger *l);
/* Does our slot still say that it is ours?  [worker] */
bool cxl_beat_ours(const struct cxl_ledger *l);
/* The next beat; it goes on until the timer is disarmed.  [worker] */
void cxl_beat_start(struct cxl_ledger *l);
/* Is the lease of a slot's engine over for as long as the quarantine?  [any] */
bool cxl_ledger_dead(struct cxl_ledger *l, uint64_t generation);

/* cxl_plan.c: change *doc to what we want; true: it did.  Else *ret_status says whether we are in: 0; -ENOSPC: there
 * is no slot; -EAGAIN, -EXDEV: as cxl_known_strangers; -EOWNERDEAD: we were, and what we had was given back.  [worker] */
bool cxl_ledger_plan(struct cxl_ledger *l, struct cxl_doc *doc, int *ret_status);

/* cxl_reap.c: what is left of engines that died.  [worker] */
/* Mark one whose time is over as ours to clear, or take out one that is cleared.  True: the doc changed. */
bool cxl_reap_plan(struct cxl_ledger *l, struct cxl_doc *doc);
/* When to look again, by now_ns; UINT64_MAX: nothing waits. */
uint64_t cxl_reap_next(struct cxl_ledger *l);
/* Clear slots that the grants say are ours to clear; true: one is clear now. */
bool cxl_reap_clear(struct cxl_ledger *l);

/* ---- cxl_mem.c ------------------------------------------------------------------------------------ */

struct cxl_free {
	struct cxl_free *next; /* by offset */
	uint64_t offset, len;  /* in the pool */
};

struct cxl_memory {
	struct cxl_free *list;
	uint64_t *keys;    /* of our slot, as in the pool: 0: free; nr_keys of them */
	uint32_t next_key; /* where to look for a free one */
	pthread_mutex_t lock; /* guards all; not held while the ledger is asked */
	pthread_mutex_t grow; /* one asks at a time; taken before lock */
};

struct cxl_device {
	struct cxl_pool pool;
	struct cxl_ledger ledger;
	struct cxl_memory memory;
	bool by_subnet;  /* probe tells the pool's UUID as its subnet; of a file it cannot */
	uint64_t growth; /* bytes that are asked for at once */
	uint64_t patience_ns; /* how long who frees waits for others */
	bool held;       /* some did not go on; then our slot stays when we close, and others reap it; atomic */
	pthread_mutex_t lock; /* guards lanes */
	struct cxl *lanes[CXL_LANES_MAX];
	uint32_t nr_lanes;
};

/* A buffer of ours; owned: in the pool. */
struct cxl_region {
	bool owned;
	uint32_t key_idx;
	uint64_t key, offset, len, base;
};

int cxl_memory_init(struct cxl_memory *m, const struct cxl_pool *pool);
void cxl_memory_fini(struct cxl_memory *m);
int cxl_mem_alloc(void *inst, void *region, struct mc_mem_desc *desc, struct mc_error *err);
void cxl_mem_free(void *inst, void *region, struct mc_mem_desc *desc);
int cxl_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err);
void cxl_mem_unreg(void *inst, void *region);
int cxl_mem_export(void *inst, void *region, void *blob, size_t cap);
int cxl_mem_sync(void *inst, void *region, void *addr, uint64_t len, uint32_t how);
/* Wait until no lane of any engine touches memory of this slot under a key that is gone by now; those of
 * dead engines are not waited for.  False: one still did after patience_ns.  [helper] */
bool cxl_guards_wait(struct cxl_device *d, uint32_t slot);
/* The first lane that touches it, or is not known not to: false: none. */
bool cxl_guards_find(struct cxl_device *d, uint32_t slot, uint32_t *ret_slot, uint32_t *ret_lane,
		     uint64_t *ret_word);

/* ---- cxl_data.c ----------------------------------------------------------------------------------- */

struct cxl_remote {
	const uint8_t *at; /* of the buffer's first byte, here */
	uint64_t base, len, key;
	uint32_t slot, key_idx;
};

struct cxl_peer {
	struct cxl_peer *next; /* cxl->waiting */
	bool waiting;          /* for our slot, before the hello */
	bool passive, ready;
	char segment[64];
	struct cxl *lane;
	struct mc_timer timer; /* until it is ready: the other end must have answered */
};

/* A lane. */
struct cxl {
	const struct mc_host *host;
	struct cxl_device *device;
	uint32_t lane;
	bool own_device; /* lane 0 */
	bool sole, stopped;
	/* The guard: open while slot is not UINT32_MAX. */
	uint32_t guard_slot;
	uint64_t guard_seq;
	const struct cxl_remote *guard_remote; /* whose key was read under it */
	struct cxl_peer *waiting;
	struct mc_work joined; /* the ledger tells each lane */
	bool lapsed;           /* and that was said */
	bool cut_said;         /* why a WRITE that cuts a line is refused */
	uint64_t *nr_written, *nr_read, *nr_refused;
};

int cxl_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf);
void cxl_mem_release(void *inst, void *remote);
int cxl_peer_open(void *inst, void *peer, const struct mc_peer_args *args);
int cxl_peer_accept(void *inst, void *peer, const struct mc_peer_args *args);
void cxl_peer_msg(void *inst, void *peer, const void *msg, size_t len);
void cxl_peer_close(void *inst, void *peer);
/* Our slot is known now, or will never be: peers that wait are answered.  [worker] */
void cxl_peers_joined(struct mc_work *w);
int cxl_submit(void *inst, struct mc_slice *slice);
void cxl_flush(void *inst);
int cxl_progress(void *inst);
int cxl_fence(void *inst, void *peer, uint32_t epoch);

#endif
