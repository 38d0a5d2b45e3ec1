/* SPDX-License-Identifier: Apache-2.0 */
/* Test-only transport `keys` (see keys.h): descriptor, options, open and close, registration. */
#include "keys.h"

#include <core/util/bytes.h>
#include <core/util/check.h>

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { OPT_KINDS, OPT_FAIL_NTH, OPT_FAIL_SCOPE, OPT_LATENCY, OPT_BANDWIDTH, OPT_DELAY_WRITES,
       OPT_DEPTH, OPT_MAX_SLICE, OPT_MAX_INLINE, OPT_MAX_REG, OPT_ALIGNMENT, OPT_OWN_THREAD,
       OPT_OFFLOAD_FROM, OPT_COMPLETE_ANY, OPT_TRIGGER };

static const char *const kind_words[] = { "both", "cpu", "fake", NULL };
static const char *const scope_words[] = { "request", "peer", "nic", "transport", NULL };
static const struct mc_option options[] = {
	[OPT_KINDS] = { .name = "kinds", .type = MC_OPT_ENUM, .def = "both", .choices = kind_words,
			.doc = "Memory kinds that the device reaches, at both ends." },
	[OPT_FAIL_NTH] = { .name = "fail_nth", .type = MC_OPT_INT, .flags = MC_OPT_RELOADABLE, .def = "0",
			   .max = INT64_MAX, .doc = "This slice of the lane, counted from 1, fails." },
	[OPT_FAIL_SCOPE] = { .name = "fail_scope", .type = MC_OPT_ENUM, .def = "peer",
			     .choices = scope_words, .doc = "The scope of that failure." },
	[OPT_LATENCY] = { .name = "latency", .type = MC_OPT_DURATION, .flags = MC_OPT_RELOADABLE,
			  .def = "0", .max = INT64_MAX, .doc = "Each slice takes this long." },
	[OPT_BANDWIDTH] = { .name = "bandwidth", .type = MC_OPT_SIZE, .flags = MC_OPT_RELOADABLE,
			    .def = "0", .max = INT64_MAX, .doc = "Bytes per second; 0: as fast as it goes." },
	[OPT_DELAY_WRITES] = { .name = "delay_writes", .type = MC_OPT_BOOL, .def = "true",
			       .doc = "Writes up to 4 KiB stay invisible at the target until a read or a flush." },
	[OPT_DEPTH] = { .name = "depth", .type = MC_OPT_INT, .def = "64", .min = 1, .max = 65536,
			.doc = "Slices in flight per peer; further ones are answered with -EAGAIN." },
	[OPT_MAX_SLICE] = { .name = "max_slice", .type = MC_OPT_SIZE, .def = "16MiB", .min = 1,
			    .max = INT64_MAX, .doc = "Largest slice." },
	[OPT_MAX_INLINE] = { .name = "max_inline", .type = MC_OPT_SIZE, .def = "64", .max = DELAY_MAX,
			     .doc = "Writes up to this finish inside submit." },
	[OPT_MAX_REG] = { .name = "max_reg", .type = MC_OPT_SIZE, .def = "0", .max = INT64_MAX,
			  .doc = "Largest registration; 0: no limit." },
	[OPT_ALIGNMENT] = { .name = "alignment", .type = MC_OPT_INT, .def = "1", .min = 1, .max = 4096,
			    .doc = "Of addresses and lengths; a power of two." },
	[OPT_OWN_THREAD] = { .name = "own_thread", .type = MC_OPT_BOOL, .def = "false",
			     .doc = "Ask for calls from one thread only, and check it." },
	[OPT_OFFLOAD_FROM] = { .name = "offload_from", .type = MC_OPT_SIZE, .def = "4MiB", .max = INT64_MAX,
			       .doc = "Slices of this size or more are copied on a helper thread." },
	[OPT_COMPLETE_ANY] = { .name = "complete_any", .type = MC_OPT_BOOL, .def = "true",
			       .doc = "Helper threads complete slices themselves." },
	[OPT_TRIGGER] = { .name = "trigger", .type = MC_OPT_STRING, .def = "",
			  .doc = "A file that says up, down or gone: the state of the device." },
	{ .name = NULL },
};

