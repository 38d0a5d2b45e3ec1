/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients and their calls.  A call in flight has a slot, which its id on the wire
 * names; the slot's round makes a reply that comes after the end find nobody.
 * call->priv:  0 next posted  1 who waits, or ENDED  2 client  3 posted message
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rpc_impl.h"

struct waiter {
	struct mc_bell bell;
	uint32_t left; /* the one who rang is out of this frame */
};

/* Stands in priv[1] when the call has ended. */
static char ended_mark;
#define ENDED ((void *)&ended_mark)

/* ---- the end of a call ------------------------------------------------------------------------- */

static void call_end(struct mc_rpc_call *call, int status, size_t reply_len)
{
	struct waiter *w;

	call->status = status;
	call->reply_len = reply_len;
	if (call->done) {
		call->done(call);
		return;
	}
	w = __atomic_exchange_n(&call->priv[1], ENDED, __ATOMIC_SEQ_CST);
	if (!w)
		return; /* whoever waits for it later finds the mark */
	mc_bell_ring(&w->bell);
	__atomic_store_n(&w->left, 1, __ATOMIC_RELEASE);
}

struct rpc_slot *mc_rpc_slot_find(struct mc_rpc *rpc, uint64_t id)
{
	struct rpc_slot *slot;
	uint32_t idx = (uint32_t)id;

	if (idx >= rpc->nr_slots)
		return NULL;
	slot = rpc->slots[idx];
	return slot->call && slot->round == (uint32_t)(id >> 32) ? slot : NULL;
}

static struct rpc_slot *slot_new(struct mc_rpc *rpc)
{
	struct rpc_slot *slot = rpc->free_slots;

	if (slot) {
		rpc->free_slots = slot->next_free;
		return slot;
	}
	if (rpc->nr_slots == rpc->cap_slots) {
		uint32_t cap = rpc->cap_slots ? 2 * rpc->cap_slots : 64;
		struct rpc_slot **slots = reallocarray(rpc->slots, cap, sizeof *slots);

		if (!slots)
			return NULL;
		rpc->slots = slots;
		rpc->cap_slots = cap;
	}
	slot = calloc(1, sizeof *slot);
	if (!slot)
		return NULL;
	slot->idx = rpc->nr_slots;
	slot->timer.size = sizeof slot->timer;
	slot->timer.user = slot;
	rpc->slots[rpc->nr_slots++] = slot;
	return slot;
}

/* The slot's call is under way no more. */
static void slot_free(struct rpc_slot *slot)
{
	struct mc_rpc *rpc = slot->conn->rpc;

	link_del(&slot->of_client);
	link_del(&slot->of_conn);
	if (slot->timer.deadline_ns)
		mc_worker_timer(rpc->worker, &slot->timer, 0);
	if (slot->call->done && !--rpc->nr_called_back)
		mc_rpc_serves(rpc);
	slot->call = NULL;
	slot->next_free = rpc->free_slots;
	rpc->free_slots = slot;
}

void mc_rpc_slot_end(struct rpc_slot *slot, int status, size_t reply_len)
{
	struct rpc_conn *conn = slot->conn;
	struct mc_rpc *rpc = conn->rpc;
	struct mc_rpc_call *call = slot->call;

	if (conn->body_slot == slot) {
		/* The rest of its reply is thrown away: the buffer is the caller's again. */
		conn->body_slot = NULL;
		conn->body = NULL;
	}
	slot_free(slot);
	slot->round++;
	atomic_fetch_sub(&conn->nr_calls, 1);
	rpc_bump(status ? &rpc->failed : &rpc->calls);
	call_end(call, status, reply_len);
}

