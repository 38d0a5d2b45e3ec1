/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the master of the managed store knows, and its rules: segments that clients
 * lend, objects in them, leases, pins, quotas, eviction, what is free again and when.
 * Pure: no thread, no I/O, no clock of its own; time is passed in, changes that must
 * outlive the master go to a sink, and nothing here waits.
 *
 * Threads: any call from any thread.  A batch takes each shard's lock once; locks in
 * order: segments and clients, shards in ascending order, policy, pool.  `now` is
 * CLOCK_MONOTONIC in nanoseconds and must not go back by more than threads race.
 *
 * Statuses per key are 0 or -errno: -ENOENT not there (or nothing complete of it),
 * -EEXIST there and complete, -EBUSY another put of it goes on / leased or pinned,
 * -ENOSPC no room now (retry_ms), -EDQUOT over the tenant's quota, -EINVAL a bad key
 * or size, -E2BIG larger than all that is lent, -ESTALE a token or a client of before,
 * -EAGAIN only on segments that are not mounted again yet after a restart.
 */
#ifndef MC_MASTER_STATE_H
#define MC_MASTER_STATE_H

#include <mooncake/types.h>

#include "store_disk.h"
#include "store_map.h"

#define MC_MASTER_REPLICAS_MAX 8
#define MC_MASTER_PIECES_MAX 16 /* of one replica */
#define MC_MASTER_TENANT_MAX 63 /* bytes of a tenant's name; "" is the default tenant */
#define MC_MASTER_SEGMENT_NAME_MAX 255

struct mc_master;

/* 0: the default behind it. */
struct mc_master_limits {
	size_t size;
	uint32_t nr_shards;         /* power of two: 64 */
	uint64_t lease_ns;          /* of a read: 10 s */
	uint64_t soft_pin_ns;       /* 30 min */
	bool keep_soft_pinned;      /* never evict them; default: when nothing else is left */
	double high_watermark;      /* share of all lent memory: 0.90 */
	double eviction_ratio;      /* evict so much at a time: 0.05 */
	uint64_t client_ttl_ns;     /* without a ping: 10 s */
	uint64_t put_ttl_ns;        /* from put_start to put_end: 30 s */
	uint32_t granule;           /* of places: 256 */
	uint32_t strategy;          /* enum mc_pool_strategy */
	uint64_t mean_object;       /* bytes, about; only the policy's time scale follows: 0: the first object's */
	uint64_t seed;              /* of hashes and random choices; 0: drawn */
};

/* Where changes go (store_disk.h in the master; memory in tests).  Called under locks; never blocks. */
struct mc_master_sink {
	int (*append)(void *ctx, struct mc_store_change *changes, size_t nr);
	uint64_t (*synced)(void *ctx);
	void (*want)(void *ctx, uint64_t seq);
	void *ctx;
};

/* Tables of the disk; their values begin with a u8 format. */
enum mc_master_table {
	MC_MASTER_TABLE_MASTER = 0, /* 0: epoch; 1: longest lease ever granted; 2: last number of a segment */
	MC_MASTER_TABLE_SEGMENT,
	MC_MASTER_TABLE_TENANT,
	MC_MASTER_TABLE_OBJECT,
};

/* First mc_master_load for each value that the disk tells, then _start once, which appends the new epoch.
 *   returns   0; -EINVAL, -ENOMEM */
int mc_master_new(const struct mc_master_limits *limits, struct mc_master **ret_state);
void mc_master_free(struct mc_master *state); /* accepts NULL */
/* 0; -EBADMSG: err says which value is broken, and it was left out; -ENOMEM */
int mc_master_load(struct mc_master *state, uint16_t table, uint64_t id, const void *value, size_t len,
			struct mc_error *err);
int mc_master_start(struct mc_master *state, const struct mc_master_sink *sink, uint64_t now);
/* Number of the master's life, counted from 1. */
uint64_t mc_master_epoch(const struct mc_master *state);

/* ---- clients and segments ------------------------------------------------------------------------ */

struct mc_master_client_id {
	uint8_t bytes[16]; /* drawn by the client when its store is opened */
};

/* What a ping carries, and what it gets. */
struct mc_master_ping {
	size_t size;
	struct mc_master_client_id client;
	const char *engine;      /* its segment name, and generation: writes come from there */
	uint64_t generation;
	const uint64_t *evicted; /* generations that this client has cut off (mc_peer_evict) since the last ping */
	size_t nr_evicted;
	/* out */
	bool remount;            /* nothing of it is mounted: if it lends memory, mount that again */
	uint64_t evict[32];      /* cut these off now, tell it in the next ping */
	size_t nr_evict;
};
/* Register a client or prolong it; one that was given up is a new one.  0; -EINVAL, -ENOMEM */
int mc_master_client_ping(struct mc_master *state, struct mc_master_ping *ping, uint64_t now);
/* It leaves: as if its ttl were over. */
int mc_master_client_leave(struct mc_master *state, const struct mc_master_client_id *client, uint64_t now);

enum mc_master_segment_state {
	MC_MASTER_MOUNTED,
	MC_MASTER_SUSPECT,  /* after a restart, not mounted again yet: nothing in it is readable */
	MC_MASTER_DRAINING, /* nothing new goes there */
};

