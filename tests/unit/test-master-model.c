/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's state against a model: clients lend memory, put, get, remove and ping in any order, and
 * they, the master, answers, heartbeats, the disk and the clock fail in between.  After each step:
 *   - nothing is read that is incomplete, taken away or another object's;
 *   - no place is given away while anybody may write or read there, or before that it is free is on the disk;
 *   - what is taken away may be: no lease, no hard pin; what is complete is there;
 * and in the end all that was lent is free again.  MC_SEED and MC_STEPS set the run, MC_TRACE tells it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <time.h>

#include "master-puts.h"

/* ---- reads ----------------------------------------------------------------------------------- */

static void lease_told(struct world *w, uint32_t serial, uint64_t lease_ns)
{
	struct value *v = &w->values[serial];

	if (lease_ns == 0 || v->lease_ns > w->now + lease_ns)
		return;
	v->lease_ns = w->now + lease_ns;
	v->lease_epoch = w->epoch;
}

/* A replica as it was told: whose bytes lie there? */
static void read_check(struct world *w, const struct keys *k, uint32_t i, const struct mc_master_got *got,
		       const struct mc_master_extent *x, uint64_t lease_ns)
{
	uint32_t *now = w->current[k->tenant][k->at[i]], serial = 0;
	uint64_t sum[MC_MASTER_REPLICAS_MAX] = {0};

	for (uint32_t p = 0; p < got->nr; p++) {
		const struct mc_master_extent *e = &x[got->first + p];
		struct memory *m = memory_of(w, mount_of(w, e->segment));
		uint32_t first = (uint32_t)(e->offset / CELL % CELLS);

		sum[e->replica] += e->len;
		if (!m)
			continue; /* its lender has gone: the read fails */
		if (m->id != e->segment || m->epoch != w->epoch)
			WRONG(w, "%s: read from a segment that is not mounted", k->text[i]);
		if (!serial)
			serial = m->content[first];
		for (uint32_t c = first; c < first + (e->len + CELL - 1) / CELL; c++)
			if (m->content[c] != serial)
				WRONG(w, "%s: bytes of value %u and of value %u", k->text[i], serial, m->content[c]);
	}
	for (uint32_t r = 0; r < MC_MASTER_REPLICAS_MAX; r++)
		if (sum[r] && sum[r] != got->len)
			WRONG(w, "%s: a replica is not whole", k->text[i]);
	if (!serial)
		return;
	TRACE(w, "get of %s/%u: value %u\n", k->text[i], k->tenant, serial);
	if (serial != now[0] && serial != now[1])
		WRONG(w, "%s: read of value %u (%s/%u), and value %u is complete", k->text[i], serial, "of key",
		      w->values[serial].key, now[0]);
	else
		lease_told(w, serial, lease_ns);
	for (uint32_t p = 0; lease_ns && p < got->nr; p++)
		for (uint32_t n = 0; n < w->values[serial].nr; n++) {
			struct piece *at = &w->values[serial].pieces[n];
			const struct mc_master_extent *e = &x[got->first + p];

			if (w->mounts[at->mount].id == e->segment && at->first == e->offset / CELL % CELLS)
				at->lease_ns = w->now + lease_ns;
		}
}

static void get(struct world *w)
{
	struct mc_master_got gots[BATCH] = {0};
	struct mc_master_extent room[BATCH * 128];
	struct mc_master_extents x = {room, 0, MC_ARRAY_SIZE(room)};
	struct keys k = {.nr = 1 + (uint32_t)draw(w, BATCH), .tenant = (uint32_t)draw(w, TENANTS)};
	uint32_t flags = (once_in(w, 4) ? MC_MASTER_GET_CHAIN : 0) | (once_in(w, 2) ? MC_MASTER_GET_NO_LEASE : 0);
	bool exist = once_in(w, 8), missed = false;
	uint64_t lease_ns = 0;
	int r;

	for (uint32_t i = 0; i < k.nr; i++)
		gots[i].key = keys_draw(w, &k, i);
	r = mc_master_get(w->m, w->tenants[k.tenant], flags, gots, k.nr, exist ? NULL : &x, &lease_ns, w->now);
	w->ops += k.nr;
	if (r < 0)
		WRONG(w, "get: %s", strerror(-r));
	if (flags & MC_MASTER_GET_NO_LEASE)
		lease_ns = 0;
	for (uint32_t i = 0; i < k.nr; i++) {
		uint32_t now = w->current[k.tenant][k.at[i]][0];

		if (gots[i].status == 0 && !now)
			WRONG(w, "%s: found, and nothing is complete", k.text[i]);
		else if (gots[i].status == 0 && !exist)
			read_check(w, &k, i, &gots[i], room, lease_ns);
		else if (gots[i].status == 0)
			lease_told(w, now, lease_ns);
		else if (gots[i].status == -EAGAIN && w->epoch == 1)
			WRONG(w, "%s: EAGAIN in the first life", k.text[i]);
		else if (gots[i].status == -ENOENT && now && !(missed && flags & MC_MASTER_GET_CHAIN) &&
			 !value_lost(w, &w->values[now]))
			WRONG(w, "%s: not found, and value %u is complete", k.text[i], now);
		else if (gots[i].status != -ENOENT && gots[i].status != -EAGAIN)
			WRONG(w, "%s: get says %s", k.text[i], strerror(-gots[i].status));
		missed |= gots[i].status != 0;
		w->hits += gots[i].status == 0;
		w->misses += gots[i].status != 0;
	}
}

