/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --cmd=trainer and --cmd=inferencer: what the sample of the public project's P2P store does, with
 * its flags and its lines.  The trainer offers an object of memory, 'foo/bar', for 100 seconds; the
 * inferencer copies it.
 */
#include <errno.h>
#include <inttypes.h>

#include <cli/program/join.h>

#include "program.h"
#include "stop.h"

#define OBJECT "foo/bar"
#define SHARD_SIZE (UINT64_C(64) << 20)
#define IDLE_S 100

struct sample {
	const struct p2pc_options *o;
	struct p2pc_session session;
	struct mc_p2p_range range;
};

static int begin(struct sample *s, struct mc_config *config, struct mc_error *err)
{
	int r = p2pc_session_open(&s->session, s->o, config, true, err);

	s->range.len = s->o->file_size_mb << 20;
	if (r == 0)
		r = mc_memory_alloc(s->session.engine, "*", s->range.len, MC_ACCESS_REMOTE_READ, P2PC_ASK_NS, &s->range.addr, err);
	return r;
}

static int end(struct sample *s, int r, const struct mc_error *err)
{
	int code = P2PC_EXIT_OK;

	if (r < 0)
		code = p2pc_tell_error(s->o, err->text, s->session.usage ? P2PC_EXIT_USAGE : P2PC_EXIT_FAILED);
	if (s->range.addr)
		mc_memory_free(s->session.engine, s->range.addr, P2PC_CLOSE_NS, NULL);
	p2pc_session_close(&s->session);
	if (r == 0)
		puts("ALL DONE");
	return code;
}

/* Its releases say it differently, and scripts look for either. */
static void tell_done(const struct sample *s, const char *old, const char *what, uint64_t start_ns)
{
	uint64_t ns = p2pc_now_ns() - start_ns;

	printf("%s done, duration (ms): %" PRIu64 "\n", old, ns / MC_MSEC);
	printf("Object %s done: duration (ms) %" PRIu64 " throughput (GB/s) %.2f\n", what, ns / MC_MSEC,
	       (double)s->range.len / (double)(ns ? ns : 1));
	fflush(stdout);
}

/* As if it had been trained: the same bytes at every trainer, and no two shards alike. */
static void fill(const struct mc_p2p_range *range)
{
	uint64_t *at = range->addr, x = 0;

	for (uint64_t i = 0; i < range->len / sizeof *at; i++) {
		uint64_t z = x += UINT64_C(0x9e3779b97f4a7c15);

		z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
		at[i] = z ^ z >> 27;
	}
}

static int train(struct sample *s, struct mc_error *err)
{
	const struct p2pc_options *o = s->o;
	struct mc_p2p_register_options options = {
		.size = sizeof options,
		.shard_size = o->shard_size ? o->shard_size : SHARD_SIZE,
		.stop = p2pc_stopping,
	};
	double idle = o->duration >= 0 ? o->duration : IDLE_S;
	uint64_t start;
	int r;

	fill(&s->range);
	printf("After training, register new object: %s file size: %" PRIu64 " MB\n", OBJECT, o->file_size_mb);
	fflush(stdout);
	start = p2pc_now_ns();
	r = mc_p2p_register(s->session.store, OBJECT, &s->range, 1, &options, p2pc_timeout(o, MC_FOREVER), err);
	if (r < 0)
		return r;
	tell_done(s, "Register", "registration", start);
	r = mc_join_ready(o->ready_file, s->session.engine, err);
	if (r == 0) {
		printf("Idle for %.0f seconds, now you can start another terminal to simulate inference\n", idle);
		fflush(stdout);
		mc_stop_wait(idle > 0 ? (uint64_t)(idle * 1e9) : MC_FOREVER);
	}
	mc_p2p_unregister(s->session.store, OBJECT, P2PC_CLOSE_NS, NULL);
	return r;
}

int p2pc_trainer(const struct p2pc_options *o, struct mc_config *config)
{
	struct sample s = {.o = o};
	struct mc_error err = {0};
	int r = begin(&s, config, &err);

	if (r == 0)
		r = train(&s, &err);
	return end(&s, r, &err);
}

/* With --wait the trainer may come later. */
static int wait_for_it(const struct sample *s, struct mc_error *err)
{
	uint64_t until = p2pc_now_ns() + (uint64_t)(s->o->wait * 1e9);
	int r;

	do {
		struct mc_p2p_info *info = NULL;

		r = mc_p2p_stat(s->session.store, OBJECT, P2PC_ASK_NS, &info, err);
		mc_p2p_info_free(info);
	} while (r == -ENOENT && p2pc_now_ns() < until && !mc_stop_wait(500 * MC_MSEC));
	return r;
}

static int copy(struct sample *s, struct mc_error *err)
{
	struct mc_p2p_get *get;
	int r = mc_p2p_get_start(s->session.store, OBJECT, &s->range, 1, NULL, p2pc_timeout(s->o, MC_FOREVER), &get, err);

	if (r < 0)
		return r;
	do {
		r = mc_p2p_get_wait(get, 100 * MC_MSEC, err);
	} while (r == -EAGAIN && !mc_stopping());
	if (r == -EAGAIN) {
		mc_p2p_get_cancel(get);
		r = mc_p2p_get_wait(get, MC_FOREVER, err);
	}
	mc_p2p_get_free(get);
	return r;
}

static int infer(struct sample *s, struct mc_error *err)
{
	uint64_t start;
	int r = wait_for_it(s, err);

	if (r < 0)
		return r;
	start = p2pc_now_ns();
	r = copy(s, err);
	if (r < 0)
		return r;
	tell_done(s, "GetReplica", "retrieval", start);
	r = mc_join_ready(s->o->ready_file, s->session.engine, err);
	if (s->o->duration > 0)
		mc_stop_wait((uint64_t)(s->o->duration * 1e9));
	mc_p2p_delete_replica(s->session.store, OBJECT, P2PC_CLOSE_NS, NULL);
	return r;
}

int p2pc_inferencer(const struct p2pc_options *o, struct mc_config *config)
{
	struct sample s = {.o = o};
	struct mc_error err = {0};
	int r = begin(&s, config, &err);

	if (r == 0)
		r = infer(&s, &err);
	return end(&s, r, &err);
}
