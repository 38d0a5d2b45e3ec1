/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the tcp transport: its objects and who calls whom.
 *
 * Everything here belongs to the instance's worker; there is no lock.  Nothing of
 * the host that may call back into the plugin (complete, peer_ready, peer_writable)
 * is called while a stream is being served: ends of slices gather on tcp->done,
 * news of peers in tcp_peer, and tcp_settle() delivers them from a clean state.
 */
#ifndef MC_TCP_H
#define MC_TCP_H

#include <sys/uio.h>

#include <mooncake/transport.h>

#include "core/util/check.h"
#include "tcp_wire.h"

#define MC_TCP_STREAMS_MAX 16u
#define MC_TCP_TURN (UINT64_C(256) << 10)  /* bytes per turn while several streams are busy */
#define MC_TCP_TURN_ALONE (UINT64_C(1) << 20) /* and when only one is */
#define MC_TCP_AHEAD (UINT32_C(64) << 10)  /* read-ahead buffer */
#define MC_TCP_TXBUF (UINT32_C(32) << 10)  /* heads, entries and tiny payloads of a packet */
#define MC_TCP_TINY 512u                   /* payloads up to this are copied beside their entries */
#define MC_TCP_SMALL 1024u                 /* and up to this go through the read-ahead buffer */
#define MC_TCP_IOV 512u                    /* pieces per system call */
#define MC_TCP_ANSWERS 1024u               /* answers that a target owes a stream; a power of two */
#define MC_TCP_ACK (UINT64_C(256) << 10)   /* bytes, and */
#define MC_TCP_ACKS 16u                    /* WRITEs that are acknowledged together inside a frame */
#define MC_TCP_LEND (UINT64_C(256) << 10)  /* bytes of WRITEs in a row that are lent, not copied, when */
#define MC_TCP_LEND_MIN (UINT64_C(32) << 10) /* none of them is shorter than this */
#define MC_TCP_CHUNK (UINT64_C(256) << 10) /* a bounce buffer */
#define MC_TCP_HOT_NS UINT64_C(1000000)    /* after traffic, a stream is polled for this long */
#define MC_TCP_TURN_NS UINT64_C(20000000)  /* a turn that has lasted this long reads no more */

struct tcp_stream;
struct tcp_peer;

/* Where a slice is.  In the slice's private area. */
enum tcp_op_state {
	TCP_OP_FREE = 0,
	TCP_OP_QUEUED,  /* in its stream's queue, nothing sent: can be cancelled */
	TCP_OP_SENT,    /* its request is in a packet */
	TCP_OP_LANDING, /* the answer has begun */
	TCP_OP_DONE,    /* on tcp->done */
};

struct tcp_op {
	struct tcp_op *prev, *next; /* stream->queue or tcp->done */
	struct mc_slice *slice;
	struct tcp_peer *peer;
	struct tcp_stream *stream;
	uint64_t end; /* once SENT: the stream's bytes up to its last one, see tcp_tx.sent */
	uint32_t tag; /* its slot in the peer */
	uint32_t state;
	int32_t status; /* once DONE */
	int32_t scope;
};

/* Host memory through which memory that the CPU cannot touch is reached. */
struct tcp_bounce {
	struct tcp_bounce *next; /* tcp->bounces */
	struct mc_copy copy;
	struct tcp_stream *stream;
	uint8_t *buf;
	uint64_t fill; /* bytes in buf */
	bool busy;     /* copy is under way: buf and the memory are touched */
	int status;    /* of the last copy */
};

/* One payload on its way in. */
struct tcp_seg {
	uint8_t *dst; /* next byte's place; NULL: refused, drop */
	uint64_t left;
	struct tcp_op *op;     /* initiator */
	struct mc_range range; /* target; held while status is OK */
	uint32_t tag;
	uint32_t status; /* enum tcp_status */
	bool foreign;    /* the CPU cannot touch dst: goes through rx->bounce */
};

