/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening the metadata plugin that the URL names, and its operations: each runs
 * on a helper thread, for it may block until its deadline, and each error says
 * which service failed and what to do about it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "meta.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

/* ---- operations ---------------------------------------------------------------------------- */

enum op { OP_GET, OP_PUT, OP_CAS, OP_DEL, OP_LIST, OP_GRANT, OP_KEEPALIVE, OP_REVOKE, OP_OPEN, OP_CLOSE };

struct op_call {
	enum op op;
	struct mc_meta *m;
	const char *key;
	const struct mc_kv *kv;
	uint64_t expect_rev, deadline_ns, lease;
	uint64_t *ret;
	mc_kv_emit emit;
	void *ctx;
	const struct mc_open_args *args;
	struct mc_error *err;
};

static int op_run(void *arg)
{
	struct op_call *c = arg;
	struct mc_meta *m = c->m;
	const struct mc_metadata_ops *ops = m->ops;

	switch (c->op) {
	case OP_GET:
		return ops->get(m->inst, c->key, c->deadline_ns, c->emit, c->ctx, c->err);
	case OP_PUT:
		return ops->put(m->inst, c->kv, c->deadline_ns, c->ret, c->err);
	case OP_CAS:
		return ops->cas(m->inst, c->kv, c->expect_rev, c->deadline_ns, c->ret, c->err);
	case OP_DEL:
		return ops->del(m->inst, c->key, c->expect_rev, c->deadline_ns, c->err);
	case OP_LIST:
		return ops->list(m->inst, c->key, c->deadline_ns, c->emit, c->ctx, c->err);
	case OP_GRANT:
		return ops->lease_grant(m->inst, (uint64_t)m->engine->set->lease_ttl, c->deadline_ns,
					c->ret, c->err);
	case OP_KEEPALIVE:
		return ops->lease_keepalive(m->inst, c->lease, c->deadline_ns, c->err);
	case OP_REVOKE:
		return ops->lease_revoke(m->inst, c->lease, c->deadline_ns, c->err);
	case OP_OPEN:
		return ops->open(m->inst, &m->host, c->args, c->err);
	case OP_CLOSE:
		ops->close(m->inst);
		return 0;
	}
	return -EINVAL;
}

/* Proxies that the environment sets and metadata traffic does not use; NULL: none. */
static const char *proxy_set(const struct mc_meta *m)
{
	static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};

	if (strncmp(m->url, "file:", 5) == 0 || m->engine->set->metadata_proxy)
		return NULL;
	for (size_t i = 0; i < MC_ARRAY_SIZE(names); i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			return names[i];
	}
	return NULL;
}

/* Answers that are about a key, not about the service. */
static bool is_answer(int r)
{
	return r >= 0 || r == -ENOENT || r == -EEXIST || r == -ESTALE;
}

static int op_call(struct op_call *c)
{
	struct mc_error err = {0}, *out = c->err;
	const char *proxy;
	bool named; /* the plugin's sentence says which service */
	int r;

	c->err = &err;
	r = mc_helpers_call_until(c->m->engine->helpers, op_run, c,
				  c->deadline_ns ? c->deadline_ns : UINT64_MAX);
	if (r == -ETIMEDOUT && !err.text[0])
		mc_fail(&err, r, "no answer in time");
	if (is_answer(r) || !out) {
		return mc_fail_with(out, r, &err);
	}
	proxy = proxy_set(c->m);
	if (!err.text[0])
		snprintf(err.text, sizeof err.text, "%s", strerror(-r));
	named = strstr(err.text, c->m->url) != NULL;
	return mc_fail(out, r, "%s%s%s%.700s%s%s%s", named ? "" : "metadata service ",
		       named ? "" : c->m->url, named ? "" : ": ", err.text,
		       proxy ? "; " : "", proxy ? proxy : "",
		       proxy ? " is set but not used for metadata (metadata_proxy is false)" : "");
}

int mc_meta_get(struct mc_meta *m, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		struct mc_error *err)
{
	return op_call(&(struct op_call){.op = OP_GET, .m = m, .key = key, .deadline_ns = deadline_ns,
					 .emit = emit, .ctx = ctx, .err = err});
}

