/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bench's side channel: questions of the initiator to the target (CPU time,
 * fill, verify) travel as notifications, so the bench needs no port of its own.
 */
#include "message.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <core/util/bytes.h>
#include <core/util/check.h>

#define MAGIC UINT64_C(0x3148434e4542434d) /* "MCBENCH1" */

void bench_msg_encode(const struct bench_msg *msg, uint8_t buf[BENCH_MSG_LEN])
{
	const struct bench_entries *e = &msg->entries;

	memset(buf, 0, BENCH_MSG_LEN);
	mc_put64(buf, MAGIC);
	mc_put32(buf + 8, msg->type);
	mc_put32(buf + 12, msg->reply);
	mc_put64(buf + 16, msg->seq);
	mc_put64(buf + 24, (uint64_t)msg->status);
	if (msg->reply) {
		mc_put64(buf + 32, msg->value);
		mc_put64(buf + 40, msg->bad);
		return;
	}
	mc_put64(buf + 32, e->base);
	mc_put64(buf + 40, e->first);
	mc_put64(buf + 48, e->step);
	mc_put64(buf + 56, e->nr);
	mc_put64(buf + 64, e->block);
	mc_put64(buf + 72, e->seed);
}

int bench_msg_decode(const void *buf, size_t len, struct bench_msg *msg)
{
	const uint8_t *p = buf;

	if (len != BENCH_MSG_LEN || mc_get64(p) != MAGIC || mc_get32(p + 12) > 1)
		return -EBADMSG;
	*msg = (struct bench_msg){
		.type = mc_get32(p + 8),
		.reply = mc_get32(p + 12),
		.seq = mc_get64(p + 16),
		.status = (int64_t)mc_get64(p + 24),
	};
	if (msg->type == 0 || msg->type >= BENCH_MSG_COUNT || msg->status > 0 ||
	    msg->status < -4095)
		return -EBADMSG;
	if (msg->reply) {
		msg->value = mc_get64(p + 32);
		msg->bad = mc_get64(p + 40);
		return 0;
	}
	msg->entries = (struct bench_entries){
		.base = mc_get64(p + 32),
		.first = mc_get64(p + 40),
		.step = mc_get64(p + 48),
		.nr = mc_get64(p + 56),
		.block = mc_get64(p + 64),
		.seed = mc_get64(p + 72),
	};
	return 0;
}

/* Messages do not say that their sender is gone, its session does: looked at this often. */
#define GONE_POLL_NS (200 * MC_MSEC)

static int wait_reply(struct mc_engine *engine, struct mc_segment *segment, struct bench_msg *msg,
		      uint64_t deadline_ns)
{
	const struct mc_request probe = {.segment = segment};
	uint64_t generation = mc_segment_generation(segment);
	struct mc_notify notify = {.size = sizeof notify};

	for (;;) {
		uint64_t now = bench_now_ns();
		struct bench_msg got;
		int r;

		if (now >= deadline_ns)
			return -ETIMEDOUT;
		r = mc_notify_recv(engine, &notify, MC_MIN(deadline_ns - now, GONE_POLL_NS));
		/* Late answers to earlier questions, and messages of others, are dropped. */
		if (r == -ETIMEDOUT)
			r = mc_request_check(&probe, NULL);
		else if (r == 0 && notify.generation == generation &&
			 bench_msg_decode(notify.data, notify.len, &got) == 0 && got.reply &&
			 got.seq == msg->seq && got.type == msg->type) {
			*msg = got;
			return 0;
		}
		if (r < 0 && r != -EAGAIN)
			return r;
	}
}

int bench_ask(struct mc_engine *engine, struct mc_segment *segment, struct bench_msg *msg,
	      uint64_t timeout_ns, struct mc_error *err)
{
	static uint64_t last_seq;
	uint64_t deadline_ns = bench_now_ns() + timeout_ns;
	uint8_t buf[BENCH_MSG_LEN];
	int r;

	msg->reply = false;
	msg->status = 0;
	msg->seq = ++last_seq;
	bench_msg_encode(msg, buf);
	r = mc_notify_send(segment, buf, sizeof buf, timeout_ns, err);
	if (r < 0)
		return r;
	r = wait_reply(engine, segment, msg, deadline_ns);
	if (r < 0 && r != -ETIMEDOUT)
		return mc_fail(err, r, "segment '%s': peer gone before it answered: %s",
			       mc_segment_name(segment), strerror(-r));
	if (r < 0)
		return mc_fail(err, r,
			       "segment '%s': no answer within %.0f s: %s; is it a "
			       "transfer_engine_bench --mode=target?",
			       mc_segment_name(segment), (double)timeout_ns / 1e9, strerror(-r));
	return 0;
}

uint64_t bench_cpu_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * MC_SEC +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

uint64_t bench_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}
