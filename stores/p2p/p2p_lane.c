/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane: reads the shards that were granted, in groups of pieces of which several are under way, and hashes each
 * group when it has come, while its bytes are in the caches and the next ones are on the wire.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "p2p_get.h"

#define WINDOW 8
#define GROUP 64               /* pieces */
#define SLOW_NS (500 * MC_MSEC) /* a group that takes longer: fewer under way */
#define FAST_NS (100 * MC_MSEC)
#define READ_NS (20 * MC_SEC)  /* a group's deadline */
#define OVERTAKE_MIN_NS (2 * MC_SEC) /* a shard that would come sooner from elsewhere is left alone for so long, */
#define OVERTAKE 4                   /* and if not even so many of the usual time are left of it, */
#define OVERTAKE_NS (600 * MC_SEC)   /* or so long, where none has come yet */
#define SLOW_PIECE (64u << 10)        /* is taken to have come, where nothing has */
#define LOOK_NS (250 * MC_MSEC)
#define BAD_MAX 3              /* shards of a source that may be read again because they did not verify */

struct group {
	struct mc_batch *batch;
	uint64_t since_ns, bytes;
	uint32_t nr;
	struct mc_p2p_piece pieces[GROUP];
};

struct lane {
	struct mc_p2p_get *get;
	uint32_t idx;
	uint32_t window;  /* groups that may be under way, adapted to what the wire takes */
	uint64_t group_max; /* bytes of one, where a deadline was missed: less, until they are fast again */
	bool overtaken;  /* the last shard was given up, for it comes sooner from elsewhere */
	struct group groups[WINDOW];
};

/* A shard on its way through a lane. */
struct reading {
	struct get_task task;
	uint64_t pos, end, group_max;
	uint64_t since_ns, looked_ns;
	uint64_t len, got; /* bytes of it, and those that have come */
	uint32_t first, nr; /* groups under way */
	struct p2p_rate rate;
	struct mc_p2p_hasher hasher;
};

/* With the lock.  At the rate of so far, would a source that is not as slow have given it several times over? */
static bool is_overtaken(const struct mc_p2p_get *g, const struct reading *r)
{
	uint64_t took = mc_p2p_now() - r->since_ns, cap = g->store->rate_get.rate;
	double left = (double)(r->len - r->got), usual = (double)g->shard_ns * OVERTAKE;

	if (took < OVERTAKE_MIN_NS)
		return false;
	if (g->shard_ns == 0)
		usual = OVERTAKE_NS;
	if (cap)
		usual = MC_MAX(usual, left * OVERTAKE * MC_SEC / (double)cap);
	return (double)took * left / (double)MC_MAX(r->got, (uint64_t)SLOW_PIECE) > MC_MAX(usual, (double)OVERTAKE_MIN_NS) &&
	       mc_p2p_pick_elsewhere(g->pick, r->task.source->idx, r->task.shard);
}

/* With the lock: it is not to be read on. */
static bool is_vain(struct lane *l, const struct reading *r)
{
	const struct mc_p2p_get *g = l->get;

	if (!g->over && !r->task.source->dropped && is_overtaken(g, r))
		l->overtaken = true;
	return g->over || r->task.source->dropped || l->overtaken;
}

static bool is_over(struct lane *l, struct reading *r)
{
	bool over;

	pthread_mutex_lock(&l->get->lock);
	over = is_vain(l, r);
	pthread_mutex_unlock(&l->get->lock);
	r->looked_ns = mc_p2p_now();
	return over;
}

/* Sleep, unless it is over. */
static bool pause_ns(struct lane *l, const struct reading *r, uint64_t span_ns)
{
	uint64_t now = mc_p2p_now(), until = now + span_ns;
	struct mc_p2p_get *g = l->get;
	bool over;

	pthread_mutex_lock(&g->lock);
	while (!(over = is_vain(l, r)) && (now = mc_p2p_now()) < until)
		mc_p2p_cond_until(&g->cond, &g->lock, MC_MIN(until, now + LOOK_NS));
	pthread_mutex_unlock(&g->lock);
	return !over;
}

