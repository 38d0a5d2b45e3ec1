/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slices as one-sided READs and WRITEs over reliable connections of libibverbs, for every transport that
 * speaks verbs-rc: the objects and who calls whom.  All state is a plugin's instance.
 *
 *   rdma      one lane of one device: its completion queue, its endpoints.  Lane 0 has the context,
 *             the protection domain and the asynchronous events for all lanes
 *   endpoint  the queue pairs of one connection to one peer.  On the heap, not in the peer's area:
 *             it outlives the peer until a helper thread has destroyed its queue pairs, which can
 *             take seconds on a dead link
 *   peer      the host's object; has an endpoint, or none while it is dormant
 *
 * What is marked [worker] is touched under the baton only.  A helper's step (rdma_ep_step) owns the
 * endpoint's `made` part from run_blocking to its done; nothing else of ours is used by two threads,
 * except lane 0's port table, which has a lock.
 *
 * Nothing of the host that may call back into the plugin (complete, peer_ready, peer_writable,
 * fenced) is called while a queue is being looked at: ends of slices gather on rdma->done, news of
 * peers in rdma_peer, and rdma_settle() delivers them from a clean state.
 */
#ifndef MC_RDMA_H
#define MC_RDMA_H

#include <pthread.h>
#include <stdatomic.h>

#include <infiniband/verbs.h>

#include <mooncake/transport.h>

#include "core/util/check.h"
#include "rdma_wire.h"

#define RDMA_POLL 32u            /* completions per call of ibv_poll_cq */
#define RDMA_SIGNAL 32u          /* at least every so many requests one is signalled */
/* Of the scratch memory: what probes send, which nothing ever writes; where flushes read to; where
 * probes of peers write.  A page each, the last one a memory region of its own. */
#define RDMA_SCRATCH 12288u
#define RDMA_SCRATCH_FLUSH 4096u
#define RDMA_SCRATCH_PEER 8192u
#define RDMA_MTU_SAFE 1024u      /* what every network carries */
#define RDMA_CHUNKS_MAX 96u      /* memory regions of one buffer; what a blob has room for */

struct rdma;
struct rdma_peer;
struct rdma_ep;

/* ---- options, in the order of rdma_options.h --------------------------------------------------------- */

struct rdma_settings {
	int gid_index;       /* -1: choose */
	uint8_t port;        /* 1.. */
	uint16_t pkey_index;
	int traffic_class;   /* -1: none */
	int service_level;   /* -1: 0 */
	uint32_t mtu;        /* bytes: 256 to 4096; upper bound */
	uint32_t qps_per_peer;
	uint32_t max_wr;     /* send queue depth of a queue pair */
	uint32_t max_inline;
	uint32_t cq_depth;
	uint32_t max_endpoints; /* of each half: that we opened, that peers opened */
	uint64_t max_mr_size;
	uint64_t slice;      /* caps.pref_slice */
	uint8_t retry_cnt;   /* of a queue pair, <= 6: rxe takes 7 for "for ever" */
	uint8_t timeout;     /* local ACK timeout exponent, 4.096 us * 2^n */
	bool relaxed;        /* relaxed PCI ordering asked for and supported */
	uint64_t suspect_ns; /* no completion for so long: the queue pair is suspect */
	uint32_t registration; /* enum rdma_registration: the only way for device memory, or AUTO */
};

enum rdma_registration { RDMA_REG_AUTO = 0, RDMA_REG_DMABUF, RDMA_REG_PEERMEM };

/* What differs between the transports that share this code. */
struct rdma_flavour {
	const char *const *local_kinds, *const *remote_kinds;
	/* The CPU cannot touch the memory: nothing is sent inline, and there are two ways to register it, of
	 * which the option behind the common ones (words in the order of enum rdma_registration) may ask for one. */
	bool device_memory;
};

/* ---- memory: rdma_mem.c ----------------------------------------------------------------------------- */

