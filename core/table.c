/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffer tables over sessions: one whole table when a session comes up, then
 * additions and removals.  What has been told to peers is kept, encoded, in
 * order of ids (they only grow), so that a new session costs no walk through the
 * registrations and a change is encoded once for all.  The receiver checks every
 * entry, keeps them sorted by base and puts an immutable snapshot in place after
 * each read.
 */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "session_impl.h"
#include "table.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

#define MAX_BUFFERS (4u << 20)
#define TABLE_PAYLOAD (MC_FRAME_MAX - MC_TABLE_HEAD)

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
static size_t above(struct mc_remote_buf *const *bufs, size_t nr, uint64_t base)
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
	size_t at = above(s->bufs, s->nr, offset);
	struct mc_remote_buf *b;

	if (at == 0)
		return NULL;
	b = s->bufs[at - 1];
	return mc_range_inside(b->base, b->len, offset, len) ? b : NULL;
}

/* ---- receiving ------------------------------------------------------------------------------------ */

static void list_clear(struct mc_remote_buf **list, size_t *nr)
{
	for (size_t i = 0; i < *nr; i++)
		mc_remote_buf_unref(list[i]);
	*nr = 0;
}

void mc_table_in_fini(struct mc_table_in *in)
{
	list_clear(in->bufs, &in->nr);
	list_clear(in->staged, &in->nr_staged);
	free(in->bufs);
	free(in->staged);
	memset(in, 0, sizeof *in);
}

static int list_reserve(struct mc_remote_buf ***list, size_t *cap, size_t nr)
{
	struct mc_remote_buf **bigger;
	size_t want = MC_MAX(*cap * 2, 64);

	if (nr < *cap)
		return 0;
	bigger = realloc(*list, want * sizeof *bigger);
	if (!bigger)
		return -ENOMEM;
	*list = bigger;
	*cap = want;
	return 0;
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

static bool same_entry(const struct mc_remote_buf *a, const struct mc_remote_buf *b)
{
	return a->id == b->id && a->base == b->base && a->len == b->len && a->access == b->access &&
	       a->ordinal == b->ordinal && a->nr_blobs == b->nr_blobs &&
	       strcmp(a->location, b->location) == 0 && strcmp(a->kind, b->kind) == 0 &&
	       same_blobs(a, b);
}

/* Takes buf.  One that was there with the same id is replaced, or kept if nothing changed. */
static int table_add(struct mc_table_in *in, struct mc_remote_buf *buf)
{
	size_t at = above(in->bufs, in->nr, buf->base);

	if (at > 0 && in->bufs[at - 1]->id == buf->id) {
		struct mc_remote_buf **old = &in->bufs[at - 1];
		bool fits = at == in->nr || buf->base + buf->len <= in->bufs[at]->base;

		if ((*old)->base != buf->base || !fits) {
			mc_remote_buf_unref(buf);
			return -EBADMSG;
		}
		if (same_entry(*old, buf)) {
			mc_remote_buf_unref(buf);
			return 0;
		}
		mc_remote_buf_unref(*old);
		*old = buf;
		in->dirty = true;
		return 0;
	}
	if (in->nr >= MAX_BUFFERS ||
	    (at > 0 && in->bufs[at - 1]->base + in->bufs[at - 1]->len > buf->base) ||
	    (at < in->nr && buf->base + buf->len > in->bufs[at]->base)) {
		mc_remote_buf_unref(buf);
		return -EBADMSG;
	}
	if (list_reserve(&in->bufs, &in->cap, in->nr) < 0) {
		mc_remote_buf_unref(buf);
		return -ENOMEM;
	}
	memmove(in->bufs + at + 1, in->bufs + at, (in->nr - at) * sizeof *in->bufs);
	in->bufs[at] = buf;
	in->nr++;
	in->dirty = true;
	return 0;
}

static int by_base(const void *a, const void *b)
{
	const struct mc_remote_buf *const *x = a, *const *y = b;

	return (*x)->base < (*y)->base ? -1 : (*x)->base > (*y)->base;
}

/* A whole table is here: it replaces the old one, entries that did not change stay the same. */
static int table_commit(struct mc_table_in *in)
{
	if (in->nr_staged)
		qsort(in->staged, in->nr_staged, sizeof *in->staged, by_base);
	for (size_t i = 1; i < in->nr_staged; i++) {
		if (in->staged[i - 1]->base + in->staged[i - 1]->len > in->staged[i]->base)
			return -EBADMSG;
	}
	for (size_t i = 0; i < in->nr_staged; i++) {
		size_t at = above(in->bufs, in->nr, in->staged[i]->base);

		if (at > 0 && same_entry(in->bufs[at - 1], in->staged[i])) {
			mc_remote_buf_unref(in->staged[i]);
			in->staged[i] = mc_remote_buf_ref(in->bufs[at - 1]);
		}
	}
	list_clear(in->bufs, &in->nr);
	free(in->bufs);
	in->bufs = in->staged;
	in->nr = in->nr_staged;
	in->cap = in->cap_staged;
	in->staged = NULL;
	in->nr_staged = in->cap_staged = 0;
	in->staging = false;
	in->complete = in->dirty = true;
	return 0;
}

static int on_table(struct mc_table_in *in, const uint8_t *p, size_t len)
{
	uint32_t flags, nr;

	if (len < MC_TABLE_HEAD)
		return -EBADMSG;
	flags = mc_get32(p + 8);
	nr = mc_get32(p + 12);
	if (flags & MC_TABLE_FIRST) {
		list_clear(in->staged, &in->nr_staged);
		in->staging = true;
	}
	in->version = mc_get64(p);
	p += MC_TABLE_HEAD;
	len -= MC_TABLE_HEAD;
	for (uint32_t i = 0; i < nr; i++) {
		struct mc_remote_buf *buf;
		int r = mc_entry_decode(p, len, &buf);

		if (r < 0)
			return r;
		p += r;
		len -= (size_t)r;
		if (!in->staging) {
			r = table_add(in, buf);
			if (r < 0)
				return r;
			continue;
		}
		if (in->nr_staged >= MAX_BUFFERS ||
		    list_reserve(&in->staged, &in->cap_staged, in->nr_staged) < 0) {
			mc_remote_buf_unref(buf);
			return -ENOMEM;
		}
		in->staged[in->nr_staged++] = buf;
	}
	if (len)
		return -EBADMSG;
	return in->staging && (flags & MC_TABLE_LAST) ? table_commit(in) : 0;
}

static int on_remove(struct mc_table_in *in, const uint8_t *p, size_t len)
{
	uint32_t nr;

	if (len < MC_TABLE_HEAD)
		return -EBADMSG;
	in->version = mc_get64(p);
	nr = mc_get32(p + 12);
	if ((len - MC_TABLE_HEAD) / 4 != nr || (len - MC_TABLE_HEAD) % 4)
		return -EBADMSG;
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t id = mc_get32(p + MC_TABLE_HEAD + 4 * (size_t)i);

		for (size_t at = 0; at < in->nr; at++) {
			if (in->bufs[at]->id != id)
				continue;
			mc_remote_buf_unref(in->bufs[at]);
			memmove(in->bufs + at, in->bufs + at + 1,
				(in->nr - at - 1) * sizeof *in->bufs);
			in->nr--;
			in->dirty = true;
			break;
		}
	}
	return 0;
}

