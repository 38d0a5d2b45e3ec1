/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every slot of the plugin ABI is called and has its effect: the tables of
 * transports, memory kinds and the host are laid over with counting ones, then
 * `keys`, `tcp` and `fake` go through their lives over the fake host.  A slot that
 * nobody called fails the test; a new slot does not compile until it is listed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/check/fake-host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOUND (10 * MC_SEC)
#define SLOTS_HOST
#define SLOTS_TRANSPORT
#define SLOTS_MEMORY

/* ---- one number per slot ----------------------------------------------------------------------- */

enum slot {
#define LOG SLOT_host_log,
#define SLOT(table, ret, name, params, args) SLOT_##table##_##name,
#define VOID(table, name, params, args) SLOT_##table##_##name,
#include "abi-slots.h"
#undef LOG
#undef SLOT
#undef VOID
	NR_SLOTS
};

static const char *const slot_names[] = {
#define LOG "host.log",
#define SLOT(table, ret, name, params, args) #table "." #name,
#define VOID(table, name, params, args) #table "." #name,
#include "abi-slots.h"
#undef LOG
#undef SLOT
#undef VOID
};

#define NR_FUNCTIONS(type, first) ((sizeof(struct type) - offsetof(struct type, first)) / sizeof(void (*)(void)))
_Static_assert(NR_SLOTS == NR_FUNCTIONS(mc_host, log) + NR_FUNCTIONS(mc_transport_ops, enumerate) +
			   NR_FUNCTIONS(mc_memory_ops, open),
	       "abi-slots.h lacks a slot of the headers");

static unsigned hits[NR_SLOTS]; /* atomic: services come from any thread */

/* ---- the counting tables ------------------------------------------------------------------------ */

static struct mc_host real_host;
static struct mc_transport_ops real_transport;
static struct mc_memory_ops real_memory;

#define HIT(table, name) __atomic_fetch_add(&hits[SLOT_##table##_##name], 1, __ATOMIC_RELAXED)

static void spy_host_log(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
static void spy_host_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	HIT(host, log);
	real_host.log(h, level, "%s", text);
}

#define LOG
#define SLOT(table, ret, name, params, args)                                                       \
	static ret spy_##table##_##name params                                                     \
	{                                                                                          \
		HIT(table, name);                                                                  \
		return real_##table.name args;                                                     \
	}
#define VOID(table, name, params, args)                                                            \
	static void spy_##table##_##name params                                                    \
	{                                                                                          \
		HIT(table, name);                                                                  \
		real_##table.name args;                                                            \
	}
#include "abi-slots.h"
#undef LOG
#undef SLOT
#undef VOID
#undef SLOTS_TRANSPORT
#undef SLOTS_MEMORY

/* A host's table, as it lies in the instance: every service of it counts from now on. */
static void spy_on_host(const struct mc_host *host)
{
	struct mc_host *h = (struct mc_host *)(uintptr_t)host;

	if (h->log == spy_host_log)
		return;
	if (!real_host.log)
		real_host = *h;
#define LOG h->log = spy_host_log;
#define SLOT(table, ret, name, params, args)                                                       \
	if (h->name)                                                                               \
		h->name = spy_host_##name;
#define VOID(table, name, params, args) SLOT(table, void, name, params, args)
#include "abi-slots.h"
#undef LOG
#undef SLOT
#undef VOID
}
#undef SLOTS_HOST

static int open_spied(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		      struct mc_transport_caps *caps, struct mc_error *err)
{
	spy_on_host(host);
	return spy_transport_open(inst, host, args, caps, err);
}

static void spy_on_transport(struct fake_plugin *p)
{
	real_transport = p->ops.transport;
#define SLOTS_TRANSPORT
#define LOG
#define SLOT(table, ret, name, params, args) p->ops.transport.name = spy_transport_##name;
#define VOID(table, name, params, args) p->ops.transport.name = spy_transport_##name;
#include "abi-slots.h"
#undef SLOTS_TRANSPORT
	p->ops.transport.open = open_spied;
}

static void spy_on_memory(struct fake_plugin *p)
{
	real_memory = p->ops.memory;
#undef SLOT
#undef VOID
#define SLOTS_MEMORY
#define SLOT(table, ret, name, params, args) p->ops.memory.name = spy_memory_##name;
#define VOID(table, name, params, args) p->ops.memory.name = spy_memory_##name;
#include "abi-slots.h"
#undef SLOTS_MEMORY
#undef LOG
#undef SLOT
#undef VOID
}

