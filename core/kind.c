/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory kinds.  Plain host memory is the core's own; every other kind is a
 * memory plugin, opened once per engine when a location of the kind appears and
 * closed with the engine.  The list of open kinds only grows, so readers walk it
 * without a lock.
 */
#include "kind.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "host.h"
#include "log.h"
#include "segment.h"
#include "pages.h"
#include "core/util/check.h"

struct kind {
	struct kind *next; /* atomic; set before the kind is listed */
	const char *name;
	struct mc_plugin *plugin;
	struct mc_value *values;
	void *inst;
	struct mc_plain_host host;
};

struct mc_kinds {
	struct kind *list; /* atomic head */
	/* Guards `opening`: one kind is opened at a time, without the lock. */
	pthread_mutex_t lock;
	pthread_cond_t opened;
	bool opening;
};

/* ---- names ---------------------------------------------------------------------------------- */

static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER; /* guards adding to names */
static struct kind_name {
	struct kind_name *next;
	char text[MC_PLUGIN_NAME_MAX + 1];
} cpu_name = {.text = "cpu"}, *names = &cpu_name;

static struct kind_name *name_find(const char *kind)
{
	struct kind_name *n = __atomic_load_n(&names, __ATOMIC_ACQUIRE);

	while (n && strcmp(n->text, kind))
		n = n->next;
	return n;
}

/* Names stay for the life of the process: there are as many as memory plugins. */
const char *mc_kind_name(const char *kind)
{
	struct kind_name *n = name_find(kind);

	if (n)
		return n->text;
	pthread_mutex_lock(&names_lock);
	n = name_find(kind);
	if (!n) {
		n = calloc(1, sizeof *n);
		if (n) {
			snprintf(n->text, sizeof n->text, "%s", kind);
			n->next = names;
			__atomic_store_n(&names, n, __ATOMIC_RELEASE);
		}
	}
	pthread_mutex_unlock(&names_lock);
	return n ? n->text : NULL;
}

/* ---- the list ------------------------------------------------------------------------------- */

static struct kind *kind_find(const struct mc_engine *engine, const char *name)
{
	struct kind *k = __atomic_load_n(&engine->kinds->list, __ATOMIC_ACQUIRE);

	while (k && strcmp(k->name, name))
		k = k->next;
	return k;
}

int mc_kinds_new(struct mc_engine *engine)
{
	struct mc_kinds *kinds = calloc(1, sizeof *kinds);

	if (!kinds)
		return -ENOMEM;
	pthread_mutex_init(&kinds->lock, NULL);
	mc_cond_init(&kinds->opened);
	engine->kinds = kinds;
	return 0;
}

static void kind_free(struct kind *k)
{
	mc_values_free(k->values);
	mc_plugin_unref(k->plugin);
	free(k->inst);
	free(k);
}

static int kind_close(void *arg)
{
	struct kind *k = arg;

	k->plugin->ops.memory.close(k->inst);
	kind_free(k);
	return 0;
}

void mc_kinds_free(struct mc_engine *engine)
{
	struct mc_kinds *kinds = engine->kinds;

	if (!kinds)
		return;
	while (kinds->list) {
		struct kind *k = kinds->list;

		kinds->list = k->next;
		mc_helpers_call(engine->helpers, kind_close, k);
	}
	pthread_cond_destroy(&kinds->opened);
	pthread_mutex_destroy(&kinds->lock);
	free(kinds);
	engine->kinds = NULL;
}

/* ---- opening -------------------------------------------------------------------------------- */

static void kind_copied(const struct mc_host *h, struct mc_copy *c, int status);

struct opening {
	struct mc_engine *engine;
	const char *name;
	struct mc_error *err;
};

static int kind_open_plugin(struct kind *k, struct mc_engine *engine, struct mc_error *err)
{
	struct mc_open_args args = {
		.size = sizeof args,
		.engine = engine->name,
		.generation = engine->generation,
		.nr_lanes = 1,
		.peer_timeout_ns = (uint64_t)engine->set->peer_timeout,
		.deadline_ns = MC_FOREVER,
	};
	int r = mc_plugin_load(engine->registry, MC_KIND_MEMORY, k->name, &k->plugin, err);

	if (r < 0)
		return r;
	r = mc_config_plugin_values(engine->config, "memory", k->name, k->plugin->desc, &k->values, err);
	if (r < 0)
		return r;
	k->inst = aligned_alloc(MC_CACHE_LINE,
				mc_round_up(k->plugin->ops.memory.instance_size + 1, MC_CACHE_LINE));
	if (!k->inst)
		return mc_fail(err, -ENOMEM, "memory kind '%s': out of memory", k->name);
	memset(k->inst, 0, k->plugin->ops.memory.instance_size);
	mc_plain_host_init(&k->host, engine, k->name);
	k->host.host.copied = kind_copied;
	args.options = k->values;
	if (err)
		err->text[0] = '\0';
	r = k->plugin->ops.memory.open(k->inst, &k->host.host, &args, err);
	return r < 0 ? mc_plugin_open_failed(k->plugin, k->name, r, err) : 0;
}

