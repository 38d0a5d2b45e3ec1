/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host's buffers: memory of any kind between guard bytes, registered
 * with the instance, looked up by range_get; and its memory plugins.
 */
#include "fake-host-impl.h"
#include "core/util/check.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_SEED UINT64_C(0x67756172642e2e2e)

/* ---- memory plugins --------------------------------------------------------------------------- */

static void memory_free(struct fake_memory *m)
{
	struct fake_world *w = m->inst.world;

	if (m->inst.st->nr_allocs || m->inst.st->nr_watches || m->inst.st->timers)
		fake_breach(w, "close gives everything back: memory plugin '%s' did not", m->plugin->desc->name);
	area_release(w, m->priv);
	inst_state_free(&m->inst);
	fake_options_free(m->plugin->desc, m->values);
	free(m);
}

int fake_memory_open(struct fake_world *w, const struct fake_plugin *plugin,
		     const char *const *words, size_t nr_words, struct mc_error *err)
{
	struct fake_memory *m = calloc(1, sizeof *m);
	struct mc_open_args args = { .size = sizeof args, .engine = "engine" };
	int r;

	if (!m || (m->inst.world = w, inst_state_new(&m->inst)) < 0)
		abort();
	m->plugin = plugin;
	snprintf(m->inst.name, sizeof m->inst.name, "%s", plugin->desc->name);
	services_fill(&m->inst.host, m->inst.name);
	m->priv = area_new(w, AREA_INSTANCE, plugin->ops.memory.instance_size, NULL);
	r = fake_options_parse(plugin->desc, words, nr_words, &m->values, err);
	args.options = m->values;
	args.deadline_ns = world_now(w) + 10 * MC_SEC;
	m->inst.st->in_open = true;
	if (r == 0)
		r = plugin->ops.memory.open(m->priv, &m->inst.host, &args, err);
	m->inst.st->in_open = false;
	if (r < 0) {
		memory_free(m);
		return r;
	}
	m->next = w->memories;
	w->memories = m;
	return 0;
}

void *fake_memory_area(struct fake_world *w)
{
	return w->memories ? w->memories->priv : NULL;
}

void memories_close(struct fake_world *w)
{
	struct fake_memory *m;

	while ((m = w->memories)) {
		w->memories = m->next;
		m->plugin->ops.memory.close(m->priv);
		memory_free(m);
	}
}

static struct fake_memory *memory_of(struct fake_world *w, const char *kind)
{
	struct fake_memory *m = w->memories;

	while (m && strcmp(m->plugin->desc->memory[0], kind))
		m = m->next;
	return m;
}

static void copied_run(struct fake_job *job)
{
	struct mc_copy *c = job->a;
	struct fake_inst *inst = job->b;

	inst_outstanding(inst, -1);
	c->done(c, (int)job->n);
}

void buf_service_copied(const struct mc_host *h, struct mc_copy *c, int status)
{
	struct fake_inst *inst = c->host[0];

	/* No instance: somebody waits until the flag is not 1 any more. */
	if (inst)
		inst_post(inst, copied_run, c, inst, status);
	else if (__atomic_exchange_n((int64_t *)c->user, status, __ATOMIC_ACQ_REL) != 1)
		fake_breach(inst_of(h)->world, "a copy that was taken is answered once: %s called copied again",
			    inst_of(h)->name);
}

int buf_service_copy(const struct mc_host *h, struct mc_copy *c)
{
	struct fake_inst *inst = (struct fake_inst *)(uintptr_t)h;
	struct fake_memory *m;
	int r;

	if (!on_worker(inst))
		fake_breach(inst->world, "mem_copy is called on the instance's worker: %s did not", inst->name);
	if (!strcmp(c->kind, "cpu")) {
		memcpy(c->to_host ? c->hostptr : c->mem, c->to_host ? c->mem : c->hostptr, c->len);
		return MC_DONE;
	}
	m = memory_of(inst->world, c->kind);
	if (!m)
		return -ENODEV;
	c->host[0] = inst;
	inst_outstanding(inst, 1);
	r = m->plugin->ops.memory.copy(m->priv, c);
	if (r)
		inst_outstanding(inst, -1);
	return r;
}

