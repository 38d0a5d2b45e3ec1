/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How an active connection comes up: the peer's record is looked up on a helper,
 * the control loop dials, the worker takes the stream.  Addresses that worked are
 * tried again without a look-up; when they fail, the record is read anew, for
 * the peer may have been restarted elsewhere.  After a failure the next attempt
 * waits, 10 ms at first and 1 s at most, and calls wait with it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util/cleanup.h"
#include "log.h"
#include "record.h"
#include "rpc_impl.h"

struct attempt {
	struct rpc_conn *conn; /* a reference, which keeps the service too */
	struct mc_job job;     /* look-up, [helper] */
	struct mc_post post;   /* result, [worker] */
	char **addresses;
	uint64_t generation;
	bool cached; /* the addresses are of an earlier success */
	int fd;      /* or -errno */
};

static void attempt_free(struct attempt *a)
{
	mc_rpc_addresses_free(a->addresses);
	mc_rpc_conn_unref(a->conn);
	free(a);
}

void mc_rpc_addresses_free(char **addresses)
{
	for (char **at = addresses; at && *at; at++)
		free(*at);
	free(addresses);
}

/* [helper] or [control] */
static void finish(struct attempt *a, int fd)
{
	struct mc_rpc *rpc = a->conn->rpc;

	a->fd = fd;
	if (mc_rpc_begin(rpc)) {
		mc_worker_post(rpc->worker, &a->post);
		mc_rpc_end(rpc);
		return;
	}
	if (fd >= 0)
		close(fd);
	attempt_free(a);
}

static void dialled(void *arg, int fd, const char *why)
{
	struct attempt *a = arg;

	if (fd < 0)
		mc_debug("rpc connection to '%s' was not made: %s", a->conn->segment,
			 why ? why : strerror(-fd));
	finish(a, fd);
}

static void dial(struct attempt *a)
{
	struct mc_engine *engine = a->conn->rpc->engine;
	struct mc_stream_hello hello = {
		.kind = MC_STREAM_RPC,
		.from_generation = engine->generation,
		.to_generation = a->generation,
	};
	int r;

	snprintf(hello.from, sizeof hello.from, "%s", engine->name);
	r = mc_stream_dial(engine, (const char *const *)a->addresses, "", &hello,
			   mc_now_ns() + RPC_DIAL_NS, dialled, a);
	if (r < 0)
		finish(a, r);
}

static void lookup_run(struct mc_job *job)
{
	struct attempt *a = MC_CONTAINER_OF(job, struct attempt, job);
	struct mc_rpc *rpc = a->conn->rpc;
	struct mc_record *record;
	struct mc_error err;
	int r;

	mc_rpc_ref(rpc); /* the attempt may be gone when it has been handed on */
	r = mc_record_find(rpc->engine, a->conn->segment, mc_now_ns() + RPC_DIAL_NS, &record, &err);
	if (r < 0) {
		mc_debug("rpc connection to '%s' was not made: %s", a->conn->segment, err.text);
		finish(a, -EHOSTDOWN);
	} else {
		a->addresses = record->addresses;
		a->generation = record->generation;
		record->addresses = NULL;
		mc_record_free(record);
		dial(a);
	}
	atomic_fetch_sub(&rpc->nr_lookups, 1);
	mc_rpc_unref(rpc);
}

static void lookup(struct attempt *a)
{
	struct mc_rpc *rpc = a->conn->rpc;

	mc_rpc_addresses_free(a->addresses);
	a->addresses = NULL;
	a->cached = false;
	atomic_fetch_add(&rpc->nr_lookups, 1);
	mc_helpers_run(rpc->engine->helpers, &a->job);
}

static void failed(struct rpc_conn *conn, int status)
{
	conn->backoff_ns = MC_MIN(MC_MAX(2 * conn->backoff_ns, RPC_BACKOFF_MIN), RPC_BACKOFF_MAX);
	conn->next_try_ns = mc_now_ns() + conn->backoff_ns;
	atomic_store(&conn->state, RPC_IDLE);
	mc_rpc_conn_drop(conn, status, "it could not be made");
}

static void attempt_run(struct mc_post *post)
{
	struct attempt *a = MC_CONTAINER_OF(post, struct attempt, post);
	struct rpc_conn *conn = a->conn;

	if (atomic_load(&conn->state) != RPC_DIALLING || atomic_load(&conn->rpc->closed)) {
		if (a->fd >= 0) /* nobody wants it any more */
			close(a->fd);
	} else if (a->fd < 0 && a->cached) {
		lookup(a);
		return;
	} else if (a->fd < 0) {
		/* -ENOENT: it admits nobody, for it offers no service at all.  -EACCES: not us. */
		failed(conn, a->fd == -ENOENT || a->fd == -EACCES ? a->fd : -EHOSTDOWN);
	} else {
		int r = mc_rpc_conn_start(conn, a->fd);

		if (r < 0) {
			failed(conn, r);
		} else {
			conn->addresses = mc_steal(a->addresses);
			conn->peer_generation = a->generation;
			conn->backoff_ns = 0;
		}
	}
	attempt_free(a);
}

static void retry_fire(struct mc_timer *t, uint64_t now_ns);

/* Wait until `when`; calls wait too. */
static void wait_until(struct rpc_conn *conn, uint64_t when)
{
	atomic_store(&conn->state, RPC_WAITING);
	conn->retry.size = sizeof conn->retry;
	conn->retry.fire = retry_fire;
	conn->retry.user = conn;
	mc_worker_timer(conn->rpc->worker, &conn->retry, when);
}

static void begin(struct rpc_conn *conn)
{
	struct attempt *a = calloc(1, sizeof *a);

	if (!a) {
		wait_until(conn, mc_now_ns() + RPC_BACKOFF_MAX);
		return;
	}
	atomic_store(&conn->state, RPC_DIALLING);
	mc_rpc_conn_ref(conn);
	a->conn = conn;
	a->job.run = lookup_run;
	a->post.run = attempt_run;
	if (!conn->addresses) {
		lookup(a);
		return;
	}
	a->addresses = mc_steal(conn->addresses);
	a->generation = conn->peer_generation;
	a->cached = true;
	dial(a);
}

static void retry_fire(struct mc_timer *t, uint64_t now_ns)
{
	struct rpc_conn *conn = t->user;

	if (atomic_load(&conn->state) == RPC_WAITING)
		begin(conn);
}

/* Ends no call from inside: the caller may hold locks that its `done` takes. */
void mc_rpc_conn_want(struct rpc_conn *conn)
{
	if (atomic_load(&conn->state) != RPC_IDLE)
		return;
	if (mc_now_ns() >= conn->next_try_ns)
		begin(conn);
	else
		wait_until(conn, conn->next_try_ns);
}
