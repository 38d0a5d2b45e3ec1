/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzzers of transports' frames have in common: a host with one buffer of 4096 bytes between
 * guards, the second half of it foreign memory, and one peer.  The input's first byte says at which end
 * the rest arrives: bit 0 the target, else the initiator with slices in flight; bit 1 slices that the
 * socket takes only in part; bits 4..7 in which portions.
 *
 * A fuzzer defines FUZZER, its name, and LARGE, times the length of a slice; includes this; and says how
 * the five functions below go with its transport, before it calls frames_run.
 */
#ifndef MC_FUZZ_FRAMES_H
#define MC_FUZZ_FRAMES_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mooncake/transport.h>

#include "core/util/check.h"

#define BASE UINT64_C(0x10000) /* what frames call the buffer's first byte */
#define LEN 4096u
#define FOREIGN 2048u /* from here on the CPU may not touch it */
#define GUARD 64u
#define SLICES 8u
#define GENERATION 7u
#define OTHER 0xee

/* The other end of the peer's stream; times is how large slices will be. */
static int meet(void *peer, struct mc_peer_args *args, unsigned times);
static void turn(void);
/* Take what was sent; zeros: what an initiator's slices hold. */
static void drain(int fd, bool zeros);
/* So many of the slices were taken. */
static void submitted(struct mc_slice *slices, unsigned taken);
/* The fence was asked for: until all that it waits for is over. */
static void settle(void);

static uint8_t memory[GUARD + LEN + GUARD];
static int held, ended, fences;
static const struct mc_transport_ops *ops;
static void *inst;

static void die(const char *what)
{
	fprintf(stderr, FUZZER ": %s\n", what);
	abort();
}

/* ---- the host ----------------------------------------------------------------------------------- */

static void h_log(const struct mc_host *h, int level, const char *fmt, ...)
{
}
static uint64_t h_now(const struct mc_host *h)
{
	return 1;
}
static uint64_t *h_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}
static void h_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
}
static void h_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
		       uint64_t done_len)
{
	if (s->reserved2++)
		die("a slice ended twice");
	/* Its owner may use the memory for something else now. */
	if (status == 0 && s->opcode == MC_OP_WRITE)
		memset(s->local, OTHER, s->len);
	ended++;
}
static void h_ready(const struct mc_host *h, void *peer, int status,
		    const struct mc_transport_caps *caps, const char *why)
{
	if (status && !why)
		die("a peer failed without a sentence");
}
static void h_writable(const struct mc_host *h, void *peer)
{
}
static void h_fenced(const struct mc_host *h, void *peer, uint32_t epoch)
{
	fences++;
}
static int h_range_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
		       uint64_t len, uint32_t access, struct mc_range *range)
{
	if (generation != GENERATION)
		return -ESTALE;
	if (!mc_range_inside(BASE, LEN, offset, len))
		return -EACCES;
	held++;
	range->addr = memory + GUARD + (offset - BASE);
	range->kind = offset - BASE >= FOREIGN ? "odd" : "cpu";
	return 0;
}
static void h_range_put(const struct mc_host *h, struct mc_range *range)
{
	if (held-- == 0)
		die("a range was put back twice");
}

/* ---- a run -------------------------------------------------------------------------------------- */

static void frames_open(const struct mc_host *host, const char *device, const struct mc_value *options)
{
	struct mc_open_args args = { .size = sizeof args, .device = device, .engine = "fuzz",
				     .generation = GENERATION, .options = options, .nr_lanes = 1 };
	struct mc_transport_caps caps = { .size = sizeof caps };
	struct mc_error err;

	ops = mc_plugin_desc.ops;
	inst = calloc(1, ops->instance_size);
	if (ops->open(inst, host, &args, &caps, &err) < 0)
		die(err.text);
}

static unsigned submit_some(void *peer, struct mc_slice *slices, uint8_t *privs, uint8_t *local,
			    unsigned times)
{
	unsigned taken = 0;

	for (unsigned i = 0; i < SLICES; i++) {
		struct mc_slice *s = &slices[i];

		*s = (struct mc_slice){ .size = sizeof *s, .epoch = 1, .peer = peer,
					.opcode = i % 2 ? MC_OP_READ : MC_OP_WRITE,
					.len = i * 100 * times,
					.local = local + i * 1000 * times,
					.remote_offset = BASE, .priv = privs + i * ops->slice_size };
		taken += ops->submit(inst, s) == 0;
	}
	ops->flush(inst);
	return taken;
}

static void feed(int fd, bool zeros, const uint8_t *data, size_t size, size_t portion)
{
	while (size) {
		ssize_t n = send(fd, data, MC_MIN(size, portion), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break;
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
		turn();
		drain(fd, zeros);
		/* The target waits for room that only reading makes; it was made above. */
		turn();
	}
}

/* Whatever comes: nothing outside the buffer is touched, every held range is put back, every slice ends
 * once. */
static void frames_run(const uint8_t *data, size_t size)
{
	struct mc_peer_args args = { .size = sizeof args, .segment = "other", .generation = GENERATION,
				     .wire_version = 1, .epoch = 1, .deadline_ns = 2,
				     .passive = data[0] & 1 };
	unsigned taken = 0, times = data[0] & 2 ? LARGE : 1;
	struct mc_slice slices[SLICES];
	uint8_t *peer = calloc(1, ops->peer_size), *privs = calloc(SLICES, ops->slice_size);
	uint8_t *local = calloc(SLICES, 1000 * times);
	int fd;

	held = ended = fences = 0;
	fd = meet(peer, &args, times);
	if (!args.passive)
		taken = submit_some(peer, slices, privs, local, times);
	submitted(slices, taken);
	feed(fd, !args.passive, data + 1, size - 1, (size_t)1 << (data[0] >> 4));
	for (int i = 0; i < 8; i++) {
		turn();
		drain(fd, !args.passive);
	}
	close(fd);
	turn();
	ops->fence(inst, peer, 1);
	settle();
	if (held)
		die("a range is still held after the fence");
	if (ended != (int)taken)
		die("a slice did not end");
	if (fences != 1)
		die("the fence was not answered once");
	ops->peer_close(inst, peer);
	for (unsigned i = 0; i < GUARD; i++)
		if (memory[i] || memory[GUARD + LEN + i])
			die("memory beside the buffer was written");
	free(peer);
	free(privs);
	free(local);
}

#endif
