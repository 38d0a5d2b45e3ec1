/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a transport plugin implements.  Tags as in plugin.h.
 *
 * Life of the objects, all in zeroed areas that the host allocates:
 *   instance  one per lane of a device     open .. stop .. close
 *   region    one per registered buffer    mem_reg .. mem_unreg   (lane 0 registers; every lane uses it)
 *   peer      one per (lane, remote device) and direction: the initiator's by peer_open, the
 *             target's by peer_accept .. peer_close
 *   remote    one per (peer, remote buffer) mem_import .. mem_release
 *   slice     one per operation in flight   submit .. complete
 *
 * A rail is initiator-driven: only the engine that opened the peer submits slices on it, the
 * passive object serves them.  Each (re)connection of a peer is an epoch; `fence` ends epochs.
 */
#ifndef MOONCAKE_TRANSPORT_H
#define MOONCAKE_TRANSPORT_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- capabilities ------------------------------------------------------------------------ */

#define MC_CAP_READ (1u << 0)         /* carries reads */
#define MC_CAP_WRITE (1u << 1)        /* carries writes */
#define MC_CAP_AGENT (1u << 2)        /* needs code running at the target for each request */
#define MC_CAP_CPU_COPY (1u << 3)     /* moves bytes with the calling CPU */
#define MC_CAP_OWN_THREAD (1u << 4)   /* calls only from the worker's own thread, never a lent baton */
#define MC_CAP_SYNC (1u << 5)         /* submit always answers MC_DONE or an error: nothing to fence */
#define MC_CAP_SPIN (1u << 6)         /* progress finds work that no descriptor announces at once */
#define MC_CAP_TRUST (1u << 7)        /* ranges are not enforced against a hostile peer (P4): shm, cxl */
/* ABI 1.5: reaches only devices whose mc_device_info.subnet is not empty and equal to its own; the
 * host makes no rail to others, nor a warning of it.  An older host makes rails to all of them. */
#define MC_CAP_SAME_SUBNET (1u << 8)
/* ABI 1.5: caps.streams, and what stream_dial asks for, are Unix stream sockets (SOCK_STREAM, same
 * host), so that descriptors may travel by SCM_RIGHTS and SO_PEERCRED tells who is there.  Where the
 * two engines have no such socket in common the dial fails (peer_attach with fd < 0).  An older host
 * dials TCP: look at the socket's family. */
#define MC_CAP_LOCAL_STREAMS (1u << 9)
#define MC_CAP_MUST_REG (1u << 10)    /* memory that it cannot register is refused, not left to other devices */

/* What proves that an attempt is dead, so that a retry may start (P2). */
enum mc_fence_class {
	MC_FENCE_LOCAL = 1, /* the initiator's fence alone */
	MC_FENCE_BOTH = 2,  /* fence at both ends, the target's answer over the control channel */
};

/* When the bytes of a completed WRITE are visible at the target (P3). */
enum mc_visibility {
	MC_VISIBLE_AT_COMPLETION = 1,
	MC_VISIBLE_AFTER_FLUSH = 2, /* after a slice with MC_SLICE_FLUSH, which the core adds per batch */
};

struct mc_transport_caps {
	size_t size;
	uint32_t flags; /* MC_CAP_* */
	uint32_t fence;      /* enum mc_fence_class */
	uint32_t visibility; /* enum mc_visibility */
	uint32_t alignment;  /* of both addresses and the length, a power of two; 0 or 1: none */
	const char *const *local_kinds;  /* memory kinds that slices may name here; ends with NULL */
	const char *const *remote_kinds; /* and there */
	uint64_t max_slice;  /* largest slice, bytes */
	uint64_t pref_slice; /* the size into which large requests are best cut; 0: max_slice */
	uint64_t max_inline; /* writes up to this cost no extra; 0: no difference */
	uint64_t max_reg;    /* largest registration; 0: no limit */
	uint64_t bandwidth;  /* nominal, bytes per second; the scheduler learns the real one */
	uint64_t latency_ns; /* nominal, one small operation */
	uint32_t max_inflight; /* slices per peer; 0: the host's own limit */
	uint32_t streams;      /* data streams that the host dials for a new peer; 0: none */
};

