/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's part of watches: one scan at a time reads the inotify events, looks
 * at what changed (or, on a tick, an overflow or the end of a lease, at every name)
 * and reports through host->kv_event.  Each watch keeps a table of what it reported
 * last.  The scan also ends own leases that were not kept alive, and sweeps the
 * directory once after open, if nobody else did so a moment ago.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "file_watch.h"

/* A file this young may be replaced within the same tick of its time stamp and inode. */
#define YOUNG_S 2

/* ---- tables ------------------------------------------------------------------------------ */

static void entry_free(struct file_wstate *ws, struct entry *e)
{
	HASH_DEL(ws->entries, e);
	free(e->key);
	free(e);
}

static struct entry *entry_add(struct file_wstate *ws, const char *name, const char *key)
{
	size_t n = strlen(name);
	struct entry *e = calloc(1, sizeof *e + n + 1);

	if (!e)
		return NULL;
	memcpy(e->name, name, n + 1);
	e->key = strdup(key);
	if (e->key)
		HASH_ADD_KEYPTR(hh, ws->entries, e->name, n, e);
	if (!e->key || !e->hh.tbl) {
		free(e->key);
		free(e);
		return NULL;
	}
	return e;
}

void file_wstate_unref(struct file_wstate *ws)
{
	struct entry *e, *tmp;

	if (--ws->refs)
		return;
	HASH_ITER(hh, ws->entries, e, tmp) {
		entry_free(ws, e);
	}
	free(ws->prefix);
	free(ws);
}

static bool is_young(const struct timespec *mtime)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec - mtime->tv_sec < YOUNG_S;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static void entry_stat(struct entry *e, const struct stat *st)
{
	e->ino = st->st_ino;
	e->mtime = st->st_mtim;
	e->young = is_young(&st->st_mtim);
}

static bool entry_same(const struct entry *e, const struct stat *st)
{
	return !e->young && e->ino == st->st_ino && same_time(&e->mtime, &st->st_mtim);
}

/* ---- reporting --------------------------------------------------------------------------- */

/* c NULL: only take note (the baseline of a new watch). */
static void emit(struct file_ctl *c, struct file_wstate *ws, const struct mc_kv *kv)
{
	bool dead;

	if (!c)
		return;
	pthread_mutex_lock(&c->mx);
	dead = ws->dead;
	if (!dead) {
		ws->emitting = true;
		c->emitter = pthread_self();
	}
	pthread_mutex_unlock(&c->mx);
	if (dead)
		return;
	c->host->kv_event(c->host, ws->user, kv);
	pthread_mutex_lock(&c->mx);
	ws->emitting = false;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->mx);
}

static void key_gone(struct file_ctl *c, struct file_wstate *ws, struct entry *e)
{
	struct mc_kv kv = {.size = sizeof kv};

	if (!e)
		return;
	kv.key = e->key;
	kv.revision = e->revision;
	if (e->revision)
		emit(c, ws, &kv);
	entry_free(ws, e);
}

static void key_found(struct file_ctl *c, struct file_wstate *ws, struct entry *e, const char *name,
		      const struct file_loaded *l)
{
	struct mc_kv kv = {.size = sizeof kv,
			   .key = l->k.key,
			   .value = l->k.value,
			   .len = l->k.value_len,
			   .revision = l->k.revision,
			   .lease = l->k.lease};
	bool changed;

	if (strncmp(l->k.key, ws->prefix, ws->prefix_len))
		return;
	if (!e)
		e = entry_add(ws, name, l->k.key);
	if (!e)
		return; /* out of memory: the next tick tries again */
	changed = e->revision != l->k.revision;
	e->revision = l->k.revision;
	e->lease = l->k.lease;
	e->seen = ws->scan_nr;
	entry_stat(e, &l->st);
	if (changed)
		emit(c, ws, &kv);
}

/* One warning per damaged file and change of it. */
static void key_damaged(struct file_inst *f, struct file_wstate *ws, struct entry *e,
			const char *name, const char *key, const struct stat *st, const char *why)
{
	bool told = e && entry_same(e, st);

	if (!e)
		e = entry_add(ws, name, key ? key : name);
	if (e) {
		e->seen = ws->scan_nr;
		entry_stat(e, st);
		e->young = false;
	}
	if (!told)
		f->host->log(f->host, MC_LOG_WARN, "%s", why);
}

