/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path: a slice is a copy, done when submit returns.  Before it touches a
 * buffer a lane says so in its guard and reads the buffer's key after that; the
 * owner takes the key away first and reads the guards after that.  So one of the
 * two sees the other, without an atomic operation between hosts.  A guard stays
 * over the slices of a burst; flush ends it.
 */
#include "cxl.h"

#include <errno.h>
#include <string.h>

#include "core/util/check.h"

#define NO_SLOT UINT32_MAX
#define STREAM_MIN 2048 /* from here on stores past the caches are faster than writing lines back */

#define READ_PART (64u << 10)

/* ---- buffers of peers ------------------------------------------------------------------------- */

int cxl_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	struct cxl *c = inst;
	const struct cxl_pool *pool = &c->device->pool;
	struct cxl_remote *r = remote;
	struct cxl_ident ident;
	struct cxl_blob b;

	if (cxl_blob_get(buf->blob, buf->blob_len, &pool->g, &b) < 0 || b.base != buf->base || b.len < buf->len)
		return -EPROTO;
	cxl_slot_read(pool, b.slot, &ident);
	if (ident.generation != b.generation || !cxl_slot_holds(pool, b.slot, &ident, b.offset, b.len))
		return -ESTALE;
	*r = (struct cxl_remote){.at = pool->base + b.offset, .base = b.base, .len = buf->len, .key = b.key,
				 .slot = b.slot, .key_idx = b.key_idx};
	return 0;
}

void cxl_mem_release(void *inst, void *remote)
{
	struct cxl *c = inst;

	if (c->guard_remote == remote)
		c->guard_remote = NULL;
}

/* ---- the guard -------------------------------------------------------------------------------- */

static void guard_end(struct cxl *c)
{
	if (c->guard_slot == NO_SLOT)
		return;
	cxl_guard_clear(&c->device->pool, c->device->ledger.slot, c->lane, ++c->guard_seq);
	c->guard_slot = NO_SLOT;
	c->guard_remote = NULL;
}

/* May this buffer be touched until the guard ends? */
static bool guard_begin(struct cxl *c, const struct cxl_remote *r)
{
	const struct cxl_pool *pool = &c->device->pool;

	if (MC_LIKELY(c->guard_remote == r))
		return true;
	if (c->guard_slot != r->slot) {
		cxl_guard_set(pool, c->device->ledger.slot, c->lane, cxl_guard_word(++c->guard_seq, r->slot));
		c->guard_slot = r->slot;
	}
	if (cxl_key_read(pool, r->slot, r->key_idx) != r->key)
		return false;
	c->guard_remote = r;
	return true;
}

/* ---- slices ----------------------------------------------------------------------------------- */

static void copy_in(const struct cxl_cache *cache, uint8_t *to, const void *from, uint64_t len)
{
	uint64_t head = (uintptr_t)to % CXL_LINE, tail = ((uintptr_t)to + len) % CXL_LINE;

	if (MC_UNLIKELY(head))
		cache->drop(to, 1, CXL_CUT);
	if (MC_UNLIKELY(tail))
		cache->drop(to + len - 1, 1, CXL_CUT);
	if (len >= STREAM_MIN) {
		cache->stream(to, from, len, CXL_WRITE);
	} else {
		memcpy(to, from, len);
		cache->write_back(to, len, CXL_WRITE);
	}
	cache->fence(CXL_WRITE);
}

/* In parts: while one is copied the lines of the next are on their way out. */
static void copy_out(const struct cxl_cache *cache, uint8_t *to, const uint8_t *from, uint64_t len)
{
	uint64_t part = MC_MIN(len, (uint64_t)READ_PART), next;

	cache->drop(from, part, CXL_READ);
	for (; len; len -= part, to += part, from += part, part = next) {
		next = MC_MIN(len - part, (uint64_t)READ_PART);
		if (next)
			cache->forget(from + part, next, CXL_READ);
		memcpy(to, from, part);
		if (next)
			cache->settle(CXL_READ);
	}
}

