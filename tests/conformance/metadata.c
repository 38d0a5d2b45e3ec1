/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance of metadata plugins: one program for all of them, which sees only
 * mooncake/metadata.h.
 *
 *   metadata [--ttl=SECONDS] [--only=CASE] [--setup=COMMAND] PLUGIN.so [URL]
 *
 * "@TMP@" in the URL becomes a fresh directory that is removed at the end.
 * COMMAND starts a server, prints its URL as one line and ends when its stdin
 * closes; when it exits with 77, everything is skipped.  Exit: 0, 1 failed,
 * 2 usage, 77 all skipped.
 */
#include "metadata.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

char why[2048];

/* ---- helpers ------------------------------------------------------------------------------- */

int explain(int line, const char *cond, const char *fmt, ...)
{
	int n = snprintf(why, 400, "line %d: %s:", line, cond);
	va_list ap;

	if (n > 399)
		n = 399;
	va_start(ap, fmt);
	vsnprintf(why + n, sizeof why - (size_t)n, fmt, ap);
	va_end(ap);
	return -1;
}

static int got_emit(void *ctx, const struct mc_kv *kv)
{
	struct got *g = ctx;

	g->revision = kv->revision;
	g->len = kv->len;
	g->lease = kv->lease;
	g->value = malloc(kv->len + 1);
	if (kv->len)
		memcpy(g->value, kv->value, kv->len);
	return 0;
}

struct got get(struct suite *s, void *area, const char *key)
{
	struct mc_error err = {0};
	struct got g = {0};

	g.status = s->ops->get(area, key, IN(5), got_emit, &g, &err);
	return g;
}

int status_of(struct suite *s, void *area, const char *key)
{
	struct got g = get(s, area, key);

	free(g.value);
	return g.status;
}

int put(struct suite *s, void *area, const char *key, const void *value, size_t len,
	uint64_t lease, uint64_t *ret_rev, struct mc_error *err)
{
	struct mc_kv kv = {.size = sizeof kv, .key = key, .value = value, .len = len,
			   .lease = lease};

	return s->ops->put(area, &kv, IN(5), ret_rev, err);
}

int cas(struct suite *s, void *area, const char *key, const void *value, size_t len,
	uint64_t lease, uint64_t expect, uint64_t *ret_rev, struct mc_error *err)
{
	struct mc_kv kv = {.size = sizeof kv, .key = key, .value = value, .len = len,
			   .lease = lease};

	return s->ops->cas(area, &kv, expect, IN(5), ret_rev, err);
}

const char *key_of(struct suite *s, const char *fmt, ...)
{
	static _Thread_local char bufs[16][256];
	static _Thread_local unsigned next;
	char *buf = bufs[next++ % 16];
	int n = snprintf(buf, 256, "%s", s->root);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + n, 256 - (size_t)n, fmt, ap);
	va_end(ap);
	return buf;
}

bool wait_status(struct suite *s, const char *key, int status, uint64_t bound_ns)
{
	uint64_t end = mh_now() + bound_ns;

	for (;;) {
		bool ok = status_of(s, s->a, key) == status;

		if (ok || mh_now() >= end)
			return ok;
		mh_sleep(10 * MC_MSEC);
	}
}

static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

void pattern_fill(unsigned char *buf, size_t len, uint64_t seed)
{
	uint64_t size = len;

	memcpy(buf, &seed, 8);
	memcpy(buf + 8, &size, 8);
	for (size_t i = 16; i < len; i++)
		buf[i] = (unsigned char)mix(seed + i);
}

bool pattern_ok(const unsigned char *buf, size_t len)
{
	uint64_t seed, size;

	if (len < 16)
		return false;
	memcpy(&seed, buf, 8);
	memcpy(&size, buf + 8, 8);
	for (size_t i = 16; i < len; i++)
		if (buf[i] != (unsigned char)mix(seed + i))
			return false;
	return size == len;
}

