/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The P2P store: objects in the memory of many engines, without a master.
 *
 * Who has an object registers it under a name: its bytes stay where they are.
 * Who gets it copies them into memory of its own, from all that have them, and
 * serves what has arrived to others from then on.  All that is shared is a record
 * per object and a leased key per (object, engine) in the engine's metadata service.
 *
 * An object is one string of bytes: its ranges, one after the other.  The ranges
 * of one who gets it may cut it at other places.  It is moved and verified (XXH3-128,
 * under a root hash that the record holds) in shards.
 *
 * Calls return 0 or a count, or a negative errno and a sentence (struct mc_error,
 * may be NULL); those that can wait take a span in nanoseconds.  Calls are safe from
 * any thread, but not in a callback of the engine.  A store starts threads of its own.
 */
#ifndef MOONCAKE_P2P_STORE_H
#define MOONCAKE_P2P_STORE_H

#include <mooncake/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MC_P2P_NAME_MAX 512                 /* bytes of a name */
#define MC_P2P_LABEL_MAX 63                 /* bytes of a rack's label */
#define MC_P2P_ROOT_SIZE 33                 /* a root hash as text: 32 hex digits and a NUL */
#define MC_P2P_SHARDS_MAX (1u << 20)        /* shards of an object */
#define MC_P2P_RANGES_MAX (1u << 20)        /* ranges of an object, at each end */
#define MC_P2P_ATTACHMENT_MAX (1u << 20)    /* bytes of what is attached to an object */
#define MC_P2P_PATIENCE_NS (15 * MC_SEC)    /* unless the options say otherwise */
#define MC_P2P_SHARD_MIN (UINT64_C(1) << 12)
#define MC_P2P_SHARD_MAX (UINT64_C(1) << 32)

struct mc_engine;
struct mc_p2p;
struct mc_p2p_get;

/* A part of an object: memory of the caller's, which the CPU can read (all of it is hashed), so none of a GPU. */
struct mc_p2p_range {
	void *addr;
	uint64_t len; /* > 0 */
};

/* ---- stores --------------------------------------------------------------------------------- */

/* How a store behaves; a field that is 0 has its default. */
struct mc_p2p_options {
	size_t size;             /* sizeof, set by the caller */
	const char *rack;        /* where this host stands; engines with the same label are near.  NULL: unknown */
	uint32_t max_serve;      /* shards that others may copy from here at once: 4 */
	uint32_t lanes;          /* threads that copy and verify, per get: 4 (they wait for the wire more than they work) */
	uint64_t max_rate_serve; /* bytes per second, for all that copy from here; 0: no bound */
	uint64_t max_rate_get;   /* bytes per second, for all gets of this store; 0: no bound */
	uint64_t patience_ns;    /* how long a get goes on when nobody offers what it lacks: MC_P2P_PATIENCE_NS */
	/* Told what happens beside what was asked (a source that is dropped, and why), from any thread of the
	 * store; it must not call the store.  NULL: warnings and errors go to stderr. */
	void (*log)(void *arg, enum mc_log_level level, const char *line);
	void *log_arg;
};

/* Open a store on an engine, one per engine; it answers others by the engine's rpc service "p2p".  [any]
 *   engine    borrowed until mc_p2p_close
 *   options   copied; NULL: defaults
 *   returns   0; -EEXIST: the engine has a store; -EINVAL; -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_p2p_open(struct mc_engine *engine, const struct mc_p2p_options *options, struct mc_p2p **ret_store,
			  struct mc_error *err);

/* Cancel gets, unregister and delete all that this store serves, free it.  Gets must have been freed.  Accepts
 * NULL.  [any]
 *   returns   0; -ETIMEDOUT: metadata did not answer in time (keys end with the engine's lease); the store is
 *             freed all the same; -EBUSY: a get was not freed, nothing was done
 *   since 0.1 */
MC_EXPORT int mc_p2p_close(struct mc_p2p *store, uint64_t timeout_ns);

/* ---- offering --------------------------------------------------------------------------------- */

struct mc_p2p_register_options {
	size_t size;
	uint64_t shard_size;    /* bytes; 0: total / 64, but at least 1 MiB and at most 64 MiB */
	const char *location;   /* of the ranges, as for mc_memory_register; NULL: "*" */
	const void *attachment; /* a few bytes that belong to the object and travel with it, such as a list of files */
	size_t attachment_len;  /* <= MC_P2P_ATTACHMENT_MAX */
	bool (*stop)(void *arg); /* true: hash no further; asked every few ms by any thread of the store; NULL: never */
	void *stop_arg;
};