/* The host of a memory kind is another table; of it only `copied` is of interest. */
static void (*real_copied)(const struct mc_host *h, struct mc_copy *c, int status);

static void spy_copied(const struct mc_host *h, struct mc_copy *c, int status)
{
	HIT(host, copied);
	real_copied(h, c, status);
}

static int open_memory_spied(void *inst, const struct mc_host *host, const struct mc_open_args *args,
			     struct mc_error *err)
{
	struct mc_host *h = (struct mc_host *)(uintptr_t)host;

	real_copied = h->copied;
	h->copied = spy_copied;
	return spy_memory_open(inst, host, args, err);
}

/* ---- two instances and what lies between them ----------------------------------------------------- */

struct run {
	struct fake_world *w;
	struct fake_plugin plugin, memory;
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_buf *local, *target;
	struct fake_peer *peer;
};

static void load(const char *file, enum mc_kind kind, struct fake_plugin *p)
{
	struct mc_error err = { 0 };
	char path[512];

	snprintf(path, sizeof path, file[0] == '/' ? "%s" : "%2$s/%1$s", file, getenv("TEST_PLUGIN_DIR"));
	if (fake_plugin_load(path, kind, p, &err) < 0)
		fail_msg("%s", err.text);
}

static bool imported(void *ctx)
{
	struct run *r = ctx;
	struct fake_remote *remote = fake_remote_find(r->peer, r->target->base);

	return remote && remote->area && remote->status == 0;
}

static void run_open(struct run *r, const char *file, const char *device, const char *const *words, size_t nr,
		     const char *target_kind)
{
	struct fake_open how = { .device = device, .words = words, .nr_words = nr };
	struct mc_error err = { 0 };

	memset(r, 0, sizeof *r);
	real_host = (struct mc_host){ 0 };
	load(file, MC_KIND_TRANSPORT, &r->plugin);
	load("memory-fake.so", MC_KIND_MEMORY, &r->memory);
	spy_on_transport(&r->plugin);
	spy_on_memory(&r->memory);
	r->memory.ops.memory.open = open_memory_spied;
	r->w = fake_world_new(0);
	assert_int_equal(fake_memory_open(r->w, &r->memory, NULL, 0, &err), 0);
	assert_int_equal(fake_open(r->w, &r->plugin, &how, &r->a, &err), 0);
	assert_int_equal(fake_open(r->w, &r->plugin, &how, &r->b, &err), 0);
	assert_int_equal(fake_link(r->a, r->b, &r->la, &r->lb), 0);
	assert_int_equal(fake_buf_new(r->a, 1 << 20, 0, NULL, MC_ACCESS_LOCAL, &r->local, &err), 0);
	assert_int_equal(fake_buf_new(r->b, 1 << 20, 0, target_kind, MC_ACCESS_ALL, &r->target, &err), 0);
	assert_int_equal(fake_peer_open(r->a, r->la, &r->peer), 0);
	assert_int_equal(fake_peer_wait(r->peer, BOUND), 0);
	assert_int_equal(fake_run(r->w, imported, r, BOUND), 0);
}

static int move(struct run *r, enum mc_opcode op, uint64_t len)
{
	struct fake_slice *s = fake_slice_new(r->a);
	int status;

	fake_slice_set(s, r->peer, op, r->local, 0, fake_remote_find(r->peer, r->target->base), 0, len, 0);
	status = fake_transfer(s, BOUND);
	fake_slice_free(s);
	return status;
}

static void there_and_back(struct run *r, uint64_t len, uint64_t seed)
{
	fake_buf_fill(r->local, 0, len, seed);
	assert_int_equal(move(r, MC_OP_WRITE, len), 0);
	fake_buf_fill(r->local, 0, len, seed + 1);
	assert_int_equal(move(r, MC_OP_READ, len), 0);
	assert_int_equal(fake_buf_check(r->local, 0, len, seed), -1);
}

static void run_close(struct run *r)
{
	fake_peer_fence(r->peer, BOUND);
	fake_peer_close(r->peer);
	fake_run(r->w, NULL, NULL, BOUND);
	assert_int_equal(fake_buf_free(r->local, BOUND), 0);
	assert_int_equal(fake_buf_free(r->target, BOUND), 0);
	assert_int_equal(fake_close(r->a, BOUND), 0);
	assert_int_equal(fake_close(r->b, BOUND), 0);
	assert_string_equal(fake_last_breach(r->w), "");
	assert_int_equal(fake_world_free(r->w), 0);
}

