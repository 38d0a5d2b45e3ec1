/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations on keys and leases, one request each (a list: one per page).
 * A compare-and-swap is a transaction; when a try may have been carried out
 * without its answer reaching us, the key itself says whether it was.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "etcd.h"

static const char *what_of(char buf[160], const char *noun, const char *name)
{
	snprintf(buf, 160, "%s '%.130s%s'", noun, name, strlen(name) > 130 ? "..." : "");
	return buf;
}

static int check_key(const char *key, struct mc_error *err)
{
	size_t len = strlen(key);

	if (len == 0)
		return mc_fail(err, -EINVAL, "key '': a key has at least one byte");
	if (len > MC_KV_KEY_MAX)
		return mc_fail(err, -ENAMETOOLONG, "key '%.40s...': %zu bytes are more than %d", key, len,
			       MC_KV_KEY_MAX);
	return 0;
}

static int check_kv(const struct mc_kv *kv, struct mc_error *err)
{
	int r = check_key(kv->key, err);

	if (r == 0 && kv->len > MC_KV_VALUE_MAX)
		return mc_fail(err, -EFBIG, "key '%s': a value of %" PRIu64 " bytes is larger than 1 MiB",
			       kv->key, kv->len);
	return r;
}

static void add_key(struct etcd_text *t, const char *key)
{
	etcd_text_add(t, "\"key\":");
	etcd_text_bytes(t, key, strlen(key));
}

static void add_put(struct etcd_text *t, const struct mc_kv *kv)
{
	add_key(t, kv->key);
	etcd_text_add(t, ",\"value\":");
	etcd_text_bytes(t, kv->value, kv->len);
	if (kv->lease) {
		etcd_text_add(t, ",\"lease\":");
		etcd_text_u64(t, kv->lease);
	}
}

/* ---- get, put ---------------------------------------------------------------------------------- */

/* Keys of one answer, each later than the one before: a request that is repeated begins anew. */
struct emitter {
	mc_kv_emit emit;
	void *ctx;
	bool stopped;
	uint64_t nr;
	char last[MC_KV_KEY_MAX + 1];
};

static void emit_kv(void *ctx, const struct mc_kv *kv)
{
	struct emitter *m = ctx;

	if (m->stopped || (m->nr && strcmp(kv->key, m->last) <= 0))
		return;
	m->nr++;
	snprintf(m->last, sizeof m->last, "%s", kv->key);
	m->stopped = m->emit(m->ctx, kv) != 0;
}

/* Whether the service answers; rights do not matter.  [helper] */
int etcd_check(struct etcd_inst *e, uint64_t deadline_ns, struct mc_error *err)
{
	struct etcd_call c = {.path = "kv/range", .deadline_ns = deadline_ns};
	char what[160];
	int r;

	etcd_text_add(&c.body, "{");
	add_key(&c.body, "mooncake/");
	etcd_text_add(&c.body, ",\"keys_only\":true}");
	r = etcd_call(e, &c, what_of(what, "metadata", e->url), err);
	if (c.reply.code == ETCD_DENIED)
		r = 0;
	etcd_call_fini(&c);
	return r;
}

int etcd_get(void *inst, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	     struct mc_error *err)
{
	struct emitter m = {.emit = emit, .ctx = ctx};
	struct etcd_call c = {.path = "kv/range",
			      .deadline_ns = deadline_ns,
			      .sink = {.kv = emit_kv, .ctx = &m}};
	char what[160];
	int r = check_key(key, err);

	if (r < 0)
		return r;
	etcd_text_add(&c.body, "{");
	add_key(&c.body, key);
	etcd_text_add(&c.body, "}");
	r = etcd_call(inst, &c, what_of(what, "key", key), err);
	if (r == 0 && c.reply.nr_skipped)
		r = mc_fail(err, -EFBIG, "%s: its value is larger than 1 MiB; no engine wrote it", what);
	else if (r == 0 && m.nr == 0)
		r = mc_fail(err, -ENOENT, "%s: there is no such key", what);
	etcd_call_fini(&c);
	return r;
}

static int no_lease(int r, uint64_t lease, const char *what, struct mc_error *err)
{
	if (r != -ENOENT)
		return r;
	return mc_fail(err, r, "%s: lease %" PRIx64 " has ended, or never was; grant a new one", what, lease);
}

int etcd_put(void *inst, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
	     struct mc_error *err)
{
	struct etcd_call c = {.path = "kv/put", .deadline_ns = deadline_ns};
	char what[160];
	int r = check_kv(kv, err);

