/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the mock verbs library.
 *
 *   fabric  one mapping that all processes share: devices by name, and a `host` per process with
 *           what others must see of its queue pairs and memory regions
 *   proc    this process: its contexts, and the engine, a thread that carries out requests.  The
 *           initiator's engine copies the bytes (process_vm_*, or memcpy inside a process), so a target
 *           that is stopped still serves, as a device would
 *
 * Locks, in this order:
 *   life       opening and closing of contexts, start and end of the engine
 *   big        all objects of the process but the two queues below; held while a request is carried out
 *   host.lock  (shared, robust) the host's tables; whoever copies from or into it holds it, so
 *              a change of a queue pair or a region waits for the copy under way.  Never two at once
 *   qp.lock    the send and receive queue
 *   cq.lock    the completions
 *   events     asynchronous and completion events on their way to the program
 */
#ifndef MC_MOCK_H
#define MC_MOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <infiniband/verbs.h>

#include "core/util/check.h"

#include "mock-verbs.h"

#define HOSTS 64u
#define DEVS 32u
#define QPS 4096u   /* of a host; 12 bits of the number, 6 are the host, 6 a generation */
#define MRS 16384u  /* of a host; 14 bits of the key, 18 are a generation */
#define GIDS 16u
#define SGES 4u
#define INLINE_MAX 1024u
#define STEP (256u * 1024) /* bytes copied under one hold of the host's lock */

#define EXPORT __attribute__((visibility("default")))

struct shared_gid {
	unsigned char raw[16];
	uint32_t type; /* enum ibv_gid_type */
	bool nowhere;  /* reaches nobody */
};

enum fault {
	F_DOWN, F_CUT, F_SILENT, F_GONE, F_FATAL, F_GID_CHANGE, F_NO_FLUSH, F_DELAY, F_SLOW_DESTROY, F_REG_ERRNO,
	F_REG_AFTER, F_QP_ERRNO, F_COUNT
};
enum setting {
	S_MTU, S_WIRE_MTU, S_LID, S_INLINE, S_MAX_WR, S_MAX_SGE, S_MAX_CQE, S_MAX_QP, S_MAX_MR, S_MAX_MR_SIZE,
	S_RD_ATOMIC, S_SYNC, S_DMABUF, S_PEERMEM, S_COUNT
};
enum figure {
	N_POSTS, N_REQUESTS, N_SIGNALLED, N_INLINED, N_POLLS, N_COMPLETIONS, N_BYTES, N_EVENTS, N_QPS, N_MRS,
	N_CQS, N_COUNT
};

/* Settings stand before the device has a name; faults and counts are atomic. */
struct shared_dev {
	char name[64];
	bool infiniband;
	int64_t set[S_COUNT];
	uint32_t nr_gids;
	struct shared_gid gids[GIDS];
	_Atomic int64_t faults[F_COUNT];
	_Atomic int64_t stats[N_COUNT];
};

/* A queue pair as others see it. */
struct shared_qp {
	uint32_t number; /* 0: free */
	uint32_t generation;
	_Atomic uint32_t state;  /* enum ibv_qp_state; another host may set ERR */
	uint32_t refused;        /* it did, for what an initiator asked: tell the owner */
	uint32_t dev, pd, access, mtu, dest, rq_psn, sq_psn, max_dest_reads;
};

struct shared_mr {
	uint32_t key; /* 0: free */
	uint32_t generation;
	uint32_t pd, access;
	uint64_t addr, len; /* as requests name it */
	uint64_t shift;     /* from there to where the bytes are */
};

struct host {
	pthread_mutex_t lock;
	bool made;
	_Atomic uint32_t pid;      /* 0: free; guarded by fabric.lock */
	_Atomic uint32_t doorbell; /* futex: the engine has something to look at */
	uint32_t next_qp, next_mr; /* where to look for a free place */
	uint32_t next_pd;
	struct shared_qp qps[QPS];
	struct shared_mr mrs[MRS];
};

struct fabric {
	pthread_mutex_t lock; /* devs[].name, hosts[].pid */
	struct shared_dev devs[DEVS];
	struct host hosts[HOSTS];
};

/* ---- objects of the process ------------------------------------------------------------------------ */

/* Events on their way to a descriptor: a semaphore eventfd counts them. */
struct event_queue {
	int fd;
	unsigned nr, first;
	struct mock_event {
		struct ibv_async_event event; /* completion channels: element.cq */
	} events[256];
};

struct mock_ctx {
	struct verbs_context v; /* v.context is what the program holds */
	struct shared_dev *dev;
	struct mock_ctx *next;
	struct mock_qp *qps;
	unsigned nr_pds, nr_cqs, nr_channels, nr_mrs, nr_qps;
	struct event_queue async;
	int64_t seen_down, seen_gids, seen_gone, seen_fatal; /* by the engine */
};

struct mock_pd {
	struct ibv_pd pd; /* handle: unique in the host */
	unsigned users;
};

struct mock_channel {
	struct ibv_comp_channel channel;
	struct event_queue queue;
	unsigned users;
};

