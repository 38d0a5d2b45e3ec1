/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the master's state.
 *
 * Locks, in their order: `admin` (read: every call that touches objects, for as long as it lasts;
 * write: segments, clients and tenants change, objects that nobody can see any more are freed), a
 * shard's, `policy_lock`, `away_lock`; the pool and the sink have their own.  At most one shard is
 * locked at a time.
 *
 * An object's memory is never given back, only used for another one, and that under the admin lock
 * as a writer: a pointer that was read under it stays one to an object, and `id` says whether it is the same.
 */
#ifndef MC_MASTER_IMPL_H
#define MC_MASTER_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include <mooncake/allocator.h>

#include "core/util/check.h"
#include "master_state.h"
#include "store_policy.h"

#define MASTER_MSEC UINT64_C(1000000)
#define MASTER_SEC UINT64_C(1000000000)
#define MASTER_FORMAT 1
#define MASTER_EXTENTS_MAX (MC_MASTER_REPLICAS_MAX * MC_MASTER_PIECES_MAX)
#define MASTER_RECORD_MAX (64 + MASTER_EXTENTS_MAX * 24 + MC_STORE_KEY_MAX)
#define MASTER_SEGMENT_GONE 3 /* beside enum mc_master_segment_state: what lies there is being dropped */
#define MASTER_PIN_HARD UINT32_MAX

enum object_state { OBJECT_FREE, OBJECT_PUTTING, OBJECT_COMPLETE, OBJECT_GONE };

#define OBJECT_PIECES 1u   /* lengths and replicas of extents lie behind them */
#define OBJECT_CHECKSUM 2u /* room for one */
#define OBJECT_CHECKED 4u  /* it has one */
#define OBJECT_SHADOW 8u   /* PUTTING, and another object has the key in the table */

struct object_extent {
	uint64_t offset; /* in its segment */
	uint32_t place;  /* the pool's name of the segment */
	uint32_t id;     /* the pool's, of the extent */
};

/* Behind it: extents[nr_room], uint64_t pieces[nr_room] (OBJECT_PIECES), checksum[16] (OBJECT_CHECKSUM), key. */
struct object {
	struct mc_store_item item;
	union {
		struct mc_policy_node node;  /* policy_lock */
		struct {                     /* GONE, on its way to be free; away_lock */
			struct object *next;
			uint64_t seq;        /* of the change that says so; 0: that could not be logged yet */
		} away;
	};
	_Atomic uint64_t id;         /* never the same again; 0: free */
	uint64_t len;
	_Atomic uint64_t lease_ns;   /* nobody may reuse its bytes until then */
	_Atomic uint32_t pin_s;      /* second until which it is pinned; MASTER_PIN_HARD: for ever; 0: not */
	uint32_t put;                /* PUTTING: its slot in the shard */
	uint16_t bytes;              /* of this memory / 16 */
	uint8_t state;               /* shard's lock */
	uint8_t flags;               /* shard's lock */
	uint8_t nr, nr_room, nr_replicas;
	uint8_t dead : 1, known : 1; /* policy_lock: it is not, it is in the policy */
};

static inline struct object_extent *object_extents(const struct object *o)
{
	return (struct object_extent *)(o + 1);
}

static inline uint64_t *object_pieces(const struct object *o)
{
	return (uint64_t *)(object_extents(o) + o->nr_room);
}

static inline uint8_t *object_checksum(const struct object *o)
{
	return (uint8_t *)(object_pieces(o) + (o->flags & OBJECT_PIECES ? o->nr_room : 0));
}

static inline uint64_t extent_len(const struct object *o, uint32_t i)
{
	return o->flags & OBJECT_PIECES ? object_pieces(o)[i] & UINT64_C(0xffffffffffffff) : o->len;
}

static inline uint8_t extent_replica(const struct object *o, uint32_t i)
{
	return o->flags & OBJECT_PIECES ? (uint8_t)(object_pieces(o)[i] >> 56) : (uint8_t)i;
}

#define PUT_NONE UINT32_MAX

enum put_state { PUT_FREE, PUT_OPEN, PUT_DONE /* completed; free, but its token is still known */ };

/* An unfinished put.  Shard's lock. */
struct put {
	struct object *object, *prev; /* prev: the block that it stands on, if prev_id is still its id */
	uint64_t prev_id, start_ns, nonce, generation;
	uint64_t asked; /* number of the request that was told its places last */
	struct mc_master_client_id client;
	uint32_t seq; /* of the token */
	uint32_t older, newer; /* open ones in the order of their begin; free ones likewise */
	uint8_t state;
};

