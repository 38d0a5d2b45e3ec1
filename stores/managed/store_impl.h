/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the client library of the managed store.
 *
 * A call has a context: its messages, its batch and what becomes of each value.  Contexts
 * are kept and used again, so a call allocates nothing once the store is warm.  It runs on
 * the caller's thread, which drives the rpc and the transfers itself.
 *
 * Locks, in this order: hello_lock (one thread at a time registers us), lend_lock (what is
 * lent), handles (read: while transfers go on; write: to close what is not used any more),
 * lock (all else).  Only hello_lock, lend_lock and a read of handles are held while
 * something waits.
 */
#ifndef MC_STORE_IMPL_H
#define MC_STORE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include <mooncake/mooncake.h>
#include <mooncake/rpc.h>
#include <mooncake/store.h>

#include "core/util/check.h"
#include "store_wire.h"

#define STORE_ATTEMPT_NS (5 * MC_SEC)   /* one try of an rpc; the call goes on until its own end */
#define STORE_UNIT (UINT64_C(256) << 10) /* of the staging memory */
#define STORE_MOUNTS 16                 /* NUMA nodes that one lent range may lie on */

/* An engine that lends, in one of its lives. */
struct store_peer {
	struct store_peer *next;
	char *name;
	uint64_t generation;
	uint64_t host;
	struct mc_segment *handle;  /* NULL: not open; lock */
	bool opening, tried;        /* a thread opens it; one has; lock */
	bool lost;                  /* this life of it is over; lock */
	uint64_t retry_ns;          /* not before then; lock */
	int why;                    /* the last opening failed; lock */
	_Atomic uint64_t in_flight; /* bytes that we are reading there */
};

/* A segment of the master's; in store->segments by id. */
struct store_segment {
	uint32_t id; /* 0: free place */
	bool lines;  /* not coherent between hosts: one writer per cache line at a time */
	uint64_t base, len;
	struct store_peer *peer;
};

/* Where an extent of a call is, for the time of its transfers. */
struct store_target {
	struct mc_segment *handle;
	struct store_peer *peer;
	bool lines;
};

/* A closed handle's place until nobody uses it. */
struct store_grave {
	struct store_grave *next;
	struct mc_segment *handle;
};

/* One registered buffer of what is lent, as the master knows it. */
struct store_mount {
	uint64_t base, len;
	char location[MC_LOCATION_MAX + 1];
	uint8_t uuid[16];
	uint64_t not_before; /* who was given a place there by a master that forgot it may still use it till then */
	uint32_t id;
	bool mounted;
};

struct store_lent {
	struct store_lent *next;
	void *addr;
	uint64_t len;
	bool allocated; /* mc_memory_alloc */
	size_t nr;
	struct store_mount mounts[STORE_MOUNTS];
};

struct mc_store {
	struct store_ctx *all; /* contexts ever made; lock */
	struct mc_engine *engine;
	struct mc_store_options options;
	char *master, *tenant;
	struct mc_rpc_client *rpc;
	uint64_t host;

	pthread_mutex_t hello_lock;
	pthread_mutex_t lend_lock;
	struct store_lent *lent; /* lend_lock */
	pthread_rwlock_t handles;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a peer was opened, a staging unit or a context came back, the keeper is wanted */
	struct mc_master_client_id client; /* lock */
	uint64_t hello_nr;      /* how often we registered; lock */
	uint64_t hello_epoch;   /* the master's, then; lock */
	uint64_t rest_until;    /* what is lent rests until then; lock */
	struct mc_wire_welcome terms; /* of the last HELLO; lock */
	_Atomic uint64_t epoch;
	bool remount, stop;     /* lock */
	struct store_ctx *idle; /* lock */
	struct store_peer *peers; /* lock */
	struct store_segment *segments; /* open addressing, cap_segments a power of two; lock */
	size_t nr_segments, cap_segments;
	struct store_grave *graves;
	_Atomic uint32_t turn;  /* whose replica is next, all else being equal */
	_Atomic uint64_t nonce;

	uint8_t *staging; /* lock */
	uint32_t *units;  /* free ones, a stack; lock */
	uint32_t nr_units, nr_free_units;

	pthread_t keeper;
	uint64_t evicted[MC_WIRE_EVICT_MAX]; /* the keeper's: to be told */
	uint32_t nr_evicted;
	uint64_t own_since; /* the keeper's: we were told to cut ourselves off */

	struct mc_store_job *jobs, **jobs_tail; /* that wait; lock */
	uint32_t nr_jobs, nr_runners, nr_busy; /* lock */
	pthread_t runners[STORE_MOUNTS];
	pthread_cond_t job_came;
	struct mc_store *next; /* of this process */
};