int mc_meta_put(struct mc_meta *m, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
		struct mc_error *err)
{
	return op_call(&(struct op_call){.op = OP_PUT, .m = m, .kv = kv, .deadline_ns = deadline_ns,
					 .ret = ret_revision, .err = err});
}

int mc_meta_cas(struct mc_meta *m, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
		uint64_t *ret_revision, struct mc_error *err)
{
	return op_call(&(struct op_call){.op = OP_CAS, .m = m, .kv = kv, .expect_rev = expect_rev,
					 .deadline_ns = deadline_ns, .ret = ret_revision, .err = err});
}

int mc_meta_del(struct mc_meta *m, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
		struct mc_error *err)
{
	return op_call(&(struct op_call){.op = OP_DEL, .m = m, .key = key, .expect_rev = expect_rev,
					 .deadline_ns = deadline_ns, .err = err});
}

int mc_meta_list(struct mc_meta *m, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit,
		 void *ctx, struct mc_error *err)
{
	return op_call(&(struct op_call){.op = OP_LIST, .m = m, .key = prefix,
					 .deadline_ns = deadline_ns, .emit = emit, .ctx = ctx,
					 .err = err});
}

/* ---- the lease on our own clock ------------------------------------------------------------- */

/* It was alive at some moment after `asked`, on the boot clock, and stands for its whole span from there. */
static void lease_stands(struct mc_meta *m, uint64_t asked)
{
	atomic_store(&m->lease_until, asked + m->lease_ttl);
}

void mc_meta_lease_ended(struct mc_meta *m, uint64_t lease)
{
	pthread_mutex_lock(&m->lock);
	/* Another thread may have been granted the next one. */
	if (lease && m->lease == lease) {
		m->lease = 0;
		atomic_store(&m->lease_until, 0);
	}
	pthread_mutex_unlock(&m->lock);
}

uint64_t mc_meta_lease_left(const struct mc_engine *engine)
{
	const struct mc_meta *m = engine->meta;
	uint64_t until, now;

	if (!m || !m->plugin->has_leases)
		return UINT64_MAX;
	until = atomic_load(&m->lease_until);
	now = until ? mc_boot_ns() : 0;
	return until > now ? until - now : 0;
}

int mc_meta_grant(struct mc_meta *m, uint64_t deadline_ns, uint64_t *ret_lease, struct mc_error *err)
{
	return op_call(&(struct op_call){.op = OP_GRANT, .m = m, .deadline_ns = deadline_ns,
					 .ret = ret_lease, .err = err});
}

int mc_meta_keepalive(struct mc_meta *m, uint64_t lease, uint64_t deadline_ns, struct mc_error *err)
{
	uint64_t asked = mc_boot_ns();
	int r = op_call(&(struct op_call){.op = OP_KEEPALIVE, .m = m, .lease = lease,
					  .deadline_ns = deadline_ns, .err = err});

	if (r == 0)
		lease_stands(m, asked);
	else if (r == -ENOENT)
		mc_meta_lease_ended(m, lease);
	return r;
}

int mc_meta_revoke(struct mc_meta *m, uint64_t lease, uint64_t deadline_ns)
{
	return op_call(&(struct op_call){.op = OP_REVOKE, .m = m, .lease = lease,
					 .deadline_ns = deadline_ns});
}

/* ---- open and close --------------------------------------------------------------------------- */

/* "etcd" for a bare host:port; the scheme is written to out. */
static int url_normalize(const char *text, char **ret_url, char scheme[32], struct mc_error *err)
{
	const char *sep = strstr(text, "://");
	size_t len = sep ? (size_t)(sep - text) : 0;

	if (sep && (len == 0 || len > 31))
		return mc_fail(err, -EINVAL,
			       "metadata_server '%s': no scheme before '://'; write file:///dir or "
			       "etcd://host:2379",
			       text);
	if (sep)
		snprintf(scheme, 32, "%.*s", (int)len, text);
	else
		snprintf(scheme, 32, "etcd");
	if (asprintf(ret_url, "%s%s", sep ? "" : "etcd://", text) < 0)
		return mc_fail(err, -ENOMEM, "metadata_server '%s': out of memory", text);
	return 0;
}

