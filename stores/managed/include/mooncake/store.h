/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The managed store: key -> value, in memory that its clients lend.  A master
 * (mooncake_master) knows where values lie; bytes move by the transfer engine straight
 * between the memories.
 *
 * A value is put once, is readable when all of it is there, and goes by remove, or by
 * eviction when room is needed.  A get is under a lease: while it stands, nobody
 * reuses the bytes; one that took longer fails with -ESTALE.
 *
 * Calls return 0 or a count, or a negative errno and a sentence (struct mc_error, may
 * be NULL); those that can wait take a span in nanoseconds.  Calls are safe from any
 * thread, but not in a callback of the engine.  A store has one thread of its own.
 */
#ifndef MOONCAKE_STORE_H
#define MOONCAKE_STORE_H

#include <mooncake/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MC_STORE_KEY_MAX 1023   /* bytes of a key; any bytes */
#define MC_STORE_REPLICAS_MAX 8
#define MC_STORE_TENANT_MAX 63  /* bytes of a tenant's name */
#define MC_STORE_BATCH_MAX 4096 /* keys of one batch */
#define MC_STORE_VALUE_MAX (UINT64_C(1) << 40)

struct mc_engine;
struct mc_store;
struct mc_store_job;

/* ---- stores ----------------------------------------------------------------------------------- */

/* A field that is 0 has its default. */
struct mc_store_options {
	size_t size;             /* sizeof, set by the caller */
	const char *master;      /* its engine's segment name; NULL: "mooncake_master" */
	const char *tenant;      /* name space and quota; NULL: the default one */
	uint64_t staging_len;    /* registered memory through which values pass whose memory is not registered: 64 MiB */
	uint32_t max_in_flight;  /* a batch is cut so that at most so many requests are in flight: 1024, at least 16 */
	uint32_t max_jobs;       /* threads that run what mc_store_start was given, made on demand: 4, at most 16 */
	bool checksum;           /* put: XXH3-128 of each value; get: verify those that have one.  Host memory only */
	/* Told what happens beside what was asked (the master restarted, memory mounted again), from the store's
	 * thread; must not call the store.  NULL: warnings and errors go to stderr. */
	void (*log)(void *arg, enum mc_log_level level, const char *line);
	void *log_arg;
};

/* Open a store on an engine; several may be open.  [any]
 *   engine    borrowed until mc_store_close
 *   options   copied; NULL: defaults
 *   returns   0; -ENOENT: no such master (err names what there is); -EPROTONOSUPPORT: no common version (err has
 *             both ranges); -ETIMEDOUT; -EINVAL; -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_store_open(struct mc_engine *engine, const struct mc_store_options *options, uint64_t timeout_ns,
			    struct mc_store **ret_store, struct mc_error *err);
/* Take back what is lent, leave the master, free it.  Jobs must have been freed.  Accepts NULL.
 *   returns   0; -EBUSY: a job was not freed, nothing was done; -ETIMEDOUT: the master did not answer (it gives the
 *             client up by itself); the store is freed all the same
 *   since 0.1 */
MC_EXPORT int mc_store_close(struct mc_store *store, uint64_t timeout_ns);

/* ---- lending ------------------------------------------------------------------------------------ */

/* Lend memory: values of others will lie there until it is taken back.  The store registers it (unless it is inside a
 * registered buffer of the same rights), mounts it at the master, and again whenever the master asks.  Memory that was
 * lent until lately, or whose lender the master had given up, holds new values only when all leases and puts of before
 * are over.  [any]
 *   addr      the caller's, borrowed until mc_store_take_back; NULL: allocated at location (mc_memory_alloc)
 *   len       bytes, at least 256
 *   location  "cpu:0", "cxl:0", ...; NULL: "*"
 *   ret_addr  where it is; may be NULL
 *   returns   0; -EEXIST: overlaps what is lent; -EINVAL; -ENOMEM; -ETIMEDOUT; -EHOSTDOWN: no master
 *   since 0.1 */
MC_EXPORT int mc_store_lend(struct mc_store *store, void *addr, uint64_t len, const char *location, uint64_t timeout_ns,
			    void **ret_addr, struct mc_error *err);
/* Take memory back: its values are lost, unless other replicas exist.  From the return on nobody touches it; what
 * the store allocated is freed.
 *   returns   0; -ENOENT: addr is not the start of lent memory; -ETIMEDOUT: the master did not answer; the memory is
 *             free all the same
 *   since 0.1 */
