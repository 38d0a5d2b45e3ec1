/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replays traces of requests (a JSON object a line, "hash_ids": the blocks of a request in order of
 * their prefix) against the store's eviction policy and well-known ones, and prints the share of
 * blocks that were there; as a table, as JSON, and as a curve (SVG).
 *
 * Blocks are accessed one after the other, in the request's order; one that is there is a hit, one
 * that is not comes in.  Ours hears of a request as a whole, and the cache is at its capacity again
 * before the next one: of blocks that come in, those that would go at once need not be written.
 * With --before it is as in the store: room is made before new blocks come, and only when they are
 * there is the policy told of the request.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "stores/managed/store_policy.h"
#include "stores/managed/cli/store_reference.h"
#include "stores/managed/cli/store_trace.h"

#define NR_POLICIES (REFERENCE_COUNT + 1)
#define OURS REFERENCE_COUNT
#define MAX_CAPACITIES 32

struct options {
	uint32_t capacities[MAX_CAPACITIES];
	size_t nr_capacities;
	double from, to; /* part of each trace that is replayed */
	uint64_t seed;
	bool json, before;
	const char *svg;
};

static const char *policy_name(int policy)
{
	return policy == OURS ? "ours" : reference_names[policy];
}

/* ---- ours --------------------------------------------------------------------------------------
 */

struct replay {
	struct mc_policy *policy;
	struct mc_policy_node *nodes; /* by block */
	struct mc_policy_node **request; /* of the longest request */
	uint64_t *keys;
	uint64_t held;
	int64_t hits;
};

static void one_goes(struct replay *r, uint32_t ahead)
{
	struct mc_policy_node *victim = mc_policy_victim(r->policy, ahead, NULL, NULL);

	mc_policy_remove(r->policy, victim, (uint64_t)(victim - r->nodes), true);
	r->held--;
}

/* For what is missing from the first gap on. */
static void make_room(struct replay *r, const uint32_t *blocks, size_t nr, uint32_t capacity)
{
	size_t there = 0;
	bool used = false;

	while (there < nr && r->nodes[blocks[there]].flags)
		there++;
	while (r->held && r->held + nr - there > capacity) {
		if (there && !used)
			mc_policy_touch(r->policy, &r->nodes[blocks[there - 1]]);
		used = true;
		one_goes(r, (uint32_t)(nr - there));
	}
}

static int replay_request(struct replay *r, const uint32_t *blocks, size_t nr, uint32_t capacity,
			  bool before)
{
	int n;

	for (size_t i = 0; i < nr; i++)
		r->hits += r->nodes[blocks[i]].flags != 0;
	if (before)
		make_room(r, blocks, nr, capacity);
	for (size_t i = 0; i < nr; i++) {
		r->request[i] = &r->nodes[blocks[i]];
		r->keys[i] = blocks[i];
		r->held += !r->request[i]->flags;
	}
	n = mc_policy_access(r->policy, NULL, r->request, r->keys, nr);
	while (n == 0 && r->held > capacity)
		one_goes(r, 0);
	return n;
}

static int64_t replay_ours(const struct trace *t, uint32_t capacity, const struct options *o)
{
	struct replay r = {0};
	int n = mc_policy_new(capacity, o->seed, &r.policy);

	r.nodes = calloc(t->nr_keys, sizeof *r.nodes);
	r.request = calloc(t->longest + 1, sizeof *r.request);
	r.keys = calloc(t->longest + 1, sizeof *r.keys);
	if (n == 0 && !(r.nodes && r.request && r.keys))
		n = -ENOMEM;
	for (size_t i = 0; n == 0 && i < t->nr_requests; i++)
		n = replay_request(&r, t->keys + t->starts[i], t->starts[i + 1] - t->starts[i],
				   capacity, o->before);
	mc_policy_free(r.policy);
	free(r.nodes);
	free(r.request);
	free(r.keys);
	return n < 0 ? n : r.hits;
}

/* ---- reports -----------------------------------------------------------------------------------
 */

static void print_table(const struct trace *t, const struct options *o,
			double (*ratio)[NR_POLICIES])
{
	printf("| %s, %zu blocks of %u kinds |", t->name, t->nr_accesses, t->nr_different);
	for (int p = 0; p < NR_POLICIES; p++)
		printf(" %s |", policy_name(p));
	printf("\n|---|");
	for (int p = 0; p < NR_POLICIES; p++)
		printf("---|");
	printf("\n");
	for (size_t c = 0; c < o->nr_capacities; c++) {
		printf("| %" PRIu32 " |", o->capacities[c]);
		for (int p = 0; p < NR_POLICIES; p++)
			printf(" %.4f |", ratio[c][p]);
		printf("\n");
	}
	printf("\n");
}

static void print_json(const struct trace *t, const struct options *o, double (*ratio)[NR_POLICIES],
		       bool first)
{
	printf("%s    {\"trace\": \"%s\", \"blocks\": %zu, \"different\": %" PRIu32
	       ", \"points\": [",
	       first ? "" : ",\n", t->name, t->nr_accesses, t->nr_different);
	for (size_t c = 0; c < o->nr_capacities; c++) {
		printf("%s\n      {\"capacity\": %" PRIu32, c ? "," : "", o->capacities[c]);
		for (int p = 0; p < NR_POLICIES; p++)
			printf(", \"%s\": %.5f", policy_name(p), ratio[c][p]);
		printf("}");
	}
	printf("]}");
}

