/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench --trace: requests of a trace against the real thing: a master of our own, whose pool is as
 * large as the capacity says and may be full to the last byte, memory that we lend, and the client
 * library.  A request's blocks are got as a chain; those that are not there are put, behind the
 * last that was.  A block is a hit if it was there (as for the policies that it is held against),
 * and usable if all before it were, too.  Every block that is got is verified.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "load.h"
#include "own.h"
#include "program.h"
#include "store_reference.h"
#include "store_trace.h"

#define CAPACITIES_MAX 16
#define NR_POLICIES (REFERENCE_COUNT + 1)
#define OURS REFERENCE_COUNT
#define KEY_LEN 12
#define TRIES 20

struct point {
	uint32_t capacity;
	double ratio[NR_POLICIES];
	double usable, seconds;
};

struct replay {
	const struct msc_options *o;
	struct trace trace;
	struct point points[CAPACITIES_MAX];
	size_t nr_points;

	struct msc_own own;
	struct msc_session session;
	void *lent;
	uint8_t *buffer; /* a block for each key of the longest request */
	struct mc_store_op *ops;
	struct mc_store_range *ranges;
	char (*keys)[KEY_LEN + 1];
	uint64_t hits, usable, full;
};

/* ---- a request ------------------------------------------------------------------------------------ */

static void aim(struct replay *p, const uint32_t *blocks, size_t first, size_t nr)
{
	for (size_t i = first; i < nr; i++) {
		snprintf(p->keys[i], sizeof p->keys[i], "%012u", blocks[i]);
		p->ranges[i] = (struct mc_store_range){p->buffer + i * p->o->block, p->o->block};
		p->ops[i] = (struct mc_store_op){.key = p->keys[i], .key_len = KEY_LEN, .ranges = &p->ranges[i], .nr_ranges = 1};
	}
}

/* How many blocks from the first on are there. */
static int get_chain(struct replay *p, const uint32_t *blocks, size_t nr, size_t *ret, struct mc_error *err)
{
	const struct mc_store_config config = {.size = sizeof config, .flags = MC_STORE_CHAIN};
	size_t n = 0;
	int r = 0;

	/* On a busy machine a lease may be over before its bytes are here. */
	for (unsigned again = 0; again < TRIES; again += n == nr || p->ops[n].status != -ESTALE ? TRIES : 1) {
		aim(p, blocks, 0, nr);
		r = mc_store_get_batch(p->session.store, p->ops, nr, &config, msc_timeout(p->o), err);
		if (r < 0)
			return r;
		for (n = 0; n < nr && p->ops[n].status == 0;)
			n++;
	}
	n = 0;
	while (n < nr && p->ops[n].status == 0) {
		if (p->ops[n].moved != p->o->block || !msc_filled(p->ranges[n].addr, p->o->block, blocks[n]))
			return mc_fail(err, -EBADMSG, "block %u: what was got is not what was put", blocks[n]);
		n++;
	}
	for (size_t i = n; i < nr; i++)
		if (p->ops[i].status != -ENOENT && p->ops[i].status != 0)
			return r > 0 && err->code ? err->code : mc_fail(err, p->ops[i].status, "block %u: %s", blocks[i],
									strerror(-p->ops[i].status));
	*ret = n;
	return 0;
}

static int put_rest(struct replay *p, const uint32_t *blocks, size_t from, size_t nr, struct mc_error *err)
{
	struct mc_store_config config = {.size = sizeof config, .flags = MC_STORE_CHAIN};
	char parent[KEY_LEN + 1];
	int r;

	if (from) {
		memcpy(parent, p->keys[from - 1], sizeof parent);
		config.parent = parent;
		config.parent_len = KEY_LEN;
	}
	aim(p, blocks, from, nr);
	for (size_t i = from; i < nr; i++)
		msc_fill(p->ranges[i].addr, p->o->block, blocks[i]);
	r = mc_store_put_batch(p->session.store, p->ops + from, nr - from, &config, msc_timeout(p->o), err);
	for (size_t i = from; r >= 0 && i < nr; i++) {
		p->hits += p->ops[i].status == -EEXIST;
		p->full += p->ops[i].status == -ENOSPC;
		if (p->ops[i].status != 0 && p->ops[i].status != -EEXIST && p->ops[i].status != -ENOSPC)
			return err->code == p->ops[i].status ? err->code :
				       mc_fail(err, p->ops[i].status, "block %u: %s", blocks[i], strerror(-p->ops[i].status));
	}
	return r < 0 ? r : 0;
}