struct tcp_rx {
	uint8_t *buf; /* MC_TCP_AHEAD bytes; [head, tail) not parsed yet */
	uint32_t head, tail;
	uint32_t window; /* how far to read ahead behind payloads: about one head */
	uint32_t seg, nr_segs; /* payloads of the frame being received */
	uint8_t type;
	bool small;  /* the frame's payloads are better copied than read one by one */
	bool paused; /* waits for room in the rings or for a bounce buffer, not for bytes */
	struct tcp_bounce *bounce;
	struct tcp_seg segs[MC_TCP_FRAME_NR];
};

/* A READ that the target owes. */
struct tcp_read {
	uint64_t offset, generation;
	uint32_t len, tag;
};

/* What a stream sends: one packet at a time, made of whole frames. */
struct tcp_tx {
	uint8_t *buf; /* MC_TCP_TXBUF bytes */
	uint32_t fill;
	uint32_t iov_idx, nr_iov; /* [iov_idx, nr_iov) not sent yet */
	uint32_t nr_ranges;
	bool blocked; /* the socket was full */
	bool press;   /* nothing more comes for now: acknowledge what has come */
	uint64_t built, sent; /* bytes of this stream that were put in packets; that the socket took */
	uint64_t unacked; /* bytes taken since the last acknowledgement was sent */
	uint32_t ack_head, ack_tail, read_head, read_tail; /* free-running */
	/* A READ of foreign memory, whose payload goes out chunk by chunk. */
	struct {
		bool active, headed;
		struct tcp_read read;
		struct mc_range range;
		uint64_t left;
		struct tcp_bounce *bounce;
	} foreign;
	struct iovec iov[MC_TCP_IOV];
	bool lends[MC_TCP_IOV]; /* by piece: a WRITE's payload, whose pages may be lent, see tcp_lend.c */
	uint64_t piped;         /* bytes from iov[iov_idx] on that lie in tcp->pipe */
	bool lent;              /* the kernel may refer to memory of requests that have not ended */
	struct mc_range ranges[MC_TCP_FRAME_NR]; /* held until the packet is sent */
	uint32_t range_len[MC_TCP_FRAME_NR];
	struct tcp_wire_ack acks[MC_TCP_ANSWERS];
	struct tcp_read reads[MC_TCP_ANSWERS];
};

struct tcp_stream {
	struct tcp_stream *prev, *next;   /* peer->streams */
	struct tcp_stream *hot_prev, *hot_next; /* tcp->hot */
	struct tcp *tcp;
	struct tcp_peer *peer; /* NULL: closed with the peer, waits for a copy */
	struct mc_watch watch; /* fd -1: broken */
	struct tcp_op *queue;  /* slices not yet in a packet */
	uint64_t load;         /* bytes of slices queued and sent */
	uint64_t last_ns;      /* of traffic */
	uint32_t epoch;
	bool passive, hot;
	bool again; /* progress has work that no descriptor announces */
	struct tcp_rx rx;
	struct tcp_tx tx;
};

struct tcp_peer {
	struct tcp_peer *prev, *next; /* tcp->peers */
	struct tcp *tcp;
	struct tcp_stream *streams;
	uint64_t generation; /* of the engine at the other end */
	char name[64];       /* its segment's, for messages; cut if longer */
	uint32_t epoch, fenced; /* of the connection; the latest fence, if fence_seen */
	bool passive, up;
	bool starved;  /* submit has answered -EAGAIN since the last peer_writable */
	bool fence_seen;
	bool fencing;  /* host->fenced is owed, once no copy is under way */
	bool news;     /* report is owed to the host */
	int report;    /* for peer_ready */
	char why[192];
	uint32_t attached, failed; /* of the streams that the host dials */
	uint32_t redials;
	uint32_t lost; /* bit per token that failed to dial */
	struct mc_timer redial;
	/* Initiator: slots of slices in flight; a slice's tag is its slot. */
	struct tcp_op **slots;
	uint32_t *free_slots;
	uint32_t nr_free;
};

/* By way of which pages are lent to sockets.  Opened when first used; empty but for what its user has piped. */
struct tcp_pipe {
	int in, out;
	bool open;
	bool refused; /* the system gives none: bytes are copied */
	struct tcp_stream *user; /* or NULL */
};

