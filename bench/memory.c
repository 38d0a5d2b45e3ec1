/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bench's memory: one buffer per NUMA node (or on the GPU), and what a target
 * does with it when the initiator asks.  The questions come from the network, so
 * every entry is checked against the buffers before a byte is touched.
 */
#include "bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <core/util/check.h>
#include <core/util/cleanup.h>

#include "pattern.h"

#define MAX_GPUS 64

/* "0-1,4" */
static size_t parse_node_list(const char *text, unsigned *nodes, size_t cap)
{
	size_t nr = 0;

	while (*text >= '0' && *text <= '9') {
		char *end;
		unsigned long from = strtoul(text, &end, 10), to = from;

		if (*end == '-')
			to = strtoul(end + 1, &end, 10);
		for (; from <= to && nr < cap; from++)
			nodes[nr++] = (unsigned)from;
		if (*end != ',')
			break;
		text = end + 1;
	}
	return nr;
}

size_t bench_numa_nodes(const char *dir, unsigned *nodes, size_t cap)
{
	char path[256], text[1024];
	size_t nr = 0;

	snprintf(path, sizeof path, "%s/has_memory", dir);
	mc_cleanup(mc_fclosep) FILE *f = fopen(path, "re");
	if (f && fgets(text, sizeof text, f))
		nr = parse_node_list(text, nodes, cap);
	if (nr == 0)
		nodes[nr++] = 0;
	return nr;
}

size_t bench_locations(const struct bench_options *opts, char (*locations)[MC_LOCATION_MAX + 1],
		       size_t cap)
{
	unsigned nodes[BENCH_MAX_BUFFERS];
	size_t nr;

	if (opts->use_vram && opts->gpu_id < 0) {
		for (nr = 0; nr < MC_MIN(cap, (size_t)MAX_GPUS); nr++)
			snprintf(locations[nr], sizeof locations[nr], "cuda:%zu", nr);
		return nr;
	}
	if (opts->use_vram) {
		snprintf(locations[0], sizeof locations[0], "cuda:%d", (int)opts->gpu_id);
		return 1;
	}
	if (*opts->location) {
		snprintf(locations[0], sizeof locations[0], "%s", opts->location);
		return 1;
	}
	nr = bench_numa_nodes("/sys/devices/system/node", nodes,
			      MC_MIN(cap, (size_t)BENCH_MAX_BUFFERS));
	for (size_t i = 0; i < nr; i++)
		snprintf(locations[i], sizeof locations[i], "cpu:%u", nodes[i]);
	return nr;
}

int bench_memory_alloc(struct bench_memory *mem, struct mc_engine *engine,
		       const struct bench_options *opts, uint64_t len, uint32_t access,
		       struct mc_error *err)
{
	char (*locations)[MC_LOCATION_MAX + 1] = calloc(BENCH_MAX_BUFFERS, sizeof *locations); /* a stack may be small */
	size_t nr = locations ? bench_locations(opts, locations, BENCH_MAX_BUFFERS) : 0;
	int r = locations ? 0 : mc_fail(err, -ENOMEM, "out of memory");

	mem->nr = 0;
	mem->engine = engine;
	mem->device = opts->device_memory;
	for (size_t i = 0; i < nr; i++) {
		void *addr;

		r = mc_memory_alloc(engine, locations[i], len, access, BENCH_MEMORY_NS, &addr, err);
		if (r == -ENODEV && i > 0 && opts->use_vram && opts->gpu_id < 0) {
			r = 0; /* the last GPU of all */
			break;
		}
		if (r < 0)
			break;
		mem->bufs[i].addr = addr;
		mem->bufs[i].len = len;
		memcpy(mem->bufs[i].location, locations[i], sizeof locations[i]);
		mem->nr = i + 1;
	}
	free(locations);
	return r;
}

bool bench_memory_reachable(const struct bench_memory *mem, const char *matrix)
{
	char key[MC_LOCATION_MAX + 5];

	if (strstr(matrix, "\"*\":"))
		return true;
	for (size_t i = 0; i < mem->nr; i++) {
		snprintf(key, sizeof key, "\"%s\":", mem->bufs[i].location);
		if (strstr(matrix, key))
			return true;
	}
	return false;
}

void bench_memory_free(struct bench_memory *mem, struct mc_engine *engine)
{
	for (size_t i = 0; i < mem->nr; i++)
		mc_memory_free(engine, mem->bufs[i].addr, BENCH_CLOSE_NS, NULL);
	mem->nr = 0;
}

bool bench_memory_has(const struct bench_memory *mem, uint64_t addr, uint64_t len)
{
	for (size_t i = 0; i < mem->nr; i++) {
		if (mc_range_inside((uintptr_t)mem->bufs[i].addr, mem->bufs[i].len, addr, len))
			return true;
	}
	return false;
}

/* All entries lie in one buffer: it is enough that their hull does, computed without overflow. */
static bool entries_inside(const struct bench_memory *mem, const struct bench_entries *e)
{
	uint64_t span, begin;

	if (e->nr == 0 || e->nr > UINT64_C(1) << 20 || e->block == 0)
		return false;
	if (__builtin_mul_overflow(e->step, e->nr - 1, &span) ||
	    __builtin_add_overflow(span, e->block, &span) ||
	    __builtin_add_overflow(e->base, e->first, &begin))
		return false;
	return bench_memory_has(mem, begin, span);
}

int64_t bench_memory_serve(const struct bench_memory *mem, const struct bench_msg *msg,
			   bool (*stop)(void), struct bench_msg *reply)
{
	const struct bench_entries *e = &msg->entries;

	*reply = (struct bench_msg){.type = msg->type, .reply = true, .seq = msg->seq};
	if (msg->type == BENCH_MSG_CPU) {
		reply->value = bench_cpu_ns();
		return 0;
	}
	if (!entries_inside(mem, e))
		return reply->status = -EACCES;
	if (mem->device)
		return reply->status = -EOPNOTSUPP;
	for (uint64_t i = 0; i < e->nr; i++) {
		uint64_t place = e->first + i * e->step;
		void *at = (void *)(uintptr_t)(e->base + place);
		size_t right = e->block;

		if (stop && stop())
			return reply->status = -ECANCELED;
		/* A pool that other hosts map, too, is what we publish and refresh. */
		if (msg->type == BENCH_MSG_FILL) {
			bench_pattern_fill(at, e->block, e->seed, place);
			mc_memory_publish(mem->engine, at, e->block, NULL);
		} else {
			mc_memory_refresh(mem->engine, at, e->block, NULL);
			right = bench_pattern_check(at, e->block, e->seed, place);
		}
		reply->value += right;
		if (right != e->block) {
			reply->bad = e->base + place + right;
			return reply->status = -EBADMSG;
		}
	}
	return 0;
}
