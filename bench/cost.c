/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it costs to have an engine, seen through the public API: the time to open
 * one, to open a segment and move the first bytes, to list the cluster; and what
 * an idle one takes.  One engine per process, so that every run is a first one.
 *
 *   engine_cost WHAT [--KEY=VALUE...]     KEY: config keys; WHAT is one of
 *     open              "open_ns N": mc_engine_open
 *     first SEGMENT     and "segment_ns N": mc_segment_open and the first 64 bytes written
 *     list              and "list_ns N", "list_nr N"
 *     unknown SEGMENT   and "unknown_ns N", and the sentence that it is refused with
 *     idle SEGMENT S    after `first` and a second of rest: "idle_cpu_ns N" over S seconds,
 *                       "idle_rss_bytes N", and a second later "idle_threads N"
 *     write SEGMENT N   N batches of 16 times 1 MiB into the segment's first buffer, one after the
 *     read SEGMENT N    other, or out of it: bench/rdma-cost.sh counts their instructions
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>

#define FIRST_BYTES 64
#define BATCH 16u
#define BLOCK (UINT64_C(1) << 20)

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static void rest(double seconds)
{
	struct timespec ts = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* --key=value, each a config key. */
static int configure(struct mc_config *config, char **flags, struct mc_error *err)
{
	int r = mc_config_env(config, err);

	for (; r == 0 && *flags; flags++) {
		char *eq = strchr(*flags, '=');
		char key[128];

		if (strncmp(*flags, "--", 2) != 0 || !eq || (size_t)(eq - *flags) >= sizeof key)
			return mc_fail(err, -EINVAL, "argument '%s': not --KEY=VALUE", *flags);
		snprintf(key, sizeof key, "%.*s", (int)(eq - *flags - 2), *flags + 2);
		r = mc_config_set(config, key, eq + 1, err);
	}
	return r;
}

static int open_engine(char **flags, struct mc_engine **ret_engine, struct mc_error *err)
{
	struct mc_config *config = NULL;
	uint64_t start;
	int r = mc_config_new(&config, err);

	if (r == 0)
		r = configure(config, flags, err);
	start = now_ns();
	if (r == 0)
		r = mc_engine_open(config, 30 * MC_SEC, ret_engine, err);
	if (r == 0)
		printf("open_ns %" PRIu64 "\n", now_ns() - start);
	mc_config_free(config);
	return r;
}

static int write_first(struct mc_engine *engine, struct mc_segment *segment, void *local,
		       struct mc_error *err)
{
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_request_status status = {.size = sizeof status};
	struct mc_request req = {.opcode = MC_OP_WRITE,
				 .local = local,
				 .segment = segment,
				 .len = FIRST_BYTES};
	struct mc_batch *batch = NULL;
	int r = mc_segment_buffer(segment, 0, &info);

	if (r == 0)
		r = mc_batch_new(engine, 1, &batch);
	req.offset = info.offset;
	if (r == 0 && (r = mc_batch_submit(batch, &req, 1, NULL)) == 0 &&
	    (r = mc_batch_wait(batch, 10 * MC_SEC)) == 0 &&
	    (r = mc_batch_status(batch, 0, &status)) == 0)
		r = status.status;
	mc_batch_free(batch);
	return r < 0 ? mc_fail(err, r, "the first write: %s", strerror(-r)) : 0;
}

/* The segment stays open. */
static int first(struct mc_engine *engine, const char *name, struct mc_error *err)
{
	struct mc_segment *segment = NULL;
	uint64_t start;
	void *local;
	int r = mc_memory_alloc(engine, "*", 4096, MC_ACCESS_LOCAL, 10 * MC_SEC, &local, err);

	start = now_ns();
	if (r == 0)
		r = mc_segment_open(engine, name, 10 * MC_SEC, &segment, err);
	if (r == 0)
		r = write_first(engine, segment, local, err);
	if (r == 0)
		printf("segment_ns %" PRIu64 "\n", now_ns() - start);
	return r;
}

static int count(void *ctx, const char *name)
{
	++*(uint64_t *)ctx;
	return 0;
}

static int list(struct mc_engine *engine, struct mc_error *err)
{
	uint64_t nr = 0, start = now_ns();
	int r = mc_segment_list(engine, 30 * MC_SEC, count, &nr, err);

	if (r < 0)
		return r;
	printf("list_ns %" PRIu64 "\nlist_nr %" PRIu64 "\n", now_ns() - start, nr);
	return 0;
}

static int unknown(struct mc_engine *engine, const char *name, struct mc_error *err)
{
	struct mc_segment *segment = NULL;
	uint64_t start = now_ns();

	if (mc_segment_open(engine, name, 10 * MC_SEC, &segment, err) == 0)
		return mc_fail(err, -EEXIST, "segment '%s' exists", name);
	printf("unknown_ns %" PRIu64 "\n%s\n", now_ns() - start, err->text);
	return 0;
}

static uint64_t count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	uint64_t nr = 0;

	for (struct dirent *e; dir && (e = readdir(dir));)
		nr += e->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return nr;
}

