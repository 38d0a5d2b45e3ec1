/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the managed store's master does per second, for compare-store.sh: its messages as a client
 * library sends them, about memory that is mounted and never touched, since the master does not
 * touch it either.
 *
 *   store_master URL MATRIX OBJECTS SECONDS [PID]
 *
 * OBJECTS of 40-byte keys are put in batches of 128, then looked up.  Prints a line of figures:
 * puts (start and end) per second · lookups per second · those with 4 batches outstanding, both ·
 * single lookups per second with 16 outstanding · p50 in ns of one alone · bytes of the master's
 * memory per object, as it counts them · as PID's resident memory has grown.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>
#include <mooncake/rpc.h>

#include "stats.h"
#include "stores/managed/store_wire.h"

#define T (60 * MC_SEC)
#define BATCH 128
#define OUTSTANDING 16
#define KEY_LEN 40
#define VALUE_LEN 4096
#define SEGMENT_LEN (UINT64_C(1) << 36)
#define SEGMENTS 4
#define REQUEST_MAX (64u << 10)

enum what { START, END, GET };

/* A call that is out. */
struct slot {
	struct mc_rpc_call call;
	enum what what;
	uint32_t count;
	uint64_t sent_ns;
	bool out;
	uint8_t request[REQUEST_MAX], reply[REQUEST_MAX];
	char keys[BATCH][KEY_LEN + 1];
	struct mc_master_put puts[BATCH];
	struct mc_master_got gots[BATCH];
	struct mc_master_end ends[BATCH];
	struct mc_master_extent extents[BATCH * 2];
};

struct run {
	struct mc_engine *engine;
	struct mc_rpc_client *rpc;
	struct mc_master_client_id client;
	struct slot slots[OUTSTANDING];
	uint64_t nr_objects, next, random, last_ping_ns;
	struct bench_hist hist;
};

static _Noreturn void die(const char *what, int r, const char *why)
{
	fprintf(stderr, "store_master: %s: %s %s\n", what, r < 0 ? strerror(-r) : "", why ? why : "");
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- calls ---------------------------------------------------------------------------------------- */

static struct mc_wire begin(struct run *run, struct slot *s, uint32_t count)
{
	struct mc_wire w = mc_wire_writer(s->request, sizeof s->request);
	struct mc_wire_request head = {.version = MC_WIRE_VERSION_MAX, .count = count, .client = run->client, .tenant = ""};

	mc_wire_request(&w, &head, false);
	s->count = count;
	return w;
}

static void start(struct run *run, struct slot *s, enum mc_wire_method method, const struct mc_wire *w)
{
	int r;

	s->call = (struct mc_rpc_call){.size = sizeof s->call, .method = method, .data = s->request,
				       .len = mc_wire_len(w, sizeof s->request), .reply = s->reply, .reply_cap = sizeof s->reply};
	s->sent_ns = now_ns();
	r = s->call.len ? mc_rpc_start(run->rpc, &s->call, T) : -EMSGSIZE;
	if (r < 0)
		die("call", r, NULL);
	s->out = true;
}

static struct mc_wire finish(struct run *run, struct slot *s, const char *what)
{
	struct mc_wire w;
	struct mc_wire_reply head;
	const char *why = NULL;
	int r = mc_rpc_wait(run->rpc, &s->call);

	s->out = false;
	w = mc_wire_reader(s->reply, s->call.reply_len);
	mc_wire_reply(&w, &head);
	if (r == 0 && s->call.status == 0 && !w.broken)
		return w;
	if (!w.broken)
		mc_wire_sentence(&w, &why);
	die(what, r < 0 ? r : s->call.status, w.broken ? NULL : why);
}

static void name_keys(struct slot *s, uint64_t first, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++) {
		uint64_t hash = (first + i) * UINT64_C(0x9e3779b97f4a7c15);

		memcpy(s->keys[i], "model-7b/layer-00/block-", KEY_LEN - 16);
		for (unsigned d = 0; d < 16; d++, hash >>= 4)
			s->keys[i][KEY_LEN - 16 + d] = "0123456789abcdef"[hash & 15];
	}
}

static void put_start(struct run *run, struct slot *s, uint32_t nr)
{
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = 1};
	uint32_t preferred[MC_WIRE_PREFERRED_MAX];
	struct mc_wire w = begin(run, s, nr);

	name_keys(s, run->next, nr);
	run->next += nr;
	for (uint32_t i = 0; i < nr; i++)
		s->puts[i] = (struct mc_master_put){.key = {s->keys[i], KEY_LEN}, .len = VALUE_LEN};
	mc_wire_put_config(&w, &config, preferred);
	mc_wire_puts(&w, nr, s->puts);
	s->what = START;
	start(run, s, MC_WIRE_PUT_START, &w);
}

