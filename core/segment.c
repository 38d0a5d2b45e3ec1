/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of our own buffers.  Lookups on the data path take no lock: they
 * count themselves in a shard of their thread, read the table's pointer, search,
 * and hold what they found by the buffer's own count.  A writer makes a new
 * table, swaps the pointer and waits until every lookup that may have seen the
 * old one is over (two phases, as in sleepable RCU), then frees it.
 */
#include "segment_impl.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

static atomic_uint next_shard;
static MC_PER_THREAD unsigned my_shard; /* + 1; 0: none yet */

struct reader {
	atomic_uint *count;
};

static struct reader reader_enter(struct mc_local *local)
{
	struct reader r;

	if (!my_shard)
		my_shard = 1 + atomic_fetch_add_explicit(&next_shard, 1, memory_order_relaxed) % LOCAL_SHARDS;
	r.count = &local->shards[my_shard - 1].readers[atomic_load(&local->phase) & 1];
	atomic_fetch_add(r.count, 1);
	return r;
}

static void reader_leave(struct reader r)
{
	atomic_fetch_sub_explicit(r.count, 1, memory_order_release);
}

/* Every lookup that began before is over.  Twice, for a reader may have read the phase, and not yet
 * counted itself, when the writer before us waited. */
static void synchronize(struct mc_local *local)
{
	for (int turn = 0; turn < 2; turn++) {
		unsigned old = atomic_fetch_add(&local->phase, 1) & 1;

		for (size_t i = 0; i < LOCAL_SHARDS; i++)
			while (atomic_load(&local->shards[i].readers[old]))
				sched_yield();
	}
}

/* ---- lookups -------------------------------------------------------------------------------- */

