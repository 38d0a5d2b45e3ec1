/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients do in the world of the master's model test: lend, ping, put, and write late; and what
 * the places that they are given must not be.
 */
#ifndef MC_TEST_MASTER_PUTS_H
#define MC_TEST_MASTER_PUTS_H

#include <errno.h>

#include "core/util/check.h"
#include "master-world.h"

#define BATCH 8u

/* ---- clients and their memory ---------------------------------------------------------------- */

static inline void client_born(struct world *w, uint32_t at)
{
	struct lender *c = &w->clients[at];

	for (size_t i = 0; i < sizeof c->id; i++)
		c->id[i] = (uint8_t)draw(w, 256);
	c->generation = ++w->generations;
	snprintf(c->engine, sizeof c->engine, "engine-%llu", (unsigned long long)c->generation);
	c->nr_confirm = 0;
	c->epoch = 0;
	for (uint32_t k = 0; at < LENDERS && k < SEGMENTS_EACH; k++) {
		struct memory *m = &w->memory[at * SEGMENTS_EACH + k];

		m->life++;
		m->id = 0;
		m->epoch = 0;
		m->draining = false;
		for (size_t i = 0; i < sizeof m->uuid; i++)
			m->uuid[i] = (uint8_t)draw(w, 256);
		memset(m->owner, 0, sizeof m->owner);
		memset(m->content, 0, sizeof m->content);
	}
}

static inline struct mc_master_client_id id_of(const struct lender *c)
{
	struct mc_master_client_id id;

	memcpy(id.bytes, c->id, sizeof id.bytes);
	return id;
}

static inline void mount_all(struct world *w, uint32_t at)
{
	struct lender *c = &w->clients[at];

	for (uint32_t k = 0; at < LENDERS && k < SEGMENTS_EACH; k++) {
		uint32_t place = at * SEGMENTS_EACH + k;
		struct memory *m = &w->memory[place];
		struct mc_master_segment segment = {.size = sizeof segment, .engine = c->engine, .generation = c->generation,
						    .base = place * CELLS * CELL, .len = CELLS * CELL, .location = "cpu:0",
						    .host = at + 1, .client = id_of(c)};
		struct mount *mount;
		int r;

		memcpy(segment.uuid, m->uuid, sizeof m->uuid);
		r = mc_master_mount(w->m, &segment, w->now);
		if (r == -ENOSPC) { /* of the log */
			w->log.fail = 0;
			r = mc_master_mount(w->m, &segment, w->now);
		}
		TRACE(w, "mount of %u by %u: %d, %u\n", place, at, r, segment.id);
		if (r < 0) {
			WRONG(w, "mount: %s", strerror(-r));
			return;
		}
		mount = &w->mounts[mount_of(w, segment.id)];
		if (mount != w->mounts && (mount->memory != place || mount->life != m->life || mount->gone || mount->leaving))
			WRONG(w, "the number of a segment, %u, is used again", segment.id);
		if (mount == w->mounts) {
			if (++w->nr_mounts == MOUNTS_MAX) {
				WRONG(w, "too many mounts for this test");
				return;
			}
			m->draining = false;
			mount = &w->mounts[w->nr_mounts];
			*mount = (struct mount){.id = segment.id, .known = true, .memory = place, .life = m->life};
			HASH_ADD(hh, w->by_id, id, sizeof mount->id, mount);
		}
		m->mount = (uint32_t)(mount - w->mounts);
		m->id = segment.id;
		m->epoch = w->epoch;
	}
}

/* The lender cuts a writer off: nothing of what it began arrives any more. */
static inline void cut_off(struct world *w, uint32_t lender, uint64_t generation)
{
	for (uint32_t i = 0; i < w->nr_writers; i++) {
		struct value *v = &w->values[w->writers[i]];

		for (uint32_t k = 0; k < v->nr && v->generation == generation; k++)
			if (w->mounts[v->pieces[k].mount].memory / SEGMENTS_EACH == lender)
				v->pieces[k].cut = true;
	}
}

