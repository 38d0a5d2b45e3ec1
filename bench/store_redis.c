/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of Redis that does as little as one can, for compare-store.sh: one connection, a number
 * of commands sent at once, values straight from and to one buffer, no copy in between.
 *
 *   store_redis PORT set|get SIZE PIPELINE SECONDS     bytes per second of values
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "core/util/check.h"

#define PIPELINE_MAX 256
#define ROUNDS 4 /* keys of so many pipelines, one after the other */
#define HEAD_MAX 96

struct client {
	int fd;
	char in[65536]; /* received, not yet used */
	size_t at, end;
	uint8_t *value;
	size_t size;
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "store_redis: ");
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void fill(struct client *c)
{
	ssize_t n = recv(c->fd, c->in, sizeof c->in, 0);

	if (n <= 0)
		die("receive");
	c->at = 0;
	c->end = (size_t)n;
}

/* A line without its end; as long as Redis's short answers are. */
static void line(struct client *c, char *to, size_t cap)
{
	size_t n = 0;

	for (;;) {
		if (c->at == c->end)
			fill(c);
		to[n] = c->in[c->at++];
		if (to[n] == '\n')
			break;
		if (++n == cap)
			die("a line");
	}
	to[n ? n - 1 : 0] = '\0';
}

/* len bytes to where they belong; what has come already is copied, the rest comes straight. */
static void bytes(struct client *c, uint8_t *to, size_t len)
{
	size_t had = MC_MIN(len, c->end - c->at);

	memcpy(to, c->in + c->at, had);
	c->at += had;
	while (had < len) {
		ssize_t n = recv(c->fd, to + had, len - had, 0);

		if (n <= 0)
			die("receive");
		had += (size_t)n;
	}
}

static void send_all(struct client *c, struct iovec *iov, size_t nr)
{
	while (nr) {
		ssize_t n = writev(c->fd, iov, (int)MC_MIN(nr, (size_t)1024));

		if (n < 0)
			die("send");
		for (; nr && (size_t)n >= iov->iov_len; nr--, iov++)
			n -= (ssize_t)iov->iov_len;
		if (nr) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
}

static void set(struct client *c, unsigned first, unsigned nr)
{
	static char heads[PIPELINE_MAX][HEAD_MAX];
	struct iovec iov[3 * PIPELINE_MAX];
	char answer[64];

	for (unsigned i = 0; i < nr; i++) {
		int n = snprintf(heads[i], HEAD_MAX, "*3\r\n$3\r\nSET\r\n$8\r\n%08u\r\n$%zu\r\n", first + i, c->size);

		iov[3 * i] = (struct iovec){heads[i], (size_t)n};
		iov[3 * i + 1] = (struct iovec){c->value + i * c->size, c->size};
		iov[3 * i + 2] = (struct iovec){(char *)"\r\n", 2};
	}
	send_all(c, iov, 3 * (size_t)nr);
	for (unsigned i = 0; i < nr; i++) {
		line(c, answer, sizeof answer);
		if (strcmp(answer, "+OK") != 0)
			die(answer);
	}
}

static void get(struct client *c, unsigned first, unsigned nr)
{
	char ask[PIPELINE_MAX * HEAD_MAX], answer[64];
	struct iovec iov;
	size_t n = 0;

	for (unsigned i = 0; i < nr; i++)
		n += (size_t)snprintf(ask + n, sizeof ask - n, "*2\r\n$3\r\nGET\r\n$8\r\n%08u\r\n", first + i);
	iov = (struct iovec){ask, n};
	send_all(c, &iov, 1);
	for (unsigned i = 0; i < nr; i++) {
		uint8_t end[2];

		line(c, answer, sizeof answer);
		if (answer[0] != '$' || strtoull(answer + 1, NULL, 10) != c->size)
			die(answer);
		bytes(c, c->value + i * c->size, c->size);
		bytes(c, end, sizeof end);
	}
}

static int dial(unsigned port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

int main(int argc, char **argv)
{
	static struct client c;
	unsigned pipeline;
	uint64_t moved = 0;
	double seconds, start, end;
	bool setting;

	if (argc != 6) {
		fprintf(stderr, "usage: store_redis PORT set|get SIZE PIPELINE SECONDS\n");
		return 2;
	}
	setting = strcmp(argv[2], "set") == 0;
	c.size = strtoull(argv[3], NULL, 10);
	pipeline = (unsigned)strtoul(argv[4], NULL, 10);
	seconds = strtod(argv[5], NULL);
	if (!c.size || !pipeline || pipeline > PIPELINE_MAX || !(seconds > 0))
		return 2;
	c.fd = dial((unsigned)strtoul(argv[1], NULL, 10));
	c.value = malloc(pipeline * c.size);
	if (!c.value)
		die("memory");
	memset(c.value, 0x5a, pipeline * c.size);
	for (unsigned round = 0; round < ROUNDS; round++) /* also warms up */
		set(&c, round * pipeline, pipeline);
	start = end = now();
	for (unsigned round = 0; end - start < seconds; round = (round + 1) % ROUNDS, end = now()) {
		(setting ? set : get)(&c, round * pipeline, pipeline);
		moved += pipeline * c.size;
	}
	printf("%.0f\n", (double)moved / (end - start));
	free(c.value);
	close(c.fd);
	return 0;
}