/* What becomes of one value in a call. */
struct store_item {
	struct mc_store_op *op;
	uint64_t token;
	uint64_t len;         /* of the value */
	uint64_t room;        /* bytes to move */
	uint64_t done_ns;     /* when its last byte had moved */
	uint32_t first, nr;   /* of ctx->extents */
	uint32_t failed;      /* bit r: replica r is of no use */
	uint32_t written;     /* put: bit r: replica r is there */
	uint32_t nr_replicas;
	uint32_t replica;     /* get: the one that is read */
	int32_t why;          /* of the last failed replica */
	struct store_peer *load; /* whose in_flight has our room; NULL: none */
	uint8_t checksum[16];
	bool has_checksum;
	bool done;            /* get: its bytes are there */
	bool adrift;          /* put: bytes of a replica that failed may still arrive */
	uint8_t asked_again;  /* get: how often, after all replicas had failed */
	bool busy_is_ours;    /* put: a start of ours went unanswered */
	uint8_t elsewhere;    /* put: places whose lenders could not be reached */
	uint8_t stale;        /* how often the lease ran out, or a put was given up */
};

/* One request's place in a wave. */
struct store_move {
	uint32_t item, replica;
	struct store_target to;
	void *user_addr;  /* get through staging: where the bytes go; else NULL */
};

struct store_ctx {
	struct store_ctx *next, *next_all;
	struct mc_store *store;
	uint64_t deadline_ns;
	struct mc_store_job *job; /* NULL: a caller waits */
	struct mc_error why;   /* of the first that failed */
	bool has_why;

	/* The message, and its answer. */
	struct mc_rpc_call call;
	uint8_t *request, *reply; /* MC_RPC_MESSAGE_MAX each */
	struct mc_wire out, in;
	struct mc_wire_reply head;
	uint64_t sent_ns;  /* when the try began that was answered */
	bool unanswered;   /* a try before it may have been executed */
	bool ending;       /* what was written is told: neither canceled nor late */
	bool stranger;     /* who is not known hears it: no HELLO on -ESTALE */
	bool once;         /* one try only */

	struct store_item *items;
	struct mc_master_put *puts;
	struct mc_master_got *gots;
	struct mc_master_end *ends;
	struct mc_master_named *named;
	uint32_t *group;   /* items of this message */
	size_t cap, nr_group;
	struct mc_master_extents extents;
	struct store_target *targets; /* of extents */

	/* The wave. */
	struct mc_batch *batch;
	struct mc_request *reqs;
	struct store_move *moves;
	uint32_t nr, nr_submitted, nr_max;
	uint32_t opcode;
	uint64_t until_ns; /* of the transfers */
	uint32_t *units;   /* of staging that this wave has */
	uint32_t nr_units;
	uint64_t unit_used; /* of the last unit */
	_Atomic uint64_t writing_since; /* 0: this context writes nothing */
};

/* store.c */
uint64_t mc_store_now(void);
uint64_t mc_store_deadline(uint64_t timeout_ns);
uint64_t mc_store_left(uint64_t deadline_ns); /* 0: over */
void mc_store_log(const struct mc_store *store, enum mc_log_level level, const char *fmt, ...) MC_PRINTF(3, 4);
/* Wait on store->changed, with the lock. */
void mc_store_wait(struct mc_store *store, pthread_cond_t *cond, uint64_t until_ns);
void mc_store_random(void *to, size_t len);
/* Every put of this process on this engine that began before `since_ns` has ended its transfers. */
bool mc_store_writers_done(struct mc_engine *engine, uint64_t since_ns);

/* What status a value whose transfers failed so has. */
int mc_store_status(int why);

/* store_call.c.  A context for nr values; NULL: no memory. */
struct store_ctx *mc_store_ctx_get(struct mc_store *store, size_t nr, uint64_t timeout_ns);
void mc_store_ctx_put(struct store_ctx *ctx);
void mc_store_ctx_free(struct store_ctx *ctx);
/* Keep the first failure's sentence; returns code. */
int mc_store_why(struct store_ctx *ctx, int code, const char *fmt, ...) MC_PRINTF(3, 4);
void mc_store_unlogged(struct store_ctx *ctx, const struct store_item *item); /* why: the master's log is full */
int mc_store_result(struct store_ctx *ctx, int r, struct mc_error *err); /* gives ctx back */
bool mc_store_canceled(const struct store_ctx *ctx);
/* Sleep, but not beyond the deadline.  -ETIMEDOUT: it is over; -ECANCELED. */
int mc_store_pause(struct store_ctx *ctx, uint64_t span_ns);
/* Begin a message in ctx->out; then call the method.  Tried again until the deadline when the master does not answer;
 * registers us anew when it does not know us.
 *   returns   0: the body is in ctx->in; -ETIMEDOUT, -EHOSTDOWN, -ECANCELED, what the master said: why is set */
