/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata/file under another name and, with one BENT_* defined, with one operation that
 * breaks the contract in one way: check-plugin must find it.  Our own state lies behind
 * that of metadata/file.  BENT_SLOW breaks nothing: what transports put takes SLOW_PUT_MS
 * of the environment.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/metadata.h>

#ifndef NAME
#define NAME "bent"
#endif

extern const struct mc_plugin_desc file_desc; /* metadata/file's own, by another name */
#define FILE_OPS ((const struct mc_metadata_ops *)file_desc.ops)
#define FILE_AREA 8192 /* no smaller than what it asks for, which open checks */

struct own {
	const struct mc_host *host;
	bool shut; /* BENT_ANY_URL: there is nothing below */
	int fd;
	struct mc_timer timer;
	struct mc_work work;
};

static struct own *own_of(void *inst)
{
	return (struct own *)((char *)inst + FILE_AREA);
}

static void nap(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void fire(struct mc_timer *t, uint64_t now_ns)
{
}

static void hold_up(struct mc_work *w)
{
	nap(700);
}

static int bent_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_error *err)
{
	struct own *o = own_of(inst);
	int r;

	if (FILE_OPS->instance_size > FILE_AREA)
		return mc_fail(err, -EINVAL, "FILE_AREA is too small");
#ifdef BENT_SLOW
	struct mc_open_args below = *args;
	char url[4096];

	snprintf(url, sizeof url, "file%s", strchr(args->device, ':'));
	below.device = url;
	args = &below;
#endif
	r = FILE_OPS->open(inst, host, args, err);
	o->host = host;
	o->fd = -1;
	o->timer = (struct mc_timer){.size = sizeof o->timer, .fire = fire};
	o->work = (struct mc_work){.size = sizeof o->work, .run = hold_up};
#if defined(BENT_ANY_URL)
	o->shut = r < 0;
	r = 0;
#elif defined(BENT_LEAKS_FD)
	if (fcntl(0, F_DUPFD_CLOEXEC, 3) < 0)
		return -errno;
#elif defined(BENT_INHERITS)
	o->fd = dup(0);
#elif defined(BENT_BLOCKS)
	host->post(host, &o->work);
	nap(20);
#elif defined(BENT_BESIDE)
	((unsigned char *)(o + 1))[0] ^= 1;
#endif
	return r;
}

static void bent_close(void *inst)
{
	struct own *o = own_of(inst);

	if (o->fd >= 0)
		close(o->fd);
	if (!o->shut)
		FILE_OPS->close(inst);
}

#ifdef BENT_FOLDS
static const char *fold(const char *key)
{
	static _Thread_local char folded[MC_KV_KEY_MAX + 2];

	for (size_t i = 0; i < sizeof folded; i++) {
		folded[i] = (char)tolower((unsigned char)key[i]);
		if (!key[i])
			break;
	}
	return folded;
}
#else
#define fold(key) (key)
#endif

static int bent_get(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		    struct mc_error *err)
{
	int r = FILE_OPS->get(inst, fold(key), deadline_ns, emit, ctx, err);

#ifdef BENT_WORDLESS
	if (r < 0 && err)
		err->text[0] = '\0';
#endif
	return r;
}

static int bent_put(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
		    struct mc_error *err)
{
	struct mc_kv changed = *kv;
	int r;

	changed.key = fold(kv->key);
#if defined(BENT_CUTS)
	if (kv->len > 65536)
		changed.len = 65536;
#elif defined(BENT_TEARS)
	changed.len /= 2;
	FILE_OPS->put(inst, &changed, deadline_ns, NULL, err);
	changed.len = kv->len;
	nap(2);
#elif defined(BENT_ELSEWHERE)
	own_of(inst)->host->timer_set(own_of(inst)->host, &own_of(inst)->timer, deadline_ns);
	own_of(inst)->host->timer_set(own_of(inst)->host, &own_of(inst)->timer, 0);
#elif defined(BENT_LATE)
	if (own_of(inst)->host->now_ns(own_of(inst)->host) > deadline_ns)
		nap(2500);
#elif defined(BENT_SLOW)
	if (getenv("SLOW_PUT_MS") && strstr(kv->key, "plugin/"))
		nap(atol(getenv("SLOW_PUT_MS")));
#endif
	r = FILE_OPS->put(inst, &changed, deadline_ns, ret_revision, err);
#ifdef BENT_SAME_REVISION
	if (r == 0 && ret_revision)
		*ret_revision = 7;
#endif
	return r;
}

