/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a master reads of its life before, as a damaged or foreign disk may tell it: changes one after
 * the other, each u8 table · u8 id · u16 bytes · value.  Whatever it takes, its own check holds, and it
 * goes on: its client mounts, reads, puts and removes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "master_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void sound(struct mc_master *m)
{
	struct mc_error err = {0};

	if (mc_master_check(m, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
}

static int remount(void *ctx, const struct mc_master_segment *segment)
{
	struct mc_master_segment *to = ctx;

	*to = *segment;
	return 1;
}

static void use(struct mc_master *m, uint64_t now)
{
	static char engine[MC_MASTER_SEGMENT_NAME_MAX + 1], location[MC_MASTER_SEGMENT_NAME_MAX + 1];
	struct mc_master_segment segment = {.size = sizeof segment};
	struct mc_master_ping ping = {.size = sizeof ping, .engine = "other", .generation = 1};
	struct mc_master_got got = {.key = {"key", 3}};
	struct mc_master_extent room[256];
	struct mc_master_extents x = {room, 0, 256};
	struct mc_master_put put = {.key = {"new", 3}, .len = 4096};
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = 2};
	struct mc_master_full full;
	uint64_t lease, removed, refused, cursor = 0;

	if (mc_master_segments(m, 0, remount, &segment) == 1) {
		snprintf(engine, sizeof engine, "%s", segment.engine);
		snprintf(location, sizeof location, "%s", segment.location);
		segment.engine = engine;
		segment.location = location;
		ping.client = segment.client;
		ping.engine = engine;
		ping.generation = segment.generation;
		mc_master_client_ping(m, &ping, now);
		mc_master_mount(m, &segment, now);
	}
	mc_master_get(m, 0, 0, &got, 1, &x, &lease, now);
	now += 60ull * 1000000000;
	mc_master_client_ping(m, &ping, now);
	mc_master_tick(m, now);
	x.nr = 0;
	mc_master_put_start(m, &ping.client, &config, &put, 1, &x, &full, now);
	sound(m);
	do {
		mc_master_remove_match(m, 0, MC_MASTER_REMOVE_FORCE, MC_MASTER_PREFIX, "", &cursor, &removed, &refused, now, NULL);
	} while (cursor);
	for (int i = 0; i < 4; i++)
		mc_master_tick(m, now += 20ull * 1000000000);
	sound(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_master_limits limits = {.size = sizeof limits, .nr_shards = 2, .seed = 1};
	uint64_t now = 1000ull * 1000000000;
	struct mc_master *m;

	if (mc_master_new(&limits, &m) < 0)
		return 0;
	while (size >= 4) {
		size_t len = mc_get16(data + 2);

		len = len < size - 4 ? len : size - 4;
		mc_master_load(m, data[0], data[1], data + 4, len, NULL);
		data += 4 + len;
		size -= 4 + len;
	}
	if (mc_master_start(m, NULL, now) == 0) {
		sound(m);
		use(m, now);
	}
	mc_master_free(m);
	return 0;
}