static int run_trace(const char *path, const struct options *o, FILE *svg, bool first)
{
	double ratio[MAX_CAPACITIES][NR_POLICIES];
	struct trace t;
	int r = trace_read(path, o->from, o->to, &t);

	if (r < 0)
		return r;
	for (size_t c = 0; c < o->nr_capacities; c++) {
		for (int p = 0; p < NR_POLICIES && r == 0; p++) {
			int64_t hits = p == OURS ? replay_ours(&t, o->capacities[c], o)
						 : reference_replay((enum reference)p, t.keys,
								    t.nr_accesses, t.nr_keys,
								    o->capacities[c]);

			r = hits < 0 ? (int)hits : 0;
			ratio[c][p] = (double)hits / (double)t.nr_accesses;
		}
	}
	if (r == 0 && o->json)
		print_json(&t, o, ratio, first);
	else if (r == 0)
		print_table(&t, o, ratio);
	if (r == 0 && svg) {
		const char *names[NR_POLICIES];

		for (int p = 0; p < NR_POLICIES; p++)
			names[p] = policy_name(p);
		trace_panel(svg, first ? 0 : 1, t.name, names, NR_POLICIES, o->capacities,
			    o->nr_capacities, &ratio[0][0]);
	}
	trace_free(&t);
	return r;
}

/* ---- command line ------------------------------------------------------------------------------
 */

static void usage(FILE *f)
{
	fprintf(f, "usage: store_policy [OPTION...] TRACE.jsonl...\n"
		   "Share of blocks that are in the cache when a request wants them, by policy and "
		   "capacity.\n"
		   "  --capacities=N,N...  in blocks: 50000,30000,10000,1000\n"
		   "  --part=FROM,TO       of each trace, as shares of its requests: 0,1\n"
		   "  --seed=N             of our policy's draws: 1\n"
		   "  --before             room is made before new blocks come, as in the store\n"
		   "  --json\n"
		   "  --svg=FILE           draws the first two traces\n"
		   "  --help\n");
}

static int parse_capacities(const char *text, struct options *o)
{
	o->nr_capacities = 0;
	while (*text) {
		char *end;
		unsigned long n = strtoul(text, &end, 10);

		if (end == text || (*end && *end != ',') || !n || n > 100000000 ||
		    o->nr_capacities == MAX_CAPACITIES) {
			fprintf(stderr,
				"store_policy: --capacities: up to %d numbers from 1 to 100000000 "
				"with commas between\n",
				MAX_CAPACITIES);
			return 2;
		}
		o->capacities[o->nr_capacities++] = (uint32_t)n;
		text = *end ? end + 1 : end;
	}
	return o->nr_capacities ? 0 : 2;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option table[] = {{"capacities", required_argument, NULL, 'c'},
					      {"part", required_argument, NULL, 'p'},
					      {"seed", required_argument, NULL, 'r'},
					      {"before", no_argument, NULL, 'b'},
					      {"json", no_argument, NULL, 'j'},
					      {"svg", required_argument, NULL, 's'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 'c':
			if (parse_capacities(optarg, o))
				return 2;
			break;
		case 'p':
			if (sscanf(optarg, "%lf,%lf", &o->from, &o->to) != 2 ||
			    !(o->from >= 0 && o->from < o->to && o->to <= 1)) {
				fprintf(stderr,
					"store_policy: --part: two shares, 0 <= FROM < TO <= 1\n");
				return 2;
			}
			break;
		case 'r':
			o->seed = strtoull(optarg, NULL, 10);
			break;
		case 'b':
			o->before = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 's':
			o->svg = optarg;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind == argc) {
		usage(stderr);
		return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {.capacities = {50000, 30000, 10000, 1000},
			    .nr_capacities = 4,
			    .to = 1,
			    .seed = 1};
	FILE *svg = NULL;
	int r = parse(argc, argv, &o);

	if (r)
		return r;
	if (o.svg) {
		svg = fopen(o.svg, "we");
		if (!svg) {
			fprintf(stderr, "store_policy: %s: %s\n", o.svg, strerror(errno));
			return 1;
		}
		trace_picture(svg, true);
	}
	if (o.json)
		printf("{\n  \"schema\": 1, \"program\": \"store_policy\", \"traces\": [\n");
	for (int i = optind; i < argc && r == 0; i++) {
		r = run_trace(argv[i], &o, i < optind + 2 ? svg : NULL, i == optind);
		if (r < 0)
			fprintf(stderr, "store_policy: %s: %s\n", argv[i],
				r == -EBADMSG  ? "a line has no list \"hash_ids\" of numbers"
				: r == -ERANGE ? "there is no request in it, or in this part of it"
					       : strerror(-r));
	}
	if (o.json)
		printf("]\n}\n");
	if (svg) {
		trace_picture(svg, false);
		if (fclose(svg) && r == 0)
			r = -errno;
	}
	return r < 0;
}