static const char *const both_kinds[] = { "cpu", "fake", "pool", NULL };
static const char *const cpu_kinds[] = { "cpu", "pool", NULL };
static const char *const fake_kinds[] = { "fake", NULL };

/* ---- devices --------------------------------------------------------------------------------- */

static int keys_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx)
{
	int r = found(ctx, KEYS_NAME "0");

	return r ? r : found(ctx, KEYS_NAME "1");
}

static int keys_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
		      struct mc_error *err)
{
	struct mc_device_info i = { .size = info->size, .numa_node = -1, .state = MC_STATE_ACTIVE,
				    .speed = UINT64_C(10000000000) };

	if (strncmp(device, KEYS_NAME, strlen(KEYS_NAME)) || strlen(device) > MC_DEVICE_NAME_MAX)
		return mc_fail(err, -ENODEV, "device '%s': not one of " KEYS_NAME "*: name it " KEYS_NAME "0",
			       device);
	memcpy(i.name, device, strlen(device) + 1);
	snprintf(i.address, sizeof i.address, "pid %d", (int)getpid());
	if (!strcmp(device, KEYS_NAME "down")) {
		i.state = MC_STATE_DOWN;
		snprintf(i.remedy, sizeof i.remedy, "this device is always down: use " KEYS_NAME "0");
	}
	memcpy(info, &i, MC_MIN(info->size, sizeof i));
	return 0;
}

/* ---- registration ------------------------------------------------------------------------------ */

static uint64_t draw_key(struct keys *k)
{
	uint64_t key = 0;

	while (!key)
		k->host->random(k->host, &key, sizeof key);
	return key;
}

static int key_add(struct keys *k, struct keys_region *r, uint32_t access, struct mc_error *err)
{
	struct key_entry *e;
	uint64_t none;

	for (r->idx = 0; r->idx < NR_KEYS; r->idx++) {
		e = &k->device->keys[r->idx];
		none = 0;
		r->key = 0;
		/* 1 marks a place that is being filled: no remote has that key. */
		if (atomic_compare_exchange_strong(&e->key, &none, 1))
			break;
	}
	if (r->idx == NR_KEYS)
		return mc_fail(err, -ENOSPC, "%s: all %d keys are in use: unregister something",
			       k->host->instance, NR_KEYS);
	r->key = draw_key(k) | 2;
	atomic_store(&e->base, r->base);
	atomic_store(&e->len, r->len);
	atomic_store(&e->access, access);
	atomic_store(&e->alias, (uintptr_t)r->alias);
	atomic_store(&e->key, r->key);
	return 0;
}

/* Once no copy is under way that may have seen the key, none will come.  A process that died in
 * the middle of one leaves the count up: it copies no more, so the wait has an end. */
static void key_drop(struct keys *k, struct keys_region *r)
{
	struct key_entry *e = &k->device->keys[r->idx];
	uint64_t until = k->host->now_ns(k->host) + MC_SEC;

	atomic_store(&e->key, 1);
	for (int i = 0; atomic_load(&k->device->users) && i < 1000000; i++) {
		if (k->host->now_ns(k->host) > until)
			break;
		sched_yield();
	}
	atomic_store(&e->key, 0);
}

static int map_dmabuf(struct keys_region *r, const struct mc_mem_desc *d, struct mc_error *err)
{
	uint64_t skew = d->dmabuf_offset % 4096;
	unsigned char *p;

	if (d->dmabuf_fd < 0)
		return mc_fail(err, -EOPNOTSUPP, "memory of kind '%s' needs a dma-buf and has none", d->kind);
	p = mmap(NULL, d->len + skew, PROT_READ | PROT_WRITE, MAP_SHARED, d->dmabuf_fd,
		 (off_t)(d->dmabuf_offset - skew));
	if (p == MAP_FAILED)
		return mc_fail(err, -errno, "cannot map a dma-buf of %llu bytes: %s",
			       (unsigned long long)d->len, strerror(errno));
	r->alias = p + skew;
	r->mapped = true;
	return 0;
}

static void unmap_dmabuf(struct keys_region *r)
{
	uint64_t skew = (uintptr_t)r->alias % 4096;

	if (r->mapped)
		munmap(r->alias - skew, r->len + skew);
	r->mapped = false;
}