void mc_rpc_conn_end_calls(struct rpc_conn *conn, int status)
{
	struct rpc_link doomed;

	/* Calls that are started while these end belong to the next connection. */
	link_init(&doomed);
	if (!link_empty(&conn->calls)) {
		doomed = conn->calls;
		doomed.next->prev = doomed.prev->next = &doomed;
		link_init(&conn->calls);
	}
	mc_rpc_conn_ref(conn);
	while (!link_empty(&doomed))
		mc_rpc_slot_end(MC_CONTAINER_OF(doomed.next, struct rpc_slot, of_conn), status, 0);
	mc_rpc_conn_unref(conn);
}

/* ---- the beginning of a call -------------------------------------------------------------------- */

static void timed_out(struct mc_timer *t, uint64_t now_ns)
{
	mc_rpc_slot_end(t->user, -ETIMEDOUT, 0);
}

static size_t wire_len(const struct mc_rpc_call *call)
{
	const struct mc_rpc_client *client = call->priv[2];

	return MC_RPC_HEAD_LEN + client->name_len + call->len;
}

/* What start reserved, and is not to be. */
static void unreserve(struct mc_rpc_call *call)
{
	struct rpc_conn *conn = ((struct mc_rpc_client *)call->priv[2])->conn;

	atomic_fetch_sub(&conn->nr_calls, 1);
	atomic_fetch_sub(&conn->out_bytes, wire_len(call));
}

/* Enter the call into the books, and fill its head. */
static struct rpc_slot *enter(struct mc_rpc_call *call, uint64_t deadline_ns, struct mc_rpc_head *head)
{
	struct mc_rpc_client *client = call->priv[2];
	struct rpc_conn *conn = client->conn;
	struct rpc_slot *slot = slot_new(conn->rpc);
	uint64_t now = mc_now_ns();

	if (!slot)
		return NULL;
	slot->call = call;
	slot->client = client;
	slot->conn = conn;
	if (link_empty(&conn->calls))
		conn->heard_ns = now; /* silence counts from here */
	link_add(&client->slots, &slot->of_client);
	link_add(&conn->calls, &slot->of_conn);
	if (call->done && !conn->rpc->nr_called_back++)
		mc_rpc_serves(conn->rpc);
	slot->timer.fire = timed_out;
	if (deadline_ns != UINT64_MAX)
		mc_worker_timer(conn->rpc->worker, &slot->timer, MC_MAX(deadline_ns, 1));
	*head = (struct mc_rpc_head){
		.type = MC_RPC_REQUEST,
		.name_len = client->name_len,
		.len = (uint32_t)call->len,
		.id = (uint64_t)slot->round << 32 | slot->idx,
		.method = call->method,
		.reply_len = (uint32_t)MC_MIN(call->reply_cap, MC_RPC_MESSAGE_MAX),
		.timeout_ns = deadline_ns == UINT64_MAX ? UINT64_MAX
			      : deadline_ns > now	? deadline_ns - now
							: 0,
	};
	return slot;
}

/* The service is closed, the client is being closed, or memory ran out: the call ends. */
void mc_rpc_call_begin(struct mc_rpc_call *call)
{
	struct mc_rpc_client *client = call->priv[2];
	struct mc_rpc *rpc = client->rpc;
	struct rpc_buf *buf = call->priv[3];
	struct rpc_conn *conn = client->conn;
	struct mc_rpc_head head;

	if (client->closing || !enter(call, buf->deadline_ns, &head)) {
		mc_rpc_buf_free(rpc, buf);
		unreserve(call);
		call_end(call, client->closing ? -ECANCELED : -ENOMEM, 0);
		return;
	}
	mc_rpc_head_put(buf->data, &head);
	mc_rpc_conn_queue(conn, buf);
	mc_rpc_conn_want(conn);
}

static int start_here(struct mc_rpc_call *call, uint64_t deadline_ns, bool now)
{
	struct mc_rpc_client *client = call->priv[2];
	struct rpc_conn *conn = client->conn;
	struct mc_rpc_head head;
	struct rpc_slot *slot = client->closing ? NULL : enter(call, deadline_ns, &head);

	if (!slot) {
		unreserve(call);
		return client->closing ? -ECANCELED : -ENOBUFS;
	}
	if (mc_rpc_conn_send(conn, &head, client->name, call->data, now) < 0) {
		/* Give the slot back without ending the call: it never began. */
		atomic_fetch_sub(&conn->out_bytes, wire_len(call));
		slot_free(slot);
		atomic_fetch_sub(&conn->nr_calls, 1);
		return -ENOBUFS;
	}
	mc_rpc_conn_want(conn);
	return 0;
}