static inline void ping(struct world *w, uint32_t at, bool lost)
{
	struct lender *c = &w->clients[at];
	struct mc_master_ping p = {.size = sizeof p, .client = id_of(c), .engine = c->engine, .generation = c->generation,
				   .evicted = c->confirm, .nr_evicted = c->nr_confirm};
	int r;

	if (lost && once_in(w, 2)) {
		c->nr_confirm = 0;
		return;
	}
	r = mc_master_client_ping(w->m, &p, w->now);
	TRACE(w, "ping of %u: %d, %zu to cut off%s\n", at, r, p.nr_evict, p.remount ? ", mount" : "");
	if (r < 0)
		WRONG(w, "ping: %s", strerror(-r));
	c->last_ping = w->now;
	c->nr_confirm = 0;
	if (lost)
		return;
	c->epoch = w->epoch;
	for (size_t i = 0; i < p.nr_evict; i++) {
		cut_off(w, at, p.evict[i]);
		c->confirm[c->nr_confirm++] = p.evict[i];
	}
	if (p.remount)
		mount_all(w, at);
}

/* ---- puts ------------------------------------------------------------------------------------ */

/* May what this writer has sent there still arrive? */
static inline struct memory *reaches(struct world *w, const struct value *v, const struct piece *p)
{
	struct memory *m = memory_of(w, p->mount);
	bool same = m && m->mount == p->mount && v->epoch == w->epoch && !w->mounts[p->mount].gone;

	return m && !p->cut && (same || w->now < v->start_ns + w->limits.put_ttl_ns) ? m : NULL;
}

static inline void write_piece(struct world *w, uint32_t serial, const struct piece *p, uint32_t nr)
{
	struct value *v = &w->values[serial];
	struct memory *m = reaches(w, v, p);

	for (uint32_t i = p->first; m && i < p->first + nr; i++) {
		const struct value *there = &w->values[m->content[i]];

		if (m->owner[i] != serial)
			WRONG(w, "value %u is written where value %u may be", serial, m->owner[i]);
		else if (m->content[i] != serial && leased_there(w, there, m, i))
			WRONG(w, "value %u is written over value %u, whose lease stands", serial, m->content[i]);
		m->content[i] = serial;
	}
}

static inline void writer_add(struct world *w, uint32_t serial)
{
	if (w->nr_writers == MC_ARRAY_SIZE(w->writers)) {
		WRONG(w, "too many writers");
		return;
	}
	w->values[serial].listed = true;
	w->writers[w->nr_writers++] = serial;
}

static inline void writer_drop(struct world *w, uint32_t serial)
{
	for (uint32_t i = 0; i < w->nr_writers; i++) {
		if (w->writers[i] != serial)
			continue;
		w->writers[i] = w->writers[--w->nr_writers];
		break;
	}
	w->values[serial].listed = false;
}

/* Some writer gets on. */
static inline void write_some(struct world *w)
{
	uint32_t serial, at;
	struct value *v;
	bool any = false;

	if (w->nr_writers == 0)
		return;
	serial = w->writers[draw(w, w->nr_writers)];
	v = &w->values[serial];
	at = (uint32_t)draw(w, v->nr);
	if (v->state == VALUE_OPEN || v->pieces[at].bad)
		write_piece(w, serial, &v->pieces[at], 1 + (uint32_t)draw(w, v->pieces[at].nr));
	for (uint32_t i = 0; i < v->nr; i++)
		any |= (v->state == VALUE_OPEN || v->pieces[i].bad) && reaches(w, v, &v->pieces[i]);
	if (!any && v->state != VALUE_OPEN)
		writer_drop(w, serial);
}

/* The mount that has gone with a piece's replica, or the piece's own. */
static inline const struct mount *replica_gone(struct world *w, const struct value *v, uint32_t piece)
{
	for (uint32_t i = 0; i < v->nr; i++)
		if (v->pieces[i].replica == v->pieces[piece].replica && w->mounts[v->pieces[i].mount].gone)
			return &w->mounts[v->pieces[i].mount];
	return &w->mounts[v->pieces[piece].mount];
}