static unsigned count_dir(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

/* A sentence: present, one line, with the code. */
static bool sentence(const struct mc_error *err, int r)
{
	return err->code == r && strlen(err->text) > 8 && !strchr(err->text, '\n');
}

/* ---- cases: descriptor, open ------------------------------------------------------------------ */

static int case_descriptor(struct suite *s)
{
	const struct mc_plugin_desc *d = s->plugin.desc;
	const struct mc_metadata_ops *o = s->ops;
	char file[64];
	bool ours = false;

	EXPECT(d->name && *d->name && strlen(d->name) <= MC_PLUGIN_NAME_MAX);
	EXPECT(!d->name[strspn(d->name, "abcdefghijklmnopqrstuvwxyz0123456789-")]);
	snprintf(file, sizeof file, "metadata-%s.so", d->name);
	EXPECT(strstr(s->path, file), "the file is not %s", file);
	EXPECT(d->version && d->summary && !strchr(d->summary, '\n'));
	EXPECT(!d->wire && !d->claims && d->reserved == 0);
	EXPECT(d->schemes && d->schemes[0]);
	for (size_t i = 0; d->schemes[i]; i++) {
		size_t n = strlen(d->schemes[i]);

		ours |= !strncmp(s->url, d->schemes[i], n) && s->url[n] == ':';
	}
	EXPECT(ours, "no scheme fits '%s'", s->url);
	EXPECT(o->size >= offsetof(struct mc_metadata_ops, lease_revoke) + sizeof(o->lease_revoke));
	EXPECT(o->open && o->close && o->get && o->put && o->cas && o->del && o->list);
	EXPECT(o->watch && o->unwatch && o->lease_grant && o->lease_keepalive && o->lease_revoke);
	return 0;
}

static int case_options(struct suite *s)
{
	const struct mc_plugin_desc *d = s->plugin.desc;
	struct mc_error err = {0};
	struct mc_value *v;

	EXPECT(mh_options(d, NULL, &v, &err) == 0, "%s", err.text);
	free(v);
	for (const struct mc_option *o = d->options; o && o->name; o++)
		for (const struct mc_option *p = o + 1; p->name; p++)
			EXPECT(strcmp(o->name, p->name) != 0, "'%s' twice", o->name);
	return 0;
}

static int case_bad_url(struct suite *s)
{
	char bare[64];
	const char *urls[] = {"", "nonsense", "bogus:///x", bare};

	snprintf(bare, sizeof bare, "%s://", s->plugin.desc->schemes[0]);
	for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
		struct mc_error err = {0};
		struct mh_inst *in;
		int r = mh_open(&s->plugin, urls[i], NULL, &in, &err);

		EXPECT(r < 0, "'%s' was opened", urls[i]);
		EXPECT(sentence(&err, r), "'%s': %d: %s", urls[i], r, err.text);
		EXPECT(strstr(err.text, urls[i]), "'%s' is not named: %s", urls[i], err.text);
	}
	return 0;
}

static int case_open_close(struct suite *s)
{
	unsigned fds = 0, threads = 0;
	size_t heap = 0;

	for (int i = 0; i < 103; i++) {
		struct mc_error err = {0};
		struct mh_inst *in;

		EXPECT(mh_open(&s->plugin, s->url, NULL, &in, &err) == 0, "%d: %s", i, err.text);
		if (i % 10 == 0) {
			struct mh_watch *w;
			uint64_t lease;

			EXPECT(mh_watch(in, s->root, &w, &err) == 0, "%s", err.text);
			EXPECT(s->ops->lease_grant(mh_area(in), 10 * MC_SEC, IN(5), &lease, &err) ==
				       0,
			       "%s", err.text);
			mh_unwatch(w);
			mh_watch_free(w);
		}
		mh_close(in);
		if (i == 2) { /* first turns pay for what stays */
			fds = count_dir("/proc/self/fd");
			threads = count_dir("/proc/self/task");
			heap = mallinfo2().uordblks;
		}
	}
	EXPECT(count_dir("/proc/self/fd") <= fds, "%u then %u", fds, count_dir("/proc/self/fd"));
	EXPECT(count_dir("/proc/self/task") <= threads);
	/* Sanitizers keep freed memory: then both counts are 0. */
	EXPECT(mallinfo2().uordblks < heap + 100 * 200, "%zu bytes then %zu", heap,
	       (size_t)mallinfo2().uordblks);
	return 0;
}

/* ---- cases: keys and values --------------------------------------------------------------------- */