static void put_end(struct run *run, struct slot *s)
{
	struct mc_master_extents extents = {.at = s->extents, .cap = sizeof s->extents / sizeof *s->extents};
	struct mc_wire w = finish(run, s, "put-start");

	mc_wire_places(&w, s->count, s->puts, &extents);
	for (uint32_t i = 0; i < s->count; i++) {
		if (w.broken || s->puts[i].status < 0)
			die("put-start", s->puts[i].status, s->keys[i]);
		s->ends[i] = (struct mc_master_end){.token = s->puts[i].token};
	}
	w = begin(run, s, s->count);
	mc_wire_ends(&w, s->count, s->ends);
	s->what = END;
	start(run, s, MC_WIRE_PUT_END, &w);
}

static void put_ended(struct run *run, struct slot *s)
{
	struct mc_wire w = finish(run, s, "put-end");

	mc_wire_statuses(&w, s->count, &s->ends[0].status, sizeof s->ends[0]);
	for (uint32_t i = 0; i < s->count; i++)
		if (w.broken || s->ends[i].status < 0)
			die("put-end", s->ends[i].status, s->keys[i]);
}

static void get(struct run *run, struct slot *s, uint32_t nr)
{
	struct mc_wire w = begin(run, s, nr);

	run->random = run->random * UINT64_C(6364136223846793005) + 1442695040888963407;
	name_keys(s, (run->random >> 20) % (run->nr_objects - nr + 1), nr);
	for (uint32_t i = 0; i < nr; i++)
		s->gots[i] = (struct mc_master_got){.key = {s->keys[i], KEY_LEN}};
	mc_wire_gets(&w, nr, s->gots);
	s->what = GET;
	start(run, s, MC_WIRE_GET, &w);
}

static void got(struct run *run, struct slot *s)
{
	struct mc_master_extents extents = {.at = s->extents, .cap = sizeof s->extents / sizeof *s->extents};
	struct mc_wire w = finish(run, s, "lookup");
	uint64_t lease;

	mc_wire_gots(&w, s->count, s->gots, &extents, &lease);
	for (uint32_t i = 0; i < s->count; i++)
		if (w.broken || s->gots[i].status < 0 || s->gots[i].len != VALUE_LEN || s->gots[i].nr != 1)
			die("lookup", s->gots[i].status, s->keys[i]);
}

/* A client that is silent is given up. */
static void ping(struct run *run, struct slot *s)
{
	struct mc_wire w;

	if (now_ns() - run->last_ping_ns < MC_SEC)
		return;
	run->last_ping_ns = now_ns();
	w = begin(run, s, 0);
	start(run, s, MC_WIRE_PING, &w);
	finish(run, s, "ping");
}

/* ---- who we are --------------------------------------------------------------------------------- */

static void hello(struct run *run)
{
	struct mc_wire_hello hi = {.min = MC_WIRE_VERSION_MIN, .max = MC_WIRE_VERSION_MAX, .host = 1};
	struct mc_wire_welcome welcome;
	struct slot *s = &run->slots[0];
	struct mc_wire w = begin(run, s, 0);

	mc_wire_hello(&w, &hi);
	start(run, s, MC_WIRE_HELLO, &w);
	w = finish(run, s, "hello");
	mc_wire_welcome(&w, &welcome);
	if (w.broken || !welcome.version)
		die("hello", 0, "no common version");
	for (unsigned i = 0; i < SEGMENTS; i++) {
		struct mc_master_segment segment = {.size = sizeof segment, .base = (i + 1) * 2 * SEGMENT_LEN, .len = SEGMENT_LEN,
						    .host = 1, .location = "cpu:0"};

		memcpy(segment.uuid, run->client.bytes, sizeof segment.uuid);
		segment.uuid[0] = (uint8_t)(segment.uuid[0] + i);
		w = begin(run, s, 0);
		mc_wire_mount(&w, &segment);
		start(run, s, MC_WIRE_MOUNT, &w);
		finish(run, s, "mount");
	}
	run->last_ping_ns = now_ns();
}

static uint64_t metadata(struct run *run)
{
	struct mc_master_stats stats = {.size = sizeof stats};
	struct slot *s = &run->slots[0];
	struct mc_wire w = begin(run, s, 0);

	start(run, s, MC_WIRE_STATS, &w);
	w = finish(run, s, "stats");
	mc_wire_stats(&w, &stats);
	return w.broken ? 0 : stats.metadata;
}