static int bent_cas(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
		    uint64_t *ret_revision, struct mc_error *err)
{
	struct mc_kv changed = *kv;

	changed.key = fold(kv->key);
#ifdef BENT_BLIND
	return FILE_OPS->put(inst, &changed, deadline_ns, ret_revision, err);
#else
	return FILE_OPS->cas(inst, &changed, expect_rev, deadline_ns, ret_revision, err);
#endif
}

static int bent_del(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns, struct mc_error *err)
{
#ifdef BENT_DELETES
	expect_rev = 0;
#endif
	return FILE_OPS->del(inst, fold(key), expect_rev, deadline_ns, err);
}

struct all {
	mc_kv_emit emit;
	void *ctx;
};

/* Goes on whatever emit says. */
static int emit_all(void *ctx, const struct mc_kv *kv)
{
	struct all *all = ctx;

	all->emit(all->ctx, kv);
	return 0;
}

static int bent_list(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		     struct mc_error *err)
{
	struct all all = {emit, ctx};

#ifdef BENT_GOES_ON
	return FILE_OPS->list(inst, prefix, deadline_ns, emit_all, &all, err);
#else
	(void)all;
	(void)emit_all;
	return FILE_OPS->list(inst, prefix, deadline_ns, emit, ctx, err);
#endif
}

static int bent_watch(void *inst, void *watch, const char *prefix, uint64_t deadline_ns, struct mc_error *err)
{
#ifdef BENT_DEAF
	prefix = "somewhere/else";
#endif
	return FILE_OPS->watch(inst, watch, prefix, deadline_ns, err);
}

static void bent_unwatch(void *inst, void *watch)
{
#ifndef BENT_HEARS_ON
	FILE_OPS->unwatch(inst, watch);
#endif
}

static int bent_lease_grant(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
			    struct mc_error *err)
{
#ifdef BENT_IMMORTAL
	ttl_ns *= 100;
#endif
	return FILE_OPS->lease_grant(inst, ttl_ns, deadline_ns, ret_lease, err);
}

static int bent_lease_keepalive(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
#ifdef BENT_MORTAL
	return 0;
#else
	return FILE_OPS->lease_keepalive(inst, lease, deadline_ns, err);
#endif
}

#ifndef BENT_NO_REVOKE
static int bent_lease_revoke(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	return FILE_OPS->lease_revoke(inst, lease, deadline_ns, err);
}
#endif

static const struct mc_metadata_ops bent_ops = {
	.size = sizeof bent_ops,
	.instance_size = FILE_AREA + sizeof(struct own),
	.watch_size = FILE_AREA,
	.open = bent_open,
	.close = bent_close,
	.get = bent_get,
	.put = bent_put,
	.cas = bent_cas,
	.del = bent_del,
	.list = bent_list,
	.watch = bent_watch,
	.unwatch = bent_unwatch,
	.lease_grant = bent_lease_grant,
	.lease_keepalive = bent_lease_keepalive,
#ifndef BENT_NO_REVOKE
	.lease_revoke = bent_lease_revoke,
#endif
};

#if defined(BENT_SCHEME) || defined(BENT_SLOW)
static const char *const schemes[] = {"bent", NULL};
#else
static const char *const schemes[] = {"file", NULL};
#endif

/* In the order of metadata/file. */
static const char *const access_words[] = {"private", "group", "all", NULL};
static const struct mc_option options[] = {
	{.name = "fsync", .type = MC_OPT_BOOL, .def = "false", .doc = "as in metadata/file"},
	{.name = "rescan", .type = MC_OPT_DURATION, .def = "1s", .doc = "as in metadata/file"},
	{.name = "access", .type = MC_OPT_ENUM, .def = "private", .choices = access_words, .doc = "as in metadata/file"},
	{.name = NULL},
};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_METADATA),
	.name = NAME,
	.version = "1.0",
	.summary = "metadata/file, and something wrong with it",
	.ops = &bent_ops,
	.options = options,
	.schemes = schemes,
};
