/* SPDX-License-Identifier: Apache-2.0 */
/* The host of the metadata conformance suite; meta-host.h says what it gives. */
#include "meta-host.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define MAX_WATCHES 16
#define MAX_TIMERS 16
#define NR_HELPERS 2

struct mh_inst {
	struct mc_host host; /* first: services find the instance by it */
	const struct mh_plugin *plugin;
	void *area;
	/* Guards all below.  Not held while the plugin runs. */
	pthread_mutex_t mx;
	pthread_cond_t cond; /* helpers: work came; waiters: an event came */
	struct mc_watch *watches[MAX_WATCHES];
	struct mc_timer *timers[MAX_TIMERS];
	struct mc_work *posts, *jobs; /* FIFO through host[0] */
	bool stop, loop_stop;
	int wake;
	uint64_t loop_worst;
	pthread_t loop, helpers[NR_HELPERS];
};

static pthread_mutex_t breach_mx = PTHREAD_MUTEX_INITIALIZER;
static unsigned nr_breaches;
static char last_breach[256];

static void breach(const char *what)
{
	pthread_mutex_lock(&breach_mx);
	nr_breaches++;
	snprintf(last_breach, sizeof last_breach, "%s", what);
	pthread_mutex_unlock(&breach_mx);
}

unsigned mh_breaches(void)
{
	unsigned n;

	pthread_mutex_lock(&breach_mx);
	n = nr_breaches;
	pthread_mutex_unlock(&breach_mx);
	return n;
}

const char *mh_last_breach(void)
{
	return last_breach;
}

uint64_t mh_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

void mh_sleep(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / MC_SEC), (long)(ns % MC_SEC)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* ---- services ---------------------------------------------------------------------------- */

static struct mh_inst *of(const struct mc_host *h)
{
	return (struct mh_inst *)(uintptr_t)h;
}

static void wake(struct mh_inst *in)
{
	uint64_t one = 1;
	ssize_t r = write(in->wake, &one, sizeof one);

	(void)r; /* a full counter wakes as well */
}

static void svc_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	if (!getenv("MH_VERBOSE"))
		return;
	fprintf(stderr, "  [%d] ", level);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static uint64_t svc_now(const struct mc_host *h)
{
	return mh_now();
}

static void svc_random(const struct mc_host *h, void *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = getrandom(buf, len < 256 ? len : 256, 0);

		if (n > 0) {
			buf = (char *)buf + n;
			len -= (size_t)n;
		}
	}
}

static void *svc_alloc(const struct mc_host *h, size_t len)
{
	void *p = NULL;

	if (posix_memalign(&p, 4096, len ? len : 1))
		return NULL;
	return memset(p, 0, len);
}

static void svc_free(const struct mc_host *h, void *ptr, size_t len)
{
	free(ptr);
}

static uint64_t *svc_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL; /* "too many": the plugin goes on without */
}

static int svc_watch(const struct mc_host *h, struct mc_watch *w)
{
	struct mh_inst *in = of(h);
	int r = -ENOSPC;

	pthread_mutex_lock(&in->mx);
	for (int i = 0; i < MAX_WATCHES && r < 0; i++) {
		if (!in->watches[i]) {
			in->watches[i] = w;
			r = 0;
		}
	}
	pthread_mutex_unlock(&in->mx);
	wake(in);
	return r;
}

static void want_control(struct mh_inst *in, const char *what)
{
	if (!pthread_equal(pthread_self(), in->loop))
		breach(what);
}

static int svc_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	want_control(of(h), "rewatch off the control loop");
	w->events = events;
	return 0;
}

static void svc_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	struct mh_inst *in = of(h);

	want_control(in, "unwatch off the control loop");
	pthread_mutex_lock(&in->mx);
	for (int i = 0; i < MAX_WATCHES; i++)
		if (in->watches[i] == w)
			in->watches[i] = NULL;
	pthread_mutex_unlock(&in->mx);
}

