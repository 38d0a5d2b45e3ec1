/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata plugins: keys, values and revisions, by one process. */
#include "cases_meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Is the key's value this, and its revision? */
static int holds(struct ctx *c, const char *key, const char *text, uint64_t revision)
{
	struct got g = get(c->meta, c->meta->a, key);
	bool same = g.status == 0 && g.len == strlen(text) && !memcmp(g.value, text, g.len);

	free(g.value);
	CHECK(g.status == 0, "get answers %d for a key that was written", g.status);
	CHECK(same, "get does not emit the value that was written last");
	CHECK(g.revision && (!revision || g.revision == revision),
	      "get emits revision %llu, the write had told %llu", (unsigned long long)g.revision,
	      (unsigned long long)revision);
	CHECK(!g.lease, "a key that was written without a lease has one");
	return PASS;
}

static int case_put(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "basics");
	struct mc_error err = {0};
	uint64_t r1 = 0, r2 = 0, r3 = 0;
	struct got g = {0};
	int r = s->ops->get(s->a, k, IN(5), got_emit, &g, &err);

	CHECK(r == -ENOENT, "get of a key that was never written answers %d, not -ENOENT", r);
	CHECK(sentence(&err, r), "get answers -ENOENT without a sentence");
	r = s->ops->del(s->a, k, 0, IN(5), &err);
	CHECK(r == -ENOENT && sentence(&err, r), "del of a key that does not exist answers %d '%s', not -ENOENT", r,
	      err.text);
	r = put(s, s->a, k, "one", 3, 0, &r1, &err);
	CHECK(r == 0, "put: %d %s", r, err.text);
	CHECK(r1, "put tells revision 0");
	r = put(s, s->a, k, "two", 3, 0, &r2, NULL);
	CHECK(r == 0 && r2 && r2 != r1, "a second put (%d) tells revision %llu after %llu", r, (unsigned long long)r2,
	      (unsigned long long)r1);
	r = put(s, s->a, k, "three", 5, 0, NULL, NULL);
	CHECK(r == 0, "put with ret_revision NULL answers %d", r);
	g = get(s, s->a, k);
	free(g.value);
	r3 = g.revision;
	CHECK(r3 != r1 && r3 != r2, "the revision does not change with a write");
	return holds(c, k, "three", r3);
}

static int case_delete(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "deleted");
	struct mc_error err = {0};
	uint64_t old = 0, now = 0;
	int r = put(s, s->a, k, "one", 3, 0, &old, NULL);

	CHECK(r == 0 && put(s, s->a, k, "two", 3, 0, &now, NULL) == 0, "put answers %d", r);
	r = s->ops->del(s->a, k, old, IN(5), &err);
	CHECK(r == -ESTALE && sentence(&err, r), "del of another revision answers %d '%s', not -ESTALE", r, err.text);
	r = holds(c, k, "two", now);
	if (r != PASS)
		return r;
	r = s->ops->del(s->a, k, now, IN(5), &err);
	CHECK(r == 0, "del of the present revision: %d %s", r, err.text);
	r = status_of(s, s->a, k);
	CHECK(r == -ENOENT, "get of a deleted key answers %d", r);
	r = s->ops->del(s->a, k, now, IN(5), &err);
	CHECK(r == -ENOENT || r == -ESTALE, "del of a revision that is gone answers %d", r);
	r = put(s, s->a, k, "x", 1, 0, NULL, NULL);
	CHECK(r == 0 && s->ops->del(s->a, k, 0, IN(5), NULL) == 0, "del of any revision fails");
	return PASS;
}