void mc_store_begin(struct store_ctx *ctx, uint16_t flags, uint32_t count);
int mc_store_call(struct store_ctx *ctx, enum mc_wire_method method);
/* The answer is nonsense. */
int mc_store_nonsense(struct store_ctx *ctx);
/* Register at the master; seen: store->hello_nr that was not enough.  */
int mc_store_hello(struct mc_store *store, uint64_t seen, uint64_t deadline_ns, struct mc_error *err);

/* store_peer.c */
/* Open the handles of all segments that the items of the group name.  What cannot be had makes replicas fail.
 * one: choose a replica of each item, and open what that one needs. */
int mc_store_resolve(struct store_ctx *ctx, bool one);
/* Ask for those of ctx->extents' segments that are not known. */
void mc_store_segments_know(struct store_ctx *ctx, uint32_t first, uint32_t nr);
/* The segment of an extent, or NULL.  With the lock. */
struct store_segment *mc_store_segment_find(struct mc_store *store, uint32_t id);
/* A request there has failed so. */
void mc_store_peer_failed(struct mc_store *store, struct store_peer *peer, struct mc_segment *handle, int status);
void mc_store_peers_bury(struct mc_store *store, bool wait); /* close what nobody uses */
/* Open a peer that nobody has tried yet, so that a call need not, and metadata may be away by then. */
void mc_store_peers_warm(struct mc_store *store);
void mc_store_peers_free(struct mc_store *store);

/* store_stage.c.  A piece of staging memory for at most len bytes, *ret_len of them.
 *   returns   0; -EAGAIN: flush the wave, and ask again; -ETIMEDOUT, -ENOMEM */
int mc_store_stage(struct store_ctx *ctx, uint64_t len, void **ret_at, uint64_t *ret_len);
/* Give all units of the wave back. */
void mc_store_unstage(struct store_ctx *ctx);
void mc_store_staging_free(struct mc_store *store);

/* A transfer that failed so: nothing of it can be on its way any more, whatever became of the other end. */
bool mc_store_ended_here(int why);
/* store_move.c.  Move all items of the group whose status is 0: puts to all replicas, gets from the chosen one.
 * Failures are in item->failed and item->why. */
void mc_store_move(struct store_ctx *ctx, uint32_t opcode, uint64_t until_ns);
void mc_store_hash_ranges(const struct mc_store_op *op, uint64_t len, uint8_t checksum[16]); /* of its first len bytes */

/* Statuses of values while a call runs: > 0 is not begun, 0 is under way. */
#define STORE_PENDING 1
/* Make an item of each value, pending. */
void mc_store_items(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr);
/* ctx->group: pending ones from an index on, as many as a message has room for, each bytes beside the key; run: without
 * gaps between them.  Returns where to go on. */
size_t mc_store_group(struct store_ctx *ctx, size_t from, size_t nr, size_t each, size_t max, bool run);
/* All that are pending end so. */
void mc_store_end_pending(struct store_ctx *ctx, size_t nr, int status);
int mc_store_count_failed(struct store_ctx *ctx, size_t nr);
const char *mc_store_say(int status); /* of a key, in words */

/* store_put.c, store_get.c, store_keys.c: by a context; the number that failed, or -errno. */
int mc_store_run_put(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config);
int mc_store_run_get(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config);
int mc_store_run_exist(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config);
int mc_store_run_remove(struct store_ctx *ctx, struct mc_store_op *ops, size_t nr, const struct mc_store_config *config);
/* Look at the arguments of a batch; zeros for config NULL. */
int mc_store_check(struct mc_store *store, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
		   const struct mc_store_config *config, struct mc_store_config *ret_config, struct mc_error *err);
int mc_store_run(struct store_ctx *ctx, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
		 const struct mc_store_config *config);

/* store_job.c */
void mc_store_jobs_end(struct mc_store *store);

/* How long a place may be used by those whom a master has told it: leases, and puts.  With the lock. */
uint64_t mc_store_span(const struct mc_store *store);

/* store_lend.c: mount all that is lent and not mounted, or all. */
int mc_store_mount_all(struct mc_store *store, bool anew, uint64_t deadline_ns, struct mc_error *err);
void mc_store_lent_free(struct mc_store *store, uint64_t deadline_ns);

/* store_keeper.c */
void *mc_store_keeper(void *arg);

#endif