static int case_basics(struct suite *s)
{
	const char *k = key_of(s, "basics");
	struct mc_error err = {0};
	uint64_t r1 = 0, r2 = 0, r3 = 0;
	struct got g = get(s, s->a, k);

	EXPECT(g.status == -ENOENT, "%d", g.status);
	EXPECT(s->ops->get(s->a, k, IN(5), got_emit, &g, &err) == -ENOENT && sentence(&err, -ENOENT));
	EXPECT(s->ops->del(s->a, k, 0, IN(5), &err) == -ENOENT && sentence(&err, -ENOENT));
	EXPECT(put(s, s->a, k, "one", 3, 0, &r1, &err) == 0, "%s", err.text);
	EXPECT(r1 != 0);
	EXPECT(put(s, s->a, k, "two", 3, 0, &r2, NULL) == 0 && r2 && r2 != r1);
	EXPECT(put(s, s->a, k, "three", 5, 0, NULL, NULL) == 0);
	g = get(s, s->a, k);
	EXPECT(g.status == 0 && g.len == 5 && !memcmp(g.value, "three", 5) && g.lease == 0);
	EXPECT(g.revision && g.revision != r1 && g.revision != r2);
	free(g.value);
	EXPECT(s->ops->del(s->a, k, r2, IN(5), &err) == -ESTALE && sentence(&err, -ESTALE));
	EXPECT(s->ops->del(s->a, k, g.revision, IN(5), &err) == 0, "%s", err.text);
	EXPECT(status_of(s, s->a, k) == -ENOENT);
	EXPECT(s->ops->del(s->a, k, g.revision, IN(5), &err) < 0);

	EXPECT(cas(s, s->a, k, "x", 1, 0, r1, NULL, &err) == -ESTALE && sentence(&err, -ESTALE));
	EXPECT(cas(s, s->a, k, "x", 1, 0, 0, &r1, &err) == 0, "%s", err.text);
	EXPECT(cas(s, s->a, k, "y", 1, 0, 0, NULL, &err) == -EEXIST && sentence(&err, -EEXIST));
	EXPECT(cas(s, s->a, k, "y", 1, 0, r1, &r3, &err) == 0 && r3 && r3 != r1, "%s", err.text);
	EXPECT(cas(s, s->a, k, "z", 1, 0, r1, NULL, &err) == -ESTALE);
	g = get(s, s->a, k);
	EXPECT(g.status == 0 && g.len == 1 && g.value[0] == 'y' && g.revision == r3);
	free(g.value);
	EXPECT(s->ops->del(s->a, k, 0, IN(5), NULL) == 0);
	return 0;
}

static int rev_cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int case_revisions(struct suite *s)
{
	const char *k = key_of(s, "revisions");
	uint64_t revs[150];

	for (int i = 0; i < 150; i++) {
		EXPECT(put(s, s->a, k, "same", 4, 0, &revs[i], NULL) == 0);
		if (i % 3 == 0)
			EXPECT(s->ops->del(s->a, k, 0, IN(5), NULL) == 0);
	}
	qsort(revs, 150, sizeof revs[0], rev_cmp);
	for (int i = 0; i < 150; i++)
		EXPECT(revs[i] && (i == 0 || revs[i] != revs[i - 1]));
	return 0;
}

static int case_values(struct suite *s)
{
	static const size_t lens[] = {0, 1, 7, 4095, 4096, 65537, MC_KV_VALUE_MAX};
	unsigned char *buf = malloc(MC_KV_VALUE_MAX + 1);
	const char *k = key_of(s, "values");
	struct mc_error err = {0};
	int r;

	for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
		struct got g;

		for (size_t j = 0; j < lens[i]; j++)
			buf[j] = (unsigned char)mix(j + i);
		EXPECT(put(s, s->a, k, lens[i] ? buf : NULL, lens[i], 0, NULL, &err) == 0, "%zu: %s",
		       lens[i], err.text);
		g = get(s, s->a, k);
		EXPECT(g.status == 0 && g.len == lens[i] && !memcmp(g.value, buf, lens[i]), "%zu",
		       lens[i]);
		free(g.value);
	}
	r = put(s, s->a, k, buf, MC_KV_VALUE_MAX + 1, 0, NULL, &err);
	EXPECT(r < 0 && sentence(&err, r), "1 MiB + 1 was taken");
	EXPECT(status_of(s, s->a, k) == 0, "the old value is gone");
	free(buf);
	return 0;
}

