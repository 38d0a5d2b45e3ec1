/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches.  The control loop sees the inotify descriptor and a timer, and does
 * nothing but start a scan on a helper; one scan runs at a time, reads the
 * events, looks at what changed (or, on a tick, an overflow or the end of a
 * lease, at every name), and reports through host->kv_event.  Each watch keeps
 * a table of what it reported last.  The scan also ends own leases that were
 * not kept alive, and sweeps the directory once after open.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "core/util/check.h"
#include "file.h"

/* A file this young may be replaced within the same tick of its time stamp and inode. */
#define YOUNG_S 2

/* What a watch reported last about one file. */
struct entry {
	char *key;
	uint64_t revision; /* 0: damaged, nothing was reported */
	uint64_t lease;
	uint64_t seen; /* number of the last scan that found it */
	ino_t ino;
	struct timespec mtime;
	bool young;
	UT_hash_handle hh;
	char name[];
};

struct file_wstate {
	struct file_wstate *next; /* of ctl->watches */
	unsigned refs;		  /* [mx] */
	bool dead;		  /* [mx] unwatched: nothing more is reported */
	bool emitting;		  /* [mx] a kv_event of it is under way, on ctl->emitter */
	void *user;		  /* what the host calls the watch */
	char *prefix;
	size_t prefix_len;
	/* Of whoever scans: watch() before it is listed, then one scan at a time. */
	struct entry *entries;
	uint64_t scan_nr;
	/* The directory's time stamp when all of it was looked at; tv_sec 0: look again. */
	struct timespec dir_mtime;
};

/*
 * Shared by the instance and by work that is queued at the host, which may come
 * back after close: hence a heap object with a count.
 */
struct file_ctl {
	const struct mc_host *host; /* not used once stopped */
	/* Guards all below but the host's structs; held for a few instructions, so that the
	 * control loop may take it. */
	pthread_mutex_t mx;
	pthread_cond_t cond;
	unsigned refs;
	struct file_inst *inst; /* NULL: closed */
	int closing;		/* atomic too, for long scans */
	bool stopped;		/* the control loop let go of fd and timer */
	bool queued, running;	/* the one scan: at the host, at work */
	bool again, full, sweep;
	bool kicked; /* kick is posted */
	uint64_t interval_ns, lease_due_ns;
	struct file_wstate *watches;
	pthread_t emitter;
	int fd, wd; /* inotify; -1: none, the ticks must do */
	struct mc_watch fd_watch;
	struct mc_timer timer;
	struct mc_work scan, kick, stop;
};

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

