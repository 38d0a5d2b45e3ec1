/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench: how fast values go in and come out.  Jobs are threads that share one store; each has
 * keys of its own, and puts them again and again (replacing what is there), or gets or looks for
 * batches of them.  With --check every value that is got holds the bytes of its last put; a put
 * run is read back in the end.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "load.h"
#include "program.h"

#define KEY_LEN 40
#define SECONDS_DEFAULT 5.0

enum op { OP_PUT, OP_GET, OP_EXIST };

struct bench;
struct job {
	struct bench *b;
	pthread_t thread;
	bool started;
	unsigned idx;
	uint8_t *buffer; /* a place for each value of a batch */
	char (*keys)[KEY_LEN + 1];
	uint32_t *puts;  /* by key: how often it was put */
	struct mc_store_op *ops;
	struct mc_store_range *ranges;
	uint64_t random;
	struct msc_times times;
	_Atomic uint64_t values;
	uint64_t checked;
	int status;
	struct mc_error err;
};

struct bench {
	const struct msc_options *o;
	struct msc_session session;
	enum op op;
	uint64_t size, nr_keys;
	struct job *jobs;
	atomic_bool stop;
	double seconds; /* that it ran */
};

/* ---- one call ----------------------------------------------------------------------------------- */

static uint64_t tag_of(const struct job *j, uint64_t key)
{
	return ((uint64_t)j->idx << 48) ^ (key << 24) ^ j->puts[key];
}

static uint64_t draw(struct job *j)
{
	j->random ^= j->random << 13;
	j->random ^= j->random >> 7;
	j->random ^= j->random << 17;
	return j->random;
}

/* nr values from the key `first` on, around the end. */
static void aim(struct job *j, uint64_t first, uint64_t nr, bool put)
{
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t key = (first + i) % j->b->nr_keys;

		j->ranges[i] = (struct mc_store_range){j->buffer + i * j->b->size, j->b->size};
		j->ops[i] = (struct mc_store_op){.key = j->keys[key], .key_len = KEY_LEN, .ranges = &j->ranges[i], .nr_ranges = 1};
		if (!put)
			continue;
		j->puts[key]++;
		if (j->b->o->check)
			msc_fill(j->ranges[i].addr, j->b->size, tag_of(j, key));
	}
}

static int verify(struct job *j, uint64_t first, uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t key = (first + i) % j->b->nr_keys;

		if (!msc_filled(j->ranges[i].addr, j->b->size, tag_of(j, key)))
			return mc_fail(&j->err, -EBADMSG, "key '%s': what was got is not what was put", j->keys[key]);
	}
	j->checked += nr;
	return 0;
}

static int call(struct job *j, enum op op, uint64_t first, uint64_t nr, bool timed)
{
	struct bench *b = j->b;
	struct mc_store_config config = {
		.size = sizeof config,
		.flags = (op == OP_PUT ? MC_STORE_REPLACE : 0) | (b->o->replicas > 1 && op == OP_PUT ? MC_STORE_ALL_REPLICAS : 0) |
			 (b->o->checksum ? MC_STORE_CHECKSUM : 0),
		.nr_replicas = (uint32_t)b->o->replicas,
		.preferred = *b->o->preferred ? b->o->preferred : NULL,
	};
	uint64_t start;
	int r;

	aim(j, first, nr, op == OP_PUT);
	start = msc_now_ns();
	r = op == OP_PUT ? mc_store_put_batch(b->session.store, j->ops, nr, &config, msc_timeout(b->o), &j->err) :
	    op == OP_GET ? mc_store_get_batch(b->session.store, j->ops, nr, &config, msc_timeout(b->o), &j->err) :
			   mc_store_exist_batch(b->session.store, j->ops, nr, &config, msc_timeout(b->o), &j->err);
	if (r != 0)
		return r < 0 ? r : j->err.code ? j->err.code : -EIO;
	if (timed) {
		msc_times_add(&j->times, msc_now_ns() - start);
		atomic_fetch_add_explicit(&j->values, nr, memory_order_relaxed);
	}
	for (uint64_t i = 0; op == OP_GET && i < nr; i++)
		if (j->ops[i].len != b->size || j->ops[i].moved != b->size)
			return mc_fail(&j->err, -EBADMSG, "key '%.*s': got %" PRIu64 " of %" PRIu64 " bytes", KEY_LEN,
				       (const char *)j->ops[i].key, j->ops[i].moved, j->ops[i].len);
	return op == OP_GET && b->o->check ? verify(j, first, nr) : 0;
}

