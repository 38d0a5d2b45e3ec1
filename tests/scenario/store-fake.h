/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A master of the managed store that does what a test tells it: loses answers, is started
 * anew, has no room, grants leases that are over at once.  It knows one object per key, hands
 * out memory from each segment's start, and never frees any.
 */
#ifndef MC_TESTS_STORE_FAKE_H
#define MC_TESTS_STORE_FAKE_H

#include <mooncake/rpc.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stores/managed/store_wire.h"

#define FAKE_OBJECTS 4096
#define FAKE_SEGMENTS 32
#define FAKE_PIECES 64

struct fake_object {
	char key[MC_STORE_KEY_MAX + 1];
	uint32_t key_len;
	uint64_t len, token, nonce;
	enum { FAKE_FREE, FAKE_PUTTING, FAKE_COMPLETE } state;
	struct mc_master_extent extents[FAKE_PIECES];
	uint32_t nr, nr_replicas, failed;
	uint8_t checksum[16], has_checksum;
};

struct fake_segment {
	struct mc_master_segment info;
	char engine[256], location[32];
	uint64_t used;
	bool mounted;
};

struct fake {
	pthread_mutex_t lock; /* guards all below */
	struct mc_rpc_service *service;
	uint64_t epoch, tokens;
	struct fake_object objects[FAKE_OBJECTS];
	struct fake_segment segments[FAKE_SEGMENTS];
	size_t nr_objects, nr_segments;
	struct mc_master_client_id known[64];
	size_t nr_known;
	uint32_t next_segment; /* where the next replica goes */
	/* What the test wants. */
	int lose[MC_WIRE_METHOD_END];  /* so many answers are lost: what was asked is done */
	int refuse[MC_WIRE_METHOD_END]; /* so many are not even asked */
	int full;                      /* so many starts find no room */
	int no_log;                    /* so many ends and removes cannot be logged */
	uint64_t lease_ns, put_ttl_ns, piece; /* piece: largest, 0: none */
	uint64_t evict;                /* a generation to be cut off; 0: none */
	bool forget_at_end;            /* started anew once a put's end was done, before it was answered */
	bool foreign;                  /* speaks versions that no client of today does */
	/* What it saw. */
	unsigned asked[MC_WIRE_METHOD_END];
	unsigned nr_evicted;
	uint16_t last_flags; /* not a PING's, which come at any time */
	char last_parent[64];
};

#define FAKE_SET(field, value)                                                                                                   \
	do {                                                                                                                     \
		pthread_mutex_lock(&fake.lock);                                                                                  \
		fake.field = (value);                                                                                            \
		pthread_mutex_unlock(&fake.lock);                                                                                \
	} while (0)
#define FAKE_GET(field)                                                                                                          \
	({                                                                                                                       \
		pthread_mutex_lock(&fake.lock);                                                                                  \
		__typeof__(fake.field) got_ = fake.field;                                                                        \
		pthread_mutex_unlock(&fake.lock);                                                                                \
		got_;                                                                                                            \
	})

static inline void fake_restart(struct fake *f)
{
	f->epoch++;
	f->nr_known = 0;
	for (size_t i = 0; i < f->nr_objects; i++)
		if (f->objects[i].state == FAKE_PUTTING)
			f->objects[i].state = FAKE_FREE;
	for (size_t i = 0; i < f->nr_segments; i++)
		f->segments[i].mounted = false;
}

static inline struct fake_object *fake_find(struct fake *f, const struct mc_master_key *key)
{
	for (size_t i = 0; i < f->nr_objects; i++)
		if (f->objects[i].state != FAKE_FREE && f->objects[i].key_len == key->len && !memcmp(f->objects[i].key, key->data, key->len))
			return &f->objects[i];
	return NULL;
}

/* Where that extent of the key will be written, once its put has begun; NULL: it does not.  Takes the lock. */
static inline const unsigned char *fake_wait_place(struct fake *f, const char *key, uint32_t extent)
{
	struct mc_master_key k = {.data = key, .len = (uint32_t)strlen(key)};
	const unsigned char *to = NULL;

	for (int i = 0; i < 60000 && !to; i++) {
		struct fake_object *o;

		pthread_mutex_lock(&f->lock);
		o = fake_find(f, &k);
		to = o ? (unsigned char *)(uintptr_t)o->extents[extent].offset : NULL;
		pthread_mutex_unlock(&f->lock);
		nanosleep(&(struct timespec){.tv_nsec = to ? 0 : 100000}, NULL);
	}
	return to;
}