static int request(struct replay *p, const uint32_t *blocks, size_t nr, struct mc_error *err)
{
	size_t there = 0;
	int r = nr ? get_chain(p, blocks, nr, &there, err) : 0;

	p->hits += there;
	p->usable += there;
	return r == 0 && there < nr ? put_rest(p, blocks, there, nr, err) : r;
}

/* ---- a capacity ----------------------------------------------------------------------------------- */

static int all_requests(struct replay *p, struct point *point, struct mc_error *err)
{
	const struct trace *t = &p->trace;
	uint64_t start = msc_now_ns(), shown = start;
	int r = 0;

	p->hits = p->usable = p->full = 0;
	for (size_t i = 0; r == 0 && i < t->nr_requests; i++) {
		/* Longer requests than a batch holds: their parts follow one another. */
		for (size_t at = t->starts[i]; r == 0 && at < t->starts[i + 1]; at += MC_STORE_BATCH_MAX)
			r = request(p, t->keys + at, MC_MIN(t->starts[i + 1] - at, (size_t)MC_STORE_BATCH_MAX), err);
		if (mc_stopping())
			return mc_fail(err, -ECANCELED, "interrupted");
		if (mc_tell_progress_on() && msc_now_ns() - shown > MC_SEC / 5) {
			char line[160];

			shown = msc_now_ns();
			snprintf(line, sizeof line, "%s, %u blocks: %zu of %zu requests", t->name, point->capacity, i + 1, t->nr_requests);
			mc_tell_progress(line);
		}
	}
	mc_tell_progress_end();
	point->ratio[OURS] = (double)p->hits / (double)t->nr_accesses;
	point->usable = (double)p->usable / (double)t->nr_accesses;
	point->seconds = (double)(msc_now_ns() - start) / 1e9;
	return r;
}

static int run_ours(struct replay *p, struct point *point, struct mc_config *config, struct mc_error *err)
{
	char mean[48], evict[64];
	/* What a request has found must stay until the rest of it is put, and not for much longer: leases are many
	 * requests long all the same, and the pool is small. */
	const char *flags[] = {"--eviction_high_watermark_ratio=1", evict, "--default_kv_lease_ttl=5ms", mean, NULL};
	void *buffer = NULL;
	int r;

	snprintf(mean, sizeof mean, "--mean_object_size=%" PRIu64, p->o->block);
	snprintf(evict, sizeof evict, "--eviction_ratio=%.9f", 1.0 / point->capacity);
	r = msc_own_start(&p->own, p->o->master_program, flags, config, err);
	if (r == 0)
		r = msc_session_open(&p->session, p->o, config, true, err);
	if (r == 0)
		r = mc_store_lend(p->session.store, NULL, point->capacity * p->o->block, "*", MSC_MEMORY_NS, &p->lent, err);
	if (r == 0)
		r = mc_memory_alloc(p->session.engine, "*", MC_MIN(p->trace.longest + 1, (size_t)MC_STORE_BATCH_MAX) * p->o->block,
				    MC_ACCESS_LOCAL, MSC_MEMORY_NS, &buffer, err);
	p->buffer = buffer;
	if (r == 0)
		r = all_requests(p, point, err);
	if (buffer)
		mc_memory_free(p->session.engine, buffer, MSC_CLOSE_NS, NULL);
	if (p->lent)
		mc_store_take_back(p->session.store, p->lent, MSC_CLOSE_NS, NULL);
	p->lent = NULL;
	msc_session_close(&p->session);
	msc_own_stop(&p->own);
	return r;
}

static int run_point(struct replay *p, struct point *point, struct mc_config *config, struct mc_error *err)
{
	for (int which = 0; which < REFERENCE_COUNT; which++) {
		int64_t hits = reference_replay((enum reference)which, p->trace.keys, p->trace.nr_accesses, p->trace.nr_keys,
						point->capacity);

		if (hits < 0)
			return mc_fail(err, (int)hits, "out of memory");
		point->ratio[which] = (double)hits / (double)p->trace.nr_accesses;
	}
	return run_ours(p, point, config, err);
}

/* ---- telling ---------------------------------------------------------------------------------------- */

static const char *policy_name(int policy)
{
	return policy == OURS ? "ours" : reference_names[policy];
}

