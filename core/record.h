/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service as the core uses it, and the engine's own small leased
 * record under mooncake/<cluster>/engine/<name>.
 */
#ifndef MC_CORE_RECORD_H
#define MC_CORE_RECORD_H

#include <mooncake/metadata.h>

struct mc_engine;

/* An engine's record, parsed. */
struct mc_record {
	char *name;
	uint64_t generation;
	char **addresses; /* "host:port", best first; ends with NULL */
	uint64_t revision;
};
void mc_record_free(struct mc_record *record);
int mc_record_parse(const char *what, const char *text, size_t len, struct mc_record **ret_record,
		    struct mc_error *err);

struct mc_meta;
/* The key of a record; a prefix of all of them for "". */
int mc_record_key(struct mc_meta *m, const char *name, char key[MC_KV_KEY_MAX + 1], struct mc_error *err);
/* -ENOENT: no record; -EBADMSG: one that cannot be read. */
int mc_record_get(struct mc_meta *m, const char *name, uint64_t deadline_ns, struct mc_record **ret_record,
		  struct mc_error *err);

/* Open the metadata plugin that the config's URL names.  Sets engine->meta.  [any] */
int mc_meta_open(struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err);
void mc_meta_close(struct mc_engine *engine);

/* Publish our record under the configured name and keep it alive.  A name that the user gave is
 * ours or nobody's; the default one gives way to who holds it, and engine->name is set.  From now
 * on the record is republished whenever the service has lost it (P10).  [any] */
int mc_record_publish(struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err);
/* Our devices or matrix have changed: publish the record again, soon.  [any] but control and workers */
void mc_record_outdated(struct mc_engine *engine);
/* Take it back.  -ETIMEDOUT: it ends with its lease. */
int mc_record_withdraw(struct mc_engine *engine, uint64_t deadline_ns);
/* Find another engine.  -ENOENT: err names the closest ten that exist. */
int mc_record_find(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		   struct mc_record **ret_record, struct mc_error *err);
int mc_record_list(struct mc_engine *engine, uint64_t deadline_ns,
		   int (*each)(void *ctx, const char *name), void *ctx, struct mc_error *err);

/* ns until our lease can have lapsed, by our own clock; UINT64_MAX: this service has no leases.  [any] */
uint64_t mc_meta_lease_left(const struct mc_engine *engine);
/* Key-value service of plugins: prefix mooncake/<cluster>/plugin/<name>/; done runs through
 * post_done, on a helper or the control loop; last: the call is over, also a watch.  UNWATCH brings
 * no call of its own, but the last one of its watch.  [any] */
int mc_meta_kv(struct mc_engine *engine, const char *plugin, struct mc_kv_call *call,
	       void (*post_done)(void *arg, struct mc_kv_call *call, int status, const struct mc_kv *kv,
				 bool last),
	       void *arg);

#endif