/* Our own registration; written by helpers, read by the worker after that. */
struct rdma_region {
	struct rdma_region *prev, *next; /* lane 0's regions */
	uint64_t base, len;
	uint64_t chunk;       /* bytes of all regions but the last; len if there is one */
	uint32_t nr;
	bool relaxed;         /* writes into it need a flush */
	uint32_t access;      /* IBV_ACCESS_* */
	uint32_t registration; /* device memory: enum rdma_registration, the way that it took; else AUTO */
	char why[200];        /* PEERMEM: why not by a dma-buf */
	struct ibv_mr **mrs;  /* nr */
	struct ibv_mr *one;   /* mrs points here if nr is 1 */
};

/* A peer's, from its blob. */
struct rdma_remote {
	uint64_t base, len, chunk;
	uint32_t nr;
	bool relaxed;
	uint32_t *rkeys; /* nr */
	uint32_t one;    /* rkeys points here if nr is 1 */
};

static inline uint32_t rdma_lkey(const struct rdma_region *r, uint64_t addr)
{
	return r->nr == 1 ? r->one->lkey : r->mrs[(addr - r->base) / r->chunk]->lkey;
}

static inline uint32_t rdma_rkey(const struct rdma_remote *r, uint64_t addr)
{
	return r->nr == 1 ? r->one : r->rkeys[(addr - r->base) / r->chunk];
}

/* Bytes from addr to the end of its memory region. */
static inline uint64_t rdma_chunk_left(uint64_t base, uint64_t len, uint64_t chunk, uint64_t addr)
{
	uint64_t at = addr - base;

	return MC_MIN(chunk - at % chunk, len - at);
}

int rdma_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err);
void rdma_mem_unreg(void *inst, void *region);
void rdma_region_drop(struct rdma *rdma, struct rdma_region *region); /* deregister what is left of it */
void rdma_mem_explain(void *inst, const void *region, char *text, size_t cap);
int rdma_mem_export(void *inst, void *region, void *blob, size_t cap);
int rdma_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf);
void rdma_mem_release(void *inst, void *remote);
/* Fill err for memory that could not be pinned: errno `error`, `what` it was for.  Returns -error. */
int rdma_mem_fail(struct rdma *rdma, int error, const char *what, uint64_t len, struct mc_error *err);

/* ---- the port: rdma_port.c, rdma_gid.c ---------------------------------------------------------------- */

/* Read the port and its GID table from the device; `far` of a peer has the same form (rdma_wire.h).
 * 0 or -errno; -ENODEV: the device is gone.  [any] that may block briefly */
int rdma_port_read(struct ibv_context *ctx, const char *device, const struct rdma_settings *set,
		   struct rdma_port *port, struct mc_error *err);
/* Why this port cannot be used now, with what to do; 0 if it can.  [any] */
int rdma_port_usable(const struct rdma_port *port, const char *device, const struct rdma_settings *set,
		     struct mc_error *err);
/* Bytes per second. */
uint64_t rdma_port_speed(const struct ibv_port_attr *attr);
/* A copy of lane 0's table, as last read.  [any] */
void rdma_port_get(struct rdma *rdma, struct rdma_port *port);

/* A way from one of our GIDs to one of the peer's; best first. */
struct rdma_pair {
	uint8_t own, far; /* places in the two ports' gids[] */
	uint8_t rank;     /* lower is better */
};
#define RDMA_PAIRS_MAX 16u
/* Does this host send to `far` from `own` by this device?  Asks the kernel's routes; on InfiniBand,
 * and where both are the same GID, always.  0: yes.  1: perhaps (both are on this host, or the address
 * is none of this network namespace): ranks last.  -errno: no, and why.  [helper] */
int rdma_gid_route(const struct rdma_gid *own, const struct rdma_gid *far, const char *device);
/* All pairs that can work, best first: equal type (RoCE v2 before v1, InfiniBand alone), same subnet, IPv4
 * and global IPv6 before link-local; those that `route` refuses are left out.  0: none, why says so
 * with both tables' best candidates and what to do. */
size_t rdma_gid_pairs(const struct rdma_port *own, const struct rdma_port *far, const char *device,
		      int (*route)(const struct rdma_gid *own, const struct rdma_gid *far,
				   const char *device),
		      struct rdma_pair pairs[RDMA_PAIRS_MAX], char *why, size_t why_cap);
