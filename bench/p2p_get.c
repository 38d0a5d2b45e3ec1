/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the P2P store gets an object: one process offers it, another one gets it again and again,
 * for compare-p2p.sh.
 *
 *   p2p_get serve URL MATRIX SIZE          says "ready"; ends when its standard input does
 *   p2p_get get URL MATRIX SIZE SECONDS    bytes per second of the calls of mc_p2p_get_replica,
 *                                          and CPU seconds of this process per GB of them
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>
#include <mooncake/p2p_store.h>

#define T (60 * MC_SEC)
#define NAME "bench"

static void die(const char *what, int r, const struct mc_error *err)
{
	fprintf(stderr, "p2p_get: %s: %d %s\n", what, r, err->text);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* CPU seconds of this process. */
static double cpu(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct mc_engine *engine_open(const char *name, const char *url, const char *matrix)
{
	struct mc_error err = {0};
	struct mc_config *c = NULL;
	struct mc_engine *e = NULL;
	int r = mc_config_new(&c, &err);

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
		r = mc_engine_open(c, T, &e, &err);
	if (r < 0)
		die("engine", r, &err);
	mc_config_free(c);
	return e;
}

static void serve(struct mc_p2p *store, struct mc_p2p_range *range)
{
	struct mc_error err = {0};
	char c;
	int r;

	for (uint64_t i = 0; i < range->len; i += 8)
		memcpy((char *)range->addr + i, &i, 8);
	r = mc_p2p_register(store, NAME, range, 1, NULL, T, &err);
	if (r < 0)
		die("register", r, &err);
	printf("ready\n");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
}

static void get(struct mc_p2p *store, struct mc_p2p_range *range, double seconds)
{
	double begin = now(), spent = 0, busy = 0;
	struct mc_error err = {0};
	unsigned int nr = 0;

	memset(range->addr, 1, range->len);
	/* The first one connects. */
	for (int warm = 1; warm || now() - begin < seconds || nr < 3; warm = 0) {
		double at = now(), cpu_at = cpu();
		int r = mc_p2p_get_replica(store, NAME, range, 1, NULL, T, &err);

		if (r < 0)
			die("get", r, &err);
		if (!warm) {
			spent += now() - at;
			busy += cpu() - cpu_at;
			nr++;
		}
		r = mc_p2p_delete_replica(store, NAME, T, &err);
		if (r < 0)
			die("delete", r, &err);
	}
	printf("%.0f %.4f\n", (double)range->len * nr / spent, busy / ((double)range->len * nr / 1e9));
}

int main(int argc, char **argv)
{
	struct mc_p2p_range range = {0};
	struct mc_error err = {0};
	struct mc_engine *engine;
	struct mc_p2p *store = NULL;
	bool gets = argc == 6 && strcmp(argv[1], "get") == 0;
	char name[64];
	int r;

	if (!gets && !(argc == 5 && strcmp(argv[1], "serve") == 0)) {
		fprintf(stderr, "usage: p2p_get serve URL MATRIX SIZE | p2p_get get URL MATRIX SIZE SECONDS\n");
		return 2;
	}
	snprintf(name, sizeof name, "p2p-%s-%d", argv[1], (int)getpid());
	range.len = strtoull(argv[4], NULL, 10) / 8 * 8;
	engine = engine_open(name, argv[2], argv[3]);
	r = mc_memory_alloc(engine, "*", range.len, MC_ACCESS_REMOTE_READ, T, &range.addr, &err);
	if (r == 0)
		r = mc_p2p_open(engine, NULL, &store, &err);
	if (r < 0)
		die("store", r, &err);
	if (gets)
		get(store, &range, atof(argv[5]));
	else
		serve(store, &range);
	mc_p2p_close(store, T);
	mc_engine_close(engine, T);
	return 0;
}