struct shard {
	_Alignas(MC_CACHE_LINE) pthread_mutex_t lock;
	struct mc_store_map map;
	struct put *puts;
	uint32_t nr_puts, oldest, newest, free_first, free_last;
};

/* Memory that was taken out.  Readers have leases on it and writers are on their way there for a while yet, whoever
 * lends it again meanwhile. */
struct dropped {
	struct dropped *next;
	char *engine;
	uint64_t generation, base, len, until_ns;
	uint64_t seq; /* of the change that says so; 0: that is still to come */
	uint32_t id;
};

struct segment {
	struct segment *next;
	struct dropped *stone; /* what will be left of it */
	uint32_t id, place;
	uint8_t uuid[16];
	char *engine, *location;
	uint64_t generation, base, len, host, mounted_ns;
	struct mc_master_client_id client;
	_Atomic uint32_t state; /* enum mc_master_segment_state or MASTER_SEGMENT_GONE */
	bool drain;     /* asked for */
	bool held;      /* nothing new goes there yet: others may still read or write what was there before */
	_Atomic uint64_t nr_objects, quarantined;
};

struct client {
	struct mc_master_client_id id;
	char *engine;
	uint64_t generation, ping_ns;
	UT_hash_handle hh;
};

/* Places that a writer who did not finish may still write to.  away_lock. */
struct quarantine {
	struct quarantine *next;
	struct object *object;
	uint64_t writer; /* generation */
	uint64_t told[2], clear[2]; /* by extent: its lender was told to cut the writer off, has done so */
};

struct tenant {
	char name[MC_MASTER_TENANT_MAX + 1];
	_Atomic uint64_t quota, used, nr_objects;
};

#define MASTER_TENANTS_MAX 65536

struct mc_master {
	struct mc_master_limits limits;
	struct mc_master_sink sink;
	struct mc_pool *pool;
	uint64_t seed, epoch, lease_max;
	uint64_t quiet_ns;  /* until then nothing is evicted, and nothing of before used again */
	_Atomic bool waiting; /* of the segments that were there when it began some are closed yet: no want of room */
	uint32_t first_token; /* of each slot, drawn for this life */

	pthread_rwlock_t admin;
	struct segment *segments;
	struct dropped *dropped;
	uint64_t *left_out;  /* objects whose records are to go from the disk */
	size_t nr_left_out;
	struct segment *places[MC_POOL_SEGMENTS + 1];
	uint32_t last_segment;
	struct client *clients;
	struct tenant *tenants[MASTER_TENANTS_MAX];
	uint32_t nr_tenants;
	struct object *grave; /* free when admin is held as a writer; away_lock */

	struct shard *shards;
	uint32_t shard_mask;

	pthread_mutex_t policy_lock;
	struct mc_policy *policy; /* made when the first object comes */
	struct mc_policy_node **nodes; /* scratch, SCRATCH of each */
	uint64_t *keys;

	pthread_mutex_t slab_lock;
	void *slab[320]; /* free memory by 16 bytes */
	char *chunk;
	size_t chunk_left;
	void *chunks;

	pthread_mutex_t away_lock;
	struct object *away_first, *away_last;
	struct quarantine *quarantine;
	_Atomic uint64_t away_bytes, quarantined, unfinished, slab_bytes;

	_Atomic uint64_t last_id, last_ask;
	_Atomic uint64_t nr_objects, nr_open, nr_put, nr_get, nr_hit, nr_removed, nr_evicted, evicted_bytes, nr_expired, nr_lost;
	_Atomic uint64_t wanted;   /* bytes that could not be placed since the last eviction */
	_Atomic uint64_t leased, pinned; /* as the last walk saw them */
	uint32_t walk; /* the tick's: shard to be walked next, and sums of this round */
	uint64_t walk_leased, walk_pinned;
};

#define MASTER_SCRATCH 16384u

/* Rows of MC_MASTER_TABLE_MASTER. */
#define ROW_EPOCH 0
#define ROW_LEASE 1
#define ROW_SEGMENT 2 /* number of the last segment */

/* ---- master_state.c -------------------------------------------------------------------------- */

int number_log(struct mc_master *s, uint64_t row, uint64_t number);

/* ---- master_object.c ------------------------------------------------------------------------- */

static inline struct shard *shard_of(const struct mc_master *s, uint64_t hash)
{
	return &s->shards[hash & s->shard_mask];
}

/* Complete or not, with the shard's lock; NULL: nothing has this key. */
static inline struct object *object_find(const struct shard *shard, uint64_t hash, uint32_t tenant,
					 const struct mc_master_key *key)
{
	struct mc_store_item *item = mc_store_map_find(&shard->map, hash, tenant, key->data, key->len);

	return item ? MC_CONTAINER_OF(item, struct object, item) : NULL;
}

