/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake/kv.h: keys of applications, below mooncake/<cluster>/app/.  What the
 * service answers is copied on the helper, and shown to the application on its
 * own thread when the call is over, so that it may do there what it likes.
 */
#include <assert.h>
#include <errno.h>
#include <mooncake/kv.h>
#include <stdlib.h>
#include <string.h>

#include "addr.h"
#include "clock.h"
#include "meta.h"
#include "core/util/check.h"

#define APP "app/"

static_assert(MC_KV_DATA_MAX <= MC_KV_VALUE_MAX, "a value of an application is one of a plugin");

/* One call, from its checks to its end. */
struct call {
	struct mc_meta *m;
	const char *name;  /* the application's key or prefix */
	const char *noun;  /* "key", "prefix" */
	size_t strip;      /* bytes of `key` before name */
	uint64_t deadline_ns;
	struct mc_error *err;
	char key[MC_KV_KEY_MAX + 1];
	struct found *found, **found_tail;
	bool no_memory; /* for a copy of what was found */
};

/* A copy of one key. */
struct found {
	struct found *next;
	uint64_t revision;
	size_t len;
	char *key; /* behind the value */
	uint8_t value[];
};

/* ---- checks and turns ------------------------------------------------------------------------------ */

static int check_name(const struct call *c, struct mc_error *err)
{
	const unsigned char *s = (const unsigned char *)c->name;
	size_t len = strnlen(c->name, MC_KV_NAME_MAX + 1);

	if (len > MC_KV_NAME_MAX)
		return mc_fail(err, -ENAMETOOLONG, "%s '%.40s...': longer than %d bytes", c->noun, c->name,
			       MC_KV_NAME_MAX);
	while (*s) {
		size_t n = mc_utf8_len(s);

		if (n == 0)
			return mc_fail(err, -EINVAL, "%s: byte %zu is not UTF-8", c->noun,
				       (size_t)(s - (const unsigned char *)c->name));
		if (*s < ' ' || *s == 0x7f)
			return mc_fail(err, -EINVAL, "%s '%s': has a control character", c->noun, c->name);
		s += n;
	}
	return 0;
}

/* Calls of an application take turns: there are two helpers, and a service that is silent shall not have
 * both.  On a helper, in a callback of mc_segment_list, waiting could be for oneself. */
static int turn_begin(struct call *c)
{
	struct timespec until = mc_wait_until(c->deadline_ns);
	struct mc_meta *m = c->m;
	int r = 0;

	if (mc_on_helper())
		return 0;
	pthread_mutex_lock(&m->lock);
	while (m->kv_busy && r == 0)
		r = pthread_cond_timedwait(&m->kv_free, &m->lock, &until);
	r = m->kv_busy ? -ETIMEDOUT : 0;
	if (r == 0)
		m->kv_busy = true;
	pthread_mutex_unlock(&m->lock);
	return r == 0 ? 0 : mc_fail(c->err, r, "%s '%s': metadata service %s: no answer in time to the calls before "
				    "this one", c->noun, c->name, m->url);
}

static void turn_end(struct call *c)
{
	if (mc_on_helper())
		return;
	pthread_mutex_lock(&c->m->lock);
	c->m->kv_busy = false;
	pthread_cond_signal(&c->m->kv_free);
	pthread_mutex_unlock(&c->m->lock);
}

static int call_begin(struct call *c, struct mc_engine *engine, const char *noun, const char *name, size_t min,
		      uint64_t timeout_ns, struct mc_error *err)
{
	int r = mc_engine_may_wait(engine, noun, err);

	if (r < 0)
		return r;
	*c = (struct call){.m = engine->meta, .noun = noun, .name = name, .deadline_ns = mc_deadline(timeout_ns),
			   .err = err, .found_tail = &c->found};
	if (!name || strlen(name) < min)
		return mc_fail(err, -EINVAL, "%s: may not be %s", noun, name ? "empty" : "NULL");
	r = check_name(c, err);
	if (r < 0)
		return r;
	if (!c->m)
		return mc_fail(err, -ENOTCONN, "%s '%s': no metadata service is open", noun, name);
	c->strip = strlen(c->m->prefix) + strlen(APP);
	if ((size_t)snprintf(c->key, sizeof c->key, "%s" APP "%s", c->m->prefix, name) >= sizeof c->key)
		return mc_fail(err, -ENAMETOOLONG, "%s '%.40s...': too long with the name of the cluster", noun, name);
	return turn_begin(c);
}