/* "10.0.0.1 (RoCE v2, index 1)" */
const char *rdma_gid_print(const struct rdma_gid *gid, char *buf, size_t cap);
/* "10.0.0.1" */
const char *rdma_gid_address(const struct rdma_gid *gid, char *buf, size_t cap);
bool rdma_gid_is_v4(const struct rdma_gid *gid);
bool rdma_gid_is_link_local(const struct rdma_gid *gid);
/* Lower is better: what to prefer when nothing is known of the other end. */
unsigned rdma_gid_grade(const struct rdma_gid *gid);

/* Asynchronous events of the device: lane 0 only. */
int rdma_events_open(struct rdma *rdma, struct mc_error *err);
void rdma_events_stop(struct rdma *rdma);  /* [worker] */
void rdma_events_close(struct rdma *rdma); /* [helper] */
void rdma_port_lane(struct rdma *rdma);      /* [helper] each lane, before it is on lane 0's list */
void rdma_port_lane_stop(struct rdma *rdma); /* [worker] it hears no news any more */
/* Ask the device how its port is, soon, on a helper: after a suspicion or an event.  Any lane; tells
 * the host through lane 0.  [worker] */
void rdma_port_check(struct rdma *rdma);
/* A peer was opened (+1) or closed (-1).  While there are any the port is looked at each second: a
 * deleted network interface says nothing by itself.  [worker] */
void rdma_port_peers(struct rdma *rdma, int change);

/* ---- the device: rdma_device.c -------------------------------------------------------------------------- */

int rdma_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx);
int rdma_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
	       struct mc_error *err);
/* Open the verbs device of this name, or say what is missing and what to do. */
int rdma_device_open(const char *device, struct ibv_context **ret_ctx, struct mc_error *err);
/* The network interface of a RoCE port, or "its network interface" if that cannot be told. */
const char *rdma_netdev(const char *device, uint8_t port, char *buf, size_t cap);

/* ---- requests in flight ------------------------------------------------------------------------------------ */

enum rdma_wr_kind { RDMA_WR_SLICE = 0, RDMA_WR_PART, RDMA_WR_PROBE };

/* One work request; its place in the ring is its position modulo the ring's size. */
struct rdma_wr {
	struct mc_slice *slice; /* SLICE: ends with it; PART: an earlier part of one */
	uint32_t len;
	uint8_t kind;           /* enum rdma_wr_kind */
};

/* The slice's private area. */
struct rdma_op {
	struct rdma_op *next; /* rdma->done, once it has ended */
	struct mc_slice *slice;
	int32_t status, scope; /* of an earlier part that failed; then how it ended */
};

struct rdma_qp {
	struct ibv_qp *qp;
	struct rdma_ep *ep;
	uint32_t slot, serial; /* place in rdma->slots, and how often that was given before */
	uint32_t size;        /* of the ring, a power of two >= depth */
	uint32_t depth;       /* of the send queue */
	uint32_t head, posted, tail; /* free-running: [tail, posted) at the device, [posted, head) gathered */
	uint32_t unsignalled; /* since the last signalled request */
	uint64_t bytes;       /* in flight and gathered */
	uint64_t alive_ns;    /* the last completion, or the first request after a pause */
	bool dirty;           /* on rdma->dirty: has gathered requests */
	struct rdma_qp *next_dirty;
	struct rdma_wr *ring;
	struct ibv_send_wr *wrs;
	struct ibv_sge *sges;
};

enum rdma_ep_state {
	RDMA_EP_MAKING = 0, /* a helper makes the queue pairs (active) or makes and connects them (passive) */
	RDMA_EP_ASKED,      /* active: hello sent */
	RDMA_EP_JOINING,    /* active: a helper takes them to RTS */
	RDMA_EP_PROBING,    /* active: the first requests are under way */
	RDMA_EP_UP,
	RDMA_EP_DRAINING,   /* active: no new slices, to be parked when idle */
	RDMA_EP_ERROR,      /* all queue pairs in ERR; waits for flushed requests */
	RDMA_EP_DYING,      /* a helper destroys the queue pairs */
};

