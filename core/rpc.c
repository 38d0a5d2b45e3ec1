/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rpc service of an engine: made with the first service or client, closed
 * with the engine.  What other threads leave for its worker, and the pools of
 * messages, are here too.
 */
#include "rpc.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "rpc_impl.h"

/* Serializes the first use of any engine's service; cold. */
static pthread_mutex_t first_use = PTHREAD_MUTEX_INITIALIZER;

static const struct mc_client_ops client_ops = {
	.progress = mc_rpc_progress,
	.arm = mc_rpc_arm,
	.tick = mc_rpc_tick,
	.frozen = mc_rpc_frozen,
};

/* ---- messages ------------------------------------------------------------------------------- */

struct rpc_buf *mc_rpc_buf_new(struct mc_rpc *rpc, size_t len)
{
	struct rpc_buf *buf = NULL;
	size_t cap = MC_MAX(len, RPC_SMALL);

	if (cap == RPC_SMALL) {
		pthread_mutex_lock(&rpc->lock);
		buf = rpc->pool;
		if (buf) {
			rpc->pool = buf->next;
			rpc->nr_pool--;
		}
		pthread_mutex_unlock(&rpc->lock);
	}
	if (!buf)
		buf = malloc(sizeof *buf + cap);
	if (!buf)
		return NULL;
	buf->next = NULL;
	buf->len = (uint32_t)len;
	buf->off = buf->prefix = 0;
	buf->cap = (uint32_t)cap;
	return buf;
}

void mc_rpc_buf_free(struct mc_rpc *rpc, struct rpc_buf *buf)
{
	if (buf && buf->cap == RPC_SMALL) {
		pthread_mutex_lock(&rpc->lock);
		if (rpc->nr_pool < RPC_POOL_MAX) {
			buf->next = rpc->pool;
			rpc->pool = buf;
			rpc->nr_pool++;
			buf = NULL;
		}
		pthread_mutex_unlock(&rpc->lock);
	}
	free(buf);
}

/* ---- life ------------------------------------------------------------------------------------ */

void mc_rpc_ref(struct mc_rpc *rpc)
{
	atomic_fetch_add(&rpc->refs, 1);
}

void mc_rpc_unref(struct mc_rpc *rpc)
{
	if (atomic_fetch_sub(&rpc->refs, 1) != 1)
		return;
	while (rpc->pool) {
		struct rpc_buf *next = rpc->pool->next;

		free(rpc->pool);
		rpc->pool = next;
	}
	while (rpc->request_pool) {
		struct mc_rpc_request *next = rpc->request_pool->next;

		free(rpc->request_pool);
		rpc->request_pool = next;
	}
	pthread_mutex_destroy(&rpc->lock);
	for (uint32_t i = 0; i < rpc->nr_slots; i++)
		free(rpc->slots[i]);
	free(rpc->slots);
	free(rpc->scratch);
	free(rpc);
}

void mc_rpc_serves(struct mc_rpc *rpc)
{
	rpc->client.serves = rpc->nr_called_back || !link_empty(&rpc->passives);
}

bool mc_rpc_begin(struct mc_rpc *rpc)
{
	atomic_fetch_add(&rpc->users, 1);
	if (!atomic_load(&rpc->closed))
		return true;
	atomic_fetch_sub(&rpc->users, 1);
	return false;
}

void mc_rpc_end(struct mc_rpc *rpc)
{
	atomic_fetch_sub(&rpc->users, 1);
}

static void kick_run(struct mc_post *post)
{
	struct mc_rpc *rpc = MC_CONTAINER_OF(post, struct mc_rpc, kick);

	/* Only here: who drains otherwise may do so while the kick is still in the inbox, where it must not be put twice. */
	pthread_mutex_lock(&rpc->lock);
	rpc->kicked = false;
	pthread_mutex_unlock(&rpc->lock);
	mc_rpc_drain(rpc);
}

static int rpc_new(struct mc_engine *engine, struct mc_rpc **ret_rpc)
{
	const struct mc_worker_args args = {
		.name = "rpc",
		.spin_ns = (uint64_t)engine->set->spin,
		.peer_timeout_ns = (uint64_t)engine->set->peer_timeout,
		.cpu_copy = true,
		.numa_node = -1,
	};
	struct mc_rpc *rpc = calloc(1, sizeof *rpc);
	int r = -ENOMEM;

	if (!rpc)
		return -ENOMEM;
	rpc->scratch = malloc(RPC_SCRATCH);
	if (rpc->scratch)
		r = mc_worker_new(&args, &rpc->worker);
	if (r < 0) {
		free(rpc->scratch);
		free(rpc);
		return r;
	}
	rpc->engine = engine;
	atomic_init(&rpc->refs, 1);
	pthread_mutex_init(&rpc->lock, NULL);
	rpc->posted_calls_tail = &rpc->posted_calls;
	rpc->posted_replies_tail = &rpc->posted_replies;
	rpc->kick.run = kick_run;
	link_init(&rpc->services);
	link_init(&rpc->actives);
	link_init(&rpc->passives);
	rpc->client.ops = &client_ops;
	*ret_rpc = rpc;
	return 0;
}

