/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host for metadata plugins; meta-host.h says what it gives.  Each service checks the
 * thread that its tag in plugin.h names, where [worker] is the loop thread.
 */
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
#define LOOP_MOST (500 * MC_MSEC) /* of one callback; generous, for the machine may be busy */

struct mh_inst {
	struct mc_host host; /* first: services find the instance by it */
	const struct fake_plugin *plugin;
	pthread_t opener;     /* who is inside open or close, while opening is set */
	bool opening, closed; /* atomic, as opener */
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
static unsigned nr_breaches, fail_alloc, fail_watch; /* under breach_mx */
static bool did_fail;
static int last_section;
static char last_breach[256];

static void breach(int section, const char *what)
{
	pthread_mutex_lock(&breach_mx);
	nr_breaches++;
	last_section = section;
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

const char *mh_last_breach(int *ret_section)
{
	if (ret_section)
		*ret_section = last_section;
	return last_breach;
}

void mh_fail(unsigned nth_alloc, unsigned nth_watch)
{
	pthread_mutex_lock(&breach_mx);
	fail_alloc = nth_alloc;
	fail_watch = nth_watch;
	did_fail = false;
	pthread_mutex_unlock(&breach_mx);
}

bool mh_failed(void)
{
	bool did;

	pthread_mutex_lock(&breach_mx);
	did = did_fail;
	pthread_mutex_unlock(&breach_mx);
	return did;
}

/* True if this call is the one to fail. */
static bool strikes(unsigned *nth)
{
	bool hit;

	pthread_mutex_lock(&breach_mx);
	hit = *nth == 1;
	did_fail |= hit;
	if (*nth)
		(*nth)--;
	pthread_mutex_unlock(&breach_mx);
	return hit;
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

	if (!getenv("FAKE_VERBOSE"))
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

	if (strikes(&fail_alloc))
		return NULL;
	if (posix_memalign(&p, 4096, len ? len : 1))
		return NULL;
	return memset(p, 0, len);
}

static void svc_free(const struct mc_host *h, void *ptr, size_t len)
{
	free(ptr);
}

/* [control], and [helper] inside open and close. */
static void want_control(struct mh_inst *in, const char *service)
{
	char text[128];
	bool fits = pthread_equal(pthread_self(), in->loop);

	if (__atomic_load_n(&in->opening, __ATOMIC_ACQUIRE))
		fits |= pthread_equal(pthread_self(), __atomic_load_n(&in->opener, __ATOMIC_RELAXED));
	if (!fits) {
		snprintf(text, sizeof text, "%s is called on the control loop: it came from another thread", service);
		breach(7, text);
	}
	if (__atomic_load_n(&in->closed, __ATOMIC_ACQUIRE)) {
		snprintf(text, sizeof text, "no service is called after close: %s was", service);
		breach(8, text);
	}
}

static uint64_t *svc_counter(const struct mc_host *h, const char *name, const char *doc)
{
	if (!__atomic_load_n(&of(h)->opening, __ATOMIC_ACQUIRE))
		breach(7, "counter is called inside open: it was asked for later");
	return NULL; /* "too many": the plugin goes on without */
}

static int svc_watch(const struct mc_host *h, struct mc_watch *w)
{
	struct mh_inst *in = of(h);
	int r = -ENOSPC;

	want_control(in, "watch");
	if (strikes(&fail_watch))
		return -ENOSPC;
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

static int svc_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	want_control(of(h), "rewatch");
	w->events = events;
	return 0;
}

static void svc_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	struct mh_inst *in = of(h);

	want_control(in, "unwatch");
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

	want_control(in, "timer_set");
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
		breach(7, "more timers than this host has");
	pthread_mutex_unlock(&in->mx);
	wake(in);
}

static void enqueue(struct mc_work **list, struct mc_work *w)
{
	w->host[0] = NULL;
	while (*list) {
		if (*list == w) {
			breach(3, "work is queued again before it has run");
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
		breach(8, "kv_event came after unwatch had returned");
	if (kv->size < sizeof *kv)
		breach(1, "kv_event with a struct mc_kv whose size is wrong");
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

/* ---- private areas ------------------------------------------------------------------------- */

#define EDGE 64 /* guard bytes behind an area, and the alignment of its start */
#define EDGE_BYTE 0xa5

/* head zeroed bytes of ours, a multiple of EDGE, then the plugin's. */
static void *area_make(size_t head, size_t size)
{
	size_t total = (head + size + 2 * EDGE - 1) / EDGE * EDGE;
	unsigned char *p = aligned_alloc(EDGE, total);

	memset(p, 0, head + size);
	memset(p + head + size, EDGE_BYTE, total - head - size);
	return p;
}

static void area_check(const unsigned char *area, size_t size, const char *what)
{
	size_t rest = (size + 2 * EDGE - 1) / EDGE * EDGE - size, i = 0;
	char text[128];

	while (i < rest && area[size + i] == EDGE_BYTE)
		i++;
	if (i == rest)
		return;
	snprintf(text, sizeof text, "a plugin writes only inside its private areas: the byte %zu behind the %s area",
		 i, what);
	breach(3, text);
}

/* ---- instances ----------------------------------------------------------------------------- */

static void inst_init(struct mh_inst *in, const struct fake_plugin *p)
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
	in->area = area_make(0, p->ops.metadata.instance_size);
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
	if (in->loop_worst >= LOOP_MOST) {
		char text[128];

		snprintf(text, sizeof text, "a callback held the control loop for %llu ms: it must not block",
			 (unsigned long long)(in->loop_worst / MC_MSEC));
		breach(2, text);
	}
	for (int i = 0; i < MAX_WATCHES; i++)
		if (in->watches[i])
			breach(8, "close leaves a descriptor watched");
	for (int i = 0; i < MAX_TIMERS; i++)
		if (in->timers[i])
			breach(8, "close leaves a timer set");
	close(in->wake);
	pthread_cond_destroy(&in->cond);
	pthread_mutex_destroy(&in->mx);
	area_check(in->area, in->plugin->ops.metadata.instance_size, "instance");
	free(in->area);
	free(in);
}

/* open and close may use the services of [worker], too. */
static void opening(struct mh_inst *in, bool begins)
{
	if (begins)
		__atomic_store_n(&in->opener, pthread_self(), __ATOMIC_RELAXED);
	__atomic_store_n(&in->opening, begins, __ATOMIC_RELEASE);
}

int mh_open(const struct fake_plugin *p, const char *url, const char *const *words, size_t nr_words,
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
	int r = fake_options_parse(p->desc, words, nr_words, &values, err);

	if (r < 0)
		return r;
	in = calloc(1, sizeof *in);
	inst_init(in, p);
	args.options = values;
	opening(in, true);
	r = p->ops.metadata.open(in->area, &in->host, &args, err);
	opening(in, false);
	fake_options_free(p->desc, values); /* borrowed during open only */
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
	opening(in, true);
	in->plugin->ops.metadata.close(in->area);
	opening(in, false);
	__atomic_store_n(&in->closed, true, __ATOMIC_RELEASE);
	inst_fini(in);
}

void *mh_area(struct mh_inst *in)
{
	return in->area;
}

/* ---- watches --------------------------------------------------------------------------------- */

int mh_watch(struct mh_inst *in, const char *prefix, struct mh_watch **ret_watch,
	     struct mc_error *err)
{
	struct mh_watch *w = area_make(sizeof *w, in->plugin->ops.metadata.watch_size);
	int r;

	w->inst = in;
	r = in->plugin->ops.metadata.watch(in->area, w->area, prefix, mh_now() + 5 * MC_SEC, err);
	if (r < 0)
		free(w);
	else
		*ret_watch = w;
	return r;
}

void mh_unwatch(struct mh_watch *w)
{
	w->inst->plugin->ops.metadata.unwatch(w->inst->area, w->area);
	pthread_mutex_lock(&w->inst->mx);
	w->over = true;
	pthread_mutex_unlock(&w->inst->mx);
}

void mh_watch_free(struct mh_watch *w)
{
	area_check(w->area, w->inst->plugin->ops.metadata.watch_size, "watch");
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
