/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the master's state costs by itself, without network and disk: memory per object, and what
 * putting and getting take in batches.  Nothing of the lent memory is touched; changes go nowhere.
 *
 *   store_state [--objects=N] [--key=BYTES] [--batch=N] [--chain] [--threads=N] [--seconds=S]
 *               [--at_most=BYTES] [--json]
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/util/check.h"
#include "stores/managed/master_state.h"

#define SEGMENTS 16u
#define SIZE 4096u /* of an object's bytes */
#define BATCH_MAX 4096u
#define KEY_MIN 16u
#define TICK_BATCHES 32u
#define THREADS_MAX 64u

struct options {
	uint64_t objects, key, batch, threads;
	double seconds, at_most;
	bool chain, json;
};

struct run {
	const struct options *o;
	struct mc_master *master;
	struct mc_master_client_id client;
	_Atomic bool stop;
};

struct worker {
	struct run *run;
	pthread_t thread;
	uint64_t random, next, nr, nr_missed, cpu_ns, ahead_ns;
	char (*keys)[MC_STORE_KEY_MAX];
	struct mc_master_put *puts;
	struct mc_master_end *ends;
	struct mc_master_got *gots;
	struct mc_master_extents extents;
	int (*batch)(struct worker *w);
	int status;
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t resident(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f && fscanf(f, "%*u %lu", &pages) != 1)
		pages = 0;
	if (f)
		fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- a sink that keeps nothing -----------------------------------------------------------------
 */

static _Atomic uint64_t last_seq;

static int sink_append(void *ctx, struct mc_store_change *changes, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		changes[i].seq = atomic_fetch_add(&last_seq, 1) + 1;
	return 0;
}

static uint64_t sink_synced(void *ctx)
{
	return atomic_load(&last_seq);
}

static void sink_want(void *ctx, uint64_t seq)
{
}

/* ---- batches -----------------------------------------------------------------------------------
 */

/* A key's number in hexadecimal, and zeros before it. */
static struct mc_master_key key_of(struct worker *w, size_t i, uint64_t number)
{
	static const char digits[] = "0123456789abcdef";
	char *key = w->keys[i];
	size_t len = w->run->o->key;