/* 0, or why nothing of the pool may be touched now. */
static int lease_check(struct cxl *c)
{
	if (MC_UNLIKELY(__atomic_load_n(&c->device->ledger.evicted, __ATOMIC_ACQUIRE)))
		return -ENODEV;
	if (MC_LIKELY(mc_lease_left(c->host) && !__atomic_load_n(&c->device->ledger.doubt, __ATOMIC_ACQUIRE))) {
		c->lapsed = false;
		return 0;
	}
	if (!c->lapsed)
		c->host->log(c->host, MC_LOG_WARN, "our lease has lapsed, and others may take us for dead: nothing is read "
			     "from the pool or written to it until the metadata service has renewed it");
	c->lapsed = true;
	return -ENETDOWN;
}

static int slice_check(const struct cxl *c, const struct mc_slice *s, const struct cxl_remote *r)
{
	if (c->stopped)
		return -ESHUTDOWN;
	if (!s->peer || !((const struct cxl_peer *)s->peer)->ready)
		return -ENOTCONN;
	if (s->len > CXL_CHUNK)
		return -EMSGSIZE;
	if (!s->len)
		return 0;
	if (!r || !r->at)
		return -EINVAL;
	return mc_range_inside(r->base, r->len, s->remote_offset, s->len) ? 0 : -EACCES;
}

static void cut_refused(struct cxl *c, const struct mc_slice *s)
{
	mc_counter_add(c->nr_refused, 1);
	if (c->cut_said)
		return;
	c->cut_said = true;
	c->host->log(c->host, MC_LOG_WARN, "a WRITE of %llu bytes at 0x%llx cuts a cache line, and is refused: let both be multiples "
		     "of %u, or, if nobody else writes to that line, say MC_REQUEST_SOLE or transports.cxl.sole=true (said once)",
		     (unsigned long long)s->len, (unsigned long long)s->remote_offset, CXL_LINE);
}

int cxl_submit(void *inst, struct mc_slice *s)
{
	struct cxl *c = inst;
	const struct cxl_remote *r = s->remote;
	const struct cxl_cache *cache = c->device->pool.cache;
	bool write = s->opcode == MC_OP_WRITE;
	int status = slice_check(c, s, r);
	uint8_t *at;

	if (status < 0)
		return status;
	if (!s->len)
		return MC_DONE;
	if (write && ((s->remote_offset | s->len) % CXL_LINE) && !c->sole && !(s->flags & MC_SLICE_SOLE)) {
		cut_refused(c, s);
		return -EINVAL;
	}
	status = lease_check(c);
	if (status < 0)
		return status;
	if (!guard_begin(c, r)) {
		mc_counter_add(c->nr_refused, 1);
		return -EACCES;
	}
	at = (uint8_t *)(uintptr_t)r->at + (s->remote_offset - r->base);
	if (write)
		copy_in(cache, at, s->local, s->len);
	else
		copy_out(cache, s->local, at, s->len);
	mc_counter_add(write ? c->nr_written : c->nr_read, s->len);
	return MC_DONE;
}

void cxl_flush(void *inst)
{
	guard_end(inst);
}

int cxl_progress(void *inst)
{
	guard_end(inst);
	return 0;
}

/* Each slice is over when submit returns. */
int cxl_fence(void *inst, void *peer, uint32_t epoch)
{
	struct cxl *c = inst;

	guard_end(c);
	c->host->fenced(c->host, peer, epoch);
	return 0;
}

/* ---- peers ------------------------------------------------------------------------------------ */

static void wait_drop(struct cxl *c, struct cxl_peer *p)
{
	struct cxl_peer **at = &c->waiting;

	while (*at && *at != p)
		at = &(*at)->next;
	if (*at)
		*at = p->next;
	p->waiting = false;
}

static void hello_send(struct cxl *c, struct cxl_peer *p)
{
	uint8_t hello[CXL_HELLO_LEN];
	int r;

	cxl_hello_put(c->device->pool.g.uuid, hello);
	r = c->host->peer_send(c->host, p, hello, sizeof hello);
	if (r < 0)
		c->host->peer_ready(c->host, p, r, NULL, "the pool's name could not be sent");
}