static inline bool fake_knows(struct fake *f, const struct mc_master_client_id *id)
{
	for (size_t i = 0; i < f->nr_known; i++)
		if (!memcmp(&f->known[i], id, sizeof *id))
			return true;
	return false;
}

static inline struct fake_segment *fake_segment(struct fake *f, uint32_t id)
{
	return id && id <= f->nr_segments ? &f->segments[id - 1] : NULL;
}

/* One replica, in pieces over the segments from the next one on. */
static inline bool fake_place(struct fake *f, struct fake_object *o, uint8_t replica)
{
	uint64_t left = o->len;

	for (size_t tries = 0; left && tries < 4 * FAKE_SEGMENTS; tries++) {
		struct fake_segment *s = &f->segments[f->next_segment++ % f->nr_segments];
		uint64_t n = f->piece && left > f->piece ? f->piece : left;

		if (!s->mounted || s->info.len - s->used < n || o->nr == FAKE_PIECES)
			continue;
		o->extents[o->nr++] = (struct mc_master_extent){.offset = s->info.base + s->used, .len = n, .segment = s->info.id,
								.replica = replica};
		s->used += (n + 255) / 256 * 256;
		left -= n;
	}
	return !left;
}

static inline void fake_put(struct fake *f, struct mc_master_put *p, const struct mc_master_put_config *c, uint16_t flags,
			    struct mc_master_extents *x)
{
	struct fake_object *o = fake_find(f, &p->key);

	if (o && o->state == FAKE_PUTTING && o->nonce == c->nonce)
		goto tell;
	p->status = !o ? 0 : o->state == FAKE_PUTTING ? -EBUSY : flags & MC_MASTER_PUT_UPSERT ? 0 : -EEXIST;
	p->retry_ms = 10;
	if (p->status == 0 && f->full > 0) {
		f->full--;
		p->status = -ENOSPC;
	}
	if (p->status)
		return;
	if (o)
		o->state = FAKE_FREE;
	o = &f->objects[f->nr_objects++];
	*o = (struct fake_object){.key_len = p->key.len, .len = p->len, .token = ++f->tokens, .nonce = c->nonce, .state = FAKE_PUTTING};
	memcpy(o->key, p->key.data, p->key.len);
	o->nr_replicas = c->nr_replicas ? c->nr_replicas : 1;
	for (uint8_t r = 0; r < o->nr_replicas; r++)
		if (!fake_place(f, o, r)) {
			o->state = FAKE_FREE;
			p->status = -ENOSPC;
			p->retry_ms = 0;
			return;
		}
tell:
	p->status = 0;
	p->token = o->token;
	p->first = (uint32_t)x->nr;
	p->nr = o->nr;
	memcpy(&x->at[x->nr], o->extents, o->nr * sizeof *o->extents);
	x->nr += o->nr;
}

static inline void fake_end(struct fake *f, struct mc_master_end *e)
{
	e->status = -ESTALE;
	for (size_t i = 0; i < f->nr_objects; i++) {
		struct fake_object *o = &f->objects[i];

		if (o->token != e->token || o->state == FAKE_FREE)
			continue;
		o->failed = e->failed;
		o->state = ~e->failed & ((1u << o->nr_replicas) - 1) ? FAKE_COMPLETE : FAKE_FREE;
		o->has_checksum = e->has_checksum;
		memcpy(o->checksum, e->checksum, 16);
		e->status = 0;
	}
}

static inline void fake_got(struct fake *f, struct mc_master_got *g, struct mc_master_extents *x)
{
	struct fake_object *o = fake_find(f, &g->key);

	g->status = o && o->state == FAKE_COMPLETE ? 0 : -ENOENT;
	if (g->status)
		return;
	g->len = o->len;
	g->nr_replicas = (uint8_t)o->nr_replicas;
	g->has_checksum = o->has_checksum;
	memcpy(g->checksum, o->checksum, 16);
	g->first = x ? (uint32_t)x->nr : 0;
	for (uint32_t i = 0; i < o->nr; i++) {
		if (o->failed & 1u << o->extents[i].replica)
			continue;
		if (!fake_segment(f, o->extents[i].segment)->mounted)
			g->status = -EAGAIN;
		if (x)
			x->at[x->nr++] = o->extents[i], g->nr++;
	}
}