/* Memory for an object with this key and room; zeroed but for what these say.  NULL: out of memory. */
struct object *object_new(struct mc_master *s, uint64_t hash, uint32_t tenant, const struct mc_master_key *key, uint32_t room,
			  uint8_t flags);
void object_free(struct mc_master *s, struct object *o); /* admin as a writer, or nobody has seen it */
/* Its record; to has MASTER_RECORD_MAX bytes. */
size_t object_encode(const struct mc_master *s, const struct object *o, uint64_t parent, uint8_t *to);
/* -EBADMSG, -ENOMEM */
int object_load(struct mc_master *s, uint64_t id, const uint8_t *value, size_t len, struct mc_error *err);
int sink_append(struct mc_master *s, struct mc_store_change *changes, size_t nr);

/* ---- master_away.c --------------------------------------------------------------------------- */

/* Take a complete object away, with its shard's lock; its places are free when that is logged and leases have ended. */
void object_remove(struct mc_master *s, struct shard *shard, struct object *o, bool evicted);
/* The same for who is told that it is gone, which it must be after a restart, too.  0; -ENOSPC: it cannot be logged, and stays. */
int object_remove_logged(struct mc_master *s, struct shard *shard, struct object *o);
/* Places that are free when a change (0: not logged yet) is on the disk and leases have ended; the object has no name. */
void away_push(struct mc_master *s, struct object *o, uint64_t seq);
/* The same for what was never complete and nobody writes to any more. */
void object_drop(struct mc_master *s, struct object *o);
/* The same for what somebody may still write to. */
void object_quarantine(struct mc_master *s, struct object *o, uint64_t writer);
/* Give back what is due; returns whether anything is left. */
bool away_release(struct mc_master *s, uint64_t now);
/* What pings say and ask, for the client's segments. */
void quarantine_confirm(struct mc_master *s, const struct client *client, uint64_t generation);
size_t quarantine_ask(struct mc_master *s, const struct client *client, uint64_t *list, size_t max);
/* Segments have gone: nobody has to confirm for them. */
void quarantine_look(struct mc_master *s);

/* ---- master_evict.c -------------------------------------------------------------------------- */

/* Evict at least so many bytes, if that can be, for so many objects that are about to come; returns how many bytes. */
uint64_t evict(struct mc_master *s, uint64_t bytes, uint32_t ahead, uint64_t now);
/* More is about to come behind this object, if its id is that. */
void policy_touch(struct mc_master *s, struct object *o, uint64_t id);
/* A request's objects, in order, with shards unlocked.  chain: each stands on the one before it, and the first on
 * prev if its id is prev_id; what prev stands on is part of the request, unless that was told just now (goes_on). */
void policy_tell(struct mc_master *s, struct object *const *objects, size_t nr, bool chain, struct object *prev,
		 uint64_t prev_id, bool goes_on);

/* ---- master_put.c ---------------------------------------------------------------------------- */

/* With the shard's lock.  NULL: not of this client, not of this life, or another put has the place. */
struct put *put_find(struct shard *shard, uint64_t token, const struct mc_master_client_id *client);
struct shard *token_shard(const struct mc_master *s, uint64_t token); /* NULL: not a token */
/* With the shard's lock: out of the table and of the list; its places are the caller's affair. */
struct object *put_give_up(struct mc_master *s, struct shard *shard, struct put *p);
/* An open put ends, with its shard's lock: its slot is free. */
void put_close(struct mc_master *s, struct shard *shard, struct put *p, enum put_state state);
/* Who has the space; with admin as a reader. */
void space_tell(struct mc_master *s, struct mc_master_full *full);
/* Puts of a client (NULL: those whose time is over) are given up. */
void puts_expire(struct mc_master *s, const struct mc_master_client_id *client, uint64_t now);

/* ---- master_segment.c ------------------------------------------------------------------------ */

struct client *client_find(const struct mc_master *s, const struct mc_master_client_id *id);
/* With admin as a writer: clients and segments whose time is over; pieces of dying segments. */
void dropped_free(struct dropped *d); /* accepts NULL */
void segments_tick(struct mc_master *s, uint64_t now);
int segment_load(struct mc_master *s, uint64_t id, const uint8_t *value, size_t len, struct mc_error *err);
struct segment *segment_find(const struct mc_master *s, uint32_t id);
static inline struct segment *segment_at(const struct mc_master *s, uint32_t place)
{
	return s->places[place & 0xffff];
}

#endif