/* Another thread holds the baton: leave it a copy. */
static int start_there(struct mc_rpc_call *call, uint64_t deadline_ns)
{
	struct mc_rpc_client *client = call->priv[2];
	struct rpc_buf *buf = mc_rpc_buf_new(client->rpc, wire_len(call));

	if (!buf) {
		unreserve(call);
		return -ENOBUFS;
	}
	memcpy(buf->data + MC_RPC_HEAD_LEN, client->name, client->name_len);
	if (call->len)
		memcpy(buf->data + MC_RPC_HEAD_LEN + client->name_len, call->data, call->len);
	buf->deadline_ns = deadline_ns;
	call->priv[3] = buf;
	mc_rpc_post_call(client->rpc, call);
	return 0;
}

static int reserve(struct rpc_conn *conn, size_t bytes)
{
	size_t before;

	if (atomic_fetch_add(&conn->nr_calls, 1) >= RPC_CALLS_MAX) {
		atomic_fetch_sub(&conn->nr_calls, 1);
		return -ENOBUFS;
	}
	before = atomic_fetch_add(&conn->out_bytes, bytes);
	if (before == 0 || before + bytes <= RPC_OUT_MAX)
		return 0;
	atomic_fetch_sub(&conn->out_bytes, bytes);
	atomic_fetch_sub(&conn->nr_calls, 1);
	return -ENOBUFS;
}

int mc_rpc_start(struct mc_rpc_client *client, struct mc_rpc_call *call, uint64_t timeout_ns)
{
	struct mc_worker *worker;
	uint64_t now = mc_now_ns(), deadline_ns;
	int r;

	if (!client || !call || call->size < sizeof *call || (call->len && !call->data) ||
	    (call->reply_cap && !call->reply))
		return -EINVAL;
	if (call->len > MC_RPC_MESSAGE_MAX)
		return -EMSGSIZE;
	if (atomic_load(&client->rpc->closed))
		return -ECANCELED;
	deadline_ns = timeout_ns < UINT64_MAX - now ? now + timeout_ns : UINT64_MAX;
	call->priv[1] = NULL;
	call->priv[2] = client;
	r = reserve(client->conn, wire_len(call));
	if (r < 0)
		return r;
	worker = client->rpc->worker;
	if (mc_worker_mine(worker))
		return start_here(call, deadline_ns, false);
	if (!mc_worker_resume(worker, false, now))
		return start_there(call, deadline_ns);
	r = start_here(call, deadline_ns, true);
	mc_worker_pause(worker);
	return r;
}

/* ---- waiting --------------------------------------------------------------------------------------- */

static bool has_ended(void *arg)
{
	struct mc_rpc_call *call = arg;

	return __atomic_load_n(&call->priv[1], __ATOMIC_SEQ_CST) == ENDED;
}

int mc_rpc_wait(struct mc_rpc_client *client, struct mc_rpc_call *call)
{
	struct mc_worker *worker;
	struct waiter w = {.left = 0};
	void *nobody = NULL, *me = &w;
	int r;

	if (!client || !call)
		return -EINVAL;
	worker = client->rpc->worker;
	if (!__atomic_compare_exchange_n(&call->priv[1], &nobody, &w, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST))
		return nobody == ENDED ? 0 : -EINVAL;
	r = mc_worker_drive(&worker, 1, &w.bell, has_ended, call, UINT64_MAX);
	if (r < 0 && __atomic_compare_exchange_n(&call->priv[1], &me, NULL, false, __ATOMIC_SEQ_CST,
						 __ATOMIC_SEQ_CST))
		return r;
	while (!__atomic_load_n(&w.left, __ATOMIC_ACQUIRE))
		;
	return 0;
}