/* The instance: one lane of one interface. */
struct tcp {
	const struct mc_host *host;
	struct tcp_peer *peers;
	struct tcp_stream *hot;     /* polled by progress */
	struct tcp_stream *orphans; /* of closed peers, until their copy has ended */
	struct tcp_op *done;
	struct tcp_bounce *bounces, *bounce_all;
	uint8_t *bounce_mem;
	uint8_t *scratch; /* refused payloads end here; MC_TCP_CHUNK bytes, never read */
	uint32_t nr_hot, nr_bounces, nr_flight;
	uint32_t streams, max_inflight;
	int sndbuf, rcvbuf;
	bool stopped, news, bounce_wanted;
	uint64_t warned_ns;
	uint64_t turn_boot_ns; /* when the last turn began, boot clock */
	struct tcp_pipe pipe;
	struct mc_watch link; /* lane 0: netlink; fd -1: none */
	int ifindex, link_event;
	uint64_t *c_sent, *c_lent, *c_received, *c_send_calls, *c_recv_calls, *c_refused, *c_broken;
};

/* tcp_peer.c: peers, slots, fences, and what the host is told. */
int tcp_peer_open(void *inst, void *peer, const struct mc_peer_args *args);
int tcp_peer_accept(void *inst, void *peer, const struct mc_peer_args *args);
void tcp_peer_attach(void *inst, void *peer, const struct mc_stream *stream);
void tcp_peer_close(void *inst, void *peer);
int tcp_submit(void *inst, struct mc_slice *slice);
int tcp_cancel(void *inst, struct mc_slice *slice);
int tcp_fence(void *inst, void *peer, uint32_t epoch);
void tcp_peer_report(struct tcp_peer *peer, int status, const char *why);
struct tcp_op *tcp_peer_op(struct tcp_peer *peer, uint32_t tag);
void tcp_op_end(struct tcp_op *op, int status, int scope);
void tcp_settle(struct tcp *tcp);
void tcp_peers_stop(struct tcp *tcp);

/* tcp_stream.c: life of a stream, hot streams, turns. */
struct tcp_stream *tcp_stream_new(struct tcp_peer *peer, const struct mc_stream *stream);
void tcp_stream_break(struct tcp_stream *st, int status, const char *why);
void tcp_stream_shut(struct tcp_stream *st);
bool tcp_stream_free(struct tcp_stream *st);
void tcp_stream_heat(struct tcp_stream *st);
void tcp_flush(void *inst);
int tcp_progress(void *inst);
bool tcp_turn_over(const struct tcp *tcp);
int tcp_arm(void *inst);
struct tcp_bounce *tcp_bounce_get(struct tcp_stream *st);
void tcp_bounce_put(struct tcp *tcp, struct tcp_bounce *b);
int tcp_bounce_copy(struct tcp_bounce *b, const struct mc_range *range, void *mem, uint64_t len,
		    bool to_host);

/* tcp_send.c and tcp_recv.c: one turn of at most `turn` bytes.  How many system calls moved
 * something; the stream may be broken afterwards. */
int tcp_send(struct tcp_stream *st, uint64_t turn);
bool tcp_send_pending(const struct tcp_stream *st);
bool tcp_send_due(const struct tcp_stream *st);
int tcp_recv(struct tcp_stream *st, uint64_t turn);
void tcp_send_drop(struct tcp_stream *st);
void tcp_recv_drop(struct tcp_stream *st);
bool tcp_answer_ack(struct tcp_stream *st, uint32_t tag, uint32_t status);

/* tcp_lend.c: payloads without a copy. */
uint64_t tcp_lend_bytes(const struct tcp_stream *st, uint32_t piece, uint64_t turn);
int64_t tcp_lend(struct tcp_stream *st, uint64_t bytes);
void tcp_lend_drop(struct tcp_stream *st);
void tcp_pipe_close(struct tcp *tcp);

/* tcp_link.c: the interface goes down, comes up, vanishes. */
void tcp_link_open(struct tcp *tcp, const char *device);
void tcp_link_stop(struct tcp *tcp);
void tcp_link_close(struct tcp *tcp);

/* tcp_device.c: network interfaces as devices. */
int tcp_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device),
		  void *ctx);
int tcp_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
	      struct mc_error *err);

#endif