/* How many begin at addr or before. */
static size_t table_upto(const struct local_table *t, uint64_t addr)
{
	size_t lo = 0, hi = t->nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->bufs[mid]->base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct mc_local_buf *table_find(const struct local_table *t, uint64_t addr, uint64_t len)
{
	size_t n = table_upto(t, addr);

	if (!n || !mc_range_inside(t->bufs[n - 1]->base, t->bufs[n - 1]->len, addr, len))
		return NULL;
	return t->bufs[n - 1];
}

void mc_local_hold(struct mc_local_buf *buf)
{
	__atomic_add_fetch(&buf->users, 1, __ATOMIC_SEQ_CST);
}

void mc_local_put(struct mc_local_buf *buf)
{
	struct mc_local *local = buf->local;

	/* The buffer may be gone after this; the table is not. */
	if (__atomic_sub_fetch(&buf->users, 1, __ATOMIC_SEQ_CST) > 0)
		return;
	if (MC_LIKELY(!atomic_load(&local->waiters)))
		return;
	pthread_mutex_lock(&local->lock);
	pthread_cond_broadcast(&local->changed);
	pthread_mutex_unlock(&local->lock);
}

struct mc_local_buf *mc_local_find_range(struct mc_engine *engine, uint64_t offset, uint64_t len,
					 uint32_t access)
{
	struct mc_local *local = engine->local;
	struct reader r = reader_enter(local);
	struct mc_local_buf *buf = table_find(atomic_load(&local->table), offset, len);

	if (buf && (buf->access & access) != access)
		buf = NULL;
	if (buf)
		mc_local_hold(buf);
	reader_leave(r);
	/* After the reader's end: the put may want the lock, whose holder may wait for readers. */
	if (buf && MC_UNLIKELY(__atomic_load_n(&buf->closing, __ATOMIC_SEQ_CST))) {
		mc_local_put(buf);
		buf = NULL;
	}
	return buf;
}

struct mc_local_buf *mc_local_find(struct mc_engine *engine, const void *addr, uint64_t len)
{
	return mc_local_find_range(engine, (uint64_t)(uintptr_t)addr, len, 0);
}

int mc_local_wait_idle(struct mc_local_buf *buf, uint64_t deadline_ns)
{
	struct mc_local *local = buf->local;
	struct timespec until = mc_wait_until(deadline_ns);
	int r = 0;

	pthread_mutex_lock(&local->lock);
	atomic_fetch_add(&local->waiters, 1);
	while (__atomic_load_n(&buf->users, __ATOMIC_SEQ_CST) && r == 0)
		r = pthread_cond_timedwait(&local->changed, &local->lock, &until);
	if (!__atomic_load_n(&buf->users, __ATOMIC_SEQ_CST))
		r = 0;
	atomic_fetch_sub(&local->waiters, 1);
	pthread_mutex_unlock(&local->lock);
	return -r;
}

/* ---- changes -------------------------------------------------------------------------------- */

static struct local_table *table_new(size_t nr)
{
	return calloc(1, sizeof(struct local_table) + nr * sizeof(struct mc_local_buf *));
}

int mc_local_publish(struct mc_local *local, struct mc_local_buf **bufs, size_t nr)
{
	struct local_table *old = atomic_load(&local->table);
	struct local_table *t = table_new(old->nr + nr);
	size_t at = table_upto(old, bufs[0]->base);
	struct mc_local_buf **by_id =
		realloc(local->by_id, (local->nr_by_id + nr) * sizeof(struct mc_local_buf *));

	if (by_id)
		local->by_id = by_id;
	if (!t || !by_id) {
		free(t);
		return -ENOMEM;
	}
	/* They are one range: nothing that is there lies between them. */
	memcpy(t->bufs, old->bufs, at * sizeof(struct mc_local_buf *));
	memcpy(t->bufs + at, bufs, nr * sizeof(struct mc_local_buf *));
	memcpy(t->bufs + at + nr, old->bufs + at, (old->nr - at) * sizeof(struct mc_local_buf *));
	t->nr = old->nr + nr;
	for (size_t i = 0; i < nr; i++) {
		bufs[i]->id = local->next_id++;
		if (bufs[i]->access)
			by_id[local->nr_by_id++] = bufs[i];
		local->nr_bytes += bufs[i]->len;
	}
	local->nr_bufs += nr;
	atomic_store(&local->table, t);
	local->version++;
	synchronize(local);
	free(old);
	return 0;
}

/* Where a buffer is among those that peers may see. */
static size_t by_id_find(const struct mc_local *local, uint32_t id)
{
	size_t lo = 0, hi = local->nr_by_id;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (local->by_id[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Take nr pointers at `at` out of a list of len. */
static void cut(struct mc_local_buf **list, size_t *len, size_t at, size_t nr)
{
	memmove(list + at, list + at + nr, (*len - at - nr) * sizeof(struct mc_local_buf *));
	*len -= nr;
}

/* What was published together is together in both lists. */
void mc_local_withdraw(struct mc_local *local, struct mc_local_buf **bufs, size_t nr)
{
	static struct local_table empty;
	struct local_table *old = atomic_load(&local->table);
	struct local_table *t = table_new(old->nr);

	for (size_t i = 0; i < nr; i++) {
		__atomic_store_n(&bufs[i]->closing, true, __ATOMIC_SEQ_CST);
		local->nr_bytes -= bufs[i]->len;
	}
	local->nr_bufs -= nr;
	if (bufs[0]->access)
		cut(local->by_id, &local->nr_by_id, by_id_find(local, bufs[0]->id), nr);
	if (t) {
		memcpy(t->bufs, old->bufs, old->nr * sizeof(struct mc_local_buf *));
		t->nr = old->nr;
	} else {
		/* Taking away may not fail: squeeze the old table while lookups see an empty one.  They
		 * fail for these moments, as requests do on a host without memory. */
		t = old;
		atomic_store(&local->table, &empty);
		synchronize(local);
	}
	cut(t->bufs, &t->nr, table_upto(t, bufs[0]->base) - 1, nr);
	atomic_store(&local->table, t);
	local->version++;
	synchronize(local);
	if (t != old)
		free(old);
}

uint32_t mc_local_each(struct mc_engine *engine, void (*f)(const struct mc_local_buf *buf, void *arg),
		       void *arg)
{
	struct mc_local *local = engine->local;
	uint32_t next_id;

	pthread_mutex_lock(&local->lock);
	for (size_t i = 0; i < local->nr_by_id; i++)
		f(local->by_id[i], arg);
	next_id = local->next_id;
	pthread_mutex_unlock(&local->lock);
	return next_id;
}

/* ---- life ----------------------------------------------------------------------------------- */

int mc_local_new(struct mc_engine *engine)
{
	struct mc_local *local = aligned_alloc(MC_CACHE_LINE, mc_round_up(sizeof *local, MC_CACHE_LINE));
	struct local_table *t = table_new(0);

	if (!local || !t) {
		free(local);
		free(t);
		return -ENOMEM;
	}
	memset(local, 0, sizeof *local);
	local->engine = engine;
	atomic_init(&local->table, t);
	pthread_mutex_init(&local->lock, NULL);
	pthread_mutex_init(&local->alloc_lock, NULL);
	mc_cond_init(&local->changed);
	local->next_id = 1;
	engine->local = local;
	return 0;
}

void mc_local_free(struct mc_engine *engine)
{
	struct mc_local *local = engine->local;

	if (!local)
		return;
	free(atomic_load(&local->table));
	free(local->by_id);
	free(local->regs);
	pthread_cond_destroy(&local->changed);
	pthread_mutex_destroy(&local->alloc_lock);
	pthread_mutex_destroy(&local->lock);
	free(local);
	engine->local = NULL;
}