static void join_worker(void *arg)
{
	struct mc_rpc *rpc = arg;

	mc_worker_add(rpc->worker, &rpc->client);
}

int mc_rpc_get(struct mc_engine *engine, struct mc_rpc **ret_rpc, struct mc_error *err)
{
	struct mc_rpc *rpc;
	int r = 0;

	if (engine->pid != getpid())
		return mc_fail(err, -EPERM, "rpc: the engine belongs to the process that opened it, "
					    "not to a forked child");
	pthread_mutex_lock(&first_use);
	rpc = engine->rpc;
	if (!rpc) {
		r = rpc_new(engine, &rpc);
		if (r == 0) {
			mc_worker_call(rpc->worker, join_worker, rpc);
			__atomic_store_n(&engine->rpc, rpc, __ATOMIC_RELEASE);
		}
	}
	pthread_mutex_unlock(&first_use);
	if (r < 0)
		return mc_fail(err, r, "rpc: cannot start its worker: %s", strerror(-r));
	*ret_rpc = rpc;
	return 0;
}

struct set_spin {
	struct mc_rpc *rpc;
	uint64_t spin_ns;
};

static void set_spin(void *arg)
{
	struct set_spin *s = arg;

	mc_worker_set_spin(s->rpc->worker, s->spin_ns);
}

void mc_rpc_set_spin(struct mc_engine *engine, uint64_t spin_ns)
{
	struct set_spin s = {.spin_ns = spin_ns};

	/* One that is made meanwhile has read the new value. */
	pthread_mutex_lock(&first_use);
	s.rpc = engine->rpc;
	pthread_mutex_unlock(&first_use);
	if (s.rpc)
		mc_worker_call(s.rpc->worker, set_spin, &s);
}

/* ---- posts of other threads -------------------------------------------------------------------- */

/* Called with the lock held; true if the caller must post the kick. */
static bool need_kick(struct mc_rpc *rpc)
{
	bool need = !rpc->kicked;

	rpc->kicked = true;
	return need;
}

void mc_rpc_post_call(struct mc_rpc *rpc, struct mc_rpc_call *call)
{
	bool kick;

	call->priv[0] = NULL;
	pthread_mutex_lock(&rpc->lock);
	*rpc->posted_calls_tail = call;
	rpc->posted_calls_tail = (struct mc_rpc_call **)&call->priv[0];
	kick = need_kick(rpc);
	pthread_mutex_unlock(&rpc->lock);
	if (kick)
		mc_worker_post(rpc->worker, &rpc->kick);
}

void mc_rpc_post_reply(struct mc_rpc *rpc, struct mc_rpc_request *request)
{
	bool kick;

	request->next = NULL;
	pthread_mutex_lock(&rpc->lock);
	*rpc->posted_replies_tail = request;
	rpc->posted_replies_tail = &request->next;
	kick = need_kick(rpc);
	pthread_mutex_unlock(&rpc->lock);
	if (kick)
		mc_worker_post(rpc->worker, &rpc->kick);
}

void mc_rpc_drain(struct mc_rpc *rpc)
{
	struct mc_rpc_request *request;
	struct mc_rpc_call *call;

	pthread_mutex_lock(&rpc->lock);
	call = rpc->posted_calls;
	rpc->posted_calls = NULL;
	rpc->posted_calls_tail = &rpc->posted_calls;
	request = rpc->posted_replies;
	rpc->posted_replies = NULL;
	rpc->posted_replies_tail = &rpc->posted_replies;
	pthread_mutex_unlock(&rpc->lock);
	while (request) {
		struct mc_rpc_request *next = request->next;

		mc_rpc_reply_posted(request);
		request = next;
	}
	while (call) {
		struct mc_rpc_call *next = call->priv[0];

		mc_rpc_call_begin(call);
		call = next;
	}
}

/* ---- streams that come in, evict, close ---------------------------------------------------------- */

struct accepted {
	struct mc_post post;
	struct rpc_conn *conn;
	int fd;
};

static void accepted_run(struct mc_post *post)
{
	struct accepted *a = MC_CONTAINER_OF(post, struct accepted, post);
	struct rpc_conn *conn = a->conn;

	if (atomic_load(&conn->rpc->closed)) {
		close(a->fd);
		mc_rpc_conn_unref(conn);
	} else {
		link_add(&conn->rpc->passives, &conn->all);
		mc_rpc_serves(conn->rpc);
		if (mc_rpc_conn_start(conn, a->fd) < 0)
			mc_rpc_conn_drop(conn, -EIO, "it cannot be watched");
	}
	free(a);
}