	if (r < 0)
		return r;
	etcd_text_add(&c.body, "{");
	add_put(&c.body, kv);
	etcd_text_add(&c.body, "}");
	r = etcd_call(inst, &c, what_of(what, "key", kv->key), err);
	if (r == 0 && ret_revision)
		*ret_revision = c.reply.revision;
	r = no_lease(r, kv->lease, what, err);
	etcd_call_fini(&c);
	return r;
}

/* ---- compare and swap, delete -------------------------------------------------------------------- */

/* What the key is instead of what was expected. */
struct found {
	const struct mc_kv *wrote; /* NULL: deleted */
	uint64_t revision;         /* 0: there is none */
	bool same;                 /* it holds what we wrote, under our lease */
};

static void found_kv(void *ctx, const struct mc_kv *kv)
{
	struct found *f = ctx;

	f->revision = kv->revision;
	f->same = f->wrote && kv->lease == f->wrote->lease && kv->len == f->wrote->len &&
		  (kv->len == 0 || memcmp(kv->value, f->wrote->value, kv->len) == 0);
}

/* {"compare":[key has the revision],"success":[...],"failure":[read it]}, without the success. */
static void txn_begin(struct etcd_text *t, const char *key, uint64_t expect_rev)
{
	etcd_text_add(t, "{\"compare\":[{\"target\":\"MOD\",\"result\":\"EQUAL\",");
	add_key(t, key);
	etcd_text_add(t, ",\"mod_revision\":");
	etcd_text_u64(t, expect_rev);
	etcd_text_add(t, "}],\"failure\":[{\"request_range\":{");
	add_key(t, key);
	etcd_text_add(t, "}}],\"success\":[{");
}

static int mismatch(const char *what, uint64_t expect_rev, const struct found *f, struct mc_error *err)
{
	if (expect_rev == 0)
		return mc_fail(err, -EEXIST, "%s: it exists, at revision %" PRIu64, what, f->revision);
	if (f->revision)
		return mc_fail(err, -ESTALE, "%s: it has revision %" PRIu64 ", not %" PRIu64, what,
			       f->revision, expect_rev);
	return mc_fail(err, -ESTALE, "%s: it is gone; expected was revision %" PRIu64, what, expect_rev);
}

int etcd_cas(void *inst, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
	     uint64_t *ret_revision, struct mc_error *err)
{
	struct found f = {.wrote = kv};
	struct etcd_call c = {.path = "kv/txn",
			      .deadline_ns = deadline_ns,
			      .sink = {.kv = found_kv, .ctx = &f}};
	uint64_t revision;
	char what[160];
	int r = check_kv(kv, err);

	if (r < 0)
		return r;
	txn_begin(&c.body, kv->key, expect_rev);
	etcd_text_add(&c.body, "\"request_put\":{");
	add_put(&c.body, kv);
	etcd_text_add(&c.body, "}}]}");
	r = etcd_call(inst, &c, what_of(what, "key", kv->key), err);
	revision = c.reply.revision;
	if (r == 0 && !c.reply.succeeded) {
		/* Our own lease on it tells our write; without one, another may have written the
		 * same. */
		if (c.maybe && f.same && kv->lease)
			revision = f.revision;
		else if (c.maybe && f.same)
			r = mc_fail(err, -ECONNRESET,
				    "%s: the connection broke while it was written, and it holds this "
				    "value now; whether by us is not known",
				    what);
		else
			r = mismatch(what, expect_rev, &f, err);
	}
	if (r == 0 && ret_revision)
		*ret_revision = revision;
	r = no_lease(r, kv->lease, what, err);
	etcd_call_fini(&c);
	return r;
}

int etcd_del(void *inst, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
	     struct mc_error *err)
{
	struct found f = {0};
	struct etcd_call c = {.path = expect_rev ? "kv/txn" : "kv/deleterange",
			      .deadline_ns = deadline_ns,
			      .leaving = true,
			      .sink = {.kv = found_kv, .ctx = &f}};
	char what[160];
	bool done;
	int r = check_key(key, err);

	if (r < 0)
		return r;
	if (expect_rev)
		txn_begin(&c.body, key, expect_rev);
	else
		etcd_text_add(&c.body, "{");
	if (expect_rev)
		etcd_text_add(&c.body, "\"request_delete_range\":{");
	add_key(&c.body, key);
	etcd_text_add(&c.body, expect_rev ? "}}]}" : "}");
	r = etcd_call(inst, &c, what_of(what, "key", key), err);
	done = expect_rev ? c.reply.succeeded : c.reply.deleted > 0;
	/* Gone after a try without an answer: it was that try. */
	if (r == 0 && !done && !(c.maybe && !f.revision)) {
		if (f.revision)
			r = mismatch(what, expect_rev, &f, err);
		else
			r = mc_fail(err, -ENOENT, "%s: there is no such key", what);
	}
	etcd_call_fini(&c);
	return r;
}