/* What enumerate and probe say about a device.  size is set by the host. */
enum mc_device_state { MC_STATE_UNKNOWN = 0, MC_STATE_ACTIVE = 1, MC_STATE_DOWN = 2, MC_STATE_MISSING = 3 };
struct mc_device_info {
	size_t size;
	char name[MC_DEVICE_NAME_MAX + 1];
	int32_t numa_node;   /* -1: unknown */
	uint32_t state;      /* enum mc_device_state */
	char pci[16];        /* "0000:3b:00.0", or empty */
	uint64_t speed;      /* bytes per second; 0: unknown */
	char address[64];    /* what a person would call it by: IP address, GID, path */
	char subnet[64];     /* devices of equal subnets reach each other: "192.0.2.0/24"; empty: any */
	char remedy[256];    /* state != ACTIVE: the sentence that says what to do */
	/* ABI 1.5: of memory that the device itself owns, a pool. */
	uint64_t capacity;   /* bytes; 0: it owns none */
	char detail[128];    /* what it is made of, for people: "aligned to 2048 KiB, region0 of mem0" */
};

/* ---- objects ------------------------------------------------------------------------------- */

/* One operation.  The host fills it, the plugin only reads it; priv is the plugin's. */
/* A read that makes this peer's earlier writes visible.  len may be 0; region, local, remote and
 * remote_offset are then those of one of these writes, so that a wire which needs keys has them. */
#define MC_SLICE_FLUSH (1u << 0)
#define MC_SLICE_MORE (1u << 1)   /* another slice for this peer follows before flush */
#define MC_SLICE_SOLE (1u << 2)   /* ABI 1.5: a write is the only writer of the cache lines that it cuts */
struct mc_slice {
	uint32_t size;    /* sizeof(struct mc_slice) of the host */
	uint8_t opcode;   /* enum mc_opcode */
	uint8_t flags;    /* MC_SLICE_* */
	uint16_t reserved;
	uint32_t epoch;   /* of the peer when it was submitted */
	uint32_t reserved2;
	uint64_t len;
	void *local;           /* local address */
	void *region;          /* area of the local registration (lane 0's) */
	uint64_t remote_offset; /* the owner's address */
	void *remote;          /* area of the remote buffer */
	void *peer;            /* area of the peer */
	uint64_t deadline_ns;  /* advisory; the host cancels */
	void *priv;            /* slice_size bytes, zeroed before the first use only */
	const char *local_kind; /* kind and ordinal of local memory */
	int32_t local_ordinal;
	uint32_t reserved3;
	void *host;            /* host's */
};

/* What peer_open and peer_accept are told. */
struct mc_peer_args {
	size_t size;
	const char *segment;       /* the peer's name */
	uint64_t generation;       /* of the peer engine */
	const char *remote_device; /* the device at the other end */
	const char *remote_kinds;  /* space-separated memory kinds of the peer's buffers so far */
	const char *const *addresses; /* of the peer engine, best first; ends with NULL */
	uint32_t wire_version;     /* the highest that both speak */
	uint32_t epoch;            /* of this connection */
	uint32_t remote_lane;      /* the lane of the device at the other end */
	uint32_t passive;          /* 1 in peer_accept */
	uint64_t deadline_ns;
	/* ABI 1.3: filters over the remote device, with spaces between; NULL in peer_accept. */
	const char *remote_filters;
};

/* A stream that the core has dialled or accepted, and admitted. */
struct mc_stream {
	size_t size;
	/* Non-blocking, TCP_NODELAY (MC_CAP_LOCAL_STREAMS: a Unix socket); the plugin owns it now.
	 * < 0: -errno of a failed dial. */
	int fd;
	uint32_t passive;   /* 1: accepted */
	uint64_t token;     /* of stream_dial; host-dialled ones count 0, 1, 2, ... */
	uint32_t epoch;
	uint32_t reserved;
	const char *why;    /* fd < 0: the sentence */
};

/* A buffer of the peer, for mem_import. */
struct mc_remote_buffer {
	size_t size;
	uint64_t base, len; /* the owner's address and length */
	const char *kind;
	int32_t ordinal;
	uint32_t access;
	const void *blob; /* what the owner's mem_export gave for the remote device; may be NULL */
	size_t blob_len;
};

#define MC_EXPORT_BLOB_MAX 512
#define MC_PEER_MSG_MAX 4096

/* What mem_sync does with the owner's caches. */
enum mc_sync {
	MC_SYNC_PUBLISH = 1, /* what we wrote is in the memory, for others to read */
	MC_SYNC_REFRESH = 2, /* what we read next is what is in the memory: others have written */
};

