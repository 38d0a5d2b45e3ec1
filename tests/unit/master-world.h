/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A world around the master's state, for its model test: clients that lend memory, ping, put and
 * read, a clock, a disk; and who may write to each cell of memory, and what lies there, by rules that
 * do not look into the master.  A value is one put; cells hold the number of the value that wrote them.
 */
#ifndef MC_TEST_MASTER_WORLD_H
#define MC_TEST_MASTER_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/util/bytes.h"
#include "master-log.h"

#define MSEC UINT64_C(1000000)
#define SEC (1000 * MSEC)
#define CELL UINT64_C(65536)
#define CELLS 256u         /* of a segment */
#define CLIENTS 5u
#define LENDERS 3u         /* the first ones */
#define SEGMENTS_EACH 2u
#define SEGMENTS (LENDERS * SEGMENTS_EACH)
#define KEYS 400u          /* of each tenant */
#define TENANTS 2u
#define VALUES_MAX (1u << 21)
#define MOUNTS_MAX 16384u

#define LEASE_NS (500 * MSEC)
#define PUT_TTL_NS (2 * SEC)
#define CLIENT_TTL_NS (3 * SEC)

/* Memory that a client lends; a new life of the client is new memory. */
struct memory {
	uint8_t uuid[16];
	uint64_t life;
	uint32_t id;    /* the master's, as of the last mount; 0: none */
	uint32_t mount;
	uint64_t epoch; /* the master's life in which it was mounted */
	bool draining;
	uint32_t owner[CELLS], content[CELLS]; /* values */
};

struct piece {
	uint32_t mount; /* index */
	uint32_t first, nr; /* cells */
	uint8_t replica;
	bool cut;  /* nothing of this writer arrives there any more */
	uint64_t lease_ns; /* who reads here may do so until then */
	bool bad;  /* the writer has told that it could not write it */
};

enum value_state { VALUE_OPEN, VALUE_COMPLETE, VALUE_GONE };

struct value {
	uint32_t key, tenant, client;
	uint64_t len, token, generation, start_ns, epoch, id;
	uint64_t lease_ns; /* the last one told ends then: it must not be evicted */
	uint64_t lease_epoch;
	uint64_t end_seq, gone_seq;
	struct piece *pieces;
	uint16_t nr;
	uint8_t state;
	bool hard, listed;
};

struct mount { /* one number of the master's for a segment, in the order of their coming */
	uint32_t id;
	uint32_t memory; /* index */
	uint64_t life;   /* of that memory */
	uint64_t gone_seq;
	bool known, gone, leaving;
	UT_hash_handle hh;
	uint32_t owner[CELLS]; /* the last values that were given these places under this number */
};

struct lender {
	uint8_t id[16];
	char engine[32];
	uint64_t generation, last_ping, mute_until;
	uint64_t confirm[32]; /* cut off since the last ping */
	size_t nr_confirm;
	uint64_t epoch; /* in which it has pinged */
};

struct world {
	struct mc_master *m;
	struct mc_master_limits limits;
	struct log log;
	uint64_t now, seed, epoch, step, started_ns, ops, generations;
	struct lender clients[CLIENTS];
	struct memory memory[SEGMENTS];
	struct mount *mounts, *by_id;
	uint32_t nr_mounts;
	uint32_t tenants[TENANTS];
	struct value *values;
	uint32_t nr_values;
	uint32_t current[TENANTS][KEYS][2]; /* complete ones by the log; two only after a crash between two changes */
	uint32_t writers[65536];
	uint32_t nr_writers;
	bool removing, ending, trace; /* what the call in progress may do */
	uint64_t hits, misses, evicted, crashes, lost, stale, full, expired;
	char wrong[256];
};

#define WRONG(w, ...)                                                                              \
	do {                                                                                       \
		if (!(w)->wrong[0])                                                                \
			snprintf((w)->wrong, sizeof(w)->wrong, __VA_ARGS__);                       \
	} while (0)
#define TRACE(w, ...)                                                                              \
	do {                                                                                       \
		if ((w)->trace) {                                                                  \
			fprintf(stderr, "%llu %llu ms: ", (unsigned long long)(w)->step,           \
				(unsigned long long)((w)->now / MSEC));                            \
			fprintf(stderr, __VA_ARGS__);                                              \
		}                                                                                  \
	} while (0)

static inline uint64_t draw(struct world *w, uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return (w->seed >> 11) % below;
}

static inline bool once_in(struct world *w, uint64_t n)
{
	return draw(w, n) == 0;
}

/* Which mount has this number; 0: none. */
static inline uint32_t mount_of(struct world *w, uint32_t id)
{
	struct mount *m;

	HASH_FIND(hh, w->by_id, &id, sizeof id, m);
	return m ? (uint32_t)(m - w->mounts) : 0;
}

/* The memory behind a mount, or NULL: its client's life has ended. */
static inline struct memory *memory_of(struct world *w, uint32_t mount)
{
	struct mount *m = mount < MOUNTS_MAX ? &w->mounts[mount] : NULL;

	return m && m->known && w->memory[m->memory].life == m->life ? &w->memory[m->memory] : NULL;
}

static inline bool piece_has(struct world *w, const struct piece *p, const struct memory *m, uint32_t cell)
{
	return memory_of(w, p->mount) == m && p->first <= cell && cell < p->first + p->nr;
}

/* May somebody read what this value has in a cell? */
static inline bool leased_there(struct world *w, const struct value *v, const struct memory *m, uint32_t cell)
{
	for (uint32_t i = 0; i < v->nr; i++)
		if (v->pieces[i].lease_ns > w->now && piece_has(w, &v->pieces[i], m, cell))
			return true;
	return false;
}

/* ---- what the log says ----------------------------------------------------------------------- */

