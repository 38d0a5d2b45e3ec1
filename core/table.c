/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffer tables over sessions, the receiving side: one whole table when a session
 * comes up, then additions and removals.  Entries are kept sorted by base; after
 * each read an immutable snapshot of them is put in place.
 */
#include <errno.h>
#include <string.h>

#include "session_impl.h"
#include "table.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

/* A buffer with its keys takes about 200 bytes. */
#define BYTES_PER_BUFFER 1024

/* Where the entry of an id stands, for a removal names no more. */
struct mc_table_id {
	uint32_t id;
	uint64_t base;
	UT_hash_handle hh;
};

static struct mc_table_id *id_find(struct mc_table_in *in, uint32_t id)
{
	struct mc_table_id *found;

	HASH_FIND(hh, in->by_id, &id, sizeof id, found);
	return found;
}

static int id_add(struct mc_table_in *in, const struct mc_remote_buf *buf)
{
	struct mc_table_id *new;

	if (id_find(in, buf->id))
		return -EBADMSG; /* no two buffers have one id */
	new = malloc(sizeof *new);
	if (!new)
		return -ENOMEM;
	new->id = buf->id;
	new->base = buf->base;
	HASH_ADD(hh, in->by_id, id, sizeof new->id, new);
	return 0;
}

static void ids_clear(struct mc_table_in *in)
{
	struct mc_table_id *id, *next;

	HASH_ITER(hh, in->by_id, id, next) {
		HASH_DEL(in->by_id, id);
		free(id);
	}
}

static void list_clear(struct mc_remote_buf **list, size_t *nr, size_t *bytes)
{
	for (size_t i = 0; i < *nr; i++)
		mc_remote_buf_unref(list[i]);
	*nr = *bytes = 0;
}

