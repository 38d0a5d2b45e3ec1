/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata plugins: watches and leases, by one process.  Both are optional. */
#include "cases_meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NEEDS_WATCH(c)              \
	if (!has_watch((c)->meta)) \
	return skip(c, "no watches (watch, unwatch)")
#define NEEDS_LEASES(c)              \
	if (!has_leases((c)->meta)) \
	return skip(c, "no leases (lease_grant, lease_keepalive, lease_revoke); engines need them")

/* A watch, where the plugin has them; the cases of leases go without, too. */
static int watch_maybe(struct ctx *c, const char *prefix, struct mh_watch **ret)
{
	struct mc_error err = {0};
	int r;

	*ret = NULL;
	if (!has_watch(c->meta))
		return PASS;
	r = mh_watch(c->meta->in, prefix, ret, &err);
	CHECK(r == 0, "watch: %d %s", r, err.text);
	return PASS;
}

static bool seen(struct mh_watch *w, const char *key, uint64_t revision, uint64_t bound_ns)
{
	return !w || mh_watch_wait(w, key, revision, bound_ns);
}

static void watch_over(struct mh_watch *w)
{
	if (!w)
		return;
	mh_unwatch(w);
	mh_watch_free(w);
}

/* ---- watches --------------------------------------------------------------------------------- */

/* Two watches of one prefix: each change reaches both. */
static int changes_seen(struct ctx *c, struct mh_watch *w, struct mh_watch *w2, const char *k)
{
	struct suite *s = c->meta;
	uint64_t rev = 0;

	CHECK(put(s, s->a, k, "1", 1, 0, &rev, NULL) == 0, "put fails");
	CHECK(seen(w, k, rev, 3 * MC_SEC), "a put is not reported within 3 s");
	CHECK(seen(w2, k, rev, 3 * MC_SEC), "a put is not reported to a second watch within 3 s");
	CHECK(cas(s, s->a, k, "2", 1, 0, rev, &rev, NULL) == 0, "cas fails");
	CHECK(seen(w, k, rev, 3 * MC_SEC), "a cas is not reported within 3 s");
	CHECK(s->ops->del(s->a, k, 0, IN(5), NULL) == 0, "del fails");
	CHECK(seen(w, k, 0, 3 * MC_SEC), "a deletion is not reported within 3 s");
	CHECK(seen(w2, k, 0, 3 * MC_SEC), "a deletion is not reported to a second watch within 3 s");
	return PASS;
}

static int case_watch(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "watch/k"), *old = key_of(s, "watch/old");
	struct mh_watch *w, *w2;
	uint64_t rev = 0;
	size_t n;
	int r;

	NEEDS_WATCH(c);
	CHECK(put(s, s->a, old, "v", 1, 0, NULL, NULL) == 0, "put fails");
	r = watch_maybe(c, key_of(s, "watch/"), &w);
	if (r == PASS)
		r = watch_maybe(c, k, &w2);
	if (r == PASS)
		r = changes_seen(c, w, w2, k);
	if (r != PASS)
		return r;
	for (size_t i = 0; i < mh_watch_count(w); i++)
		CHECK(strcmp(w->events[i].key, old) != 0, "a key is reported that had not changed since the watch");
	CHECK(put(s, s->a, key_of(s, "watc"), "beside", 6, 0, NULL, NULL) == 0, "put fails");
	CHECK(s->ops->del(s->a, old, 0, IN(5), NULL) == 0, "del fails");
	CHECK(seen(w, old, 0, 3 * MC_SEC), "the deletion of a key that is older than the watch is not reported");
	mh_unwatch(w2);
	n = mh_watch_count(w2);
	CHECK(put(s, s->a, k, "3", 1, 0, &rev, NULL) == 0, "put fails");
	CHECK(seen(w, k, rev, 3 * MC_SEC), "the unwatch of one ends another");
	CHECK(mh_watch_count(w2) == n, "an event arrives after unwatch");
	for (size_t i = 0; i < mh_watch_count(w); i++)
		CHECK(!strncmp(w->events[i].key, key_of(s, "watch/"), strlen(s->root) + 6),
		      "key '%.200s' is reported, which is not below the prefix", w->events[i].key);
	mh_watch_free(w2);
	watch_over(w);
	return PASS;
}