/* ---- operations ------------------------------------------------------------------------------
 * Return 0 or -errno unless said otherwise.  NULL means -ENOTSUP (or nothing to do, for calls
 * without a result).  Required: open, close, submit, progress, peer_open, peer_close.
 * docs/plugin-abi.md lists each operation's allowed errors. */

struct mc_transport_ops {
	size_t size;
	size_t instance_size, peer_size, region_size, remote_size, slice_size; /* private areas */

	/* Name every device of this transport on the host.  Opens none.  found returns 0 to go on.
	 * [helper] */
	int (*enumerate)(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx);
	/* Describe one device, with the remedy if it cannot be used.  [helper] */
	int (*probe)(const struct mc_host *host, const char *device, struct mc_device_info *info,
		     struct mc_error *err);

	/* Open one lane of a device; caps (zeroed, size set) says what it can do.  On error nothing
	 * is left to close.  [helper] */
	int (*open)(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *err);
	/* New values of reloadable options; all or nothing.  [worker] */
	int (*reconfigure)(void *inst, const struct mc_value *options, struct mc_error *err);
	/* Take no new work, never block; leftovers complete with -ECANCELED through progress until
	 * it returns 0 with nothing in flight.  [worker] */
	void (*stop)(void *inst);
	/* Free everything; nothing is in flight.  Never fails.  [helper] */
	void (*close)(void *inst);

	/* Memory that the device itself owns (a CXL pool): allocate and register in one step.
	 * region is as in mem_reg.  [helper] on lane 0 */
	int (*mem_alloc)(void *inst, void *region, struct mc_mem_desc *desc, struct mc_error *err);
	void (*mem_free)(void *inst, void *region, struct mc_mem_desc *desc);
	/* Make local memory usable by slices and, by its access rights, by peers.  [helper] on lane 0 */
	int (*mem_reg)(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err);
	void (*mem_unreg)(void *inst, void *region);
	/* Write what peers need to reach the region into blob (cap >= MC_EXPORT_BLOB_MAX); returns
	 * its length.  [helper] on lane 0 */
	int (*mem_export)(void *inst, void *region, void *blob, size_t cap);
	/* Prepare access to a peer's buffer, not before peer_ready(0).  0, or -EINPROGRESS and later
	 * host->imported, unless mem_release came first.  Other errors: slices never name it.
	 * [worker] */
	int (*mem_import)(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf);
	void (*mem_release)(void *inst, void *remote);

	/* Begin to connect; the answer is host->peer_ready, now or later, by args->deadline_ns.
	 * [worker] */
	int (*peer_open)(void *inst, void *peer, const struct mc_peer_args *args);
	/* A peer opened us; serve it.  The answer is host->peer_ready too.  [worker] */
	int (*peer_accept)(void *inst, void *peer, const struct mc_peer_args *args);
	/* A handshake message of the object at the other end; borrowed.  [worker] */
	void (*peer_msg)(void *inst, void *peer, const void *msg, size_t len);
	/* An admitted stream, or the failure of one.  [worker] */
	void (*peer_attach)(void *inst, void *peer, const struct mc_stream *stream);
	/* Forget the peer.  Nothing is in flight (the host fenced it first); from the return on the
	 * peer's area is not touched and nothing arrives for it.  Does not block.  [worker] */
	void (*peer_close)(void *inst, void *peer);

	/* Take one slice: 0 (exactly one completion later), MC_DONE (finished, no completion),
	 * -EAGAIN (not taken; host->peer_writable when there is room), other < 0 (not taken).
	 * May hold the slice until flush.  [worker] */
	int (*submit)(void *inst, struct mc_slice *slice);
	/* Send what submit gathered.  [worker] */
	void (*flush)(void *inst);
	/* Look for completions and traffic without waiting; returns how many events it handled,
	 * 0 if nothing happened.  [worker] */
	int (*progress)(void *inst);
	/* About to sleep: 0 = descriptors will announce the next event, -EBUSY = call progress
	 * first.  [worker] */
	int (*arm)(void *inst);
	/* Give up a slice that was taken: 0 (it will complete soon, whatever its status), or
	 * -EALREADY (it is on the wire: only fence ends it).  Never completes from inside.  [worker] */
	int (*cancel)(void *inst, struct mc_slice *slice);
	/* End every epoch <= epoch of this peer at this end: take no more bytes, touch no memory.
	 * Slices of these epochs complete with -ECONNRESET and MC_SCOPE_PEER, then host->fenced;
	 * both may happen inside this call.  The peer stays open: the host attaches streams of a
	 * later epoch to it (transports with streams only), or closes it and opens it anew.
	 * [worker] */
	int (*fence)(void *inst, void *peer, uint32_t epoch);