static int case_cas(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "cas");
	struct mc_error err = {0};
	uint64_t old = 0, r1 = 0, r2 = 0;
	int r = put(s, s->a, k, "before", 6, 0, &old, NULL);

	CHECK(r == 0 && s->ops->del(s->a, k, 0, IN(5), NULL) == 0, "put or del fails");
	r = cas(s, s->a, k, "x", 1, 0, old, NULL, &err);
	CHECK(r == -ESTALE && sentence(&err, r), "cas of a key that is gone answers %d '%s', not -ESTALE", r, err.text);
	r = cas(s, s->a, k, "x", 1, 0, 0, &r1, &err);
	CHECK(r == 0 && r1, "cas of a key that does not exist, expecting none: %d '%s'", r, err.text);
	r = cas(s, s->a, k, "y", 1, 0, 0, NULL, &err);
	CHECK(r == -EEXIST && sentence(&err, r), "cas of a key that exists, expecting none, answers %d '%s', not -EEXIST",
	      r, err.text);
	r = cas(s, s->a, k, "y", 1, 0, r1, &r2, &err);
	CHECK(r == 0 && r2 && r2 != r1, "cas of the present revision: %d '%s'", r, err.text);
	r = cas(s, s->a, k, "z", 1, 0, r1, NULL, &err);
	CHECK(r == -ESTALE, "cas of another revision answers %d, not -ESTALE", r);
	return holds(c, k, "y", r2);
}

static int rev_cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int case_revisions(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "revisions");
	uint64_t revs[150] = {0};

	for (int i = 0; i < 150; i++) {
		CHECK(put(s, s->a, k, "same", 4, 0, &revs[i], NULL) == 0, "put %d fails", i);
		CHECK(i % 3 || s->ops->del(s->a, k, 0, IN(5), NULL) == 0, "del %d fails", i);
	}
	qsort(revs, 150, sizeof revs[0], rev_cmp);
	for (int i = 0; i < 150; i++)
		CHECK(revs[i] && (i == 0 || revs[i] != revs[i - 1]), "revision %llu came twice for one key",
		      (unsigned long long)revs[i]);
	return PASS;
}

static int case_values(struct ctx *c)
{
	static const size_t lens[] = {0, 1, 7, 4095, 4096, 65537, MC_KV_VALUE_MAX};
	struct suite *s = c->meta;
	unsigned char *buf = malloc(MC_KV_VALUE_MAX + 1);
	const char *k = key_of(s, "values");
	struct mc_error err = {0};
	int r;

	for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
		struct got g;

		for (size_t j = 0; j < lens[i]; j++)
			buf[j] = (unsigned char)mix(j + i);
		r = put(s, s->a, k, lens[i] ? buf : NULL, lens[i], 0, NULL, &err);
		CHECK(r == 0, "put of %zu bytes: %d %s", lens[i], r, err.text);
		g = get(s, s->a, k);
		CHECK(g.status == 0 && g.len == lens[i] && !memcmp(g.value, buf, lens[i]),
		      "get does not emit the %zu bytes that were put", lens[i]);
		free(g.value);
	}
	r = put(s, s->a, k, buf, MC_KV_VALUE_MAX + 1, 0, NULL, &err);
	CHECK(r < 0 && sentence(&err, r), "a value of 1 MiB + 1 is taken, or refused without a sentence");
	CHECK(status_of(s, s->a, k) == 0, "the old value is gone after a put that was refused");
	free(buf);
	return PASS;
}

static int odd_keys(struct ctx *c)
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
	struct suite *s = c->meta;
	size_t nr = sizeof odd / sizeof odd[0];
	struct mc_error err = {0};

	for (size_t i = 0; i < nr; i++)
		CHECK(put(s, s->a, key_of(s, "odd/%s", odd[i]), &i, sizeof i, 0, NULL, &err) == 0,
		      "put of key '%s': %s", odd[i], err.text);
	for (size_t i = 0; i < nr; i++) {
		struct got g = get(s, s->a, key_of(s, "odd/%s", odd[i]));

		CHECK(g.status == 0 && g.len == sizeof i && !memcmp(g.value, &i, sizeof i),
		      "key '%s' is not found, or holds another's value", odd[i]);
		free(g.value);
		CHECK(s->ops->del(s->a, key_of(s, "odd/%s", odd[i]), 0, IN(5), NULL) == 0, "del of key '%s' fails",
		      odd[i]);
	}
	return PASS;
}

static int long_key(struct ctx *c, const char *key)
{
	struct suite *s = c->meta;
	struct mc_error err = {0};

	CHECK(put(s, s->a, key, "v", 1, 0, NULL, &err) == 0, "put of a key of %zu bytes: %s", strlen(key), err.text);
	CHECK(status_of(s, s->a, key) == 0, "a key of %zu bytes is not found", strlen(key));
	CHECK(s->ops->del(s->a, key, 0, IN(5), NULL) == 0, "del of a key of %zu bytes fails", strlen(key));
	return PASS;
}

