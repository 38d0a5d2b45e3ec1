/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: life of a peer, its stream, fences.  The stream is a Unix socket that the core has
 * dialled and admitted; after the hellos it carries requests for memfds, and its end is the news that
 * the other process has gone.
 *
 * The initiator copies inside its own calls only, so its fence is over at once.  The target's empties
 * the connection's slot and is over when the initiator's flag is seen lowered, or changed, or its process
 * gone; when we are closed it waits a tenth of P6's bound, for who is fenced has mostly been silent for all of it.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

#include "shm.h"

#define MSGS_PER_TURN 16
#define FLAG_LOOK_NS (1 * MC_MSEC)
#define FLAG_REST_NS (20 * MC_MSEC) /* when it is taking long */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* ---- the stream ---------------------------------------------------------------------------------- */

int shm_send(struct shm_peer *p, const struct shm_msg *m, int fd)
{
	char control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(8))) = {0};
	uint8_t buf[SHM_MSG_SIZE];
	struct iovec iov = {buf, sizeof buf};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (p->watch.fd < 0)
		return -ENOTCONN;
	shm_msg_encode(m, buf);
	if (fd >= 0) {
		struct cmsghdr *c;

		h.msg_control = control;
		h.msg_controllen = sizeof control;
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	n = sendmsg(p->watch.fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return n == SHM_MSG_SIZE ? 0 : -EPIPE; /* so few bytes go in one piece or not at all */
}

void shm_rewatch(struct shm_peer *p)
{
	const struct mc_host *h = p->shm->host;
	uint32_t events = POLLIN;

	if (p->watch.fd < 0)
		return;
	for (const struct shm_remote *r = p->wants; r; r = r->next)
		if (!r->asked)
			events = POLLIN | POLLOUT;
	/* Who does not take answers asks no more. */
	if (p->owes)
		events = POLLOUT;
	if (events != p->watch.events && h->rewatch(h, &p->watch, events) < 0)
		shm_peer_break(p, -EIO, "the stream cannot be watched");
	p->watch.events = events;
}

static void stream_shut(struct shm_peer *p)
{
	const struct mc_host *h = p->shm->host;

	if (p->watch.fd >= 0) {
		h->unwatch(h, &p->watch);
		close_fd(&p->watch.fd);
	}
	if (p->life.fd >= 0) {
		h->unwatch(h, &p->life);
		close_fd(&p->life.fd);
	}
	close_fd(&p->in_fd);
	p->in_lost = false;
	p->in_len = 0;
	p->owes = false;
}

/* What came with the stream goes with it; remotes stay, and ask again. */
static void peer_shut(struct shm_peer *p)
{
	const struct mc_host *h = p->shm->host;

	h->timer_set(h, &p->timer, 0);
	stream_shut(p);
	if (p->table)
		munmap((void *)(uintptr_t)p->table, SHM_TABLE_SIZE);
	p->table = NULL;
	p->attach = false;
	for (struct shm_remote *r = p->wants; r; r = r->next)
		r->asked = false;
	if (p->passive && p->key) {
		shm_slot_empty(p->shm->dev, p->slot);
		shm_slot_put(p->shm->dev, p->slot);
	}
	if (p->watcher)
		shm_watcher_drop(p->shm->dev, p->watcher);
	p->watcher = NULL;
	p->key = 0;
}

static void fence_over(struct shm_peer *p)
{
	p->fencing = false;
	peer_shut(p);
	p->shm->host->fenced(p->shm->host, p, p->fenced);
}

/* The connection is lost, or was never made.  At the target nothing is given away any more; its own
 * fence tells when nothing is touched. */
void shm_peer_break(struct shm_peer *p, int status, const char *why)
{
	bool tell = !p->passive || status != -ECONNRESET;

	if (p->state == SHM_BROKEN)
		return;
	p->state = SHM_BROKEN;
	if (p->passive && p->key)
		shm_slot_empty(p->shm->dev, p->slot);
	if (p->watcher && status == -ECONNRESET)
		atomic_store(&p->watcher->dead, true);
	p->shm->host->timer_set(p->shm->host, &p->timer, 0);
	stream_shut(p);
	if (!tell)
		return;
	p->news = p->shm->news = true;
	p->report = status;
	if (why != p->why)
		snprintf(p->why, sizeof p->why, "%s", why);
}

static int handle(struct shm_peer *p)
{
	struct shm_msg m;
	int fd = p->in_fd, r = shm_msg_decode(p->in, &m);

	p->in_fd = -1;
	p->in_len = 0;
	if (r == 0 && m.type == SHM_HELLO && p->state == SHM_CONNECTING) {
		r = shm_hello_check(p, &m.hello, fd);
		if (r < 0)
			return r;
		p->shm->host->timer_set(p->shm->host, &p->timer, 0);
		p->state = SHM_READY;
		p->news = p->shm->news = true;
		p->report = 0;
		return p->wants ? shm_wants_send(p) : 0;
	}
	if (r == 0 && m.type == SHM_GIVE && p->state == SHM_READY && !p->passive) {
		shm_given(p, &m.give, fd);
		return 0;
	}
	close_fd(&fd);
	if (r < 0 || m.type != SHM_WANT || p->state != SHM_READY || !p->passive)
		return -EPROTO;
	r = shm_answer(p, &m.want);
	p->owes = r == -EAGAIN;
	p->owed = m.want;
	return r;
}

/* One system call: 1, something came; -EAGAIN, nothing did, or an answer is owed; or -errno. */
static int receive(struct shm_peer *p)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = {p->in + p->in_len, SHM_MSG_SIZE - p->in_len};
	/* Room for one descriptor; the padding of CMSG_SPACE would take a second one. */
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			   .msg_controllen = CMSG_LEN(sizeof(int))};
	ssize_t n = recvmsg(p->watch.fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *c;

	if (n <= 0)
		return n == 0 ? -ECONNRESET : errno == EINTR ? -EAGAIN : -errno;
	c = CMSG_FIRSTHDR(&h);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int))) {
		if (p->in_fd >= 0)
			return -EPROTO;
		memcpy(&p->in_fd, CMSG_DATA(c), sizeof p->in_fd);
	}
	p->in_lost |= p->in_fd < 0 && h.msg_flags & MSG_CTRUNC;
	p->in_len += (uint32_t)n;
	if (p->in_len == SHM_MSG_SIZE) {
		int r = handle(p);

		p->in_lost = false;
		return r < 0 ? r : 1;
	}
	return 1;
}