/* ---- removing and pinning -------------------------------------------------------------------- */

static void remove_some(struct world *w)
{
	struct mc_master_named named[BATCH] = {0};
	struct keys k = {.nr = 1 + (uint32_t)draw(w, 2), .tenant = (uint32_t)draw(w, TENANTS)};
	uint32_t flags = once_in(w, 3) ? MC_MASTER_REMOVE_FORCE : 0, before[BATCH];

	for (uint32_t i = 0; i < k.nr; i++) {
		named[i].key = keys_draw(w, &k, i);
		before[i] = w->current[k.tenant][k.at[i]][0];
	}
	w->removing = true;
	mc_master_remove(w->m, w->tenants[k.tenant], flags, named, k.nr, w->now);
	w->removing = false;
	w->ops += k.nr;
	for (uint32_t i = 0; i < k.nr; i++) {
		struct value *v = &w->values[before[i]];

		TRACE(w, "remove of %s/%u: %d\n", k.text[i], k.tenant, named[i].status);
		if (named[i].status == 0 && (!before[i] || v->state == VALUE_COMPLETE))
			WRONG(w, "%s: removed, and is not", k.text[i]);
		if (named[i].status == 0 && !(flags & MC_MASTER_REMOVE_FORCE) && !value_lost(w, v) &&
		    (v->hard || (v->lease_ns > w->now && v->lease_epoch == w->epoch)))
			WRONG(w, "%s: removed in spite of a lease or pin", k.text[i]);
	}
}

