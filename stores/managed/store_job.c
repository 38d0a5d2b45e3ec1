/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs: batches that run on threads of the store, told by a descriptor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "store_impl.h"

#define JOBS_MAX 1024

struct mc_store_job {
	struct mc_store_job *next; /* of those that wait; store->lock */
	struct mc_store *store;
	struct store_ctx *ctx;
	enum mc_store_verb verb;
	struct mc_store_op *ops;
	size_t nr;
	struct mc_store_config config;
	char *preferred; /* copies */
	void *parent;
	_Atomic bool canceled;
	int fd;
	/* store->lock */
	bool waits, over;
	int result;
	struct mc_error err;
};

bool mc_store_canceled(const struct store_ctx *ctx)
{
	return ctx->job && !ctx->ending && atomic_load_explicit(&ctx->job->canceled, memory_order_relaxed);
}

/* With the lock, which is let go meanwhile. */
static void run(struct mc_store *store, struct mc_store_job *job)
{
	struct store_ctx *ctx = job->ctx;
	int r;

	store->nr_busy++;
	pthread_mutex_unlock(&store->lock);
	r = mc_store_run(ctx, job->verb, job->ops, job->nr, &job->config);
	pthread_mutex_lock(&store->lock);
	store->nr_busy--;
	job->result = r;
	if (r)
		job->err = ctx->why;
	job->ctx = NULL;
	pthread_mutex_unlock(&store->lock);
	ctx->job = NULL;
	mc_store_ctx_put(ctx);
	pthread_mutex_lock(&store->lock);
	/* From here on it may be freed. */
	job->over = true;
	(void)!write(job->fd, &(uint64_t){1}, 8);
	pthread_cond_broadcast(&store->changed);
}

static void *runner(void *arg)
{
	struct mc_store *store = arg;

	pthread_mutex_lock(&store->lock);
	while (!store->stop) {
		struct mc_store_job *job = store->jobs;

		if (!job) {
			pthread_cond_wait(&store->job_came, &store->lock);
			continue;
		}
		store->jobs = job->next;
		if (!store->jobs)
			store->jobs_tail = &store->jobs;
		job->waits = false;
		run(store, job);
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

void mc_store_jobs_end(struct mc_store *store)
{
	for (uint32_t i = 0; i < store->nr_runners; i++)
		pthread_join(store->runners[i], NULL);
}

static void job_destroy(struct mc_store_job *job)
{
	if (job->ctx) {
		job->ctx->job = NULL;
		mc_store_ctx_put(job->ctx);
	}
	if (job->fd >= 0)
		close(job->fd);
	free(job->preferred);
	free(job->parent);
	free(job);
}

static bool copy_config(struct mc_store_job *job)
{
	struct mc_store_config *c = &job->config;

	if (c->preferred) {
		job->preferred = strdup(c->preferred);
		if (!job->preferred)
			return false;
		c->preferred = job->preferred;
	}
	if (c->parent_len) {
		job->parent = malloc(c->parent_len);
		if (!job->parent)
			return false;
		memcpy(job->parent, c->parent, c->parent_len);
		c->parent = job->parent;
	}
	return true;
}

/* Queue it; a thread more if all are at work.  -EAGAIN, or why there is no thread at all. */
static int queue(struct mc_store *store, struct mc_store_job *job)
{
	int r = 0;

	pthread_mutex_lock(&store->lock);
	if (store->nr_jobs >= JOBS_MAX)
		r = -EAGAIN;
	else if (store->nr_runners < store->options.max_jobs && (store->jobs || store->nr_busy == store->nr_runners)) {
		r = -pthread_create(&store->runners[store->nr_runners], NULL, runner, store);
		if (r == 0)
			store->nr_runners++;
		else if (store->nr_runners)
			r = 0;
	}
	if (r == 0) {
		job->waits = true;
		*store->jobs_tail = job;
		store->jobs_tail = &job->next;
		store->nr_jobs++;
		pthread_cond_signal(&store->job_came);
	}
	pthread_mutex_unlock(&store->lock);
	return r;
}

int mc_store_start(struct mc_store *store, enum mc_store_verb verb, struct mc_store_op *ops, size_t nr,
		   const struct mc_store_config *config, uint64_t timeout_ns, struct mc_store_job **ret_job, struct mc_error *err)
{
	struct mc_store_config c;
	struct mc_store_job *job;
	int r;

	if (verb > MC_STORE_DO_REMOVE || !ret_job)
		return mc_fail(err, -EINVAL, "store: there is no such verb, or ret_job is NULL");
	r = mc_store_check(store, verb, ops, nr, config, &c, err);
	if (r < 0)
		return r;
	job = calloc(1, sizeof *job);
	if (!job)
		return mc_fail(err, -ENOMEM, "store: out of memory");
	*job = (struct mc_store_job){.store = store, .verb = verb, .ops = ops, .nr = nr, .config = c};
	job->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = job->fd < 0 ? -errno : 0;
	job->ctx = mc_store_ctx_get(store, nr, timeout_ns);
	if (r == 0 && (!job->ctx || !copy_config(job)))
		r = -ENOMEM;
	if (r == 0) {
		job->ctx->job = job;
		r = queue(store, job);
	}
	if (r < 0) {
		job_destroy(job);
		return mc_fail(err, r, "store: the job was not started: %s", r == -EAGAIN ? "there are too many" : strerror(-r));
	}
	*ret_job = job;
	return 0;
}

int mc_store_job_fd(struct mc_store_job *job)
{
	return job->fd;
}

int mc_store_job_wait(struct mc_store_job *job, uint64_t timeout_ns, struct mc_error *err)
{
	uint64_t deadline = mc_store_deadline(timeout_ns);
	struct mc_store *store = job->store;
	int r;

	pthread_mutex_lock(&store->lock);
	while (!job->over && mc_store_left(deadline))
		mc_store_wait(store, &store->changed, deadline);
	r = job->over ? job->result : -EAGAIN;
	if (err && r && job->over)
		*err = job->err;
	pthread_mutex_unlock(&store->lock);
	return r;
}

void mc_store_job_cancel(struct mc_store_job *job)
{

	atomic_store(&job->canceled, true);
	pthread_mutex_lock(&job->store->lock);
	/* Batches are freed with the store only. */
	if (job->ctx)
		mc_batch_cancel(job->ctx->batch);
	pthread_mutex_unlock(&job->store->lock);
}

void mc_store_job_free(struct mc_store_job *job)
{
	struct mc_store_job **at;
	struct mc_store *store;

	if (!job)
		return;
	store = job->store;
	mc_store_job_cancel(job);
	pthread_mutex_lock(&store->lock);
	if (job->waits) {
		for (at = &store->jobs; *at != job; at = &(*at)->next)
			;
		*at = job->next;
		if (!*at)
			store->jobs_tail = at;
		job->over = true;
		for (size_t i = 0; i < job->nr; i++)
			job->ops[i].status = -ECANCELED;
	}
	while (!job->over)
		mc_store_wait(store, &store->changed, MC_FOREVER);
	store->nr_jobs--;
	pthread_mutex_unlock(&store->lock);
	job_destroy(job);
}
