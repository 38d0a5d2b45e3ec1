/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the shm transport's stream.  The input's first byte says at which end the rest arrives
 * and how: bit 0 the target, else the initiator with an import under way; bit 1 behind a hello that is
 * right; bit 2 with a descriptor; bits 4..7 in which portions.  Whatever comes, the plugin keeps its
 * own state in order, gives back every descriptor, and can be fenced and closed.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transports/shm/shm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mc_watch *watched;
static uint64_t drawn;
static int nr_fenced;

static void die(const char *what)
{
	fprintf(stderr, "fuzz-shm-frames: %s\n", what);
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
static void h_random(const struct mc_host *h, void *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] = (uint8_t)(i % 8 ? 0 : ++drawn);
}
static uint64_t *h_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}
static int h_watch(const struct mc_host *h, struct mc_watch *w)
{
	watched = w;
	return 0;
}
static int h_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	return 0;
}
static void h_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	watched = NULL;
}
static void h_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
}
static void h_ready(const struct mc_host *h, void *peer, int status, const struct mc_transport_caps *caps,
		    const char *why)
{
	if (status < 0 && (!why || !*why))
		die("a peer is lost for no reason");
}
static void h_fenced(const struct mc_host *h, void *peer, uint32_t epoch)
{
	nr_fenced++;
}
static void h_imported(const struct mc_host *h, void *remote, int status)
{
	struct shm_remote *r = remote;

	if (r->waiting || (status == 0 && !r->map && !r->peer->attach))
		die("an import that nothing can be done with");
}

static const struct mc_host host = {
	.size = offsetof(struct mc_host, gauge), /* an old one */
	.abi_major = MC_ABI_MAJOR,
	.instance = "shm:shm0",
	.log = h_log, .now_ns = h_now, .random = h_random, .counter = h_counter, .watch = h_watch,
	.rewatch = h_rewatch, .unwatch = h_unwatch, .timer_set = h_timer, .peer_ready = h_ready,
	.fenced = h_fenced, .imported = h_imported,
};

/* ---- one input ------------------------------------------------------------------------------------- */

static int nr_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int nr = 0;

	while (d && readdir(d))
		nr++;
	if (d)
		closedir(d);
	return nr;
}

static void send_bytes(int fd, const void *bytes, size_t len, int with)
{
	char control[CMSG_SPACE(sizeof with)] __attribute__((aligned(8))) = {0};
	struct iovec iov = {(void *)(uintptr_t)bytes, len};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	if (with >= 0) {
		struct cmsghdr *c;

		h.msg_control = control;
		h.msg_controllen = sizeof control;
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof with);
		memcpy(CMSG_DATA(c), &with, sizeof with);
	}
	(void)!sendmsg(fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* As an honest other end, which is this process too. */
static void say_hello(const struct shm *x, int fd, bool to_target)
{
	struct shm_msg m = {.type = SHM_HELLO,
			    .hello = {.pid = x->self.pid, .pid_ns = x->self.pid_ns, .start = x->self.start,
				      .probe_addr = (uintptr_t)x->probe, .slot = 1, .key = 77}};
	uint8_t buf[SHM_MSG_SIZE];

	memcpy(m.hello.boot, x->self.boot, sizeof m.hello.boot);
	memcpy(m.hello.probe, x->probe, sizeof m.hello.probe);
	shm_msg_encode(&m, buf);
	send_bytes(fd, buf, sizeof buf, to_target ? x->flag_fd : x->dev->table_fd);
	if (watched)
		watched->ready(watched, POLLIN);
}

static void feed(int fd, const uint8_t *data, size_t size, size_t portion, int with)
{
	while (size && watched) {
		size_t n = MC_MIN(size, portion);

		send_bytes(fd, data, n, with);
		with = -1;
		data += n;
		size -= n;
		watched->ready(watched, POLLIN);
		if (watched)
			watched->ready(watched, POLLIN | POLLOUT);
	}
}

static void import_something(const struct mc_transport_ops *ops, struct shm *x, struct shm_remote *remote,
			     struct shm_peer *p)
{
	uint8_t blob[SHM_BLOB_SIZE];
	struct shm_blob b = {.slot = 2, .key = 99, .flags = SHM_BLOB_MAPPED};
	struct mc_remote_buffer buf = {.size = sizeof buf, .base = 4096, .len = 8192, .kind = "cpu",
				       .access = MC_ACCESS_ALL, .blob = blob, .blob_len = sizeof blob};

	shm_blob_encode(&b, blob);
	atomic_store(&x->dev->table[1], 77);
	atomic_store(&x->dev->table[2], 99);
	ops->mem_import(x, remote, p, &buf);
}

static void one(struct shm *x, const uint8_t *data, size_t size)
{
	const struct mc_transport_ops *ops = mc_plugin_desc.ops;
	struct mc_peer_args args = {.size = sizeof args, .segment = "there", .epoch = 1, .passive = data[0] & 1};
	struct mc_stream stream = {.size = sizeof stream, .epoch = 1, .passive = data[0] & 1};
	struct shm_remote remote = {.peer = NULL};
	struct shm_peer p = {.shm = NULL};
	int fds[2], with = data[0] & 4 ? memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING) : -1;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		die("no sockets");
	if (with >= 0 && (ftruncate(with, 16384) < 0 || fcntl(with, F_ADD_SEALS, F_SEAL_SHRINK) < 0))
		die("no memfd");
	stream.fd = fds[0];
	if ((args.passive ? ops->peer_accept : ops->peer_open)(x, &p, &args) < 0)
		die("no peer");
	atomic_store(&x->dev->table[1], 77);
	ops->peer_attach(x, &p, &stream);
	if (data[0] & 2 && watched)
		say_hello(x, fds[1], args.passive);
	if (!args.passive && p.state == SHM_READY)
		import_something(ops, x, &remote, &p);
	feed(fds[1], data + 1, size - 1, (size_t)(data[0] >> 4) * 13 + 1, with);
	ops->progress(x);
	close(fds[1]);
	if (watched)
		watched->ready(watched, POLLIN | POLLHUP);
	nr_fenced = 0;
	ops->fence(x, &p, 1);
	if (nr_fenced != 1)
		die("fenced is said once");
	if (remote.peer)
		ops->mem_release(x, &remote);
	ops->peer_close(x, &p);
	if (with >= 0)
		close(with);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct mc_transport_ops *ops = mc_plugin_desc.ops;
	struct mc_value options[] = {{.s = "auto", .i2 = SHM_AUTO}, {.i = 1 << 20}};
	struct mc_open_args args = {.size = sizeof args, .device = "shm0", .options = options, .nr_lanes = 1,
				    .peer_timeout_ns = 5 * MC_SEC};
	struct mc_transport_caps caps = {.size = sizeof caps};
	struct mc_error err = {0};
	int before = nr_fds();
	struct shm *x;

	if (!size)
		return 0;
	x = aligned_alloc(64, mc_round_up(sizeof *x, 64));
	if (!x)
		return 0;
	memset(x, 0, sizeof *x);
	drawn = 0;
	if (ops->open(x, &host, &args, &caps, &err) < 0)
		die(err.text);
	one(x, data, size);
	ops->stop(x);
	ops->close(x);
	free(x);
	if (nr_fds() != before)
		die("a descriptor is left");
	return 0;
}
