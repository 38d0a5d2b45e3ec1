/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: memory of peers.  A buffer with a memfd behind it is asked for when it is imported
 * and mapped when the descriptor has come; any other is reached by cross-memory attach, if we may.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "shm.h"

#define UNMAP_LATER (UINT64_C(16) << 20) /* what takes longer than a worker should */

/* ---- initiator --------------------------------------------------------------------------------- */

int shm_wants_send(struct shm_peer *p)
{
	struct shm_remote *r;

	LL_FOREACH(p->wants, r) {
		struct shm_msg m = {.type = SHM_WANT,
				    .want = {.cookie = r->cookie, .slot = r->slot, .key = r->key}};
		int n;

		if (r->asked)
			continue;
		n = shm_send(p, &m, -1);
		if (n < 0)
			return n;
		r->asked = true;
	}
	return 0;
}

static int check_buffer(const struct shm_peer *p, const struct mc_remote_buffer *buf, struct shm_blob *blob)
{
	int r = shm_blob_decode(buf->blob, buf->blob_len, blob);

	if (r < 0)
		return r;
	if (buf->kind && strcmp(buf->kind, "cpu") != 0)
		return -EOPNOTSUPP;
	if (p->state != SHM_READY || p->passive)
		return -ENOTCONN;
	/* Another key: it was registered at another time, or never. */
	return atomic_load_explicit(&p->table[blob->slot], memory_order_acquire) == blob->key ? 0 : -EACCES;
}

/* [worker] */
int shm_mem_import(void *inst, void *priv, void *peer, const struct mc_remote_buffer *buf)
{
	struct shm_remote *remote = priv;
	struct shm *x = inst;
	struct shm_peer *p = peer;
	struct shm_blob blob;
	bool mapped;
	int r = check_buffer(p, buf, &blob);

	if (r < 0)
		return r;
	mapped = blob.flags & SHM_BLOB_MAPPED && x->mode != SHM_ATTACH;
	if (!mapped && !p->attach)
		return x->mode == SHM_MAP ? -EOPNOTSUPP : -EPERM;
	*remote = (struct shm_remote){
		.peer = p, .base = buf->base, .len = buf->len, .slot = blob.slot, .key = blob.key,
		.access = buf->access, .waiting = mapped, .cookie = ++p->next_cookie,
	};
	if (!mapped)
		return 0;
	LL_APPEND(p->wants, remote);
	r = shm_wants_send(p);
	if (r < 0 && r != -EAGAIN) {
		LL_DELETE(p->wants, remote);
		shm_peer_break(p, -ECONNRESET, "the process at the other end has gone");
		return -ENOTCONN;
	}
	shm_rewatch(p);
	return -EINPROGRESS;
}

/* The granularity that offsets in a memfd must have: that of its pages. */
static uint64_t granularity(const struct stat *st)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), huge = (uint64_t)st->st_blksize;

	return huge > page && !(huge & (huge - 1)) && huge <= UINT64_C(1) << 30 ? huge : page;
}

/* Map the buffer as it lies in the memfd: 0 or -errno. */
static int map(struct shm_remote *r, const struct shm_give *g, int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	uint64_t page, begin, end;
	struct stat st;
	void *base;
	int prot = PROT_READ | (r->access & MC_ACCESS_REMOTE_WRITE ? PROT_WRITE : 0);

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Its owner must not be able to cut it short below us. */
	if (g->len != r->len || seals < 0 || !(seals & F_SEAL_SHRINK) || (uint64_t)st.st_size < g->offset + g->len)
		return -EPROTO;
	page = granularity(&st);
	begin = g->offset & ~(page - 1);
	end = (g->offset + g->len + page - 1) & ~(page - 1);
	if (end == begin)
		end += page;
	base = mmap(NULL, end - begin, prot, MAP_SHARED, fd, (off_t)begin);
	if (base == MAP_FAILED)
		return -errno;
	madvise(base, end - begin, MADV_DONTFORK);
	r->map_base = base;
	r->map_len = end - begin;
	r->map = (char *)base + (g->offset - begin);
	mc_gauge_add(r->peer->shm->g_maps, 1);
	return 0;
}

/* Said whatever comes next: attach is slower, and without it the next tier takes the buffer. */
static void cannot_map(const struct shm_peer *p, const struct shm_remote *r, int status)
{
	const struct mc_host *h = p->shm->host;

	h->log(h, MC_LOG_WARN, "peer '%s': its buffer of %llu bytes cannot be mapped: %s; %s", p->name,
	       (unsigned long long)r->len, strerror(-status),
	       p->attach ? "cross-memory attach is used instead" : "the next tier carries what is for it");
}

void shm_given(struct shm_peer *p, const struct shm_give *g, int fd)
{
	struct shm_remote *r = p->wants;
	int status;

	while (r && (r->cookie != g->cookie || !r->asked))
		r = r->next;
	if (r) {
		LL_DELETE(p->wants, r);
		r->waiting = false;
		status = g->status < 0 ? g->status : fd < 0 ? (p->in_lost ? -EMFILE : -EPROTO) : map(r, g, fd);
		if (status < 0)
			cannot_map(p, r, status);
		/* The other way does as well, where it is open. */
		if (status < 0 && p->attach)
			status = 0;
		p->shm->host->imported(p->shm->host, r, status);
	}
	if (fd >= 0)
		close(fd);
}

struct unmapping {
	struct mc_work work;
	void *base;
	uint64_t len;
};

static void unmap_run(struct mc_work *w)
{
	struct unmapping *u = MC_CONTAINER_OF(w, struct unmapping, work);

	munmap(u->base, u->len);
}

static void unmap_done(struct mc_work *w)
{
	free(MC_CONTAINER_OF(w, struct unmapping, work));
}

/* [worker] */
void shm_mem_release(void *inst, void *priv)
{
	struct shm_remote *r = priv;
	struct shm *x = inst;
	struct unmapping *u;

	if (r->waiting)
		LL_DELETE(r->peer->wants, r);
	r->waiting = false;
	if (!r->map)
		return;
	mc_gauge_add(x->g_maps, -1);
	u = r->map_len < UNMAP_LATER ? NULL : calloc(1, sizeof *u);
	if (u) {
		*u = (struct unmapping){.work = {.size = sizeof u->work, .run = unmap_run, .done = unmap_done},
					.base = r->map_base, .len = r->map_len};
		mc_run_lazily(x->host, &u->work);
	} else {
		munmap(r->map_base, r->map_len);
	}
	r->map = NULL;
}

/* ---- target ------------------------------------------------------------------------------------- */

/* [worker] The lock is held while the descriptor is sent: a helper may be closing it. */
int shm_answer(struct shm_peer *p, const struct shm_want *w)
{
	struct shm_device *dev = p->shm->dev;
	struct shm_msg m = {.type = SHM_GIVE, .give = {.cookie = w->cookie, .status = -ENOENT}};
	const struct shm_region *region;
	int fd = -1, r;

	pthread_mutex_lock(&dev->lock);
	region = w->slot < dev->nr_slots ? dev->regions[w->slot] : NULL;
	if (region && region->key == w->key && region->share_fd >= 0) {
		m.give = (struct shm_give){.cookie = w->cookie, .offset = region->share_offset, .len = region->len};
		fd = region->share_fd;
	}
	r = shm_send(p, &m, fd);
	/* More descriptors are under way than we may have: it has to do without. */
	if (r == -ETOOMANYREFS) {
		m.give = (struct shm_give){.cookie = w->cookie, .status = r};
		r = shm_send(p, &m, -1);
	}
	pthread_mutex_unlock(&dev->lock);
	return r;
}