struct rdma_ep {
	struct rdma_ep *prev, *next; /* rdma->eps, in the order of the sieve */
	struct rdma *rdma;
	struct rdma_peer *peer; /* NULL: closed, to be destroyed as soon as no helper works on it */
	uint32_t state;         /* enum rdma_ep_state */
	bool passive;
	bool visited;           /* the sieve's mark: used since the hand came by */
	bool leaving;           /* its place is wanted: the initiator is asked, or knows, to let go */
	bool fresh;             /* active: a slice waited for it, and it has carried none yet */
	uint64_t since_ns;      /* active: ASKED or UP since then */
	bool working;           /* a helper's step is under way */
	uint32_t nr_markers;    /* passive, ERROR: receive requests not flushed yet */
	uint32_t nr_probes;     /* PROBING: not answered yet */
	uint32_t nr_qps;
	uint32_t nr_used;       /* of them, by what both ends have */
	uint32_t turn;          /* the queue pair that small requests gather on */
	struct rdma_peer *of;   /* on rdma->dying: whose it was; NULL: that is closed too */
	uint64_t asked_ns;      /* passive and leaving: since when */
	struct rdma_qp *qps;
	struct mc_work work;
	struct mc_timer timer;  /* ERROR: the flush does not come; UP and leaving: it has had its time */
	/* Input and output of a helper's step. */
	struct {
		int (*step)(struct rdma_ep *ep); /* [helper] */
		void (*then)(struct rdma_ep *ep, int status); /* [worker] */
		int status;
		struct rdma_hello far;  /* what the other end said */
		struct rdma_port own;
		struct rdma_pair pair;
		uint32_t mtu;           /* bytes */
		uint32_t nr_attempts;   /* serve: how many ways there are */
		uint32_t psns[RDMA_QPS_MAX];
		char why[320];
	} made;
};

struct rdma_peer {
	struct rdma_peer *prev, *next; /* rdma->peers */
	struct rdma *rdma;
	struct rdma_ep *ep;       /* NULL: dormant, or waits for room */
	struct rdma_peer *next_waiter; /* rdma->waiters of its half */
	char name[64];            /* of the segment, cut; for messages */
	char device[MC_DEVICE_NAME_MAX + 1]; /* of the other end */
	bool passive, up;
	bool dead;                /* broken or fenced: nothing is submitted any more */
	bool waiting;             /* on rdma->waiters */
	bool after_others;        /* when it began, queue pairs were on their way out: if there are none left, wait */
	uint64_t not_before_ns;   /* on rdma->waiters: its turn comes no sooner, unless nothing is dying any more */
	bool held_back;           /* passive: a hello waits until an older endpoint is destroyed */
	uint32_t nr_dying;        /* endpoints of it on rdma->dying */
	bool starved;             /* -EAGAIN since the last peer_writable */
	bool fencing;             /* host->fenced is owed, once nothing is at the device */
	bool fenced;              /* and now it is due */
	bool relaxed;             /* the target's memory is written in relaxed order */
	bool news;                /* `report` is owed to the host */
	bool reported;            /* peer_ready(0) has been called */
	int report;
	uint32_t round;           /* of the handshake: which hello an answer is for */
	uint32_t attempt;         /* the pair and MTU that are tried, see rdma_peer.c */
	uint32_t nr_attempts;     /* as the other end counts them */
	uint32_t fence_epoch;
	uint64_t deadline_ns;     /* of opening */
	struct mc_timer timer;
	struct rdma_hello hello;  /* passive: the hello that waits for room */
	uint64_t far_chunk;       /* of the target's memory regions; 0: not said */
	uint64_t scratch_addr;    /* of the other end: where probes go */
	uint32_t scratch_rkey;
	char why[320];
};

/* ---- the instance ---------------------------------------------------------------------------------------- */

struct rdma_half {
	uint32_t nr_eps;   /* that hold queue pairs, or are about to */
	uint32_t nr_dying; /* that helpers still have to destroy; the two together are bounded */
	struct rdma_ep *hand; /* of the sieve */
	struct rdma_peer *waiters; /* in the order of coming */
};

