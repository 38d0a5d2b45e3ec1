/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that answer what would hold up the rpc worker.  Jobs keep their buffers, so
 * that nothing is allocated once they have grown; when all are in use, the worker
 * answers by itself, and so the clients wait.
 */
#include <errno.h>
#include <mooncake/rpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "serve.h"

#define JOBS_PER_THREAD 8

struct job {
	struct job *next;
	struct mc_rpc_request *request;
	struct mc_rpc_incoming incoming; /* data and from are ours */
	void *data;
	size_t cap;
	char from[MC_SEGMENT_NAME_MAX + 1];
};

struct master_pool {
	struct master_server *server;
	pthread_mutex_t lock; /* the lists, ending; a leaf */
	pthread_cond_t more;
	struct job *first, **last, *spare;
	bool ending;
	atomic_uint nr_idle; /* threads less the jobs that wait for one; a hint */
	uint32_t nr_threads, nr_jobs;
	struct job *jobs;
	pthread_t threads[];
};

static void job_run(struct master_pool *pool, struct master_scratch *scratch, struct job *job)
{
	master_answer(pool->server, scratch, job->request, &job->incoming);
	pthread_mutex_lock(&pool->lock);
	job->next = pool->spare;
	pool->spare = job;
	pthread_mutex_unlock(&pool->lock);
}

static void *pool_thread(void *arg)
{
	struct master_pool *pool = arg;
	struct master_scratch *scratch = NULL;

	/* Large and for the most part never touched; without it the jobs wait for memory. */
	while (!(scratch = calloc(1, sizeof *scratch)))
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	for (;;) {
		struct job *job;

		pthread_mutex_lock(&pool->lock);
		while (!pool->first && !pool->ending)
			pthread_cond_wait(&pool->more, &pool->lock);
		job = pool->first;
		if (job && !(pool->first = job->next))
			pool->last = &pool->first;
		pthread_mutex_unlock(&pool->lock);
		if (!job)
			break;
		job_run(pool, scratch, job);
		atomic_fetch_add(&pool->nr_idle, 1);
	}
	free(scratch);
	return NULL;
}

bool master_pool_idle(const struct master_pool *pool)
{
	return (int)atomic_load_explicit(&pool->nr_idle, memory_order_relaxed) > 0;
}

static bool job_fill(struct job *job, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming)
{
	if (job->cap < incoming->len) {
		size_t cap = incoming->len < 4096 ? 4096 : incoming->len * 2;
		void *data = realloc(job->data, cap);

		if (!data)
			return false;
		job->data = data;
		job->cap = cap;
	}
	if (incoming->len)
		memcpy(job->data, incoming->data, incoming->len);
	snprintf(job->from, sizeof job->from, "%s", incoming->from);
	job->request = request;
	job->incoming = *incoming;
	job->incoming.data = job->data;
	job->incoming.from = job->from;
	job->next = NULL;
	return true;
}

bool master_pool_add(struct master_pool *pool, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming)
{
	struct job *job;
	bool filled;

	pthread_mutex_lock(&pool->lock);
	job = pool->spare;
	if (job)
		pool->spare = job->next;
	pthread_mutex_unlock(&pool->lock);
	if (!job)
		return false;
	filled = job_fill(job, request, incoming);
	pthread_mutex_lock(&pool->lock);
	if (filled) {
		atomic_fetch_sub(&pool->nr_idle, 1);
		*pool->last = job;
		pool->last = &job->next;
		pthread_cond_signal(&pool->more);
	} else {
		job->next = pool->spare;
		pool->spare = job;
	}
	pthread_mutex_unlock(&pool->lock);
	return filled;
}

int master_pool_new(struct master_server *server, uint32_t nr_threads, struct master_pool **ret_pool, struct mc_error *err)
{
	struct master_pool *pool = calloc(1, sizeof *pool + nr_threads * sizeof *pool->threads);
	struct job *jobs = calloc(nr_threads, JOBS_PER_THREAD * sizeof *jobs);
	int r = pool && jobs ? 0 : ENOMEM;

	if (r) {
		free(pool);
		free(jobs);
		return mc_fail(err, -ENOMEM, "threads of the master: out of memory");
	}
	pool->server = server;
	pool->jobs = jobs;
	pool->nr_jobs = nr_threads * JOBS_PER_THREAD;
	pool->last = &pool->first;
	for (uint32_t i = 0; i < pool->nr_jobs; i++) {
		jobs[i].next = pool->spare;
		pool->spare = &jobs[i];
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	atomic_store(&pool->nr_idle, nr_threads);
	while (r == 0 && pool->nr_threads < nr_threads) {
		r = pthread_create(&pool->threads[pool->nr_threads], NULL, pool_thread, pool);
		pool->nr_threads += r == 0;
	}
	if (r) {
		master_pool_free(pool);
		return mc_fail(err, -r, "threads of the master: %s; give fewer by --threads", strerror(r));
	}
	*ret_pool = pool;
	return 0;
}

void master_pool_free(struct master_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	for (uint32_t i = 0; i < pool->nr_threads; i++)
		pthread_join(pool->threads[i], NULL);
	for (uint32_t i = 0; i < pool->nr_jobs; i++)
		free(pool->jobs[i].data);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->more);
	free(pool->jobs);
	free(pool);
}
