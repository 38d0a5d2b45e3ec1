/* SPDX-License-Identifier: Apache-2.0 */
/* Slots and waiting GRANTs of a source (p2p_serve.h).
 *
 * Both are short arrays: slots in any order, the queue in the order of asking.  A rate is divided by the slots
 * that may be in use and not by those that are, because a getter keeps what it was told at the beginning; so
 * that one or two getters still get all of it, a capped source has two slots. */
#include "p2p_serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"

#define CAPPED_SLOTS 2
#define SERVICE_FIRST_NS 20000000ull    /* what a slot is taken to last before one has ended */
#define RETRY_MIN_NS 5000000ull
#define RETRY_MAX_NS 1000000000ull

struct slot {
	uint64_t id;            /* 0: free */
	uint64_t getter, since_ns, heard_ns;
	const struct mc_p2p_tally *tally;
	uint32_t shard;
};

struct ask {
	uint64_t ticket, getter, deadline_ns;
	const struct mc_p2p_tally *tally;
	uint32_t nr, candidates[MC_P2P_CANDIDATES];
};

struct mc_p2p_serve {
	struct mc_p2p_serve_limits limits;
	uint32_t active, waiting;
	uint64_t last_id, last_ticket;
	uint64_t service_ns;    /* how long slots last, smoothed */
	struct slot *slots;
	struct ask *queue;
};

int mc_p2p_serve_new(const struct mc_p2p_serve_limits *limits, struct mc_p2p_serve **ret_serve)
{
	struct mc_p2p_serve *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	if (limits)
		s->limits = *limits;
	if (!s->limits.slots)
		s->limits.slots = 4;
	if (s->limits.rate)
		s->limits.slots = MC_MIN(s->limits.slots, CAPPED_SLOTS);
	if (!s->limits.queue)
		s->limits.queue = s->limits.slots; /* who waits long had better look elsewhere */
	if (!s->limits.slot_ns)
		s->limits.slot_ns = 30000000000ull;
	s->service_ns = SERVICE_FIRST_NS;
	s->slots = calloc(s->limits.slots, sizeof *s->slots);
	s->queue = calloc(s->limits.queue, sizeof *s->queue);
	if (!s->slots || !s->queue) {
		mc_p2p_serve_free(s);
		return -ENOMEM;
	}
	*ret_serve = s;
	return 0;
}

void mc_p2p_serve_free(struct mc_p2p_serve *s)
{
	if (!s)
		return;
	free(s->slots);
	free(s->queue);
	free(s);
}

/* When a slot is likely free for one who comes after those that wait. */
static uint64_t retry_after(const struct mc_p2p_serve *s)
{
	uint64_t wait = s->service_ns / s->limits.slots * (s->waiting + 1);

	return MC_MAX(MC_MIN(wait, RETRY_MAX_NS), RETRY_MIN_NS);
}

/* Takes a free slot for the candidate that was granted least, the first of equals. */
static void grant(struct mc_p2p_serve *s, const struct mc_p2p_tally *tally, uint64_t getter,
		  const uint32_t *candidates, uint32_t nr, uint64_t now_ns, struct mc_p2p_grant *ret)
{
	uint32_t best = candidates[0], i = 0;

	for (uint32_t c = 1; c < nr; c++)
		if (tally->granted[candidates[c]] < tally->granted[best])
			best = candidates[c];
	tally->granted[best]++;
	while (s->slots[i].id)
		i++;
	s->slots[i] = (struct slot){++s->last_id, getter, now_ns, now_ns, tally, best};
	s->active++;
	ret->status = 0;
	ret->slot = s->last_id;
	ret->shard = best;
	ret->rate = s->limits.rate ? MC_MAX(s->limits.rate / s->limits.slots, 1u) : 0;
	ret->retry_ns = 0;
}

static void end_slot(struct mc_p2p_serve *s, struct slot *slot)
{
	slot->id = 0;
	s->active--;
}

/* Slots that nobody ended: their getters died. */
static void expire_slots(struct mc_p2p_serve *s, uint64_t now_ns)
{
	for (uint32_t i = 0; i < s->limits.slots && s->active; i++)
		if (s->slots[i].id && now_ns - s->slots[i].heard_ns >= s->limits.slot_ns)
			end_slot(s, &s->slots[i]);
}

void mc_p2p_serve_heard(struct mc_p2p_serve *s, uint64_t getter, uint64_t now_ns)
{
	for (uint32_t i = 0; i < s->limits.slots && s->active; i++)
		if (s->slots[i].id && s->slots[i].getter == getter)
			s->slots[i].heard_ns = now_ns;
}

static bool is_here(const struct mc_p2p_tally *tally, uint32_t shard)
{
	return !tally->map || __atomic_load_n(&tally->map[shard / 8], __ATOMIC_ACQUIRE) >> (shard % 8) & 1;
}

int mc_p2p_serve_ask(struct mc_p2p_serve *s, const struct mc_p2p_tally *tally, uint64_t getter,
		     const uint32_t *candidates, uint32_t nr, uint64_t deadline_ns, uint64_t now_ns,
		     struct mc_p2p_grant *ret)
{
	uint32_t here[MC_P2P_CANDIDATES], nr_here = 0;
	struct ask *a;