void mc_table_publish(struct mc_session_impl *i)
{
	struct mc_table_in *in = &i->in;
	struct mc_snapshot *snap, *old;

	if (!in->dirty || !in->complete)
		return;
	snap = malloc(sizeof *snap + in->nr * sizeof *snap->bufs);
	if (!snap)
		return; /* tried again after the next message */
	in->dirty = false;
	snap->refs = 1;
	snap->version = in->version;
	snap->nr = in->nr;
	snap->bufs = (struct mc_remote_buf **)(snap + 1);
	for (size_t n = 0; n < in->nr; n++)
		snap->bufs[n] = mc_remote_buf_ref(in->bufs[n]);
	pthread_mutex_lock(&i->lock);
	old = i->s.snapshot;
	i->s.snapshot = snap;
	pthread_mutex_unlock(&i->lock);
	mc_snapshot_unref(old);
	if (i->ss->events.snapshot)
		i->ss->events.snapshot(&i->s);
	mc_session_signal(i->ss);
}

static void on_refreshed(struct mc_session_impl *i, uint64_t cookie)
{
	struct mc_refresh **at = &i->refreshes, *r;

	mc_table_publish(i);
	while ((r = *at) && r->cookie != cookie)
		at = &r->next;
	if (!r)
		return;
	*at = r->next;
	r->done(r->arg, 0);
	free(r);
}

/* ---- what we have told ------------------------------------------------------------------------------ */

struct told {
	uint32_t id, size;
	uint8_t *entry; /* owned */
};

