/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What plugins and applications wrote under the engine's lease: it goes with the
 * lease, and comes back with the next.  A copy of each is kept until it is
 * removed or written without a lease; record.c, which keeps the lease alive, has
 * those written again that it finds lost.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta.h"

struct mc_kept {
	struct mc_kept *next; /* m->kept */
	uint64_t lease;       /* under which it was written; 0: it is to be written */
	size_t len;
	char *key; /* whole; behind the value */
	uint8_t value[];
};

static struct mc_kept *kept_new(const char *key, const void *value, size_t len)
{
	struct mc_kept *k = malloc(sizeof *k + len + strlen(key) + 1);

	if (!k)
		return NULL;
	k->next = NULL;
	k->lease = 0;
	k->len = len;
	if (len)
		memcpy(k->value, value, len);
	k->key = strcpy((char *)k->value + len, key);
	return k;
}

/* Called with the lock held. */
static struct mc_kept **kept_find(struct mc_meta *m, const char *key)
{
	struct mc_kept **at = &m->kept;

	while (*at && strcmp((*at)->key, key) != 0)
		at = &(*at)->next;
	return at;
}

/* Put k, NULL for nothing, in the place of what is kept for the key, which is the caller's then. */
static struct mc_kept *kept_swap(struct mc_meta *m, const char *key, struct mc_kept *k)
{
	struct mc_kept **at, *old;

	pthread_mutex_lock(&m->lock);
	at = kept_find(m, key);
	old = *at;
	if (old)
		*at = old->next;
	if (k) {
		k->next = m->kept;
		m->kept = k;
	}
	pthread_mutex_unlock(&m->lock);
	return old;
}

void mc_kept_free(struct mc_meta *m)
{
	struct mc_kept *k;

	while ((k = m->kept)) {
		m->kept = k->next;
		free(k);
	}
}

/* ---- by their owner ---------------------------------------------------------------------------- */

/* A lease that ended unseen is replaced; record.c finds out soon, and writes the others. */
static int write_leased(struct mc_meta *m, struct mc_kv *kv, const uint64_t *expect, uint64_t deadline_ns,
			uint64_t *ret_revision, struct mc_error *err)
{
	int r;

	for (int tries = 0; tries < 3; tries++) {
		r = mc_meta_lease(m, deadline_ns, &kv->lease, err);
		if (r < 0)
			return r;
		r = expect ? mc_meta_cas(m, kv, *expect, deadline_ns, ret_revision, err)
			   : mc_meta_put(m, kv, deadline_ns, ret_revision, err);
		if (r != -ENOENT)
			return r;
		mc_meta_lease_ended(m, kv->lease);
	}
	return mc_fail(err, -ETIMEDOUT, "metadata service %s: each lease ended before the key could be written under "
		       "it; is lease_ttl too short for a service so slow?", m->url);
}

int mc_kept_write(struct mc_meta *m, struct mc_kv *kv, const uint64_t *expect, bool leased, uint64_t deadline_ns,
		  uint64_t *ret_revision, struct mc_error *err)
{
	struct mc_kept *k = NULL;
	int r;

	kv->lease = 0;
	if (leased) {
		k = kept_new(kv->key, kv->value, kv->len);
		r = k ? write_leased(m, kv, expect, deadline_ns, ret_revision, err)
		      : mc_fail(err, -ENOMEM, "out of memory");
	} else {
		r = expect ? mc_meta_cas(m, kv, *expect, deadline_ns, ret_revision, err)
			   : mc_meta_put(m, kv, deadline_ns, ret_revision, err);
	}
	if (r < 0) {
		free(k);
		return r;
	}
	if (k)
		k->lease = kv->lease;
	free(kept_swap(m, kv->key, k));
	return r;
}

int mc_kept_remove(struct mc_meta *m, const char *key, uint64_t expect_rev, uint64_t deadline_ns, struct mc_error *err)
{
	/* Not kept before it is removed: a rewrite under way looks afterwards whether it still is. */
	struct mc_kept *k = kept_swap(m, key, NULL);
	int r = mc_meta_del(m, key, expect_rev, deadline_ns, err);

	if (r == -ESTALE && k)
		k = kept_swap(m, key, k);
	free(k);
	return r;
}

/* ---- again --------------------------------------------------------------------------------------- */

/* A copy of one that is to be written under this lease, marked as written; NULL: none is left. */
static struct mc_kept *kept_due(struct mc_meta *m, uint64_t lease)
{
	struct mc_kept *k, *copy = NULL;

	pthread_mutex_lock(&m->lock);
	for (k = m->kept; k && k->lease == lease; k = k->next)
		;
	if (k)
		copy = kept_new(k->key, k->value, k->len);
	if (copy)
		k->lease = lease;
	pthread_mutex_unlock(&m->lock);
	return copy;
}

static void kept_undo(struct mc_meta *m, const char *key)
{
	struct mc_kept *k;

	pthread_mutex_lock(&m->lock);
	k = *kept_find(m, key);
	if (k)
		k->lease = 0;
	pthread_mutex_unlock(&m->lock);
}

static bool is_kept(struct mc_meta *m, const char *key)
{
	bool kept;

	pthread_mutex_lock(&m->lock);
	kept = *kept_find(m, key) != NULL;
	pthread_mutex_unlock(&m->lock);
	return kept;
}

static int write_again(struct mc_meta *m, const struct mc_kept *k, uint64_t lease, uint64_t deadline_ns,
		       struct mc_error *err)
{
	struct mc_kv kv = {.size = sizeof kv, .key = k->key, .value = k->value, .len = k->len, .lease = lease};
	uint64_t revision = 0;
	int r = mc_meta_cas(m, &kv, 0, deadline_ns, &revision, err);

	if (r == -EEXIST || r == -ESTALE)
		return 0; /* it is there; if somebody else wrote it, it is his now */
	if (r == -ENOENT)
		mc_meta_lease_ended(m, lease);
	if (r < 0)
		kept_undo(m, k->key);
	else if (!is_kept(m, k->key)) /* its owner removed it meanwhile */
		mc_meta_del(m, k->key, revision, deadline_ns, NULL);
	return r;
}

int mc_kept_rewrite(struct mc_meta *m, bool lost, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_kept *k;
	uint64_t lease;
	int r = 0;

	pthread_mutex_lock(&m->lock);
	lease = m->lease;
	for (k = lost ? m->kept : NULL; k; k = k->next)
		k->lease = 0;
	pthread_mutex_unlock(&m->lock);
	while (r == 0 && lease && (k = kept_due(m, lease))) {
		r = write_again(m, k, lease, deadline_ns, err);
		free(k);
	}
	return r;
}