	if (!nr || nr > MC_P2P_CANDIDATES)
		return -EINVAL;
	for (uint32_t i = 0; i < nr; i++) {
		if (candidates[i] >= tally->nr_shards)
			return -EINVAL;
		if (is_here(tally, candidates[i]))
			here[nr_here++] = candidates[i];
	}
	mc_p2p_serve_heard(s, getter, now_ns);
	if (!nr_here)
		return -ENODATA;
	expire_slots(s, now_ns);
	*ret = (struct mc_p2p_grant){.ticket = ++s->last_ticket, .getter = getter};
	if (s->active < s->limits.slots && !s->waiting) {
		grant(s, tally, getter, here, nr_here, now_ns, ret);
		return 0;
	}
	if (s->waiting == s->limits.queue || deadline_ns <= now_ns) {
		ret->status = -EAGAIN;
		ret->retry_ns = retry_after(s);
		return -EAGAIN;
	}
	a = &s->queue[s->waiting++];
	*a = (struct ask){ret->ticket, getter, deadline_ns, tally, nr_here, {0}};
	memcpy(a->candidates, here, nr_here * sizeof *here);
	return -EINPROGRESS;
}

static void leave_queue(struct mc_p2p_serve *s, uint32_t i)
{
	s->waiting--;
	memmove(&s->queue[i], &s->queue[i + 1], (s->waiting - i) * sizeof *s->queue);
}

int mc_p2p_serve_done(struct mc_p2p_serve *s, uint64_t getter, uint64_t slot, enum mc_p2p_end end,
		      uint64_t now_ns)
{
	mc_p2p_serve_heard(s, getter, now_ns);
	for (uint32_t i = 0; i < s->limits.slots && slot; i++) {
		struct slot *t = &s->slots[i];

		if (t->id != slot || t->getter != getter)
			continue;
		if (end == MC_P2P_END_OK)
			s->service_ns += (now_ns - t->since_ns) / 8 - s->service_ns / 8;
		else if (t->tally->granted[t->shard])
			t->tally->granted[t->shard]--;
		end_slot(s, t);
		return 0;
	}
	return -ENOENT;
}

int mc_p2p_serve_next(struct mc_p2p_serve *s, uint64_t now_ns, struct mc_p2p_grant *ret)
{
	expire_slots(s, now_ns);
	if (s->waiting && s->active < s->limits.slots) {
		const struct ask *a = &s->queue[0];

		*ret = (struct mc_p2p_grant){.ticket = a->ticket, .getter = a->getter};
		grant(s, a->tally, a->getter, a->candidates, a->nr, now_ns, ret);
		leave_queue(s, 0);
		return 1;
	}
	for (uint32_t i = 0; i < s->waiting; i++) {
		if (s->queue[i].deadline_ns > now_ns)
			continue;
		*ret = (struct mc_p2p_grant){
			.ticket = s->queue[i].ticket, .getter = s->queue[i].getter, .status = -EAGAIN};
		leave_queue(s, i);
		ret->retry_ns = retry_after(s);
		return 1;
	}
	return 0;
}

size_t mc_p2p_serve_gone(struct mc_p2p_serve *s, const struct mc_p2p_tally *tally, uint64_t getter,
			 uint64_t *ret_tickets, size_t max)
{
	size_t nr = 0;

	for (uint32_t i = 0; i < s->limits.slots; i++) {
		struct slot *t = &s->slots[i];

		if (!t->id || t->getter != getter || (tally && t->tally != tally))
			continue;
		if (t->tally->granted[t->shard])
			t->tally->granted[t->shard]--;
		end_slot(s, t);
	}
	for (uint32_t i = 0; i < s->waiting;) {
		if (s->queue[i].getter != getter || (tally && s->queue[i].tally != tally)) {
			i++;
			continue;
		}
		if (nr < max)
			ret_tickets[nr++] = s->queue[i].ticket;
		leave_queue(s, i);
	}
	return nr;
}

size_t mc_p2p_serve_close(struct mc_p2p_serve *s, const struct mc_p2p_tally *tally, uint64_t *ret_tickets,
			  size_t max)
{
	size_t nr = 0;

	for (uint32_t i = 0; i < s->waiting;) {
		if (s->queue[i].tally != tally) {
			i++;
			continue;
		}
		if (nr < max)
			ret_tickets[nr++] = s->queue[i].ticket;
		leave_queue(s, i);
	}
	return nr;
}

uint32_t mc_p2p_serve_busy(struct mc_p2p_serve *s, const struct mc_p2p_tally *tally, uint64_t now_ns)
{
	uint32_t nr = 0;

	expire_slots(s, now_ns);
	for (uint32_t i = 0; i < s->limits.slots; i++)
		nr += s->slots[i].id && s->slots[i].tally == tally;
	return nr;
}

size_t mc_p2p_serve_forget(struct mc_p2p_serve *s, const struct mc_p2p_tally *tally, uint64_t *ret_tickets,
			   size_t max)
{
	for (uint32_t i = 0; i < s->limits.slots; i++)
		if (s->slots[i].id && s->slots[i].tally == tally)
			end_slot(s, &s->slots[i]);
	return mc_p2p_serve_close(s, tally, ret_tickets, max);
}

uint64_t mc_p2p_serve_wake(const struct mc_p2p_serve *s)
{
	uint64_t wake = UINT64_MAX;

	for (uint32_t i = 0; i < s->waiting; i++)
		wake = MC_MIN(wake, s->queue[i].deadline_ns);
	for (uint32_t i = 0; i < s->limits.slots && s->waiting; i++)
		if (s->slots[i].id)
			wake = MC_MIN(wake, s->slots[i].heard_ns + s->limits.slot_ns);
	return wake;
}

uint32_t mc_p2p_serve_active(const struct mc_p2p_serve *s)
{
	return s->active;
}

uint32_t mc_p2p_serve_waiting(const struct mc_p2p_serve *s)
{
	return s->waiting;
}
