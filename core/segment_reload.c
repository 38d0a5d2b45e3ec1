/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our buffers under another matrix.  While no registration begins or ends, each
 * buffer is registered on the devices that its new row adds, beside what it has;
 * when all of that has worked the registrations become the buffer's, and then its
 * row changes.  Requests under way keep what they found.
 */
#include "segment_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "session.h"

/* One buffer. */
struct change {
	struct mc_local_buf *buf;
	const struct mc_matrix_row *row;
	size_t nr;                  /* devices that it is new to; 0: none */
	struct mc_device **devices;
	struct mc_local_buf shadow; /* regions and blobs of these, until they are the buffer's */
};

struct mc_local_change {
	size_t nr;
	struct change list[];
};

/* ---- holding off registrations -------------------------------------------------------------- */

static bool all_live(const struct mc_local *local)
{
	for (size_t i = 0; i < local->nr_regs; i++)
		if (local->regs[i]->state != REG_LIVE)
			return false;
	return true;
}

int mc_local_freeze(struct mc_engine *engine, uint64_t deadline_ns)
{
	struct mc_local *local = engine->local;
	struct timespec until = mc_wait_until(deadline_ns);
	int r = 0;

	pthread_mutex_lock(&local->lock);
	local->frozen = true; /* first, or a caller who registers in a circle would never let us in */
	while (!all_live(local) && r == 0)
		r = pthread_cond_timedwait(&local->changed, &local->lock, &until);
	if (all_live(local))
		r = 0;
	if (r) {
		local->frozen = false;
		pthread_cond_broadcast(&local->changed);
	}
	pthread_mutex_unlock(&local->lock);
	return -r;
}

void mc_local_thaw(struct mc_engine *engine)
{
	struct mc_local *local = engine->local;

	pthread_mutex_lock(&local->lock);
	local->frozen = false;
	pthread_cond_broadcast(&local->changed);
	pthread_mutex_unlock(&local->lock);
}

/* ---- preparing ------------------------------------------------------------------------------ */

/* Devices of the new row that reach the buffer and have no registration of it.  One that needs none is
 * among them, and says so again. */
static void find_missing(const struct mc_device_plan *plan, struct change *c, bool *ret_reached)
{
	for (size_t t = 0; t < c->row->nr_tiers; t++)
		for (size_t e = 0; e < c->row->tiers[t].nr; e++) {
			const struct mc_matrix_entry *entry = &c->row->tiers[t].entries[e];
			struct mc_device *d = mc_devices_planned(plan, entry->transport, entry->device);
			bool known;

			if (!d || !mc_device_reaches(d, c->buf->kind))
				continue;
			known = d->idx < plan->engine->nr_devices;
			if (known && c->buf->blobs[d->idx].lacks)
				continue;
			if (known && c->buf->regions[d->idx])
				*ret_reached = true;
			else
				c->devices[c->nr++] = d;
		}
}

static int shadow_init(const struct mc_engine *engine, struct change *c)
{
	struct mc_local_buf *s = &c->shadow;
	const struct mc_local_buf *b = c->buf;
	size_t nr = mc_device_places(engine);

	s->id = b->id;
	s->access = b->access;
	s->base = b->base;
	s->len = b->len;
	s->ordinal = b->ordinal;
	s->share_fd = b->share_fd;
	s->share_offset = b->share_offset;
	snprintf(s->kind, sizeof s->kind, "%s", b->kind);
	snprintf(s->location, sizeof s->location, "%s", b->location);
	s->regions = calloc(nr, sizeof *s->regions);
	s->blobs = calloc(nr, sizeof *s->blobs);
	return s->regions && s->blobs ? 0 : -ENOMEM;
}

static int change_buf(const struct mc_device_plan *plan, struct change *c, uint64_t deadline_ns,
		      struct mc_error *err)
{
	struct mc_engine *engine = plan->engine;
	bool reached = false;
	int r;

	c->row = mc_matrix_row_find(plan->matrix, c->buf->location);
	if (!c->row && c->buf->row)
		return mc_fail(err, -EINVAL, "nic_priority_matrix: no row covers memory at '%s', which is registered: "
			       "add a row for it, or for \"*\"", c->buf->location);
	if (!c->row)
		return 0;
	c->devices = calloc(mc_matrix_row_nr_entries(c->row) + 1, sizeof(struct mc_device *));
	if (!c->devices)
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	find_missing(plan, c, &reached);
	if (!c->nr)
		return 0;
	if (shadow_init(engine, c) < 0) {
		c->nr = 0;
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	}
	r = mc_regions_add(engine, &c->shadow, c->devices, c->nr, reached, deadline_ns, err);
	if (r < 0)
		c->nr = 0; /* nothing is left of it */
	return r;
}

int mc_local_change_new(const struct mc_device_plan *plan, uint64_t deadline_ns,
			struct mc_local_change **ret_change, struct mc_error *err)
{
	struct mc_local *local = plan->engine->local;
	struct mc_local_change *change;
	size_t nr = 0;
	int r = 0;

	/* Frozen: the list stays as it is without the lock. */
	for (size_t i = 0; i < local->nr_regs; i++)
		nr += local->regs[i]->nr_bufs;
	change = calloc(1, sizeof *change + nr * sizeof *change->list);
	if (!change)
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	for (size_t i = 0; i < local->nr_regs && r == 0; i++)
		for (size_t b = 0; b < local->regs[i]->nr_bufs && r == 0; b++) {
			change->list[change->nr].buf = local->regs[i]->bufs[b];
			r = change_buf(plan, &change->list[change->nr++], deadline_ns, err);
		}
	if (r < 0)
		mc_local_change_free(plan->engine, change);
	else
		*ret_change = change;
	return r;
}

/* ---- putting it in place -------------------------------------------------------------------- */

/* True: peers must know. */
static bool adopt_buf(struct change *c)
{
	bool told = false;

	for (size_t i = 0; i < c->nr; i++) {
		size_t idx = c->devices[i]->idx;

		c->buf->blobs[idx] = c->shadow.blobs[idx];
		atomic_store(&c->buf->regions[idx], c->shadow.regions[idx]);
		told |= c->shadow.blobs[idx].data != NULL;
	}
	if (c->shadow.lacks)
		c->buf->lacks = true;
	c->nr = 0;
	return told && c->buf->access;
}

void mc_local_change_adopt(struct mc_engine *engine, struct mc_local_change *change)
{
	for (size_t i = 0; i < change->nr; i++) {
		struct change *c = &change->list[i];
		bool told;

		pthread_mutex_lock(&engine->local->lock);
		told = adopt_buf(c);
		pthread_mutex_unlock(&engine->local->lock);
		if (told)
			mc_session_push_add(engine, c->buf);
	}
}

void mc_local_change_rows(struct mc_local_change *change)
{
	for (size_t i = 0; i < change->nr; i++)
		change->list[i].buf->row = change->list[i].row;
}

void mc_local_change_free(struct mc_engine *engine, struct mc_local_change *change)
{
	for (size_t i = 0; change && i < change->nr; i++) {
		struct change *c = &change->list[i];

		if (c->nr)
			mc_regions_remove(engine, &c->shadow, c->devices, c->nr);
		free(c->shadow.regions);
		free(c->shadow.blobs);
		free(c->devices);
	}
	free(change);
}