static void svc_timer_set(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
	struct mh_inst *in = of(h);
	int free_at = -1, at = -1;

	pthread_mutex_lock(&in->mx);
	for (int i = 0; i < MAX_TIMERS; i++) {
		if (in->timers[i] == t)
			at = i;
		else if (!in->timers[i])
			free_at = i;
	}
	t->deadline_ns = deadline_ns;
	if (at >= 0 && !deadline_ns)
		in->timers[at] = NULL;
	else if (at < 0 && deadline_ns && free_at >= 0)
		in->timers[free_at] = t;
	else if (at < 0 && deadline_ns)
		breach("more timers than this host has");
	pthread_mutex_unlock(&in->mx);
	wake(in);
}

static void enqueue(struct mc_work **list, struct mc_work *w)
{
	w->host[0] = NULL;
	while (*list) {
		if (*list == w) {
			breach("work queued twice");
			return;
		}
		list = (struct mc_work **)&(*list)->host[0];
	}
	*list = w;
}

static struct mc_work *dequeue(struct mc_work **list)
{
	struct mc_work *w = *list;

	if (w)
		*list = w->host[0];
	return w;
}

static void svc_post(const struct mc_host *h, struct mc_work *w)
{
	struct mh_inst *in = of(h);

	pthread_mutex_lock(&in->mx);
	w->host[1] = NULL; /* a plain post: run */
	enqueue(&in->posts, w);
	pthread_mutex_unlock(&in->mx);
	wake(in);
}

static void svc_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	struct mh_inst *in = of(h);

	pthread_mutex_lock(&in->mx);
	w->host[1] = w; /* back on the loop: done */
	enqueue(&in->jobs, w);
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->mx);
}

static void svc_kv_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
	struct mh_watch *w = (void *)((char *)watch - offsetof(struct mh_watch, area));
	struct mh_inst *in = of(h);
	struct mh_event *e;

	pthread_mutex_lock(&in->mx);
	if (w->over)
		breach("kv_event after unwatch returned");
	if (kv->size < sizeof *kv)
		breach("kv_event with a wrong size");
	if (w->nr == w->room) {
		w->room = w->room ? w->room * 2 : 64;
		w->events = realloc(w->events, w->room * sizeof *w->events);
	}
	e = &w->events[w->nr++];
	*e = (struct mh_event){.key = strdup(kv->key), .len = kv->len, .revision = kv->revision};
	if (kv->value) {
		e->value = malloc(kv->len + 1);
		memcpy(e->value, kv->value, kv->len);
	}
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->mx);
}

/* ---- threads ------------------------------------------------------------------------------- */

static void *helper_main(void *arg)
{
	struct mh_inst *in = arg;

	pthread_mutex_lock(&in->mx);
	for (;;) {
		struct mc_work *w = dequeue(&in->jobs);

		if (!w && in->stop)
			break;
		if (!w) {
			pthread_cond_wait(&in->cond, &in->mx);
			continue;
		}
		pthread_mutex_unlock(&in->mx);
		w->run(w);
		pthread_mutex_lock(&in->mx);
		enqueue(&in->posts, w);
		wake(in);
	}
	pthread_mutex_unlock(&in->mx);
	return NULL;
}

static void loop_posts(struct mh_inst *in)
{
	struct mc_work *w;

	pthread_mutex_lock(&in->mx);
	while ((w = dequeue(&in->posts))) {
		bool done = w->host[1] != NULL;

		pthread_mutex_unlock(&in->mx);
		if (!done)
			w->run(w);
		else if (w->done)
			w->done(w);
		pthread_mutex_lock(&in->mx);
	}
	pthread_mutex_unlock(&in->mx);
}

static void loop_timers(struct mh_inst *in)
{
	uint64_t now = mh_now();

	for (int i = 0; i < MAX_TIMERS; i++) {
		struct mc_timer *t;

		pthread_mutex_lock(&in->mx);
		t = in->timers[i];
		if (t && t->deadline_ns <= now) {
			in->timers[i] = NULL;
			t->deadline_ns = 0;
		} else {
			t = NULL;
		}
		pthread_mutex_unlock(&in->mx);
		if (t)
			t->fire(t, now);
	}
}

