/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers and remote buffers of `keys` (see keys.h).  Handshake: the initiator
 * sends HELLO with the descriptor of the queue page, the target maps it through
 * /proc and answers with the one of its device page.  Fence: either end sets the
 * queue's state; the target's then waits for copies under way.
 */
#include "keys.h"

#include <core/util/bytes.h>
#include <core/util/check.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MSG_HELLO = 1, MSG_ACK = 2 };

/* ---- mapping the other end's page ---------------------------------------------------------------- */

static void job_run(struct mc_work *w)
{
	struct map_job *j = w->user;
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%u/fd/%u", j->pid, j->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		j->status = -errno;
		return;
	}
	j->map = mmap(NULL, j->len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (j->map == MAP_FAILED) {
		j->status = -errno;
		j->map = NULL;
	}
	close(fd);
}

static int send_fd(struct keys *k, struct keys_peer *p, uint32_t type, int fd)
{
	unsigned char m[MSG_LEN] = { 0 };

	mc_put32(m, type);
	mc_put32(m + 4, (uint32_t)getpid());
	mc_put32(m + 8, (uint32_t)fd);
	return k->host->peer_send(k->host, p, m, sizeof m);
}

static void peer_up(struct keys *k, struct keys_peer *p)
{
	p->ready = true;
	if (!p->passive)
		k->host->timer_set(k->host, &p->timer, 0);
	k->host->peer_ready(k->host, p, 0, NULL, NULL);
}

static void peer_fails(struct keys *k, struct keys_peer *p, int status, const char *what)
{
	char why[160];

	p->dead = true;
	snprintf(why, sizeof why, "%s: %s: %s", k->host->instance, what, strerror(-status));
	k->host->peer_ready(k->host, p, status, NULL, why);
}

static void job_done(struct mc_work *w)
{
	struct map_job *j = w->user;
	struct keys_peer *p = j->peer;
	struct keys *k = j->keys;
	int r = j->status;

	if (!p) {
		if (j->map)
			munmap(j->map, j->len);
		free(j);
		return;
	}
	p->job = NULL;
	if (p->passive)
		p->queue = j->map;
	else
		p->device = j->map;
	free(j);
	if (p->passive && p->dead && p->queue)
		atomic_store(&p->queue->state, QUEUE_ERROR); /* fenced before it was mapped */
	if (p->dead)
		return;
	if (r == 0 && p->passive)
		r = send_fd(k, p, MSG_ACK, k->lane0->device_fd);
	if (r < 0)
		peer_fails(k, p, r, "cannot map the page of the other end; are both on one host and of one user?");
	else
		peer_up(k, p);
}

static int job_start(struct keys *k, struct keys_peer *p, uint32_t pid, uint32_t fd)
{
	struct map_job *j = calloc(1, sizeof *j);

	if (!j)
		return -ENOMEM;
	j->keys = k;
	j->peer = p;
	j->pid = pid;
	j->fd = fd;
	j->len = p->passive ? sizeof(struct queue_page) : sizeof(struct device_page);
	j->work = (struct mc_work){ .size = sizeof j->work, .run = job_run, .done = job_done, .user = j };
	p->job = j;
	k->host->run_blocking(k->host, &j->work);
	return 0;
}

/* ---- operations ---------------------------------------------------------------------------------------- */

static void look_again(struct mc_timer *t, uint64_t now_ns)
{
	struct keys_peer *p = t->user;

	if (!p->passive && !p->ready && !p->dead)
		peer_fails(p->keys, p, -ETIMEDOUT, "the other end does not answer the handshake");
	else
		keys_fence_answer(p->keys, p);
}

static void peer_init(struct keys *k, struct keys_peer *p, bool passive)
{
	p->keys = k;
	p->passive = passive;
	p->fd = -1;
	p->timer = (struct mc_timer){ .size = sizeof p->timer, .fire = look_again, .user = p };
}

/* What a closed peer had mapped; nobody waits for its end. */
struct unmap_job {
	struct mc_work work;
	struct queue_page *queue;
	struct device_page *device;
};

static void unmap_run(struct mc_work *w)
{
	struct unmap_job *j = w->user;

	if (j->queue)
		munmap(j->queue, sizeof *j->queue);
	if (j->device)
		munmap(j->device, sizeof *j->device);
}

static void unmap_done(struct mc_work *w)
{
	free(w->user);
}

static void unmap_pages(struct keys_peer *p)
{
	struct unmap_job *j = calloc(1, sizeof *j), here;

	if (!j)
		j = &here;
	j->work = (struct mc_work){ .size = sizeof j->work, .run = unmap_run, .done = unmap_done, .user = j };
	j->queue = p->queue;
	j->device = p->device;
	if (j == &here)
		unmap_run(&j->work);
	else
		mc_run_lazily(p->keys->host, &j->work);
}

