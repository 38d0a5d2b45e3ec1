/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the tcp data wire (frames.h says how the input is read): also, what is
 * done is not sent any more, and copies to foreign memory may end late, or badly.
 */
#define FUZZER "fuzz-tcp-frames"
#define LARGE 200u
#include "frames.h"

static struct mc_copy *copy_due;
static unsigned copies;

static void *h_alloc(const struct mc_host *h, size_t len)
{
	return calloc(1, len);
}
static void h_free(const struct mc_host *h, void *p, size_t len)
{
	free(p);
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

static void turn(void)
{
	struct mc_copy *c = copy_due;

	copy_due = NULL;
	if (c)
		c->done(c, copies % 5 ? 0 : -EIO);
	ops->progress(inst);
}

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

static int meet(void *peer, struct mc_peer_args *args, unsigned times)
{
	struct mc_stream stream = { .size = sizeof stream, .epoch = 1, .passive = args->passive };
	int fds[2], sndbuf = 1;

	copies = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) < 0)
		die("no socketpair");
	if ((args->passive ? ops->peer_accept : ops->peer_open)(inst, peer, args) < 0)
		die("the peer did not open");
	stream.fd = fds[0];
	ops->peer_attach(inst, peer, &stream);
	turn();
	if (times > 1)
		setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf);
	return fds[1];
}

static void submitted(struct mc_slice *slices, unsigned taken)
{
}

static void settle(void)
{
	while (copy_due)
		turn();
	turn();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct mc_value options[] = { { .i = 1 }, { .i = 16 }, { .i = 1 << 20 }, { .i = 1 << 20 },
						   { .i = 0 }, { .i = 0 },  { .i = 1 << 18 } };

	if (!ops)
		frames_open(&host, "lo", options);
	if (size)
		frames_run(data, size);
	return 0;
}