/* ---- list ---------------------------------------------------------------------------------------- */

int etcd_list_pages(struct etcd_inst *e, struct etcd_listing *l, struct mc_error *err)
{
	struct emitter m = {.emit = l->emit, .ctx = l->ctx};
	bool more = true;
	char what[160];
	int r = 0;

	if (strlen(l->prefix) > MC_KV_KEY_MAX)
		return mc_fail(err, -ENAMETOOLONG, "prefix '%.40s...': more than %d bytes", l->prefix,
			       MC_KV_KEY_MAX);
	for (bool first = true; r == 0 && more && !m.stopped; first = false) {
		struct etcd_call c = {.path = "kv/range",
				      .deadline_ns = l->deadline_ns,
				      .stop = l->stop,
				      .sink = {.kv = emit_kv, .ctx = &m}};
		uint64_t before = m.nr;

		etcd_text_add(&c.body, "{");
		etcd_text_range(&c.body, l->prefix, m.nr ? m.last : NULL);
		etcd_text_add(&c.body, ",\"limit\":");
		etcd_text_u64(&c.body, e->set.page);
		etcd_text_add(&c.body, l->keys_only ? ",\"keys_only\":true}" : "}");
		r = etcd_call(e, &c, what_of(what, "prefix", l->prefix), err);
		if (first) {
			l->revision = c.reply.revision;
			l->cluster = c.reply.cluster;
		}
		/* A page of nothing but strangers' keys has no last key to go on from. */
		more = c.reply.more && m.nr > before;
		if (r == 0 && c.reply.nr_skipped)
			e->host->log(e->host, MC_LOG_DEBUG, "%s: %u keys are left out: no engine wrote them",
				     what, c.reply.nr_skipped);
		etcd_call_fini(&c);
	}
	return r;
}

int etcd_list(void *inst, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
	      struct mc_error *err)
{
	struct etcd_listing l = {
		.prefix = prefix, .deadline_ns = deadline_ns, .emit = emit, .ctx = ctx};

	return etcd_list_pages(inst, &l, err);
}

/* ---- leases --------------------------------------------------------------------------------------- */

static void add_id(struct etcd_text *t, uint64_t lease)
{
	etcd_text_add(t, "{\"ID\":");
	etcd_text_u64(t, lease);
}

int etcd_lease_grant(void *inst, uint64_t ttl_ns, uint64_t deadline_ns, uint64_t *ret_lease,
		     struct mc_error *err)
{
	struct etcd_inst *e = inst;
	struct etcd_call c = {.path = "lease/grant", .deadline_ns = deadline_ns};
	uint64_t lease;
	int r;

	/* An id of ours, so that a repeated request does not make a second lease. */
	do {
		e->host->random(e->host, &lease, sizeof lease);
		lease &= INT64_MAX;
	} while (!lease);
	add_id(&c.body, lease);
	etcd_text_add(&c.body, ",\"TTL\":");
	etcd_text_u64(&c.body, ttl_ns / MC_SEC + (ttl_ns % MC_SEC != 0));
	etcd_text_add(&c.body, "}");
	r = etcd_call(e, &c, "lease", err);
	if (r < 0 && c.maybe && c.reply.code == ETCD_PRECONDITION)
		r = 0;
	if (r == 0)
		*ret_lease = lease;
	etcd_call_fini(&c);
	return r;
}

int etcd_lease_keepalive(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	struct etcd_call c = {.path = "lease/keepalive", .deadline_ns = deadline_ns};
	char what[40];
	int r;

	snprintf(what, sizeof what, "lease %" PRIx64, lease);
	add_id(&c.body, lease);
	etcd_text_add(&c.body, "}");
	r = etcd_call(inst, &c, what, err);
	/* One that has ended is answered without a time to live. */
	if (r == -ENOENT || (r == 0 && !c.reply.ttl))
		r = mc_fail(err, -ENOENT, "%s: it has ended, and its keys are gone; grant a new one", what);
	etcd_call_fini(&c);
	return r;
}

int etcd_lease_revoke(void *inst, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	struct etcd_call c = {.path = "lease/revoke", .deadline_ns = deadline_ns, .leaving = true};
	char what[40];
	int r;

	snprintf(what, sizeof what, "lease %" PRIx64, lease);
	add_id(&c.body, lease);
	etcd_text_add(&c.body, "}");
	r = etcd_call(inst, &c, what, err);
	if (r == -ENOENT && c.maybe)
		r = 0;
	else if (r == -ENOENT)
		r = mc_fail(err, r, "%s: it has ended before", what);
	etcd_call_fini(&c);
	return r;
}
