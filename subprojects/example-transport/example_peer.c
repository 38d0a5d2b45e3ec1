/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The example transport: how two peers find each other, break and are fenced.
 *
 * The initiator makes a listening socket with a random name for each peer and tells the name
 * through the host.  The target connects to it.  Names are abstract (unix(7)): no file is left
 * behind, and both processes must be in one network namespace.  Any process there can see such a
 * name, so both ends make sure that the other belongs to the same user.
 *
 * Nothing is ever reused after a break: a fence ends the connection, and the host opens a new peer.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "example.h"

#define PREFIX "mooncake-example-"
#define NAME_LEN (sizeof PREFIX - 1 + 16)

/* ---- life ------------------------------------------------------------ */

/* Close the socket, listening or connected; no byte goes in or out after it. */
void example_peer_shut(struct example_peer *p)
{
	const struct mc_host *h = p->example->host;

	h->timer_set(h, &p->timer, 0);
	if (p->watch.fd >= 0) {
		h->unwatch(h, &p->watch);
		close(p->watch.fd);
		p->watch.fd = -1;
	}
	p->state = PEER_DEAD;
	example_release(p);
}

/* The connection is lost, or was never made.  Slices stay in flight until the fence: only then is
 * it certain that the other end does nothing for them any more. */
void example_peer_break(struct example_peer *p, int status, const char *what)
{
	const struct mc_host *h = p->example->host;

	example_peer_shut(p);
	h->peer_ready(h, p, status, NULL, what);
}

static void too_late(struct mc_timer *timer, uint64_t now_ns)
{
	(void)now_ns;
	example_peer_break(timer->user, -ETIMEDOUT, "the other end does not answer");
}

static void peer_init(struct example *x, struct example_peer *p, const struct mc_peer_args *args)
{
	p->example = x;
	p->passive = args->passive;
	p->epoch = args->epoch;
	p->generation = args->generation;
	p->watch = (struct mc_watch){.size = sizeof p->watch, .fd = -1, .user = p};
	p->timer = (struct mc_timer){.size = sizeof p->timer, .fire = too_late, .user = p};
	example_queue_init(&p->out);
	example_queue_init(&p->sent);
	p->next = x->peers;
	x->peers = p;
	x->host->timer_set(x->host, &p->timer, args->deadline_ns);
}

/* [worker] Fenced before, or nothing is in flight. */
void example_peer_close(void *inst, void *peer)
{
	struct example *x = inst;
	struct example_peer **at = &x->peers;

	example_peer_shut(peer);
	while (*at != peer)
		at = &(*at)->next;
	*at = (*at)->next;
}

/* Takes the descriptor, also when it fails. */
static int peer_watch(struct example_peer *p, int fd, void (*ready)(struct mc_watch *, uint32_t))
{
	const struct mc_host *h = p->example->host;
	int r;

	p->watch.fd = fd;
	p->watch.events = POLLIN;
	p->watch.ready = ready;
	r = h->watch(h, &p->watch);
	if (r < 0) {
		close(fd);
		p->watch.fd = -1;
	}
	return r;
}

static void peer_connected(struct example_peer *p, int fd)
{
	const struct mc_host *h = p->example->host;
	int r = peer_watch(p, fd, example_stream_ready);

	if (r < 0) {
		example_peer_break(p, r, "the connection cannot be watched");
		return;
	}
	h->timer_set(h, &p->timer, 0);
	p->state = PEER_READY;
	h->peer_ready(h, p, 0, NULL, NULL);
}

/* ---- initiator ------------------------------------------------------------ */

static int unix_socket(const char *name, struct sockaddr_un *ret_addr, socklen_t *ret_len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	*ret_addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret_addr->sun_path + 1, name, NAME_LEN); /* a NUL in front: abstract */
	*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + NAME_LEN);
	return fd < 0 ? -errno : fd;
}

static bool is_same_user(int fd)
{
	struct ucred cred = {.pid = 0};
	socklen_t len = sizeof cred;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid();
}

static void caller_ready(struct mc_watch *watch, uint32_t revents)
{
	struct example_peer *p = watch->user;
	const struct mc_host *h = p->example->host;
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)revents;
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			example_peer_break(p, -errno, "the other end's call cannot be taken");
		return;
	}
	if (!is_same_user(fd)) {
		close(fd);
		h->log(h, MC_LOG_WARN, "a process of another user called, and was sent away");
		return;
	}
	h->unwatch(h, watch); /* one caller is all that is wanted */
	close(watch->fd);
	watch->fd = -1;
	peer_connected(p, fd);
}

/* [worker] The other end's object is there already, so it can be told something. */
int example_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct example *x = inst;
	struct sockaddr_un addr;
	char name[NAME_LEN + 1];
	socklen_t len;
	uint64_t key;
	int fd, r;

	if (x->stopped)
		return -ESHUTDOWN;
	x->host->random(x->host, &key, sizeof key);
	snprintf(name, sizeof name, PREFIX "%016llx", (unsigned long long)key);
	fd = unix_socket(name, &addr, &len);
	if (fd < 0)
		return fd;
	if (bind(fd, (struct sockaddr *)&addr, len) < 0 || listen(fd, 4) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	peer_init(x, peer, args);
	r = peer_watch(peer, fd, caller_ready);
	if (r == 0)
		r = x->host->peer_send(x->host, peer, name, NAME_LEN);
	if (r < 0)
		example_peer_close(inst, peer);
	return r;
}

/* ---- target ------------------------------------------------------------ */

/* [worker] The other end will tell a name. */
int example_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct example *x = inst;

	if (x->stopped)
		return -ESHUTDOWN;
	peer_init(x, peer, args);
	return 0;
}

/* [worker] What comes is a stranger's: it must look as we would write it, or we could be made to
 * call any socket of this host. */
void example_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	struct example_peer *p = peer;
	struct sockaddr_un addr;
	socklen_t addr_len;
	int fd, r;

	(void)inst;
	if (!p->passive || p->state != PEER_CONNECTING)
		return;
	if (len != NAME_LEN || memcmp(msg, PREFIX, sizeof PREFIX - 1) != 0) {
		example_peer_break(p, -EPROTO, "what was told is no name of a socket");
		return;
	}
	fd = unix_socket(msg, &addr, &addr_len);
	r = fd < 0 ? fd : connect(fd, (struct sockaddr *)&addr, addr_len) < 0 ? -errno : 0;
	if (r == 0 && !is_same_user(fd))
		r = -EACCES;
	if (r == 0) {
		peer_connected(p, fd);
		return;
	}
	if (fd >= 0)
		close(fd);
	example_peer_break(p, r,
			   "no call gets through: are both processes on one host, in one "
			   "network namespace, of one user?");
}

/* ---- fences ------------------------------------------------------------ */

/* [worker] With the socket closed and the ranges given back, no byte moves at this end. */
int example_fence(void *inst, void *peer, uint32_t epoch)
{
	struct example *x = inst;
	struct example_peer *p = peer;

	if (p->epoch <= epoch) {
		example_peer_shut(p);
		example_peer_end(p, -ECONNRESET);
		example_deliver(x);
	}
	x->host->fenced(x->host, p, epoch);
	return 0;
}