struct mc_published {
	struct mc_engine *engine;
	uint64_t version; /* of what was told; grows with each change */
	struct told *told; /* by id */
	size_t nr, cap;
	/* During a comparison with the registrations. */
	size_t at;
	bool failed;
};

void mc_published_free(struct mc_published *p)
{
	for (size_t i = 0; p && i < p->nr; i++)
		free(p->told[i].entry);
	if (p)
		free(p->told);
	free(p);
}

static struct mc_published *published_get(struct mc_sessions *ss)
{
	if (!ss->published) {
		ss->published = calloc(1, sizeof *ss->published);
		if (ss->published)
			ss->published->engine = ss->engine;
	}
	return ss->published;
}

/* A message to every passive session that has had the table. */
static void broadcast(struct mc_sessions *ss, uint16_t type, const void *head, size_t head_len,
		      const void *body, size_t body_len)
{
	struct mc_session_impl *i, *next;

	HASH_ITER(hh, ss->by_id, i, next) {
		if (!i->s.active && i->table_sent &&
		    mc_session_queue(i, type, head, head_len, body, body_len, false) < 0)
			mc_session_gone(i, -ENOMEM, "no memory for a change of the buffer table");
	}
}

static void table_head(uint8_t head[MC_TABLE_HEAD], uint64_t version, uint32_t flags, uint32_t nr)
{
	mc_put64(head, version);
	mc_put32(head + 8, flags);
	mc_put32(head + 12, nr);
}