/* ---- the lives --------------------------------------------------------------------------------------- */

static int found(void *ctx, const char *device)
{
	++*(int *)ctx;
	return 0;
}

static void gauge(void *ctx, const char *name, uint64_t value)
{
	uint64_t *seen = ctx;

	if (!strcmp(name, "keys_owned"))
		seen[0] = value;
	if (!strcmp(name, "keys_synced"))
		seen[1] = value;
	if (!strcmp(name, "keys_lease"))
		seen[2] = value;
}

static bool kv_is_done(void *ctx)
{
	return fake_counter(ctx, "keys_kv_found") == 1;
}

static bool device_is_down(void *ctx)
{
	return ((struct fake_inst *)ctx)->last_event == MC_DEVICE_DOWN;
}

static bool has_room(void *ctx)
{
	return ((struct fake_peer *)ctx)->nr_writable;
}

/* The queue fills, one slice is given up, and there is room again. */
static void queue_fills(struct run *r)
{
	struct fake_slice *s[5];
	static const char *const slow[] = { "latency=20ms" }, *const fast[] = { "latency=0" };
	struct mc_error err = { 0 };

	assert_int_equal(fake_reconfigure(r->a, slow, 1, &err), 0);
	for (int i = 0; i < 5; i++) {
		s[i] = fake_slice_new(r->a);
		fake_slice_set(s[i], r->peer, MC_OP_WRITE, r->local, 0, r->peer->remotes, 0, 4096, 0);
		assert_int_equal(fake_submit(s[i]), i < 4 ? 0 : -EAGAIN);
	}
	fake_flush(r->a);
	assert_int_equal(fake_cancel(s[3]), 0);
	assert_int_equal(fake_run(r->w, has_room, r->peer, BOUND), 0);
	fake_run(r->w, NULL, NULL, BOUND);
	for (int i = 0; i < 5; i++) {
		if (i < 4)
			assert_int_equal(s[i]->status, i == 3 ? -ECANCELED : 0);
		fake_slice_free(s[i]);
	}
	assert_int_equal(fake_reconfigure(r->a, fast, 1, &err), 0);
}

static void test_keys(void **state)
{
	char path[] = "/tmp/mc-abi-trigger-XXXXXX", trigger[64];
	const char *const words[] = { trigger, "depth=4", "offload_from=65536", "max_inline=0" };
	int fd = mkstemp(path), devices = 0;
	struct mc_device_info info = { .size = sizeof info };
	struct mc_mem_desc desc = { .size = sizeof desc };
	struct mc_error err = { 0 };
	struct fake_buf *owned;
	uint64_t seen[3] = { 0 };
	char text[64] = "";
	struct run r;

	snprintf(trigger, sizeof trigger, "trigger=%s", path);
	run_open(&r, "transport-keys.so", "keys0", words, 4, "fake");
	assert_int_equal(r.plugin.ops.transport.enumerate(&r.a->host, found, &devices), 0);
	assert_int_equal(devices, 2);
	assert_int_equal(r.plugin.ops.transport.probe(&r.a->host, "keysdown", &info, &err), 0);
	assert_int_equal(info.state, MC_STATE_DOWN);
	assert_int_equal(fake_run(r.w, kv_is_done, r.a, BOUND), 0);
	there_and_back(&r, 4096, 1);
	there_and_back(&r, 1 << 20, 2);
	assert_true(fake_counter(r.a, "keys_offloads") > 0);
	queue_fills(&r);
	assert_int_equal(fake_buf_new_owned(r.b, 4096, MC_ACCESS_ALL, &owned, &err), 0);
	assert_int_equal(r.plugin.ops.transport.mem_sync(r.b->priv, owned->region, owned->base, 64, MC_SYNC_PUBLISH), 0);
	r.plugin.ops.transport.counters(r.b->priv, gauge, seen);
	assert_int_equal(seen[0], 1);
	assert_int_equal(seen[1], 1);
	assert_true(seen[2] == UINT64_MAX / MC_MSEC);
	fake_lease(r.w, 5 * MC_MSEC);
	r.plugin.ops.transport.counters(r.b->priv, gauge, seen);
	assert_int_equal(seen[2], 5);
	r.plugin.ops.transport.mem_explain(r.a->priv, r.local->region, text, sizeof text);
	assert_string_equal(text, "by key");
	assert_int_equal(r.a->host.mem_identify(&r.a->host, r.target->base, 64, &desc), 0);
	assert_string_equal(desc.kind, "fake");
	assert_int_equal(fake_buf_free(owned, BOUND), 0);
	r.a->host.log(&r.a->host, MC_LOG_DEBUG, "%s", "seen");
	assert_int_equal(write(fd, "down\n", 5), 5);
	assert_int_equal(fake_run(r.w, device_is_down, r.a, BOUND), 0);
	run_close(&r);
	close(fd);
	unlink(path);
}

