/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offering what lies in memory: hashed, registered, recorded, announced.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_impl.h"

static int take_shape(struct p2p_object *o, const struct mc_p2p_register_options *options, struct mc_error *err)
{
	struct mc_p2p_block *b = &o->layout;

	b->size = o->map.size;
	b->shard_size = options->shard_size ? options->shard_size : mc_p2p_shard_default(b->size);
	b->attachment_len = options->attachment_len;
	if (b->shard_size < MC_P2P_SHARD_MIN || b->shard_size > MC_P2P_SHARD_MAX)
		return mc_fail(err, -EINVAL, "object '%s': a shard has %llu to %llu bytes", o->name,
			       (unsigned long long)MC_P2P_SHARD_MIN, (unsigned long long)MC_P2P_SHARD_MAX);
	b->nr_shards = mc_p2p_nr_shards(b->size, b->shard_size);
	if (b->nr_shards == 0 || b->nr_shards > MC_P2P_SHARDS_MAX)
		return mc_fail(err, -EINVAL, "object '%s': shards of %llu bytes would be more than %u; choose larger ones", o->name,
			       (unsigned long long)b->shard_size, MC_P2P_SHARDS_MAX);
	if (b->attachment_len > MC_P2P_ATTACHMENT_MAX || (b->attachment_len && !options->attachment))
		return mc_fail(err, -EINVAL, "object '%s': at most %u bytes can be attached", o->name, MC_P2P_ATTACHMENT_MAX);
	return 0;
}

static int hash_and_pin(struct p2p_object *o, const struct mc_p2p_register_options *options, uint64_t deadline_ns,
			struct mc_error *err)
{
	struct mc_p2p_block *b = &o->layout;
	uint8_t *hashes = calloc(b->nr_shards, MC_P2P_HASH_SIZE);
	int r;

	if (!hashes)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", o->name);
	/* What cannot be registered cannot be read either: memory first. */
	r = mc_p2p_object_pin(o, options->location, deadline_ns, err);
	if (r == 0) {
		r = mc_p2p_hash_all(&o->map, b->shard_size, b->nr_shards, o->store->options.lanes, hashes, options->stop,
				    options->stop_arg);
		if (r < 0)
			mc_fail(err, r, "object '%s': stopped while it was hashed", o->name);
	}
	if (r == 0) {
		if (b->attachment_len)
			mc_p2p_hash(options->attachment, b->attachment_len, &b->attachment_hash);
		mc_p2p_root(b->size, b->shard_size, hashes, b->nr_shards, b->attachment_len, &b->attachment_hash, &b->root);
		r = mc_p2p_object_block(o, hashes, options->attachment, true, deadline_ns, err);
	}
	free(hashes);
	return r;
}

int mc_p2p_register(struct mc_p2p *store, const char *name, const struct mc_p2p_range *ranges, size_t nr,
		    const struct mc_p2p_register_options *options, uint64_t timeout_ns, struct mc_error *err)
{
	uint64_t deadline = mc_p2p_deadline(timeout_ns);
	struct mc_p2p_register_options opt = {.size = sizeof opt};
	struct p2p_object *o;
	int r;

	if (!store)
		return mc_fail(err, -EINVAL, "object: store may not be NULL");
	if (options)
		memcpy(&opt, options, MC_MIN(options->size, sizeof opt));
	r = mc_p2p_object_new(store, name, ranges, nr, MC_P2P_SEED, &o, err);
	if (r < 0)
		return r;
	r = take_shape(o, &opt, err);
	if (r == 0)
		r = hash_and_pin(o, &opt, deadline, err);
	if (r == 0)
		r = mc_p2p_record_ensure(o, true, deadline, err);
	if (r == 0)
		r = mc_p2p_object_publish(o, deadline, err);
	/* Before our key was there, the last source but us may have taken the record away, or another may have taken our
	 * record for one that nobody offers: it is his then. */
	if (r == 0)
		r = mc_p2p_record_ensure(o, false, deadline, err);
	if (r < 0)
		mc_p2p_object_retire(o, deadline, NULL);
	else
		mc_p2p_object_release(o);
	return r;
}

static int take_back(struct mc_p2p *store, const char *name, enum mc_p2p_role role, uint64_t timeout_ns,
		     struct mc_error *err)
{
	uint64_t deadline = mc_p2p_deadline(timeout_ns);
	struct p2p_object *o;
	int r;

	if (!store)
		return mc_fail(err, -EINVAL, "object: store may not be NULL");
	r = mc_p2p_object_take(store, name, role, deadline, &o, err);
	return r < 0 ? r : mc_p2p_object_retire(o, deadline, err);
}

int mc_p2p_unregister(struct mc_p2p *store, const char *name, uint64_t timeout_ns, struct mc_error *err)
{
	return take_back(store, name, MC_P2P_SEED, timeout_ns, err);
}

int mc_p2p_delete_replica(struct mc_p2p *store, const char *name, uint64_t timeout_ns, struct mc_error *err)
{
	return take_back(store, name, MC_P2P_REPLICA, timeout_ns, err);
}