struct mc_master_segment {
	size_t size;
	uint32_t id;          /* never used again; set by the master */
	uint8_t uuid[16];     /* drawn by the client for this memory */
	const char *engine;   /* segment name of the transfer engine */
	uint64_t generation;  /* of that engine */
	uint64_t base, len;   /* `offset` of requests, bytes */
	const char *location; /* "cpu:0", "cxl:0" */
	uint64_t host;        /* the same for all of one host; 0: unknown */
	struct mc_master_client_id client;
	/* out, of mc_master_segments */
	enum mc_master_segment_state state;
	uint64_t used, quarantined, nr_objects;
};
/* Lend memory.  The same uuid, generation, base and len again (after a restart of the master): its objects are
 * readable again; with another generation its objects are dropped first.
 *   returns   0, segment->id set; -ESTALE: not a living client; -EEXIST: this memory overlaps another segment of this
 *             engine; -EINVAL, -ENOMEM, -EMFILE */
int mc_master_mount(struct mc_master *state, struct mc_master_segment *segment, uint64_t now);
/* Take it out with all that lies there; at return nobody gets places in it any more. */
int mc_master_unmount(struct mc_master *state, const struct mc_master_client_id *client, const uint8_t uuid[16],
		     uint64_t now);
/* Nothing new goes there any more (or again). */
int mc_master_drain(struct mc_master *state, uint32_t segment, bool drain, uint64_t now);
/* Each segment by id from `from` on; strings borrowed during the call; no call of the state inside. */
int mc_master_segments(struct mc_master *state, uint32_t from,
		      int (*each)(void *ctx, const struct mc_master_segment *segment), void *ctx);

/* ---- objects ------------------------------------------------------------------------------------- */

struct mc_master_key {
	const void *data;
	uint32_t len; /* 1..MC_STORE_KEY_MAX */
};

enum mc_master_medium { MC_MASTER_MEMORY = 0 }; /* more may come: a reader passes over what it does not know */

/* A piece of a replica. */
struct mc_master_extent {
	uint64_t offset; /* of requests: the segment's base included */
	uint64_t len;
	uint32_t segment;
	uint8_t replica; /* pieces of one replica follow each other */
	uint8_t medium;
	uint16_t reserved;
};

/* Extents of a whole batch, the caller's array; what does not fit fails with -ENOBUFS by itself. */
struct mc_master_extents {
	struct mc_master_extent *at;
	size_t nr, cap;
};

/* A tenant's number; made when it is not known and `create`.  0; -ENOENT; -EINVAL; -ENOMEM */
int mc_master_tenant(struct mc_master *state, const char *name, size_t len, bool create, uint32_t *ret_tenant);

#define MC_MASTER_PUT_SOFT_PIN (1u << 0)
#define MC_MASTER_PUT_HARD_PIN (1u << 1)
#define MC_MASTER_PUT_CHAIN (1u << 2)    /* the keys are blocks in order, each of use only with those before it */
#define MC_MASTER_PUT_ALL (1u << 3)      /* all replicas or none; else one is enough */
#define MC_MASTER_PUT_UPSERT (1u << 4)   /* what is there is replaced at put_end */
#define MC_MASTER_PUT_CHECKSUM (1u << 5) /* put_end will bring one */

struct mc_master_put_config {
	size_t size;
	uint32_t tenant, flags;
	uint32_t nr_replicas; /* 0: 1 */
	uint32_t nr_preferred;
	const uint32_t *preferred; /* segments, or */
	const char *preferred_engine; /* all segments of this one; NULL */
	uint64_t host;        /* of the caller; 0: unknown */
	uint64_t nonce;       /* drawn for each batch; the same again (its answer was lost): told the same again.  0: none */
	struct mc_master_key parent; /* CHAIN: what the first block stands on; len 0: nothing */
};

struct mc_master_put {
	struct mc_master_key key;
	uint64_t len; /* of the value, > 0 */
	/* out */
	uint64_t token; /* of put_end and put_revoke */
	uint32_t first, nr; /* of the batch's extents */
	uint32_t retry_ms;  /* -ENOSPC, -EBUSY */
	int32_t status;
};

/* Who has the space, for a sentence beside -ENOSPC: bytes. */
struct mc_master_full {
	uint64_t lent, used, leased, pinned, quarantined, unfinished, largest_free;
};

/* returns   how many have failed, or -ESTALE: not a living client; -EINVAL: config */
int mc_master_put_start(struct mc_master *state, const struct mc_master_client_id *client,
		       const struct mc_master_put_config *config, struct mc_master_put *puts, size_t nr,
		       struct mc_master_extents *extents, struct mc_master_full *ret_full, uint64_t now);