static void meta_free(struct mc_meta *m)
{
	mc_kept_free(m);
	mc_values_free(m->values);
	if (m->plugin)
		mc_plugin_unref(m->plugin);
	pthread_mutex_destroy(&m->watch_lock);
	pthread_cond_destroy(&m->kv_free);
	pthread_cond_destroy(&m->idle);
	pthread_mutex_destroy(&m->lock);
	free(m->inst);
	free(m->url);
	free(m->prefix);
	free(m);
}

static int meta_load(struct mc_meta *m, struct mc_error *err)
{
	struct mc_engine *engine = m->engine;
	const struct mc_manifest *manifest;
	struct mc_error why;
	char scheme[32];
	int r;

	r = url_normalize(engine->set->metadata_server ? engine->set->metadata_server : "", &m->url,
			  scheme, err);
	if (r < 0)
		return r;
	if (asprintf(&m->prefix, "mooncake/%s/", engine->set->cluster) < 0)
		return mc_fail(err, -ENOMEM, "metadata: out of memory");
	manifest = mc_registry_scheme(engine->registry, scheme, &why);
	if (!manifest)
		return mc_fail(err, -ENOENT, "metadata_server '%.300s': %s", m->url, why.text);
	r = mc_plugin_load(engine->registry, MC_KIND_METADATA, manifest->name, &m->plugin, err);
	if (r < 0)
		return r;
	m->ops = &m->plugin->ops.metadata;
	snprintf(m->label, sizeof m->label, "metadata %s", manifest->name);
	r = mc_config_plugin_values(engine->config, "metadata", manifest->name, m->plugin->desc,
				    &m->values, err);
	if (r < 0)
		return r;
	m->inst = calloc(1, MC_MAX(m->ops->instance_size, 1));
	return m->inst ? 0 : mc_fail(err, -ENOMEM, "metadata: out of memory");
}

int mc_meta_open(struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err)
{
	struct mc_meta *m = calloc(1, sizeof *m);
	struct mc_open_args args = {.size = sizeof args,
				    .engine = engine->name,
				    .generation = engine->generation,
				    .nr_lanes = 1,
				    .peer_timeout_ns = (uint64_t)engine->set->peer_timeout,
				    .deadline_ns = deadline_ns};
	int r;

	if (!m)
		return mc_fail(err, -ENOMEM, "metadata: out of memory");
	m->engine = engine;
	pthread_mutex_init(&m->lock, NULL);
	mc_cond_init(&m->idle);
	mc_cond_init(&m->kv_free);
	pthread_mutex_init(&m->watch_lock, NULL);
	r = meta_load(m, err);
	if (r == 0) {
		mc_meta_host_init(m);
		args.device = m->url;
		args.options = m->values;
		args.flags = engine->set->metadata_proxy ? MC_OPEN_PROXY : 0;
		r = op_call(&(struct op_call){.op = OP_OPEN, .m = m, .args = &args, .err = err});
	}
	if (r < 0) {
		meta_free(m);
		return r;
	}
	engine->meta = m;
	return 0;
}

void mc_meta_close(struct mc_engine *engine)
{
	struct mc_meta *m = engine->meta;

	if (!m)
		return;
	mc_kv_watches_drop(m);
	/* Left by a withdrawal that could not wait. */
	mc_control_timer(engine->control, &m->timer, 0);
	if (m->lease)
		mc_meta_revoke(m, m->lease, mc_now_ns() + MC_SEC);
	op_call(&(struct op_call){.op = OP_CLOSE, .m = m});
	mc_meta_host_wait(m);
	engine->meta = NULL;
	meta_free(m);
}

int mc_meta_lease(struct mc_meta *m, uint64_t deadline_ns, uint64_t *ret_lease, struct mc_error *err)
{
	uint64_t lease, unused = 0, asked = mc_boot_ns(), ttl = (uint64_t)m->engine->set->lease_ttl;
	int r;

	pthread_mutex_lock(&m->lock);
	lease = m->lease;
	pthread_mutex_unlock(&m->lock);
	if (!lease) {
		r = mc_meta_grant(m, deadline_ns, &lease, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&m->lock);
		if (m->lease) {
			unused = lease; /* another thread was faster */
			lease = m->lease;
		} else {
			m->lease_ttl = ttl;
			lease_stands(m, asked);
		}
		m->lease = lease;
		pthread_mutex_unlock(&m->lock);
		if (unused)
			mc_meta_revoke(m, unused, deadline_ns);
	}
	*ret_lease = lease;
	return 0;
}