/* Fill the poll set; returns its size and the time until the next timer in ms. */
static int loop_prepare(struct mh_inst *in, struct pollfd *pfd, struct mc_watch **who, int *ret_ms)
{
	uint64_t next = 0, now = mh_now();
	int nr = 1;

	pfd[0] = (struct pollfd){.fd = in->wake, .events = POLLIN};
	pthread_mutex_lock(&in->mx);
	for (int i = 0; i < MAX_WATCHES; i++) {
		if (in->watches[i] && in->watches[i]->events) {
			who[nr] = in->watches[i];
			pfd[nr++] = (struct pollfd){.fd = in->watches[i]->fd,
						    .events = (short)in->watches[i]->events};
		}
	}
	for (int i = 0; i < MAX_TIMERS; i++)
		if (in->timers[i] && (!next || in->timers[i]->deadline_ns < next))
			next = in->timers[i]->deadline_ns;
	pthread_mutex_unlock(&in->mx);
	*ret_ms = !next ? -1 : next <= now ? 0 : (int)((next - now) / MC_MSEC) + 1;
	return nr;
}

static bool still_watched(struct mh_inst *in, struct mc_watch *w)
{
	bool found = false;

	pthread_mutex_lock(&in->mx);
	for (int i = 0; i < MAX_WATCHES; i++)
		found |= in->watches[i] == w;
	pthread_mutex_unlock(&in->mx);
	return found;
}

static void *loop_main(void *arg)
{
	struct mh_inst *in = arg;
	struct pollfd pfd[MAX_WATCHES + 1];
	struct mc_watch *who[MAX_WATCHES + 1];
	bool stop = false;

	while (!stop) {
		int ms, nr = loop_prepare(in, pfd, who, &ms);
		uint64_t count, begin, spent;
		ssize_t r;

		poll(pfd, (nfds_t)nr, ms);
		r = read(in->wake, &count, sizeof count);
		(void)r;
		begin = mh_now();
		for (int i = 1; i < nr; i++)
			if (pfd[i].revents && still_watched(in, who[i]))
				who[i]->ready(who[i], (uint32_t)pfd[i].revents);
		loop_timers(in);
		loop_posts(in);
		spent = mh_now() - begin;
		pthread_mutex_lock(&in->mx);
		if (spent > in->loop_worst)
			in->loop_worst = spent;
		stop = in->loop_stop && !in->posts && !in->jobs;
		pthread_mutex_unlock(&in->mx);
	}
	return NULL;
}

/* ---- instances ----------------------------------------------------------------------------- */

static void inst_init(struct mh_inst *in, const struct mh_plugin *p)
{
	in->host = (struct mc_host){
		.size = sizeof in->host,
		.abi_major = MC_ABI_MAJOR,
		.abi_minor = MC_ABI_MINOR,
		.instance = p->desc->name,
		.log = svc_log,
		.now_ns = svc_now,
		.random = svc_random,
		.alloc = svc_alloc,
		.free = svc_free,
		.counter = svc_counter,
		.gauge = svc_counter,
		.watch = svc_watch,
		.rewatch = svc_rewatch,
		.unwatch = svc_unwatch,
		.timer_set = svc_timer_set,
		.post = svc_post,
		.run_blocking = svc_run_blocking,
		.run_lazily = svc_run_blocking,
		.kv_event = svc_kv_event,
	};
	in->plugin = p;
	in->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	in->area = calloc(1, p->ops->instance_size + 1);
	pthread_mutex_init(&in->mx, NULL);
	pthread_cond_init(&in->cond, NULL);
	/* The lock makes `loop` visible to the threads before they look at it. */
	pthread_mutex_lock(&in->mx);
	pthread_create(&in->loop, NULL, loop_main, in);
	for (int i = 0; i < NR_HELPERS; i++)
		pthread_create(&in->helpers[i], NULL, helper_main, in);
	pthread_mutex_unlock(&in->mx);
}

