/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What single puts and gets can reach at the very best where a third process is asked beside each transfer: messages
 * of the store's sizes to a service that only answers, and the engine's transfers, nothing else.  For compare-store.sh.
 *
 *   store_bare answer URL MATRIX READY                  the service; ends by a signal
 *   store_bare put|get URL MATRIX TARGET SIZE SECONDS   bytes per second, and those of the same transfers when
 *                                                       nobody is asked; TARGET is a segment
 *
 * A put asks, writes and asks again; a get asks, then reads.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>
#include <mooncake/rpc.h>

#define T (60 * MC_SEC)
#define ANSWER "store-bare-answer"
#define SERVICE "bare"
#define MESSAGE_MAX 256

/* Bytes on the wire of a question and its answer, without the RPC's own head: as the store's of one key. */
enum { GET = 0, PUT_START = 1, PUT_END = 2 };
static const struct {
	size_t asked, answered;
} sizes[] = {[GET] = {66, 71}, [PUT_START] = {97, 61}, [PUT_END] = {37, 28}};

struct run {
	struct mc_engine *engine;
	struct mc_rpc_client *rpc;
	struct mc_segment *segment;
	struct mc_batch *batch;
	uint64_t base, places, size;
	void *local;
	enum mc_opcode opcode;
};

static _Noreturn void die(const char *what, int r, const char *why)
{
	fprintf(stderr, "store_bare: %s: %s %s\n", what, strerror(-r), why);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static struct mc_engine *engine_open(const char *name, const char *url, const char *matrix)
{
	const char *const settings[][2] = {{"metadata_server", url}, {"local_server_name", name}, {"port", "0"},
					   {"advertise_address", "127.0.0.1"}, {"nic_priority_matrix", matrix}};
	struct mc_error err = {0};
	struct mc_config *c = NULL;
	struct mc_engine *e = NULL;
	int r = mc_config_new(&c, &err);

	for (size_t i = 0; r == 0 && i < sizeof settings / sizeof *settings; i++)
		r = mc_config_set(c, settings[i][0], settings[i][1], &err);
	if (r == 0)
		r = mc_engine_open(c, T, &e, &err);
	if (r < 0)
		die("engine", r, err.text);
	mc_config_free(c);
	return e;
}

/* ---- the service ---------------------------------------------------------------------------------- */

static void answered(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	static const char answer[MESSAGE_MAX];

	mc_rpc_reply(request, 0, answer, in->method <= PUT_END ? sizes[in->method].answered : 0);
}

static int answer(const char *url, const char *matrix, const char *ready)
{
	struct mc_engine *engine = engine_open(ANSWER, url, matrix);
	struct mc_rpc_service *service;
	struct mc_error err = {0};
	int r = mc_rpc_serve(engine, SERVICE, answered, NULL, &service, &err);
	FILE *f = r == 0 ? fopen(ready, "we") : NULL;

	if (!f || fclose(f) != 0)
		die("service", r, err.text);
	for (;;)
		pause();
}

/* ---- its client ----------------------------------------------------------------------------------- */

static void ask(struct run *run, uint32_t method)
{
	char question[MESSAGE_MAX] = {0}, reply[MESSAGE_MAX];
	struct mc_rpc_call call = {.size = sizeof call, .method = method, .data = question, .len = sizes[method].asked,
				   .reply = reply, .reply_cap = sizeof reply};
	int r = mc_rpc_start(run->rpc, &call, T);

	if (r == 0)
		r = mc_rpc_wait(run->rpc, &call);
	if (r == 0)
		r = call.status;
	if (r < 0)
		die("question", r, "");
}

static void move(struct run *run, uint64_t place)
{
	struct mc_request req = {.opcode = run->opcode, .local = run->local, .segment = run->segment,
				 .offset = run->base + place * run->size, .len = run->size};
	int r = mc_batch_submit(run->batch, &req, 1, NULL);

	if (r == 0)
		r = mc_batch_wait(run->batch, T);
	if (r == 0 && mc_batch_failed(run->batch))
		r = -EIO;
	if (r == 0)
		r = mc_batch_reset(run->batch);
	if (r < 0)
		die("transfer", r, "");
}

static void run_open(struct run *run, const char *url, const char *matrix, const char *target)
{
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_error err = {0};
	int r;

	run->engine = engine_open("store-bare", url, matrix);
	r = mc_memory_alloc(run->engine, "*", run->size, MC_ACCESS_LOCAL, T, &run->local, &err);
	if (r == 0)
		r = mc_rpc_client_open(run->engine, ANSWER, SERVICE, &run->rpc, &err);
	if (r == 0)
		r = mc_segment_open(run->engine, target, T, &run->segment, &err);
	if (r == 0)
		r = mc_segment_buffer(run->segment, 0, &info);
	if (r == 0)
		r = mc_batch_new(run->engine, 1, &run->batch);
	run->base = info.offset;
	run->places = info.len / run->size;
	if (r == 0 && !run->places)
		r = -ERANGE;
	if (r < 0)
		die("open", r, err.text);
	memset(run->local, 1, run->size);
}

/* Bytes per second of puts or gets; without questions, of their transfers. */
static double measure(struct run *run, bool asks, double seconds)
{
	uint64_t begun = now_ns(), last = begun, span = (uint64_t)(seconds * 1e9), nr = 0;

	/* The first one connects. */
	for (bool warm = true; warm || last - begun < span; warm = false) {
		if (asks)
			ask(run, run->opcode == MC_OP_WRITE ? PUT_START : GET);
		move(run, nr % run->places);
		if (asks && run->opcode == MC_OP_WRITE)
			ask(run, PUT_END);
		last = now_ns();
		if (warm)
			begun = last;
		else
			nr++;
	}
	return (double)(nr * run->size) * 1e9 / (double)(last - begun);
}

static void run_close(struct run *run)
{
	mc_batch_free(run->batch);
	mc_segment_close(run->segment);
	mc_rpc_client_close(run->rpc);
	mc_engine_close(run->engine, T);
}

int main(int argc, char **argv)
{
	struct run run = {.opcode = argc > 1 && strcmp(argv[1], "put") == 0 ? MC_OP_WRITE : MC_OP_READ};
	double seconds, asked;

	if (argc == 5 && strcmp(argv[1], "answer") == 0)
		return answer(argv[2], argv[3], argv[4]);
	if (argc != 7 || (run.opcode == MC_OP_READ && strcmp(argv[1], "get") != 0)) {
		fprintf(stderr, "usage: store_bare answer URL MATRIX READY | put|get URL MATRIX TARGET SIZE SECONDS\n");
		return 2;
	}
	run.size = strtoull(argv[5], NULL, 10);
	seconds = strtod(argv[6], NULL);
	if (!run.size || !(seconds > 0))
		return 2;
	run_open(&run, argv[2], argv[3], argv[4]);
	asked = measure(&run, true, seconds);
	printf("%.0f %.0f\n", asked, measure(&run, false, seconds));
	run_close(&run);
	return 0;
}
