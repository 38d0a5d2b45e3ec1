/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hashing all of an object that lies in memory, for who registers it: as many threads as lanes, each takes the
 * next shard.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "p2p_impl.h"

#define LOOK (UINT64_C(16) << 20) /* bytes between two questions whether to stop */

struct work {
	const struct mc_p2p_map *map;
	uint64_t shard_size;
	uint32_t nr_shards, next; /* next: atomic */
	uint8_t *hashes;
	bool (*stop)(void *arg);
	void *arg;
	bool stopped; /* atomic */
};

int mc_p2p_hash_shard(const struct mc_p2p_map *map, uint64_t shard_size, uint32_t shard, bool (*stop)(void *arg),
		      void *arg, struct mc_p2p_hash *ret)
{
	struct mc_p2p_hasher h;
	uint64_t pos, addr, end = mc_p2p_shard_end(map->size, shard_size, shard, &pos);

	mc_p2p_hasher_init(&h);
	while (pos < end) {
		uint64_t len = mc_p2p_map_at(map, pos, &addr);

		len = MC_MIN(MC_MIN(len, end - pos), LOOK);
		if (stop && stop(arg))
			return -ECANCELED;
		mc_p2p_hasher_add(&h, (const void *)(uintptr_t)addr, len);
		pos += len;
	}
	mc_p2p_hasher_end(&h, ret);
	return 0;
}

static void *run(void *arg)
{
	struct work *w = arg;

	for (;;) {
		uint32_t k = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED);
		struct mc_p2p_hash hash;

		if (k >= w->nr_shards || __atomic_load_n(&w->stopped, __ATOMIC_RELAXED))
			return NULL;
		if (mc_p2p_hash_shard(w->map, w->shard_size, k, w->stop, w->arg, &hash) < 0) {
			__atomic_store_n(&w->stopped, true, __ATOMIC_RELAXED);
			return NULL;
		}
		memcpy(w->hashes + (size_t)k * MC_P2P_HASH_SIZE, hash.bytes, MC_P2P_HASH_SIZE);
	}
}

int mc_p2p_hash_all(const struct mc_p2p_map *map, uint64_t shard_size, uint32_t nr_shards, unsigned int threads,
		    uint8_t *hashes, bool (*stop)(void *arg), void *arg)
{
	struct work w = {.map = map, .shard_size = shard_size, .nr_shards = nr_shards, .hashes = hashes, .stop = stop,
			 .arg = arg};
	pthread_t ids[64];
	unsigned int nr = 0;

	/* The caller is one of them; fewer do it too. */
	while (nr + 1 < threads && nr + 1 < nr_shards && nr < 64 && pthread_create(&ids[nr], NULL, run, &w) == 0)
		nr++;
	run(&w);
	while (nr)
		pthread_join(ids[--nr], NULL);
	return w.stopped ? -ECANCELED : 0;
}