	/* Report gauges that the counters of host->counter do not hold.  [worker] */
	void (*counters)(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);

	/* ABI 1.5: bring our own caches and a part of memory that mem_alloc gave together; how is an enum
	 * mc_sync.  Whole cache lines, those that the range cuts included.  NULL: the memory is
	 * coherent, there is nothing to do.  [any] */
	int (*mem_sync)(void *inst, void *region, void *addr, uint64_t len, uint32_t how);
	/* ABI 1.5. */
	/* In a few words, how the region is reached, where there are several ways and why this one was
	 * taken; for people.  An empty text: nothing to say.  [any] */
	void (*mem_explain)(void *inst, const void *region, char *text, size_t cap);
};

/* ---- filters ---------------------------------------------------------------------------------
 * A filter sits over one transport instance.  The host stacks it: private areas lie behind one
 * another, and every operation that the filter leaves NULL goes straight to the transport.  A
 * filter calls down through `next`, whose functions take the filter's own objects.  Its options are
 * those of its opening: `reconfigure` is the transport's alone.  `peer` is the transport's area, the
 * one that slices and host services name; the filter's own of that peer is next->peer_priv. */

struct mc_filter_next {
	size_t size;
	const char *transport; /* name of the plugin below */
	int (*submit)(const struct mc_filter_next *next, struct mc_slice *slice);
	void (*flush)(const struct mc_filter_next *next);
	int (*progress)(const struct mc_filter_next *next);
	int (*arm)(const struct mc_filter_next *next);
	int (*cancel)(const struct mc_filter_next *next, struct mc_slice *slice);
	int (*fence)(const struct mc_filter_next *next, void *peer, uint32_t epoch);
	/* Report upwards that a slice ended: what `completed` was given, or something else. */
	void (*complete)(const struct mc_filter_next *next, struct mc_slice *slice, int status,
			 int scope, uint64_t done_len);
	void *host; /* host's */
	/* ABI 1.1: the filter's area of a peer, peer_size bytes; zeroed before peer_open. */
	void *(*peer_priv)(const struct mc_filter_next *next, void *peer);
};

struct mc_filter_ops {
	size_t size;
	size_t instance_size, slice_size; /* private areas; slice->priv is the filter's in its calls */
	int (*open)(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    const struct mc_filter_next *next, struct mc_transport_caps *caps,
		    struct mc_error *err);           /* after the transport below was opened */
	void (*close)(void *inst);                       /* before it is closed */
	int (*submit)(void *inst, struct mc_slice *slice);
	void (*flush)(void *inst);
	int (*progress)(void *inst);
	int (*arm)(void *inst);
	int (*cancel)(void *inst, struct mc_slice *slice);
	int (*fence)(void *inst, void *peer, uint32_t epoch);
	/* The transport below ended a slice; pass it on by next->complete, now or later. */
	void (*completed)(void *inst, struct mc_slice *slice, int status, int scope, uint64_t done_len);
	/* A stream is about to be attached; may change stream->fd.  */
	void (*attach)(void *inst, void *peer, struct mc_stream *stream);
	/* Before the transport's stop: slices that the filter holds complete with -ECANCELED
	 * through progress.  [worker] */
	void (*stop)(void *inst);

	/* ABI 1.1. */
	size_t peer_size; /* private area of a peer; 0: none */
	/* A peer is about to be opened, or accepted (args->passive).  < 0: it is not.  [worker] */
	int (*peer_open)(void *inst, void *peer, const struct mc_peer_args *args);
	/* It has been closed, or the transport would not have it.  [worker] */
	void (*peer_close)(void *inst, void *peer);
	/* A message of host->peer_send at the other end: 1 = it was the filter's, 0 = the
	 * transport gets it.  A filter's own messages begin with something that tells them from
	 * the transport's.  [worker] */
	int (*peer_msg)(void *inst, void *peer, const void *msg, size_t len);
};

#ifdef __cplusplus
}
#endif
#endif