/* Offer an object.  No byte is moved, but all are read once to be hashed.  The memory may be changed or freed only
 * after mc_p2p_unregister.  The same object may be registered by several engines.  [any]; blocks
 *   name      1 .. MC_P2P_NAME_MAX bytes of UTF-8 without control characters
 *   ranges    array of nr, copied; 1 <= nr <= MC_P2P_RANGES_MAX
 *   options   NULL: defaults
 *   returns   0; -EEXIST: another object has this name (err names both owners), or this store has it already;
 *             -EINVAL; -ENOMEM; -ETIMEDOUT; -ECANCELED: stop said so; what registering the memory or the metadata
 *             gave
 *   since 0.1 */
MC_EXPORT int mc_p2p_register(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
			      const struct mc_p2p_register_options *options, uint64_t timeout_ns, struct mc_error *err);

/* Take it back: nobody is served any more, and nobody touches the memory after the return.  The last engine that
 * has the object takes its record along.  [any]; blocks
 *   returns   0; -ENOENT: not registered by this store; -EBUSY: another call is at work on it, nothing was done;
 *             -ETIMEDOUT: metadata did not answer in time (the memory is free all the same, the key ends with the
 *             engine's lease)
 *   since 0.1 */
MC_EXPORT int mc_p2p_unregister(struct mc_p2p *store, const char *name, uint64_t timeout_ns, struct mc_error *err);

/* ---- looking -------------------------------------------------------------------------------- */

/* What the record of an object says; strings borrowed during the call. */
struct mc_p2p_entry {
	size_t size;
	const char *name;
	uint64_t len; /* bytes */
	uint64_t shard_size;
	uint32_t nr_shards;
	uint32_t attachment_len;
	const char *root;       /* 32 hex digits */
	const char *created_by; /* engine */
	const char *created;    /* RFC 3339, UTC */
	uint32_t nr_sources;    /* engines that offer it; one that died counts until its lease is over */
};

/* Call each for every object whose name begins with prefix ("": all), until it returns non-zero.  Records that
 * cannot be read are told to the log and passed over.  [any]; blocks
 *   returns   how many were told; -ETIMEDOUT, ...
 *   since 0.1 */
MC_EXPORT int mc_p2p_list(struct mc_p2p *store, const char *prefix, uint64_t timeout_ns,
			  int (*each)(void *ctx, const struct mc_p2p_entry *entry), void *ctx, struct mc_error *err);

enum mc_p2p_role { MC_P2P_SEED = 0, MC_P2P_REPLICA = 1 };

/* An engine that offers an object. */
struct mc_p2p_source {
	size_t size;
	const char *engine;
	const char *rack; /* may be empty */
	uint64_t generation;
	enum mc_p2p_role role;
	bool same_host;
	bool answers;     /* it could be asked what it has; else have is 0 */
	uint32_t have;    /* shards that it has */
};

/* What there is to know of an object; freed as one by mc_p2p_info_free. */
struct mc_p2p_info {
	size_t size;
	const char *name;
	uint64_t len;
	uint64_t shard_size;
	uint32_t nr_shards;
	char root[MC_P2P_ROOT_SIZE];
	const char *created_by, *created;
	const uint64_t *ranges; /* how the first owner has cut it: lengths of the first 2000, which say where files or
				 * tensors begin; getters never need them */
	size_t nr_ranges;
	const void *attachment; /* verified; NULL: none, or no source answers */
	size_t attachment_len;
	const struct mc_p2p_source *sources;
	size_t nr_sources;
};

/* Everything about one object: its record, and what the engines that offer it say.  [any]; blocks
 *   returns   0; -ENOENT: no such object; -EBADMSG: the record is broken; -ETIMEDOUT
 *   since 0.1 */
MC_EXPORT int mc_p2p_stat(struct mc_p2p *store, const char *name, uint64_t timeout_ns, struct mc_p2p_info **ret_info,
			  struct mc_error *err);
MC_EXPORT void mc_p2p_info_free(struct mc_p2p_info *info); /* accepts NULL */

/* ---- getting -------------------------------------------------------------------------------- */

/* Shards that lie in the ranges already, from a get that was interrupted, are verified and kept. */
#define MC_P2P_RESUME (1u << 0)

struct mc_p2p_get_options {
	size_t size;
	uint32_t flags;       /* MC_P2P_* */
	const char *location; /* of the ranges; NULL: "*" */
};

