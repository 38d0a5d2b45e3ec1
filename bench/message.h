/* SPDX-License-Identifier: Apache-2.0 */
/* What initiator and target tell each other, as notifications of fixed size. */
#ifndef MC_BENCH_MESSAGE_H
#define MC_BENCH_MESSAGE_H

#include <mooncake/mooncake.h>

enum bench_msg_type {
	BENCH_MSG_CPU = 1, /* reply: cpu_ns of the process so far */
	BENCH_MSG_FILL = 2, /* fill entries with the pattern; reply: bytes */
	BENCH_MSG_VERIFY = 3, /* compare entries with the pattern; reply: bytes, or bad + status */
	BENCH_MSG_COUNT
};

/* Entries at offset base + first + i * step, 0 <= i < nr, of block bytes each; the pattern's
 * places count from base. */
struct bench_entries {
	uint64_t base, first, step, nr, block, seed;
};

/*
 * On the wire (80 bytes, little-endian):
 *    0  u64  magic "MCBENCH1"
 *    8  u32  type
 *   12  u32  1: reply
 *   16  u64  seq, of the question
 *   24  i64  status: 0 or -errno (replies)
 *   32  u64  6 arguments: base, first, step, nr, block, seed; of a reply: value, bad
 */
#define BENCH_MSG_LEN 80
struct bench_msg {
	uint32_t type;
	bool reply;
	uint64_t seq;
	int64_t status;
	union {
		struct bench_entries entries;
		struct {
			uint64_t value; /* bytes, or ns of CPU time */
			uint64_t bad; /* VERIFY failed: offset of the first wrong byte */
		};
	};
};

void bench_msg_encode(const struct bench_msg *msg, uint8_t buf[BENCH_MSG_LEN]);
/* 0, or -EBADMSG: not one of ours. */
int bench_msg_decode(const void *buf, size_t len, struct bench_msg *msg);

/* Send *msg (type and entries) to the segment and wait for its reply, which replaces it.  One
 * question at a time per engine.
 *   returns   0: an answer came, msg->status says what it says; -ETIMEDOUT, ... */
int bench_ask(struct mc_engine *engine, struct mc_segment *segment, struct bench_msg *msg,
	      uint64_t timeout_ns, struct mc_error *err);

/* CPU time of this process so far, ns, user and system. */
uint64_t bench_cpu_ns(void);
uint64_t bench_now_ns(void);

#endif