static int keys_mem_reg(void *inst, void *region, const struct mc_mem_desc *d, struct mc_error *err)
{
	struct keys *k = inst;
	struct keys_region *r = region;
	int ret;

	if (k->max_reg && d->len > k->max_reg)
		return mc_fail(err, -EFBIG, "%s: registration of %llu bytes: at most %llu",
			       k->host->instance, (unsigned long long)d->len, (unsigned long long)k->max_reg);
	r->base = (uintptr_t)d->addr;
	r->len = d->len;
	r->alias = d->addr;
	if (strcmp(d->kind, "cpu") && strcmp(d->kind, "pool")) {
		ret = map_dmabuf(r, d, err);
		if (ret < 0)
			return ret;
	}
	ret = key_add(k, r, d->access, err);
	if (ret < 0)
		unmap_dmabuf(r);
	else
		mc_gauge_add(k->nr_regions, 1);
	return ret;
}

static void keys_mem_unreg(void *inst, void *region)
{
	struct keys *k = inst;
	struct keys_region *r = region;

	key_drop(k, r);
	unmap_dmabuf(r);
	mc_gauge_add(k->nr_regions, -1);
}

/* Kind "pool": the device's own memory, which our CPU can touch, and no memory plugin knows. */
static int keys_mem_alloc(void *inst, void *region, struct mc_mem_desc *d, struct mc_error *err)
{
	struct keys *k = inst;
	struct keys_region *r = region;
	int ret;

	d->len = mc_round_up(d->len, 4096);
	r->owned = k->host->alloc(k->host, d->len);
	if (!r->owned)
		return mc_fail(err, -ENOMEM, "%s: no %llu bytes left", k->host->instance,
			       (unsigned long long)d->len);
	d->addr = r->owned;
	d->kind = "pool";
	d->ordinal = MC_MAX(d->ordinal, 0);
	ret = keys_mem_reg(inst, region, d, err);
	if (ret < 0)
		k->host->free(k->host, r->owned, d->len);
	else
		atomic_fetch_add(&k->nr_owned, 1);
	return ret;
}

static void keys_mem_free(void *inst, void *region, struct mc_mem_desc *d)
{
	struct keys *k = inst;
	struct keys_region *r = region;

	keys_mem_unreg(inst, region);
	atomic_fetch_sub(&k->nr_owned, 1);
	k->host->free(k->host, r->owned, r->len);
}

/* The memory is coherent: this only counts. */
static int keys_mem_sync(void *inst, void *region, void *addr, uint64_t len, uint32_t how)
{
	struct keys *k = inst;

	atomic_fetch_add(&k->nr_synced, how == MC_SYNC_PUBLISH || how == MC_SYNC_REFRESH);
	return 0;
}

static void keys_mem_explain(void *inst, const void *region, char *text, size_t cap)
{
	snprintf(text, cap, "by key");
}

/* The blob: pid, index, key, base, length, alias; little-endian. */
static int keys_mem_export(void *inst, void *region, void *blob, size_t cap)
{
	const struct keys_region *r = region;
	unsigned char *b = blob;

	if (cap < BLOB_LEN)
		return -ENOSPC;
	memset(b, 0, BLOB_LEN);
	mc_put32(b, (uint32_t)getpid());
	mc_put32(b + 4, r->idx);
	mc_put64(b + 8, r->key);
	mc_put64(b + 16, r->base);
	mc_put64(b + 24, r->len);
	return BLOB_LEN;
}

/* ---- the trigger file ------------------------------------------------------------------------------- */

static int read_trigger(const char *path)
{
	char word[8] = "";
	FILE *f = fopen(path, "re");

	if (!f)
		return 0;
	if (!fgets(word, sizeof word, f))
		word[0] = 0;
	fclose(f);
	return !strncmp(word, "up", 2) ? MC_DEVICE_UP : !strncmp(word, "down", 4) ? MC_DEVICE_DOWN :
	       !strncmp(word, "gone", 4) ? MC_DEVICE_GONE : 0;
}