struct mc_master_end {
	uint64_t token;
	uint8_t checksum[16];  /* XXH3-128 of the value, big-endian as the library's canonical form */
	uint8_t has_checksum;  /* only if put_start said so */
	uint8_t reserved[3];
	uint32_t failed;       /* bit r: replica r was not written, and goes (into quarantine: its writes may be under way) */
	/* out */
	int32_t status;        /* 0 also when it was completed before; -ESTALE: the put was given up meanwhile; -EBUSY: (UPSERT) another put of the key is open, end it later; -EIO ..: it could not be logged, and is given up */
};
/* Complete: readable from now on, and logged before the return.  returns how many failed */
int mc_master_put_end(struct mc_master *state, const struct mc_master_client_id *client, struct mc_master_end *ends,
		     size_t nr, uint64_t now);
/* The writer has ended its transfers: places are free at once.  returns how many failed */
int mc_master_put_revoke(struct mc_master *state, const struct mc_master_client_id *client, struct mc_master_end *ends,
			size_t nr, uint64_t now);

#define MC_MASTER_GET_CHAIN (1u << 0)    /* the keys are a chain: behind the first miss all are -ENOENT */
#define MC_MASTER_GET_NO_LEASE (1u << 1) /* a look only: no lease, and the policy does not hear of it */

struct mc_master_got {
	struct mc_master_key key;
	/* out */
	uint64_t len;
	uint8_t checksum[16];
	uint32_t first, nr; /* of the batch's extents: complete replicas on mounted segments */
	uint8_t has_checksum, nr_replicas;
	uint16_t reserved;
	int32_t status;
};
/* extents NULL: exist.  returns how many failed; *ret_lease_ns: how long what was found stays, from now on */
int mc_master_get(struct mc_master *state, uint32_t tenant, uint32_t flags, struct mc_master_got *gots, size_t nr,
		 struct mc_master_extents *extents, uint64_t *ret_lease_ns, uint64_t now);

#define MC_MASTER_REMOVE_FORCE (1u << 0) /* leased and pinned ones too; places stay until leases have ended */

struct mc_master_named {
	struct mc_master_key key;
	int32_t status;
};
/* -EBUSY: leased or pinned; -ENOSPC: it cannot be logged, and stays.  returns how many failed */
int mc_master_remove(struct mc_master *state, uint32_t tenant, uint32_t flags, struct mc_master_named *keys, size_t nr,
		    uint64_t now);

enum mc_master_match { MC_MASTER_PREFIX, MC_MASTER_REGEX /* POSIX extended */ };

/* Remove what matches ("" with PREFIX: all), some shards per call.  *cursor: 0 at first, and when all are done.
 *   returns   0; -EINVAL: err says what is wrong with the expression; -ENOSPC: not all could be logged */
int mc_master_remove_match(struct mc_master *state, uint32_t tenant, uint32_t flags, enum mc_master_match match,
			  const char *pattern, uint64_t *cursor, uint64_t *nr_removed, uint64_t *nr_refused, uint64_t now,
			  struct mc_error *err);

struct mc_master_object {
	size_t size;
	struct mc_master_key key; /* borrowed during the call */
	uint64_t len, lease_ns /* left */, soft_pin_ns /* left */;
	bool complete, hard_pinned;
	uint32_t nr_replicas;
};
/* Tell objects that match, at most max in a call; as above with the cursor.  each must not call the state.
 *   returns   how many were told; -EINVAL */
int mc_master_query(struct mc_master *state, uint32_t tenant, enum mc_master_match match, const char *pattern,
		   uint64_t *cursor, uint32_t max, int (*each)(void *ctx, const struct mc_master_object *object), void *ctx,
		   uint64_t now, struct mc_error *err);

/* Pin (until 0: not; MC_FOREVER: hard; else soft for that long).  returns how many failed */
int mc_master_pin(struct mc_master *state, uint32_t tenant, uint64_t span_ns, struct mc_master_named *keys, size_t nr,
		 uint64_t now);
/* Bytes that a tenant's complete and unfinished objects may take, all replicas; 0: no bound. */
int mc_master_quota(struct mc_master *state, uint32_t tenant, uint64_t bytes);
int mc_master_tenants(struct mc_master *state,
		     int (*each)(void *ctx, const char *name, uint64_t quota, uint64_t used, uint64_t nr_objects), void *ctx);

/* ---- time ------------------------------------------------------------------------------------------ */

/* Clients and puts whose time is over, quarantines, freed places that are on the disk, eviction; a bounded piece of
 * work.  Call every 10 ms, or when asked.
 *   returns   when to call again */
uint64_t mc_master_tick(struct mc_master *state, uint64_t now);

struct mc_master_stats {
	size_t size;
	uint64_t epoch, nr_objects, nr_puts /* unfinished */, nr_clients, nr_segments, nr_suspect;
	struct mc_master_full space;
	uint64_t nr_put, nr_get, nr_hit, nr_removed, nr_evicted, evicted_bytes, nr_expired_puts, nr_lost; /* ever */
	uint64_t metadata; /* bytes of memory: entries, tables, allocator, policy */
	uint64_t waits_ns; /* left, in which nothing is evicted or used again after a restart */
};
void mc_master_stats(struct mc_master *state, struct mc_master_stats *stats, uint64_t now);
/* used = sum of extents, no extent in two objects, every object in its table; for tests.  0; -EBADMSG, err says what */
int mc_master_check(struct mc_master *state, struct mc_error *err);

#endif
