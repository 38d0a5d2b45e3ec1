/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host services of a metadata plugin: log, clock, memory, descriptors and
 * timers of the control loop, helpers.  Services of other kinds of plugins are
 * NULL here; no metadata plugin may use them.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <sys/random.h>

#include "clock.h"
#include "log.h"
#include "meta.h"
#include "core/util/check.h"

static struct mc_meta *meta_of(const struct mc_host *h)
{
	return MC_CONTAINER_OF(h, struct mc_meta, host);
}

static void host_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	mc_logv(level, meta_of(h)->label, fmt, ap);
	va_end(ap);
}

static uint64_t host_now(const struct mc_host *h)
{
	return mc_now_ns();
}

static void host_random(const struct mc_host *h, void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len) {
		ssize_t n = getrandom(at, len, 0);

		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
}

static void *host_alloc(const struct mc_host *h, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void host_free(const struct mc_host *h, void *ptr, size_t len)
{
	if (ptr)
		munmap(ptr, len);
}

static uint64_t *host_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL; /* counters belong to devices; a plugin goes on without */
}

static int host_watch(const struct mc_host *h, struct mc_watch *w)
{
	return mc_control_watch(meta_of(h)->engine->control, w);
}

static int host_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	return mc_control_rewatch(meta_of(h)->engine->control, w, events);
}

static void host_unwatch(const struct mc_host *h, struct mc_watch *w)
{
	mc_control_unwatch(meta_of(h)->engine->control, w);
}

static void host_timer_set(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
	mc_control_timer(meta_of(h)->engine->control, t, deadline_ns);
}

/* A plugin's work on its way; the struct mc_work is the plugin's again when run or done is called.
 * The instance counts them, so that it outlives what is on its way when the plugin closes. */
struct work {
	struct mc_control_post post;
	struct mc_job job;
	struct mc_meta *m;
	struct mc_work *w;
};

static void work_end(struct work *work)
{
	struct mc_meta *m = work->m;

	free(work);
	__atomic_sub_fetch(&m->works, 1, __ATOMIC_RELEASE);
}

static void post_run(struct mc_control_post *post)
{
	struct work *work = MC_CONTAINER_OF(post, struct work, post);

	work->w->run(work->w);
	work_end(work);
}

static void post_done(struct mc_control_post *post)
{
	struct work *work = MC_CONTAINER_OF(post, struct work, post);

	work->w->done(work->w);
	work_end(work);
}

static void job_run(struct mc_job *job)
{
	struct work *work = MC_CONTAINER_OF(job, struct work, job);
	bool has_done = work->w->done != NULL;

	work->w->run(work->w);
	work->post.run = post_done;
	if (has_done)
		mc_control_post(work->m->engine->control, &work->post);
	else
		work_end(work);
}

void mc_meta_host_wait(struct mc_meta *m)
{
	struct timespec pause = {.tv_nsec = 200000};

	while (__atomic_load_n(&m->works, __ATOMIC_ACQUIRE))
		nanosleep(&pause, NULL);
}

static struct work *work_new(const struct mc_host *h, struct mc_work *w)
{
	struct work *work = calloc(1, sizeof *work);

	if (!work)
		abort(); /* a promised call cannot be kept, and there is nobody to tell */
	work->m = meta_of(h);
	work->w = w;
	__atomic_add_fetch(&work->m->works, 1, __ATOMIC_RELAXED);
	return work;
}

static void host_post(const struct mc_host *h, struct mc_work *w)
{
	struct work *work = work_new(h, w);

	work->post.run = post_run;
	mc_control_post(work->m->engine->control, &work->post);
}

static void run_on_helper(const struct mc_host *h, struct mc_work *w, enum mc_job_kind kind)
{
	struct work *work = work_new(h, w);

	work->job.run = job_run;
	mc_helpers_run_as(work->m->engine->helpers, &work->job, kind);
}

static void host_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	run_on_helper(h, w, MC_JOB_PLAIN);
}

static void host_run_lazily(const struct mc_host *h, struct mc_work *w)
{
	run_on_helper(h, w, MC_JOB_LAZY);
}

static void host_kv_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
	mc_kv_watch_event(watch, kv);
}

void mc_meta_host_init(struct mc_meta *m)
{
	m->host = (struct mc_host){
		.size = sizeof m->host,
		.abi_major = MC_ABI_MAJOR,
		.abi_minor = MC_ABI_MINOR,
		.instance = m->label,
		.log = host_log,
		.now_ns = host_now,
		.random = host_random,
		.alloc = host_alloc,
		.free = host_free,
		.counter = host_counter,
		.gauge = host_counter,
		.watch = host_watch,
		.rewatch = host_rewatch,
		.unwatch = host_unwatch,
		.timer_set = host_timer_set,
		.post = host_post,
		.run_blocking = host_run_blocking,
		.run_lazily = host_run_lazily,
		.kv_event = host_kv_event,
	};
}