/* Streams, ranges at the target, copies of the kind; a lost stream is dialled again. */
static bool dialled(void *ctx)
{
	return hits[SLOT_host_stream_dial] > 0;
}

static void test_tcp(void **state)
{
	struct mc_stream lost = { .size = sizeof lost, .fd = -ECONNREFUSED, .why = "refused" };
	/* Buffers so small that a stream must wait for room. */
	static const char *const small[] = { "sndbuf=64KiB", "rcvbuf=64KiB" };
	struct run r;

	run_open(&r, TCP_PLUGIN, "lo", small, 2, "fake");
	for (unsigned seed = 10; seed < 20; seed++)
		there_and_back(&r, 1 << 20, seed);
	lost.epoch = r.peer->epoch;
	lost.token = r.a->caps.streams; /* one more than it has */
	r.plugin.ops.transport.peer_attach(r.a->priv, r.peer->area, &lost);
	assert_int_equal(fake_run(r.w, dialled, &r, BOUND), 0);
	fake_run(r.w, NULL, NULL, BOUND);
	there_and_back(&r, 1 << 20, 4);
	run_close(&r);
}

/* What the core asks of a memory kind outside of transfers. */
static uint64_t *no_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}

static void test_memory(void **state)
{
	struct mc_mem_desc all = { .size = sizeof all, .kind = "fake", .ordinal = -1, .dmabuf_fd = -1 };
	struct mc_host host = { .size = sizeof host, .counter = no_counter };
	struct mc_value values[] = { { .i = 2 }, { .i = 0 }, { .i = 64 }, { .i = 4096 } };
	struct mc_mem_desc piece = { .size = sizeof piece, .kind = "fake", .len = 8192, .dmabuf_fd = -1 };
	uint64_t len = 0;
	struct mc_open_args args = { .size = sizeof args, .options = values };
	struct mc_error err = { 0 };
	struct fake_plugin p;
	void *area;

	load("memory-fake.so", MC_KIND_MEMORY, &p);
	spy_on_memory(&p);
	area = calloc(1, p.ops.memory.instance_size);
	assert_int_equal(p.ops.memory.open(area, &host, &args, &err), 0);
	assert_int_equal(p.ops.memory.count(area), 2);
	assert_int_equal(p.ops.memory.flush(area, &all), 0);
	all.ordinal = 2;
	assert_int_equal(p.ops.memory.flush(area, &all), -ENODEV);
	assert_int_equal(p.ops.memory.distance(area, 1, "0000:03:00.0"), 2);
	assert_int_equal(p.ops.memory.distance(area, 1, NULL), -1);
	assert_int_equal(p.ops.memory.alloc(area, &piece, &err), 0);
	assert_int_equal(p.ops.memory.extent(area, &piece, &len), 0);
	assert_int_equal(len, 4096);
	assert_int_equal(p.ops.memory.pin(area, values, sizeof values), 0);
	p.ops.memory.unpin(area, values);
	p.ops.memory.free(area, &piece);
	p.ops.memory.close(area);
	free(area);
}

static void test_all_called(void **state)
{
	/* Called by metadata plugins alone, in their own conformance suite. */
	static const enum slot elsewhere[] = { SLOT_host_kv_event };
	int missing = 0;

	for (int i = 0; i < NR_SLOTS; i++) {
		bool ok = hits[i] > 0;

		for (size_t j = 0; j < sizeof elsewhere / sizeof elsewhere[0]; j++)
			ok |= elsewhere[j] == (enum slot)i;
		if (!ok)
			print_error("%s was never called\n", slot_names[i]);
		missing += !ok;
	}
	assert_int_equal(missing, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_all_called),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