/* Both caps: the source's for this shard, and ours for all. */
static bool may_move(struct lane *l, struct reading *r, uint64_t bytes)
{
	uint64_t a = mc_p2p_rate_take(&r->rate, bytes), b = mc_p2p_rate_take(&l->get->store->rate_get, bytes);

	return MC_MAX(a, b) == 0 || pause_ns(l, r, MC_MAX(a, b));
}

/* Cut the next group and submit it. */
static int submit(struct lane *l, struct reading *r)
{
	struct group *grp = &l->groups[(r->first + r->nr) % WINDOW];
	struct mc_request requests[GROUP];
	const struct get_source *s = r->task.source;
	int e;

	grp->nr = 0;
	grp->bytes = 0;
	memset(requests, 0, sizeof requests);
	while (grp->nr < GROUP && r->pos < r->end && grp->bytes < r->group_max) {
		struct mc_p2p_piece *p = &grp->pieces[grp->nr];
		struct mc_request *q = &requests[grp->nr++];

		mc_p2p_cut(&l->get->object->map, &s->map, r->pos, r->end, r->group_max - grp->bytes, p);
		q->opcode = MC_OP_READ;
		q->local = (void *)(uintptr_t)p->here;
		q->segment = s->segment;
		q->offset = p->there;
		q->len = p->len;
		r->pos += p->len;
		grp->bytes += p->len;
	}
	if (!may_move(l, r, grp->bytes))
		return -ECANCELED;
	mc_batch_set_deadline(grp->batch, READ_NS);
	grp->since_ns = mc_p2p_now();
	e = mc_batch_submit(grp->batch, requests, grp->nr, NULL);
	if (e == 0)
		r->nr++;
	return e;
}

/* The first status of a batch that is not good. */
static int failure(const struct group *grp)
{
	for (uint32_t i = 0; i < grp->nr; i++) {
		struct mc_request_status st = {.size = sizeof st};

		if (mc_batch_status(grp->batch, i, &st) == 0 && st.status < 0)
			return st.status;
	}
	return -EIO;
}

/* What all lanes have under way has to come within a group's deadline: over a wire that is too slow for that, a shard
 * would never come. */
static void adapt(struct lane *l, uint64_t took_ns, bool late)
{
	if (late) {
		l->window = 1;
		l->group_max = SLOW_PIECE;
	} else if (took_ns > SLOW_NS) {
		l->window = MC_MIN(l->window, MC_MAX(2, l->window / 2));
	} else if (took_ns < FAST_NS) {
		l->window = MC_MIN(WINDOW, l->window * 2);
		l->group_max = MC_MIN(P2P_PIECE, l->group_max * 2);
	}
}

/* Wait for the oldest group and hash it. */
static int collect(struct lane *l, struct reading *r)
{
	struct group *grp = &l->groups[r->first];
	uint64_t took;
	int e = 0;

	while (mc_batch_wait(grp->batch, LOOK_NS) == -ETIMEDOUT)
		if (is_over(l, r))
			mc_batch_cancel(grp->batch);
	took = mc_p2p_now() - grp->since_ns;
	if (mc_batch_failed(grp->batch))
		e = failure(grp);
	for (uint32_t i = 0; e == 0 && i < grp->nr; i++)
		mc_p2p_hasher_add(&r->hasher, (const void *)(uintptr_t)grp->pieces[i].here, grp->pieces[i].len);
	mc_batch_reset(grp->batch);
	adapt(l, took, e == -ETIMEDOUT);
	r->first = (r->first + 1) % WINDOW;
	r->nr--;
	r->got += e == 0 ? grp->bytes : 0;
	__atomic_fetch_add(&l->get->moved_len, grp->bytes, __ATOMIC_RELAXED);
	return e;
}