/* All keys of the job once, in batches. */
static int all_keys(struct job *j, enum op op)
{
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < j->b->nr_keys && !mc_stopping(); at += j->b->o->batch)
		r = call(j, op, at, MC_MIN(j->b->o->batch, j->b->nr_keys - at), false);
	return r;
}

/* ---- jobs ---------------------------------------------------------------------------------------- */

static void *run_job(void *arg)
{
	struct job *j = arg;
	struct bench *b = j->b;
	uint64_t at = 0;

	while (j->status == 0 && !atomic_load_explicit(&b->stop, memory_order_relaxed)) {
		if (b->op != OP_PUT)
			at = draw(j) % b->nr_keys;
		j->status = call(j, b->op, at, b->o->batch, true);
		at = (at + b->o->batch) % b->nr_keys;
	}
	if (j->status < 0)
		atomic_store(&b->stop, true);
	return NULL;
}

static int job_open(struct bench *b, unsigned idx)
{
	struct job *j = &b->jobs[idx];
	void *buffer;
	int r;

	j->b = b;
	j->idx = idx;
	j->random = (b->o->seed + idx) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	j->keys = calloc(b->nr_keys, sizeof *j->keys);
	j->puts = calloc(b->nr_keys, sizeof *j->puts);
	j->ops = calloc(b->o->batch, sizeof *j->ops);
	j->ranges = calloc(b->o->batch, sizeof *j->ranges);
	if (!j->keys || !j->puts || !j->ops || !j->ranges)
		return mc_fail(&j->err, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < b->nr_keys; i++)
		snprintf(j->keys[i], sizeof j->keys[i], "bench-%08x-%04x-%020" PRIu64, (unsigned)getpid(), idx & 0xffff, i);
	r = mc_memory_alloc(b->session.engine, *b->o->location ? b->o->location : "*", b->o->batch * b->size, MC_ACCESS_LOCAL,
			    MSC_MEMORY_NS, &buffer, &j->err);
	if (r < 0)
		return r;
	j->buffer = buffer;
	msc_fill(j->buffer, b->o->batch * b->size, idx);
	return b->op == OP_PUT ? 0 : all_keys(j, OP_PUT);
}

static void job_close(struct job *j)
{
	struct bench *b = j->b;

	for (uint64_t at = 0; b && j->buffer && at < b->nr_keys; at += b->o->batch) {
		uint64_t nr = MC_MIN(b->o->batch, b->nr_keys - at);
		const struct mc_store_config config = {.size = sizeof config, .flags = MC_STORE_FORCE};

		for (uint64_t i = 0; i < nr; i++)
			j->ops[i] = (struct mc_store_op){.key = j->keys[at + i], .key_len = KEY_LEN};
		if (mc_store_remove_batch(b->session.store, j->ops, nr, &config, MSC_CLOSE_NS, NULL) < 0)
			break;
	}
	if (j->buffer)
		mc_memory_free(b->session.engine, j->buffer, MSC_CLOSE_NS, NULL);
	free(j->keys);
	free(j->puts);
	free(j->ops);
	free(j->ranges);
}

/* ---- the run ------------------------------------------------------------------------------------ */

static uint64_t values_so_far(const struct bench *b)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < b->o->jobs; i++)
		n += atomic_load_explicit(&b->jobs[i].values, memory_order_relaxed);
	return n;
}

static void watch(struct bench *b, uint64_t start, uint64_t end)
{
	uint64_t before = 0, now = start, last = start;

	while (!mc_stopping() && now < end && !atomic_load(&b->stop)) {
		char rate[MC_TEXT_MAX], line[128];
		uint64_t values;

		mc_stop_wait(MC_MIN(end - now, MC_SEC));
		now = msc_now_ns();
		values = values_so_far(b);
		snprintf(line, sizeof line, "%s: %.0f s of %.0f, %s/s", b->o->op, (double)(now - start) / 1e9, (double)(end - start) / 1e9,
			 mc_text_size((uint64_t)((double)((values - before) * b->size) / ((double)(now - last) / 1e9 + 1e-9)), rate));
		before = values;
		last = now;
		if (mc_tell_progress_on() && now < end)
			mc_tell_progress(line);
	}
	mc_tell_progress_end();
}