static inline int fake_mount(struct fake *f, struct mc_wire *in, struct mc_wire *out, const struct mc_rpc_incoming *incoming)
{
	struct mc_master_segment m = {.size = sizeof m};
	struct fake_segment *s = NULL;

	mc_wire_mount(in, &m);
	for (size_t i = 0; i < f->nr_segments && !s; i++)
		if (!memcmp(f->segments[i].info.uuid, m.uuid, 16))
			s = &f->segments[i];
	if (!s) {
		s = &f->segments[f->nr_segments++];
		*s = (struct fake_segment){.info = m};
		s->info.id = (uint32_t)f->nr_segments;
	}
	snprintf(s->engine, sizeof s->engine, "%s", incoming->from);
	snprintf(s->location, sizeof s->location, "%s", m.location);
	s->info.engine = s->engine;
	s->info.location = s->location;
	s->info.generation = incoming->generation;
	s->mounted = true;
	mc_wire_number(out, &s->info.id);
	return 0;
}

static inline uint32_t fake_segments(struct fake *f, struct mc_wire *in, struct mc_wire *out, bool write)
{
	static uint32_t from;
	uint32_t nr = 0;

	if (!write)
		mc_wire_number(in, &from);
	for (size_t i = 0; i < f->nr_segments; i++) {
		if (f->segments[i].info.id < from)
			continue;
		nr++;
		if (write)
			mc_wire_segment(out, &f->segments[i].info);
	}
	return nr;
}

/* The body of the answer; the entries' count is the request's but where it says otherwise. */
static inline void fake_body(struct fake *f, uint32_t method, const struct mc_wire_request *q, struct mc_wire *in, struct mc_wire *out,
			     const struct mc_rpc_incoming *incoming)
{
	static struct mc_master_put puts[MC_WIRE_COUNT_MAX];
	static struct mc_master_got gots[MC_WIRE_COUNT_MAX];
	static struct mc_master_end ends[MC_WIRE_COUNT_MAX];
	static struct mc_master_named named[MC_WIRE_COUNT_MAX];
	static struct mc_master_extent at[65536];
	struct mc_master_extents x = {.at = at, .cap = 65536};
	struct mc_master_put_config config = {.size = sizeof config};
	struct mc_master_full full = {.lent = 1000, .used = 900, .leased = 800};
	uint32_t preferred[MC_WIRE_PREFERRED_MAX];
	uint64_t generations[MC_WIRE_EVICT_MAX];

	switch (method) {
	case MC_WIRE_PING:
		mc_wire_generations(in, q->count, generations);
		f->nr_evicted += q->count;
		if (q->count)
			f->evict = 0;
		if (f->evict)
			mc_wire_generations(out, 1, &f->evict);
		break;
	case MC_WIRE_MOUNT:
		fake_mount(f, in, out, incoming);
		break;
	case MC_WIRE_SEGMENTS:
		fake_segments(f, in, out, true);
		break;
	case MC_WIRE_PUT_START:
		memset(puts, 0, sizeof puts);
		mc_wire_put_config(in, &config, preferred);
		mc_wire_puts(in, q->count, puts);
		snprintf(f->last_parent, sizeof f->last_parent, "%.*s", (int)config.parent.len, (const char *)config.parent.data);
		for (uint32_t i = 0; i < q->count; i++)
			fake_put(f, &puts[i], &config, q->flags, &x);
		mc_wire_full(out, &full);
		mc_wire_places(out, q->count, puts, &x);
		break;
	case MC_WIRE_PUT_END:
	case MC_WIRE_PUT_REVOKE:
		mc_wire_ends(in, q->count, ends);
		for (uint32_t i = 0; i < q->count; i++) {
			if (method == MC_WIRE_PUT_REVOKE)
				ends[i].failed = 0xff;
			fake_end(f, &ends[i]);
			if (method == MC_WIRE_PUT_END && f->no_log) {
				f->no_log--;
				ends[i].status = -ENOSPC;
			}
		}
		mc_wire_statuses(out, q->count, &ends->status, sizeof *ends);
		break;
	case MC_WIRE_GET:
	case MC_WIRE_EXIST:
		memset(gots, 0, sizeof gots);
		mc_wire_gets(in, q->count, gots);
		for (uint32_t i = 0; i < q->count; i++) {
			fake_got(f, &gots[i], method == MC_WIRE_GET ? &x : NULL);
			if (gots[i].status == -ENOENT && q->flags & MC_MASTER_GET_CHAIN)
				for (; i < q->count; i++)
					gots[i].status = -ENOENT;
		}
		mc_wire_gots(out, q->count, gots, method == MC_WIRE_GET ? &x : NULL, &f->lease_ns);
		break;
	case MC_WIRE_REMOVE:
		mc_wire_keys(in, q->count, named);
		for (uint32_t i = 0; i < q->count; i++) {
			struct fake_object *o = fake_find(f, &named[i].key);

			named[i].status = !o ? -ENOENT : f->no_log > 0 ? -ENOSPC : 0;
			f->no_log -= named[i].status == -ENOSPC;
			if (named[i].status == 0)
				o->state = FAKE_FREE;
		}
		mc_wire_statuses(out, q->count, &named->status, sizeof *named);
		break;
	default:
		break;
	}
}

