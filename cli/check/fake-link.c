/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links of the fake host: SOCK_SEQPACKET pairs, in one process or across two, and
 * the data streams that travel over them as descriptors.
 */
#include "fake-link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- sending ----------------------------------------------------------------------------------- */

static int send_now(struct fake_link *l, const struct msg *m, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct msg copy = *m;
	struct iovec iov = { &copy, sizeof copy };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	copy.fd = l->local ? fd : -1;
	if (fd >= 0 && !l->local) {
		struct cmsghdr *c;

		h.msg_control = control;
		h.msg_controllen = sizeof control;
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	return sendmsg(l->fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int link_send(struct fake_link *l, const struct msg *m, int fd)
{
	int r = l->broken ? -EPIPE : l->out ? -EAGAIN : send_now(l, m, fd);

	if (r == -EAGAIN) {
		struct outgoing *o = calloc(1, sizeof *o);

		if (!o)
			abort();
		o->m = *m;
		o->fd = fd;
		*l->out_tail = o;
		l->out_tail = &o->next;
		return 0;
	}
	if (fd >= 0 && (r < 0 || !l->local))
		close(fd);
	return r;
}

int links_flush(struct fake_inst *inst)
{
	int n = 0;

	for (struct fake_link *l = inst->st->links; l; l = l->next) {
		struct outgoing *o;

		while ((o = l->out)) {
			int r = l->broken ? -EPIPE : send_now(l, &o->m, o->fd);

			n++;
			if (r == -EAGAIN)
				break;
			l->out = o->next;
			if (!l->out)
				l->out_tail = &l->out;
			if (o->fd >= 0 && (r < 0 || !l->local))
				close(o->fd);
			free(o);
		}
	}
	return n;
}

/* ---- receiving ------------------------------------------------------------------------------------ */

int link_receive(struct fake_link *l, struct msg *m, int *ret_fd)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = { m, sizeof *m };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof control };
	ssize_t n = recvmsg(l->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c;

	if (n < 0)
		return -errno;
	if (n != (ssize_t)sizeof *m)
		return -EPIPE;
	*ret_fd = (int)m->fd;
	c = CMSG_FIRSTHDR(&h);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(c), sizeof *ret_fd);
	return 0;
}

/* ---- streams -------------------------------------------------------------------------------------- */

static int stream_tcp(int fds[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r = 0;

	fds[0] = fds[1] = -1;
	if (l < 0 || bind(l, (void *)&a, len) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (void *)&a, &len) < 0 ||
	    (fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 ||
	    connect(fds[0], (void *)&a, len) < 0 || (fds[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC)) < 0)
		r = -errno;
	close(l);
	return r;
}

static bool is_unix(const struct fake_link *l)
{
	return l->inst->world->flags & FAKE_UNIX || l->inst->caps.flags & MC_CAP_LOCAL_STREAMS;
}

/* To the process at the other end. */
static int stream_dial(const struct fake_link *l)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	memcpy(a.sun_path, l->hello.open.local, l->hello.open.local_len);
	if (connect(fd, (void *)&a, (socklen_t)(sizeof a.sun_family + l->hello.open.local_len)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int stream_make(struct fake_link *l, int *ret_own, int *ret_far)
{
	int fds[2] = { -1, -1 }, r = 0;

	if (is_unix(l) && !l->local) {
		fds[0] = stream_dial(l);
		r = fds[0] < 0 ? fds[0] : 0;
	} else if (is_unix(l)) {
		r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
	} else {
		r = stream_tcp(fds);
	}
	for (int i = 0; i < 2 && r == 0 && fds[i] >= 0; i++) {
		fcntl(fds[i], F_SETFL, O_NONBLOCK);
		if (!is_unix(l))
			setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	}
	*ret_own = fds[0];
	*ret_far = fds[1];
	return r;
}

int stream_accept(struct fake_link *l, int fd)
{
	return l->listen_fd < 0 ? fd : accept4(l->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* Where the other process dials; the kernel chooses a name. */
static void listen_local(struct fake_link *l, struct msg *hello)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t len = sizeof a;

	l->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l->listen_fd < 0 || bind(l->listen_fd, (void *)&a, sizeof a.sun_family) < 0 ||
	    listen(l->listen_fd, 64) < 0 || getsockname(l->listen_fd, (void *)&a, &len) < 0)
		abort();
	hello->open.local_len = len - (socklen_t)sizeof a.sun_family;
	if (hello->open.local_len > sizeof hello->open.local)
		abort();
	memcpy(hello->open.local, a.sun_path, hello->open.local_len);
}

void link_fill_open(const struct fake_inst *inst, struct msg *m)
{
	m->open.generation = inst->generation;
	m->open.lane = inst->lane;
	memcpy(m->open.engine, inst->engine, sizeof m->open.engine);
	memcpy(m->open.device, inst->device, sizeof m->open.device);
}

/* ---- links ------------------------------------------------------------------------------------------------ */

struct link_add {
	struct fake_link *l;
	int r;
};

static void do_link_add(void *ctx)
{
	struct link_add *c = ctx;
	struct fake_link *l = c->l;
	struct msg m = { .type = MSG_HELLO };

	l->source = calloc(1, sizeof *l->source);
	if (!l->source)
		abort();
	*l->source = (struct fake_source){ .kind = SOURCE_LINK, .obj = l };
	l->next = l->inst->st->links;
	l->inst->st->links = l;
	c->r = inst_add_source(l->inst, l->fd, EPOLLIN, l->source);
	link_fill_open(l->inst, &m);
	if (is_unix(l) && !l->local)
		listen_local(l, &m);
	link_send(l, &m, -1);
}

static int link_new(struct fake_inst *inst, int fd, uint32_t side, bool local, struct fake_link **ret_link)
{
	struct fake_link *l = calloc(1, sizeof *l);
	struct link_add c = { .l = l };

	if (!l)
		abort();
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ 1 << 20 }, sizeof(int));
	l->inst = inst;
	l->fd = fd;
	l->listen_fd = -1;
	l->side = side;
	l->local = local;
	l->out_tail = &l->out;
	fake_call(inst, do_link_add, &c);
	*ret_link = l;
	return c.r;
}

int fake_link_fd(struct fake_inst *inst, int fd, struct fake_link **ret_link)
{
	return link_new(inst, fd, (uint32_t)getpid() << 16, false, ret_link);
}

int fake_link(struct fake_inst *a, struct fake_inst *b, struct fake_link **ret_a, struct fake_link **ret_b)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	if (link_new(a, fds[0], 0, true, ret_a) < 0 || link_new(b, fds[1], 1u << 31, true, ret_b) < 0)
		abort();
	(*ret_a)->other = *ret_b;
	(*ret_b)->other = *ret_a;
	return 0;
}

static void do_break(void *ctx)
{
	struct fake_link *l = ctx;

	shutdown(l->fd, SHUT_RDWR);
	link_lost(l);
}

void fake_link_break(struct fake_link *link)
{
	fake_call(link->inst, do_break, link);
}

/* Descriptors in messages that nobody will read. */
static void drain(struct fake_link *l)
{
	struct msg m;
	int fd;

	while (link_receive(l, &m, &fd) == 0)
		if (fd >= 0)
			close(fd);
}

void links_close(struct fake_inst *inst)
{
	struct fake_link *l;

	links_flush(inst);
	while ((l = inst->st->links)) {
		inst->st->links = l->next;
		if (l->source)
			inst_drop_source(inst, l->fd, l->source);
		while (l->out) {
			struct outgoing *o = l->out;

			l->out = o->next;
			if (o->fd >= 0)
				close(o->fd);
			free(o);
		}
		drain(l);
		if (l->other)
			l->other->other = NULL;
		close(l->fd);
		if (l->listen_fd >= 0)
			close(l->listen_fd);
		free(l);
	}
}
