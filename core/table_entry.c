/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffer tables: entries on the wire and in memory, and the snapshots made of
 * them.  An entry that arrives is checked here, once, and immutable from then on;
 * snapshots share it.
 */
#include <errno.h>
#include <string.h>

#include "session.h"
#include "table.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

/* ---- entries ------------------------------------------------------------------------------ */

/*  0 u32 size      24 u32 access
 *  4 u32 id        28 i32 ordinal
 *  8 u64 base      32 u8 location_len, u8 kind_len, u16 nr_blobs
 * 16 u64 len       36 u32 0
 * 40 location, kind, then per blob: u16 device, u16 len, bytes
 */
struct remote_entry {
	struct mc_remote_buf buf; /* first */
	uint32_t refs;
};

size_t mc_entry_size(const struct mc_local_buf *buf, size_t nr_devices)
{
	size_t size = MC_ENTRY_FIXED + strlen(buf->location) + strlen(buf->kind);

	for (size_t d = 0; buf->blobs && d < nr_devices; d++) {
		if (buf->blobs[d].data)
			size += 4 + buf->blobs[d].len;
	}
	return size > MC_ENTRY_MAX ? 0 : size;
}

void mc_entry_encode(const struct mc_local_buf *buf, size_t nr_devices, uint8_t *out)
{
	size_t loc = strlen(buf->location), kind = strlen(buf->kind);
	uint8_t *at = out + MC_ENTRY_FIXED;
	uint16_t nr = 0;

	memset(out, 0, MC_ENTRY_FIXED);
	mc_put32(out + 4, buf->id);
	mc_put64(out + 8, buf->base);
	mc_put64(out + 16, buf->len);
	mc_put32(out + 24, buf->access);
	mc_put32(out + 28, (uint32_t)buf->ordinal);
	out[32] = (uint8_t)loc;
	out[33] = (uint8_t)kind;
	memcpy(at, buf->location, loc);
	memcpy(at + loc, buf->kind, kind);
	at += loc + kind;
	for (size_t d = 0; buf->blobs && d < nr_devices; d++) {
		if (!buf->blobs[d].data)
			continue;
		mc_put16(at, (uint16_t)d);
		mc_put16(at + 2, buf->blobs[d].len);
		memcpy(at + 4, buf->blobs[d].data, buf->blobs[d].len);
		at += 4 + buf->blobs[d].len;
		nr++;
	}
	mc_put16(out + 34, nr);
	mc_put32(out, (uint32_t)(at - out));
}

size_t mc_entry_restrict(uint8_t *entry, uint32_t denied)
{
	uint32_t access = mc_get32(entry + 24);

	if (access & denied) {
		mc_put32(entry + 24, (access & ~denied) | MC_REMOTE_NO_KEYS);
		mc_put16(entry + 34, 0);
		mc_put32(entry, MC_ENTRY_FIXED + entry[32] + entry[33]);
	}
	return mc_get32(entry);
}

/* Blobs of [p, p + len) into the entry's own memory behind it. */
static int decode_blobs(const uint8_t *p, size_t len, struct remote_entry *e)
{
	uint8_t *copy = (uint8_t *)&e->buf.blobs[e->buf.nr_blobs];

	memcpy(copy, p, len);
	for (size_t i = 0; i < e->buf.nr_blobs; i++) {
		struct mc_remote_blob *b = &e->buf.blobs[i];

		if (len < 4)
			return -EBADMSG;
		b->device_idx = mc_get16(copy);
		b->len = mc_get16(copy + 2);
		if (b->len > len - 4)
			return -EBADMSG;
		b->data = copy + 4;
		copy += 4 + b->len;
		len -= 4 + b->len;
	}
	return len ? -EBADMSG : 0;
}

