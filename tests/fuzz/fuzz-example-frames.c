/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the example transport's frames (frames.h says how the input is read): the
 * peer is met over its socket, and the last slice is cancelled.
 */
#include <poll.h>
#include <sys/un.h>

#define FUZZER "fuzz-example-frames"
#define LARGE 400u
#include "frames.h"

#define NAME "mooncake-example-0123456789abcdef"

static char told[64]; /* what peer_send was given */
static struct mc_watch *watch;

static void h_random(const struct mc_host *h, void *buf, size_t len)
{
	static uint64_t nr;

	/* Another number for each call and process: abstract names are the host's. */
	nr += ((uint64_t)getpid() << 32) + 1;
	memset(buf, 0, len);
	memcpy(buf, &nr, MC_MIN(len, sizeof nr));
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
static int h_send(const struct mc_host *h, void *peer, const void *msg, size_t len)
{
	if (len >= sizeof told)
		die("a long message");
	memcpy(told, msg, len);
	told[len] = 0;
	return 0;
}

static const struct mc_host host = {
	.size = sizeof host, .abi_major = MC_ABI_MAJOR, .abi_minor = MC_ABI_MINOR,
	.instance = "example:unix0", .log = h_log, .now_ns = h_now, .random = h_random,
	.counter = h_counter, .watch = h_watch, .rewatch = h_rewatch, .unwatch = h_unwatch,
	.timer_set = h_timer, .complete = h_complete, .peer_send = h_send, .peer_ready = h_ready,
	.peer_writable = h_writable, .fenced = h_fenced, .range_get = h_range_get,
	.range_put = h_range_put,
};

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

static int meet(void *peer, struct mc_peer_args *args, unsigned times)
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

static void drain(int fd, bool zeros)
{
	uint8_t bytes[4096];

	while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
		;
}

static void submitted(struct mc_slice *slices, unsigned taken)
{
	if (taken > 1)
		ops->cancel(inst, &slices[taken - 1]);
}

static void settle(void)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct mc_value options[] = { { .i = 4 << 20 }, { .i = 6 } };

	if (!ops)
		frames_open(&host, "unix0", options);
	if (size)
		frames_run(data, size);
	return 0;
}