static void inst_fini(struct mh_inst *in)
{
	pthread_mutex_lock(&in->mx);
	in->stop = true;
	pthread_cond_broadcast(&in->cond);
	pthread_mutex_unlock(&in->mx);
	for (int i = 0; i < NR_HELPERS; i++)
		pthread_join(in->helpers[i], NULL);
	/* Only now is it sure that no helper hands over another `done`. */
	pthread_mutex_lock(&in->mx);
	in->loop_stop = true;
	pthread_mutex_unlock(&in->mx);
	wake(in);
	pthread_join(in->loop, NULL);
	for (int i = 0; i < MAX_WATCHES; i++)
		if (in->watches[i])
			breach("a descriptor is still watched after close");
	for (int i = 0; i < MAX_TIMERS; i++)
		if (in->timers[i])
			breach("a timer is still set after close");
	close(in->wake);
	pthread_cond_destroy(&in->cond);
	pthread_mutex_destroy(&in->mx);
	free(in->area);
	free(in);
}

int mh_open(const struct mh_plugin *p, const char *url, const char *const *words,
	    struct mh_inst **ret_inst, struct mc_error *err)
{
	struct mc_open_args args = {.size = sizeof args,
				    .device = url,
				    .engine = "conformance",
				    .generation = 1,
				    .peer_timeout_ns = 5 * MC_SEC,
				    .deadline_ns = mh_now() + 5 * MC_SEC};
	struct mc_value *values;
	struct mh_inst *in;
	int r = mh_options(p->desc, words, &values, err);

	if (r < 0)
		return r;
	in = calloc(1, sizeof *in);
	inst_init(in, p);
	args.options = values;
	r = p->ops->open(in->area, &in->host, &args, err);
	free(values); /* borrowed during open only */
	if (r < 0)
		inst_fini(in);
	else
		*ret_inst = in;
	return r;
}

void mh_close(struct mh_inst *in)
{
	if (!in)
		return;
	in->plugin->ops->close(in->area);
	inst_fini(in);
}

void *mh_area(struct mh_inst *in)
{
	return in->area;
}

uint64_t mh_loop_worst(struct mh_inst *in)
{
	uint64_t ns;

	pthread_mutex_lock(&in->mx);
	ns = in->loop_worst;
	pthread_mutex_unlock(&in->mx);
	return ns;
}

/* ---- watches --------------------------------------------------------------------------------- */

int mh_watch(struct mh_inst *in, const char *prefix, struct mh_watch **ret_watch,
	     struct mc_error *err)
{
	struct mh_watch *w = calloc(1, sizeof *w + in->plugin->ops->watch_size);
	int r;

	w->inst = in;
	r = in->plugin->ops->watch(in->area, w->area, prefix, mh_now() + 5 * MC_SEC, err);
	if (r < 0)
		free(w);
	else
		*ret_watch = w;
	return r;
}

void mh_unwatch(struct mh_watch *w)
{
	w->inst->plugin->ops->unwatch(w->inst->area, w->area);
	pthread_mutex_lock(&w->inst->mx);
	w->over = true;
	pthread_mutex_unlock(&w->inst->mx);
}

void mh_watch_free(struct mh_watch *w)
{
	for (size_t i = 0; i < w->nr; i++) {
		free(w->events[i].key);
		free(w->events[i].value);
	}
	free(w->events);
	free(w);
}

size_t mh_watch_count(struct mh_watch *w)
{
	size_t n;

	pthread_mutex_lock(&w->inst->mx);
	n = w->nr;
	pthread_mutex_unlock(&w->inst->mx);
	return n;
}

static bool last_is(const struct mh_watch *w, const char *key, uint64_t rev)
{
	for (size_t i = w->nr; i-- > 0;) {
		const struct mh_event *e = &w->events[i];

		if (!strcmp(e->key, key))
			return rev ? e->value && e->revision == rev : !e->value;
	}
	return false;
}

bool mh_watch_wait(struct mh_watch *w, const char *key, uint64_t rev, uint64_t bound_ns)
{
	uint64_t end = mh_now() + bound_ns;
	bool ok;

	for (;;) {
		pthread_mutex_lock(&w->inst->mx);
		ok = last_is(w, key, rev);
		pthread_mutex_unlock(&w->inst->mx);
		if (ok || mh_now() >= end)
			return ok;
		mh_sleep(2 * MC_MSEC);
	}
}