/* Copy an object into ranges, whose lengths add up to its size, verify it, and serve it from then on (what has
 * arrived already while the rest comes).  The memory may be changed or freed only after mc_p2p_delete_replica, or
 * when the call has failed.  What a failed get leaves in the ranges is undefined but for MC_P2P_RESUME.  [any]; blocks
 *   returns   0: all bytes are there and verified; -ENOENT: no such object, or it was removed meanwhile; -EINVAL: the lengths do not add up, or
 *             ranges overlap; -EEXIST: this store has the object; -ENODATA: nobody offers what is lacking (err says
 *             how much, and why sources were dropped); -EBADMSG: nobody has it intact; -ETIMEDOUT; -ECANCELED
 *   since 0.1 */
MC_EXPORT int mc_p2p_get_replica(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
				 const struct mc_p2p_get_options *options, uint64_t timeout_ns, struct mc_error *err);

/* Serve it no more; as mc_p2p_unregister otherwise.  [any]; blocks
 *   returns   0; -ENOENT: this store did not get it; -EBUSY: the get goes on; -ETIMEDOUT
 *   since 0.1 */
MC_EXPORT int mc_p2p_delete_replica(struct mc_p2p *store, const char *name, uint64_t timeout_ns, struct mc_error *err);

/* The same without waiting.  What can be refused at once is; the rest is in mc_p2p_get_wait's answer.  [any]
 *   timeout_ns  for the whole get
 *   ret_get     the caller's, to be freed by mc_p2p_get_free
 *   since 0.1 */
MC_EXPORT int mc_p2p_get_start(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
			       const struct mc_p2p_get_options *options, uint64_t timeout_ns,
			       struct mc_p2p_get **ret_get, struct mc_error *err);

/* A descriptor that becomes readable when the get is over.  The get's.  since 0.1 */
MC_EXPORT int mc_p2p_get_fd(const struct mc_p2p_get *get);

enum mc_p2p_state {
	MC_P2P_LOOKING = 0, /* the record and a first source */
	MC_P2P_CHECKING,    /* what is there already (MC_P2P_RESUME) */
	MC_P2P_GETTING,
	MC_P2P_DONE,
	MC_P2P_FAILED
};

struct mc_p2p_progress {
	size_t size; /* set by the caller */
	enum mc_p2p_state state;
	int status;             /* 0, or -errno when it has failed */
	uint64_t len;           /* of the object; 0 while it is not known */
	uint64_t done_len;      /* verified bytes, resumed_len included */
	uint64_t resumed_len;   /* that were there already */
	uint64_t moved_len;     /* bytes that came over the wire, in vain or not */
	uint64_t elapsed_ns;    /* stands still when it is over */
	uint32_t nr_shards, done_shards;
	uint32_t nr_sources;    /* known and usable now */
	uint32_t dropped;       /* sources that failed or left */
	uint32_t corrupt;       /* shards that did not verify */
};

/* How far it is.  [any], never blocks.  since 0.1 */
MC_EXPORT void mc_p2p_get_progress(const struct mc_p2p_get *get, struct mc_p2p_progress *progress);

/* Wait until it is over.
 *   returns   what mc_p2p_get_replica would; -EAGAIN: it goes on after timeout_ns (0 polls)
 *   since 0.1 */
MC_EXPORT int mc_p2p_get_wait(struct mc_p2p_get *get, uint64_t timeout_ns, struct mc_error *err);

/* Ask for an early end; mc_p2p_get_wait says when it has come: within a second or so, also while a source is silent;
 * while the metadata service is, within 5 s.  [any], never blocks.  since 0.1 */
MC_EXPORT void mc_p2p_get_cancel(struct mc_p2p_get *get);

/* Cancel it if it goes on, wait for its end, free it.  What has been got stays and is served.  Accepts NULL.  since 0.1 */
MC_EXPORT void mc_p2p_get_free(struct mc_p2p_get *get);

/* ---- removing ------------------------------------------------------------------------------- */

/* Remove an object for all: its record goes, and the engines that offer it are told to serve it no more.  Their
 * memory stays theirs, until they unregister.  [any]; blocks
 *   ret_told  engines that have answered; may be NULL
 *   returns   0; -ENOENT: no such object; -ETIMEDOUT
 *   since 0.1 */
MC_EXPORT int mc_p2p_remove(struct mc_p2p *store, const char *name, uint64_t timeout_ns, uint32_t *ret_told,
			    struct mc_error *err);

#ifdef __cplusplus
}
#endif
#endif
