/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata conformance: the descriptor, open and close, keys and values. */
#include "metadata.h"

#include "cli/check/census.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases: descriptor, open ------------------------------------------------------------------
 */

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
	EXPECT(!d->wire && !d->claims && d->flags == 0);
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
			fds = census_fds();
			threads = census_threads();
			heap = mallinfo2().uordblks;
		}
	}
	EXPECT(census_settles(census_fds, fds), "%u then %u", fds, census_fds());
	EXPECT(census_settles(census_threads, threads), "%u then %u", threads, census_threads());
	/* Sanitizers keep freed memory: then both counts are 0. */
	EXPECT(mallinfo2().uordblks < heap + 100 * 200, "%zu bytes then %zu", heap,
	       (size_t)mallinfo2().uordblks);
	return 0;
}

/* ---- cases: keys and values ---------------------------------------------------------------------
 */

static int case_basics(struct suite *s)
{
	const char *k = key_of(s, "basics");
	struct mc_error err = {0};
	uint64_t r1 = 0, r2 = 0, r3 = 0;
	struct got g = get(s, s->a, k);

	EXPECT(g.status == -ENOENT, "%d", g.status);
	EXPECT(s->ops->get(s->a, k, IN(5), got_emit, &g, &err) == -ENOENT &&
	       sentence(&err, -ENOENT));
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
		EXPECT(put(s, s->a, k, lens[i] ? buf : NULL, lens[i], 0, NULL, &err) == 0,
		       "%zu: %s", lens[i], err.text);
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
		"plain",    "a/b/c",      "a//b",
		"/",        "//",         ".",
		"..",       "../x",       "a%2Fb",
		"a/b%",     "%",          "%00",
		"UPPER",    "upper",      "\xc3\xa4\xe2\x82\xac\xf0\x9f\x8c\x99",
		" blank ",  "tab\there",  "new\nline",
		"\x01\x7f", "quote'\"\\", "star*?[]",
		"k.x",      "lock",       "t.x",
		"-",        "~",
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

static int list_put(struct suite *s, const char *key)
{
	return put(s, s->a, key, key, strlen(key), 0, NULL, NULL);
}

static int case_list(struct suite *s)
{
	static const char *const names[] = {"b",        "a", "a/1", "a0", "a-",
					    "\xc3\xa4", "Z", "a%",  "zz", "a/1/2"};
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
	EXPECT(s->ops->list(s->a, key_of(s, "none/"), IN(5), list_emit, &l, NULL) == 0 &&
	       l.nr == 0);
	return 0;
}

const struct test_case key_cases[] = {
	{"descriptor", case_descriptor},
	{"options", case_options},
	{"bad-url", case_bad_url},
	{"open-close", case_open_close},
	{"basics", case_basics},
	{"revisions", case_revisions},
	{"values", case_values},
	{"keys", case_keys},
	{"list", case_list},
	{NULL},
};
