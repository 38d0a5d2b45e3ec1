/* SPDX-License-Identifier: Apache-2.0 */
/* A relay with faults; etcd-relay.h says which.  One thread, blocking writes of what poll announced. */
#include "etcd-relay.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_PAIRS 64

struct relay {
	int port, to_port, listener, wake;
	unsigned taken; /* atomic */
	pthread_t thread;
	pthread_mutex_t mx; /* guards what follows */
	pthread_cond_t cond;
	enum relay_mode mode, wanted;
	bool stop; /* atomic */
	/* The thread's. */
	struct pair {
		int fd[2]; /* the client's, the server's; -1: free */
		bool asked; /* SWALLOW: a request was passed on since it is on */
	} pairs[MAX_PAIRS];
};

static int listen_on(int *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons((uint16_t)*port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	socklen_t len = sizeof a;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd >= 0 && (bind(fd, (void *)&a, sizeof a) < 0 || listen(fd, 64) < 0)) {
		close(fd);
		return -1;
	}
	getsockname(fd, (void *)&a, &len);
	*port = ntohs(a.sin_port);
	return fd;
}

static void pair_close(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		if (p->fd[i] >= 0)
			close(p->fd[i]);
		p->fd[i] = -1;
	}
}

static void take(struct relay *r)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons((uint16_t)r->to_port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC), to;
	struct pair *p = r->pairs;

	if (fd < 0)
		return;
	__atomic_add_fetch(&r->taken, 1, __ATOMIC_RELAXED);
	while (p < r->pairs + MAX_PAIRS && p->fd[0] >= 0)
		p++;
	to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p == r->pairs + MAX_PAIRS || connect(to, (void *)&a, sizeof a) < 0) {
		close(fd);
		close(to);
		return;
	}
	*p = (struct pair){.fd = {fd, to}};
}

/* Pass on what side `from` has; in SWALLOW mode the answer to a request ends it all. */
static void pass(struct pair *p, int from, enum relay_mode mode)
{
	char buf[65536];
	ssize_t n = recv(p->fd[from], buf, sizeof buf, 0), at = 0;

	if (mode == RELAY_SWALLOW && from == 1 && p->asked)
		n = 0;
	if (from == 0)
		p->asked = mode == RELAY_SWALLOW;
	while (n > 0 && at < n) {
		ssize_t m = send(p->fd[!from], buf + at, (size_t)(n - at), MSG_NOSIGNAL);

		if (m <= 0)
			n = 0;
		at += m;
	}
	if (n <= 0)
		pair_close(p);
}

static void mode_take(struct relay *r)
{
	uint64_t count;
	ssize_t n = read(r->wake, &count, sizeof count);

	(void)n;
	pthread_mutex_lock(&r->mx);
	r->mode = r->wanted;
	if (r->mode == RELAY_CUT) {
		for (int i = 0; i < MAX_PAIRS; i++)
			pair_close(&r->pairs[i]);
		if (r->listener >= 0)
			close(r->listener);
		r->listener = -1;
	} else if (r->listener < 0) {
		r->listener = listen_on(&r->port);
		if (r->listener < 0)
			abort(); /* its port was taken from it: no test can go on */
	}
	pthread_cond_broadcast(&r->cond);
	pthread_mutex_unlock(&r->mx);
}

static void *relay_main(void *arg)
{
	struct relay *r = arg;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		struct pollfd pfd[2 + 2 * MAX_PAIRS];
		bool deaf = r->mode == RELAY_STALL;

		pfd[0] = (struct pollfd){.fd = r->wake, .events = POLLIN};
		pfd[1] = (struct pollfd){.fd = r->listener, .events = POLLIN};
		for (int i = 0; i < 2 * MAX_PAIRS; i++)
			pfd[2 + i] = (struct pollfd){.fd = deaf ? -1 : r->pairs[i / 2].fd[i % 2],
						     .events = POLLIN};
		poll(pfd, 2 + 2 * MAX_PAIRS, -1);
		if (pfd[0].revents) {
			mode_take(r);
			continue;
		}
		for (int i = 0; i < 2 * MAX_PAIRS; i++)
			if (pfd[2 + i].revents && r->pairs[i / 2].fd[i % 2] == pfd[2 + i].fd)
				pass(&r->pairs[i / 2], i % 2, r->mode);
		if (pfd[1].revents)
			take(r);
	}
	return NULL;
}

static void nudge(struct relay *r)
{
	uint64_t one = 1;
	ssize_t n = write(r->wake, &one, sizeof one);

	(void)n;
}

struct relay *relay_new(int port)
{
	struct relay *r = calloc(1, sizeof *r);

	r->to_port = port;
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->listener = listen_on(&r->port);
	for (int i = 0; i < MAX_PAIRS; i++)
		r->pairs[i].fd[0] = r->pairs[i].fd[1] = -1;
	pthread_mutex_init(&r->mx, NULL);
	pthread_cond_init(&r->cond, NULL);
	if (r->listener < 0 || pthread_create(&r->thread, NULL, relay_main, r)) {
		free(r);
		return NULL;
	}
	return r;
}

int relay_port(const struct relay *r)
{
	return r->port;
}

unsigned relay_taken(const struct relay *r)
{
	return __atomic_load_n(&r->taken, __ATOMIC_RELAXED);
}

void relay_set(struct relay *r, enum relay_mode mode)
{
	pthread_mutex_lock(&r->mx);
	r->wanted = mode;
	nudge(r);
	while (r->mode != mode)
		pthread_cond_wait(&r->cond, &r->mx);
	pthread_mutex_unlock(&r->mx);
}

static void stop_now(struct relay *r)
{
	for (int i = 0; i < MAX_PAIRS; i++)
		pair_close(&r->pairs[i]);
	if (r->listener >= 0)
		close(r->listener);
	close(r->wake);
	pthread_cond_destroy(&r->cond);
	pthread_mutex_destroy(&r->mx);
	free(r);
}

void relay_free(struct relay *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->mx);
	__atomic_store_n(&r->stop, true, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&r->mx);
	nudge(r);
	pthread_join(r->thread, NULL);
	stop_now(r);
}