/* Places are given: nobody else may have to do with them. */
static inline void check_place(struct world *w, struct memory *m, uint32_t cell, uint32_t serial)
{
	const uint32_t before = m->owner[cell];
	const struct value *v = &w->values[before];

	if (!before)
		return;
	for (uint32_t i = 0; i < v->nr; i++) {
		const struct mount *mount = replica_gone(w, v, i);
		uint64_t gone_seq = v->state == VALUE_GONE ? v->gone_seq : UINT64_MAX;

		if (v->pieces[i].bad || !piece_has(w, &v->pieces[i], m, cell))
			continue;
		if (mount->gone) /* what comes first */
			gone_seq = MC_MIN(gone_seq, mount->gone_seq);
		if (v->state == VALUE_COMPLETE && !mount->gone && !mount->leaving)
			WRONG(w, "value %u gets a place of value %u, which is complete", serial, before);
		if (v->state != VALUE_OPEN && gone_seq > w->log.synced)
			WRONG(w, "value %u gets a place of value %u, and that this has gone is not on the disk", serial, before);
	}
	if (leased_there(w, v, m, cell))
		WRONG(w, "value %u gets a place of value %u, whose lease stands", serial, before);
	for (uint32_t i = 0; v->listed && i < v->nr; i++) {
		const struct piece *p = &v->pieces[i];

		if (reaches(w, v, p) == m && piece_has(w, p, m, cell) && (v->state == VALUE_OPEN || p->bad))
			WRONG(w, "value %u gets a place of value %u, whose writer has not been cut off", serial, before);
	}
}

static inline uint32_t value_new(struct world *w, uint32_t client, uint32_t tenant, uint32_t key, const struct mc_master_put *put,
			  const struct mc_master_extents *x, bool hard)
{
	uint32_t serial = ++w->nr_values;
	struct value *v = &w->values[serial];
	uint64_t sum = 0;

	*v = (struct value){.key = key, .tenant = tenant, .client = client, .len = put->len, .token = put->token,
			    .generation = w->clients[client].generation, .start_ns = w->now, .epoch = w->epoch, .hard = hard,
			    .state = VALUE_OPEN, .nr = (uint16_t)put->nr};
	v->pieces = calloc(put->nr, sizeof *v->pieces);
	assert_non_null(v->pieces);
	for (uint32_t i = 0; i < put->nr; i++) {
		const struct mc_master_extent *e = &x->at[put->first + i];
		uint32_t index = mount_of(w, e->segment);
		struct mount *mount = &w->mounts[index];
		uint64_t base = (uint64_t)mount->memory * CELLS * CELL;
		struct memory *m = memory_of(w, index);
		struct piece *p = &v->pieces[i];

		if (!mount->known || mount->gone || e->offset < base || e->len == 0 || e->offset % CELL ||
		    e->offset + e->len > base + CELLS * CELL) {
			WRONG(w, "value %u gets a place that nobody lends", serial);
			return serial;
		}
		TRACE(w, "value %u: replica %u in segment %u, memory %u, from cell %u, %llu bytes\n", serial, e->replica, e->segment,
		      mount->memory, (uint32_t)((e->offset - base) / CELL), (unsigned long long)e->len);
		*p = (struct piece){.mount = index, .first = (uint32_t)((e->offset - base) / CELL),
				    .nr = (uint32_t)((e->len + CELL - 1) / CELL), .replica = e->replica};
		sum += e->replica == x->at[put->first].replica ? e->len : 0;
		if (m && m->draining)
			WRONG(w, "value %u gets a place in a segment that drains", serial);
		for (uint32_t k = p->first; k < p->first + p->nr; k++) {
			if (m)
				check_place(w, m, k, serial);
			if (m)
				m->owner[k] = serial;
			mount->owner[k] = serial;
		}
	}
	if (sum != v->len)
		WRONG(w, "value %u has %llu bytes and places for %llu", serial, (unsigned long long)v->len, (unsigned long long)sum);
	writer_add(w, serial);
	return serial;
}

struct keys {
	char text[BATCH][16];
	uint32_t at[BATCH];
	uint32_t nr, tenant;
};

static inline struct mc_master_key keys_draw(struct world *w, struct keys *k, uint32_t i)
{
	/* A few keys are wanted often. */
	k->at[i] = (uint32_t)draw(w, once_in(w, 2) ? KEYS / 16 : KEYS);
	for (uint32_t j = 0; j < i; j++)
		if (k->at[j] == k->at[i])
			return keys_draw(w, k, i);
	snprintf(k->text[i], sizeof k->text[i], "key-%06u", k->at[i]);
	return (struct mc_master_key){k->text[i], (uint32_t)strlen(k->text[i])};
}