/* Read a shard.  0 and its hash; -errno, then nothing of it is under way any more. */
static int fetch(struct lane *l, const struct get_task *task, struct mc_p2p_hash *ret)
{
	const struct p2p_object *o = l->get->object;
	struct reading r = {.task = *task, .rate = {.rate = task->rate, .next_ns = mc_p2p_now()}, .group_max = l->group_max};
	uint64_t cap = task->rate;
	int e = 0;

	r.end = mc_p2p_shard_end(o->layout.size, o->layout.shard_size, task->shard, &r.pos);
	r.len = r.end - r.pos;
	r.since_ns = r.looked_ns = mc_p2p_now();
	l->overtaken = false;
	if (l->get->store->rate_get.rate && (!cap || l->get->store->rate_get.rate < cap))
		cap = l->get->store->rate_get.rate;
	if (cap)
		r.group_max = MC_MIN(MC_MAX(cap / 20, 64u << 10), l->group_max);
	pthread_mutex_init(&r.rate.lock, NULL);
	mc_p2p_hasher_init(&r.hasher);
	while (e == 0 && (r.pos < r.end || r.nr)) {
		if (mc_p2p_now() - r.looked_ns >= LOOK_NS && is_over(l, &r))
			e = -ECANCELED;
		else if (r.pos < r.end && r.nr < l->window)
			e = submit(l, &r);
		else
			e = collect(l, &r);
	}
	for (uint32_t i = 0; i < r.nr; i++)
		mc_batch_cancel(l->groups[(r.first + i) % WINDOW].batch);
	while (r.nr)
		collect(l, &r);
	/* A slot of a capped source is held for as long as its bytes take, or the next one would begin too early. */
	if (e == 0 && task->rate && r.rate.next_ns > mc_p2p_now())
		pause_ns(l, &r, r.rate.next_ns - mc_p2p_now());
	pthread_mutex_destroy(&r.rate.lock);
	mc_p2p_hasher_end(&r.hasher, ret);
	return e;
}

void mc_p2p_get_end(struct mc_p2p_get *g, int status, const char *fmt, ...)
{
	char text[MC_ERROR_TEXT_MAX];
	va_list ap;

	if (g->over)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	g->over = true;
	g->status = status;
	if (status < 0)
		mc_fail(&g->err, status, "object '%s': %s", g->object->name, text);
	pthread_cond_broadcast(&g->cond);
}

/* With the lock: a shard is here. */
static void have(struct mc_p2p_get *g, uint32_t shard, bool resumed)
{
	uint64_t start, end = mc_p2p_shard_end(g->object->layout.size, g->object->layout.shard_size, shard, &start);

	g->done_len += end - start;
	g->resumed_len += resumed ? end - start : 0;
	if (++g->done_shards == g->object->layout.nr_shards)
		mc_p2p_get_end(g, 0, "complete");
}

/* Is it our own memory that cannot be written to (a mapped file that was cut), and not the source that cannot be read?  A
 * transport may know only that its stream broke.  The kernel tells, by filling the shard with zeros; it is to come
 * again anyway. */
static bool own_fault(const struct p2p_object *o, uint32_t shard)
{
	uint64_t pos, addr, end = mc_p2p_shard_end(o->layout.size, o->layout.shard_size, shard, &pos);
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	ssize_t n = 1;

	while (fd >= 0 && n > 0 && pos < end) {
		uint64_t len = mc_p2p_map_at(&o->map, pos, &addr);

		n = read(fd, (void *)(uintptr_t)addr, MC_MIN(len, end - pos));
		pos += n > 0 ? (uint64_t)n : 0;
		if (n < 0 && errno == EINTR)
			n = 1;
	}
	if (fd >= 0)
		close(fd);
	return n < 0 && errno == EFAULT;
}

/* Read a shard and verify it.  What does not verify is read once more from the same source, for bits flip on a wire as
 * well as in its memory; but not from one that does so again and again.
 *   returns   0; 1: it is not what it should be; -errno of reading */
