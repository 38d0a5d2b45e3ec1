/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host services that need no lane: log, clock, random bytes, memory.  Calls
 * of enumerate and probe, and memory plugins, get a table of these; what needs
 * a worker answers -ENOTSUP there.
 */
#include "host.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "clock.h"
#include "kind.h"
#include "log.h"
#include "pages.h"
#include "core/util/check.h"

static const struct mc_plain_host *plain_of(const struct mc_host *h)
{
	return MC_CONTAINER_OF(h, struct mc_plain_host, host);
}

void mc_host_log(const struct mc_host *h, int level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	mc_logv(level, h->instance, fmt, ap);
	va_end(ap);
}

uint64_t mc_host_now(const struct mc_host *h)
{
	return mc_now_ns();
}

void mc_random(void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len) {
		ssize_t n = getrandom(at, len, 0);

		if (n < 0 && errno != EINTR)
			abort(); /* no kernel that we run on lacks it; ids must not repeat */
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
}

void mc_host_random(const struct mc_host *h, void *buf, size_t len)
{
	mc_random(buf, len);
}

static void *plain_alloc(const struct mc_host *h, size_t len)
{
	return mc_pages_alloc(len, -1);
}

static void plain_free(const struct mc_host *h, void *ptr, size_t len)
{
	mc_pages_free(ptr, len);
}

static uint64_t *plain_counter(const struct mc_host *h, const char *name, const char *doc)
{
	return NULL;
}

static int plain_watch(const struct mc_host *h, struct mc_watch *w)
{
	return -ENOTSUP;
}

static int plain_rewatch(const struct mc_host *h, struct mc_watch *w, uint32_t events)
{
	return -ENOTSUP;
}

static void plain_unwatch(const struct mc_host *h, struct mc_watch *w)
{
}

static void plain_timer(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns)
{
}

/* ---- work on helpers: struct mc_work has room for a job ------------------------------------- */

static_assert(sizeof(struct mc_job) <= sizeof ((struct mc_work *)0)->host, "a job fits into a work");

static void work_run(struct mc_job *job)
{
	struct mc_work *w = MC_CONTAINER_OF((void **)job, struct mc_work, host[0]);

	w->run(w);
}

static void work_run_done(struct mc_job *job)
{
	struct mc_work *w = MC_CONTAINER_OF((void **)job, struct mc_work, host[0]);

	bool has_done = w->done != NULL;

	w->run(w);
	if (has_done)
		w->done(w);
}

static void plain_work(const struct mc_host *h, struct mc_work *w, void (*run)(struct mc_job *job),
		       enum mc_job_kind kind)
{
	const struct mc_plain_host *plain = plain_of(h);
	struct mc_job *job = (struct mc_job *)(void *)w->host;

	job->run = run;
	if (plain->engine)
		mc_helpers_run_as(plain->engine->helpers, job, kind);
	else
		run(job);
}

static void plain_post(const struct mc_host *h, struct mc_work *w)
{
	plain_work(h, w, work_run, MC_JOB_PLAIN);
}

static void plain_run_blocking(const struct mc_host *h, struct mc_work *w)
{
	plain_work(h, w, work_run_done, MC_JOB_PLAIN);
}

static void plain_run_lazily(const struct mc_host *h, struct mc_work *w)
{
	plain_work(h, w, work_run_done, MC_JOB_LAZY);
}

static int plain_identify(const struct mc_host *h, const void *addr, uint64_t len,
			  struct mc_mem_desc *desc)
{
	const struct mc_plain_host *plain = plain_of(h);

	return plain->engine ? mc_kind_identify(plain->engine, addr, len, desc) : -ENOTSUP;
}

/* ---- what only a lane has ------------------------------------------------------------------- */

static void no_complete(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			uint64_t done_len)
{
}

static int no_peer_send(const struct mc_host *h, void *peer, const void *msg, size_t len)
{
	return -ENOTSUP;
}

static void no_peer_ready(const struct mc_host *h, void *peer, int status,
			  const struct mc_transport_caps *caps, const char *why)
{
}

static void no_peer_writable(const struct mc_host *h, void *peer)
{
}

static void no_fenced(const struct mc_host *h, void *peer, uint32_t epoch)
{
}

static void no_device_event(const struct mc_host *h, int event, const char *why)
{
}

static int no_stream_dial(const struct mc_host *h, void *peer, uint64_t token)
{
	return -ENOTSUP;
}

static void no_imported(const struct mc_host *h, void *remote, int status)
{
}

static int no_range_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
			uint64_t len, uint32_t access, struct mc_range *range)
{
	return -ENOTSUP;
}

static void no_range_put(const struct mc_host *h, struct mc_range *range)
{
}

static int no_mem_copy(const struct mc_host *h, struct mc_copy *c)
{
	return -ENOTSUP;
}

static int no_kv(const struct mc_host *h, struct mc_kv_call *c)
{
	return -ENOTSUP;
}

static void no_kv_event(const struct mc_host *h, void *watch, const struct mc_kv *kv)
{
}

static uint64_t no_lease_left(const struct mc_host *h)
{
	return UINT64_MAX;
}

static void no_copied(const struct mc_host *h, struct mc_copy *c, int status)
{
}

void mc_plain_host_init(struct mc_plain_host *plain, struct mc_engine *engine, const char *label)
{
	memset(plain, 0, sizeof *plain);
	plain->engine = engine;
	snprintf(plain->label, sizeof plain->label, "%s", label);
	plain->host = (struct mc_host){
		.size = sizeof(struct mc_host),
		.abi_major = MC_ABI_MAJOR,
		.abi_minor = MC_ABI_MINOR,
		.instance = plain->label,
		.log = mc_host_log,
		.now_ns = mc_host_now,
		.random = mc_host_random,
		.alloc = plain_alloc,
		.free = plain_free,
		.counter = plain_counter,
		.gauge = plain_counter,
		.watch = plain_watch,
		.rewatch = plain_rewatch,
		.unwatch = plain_unwatch,
		.timer_set = plain_timer,
		.post = plain_post,
		.run_blocking = plain_run_blocking,
		.run_lazily = plain_run_lazily,
		.complete = no_complete,
		.complete_any = no_complete,
		.peer_send = no_peer_send,
		.peer_ready = no_peer_ready,
		.peer_writable = no_peer_writable,
		.fenced = no_fenced,
		.device_event = no_device_event,
		.stream_dial = no_stream_dial,
		.imported = no_imported,
		.range_get = no_range_get,
		.range_put = no_range_put,
		.mem_copy = no_mem_copy,
		.mem_identify = plain_identify,
		.kv = no_kv,
		.kv_event = no_kv_event,
		.copied = no_copied,
		.lease_left_ns = no_lease_left,
	};
}