	for (size_t k = 0; k < KEY_MIN; k++, number >>= 4)
		key[len - 1 - k] = digits[number & 15];
	return (struct mc_master_key){key, (uint32_t)len};
}

static uint64_t draw(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random >> 32;
}

static int put_batch(struct worker *w, size_t nr)
{
	struct run *run = w->run;
	struct mc_master_put_config config = {.size = sizeof config,
					      .flags = run->o->chain ? MC_MASTER_PUT_CHAIN : 0};
	uint64_t now = now_ns(CLOCK_MONOTONIC) + w->ahead_ns;
	struct mc_master_full full;
	int r;

	for (size_t i = 0; i < nr; i++)
		w->puts[i] = (struct mc_master_put){.key = key_of(w, i, w->next++), .len = SIZE};
	w->extents.nr = 0;
	r = mc_master_put_start(run->master, &run->client, &config, w->puts, nr, &w->extents, &full,
				now);
	if (r)
		return r < 0 ? r : w->puts[0].status ? w->puts[0].status : -EIO;
	for (size_t i = 0; i < nr; i++)
		w->ends[i] = (struct mc_master_end){.token = w->puts[i].token};
	r = mc_master_put_end(run->master, &run->client, w->ends, nr, now);
	return r ? -EIO : 0;
}

static int get_batch(struct worker *w)
{
	const struct options *o = w->run->o;
	uint64_t lease, number = 0;
	int r;

	for (size_t i = 0; i < o->batch; i++) {
		/* Chains were put batch by batch. */
		if (i == 0 && o->chain)
			number = (draw(w) * (o->objects / o->batch) >> 32) * o->batch;
		else
			number = o->chain ? number + 1 : draw(w) * o->objects >> 32;
		w->gots[i].key = key_of(w, i, number);
	}
	w->extents.nr = 0;
	r = mc_master_get(w->run->master, 0, o->chain ? MC_MASTER_GET_CHAIN : 0, w->gots, o->batch,
			  &w->extents, &lease, now_ns(CLOCK_MONOTONIC));
	w->nr_missed += r > 0 ? (uint64_t)r : 0;
	return r < 0 ? r : 0;
}

/* ---- phases ------------------------------------------------------------------------------------
 */

static int worker_init(struct worker *w, struct run *run, uint64_t seed)
{
	const struct options *o = run->o;

	*w = (struct worker){.run = run, .random = seed * 2 + 1};
	w->keys = calloc(o->batch, sizeof *w->keys);
	w->puts = calloc(o->batch, sizeof *w->puts);
	w->ends = calloc(o->batch, sizeof *w->ends);
	w->gots = calloc(o->batch, sizeof *w->gots);
	w->extents.cap = o->batch;
	w->extents.at = calloc(o->batch, sizeof *w->extents.at);
	if (!w->keys || !w->puts || !w->ends || !w->gots || !w->extents.at)
		return -ENOMEM;
	for (size_t i = 0; i < o->batch; i++)
		memset(w->keys[i], '0', o->key);
	return 0;
}

static void worker_fini(struct worker *w)
{
	free(w->keys);
	free(w->puts);
	free(w->ends);
	free(w->gots);
	free(w->extents.at);
}

static void *get_thread(void *arg)
{
	struct worker *w = arg;
	uint64_t begun = now_ns(CLOCK_THREAD_CPUTIME_ID);

	while (!atomic_load_explicit(&w->run->stop, memory_order_relaxed) && w->status == 0) {
		w->status = get_batch(w);
		w->nr += w->run->o->batch;
	}
	w->cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
	return NULL;
}

struct result {
	double put_ns, replace_ns, get_ns; /* of CPU time, per object */
	double get; /* per second of the clock, all threads */
	uint64_t memory, metadata, missed;
};

/* Gets of o->threads threads. */
static int measure_gets(struct run *run, struct result *result)
{
	uint64_t begun = now_ns(CLOCK_MONOTONIC), nr = 0, started = 0, cpu_ns = 0;
	struct worker workers[THREADS_MAX] = {0};
	int r = 0;

	for (; started < run->o->threads && r == 0; started += r == 0) {
		r = worker_init(&workers[started], run, 77 + started);
		if (r == 0)
			r = -pthread_create(&workers[started].thread, NULL, get_thread,
					    &workers[started]);
	}
	if (r == 0)
		usleep((useconds_t)(run->o->seconds * 1e6));
	atomic_store(&run->stop, true);
	for (uint64_t i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		nr += workers[i].nr;
		cpu_ns += workers[i].cpu_ns;
		result->missed += workers[i].nr_missed;
		r = workers[i].status < 0 ? workers[i].status : r;
	}
	result->get = (double)nr * 1e9 / (double)(now_ns(CLOCK_MONOTONIC) - begun);
	result->get_ns = nr ? (double)cpu_ns / (double)nr : 0;
	for (uint64_t i = 0; i < run->o->threads; i++)
		worker_fini(&workers[i]);
	return r;
}

static int ping(struct run *run, uint64_t now)
{
	struct mc_master_ping ping = {.size = sizeof ping,
				      .engine = "bench",
				      .generation = 1,
				      .client = run->client};

	return mc_master_client_ping(run->master, &ping, now);
}

/* Ten per cent more room than the objects need, so that none of them is evicted. */
static int begin(struct run *run)
{
	static const struct mc_master_sink sink = {.append = sink_append,
						   .synced = sink_synced,
						   .want = sink_want};
	struct mc_master_limits limits = {.size = sizeof limits,
					  .mean_object = SIZE,
					  .seed = 1,
					  .high_watermark = 1};
	uint64_t len = mc_round_up(run->o->objects * SIZE / SEGMENTS * 11 / 10 + (1 << 20), SIZE);
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	int r = mc_master_new(&limits, &run->master);

	memset(&run->client, 7, sizeof run->client);
	if (r == 0)
		r = mc_master_start(run->master, &sink, now);
	if (r == 0)
		r = ping(run, now);
	for (uint32_t i = 0; i < SEGMENTS && r == 0; i++) {
		struct mc_master_segment segment = {.size = sizeof segment,
						    .uuid = {(uint8_t)(i + 1)},
						    .engine = "bench",
						    .generation = 1,
						    .base = (i + 1) * (len + SIZE),
						    .len = len,
						    .location = "cpu:0",
						    .client = run->client};

		r = mc_master_mount(run->master, &segment, now);
	}
	return r;
}

/* When all leases have ended: the pool is filled, and then something goes for each object that
 * comes. */
static int measure_replacing(struct run *run, struct worker *w, struct result *result)
{
	uint64_t nr = run->o->objects / 4, full = w->next + run->o->objects / 8, begun = 0;
	uint64_t nr_batches = 0;
	int r;

	w->ahead_ns = 3600 * MC_SEC;
	r = ping(run, now_ns(CLOCK_MONOTONIC) + w->ahead_ns);
	while (r == 0 && w->next < full + nr) {
		if (!begun && w->next >= full)
			begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
		r = put_batch(w, run->o->batch);
		/* As the master's clock would at some 400,000 a second. */
		if (r == 0 && ++nr_batches % TICK_BATCHES == 0) {
			uint64_t now = now_ns(CLOCK_MONOTONIC) + w->ahead_ns;

			r = ping(run, now);
			mc_master_tick(run->master, now);
		}
	}
	result->replace_ns = (double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - begun) / (double)nr;
	return r;
}

static int measure(struct run *run, struct result *result)
{
	const struct options *o = run->o;
	struct mc_master_stats stats = {.size = sizeof stats};
	uint64_t before, begun, spent;
	struct worker w = {0};
	int r = worker_init(&w, run, 1);

	if (r == 0)
		r = begin(run);
	before = resident();
	begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
	while (r == 0 && w.next < o->objects)
		r = put_batch(&w, MC_MIN(o->batch, o->objects - w.next));
	spent = now_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
	if (r == 0) {
		result->memory = resident() - before;
		result->put_ns = (double)spent / (double)o->objects;
		mc_master_stats(run->master, &stats, now_ns(CLOCK_MONOTONIC));
		result->metadata = stats.metadata;
		r = stats.nr_objects == o->objects ? 0 : -EIO;
	}
	if (r == 0)
		r = measure_gets(run, result);
	if (r == 0)
		r = measure_replacing(run, &w, result);
	worker_fini(&w);
	return r;
}

/* ---- command line ------------------------------------------------------------------------------
 */

static void usage(FILE *f)
{
	fprintf(f, "usage: store_state [OPTION...]\n"
		   "What the master's state costs without network and disk: bytes per object, CPU "
		   "time "
		   "of a put (start and end)\n"
		   "and of a get in batches, gets per second.\n"
		   "  --objects=N  1000000\n"
		   "  --key=BYTES  length of their keys, 16 to 1023: 40\n"
		   "  --batch=N    up to 4096: 128\n"
		   "  --chain      a batch is a chain of blocks\n"
		   "  --threads=N  that get: 1\n"
		   "  --seconds=S  for the gets: 1\n"
		   "  --at_most=BYTES  exit with 1 if an object takes more\n"
		   "  --json\n"
		   "  --help\n");
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option table[] = {{"objects", required_argument, NULL, 'n'},
					      {"key", required_argument, NULL, 'k'},
					      {"batch", required_argument, NULL, 'b'},
					      {"threads", required_argument, NULL, 't'},
					      {"seconds", required_argument, NULL, 's'},
					      {"chain", no_argument, NULL, 'c'},
					      {"at_most", required_argument, NULL, 'm'},
					      {"json", no_argument, NULL, 'j'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		char *end = "";
		double value = optarg ? strtod(optarg, &end) : 1;

		if (*end || !(value > 0 && value <= 1e9)) {
			fprintf(stderr, "store_state: '%s' is no number above 0\n", optarg);
			return 2;
		}
		switch (c) {
		case 'n':
			o->objects = (uint64_t)value;
			break;
		case 'k':
			o->key = (uint64_t)value;
			break;
		case 'b':
			o->batch = (uint64_t)value;
			break;
		case 't':
			o->threads = (uint64_t)value;
			break;
		case 's':
			o->seconds = value;
			break;
		case 'm':
			o->at_most = value;
			break;
		case 'c':
			o->chain = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind != argc || o->key < KEY_MIN || o->key > MC_STORE_KEY_MAX || !o->batch ||
	    o->batch > BATCH_MAX || o->batch > o->objects || !o->threads ||
	    o->threads > THREADS_MAX) {
		usage(stderr);
		return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {
		.objects = 1000000, .key = 40, .batch = 128, .threads = 1, .seconds = 1};
	struct run run = {.o = &o};
	struct result res = {0};
	int r = parse(argc, argv, &o);

	if (r)
		return r;
	r = measure(&run, &res);
	mc_master_free(run.master);
	if (r < 0) {
		fprintf(stderr, "store_state: %s\n", strerror(-r));
		return 1;
	}
	printf(o.json ? "{\"schema\": 1, \"program\": \"store_state\", \"objects\": %" PRIu64
			", \"key\": %" PRIu64 ", \"batch\": %" PRIu64 ", \"threads\": %" PRIu64
			", \"bytes_per_object\": %.1f, \"told_per_object\": %.1f, "
			"\"put_ns\": %.1f, \"replace_ns\": %.1f, \"get_ns\": %.1f, "
			"\"gets_per_second\": %.0f, "
			"\"missed\": %" PRIu64 "}\n"
		      : "%" PRIu64 " objects, keys of %" PRIu64 " bytes, batches of %" PRIu64
			", %" PRIu64 " threads get: %.1f bytes per object (%.1f by the state's own "
			"count), put %.1f ns, put when full %.1f ns, get %.1f ns of CPU time, %.0f "
			"gets/s, %" PRIu64 " missed\n",
	       o.objects, o.key, o.batch, o.threads, (double)res.memory / (double)o.objects,
	       (double)res.metadata / (double)o.objects, res.put_ns, res.replace_ns, res.get_ns,
	       res.get, res.missed);
	if (o.at_most > 0 && (double)res.memory > o.at_most * (double)o.objects) {
		fprintf(stderr, "store_state: an object takes more than %.0f bytes\n", o.at_most);
		return 1;
	}
	return res.missed != 0;
}