/* ---- clients ----------------------------------------------------------------------------------------- */

struct opening {
	struct mc_rpc_client *client;
	const char *segment;
	int r;
};

static void open_run(void *arg)
{
	struct opening *o = arg;
	struct mc_rpc *rpc = o->client->rpc;
	struct rpc_conn *conn = NULL;

	for (struct rpc_link *l = rpc->actives.next; l != &rpc->actives; l = l->next) {
		conn = MC_CONTAINER_OF(l, struct rpc_conn, all);
		if (strcmp(conn->segment, o->segment) == 0)
			break;
		conn = NULL;
	}
	if (!conn) {
		conn = mc_rpc_conn_new(rpc, true);
		if (conn)
			conn->segment = strdup(o->segment);
		if (!conn || !conn->segment) {
			if (conn)
				mc_rpc_conn_unref(conn);
			o->r = -ENOMEM;
			return;
		}
		link_add(&rpc->actives, &conn->all);
	}
	o->client->conn = conn;
	link_add(&conn->clients, &o->client->of_conn);
}

int mc_rpc_client_open(struct mc_engine *engine, const char *segment, const char *service,
		       struct mc_rpc_client **ret_client, struct mc_error *err)
{
	size_t name_len = service ? strlen(service) : 0;
	struct opening o = {.segment = segment};
	struct mc_rpc *rpc;
	int r;

	if (!engine || !ret_client)
		return mc_fail(err, -EINVAL, "rpc client: engine and ret_client may not be NULL");
	if (!segment || !*segment || strlen(segment) > MC_SEGMENT_NAME_MAX)
		return mc_fail(err, -EINVAL, "rpc client: a segment's name has 1 to %d bytes",
			       MC_SEGMENT_NAME_MAX);
	if (!mc_rpc_name_ok(service, name_len))
		return mc_fail(err, -EINVAL,
			       "rpc service '%s': a name has 1 to %d bytes of a-z, 0-9, '.', '_', '-'",
			       service ? service : "", MC_RPC_SERVICE_NAME_MAX);
	r = mc_rpc_get(engine, &rpc, err);
	if (r < 0)
		return r;
	o.client = calloc(1, sizeof *o.client);
	if (!o.client)
		return mc_fail(err, -ENOMEM, "rpc client: out of memory");
	o.client->rpc = rpc;
	o.client->name_len = (uint8_t)name_len;
	memcpy(o.client->name, service, name_len);
	link_init(&o.client->of_conn);
	link_init(&o.client->slots);
	mc_worker_call(rpc->worker, open_run, &o);
	if (o.r < 0) {
		free(o.client);
		return mc_fail(err, o.r, "rpc client: out of memory");
	}
	*ret_client = o.client;
	return 0;
}

void mc_rpc_client_end(struct mc_rpc_client *client)
{
	struct rpc_conn *conn = client->conn;

	client->closing = true;
	while (!link_empty(&client->slots))
		mc_rpc_slot_end(MC_CONTAINER_OF(client->slots.next, struct rpc_slot, of_client),
				-ECANCELED, 0);
	link_del(&client->of_conn);
	free(client);
	if (!link_empty(&conn->clients) || atomic_load(&conn->state) == RPC_GONE)
		return;
	mc_rpc_conn_drop(conn, -ECANCELED, "nobody uses it any more");
	atomic_store(&conn->state, RPC_GONE);
	link_del(&conn->all);
	mc_rpc_conn_unref(conn);
}

static void close_run(void *arg)
{
	struct mc_rpc_client *client = arg;

	client->closing = true;
	mc_rpc_drain(client->rpc);
	mc_rpc_client_end(client);
}

void mc_rpc_client_close(struct mc_rpc_client *client)
{
	if (client)
		mc_worker_call(client->rpc->worker, close_run, client);
}