static int kind_open_job(void *arg)
{
	struct opening *o = arg;
	struct mc_kinds *kinds = o->engine->kinds;
	struct kind *k = calloc(1, sizeof *k);
	int r = -ENOMEM;

	if (k)
		k->name = mc_kind_name(o->name);
	if (!k || !k->name) {
		free(k);
		return mc_fail(o->err, r, "memory kind '%s': out of memory", o->name);
	}
	r = kind_open_plugin(k, o->engine, o->err);
	if (r < 0) {
		kind_free(k);
		return r;
	}
	k->next = kinds->list;
	__atomic_store_n(&kinds->list, k, __ATOMIC_RELEASE);
	mc_info("memory kind '%s': open", k->name);
	return 0;
}

int mc_kind_open(struct mc_engine *engine, const char *kind, struct mc_error *err)
{
	struct mc_kinds *kinds = engine->kinds;
	struct opening o = {.engine = engine, .name = kind, .err = err};
	int r = 0;

	if (!strcmp(kind, "cpu") || kind_find(engine, kind))
		return 0;
	pthread_mutex_lock(&kinds->lock);
	while (kinds->opening)
		pthread_cond_wait(&kinds->opened, &kinds->lock);
	kinds->opening = true;
	pthread_mutex_unlock(&kinds->lock);
	if (!kind_find(engine, kind))
		r = mc_helpers_call(engine->helpers, kind_open_job, &o);
	pthread_mutex_lock(&kinds->lock);
	kinds->opening = false;
	pthread_cond_broadcast(&kinds->opened);
	pthread_mutex_unlock(&kinds->lock);
	return r;
}

/* ---- what the kinds do ---------------------------------------------------------------------- */

int mc_kind_identify(struct mc_engine *engine, const void *addr, uint64_t len,
		     struct mc_mem_desc *desc)
{
	struct kind *k = __atomic_load_n(&engine->kinds->list, __ATOMIC_ACQUIRE);

	for (; k; k = k->next) {
		int r = k->plugin->ops.memory.identify(k->inst, addr, len, desc);

		if (r == 0) {
			desc->kind = k->name;
			return 0;
		}
		if (r == -EINVAL)
			return r;
	}
	desc->kind = cpu_name.text;
	desc->ordinal = -1;
	return 0;
}

static int cpu_alloc(struct mc_mem_desc *desc, bool share, struct mc_error *err)
{
	void *addr = share ? mc_pages_share(desc->len, desc->ordinal, &desc->share_fd)
			   : mc_pages_alloc(desc->len, desc->ordinal);
	int r = -errno;

	if (addr) {
		desc->addr = addr;
		return 0;
	}
	if (r == -EINVAL && desc->ordinal >= 0)
		return mc_fail(err, r, "location 'cpu:%d': this host has no such NUMA node with memory, or "
			       "the process may not use it", desc->ordinal);
	return mc_fail(err, r, "memory of %llu bytes: %s", (unsigned long long)desc->len, strerror(-r));
}

struct alloc {
	struct kind *kind;
	struct mc_mem_desc *desc;
	struct mc_error *err;
};

static int alloc_job(void *arg)
{
	struct alloc *a = arg;
	int r;

	if (a->err)
		a->err->text[0] = '\0';
	r = a->kind->plugin->ops.memory.alloc(a->kind->inst, a->desc, a->err);
	if (r < 0 && a->err && !a->err->text[0])
		mc_fail(a->err, r, "memory of %llu bytes at '%s:%d': %s",
			(unsigned long long)a->desc->len, a->kind->name, a->desc->ordinal, strerror(-r));
	return r;
}

static int free_job(void *arg)
{
	struct alloc *a = arg;

	a->kind->plugin->ops.memory.free(a->kind->inst, a->desc);
	return 0;
}

int mc_kind_alloc(struct mc_engine *engine, struct mc_mem_desc *desc, bool share, struct mc_error *err)
{
	struct alloc a = {.desc = desc, .err = err};

	if (!strcmp(desc->kind, "cpu"))
		return cpu_alloc(desc, share, err);
	a.kind = kind_find(engine, desc->kind);
	if (!a.kind)
		return mc_fail(err, -ENODEV, "memory kind '%s': not open", desc->kind);
	return mc_helpers_call(engine->helpers, alloc_job, &a);
}

void mc_kind_free(struct mc_engine *engine, struct mc_mem_desc *desc)
{
	struct alloc a = {.desc = desc};

	if (!strcmp(desc->kind, "cpu")) {
		mc_pages_free(desc->addr, desc->len);
		if (desc->share_fd >= 0)
			close(desc->share_fd);
		return;
	}
	a.kind = kind_find(engine, desc->kind);
	if (a.kind)
		mc_helpers_call(engine->helpers, free_job, &a);
}

