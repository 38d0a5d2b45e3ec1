/* SPDX-License-Identifier: Apache-2.0 */
/* A metadata plugin with the required operations only: no watch, no leases. */
#include <errno.h>

#include <mooncake/metadata.h>

static int min_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_error *err)
{
	return 0;
}

static void min_close(void *inst)
{
}

static int min_get(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		   struct mc_error *err)
{
	return -ENOENT;
}

static int min_put(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
		   struct mc_error *err)
{
	return 0;
}

static int min_cas(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
		   uint64_t *ret_revision, struct mc_error *err)
{
	return 0;
}

static int min_del(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
		   struct mc_error *err)
{
	return 0;
}

static int min_list(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		    struct mc_error *err)
{
	return 0;
}

static const struct mc_metadata_ops min_ops = {
	.size = sizeof min_ops,
	.open = min_open,
	.close = min_close,
	.get = min_get,
	.put = min_put,
	.cas = min_cas,
	.del = min_del,
	.list = min_list,
};

static const char *const schemes[] = {"min", NULL};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_METADATA),
	.name = "min",
	.version = "1",
	.summary = "keeps nothing",
	.ops = &min_ops,
	.schemes = schemes,
};
