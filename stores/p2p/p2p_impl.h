/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the P2P store.
 *
 * Locks: store->lock guards the list of objects, who is served, what waits, and the counters below it; get->lock
 * (p2p_get.h) a get.  get->lock comes first where both are held.  Neither is held across a call of the engine that may
 * run a worker or wait: a reply or a call may run the rpc worker, and with it our handler, on the calling thread. */
#ifndef MC_P2P_IMPL_H
#define MC_P2P_IMPL_H

#include <pthread.h>
#include <time.h>

#include <mooncake/kv.h>
#include <mooncake/mooncake.h>
#include <mooncake/p2p_store.h>
#include <mooncake/rpc.h>

#include "core/util/check.h"
#include "p2p_block.h"
#include "p2p_cut.h"
#include "p2p_record.h"
#include "p2p_serve.h"
#include "p2p_wire.h"

#define P2P_ASKS 64                     /* GRANTs that wait for a slot */
#define P2P_GETTERS 256                 /* whose generation is remembered by name */
#define P2P_PIECE (UINT64_C(1) << 20)   /* the most that one READ moves */

/* Bytes per second, kept by letting callers wait; shared by all threads of a store. */
struct p2p_rate {
	pthread_mutex_t lock;
	uint64_t rate;    /* 0: no bound */
	uint64_t next_ns; /* when the next byte may go */
};

/* An object that this store offers.  Owned by the store's list. */
struct p2p_object {
	struct p2p_object *next;
	struct mc_p2p *store;
	char name[MC_P2P_NAME_MAX + 1];
	struct mc_p2p_hash id; /* of the name */
	enum mc_p2p_role role;
	struct mc_p2p_block layout; /* size, shard_size, root, ... */
	struct mc_p2p_map map;      /* our ranges */
	size_t nr_registered;       /* of map->parts, from the first on */
	uint8_t *block;             /* mc_memory_alloc'ed; NULL: not yet */
	uint8_t *bitmap;            /* in block */
	struct mc_p2p_tally tally;
	bool busy;      /* somebody registers, gets or retires it: only he may touch it; lock */
	bool served;    /* GRANTs are answered; lock */
	bool published; /* our key is written */
	uint64_t key_revision; /* of our key; 0: not known */
	bool removed;   /* somebody removed it for all; its key is to be deleted; lock */
	char removed_by[MC_SEGMENT_NAME_MAX + 1]; /* lock */
	bool clerk;          /* it is the clerk who made it busy; lock */
	uint64_t look_ns;    /* when its record is looked for again; lock */
	bool record_missed;  /* it was not there, or another's, the last time; the clerk's */
};

/* A GRANT that waits for a slot. */
struct p2p_ask {
	uint64_t ticket; /* 0: free */
	struct mc_rpc_request *request;
};

/* A getter that has asked. */
struct p2p_getter {
	uint64_t name; /* hash of the engine's; 0: free */
	uint64_t generation;
};

struct mc_p2p {
	struct mc_engine *engine;
	struct mc_p2p_options options;
	char rack[MC_P2P_LABEL_MAX + 1];
	char host[64];
	struct mc_rpc_service *service;
	struct p2p_rate rate_get;

	pthread_mutex_t lock;
	pthread_cond_t cond; /* for the clerk, and by it when it releases an object */
	pthread_t clerk;     /* answers GRANTs whose time is over, looks after keys and records */
	bool stop;
	uint32_t nr_gets;
	struct p2p_object *objects;
	struct mc_p2p_serve *serve;
	struct p2p_ask asks[P2P_ASKS];
	struct p2p_getter getters[P2P_GETTERS]; /* a ring */
	uint32_t next_getter;
};

/* p2p_store.c */
uint64_t mc_p2p_now(void);
uint64_t mc_p2p_deadline(uint64_t timeout_ns);
uint64_t mc_p2p_left(uint64_t deadline_ns); /* 0: over */
void mc_p2p_log(const struct mc_p2p *store, enum mc_log_level level, const char *fmt, ...) MC_PRINTF(3, 4);
void mc_p2p_cond_init(pthread_cond_t *cond); /* by the monotonic clock */
void mc_p2p_cond_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);

/* How long to wait before so many bytes may go.  [any] */
uint64_t mc_p2p_rate_take(struct p2p_rate *rate, uint64_t bytes);

