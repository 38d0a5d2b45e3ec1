/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between the master and its clients.  Every field goes through one of the
 * small functions at the top, which know the direction; so a message has one
 * description, and nothing is read beyond what was received.
 */
#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "store_wire.h"

/* The next n bytes, to be read (*from) or written (*to); false: there are not so many. */
static inline bool take(struct mc_wire *w, size_t n)
{
	if (w->broken || w->left < n) {
		w->broken = true;
		return false;
	}
	w->left -= n;
	return true;
}

static inline void raw(struct mc_wire *w, void *data, size_t n)
{
	if (!take(w, n))
		return;
	if (w->to) {
		memcpy(w->to, data, n);
		w->to += n;
	} else {
		memcpy(data, w->from, n);
		w->from += n;
	}
}

static inline void u8(struct mc_wire *w, uint8_t *v)
{
	raw(w, v, 1);
}

#define INTEGER(bits)                                                     \
	static inline void u##bits(struct mc_wire *w, uint##bits##_t *v)  \
	{                                                                 \
		if (!take(w, bits / 8))                                   \
			return;                                           \
		if (w->to) {                                              \
			mc_put##bits(w->to, *v);                          \
			w->to += bits / 8;                                \
		} else {                                                  \
			*v = mc_get##bits(w->from);                       \
			w->from += bits / 8;                              \
		}                                                         \
	}
INTEGER(16)
INTEGER(32)
INTEGER(64)

static inline void i32(struct mc_wire *w, int32_t *v)
{
	uint32_t u = (uint32_t)*v;

	u32(w, &u);
	*v = (int32_t)u;
}

/* Bytes that are borrowed when they are read; len was checked by the caller. */
static inline void bytes(struct mc_wire *w, const void **data, size_t len)
{
	if (!take(w, len))
		return;
	if (w->to) {
		if (len)
			memcpy(w->to, *data, len);
		w->to += len;
	} else {
		*data = w->from;
		w->from += len;
	}
}

/* min: 1, or 0 where there may be none. */
static inline void key(struct mc_wire *w, struct mc_master_key *k, uint32_t min)
{
	uint16_t len = (uint16_t)k->len;

	if (w->to && (k->len < min || k->len > MC_STORE_KEY_MAX))
		w->broken = true;
	u16(w, &len);
	if (len < min || len > MC_STORE_KEY_MAX)
		w->broken = true;
	bytes(w, &k->data, len);
	k->len = w->broken ? 0 : len;
}

/* A text of at most max bytes; NULL is written as "". */
static void text(struct mc_wire *w, const char **t, size_t max)
{
	uint16_t len = 0;
	const void *at = *t ? *t : "";

	if (w->to) {
		size_t n = strlen(at);

		if (n > max) {
			w->broken = true;
			return;
		}
		len = (uint16_t)(n + 1);
	}
	u16(w, &len);
	if (len == 0 || len > max + 1)
		w->broken = true;
	bytes(w, &at, len);
	if (w->broken || w->to) {
		*t = w->broken ? "" : *t;
		return;
	}
	if (memchr(at, 0, len) != (const char *)at + len - 1)
		w->broken = true;
	*t = w->broken ? "" : at;
}

int mc_wire_end(const struct mc_wire *wire)
{
	return wire->broken ? -EBADMSG : 0;
}

uint16_t mc_wire_common(uint16_t min, uint16_t max, uint16_t peer_min, uint16_t peer_max)
{
	uint16_t low = min > peer_min ? min : peer_min, high = max < peer_max ? max : peer_max;

	return low <= high ? high : 0;
}

void mc_wire_request(struct mc_wire *w, struct mc_wire_request *head, bool any_version)
{
	u16(w, &head->version);
	u16(w, &head->flags);
	u32(w, &head->count);
	raw(w, head->client.bytes, sizeof head->client.bytes);
	text(w, &head->tenant, MC_MASTER_TENANT_MAX);
	if (head->count > MC_WIRE_COUNT_MAX ||
	    (!any_version && (head->version < MC_WIRE_VERSION_MIN || head->version > MC_WIRE_VERSION_MAX)))
		w->broken = true;
	w->version = head->version;
}

void mc_wire_reply(struct mc_wire *w, struct mc_wire_reply *head)
{
	u16(w, &head->version);
	u16(w, &head->flags);
	u32(w, &head->count);
	u64(w, &head->epoch);
	if (head->count > MC_WIRE_COUNT_MAX)
		w->broken = true;
	w->version = head->version;
}

void mc_wire_sentence(struct mc_wire *w, const char **sentence)
{
	text(w, sentence, MC_WIRE_SENTENCE_MAX);
}

void mc_wire_hello(struct mc_wire *w, struct mc_wire_hello *hello)
{
	u16(w, &hello->min);
	u16(w, &hello->max);
	u64(w, &hello->host);
}

void mc_wire_welcome(struct mc_wire *w, struct mc_wire_welcome *welcome)
{
	u16(w, &welcome->version);
	u16(w, &welcome->min);
	u16(w, &welcome->max);
	u32(w, &welcome->granule);
	u64(w, &welcome->lease_ns);
	u64(w, &welcome->put_ttl_ns);
	u64(w, &welcome->client_ttl_ns);
}

