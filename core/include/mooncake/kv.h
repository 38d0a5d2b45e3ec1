/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small values that applications keep in the engine's metadata service, for all
 * engines of the cluster to read: below "mooncake/<cluster>/app/", whichever
 * service `metadata_server` names.  Leave the data itself in registered memory.
 *
 * Every call waits for the service, at most timeout_ns, and takes turns with the
 * others of the engine; so none may be made in a callback (-EDEADLK).
 */
#ifndef MOONCAKE_KV_H
#define MOONCAKE_KV_H

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A key is UTF-8 without control characters, 1 to so many bytes, '/' between its parts.  Applications
 * share one space: begin with a name of your own. */
#define MC_KV_NAME_MAX 767
/* The longest value.  One of a few hundred bytes is what the services are made for. */
#define MC_KV_DATA_MAX (1u << 20)

struct mc_engine;

/* mc_kv_write, mc_kv_swap: the key vanishes with this engine: when it closes, or when it has not been
 * heard of for `lease_ttl`.  Until then it is kept: if the service has forgotten it, or the engine's
 * lease had ended, it is written again, under a new revision, unless somebody else has written it
 * since.  Not if it alone was removed: whoever did so meant it. */
#define MC_KV_LEASED (1u << 0)

/* A key as it was when the service was asked. */
struct mc_kv_entry {
	size_t size;
	const char *key;   /* NUL-terminated */
	const void *value; /* of any alignment */
	size_t len;
	uint64_t revision; /* changes with each write; never 0 */
};

/* The errors of all: 0 or more is success; -ETIMEDOUT (a write or remove may have happened yet),
 * -ECONNREFUSED and what else befalls the service, whose URL err then names; -EINVAL, -ENAMETOOLONG (a
 * key), -EMSGSIZE (a value), -EDEADLK (in a callback), -ENOTCONN (the engine has no metadata service),
 * -EPERM (after fork), -ENOMEM. */

/* Read one key.
 *   each      called once, before the return, on this thread, free to call anything; the entry is
 *             borrowed until it returns.  What it returns below 0 is returned, err then being its affair
 *   returns   0; -ENOENT: there is no such key
 *   since 0.1 */
MC_EXPORT int mc_kv_read(struct mc_engine *engine, const char *key, uint64_t timeout_ns,
			 int (*each)(void *ctx, const struct mc_kv_entry *entry), void *ctx,
			 struct mc_error *err);

/* Write a key, whether it exists or not.  Of several threads that write one key at once any is last.
 *   value         copied; NULL if len is 0
 *   flags         MC_KV_LEASED, or 0: the key stays until somebody removes it
 *   ret_revision  may be NULL
 *   since 0.1 */
MC_EXPORT int mc_kv_write(struct mc_engine *engine, const char *key, const void *value, size_t len,
			  uint32_t flags, uint64_t timeout_ns, uint64_t *ret_revision,
			  struct mc_error *err);

/* Write a key only if it has this revision; 0: only if it does not exist.
 *   returns   0; -EEXIST: expect_revision is 0 and it exists; -ESTALE: it has another revision, or is
 *             gone.  After -ETIMEDOUT read it to know
 *   since 0.1 */
MC_EXPORT int mc_kv_swap(struct mc_engine *engine, const char *key, const void *value, size_t len,
			 uint64_t expect_revision, uint32_t flags, uint64_t timeout_ns,
			 uint64_t *ret_revision, struct mc_error *err);

/* Remove a key.  One that this engine has leased is not written again from here on, even if the service
 * does not answer; it then ends with the lease at the latest.
 *   expect_revision  0: whatever it is
 *   returns   0; -ENOENT: there is no such key; -ESTALE: it has another revision, nothing was done
 *   since 0.1 */
MC_EXPORT int mc_kv_remove(struct mc_engine *engine, const char *key, uint64_t expect_revision,
			   uint64_t timeout_ns, struct mc_error *err);

/* Call each with every key that begins with prefix ("": all), in byte order, when all have been read:
 * as for mc_kv_read.  One that returns non-zero is the last.
 *   returns   how many each was called with; -errno, of each too
 *   since 0.1 */
MC_EXPORT int mc_kv_each(struct mc_engine *engine, const char *prefix, uint64_t timeout_ns,
			 int (*each)(void *ctx, const struct mc_kv_entry *entry), void *ctx,
			 struct mc_error *err);

#ifdef __cplusplus
}
#endif
#endif