static size_t told_find(const struct mc_published *p, uint32_t id)
{
	size_t lo = 0, hi = p->nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->told[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Takes entry.  Tells every peer unless they know it. */
static int told_add(struct mc_sessions *ss, uint32_t id, uint8_t *entry, uint32_t size)
{
	struct mc_published *p = published_get(ss);
	uint8_t head[MC_TABLE_HEAD];
	size_t at;

	if (!p) {
		free(entry);
		return -ENOMEM;
	}
	at = told_find(p, id);
	if (at < p->nr && p->told[at].id == id) {
		if (p->told[at].size == size && memcmp(p->told[at].entry, entry, size) == 0) {
			free(entry);
			return 0;
		}
		free(p->told[at].entry);
	} else {
		if (p->nr == p->cap) {
			size_t cap = MC_MAX(p->cap * 2, 64);
			struct told *told = realloc(p->told, cap * sizeof *told);

			if (!told) {
				free(entry);
				return -ENOMEM;
			}
			p->told = told;
			p->cap = cap;
		}
		memmove(p->told + at + 1, p->told + at, (p->nr - at) * sizeof *p->told);
		p->nr++;
	}
	p->told[at] = (struct told){.id = id, .size = size, .entry = entry};
	table_head(head, ++p->version, MC_TABLE_LAST, 1);
	broadcast(ss, MC_MSG_TABLE, head, sizeof head, entry, size);
	return 0;
}

static void told_remove(struct mc_sessions *ss, size_t at)
{
	struct mc_published *p = ss->published;
	uint8_t msg[MC_TABLE_HEAD + 4];

	table_head(msg, ++p->version, 0, 1);
	mc_put32(msg + MC_TABLE_HEAD, p->told[at].id);
	free(p->told[at].entry);
	memmove(p->told + at, p->told + at + 1, (p->nr - at - 1) * sizeof *p->told);
	p->nr--;
	broadcast(ss, MC_MSG_REMOVE, msg, sizeof msg, NULL, 0);
}

static uint8_t *encode(struct mc_engine *engine, const struct mc_local_buf *buf, uint32_t *ret_size)
{
	size_t size = mc_entry_size(buf, engine->nr_devices);
	uint8_t *entry;

	if (!size) {
		mc_warn("buffer at %#llx: the keys of %zu devices do not fit; peers do not see it",
			(unsigned long long)buf->base, engine->nr_devices);
		return NULL;
	}
	entry = malloc(size);
	if (entry)
		mc_entry_encode(buf, engine->nr_devices, entry);
	*ret_size = (uint32_t)size;
	return entry;
}

/* Called in order of ids. */
static void compare_one(const struct mc_local_buf *buf, void *arg)
{
	struct mc_sessions *ss = arg;
	struct mc_published *p = ss->published;
	uint8_t *entry;
	uint32_t size;

	while (p->at < p->nr && p->told[p->at].id < buf->id)
		told_remove(ss, p->at);
	if (p->at == p->nr || p->told[p->at].id != buf->id) {
		entry = encode(p->engine, buf, &size);
		if (!entry || told_add(ss, buf->id, entry, size) < 0) {
			p->failed = true;
			return;
		}
	}
	p->at++;
}

/* Make what was told equal to what is registered now. */
static void compare(struct mc_sessions *ss)
{
	struct mc_published *p = published_get(ss);

	if (!p || !ss->table)
		return;
	p->at = 0;
	p->failed = false;
	ss->table(ss->engine, compare_one, ss);
	while (p->at < p->nr)
		told_remove(ss, p->at);
}

void mc_table_send(struct mc_session_impl *i)
{
	struct mc_sessions *ss = i->ss;
	struct mc_published *p;
	uint8_t *buf = malloc(MC_FRAME_MAX);
	uint32_t flags = MC_TABLE_FIRST;
	size_t at = 0;
	int r = 0;

	compare(ss);
	p = ss->published;
	while (buf && p && r == 0 && !(flags & MC_TABLE_LAST)) {
		size_t len = MC_TABLE_HEAD;
		uint32_t nr = 0;

		while (at < p->nr && len + p->told[at].size <= MC_FRAME_MAX) {
			memcpy(buf + len, p->told[at].entry, p->told[at].size);
			len += p->told[at++].size;
			nr++;
		}
		if (at == p->nr)
			flags |= MC_TABLE_LAST;
		table_head(buf, p->version, flags, nr);
		r = mc_session_queue(i, MC_MSG_TABLE, buf, len, NULL, 0, false);
		flags &= ~MC_TABLE_FIRST;
	}
	free(buf);
	if (!buf || !p || r < 0)
		mc_session_gone(i, -ENOMEM, "no memory for the buffer table");
	i->table_sent = true;
}

int mc_table_message(struct mc_session_impl *i, uint16_t type, const uint8_t *p, size_t len)
{
	if (type == MC_MSG_REFRESH) {
		if (len != 8 || i->s.active)
			return -EBADMSG;
		compare(i->ss);
		return mc_session_queue(i, MC_MSG_REFRESHED, p, len, NULL, 0, false) == -ENOMEM
			       ? -ENOMEM
			       : 0;
	}
	if (type < MC_MSG_TABLE || type > MC_MSG_REFRESHED)
		return 0; /* of a later version */
	if (!i->s.active)
		return -EBADMSG;
	switch (type) {
	case MC_MSG_TABLE:
		return on_table(&i->in, p, len);
	case MC_MSG_REMOVE:
		return on_remove(&i->in, p, len);
	default:
		if (len != 8)
			return -EBADMSG;
		on_refreshed(i, mc_get64(p));
		return 0;
	}
}

/* ---- pushes -------------------------------------------------------------------------------------------- */

struct push {
	struct mc_control_post post;
	struct mc_sessions *ss; /* a reference */
	uint32_t id, size;
	uint8_t *entry; /* NULL: removed */
};

static void push_run(struct mc_control_post *post)
{
	struct push *push = MC_CONTAINER_OF(post, struct push, post);
	struct mc_sessions *ss = push->ss;

	if (ss->closing) {
		free(push->entry);
	} else if (push->entry) {
		if (told_add(ss, push->id, push->entry, push->size) < 0)
			mc_warn("a new buffer is not told to peers yet: out of memory");
	} else if (ss->published) {
		size_t at = told_find(ss->published, push->id);

		if (at < ss->published->nr && ss->published->told[at].id == push->id)
			told_remove(ss, at);
	}
	mc_sessions_unref(ss);
	free(push);
}

static void push(struct mc_engine *engine, uint32_t id, uint8_t *entry, uint32_t size)
{
	struct push *push = malloc(sizeof *push);

	if (!push) {
		free(entry);
		return; /* peers find out by a refresh */
	}
	*push = (struct push){.post.run = push_run, .ss = engine->sessions, .id = id, .size = size,
			      .entry = entry};
	mc_sessions_ref(push->ss);
	mc_control_post(engine->control, &push->post);
}

void mc_session_push_add(struct mc_engine *engine, struct mc_local_buf *buf)
{
	uint32_t size = 0;
	uint8_t *entry = engine->sessions ? encode(engine, buf, &size) : NULL;

	if (entry)
		push(engine, buf->id, entry, size);
}

void mc_session_push_remove(struct mc_engine *engine, uint32_t buf_id)
{
	if (engine->sessions)
		push(engine, buf_id, NULL, 0);
}