MC_EXPORT int mc_store_take_back(struct mc_store *store, void *addr, uint64_t timeout_ns, struct mc_error *err);

/* ---- values ------------------------------------------------------------------------------------- */

/* A piece of memory of the caller's; inside a registered buffer its bytes move without a copy, else through the
 * store's staging memory. */
struct mc_store_range {
	void *addr;
	uint64_t len;
};

/* One value of a batch.  Frozen layout, 64 bytes. */
struct mc_store_op {
	const void *key;
	uint32_t key_len;
	int32_t status;         /* out: 0 or -errno, below */
	const struct mc_store_range *ranges; /* put: the value; get: where it goes, in order; exist, remove: not used */
	uint32_t nr_ranges;
	uint32_t flags;         /* must be 0 */
	uint64_t offset;        /* get: of the value, from where on */
	uint64_t len;           /* out: get, exist: bytes of the whole value */
	uint64_t moved;         /* out: bytes put, or got (min(room, len - offset)) */
	void *user;             /* the caller's, untouched */
};

#define MC_STORE_SOFT_PIN (1u << 0) /* evicted only when nothing else is left, for some time (master: soft_pin_ttl) */
#define MC_STORE_HARD_PIN (1u << 1) /* never evicted */
#define MC_STORE_CHAIN (1u << 2)    /* the batch's keys are blocks in order, each of use only with those before it (a
				     * prefix); a get ends at the first that is missing, the rest are -ENOENT */
#define MC_STORE_ALL_REPLICAS (1u << 3) /* as many as asked for, or fail; else one is enough */
#define MC_STORE_REPLACE (1u << 4)  /* a value that is there is replaced when the new one is complete */
#define MC_STORE_CHECKSUM (1u << 5) /* as mc_store_options.checksum, for this call */
#define MC_STORE_FORCE (1u << 6)    /* remove: leased and pinned ones too */

struct mc_store_config {
	size_t size;
	uint32_t flags;            /* MC_STORE_* */
	uint32_t nr_replicas;      /* put: 0: 1 */
	const char *preferred;     /* put: engine whose memory is tried first; NULL: none */
	const void *parent;        /* CHAIN: key that the first one stands on; NULL: none */
	uint32_t parent_len;
};

/* Put, get, look for, remove nr values (1 .. MC_STORE_BATCH_MAX).  Each has a status of its own: 0; put: -EEXIST
 * (there already; the value is not compared), -EBUSY (another put of it goes on, be it in this batch), -ENOSPC (full; err says who has the
 * space), -EDQUOT, -E2BIG, -ESTALE (given up by the master again and again); get: -ENOENT, -ESTALE (the lease ran out twice while it was copied), -EBADMSG (checksum),
 * -EHOSTDOWN (no replica can be reached); get with too little room: 0, moved < len; remove: -ENOENT, -EBUSY (leased
 * or pinned), -ENOSPC (the master's disk is full: it cannot be logged, and stays); get, exist: -EAGAIN (its memory is not mounted again yet since the master was started anew); all: -EINVAL, -ETIMEDOUT, -EHOSTDOWN (no master), -ECANCELED, -ENOMEM.
 * [any]; blocks
 *   config    NULL: zeros
 *   returns   how many have failed (err has the first's sentence), or -EINVAL, -ENOMEM: nothing was begun
 *   since 0.1 */
MC_EXPORT int mc_store_put_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr,
				 const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err);
MC_EXPORT int mc_store_get_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr,
				 const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err);
MC_EXPORT int mc_store_exist_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr,
				   const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err);
MC_EXPORT int mc_store_remove_batch(struct mc_store *store, struct mc_store_op *ops, size_t nr,
				    const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err);

/* One value from or to one range; the statuses above are the result.
 *   ret_len   of the whole value; may be NULL
 *   since 0.1 */
MC_EXPORT int mc_store_put(struct mc_store *store, const void *key, size_t key_len, const void *addr, uint64_t len,
			   const struct mc_store_config *config, uint64_t timeout_ns, struct mc_error *err);
MC_EXPORT int mc_store_get(struct mc_store *store, const void *key, size_t key_len, void *addr, uint64_t cap,
			   uint64_t *ret_len, const struct mc_store_config *config, uint64_t timeout_ns,
			   struct mc_error *err);
MC_EXPORT int mc_store_exist(struct mc_store *store, const void *key, size_t key_len, uint64_t *ret_len,
			     uint64_t timeout_ns, struct mc_error *err);
