/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who stands between two engines: passes on what they say, records it, changes
 * it, or speaks himself.  He knows the layout of docs/wire.md, and no key.
 */
#ifndef MC_TESTS_RELAY_H
#define MC_TESTS_RELAY_H

#include "peers.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define WIRE_REPLY 80
#define WIRE_ESTALE 2
#define WIRE_EACCES 5
#define RELAY_MAX 32

/* The first bytes that a dialler sent. */
struct recorded {
	unsigned char bytes[4096];
	size_t len;
};

struct relay {
	int listener, pairs[RELAY_MAX][2];
	uint16_t port, to;
	bool strip, dribble;  /* set before anybody connects */
	int stop, held, count; /* atomic */
	pthread_t thread;
	pthread_mutex_t lock; /* guards recorded */
	struct recorded recorded[RELAY_MAX];
};

static inline int dial(uint16_t port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	NEED(fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0, "connect: %s", strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static inline void send_all(int fd, const void *bytes, size_t len)
{
	/* The other end may have closed it; what matters is what it answers. */
	(void)!send(fd, bytes, len, MSG_NOSIGNAL);
}

/* Within 10 s. */
static inline bool recv_exactly(int fd, unsigned char *buf, size_t len)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (size_t have = 0; have < len;) {
		ssize_t n = poll(&p, 1, 10000 * SLOW) == 1 ? read(fd, buf + have, len - have) : 0;

		if (n <= 0)
			return false;
		have += (size_t)n;
	}
	return true;
}

/* Has the other end closed it, within 10 s?  What it still says is thrown away. */
static inline bool closed(int fd)
{
	unsigned char buf[4096];
	struct pollfd p = {.fd = fd, .events = POLLIN};

	while (poll(&p, 1, 10000 * SLOW) == 1)
		if (read(fd, buf, sizeof buf) <= 0)
			return true;
	return false;
}

/* ---- messages ------------------------------------------------------------------------------------- */

static inline void wire_put(unsigned char *p, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (unsigned char)(value >> (8 * i));
}

static inline size_t preamble_length(const unsigned char *p)
{
	return p[12] + 256u * p[13];
}

static inline size_t answer_length(const unsigned char *p)
{
	return p[10] + 256u * p[11];
}

static inline unsigned answer_status(const unsigned char *p)
{
	return p[14] + 256u * p[15];
}

static inline size_t preamble_make(unsigned char *out, unsigned kind, uint64_t session, uint64_t from, uint64_t to,
				   unsigned admission, const char *name)
{
	size_t len = 64 + strlen(name);

	memset(out, 0, 64);
	memcpy(out, "mooncake", 8);
	wire_put(out + 8, 1, 2);
	wire_put(out + 10, 1, 2);
	wire_put(out + 12, len, 2);
	out[14] = (unsigned char)kind;
	out[15] = (unsigned char)strlen(name);
	wire_put(out + 16, session, 8);
	wire_put(out + 24, from, 8);
	wire_put(out + 32, to, 8);
	wire_put(out + 60, admission, 4);
	memcpy(out + 64, name, strlen(name));
	return len;
}

/* "Admitted"; proof: 32 bytes, or NULL. */
static inline void verdict_make(unsigned char *out, uint64_t generation, const unsigned char *proof)
{
	memset(out, 0, 72);
	memcpy(out, "moncake!", 8);
	wire_put(out + 8, 1, 2);
	wire_put(out + 10, proof ? 72 : 32, 2);
	wire_put(out + 16, generation, 8);
	if (proof) {
		out[32] = 1;
		memcpy(out + 40, proof, 32);
	}
}

static inline void reply_make(unsigned char out[WIRE_REPLY])
{
	memset(out, 0x77, WIRE_REPLY);
	memcpy(out, "moncake?", 8);
	wire_put(out + 8, 1, 2);
	wire_put(out + 10, WIRE_REPLY, 2);
	wire_put(out + 12, 1, 4);
}

/* Its length; 0: none came. */
static inline size_t recv_answer(int fd, unsigned char buf[512])
{
	memset(buf, 0, 512);
	if (!recv_exactly(fd, buf, 32) || memcmp(buf, "moncake!", 8) || answer_length(buf) > 511 ||
	    !recv_exactly(fd, buf + 32, answer_length(buf) - 32))
		return 0;
	return answer_length(buf);
}

static inline size_t recv_preamble(int fd, unsigned char buf[1024])
{
	if (!recv_exactly(fd, buf, 64) || memcmp(buf, "mooncake", 8) || preamble_length(buf) > 1024 ||
	    !recv_exactly(fd, buf + 64, preamble_length(buf) - 64))
		return 0;
	return preamble_length(buf);
}

/* ---- the relay ------------------------------------------------------------------------------------- */

static inline void relay_pass(struct relay *r, int idx, int side)
{
	struct recorded *rec = &r->recorded[idx];
	unsigned char buf[65536];
	ssize_t n = recv(r->pairs[idx][side], buf, sizeof buf, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		shutdown(r->pairs[idx][!side], SHUT_WR);
		close(r->pairs[idx][side]);
		r->pairs[idx][side] = -1;
		return;
	}
	/* A preamble comes in one piece here: it is the first of its connection. */
	if (side == 0 && r->strip && rec->len == 0 && n >= 64)
		memset(buf + 60, 0, 4);
	if (side == 0 && rec->len < sizeof rec->bytes) {
		size_t take = (size_t)n < sizeof rec->bytes - rec->len ? (size_t)n : sizeof rec->bytes - rec->len;

		pthread_mutex_lock(&r->lock);
		memcpy(rec->bytes + rec->len, buf, take);
		rec->len += take;
		pthread_mutex_unlock(&r->lock);
	}
	/* Enough of each connection to split all that comes before its frames. */
	for (ssize_t at = 0; at < n;) {
		size_t len = r->dribble && n < 1024 ? 1 : (size_t)(n - at);
		ssize_t sent = send(r->pairs[idx][!side], buf + at, len, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		at += sent;
	}
}

static inline void *relay_main(void *arg)
{
	struct relay *r = arg;
	int count = 0;

	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		bool held = __atomic_load_n(&r->held, __ATOMIC_ACQUIRE);
		struct pollfd fds[1 + 2 * RELAY_MAX] = {{.fd = held ? -1 : r->listener, .events = POLLIN}};

		for (int i = 0; i < 2 * count; i++)
			fds[1 + i] = (struct pollfd){.fd = r->pairs[i / 2][i % 2], .events = POLLIN};
		if (poll(fds, 1 + 2 * (nfds_t)count, 5) <= 0)
			continue;
		for (int i = 0; i < 2 * count; i++)
			if (fds[1 + i].revents && r->pairs[i / 2][i % 2] >= 0)
				relay_pass(r, i / 2, i % 2);
		if (fds[0].revents && count < RELAY_MAX) {
			int fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC), one = 1;

			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			r->pairs[count][0] = fd;
			r->pairs[count][1] = dial(__atomic_load_n(&r->to, __ATOMIC_ACQUIRE));
			__atomic_store_n(&r->count, ++count, __ATOMIC_RELEASE);
		}
	}
	for (int i = 0; i < 2 * count; i++)
		if (r->pairs[i / 2][i % 2] >= 0)
			close(r->pairs[i / 2][i % 2]);
	return NULL;
}