/* Changes in the moment of watch and unwatch: none is lost, none comes late. */
static int case_watch_churn(struct ctx *c)
{
	struct suite *s = c->meta;

	NEEDS_WATCH(c);
	for (int i = 0; i < 30; i++) {
		const char *k = key_of(s, "churn/%d", i % 4); /* of this round */
		struct mh_watch *w;
		uint64_t rev = 0;
		int r;

		CHECK(put(s, s->a, k, "before", 6, 0, NULL, NULL) == 0, "put fails");
		r = watch_maybe(c, key_of(s, "churn/"), &w);
		if (r != PASS)
			return r;
		for (int j = 0; j <= i % 5; j++)
			CHECK(put(s, s->a, k, &j, sizeof j, 0, &rev, NULL) == 0, "put fails");
		CHECK(i % 3 == 2 || seen(w, k, rev, 4 * MC_SEC),
		      "round %d: the last change after watch had returned is not reported within 4 s", i);
		watch_over(w);
	}
	return PASS;
}

/* ---- leases ------------------------------------------------------------------------------------ */

static int grant(struct ctx *c, void *area, uint64_t *ret_lease)
{
	struct mc_error err = {0};
	int r = c->meta->ops->lease_grant(area, c->meta->ttl_ns, IN(5), ret_lease, &err);

	CHECK(r == 0, "lease_grant: %d %s", r, err.text);
	CHECK(*ret_lease, "lease_grant gives lease 0, which means none");
	return PASS;
}

/* What an ended lease leaves: nothing. */
static int lease_gone(struct ctx *c, const char *k, uint64_t lease)
{
	static struct listed l;
	struct suite *s = c->meta;
	struct mc_error err = {0};
	int r = s->ops->list(s->a, k, IN(5), list_emit, &l, NULL);

	CHECK(r == 0 && l.nr == 0, "list still emits a key whose lease has ended");
	r = s->ops->lease_keepalive(s->a, lease, IN(5), &err);
	CHECK(r == -ENOENT && sentence(&err, r), "lease_keepalive of an ended lease answers %d '%s', not -ENOENT", r,
	      err.text);
	r = put(s, s->a, k, "v", 1, lease, NULL, &err);
	CHECK(r == -ENOENT, "put under an ended lease answers %d, not -ENOENT", r);
	r = cas(s, s->a, k, "new", 3, 0, 0, NULL, &err);
	CHECK(r == 0, "a key whose lease has ended stands in the way of cas: %d %s", r, err.text);
	return PASS;
}

static int case_lease_end(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "lease/end");
	struct mc_error err = {0};
	uint64_t lease = 0, rev = 0;
	struct mh_watch *w;
	struct got g;
	int r;

	NEEDS_LEASES(c);
	r = put(s, s->a, k, "v", 1, UINT64_C(0x1234567812345), NULL, &err);
	CHECK(r == -ENOENT && sentence(&err, r), "put under a lease that does not exist answers %d '%s', not -ENOENT", r,
	      err.text);
	r = watch_maybe(c, key_of(s, "lease/"), &w);
	if (r == PASS)
		r = grant(c, s->a, &lease);
	if (r != PASS)
		return r;
	r = put(s, s->a, k, k, strlen(k), lease, &rev, &err);
	CHECK(r == 0, "put under a lease: %d %s", r, err.text);
	g = get(s, s->a, k);
	free(g.value);
	CHECK(g.status == 0 && g.lease == lease, "get does not emit the key's lease");
	CHECK(seen(w, k, rev, 3 * MC_SEC), "a put under a lease is not reported within 3 s");
	CHECK(wait_status(s, k, -ENOENT, s->ttl_ns + 3 * MC_SEC),
	      "a lease that is not kept alive does not end within its ttl and 3 s");
	CHECK(seen(w, k, 0, 4 * MC_SEC), "a watch is not told of the end of a lease within 4 s");
	r = lease_gone(c, k, lease);
	watch_over(w);
	return r;
}

