/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log in memory for the master's state: what is appended, what of it is on the disk, and
 * what a start finds after a crash that loses any part of the rest.
 */
#ifndef MC_TEST_MASTER_LOG_H
#define MC_TEST_MASTER_LOG_H

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "master_state.h"

struct log_record {
	uint64_t name[2]; /* table, id */
	void *value;
	size_t len;
	uint64_t mark; /* the test's own */
	UT_hash_handle hh;
};

struct log_change {
	uint64_t name[2];
	void *value; /* NULL: gone */
	size_t len;
	uint64_t mark;
};

struct log {
	struct log_record *records; /* what was folded */
	struct log_change *tail;    /* seq of tail[i] is folded + i + 1 */
	size_t nr, cap;
	uint64_t folded, synced;
	int fail; /* appends that fail from now on */
	/* Hears each change as it is made (or refused: r < 0); what it returns becomes its mark. */
	uint64_t (*seen)(void *arg, const struct mc_store_change *change, int r);
	void *arg;
};

static inline void log_apply(struct log *log, struct log_change *c)
{
	struct log_record *rec;

	HASH_FIND(hh, log->records, c->name, sizeof c->name, rec);
	if (!c->value) {
		if (rec) {
			HASH_DEL(log->records, rec);
			free(rec->value);
			free(rec);
		}
		return;
	}
	if (!rec) {
		rec = calloc(1, sizeof *rec);
		if (!rec)
			abort();
		memcpy(rec->name, c->name, sizeof rec->name);
		HASH_ADD(hh, log->records, name, sizeof rec->name, rec);
	}
	free(rec->value);
	rec->value = c->value;
	rec->len = c->len;
	rec->mark = c->mark;
	c->value = NULL;
}

/* The first nr of the tail become records. */
static inline void log_fold(struct log *log, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		log_apply(log, &log->tail[i]);
	if (nr)
		memmove(log->tail, log->tail + nr, (log->nr - nr) * sizeof *log->tail);
	log->nr -= nr;
	log->folded += nr;
}

static inline int log_append(void *ctx, struct mc_store_change *changes, size_t nr)
{
	struct log *log = ctx;

	for (size_t i = 0; i < nr; i++) {
		struct mc_store_change *c = &changes[i];
		struct log_change *to;

		if (log->fail > 0) {
			log->fail--;
			for (; i < nr; i++) {
				changes[i].seq = 0;
				if (log->seen)
					log->seen(log->arg, &changes[i], -ENOSPC);
			}
			return -ENOSPC;
		}
		if (log->nr == log->cap) {
			log->cap = log->cap ? log->cap * 2 : 4096;
			log->tail = reallocarray(log->tail, log->cap, sizeof *log->tail);
			if (!log->tail)
				abort();
		}
		c->seq = log->folded + log->nr + 1;
		to = &log->tail[log->nr];
		*to = (struct log_change){.name = {c->table, c->id}, .len = c->len};
		if (!c->gone) {
			to->value = malloc(c->len ? c->len : 1);
			if (!to->value)
				abort();
			memcpy(to->value, c->value, c->len);
		}
		log->nr++;
		if (log->seen)
			log->tail[log->nr - 1].mark = log->seen(log->arg, c, 0);
	}
	return 0;
}

static inline uint64_t log_last(const struct log *log)
{
	return log->folded + log->nr;
}

static inline uint64_t log_synced(void *ctx)
{
	const struct log *log = ctx;

	return log->synced;
}

static inline void log_want(void *ctx, uint64_t seq)
{
	(void)ctx;
	(void)seq;
}

static inline void log_sync(struct log *log, uint64_t seq)
{
	log->synced = seq > log->synced ? seq : log->synced;
	if (log->nr > 8192)
		log_fold(log, (size_t)(log->synced - log->folded));
}

/* The machine fails: changes behind `keep` are lost (at least what was synced stays). */
static inline void log_cut(struct log *log, uint64_t keep)
{
	size_t nr = (size_t)(keep - log->folded);

	for (size_t i = nr; i < log->nr; i++)
		free(log->tail[i].value);
	log->nr = nr;
	log_fold(log, nr);
	log->synced = keep;
}

static inline int log_order(const struct log_record *a, const struct log_record *b)
{
	for (int i = 0; i < 2; i++)
		if (a->name[i] != b->name[i])
			return a->name[i] < b->name[i] ? -1 : 1;
	return 0;
}

/* A new master of what is there (the tail is folded first).  0, or what went wrong. */
static inline int log_start(struct log *log, const struct mc_master_limits *limits, uint64_t now, struct mc_master **ret)
{
	struct mc_master_sink sink = {log_append, log_synced, log_want, log};
	struct mc_error err = {0};
	int r = mc_master_new(limits, ret);

	if (r < 0)
		return r;
	log_cut(log, log_last(log));
	HASH_SORT(log->records, log_order);
	for (struct log_record *rec = log->records; rec; rec = rec->hh.next) {
		r = mc_master_load(*ret, (uint16_t)rec->name[0], rec->name[1], rec->value, rec->len, &err);
		if (r < 0) {
			fprintf(stderr, "load: %s\n", err.text);
			return r;
		}
	}
	return mc_master_start(*ret, &sink, now);
}

static inline void log_free(struct log *log)
{
	struct log_record *rec, *tmp;

	log_cut(log, log_last(log));
	HASH_ITER(hh, log->records, rec, tmp) {
		HASH_DEL(log->records, rec);
		free(rec->value);
		free(rec);
	}
	free(log->tail);
	memset(log, 0, sizeof *log);
}

#endif