static int run(struct bench *b, struct mc_error *err)
{
	double seconds = b->o->duration > 0 ? b->o->duration : SECONDS_DEFAULT;
	uint64_t start = msc_now_ns();
	int r = 0;

	for (uint64_t i = 0; i < b->o->jobs; i++) {
		struct job *j = &b->jobs[i];

		j->started = pthread_create(&j->thread, NULL, run_job, j) == 0;
		if (!j->started)
			r = mc_fail(err, -EAGAIN, "job %" PRIu64 ": no thread can be made", i);
	}
	watch(b, start, start + (uint64_t)(seconds * 1e9));
	atomic_store(&b->stop, true);
	for (uint64_t i = 0; i < b->o->jobs; i++)
		if (b->jobs[i].started)
			pthread_join(b->jobs[i].thread, NULL);
	b->seconds = (double)(msc_now_ns() - start) / 1e9;
	for (uint64_t i = 0; r == 0 && i < b->o->jobs; i++) {
		struct job *j = &b->jobs[i];

		if (j->status == 0 && b->op == OP_PUT && b->o->check && j->times.nr)
			j->status = all_keys(j, OP_GET);
		if (j->status < 0)
			r = mc_fail(err, j->status, "%s", j->err.text);
	}
	return r;
}

static void tell(const struct bench *b)
{
	static struct msc_times times; /* large */
	uint64_t values = values_so_far(b), checked = 0;
	double rate = (double)values / b->seconds;
	char size[MC_TEXT_MAX], per[MC_TEXT_MAX];

	for (uint64_t i = 0; i < b->o->jobs; i++) {
		msc_times_merge(&times, &b->jobs[i].times);
		checked += b->jobs[i].checked;
	}
	if (b->o->json) {
		printf("{\"op\": \"%s\", \"size\": %" PRIu64 ", \"batch\": %" PRIu64 ", \"jobs\": %" PRIu64 ", \"seconds\": %.3f, \"calls\": %" PRIu64
		       ", \"values\": %" PRIu64 ", \"values_per_second\": %.1f, \"bytes_per_second\": %.0f, \"p50_us\": %.2f, \"p99_us\": %.2f, "
		       "\"verified\": %" PRIu64 "}\n", b->o->op, b->size, b->o->batch, b->o->jobs, b->seconds, times.nr, values, rate,
		       b->op == OP_EXIST ? 0 : rate * (double)b->size, (double)msc_times_at(&times, 0.5) / 1e3,
		       (double)msc_times_at(&times, 0.99) / 1e3, checked);
		return;
	}
	printf("%s: %.0f values/s of %s", b->o->op, rate, mc_text_size(b->size, size));
	if (b->op != OP_EXIST)
		printf(", %s/s", mc_text_size((uint64_t)(rate * (double)b->size), per));
	printf("; a call of %" PRIu64 ": p50 %.1f us, p99 %.1f us", b->o->batch, (double)msc_times_at(&times, 0.5) / 1e3,
	       (double)msc_times_at(&times, 0.99) / 1e3);
	if (b->o->check)
		printf("; %" PRIu64 " values verified", checked);
	putchar('\n');
}

int msc_bench(const struct msc_options *o, struct mc_config *config)
{
	struct bench b = {.o = o, .size = UINT64_C(1) << 20, .nr_keys = o->keys ? o->keys : 4 * o->batch};
	struct mc_error err = {0};
	int r = msc_session_open(&b.session, o, config, true, &err), code = MSC_EXIT_OK;

	b.op = *o->op == 'p' ? OP_PUT : *o->op == 'g' ? OP_GET : OP_EXIST;
	if (*o->size)
		mc_text_parse_size(o->size, &b.size);
	b.jobs = calloc(o->jobs, sizeof *b.jobs);
	if (r == 0 && !b.jobs)
		r = mc_fail(&err, -ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && i < o->jobs; i++) {
		r = job_open(&b, i);
		if (r < 0)
			mc_fail(&err, r, "%s", b.jobs[i].err.text);
	}
	if (r == 0 && !mc_stopping())
		r = run(&b, &err);
	if (r == 0 && mc_stopping() && b.seconds == 0)
		r = mc_fail(&err, -ECANCELED, "interrupted");
	if (r < 0)
		code = msc_fail(o, &b.session, &err);
	else
		tell(&b);
	for (unsigned i = 0; b.jobs && i < o->jobs; i++)
		if (b.jobs[i].b)
			job_close(&b.jobs[i]);
	free(b.jobs);
	msc_session_close(&b.session);
	return code;
}