static int case_keys(struct suite *s)
{
	static const char *const odd[] = {
		"plain", "a/b/c", "a//b", "/", "//", ".", "..", "../x", "a%2Fb", "a/b%", "%", "%00",
		"UPPER", "upper", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x8c\x99", " blank ", "tab\there",
		"new\nline", "\x01\x7f", "quote'\"\\", "star*?[]", "k.x", "lock", "t.x", "-", "~",
	};
	size_t nr = sizeof odd / sizeof odd[0], pre = strlen(s->root);
	char longest[MC_KV_KEY_MAX + 2];
	struct mc_error err = {0};
	int r;

	for (size_t i = 0; i < nr; i++)
		EXPECT(put(s, s->a, key_of(s, "odd/%s", odd[i]), &i, sizeof i, 0, NULL, &err) == 0,
		       "'%s': %s", odd[i], err.text);
	for (size_t i = 0; i < nr; i++) {
		struct got g = get(s, s->a, key_of(s, "odd/%s", odd[i]));

		EXPECT(g.status == 0 && g.len == sizeof i && !memcmp(g.value, &i, sizeof i), "'%s'",
		       odd[i]);
		free(g.value);
		EXPECT(s->ops->del(s->a, key_of(s, "odd/%s", odd[i]), 0, IN(5), NULL) == 0);
	}
	/* Lengths around every limit that a plugin may have inside. */
	for (size_t len = pre + 1; len <= MC_KV_KEY_MAX; len += len < 300 ? 1 : 241) {
		memset(longest, 'x', len);
		memcpy(longest, s->root, pre);
		longest[len] = '\0';
		EXPECT(put(s, s->a, longest, &len, sizeof len, 0, NULL, &err) == 0, "%zu: %s", len,
		       err.text);
		EXPECT(status_of(s, s->a, longest) == 0, "%zu", len);
		EXPECT(s->ops->del(s->a, longest, 0, IN(5), NULL) == 0);
	}
	memset(longest + pre, '/', sizeof longest - pre);
	longest[MC_KV_KEY_MAX] = '\0';
	EXPECT(put(s, s->a, longest, "v", 1, 0, NULL, &err) == 0, "%s", err.text);
	EXPECT(status_of(s, s->a, longest) == 0);
	EXPECT(s->ops->del(s->a, longest, 0, IN(5), NULL) == 0);
	longest[MC_KV_KEY_MAX] = '/';
	longest[MC_KV_KEY_MAX + 1] = '\0';
	r = put(s, s->a, longest, "v", 1, 0, NULL, &err);
	EXPECT(r < 0 && sentence(&err, r), "1024 bytes were taken");
	r = put(s, s->a, "", "v", 1, 0, NULL, &err);
	EXPECT(r < 0 && sentence(&err, r), "an empty key was taken");
	return 0;
}

struct listed {
	char keys[64][MC_KV_KEY_MAX + 1];
	size_t nr, stop_at;
	bool bad;
};

static int list_emit(void *ctx, const struct mc_kv *kv)
{
	struct listed *l = ctx;

	l->bad |= !kv->revision || kv->len != strlen(kv->key) ||
		  memcmp(kv->value, kv->key, kv->len) != 0;
	if (l->nr < 64)
		snprintf(l->keys[l->nr++], sizeof l->keys[0], "%s", kv->key);
	return l->nr == l->stop_at;
}

static int list_put(struct suite *s, const char *key)
{
	return put(s, s->a, key, key, strlen(key), 0, NULL, NULL);
}

