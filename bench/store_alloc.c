/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a place costs: pairs of release and alloc on one thread, in a space or a pool that is kept
 * full, with sizes spread evenly over their logarithm.  The victims of releases are drawn at
 * random, so gaps are what they are in a cache that has run for long.
 *
 *   store_alloc [--pool] [--bytes=N] [--full=PERCENT] [--least=N] [--most=N] [--seconds=S]
 * [--seed=N] [--json]
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <mooncake/allocator.h>

#define DRAWS (1u << 16)
/* Pairs that are timed together; the figure is the median of such turns. */
#define TURN 10000
#define TURNS_MAX 100000

struct options {
	bool pool, json;
	uint64_t bytes, least, most, seed;
	double full, seconds;
};

struct place {
	uint64_t len;
	uint32_t segment, id;
};

struct run {
	const struct options *o;
	struct mc_space *space;
	struct mc_pool *pool;
	uint32_t segment;
	uint64_t *sizes; /* DRAWS of them, so that no logarithm is in the figures */
	struct place *places;
	size_t nr_places, cap, victim;
	uint64_t used, random, nr_allocs, nr_refused;
};

/* Of this thread: what others do on the machine is in the caches only. */
static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t draw(struct run *r)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return r->random;
}

static int take(struct run *r, uint64_t len, struct place *ret)
{
	struct mc_pool_request q = {.size = sizeof q, .len = len, .nr_replicas = 1};
	struct mc_pool_extent extent;
	struct mc_space_extent e;
	size_t nr;
	int n;

	if (r->pool) {
		n = mc_pool_alloc(r->pool, &q, &extent, &nr);
		*ret = (struct place){len, extent.segment, extent.id};
		return n < 0 ? n : 0;
	}
	n = mc_space_alloc(r->space, len, 0, 0, &e);
	*ret = (struct place){len, 0, e.id};
	return n;
}

static void release_one(struct run *r)
{
	size_t i = r->victim < r->nr_places ? r->victim : r->nr_places - 1;
	struct place p = r->places[i];

	r->places[i] = r->places[--r->nr_places];
	/* Drawn one ahead, so that what this program itself keeps is near when it is needed. */
	r->victim = (size_t)((draw(r) >> 32) * r->nr_places >> 32);
	__builtin_prefetch(&r->places[r->victim]);
	r->used -= p.len;
	if (r->pool)
		mc_pool_release(r->pool, p.segment, p.id);
	else
		mc_space_release(r->space, p.id);
}

/* One allocation; what is in its way goes. */
static int step(struct run *r, uint64_t full)
{
	uint64_t len = r->sizes[r->nr_allocs % DRAWS];
	struct place p;
	int n;

	while (r->nr_places && r->used + len > full)
		release_one(r);
	while ((n = take(r, len, &p)) == -ENOSPC && r->nr_places) {
		r->nr_refused++;
		release_one(r);
	}
	if (n < 0)
		return n;
	if (r->nr_places == r->cap) {
		struct place *more = realloc(r->places, 2 * r->cap * sizeof *more);

		if (!more)
			return -ENOMEM;
		r->places = more;
		r->cap *= 2;
	}
	r->places[r->nr_places++] = p;
	r->used += len;
	r->nr_allocs++;
	return 0;
}

static int steps(struct run *r, uint64_t full, uint64_t nr)
{
	int n = 0;

	while (nr-- && n == 0)
		n = step(r, full);
	return n;
}

static int start(struct run *r)
{
	struct mc_space_options so = {.size = sizeof so, .bytes = r->o->bytes};
	double span = log((double)r->o->most / (double)r->o->least);

	r->random = r->o->seed * 2 + 1;
	r->cap = 1024;
	r->places = malloc(r->cap * sizeof *r->places);
	r->sizes = malloc(DRAWS * sizeof *r->sizes);
	if (!r->places || !r->sizes)
		return -ENOMEM;
	for (size_t i = 0; i < DRAWS; i++)
		r->sizes[i] = (uint64_t)((double)r->o->least *
					 exp(span * (double)(draw(r) >> 11) / 0x1p53));
	if (!r->o->pool)
		return mc_space_new(&so, &r->space);
	if (mc_pool_new(r->o->seed, &r->pool) < 0)
		return -ENOMEM;
	so.bytes /= 16;
	for (uint32_t i = 0; i < 16; i++) {
		int n = mc_pool_mount(r->pool, &so, i / 2, &r->segment);

		if (n < 0)
			return n;
	}
	return 0;
}