MC_EXPORT int mc_store_remove(struct mc_store *store, const void *key, size_t key_len, uint32_t flags, uint64_t timeout_ns,
			      struct mc_error *err);

enum mc_store_verb { MC_STORE_DO_PUT, MC_STORE_DO_GET, MC_STORE_DO_EXIST, MC_STORE_DO_REMOVE };

/* The same without waiting: ops, ranges, keys and memory are borrowed until the job is over; config is copied.
 *   ret_job   freed by mc_store_job_free
 *   returns   0; -EINVAL, -ENOMEM; -EAGAIN: too many jobs run
 *   since 0.1 */
MC_EXPORT int mc_store_start(struct mc_store *store, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
			     const struct mc_store_config *config, uint64_t timeout_ns, struct mc_store_job **ret_job,
			     struct mc_error *err);
/* Readable when the job is over.  The job's.  since 0.1 */
MC_EXPORT int mc_store_job_fd(struct mc_store_job *job);
/* returns   as the batch call would; -EAGAIN: it goes on after timeout_ns (0 polls)
 * since 0.1 */
MC_EXPORT int mc_store_job_wait(struct mc_store_job *job, uint64_t timeout_ns, struct mc_error *err);
/* Ask for an early end (-ECANCELED where nothing had happened).  Never blocks.  since 0.1 */
MC_EXPORT void mc_store_job_cancel(struct mc_store_job *job);
/* Cancel it if it goes on, wait for its end, free it.  Accepts NULL.  since 0.1 */
MC_EXPORT void mc_store_job_free(struct mc_store_job *job);

/* ---- looking and managing ------------------------------------------------------------------------ */

struct mc_store_place {
	const char *engine;
	uint64_t len;
	uint32_t replica;
};

/* An object as the master sees it; borrowed during the call. */
struct mc_store_entry {
	size_t size;
	const void *key;
	size_t key_len;
	uint64_t len;
	uint64_t lease_ns, soft_pin_ns; /* left */
	bool complete, hard_pinned;
	uint32_t nr_replicas;
};
/* Call each for every object whose key begins with prefix ("": all), until it returns non-zero.  Takes no lease.
 *   returns   how many were told; -ETIMEDOUT, -EHOSTDOWN
 *   since 0.1 */
MC_EXPORT int mc_store_list(struct mc_store *store, const char *prefix, uint64_t timeout_ns,
			    int (*each)(void *ctx, const struct mc_store_entry *entry), void *ctx, struct mc_error *err);
/* Where one value lies, replica by replica, piece by piece; takes no lease.  returns 0; -ENOENT, ...
 * since 0.1 */
MC_EXPORT int mc_store_locate(struct mc_store *store, const void *key, size_t key_len, uint64_t timeout_ns,
			      int (*each)(void *ctx, const struct mc_store_place *place), void *ctx, struct mc_error *err);
/* Remove what begins with prefix, or matches a POSIX extended expression (without back
 * references, and of at most 2,000 characters when its repetitions are written out).
 *   flags     MC_STORE_FORCE
 *   returns   how many were removed (at most INT_MAX); *ret_refused: leased or pinned ones, may be NULL
 *   since 0.1 */
MC_EXPORT int mc_store_remove_prefix(struct mc_store *store, const char *prefix, uint32_t flags, uint64_t timeout_ns,
				     uint64_t *ret_refused, struct mc_error *err);
MC_EXPORT int mc_store_remove_regex(struct mc_store *store, const char *regex, uint32_t flags, uint64_t timeout_ns,
				    uint64_t *ret_refused, struct mc_error *err);
/* Pin soft for span_ns (MC_FOREVER: hard; 0: not any more).  0; -ENOENT, ...  since 0.1 */
MC_EXPORT int mc_store_pin(struct mc_store *store, const void *key, size_t key_len, uint64_t span_ns, uint64_t timeout_ns,
			   struct mc_error *err);

struct mc_store_info {
	size_t size; /* set by the caller */
	uint64_t epoch; /* lives of the master */
	uint64_t lent, used, nr_objects, nr_segments, nr_clients;
	uint64_t lease_ns;
	uint32_t version_min, version_max; /* of the master's protocol */
};
/* 0; -ETIMEDOUT, -EHOSTDOWN.  since 0.1 */
MC_EXPORT int mc_store_info(struct mc_store *store, uint64_t timeout_ns, struct mc_store_info *info, struct mc_error *err);

#ifdef __cplusplus
}
#endif
#endif