static void look_at_trigger(struct mc_timer *t, uint64_t now_ns)
{
	struct keys *k = t->user;
	int event = read_trigger(k->trigger);

	if (event && event != k->last_trigger)
		k->host->device_event(k->host, event, "the trigger file says so");
	k->last_trigger = event ? event : k->last_trigger;
	k->host->timer_set(k->host, t, now_ns + 10 * MC_MSEC);
}

/* ---- open and close ------------------------------------------------------------------------------------ */

static void read_options(struct keys *k, const struct mc_value *v)
{
	k->fail_nth = v[OPT_FAIL_NTH].i;
	k->latency_ns = v[OPT_LATENCY].i;
	k->bandwidth = v[OPT_BANDWIDTH].i;
}

static int keys_reconfigure(void *inst, const struct mc_value *values, struct mc_error *err)
{
	read_options(inst, values);
	return 0;
}

static void fill_caps(const struct keys *k, const struct mc_value *v, struct mc_transport_caps *caps)
{
	const char *const *kinds = v[OPT_KINDS].i2 == 1 ? cpu_kinds : v[OPT_KINDS].i2 == 2 ? fake_kinds : both_kinds;
	struct mc_transport_caps c = {
		.size = caps->size,
		.flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_CPU_COPY | MC_CAP_TRUST |
			 (v[OPT_OWN_THREAD].b ? MC_CAP_OWN_THREAD : 0),
		.fence = MC_FENCE_BOTH,
		.visibility = k->delay_writes ? MC_VISIBLE_AFTER_FLUSH : MC_VISIBLE_AT_COMPLETION,
		.alignment = (uint32_t)v[OPT_ALIGNMENT].i,
		.local_kinds = kinds,
		.remote_kinds = kinds,
		.max_slice = k->max_slice,
		.pref_slice = MC_MIN(k->max_slice, 1u << 20),
		.max_inline = k->max_inline,
		.max_reg = k->max_reg,
		.bandwidth = k->bandwidth ? (uint64_t)k->bandwidth : UINT64_C(5000000000),
		.latency_ns = k->latency_ns ? (uint64_t)k->latency_ns : 1000,
		.max_inflight = (uint32_t)k->depth,
	};

	memcpy(caps, &c, MC_MIN(caps->size, sizeof c));
}

static int open_device(struct keys *k, struct mc_error *err)
{
	k->device_fd = memfd_create("mooncake-keys", MFD_CLOEXEC);
	if (k->device_fd < 0 || ftruncate(k->device_fd, sizeof *k->device) < 0)
		return mc_fail(err, -errno, "%s: no shared page: %s", k->host->instance, strerror(errno));
	k->device = mmap(NULL, sizeof *k->device, PROT_READ | PROT_WRITE, MAP_SHARED, k->device_fd, 0);
	if (k->device == MAP_FAILED) {
		k->device = NULL;
		return mc_fail(err, -errno, "%s: no shared page: %s", k->host->instance, strerror(errno));
	}
	return 0;
}

static void close_device(struct keys *k)
{
	if (k->device)
		munmap(k->device, sizeof *k->device);
	if (k->device_fd >= 0)
		close(k->device_fd);
}