/* Listens; passes on once it knows to where. */
static inline void relay_start(struct relay *r)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof sa;

	memset(r, 0, sizeof *r);
	pthread_mutex_init(&r->lock, NULL);
	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	NEED(bind(r->listener, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(r->listener, 64) == 0, "listen");
	getsockname(r->listener, (struct sockaddr *)&sa, &len);
	r->port = ntohs(sa.sin_port);
	r->to = r->port;
}

static inline void relay_to(struct relay *r, uint16_t port)
{
	__atomic_store_n(&r->to, port, __ATOMIC_RELEASE);
	NEED(pthread_create(&r->thread, NULL, relay_main, r) == 0, "thread");
}

/* New connections are the test's: relay_accept. */
static inline void relay_hold(struct relay *r)
{
	__atomic_store_n(&r->held, 1, __ATOMIC_RELEASE);
	nap(50 * MC_MSEC); /* its poll under way ends */
}

static inline int relay_accept(struct relay *r)
{
	struct pollfd p = {.fd = r->listener, .events = POLLIN};

	NEED(poll(&p, 1, 10000 * SLOW) == 1, "nobody dials");
	return accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);
}

static inline void relay_recorded(struct relay *r, int idx, struct recorded *ret)
{
	pthread_mutex_lock(&r->lock);
	*ret = r->recorded[idx];
	pthread_mutex_unlock(&r->lock);
}

static inline int relay_count(struct relay *r)
{
	return __atomic_load_n(&r->count, __ATOMIC_ACQUIRE);
}

static inline void relay_end(struct relay *r)
{
	__atomic_store_n(&r->stop, 1, __ATOMIC_RELEASE);
	pthread_join(r->thread, NULL);
	close(r->listener);
	pthread_mutex_destroy(&r->lock);
}

/* ---- a segment being opened by a thread of its own ---------------------------------------------------- */

struct opener {
	struct mc_engine *engine;
	const char *name;
	pthread_t thread;
	int status;
};

static inline void *opener_main(void *arg)
{
	struct opener *o = arg;
	struct mc_segment *s = NULL;

	o->status = mc_segment_open(o->engine, o->name, 10 * T, &s, NULL);
	if (o->status == 0)
		mc_segment_close(s);
	return NULL;
}

static inline void opener_start(struct opener *o, struct mc_engine *engine, const char *name)
{
	*o = (struct opener){.engine = engine, .name = name};
	NEED(pthread_create(&o->thread, NULL, opener_main, o) == 0, "thread");
}

static inline int opener_end(struct opener *o)
{
	pthread_join(o->thread, NULL);
	return o->status;
}

#endif
