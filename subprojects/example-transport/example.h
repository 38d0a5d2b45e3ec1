/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The example transport: what its three files share.
 *
 * A connection is one Unix-domain stream socket per peer.  The initiator sends a frame per slice,
 * with the payload of a WRITE behind it; the target answers each frame, in order, with the payload
 * of a READ behind the answer.  So answers need no tags: the oldest slice that was sent is the one
 * that is answered.  The bytes go from user memory to the socket and from the socket to user
 * memory.
 *
 *   example.c         descriptor, options, devices, opening and closing
 *   example_peer.c    how two peers find each other, break and are fenced
 *   example_stream.c  slices, frames, and the bytes
 *
 * Everything here runs on the instance's worker, one call at a time ([worker] in plugin.h), but for
 * open, close and mem_reg.  So there are no locks.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <poll.h>
#include <stdbool.h>

#include <mooncake/transport.h>

enum example_frame_type { FRAME_READ = 1, FRAME_WRITE = 2, FRAME_DONE = 3 };

/* What travels.  Both ends run on one host: byte order and errnos are the host's. */
struct example_frame {
	uint32_t magic; /* EXAMPLE_MAGIC */
	uint16_t type; /* enum example_frame_type */
	uint16_t status; /* DONE: 0, or an errno (positive) */
	uint64_t generation; /* READ, WRITE: of the engine that is meant; DONE: 0 */
	uint64_t offset; /* READ, WRITE: the target's address; DONE: 0 */
	uint64_t len; /* READ, WRITE: of the range; DONE: of the payload that follows */
};
_Static_assert(sizeof(struct example_frame) == 32, "no padding on the wire");
#define EXAMPLE_MAGIC UINT32_C(0x31584d43)

/* Something to send: a frame, and bytes behind it. */
struct example_out {
	struct example_out *next;
	struct example_frame frame;
	void *bytes;
	uint64_t len;
};

struct example_queue {
	struct example_out *head, **tail;
};

/* A slice in flight, at the initiator.  It lies in slice->priv, so nothing is allocated for it. */
struct example_op {
	struct example_out out; /* first: a queue of these is a queue of outs */
	struct mc_slice *slice;
	int status;
	bool over; /* it waits in example.over to be completed */
};

/* At the target: the answer to a request, and the memory that the host holds for it. */
struct example_answer {
	struct example_out out; /* first */
	struct mc_range range;
	bool held;
};

/* The target reads on only when it has sent its answers, so there are never more of them than
 * frames in one buffer, and the one whose payload was on its way. */
#define EXAMPLE_IN 8192
#define EXAMPLE_ANSWERS (EXAMPLE_IN / sizeof(struct example_frame) + 2)

enum example_state { PEER_CONNECTING, PEER_READY, PEER_DEAD };

struct example_peer {
	struct example *example;
	struct example_peer *next; /* example.peers */
	enum example_state state;
	bool passive, starved; /* starved: a submit was answered with -EAGAIN */
	uint32_t epoch;
	uint64_t generation; /* of the engine at the other end */
	uint32_t nr_inflight;
	struct mc_watch watch; /* of the listening socket, later of the stream; fd -1: of nothing */
	struct mc_timer timer; /* connecting takes too long */
	/* out */
	struct example_queue out; /* to be sent */
	struct example_queue sent; /* initiator: slices that wait for their answers */
	uint64_t out_done; /* bytes of out.head that the socket has taken */
	/* in */
	bool in_payload; /* a frame was read; `missing` bytes of its payload are to come */
	char *place; /* where they go; NULL: they are dropped */
	uint64_t missing;
	size_t in_len;
	char in[EXAMPLE_IN]; /* what was received and not handled yet */
	/* target: a ring */
	uint32_t answer_idx; /* of the next one */
	struct example_answer answers[EXAMPLE_ANSWERS];
};

/* One instance: a lane of a device. */
struct example {
	const struct mc_host *host;
	uint64_t max_slice;
	uint32_t depth;
	bool stopped;
	struct example_peer *peers;
	struct example_queue over; /* slices that have ended, and the host does not know yet */
	uint64_t *c_slices, *c_bytes, *c_refused;
};

/* example_stream.c */
int example_submit(void *inst, struct mc_slice *slice);
void example_flush(void *inst);
int example_cancel(void *inst, struct mc_slice *slice);
void example_stream_ready(struct mc_watch *watch, uint32_t revents);
void example_queue_init(struct example_queue *q);
void example_peer_end(struct example_peer *p, int status); /* every slice of it */
void example_release(struct example_peer *p); /* what the host holds for answers */
int example_deliver(struct example *x); /* tell the host of ended slices; how many */

/* example_peer.c */
int example_peer_open(void *inst, void *peer, const struct mc_peer_args *args);
int example_peer_accept(void *inst, void *peer, const struct mc_peer_args *args);
void example_peer_msg(void *inst, void *peer, const void *msg, size_t len);
void example_peer_close(void *inst, void *peer);
int example_fence(void *inst, void *peer, uint32_t epoch);
void example_peer_shut(struct example_peer *p);
void example_peer_break(struct example_peer *p, int status, const char *what);

#endif