static int case_lease_keep(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "keep"), *k2 = key_of(s, "keep2");
	struct mc_error err = {0};
	uint64_t lease = 0, end;
	int r;

	NEEDS_LEASES(c);
	r = grant(c, s->a, &lease);
	if (r != PASS)
		return r;
	CHECK(put(s, s->a, k, "v", 1, lease, NULL, NULL) == 0, "put under a lease fails");
	CHECK(cas(s, s->a, k2, "v", 1, lease, 0, NULL, NULL) == 0, "cas under a lease fails");
	end = mh_now() + 2 * s->ttl_ns + s->ttl_ns / 2;
	while (mh_now() < end) {
		r = s->ops->lease_keepalive(s->a, lease, IN(5), &err);
		CHECK(r == 0, "lease_keepalive: %d %s", r, err.text);
		CHECK(status_of(s, s->a, k) == 0, "a lease ends while it is kept alive");
		mh_sleep(s->ttl_ns / 4);
	}
	/* A key that is taken over without the lease outlives it. */
	CHECK(put(s, s->a, k2, "mine", 4, 0, NULL, NULL) == 0, "put fails");
	r = s->ops->lease_revoke(s->a, lease, IN(5), &err);
	CHECK(r == 0, "lease_revoke: %d %s", r, err.text);
	CHECK(status_of(s, s->a, k) == -ENOENT, "lease_revoke leaves the lease's key");
	CHECK(status_of(s, s->a, k2) == 0, "lease_revoke takes a key that was written without the lease since");
	r = s->ops->lease_keepalive(s->a, lease, IN(5), &err);
	CHECK(r == -ENOENT, "lease_keepalive of a revoked lease answers %d, not -ENOENT", r);
	r = s->ops->lease_revoke(s->a, lease, IN(5), &err);
	CHECK(r == -ENOENT, "lease_revoke of a revoked lease answers %d, not -ENOENT", r);
	return PASS;
}

/* Another instance sees the same: alive, kept, revoked, closed. */
static int case_lease_other(struct ctx *c)
{
	struct suite *s = c->meta;
	const char *k = key_of(s, "other");
	struct mc_error err = {0};
	struct mh_inst *b;
	struct mh_watch *w;
	uint64_t lease = 0, rev = 0;
	int r;

	NEEDS_LEASES(c);
	r = meta_open(c, s->url, &b, &err);
	CHECK(r == 0, "open of a second instance: %d %s", r, err.text);
	r = watch_maybe(c, k, &w);
	if (r == PASS)
		r = grant(c, mh_area(b), &lease);
	if (r != PASS)
		return r;
	CHECK(put(s, mh_area(b), k, "v", 1, lease, &rev, NULL) == 0, "put under a lease fails");
	CHECK(status_of(s, s->a, k) == 0, "another instance does not find the key");
	CHECK(seen(w, k, rev, 3 * MC_SEC), "another instance's put is not reported within 3 s");
	CHECK(s->ops->lease_revoke(mh_area(b), lease, IN(5), &err) == 0, "lease_revoke: %s", err.text);
	CHECK(status_of(s, s->a, k) == -ENOENT, "another instance still finds the key of a revoked lease");
	CHECK(seen(w, k, 0, 3 * MC_SEC), "the revocation by another instance is not reported within 3 s");
	r = grant(c, mh_area(b), &lease);
	if (r != PASS)
		return r;
	CHECK(put(s, mh_area(b), k, "v", 1, lease, &rev, NULL) == 0, "put under a lease fails");
	CHECK(seen(w, k, rev, 3 * MC_SEC), "another instance's put is not reported within 3 s");
	mh_close(b);
	CHECK(wait_status(s, k, -ENOENT, s->ttl_ns + 4 * MC_SEC), "a lease outlives the instance that was closed");
	CHECK(seen(w, k, 0, 4 * MC_SEC), "a watch is not told of the end of a closed instance's lease");
	watch_over(w);
	return PASS;
}

const struct test_case meta_watch_cases[] = {
	{BEHAVES, "watch", case_watch, 8},
	{BEHAVES, "watch-churn", case_watch_churn, 8},
	{BEHAVES, "lease-end", case_lease_end, 8},
	{BEHAVES, "lease-keep", case_lease_keep, 8},
	{BEHAVES, "lease-other", case_lease_other, 8},
	{.run = NULL},
};
