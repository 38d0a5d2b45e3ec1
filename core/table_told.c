/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffer tables over sessions, the telling side.  What has been told to peers is
 * kept, encoded, in order of ids (they only grow), so that a new session costs no
 * walk through the registrations and a change is encoded once for all.
 */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "session_impl.h"
#include "table.h"
#include "core/util/bytes.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

struct told {
	uint32_t id, size;
	uint8_t *entry; /* owned */
};

struct mc_published {
	struct mc_engine *engine;
	uint64_t version; /* of what was told; grows with each change */
	struct told *told; /* by id */
	size_t nr, cap, bytes;
	uint32_t next_id; /* by the last comparison: one with a lower id that is not told is gone */
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

/* A peer may be late by a whole table, and by as much as messages may wait otherwise. */
static bool is_late(struct mc_session_impl *i, const struct mc_published *p)
{
	size_t waits;

	pthread_mutex_lock(&i->lock);
	waits = i->out_bytes;
	pthread_mutex_unlock(&i->lock);
	return waits > MC_SESSION_QUEUE_MAX + 2 * p->bytes;
}

/* A message to every passive session that has had the table; body: an entry, or NULL. */
static void broadcast(struct mc_sessions *ss, uint16_t type, const void *head, size_t head_len,
		      const void *body, size_t body_len)
{
	struct mc_session_impl *i, *next;

	HASH_ITER(hh, ss->by_id, i, next) {
		mc_cleanup(mc_freep) uint8_t *less = NULL;
		const void *what = body;
		size_t len = body_len;
		int r = 0;

		if (i->s.active || !i->table_sent)
			continue;
		if (body && i->s.denied) {
			what = less = malloc(len);
			if (less) {
				memcpy(less, body, len);
				len = mc_entry_restrict(less, i->s.denied);
			} else {
				r = -ENOMEM;
			}
		}
		if (r == 0)
			r = mc_session_queue(i, type, head, head_len, what, len, false);
		if (r < 0)
			mc_session_gone(i, -ENOMEM, "no memory for a change of the buffer table");
		else if (is_late(i, ss->published))
			mc_session_fail(&i->s, -ENOBUFS, "it does not take what it is told of our buffers");
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
		p->bytes -= p->told[at].size;
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
	p->bytes += size;
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
	p->bytes -= p->told[at].size;
	free(p->told[at].entry);
	memmove(p->told + at, p->told + at + 1, (p->nr - at - 1) * sizeof *p->told);
	p->nr--;
	broadcast(ss, MC_MSG_REMOVE, msg, sizeof msg, NULL, 0);
}

static uint8_t *encode(struct mc_engine *engine, const struct mc_local_buf *buf, uint32_t *ret_size)
{
	size_t nr_devices = engine->nr_devices; /* once: it grows */
	size_t size = mc_entry_size(buf, nr_devices);
	uint8_t *entry;

	if (!size) {
		mc_warn("buffer at %#llx: the keys of %zu devices do not fit; peers do not see it",
			(unsigned long long)buf->base, nr_devices);
		return NULL;
	}
	entry = malloc(size);
	if (entry)
		mc_entry_encode(buf, nr_devices, entry);
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

void mc_table_compare(struct mc_sessions *ss)
{
	struct mc_published *p = published_get(ss);
	uint32_t next_id;

	if (!p || !ss->table)
		return;
	p->at = 0;
	p->failed = false;
	next_id = ss->table(ss->engine, compare_one, ss);
	if (!p->failed)
		p->next_id = next_id;
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

	mc_table_compare(ss);
	p = ss->published;
	while (buf && p && r == 0 && !(flags & MC_TABLE_LAST)) {
		size_t len = MC_TABLE_HEAD;
		uint32_t nr = 0;

		while (at < p->nr && len + p->told[at].size <= MC_FRAME_MAX) {
			memcpy(buf + len, p->told[at].entry, p->told[at].size);
			len += mc_entry_restrict(buf + len, i->s.denied);
			at++;
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

/* ---- pushes -------------------------------------------------------------------------------------------- */

struct push {
	struct mc_control_post post;
	struct mc_sessions *ss; /* a reference */
	uint32_t id, size;
	uint8_t *entry; /* NULL: removed */
};

/* A comparison may have overtaken the push of a buffer that is gone by now, and have told what was
 * registered in its place. */
static bool is_gone(const struct mc_published *p, uint32_t id)
{
	size_t at = p ? told_find(p, id) : 0;

	return p && id < p->next_id && (at == p->nr || p->told[at].id != id);
}

static void push_run(struct mc_control_post *post)
{
	struct push *push = MC_CONTAINER_OF(post, struct push, post);
	struct mc_sessions *ss = push->ss;

	if (ss->closing || (push->entry && is_gone(ss->published, push->id))) {
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
