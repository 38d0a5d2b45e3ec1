/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the rpc service: rpc.c (life, posts from other threads), rpc_call.c
 * (clients and calls), rpc_serve.c (services and requests), rpc_conn.c
 * (connections: frames in and out), rpc_dial.c (finding and dialling a peer).
 *
 * One worker drives it all; what is not marked otherwise is [worker] and has no
 * lock.  Other threads that find the baton taken leave calls and replies in
 * `posted` and kick the worker once for many.
 */
#ifndef MC_CORE_RPC_IMPL_H
#define MC_CORE_RPC_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/util/check.h"
#include "engine.h"
#include "rpc.h"
#include "rpc_wire.h"
#include "worker.h"

/* ---- lists: circular, so that a member leaves without knowing its head ---------------------- */

struct rpc_link {
	struct rpc_link *prev, *next;
};

static inline void link_init(struct rpc_link *l)
{
	l->prev = l->next = l;
}

static inline bool link_empty(const struct rpc_link *l)
{
	return l->next == l;
}

static inline void link_add(struct rpc_link *head, struct rpc_link *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void link_del(struct rpc_link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	link_init(l);
}

/* ---- bounds ------------------------------------------------------------------------------------ */

#define RPC_OUT_MAX (8u << 20)        /* bytes that calls may have waiting on a connection */
#define RPC_PROMISED_MAX (64u << 20)  /* bytes of replies wanted or waiting, per passive connection */
#define RPC_OPEN_MAX 4096u            /* requests not yet answered, per passive connection */
#define RPC_CALLS_MAX 65536u          /* outstanding calls per active connection */
#define RPC_HOT_MAX 4                 /* connections that progress reads without being told */
#define RPC_HOT_NS (200 * UINT64_C(1000))
#define RPC_SCRATCH (256u << 10)      /* what one read takes at most, besides a body under way */
#define RPC_BACKOFF_MIN (10 * MC_MSEC)
#define RPC_BACKOFF_MAX MC_SEC
#define RPC_DIAL_NS (3 * MC_SEC)

/* ---- outgoing messages ------------------------------------------------------------------------- */

struct rpc_buf {
	struct rpc_buf *next;
	uint32_t len, off; /* bytes, and how many of them were sent */
	uint32_t cap;
	uint32_t prefix;   /* where the payload begins */
	uint64_t deadline_ns; /* posted calls; posted replies: their status and length are in the head */
	uint8_t data[];
};

#define RPC_SMALL 1024u /* capacity of pooled ones */
#define RPC_POOL_MAX 1024u

/* [any] */
struct rpc_buf *mc_rpc_buf_new(struct mc_rpc *rpc, size_t len);
void mc_rpc_buf_free(struct mc_rpc *rpc, struct rpc_buf *buf);

/* ---- the service ------------------------------------------------------------------------------- */

struct rpc_conn;
struct rpc_slot;

struct mc_rpc {
	struct mc_engine *engine;
	struct mc_worker *worker;
	struct mc_client client; /* of the worker */
	atomic_uint refs;        /* 1 + requests + dials */
	atomic_uint users;       /* threads between mc_rpc_begin and mc_rpc_end */
	atomic_uint nr_lookups;  /* helper jobs that use the engine */
	atomic_bool closed;

	/* Guards the two lists and the pools below; held for a few instructions. */
	pthread_mutex_t lock;
	struct mc_rpc_call *posted_calls, **posted_calls_tail;
	struct mc_rpc_request *posted_replies, **posted_replies_tail;
	struct rpc_buf *pool;
	struct mc_rpc_request *request_pool;
	uint32_t nr_pool, nr_request_pool;
	bool kicked; /* the kick below is in the worker's inbox */
	struct mc_post kick;

	/* [worker] */
	struct rpc_link services, actives, passives;
	struct mc_rpc_service *last_service; /* found last time */
	atomic_uint nr_passives;
	uint32_t nr_up;
	uint32_t nr_called_back; /* calls under way that nobody waits in */
	struct rpc_conn *hot[RPC_HOT_MAX];
	uint32_t nr_hot;
	struct rpc_conn *dirty; /* have output that was not offered to the kernel yet */
	struct rpc_slot **slots;
	uint32_t nr_slots, cap_slots;
	struct rpc_slot *free_slots;
	uint8_t *scratch;
	_Atomic uint64_t calls, failed, requests; /* counters, read by others */
};

/* Add one to a counter that only the worker writes. */
static inline void rpc_bump(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* Peers that call us, and calls that nobody waits in, have no caller who comes back for the baton: say whether there
 * are any.  [worker] */
void mc_rpc_serves(struct mc_rpc *rpc);

/* Keep the worker from being freed; false once the service is closed.  [any] */
bool mc_rpc_begin(struct mc_rpc *rpc);
void mc_rpc_end(struct mc_rpc *rpc);
void mc_rpc_ref(struct mc_rpc *rpc);
void mc_rpc_unref(struct mc_rpc *rpc);
/* The engine's service, made on first use; -EPERM in a forked child.  [any] */
int mc_rpc_get(struct mc_engine *engine, struct mc_rpc **ret_rpc, struct mc_error *err);
/* Leave a call or an answered request to the worker.  Between begin and end, or by a client's
 * owner.  [any] */
void mc_rpc_post_call(struct mc_rpc *rpc, struct mc_rpc_call *call);
void mc_rpc_post_reply(struct mc_rpc *rpc, struct mc_rpc_request *request);
/* Handle what was posted. */
void mc_rpc_drain(struct mc_rpc *rpc);

/* ---- connections ------------------------------------------------------------------------------- */

enum rpc_state {
	RPC_IDLE = 0, /* active only: dialled by the next call */
	RPC_WAITING,  /* active only: backing off, calls wait */
	RPC_DIALLING,
	RPC_UP,
	RPC_GONE,     /* passive, or without clients: only references are left */
};

struct rpc_conn {
	struct mc_rpc *rpc;
	struct rpc_link all; /* in actives or passives */
	atomic_uint refs;
	bool active;
	atomic_uint state; /* enum rpc_state; written by [worker] */

	int fd;
	struct mc_watch watch;
	bool reading; /* POLLIN is watched */
	bool blocked; /* the kernel took no more: POLLOUT is watched */
	bool is_hot;
	bool is_dirty;
	bool pinged;
	uint64_t heard_ns, hot_until;

	/* out */
	struct rpc_buf *out, **out_tail;
	_Atomic size_t out_bytes; /* also of posted calls */
	struct rpc_conn *next_dirty;

	/* in: the prefix of a frame that came in parts, then its body */
	uint8_t prefix[MC_RPC_PREFIX_MAX];
	uint32_t prefix_len;
	struct mc_rpc_head head; /* valid while in_body */
	bool in_body;
	uint32_t body_len, body_got; /* bytes to store at body; what does not fit was checked before */
	uint8_t *body;               /* NULL: thrown away */
	struct rpc_buf *body_buf;    /* requests: where body lies */
	struct rpc_slot *body_slot;  /* replies: whose buffer body is */

	/* passive */
	char from[MC_SEGMENT_NAME_MAX + 1];
	uint64_t generation;
	uint32_t nr_open;  /* requests not yet answered */
	uint64_t promised; /* sum of their wanted replies */

	/* active */
	char *segment;
	struct rpc_link clients, calls;
	atomic_uint nr_calls; /* also posted ones */
	uint64_t backoff_ns, next_try_ns;
	struct mc_timer retry;
	char **addresses; /* of the last success; NULL: ask the metadata */
	uint64_t peer_generation;
};

struct rpc_conn *mc_rpc_conn_new(struct mc_rpc *rpc, bool active);
void mc_rpc_conn_ref(struct rpc_conn *conn);
void mc_rpc_conn_unref(struct rpc_conn *conn); /* [any] */
/* Give it an admitted stream; owns fd, also on failure. */
int mc_rpc_conn_start(struct rpc_conn *conn, int fd);
/* Close the stream; outstanding calls end with status.  A passive one is gone then. */
void mc_rpc_conn_drop(struct rpc_conn *conn, int status, const char *why);
/* Queue a message whose bytes out_bytes counts already; it is sent at the end of the turn. */
void mc_rpc_conn_queue(struct rpc_conn *conn, struct rpc_buf *buf);
/* Send head, name and data: now, without copying, if nothing waits before them; what is left is
 * queued.  out_bytes counts them already.  -ENOMEM: nothing was sent. */
int mc_rpc_conn_send(struct rpc_conn *conn, const struct mc_rpc_head *head, const char *name,
		     const void *data, bool now);
/* Offer all new output to the kernel. */
int mc_rpc_flush(struct mc_rpc *rpc);
/* The bounds of a passive connection may have changed: read on, or stop reading. */
void mc_rpc_conn_throttle(struct rpc_conn *conn);
int mc_rpc_progress(struct mc_client *c, uint64_t now);
int mc_rpc_arm(struct mc_client *c);
void mc_rpc_tick(struct mc_client *c, uint64_t now_ns);
void mc_rpc_frozen(struct mc_client *c);

/* rpc_dial.c: see to it that an active connection comes up, for calls that wait on it. */
void mc_rpc_conn_want(struct rpc_conn *conn);
void mc_rpc_addresses_free(char **addresses);

/* ---- calls ------------------------------------------------------------------------------------- */

struct mc_rpc_client {
	struct mc_rpc *rpc;
	struct rpc_conn *conn;
	struct rpc_link of_conn, slots;
	bool closing; /* [worker] */
	uint8_t name_len;
	char name[MC_RPC_SERVICE_NAME_MAX + 1];
};

/* A call under way; its id on the wire is (round << 32 | idx), so that a late reply finds nobody. */
struct rpc_slot {
	struct mc_rpc_call *call; /* NULL: free */
	struct mc_rpc_client *client;
	struct rpc_conn *conn;
	struct rpc_link of_client, of_conn;
	struct mc_timer timer;
	uint32_t idx, round;
	struct rpc_slot *next_free;
};

/* Begin a posted call. */
void mc_rpc_call_begin(struct mc_rpc_call *call);
struct rpc_slot *mc_rpc_slot_find(struct mc_rpc *rpc, uint64_t id);
/* The call ends; it is the caller's from here on. */
void mc_rpc_slot_end(struct rpc_slot *slot, int status, size_t reply_len);
void mc_rpc_conn_end_calls(struct rpc_conn *conn, int status);
/* Free a client whose calls have ended. */
void mc_rpc_client_end(struct mc_rpc_client *client);

/* ---- services ---------------------------------------------------------------------------------- */

struct mc_rpc_service {
	struct mc_rpc *rpc;
	struct rpc_link all;
	mc_rpc_handler handler;
	void *arg;
	uint8_t name_len;
	char name[MC_RPC_SERVICE_NAME_MAX + 1];
};

struct mc_rpc_request {
	struct mc_rpc_request *next; /* posted, or in the pool */
	struct mc_rpc *rpc;
	struct rpc_conn *conn;
	uint64_t id, deadline_ns;
	uint32_t wanted; /* bytes of reply */
	int32_t status;  /* posted replies */
	uint32_t len;
	struct rpc_buf *buf; /* posted replies */
};

/* A whole request arrived; data is borrowed. */
void mc_rpc_serve_request(struct rpc_conn *conn, const struct mc_rpc_head *head, const char *name,
			  const void *data);
/* Send a posted reply. */
void mc_rpc_reply_posted(struct mc_rpc_request *request);

#endif