/* We touch a pool as one of its engines only. */
static void greet(struct cxl *c, struct cxl_peer *p)
{
	struct cxl_ledger *l = &c->device->ledger;
	char why[560];
	int status = 0;

	pthread_mutex_lock(&l->lock);
	if (l->evicted || !l->joined)
		status = l->status;
	snprintf(why, sizeof why, "pool '%s': %s", c->device->pool.path, l->why);
	pthread_mutex_unlock(&l->lock);
	if (status == 0 && !__atomic_load_n(&l->joined, __ATOMIC_ACQUIRE)) {
		p->waiting = true;
		p->next = c->waiting;
		c->waiting = p;
		return;
	}
	if (status == 0 && !mc_lease_left(c->host)) {
		status = -ENETDOWN;
		snprintf(why, sizeof why, "our lease has lapsed");
	}
	if (status < 0)
		c->host->peer_ready(c->host, p, status, NULL, why);
	else
		hello_send(c, p);
}

void cxl_peers_joined(struct mc_work *w)
{
	struct cxl *c = w->user;
	struct cxl_peer *list = c->waiting;

	c->waiting = NULL;
	while (list) {
		struct cxl_peer *p = list;

		list = p->next;
		p->waiting = false;
		greet(c, p);
	}
}

/* No hello came in time, or our own slot in the pool did not. */
static void hello_late(struct mc_timer *t, uint64_t now_ns)
{
	struct cxl_peer *p = t->user;
	struct cxl *c = p->lane;
	const char *why = p->waiting ? "the pool gave us no slot in time" : "the other end does not answer";

	if (p->waiting)
		wait_drop(c, p);
	c->host->peer_ready(c->host, p, -ETIMEDOUT, NULL, why);
}

static void hello_by(struct cxl *c, struct cxl_peer *p, uint64_t deadline_ns)
{
	p->lane = c;
	p->timer = (struct mc_timer){.size = sizeof p->timer, .fire = hello_late, .user = p};
	c->host->timer_set(c->host, &p->timer, deadline_ns);
}

int cxl_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct cxl_peer *p = peer;

	snprintf(p->segment, sizeof p->segment, "%s", args->segment);
	hello_by(inst, p, args->deadline_ns);
	greet(inst, p);
	return 0;
}

int cxl_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct cxl_peer *p = peer;

	p->passive = true;
	snprintf(p->segment, sizeof p->segment, "%s", args->segment);
	hello_by(inst, p, args->deadline_ns);
	return 0;
}

void cxl_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	struct cxl *c = inst;
	struct cxl_peer *p = peer;
	uint8_t uuid[CXL_UUID_LEN];
	char ours[CXL_UUID_TEXT], theirs[CXL_UUID_TEXT], why[200];

	if (p->ready)
		return;
	c->host->timer_set(c->host, &p->timer, 0);
	if (cxl_hello_get(msg, len, uuid) < 0) {
		c->host->peer_ready(c->host, p, -EPROTO, NULL, "what it sent is no hello of a pool");
		return;
	}
	if (p->passive)
		hello_send(c, p);
	if (memcmp(uuid, c->device->pool.g.uuid, CXL_UUID_LEN) != 0) {
		cxl_uuid_text(uuid, theirs);
		cxl_uuid_text(c->device->pool.g.uuid, ours);
		snprintf(why, sizeof why, "it has another pool (%s, ours is %s): both ends must map the same one", theirs, ours);
		c->host->peer_ready(c->host, p, -EXDEV, NULL, why);
		return;
	}
	p->ready = true;
	c->host->peer_ready(c->host, p, 0, NULL, NULL);
}

void cxl_peer_close(void *inst, void *peer)
{
	struct cxl *c = inst;
	struct cxl_peer *p = peer;

	guard_end(c);
	c->host->timer_set(c->host, &p->timer, 0);
	if (p->waiting)
		wait_drop(c, p);
}