struct mock_mr {
	struct ibv_mr mr;
	unsigned access;
	void *map; /* of a dma-buf; NULL: none */
	size_t map_len;
};

struct mock_cqe {
	struct ibv_wc wc;
	struct mock_qp *qp; /* NULL: gone, or a receive */
	uint32_t upto;      /* polled: the send queue is free up to here */
};

struct mock_cq {
	struct ibv_cq cq;
	pthread_mutex_t lock;
	struct mock_cqe *ring;
	unsigned size, first, nr;
	int armed; /* 1: any, 2: solicited or failed */
	bool overrun;
	unsigned users, nr_events, nr_async; /* got by the program; acknowledged ones are in cq */
	struct shared_dev *dev;
};

struct mock_wqe {
	struct ibv_send_wr wr;
	struct ibv_sge sges[SGES];
	unsigned char *data; /* inline */
	uint64_t posted_ns, len, done;
};

struct mock_qp {
	struct ibv_qp qp;
	struct mock_ctx *ctx;
	struct mock_qp *next;
	struct shared_qp *shared;
	struct ibv_qp_attr attr;
	struct ibv_qp_cap cap;
	bool all_signalled;
	pthread_mutex_t lock;
	struct mock_wqe *sq;
	unsigned char *inline_data;
	uint64_t *rq; /* wr_id */
	uint32_t sq_posted, sq_done; /* free-running */
	uint32_t rq_posted, rq_done;
	_Atomic uint32_t sq_free;    /* places up to here are free again */
	uint64_t timeout_ns;         /* the first request is not answered: when it fails; 0: not waiting */
	uint32_t turn;               /* of the engine, in which it was looked at */
	unsigned nr_async;
};

struct proc {
	pthread_mutex_t life, big, events;
	_Atomic unsigned big_waiters;
	pid_t pid; /* of the process that the below is of */
	struct host *host;
	uint32_t host_idx;
	pthread_t engine;
	_Atomic bool quit;
	struct mock_ctx *ctxs;
};
extern struct proc proc;

static inline struct mock_ctx *mock_ctx(struct ibv_context *c)
{
	return MC_CONTAINER_OF(c, struct mock_ctx, v.context);
}
static inline bool dev_fault(const struct shared_dev *dev, enum fault f)
{
	return atomic_load_explicit(&dev->faults[f], memory_order_relaxed) != 0;
}
static inline void dev_count(struct shared_dev *dev, enum figure s, int64_t n)
{
	atomic_fetch_add_explicit(&dev->stats[s], n, memory_order_relaxed);
}

/* fabric.c */
struct fabric *fabric_get(void); /* NULL: errno */
struct shared_dev *fabric_dev(const char *name);
unsigned fabric_devs_here(struct shared_dev *devs[DEVS]); /* those that MOCK_VERBS names */
struct host *fabric_join(uint32_t *ret_idx);
void fabric_leave(struct host *host);
void shared_lock(pthread_mutex_t *lock);
bool shared_trylock(pthread_mutex_t *lock);
void host_ring(struct host *host);
uint64_t now_ns(void);
/* A copy of the port's GIDs as they are now. */
void dev_gid(const struct shared_dev *dev, uint32_t idx, struct shared_gid *ret);

/* device.c */
void big_lock(void);
void big_unlock(void);

/* event.c */
int queue_init(struct event_queue *q);
void queue_fini(struct event_queue *q);
void queue_put(struct event_queue *q, const struct ibv_async_event *e);
void queue_drop(struct event_queue *q, const void *element);
void ctx_event(struct mock_ctx *ctx, enum ibv_event_type type, void *element);
void channel_event(struct mock_cq *cq);
void events_forget(struct ibv_context *ctx, const void *element);
void events_wait(const unsigned *got, const uint32_t *acked);

/* cq.c */
/* under qp.lock */
void cq_push(struct mock_cq *cq, const struct ibv_wc *wc, struct mock_qp *qp, uint32_t upto);
void cq_forget(struct mock_cq *cq, const struct mock_qp *qp);
int mock_poll_cq(struct ibv_cq *cq, int nr, struct ibv_wc *wc);
int mock_req_notify_cq(struct ibv_cq *cq, int solicited_only);

/* qp.c */
void qp_error(struct mock_qp *qp); /* under big: state ERR, everything flushed */

/* post.c */
int mock_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
int mock_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
void wqe_complete(struct mock_qp *qp, uint32_t at, enum ibv_wc_status status); /* under qp.lock */
void sends_flush(struct mock_qp *qp);                                           /* under qp.lock */
void recvs_flush(struct mock_qp *qp);                                           /* under qp.lock */

/* carry.c: one request.  Under big.
 * CARRY_LATER: nobody answers; CARRY_MORE: a part is done; CARRY_BUSY: try soon; else enum ibv_wc_status. */
enum { CARRY_LATER = -1, CARRY_MORE = -2, CARRY_BUSY = -3 };
int carry(struct mock_qp *qp, struct mock_wqe *wqe);

/* engine.c */
int engine_start(void);
void engine_now(struct mock_qp *qp); /* what can be carried out, on this thread */
void engine_stop(void);

#endif