static inline bool mount_lost(struct world *w, uint32_t mount)
{
	const struct mount *m = &w->mounts[mount];
	const struct lender *c = &w->clients[m->memory / SEGMENTS_EACH];

	if (m->gone || m->leaving || w->memory[m->memory].life != m->life)
		return true;
	return w->now - c->last_ping >= w->limits.client_ttl_ns ||
	       (w->memory[m->memory].epoch != w->epoch && w->now - w->started_ns >= w->limits.client_ttl_ns);
}

/* All that was written of it lies where nothing can be read any more. */
static inline bool value_lost(struct world *w, const struct value *v)
{
	for (uint32_t i = 0; i < v->nr; i++) {
		bool lost = false;

		if (v->pieces[i].bad)
			continue;
		for (uint32_t k = 0; k < v->nr; k++)
			lost |= v->pieces[k].replica == v->pieces[i].replica && mount_lost(w, v->pieces[k].mount);
		if (!lost)
			return false;
	}
	return true;
}

static inline void current_drop(struct world *w, uint32_t serial)
{
	struct value *v = &w->values[serial];
	uint32_t *at = w->current[v->tenant][v->key];

	if (at[0] == serial) {
		at[0] = at[1];
		at[1] = 0;
	} else if (at[1] == serial) {
		at[1] = 0;
	}
}

static inline void current_add(struct world *w, uint32_t serial)
{
	struct value *v = &w->values[serial];
	uint32_t *at = w->current[v->tenant][v->key];

	if (at[0] == serial || at[1] == serial)
		return;
	at[1] = at[0];
	at[0] = serial;
}

/* A complete value is taken away: may it be? */
static inline void check_gone(struct world *w, uint32_t serial)
{
	struct value *v = &w->values[serial];

	if (w->removing || w->ending || value_lost(w, v))
		return;
	if (v->lease_ns > w->now)
		WRONG(w, "value %u is evicted with %llu ms of a lease left", serial,
		      (unsigned long long)((v->lease_ns - w->now) / MSEC));
	if (v->hard)
		WRONG(w, "value %u is evicted and hard-pinned", serial);
	w->evicted++;
}

/* Numbers of objects and the values they are; the master's numbers may come again when a tail is lost. */
struct name {
	uint64_t id;
	uint32_t serial;
	UT_hash_handle hh;
};

static struct name *names;

static inline void name_set(uint64_t id, uint32_t serial)
{
	struct name *n;

	HASH_FIND(hh, names, &id, sizeof id, n);
	if (!n) {
		n = calloc(1, sizeof *n);
		if (!n)
			abort();
		n->id = id;
		HASH_ADD(hh, names, id, sizeof n->id, n);
	}
	n->serial = serial;
}

static inline uint32_t name_get(uint64_t id)
{
	struct name *n;

	HASH_FIND(hh, names, &id, sizeof id, n);
	return n ? n->serial : 0;
}

/* The value that a record is of, by the places that it names: who was given them.  0: nobody. */
static inline uint32_t record_value(struct world *w, const uint8_t *rec, size_t len)
{
	uint32_t mount = len >= 72 ? mount_of(w, mc_get32(rec + 48)) : 0;
	uint64_t cell = len >= 72 ? mc_get64(rec + 56) / CELL : CELLS;
	const struct value *v;
	uint32_t serial;
	char key[16];

	if (!mount || cell >= CELLS)
		return 0;
	serial = w->mounts[mount].owner[cell];
	v = &w->values[serial];
	snprintf(key, sizeof key, "key-%06u", v->key);
	if (len < 48 + strlen(key) || memcmp(rec + len - strlen(key), key, strlen(key)) != 0 || mc_get64(rec + 8) != v->len)
		return 0;
	return serial;
}

static inline void mount_gone(struct world *w, uint32_t mount, uint64_t seq)
{
	w->mounts[mount].gone = true;
	w->mounts[mount].gone_seq = seq;
}

/* What the master logs is what it has decided: each change is judged here. */
static inline uint64_t seen(void *arg, const struct mc_store_change *c, int r)
{
	struct world *w = arg;
	struct value *v;
	uint32_t serial;

	if (c->table == MC_MASTER_TABLE_SEGMENT && c->gone && r == 0)
		mount_gone(w, mount_of(w, (uint32_t)c->id), c->seq);
	if (c->table != MC_MASTER_TABLE_OBJECT)
		return 0;
	serial = c->gone ? name_get(c->id) : record_value(w, c->value, c->len);
	v = &w->values[serial];
	if (!serial) {
		/* Records that a start has left out are taken away. */
		if (!c->gone)
			WRONG(w, "object %llu is logged at places that it was not given", (unsigned long long)c->id);
		return 0;
	}
	TRACE(w, "log: object %llu, value %u, %s: %d\n", (unsigned long long)c->id, serial, c->gone ? "gone" : "is", r);
	if (c->gone && r < 0 && w->removing) /* who wants it removed is told that it stays */
		return serial;
	if (c->gone) {
		if (v->state == VALUE_COMPLETE)
			check_gone(w, serial);
		current_drop(w, serial);
		v->state = VALUE_GONE;
		v->gone_seq = r < 0 ? UINT64_MAX : c->seq;
		return serial;
	}
	if (r < 0 || (v->state == VALUE_COMPLETE && v->id == c->id)) /* told again: a pin, a replica less */
		return serial;
	if (v->state != VALUE_OPEN || !w->ending) {
		WRONG(w, "value %u is logged, and was not ended just now", serial);
		return serial;
	}
	v->state = VALUE_COMPLETE;
	v->id = c->id;
	v->end_seq = c->seq;
	name_set(c->id, serial);
	current_add(w, serial);
	return serial;
}

#endif