static int fetch_good(struct lane *l, const struct get_task *task)
{
	struct mc_p2p_get *g = l->get;
	struct get_source *s = task->source;
	const uint8_t *want = g->hashes + (size_t)task->shard * MC_P2P_HASH_SIZE;
	bool again = true;

	for (;;) {
		struct mc_p2p_hash hash;
		int r = fetch(l, task, &hash);

		if (r < 0 || memcmp(hash.bytes, want, sizeof hash.bytes) == 0)
			return r;
		pthread_mutex_lock(&g->lock);
		g->nr_corrupt++;
		again = again && !s->dropped && !g->over && ++s->nr_bad <= BAD_MAX;
		pthread_mutex_unlock(&g->lock);
		if (!again)
			return 1;
		again = false;
		mc_p2p_log(g->store, MC_LOG_WARN, "object '%s': shard %u from source '%s' does not verify; it is read once more",
			   g->object->name, task->shard, s->offer.engine);
	}
}

static uint64_t smooth(uint64_t usual, uint64_t now)
{
	return usual ? usual - usual / 4 + now / 4 : now;
}

static void run_task(struct lane *l, const struct get_task *task)
{
	struct mc_p2p_get *g = l->get;
	struct get_source *s = task->source;
	enum mc_p2p_end end = MC_P2P_END_FAILED;
	uint64_t begun_ns = mc_p2p_now();
	int r = fetch_good(l, task);
	bool good = r == 0, corrupt = r > 0, ours = r < 0 && r != -ECANCELED && own_fault(g->object, task->shard);
	bool slow = false;
	char why[80];

	pthread_mutex_lock(&g->lock);
	g->reading[l->idx] = 0;
	if (good) {
		end = MC_P2P_END_OK;
		mc_p2p_bit_set(g->object->bitmap, task->shard);
		uint64_t start, stop = mc_p2p_shard_end(g->object->layout.size, g->object->layout.shard_size, task->shard, &start);

		if (!s->dropped)
			mc_p2p_pick_done(g->pick, s->idx, task->shard, stop - start, mc_p2p_now());
		else
			mc_p2p_pick_have(g->pick, task->shard);
		g->shard_ns = smooth(g->shard_ns, mc_p2p_now() - begun_ns);
		have(g, task->shard, false);
	} else if (ours) {
		mc_p2p_get_end(g, -EFAULT, "our own memory for shard %u cannot be written to", task->shard);
	} else if (l->overtaken && !corrupt && !g->over && !s->dropped) {
		mc_p2p_pick_slow(g->pick, s->idx, task->shard);
		end = MC_P2P_END_DECLINED;
		slow = true;
	} else if (!g->over && !s->dropped) {
		snprintf(why, sizeof why, corrupt ? "its shard %u does not verify" : "reading shard %u failed", task->shard);
		mc_p2p_pick_failed(g->pick, s->idx, task->shard, corrupt, mc_p2p_now());
		mc_p2p_source_drop(g, s, corrupt, corrupt ? -EBADMSG : r, why);
	}
	pthread_mutex_unlock(&g->lock);
	if (slow)
		mc_p2p_log(g->store, MC_LOG_INFO, "object '%s': source '%s' is slow: shard %u is asked for elsewhere",
			   g->object->name, s->offer.engine, task->shard);
	mc_p2p_slot_end(s, task->slot, end);
	pthread_mutex_lock(&g->lock);
	s->refs--;
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
}

/* Is a shard there already? */
static void run_check(struct mc_p2p_get *g, uint32_t shard)
{
	struct mc_p2p_hash hash;
	uint64_t size = g->object->layout.shard_size;
	bool good = mc_p2p_hash_shard(&g->object->map, size, shard, mc_p2p_get_is_over, g, &hash) == 0 &&
		    memcmp(hash.bytes, g->hashes + (size_t)shard * MC_P2P_HASH_SIZE, sizeof hash.bytes) == 0;

	pthread_mutex_lock(&g->lock);
	if (good) {
		mc_p2p_bit_set(g->object->bitmap, shard);
		mc_p2p_pick_have(g->pick, shard);
		have(g, shard, true);
	}
	if (--g->check_left == 0) {
		g->state = MC_P2P_GETTING;
		pthread_cond_broadcast(&g->cond);
	}
	pthread_mutex_unlock(&g->lock);
}

/* Is some lane at this shard? */
static bool is_read(const struct mc_p2p_get *g, uint32_t shard)
{
	for (uint32_t k = 0; k < g->nr_lanes; k++)
		if (g->reading[k] == shard + 1)
			return true;
	return false;
}