int mc_entry_decode(const uint8_t *p, size_t len, struct mc_remote_buf **ret_buf)
{
	size_t size, loc, kind, nr, tail;
	struct remote_entry *e;

	if (len < MC_ENTRY_FIXED)
		return -EBADMSG;
	size = mc_get32(p);
	loc = p[32];
	kind = p[33];
	nr = mc_get16(p + 34);
	if (size < MC_ENTRY_FIXED || size > len || size > MC_ENTRY_MAX || loc > MC_LOCATION_MAX ||
	    kind == 0 || kind > MC_PLUGIN_NAME_MAX || loc + kind > size - MC_ENTRY_FIXED)
		return -EBADMSG;
	tail = size - MC_ENTRY_FIXED - loc - kind;
	if (nr * 4 > tail)
		return -EBADMSG;
	e = calloc(1, sizeof *e + nr * sizeof *e->buf.blobs + tail);
	if (!e)
		return -ENOMEM;
	e->refs = 1;
	e->buf.size = (uint32_t)(sizeof *e + nr * sizeof *e->buf.blobs + tail);
	e->buf.id = mc_get32(p + 4);
	e->buf.base = mc_get64(p + 8);
	e->buf.len = mc_get64(p + 16);
	e->buf.access = mc_get32(p + 24);
	e->buf.ordinal = (int32_t)mc_get32(p + 28);
	memcpy(e->buf.location, p + MC_ENTRY_FIXED, loc);
	memcpy(e->buf.kind, p + MC_ENTRY_FIXED + loc, kind);
	e->buf.nr_blobs = nr;
	e->buf.blobs = (struct mc_remote_blob *)(e + 1);
	if (e->buf.len == 0 || e->buf.base > UINT64_MAX - e->buf.len ||
	    decode_blobs(p + MC_ENTRY_FIXED + loc + kind, tail, e) < 0) {
		free(e);
		return -EBADMSG;
	}
	*ret_buf = &e->buf;
	return (int)size;
}

struct mc_remote_buf *mc_remote_buf_ref(struct mc_remote_buf *buf)
{
	__atomic_fetch_add(&((struct remote_entry *)buf)->refs, 1, __ATOMIC_RELAXED);
	return buf;
}

void mc_remote_buf_unref(struct mc_remote_buf *buf)
{
	if (buf && __atomic_sub_fetch(&((struct remote_entry *)buf)->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(buf);
}

static bool same_blobs(const struct mc_remote_buf *a, const struct mc_remote_buf *b)
{
	for (size_t i = 0; i < a->nr_blobs; i++) {
		if (a->blobs[i].device_idx != b->blobs[i].device_idx ||
		    a->blobs[i].len != b->blobs[i].len ||
		    memcmp(a->blobs[i].data, b->blobs[i].data, a->blobs[i].len) != 0)
			return false;
	}
	return true;
}

bool mc_remote_buf_same(const struct mc_remote_buf *a, const struct mc_remote_buf *b)
{
	return a->id == b->id && a->base == b->base && a->len == b->len && a->access == b->access &&
	       a->ordinal == b->ordinal && a->nr_blobs == b->nr_blobs &&
	       strcmp(a->location, b->location) == 0 && strcmp(a->kind, b->kind) == 0 &&
	       same_blobs(a, b);
}

/* ---- snapshots --------------------------------------------------------------------------------- */

struct mc_snapshot *mc_snapshot_ref(struct mc_snapshot *s)
{
	__atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
	return s;
}

void mc_snapshot_unref(struct mc_snapshot *s)
{
	if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (size_t i = 0; i < s->nr; i++)
		mc_remote_buf_unref(s->bufs[i]);
	free(s);
}

/* Index of the first entry whose base is above `base`. */
size_t mc_bufs_above(struct mc_remote_buf *const *bufs, size_t nr, uint64_t base)
{
	size_t lo = 0, hi = nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (bufs[mid]->base <= base)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct mc_remote_buf *mc_snapshot_find(const struct mc_snapshot *s, uint64_t offset, uint64_t len)
{
	size_t at = mc_bufs_above(s->bufs, s->nr, offset);
	struct mc_remote_buf *b;

	if (at == 0)
		return NULL;
	b = s->bufs[at - 1];
	return mc_range_inside(b->base, b->len, offset, len) ? b : NULL;
}
