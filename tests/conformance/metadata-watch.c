/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata conformance: watches and leases, in one process. */
#include "metadata.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases: watches
 * ------------------------------------------------------------------------------ */

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
			EXPECT(mh_watch_wait(w, k, rev, 4 * MC_SEC),
			       "round %d: the last is missing", i);
		mh_unwatch(w);
		mh_watch_free(w);
	}
	return 0;
}

/* ---- cases: leases
 * --------------------------------------------------------------------------------- */

static int case_lease_end(struct suite *s)
{
	const char *k = key_of(s, "lease/end");
	struct mc_error err = {0};
	uint64_t lease = 0, rev;
	struct mh_watch *w;
	struct listed l = {0};
	struct got g;

	EXPECT(put(s, s->a, k, "v", 1, UINT64_C(0x1234567812345), NULL, &err) == -ENOENT &&
		       sentence(&err, -ENOENT),
	       "a lease that does not exist was taken");
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

const struct test_case watch_cases[] = {
	{"watch", case_watch},
	{"watch-churn", case_watch_churn},
	{"lease-end", case_lease_end},
	{"lease-keep", case_lease_keep},
	{"lease-other", case_lease_other},
	{NULL},
};
