/* SPDX-License-Identifier: Apache-2.0 */
/* The opened metadata service: its plugin's operations with the core's errors.  meta.c */
#ifndef MC_CORE_META_H
#define MC_CORE_META_H

#include "engine.h"
#include "record.h"

struct mc_kv_watch;
struct mc_kept;

struct mc_meta {
	struct mc_host host; /* first: services find the instance by it */
	struct mc_engine *engine;
	struct mc_plugin *plugin;
	const struct mc_metadata_ops *ops; /* the plugin's, without NULLs */
	struct mc_value *values;
	void *inst;
	char *url, *prefix; /* "mooncake/<cluster>/" */
	char label[MC_PLUGIN_NAME_MAX + 12];
	uint32_t works;         /* atomic: posts and blocking work of the plugin on their way */

	/* record.c: guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t idle;     /* the keepalive job has ended */
	uint64_t lease;          /* 0: none */
	/* Atomic, on the boot clock: until then the lease stands; 0: it does not. */
	_Atomic uint64_t lease_until;
	uint64_t lease_ttl;      /* with which it was granted */
	uint64_t revision;       /* of our record */
	bool stopping, job_running;
	/* Atomic: /health and /metrics look without the lock. */
	atomic_bool published;
	atomic_bool trouble;     /* the service is down, and that was said */
	atomic_bool name_lost;   /* another engine holds our name, and that was said */
	atomic_bool outdated;    /* our record says what we were before a reload */
	_Atomic uint64_t failures; /* of keeping the record alive */
	uint64_t backoff_ns;
	struct mc_timer timer;
	struct mc_job job;

	struct mc_kept *kept;  /* meta_kept.c: leased keys of plugins and applications, guarded by lock */
	/* kv.c, under lock: one call of the application at a time asks the service, so that one that is
	 * silent leaves a helper to others. */
	bool kv_busy;
	pthread_cond_t kv_free;

	pthread_mutex_t watch_lock; /* guards watches; held for a few instructions */
	struct mc_kv_watch *watches;
};

/* Each runs on a helper and waits for it; keys are whole.  The errors name the URL and say what to
 * do.  [any] but control and workers */
int mc_meta_get(struct mc_meta *m, const char *key, uint64_t deadline_ns, mc_kv_emit emit, void *ctx,
		struct mc_error *err);
int mc_meta_put(struct mc_meta *m, const struct mc_kv *kv, uint64_t deadline_ns, uint64_t *ret_revision,
		struct mc_error *err);
int mc_meta_cas(struct mc_meta *m, const struct mc_kv *kv, uint64_t expect_rev, uint64_t deadline_ns,
		uint64_t *ret_revision, struct mc_error *err);
int mc_meta_del(struct mc_meta *m, const char *key, uint64_t expect_rev, uint64_t deadline_ns,
		struct mc_error *err);
int mc_meta_list(struct mc_meta *m, const char *prefix, uint64_t deadline_ns, mc_kv_emit emit,
		 void *ctx, struct mc_error *err);
int mc_meta_grant(struct mc_meta *m, uint64_t deadline_ns, uint64_t *ret_lease, struct mc_error *err);
int mc_meta_keepalive(struct mc_meta *m, uint64_t lease, uint64_t deadline_ns, struct mc_error *err);
int mc_meta_revoke(struct mc_meta *m, uint64_t lease, uint64_t deadline_ns);

/* This lease is known to be over; it was ours, or that was known already. */
void mc_meta_lease_ended(struct mc_meta *m, uint64_t lease);
/* The engine's lease, granted on first need. */
int mc_meta_lease(struct mc_meta *m, uint64_t deadline_ns, uint64_t *ret_lease, struct mc_error *err);

/* meta_host.c: fill the services of m->host. */
void mc_meta_host_init(struct mc_meta *m);
/* Until nothing that the plugin posted is on its way; the control loop and helpers still run. */
void mc_meta_host_wait(struct mc_meta *m);
/* meta_kv.c: a watched key changed; every watch of plugins is dropped. */
void mc_kv_watch_event(void *watch, const struct mc_kv *kv);
void mc_kv_watches_drop(struct mc_meta *m);

/* meta_kept.c.  Write a key; leased: under our lease, and again whenever it is lost, until somebody writes it without or
 * removes it here.  expect NULL: whatever its revision, else as mc_meta_cas.  [any] but control and workers */
int mc_kept_write(struct mc_meta *m, struct mc_kv *kv, const uint64_t *expect, bool leased, uint64_t deadline_ns,
		  uint64_t *ret_revision, struct mc_error *err);
/* As mc_meta_del; but for -ESTALE the key is not written again, whatever becomes of it. */
int mc_kept_remove(struct mc_meta *m, const char *key, uint64_t expect_rev, uint64_t deadline_ns, struct mc_error *err);
/* Write those that are not under our lease any more, unless somebody else has written them since.
 * lost: all of them, for the service has forgotten.  [helper] */
int mc_kept_rewrite(struct mc_meta *m, bool lost, uint64_t deadline_ns, struct mc_error *err);
void mc_kept_free(struct mc_meta *m);

/* record_json.c */
char *mc_record_json(struct mc_engine *engine, size_t *ret_len);

#endif