static void tell(const struct replay *p)
{
	if (p->o->json) {
		fputs("{\"trace\": ", stdout);
		mc_text_json(stdout, p->trace.name);
		printf(", \"blocks\": %zu, \"different\": %u, \"block\": %" PRIu64 ", \"points\": [", p->trace.nr_accesses,
		       p->trace.nr_different, p->o->block);
	} else {
		printf("| %s, %zu blocks of %u kinds |", p->trace.name, p->trace.nr_accesses, p->trace.nr_different);
		for (int i = 0; i < NR_POLICIES; i++)
			printf(" %s |", policy_name(i));
		fputs(" usable | requests/s |\n|---|", stdout);
		for (int i = 0; i < NR_POLICIES + 2; i++)
			fputs("---|", stdout);
		putchar('\n');
	}
	for (size_t c = 0; c < p->nr_points; c++) {
		const struct point *at = &p->points[c];
		double rate = (double)p->trace.nr_requests / (at->seconds + 1e-9);

		printf(p->o->json ? "%s{\"capacity\": %u" : "%s| %u |", p->o->json && c ? ",\n" : "", at->capacity);
		for (int i = 0; i < NR_POLICIES; i++) {
			if (p->o->json)
				printf(", \"%s\": %.5f", policy_name(i), at->ratio[i]);
			else
				printf(" %.4f |", at->ratio[i]);
		}
		printf(p->o->json ? ", \"usable\": %.5f, \"requests_per_second\": %.1f}" : " %.4f | %.0f |\n", at->usable, rate);
	}
	if (p->o->json)
		puts("]}");
}

static int draw(const struct replay *p, struct mc_error *err)
{
	const char *names[NR_POLICIES];
	double ratios[CAPACITIES_MAX][NR_POLICIES];
	uint32_t capacities[CAPACITIES_MAX];
	FILE *f = fopen(p->o->svg, "we");

	if (!f)
		return mc_fail(err, -errno, "file '%s': %s", p->o->svg, strerror(errno));
	for (int i = 0; i < NR_POLICIES; i++)
		names[i] = policy_name(i);
	for (size_t c = 0; c < p->nr_points; c++) {
		memcpy(ratios[c], p->points[c].ratio, sizeof ratios[c]);
		capacities[c] = p->points[c].capacity;
	}
	trace_picture(f, true);
	trace_panel(f, 0, p->trace.name, names, NR_POLICIES, capacities, p->nr_points, &ratios[0][0]);
	trace_picture(f, false);
	return fclose(f) ? mc_fail(err, -errno, "file '%s': %s", p->o->svg, strerror(errno)) : 0;
}

/* ---- all of it -------------------------------------------------------------------------------------- */

static int parse_capacities(struct replay *p, struct mc_error *err)
{
	p->nr_points = msc_list_len(p->o->capacities);
	for (size_t i = 0; i < p->nr_points && i < CAPACITIES_MAX; i++) {
		char text[24], *end = text;
		unsigned long n = 0;

		if (msc_list_item(p->o->capacities, i, text, sizeof text) == 0)
			n = strtoul(text, &end, 10);
		if (end == text || *end || !n || n > 100000000)
			return mc_fail(err, -EINVAL, "flag --capacities: '%s' is no list of numbers from 1 to 100000000", p->o->capacities);
		p->points[i].capacity = (uint32_t)n;
	}
	return p->nr_points > CAPACITIES_MAX ? mc_fail(err, -EINVAL, "flag --capacities: at most %d of them", CAPACITIES_MAX) : 0;
}

static int prepare(struct replay *p, struct mc_error *err)
{
	int r = trace_read(p->o->trace, 0, 1, &p->trace);
	size_t longest;

	if (r < 0)
		return mc_fail(err, r, "file '%s': %s", p->o->trace, r == -EBADMSG ? "a line has no list \"hash_ids\" of numbers" :
			       r == -ERANGE ? "there is no request in it" : strerror(-r));
	longest = MC_MIN(p->trace.longest + 1, (size_t)MC_STORE_BATCH_MAX);
	p->ops = calloc(longest, sizeof *p->ops);
	p->ranges = calloc(longest, sizeof *p->ranges);
	p->keys = calloc(longest, sizeof *p->keys);
	return p->ops && p->ranges && p->keys ? 0 : mc_fail(err, -ENOMEM, "out of memory");
}

int msc_replay(const struct msc_options *o, struct mc_config *config)
{
	struct replay p = {.o = o};
	struct mc_error err = {0};
	int r = parse_capacities(&p, &err), code = MSC_EXIT_OK;
	bool usage = r < 0;

	if (r == 0)
		r = prepare(&p, &err);
	for (size_t i = 0; r == 0 && i < p.nr_points; i++)
		r = run_point(&p, &p.points[i], config, &err);
	if (r == 0) {
		tell(&p);
		r = *o->svg ? draw(&p, &err) : 0;
	}
	if (r < 0)
		code = mc_tell_error("mooncake_store", o->json, err.text, usage ? MSC_EXIT_USAGE : MSC_EXIT_FAILED);
	trace_free(&p.trace);
	free(p.ops);
	free(p.ranges);
	free(p.keys);
	return code;
}