int buf_service_identify(const struct mc_host *h, const void *addr, uint64_t len,
			 struct mc_mem_desc *desc)
{
	struct fake_inst *inst = (struct fake_inst *)(uintptr_t)h;

	for (struct fake_memory *m = inst->world->memories; m; m = m->next) {
		int r = m->plugin->ops.memory.identify(m->priv, addr, len, desc);

		if (r != -ENOENT)
			return r;
	}
	desc->kind = "cpu";
	desc->ordinal = 0;
	return 0;
}

/* Copy to or from memory of a kind and wait: for fills and checks, on any thread. */
static void copy_sync(struct fake_buf *b, unsigned char *mem, void *hostptr, uint64_t len, bool to_host)
{
	struct fake_memory *m = memory_of(b->inst->world, b->desc.kind);
	int64_t flag = 1;
	struct mc_copy c = { .size = sizeof c, .mem = mem, .hostptr = hostptr, .len = len,
			     .kind = b->desc.kind, .ordinal = b->desc.ordinal, .to_host = to_host,
			     .user = &flag };
	int r;

	if (!m) {
		memcpy(to_host ? hostptr : mem, to_host ? (void *)mem : hostptr, len);
		return;
	}
	while ((r = m->plugin->ops.memory.copy(m->priv, &c)) == -EAGAIN)
		sched_yield();
	while (r == 0 && __atomic_load_n(&flag, __ATOMIC_ACQUIRE) == 1)
		sched_yield();
	if (r < 0 || (r == 0 && flag < 0))
		fake_breach(b->inst->world, "a copy of the kind '%s' works: it answered %d", b->desc.kind, r);
}

/* ---- patterns ------------------------------------------------------------------------------------- */

static unsigned char pattern(uint64_t seed, uint64_t pos)
{
	uint64_t x = (pos >> 3) * UINT64_C(0x9e3779b97f4a7c15) + seed;

	x ^= x >> 29;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 32;
	return (unsigned char)(x >> ((pos & 7) * 8));
}

#define CHUNK 65536

static void fill_mem(struct fake_buf *b, unsigned char *mem, uint64_t len, uint64_t seed, uint64_t from)
{
	unsigned char *tmp = malloc(CHUNK);

	if (!tmp)
		abort();
	for (uint64_t at = 0; at < len; at += CHUNK) {
		uint64_t n = MC_MIN(len - at, CHUNK);

		for (uint64_t i = 0; i < n; i++)
			tmp[i] = pattern(seed, from + at + i);
		copy_sync(b, mem + at, tmp, n, false);
	}
	free(tmp);
}

static int64_t check_mem(struct fake_buf *b, unsigned char *mem, uint64_t len, uint64_t seed, uint64_t from)
{
	unsigned char *tmp = malloc(CHUNK);
	int64_t wrong = -1;

	if (!tmp)
		abort();
	for (uint64_t at = 0; at < len && wrong < 0; at += CHUNK) {
		uint64_t n = MC_MIN(len - at, CHUNK);

		copy_sync(b, mem + at, tmp, n, true);
		for (uint64_t i = 0; i < n && wrong < 0; i++)
			if (tmp[i] != pattern(seed, from + at + i))
				wrong = (int64_t)(at + i);
	}
	free(tmp);
	return wrong;
}

void fake_buf_fill_at(struct fake_buf *b, uint64_t off, uint64_t len, uint64_t seed, uint64_t from)
{
	fill_mem(b, b->base + off, len, seed, from);
}

int64_t fake_buf_check_at(struct fake_buf *b, uint64_t off, uint64_t len, uint64_t seed, uint64_t from)
{
	int64_t wrong = check_mem(b, b->base + off, len, seed, from);

	return wrong < 0 ? wrong : wrong + (int64_t)off;
}

void fake_buf_fill(struct fake_buf *b, uint64_t off, uint64_t len, uint64_t seed)
{
	fake_buf_fill_at(b, off, len, seed, off);
}

int64_t fake_buf_check(struct fake_buf *b, uint64_t off, uint64_t len, uint64_t seed)
{
	return fake_buf_check_at(b, off, len, seed, off);
}

