/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services and the requests they answer.  A request keeps its connection (not its
 * service) until it is answered, so that an answer may come from any thread, at
 * any time, after unserve and even after the engine was closed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "rpc_impl.h"

#define STATUS_MIN (-4095)
#define REQUEST_POOL_MAX 4096u

/* ---- services ---------------------------------------------------------------------------------- */

static struct mc_rpc_service *find(struct mc_rpc *rpc, const char *name, size_t len)
{
	struct mc_rpc_service *s = rpc->last_service;

	if (s && s->name_len == len && memcmp(s->name, name, len) == 0)
		return s;
	for (struct rpc_link *l = rpc->services.next; l != &rpc->services; l = l->next) {
		s = MC_CONTAINER_OF(l, struct mc_rpc_service, all);
		if (s->name_len == len && memcmp(s->name, name, len) == 0) {
			rpc->last_service = s;
			return s;
		}
	}
	return NULL;
}

struct serving {
	struct mc_rpc_service *service;
	int r;
};

static void serve_run(void *arg)
{
	struct serving *s = arg;
	struct mc_rpc *rpc = s->service->rpc;

	if (find(rpc, s->service->name, s->service->name_len))
		s->r = -EEXIST;
	else
		link_add(&rpc->services, &s->service->all);
}

int mc_rpc_serve(struct mc_engine *engine, const char *service, mc_rpc_handler handler, void *arg,
		 struct mc_rpc_service **ret_service, struct mc_error *err)
{
	size_t len = service ? strlen(service) : 0;
	struct serving s = {.r = 0};
	struct mc_rpc *rpc;
	int r;

	if (!engine || !ret_service)
		return mc_fail(err, -EINVAL, "rpc service: engine and ret_service may not be NULL");
	if (!mc_rpc_name_ok(service, len) || !handler)
		return mc_fail(err, -EINVAL,
			       "rpc service '%s': needs a handler, and a name of 1 to %d bytes of "
			       "a-z, 0-9, '.', '_', '-'",
			       service ? service : "", MC_RPC_SERVICE_NAME_MAX);
	r = mc_rpc_get(engine, &rpc, err);
	if (r < 0)
		return r;
	s.service = calloc(1, sizeof *s.service);
	if (!s.service)
		return mc_fail(err, -ENOMEM, "rpc service '%s': out of memory", service);
	s.service->rpc = rpc;
	s.service->handler = handler;
	s.service->arg = arg;
	s.service->name_len = (uint8_t)len;
	memcpy(s.service->name, service, len);
	mc_worker_call(rpc->worker, serve_run, &s);
	if (s.r < 0) {
		free(s.service);
		return mc_fail(err, s.r, "rpc service '%s': this engine offers it already", service);
	}
	*ret_service = s.service;
	return 0;
}

static void unserve_run(void *arg)
{
	struct mc_rpc_service *s = arg;

	link_del(&s->all);
	s->rpc->last_service = NULL;
	free(s);
}

void mc_rpc_unserve(struct mc_rpc_service *service)
{
	if (service)
		mc_worker_call(service->rpc->worker, unserve_run, service);
}

/* ---- requests ------------------------------------------------------------------------------------ */

static struct mc_rpc_request *request_new(struct mc_rpc *rpc)
{
	struct mc_rpc_request *request;

	pthread_mutex_lock(&rpc->lock);
	request = rpc->request_pool;
	if (request) {
		rpc->request_pool = request->next;
		rpc->nr_request_pool--;
	}
	pthread_mutex_unlock(&rpc->lock);
	return request ? request : malloc(sizeof *request);
}

/* [any] */
static void request_free(struct mc_rpc_request *request)
{
	struct rpc_conn *conn = request->conn;
	struct mc_rpc *rpc = request->rpc;

	pthread_mutex_lock(&rpc->lock);
	if (rpc->nr_request_pool < REQUEST_POOL_MAX) {
		request->next = rpc->request_pool;
		rpc->request_pool = request;
		rpc->nr_request_pool++;
		request = NULL;
	}
	pthread_mutex_unlock(&rpc->lock);
	free(request);
	mc_rpc_conn_unref(conn); /* keeps the service until here */
}

static void send_reply(struct rpc_conn *conn, const struct mc_rpc_head *head, const void *data, bool now)
{
	size_t bytes = MC_RPC_HEAD_LEN + head->len;

	atomic_fetch_add(&conn->out_bytes, bytes);
	if (mc_rpc_conn_send(conn, head, NULL, data, now) == 0)
		return;
	/* An answer that cannot be sent would be waited for: end the connection instead. */
	atomic_fetch_sub(&conn->out_bytes, bytes);
	shutdown(conn->fd, SHUT_RDWR);
}