static inline void puts_check(struct world *w, const struct keys *k, const struct mc_master_put *puts, uint32_t flags,
			      const uint32_t *before)
{
	for (uint32_t i = 0; i < k->nr; i++) {
		uint32_t now = w->current[k->tenant][k->at[i]][0];

		if (puts[i].status == -EEXIST && !before[i])
			WRONG(w, "%s: EEXIST, and there is none", k->text[i]);
		if (puts[i].status == 0 && now && !(flags & MC_MASTER_PUT_UPSERT) && !value_lost(w, &w->values[now]))
			WRONG(w, "%s: a put begins over value %u", k->text[i], now);
		if (puts[i].status != 0 && puts[i].status != -EEXIST && puts[i].status != -EBUSY && puts[i].status != -ENOSPC &&
		    puts[i].status != -E2BIG)
			WRONG(w, "%s: put_start says %s", k->text[i], strerror(-puts[i].status));
		w->full += puts[i].status == -ENOSPC;
	}
}

static inline void put_start(struct world *w)
{
	uint32_t at = (uint32_t)draw(w, CLIENTS);
	struct mc_master_client_id id = id_of(&w->clients[at]);
	struct mc_master_put puts[BATCH] = {0}, again[BATCH];
	struct mc_master_extent room[BATCH * 128], room2[BATCH * 128];
	struct mc_master_extents x = {room, 0, MC_ARRAY_SIZE(room)}, x2 = {room2, 0, MC_ARRAY_SIZE(room2)};
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = 1 + (uint32_t)draw(w, 8) / 6, .nonce = draw(w, 1u << 30) + 1,
					      .host = at + 1};
	struct keys k = {.nr = 1 + (uint32_t)draw(w, BATCH), .tenant = (uint32_t)draw(w, TENANTS)};
	struct mc_master_full full;
	uint32_t before[BATCH];
	int r;

	config.tenant = w->tenants[k.tenant];
	config.flags = (once_in(w, 10) ? MC_MASTER_PUT_UPSERT : 0) | (once_in(w, 40) ? MC_MASTER_PUT_HARD_PIN : 0) |
		       (once_in(w, 10) ? MC_MASTER_PUT_SOFT_PIN : 0) | (once_in(w, 3) ? MC_MASTER_PUT_CHAIN : 0) |
		       (once_in(w, 4) ? MC_MASTER_PUT_ALL : 0);
	for (uint32_t i = 0; i < k.nr; i++)
		puts[i] = (struct mc_master_put){.key = keys_draw(w, &k, i),
						 .len = 1 + draw(w, (once_in(w, 50) ? 300 : 1 + draw(w, 24)) * CELL)};
	for (uint32_t i = 0; i < k.nr; i++)
		before[i] = w->current[k.tenant][k.at[i]][0];
	memcpy(again, puts, sizeof again);
	r = mc_master_put_start(w->m, &id, &config, puts, k.nr, &x, &full, w->now);
	w->ops += k.nr;
	if (r == -ESTALE) {
		if (w->clients[at].epoch == w->epoch && w->now - w->clients[at].last_ping < w->limits.client_ttl_ns)
			WRONG(w, "a client that pings is not known");
		return;
	}
	if (r < 0) {
		WRONG(w, "put_start: %s", strerror(-r));
		return;
	}
	puts_check(w, &k, puts, config.flags, before);
	for (uint32_t i = 0; i < k.nr; i++) {
		TRACE(w, "put_start of %s/%u by %u: %d, value %u\n", k.text[i], k.tenant, at, puts[i].status,
		      puts[i].status ? 0 : w->nr_values + 1);
		if (puts[i].status == 0)
			value_new(w, at, k.tenant, k.at[i], &puts[i], &x, config.flags & MC_MASTER_PUT_HARD_PIN);
	}
	if (!once_in(w, 16))
		return;
	/* The answer was lost. */
	mc_master_put_start(w->m, &id, &config, again, k.nr, &x2, &full, w->now);
	for (uint32_t i = 0; i < k.nr; i++)
		if (puts[i].status == 0 &&
		    (again[i].status != 0 || again[i].token != puts[i].token || again[i].nr != puts[i].nr ||
		     memcmp(&room[puts[i].first], &room2[again[i].first], puts[i].nr * sizeof room[0]) != 0))
			WRONG(w, "%s: asked again, put_start says something else: %d", k.text[i], again[i].status);
		else if (puts[i].status != 0 && again[i].status == 0)
			value_new(w, at, k.tenant, k.at[i], &again[i], &x2, config.flags & MC_MASTER_PUT_HARD_PIN);
}

