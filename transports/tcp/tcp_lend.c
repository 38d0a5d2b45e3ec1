/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp transport, payloads lent to the kernel: a long WRITE's pages go by way of a pipe
 * (vmsplice, splice) into the socket without a copy.  The kernel refers to them until the
 * peer has taken their bytes, which the WRITE's acknowledgement says, and that alone: so
 * what a target answers is never lent, as nobody tells it when its memory is read no more.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tcp.h"

#define PIPE_SIZE (1 << 20) /* what everybody may have, and a turn's bytes */

static bool pipe_open(struct tcp *tcp)
{
	struct tcp_pipe *p = &tcp->pipe;
	int fds[2];

	if (p->open || p->refused)
		return p->open;
	p->refused = true;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return false;
	if (fcntl(fds[1], F_SETPIPE_SZ, PIPE_SIZE) < PIPE_SIZE) {
		close(fds[0]);
		close(fds[1]);
		return false;
	}
	p->out = fds[0];
	p->in = fds[1];
	p->refused = false;
	p->open = true;
	return true;
}

void tcp_pipe_close(struct tcp *tcp)
{
	struct tcp_pipe *p = &tcp->pipe;

	if (!p->open)
		return;
	close(p->in);
	close(p->out);
	p->open = false;
	p->user = NULL;
}

/* A peer that is gone answers EPIPE, with a signal that no flag of splice keeps away. */
static ssize_t splice_quietly(int from, int to, size_t len, unsigned int flags)
{
	sigset_t pipe_only, old, pending;
	bool was = false;
	ssize_t n;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
	if (sigismember(&old, SIGPIPE) && sigpending(&pending) == 0)
		was = sigismember(&pending, SIGPIPE);
	n = splice(from, NULL, to, NULL, len, flags);
	if (n < 0 && errno == EPIPE) {
		struct timespec none = { 0 };

		if (!was)
			sigtimedwait(&pipe_only, NULL, &none);
		errno = EPIPE;
	}
	if (!sigismember(&old, SIGPIPE)) {
		int e = errno;

		pthread_sigmask(SIG_SETMASK, &old, NULL);
		errno = e;
	}
	return n;
}

/* How many bytes from this piece of the packet on, up to `turn`, had better be lent; 0: none. */
uint64_t tcp_lend_bytes(const struct tcp_stream *st, uint32_t piece, uint64_t turn)
{
	const struct tcp_pipe *p = &st->tcp->pipe;
	const struct tcp_tx *tx = &st->tx;
	uint64_t bytes = 0;

	if (tx->piped)
		return piece == tx->iov_idx ? tx->piped : 0;
	if (p->refused || p->user)
		return 0;
	for (uint32_t i = piece; i < tx->nr_iov && tx->lends[i] && bytes < turn; i++)
		bytes += tx->iov[i].iov_len;
	return bytes < MC_TCP_LEND ? 0 : MC_MIN(bytes, turn);
}

/* Put so many bytes into the pipe.  0, or -errno: they are to be copied. */
static int fill(struct tcp_stream *st, uint64_t bytes)
{
	struct tcp_tx *tx = &st->tx;
	struct tcp *tcp = st->tcp;
	uint32_t end = tx->iov_idx;
	uint64_t asked = 0, cut;
	ssize_t n;

	if (!pipe_open(tcp))
		return -EOPNOTSUPP;
	while (asked < bytes)
		asked += tx->iov[end++].iov_len;
	cut = asked - bytes;
	tx->iov[end - 1].iov_len -= cut;
	n = vmsplice(tcp->pipe.in, tx->iov + tx->iov_idx, end - tx->iov_idx, SPLICE_F_NONBLOCK);
	tx->iov[end - 1].iov_len += cut;
	if (n <= 0) {
		/* Memory that the kernel cannot refer to, or a system that forbids it. */
		tcp->pipe.refused = n == 0 || errno != EFAULT;
		return -EOPNOTSUPP;
	}
	tx->piped = (uint64_t)n;
	tcp->pipe.user = st;
	return 0;
}

/* Hand lent bytes to the socket.  Bytes; 0: it is full; -EOPNOTSUPP: copy them; else -errno. */
int64_t tcp_lend(struct tcp_stream *st, uint64_t bytes)
{
	struct tcp_tx *tx = &st->tx;
	struct tcp *tcp = st->tcp;
	ssize_t n;

	if (!tx->piped && fill(st, bytes) < 0)
		return -EOPNOTSUPP;
	tx->lent = true;
	n = splice_quietly(tcp->pipe.out, st->watch.fd, tx->piped, SPLICE_F_NONBLOCK);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	tx->piped -= (uint64_t)n;
	if (!tx->piped)
		tcp->pipe.user = NULL;
	mc_counter_add(tcp->c_lent, (uint64_t)n);
	return n;
}

/* The stream is broken: what it has in the pipe goes with the pipe. */
void tcp_lend_drop(struct tcp_stream *st)
{
	if (!st->tx.piped)
		return;
	st->tx.piped = 0;
	tcp_pipe_close(st->tcp);
}