struct rdma {
	const struct mc_host *host;
	const struct rdma_flavour *flavour;
	struct rdma *lane0; /* itself in lane 0 */
	uint32_t lane, nr_lanes;
	char device[MC_DEVICE_NAME_MAX + 1];
	struct rdma_settings set;
	struct ibv_context *ctx; /* lane 0's */
	struct ibv_pd *pd;       /* lane 0's */
	struct ibv_device_attr attr;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct mc_watch cq_watch;
	bool armed;              /* the next completion makes an event */
	uint32_t nr_cq_events;   /* not acknowledged yet */
	unsigned char *scratch;  /* RDMA_SCRATCH bytes, each lane its own */
	struct ibv_mr *scratch_mr;      /* its lower half: our own */
	struct ibv_mr *scratch_peer_mr; /* its upper half: what peers are told */
	struct mc_transport_caps caps; /* as open told them */
	uint64_t max_slice;
	uint64_t peer_timeout_ns;

	/* Lane 0: rdma_port.c. */
	pthread_mutex_t port_lock; /* port, against readers in other lanes and helpers */
	struct rdma_port port;
	struct mc_watch async_watch;
	struct mc_work port_work;
	struct mc_work port_kick;  /* posted by other lanes */
	struct mc_timer port_timer;
	struct rdma_port port_new; /* of the helper, until port_work is done */
	struct mc_error port_err;  /* likewise: why port_new cannot be used */
	int port_status;
	bool port_full;            /* this look reads the GID table too, not the port's state alone */
	bool port_busy, port_again /* a full look is wanted */, port_down;
	/* rdma_gone.c; gone, nr_holding and what region_lock guards are lane 0's. */
	atomic_bool gone;              /* the device; for ever */
	_Atomic uint32_t nr_holding;   /* lanes that have not given their part back */
	pthread_mutex_t region_lock;   /* guards regions, nr_registering, lanes */
	struct rdma_region *regions;
	uint32_t nr_registering;
	_Atomic uint32_t ways_told;    /* bit per enum rdma_registration that was logged */
	struct rdma *lanes, *next_lane;
	int told;                      /* lane 0: the last event, for the other lanes; under region_lock, as all told_* */
	char told_why[256];
	bool told_posted, told_off;    /* this lane: told_work is under way; it is stopped */
	struct mc_work told_work;
	bool gone_busy, gone_over;     /* this lane: a helper is at it; it is done */
	struct ibv_cq *gone_cq;        /* the worker's no more, not destroyed yet */
	struct ibv_comp_channel *gone_channel;
	struct mc_work gone_work, gone_kick;
	struct mc_timer gone_timer;
	_Atomic uint32_t port_wanted; /* other lanes ask for a check */
	_Atomic uint32_t nr_peers;    /* of all lanes */

	/* [worker] */
	struct rdma_peer *peers;
	struct rdma_ep *eps;
	struct rdma_ep *dying;     /* buried, not destroyed yet */
	struct rdma_half half[2];  /* [0] active, [1] passive */
	struct mc_timer sieve;     /* somebody waits for room */
	struct rdma_qp *dirty;
	struct rdma_op *done, **done_tail;
	struct rdma_qp **slots;    /* by wr_id */
	uint32_t *slot_serials;
	uint32_t *free_slots;
	uint32_t nr_slots, nr_free_slots;
	uint32_t cq_free;          /* places in the completion queue for requests */
	uint32_t nr_flight;        /* slices taken and not ended */
	uint32_t nr_starved;
	uint64_t bytes_flight;
	uint64_t rate;             /* bytes per second, learned, for suspicion */
	uint64_t rate_since, rate_bytes;
	struct mc_timer suspect;
	bool stopped, news, settling;
	_Atomic uint32_t nr_mrs, nr_qps; /* shown as gauges; lane 0's nr_mrs counts for the device */
	uint64_t *g_qps, *g_mrs, *g_cq_used, *g_active, *g_passive; /* gauges; g_mrs in lane 0 only */
	uint64_t *c_sent, *c_read, *c_posted, *c_doorbells, *c_events, *c_parked, *c_broken, *c_suspect;
};

/* rdma_gone.c: giving back what a device that has gone still holds. */
void rdma_gone_open(struct rdma *rdma);  /* [helper] each lane, lane 0 first */
void rdma_gone_close(struct rdma *rdma); /* [helper] */
void rdma_gone(struct rdma *lane0);      /* [worker] of lane 0 */
int rdma_gone_enter(struct rdma *lane0); /* before registering: 0, -ENODEV.  [helper] */
void rdma_gone_leave(struct rdma *lane0, struct rdma_region *made); /* after it; NULL: it failed */
void rdma_gone_forget(struct rdma *lane0, struct rdma_region *region);
void rdma_context_close(struct rdma *lane0); /* [helper] */
void rdma_scratch_drop(struct rdma *rdma);   /* [helper] */