int mc_rpc_accept(struct mc_engine *engine, int fd, const struct mc_stream_hello *hello)
{
	struct mc_rpc *rpc = __atomic_load_n(&engine->rpc, __ATOMIC_ACQUIRE);
	struct accepted *a;

	if (!rpc || !mc_rpc_begin(rpc))
		return -ENOENT;
	if (atomic_load(&rpc->nr_passives) >= (uint64_t)engine->set->max_peers) {
		mc_rpc_end(rpc);
		return -ENOBUFS;
	}
	a = calloc(1, sizeof *a);
	if (a)
		a->conn = mc_rpc_conn_new(rpc, false);
	if (!a || !a->conn) {
		free(a);
		mc_rpc_end(rpc);
		return -ENOMEM;
	}
	atomic_fetch_add(&rpc->nr_passives, 1);
	memcpy(a->conn->from, hello->from, sizeof a->conn->from);
	a->conn->from[sizeof a->conn->from - 1] = 0;
	a->conn->generation = hello->from_generation;
	a->fd = fd;
	a->post.run = accepted_run;
	mc_worker_post(rpc->worker, &a->post);
	mc_rpc_end(rpc);
	return 0;
}

void mc_rpc_count(struct mc_engine *engine, struct mc_rpc_counts *ret_counts)
{
	struct mc_rpc *rpc = __atomic_load_n(&engine->rpc, __ATOMIC_ACQUIRE);

	*ret_counts = (struct mc_rpc_counts){0};
	if (!rpc || !mc_rpc_begin(rpc))
		return;
	ret_counts->calls = atomic_load_explicit(&rpc->calls, memory_order_relaxed);
	ret_counts->failed = atomic_load_explicit(&rpc->failed, memory_order_relaxed);
	ret_counts->requests = atomic_load_explicit(&rpc->requests, memory_order_relaxed);
	ret_counts->connections = atomic_load(&rpc->nr_passives);
	mc_rpc_end(rpc);
}

struct evict {
	struct mc_rpc *rpc;
	uint64_t generation;
	int nr;
};

static void evict_run(void *arg)
{
	struct evict *e = arg;
	struct rpc_link *l = e->rpc->passives.next;

	while (l != &e->rpc->passives) {
		struct rpc_conn *conn = MC_CONTAINER_OF(l, struct rpc_conn, all);

		l = l->next;
		if (conn->generation != e->generation)
			continue;
		mc_rpc_conn_drop(conn, -ECONNRESET, "evicted");
		e->nr++;
	}
}

int mc_rpc_evict(struct mc_engine *engine, uint64_t generation)
{
	struct evict e = {.rpc = __atomic_load_n(&engine->rpc, __ATOMIC_ACQUIRE),
			  .generation = generation};

	if (!e.rpc || !mc_rpc_begin(e.rpc))
		return -ENOENT;
	mc_worker_call(e.rpc->worker, evict_run, &e);
	mc_rpc_end(e.rpc);
	return e.nr ? 0 : -ENOENT;
}

static void close_run(void *arg)
{
	struct mc_rpc *rpc = arg;

	atomic_store(&rpc->closed, true);
	mc_rpc_drain(rpc);
	while (!link_empty(&rpc->actives)) {
		struct rpc_conn *conn = MC_CONTAINER_OF(rpc->actives.next, struct rpc_conn, all);

		mc_rpc_conn_ref(conn);
		mc_rpc_conn_drop(conn, -ECANCELED, "the engine is being closed");
		while (!link_empty(&conn->clients))
			mc_rpc_client_end(MC_CONTAINER_OF(conn->clients.next, struct mc_rpc_client,
							  of_conn));
		mc_rpc_conn_unref(conn);
	}
	while (!link_empty(&rpc->passives))
		mc_rpc_conn_drop(MC_CONTAINER_OF(rpc->passives.next, struct rpc_conn, all),
				 -ECANCELED, "the engine is being closed");
	while (!link_empty(&rpc->services)) {
		struct mc_rpc_service *s =
			MC_CONTAINER_OF(rpc->services.next, struct mc_rpc_service, all);

		link_del(&s->all);
		free(s);
	}
	mc_worker_remove(rpc->worker, &rpc->client);
}

/* What was posted by threads that had begun before `closed` was set. */
static void drain_run(void *arg)
{
	mc_rpc_drain(arg);
}

static void nothing(void *arg)
{
}

void mc_rpc_close(struct mc_engine *engine)
{
	struct mc_rpc *rpc = engine->rpc;

	if (!rpc)
		return;
	mc_worker_call(rpc->worker, close_run, rpc);
	while (atomic_load(&rpc->users) || atomic_load(&rpc->nr_lookups))
		usleep(200);
	mc_worker_call(rpc->worker, drain_run, rpc);
	mc_worker_free(rpc->worker);
	rpc->worker = NULL;
	__atomic_store_n(&engine->rpc, NULL, __ATOMIC_RELEASE);
	/* The control loop may be inside mc_rpc_accept, and have read the pointer. */
	if (engine->control)
		mc_control_call(engine->control, nothing, NULL);
	mc_rpc_unref(rpc);
}
