/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a metadata plugin implements: a small key-value service with leases,
 * compare-and-swap and prefix watches.  Keys are UTF-8 paths such as
 * "mooncake/<cluster>/engine/<name>", at most 1023 bytes; values at most 1 MiB.
 *
 * Every operation is [helper]: it may block until deadline_ns (monotonic), then
 * returns -ETIMEDOUT; two may run at once on one instance.  Descriptors and
 * timers that the plugin gives to the host fire on [control], where it must not
 * block: long work goes through host->run_blocking.
 */
#ifndef MOONCAKE_METADATA_H
#define MOONCAKE_METADATA_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MC_KV_KEY_MAX 1023
#define MC_KV_VALUE_MAX (1u << 20)

/* Called for each key found; kv and what it points to are borrowed.  Non-zero stops the list. */
typedef int (*mc_kv_emit)(void *ctx, const struct mc_kv *kv);

struct mc_metadata_ops {
	size_t size;
	size_t instance_size, watch_size; /* private areas, zeroed by the host */

	/* Open the service at args->device (a URL).  -ECONNREFUSED, -ETIMEDOUT, -EINVAL, ...: err
	 * names the URL.  [helper] */
	int (*open)(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_error *err);
	/* Leases that were not revoked end by themselves.  [helper] */
	void (*close)(void *inst);

	/* Emit the key, or -ENOENT. */
	int (*get)(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		   struct mc_error *err);
	/* Write kv->key, kv->value, kv->len, kv->lease; the new revision goes to *ret_revision,
	 * which may be NULL.  -ENOENT: no such lease. */
	int (*put)(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
		   struct mc_error *err);
	/* Write only if the key's revision is expect_rev (0: it must not exist).  -EEXIST: it
	 * exists, -ESTALE: another revision, or gone. */
	int (*cas)(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
		   uint64_t *ret_revision, struct mc_error *err);
	/* expect_rev 0: whatever its revision.  -ENOENT, -ESTALE. */
	int (*del)(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
		   struct mc_error *err);
	/* Emit every living key with the prefix, in byte order of keys. */
	int (*list)(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		    struct mc_error *err);

	/* From the return on, report changes below prefix through host->kv_event(host, watch, kv):
	 * each key's latest state at least once, in order per key; steps between may be left out.
	 * Keys that existed before are not reported. */
	int (*watch)(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		     struct mc_error *err);
	/* After its return no event arrives for it. */
	void (*unwatch)(void *inst, void *watch);

	/* A lease keeps the keys written with it alive while it is kept alive more often than
	 * ttl_ns; then they vanish, for every reader.  -ENOENT from keepalive: it has ended, its
	 * keys are gone, grant a new one. */
	int (*lease_grant)(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
			   struct mc_error *err);
	int (*lease_keepalive)(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);
	int (*lease_revoke)(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);

	/* New values of reloadable options; all or nothing. */
	int (*reconfigure)(void *inst, const struct mc_value *options, struct mc_error *err);
};

#ifdef __cplusplus
}
#endif
#endif