static void peer_fini(struct keys_peer *p)
{
	unmap_pages(p);
	if (p->fd >= 0)
		close(p->fd);
	free(p->delayed);
}

int keys_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct keys *k = inst;
	struct keys_peer *p = peer;
	void *map;
	int r;

	peer_init(k, p, false);
	p->delayed = calloc(NR_DELAYED, sizeof *p->delayed);
	p->fd = memfd_create("mooncake-keys-queue", MFD_CLOEXEC);
	if (!p->delayed || p->fd < 0 || ftruncate(p->fd, sizeof *p->queue) < 0) {
		peer_fini(p);
		return -ENOMEM;
	}
	map = mmap(NULL, sizeof *p->queue, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (map == MAP_FAILED) {
		peer_fini(p);
		return -ENOMEM;
	}
	p->queue = map;
	r = send_fd(k, p, MSG_HELLO, p->fd);
	if (r < 0)
		peer_fini(p);
	else
		k->host->timer_set(k->host, &p->timer, args->deadline_ns);
	return r;
}

int keys_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	peer_init(inst, peer, true);
	return 0;
}

void keys_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	struct keys *k = inst;
	struct keys_peer *p = peer;
	uint32_t want = p->passive ? MSG_HELLO : MSG_ACK;
	int r;

	if (p->dead || p->ready || p->job)
		return;
	if (len != MSG_LEN || mc_get32(msg) != want) {
		peer_fails(k, p, -EPROTO, "handshake message of a wrong form");
		return;
	}
	p->pid = (pid_t)mc_get32((const char *)msg + 4);
	r = job_start(k, p, mc_get32((const char *)msg + 4), mc_get32((const char *)msg + 8));
	if (r < 0)
		peer_fails(k, p, r, "no memory");
}

void keys_peer_close(void *inst, void *peer)
{
	struct keys *k = inst;
	struct keys_peer *p = peer;

	k->host->timer_set(k->host, &p->timer, 0);
	if (p->job)
		p->job->peer = NULL;
	if (p->queue)
		atomic_store(&p->queue->state, QUEUE_ERROR);
	peer_fini(p);
}

void keys_fence_answer(struct keys *k, struct keys_peer *p)
{
	uint32_t epoch = p->fence_epoch;

	if (!epoch)
		return;
	/* A dead process copies no more, whatever count it left behind. */
	if (p->passive && p->queue && atomic_load(&p->queue->busy) &&
	    !(kill(p->pid, 0) < 0 && errno == ESRCH)) {
		k->host->timer_set(k->host, &p->timer, k->host->now_ns(k->host) + MC_MSEC);
		return;
	}
	p->fence_epoch = 0;
	mc_counter_add(k->nr_fences, 1);
	k->host->fenced(k->host, p, epoch);
}

int keys_fence(void *inst, void *peer, uint32_t epoch)
{
	struct keys *k = inst;
	struct keys_peer *p = peer;

	p->dead = true;
	p->ready = false;
	p->nr_delayed = 0;
	if (p->queue)
		atomic_store(&p->queue->state, QUEUE_ERROR);
	if (!p->passive)
		keys_queue_fail(k, p, epoch);
	p->fence_epoch = epoch;
	if (!p->nr_offloaded)
		keys_fence_answer(k, p);
	return 0;
}

/* ---- remote buffers --------------------------------------------------------------------------------------- */

static void import_run(struct mc_work *w)
{
	struct keys *k = w->user;
	struct keys_remote *r;

	k->import_posted = false;
	while ((r = k->imports)) {
		k->imports = r->next;
		r->waiting = false;
		k->host->imported(k->host, r, 0);
	}
}

void keys_peer_init(struct keys *k)
{
	k->import_work = (struct mc_work){ .size = sizeof k->import_work, .run = import_run, .user = k };
}

int keys_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	struct keys *k = inst;
	struct keys_remote *r = remote;

	if (buf->blob_len != BLOB_LEN || mc_get32((const char *)buf->blob + 4) >= NR_KEYS)
		return -EPROTO;
	r->peer = peer;
	r->idx = mc_get32((const char *)buf->blob + 4);
	r->key = mc_get64((const char *)buf->blob + 8);
	r->waiting = true;
	r->next = k->imports;
	k->imports = r;
	if (!k->import_posted)
		k->host->post(k->host, &k->import_work);
	k->import_posted = true;
	return -EINPROGRESS;
}

void keys_release(void *inst, void *remote)
{
	struct keys *k = inst;
	struct keys_remote **p = &k->imports, *r = remote;

	if (!r->waiting)
		return;
	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
}