/* rdma_peer.c: peers, the handshake, fences. */
int rdma_peer_open(void *inst, void *peer, const struct mc_peer_args *args);
int rdma_peer_accept(void *inst, void *peer, const struct mc_peer_args *args);
void rdma_peer_msg(void *inst, void *peer, const void *msg, size_t len);
void rdma_peer_close(void *inst, void *peer);
int rdma_fence(void *inst, void *peer, uint32_t epoch);
void rdma_peer_wake(struct rdma_peer *peer);      /* a dormant one has work */
bool rdma_peer_start(struct rdma_peer *peer);     /* with an endpoint; false: no room, it waits */
void rdma_peer_serve(struct rdma_peer *peer);     /* passive: its hello, as soon as it may */
void rdma_peer_served(struct rdma_ep *ep, int status); /* after rdma_ep_serve */
void rdma_peer_park(struct rdma_peer *peer);      /* active and idle: let the endpoint go */
bool rdma_peer_lacks(struct rdma_peer *peer, int status); /* the device has no queue pair left now: again later */
void rdma_peer_requeue(struct rdma_peer *peer);   /* active, not answered: others first */
void rdma_peer_dismiss(struct rdma_peer *peer);   /* passive: ask the initiator to */
void rdma_peer_probed(struct rdma_ep *ep, int status, const char *why); /* the first requests ended */
void rdma_peer_drained(struct rdma_ep *ep);       /* ERROR, and nothing of it is at the device */

/* rdma_tell.c: what the host is told. */
/* The connection is no good any more; the host will fence it. */
void rdma_peer_broke(struct rdma_peer *peer, int status, const char *why);
void rdma_peer_report(struct rdma_peer *peer, int status, const char *why); /* for peer_ready, at the next settling */
void rdma_settle(struct rdma *rdma);

/* rdma_ep.c: queue pairs from making to destroying, the sieve. */
struct rdma_ep *rdma_ep_new(struct rdma_peer *peer, uint32_t nr_qps); /* NULL: no room or memory */
void rdma_ep_run(struct rdma_ep *ep, int (*step)(struct rdma_ep *), void (*then)(struct rdma_ep *, int));
int rdma_ep_make(struct rdma_ep *ep);    /* step: create, INIT */
int rdma_ep_join(struct rdma_ep *ep);    /* step: RTR, RTS */
int rdma_ep_serve(struct rdma_ep *ep);   /* step: choose the pair, create, INIT, RTR */
void rdma_ep_drain(struct rdma_ep *ep);  /* active: no new slices; parked once it is idle */
void rdma_ep_leave(struct rdma_ep *ep);  /* active and UP: the same, but not before it was of use */
void rdma_ep_error(struct rdma_ep *ep);  /* all into ERR; rdma_peer_drained follows, perhaps later */
bool rdma_ep_drained(const struct rdma_ep *ep);
void rdma_ep_bury(struct rdma_ep *ep);   /* forget its peer; destroyed and freed on a helper */
void rdma_ep_disown(struct rdma_peer *peer); /* it closes: those that are dying are nobody's */
bool rdma_ep_some_dying(const struct rdma *rdma);
bool rdma_ep_idle(const struct rdma_ep *ep);
void rdma_sieve(struct rdma *rdma, bool passive); /* serve who waits; make room for the others */
void rdma_eps_open(struct rdma *rdma);
void rdma_eps_close(struct rdma *rdma);  /* [helper] */

