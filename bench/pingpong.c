/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare peer of our latency cases: two processes, one TCP connection over the
 * loopback, a message there and back, both ends polling without ever sleeping.
 *
 *   pingpong [BYTES [SECONDS]]     prints "p50 NS p99 NS count N"
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

#define MAX_BYTES 65536
#define WARM_UP_NS UINT64_C(100000000)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static bool send_all(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			return false;
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		}
	}
	return true;
}

/* False: the other end has closed. */
static bool recv_all(int fd, char *buf, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, buf, len, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		}
	}
	return true;
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int echo(int listener, size_t len)
{
	static char buf[MAX_BYTES];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return 1;
	no_delay(fd);
	while (recv_all(fd, buf, len) && send_all(fd, buf, len))
		;
	return 0;
}

static int measure(int fd, size_t len, uint64_t span_ns, struct bench_hist *hist)
{
	static char buf[MAX_BYTES];
	uint64_t start = now_ns(), begin = start;

	while (begin - start < span_ns + WARM_UP_NS) {
		uint64_t end;

		if (!send_all(fd, buf, len) || !recv_all(fd, buf, len))
			return -1;
		end = now_ns();
		if (begin - start >= WARM_UP_NS)
			bench_hist_add(hist, end - begin);
		begin = end;
	}
	return 0;
}

static int connect_to(int listener)
{
	struct sockaddr_in addr;
	socklen_t size = sizeof addr;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (getsockname(listener, (struct sockaddr *)&addr, &size) < 0 ||
	    connect(fd, (struct sockaddr *)&addr, size) < 0) {
		close(fd);
		return -1;
	}
	no_delay(fd);
	return fd;
}

int main(int argc, char **argv)
{
	static struct bench_hist hist;
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	long len = argc > 1 ? atol(argv[1]) : 64;
	double seconds = argc > 2 ? atof(argv[2]) : 1;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd, r;
	pid_t child;

	if (argc > 3 || len < 1 || len > MAX_BYTES || !(seconds > 0 && seconds < 3600)) {
		fprintf(stderr, "usage: pingpong [BYTES (1..%d) [SECONDS]]\n", MAX_BYTES);
		return 2;
	}
	if (bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(listener, 1) < 0) {
		perror("pingpong: loopback");
		return 1;
	}
	child = fork();
	if (child == 0)
		_exit(echo(listener, (size_t)len));
	fd = child > 0 ? connect_to(listener) : -1;
	bench_hist_init(&hist);
	r = fd < 0 ? -1 : measure(fd, (size_t)len, (uint64_t)(seconds * 1e9), &hist);
	if (r < 0)
		perror("pingpong");
	close(fd);
	close(listener);
	if (child > 0) {
		if (fd < 0)
			kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	if (r < 0)
		return 1;
	printf("p50 %llu p99 %llu count %llu\n",
	       (unsigned long long)bench_hist_percentile(&hist, 0.5),
	       (unsigned long long)bench_hist_percentile(&hist, 0.99), (unsigned long long)hist.nr);
	return 0;
}