static int case_list(struct suite *s)
{
	static const char *const names[] = {"b", "a", "a/1", "a0", "a-", "\xc3\xa4", "Z", "a%", "zz",
					    "a/1/2"};
	size_t nr = sizeof names / sizeof names[0];
	struct listed l = {0};
	struct mc_error err = {0};
	char tail[400];

	memset(tail, 'y', sizeof tail);
	tail[sizeof tail - 1] = '\0';
	for (size_t i = 0; i < nr; i++)
		EXPECT(list_put(s, key_of(s, "list/%s", names[i])) == 0);
	/* A long key, as some plugins treat those otherwise; and one beside the prefix. */
	snprintf(tail, sizeof tail, "%slist/a%0300d", s->root, 7);
	EXPECT(list_put(s, tail) == 0);
	EXPECT(list_put(s, key_of(s, "lisu")) == 0);
	EXPECT(s->ops->list(s->a, key_of(s, "list/"), IN(5), list_emit, &l, &err) == 0, "%s",
	       err.text);
	EXPECT(l.nr == nr + 1 && !l.bad, "%zu keys", l.nr);
	for (size_t i = 1; i < l.nr; i++)
		EXPECT(strcmp(l.keys[i - 1], l.keys[i]) < 0, "'%s' then '%s'", l.keys[i - 1],
		       l.keys[i]);
	l.nr = 0;
	EXPECT(s->ops->list(s->a, key_of(s, "list/a"), IN(5), list_emit, &l, NULL) == 0);
	EXPECT(l.nr == 7, "%zu keys", l.nr);
	l = (struct listed){.stop_at = 3};
	s->ops->list(s->a, key_of(s, "list/"), IN(5), list_emit, &l, NULL);
	EXPECT(l.nr == 3, "non-zero did not stop it: %zu", l.nr);
	l = (struct listed){0};
	EXPECT(s->ops->list(s->a, key_of(s, "none/"), IN(5), list_emit, &l, NULL) == 0 && l.nr == 0);
	return 0;
}

/* ---- cases: watches ------------------------------------------------------------------------------ */

static int case_watch(struct suite *s)
{
	const char *k = key_of(s, "watch/k"), *old = key_of(s, "watch/old");
	struct mh_watch *w, *w2;
	struct mc_error err = {0};
	uint64_t rev;
	size_t n;

	EXPECT(put(s, s->a, old, "v", 1, 0, NULL, NULL) == 0);
	EXPECT(mh_watch(s->in, key_of(s, "watch/"), &w, &err) == 0, "%s", err.text);
	EXPECT(mh_watch(s->in, key_of(s, "watch/k"), &w2, &err) == 0, "%s", err.text);
	EXPECT(put(s, s->a, k, "1", 1, 0, &rev, NULL) == 0);
	EXPECT(mh_watch_wait(w, k, rev, 3 * MC_SEC), "put was not seen");
	EXPECT(mh_watch_wait(w2, k, rev, 3 * MC_SEC), "put was not seen by the second");
	EXPECT(cas(s, s->a, k, "2", 1, 0, rev, &rev, NULL) == 0);
	EXPECT(mh_watch_wait(w, k, rev, 3 * MC_SEC), "cas was not seen");
	EXPECT(s->ops->del(s->a, k, 0, IN(5), NULL) == 0);
	EXPECT(mh_watch_wait(w, k, 0, 3 * MC_SEC), "delete was not seen");
	EXPECT(mh_watch_wait(w2, k, 0, 3 * MC_SEC), "delete was not seen by the second");
	/* A key that was there before is not reported, until it changes. */
	for (size_t i = 0; i < mh_watch_count(w); i++)
		EXPECT(strcmp(w->events[i].key, old) != 0, "'%s' had not changed", old);
	EXPECT(put(s, s->a, key_of(s, "watc"), "beside", 6, 0, NULL, NULL) == 0);
	EXPECT(s->ops->del(s->a, old, 0, IN(5), NULL) == 0);
	EXPECT(mh_watch_wait(w, old, 0, 3 * MC_SEC), "delete of an old key was not seen");
	mh_unwatch(w2);
	n = mh_watch_count(w2);
	EXPECT(put(s, s->a, k, "3", 1, 0, &rev, NULL) == 0);
	EXPECT(mh_watch_wait(w, k, rev, 3 * MC_SEC), "the first went with the second");
	EXPECT(mh_watch_count(w2) == n, "an event after unwatch");
	for (size_t i = 0; i < mh_watch_count(w); i++)
		EXPECT(!strncmp(w->events[i].key, key_of(s, "watch/"), strlen(s->root) + 6),
		       "'%s' is not below the prefix", w->events[i].key);
	mh_unwatch(w);
	mh_watch_free(w2);
	mh_watch_free(w);
	return 0;
}