void mc_wire_generations(struct mc_wire *w, uint32_t count, uint64_t *list)
{
	if (count > MC_WIRE_EVICT_MAX) {
		w->broken = true;
		return;
	}
	for (uint32_t i = 0; i < count; i++)
		u64(w, &list[i]);
}

void mc_wire_mount(struct mc_wire *w, struct mc_master_segment *segment)
{
	raw(w, segment->uuid, sizeof segment->uuid);
	u64(w, &segment->base);
	u64(w, &segment->len);
	u64(w, &segment->host);
	text(w, &segment->location, MC_LOCATION_MAX);
}

void mc_wire_uuid(struct mc_wire *w, uint8_t uuid[16])
{
	raw(w, uuid, 16);
}

void mc_wire_number(struct mc_wire *w, uint32_t *number)
{
	u32(w, number);
}

void mc_wire_segment(struct mc_wire *w, struct mc_master_segment *segment)
{
	uint8_t state = (uint8_t)segment->state;

	u32(w, &segment->id);
	u8(w, &state);
	mc_wire_mount(w, segment);
	u64(w, &segment->generation);
	raw(w, segment->client.bytes, sizeof segment->client.bytes);
	u64(w, &segment->used);
	u64(w, &segment->quarantined);
	u64(w, &segment->nr_objects);
	text(w, &segment->engine, MC_MASTER_SEGMENT_NAME_MAX);
	segment->state = (enum mc_master_segment_state)state;
}

void mc_wire_put_config(struct mc_wire *w, struct mc_master_put_config *config, uint32_t *preferred)
{
	uint8_t replicas = (uint8_t)config->nr_replicas, nr = (uint8_t)config->nr_preferred;

	if (config->nr_replicas > MC_MASTER_REPLICAS_MAX && w->to)
		w->broken = true;
	u8(w, &replicas);
	u8(w, &nr);
	if (replicas > MC_MASTER_REPLICAS_MAX || nr > MC_WIRE_PREFERRED_MAX) {
		w->broken = true;
		return;
	}
	if (w->to && nr)
		memcpy(preferred, config->preferred, nr * sizeof *preferred);
	for (uint32_t i = 0; i < nr; i++)
		u32(w, &preferred[i]);
	u64(w, &config->host);
	u64(w, &config->nonce);
	text(w, &config->preferred_engine, MC_MASTER_SEGMENT_NAME_MAX);
	key(w, &config->parent, 0);
	if (w->to)
		return;
	config->nr_replicas = replicas;
	config->nr_preferred = nr;
	config->preferred = preferred;
	if (!config->preferred_engine[0])
		config->preferred_engine = NULL;
}

void mc_wire_puts(struct mc_wire *w, uint32_t count, struct mc_master_put *puts)
{
	for (uint32_t i = 0; i < count && !w->broken; i++) {
		u64(w, &puts[i].len);
		key(w, &puts[i].key, 1);
	}
}

void mc_wire_full(struct mc_wire *w, struct mc_master_full *full)
{
	u64(w, &full->lent);
	u64(w, &full->used);
	u64(w, &full->leased);
	u64(w, &full->pinned);
	u64(w, &full->quarantined);
	u64(w, &full->unfinished);
	u64(w, &full->largest_free);
}

#define EXTENT_LEN 24
#define FAILED_LEN 8 /* status, retry_ms */
#define EXTENTS_MAX (MC_MASTER_REPLICAS_MAX * MC_MASTER_PIECES_MAX)

static void extent(struct mc_wire *w, struct mc_master_extent *e)
{
	u64(w, &e->offset);
	u64(w, &e->len);
	u32(w, &e->segment);
	u8(w, &e->replica);
	u8(w, &e->medium);
	u16(w, &e->reserved);
}

/* nr extents of an entry: those from *first on are written, or read behind the last. */
static void entry_extents(struct mc_wire *w, uint32_t *first, uint32_t nr, struct mc_master_extents *extents)
{
	if (!w->to) {
		if (w->broken || nr > EXTENTS_MAX || extents->cap - extents->nr < nr) {
			w->broken = true;
			return;
		}
		*first = (uint32_t)extents->nr;
		extents->nr += nr;
	}
	for (uint32_t i = 0; i < nr; i++)
		extent(w, &extents->at[*first + i]);
}

/* Would an entry of len bytes leave room for `others` that say that they found none? */
static bool fits(const struct mc_wire *w, size_t len, uint32_t others)
{
	return w->left >= len + (size_t)others * FAILED_LEN;
}

