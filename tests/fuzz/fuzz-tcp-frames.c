/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the tcp data wire.  The input's first byte says at which end the rest
 * arrives: bit 0 the target, else the initiator with slices in flight; bit 1 slices
 * that the socket takes only in part; bits 4..7 in which portions.  Whatever comes: nothing outside the buffer is touched, every held
 * range is put back, every slice ends once, and what is done is not sent any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mooncake/transport.h>

#include "core/util/check.h"

#define BASE UINT64_C(0x10000) /* what the wire calls the buffer's first byte */
#define LEN 4096u
#define FOREIGN 2048u /* from here on the CPU may not touch it */
#define GUARD 64u
#define SLICES 8u
#define GENERATION 7u
#define LARGE 200u /* times the length of a slice */
#define OTHER 0xee

static uint8_t memory[GUARD + LEN + GUARD];
static int held, ended, streams_fenced;
static struct mc_copy *copy_due;
static unsigned copies;

static void die(const char *what)
{
	fprintf(stderr, "fuzz-tcp-frames: %s\n", what);
	abort();
}

static void h_log(const struct mc_host *h, int level, const char *fmt, ...)
{
}
static uint64_t h_now(const struct mc_host *h)
{
	return 1;
}
static void *h_alloc(const struct mc_host *h, size_t len)
{
	return calloc(1, len);
}
static void h_free(const struct mc_host *h, void *p, size_t len)
{
	free(p);
}
static uint64_t *h_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}
static int h_watch(const struct mc_host *h, struct mc_watch *w)
{
	return 0;
}
static int h_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	return 0;
}
static void h_unwatch(const struct mc_host *h, struct mc_watch *w)
{
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
	streams_fenced++;
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
/* Every third copy ends later, every seventh fails, every eleventh is put off. */
static int h_mem_copy(const struct mc_host *h, struct mc_copy *c)
{
	copies++;
	if (copies % 11 == 0)
		return -EAGAIN;
	if (copies % 7 == 0)
		return -EIO;
	memcpy(c->to_host ? c->hostptr : c->mem, c->to_host ? c->mem : c->hostptr, c->len);
	if (copies % 3 || copy_due)
		return MC_DONE;
	copy_due = c;
	return 0;
}

static const struct mc_host host = {
	.size = sizeof host, .abi_major = MC_ABI_MAJOR, .abi_minor = MC_ABI_MINOR, .instance = "tcp:lo",
	.log = h_log, .now_ns = h_now, .alloc = h_alloc, .free = h_free, .counter = h_counter,
	.watch = h_watch, .rewatch = h_rewatch, .unwatch = h_unwatch, .timer_set = h_timer,
	.complete = h_complete, .peer_ready = h_ready, .peer_writable = h_writable,
	.fenced = h_fenced, .range_get = h_range_get, .range_put = h_range_put,
	.mem_copy = h_mem_copy,
};

static const struct mc_transport_ops *ops;
static void *inst;

static void open_once(void)
{
	const struct mc_value options[] = { { .i = 1 }, { .i = 16 }, { .i = 1 << 20 }, { .i = 1 << 20 },
					    { .i = 0 }, { .i = 0 },  { .i = 1 << 18 } };
	struct mc_open_args args = { .size = sizeof args, .device = "lo", .engine = "fuzz",
				     .generation = GENERATION, .options = options, .nr_lanes = 1 };
	struct mc_transport_caps caps = { .size = sizeof caps };
	struct mc_error err;

	ops = mc_plugin_desc.ops;
	inst = calloc(1, ops->instance_size);
	if (ops->open(inst, &host, &args, &caps, &err) < 0)
		die(err.text);
}

static void turn(void)
{
	struct mc_copy *c = copy_due;

	copy_due = NULL;
	if (c)
		c->done(c, copies % 5 ? 0 : -EIO);
	ops->progress(inst);
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

/* Take what was sent; an initiator's slices hold zeros. */
static void drain(int fd, bool zeros)
{
	uint8_t bytes[4096];
	unsigned other = 0;
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
		for (ssize_t i = 0; i < n; i++) {
			other = bytes[i] == OTHER ? other + 1 : 0;
			if (zeros && other > 16)
				die("memory of a slice that had ended was sent");
		}
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_peer_args args = { .size = sizeof args, .segment = "other", .generation = GENERATION,
				     .wire_version = 1, .epoch = 1 };
	struct mc_stream stream = { .size = sizeof stream, .epoch = 1 };
	struct mc_slice slices[SLICES];
	unsigned taken = 0, times = size && data[0] & 2 ? LARGE : 1;
	int sndbuf = 1;
	uint8_t *peer, *privs, *local;
	int fds[2];

	if (!size)
		return 0;
	if (!ops)
		open_once();
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) < 0)
		die("no socketpair");
	held = ended = streams_fenced = 0;
	copies = 0;
	peer = calloc(1, ops->peer_size);
	privs = calloc(SLICES, ops->slice_size);
	local = calloc(SLICES, 1000 * times);
	args.passive = stream.passive = data[0] & 1;
	if ((args.passive ? ops->peer_accept : ops->peer_open)(inst, peer, &args) < 0)
		die("the peer did not open");
	stream.fd = fds[0];
	ops->peer_attach(inst, peer, &stream);
	turn();
	if (times > 1)
		setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf);
	if (!args.passive)
		taken = submit_some(peer, slices, privs, local, times);
	feed(fds[1], !args.passive, data + 1, size - 1, (size_t)1 << (data[0] >> 4));
	for (int i = 0; i < 8; i++) {
		turn();
		drain(fds[1], !args.passive);
	}
	close(fds[1]);
	turn();
	ops->fence(inst, peer, 1);
	while (copy_due)
		turn();
	turn();
	if (held)
		die("a range is still held after the fence");
	if (ended != (int)taken)
		die("a slice did not end");
	if (streams_fenced != 1)
		die("the fence was not answered once");
	ops->peer_close(inst, peer);
	for (unsigned i = 0; i < GUARD; i++)
		if (memory[i] || memory[GUARD + LEN + i])
			die("memory beside the buffer was written");
	free(peer);
	free(privs);
	free(local);
	return 0;
}
