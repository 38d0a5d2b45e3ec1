/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An application that keeps two keys: kv-keeper URL NAME MATRIX.  NAME/leased under
 * its lease, NAME/plain for good.  SIGUSR1: it reads, writes and lists once, each
 * with a second to do it, and prints for each "WHAT CODE MS SENTENCE"; SIGTERM: ends.
 */
#include <errno.h>
#include <mooncake/kv.h>
#include <mooncake/mooncake.h>
#include <mooncake/rpc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define T (10 * MC_SEC)

static struct mc_error err;
static char leased[64], plain[64];

static int ignore(void *ctx, const struct mc_kv_entry *entry)
{
	return 0;
}

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %d %s\n", what, r, err.text);
	exit(1);
}

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void tell(const char *what, int r, double began)
{
	printf("%s %d %.0f %s\n", what, r, now_ms() - began, r < 0 ? err.text : "");
}

static void ask(struct mc_engine *engine)
{
	double began = now_ms();

	tell("read", mc_kv_read(engine, plain, MC_SEC, ignore, NULL, &err), began);
	began = now_ms();
	tell("write", mc_kv_write(engine, plain, "again", 5, 0, MC_SEC, NULL, &err), began);
	began = now_ms();
	tell("each", mc_kv_each(engine, "", MC_SEC, ignore, NULL, &err), began);
	printf("asked\n");
}

/* What would wait is refused in a callback. */
static void handler(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	int r = mc_kv_read(arg, plain, T, ignore, NULL, NULL);

	mc_rpc_reply(request, r == -EDEADLK ? 0 : -EIO, NULL, 0);
}

static void try_in_callback(struct mc_engine *engine, const char *name)
{
	struct mc_rpc_call call = {.size = sizeof call};
	struct mc_rpc_service *service;
	struct mc_rpc_client *client;

	must(mc_rpc_serve(engine, "kv", handler, engine, &service, &err), "serve");
	must(mc_rpc_client_open(engine, name, "kv", &client, &err), "client");
	must(mc_rpc_start(client, &call, T), "start");
	must(mc_rpc_wait(client, &call), "wait");
	must(call.status, "-EDEADLK in a callback");
	mc_rpc_client_close(client);
	mc_rpc_unserve(service);
}

int main(int argc, char **argv)
{
	struct mc_engine *engine;
	struct mc_config *config;
	sigset_t set;
	int sig;

	if (argc != 4)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	snprintf(leased, sizeof leased, "%s/leased", argv[2]);
	snprintf(plain, sizeof plain, "%s/plain", argv[2]);
	must(mc_config_new(&config, &err), "config");
	must(mc_config_set(config, "metadata_server", argv[1], &err), "config");
	must(mc_config_set(config, "local_server_name", argv[2], &err), "config");
	must(mc_config_set(config, "nic_priority_matrix", argv[3], &err), "config");
	must(mc_config_set(config, "port", "0", &err), "config");
	must(mc_config_set(config, "lease_ttl", "2s", &err), "config");
	must(mc_engine_open(config, T, &engine, &err), "open");
	mc_config_free(config);
	must(mc_kv_write(engine, leased, "l", 1, MC_KV_LEASED, T, NULL, &err), "write");
	must(mc_kv_swap(engine, plain, "p", 1, 0, 0, T, NULL, &err), "swap");
	try_in_callback(engine, argv[2]);
	printf("ready\n");
	while (sigwait(&set, &sig) == 0 && sig != SIGTERM)
		ask(engine);
	must(mc_engine_close(engine, T), "close");
	return 0;
}