/* Is there a task that can be taken? */
static bool ready(const struct mc_p2p_get *g)
{
	for (uint32_t i = 0; i < g->nr_tasks; i++)
		if (!is_read(g, g->tasks[(g->first_task + i) % GET_TASKS].shard))
			return true;
	return false;
}

/* Take a task whose shard no lane reads.  A shard can be granted again while a lane still reads it from a source
 * that was dropped since; what that one writes late must not overwrite what was verified. */
static bool task_take(struct lane *l, struct get_task *ret)
{
	struct mc_p2p_get *g = l->get;

	for (uint32_t i = 0; i < g->nr_tasks; i++) {
		struct get_task t = g->tasks[g->first_task];
		bool taken = is_read(g, t.shard);

		g->first_task = (g->first_task + 1) % GET_TASKS;
		if (!taken) {
			g->nr_tasks--;
			*ret = t;
			return true;
		}
		g->tasks[(g->first_task + g->nr_tasks - 1) % GET_TASKS] = t;
	}
	return false;
}

/* The task's source has been dropped, or its shard has come meanwhile: nothing is read. */
static bool task_void(struct mc_p2p_get *g, const struct get_task *t)
{
	struct get_source *s = t->source;

	if (!s->dropped && !mc_p2p_bit_get(g->object->bitmap, t->shard))
		return false;
	if (!s->dropped)
		mc_p2p_pick_done(g->pick, s->idx, t->shard, 0, mc_p2p_now());
	pthread_mutex_unlock(&g->lock);
	mc_p2p_slot_end(s, t->slot, MC_P2P_END_DECLINED);
	pthread_mutex_lock(&g->lock);
	s->refs--;
	return true;
}

/* One thing, with the lock, which is given up in between.  False: there is nothing to do now. */
static bool turn(struct lane *l)
{
	struct get_task task;
	struct mc_p2p_get *g = l->get;

	if (g->check_next < g->object->layout.nr_shards) {
		uint32_t shard = g->check_next++;

		pthread_mutex_unlock(&g->lock);
		run_check(g, shard);
	} else if (task_take(l, &task)) {
		if (task_void(g, &task))
			return true;
		g->reading[l->idx] = task.shard + 1;
		pthread_mutex_unlock(&g->lock);
		run_task(l, &task);
	} else {
		return false;
	}
	mc_p2p_advance(g);
	pthread_mutex_lock(&g->lock);
	return true;
}

static void lane_free(struct lane *l)
{
	for (uint32_t i = 0; i < WINDOW; i++)
		mc_batch_free(l->groups[i].batch);
	free(l);
}

static struct lane *lane_new(struct mc_p2p_get *g)
{
	struct lane *l = calloc(1, sizeof *l);
	int r = l ? 0 : -ENOMEM;

	for (uint32_t i = 0; r == 0 && i < WINDOW; i++)
		r = mc_batch_new(g->store->engine, GROUP, &l->groups[i].batch);
	if (r < 0) {
		if (l)
			lane_free(l);
		return NULL;
	}
	l->get = g;
	l->window = WINDOW / 2;
	l->group_max = P2P_PIECE;
	return l;
}

void *mc_p2p_lane(void *arg)
{
	struct mc_p2p_get *g = arg;
	struct lane *l = lane_new(g);

	pthread_mutex_lock(&g->lock);
	if (l)
		l->idx = g->lane_idx++;
	else
		mc_p2p_get_end(g, -ENOMEM, "out of memory for its lanes");
	while (!g->over) {
		uint64_t now;

		if (turn(l))
			continue;
		pthread_mutex_unlock(&g->lock);
		mc_p2p_advance(g);
		pthread_mutex_lock(&g->lock);
		now = mc_p2p_now();
		if (!g->over && !ready(g))
			mc_p2p_cond_until(&g->cond, &g->lock, MC_MIN(mc_p2p_pick_wake(g->pick, now), now + MC_SEC));
	}
	pthread_mutex_unlock(&g->lock);
	if (l)
		lane_free(l);
	return NULL;
}