/* Changes in the moment of watch and unwatch: none is lost, none comes late. */
static int case_watch_churn(struct suite *s)
{
	struct mc_error err = {0};

	for (int i = 0; i < 30; i++) {
		const char *k = key_of(s, "churn/%d", i % 4); /* of this round */
		struct mh_watch *w;
		uint64_t rev = 0;

		EXPECT(put(s, s->a, k, "before", 6, 0, NULL, NULL) == 0);
		EXPECT(mh_watch(s->in, key_of(s, "churn/"), &w, &err) == 0, "%s", err.text);
		for (int j = 0; j <= i % 5; j++)
			EXPECT(put(s, s->a, k, &j, sizeof j, 0, &rev, NULL) == 0);
		if (i % 3 != 2)
			EXPECT(mh_watch_wait(w, k, rev, 4 * MC_SEC), "round %d: the last is missing",
			       i);
		mh_unwatch(w);
		mh_watch_free(w);
	}
	return 0;
}

/* ---- cases: leases --------------------------------------------------------------------------------- */

static int case_lease_end(struct suite *s)
{
	const char *k = key_of(s, "lease/end");
	struct mc_error err = {0};
	uint64_t lease = 0, rev;
	struct mh_watch *w;
	struct listed l = {0};
	struct got g;

	EXPECT(put(s, s->a, k, "v", 1, UINT64_C(0x1234567812345), NULL, &err) == -ENOENT &&
	       sentence(&err, -ENOENT), "a lease that does not exist was taken");
	EXPECT(mh_watch(s->in, key_of(s, "lease/"), &w, &err) == 0);
	EXPECT(s->ops->lease_grant(s->a, s->ttl_ns, IN(5), &lease, &err) == 0, "%s", err.text);
	EXPECT(lease != 0);
	EXPECT(put(s, s->a, k, k, strlen(k), lease, &rev, &err) == 0, "%s", err.text);
	g = get(s, s->a, k);
	free(g.value);
	EXPECT(g.status == 0 && g.lease == lease);
	EXPECT(mh_watch_wait(w, k, rev, 3 * MC_SEC));
	EXPECT(wait_status(s, k, -ENOENT, s->ttl_ns + 3 * MC_SEC), "it did not end");
	EXPECT(mh_watch_wait(w, k, 0, 4 * MC_SEC), "the watch did not see the end");
	EXPECT(s->ops->list(s->a, k, IN(5), list_emit, &l, NULL) == 0 && l.nr == 0);
	EXPECT(s->ops->lease_keepalive(s->a, lease, IN(5), &err) == -ENOENT &&
	       sentence(&err, -ENOENT));
	EXPECT(put(s, s->a, k, "v", 1, lease, NULL, &err) == -ENOENT, "an ended lease was taken");
	EXPECT(cas(s, s->a, k, "new", 3, 0, 0, NULL, &err) == 0, "the dead key stands in the way");
	mh_unwatch(w);
	mh_watch_free(w);
	return 0;
}

static int case_lease_keep(struct suite *s)
{
	const char *k = key_of(s, "keep"), *k2 = key_of(s, "keep2");
	struct mc_error err = {0};
	uint64_t lease, end;

	EXPECT(s->ops->lease_grant(s->a, s->ttl_ns, IN(5), &lease, &err) == 0, "%s", err.text);
	EXPECT(put(s, s->a, k, "v", 1, lease, NULL, NULL) == 0);
	EXPECT(cas(s, s->a, k2, "v", 1, lease, 0, NULL, NULL) == 0);
	end = mh_now() + 2 * s->ttl_ns + s->ttl_ns / 2;
	while (mh_now() < end) {
		EXPECT(s->ops->lease_keepalive(s->a, lease, IN(5), &err) == 0, "%s", err.text);
		EXPECT(status_of(s, s->a, k) == 0, "it ended while kept alive");
		mh_sleep(s->ttl_ns / 4);
	}
	/* A key that is taken over without the lease outlives it. */
	EXPECT(put(s, s->a, k2, "mine", 4, 0, NULL, NULL) == 0);
	EXPECT(s->ops->lease_revoke(s->a, lease, IN(5), &err) == 0, "%s", err.text);
	EXPECT(status_of(s, s->a, k) == -ENOENT, "revoke did not remove it");
	EXPECT(status_of(s, s->a, k2) == 0, "the key had left the lease");
	EXPECT(s->ops->lease_keepalive(s->a, lease, IN(5), &err) == -ENOENT);
	EXPECT(s->ops->lease_revoke(s->a, lease, IN(5), &err) == -ENOENT);
	return 0;
}

