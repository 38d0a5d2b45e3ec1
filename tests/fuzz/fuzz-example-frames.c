/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the example transport's frames.  The input's first byte says at which end the rest arrives:
 * bit 0 the target, else the initiator with slices in flight; bit 1 slices that the socket takes only
 * in part; bits 4..7 in which portions.  Whatever comes: nothing outside the buffer is touched, every
 * held range is put back, and every slice ends once.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <mooncake/transport.h>

#include "core/util/check.h"

#define BASE UINT64_C(0x10000) /* what frames call the buffer's first byte */
#define LEN 4096u
#define FOREIGN 2048u /* from here on the CPU may not touch it */
#define GUARD 64u
#define SLICES 8u
#define GENERATION 7u
#define NAME "mooncake-example-0123456789abcdef"

static uint8_t memory[GUARD + LEN + GUARD];
static int held, ended, fences;
static char told[64]; /* what peer_send was given */
static struct mc_watch *watch;

static void die(const char *what)
{
	fprintf(stderr, "fuzz-example-frames: %s\n", what);
	abort();
}

static void h_log(const struct mc_host *h, int level, const char *fmt, ...)
{
}
static uint64_t h_now(const struct mc_host *h)
{
	return 1;
}
static void h_random(const struct mc_host *h, void *buf, size_t len)
{
	static uint64_t nr;

	/* Another number for each call and process: abstract names are the host's. */
	nr += ((uint64_t)getpid() << 32) + 1;
	memset(buf, 0, len);
	memcpy(buf, &nr, MC_MIN(len, sizeof nr));
}
static uint64_t *h_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}
static int h_watch(const struct mc_host *h, struct mc_watch *w)
{
	watch = w;
	return 0;
}
static int h_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	w->events = events;
	return 0;
}
static void h_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	watch = NULL;
}
static void h_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
}
static void h_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
		       uint64_t done_len)
{
	if (s->reserved2++)
		die("a slice ended twice");
	ended++;
}
static int h_send(const struct mc_host *h, void *peer, const void *msg, size_t len)
{
	if (len >= sizeof told)
		die("a long message");
	memcpy(told, msg, len);
	told[len] = 0;
	return 0;
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

static const struct mc_host host = {
	.size = sizeof host, .abi_major = MC_ABI_MAJOR, .abi_minor = MC_ABI_MINOR,
	.instance = "example:unix0", .log = h_log, .now_ns = h_now, .random = h_random,
	.counter = h_counter, .watch = h_watch, .rewatch = h_rewatch, .unwatch = h_unwatch,
	.timer_set = h_timer, .complete = h_complete, .peer_send = h_send, .peer_ready = h_ready,
	.peer_writable = h_writable, .fenced = h_fenced, .range_get = h_range_get,
	.range_put = h_range_put,
};

static const struct mc_transport_ops *ops;
static void *inst;

static void open_once(void)
{
	const struct mc_value options[] = { { .i = 4 << 20 }, { .i = 6 } };
	struct mc_open_args args = { .size = sizeof args, .device = "unix0", .engine = "fuzz",
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
	for (int i = 0; i < 64 && watch; i++) {
		struct pollfd p = { .fd = watch->fd, .events = (short)watch->events };

		if (poll(&p, 1, 0) <= 0)
			break;
		watch->ready(watch, (uint32_t)(unsigned short)p.revents);
	}
	ops->progress(inst);
}

static socklen_t address(const char *name, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(addr->sun_path + 1, name, strlen(name));
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

/* The other end of the peer's stream. */
static int meet(void *peer, const struct mc_peer_args *args)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), listener = -1;
	struct sockaddr_un addr;
	char name[] = NAME;
	socklen_t len;

	if (!args->passive) {
		if (ops->peer_open(inst, peer, args) < 0)
			die("the peer did not open");
		len = address(told, &addr);
		if (connect(fd, (struct sockaddr *)&addr, len) < 0)
			die("its socket takes no call");
		turn();
		return fd;
	}
	if (ops->peer_accept(inst, peer, args) < 0)
		die("the peer did not open");
	listener = fd;
	snprintf(name + sizeof NAME - 17, 17, "%016x", (unsigned)getpid());
	len = address(name, &addr);
	if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0)
		die("no listening socket");
	ops->peer_msg(inst, peer, name, strlen(name));
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	close(listener);
	if (fd < 0)
		die("the peer did not call");
	return fd;
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

static void drain(int fd)
{
	uint8_t bytes[4096];

	while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
		;
}

static void feed(int fd, const uint8_t *data, size_t size, size_t portion)
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
		drain(fd);
		turn();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_peer_args args = { .size = sizeof args, .segment = "other", .generation = GENERATION,
				     .wire_version = 1, .epoch = 1, .deadline_ns = 2 };
	unsigned taken = 0, times = size && data[0] & 2 ? 400 : 1;
	struct mc_slice slices[SLICES];
	uint8_t *peer, *privs, *local;
	int fd;

	if (!size)
		return 0;
	if (!ops)
		open_once();
	held = ended = fences = 0;
	peer = calloc(1, ops->peer_size);
	privs = calloc(SLICES, ops->slice_size);
	local = calloc(SLICES, 1000 * times);
	args.passive = data[0] & 1;
	fd = meet(peer, &args);
	if (!args.passive)
		taken = submit_some(peer, slices, privs, local, times);
	if (taken > 1)
		ops->cancel(inst, &slices[taken - 1]);
	feed(fd, data + 1, size - 1, (size_t)1 << (data[0] >> 4));
	for (int i = 0; i < 8; i++) {
		turn();
		drain(fd);
	}
	close(fd);
	turn();
	ops->fence(inst, peer, 1);
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
	return 0;
}