/* rdma_post.c and rdma_poll.c: the data path. */
int rdma_submit(void *inst, struct mc_slice *slice);
void rdma_flush(void *inst);
void rdma_post_probe(struct rdma_ep *ep);
void rdma_post_drop(struct rdma_qp *qp);   /* what is gathered and not posted ends */
void rdma_qp_abandon(struct rdma_qp *qp);  /* so does what was posted: the queue pair is no more */
int rdma_progress(void *inst);
int rdma_arm(void *inst);
int rdma_cancel(void *inst, struct mc_slice *slice);
void rdma_op_end(struct rdma *rdma, struct mc_slice *slice, int status, int scope);
int rdma_cq_open(struct rdma *rdma, struct mc_error *err);
void rdma_cq_close(struct rdma *rdma);
void rdma_cq_unwatch(struct rdma *rdma); /* the worker lets go of it; rdma_cq_free then.  [worker] */
void rdma_cq_free(struct rdma *rdma);    /* [helper] */
void rdma_suspect_arm(struct rdma *rdma);

/* wr_id: slot 20 bits, serial 11, marker 1, position 32. */
#define RDMA_MARKER (UINT64_C(1) << 32)
static inline uint64_t rdma_wr_id(const struct rdma_qp *qp, uint64_t pos)
{
	return (uint64_t)qp->slot << 44 | (uint64_t)(qp->serial & 0x7ff) << 33 | pos;
}

/* NULL: it has gone. */
static inline struct rdma_qp *rdma_qp_of(const struct rdma *rdma, uint64_t wr_id)
{
	uint32_t slot = (uint32_t)(wr_id >> 44);
	struct rdma_qp *qp = slot < rdma->nr_slots ? rdma->slots[slot] : NULL;

	return qp && (qp->serial & 0x7ff) == (wr_id >> 33 & 0x7ff) ? qp : NULL;
}

/* The largest slice that is no more requests than fit, whatever regions of this size it crosses at
 * both ends. */
static inline uint64_t rdma_slice_of(const struct rdma *rdma, uint64_t chunk)
{
	uint64_t most = MC_MAX(MC_MIN(rdma->set.max_wr, rdma->set.cq_depth / 2), 4u) - 3;

	return chunk / 2 < UINT64_MAX / most ? chunk / 2 * most : UINT64_MAX;
}

/* Once per turn. */
static inline void rdma_show_cq(struct rdma *rdma)
{
	if (rdma->g_cq_used)
		__atomic_store_n(rdma->g_cq_used, rdma->set.cq_depth - rdma->cq_free, __ATOMIC_RELAXED);
}

/* Reads that a queue pair of ours can serve at a time. */
static inline uint32_t rdma_reads(const struct rdma *rdma)
{
	return (uint32_t)MC_MIN(MC_MAX(rdma->attr.max_qp_rd_atom, 1), 128);
}

/* ---- a plugin's table ------------------------------------------------------------------------------------- */

int rdma_open(void *inst, const struct rdma_flavour *flavour, const struct mc_host *host,
	      const struct mc_open_args *args, struct mc_transport_caps *caps, struct mc_error *err);
void rdma_stop(void *inst);
void rdma_close(void *inst);
int rdma_peer_begin(void *inst, void *peer, const struct mc_peer_args *args);
void rdma_peer_end(void *inst, void *peer);
void rdma_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);

/* All but open, which says what the flavour is. */
#define RDMA_OPS \
	.size = sizeof(struct mc_transport_ops), \
	.instance_size = sizeof(struct rdma), \
	.peer_size = sizeof(struct rdma_peer), \
	.region_size = sizeof(struct rdma_region), \
	.remote_size = sizeof(struct rdma_remote), \
	.slice_size = sizeof(struct rdma_op), \
	.enumerate = rdma_enumerate, \
	.probe = rdma_probe, \
	.stop = rdma_stop, \
	.close = rdma_close, \
	.mem_reg = rdma_mem_reg, \
	.mem_unreg = rdma_mem_unreg, \
	.mem_export = rdma_mem_export, \
	.mem_import = rdma_mem_import, \
	.mem_release = rdma_mem_release, \
	.peer_open = rdma_peer_begin, \
	.peer_accept = rdma_peer_begin, \
	.peer_msg = rdma_peer_msg, \
	.peer_close = rdma_peer_end, \
	.submit = rdma_submit, \
	.flush = rdma_flush, \
	.progress = rdma_progress, \
	.arm = rdma_arm, \
	.cancel = rdma_cancel, \
	.fence = rdma_fence, \
	.counters = rdma_counters, \
	.mem_explain = rdma_mem_explain

#endif