/* Another instance sees the same: alive, kept, revoked, closed. */
static int case_lease_other(struct suite *s)
{
	const char *k = key_of(s, "other");
	struct mc_error err = {0};
	struct mh_inst *b;
	struct mh_watch *w;
	uint64_t lease, rev;

	EXPECT(mh_open(&s->plugin, s->url, NULL, &b, &err) == 0, "%s", err.text);
	EXPECT(mh_watch(s->in, k, &w, &err) == 0);
	EXPECT(s->ops->lease_grant(mh_area(b), s->ttl_ns, IN(5), &lease, &err) == 0);
	EXPECT(put(s, mh_area(b), k, "v", 1, lease, &rev, NULL) == 0);
	EXPECT(status_of(s, s->a, k) == 0);
	EXPECT(mh_watch_wait(w, k, rev, 3 * MC_SEC));
	EXPECT(s->ops->lease_revoke(mh_area(b), lease, IN(5), &err) == 0);
	EXPECT(status_of(s, s->a, k) == -ENOENT);
	EXPECT(mh_watch_wait(w, k, 0, 3 * MC_SEC), "revoke was not seen");
	EXPECT(s->ops->lease_grant(mh_area(b), s->ttl_ns, IN(5), &lease, &err) == 0);
	EXPECT(put(s, mh_area(b), k, "v", 1, lease, &rev, NULL) == 0);
	EXPECT(mh_watch_wait(w, k, rev, 3 * MC_SEC));
	mh_close(b);
	EXPECT(mh_watch_wait(w, k, 0, s->ttl_ns + 4 * MC_SEC), "it outlived its instance");
	EXPECT(status_of(s, s->a, k) == -ENOENT);
	mh_unwatch(w);
	mh_watch_free(w);
	return 0;
}

/* ---- main -------------------------------------------------------------------------------------------- */

static const struct test_case one_cases[] = {
	{"descriptor", case_descriptor},
	{"options", case_options},
	{"bad-url", case_bad_url},
	{"basics", case_basics},
	{"revisions", case_revisions},
	{"values", case_values},
	{"keys", case_keys},
	{"list", case_list},
	{"watch", case_watch},
	{"watch-churn", case_watch_churn},
	{"lease-end", case_lease_end},
	{"lease-keep", case_lease_keep},
	{"lease-other", case_lease_other},
	{"open-close", case_open_close},
	{NULL},
};

struct totals {
	unsigned passed, failed, skipped;
};

static void run_cases(struct suite *s, const struct test_case *c, const char *only,
		      struct totals *t)
{
	for (; c->name; c++) {
		unsigned breaches = mh_breaches();
		uint64_t begin = mh_now();
		int r;

		if (only && strcmp(only, c->name) != 0)
			continue;
		why[0] = '\0';
		r = c->run(s);
		if (r == 0 && mh_breaches() > breaches) {
			r = -1;
			snprintf(why, sizeof why, "breach: %s", mh_last_breach());
		}
		if (r == 0)
			printf("ok    %s (%.2f s)\n", c->name, (double)(mh_now() - begin) / 1e9);
		else
			printf("%s  %s: %s\n", r == SKIP ? "skip" : "FAIL", c->name, why);
		fflush(stdout);
		t->passed += r == 0;
		t->skipped += r == SKIP;
		t->failed += r != 0 && r != SKIP;
	}
}

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