static void pin(struct world *w)
{
	struct mc_master_named named[1] = {0};
	struct keys k = {.nr = 1, .tenant = (uint32_t)draw(w, TENANTS)};
	bool hard = once_in(w, 8);
	uint32_t now;

	named[0].key = keys_draw(w, &k, 0);
	now = w->current[k.tenant][k.at[0]][0];
	mc_master_pin(w->m, w->tenants[k.tenant], hard ? MC_FOREVER : once_in(w, 2) ? 2 * SEC : 0, named, 1, w->now);
	w->ops++;
	if (named[0].status == 0 && !now)
		WRONG(w, "%s: pinned, and is not there", k.text[0]);
	if (named[0].status == 0)
		w->values[now].hard = hard;
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static void crash(struct world *w, bool tail)
{
	uint64_t last = log_last(&w->log), keep = last, epoch = mc_master_epoch(w->m);

	mc_master_free(w->m);
	w->m = NULL;
	if (tail)
		keep = w->log.synced + draw(w, last - w->log.synced + 1);
	/* What had not happened: completed and not known any more; gone and there again. */
	for (size_t i = (size_t)(keep - w->log.folded); i < w->log.nr; i++) {
		const struct log_change *c = &w->log.tail[i];

		if (c->mark && c->value && w->values[c->mark].end_seq > keep) {
			w->values[c->mark].state = VALUE_GONE;
			w->values[c->mark].gone_seq = 0;
			w->lost++;
		}
		if (c->name[0] == MC_MASTER_TABLE_SEGMENT && !c->value)
			w->mounts[mount_of(w, (uint32_t)c->name[1])].gone = w->mounts[mount_of(w, (uint32_t)c->name[1])].leaving = false;
	}
	TRACE(w, "crash, %llu of %llu changes stay\n", (unsigned long long)keep, (unsigned long long)last);
	w->log.fail = 0;
	for (uint32_t i = 1; i <= w->nr_mounts; i++)
		w->mounts[i].leaving &= w->mounts[i].gone; /* that could not be logged, and nothing was put there since */
	for (uint32_t i = 0; i < SEGMENTS && tail; i++)
		w->memory[i].draining = false; /* that may be lost */
	log_cut(&w->log, keep);
	memset(w->current, 0, sizeof w->current);
	for (struct log_record *rec = w->log.records; rec; rec = rec->hh.next) {
		struct value *v = &w->values[rec->mark];

		if (rec->name[0] != MC_MASTER_TABLE_OBJECT || !rec->mark)
			continue;
		v->state = VALUE_COMPLETE;
		v->gone_seq = 0;
		v->hard = ((const uint8_t *)rec->value)[1] & 1; /* a pin's change may be lost */
		name_set(rec->name[1], (uint32_t)rec->mark);
		current_add(w, (uint32_t)rec->mark);
	}
	w->crashes++;
	w->now += draw(w, 2 * SEC);
	w->epoch++;
	w->started_ns = w->now;
	w->removing = true; /* of two with one key the earlier one */
	if (log_start(&w->log, &w->limits, w->now, &w->m) < 0) {
		WRONG(w, "the master does not start again");
		return;
	}
	w->removing = false;
	if (mc_master_epoch(w->m) <= epoch && !tail)
		WRONG(w, "the number of its life has not grown");
	for (uint32_t t = 0; t < TENANTS; t++)
		if (mc_master_tenant(w->m, t ? "other" : "", t ? 5 : 0, true, &w->tenants[t]) != 0)
			WRONG(w, "tenants are lost");
}

static void lender_acts(struct world *w)
{
	uint32_t at = (uint32_t)draw(w, CLIENTS), place = (uint32_t)draw(w, SEGMENTS);
	struct mc_master_client_id id = id_of(&w->clients[place / SEGMENTS_EACH]);
	struct memory *m = &w->memory[place];
	int r;

	switch (draw(w, 5)) {
	case 0: /* dies and comes again, with nothing */
		client_born(w, at);
		TRACE(w, "client %u dies\n", at);
		ping(w, at, false);
		break;
	case 1:
	case 2: /* is not heard of for a while */
		w->clients[at].mute_until = w->now + draw(w, 6 * SEC);
		break;
	case 3:
		if (m->id && m->epoch == w->epoch && !w->mounts[m->mount].gone) {
			w->mounts[m->mount].leaving = true;
			r = mc_master_unmount(w->m, &id, m->uuid, w->now);
			TRACE(w, "unmount of %u: %d\n", place, r);
			m->id = 0;
			/* Its client mounts it again when it likes. */
			if (once_in(w, 2))
				mount_all(w, place / SEGMENTS_EACH);
		}
		break;
	default:
		if (m->id && m->epoch == w->epoch && mc_master_drain(w->m, m->id, !m->draining, w->now) == 0)
			m->draining = !m->draining;
	}
}

static void time_goes(struct world *w)
{
	w->now += draw(w, 16 * MSEC);
	if (once_in(w, 3000))
		w->now += draw(w, 4 * SEC);
	if (once_in(w, 60000))
		w->now += draw(w, 20 * SEC);
	if (once_in(w, 2))
		log_sync(&w->log, w->log.synced + draw(w, log_last(&w->log) - w->log.synced + 1));
	for (uint32_t at = 0; at < CLIENTS; at++) {
		struct lender *c = &w->clients[at];

		if (w->now >= c->mute_until && (w->now - c->last_ping >= SEC || c->epoch != w->epoch))
			ping(w, at, once_in(w, 30));
	}
	if (once_in(w, 4))
		mc_master_tick(w->m, w->now);
}

/* ---- the run --------------------------------------------------------------------------------- */

static void step(struct world *w)
{
	uint64_t what = draw(w, 1000);

	w->step++;
	if (what < 220)
		put_start(w);
	else if (what < 440)
		put_end(w);
	else if (what < 460)
		put_revoke(w);
	else if (what < 580)
		write_some(w);
	else if (what < 860)
		get(w);
	else if (what < 885)
		remove_some(w);
	else if (what < 895)
		pin(w);
	else
		time_goes(w);
	if (once_in(w, 2000))
		lender_acts(w);
	if (once_in(w, 8000))
		crash(w, once_in(w, 2));
	if (once_in(w, 500))
		w->log.fail = (int)draw(w, 3);
}

static void check(struct world *w)
{
	struct mc_error err = {0};

	if (mc_master_check(w->m, &err) < 0)
		WRONG(w, "check: %.200s", err.text);
}

/* Everything is removed, everybody pings, time passes: all is free, or something is lost for ever. */
static void settle(struct world *w)
{
	struct mc_master_stats stats = {.size = sizeof stats};
	uint64_t removed, refused, cursor;
	struct mc_error err = {0};

	while (w->nr_writers && !w->wrong[0]) {
		w->values[w->writers[0]].listed = false;
		w->writers[0] = w->writers[--w->nr_writers];
	}
	w->log.fail = 0;
	w->removing = true;
	for (int i = 0; i < 40 && !w->wrong[0]; i++) {
		w->now += SEC;
		for (uint32_t at = 0; at < CLIENTS; at++)
			ping(w, at, false);
		for (uint32_t t = 0; t < TENANTS; t++) {
			cursor = 0;
			do {
				if (mc_master_remove_match(w->m, w->tenants[t], MC_MASTER_REMOVE_FORCE, MC_MASTER_PREFIX, "", &cursor,
							   &removed, &refused, w->now, &err) < 0)
					WRONG(w, "remove_match: %.200s", err.text);
			} while (cursor && !w->wrong[0]);
		}
		log_sync(&w->log, log_last(&w->log));
		for (int k = 0; k < 8; k++)
			mc_master_tick(w->m, w->now);
	}
	w->removing = false;
	check(w);
	mc_master_stats(w->m, &stats, w->now);
	if (stats.nr_objects || stats.nr_puts || stats.space.used || stats.space.quarantined || stats.space.unfinished)
		WRONG(w, "in the end %llu objects, %llu puts, %llu bytes used, %llu quarantined, %llu unfinished",
		      (unsigned long long)stats.nr_objects, (unsigned long long)stats.nr_puts, (unsigned long long)stats.space.used,
		      (unsigned long long)stats.space.quarantined, (unsigned long long)stats.space.unfinished);
}

static void world_begin(struct world *w, uint64_t seed)
{
	w->seed = seed;
	w->now = 1000 * SEC;
	w->epoch = 1;
	w->values = calloc(VALUES_MAX, sizeof *w->values);
	w->mounts = calloc(MOUNTS_MAX, sizeof *w->mounts);
	assert_true(w->values && w->mounts);
	w->trace = getenv("MC_TRACE") != NULL;
	w->limits = (struct mc_master_limits){.size = sizeof w->limits, .nr_shards = 8, .lease_ns = LEASE_NS,
					      .put_ttl_ns = PUT_TTL_NS, .client_ttl_ns = CLIENT_TTL_NS, .soft_pin_ns = 4 * SEC,
					      .granule = (uint32_t)CELL, .mean_object = 8 * CELL, .seed = seed | 1};
	w->log.seen = seen;
	w->log.arg = w;
	assert_int_equal(log_start(&w->log, &w->limits, w->now, &w->m), 0);
	w->started_ns = w->now;
	assert_int_equal(mc_master_tenant(w->m, "", 0, true, &w->tenants[0]), 0);
	assert_int_equal(mc_master_tenant(w->m, "other", 5, true, &w->tenants[1]), 0);
	for (uint32_t at = 0; at < CLIENTS; at++) {
		client_born(w, at);
		ping(w, at, false);
	}
}

static void world_end(struct world *w)
{
	struct name *n, *tmp;

	mc_master_free(w->m);
	log_free(&w->log);
	for (uint32_t i = 1; i <= w->nr_values; i++)
		free(w->values[i].pieces);
	free(w->values);
	HASH_CLEAR(hh, w->by_id);
	free(w->mounts);
	HASH_ITER(hh, names, n, tmp) {
		HASH_DEL(names, n);
		free(n);
	}
}

static void test_model(void **state)
{
	static struct world world;
	struct world *w = &world;
	const char *seed = getenv("MC_SEED"), *ops = getenv("MC_STEPS");
	uint64_t until = ops ? strtoull(ops, NULL, 10) : MODEL_OPS, first = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;

	(void)state;
	printf("MC_SEED=%llu\n", (unsigned long long)first);
	fflush(stdout);
	world_begin(w, first ? first : 1);
	while (w->nr_mounts + 64 < MOUNTS_MAX && w->ops < until && !w->wrong[0] && w->nr_values < VALUES_MAX - BATCH * 2) {
		step(w);
		if (w->step % (getenv("MC_CHECK") ? 1 : 2000) == 0)
			check(w);
	}
	if (!w->wrong[0])
		settle(w);
	printf("%llu operations in %llu steps: %llu hits, %llu misses, %u puts (%llu full, %llu too late), %llu evicted, %llu crashes, %llu "
	       "lost in their tails\n",
	       (unsigned long long)w->ops, (unsigned long long)w->step, (unsigned long long)w->hits, (unsigned long long)w->misses,
	       w->nr_values, (unsigned long long)w->full, (unsigned long long)w->stale, (unsigned long long)w->evicted,
	       (unsigned long long)w->crashes, (unsigned long long)w->lost);
	if (w->wrong[0])
		fail_msg("MC_SEED=%llu, step %llu: %s", (unsigned long long)first, (unsigned long long)w->step, w->wrong);
	world_end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_model)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