static uint64_t resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long size = 0, resident = 0;

	if (f && fscanf(f, "%llu %llu", &size, &resident) != 2)
		resident = 0;
	if (f)
		fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int idle(struct mc_engine *engine, const char *name, double seconds, struct mc_error *err)
{
	int r = first(engine, name, err);
	uint64_t cpu;

	if (r < 0)
		return r;
	rest(1);
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	rest(seconds);
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("idle_cpu_ns %" PRIu64 "\nidle_rss_bytes %" PRIu64 "\n", cpu, resident_bytes());
	/* Helper threads end when they have had nothing to do for 10 s: with S = 10 the count must not
	 * race with that. */
	rest(1);
	printf("idle_threads %" PRIu64 "\n", count_threads());
	return 0;
}

static int move_batches(struct mc_batch *batch, const struct mc_request *reqs, unsigned long nr)
{
	int r = 0;

	for (unsigned long i = 0; i < nr && r == 0; i++) {
		r = mc_batch_reset(batch);
		if (r == 0)
			r = mc_batch_submit(batch, reqs, BATCH, NULL);
		if (r == 0)
			r = mc_batch_wait(batch, 10 * MC_SEC);
		if (r == 0 && mc_batch_failed(batch))
			r = -EIO;
	}
	return r;
}

static int move(struct mc_engine *engine, const char *name, enum mc_opcode opcode, unsigned long nr,
		struct mc_error *err)
{
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_segment *segment = NULL;
	struct mc_batch *batch = NULL;
	struct mc_request reqs[BATCH];
	void *local;
	int r = mc_memory_alloc(engine, "*", BATCH * BLOCK, MC_ACCESS_LOCAL, 10 * MC_SEC, &local, err);

	if (r == 0)
		r = mc_segment_open(engine, name, 10 * MC_SEC, &segment, err);
	if (r < 0)
		return r;
	r = mc_segment_buffer(segment, 0, &info);
	for (uint64_t i = 0; i < BATCH; i++)
		reqs[i] = (struct mc_request){.opcode = opcode,
					      .local = (char *)local + i * BLOCK,
					      .segment = segment,
					      .offset = info.offset + i * BLOCK,
					      .len = BLOCK};
	if (r == 0)
		r = mc_batch_new(engine, BATCH, &batch);
	if (r == 0)
		r = move_batches(batch, reqs, nr);
	mc_batch_free(batch);
	return r < 0 ? mc_fail(err, r, "moving: %s", strerror(-r)) : 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: engine_cost open|list|first SEGMENT|unknown SEGMENT|idle SEGMENT SECONDS|"
		"write SEGMENT N|read SEGMENT N [--KEY=VALUE...]\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	bool moves = !strcmp(what, "write") || !strcmp(what, "read");
	bool named = !strcmp(what, "first") || !strcmp(what, "unknown") || !strcmp(what, "idle") || moves;
	bool plain = !strcmp(what, "open") || !strcmp(what, "list");
	int flags = plain ? 2 : moves || !strcmp(what, "idle") ? 4 : 3, r;
	struct mc_engine *engine = NULL;
	struct mc_error err = {0};

	if ((!named && !plain) || argc < flags)
		return usage();
	r = open_engine(argv + flags, &engine, &err);
	if (r == 0 && !strcmp(what, "list"))
		r = list(engine, &err);
	else if (r == 0 && !strcmp(what, "first"))
		r = first(engine, argv[2], &err);
	else if (r == 0 && !strcmp(what, "unknown"))
		r = unknown(engine, argv[2], &err);
	else if (r == 0 && !strcmp(what, "idle"))
		r = idle(engine, argv[2], atof(argv[3]), &err);
	else if (r == 0 && moves)
		r = move(engine, argv[2], *what == 'w' ? MC_OP_WRITE : MC_OP_READ, strtoul(argv[3], NULL, 10), &err);
	mc_engine_close(engine, MC_SEC);
	if (r < 0)
		fprintf(stderr, "engine_cost: %s\n", err.text);
	return r < 0;
}
