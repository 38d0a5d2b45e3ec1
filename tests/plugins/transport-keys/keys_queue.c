/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The send queue of one lane of `keys` (see keys.h): slices wait in order, each
 * until its time has come, are carried out in progress or on a helper thread,
 * and complete.  Small writes complete before the target can see them.
 */
#include "keys.h"

#include <core/util/check.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- moving bytes ------------------------------------------------------------------------------- */

static int copy_across(pid_t pid, void *local, uint64_t remote, uint64_t len, bool write_it)
{
	while (len) {
		struct iovec l = { local, len }, r = { (void *)(uintptr_t)remote, len };
		ssize_t n = write_it ? process_vm_writev(pid, &l, 1, &r, 1, 0) :
				       process_vm_readv(pid, &l, 1, &r, 1, 0);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		local = (char *)local + n;
		remote += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int copy_bytes(pid_t pid, void *local, uint64_t remote, uint64_t len, bool write_it)
{
	if (pid != getpid())
		return copy_across(pid, local, remote, len, write_it);
	if (write_it)
		memcpy((void *)(uintptr_t)remote, local, len);
	else
		memcpy(local, (const void *)(uintptr_t)remote, len);
	return 0;
}

/* Both counts stand while bytes move: the target's unregistering and fence look at them after they
 * have dropped the key or set the state, so either they see us or we see that. */
static int enter(struct keys_peer *p)
{
	atomic_fetch_add(&p->queue->busy, 1);
	atomic_fetch_add(&p->device->users, 1);
	if (p->dead || atomic_load(&p->queue->state) == QUEUE_ERROR)
		return -ECONNRESET;
	return 0;
}

static void leave(struct keys_peer *p)
{
	atomic_fetch_sub(&p->device->users, 1);
	atomic_fetch_sub(&p->queue->busy, 1);
}

/* What the target's device does with a key: 0 and the address that its CPU uses, or -EACCES. */
static int check_key(const struct keys_peer *p, uint32_t idx, uint64_t key, uint64_t offset, uint64_t len,
		     uint32_t access, uint64_t *ret_alias)
{
	struct key_entry *e = &p->device->keys[idx];

	if (atomic_load(&e->key) != key || (atomic_load(&e->access) & access) != access ||
	    !mc_range_inside(atomic_load(&e->base), atomic_load(&e->len), offset, len))
		return -EACCES;
	*ret_alias = atomic_load(&e->alias) + (offset - atomic_load(&e->base));
	return 0;
}

/* Inside enter and leave. */
static int place_delayed(struct keys_peer *p)
{
	int r = 0;

	for (unsigned i = 0; i < p->nr_delayed && r == 0; i++) {
		struct delayed *d = &p->delayed[i];

		r = copy_bytes(p->pid, d->bytes, d->remote, d->len, true);
	}
	p->nr_delayed = 0;
	return r;
}

static int delay_write(struct keys_peer *p, const void *from, uint64_t remote, uint64_t len)
{
	int r = p->nr_delayed == NR_DELAYED ? place_delayed(p) : 0;
	struct delayed *d = &p->delayed[p->nr_delayed];

	if (r < 0)
		return r;
	d->remote = remote;
	d->len = (uint32_t)len;
	memcpy(d->bytes, from, len);
	p->nr_delayed++;
	return 0;
}

/* Our own side of a slice: the device knows memory by its registration. */
static int local_address(const struct mc_slice *s, unsigned char **ret_addr)
{
	const struct keys_region *r = s->region;

	if (!mc_range_inside(r->base, r->len, (uintptr_t)s->local, s->len))
		return -EFAULT;
	*ret_addr = r->alias + ((uintptr_t)s->local - r->base);
	return 0;
}

/* Carry out one slice, on the worker, or on a helper if it is large (then it is never delayed). */
static int move(struct keys *k, struct keys_peer *p, const struct mc_slice *s, bool on_worker)
{
	const struct keys_remote *rem = s->remote;
	uint32_t access = s->opcode == MC_OP_WRITE ? MC_ACCESS_REMOTE_WRITE : MC_ACCESS_REMOTE_READ;
	unsigned char *local = NULL;
	uint64_t remote = 0;
	int r = enter(p);

	if (r == 0 && on_worker && (s->flags & MC_SLICE_FLUSH || s->opcode == MC_OP_READ))
		r = place_delayed(p);
	if (r == 0 && s->len) {
		r = local_address(s, &local);
		if (r == 0)
			r = check_key(p, rem->idx, rem->key, s->remote_offset, s->len, access, &remote);
		if (r == 0 && s->opcode == MC_OP_WRITE && k->delay_writes && on_worker && s->len <= DELAY_MAX)
			r = delay_write(p, local, remote, s->len);
		else if (r == 0)
			r = copy_bytes(p->pid, local, remote, s->len, s->opcode == MC_OP_WRITE);
	}
	leave(p);
	return r;
}

/* ---- completions ------------------------------------------------------------------------------------ */

static void count_slice(struct keys *k, const struct mc_slice *s)
{
	if (s->flags & MC_SLICE_FLUSH)
		mc_counter_add(k->nr_flushes, 1);
	else
		mc_counter_add(s->opcode == MC_OP_READ ? k->nr_reads : k->nr_writes, 1);
	mc_counter_add(k->nr_bytes, s->len);
}

static int scope_of(int status)
{
	return status == 0 ? MC_SCOPE_NONE : status == -EFAULT || status == -ECANCELED ? MC_SCOPE_REQUEST :
	       MC_SCOPE_PEER;
}

/* The queue goes into the error state, as a QP does after a remote access error, and says so. */
static void queue_broke(struct keys *k, struct keys_peer *p, int status)
{
	char why[96];

	if (p->dead || !p->queue)
		return;
	p->dead = true;
	p->nr_delayed = 0;
	atomic_store(&p->queue->state, QUEUE_ERROR);
	snprintf(why, sizeof why, "%s: queue of the peer went into the error state: %s",
		 k->host->instance, strerror(-status));
	if (p->ready)
		k->host->peer_ready(k->host, p, status, NULL, why);
	p->ready = false;
}

static void finish(struct keys *k, struct mc_slice *s, int status, int scope)
{
	struct keys_peer *p = s->peer;
	bool room;

	p->nr_inflight--;
	room = p->want_room && p->nr_inflight <= k->depth / 2;
	if (room)
		p->want_room = false;
	if (status == 0)
		count_slice(k, s);
	else if (status == -ESRCH)
		status = -ECONNRESET;
	if (scope == MC_SCOPE_PEER)
		queue_broke(k, p, status);
	k->host->complete(k->host, s, status, scope, status ? 0 : s->len);
	if (room)
		k->host->peer_writable(k->host, p);
}

/* ---- helper threads ----------------------------------------------------------------------------------- */

static void offload_run(struct mc_work *w)
{
	struct offload *o = w->user;

	o->status = move(o->keys, o->ks->slice->peer, o->ks->slice, false);
}

static void offload_done(struct mc_work *w)
{
	struct offload *o = w->user;
	struct keys *k = o->keys;
	struct mc_slice *s = o->ks->slice;
	struct keys_peer *p = s->peer;

	o->ks = NULL;
	p->nr_offloaded--;
	mc_counter_add(k->nr_offloads, 1);
	if (k->any_thread && o->status == 0) {
		p->nr_inflight--;
		count_slice(k, s);
		k->host->complete_any(k->host, s, 0, MC_SCOPE_NONE, s->len);
	} else {
		finish(k, s, o->status, scope_of(o->status));
	}
	if (p->fence_epoch && !p->nr_offloaded)
		keys_fence_answer(k, p);
}

static bool offload(struct keys *k, struct keys_slice *ks)
{
	struct keys_peer *p = ks->slice->peer;

	if ((int64_t)ks->slice->len < k->offload_from || p->nr_delayed)
		return false;
	for (int i = 0; i < NR_OFFLOAD; i++) {
		struct offload *o = &k->offload[i];

		if (o->ks)
			continue;
		*o = (struct offload){ .keys = k, .ks = ks };
		o->work = (struct mc_work){ .size = sizeof o->work, .run = offload_run,
					    .done = offload_done, .user = o };
		ks->offloaded = true;
		p->nr_offloaded++;
		k->host->run_blocking(k->host, &o->work);
		return true;
	}
	return false;
}

/* ---- the queue -------------------------------------------------------------------------------------------- */

static uint64_t due_time(struct keys *k, uint64_t len)
{
	uint64_t now;

	if (!k->latency_ns && !k->bandwidth)
		return 0;
	now = k->host->now_ns(k->host);
	k->busy_until_ns = MC_MAX(k->busy_until_ns, now);
	if (k->bandwidth)
		k->busy_until_ns += (uint64_t)((double)len * 1e9 / (double)k->bandwidth);
	return k->busy_until_ns + (uint64_t)k->latency_ns;
}

static void enqueue(struct keys *k, struct mc_slice *s, int status, int scope)
{
	struct keys_slice *ks = s->priv;

	*ks = (struct keys_slice){ .slice = s, .status = status, .scope = scope,
				   .due_ns = due_time(k, s->len) };
	*k->tail = ks;
	k->tail = &ks->next;
	k->nr_queued++;
	((struct keys_peer *)s->peer)->nr_inflight++;
}

static bool aligned(const struct keys *k, const struct mc_slice *s)
{
	return k->alignment <= 1 ||
	       !(((uintptr_t)s->local | s->remote_offset | s->len) % k->alignment);
}

int keys_submit(void *inst, struct mc_slice *s)
{
	struct keys *k = inst;
	struct keys_peer *p = s->peer;
	bool fails = ++k->nr_submits == (uint64_t)k->fail_nth;

	if (k->stopping)
		return -ESHUTDOWN;
	if (p->dead || !p->ready)
		return -ENOTCONN;
	if (s->len > k->max_slice)
		return -EMSGSIZE;
	if (!aligned(k, s))
		return -EINVAL;
	if (p->nr_inflight >= k->depth) {
		p->want_room = true;
		k->nr_submits--;
		return -EAGAIN;
	}
	/* Inline: nothing is ahead of it, nothing slows it down, and it works. */
	if (!fails && s->opcode == MC_OP_WRITE && s->len && s->len <= k->max_inline && !k->head &&
	    !p->nr_offloaded && !k->latency_ns && !k->bandwidth && move(k, p, s, true) == 0) {
		count_slice(k, s);
		return MC_DONE;
	}
	enqueue(k, s, fails ? -EIO : 0, fails ? k->fail_scope : MC_SCOPE_NONE);
	return 0;
}

static struct keys_slice *pop(struct keys *k)
{
	struct keys_slice *ks = k->head;

	k->head = ks->next;
	if (!k->head)
		k->tail = &k->head;
	k->nr_queued--;
	return ks;
}

static bool head_is_due(const struct keys *k)
{
	return k->head && (k->stopping || !k->head->due_ns || k->head->status == -ECANCELED ||
			   k->head->due_ns <= k->host->now_ns(k->host));
}

static void carry_out(struct keys *k, struct keys_slice *ks)
{
	struct mc_slice *s = ks->slice;
	int status = ks->status, scope = ks->scope;

	if (status == 0 && k->stopping) {
		status = -ECANCELED;
		scope = MC_SCOPE_REQUEST;
	}
	if (status == 0) {
		if (offload(k, ks))
			return;
		status = move(k, s->peer, s, true);
		scope = scope_of(status);
	}
	finish(k, s, status, scope);
}

int keys_progress(void *inst)
{
	struct keys *k = inst;
	int n = 0;

	while (n < 32 && head_is_due(k)) {
		carry_out(k, pop(k));
		n++;
	}
	return n;
}

static void ring(struct keys *k)
{
	if (write(k->doorbell_fd, &(uint64_t){ 1 }, 8) < 0)
		k->host->log(k->host, MC_LOG_DEBUG, "doorbell: %s", strerror(errno));
}

void keys_flush(void *inst)
{
	struct keys *k = inst;

	if (k->head)
		ring(k);
}

/* The doorbell was rung at flush; what is due later needs a timer. */
int keys_arm(void *inst)
{
	struct keys *k = inst;

	if (head_is_due(k))
		return -EBUSY;
	k->host->timer_set(k->host, &k->due_timer, k->head ? k->head->due_ns : 0);
	return 0;
}

static void on_due(struct mc_timer *t, uint64_t now_ns)
{
	keys_progress(t->user);
}

static void on_doorbell(struct mc_watch *w, uint32_t revents)
{
	uint64_t n;

	if (read(w->fd, &n, sizeof n) == (ssize_t)sizeof n)
		keys_progress(w->user);
}

int keys_cancel(void *inst, struct mc_slice *s)
{
	struct keys_slice *ks = s->priv;

	if (ks->offloaded)
		return -EALREADY;
	ks->status = -ECANCELED;
	ks->scope = MC_SCOPE_REQUEST;
	ring(inst);
	return 0;
}

void keys_queue_fail(struct keys *k, struct keys_peer *p, uint32_t epoch)
{
	struct keys_slice **q = &k->head, *ks, *dead = NULL, **dead_tail = &dead;

	while ((ks = *q)) {
		if (ks->slice->peer != p || ks->slice->epoch > epoch) {
			q = &ks->next;
			continue;
		}
		*q = ks->next;
		k->nr_queued--;
		ks->next = NULL;
		*dead_tail = ks;
		dead_tail = &ks->next;
	}
	k->tail = q;
	/* The queue is whole again before the host may submit from inside a completion. */
	while ((ks = dead)) {
		dead = ks->next;
		finish(k, ks->slice, -ECONNRESET, MC_SCOPE_PEER);
	}
}

int keys_queue_init(struct keys *k)
{
	int r;

	k->tail = &k->head;
	k->due_timer = (struct mc_timer){ .size = sizeof k->due_timer, .fire = on_due, .user = k };
	k->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (k->doorbell_fd < 0)
		return -errno;
	k->doorbell_watch = (struct mc_watch){ .size = sizeof k->doorbell_watch, .fd = k->doorbell_fd,
					       .events = POLLIN, .ready = on_doorbell, .user = k };
	r = k->host->watch(k->host, &k->doorbell_watch);
	if (r < 0)
		close(k->doorbell_fd);
	return r;
}

void keys_queue_fini(struct keys *k)
{
	k->host->timer_set(k->host, &k->due_timer, 0);
	k->host->unwatch(k->host, &k->doorbell_watch);
	close(k->doorbell_fd);
}