static int keys_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_transport_caps *caps, struct mc_error *err)
{
	struct keys *k = inst;
	const struct mc_value *v = args->options;
	int r = 0;

	k->host = host;
	k->lane0 = args->lane0 ? args->lane0 : k;
	k->device_fd = -1;
	if (!strcmp(args->device, KEYS_NAME "down"))
		return mc_fail(err, -ENETDOWN, "device '" KEYS_NAME "down' is always down: use " KEYS_NAME "0");
	read_options(k, v);
	k->fail_scope = MC_SCOPE_REQUEST + v[OPT_FAIL_SCOPE].i2;
	k->delay_writes = v[OPT_DELAY_WRITES].b;
	k->any_thread = v[OPT_COMPLETE_ANY].b;
	k->depth = v[OPT_DEPTH].i;
	k->max_inline = (size_t)v[OPT_MAX_INLINE].i;
	k->max_reg = (uint64_t)v[OPT_MAX_REG].i;
	k->alignment = (uint64_t)v[OPT_ALIGNMENT].i;
	k->offload_from = v[OPT_OFFLOAD_FROM].i;
	k->max_slice = (uint64_t)v[OPT_MAX_SLICE].i / k->alignment * k->alignment;
	if (!k->max_slice)
		return mc_fail(err, -EINVAL, "%s: max_slice is smaller than alignment: make it a multiple",
			       host->instance);
	fill_caps(k, v, caps);
	if (k->lane0 == k)
		r = open_device(k, err);
	if (r == 0 && (r = keys_queue_init(k)) < 0)
		mc_fail(err, r, "%s: no doorbell: %s", host->instance, strerror(-r));
	if (r < 0) {
		close_device(k);
		return r;
	}
	k->trigger = v[OPT_TRIGGER].s[0] ? strdup(v[OPT_TRIGGER].s) : NULL;
	k->nr_reads = host->counter(host, "keys_reads", "Reads done.");
	k->nr_writes = host->counter(host, "keys_writes", "Writes done.");
	k->nr_bytes = host->counter(host, "keys_bytes", "Bytes moved.");
	k->nr_flushes = host->counter(host, "keys_flushes", "Flushing reads done.");
	k->nr_fences = host->counter(host, "keys_fences", "Fences answered, at either end.");
	k->nr_regions = mc_gauge_new(host, "keys_regions", "Regions that are registered.");
	k->nr_offloads = host->counter(host, "keys_offloads", "Slices that a helper thread copied.");
	keys_peer_init(k);
	k->trigger_timer = (struct mc_timer){ .size = sizeof k->trigger_timer, .fire = look_at_trigger, .user = k };
	if (k->trigger)
		host->timer_set(host, &k->trigger_timer, host->now_ns(host) + 10 * MC_MSEC);
	/* Another process of the same user may copy from and to us, whatever Yama says. */
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	keys_kv_open(k, args);
	return 0;
}

static void keys_stop(void *inst)
{
	struct keys *k = inst;

	k->stopping = true;
	k->host->timer_set(k->host, &k->trigger_timer, 0);
	keys_kv_stop(k);
}

static void keys_close(void *inst)
{
	struct keys *k = inst;

	keys_queue_fini(k);
	close_device(k);
	free((char *)(uintptr_t)k->trigger);
}

static void keys_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
	struct keys *k = inst;

	emit(ctx, "keys_queued", k->nr_queued);
	emit(ctx, "keys_owned", atomic_load(&k->nr_owned));
	emit(ctx, "keys_synced", atomic_load(&k->nr_synced));
	emit(ctx, "keys_lease", mc_lease_left(k->host) / MC_MSEC);
}

static const struct mc_transport_ops keys_ops = {
	.size = sizeof keys_ops,
	.instance_size = sizeof(struct keys),
	.peer_size = sizeof(struct keys_peer),
	.region_size = sizeof(struct keys_region),
	.remote_size = sizeof(struct keys_remote),
	.slice_size = sizeof(struct keys_slice),
	.enumerate = keys_enumerate,
	.probe = keys_probe,
	.open = keys_open,
	.reconfigure = keys_reconfigure,
	.stop = keys_stop,
	.close = keys_close,
	.mem_alloc = keys_mem_alloc,
	.mem_free = keys_mem_free,
	.mem_reg = keys_mem_reg,
	.mem_unreg = keys_mem_unreg,
	.mem_export = keys_mem_export,
	.mem_import = keys_import,
	.mem_release = keys_release,
	.peer_open = keys_peer_open,
	.peer_accept = keys_peer_accept,
	.peer_msg = keys_peer_msg,
	.peer_close = keys_peer_close,
	.submit = keys_submit,
	.flush = keys_flush,
	.progress = keys_progress,
	.arm = keys_arm,
	.cancel = keys_cancel,
	.fence = keys_fence,
	.counters = keys_counters,
	.mem_sync = keys_mem_sync,
	.mem_explain = keys_mem_explain,
};

static const char *const claims[] = { KEYS_NAME "*", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = KEYS_NAME,
	.version = "0.1.0",
	.summary = "tests only: keys, fences and one-sided access as on rdma, between processes of a host",
	.ops = &keys_ops,
	.options = options,
	.flags = KEYS_FLAGS,
	.wire = KEYS_NAME,
	.wire_min = 1,
	.wire_max = 1,
	.memory = both_kinds,
	.claims = claims,
};