static void wstate_unref_locked(struct file_wstate *ws)
{
	struct entry *e, *tmp;

	if (--ws->refs)
		return;
	HASH_ITER(hh, ws->entries, e, tmp)
	{
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

static void key_found(struct file_ctl *c, struct file_wstate *ws, struct entry *e,
		      const char *name, const struct file_loaded *l)
{
	struct mc_kv kv = {.size = sizeof kv, .key = l->k.key, .value = l->k.value,
			   .len = l->k.value_len, .revision = l->k.revision,
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
	if (e && entry_same(e, &st) &&
	    (e->lease == 0 || file_lease_alive(f, e->lease, since_ns))) {
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

static int scan_each(void *ctx, enum file_kind kind, const char *name, const char *key,
		     uint64_t id)
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

	HASH_ITER(hh, s->ws->entries, e, tmp)
	{
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

/* Look at all names for one watch, unless the directory says that none changed. */
static int scan_all(struct file_inst *f, struct file_ctl *c, struct file_wstate *ws)
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

static void scan_work(struct file_inst *f, struct file_ctl *c, bool full, bool sweep)
{
	struct file_wstate **list;
	size_t nr;

	file_lease_expire(f);
	list = snapshot(c, &nr);
	if (!list)
		return;
	scan_events(f, c, list, nr, &full);
	for (size_t i = 0; full && i < nr && !closing(c); i++)
		scan_all(f, c, list[i]);
	if (sweep && !closing(c))
		file_sweep(f, &c->closing);
	pthread_mutex_lock(&c->mx);
	for (size_t i = 0; i < nr; i++)
		wstate_unref_locked(list[i]);
	pthread_mutex_unlock(&c->mx);
	free(list);
}

/* ---- the control loop's part ------------------------------------------------------------- */

/* Unlocks mx. */
static void ctl_unref_unlock(struct file_ctl *c)
{
	bool last = --c->refs == 0;

	pthread_mutex_unlock(&c->mx);
	if (!last)
		return;
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->mx);
	free(c);
}

/* Have a scan run; a running one is followed by another.  [any] */
static void scan_request(struct file_ctl *c, bool full)
{
	bool start;

	pthread_mutex_lock(&c->mx);
	c->full |= full;
	start = !c->queued && !c->closing;
	if (start) {
		c->queued = true;
		c->refs++;
	} else {
		c->again = true;
	}
	pthread_mutex_unlock(&c->mx);
	if (start)
		c->host->run_blocking(c->host, &c->scan);
}

/* [control] */
static void timer_arm(struct file_ctl *c)
{
	uint64_t due = 0, tick;

	pthread_mutex_lock(&c->mx);
	if (c->watches)
		due = c->host->now_ns(c->host) + c->interval_ns;
	tick = c->timer.deadline_ns;
	/* A tick that is already set stands; new work does not put it off. */
	if (due && tick && tick < due)
		due = tick;
	if (c->lease_due_ns && (due == 0 || c->lease_due_ns < due))
		due = c->lease_due_ns;
	pthread_mutex_unlock(&c->mx);
	if (due != tick)
		c->host->timer_set(c->host, &c->timer, due);
}

/* [helper] */
static void scan_run(struct mc_work *w)
{
	struct file_ctl *c = w->user;
	struct file_inst *f;
	bool full, sweep;

	pthread_mutex_lock(&c->mx);
	f = c->closing ? NULL : c->inst;
	c->running = f != NULL;
	full = c->full;
	sweep = c->sweep;
	c->full = c->sweep = c->again = false;
	pthread_mutex_unlock(&c->mx);
	if (f)
		scan_work(f, c, full, sweep);
	pthread_mutex_lock(&c->mx);
	c->running = false;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->mx);
}

/* [control] */
static void scan_done(struct mc_work *w)
{
	struct file_ctl *c = w->user;
	bool again;

	pthread_mutex_lock(&c->mx);
	c->queued = false;
	again = c->again;
	if (!c->closing) {
		pthread_mutex_unlock(&c->mx);
		if (again)
			scan_request(c, false);
		else if (c->fd >= 0)
			c->host->rewatch(c->host, &c->fd_watch, POLLIN);
		timer_arm(c);
		pthread_mutex_lock(&c->mx);
	}
	ctl_unref_unlock(c);
}

/* Quiet until the scan has read the events.  [control] */
static void fd_ready(struct mc_watch *w, uint32_t revents)
{
	struct file_ctl *c = w->user;

	c->host->rewatch(c->host, w, 0);
	scan_request(c, false);
}

/* [control] */
static void timer_fire(struct mc_timer *t, uint64_t now_ns)
{
	scan_request(t->user, true);
}

/* A new watch or lease: set the timer, look at everything once.  [control] */
static void kick_run(struct mc_work *w)
{
	struct file_ctl *c = w->user;
	bool full;

	pthread_mutex_lock(&c->mx);
	c->kicked = false;
	full = c->full;
	if (!c->closing) {
		pthread_mutex_unlock(&c->mx);
		timer_arm(c);
		if (full)
			scan_request(c, true);
		pthread_mutex_lock(&c->mx);
	}
	ctl_unref_unlock(c);
}

/* [mx] held; unlocks it. */
static void kick_unlock(struct file_ctl *c)
{
	bool post = !c->kicked && !c->closing;

	if (post) {
		c->kicked = true;
		c->refs++;
	}
	pthread_mutex_unlock(&c->mx);
	if (post)
		c->host->post(c->host, &c->kick);
}

/* [control] */
static void stop_run(struct mc_work *w)
{
	struct file_ctl *c = w->user;

	if (c->fd >= 0)
		c->host->unwatch(c->host, &c->fd_watch);
	c->host->timer_set(c->host, &c->timer, 0);
	pthread_mutex_lock(&c->mx);
	c->stopped = true;
	pthread_cond_broadcast(&c->cond);
	ctl_unref_unlock(c);
}

void file_ctl_set_interval(struct file_inst *f, uint64_t interval_ns)
{
	pthread_mutex_lock(&f->ctl->mx);
	f->ctl->interval_ns = interval_ns;
	kick_unlock(f->ctl);
}

void file_ctl_lease_due(struct file_inst *f, uint64_t due_ns)
{
	struct file_ctl *c = f->ctl;
	bool sooner;

	pthread_mutex_lock(&c->mx);
	/* A later end is found when the timer fires. */
	sooner = due_ns && (c->lease_due_ns == 0 || due_ns < c->lease_due_ns);
	c->lease_due_ns = due_ns;
	if (sooner)
		kick_unlock(c);
	else
		pthread_mutex_unlock(&c->mx);
}

/* ---- open, close, watch, unwatch --------------------------------------------------------- */

int file_ctl_open(struct file_inst *f, uint64_t interval_ns, struct mc_error *err)
{
	struct file_ctl *c = calloc(1, sizeof *c);
	int r;

	if (!c)
		return mc_fail(err, -ENOMEM, "directory '%s': out of memory", f->path);
	pthread_mutex_init(&c->mx, NULL);
	pthread_cond_init(&c->cond, NULL);
	c->host = f->host;
	c->inst = f;
	c->refs = 1;
	c->interval_ns = interval_ns;
	c->wd = -1;
	c->sweep = true;
	c->timer = (struct mc_timer){.size = sizeof c->timer, .fire = timer_fire, .user = c};
	c->scan = (struct mc_work){
		.size = sizeof c->scan, .run = scan_run, .done = scan_done, .user = c
	};
	c->kick = (struct mc_work){.size = sizeof c->kick, .run = kick_run, .user = c};
	c->stop = (struct mc_work){.size = sizeof c->stop, .run = stop_run, .user = c};
	c->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (c->fd < 0) {
		f->host->log(f->host, MC_LOG_WARN,
			     "directory '%s': no inotify (%s): changes are seen once per "
			     "rescan; raise fs.inotify.max_user_instances",
			     f->path, strerrordesc_np(errno));
	} else {
		c->fd_watch = (struct mc_watch){.size = sizeof c->fd_watch, .fd = c->fd,
						.events = POLLIN, .ready = fd_ready, .user = c};
		r = f->host->watch(f->host, &c->fd_watch);
		if (r < 0) {
			close(c->fd);
			pthread_mutex_lock(&c->mx);
			ctl_unref_unlock(c);
			return mc_fail(err, r, "directory '%s': cannot watch inotify: %s", f->path,
				       strerrordesc_np(-r));
		}
	}
	f->ctl = c;
	scan_request(c, false);
	return 0;
}

void file_ctl_close(struct file_inst *f)
{
	struct file_ctl *c = f->ctl;
	struct file_wstate *ws;

	pthread_mutex_lock(&c->mx);
	__atomic_store_n(&c->closing, 1, __ATOMIC_RELAXED);
	c->refs++;
	pthread_mutex_unlock(&c->mx);
	c->host->post(c->host, &c->stop);
	pthread_mutex_lock(&c->mx);
	/* A scan that is only queued comes later and finds nothing to do. */
	while (c->running || !c->stopped)
		pthread_cond_wait(&c->cond, &c->mx);
	c->inst = NULL;
	while ((ws = c->watches)) {
		c->watches = ws->next;
		wstate_unref_locked(ws);
	}
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	f->ctl = NULL;
	ctl_unref_unlock(c);
}

/* [mx] */
static void inotify_want(struct file_inst *f, struct file_ctl *c, bool want)
{
	if (c->fd < 0)
		return;
	if (want && c->wd < 0) {
		c->wd = inotify_add_watch(c->fd, f->path,
					  IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
						  IN_CLOSE_WRITE | IN_ONLYDIR);
		if (c->wd < 0)
			f->host->log(f->host, MC_LOG_WARN,
				     "directory '%s': no inotify (%s): changes are seen once per "
				     "rescan; raise fs.inotify.max_user_watches",
				     f->path, strerrordesc_np(errno));
	} else if (!want && c->wd >= 0) {
		inotify_rm_watch(c->fd, c->wd);
		c->wd = -1;
	}
}

int file_watch_add(void *inst, void *watch, const char *prefix, uint64_t deadline_ns,
		   struct mc_error *err)
{
	struct file_inst *f = inst;
	struct file_ctl *c = f->ctl;
	struct file_watch *w = watch;
	struct file_wstate *ws = calloc(1, sizeof *ws);
	int r;

	if (ws)
		ws->prefix = strdup(prefix);
	if (!ws || !ws->prefix) {
		free(ws);
		return mc_fail(err, -ENOMEM, "prefix '%s': out of memory", prefix);
	}
	ws->prefix_len = strlen(prefix);
	ws->user = watch;
	ws->refs = 1;
	pthread_mutex_lock(&c->mx);
	inotify_want(f, c, true);
	pthread_mutex_unlock(&c->mx);
	r = scan_all(f, NULL, ws);
	pthread_mutex_lock(&c->mx);
	if (r < 0) {
		inotify_want(f, c, c->watches != NULL);
		wstate_unref_locked(ws);
		pthread_mutex_unlock(&c->mx);
		return file_fail(f, err, r, prefix, "list", "");
	}
	ws->next = c->watches;
	c->watches = ws;
	w->state = ws;
	/* A scan of others may have taken events off the queue since the baseline. */
	inotify_want(f, c, true);
	c->full = true;
	kick_unlock(c);
	return 0;
}

void file_watch_remove(void *inst, void *watch)
{
	struct file_inst *f = inst;
	struct file_ctl *c = f->ctl;
	struct file_watch *w = watch;
	struct file_wstate *ws = w->state, **at;

	if (!ws)
		return;
	pthread_mutex_lock(&c->mx);
	ws->dead = true;
	/* Called inside its own kv_event: that one is the last. */
	while (ws->emitting && !pthread_equal(c->emitter, pthread_self()))
		pthread_cond_wait(&c->cond, &c->mx);
	for (at = &c->watches; *at && *at != ws;)
		at = &(*at)->next;
	if (*at)
		*at = ws->next;
	inotify_want(f, c, c->watches != NULL);
	w->state = NULL;
	wstate_unref_locked(ws);
	pthread_mutex_unlock(&c->mx);
}