/* Start the set-up command; its URL, or NULL.  *ret_fd closed ends it. */
static char *setup_start(const char *command, int *ret_fd, pid_t *ret_pid)
{
	int in[2], out[2];
	static char url[512];
	size_t n = 0;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return NULL;
	*ret_pid = fork();
	if (*ret_pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	*ret_fd = in[1];
	while (n < sizeof url - 1 && read(out[0], url + n, 1) == 1 && url[n] != '\n')
		n++;
	url[n] = '\0';
	close(out[0]);
	return n ? url : NULL;
}

/* Replace "@TMP@". */
static char *expand(const char *url, char tmp[])
{
	const char *at = strstr(url, "@TMP@");
	static char out[512];

	if (!at)
		return strcpy(out, url);
	if (!mkdtemp(tmp))
		return NULL;
	snprintf(out, sizeof out, "%.*s%s%s", (int)(at - url), url, tmp, at + 5);
	return out;
}

static int run_all(struct suite *s, const char *only)
{
	struct mc_error err = {0};
	struct totals t = {0};

	snprintf(s->root, sizeof s->root, "mooncake/conformance/%d-%llx/", (int)getpid(),
		 (unsigned long long)mh_now());
	if (mh_load(s->path, &s->plugin, &err) < 0 ||
	    mh_open(&s->plugin, s->url, NULL, &s->in, &err) < 0) {
		printf("FAIL  open: %s\n0 passed, 1 failed, 0 skipped\n", err.text);
		return 1;
	}
	s->ops = s->plugin.ops;
	s->a = mh_area(s->in);
	run_cases(s, one_cases, only, &t);
	run_cases(s, many_cases, only, &t);
	mh_close(s->in);
	printf("%u passed, %u failed, %u skipped\n", t.passed, t.failed, t.skipped);
	return t.failed ? 1 : t.passed ? 0 : 77;
}

static int child(int argc, char **argv)
{
	struct suite s = {.self = argv[0], .path = argv[2], .url = argv[3]};
	struct mc_error err = {0};
	int r;

	snprintf(s.root, sizeof s.root, "%s", argv[4]);
	s.ttl_ns = strtoull(argv[5], NULL, 10);
	if (mh_load(s.path, &s.plugin, &err) < 0 ||
	    mh_open(&s.plugin, s.url, NULL, &s.in, &err) < 0) {
		fprintf(stderr, "child: %s\n", err.text);
		return 1;
	}
	s.ops = s.plugin.ops;
	s.a = mh_area(s.in);
	r = child_main(&s, argc - 6, argv + 6);
	mh_close(s.in);
	return r;
}

int main(int argc, char **argv)
{
	struct suite s = {.self = "/proc/self/exe", .ttl_ns = MC_SEC};
	const char *setup = NULL, *only = NULL, *url = NULL;
	char tmp[] = "/tmp/mooncake-metadata-XXXXXX";
	int r, fd = -1, status;
	pid_t pid = 0;

	if (argc > 6 && !strcmp(argv[1], "--child"))
		return child(argc, argv);
	for (argv++; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strncmp(*argv, "--ttl=", 6))
			s.ttl_ns = (uint64_t)(strtod(*argv + 6, NULL) * 1e9);
		else if (!strncmp(*argv, "--only=", 7))
			only = *argv + 7;
		else if (!strncmp(*argv, "--setup=", 8))
			setup = *argv + 8;
		else
			break;
	}
	if (argv[0] && (argv[1] || setup) && s.ttl_ns) {
		s.path = argv[0];
		url = argv[1];
	} else {
		fprintf(stderr, "usage: metadata [--ttl=SECONDS] [--only=CASE] [--setup=COMMAND] "
				"PLUGIN.so [URL]\n");
		return 2;
	}
	if (setup) {
		url = setup_start(setup, &fd, &pid);
		if (!url) {
			waitpid(pid, &status, 0);
			r = WIFEXITED(status) && WEXITSTATUS(status) == 77 ? 77 : 1;
			printf("%s  set-up: '%s' gave no URL\n0 passed, %d failed, %d skipped\n",
			       r == 77 ? "skip" : "FAIL", setup, r == 1, r == 77);
			return r;
		}
	}
	s.url = expand(url, tmp);
	r = s.url ? run_all(&s, only) : 1;
	if (!strchr(tmp, 'X') || strcmp(strrchr(tmp, '-'), "-XXXXXX") != 0)
		nftw(tmp, rm_one, 16, FTW_DEPTH | FTW_PHYS);
	if (fd >= 0)
		close(fd);
	if (pid > 0)
		waitpid(pid, &status, 0);
	return r;
}