void mc_rpc_serve_request(struct rpc_conn *conn, const struct mc_rpc_head *head, const char *name,
			  const void *data)
{
	struct mc_rpc *rpc = conn->rpc;
	struct mc_rpc_service *service = find(rpc, name, head->name_len);
	struct mc_rpc_request *request = service ? request_new(rpc) : NULL;
	uint64_t now = mc_now_ns();
	struct mc_rpc_incoming in;

	if (!request) {
		const struct mc_rpc_head refusal = {.type = MC_RPC_REPLY, .id = head->id,
						    .status = service ? -ENOMEM : -ENOENT};

		send_reply(conn, &refusal, NULL, false);
		return;
	}
	rpc_bump(&rpc->requests);
	mc_rpc_conn_ref(conn);
	request->rpc = rpc;
	request->conn = conn;
	request->id = head->id;
	request->wanted = MC_MIN(head->reply_len, MC_RPC_MESSAGE_MAX);
	request->deadline_ns =
		head->timeout_ns < UINT64_MAX - now ? now + head->timeout_ns : UINT64_MAX;
	request->buf = NULL;
	conn->nr_open++;
	conn->promised += request->wanted;
	mc_rpc_conn_throttle(conn);
	in = (struct mc_rpc_incoming){
		.size = sizeof in,
		.method = head->method,
		.data = data,
		.len = head->len,
		.from = conn->from,
		.generation = conn->generation,
		.deadline_ns = request->deadline_ns,
	};
	service->handler(service->arg, request, &in);
}

/* Close the request's account; true if somebody still waits for the answer, then with its head. */
static bool settle(struct mc_rpc_request *request, int status, size_t len, struct mc_rpc_head *head)
{
	struct rpc_conn *conn = request->conn;

	conn->nr_open--;
	conn->promised -= request->wanted;
	if (mc_now_ns() > request->deadline_ns) {
		mc_rpc_conn_throttle(conn);
		return false;
	}
	*head = (struct mc_rpc_head){.type = MC_RPC_REPLY, .id = request->id, .status = status,
				     .len = (uint32_t)len, .reply_len = (uint32_t)len};
	if (len > request->wanted) {
		head->status = -EMSGSIZE;
		head->len = 0;
	}
	return true;
}

static int reply_here(struct mc_rpc_request *request, int status, const void *data, size_t len,
		      bool now)
{
	struct rpc_conn *conn = request->conn;
	struct mc_rpc_head head;
	int r = -ENOTCONN;

	if (atomic_load(&conn->state) == RPC_UP) {
		r = 0;
		if (settle(request, status, len, &head)) {
			send_reply(conn, &head, data, now);
			mc_rpc_conn_throttle(conn);
		}
	}
	request_free(request);
	return r;
}

void mc_rpc_reply_posted(struct mc_rpc_request *request)
{
	struct rpc_conn *conn = request->conn;
	struct rpc_buf *buf = request->buf;
	struct mc_rpc_head head;

	if (atomic_load(&conn->state) == RPC_UP && settle(request, request->status, request->len, &head)) {
		mc_rpc_head_put(buf->data, &head);
		buf->len = (uint32_t)MC_RPC_HEAD_LEN + head.len;
		atomic_fetch_add(&conn->out_bytes, buf->len);
		mc_rpc_conn_queue(conn, buf);
		mc_rpc_conn_throttle(conn);
	} else {
		mc_rpc_buf_free(request->rpc, buf);
	}
	request_free(request);
}

/* Another thread holds the baton: leave it a copy. */
static int reply_there(struct mc_rpc_request *request, int status, const void *data, size_t len)
{
	struct rpc_buf *buf;

	if (atomic_load(&request->conn->state) != RPC_UP) {
		request_free(request);
		return -ENOTCONN;
	}
	buf = mc_rpc_buf_new(request->rpc, MC_RPC_HEAD_LEN + (len <= request->wanted ? len : 0));
	if (!buf)
		return -ENOMEM;
	if (len && len <= request->wanted)
		memcpy(buf->data + MC_RPC_HEAD_LEN, data, len);
	request->status = status;
	request->len = (uint32_t)len;
	request->buf = buf;
	mc_rpc_post_reply(request->rpc, request);
	return 0;
}

int mc_rpc_reply(struct mc_rpc_request *request, int status, const void *data, size_t len)
{
	struct mc_rpc *rpc;
	int r;

	if (!request)
		return -EINVAL;
	rpc = request->rpc;
	if (len > MC_RPC_MESSAGE_MAX)
		return -EMSGSIZE;
	if (status > 0 || status < STATUS_MIN || (len && !data))
		return -EINVAL;
	if (!mc_rpc_begin(rpc)) {
		request_free(request);
		return -ENOTCONN;
	}
	/* The reference keeps `rpc` itself for mc_rpc_end, when the request was its last user. */
	mc_rpc_ref(rpc);
	if (mc_worker_mine(rpc->worker)) {
		r = reply_here(request, status, data, len, false);
	} else if (mc_worker_enter(rpc->worker)) {
		r = reply_here(request, status, data, len, true);
		mc_worker_leave(rpc->worker);
	} else {
		r = reply_there(request, status, data, len);
	}
	mc_rpc_end(rpc);
	mc_rpc_unref(rpc);
	return r;
}