/* Look at one name for one watch.  key is known for FILE_KEY. */
static void check_name(struct file_inst *f, struct file_ctl *c, struct file_wstate *ws,
		       const char *name, const char *key, uint64_t since_ns)
{
	struct file_loaded l;
	struct mc_error why;
	struct entry *e;
	struct stat st;
	int r;

	if (key && strncmp(key, ws->prefix, ws->prefix_len))
		return;
	HASH_FIND(hh, ws->entries, name, strlen(name), e);
	if (fstatat(f->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			key_gone(c, ws, e);
		return;
	}
	if (e && entry_same(e, &st) && (e->lease == 0 || file_lease_alive(f, e->lease, since_ns))) {
		e->seen = ws->scan_nr;
		return;
	}
	r = file_load(f, name, key, true, &l, &why);
	if (r == 0 && l.k.lease && !file_lease_alive(f, l.k.lease, since_ns)) {
		file_reap(f, name, l.k.key);
		key_gone(c, ws, e);
	} else if (r == 0) {
		key_found(c, ws, e, name, &l);
	} else if (r == -ENOENT) {
		key_gone(c, ws, e);
	} else if (r == -EBADMSG) {
		key_damaged(f, ws, e, name, key, &st, why.text);
	} else if (e) {
		e->seen = ws->scan_nr; /* cannot tell now */
	}
	if (r == 0)
		file_loaded_fini(&l);
}

/* ---- scanning ---------------------------------------------------------------------------- */

struct scanner {
	struct file_inst *f;
	struct file_ctl *c;
	struct file_wstate *ws;
	uint64_t since_ns;
};

static bool closing(struct file_ctl *c)
{
	return c && __atomic_load_n(&c->closing, __ATOMIC_RELAXED);
}

static int scan_each(void *ctx, enum file_kind kind, const char *name, const char *key, uint64_t id)
{
	struct scanner *s = ctx;

	if (closing(s->c))
		return 1;
	if (kind == FILE_KEY || kind == FILE_HASHED)
		check_name(s->f, s->c, s->ws, name, key, s->since_ns);
	return 0;
}

/* Look again at entries: at those that the walk did not meet, or at those with a dead lease. */
static void scan_entries(struct scanner *s, bool walked)
{
	char key[MC_KV_KEY_MAX + 1], name[FILE_NAME_SIZE];
	struct entry *e, *tmp;
	uint64_t id;

	HASH_ITER(hh, s->ws->entries, e, tmp) {
		if (closing(s->c))
			return;
		if (walked ? e->seen == s->ws->scan_nr
			   : e->lease == 0 || file_lease_alive(s->f, e->lease, s->since_ns))
			continue;
		/* check_name may free the entry that the name stands in. */
		strcpy(name, e->name);
		check_name(s->f, s->c, s->ws, name,
			   file_name_kind(name, key, &id) == FILE_KEY ? key : NULL, s->since_ns);
	}
}

int file_scan_watch(struct file_inst *f, struct file_ctl *c, struct file_wstate *ws)
{
	struct scanner s = {.f = f, .c = c, .ws = ws, .since_ns = file_now(f)};
	struct stat st;
	int r;

	if (fstat(f->dirfd, &st) < 0)
		return -errno;
	if (ws->dir_mtime.tv_sec && same_time(&ws->dir_mtime, &st.st_mtim)) {
		scan_entries(&s, false);
		return 0;
	}
	ws->scan_nr++;
	r = file_dir_each(f, scan_each, &s);
	if (r)
		return r;
	scan_entries(&s, true);
	ws->dir_mtime = st.st_mtim;
	if (is_young(&st.st_mtim))
		ws->dir_mtime.tv_sec = 0;
	return 0;
}

static void scan_event(struct file_inst *f, struct file_ctl *c, struct file_wstate *list[],
		       size_t nr, const struct inotify_event *ev, bool *full)
{
	char key[MC_KV_KEY_MAX + 1];
	enum file_kind kind;
	uint64_t id;

	if (ev->mask & IN_Q_OVERFLOW)
		*full = true;
	if (ev->len == 0)
		return;
	kind = file_name_kind(ev->name, key, &id);
	/* A lease file that is closed or removed: its keys may have gone. */
	if (kind == FILE_LEASE && (ev->mask & (IN_DELETE | IN_CLOSE_WRITE)))
		*full = true;
	if (kind != FILE_KEY && kind != FILE_HASHED)
		return;
	for (size_t i = 0; i < nr; i++)
		check_name(f, c, list[i], ev->name, kind == FILE_KEY ? key : NULL, file_now(f));
}

static void scan_events(struct file_inst *f, struct file_ctl *c, struct file_wstate *list[],
			size_t nr, bool *full)
{
	_Alignas(struct inotify_event) char buf[16384];
	ssize_t n;

	if (c->fd < 0)
		return;
	/* Bounded, so that a busy directory cannot keep a helper for ever. */
	for (int rounds = 0; rounds < 64 && !closing(c); rounds++) {
		n = read(c->fd, buf, sizeof buf);
		if (n <= 0)
			return;
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *ev = (const void *)p;

			scan_event(f, c, list, nr, ev, full);
			p += sizeof *ev + ev->len;
		}
	}
}

/* The watches of this moment, each with a reference. */
static struct file_wstate **snapshot(struct file_ctl *c, size_t *ret_nr)
{
	struct file_wstate **list, *ws;
	size_t nr = 0;

	pthread_mutex_lock(&c->mx);
	for (ws = c->watches; ws; ws = ws->next)
		nr++;
	list = calloc(nr ? nr : 1, sizeof(struct file_wstate *));
	nr = 0;
	for (ws = list ? c->watches : NULL; ws; ws = ws->next) {
		ws->refs++;
		list[nr++] = ws;
	}
	pthread_mutex_unlock(&c->mx);
	*ret_nr = nr;
	return list;
}

void file_scan(struct file_inst *f, struct file_ctl *c, bool full, bool sweep)
{
	struct file_wstate **list;
	size_t nr;

	file_lease_expire(f);
	list = snapshot(c, &nr);
	if (!list)
		return;
	scan_events(f, c, list, nr, &full);
	for (size_t i = 0; full && i < nr && !closing(c); i++)
		file_scan_watch(f, c, list[i]);
	if (sweep && !closing(c) && file_sweep_due(f))
		file_sweep(f, &c->closing);
	pthread_mutex_lock(&c->mx);
	for (size_t i = 0; i < nr; i++)
		file_wstate_unref(list[i]);
	pthread_mutex_unlock(&c->mx);
	free(list);
}