/* The client has ended its transfers; what did not arrive is told. */
static inline uint32_t finish_writes(struct world *w, uint32_t serial)
{
	struct value *v = &w->values[serial];
	uint32_t failed = 0;

	for (uint32_t i = 0; i < v->nr; i++)
		if (once_in(w, 200) || v->pieces[i].bad || !reaches(w, v, &v->pieces[i]))
			failed |= 1u << v->pieces[i].replica;
	for (uint32_t i = 0; i < v->nr; i++)
		if (!(failed >> v->pieces[i].replica & 1))
			write_piece(w, serial, &v->pieces[i], v->pieces[i].nr);
		else
			v->pieces[i].bad = true;
	return failed;
}

static inline void put_end(struct world *w)
{
	struct mc_master_end ends[BATCH] = {0}, again[BATCH];
	uint32_t serials[BATCH], nr = 0;
	struct mc_master_client_id id;
	uint32_t client = 0;

	for (uint32_t tries = 0; tries < BATCH * 2 && nr < BATCH && w->nr_writers; tries++) {
		uint32_t serial = w->writers[draw(w, w->nr_writers)];
		struct value *v = &w->values[serial];
		bool twice = false;

		for (uint32_t i = 0; i < nr; i++)
			twice |= serials[i] == serial;
		if (v->state != VALUE_OPEN || twice || v->generation != w->clients[v->client].generation ||
		    (nr && v->client != client))
			continue;
		client = v->client;
		serials[nr] = serial;
		ends[nr++] = (struct mc_master_end){.token = v->token, .failed = finish_writes(w, serial)};
	}
	if (nr == 0 || w->wrong[0])
		return;
	id = id_of(&w->clients[client]);
	w->ending = true;
	memcpy(again, ends, sizeof again);
	mc_master_put_end(w->m, &id, ends, nr, w->now);
	w->ops += nr;
	if (once_in(w, 16)) {
		mc_master_put_end(w->m, &id, again, nr, w->now);
		for (uint32_t i = 0; i < nr; i++)
			if (ends[i].status == 0 && again[i].status != 0)
				WRONG(w, "value %u is ended twice: %d", serials[i], again[i].status);
			else
				ends[i].status = again[i].status;
	}
	w->ending = false;
	for (uint32_t i = 0; i < nr; i++) {
		struct value *v = &w->values[serials[i]];
		bool bad = false;

		TRACE(w, "put_end of value %u, not written %x: %d\n", serials[i], ends[i].failed, ends[i].status);
		/* Two of a batch may have the same key, so it may have been replaced by now. */
		if (ends[i].status == 0 && v->state == VALUE_OPEN)
			WRONG(w, "value %u is told to be complete, and is not in the log", serials[i]);
		if (ends[i].status != 0 && v->state == VALUE_COMPLETE)
			WRONG(w, "value %u is in the log, and is not told to be complete: %d", serials[i], ends[i].status);
		if (v->state == VALUE_OPEN && ends[i].status == -EBUSY)
			continue; /* tried again */
		w->stale += ends[i].status == -ESTALE;
		for (uint32_t p = 0; p < v->nr; p++)
			bad |= v->pieces[p].bad;
		if (v->state == VALUE_OPEN)
			v->state = VALUE_GONE;
		if (!bad)
			writer_drop(w, serials[i]);
	}
}

static inline void revoke(struct world *w, uint32_t serial)
{
	struct value *v = &w->values[serial];
	struct mc_master_end end = {.token = v->token};
	struct mc_master_client_id id;
	bool was = v->state == VALUE_OPEN;

	if (!serial || v->generation != w->clients[v->client].generation)
		return;
	id = id_of(&w->clients[v->client]);
	mc_master_put_revoke(w->m, &id, &end, 1, w->now);
	w->ops++;
	TRACE(w, "put_revoke of value %u: %d\n", serial, end.status);
	if (end.status != 0 && end.status != -ESTALE)
		WRONG(w, "put_revoke: %s", strerror(-end.status));
	if (!was && end.status == 0)
		WRONG(w, "value %u is revoked, and was over", serial);
	if (!was)
		return;
	v->state = VALUE_GONE;
	writer_drop(w, serial);
}

static inline void put_revoke(struct world *w)
{
	uint32_t serial = w->nr_writers ? w->writers[draw(w, w->nr_writers)] : 0;

	/* Or a token of long ago, which must not stand for another put now. */
	if (once_in(w, 3) && w->nr_values)
		serial = w->nr_values - (uint32_t)draw(w, MC_MIN(w->nr_values, 5000u));
	revoke(w, serial);
}

#endif