/* The guards: from the mapping to base, and from the end on. */
static void guards(struct fake_buf *b, bool fill, bool *ret_ok)
{
	unsigned char *map = b->map, *end = b->base + b->len;
	uint64_t before = (uint64_t)(b->base - map), after = b->map_len - before - b->len;

	if (!map)
		return;
	if (fill) {
		fill_mem(b, map, before, GUARD_SEED, 0);
		fill_mem(b, end, after, GUARD_SEED, before);
	} else if (check_mem(b, map, before, GUARD_SEED, 0) >= 0 ||
		   check_mem(b, end, after, GUARD_SEED, before) >= 0) {
		*ret_ok = false;
	}
}

bool fake_buf_guards_ok(struct fake_buf *b)
{
	bool ok = true;

	guards(b, false, &ok);
	return ok;
}

/* ---- registering ------------------------------------------------------------------------------------- */

/* With a memfd for who shares it with processes of this host. */
static int cpu_alloc(struct fake_buf *b, struct mc_error *err)
{
	bool shared = b->inst->caps.flags & MC_CAP_LOCAL_STREAMS;

	if (shared) {
		b->desc.share_fd = memfd_create("fake-buf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (b->desc.share_fd < 0 || ftruncate(b->desc.share_fd, (off_t)b->map_len) < 0)
			return mc_fail(err, -errno, "no memory to share: %s", strerror(errno));
	}
	b->map = mmap(NULL, b->map_len, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
		      b->desc.share_fd, 0);
	if (b->map == MAP_FAILED)
		return mc_fail(err, -errno, "cannot map %llu bytes", (unsigned long long)b->map_len);
	b->desc.kind = "cpu";
	return 0;
}

static int map_alloc(struct fake_buf *b, const char *kind, struct mc_error *err)
{
	struct fake_memory *m = memory_of(b->inst->world, kind);

	if (!strcmp(kind, "cpu"))
		return cpu_alloc(b, err);
	if (!m)
		return mc_fail(err, -ENODEV, "no memory plugin of kind '%s' is open", kind);
	b->desc.kind = m->plugin->desc->memory[0];
	b->desc.len = b->map_len;
	if (m->plugin->ops.memory.alloc(m->priv, &b->desc, err) < 0)
		return -ENOMEM;
	b->map = b->desc.addr;
	return 0;
}

static void map_free(struct fake_buf *b)
{
	struct fake_memory *m = memory_of(b->inst->world, b->desc.kind);

	if (m) {
		b->desc.addr = b->map;
		b->desc.len = b->map_len;
		m->plugin->ops.memory.free(m->priv, &b->desc);
	} else {
		munmap(b->map, b->map_len);
		if (b->desc.share_fd >= 0)
			close(b->desc.share_fd);
	}
}

/* As the core does: with a dma-buf where the kind can export one, closed after the call. */
static int register_buf(struct fake_buf *b, struct mc_error *err)
{
	struct fake_inst *inst = b->inst;
	struct fake_memory *m = memory_of(inst->world, b->desc.kind);
	int r;

	if (m && m->plugin->ops.memory.export_dmabuf &&
	    m->plugin->ops.memory.export_dmabuf(m->priv, &b->desc, err) < 0)
		b->desc.dmabuf_fd = -1;
	AS_HELPER(mem_reg, r = inst->ops->mem_reg(inst->priv, b->region, &b->desc, err));
	if (b->desc.dmabuf_fd >= 0)
		close(b->desc.dmabuf_fd);
	b->desc.dmabuf_fd = -1;
	return r;
}

static void do_enlist(void *ctx)
{
	struct fake_buf *b = ctx;

	b->next = b->inst->st->bufs;
	b->inst->st->bufs = b;
	peers_tell_buffer(b->inst, b, false);
}

static int enlist(struct fake_buf *b, struct mc_error *err)
{
	struct fake_inst *inst = b->inst;
	int r;

	AS_HELPER(mem_export, r = inst->ops->mem_export(inst->priv, b->region, b->blob, sizeof b->blob));
	if (r == -ENOTSUP)
		r = 0;
	if (r > MC_EXPORT_BLOB_MAX)
		fake_breach(inst->world, "a blob has at most %d bytes: %s wrote %d", MC_EXPORT_BLOB_MAX,
			    inst->name, r);
	if (r < 0)
		return mc_fail(err, r, "%s: mem_export answered %d", inst->name, r);
	b->blob_len = MC_MIN(r, MC_EXPORT_BLOB_MAX);
	fake_call(inst, do_enlist, b);
	return 0;
}

static struct fake_buf *buf_start(struct fake_inst *inst, uint64_t len, uint32_t access)
{
	struct fake_buf *b = calloc(1, sizeof *b);

	if (!b)
		abort();
	b->inst = inst->lane0;
	b->len = len;
	b->desc = (struct mc_mem_desc){ .size = sizeof b->desc, .len = len, .access = access,
					.dmabuf_fd = -1, .share_fd = -1, .kind = "cpu" };
	b->region = area_new(inst->world, AREA_REGION, inst->ops->region_size, b);
	return b;
}

static int buf_new_owned(struct fake_inst *inst, uint64_t len, uint32_t access, struct fake_buf **ret_buf,
			 struct mc_error *err);

/* Can peers reach no host memory, but memory of the device's own?  Then that is what is told them. */
static bool reached_by_own_only(const struct fake_inst *inst)
{
	const char *const *kind = inst->caps.remote_kinds;

	for (; kind && *kind; kind++)
		if (!strcmp(*kind, "*") || !strcmp(*kind, "cpu"))
			return false;
	return fake_has(inst->plugin, mem_alloc);
}

int fake_buf_new(struct fake_inst *inst, uint64_t len, uint64_t skew, const char *kind,
		 uint32_t access, struct fake_buf **ret_buf, struct mc_error *err)
{
	struct fake_buf *b;
	int r;

	if (!kind && access != MC_ACCESS_LOCAL && reached_by_own_only(inst))
		return buf_new_owned(inst, len, access, ret_buf, err);
	b = buf_start(inst, len, access);

	inst = b->inst;
	b->map_len = mc_round_up(len + skew + 2 * FAKE_GUARD, 4096);
	r = map_alloc(b, kind ? kind : "cpu", err);
	if (r < 0) {
		area_release(inst->world, b->region);
		free(b);
		return r;
	}
	b->base = (unsigned char *)b->map + FAKE_GUARD + skew;
	guards(b, true, NULL);
	b->desc.addr = b->base;
	b->desc.len = len;
	b->desc.share_offset = (uint64_t)(b->base - (unsigned char *)b->map);
	r = register_buf(b, err);
	if (r == 0) {
		r = enlist(b, err);
		if (r < 0)
			AS_HELPER(mem_unreg, inst->ops->mem_unreg(inst->priv, b->region));
	}
	if (r < 0) {
		map_free(b);
		area_release(inst->world, b->region);
		free(b);
		return r;
	}
	*ret_buf = b;
	return 0;
}

/* mem_alloc on a thread of its own, as a helper runs it: it may wait for the instance's worker. */
struct owned_call {
	struct fake_inst *inst;
	struct fake_buf *buf;
	struct mc_error *err;
	int result;
	bool over; /* atomic */
};

static void *owned_main(void *arg)
{
	struct owned_call *c = arg;

	c->result = c->inst->ops->mem_alloc(c->inst->priv, c->buf->region, &c->buf->desc, c->err);
	__atomic_store_n(&c->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool owned_over(void *ctx)
{
	return __atomic_load_n(&((struct owned_call *)ctx)->over, __ATOMIC_ACQUIRE);
}

static int owned_alloc(struct fake_inst *inst, struct fake_buf *b, struct mc_error *err)
{
	struct owned_call c = { .inst = inst, .buf = b, .err = err };
	pthread_t thread;

	if (pthread_create(&thread, NULL, owned_main, &c))
		abort();
	/* In short turns: the end of the thread wakes nobody. */
	while (fake_run(inst->world, owned_over, &c, 2 * MC_MSEC) < 0)
		;
	pthread_join(thread, NULL);
	return c.result;
}

static int buf_new_owned(struct fake_inst *inst, uint64_t len, uint32_t access, struct fake_buf **ret_buf,
			 struct mc_error *err)
{
	struct fake_buf *b = buf_start(inst, len, access);
	int r;

	inst = b->inst;
	b->by_mem_alloc = true;
	r = owned_alloc(inst, b, err);
	if (r == 0 && (!b->desc.addr || b->desc.len < len || !b->desc.kind))
		fake_breach(inst->world, "mem_alloc fills address, length and kind: %s did not", inst->name);
	if (r == 0) {
		b->base = b->desc.addr;
		r = enlist(b, err);
		if (r < 0)
			AS_HELPER(mem_free, inst->ops->mem_free(inst->priv, b->region, &b->desc));
	}
	if (r < 0) {
		area_release(inst->world, b->region);
		free(b);
		return r;
	}
	*ret_buf = b;
	return 0;
}

int fake_buf_new_owned(struct fake_inst *inst, uint64_t len, uint32_t access,
		       struct fake_buf **ret_buf, struct mc_error *err)
{
	return buf_new_owned(inst, len, access, ret_buf, err);
}

static void do_dying(void *ctx)
{
	struct fake_buf *b = ctx;

	b->dying = true;
	peers_tell_buffer(b->inst, b, true);
}

static bool not_held(void *ctx)
{
	return !((struct fake_buf *)ctx)->holds;
}

static void do_delist(void *ctx)
{
	struct fake_buf *b = ctx, **p = &b->inst->st->bufs;

	while (*p != b)
		p = &(*p)->next;
	*p = b->next;
}

int fake_buf_free(struct fake_buf *b, uint64_t bound_ns)
{
	struct fake_inst *inst;
	int r;

	if (!b)
		return 0;
	inst = b->inst;
	fake_call(inst, do_dying, b);
	r = fake_run_on(inst, not_held, b, bound_ns);
	if (r < 0)
		fake_breach(inst->world, "range_put follows range_get: %s still holds %u ranges", inst->name,
			    b->holds);
	fake_call(inst, do_delist, b);
	if (b->by_mem_alloc) {
		AS_HELPER(mem_free, inst->ops->mem_free(inst->priv, b->region, &b->desc));
	} else {
		AS_HELPER(mem_unreg, inst->ops->mem_unreg(inst->priv, b->region));
		if (!fake_buf_guards_ok(b))
			fake_breach(inst->world, "no byte outside a buffer is written: a guard of %s changed",
				    inst->name);
		map_free(b);
	}
	area_release(inst->world, b->region);
	free(b);
	return r;
}

void inst_bufs_close(struct fake_inst *inst)
{
	while (inst->st->bufs)
		fake_buf_free(inst->st->bufs, 0);
}

/* ---- range_get ------------------------------------------------------------------------------------------ */

int buf_service_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
		    uint64_t len, uint32_t access, struct mc_range *range)
{
	struct fake_inst *inst = (struct fake_inst *)(uintptr_t)h;
	struct fake_peer *p = area_owner(peer, AREA_PEER);
	struct fake_buf *b;

	if (!on_worker(inst))
		fake_breach(inst->world, "range_get is called on the instance's worker: %s did not", inst->name);
	if (!p || p->inst != inst || !p->open)
		fake_breach(inst->world, "a peer is not named after peer_close: %s called range_get", inst->name);
	if (generation != inst->generation)
		return -ESTALE;
	for (b = inst->lane0->st->bufs; b; b = b->next)
		if (!b->dying && (b->desc.access & access) == access &&
		    mc_range_inside((uintptr_t)b->base, b->len, offset, len))
			break;
	if (!b)
		return -EACCES;
	range->addr = b->base + (offset - (uintptr_t)b->base);
	range->region = inst->ops->region_size ? b->region : NULL;
	range->kind = b->desc.kind;
	range->ordinal = b->desc.ordinal;
	range->host = b;
	__atomic_fetch_add(&b->holds, 1, __ATOMIC_RELAXED);
	return 0;
}

void buf_service_put(const struct mc_host *h, struct mc_range *range)
{
	struct fake_inst *inst = (struct fake_inst *)(uintptr_t)h;
	struct fake_buf *b = range->host;

	if (!on_worker(inst))
		fake_breach(inst->world, "range_put is called on the instance's worker: %s called it from %s", inst->name,
			    called_from());
	if (!b || !b->holds) {
		fake_breach(inst->world, "range_put gives back what range_get gave, once: %s did otherwise",
			    inst->name);
		return;
	}
	__atomic_fetch_sub(&b->holds, 1, __ATOMIC_RELAXED);
	range->host = NULL;
}