static inline void fake_handle(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming)
{
	static uint8_t reply[MC_RPC_MESSAGE_MAX];
	struct fake *f = arg;
	struct mc_wire in = mc_wire_reader(incoming->data, incoming->len), out = mc_wire_writer(reply, sizeof reply);
	struct mc_wire_request q = {0};
	struct mc_wire_welcome w = {.version = 1, .min = 1, .max = 1, .granule = 256, .lease_ns = f->lease_ns,
				    .put_ttl_ns = f->put_ttl_ns, .client_ttl_ns = 10 * MC_SEC};
	struct mc_wire_reply head;
	uint32_t m = incoming->method < MC_WIRE_METHOD_END ? incoming->method : 0;
	bool lost;

	pthread_mutex_lock(&f->lock);
	mc_wire_request(&in, &q, true);
	f->asked[m]++;
	f->last_flags = m == MC_WIRE_PING ? f->last_flags : q.flags;
	head = (struct mc_wire_reply){.version = 1, .count = q.count, .epoch = f->epoch, .flags = m == MC_WIRE_PUT_START ? MC_WIRE_FULL : 0};
	if (f->refuse[m] > 0) {
		f->refuse[m]--;
		pthread_mutex_unlock(&f->lock);
		mc_rpc_reply(request, -EHOSTDOWN, NULL, 0);
		return;
	}
	if (f->foreign)
		w = (struct mc_wire_welcome){.min = 2, .max = 3};
	if (m == MC_WIRE_HELLO) {
		f->known[f->nr_known++ % 64] = q.client;
	} else if (!fake_knows(f, &q.client) && m != MC_WIRE_GET && m != MC_WIRE_EXIST) {
		const char *text = "not a living client";

		head.count = 0;
		mc_wire_reply(&out, &head);
		mc_wire_sentence(&out, &text);
		pthread_mutex_unlock(&f->lock);
		mc_rpc_reply(request, -ESTALE, reply, mc_wire_len(&out, sizeof reply));
		return;
	}
	if (m == MC_WIRE_PING)
		head.count = f->evict && !q.count;
	if (m == MC_WIRE_SEGMENTS)
		head.count = fake_segments(f, &in, &out, false);
	mc_wire_reply(&out, &head);
	if (m == MC_WIRE_HELLO)
		mc_wire_welcome(&out, &w);
	else
		fake_body(f, m, &q, &in, &out, incoming);
	lost = f->lose[m] > 0;
	f->lose[m] -= lost;
	if (m == MC_WIRE_PUT_END && f->forget_at_end) {
		for (size_t i = 0; i < f->nr_objects; i++)
			f->objects[i].token = 0;
		fake_restart(f);
		f->forget_at_end = false;
		lost = true;
	}
	pthread_mutex_unlock(&f->lock);
	mc_rpc_reply(request, lost ? -EHOSTDOWN : 0, reply, lost ? 0 : mc_wire_len(&out, sizeof reply));
}

#endif
