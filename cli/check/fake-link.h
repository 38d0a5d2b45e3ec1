/* SPDX-License-Identifier: Apache-2.0 */
/* The link between two instances of the fake host: messages, and descriptors that travel along. */
#ifndef MC_CHECK_FAKE_LINK_H
#define MC_CHECK_FAKE_LINK_H

#include "fake-host-impl.h"

enum msg_type { MSG_HELLO = 1, MSG_OPEN, MSG_ACCEPTED, MSG_READY, MSG_PEER, MSG_STREAM, MSG_FENCE, MSG_FENCED,
		MSG_BUFFER, MSG_UNBUFFER, MSG_SNAPSHOT, MSG_CLOSE };

/* Both ends are the same program on the same host, so plain structs travel. */
struct msg {
	uint32_t type, id, epoch;
	int32_t status;
	uint64_t token;
	int64_t fd; /* a link inside one process: the descriptor itself */
	union {
		struct {
			uint64_t generation;
			uint32_t lane;
			char engine[MC_SEGMENT_NAME_MAX + 1], device[MC_DEVICE_NAME_MAX + 1];
			uint32_t local_len; /* of the name where Unix-socket streams are dialled */
			char local[16];
		} open;
		struct {
			uint64_t base, len;
			int32_t ordinal;
			uint32_t access, blob_len;
			char kind[32];
			unsigned char blob[MC_EXPORT_BLOB_MAX];
		} buffer;
		struct {
			uint32_t len;
			unsigned char bytes[MC_PEER_MSG_MAX];
		} peer;
	};
};

struct outgoing {
	struct outgoing *next;
	struct msg m;
	int fd;
};

struct fake_link {
	struct fake_inst *inst;
	int fd, listen_fd; /* listen_fd: for Unix-socket streams from another process, or -1 */
	bool broken, local; /* local: both ends are in this process */
	uint32_t side, next_id;
	struct fake_source *source;
	struct outgoing *out, **out_tail;
	struct fake_link *other; /* same process */
	struct msg hello;        /* who is at the other end; type 0: not known yet */
	struct fake_link *next;
};

/* Takes fd.  A full link queues: the other end runs later on the same thread. */
int link_send(struct fake_link *l, const struct msg *m, int fd);
/* One message and the descriptor that came with it, or < 0. */
int link_receive(struct fake_link *l, struct msg *m, int *ret_fd);
/* Who we are, for HELLO and OPEN. */
void link_fill_open(const struct fake_inst *inst, struct msg *m);
/* A data stream of the link's instance, non-blocking: its own end, and the one to send along; that is -1
 * where the other end accepts (stream_accept).  The kernel names the processes at the ends of a Unix socket
 * by who called connect and who called listen. */
int stream_make(struct fake_link *l, int *ret_own, int *ret_far);
/* The stream that a message announced; fd is what came with it. */
int stream_accept(struct fake_link *l, int fd);
/* The other end is gone: fake-peer.c tells the peers. */
void link_lost(struct fake_link *l);

#endif