static int stream_serve(struct shm_peer *p)
{
	int r = 0;

	if (p->owes) {
		r = shm_answer(p, &p->owed);
		p->owes = r == -EAGAIN;
	}
	if (r == 0 && p->state == SHM_READY && p->wants)
		r = shm_wants_send(p);
	for (int i = 0; i < MSGS_PER_TURN && (r >= 0 || r == -EAGAIN) && !p->owes; i++) {
		r = receive(p);
		if (r == -EAGAIN)
			break;
	}
	return r;
}

/* Fenced, but the flag is raised: only that the other process has gone is news. */
static void fencing_over(struct shm_peer *p)
{
	if (p->watcher)
		atomic_store(&p->watcher->dead, true);
	fence_over(p);
}

/* [worker] Readable, writable, or over. */
static void stream_ready(struct mc_watch *watch, uint32_t revents)
{
	struct shm_peer *p = MC_CONTAINER_OF(watch, struct shm_peer, watch);
	int r;

	if (p->fencing) {
		if (revents & (POLLHUP | POLLERR))
			fencing_over(p);
		return;
	}
	r = stream_serve(p);
	if ((r == -EAGAIN || r >= 0) && p->owes && revents & (POLLHUP | POLLERR))
		r = -ECONNRESET;
	if (r >= 0 || r == -EAGAIN)
		shm_rewatch(p);
	else if (p->why[0] && p->state == SHM_CONNECTING && r != -ECONNRESET)
		shm_peer_break(p, r, p->why);
	else
		shm_peer_break(p, r == -EPIPE ? -ECONNRESET : r,
			       r == -EPROTO ? "the other end sent no message of ours"
					    : "the process at the other end has gone");
	shm_settle(p->shm);
}

/* [worker] A child of it may hold its end of the stream open. */
static void life_over(struct mc_watch *life, uint32_t revents)
{
	struct shm_peer *p = MC_CONTAINER_OF(life, struct shm_peer, life);

	(void)revents;
	if (p->fencing) {
		fencing_over(p);
		return;
	}
	shm_peer_break(p, -ECONNRESET, "its process has ended");
	shm_settle(p->shm);
}

int shm_life_watch(struct shm_peer *p)
{
	const struct mc_host *h = p->shm->host;
	int r;

	p->life.fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	if (p->life.fd < 0)
		return -errno;
	r = h->watch(h, &p->life);
	if (r < 0)
		close_fd(&p->life.fd);
	return r;
}

/* ---- what the host is told ------------------------------------------------------------------------- */

int shm_settle(struct shm *x)
{
	struct shm_peer *p;
	int nr = 0;

	while (x->news) {
		x->news = false;
		DL_FOREACH(x->peers, p) {
			if (!p->news)
				continue;
			/* The host may do what it likes with peers in the call: begin anew. */
			p->news = false;
			x->news = true;
			nr++;
			x->host->peer_ready(x->host, p, p->report, NULL, p->report < 0 ? p->why : NULL);
			break;
		}
	}
	return nr;
}

/* ---- life --------------------------------------------------------------------------------------- */

/* Target: has the copy ended that was under way when the slot was emptied? */
static bool flag_lowered(const struct shm_peer *p)
{
	const struct shm_watcher *w = p->watcher;

	return !w || atomic_load(&w->dead) || !(p->flag_seen & 1) || atomic_load(w->flag) != p->flag_seen;
}