static uint64_t resident(const char *pid)
{
	char path[64], line[256];
	uint64_t kib = 0;
	FILE *f;

	if (!pid)
		return 0;
	snprintf(path, sizeof path, "/proc/%.20s/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

/* ---- what is measured --------------------------------------------------------------------------- */

static double fill(struct run *run)
{
	uint64_t begun = now_ns(), done = 0;

	for (unsigned i = 0; i < 4; i++)
		put_start(run, &run->slots[i], BATCH);
	for (unsigned i = 0; done < run->nr_objects; i = (i + 1) % 4) {
		struct slot *s = &run->slots[i];

		if (!s->out)
			continue;
		if (s->what == START) {
			put_end(run, s);
			continue;
		}
		put_ended(run, s);
		done += s->count;
		ping(run, s);
		if (run->next < run->nr_objects)
			put_start(run, s, BATCH);
	}
	return (double)done / ((double)(now_ns() - begun) / 1e9);
}

/* Lookups per second of batches of nr, `out` of them at a time. */
static double look(struct run *run, uint32_t nr, unsigned out, uint64_t span_ns)
{
	uint64_t begun = now_ns(), done = 0;
	bool over = false;

	for (unsigned i = 0; i < out; i++)
		get(run, &run->slots[i], nr);
	for (unsigned left = out, i = 0; left; i = (i + 1) % out) {
		struct slot *s = &run->slots[i];

		if (!s->out)
			continue;
		got(run, s);
		done += s->count;
		if (out == 1)
			bench_hist_add(&run->hist, now_ns() - s->sent_ns);
		over = over || now_ns() - begun >= span_ns;
		if (over) {
			left--;
			continue;
		}
		ping(run, s);
		get(run, s, nr);
	}
	return (double)done / ((double)(now_ns() - begun) / 1e9);
}

static void open_all(struct run *run, const char *url, const char *matrix)
{
	struct mc_error err = {0};
	struct mc_config *c = NULL;
	char name[64];
	int r = mc_config_new(&c, &err);

	snprintf(name, sizeof name, "store-master-%ld", (long)getpid());
	if (r == 0)
		r = mc_config_set(c, "metadata_server", url, &err);
	if (r == 0)
		r = mc_config_set(c, "local_server_name", name, &err);
	if (r == 0)
		r = mc_config_set(c, "port", "0", &err);
	if (r == 0)
		r = mc_config_set(c, "advertise_address", "127.0.0.1", &err);
	if (r == 0)
		r = mc_config_set(c, "nic_priority_matrix", matrix, &err);
	if (r == 0)
		r = mc_engine_open(c, T, &run->engine, &err);
	if (r == 0)
		r = mc_rpc_client_open(run->engine, "mooncake_master", MC_STORE_SERVICE, &run->rpc, &err);
	if (r < 0)
		die("engine", r, err.text);
	mc_config_free(c);
	for (size_t i = 0; i < sizeof run->client.bytes; i++)
		run->client.bytes[i] = (uint8_t)((uint64_t)getpid() >> (i % 4 * 8)) ^ (uint8_t)i;
}

int main(int argc, char **argv)
{
	static struct run run; /* large */
	const char *pid = argc > 5 ? argv[5] : NULL;
	double puts, gets, singles, alone, span;
	uint64_t before, counted, grown;

	if (argc < 5) {
		fprintf(stderr, "usage: store_master URL MATRIX OBJECTS SECONDS [PID]\n");
		return 2;
	}
	run.nr_objects = (strtoull(argv[3], NULL, 10) + BATCH - 1) / BATCH * BATCH;
	span = strtod(argv[4], NULL);
	if (run.nr_objects < 4 * BATCH || !(span > 0))
		return 2;
	open_all(&run, argv[1], argv[2]);
	bench_hist_init(&run.hist);
	hello(&run);
	before = resident(pid);
	counted = metadata(&run);
	puts = fill(&run);
	counted = metadata(&run) - counted;
	grown = resident(pid) - before;
	gets = look(&run, BATCH, 4, (uint64_t)(span * 1e9));
	singles = look(&run, 1, OUTSTANDING, (uint64_t)(span * 1e9));
	look(&run, 1, 1, (uint64_t)(span * 1e9 / 2));
	alone = (double)bench_hist_percentile(&run.hist, 0.5);
	printf("%.0f %.0f %.0f %.0f %.1f %.1f\n", puts, gets, singles, alone, (double)counted / (double)run.nr_objects,
	       (double)grown / (double)run.nr_objects);
	mc_rpc_client_close(run.rpc);
	mc_engine_close(run.engine, T);
	return 0;
}