void mc_wire_places(struct mc_wire *w, uint32_t count, struct mc_master_put *puts, struct mc_master_extents *extents)
{
	for (uint32_t i = 0; i < count && !w->broken; i++) {
		struct mc_master_put *p = &puts[i];
		uint8_t nr = (uint8_t)p->nr;

		if (w->to && p->status == 0 && !fits(w, 13 + (size_t)nr * EXTENT_LEN, count - i - 1)) {
			p->status = -ENOBUFS;
			p->retry_ms = 0;
		}
		i32(w, &p->status);
		if (p->status != 0) {
			u32(w, &p->retry_ms);
			continue;
		}
		u64(w, &p->token);
		u8(w, &nr);
		entry_extents(w, &p->first, nr, extents);
		p->nr = w->broken ? 0 : nr;
	}
}

void mc_wire_ends(struct mc_wire *w, uint32_t count, struct mc_master_end *ends)
{
	for (uint32_t i = 0; i < count && !w->broken; i++) {
		u64(w, &ends[i].token);
		u32(w, &ends[i].failed);
		u8(w, &ends[i].has_checksum);
		if (ends[i].has_checksum)
			raw(w, ends[i].checksum, sizeof ends[i].checksum);
	}
}

void mc_wire_gets(struct mc_wire *w, uint32_t count, struct mc_master_got *gots)
{
	for (uint32_t i = 0; i < count && !w->broken; i++)
		key(w, &gots[i].key, 1);
}

void mc_wire_gots(struct mc_wire *w, uint32_t count, struct mc_master_got *gots, struct mc_master_extents *extents,
		  uint64_t *lease_ns)
{
	u64(w, lease_ns);
	for (uint32_t i = 0; i < count && !w->broken; i++) {
		struct mc_master_got *g = &gots[i];
		uint8_t nr = extents ? (uint8_t)g->nr : 0;

		if (w->to && g->status == 0 && !fits(w, 31 + (size_t)nr * EXTENT_LEN, count - i - 1))
			g->status = -ENOBUFS;
		i32(w, &g->status);
		if (g->status != 0)
			continue;
		u64(w, &g->len);
		u8(w, &g->nr_replicas);
		u8(w, &g->has_checksum);
		if (g->has_checksum)
			raw(w, g->checksum, sizeof g->checksum);
		u8(w, &nr);
		if (extents)
			entry_extents(w, &g->first, nr, extents);
		else if (nr)
			w->broken = true;
		g->nr = w->broken ? 0 : nr;
	}
}

void mc_wire_keys(struct mc_wire *w, uint32_t count, struct mc_master_named *keys)
{
	for (uint32_t i = 0; i < count && !w->broken; i++)
		key(w, &keys[i].key, 1);
}

void mc_wire_statuses(struct mc_wire *w, uint32_t count, int32_t *statuses, size_t stride)
{
	for (uint32_t i = 0; i < count && !w->broken; i++)
		i32(w, (int32_t *)((char *)statuses + i * stride));
}

void mc_wire_amount(struct mc_wire *w, uint64_t *amount)
{
	u64(w, amount);
}

void mc_wire_match(struct mc_wire *w, struct mc_wire_match *match)
{
	uint8_t kind = (uint8_t)match->match;

	u8(w, &kind);
	if (kind > MC_MASTER_REGEX)
		w->broken = true;
	u64(w, &match->cursor);
	u32(w, &match->max);
	text(w, &match->pattern, MC_STORE_KEY_MAX);
	match->match = w->broken ? MC_MASTER_PREFIX : (enum mc_master_match)kind;
}

void mc_wire_removed(struct mc_wire *w, struct mc_wire_removed *removed)
{
	u64(w, &removed->cursor);
	u64(w, &removed->removed);
	u64(w, &removed->refused);
}

#define OBJECT_COMPLETE 1u
#define OBJECT_PINNED 2u

void mc_wire_object(struct mc_wire *w, struct mc_master_object *object)
{
	uint8_t bits = (object->complete ? OBJECT_COMPLETE : 0) | (object->hard_pinned ? OBJECT_PINNED : 0);
	uint8_t replicas = (uint8_t)object->nr_replicas;

	u8(w, &bits);
	u8(w, &replicas);
	u64(w, &object->len);
	u64(w, &object->lease_ns);
	u64(w, &object->soft_pin_ns);
	key(w, &object->key, 1);
	object->complete = bits & OBJECT_COMPLETE;
	object->hard_pinned = bits & OBJECT_PINNED;
	object->nr_replicas = replicas;
}

void mc_wire_tenant(struct mc_wire *w, struct mc_wire_tenant *tenant)
{
	text(w, &tenant->name, MC_MASTER_TENANT_MAX);
	u64(w, &tenant->quota);
	u64(w, &tenant->used);
	u64(w, &tenant->nr_objects);
}

void mc_wire_stats(struct mc_wire *w, struct mc_master_stats *stats)
{
	uint64_t *const fields[] = {&stats->epoch, &stats->nr_objects, &stats->nr_puts, &stats->nr_clients, &stats->nr_segments,
				    &stats->nr_suspect, &stats->nr_put, &stats->nr_get, &stats->nr_hit, &stats->nr_removed,
				    &stats->nr_evicted, &stats->evicted_bytes, &stats->nr_expired_puts, &stats->nr_lost,
				    &stats->metadata, &stats->waits_ns};

	mc_wire_full(w, &stats->space);
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
		u64(w, fields[i]);
}
