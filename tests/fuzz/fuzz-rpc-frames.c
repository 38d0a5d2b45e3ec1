/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the rpc wire.  The input's first byte says at which end the rest
 * arrives: bit 0 clear, a server; set, a caller with calls outstanding.  Bits 1..7:
 * in which portions.  Whatever comes: no byte outside a reply buffer is written,
 * every call ends once, and the service goes on.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/engine.h"
#include "core/record.h"
#include "core/rpc.h"
#include "core/util/check.h"

#define CALLS 4
#define CAP 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mc_settings settings = {.peer_timeout = 5 * MC_SEC, .spin = 20000, .max_peers = 64};
static struct mc_engine engine = {.name = "fuzz", .generation = 1, .set = &settings};
static int far_end; /* of the connection that was dialled last */

static void die(const char *what)
{
	fprintf(stderr, "fuzz-rpc-frames: %s\n", what);
	abort();
}

void mc_record_free(struct mc_record *record)
{
	free(record); /* its addresses were taken out of it */
}

int mc_record_find(struct mc_engine *e, const char *name, uint64_t deadline_ns,
		   struct mc_record **ret_record, struct mc_error *err)
{
	struct mc_record *r = calloc(1, sizeof *r);

	r->addresses = calloc(2, sizeof *r->addresses);
	r->addresses[0] = strdup("x");
	*ret_record = r;
	return 0;
}

int mc_stream_dial(struct mc_engine *e, const char *const *addresses, const char *local_address,
		   const struct mc_stream_hello *hello, uint64_t deadline_ns,
		   void (*done)(void *arg, int fd, const char *why), void *arg)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) < 0)
		die("no sockets");
	__atomic_store_n(&far_end, fds[1], __ATOMIC_RELEASE);
	done(arg, fds[0], NULL);
	return 0;
}

static void serve(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < in->len; i++)
		sum ^= ((const uint8_t *)in->data)[i];
	mc_rpc_reply(request, sum & 1 ? -EIO : 0, in->data, in->len);
}

static void up(void)
{
	struct mc_rpc_service *service;

	engine.pid = getpid();
	if (!engine.helpers && mc_helpers_new(&engine.helpers) < 0)
		die("cannot start");
	if (!engine.rpc && mc_rpc_serve(&engine, "echo", serve, NULL, &service, NULL) < 0)
		die("cannot start");
}

/* Send all, then wait until the other end has closed; what it says is dropped. */
static void pour(int fd, const uint8_t *data, size_t size, size_t portion)
{
	uint8_t sink[4096];
	bool shut = false;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN | (shut ? 0 : POLLOUT)};
		ssize_t n;

		if (!shut && size == 0) {
			shutdown(fd, SHUT_WR);
			shut = true;
			continue;
		}
		if (poll(&p, 1, 10000) <= 0)
			die("the connection hangs");
		if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
			n = recv(fd, sink, sizeof sink, 0);
			if (n == 0 || (n < 0 && errno != EAGAIN))
				break;
		}
		if (!shut && (p.revents & POLLOUT)) {
			n = send(fd, data, MC_MIN(size, portion), MSG_NOSIGNAL);
			if (n < 0 && errno != EAGAIN)
				break;
			n = MC_MAX(n, 0);
			data += n;
			size -= (size_t)n;
		}
	}
	close(fd);
}

static void at_server(const uint8_t *data, size_t size, size_t portion)
{
	struct mc_stream_hello hello = {.kind = MC_STREAM_RPC, .from = "fuzz", .from_generation = 2};
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) < 0)
		die("no sockets");
	while (mc_rpc_accept(&engine, fds[1], &hello) == -ENOBUFS)
		sched_yield(); /* the last ones are being closed */
	pour(fds[0], data, size, portion);
}

static uint32_t ended;

static void done(struct mc_rpc_call *call)
{
	__atomic_add_fetch(&ended, 1, __ATOMIC_RELEASE);
}

static void at_caller(const uint8_t *data, size_t size, size_t portion)
{
	static uint8_t replies[CALLS][CAP + 16];
	struct mc_rpc_call calls[CALLS];
	struct mc_rpc_client *client;
	int fd = 0;

	__atomic_store_n(&far_end, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&ended, 0, __ATOMIC_RELAXED);
	if (mc_rpc_client_open(&engine, "peer", "echo", &client, NULL) < 0)
		die("cannot open a client");
	for (size_t i = 0; i < CALLS; i++) {
		memset(replies[i], 0xa5, sizeof replies[i]);
		calls[i] = (struct mc_rpc_call){.size = sizeof calls[i], .data = "abc", .len = 3,
						.reply = replies[i], .reply_cap = CAP, .done = done};
		if (mc_rpc_start(client, &calls[i], MC_FOREVER) < 0)
			die("cannot start a call");
	}
	while (!(fd = __atomic_load_n(&far_end, __ATOMIC_ACQUIRE)))
		sched_yield();
	pour(fd, data, size, portion);
	/* Not the client alone: so that the next calls have the same ids, 0 to 3. */
	mc_rpc_close(&engine);
	if (__atomic_load_n(&ended, __ATOMIC_ACQUIRE) != CALLS)
		die("a call did not end, or ended twice");
	for (size_t i = 0; i < CALLS; i++) {
		for (size_t k = CAP; k < sizeof replies[i]; k++) {
			if (replies[i][k] != 0xa5)
				die("a reply went past its buffer");
		}
		if (calls[i].status == 0 && calls[i].reply_len > CAP)
			die("a reply is longer than its buffer");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t portion;

	if (size < 1)
		return 0;
	up();
	portion = data[0] >> 1 ? data[0] >> 1 : SIZE_MAX;
	if (data[0] & 1)
		at_caller(data + 1, size - 1, portion);
	else
		at_server(data + 1, size - 1, portion);
	return 0;
}