static int case_keys(struct ctx *c)
{
	struct suite *s = c->meta;
	size_t pre = strlen(s->root);
	char longest[MC_KV_KEY_MAX + 2];
	struct mc_error err = {0};
	int r = odd_keys(c);

	/* Lengths around every limit that a plugin may have inside. */
	for (size_t len = pre + 1; r == PASS && len <= MC_KV_KEY_MAX; len += len < 300 ? 1 : 241) {
		memset(longest, 'x', len);
		memcpy(longest, s->root, pre);
		longest[len] = '\0';
		r = long_key(c, longest);
	}
	memset(longest + pre, '/', sizeof longest - pre);
	longest[MC_KV_KEY_MAX] = '\0';
	if (r == PASS)
		r = long_key(c, longest);
	if (r != PASS)
		return r;
	longest[MC_KV_KEY_MAX] = '/';
	longest[MC_KV_KEY_MAX + 1] = '\0';
	r = put(s, s->a, longest, "v", 1, 0, NULL, &err);
	CHECK(r < 0 && sentence(&err, r), "a key of 1024 bytes is taken, or refused without a sentence");
	r = put(s, s->a, "", "v", 1, 0, NULL, &err);
	CHECK(r < 0 && sentence(&err, r), "an empty key is taken, or refused without a sentence");
	return PASS;
}

static int list_put(struct suite *s, const char *key)
{
	return put(s, s->a, key, key, strlen(key), 0, NULL, NULL);
}

static int case_list(struct ctx *c)
{
	static const char *const names[] = {"b",        "a", "a/1", "a0", "a-",
					    "\xc3\xa4", "Z", "a%",  "zz", "a/1/2"};
	static struct listed l;
	struct suite *s = c->meta;
	size_t nr = sizeof names / sizeof names[0];
	struct mc_error err = {0};
	char tail[400];

	for (size_t i = 0; i < nr; i++)
		CHECK(list_put(s, key_of(s, "list/%s", names[i])) == 0, "put fails");
	/* A long key, as some plugins treat those otherwise; and one beside the prefix. */
	snprintf(tail, sizeof tail, "%slist/a%0300d", s->root, 7);
	CHECK(list_put(s, tail) == 0 && list_put(s, key_of(s, "lisu")) == 0, "put fails");
	CHECK(s->ops->list(s->a, key_of(s, "list/"), IN(5), list_emit, &l, &err) == 0, "list: %s", err.text);
	CHECK(l.nr == nr + 1, "list emits %zu keys of %zu", l.nr, nr + 1);
	CHECK(!l.bad, "list emits a key with another's value, or with revision 0");
	for (size_t i = 1; i < l.nr; i++)
		CHECK(strcmp(l.keys[i - 1], l.keys[i]) < 0, "list is not in byte order: '%.100s' then '%.100s'",
		      l.keys[i - 1], l.keys[i]);
	l.nr = 0;
	CHECK(s->ops->list(s->a, key_of(s, "list/a"), IN(5), list_emit, &l, NULL) == 0 && l.nr == 7,
	      "list of a prefix inside a name emits %zu keys of 7", l.nr);
	l = (struct listed){.stop_at = 3};
	s->ops->list(s->a, key_of(s, "list/"), IN(5), list_emit, &l, NULL);
	CHECK(l.nr == 3, "emit returned non-zero at the third key, %zu came", l.nr);
	l = (struct listed){.nr = 0};
	CHECK(s->ops->list(s->a, key_of(s, "none/"), IN(5), list_emit, &l, NULL) == 0 && l.nr == 0,
	      "list of a prefix without keys does not answer 0 with none");
	return PASS;
}

const struct test_case meta_key_cases[] = {
	{MOVES, "put", case_put, 8},
	{MOVES, "delete", case_delete, 8},
	{MOVES, "cas", case_cas, 8},
	{MOVES, "revisions", case_revisions, 8},
	{MOVES, "values", case_values, 8},
	{MOVES, "keys", case_keys, 8},
	{MOVES, "list", case_list, 8},
	{.run = NULL},
};