void mc_table_in_fini(struct mc_table_in *in)
{
	list_clear(in->bufs, &in->nr, &in->bytes);
	list_clear(in->staged, &in->nr_staged, &in->staged_bytes);
	ids_clear(in);
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

/* A table has so many buffers, and they take so much memory, whatever the peer says. */
static bool is_full(const struct mc_session_impl *i, size_t nr, size_t bytes)
{
	size_t max = i->ss->max_buffers ? i->ss->max_buffers : MC_BUFFERS_MAX;

	return nr >= max || bytes >= max * BYTES_PER_BUFFER;
}

/* Takes buf.  One that was there with the same id is replaced, or kept if nothing changed. */
static int table_add(struct mc_session_impl *i, struct mc_remote_buf *buf)
{
	struct mc_table_in *in = &i->in;
	size_t at = mc_bufs_above(in->bufs, in->nr, buf->base);
	int r;

	if (at > 0 && in->bufs[at - 1]->id == buf->id) {
		struct mc_remote_buf **old = &in->bufs[at - 1];
		bool fits = at == in->nr || buf->base + buf->len <= in->bufs[at]->base;

		if ((*old)->base != buf->base || !fits) {
			mc_remote_buf_unref(buf);
			return -EBADMSG;
		}
		if (mc_remote_buf_same(*old, buf)) {
			mc_remote_buf_unref(buf);
			return 0;
		}
		in->bytes += buf->size - (*old)->size;
		mc_remote_buf_unref(*old);
		*old = buf;
		in->dirty = true;
		return 0;
	}
	if ((at > 0 && in->bufs[at - 1]->base + in->bufs[at - 1]->len > buf->base) ||
	    (at < in->nr && buf->base + buf->len > in->bufs[at]->base)) {
		mc_remote_buf_unref(buf);
		return -EBADMSG;
	}
	r = is_full(i, in->nr, in->bytes) ? -E2BIG : list_reserve(&in->bufs, &in->cap, in->nr);
	if (r == 0)
		r = id_add(in, buf);
	if (r < 0) {
		mc_remote_buf_unref(buf);
		return r;
	}
	memmove(in->bufs + at + 1, in->bufs + at, (in->nr - at) * sizeof *in->bufs);
	in->bufs[at] = buf;
	in->nr++;
	in->bytes += buf->size;
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
	int r = 0;

	if (in->nr_staged)
		qsort(in->staged, in->nr_staged, sizeof *in->staged, by_base);
	for (size_t i = 1; i < in->nr_staged; i++) {
		if (in->staged[i - 1]->base + in->staged[i - 1]->len > in->staged[i]->base)
			return -EBADMSG;
	}
	for (size_t i = 0; i < in->nr_staged; i++) {
		size_t at = mc_bufs_above(in->bufs, in->nr, in->staged[i]->base);

		if (at > 0 && mc_remote_buf_same(in->bufs[at - 1], in->staged[i])) {
			mc_remote_buf_unref(in->staged[i]);
			in->staged[i] = mc_remote_buf_ref(in->bufs[at - 1]);
		}
	}
	list_clear(in->bufs, &in->nr, &in->bytes);
	ids_clear(in);
	free(in->bufs);
	in->bufs = in->staged;
	in->nr = in->nr_staged;
	in->cap = in->cap_staged;
	in->bytes = in->staged_bytes;
	in->staged = NULL;
	in->nr_staged = in->cap_staged = in->staged_bytes = 0;
	in->staging = false;
	in->complete = in->dirty = true;
	for (size_t i = 0; r == 0 && i < in->nr; i++)
		r = id_add(in, in->bufs[i]);
	return r;
}

static int on_table(struct mc_session_impl *s, const uint8_t *p, size_t len)
{
	struct mc_table_in *in = &s->in;
	uint32_t flags, nr;

	if (len < MC_TABLE_HEAD)
		return -EBADMSG;
	flags = mc_get32(p + 8);
	nr = mc_get32(p + 12);
	if (flags & MC_TABLE_FIRST) {
		list_clear(in->staged, &in->nr_staged, &in->staged_bytes);
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
			r = table_add(s, buf);
			if (r < 0)
				return r;
			continue;
		}
		r = is_full(s, in->nr_staged, in->staged_bytes)
			    ? -E2BIG
			    : list_reserve(&in->staged, &in->cap_staged, in->nr_staged);
		if (r < 0) {
			mc_remote_buf_unref(buf);
			return r;
		}
		in->staged_bytes += buf->size;
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
		struct mc_table_id *id = id_find(in, mc_get32(p + MC_TABLE_HEAD + 4 * (size_t)i));
		size_t at;

		if (!id)
			continue;
		at = mc_bufs_above(in->bufs, in->nr, id->base) - 1;
		in->bytes -= in->bufs[at]->size;
		mc_remote_buf_unref(in->bufs[at]);
		memmove(in->bufs + at, in->bufs + at + 1, (in->nr - at - 1) * sizeof *in->bufs);
		in->nr--;
		in->dirty = true;
		HASH_DEL(in->by_id, id);
		free(id);
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

int mc_table_message(struct mc_session_impl *i, uint16_t type, const uint8_t *p, size_t len)
{
	int r;

	if (type == MC_MSG_REFRESH) {
		if (len != 8 || i->s.active)
			return -EBADMSG;
		mc_table_compare(i->ss);
		r = mc_session_queue(i, MC_MSG_REFRESHED, p, len, NULL, 0, true);
		return r == -ENOTCONN ? 0 : r;
	}
	if (type < MC_MSG_TABLE || type > MC_MSG_REFRESHED)
		return 0; /* of a later version */
	if (!i->s.active)
		return -EBADMSG;
	switch (type) {
	case MC_MSG_TABLE:
		return on_table(i, p, len);
	case MC_MSG_REMOVE:
		return on_remove(&i->in, p, len);
	default:
		if (len != 8)
			return -EBADMSG;
		on_refreshed(i, mc_get64(p));
		return 0;
	}
}