static void timer_fired(struct mc_timer *timer, uint64_t now_ns)
{
	struct shm_peer *p = MC_CONTAINER_OF(timer, struct shm_peer, timer);
	const struct mc_host *h = p->shm->host;

	if (p->fencing && (flag_lowered(p) || (p->shm->stopped && now_ns >= p->fence_until))) {
		fence_over(p);
	} else if (p->fencing) {
		/* Its process alone is watched from then on, where it can be. */
		if (now_ns >= p->fence_until && p->life.fd >= 0 && p->watch.fd >= 0) {
			h->unwatch(h, &p->watch);
			close_fd(&p->watch.fd);
		}
		h->timer_set(h, timer, now_ns + (now_ns < p->fence_until ? FLAG_LOOK_NS : FLAG_REST_NS));
	} else if (p->state == SHM_CONNECTING || p->state == SHM_IDLE) {
		shm_peer_break(p, -ETIMEDOUT, "the other end does not say hello");
		shm_settle(p->shm);
	}
}

static void peer_init(struct shm *x, struct shm_peer *p, const struct mc_peer_args *args)
{
	p->shm = x;
	p->passive = args->passive;
	p->epoch = args->epoch;
	p->in_fd = -1;
	p->watch = (struct mc_watch){.size = sizeof p->watch, .fd = -1, .ready = stream_ready};
	p->life = (struct mc_watch){.size = sizeof p->life, .fd = -1, .events = POLLIN, .ready = life_over};
	p->timer = (struct mc_timer){.size = sizeof p->timer, .fire = timer_fired};
	snprintf(p->name, sizeof p->name, "%s", args->segment ? args->segment : "");
	DL_APPEND(x->peers, p);
	x->host->timer_set(x->host, &p->timer, args->deadline_ns);
}

/* [worker] The host dials the stream. */
int shm_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct shm *x = inst;

	if (x->stopped)
		return -ESHUTDOWN;
	peer_init(x, peer, args);
	return 0;
}

/* [worker] */
int shm_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	int r = shm_peer_open(inst, peer, args);

	((struct shm_peer *)peer)->passive = true;
	return r;
}

/* Takes the descriptor. */
static int stream_begin(struct shm_peer *p, int fd)
{
	const struct mc_host *h = p->shm->host;
	int r;

	p->watch.fd = fd;
	p->watch.events = POLLIN;
	r = h->watch(h, &p->watch);
	if (r < 0) {
		close_fd(&p->watch.fd);
		return r;
	}
	p->state = SHM_CONNECTING;
	if (p->passive)
		r = shm_slot_take(p->shm, NULL, &p->slot, &p->key);
	return r < 0 ? r : shm_hello_send(p);
}

/* [worker] */
void shm_peer_attach(void *inst, void *peer, const struct mc_stream *stream)
{
	struct shm *x = inst;
	struct shm_peer *p = peer;
	int r;

	/* The initiator has fenced what was before; at the target its end may not have been seen yet. */
	if (stream->epoch > p->epoch && !p->fencing) {
		p->state = SHM_BROKEN;
		peer_shut(p);
	}
	if (x->stopped || p->fencing || stream->epoch <= p->fenced || stream->epoch < p->epoch || p->watch.fd >= 0 ||
	    (p->state == SHM_BROKEN && stream->epoch == p->epoch)) {
		if (stream->fd >= 0)
			close(stream->fd);
		return;
	}
	p->epoch = stream->epoch;
	if (stream->fd < 0) {
		shm_peer_break(p, stream->fd, stream->why ? stream->why : "no stream");
	} else {
		r = stream_begin(p, stream->fd);
		if (r < 0)
			shm_peer_break(p, r, "the stream takes no hello");
	}
	shm_settle(x);
}

/* [worker] */
int shm_fence(void *inst, void *peer, uint32_t epoch)
{
	struct shm *x = inst;
	struct shm_peer *p = peer;

	p->fenced = MC_MAX(p->fenced, epoch);
	if (epoch < p->epoch) {
		x->host->fenced(x->host, p, epoch);
		return 0;
	}
	p->state = SHM_BROKEN;
	p->news = false;
	if (p->passive && p->key) {
		shm_slot_empty(x->dev, p->slot);
		p->flag_seen = p->watcher ? atomic_load(p->watcher->flag) : 0;
	}
	shm_end_queued(x, p, -ECONNRESET, MC_SCOPE_PEER);
	if (p->passive && p->key && !flag_lowered(p)) {
		/* The stream stays: its end says that nobody is there to lower the flag. */
		p->fencing = true;
		p->fence_until = x->host->now_ns(x->host) + x->peer_timeout_ns / 10;
		p->watch.events = 0;
		if (p->watch.fd >= 0 && x->host->rewatch(x->host, &p->watch, 0) < 0)
			stream_shut(p);
		x->host->timer_set(x->host, &p->timer, x->host->now_ns(x->host) + FLAG_LOOK_NS);
		return 0;
	}
	fence_over(p);
	return 0;
}

/* [worker] */
void shm_peer_close(void *inst, void *peer)
{
	struct shm *x = inst;
	struct shm_peer *p = peer;

	p->state = SHM_BROKEN;
	peer_shut(p);
	DL_DELETE(x->peers, p);
}
