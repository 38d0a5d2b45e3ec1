/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine costs that does nothing: the time of opening it with a matrix,
 * and with an idle peer in another process its memory, threads and CPU time.
 *
 *   idle [--seconds=N]   how long to be idle, 2 unless told
 */
#include "engines.h"

#include "cli/check/census.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS 15

static const char matrix[] = "{\"*\": [[\"tcp:lo\"]]}";

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Milliseconds from the config in hand to the engine, and back; medians. */
static void test_open(void)
{
	struct mc_config *config = config_new("idle", matrix);
	double open_ms[ROUNDS], close_ms[ROUNDS], config_ms = now();
	struct mc_error err = {0};

	mc_config_free(config_new("idle", matrix));
	config_ms = (now() - config_ms) * 1e3;
	for (int i = 0; i < ROUNDS; i++) {
		struct mc_engine *e = NULL;
		double at = now(), opened;
		int r = mc_engine_open(config, T, &e, &err);

		opened = now();
		CHECK(r == 0, "%d %s", r, err.text);
		CHECK(mc_engine_close(e, T) == 0, "close");
		open_ms[i] = (opened - at) * 1e3;
		close_ms[i] = (now() - opened) * 1e3;
	}
	printf("config %.2f ms; first open %.2f ms\n", config_ms, open_ms[0]);
	qsort(open_ms, ROUNDS, sizeof *open_ms, by_value);
	qsort(close_ms, ROUNDS, sizeof *close_ms, by_value);
	printf("open %.2f ms, close %.2f ms\n", open_ms[ROUNDS / 2], close_ms[ROUNDS / 2]);
	CHECK(open_ms[ROUNDS / 2] < 10 * SLOW, "%.2f ms", open_ms[ROUNDS / 2]);
	CHECK(close_ms[ROUNDS / 2] < 10 * SLOW, "%.2f ms", close_ms[ROUNDS / 2]);
	mc_config_free(config);
}

/* The other engine: has memory, and waits to be killed. */
static pid_t peer_start(void)
{
	int ready[2];
	char c;
	pid_t pid;

	if (pipe(ready) < 0)
		exit(1);
	pid = fork();
	if (!pid) {
		struct mc_engine *e;
		void *mem;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		e = engine_new("peer", matrix);
		if (mc_memory_alloc(e, "*", 4096, MC_ACCESS_ALL, T, &mem, NULL) < 0 ||
		    write(ready[1], "r", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	CHECK(read(ready[0], &c, 1) == 1, "the peer");
	close(ready[0]);
	return pid;
}

static double rss_mib(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long pages = 0;

	if (!f || fscanf(f, "%*s %ld", &pages) != 1)
		failures++;
	if (f)
		fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static double cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* What this process computes while nobody asks it for anything, in percent of a CPU. */
static double idle_percent(unsigned seconds)
{
	struct rusage before, after;
	double cpu;

	getrusage(RUSAGE_SELF, &before);
	cpu = cpu_seconds();
	sleep(seconds);
	cpu = (cpu_seconds() - cpu) / seconds * 100;
	getrusage(RUSAGE_SELF, &after);
	printf("idle: %.3f %% of a CPU, %.1f wake-ups per second, %.1f MiB, %u threads\n", cpu,
	       (double)(after.ru_nvcsw - before.ru_nvcsw) / seconds, rss_mib(), census_threads());
	return cpu;
}

static void test_idle(unsigned seconds)
{
	pid_t peer = peer_start();
	struct mc_engine *e = engine_new("idle", matrix);
	struct mc_batch *batch = NULL;
	struct mc_segment *s = NULL;
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_request req = {.opcode = MC_OP_WRITE, .len = 4096};
	double cpu;
	int r = mc_memory_alloc(e, "*", 4096, MC_ACCESS_LOCAL, T, &req.local, NULL);

	r = r ? r : mc_segment_open(e, "peer", T, &s, NULL);
	r = r ? r : mc_segment_buffer(s, 0, &info);
	req.segment = s;
	req.offset = info.offset;
	r = r ? r : mc_batch_new(e, 1, &batch);
	r = r ? r : mc_batch_submit(batch, &req, 1, NULL);
	r = r ? r : mc_batch_wait(batch, T);
	CHECK(r == 0 && !mc_batch_failed(batch), "a transfer first: %d", r);
	sleep(1);
	cpu = idle_percent(seconds);
	/* Wake-ups cost more where others have emptied the caches: a busy neighbour is not our doing. */
	for (unsigned again = 0; again < 4 && cpu >= 0.5 * SLOW; again++)
		cpu = idle_percent(seconds);
	CHECK(cpu < 0.5 * SLOW, "%.3f %%", cpu);
	CHECK(SLOW > 1 || rss_mib() < 16, "%.1f MiB", rss_mib());
	/* The caller, control, the worker; of the helpers one renews the lease, the other ends. */
	CHECK(SLOW > 1 || census_threads() <= (seconds > 10 ? 4 : 5), "%u threads", census_threads());
	mc_batch_free(batch);
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	kill(peer, SIGKILL);
	waitpid(peer, NULL, 0);
}

int main(int argc, char **argv)
{
	unsigned seconds = 2;

	if (argc == 2 && !strncmp(argv[1], "--seconds=", 10))
		seconds = (unsigned)atoi(argv[1] + 10);
	if (argc > 2 || !seconds)
		return 2;
	engines_begin();
	test_open();
	test_idle(seconds);
	return engines_end();
}