int mc_kind_export_dmabuf(struct mc_engine *engine, struct mc_mem_desc *desc, struct mc_error *err)
{
	struct kind *k = kind_find(engine, desc->kind);

	return k ? k->plugin->ops.memory.export_dmabuf(k->inst, desc, err) : -ENOTSUP;
}

int mc_kind_extent(struct mc_engine *engine, const struct mc_mem_desc *desc, uint64_t *ret_len)
{
	struct kind *k = kind_find(engine, desc->kind);
	int r = 0;

	*ret_len = desc->len;
	if (k)
		r = k->plugin->ops.memory.extent(k->inst, desc, ret_len);
	return r < 0 ? r : *ret_len && *ret_len <= desc->len ? 0 : -EPROTO;
}

void mc_kinds_pin(struct mc_engine *engine, void *addr, uint64_t len)
{
	struct kind *k = engine->kinds ? __atomic_load_n(&engine->kinds->list, __ATOMIC_ACQUIRE) : NULL;

	for (; k; k = k->next)
		k->plugin->ops.memory.pin(k->inst, addr, len);
}

void mc_kinds_unpin(struct mc_engine *engine, void *addr)
{
	struct kind *k = engine->kinds ? __atomic_load_n(&engine->kinds->list, __ATOMIC_ACQUIRE) : NULL;

	for (; k; k = k->next)
		k->plugin->ops.memory.unpin(k->inst, addr);
}

/* ---- copies --------------------------------------------------------------------------------- */

/* While a copy is under way host[0] is the asking worker; when the plugin has finished it, host
 * holds the post that brings the answer there, and priv[0], the plugin's no more, the status. */
static_assert(sizeof(struct mc_post) <= sizeof ((struct mc_copy *)0)->host, "a post fits into a copy");

static void copy_deliver(struct mc_post *post)
{
	struct mc_copy *c = MC_CONTAINER_OF((void **)post, struct mc_copy, host[0]);

	c->done(c, (int)(intptr_t)c->priv[0]);
}

static void kind_copied(const struct mc_host *h, struct mc_copy *c, int status)
{
	struct mc_worker *worker = c->host[0];
	struct mc_post *post = (struct mc_post *)(void *)c->host;

	c->priv[0] = (void *)(intptr_t)status;
	post->run = copy_deliver;
	mc_worker_post(worker, post);
}

/* Memory that a device's own mem_alloc gives, of a kind that no plugin knows: the CPU reaches it. */
static bool owned_kind(const struct mc_engine *engine, const char *kind)
{
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];

		for (const char *const *k = d->plugin->has_mem_alloc ? d->caps.local_kinds : NULL; k && *k; k++)
			if (!strcmp(*k, kind))
				return true;
	}
	return false;
}

bool mc_kind_copies(const struct mc_engine *engine, const char *kind)
{
	return strcmp(kind, "cpu") != 0 && (kind_find(engine, kind) || owned_kind(engine, kind));
}

/* It may lie in more caches than ours: others shall find what we write, and we read what they wrote. */
static int owned_copy(struct mc_engine *engine, struct mc_copy *c)
{
	if (!owned_kind(engine, c->kind))
		return -ENODEV;
	if (c->to_host) {
		mc_local_sync(engine, c->mem, c->len, MC_SYNC_REFRESH);
		memcpy(c->hostptr, c->mem, c->len);
	} else {
		memcpy(c->mem, c->hostptr, c->len);
		mc_local_sync(engine, c->mem, c->len, MC_SYNC_PUBLISH);
	}
	return MC_DONE;
}

int mc_kind_copy(struct mc_engine *engine, struct mc_worker *worker, struct mc_copy *c)
{
	struct kind *k;

	if (c->kind == cpu_name.text || !strcmp(c->kind, "cpu")) {
		if (c->to_host)
			memcpy(c->hostptr, c->mem, c->len);
		else
			memcpy(c->mem, c->hostptr, c->len);
		return MC_DONE;
	}
	k = kind_find(engine, c->kind);
	if (!k)
		return owned_copy(engine, c);
	c->host[0] = worker;
	return k->plugin->ops.memory.copy(k->inst, c);
}

bool mc_kinds_any(struct mc_engine *engine)
{
	return engine->kinds && __atomic_load_n(&engine->kinds->list, __ATOMIC_ACQUIRE);
}

void mc_kinds_flush(struct mc_engine *engine)
{
	struct kind *k = __atomic_load_n(&engine->kinds->list, __ATOMIC_ACQUIRE);

	for (; k; k = k->next) {
		struct mc_mem_desc all = {.size = sizeof all, .kind = k->name, .ordinal = -1, .dmabuf_fd = -1,
					  .share_fd = -1};

		k->plugin->ops.memory.flush(k->inst, &all);
	}
}