/* p2p_object.c.  Reserve a name in the store: the object is busy and the caller's.  Copies ranges.
 * -EEXIST, -EINVAL, -ENOMEM. */
int mc_p2p_object_new(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
		      enum mc_p2p_role role, struct p2p_object **ret, struct mc_error *err);
int mc_p2p_object_pin(struct p2p_object *o, const char *location, uint64_t deadline_ns, struct mc_error *err);
/* Make the block: layout's size, shard_size, root and attachment are set.  full: all bits are. */
int mc_p2p_object_block(struct p2p_object *o, const uint8_t *hashes, const void *attachment, bool full,
			uint64_t deadline_ns, struct mc_error *err);
/* Write our key and answer GRANTs. */
int mc_p2p_object_publish(struct p2p_object *o, uint64_t deadline_ns, struct mc_error *err);
/* Nobody is served any more. */
void mc_p2p_object_hush(struct p2p_object *o);
/* Take all back and free it; the object is busy and the caller's.  The first error; the object is gone all the same. */
int mc_p2p_object_retire(struct p2p_object *o, uint64_t deadline_ns, struct mc_error *err);
/* Find one that is not busy, and make it so; the clerk is waited for.  -ENOENT, -EBUSY. */
int mc_p2p_object_take(struct mc_p2p *store, const char *name, enum mc_p2p_role role, uint64_t deadline_ns,
		       struct p2p_object **ret, struct mc_error *err);
void mc_p2p_object_release(struct p2p_object *o);

/* p2p_clerk.c: the store's thread; when it looks at a record that was looked at now. */
void *mc_p2p_clerk(void *arg);
uint64_t mc_p2p_look_next(void);

/* p2p_answer.c: the service.  Answers what has got a slot or has waited long enough.  Without the lock. */
void mc_p2p_handle(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming);
void mc_p2p_answer_due(struct mc_p2p *store);

/* p2p_meta.c.  The record of an object; -ENOENT, -EBADMSG.  ret_revision may be NULL. */
int mc_p2p_record_read(struct mc_p2p *store, const char *name, uint64_t deadline_ns, struct mc_p2p_record *ret,
		       uint64_t *ret_revision, struct mc_error *err);
/* Make sure that the record stands; an equal one is joined.  replace: also in place of one that nobody offers, which
 * needs a second look, without it, when our key is there.  -EEXIST: another object has the name. */
int mc_p2p_record_ensure(struct p2p_object *o, bool replace, uint64_t deadline_ns, struct mc_error *err);
/* The engines that offer an object; offers that cannot be read are passed over.  malloc'ed. */
struct p2p_offer_at {
	struct mc_p2p_offer offer;
	uint64_t revision;
};
int mc_p2p_offers_read(struct mc_p2p *store, const char *name, uint64_t deadline_ns, struct p2p_offer_at **ret,
		       size_t *ret_nr, struct mc_error *err);
/* The last source has gone: take the record away, unless somebody joined meanwhile. */
int mc_p2p_record_drop(struct p2p_object *o, uint64_t deadline_ns, struct mc_error *err);

/* p2p_read.c: any bytes of a peer's registered memory, through registered memory of our own.  One thread's. */
struct p2p_reader {
	struct mc_engine *engine;
	struct mc_batch *batch;
	uint8_t *scratch;
	bool (*over)(void *arg); /* set by who opened it: what is read now is not wanted any more; may be NULL */
	void *arg;
};
int mc_p2p_reader_open(struct p2p_reader *r, struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err);
void mc_p2p_reader_close(struct p2p_reader *r); /* half-made ones too */
int mc_p2p_read(struct p2p_reader *r, struct mc_segment *segment, uint64_t offset, uint8_t *to, uint64_t len,
		uint64_t timeout_ns, struct mc_error *err);

/* p2p_hashing.c: the hashes of all shards of a map, by several threads; hashes has room for nr_shards.  stop, if not
 * NULL, is asked now and then: true ends it with -ECANCELED. */
int mc_p2p_hash_all(const struct mc_p2p_map *map, uint64_t shard_size, uint32_t nr_shards, unsigned int threads,
		    uint8_t *hashes, bool (*stop)(void *arg), void *arg);
int mc_p2p_hash_shard(const struct mc_p2p_map *map, uint64_t shard_size, uint32_t shard, bool (*stop)(void *arg),
		      void *arg, struct mc_p2p_hash *ret);

#endif