/* The end of a call of the service, and what its answer means. */
static int call_end(struct call *c, int r, uint64_t expect_revision, const struct mc_error *why)
{
	turn_end(c);
	if (c->no_memory)
		return mc_fail(c->err, -ENOMEM, "%s '%.300s': out of memory", c->noun, c->name);
	if (r >= 0)
		return r;
	if (r == -ENOENT)
		return mc_fail(c->err, r, "key '%s': there is no such key in cluster '%s' of %s", c->name,
			       c->m->engine->set->cluster, c->m->url);
	if (r == -EEXIST)
		return mc_fail(c->err, r, "key '%s': it exists already in cluster '%s' of %s", c->name,
			       c->m->engine->set->cluster, c->m->url);
	if (r == -ESTALE)
		return mc_fail(c->err, r, "key '%s': it is not at revision %llu any more in cluster '%s' of %s: somebody "
			       "has written or removed it since; read it again", c->name,
			       (unsigned long long)expect_revision, c->m->engine->set->cluster, c->m->url);
	return mc_fail(c->err, r, "%s '%.300s': %.700s", c->noun, c->name, why->text);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* [helper] */
static int copy_one(void *ctx, const struct mc_kv *kv)
{
	struct call *c = ctx;
	size_t size = strlen(kv->key) + 1;
	struct found *f;

	if (size <= c->strip)
		return 0;
	f = malloc(sizeof *f + kv->len + size - c->strip);
	if (!f) {
		c->no_memory = true;
		return -ENOMEM;
	}
	f->next = NULL;
	f->revision = kv->revision;
	f->len = kv->len;
	if (kv->len)
		memcpy(f->value, kv->value, kv->len);
	f->key = memcpy(f->value + kv->len, kv->key + c->strip, size - c->strip);
	*c->found_tail = f;
	c->found_tail = &f->next;
	return 0;
}

/* The number shown, or what `each` returned below 0; frees them. */
static int show(struct found *found, int (*each)(void *ctx, const struct mc_kv_entry *entry), void *ctx)
{
	int nr = 0, r = 0;

	while (found) {
		struct found *next = found->next;

		if (r == 0 && each) {
			struct mc_kv_entry entry = {.size = sizeof entry, .key = found->key, .value = found->value,
						    .len = found->len, .revision = found->revision};

			r = each(ctx, &entry);
			nr++;
		}
		free(found);
		found = next;
	}
	return r < 0 ? r : nr;
}

int mc_kv_read(struct mc_engine *engine, const char *key, uint64_t timeout_ns,
	       int (*each)(void *ctx, const struct mc_kv_entry *entry), void *ctx, struct mc_error *err)
{
	struct mc_error why = {0};
	struct call c;
	int r;

	if (!each)
		return mc_fail(err, -EINVAL, "key: each may not be NULL");
	r = call_begin(&c, engine, "key", key, 1, timeout_ns, err);
	if (r < 0)
		return r;
	r = call_end(&c, mc_meta_get(c.m, c.key, c.deadline_ns, copy_one, &c, &why), 0, &why);
	if (r < 0) {
		show(c.found, NULL, NULL);
		return r;
	}
	r = show(c.found, each, ctx);
	return r < 0 ? r : 0;
}

int mc_kv_each(struct mc_engine *engine, const char *prefix, uint64_t timeout_ns,
	       int (*each)(void *ctx, const struct mc_kv_entry *entry), void *ctx, struct mc_error *err)
{
	struct mc_error why = {0};
	struct call c;
	int r;

	if (!each)
		return mc_fail(err, -EINVAL, "prefix: each may not be NULL");
	r = call_begin(&c, engine, "prefix", prefix, 0, timeout_ns, err);
	if (r < 0)
		return r;
	r = call_end(&c, mc_meta_list(c.m, c.key, c.deadline_ns, copy_one, &c, &why), 0, &why);
	if (r < 0) {
		show(c.found, NULL, NULL);
		return r;
	}
	return show(c.found, each, ctx);
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static int store(struct mc_engine *engine, const char *key, const void *value, size_t len,
		 const uint64_t *expect_revision, uint32_t flags, uint64_t timeout_ns, uint64_t *ret_revision,
		 struct mc_error *err)
{
	struct mc_error why = {0};
	uint64_t revision = 0;
	struct mc_kv kv = {.size = sizeof kv, .value = value, .len = len};
	struct call c;
	int r;

	if (!value && len)
		return mc_fail(err, -EINVAL, "key: the value may not be NULL with a length of %zu", len);
	if (len > MC_KV_DATA_MAX)
		return mc_fail(err, -EMSGSIZE, "key: a value of %zu bytes; at most %u are taken", len, MC_KV_DATA_MAX);
	if (flags & ~MC_KV_LEASED)
		return mc_fail(err, -EINVAL, "key: flags 0x%x have bits that are not MC_KV_*", flags);
	r = call_begin(&c, engine, "key", key, 1, timeout_ns, err);
	if (r < 0)
		return r;
	kv.key = c.key;
	r = mc_kept_write(c.m, &kv, expect_revision, flags & MC_KV_LEASED, c.deadline_ns, &revision, &why);
	r = call_end(&c, r, expect_revision ? *expect_revision : 0, &why);
	if (r == 0 && ret_revision)
		*ret_revision = revision;
	return r;
}

int mc_kv_write(struct mc_engine *engine, const char *key, const void *value, size_t len, uint32_t flags,
		uint64_t timeout_ns, uint64_t *ret_revision, struct mc_error *err)
{
	return store(engine, key, value, len, NULL, flags, timeout_ns, ret_revision, err);
}

int mc_kv_swap(struct mc_engine *engine, const char *key, const void *value, size_t len, uint64_t expect_revision,
	       uint32_t flags, uint64_t timeout_ns, uint64_t *ret_revision, struct mc_error *err)
{
	return store(engine, key, value, len, &expect_revision, flags, timeout_ns, ret_revision, err);
}

int mc_kv_remove(struct mc_engine *engine, const char *key, uint64_t expect_revision, uint64_t timeout_ns,
		 struct mc_error *err)
{
	struct mc_error why = {0};
	struct call c;
	int r = call_begin(&c, engine, "key", key, 1, timeout_ns, err);

	if (r < 0)
		return r;
	return call_end(&c, mc_kept_remove(c.m, c.key, expect_revision, c.deadline_ns, &why), expect_revision, &why);
}
