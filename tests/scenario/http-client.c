/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients by HTTP that curl cannot play, for http.sh:
 *   lint              check the metrics on stdin
 *   split PORT        a request byte by byte; prints the answer
 *   big PORT          1 MiB of headers; prints the first line of the answer
 *   twice PORT        two requests over one connection; prints both first lines
 *   slow PORT NR S    NR connections that send a byte every 200 ms, for S seconds; prints how many
 *                     of them the server has ended
 *   pipe PORT NR S    NR connections that ask for the metrics again and again, without waiting for the
 *                     answers, for S seconds or until SIGTERM; prints how many bytes were answered
 *   garbage PORT NR   NR connections of random bytes, most of them behind a method
 * Exit: 0, 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/prom-lint.h"

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int dial(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = 60};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		die("connect");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	return fd;
}

static void pause_ms(long ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

/* Everything until the server ends the connection; a reset ends it too. */
static size_t take(int fd, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while (len + 1 < size && (n = recv(fd, buf + len, size - len - 1, 0)) > 0)
		len += (size_t)n;
	buf[len] = '\0';
	return len;
}

static int lint(void)
{
	static char text[8 << 20];
	struct prom_lint l = {0};
	int r;

	text[fread(text, 1, sizeof text - 1, stdin)] = '\0';
	r = prom_lint(&l, text);
	if (r < 0)
		printf("%s\n", l.why);
	else
		printf("%zu families, %zu series\n", l.nr_families, l.nr_series);
	prom_lint_fini(&l);
	return r < 0;
}

static int split(int port)
{
	static const char request[] =
		"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	static char buf[65536];
	int fd = dial(port);

	for (size_t i = 0; i + 1 < sizeof request; i++) {
		if (send(fd, request + i, 1, MSG_NOSIGNAL) != 1)
			die("send");
		pause_ms(5);
	}
	take(fd, buf, sizeof buf);
	fputs(buf, stdout);
	close(fd);
	return 0;
}

static int big(int port)
{
	static const char head[] = "GET /health HTTP/1.1\r\nHost: x\r\nX: ";
	static char fill[1 << 20], buf[65536];
	int fd = dial(port);

	memset(fill, 'a', sizeof fill);
	if (send(fd, head, sizeof head - 1, MSG_NOSIGNAL) < 0)
		die("send");
	/* The server may end it before all is sent. */
	(void)!send(fd, fill, sizeof fill, MSG_NOSIGNAL);
	take(fd, buf, sizeof buf);
	buf[strcspn(buf, "\r\n")] = '\0';
	puts(buf);
	close(fd);
	return 0;
}

static int twice(int port)
{
	static const char request[] =
		"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
		"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	static char buf[65536];
	int fd = dial(port);

	if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
		die("send");
	take(fd, buf, sizeof buf);
	for (char *at = buf; (at = strstr(at, "HTTP/1.1 ")); at++)
		printf("%.3s\n", at + 9);
	close(fd);
	return 0;
}

static int slow(int port, int nr, double seconds)
{
	static const char request[] = "GET /metrics HTTP/1.1\r\nX-Slow: ";
	int *fds = calloc((size_t)nr, sizeof *fds), ended = 0;

	for (int i = 0; i < nr; i++) {
		fds[i] = dial(port);
		/* Half of them do not even say who they are. */
		if (i % 2)
			(void)!send(fds[i], request, sizeof request - 1, MSG_NOSIGNAL);
		else
			(void)!send(fds[i], request, 3, MSG_NOSIGNAL);
	}
	for (int step = 0; step < (int)(seconds * 5); step++) {
		for (int i = 1; i < nr; i += 2)
			if (fds[i] >= 0 && send(fds[i], "a", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
				close(fds[i]);
				fds[i] = -1;
			}
		pause_ms(200);
	}
	for (int i = 0; i < nr; i++) {
		char c;

		if (fds[i] < 0 || recv(fds[i], &c, 1, MSG_DONTWAIT) == 0 || errno != EAGAIN)
			ended++;
	}
	printf("%d\n", ended);
	free(fds);
	return 0;
}

static volatile sig_atomic_t stopped;

static void stop(int sig)
{
	stopped = 1;
}

/* Send and receive what goes without waiting; false: the connection is over. */
static bool pipe_turn(int fd, short revents, size_t *at, size_t *taken)
{
	static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
	static char sink[1 << 18];
	ssize_t n;

	if (revents & POLLOUT) {
		n = send(fd, request + *at, sizeof request - 1 - *at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			return false;
		*at = n > 0 ? (*at + (size_t)n) % (sizeof request - 1) : *at;
	}
	if (revents & (POLLIN | POLLHUP | POLLERR)) {
		n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		*taken += n > 0 ? (size_t)n : 0;
	}
	return true;
}

static int pipeline(int port, nfds_t nr, time_t seconds)
{
	struct pollfd *fds = calloc(nr, sizeof *fds);
	size_t *at = calloc(nr, sizeof *at), taken = 0;
	time_t end = time(NULL) + seconds;

	signal(SIGTERM, stop);
	for (nfds_t i = 0; i < nr; i++)
		fds[i] = (struct pollfd){.fd = dial(port), .events = POLLIN | POLLOUT};
	while (!stopped && time(NULL) < end) {
		poll(fds, nr, 100);
		for (nfds_t i = 0; i < nr; i++) {
			if (fds[i].fd >= 0 && !pipe_turn(fds[i].fd, fds[i].revents, &at[i], &taken)) {
				close(fds[i].fd);
				fds[i].fd = -1;
			}
		}
	}
	printf("%zu\n", taken);
	free(at);
	free(fds);
	return 0;
}

static int garbage(int port, int nr)
{
	srandom(1);
	for (int i = 0; i < nr; i++) {
		char bytes[512] = "GET ";
		int fd = dial(port);

		for (size_t at = i % 3 ? 4 : 0; at < sizeof bytes; at++)
			bytes[at] = (char)random();
		(void)!send(fd, bytes, sizeof bytes, MSG_NOSIGNAL);
		if (i % 2)
			shutdown(fd, SHUT_WR);
		close(fd);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int port = argc > 2 ? atoi(argv[2]) : 0;

	if (!strcmp(what, "lint"))
		return lint();
	if (!strcmp(what, "split") && port)
		return split(port);
	if (!strcmp(what, "big") && port)
		return big(port);
	if (!strcmp(what, "twice") && port)
		return twice(port);
	if (!strcmp(what, "slow") && argc == 5)
		return slow(port, atoi(argv[3]), atof(argv[4]));
	if (!strcmp(what, "pipe") && argc == 5)
		return pipeline(port, (nfds_t)atoi(argv[3]), atoi(argv[4]));
	if (!strcmp(what, "garbage") && argc == 4)
		return garbage(port, atoi(argv[3]));
	fprintf(stderr, "usage: see the head of http-client.c\n");
	return 2;
}