static void report(const struct run *r, const double *turns, size_t nr_turns)
{
	struct mc_space_stats s = {.size = sizeof s};
	struct mc_pool_stats p = {.size = sizeof p};
	double share, metadata, ns = turns[nr_turns / 2];

	if (r->pool) {
		mc_pool_stats(r->pool, &p);
		share = (double)p.used / (double)p.bytes;
		metadata = (double)p.metadata / (double)r->nr_places;
	} else {
		mc_space_stats(r->space, &s);
		share = (double)s.used / (double)s.bytes;
		metadata = (double)s.metadata / (double)r->nr_places;
	}
	if (r->o->json) {
		printf("{\"schema\": 1, \"program\": \"store_alloc\", \"what\": \"%s\", \"bytes\": "
		       "%" PRIu64 ", \"least\": %" PRIu64 ", \"most\": %" PRIu64
		       ", \"used\": %.4f, \"extents\": %zu, \"pairs\": %zu"
		       ", \"ns_per_pair\": %.1f, \"ns_least\": %.1f, \"refused\": %.6f, "
		       "\"metadata_per_extent\": %.1f, \"gaps\": %u"
		       ", \"largest_free\": %" PRIu64 ", \"fragmentation\": %.4f}\n",
		       r->pool ? "pool" : "space", r->o->bytes, r->o->least, r->o->most, share,
		       r->nr_places, nr_turns * TURN, ns, turns[0],
		       (double)r->nr_refused / (double)r->nr_allocs, metadata, s.nr_free,
		       s.largest_free, s.fragmentation);
		return;
	}
	printf("%s of %.3g GiB, %.1f %% used by %zu extents of %" PRIu64 " to %" PRIu64
	       " bytes: %.1f ns per pair of alloc and release (at best %.1f)\n",
	       r->pool ? "pool" : "space", (double)r->o->bytes / 0x1p30, share * 100, r->nr_places,
	       r->o->least, r->o->most, ns, turns[0]);
	printf("  %.4f %% of allocations were refused at first, %.1f bytes of metadata per "
	       "extent\n",
	       100.0 * (double)r->nr_refused / (double)r->nr_allocs, metadata);
	if (r->space)
		printf("  %u gaps, the largest %.3g MiB\n", s.nr_free,
		       (double)s.largest_free / 0x1p20);
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int measure(struct run *r)
{
	static double turns[TURNS_MAX];
	uint64_t full = (uint64_t)((double)r->o->bytes * r->o->full / 100), now, end;
	size_t nr = 0;
	int n = start(r);

	/* Filled, and then all of it replaced some times: what an hour of use leaves. */
	while (n == 0 && !r->nr_refused && r->used + r->o->most < full)
		n = step(r, full);
	if (n == 0)
		n = steps(r, full, 8 * r->nr_places);
	r->nr_allocs = r->nr_refused = 0;
	end = now_ns() + (uint64_t)(r->o->seconds * 1e9);
	for (now = now_ns(); n == 0 && now < end && nr < TURNS_MAX; nr++) {
		uint64_t begun = now;

		n = steps(r, full, TURN);
		now = now_ns();
		turns[nr] = (double)(now - begun) / TURN;
	}
	qsort(turns, nr, sizeof *turns, by_value);
	if (n == 0)
		report(r, turns, nr);
	return n;
}

static void usage(FILE *f)
{
	fprintf(f, "usage: store_alloc [OPTION...]\n"
		   "Nanoseconds per pair of release and alloc in a space that is kept full, on one "
		   "thread: the median of\n"
		   "turns of 10000 pairs, in CPU time.\n"
		   "  --pool          of a pool of 16 segments, with its locks; else of one space\n"
		   "  --bytes=N       that are managed (none is touched): 68719476736\n"
		   "  --full=PERCENT  how full it is kept: 95\n"
		   "  --least=N       smallest and largest size, drawn evenly over the logarithm: "
		   "4096\n"
		   "  --most=N        16777216\n"
		   "  --seconds=S     1\n"
		   "  --seed=N        1\n"
		   "  --json\n"
		   "  --help\n");
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option table[] = {
		{"pool", no_argument, NULL, 'p'},       {"bytes", required_argument, NULL, 'b'},
		{"full", required_argument, NULL, 'f'}, {"least", required_argument, NULL, 'l'},
		{"most", required_argument, NULL, 'm'}, {"seconds", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'r'}, {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},       {0}};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		char *end = "";
		double value = optarg ? strtod(optarg, &end) : 0;

		if (*end || (optarg && !(value > 0 && value <= 0x1p60))) {
			fprintf(stderr, "store_alloc: '%s' is no number above 0\n", optarg);
			return 2;
		}
		switch (c) {
		case 'p':
			o->pool = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'b':
			o->bytes = (uint64_t)value;
			break;
		case 'f':
			o->full = value;
			break;
		case 'l':
			o->least = (uint64_t)value;
			break;
		case 'm':
			o->most = (uint64_t)value;
			break;
		case 's':
			o->seconds = value;
			break;
		case 'r':
			o->seed = (uint64_t)value;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind != argc || o->full > 100 || !o->least || o->least > o->most ||
	    o->bytes / 64 < o->most) {
		fprintf(stderr,
			"store_alloc: least <= most <= bytes / 64, and full is at most 100\n");
		return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {.bytes = UINT64_C(64) << 30,
			    .least = 4096,
			    .most = 16 << 20,
			    .seed = 1,
			    .full = 95,
			    .seconds = 1};
	struct run r = {.o = &o};
	int n = parse(argc, argv, &o);

	if (n)
		return n;
	n = measure(&r);
	if (n < 0)
		fprintf(stderr, "store_alloc: failed (%d)\n", n);
	mc_space_free(r.space);
	mc_pool_free(r.pool);
	free(r.places);
	free(r.sizes);
	return n < 0;
}
