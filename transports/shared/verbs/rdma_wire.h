/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two ends of an rdma connection tell each other: the handshake over the control channel,
 * and the blob that describes a registered buffer.  All numbers little-endian; docs/wire.md has the
 * layout.  Both come from strangers: decoding checks every length and range.
 */
#ifndef MC_RDMA_WIRE_H
#define MC_RDMA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDMA_WIRE_VERSION 1u
#define RDMA_QPS_MAX 16u
#define RDMA_GIDS_MAX 64u

enum rdma_gid_type { RDMA_GID_IB = 0, RDMA_GID_ROCE1 = 1, RDMA_GID_ROCE2 = 2 };

struct rdma_gid {
	uint8_t raw[16];
	uint8_t type;   /* enum rdma_gid_type */
	uint8_t prefix; /* bits of the subnet, of 128; 0: unknown */
	uint16_t index; /* in the device's table */
};

/* One end's port. */
struct rdma_port {
	uint16_t lid;
	bool infiniband; /* else Ethernet */
	uint8_t state;   /* enum ibv_port_state; not on the wire */
	uint32_t mtu;    /* bytes, 256 to 4096 */
	uint32_t nr_gids;
	struct rdma_gid gids[RDMA_GIDS_MAX];
};

/* HELLO: initiator to target, "these are my queue pairs".  ACCEPT: the answer, with the target's.
 * REFUSE: the answer, with a reason.  LEAVE: target to initiator, "let go when you can".  PARK: initiator to
 * target, "I use these queue pairs no more". */
enum rdma_msg { RDMA_MSG_HELLO = 1, RDMA_MSG_ACCEPT, RDMA_MSG_REFUSE, RDMA_MSG_LEAVE, RDMA_MSG_PARK };

struct rdma_hello {
	uint8_t msg;          /* enum rdma_msg */
	uint32_t round;       /* an answer repeats it */
	char why[192];        /* REFUSE */
	/* HELLO and ACCEPT */
	uint32_t attempt;     /* HELLO: which pair and MTU to try, see rdma_peer.c */
	uint32_t nr_attempts; /* ACCEPT: how many there are */
	uint8_t own, far;     /* ACCEPT: places in the tables of its sender and of its receiver */
	uint32_t mtu;         /* HELLO: the most; ACCEPT: the one in use.  Bytes */
	bool relaxed;         /* ACCEPT: its memory is written in relaxed order */
	uint32_t rd_atomic;   /* reads that the sender can serve (responder resources) */
	uint64_t chunk;       /* bytes of the sender's memory regions at least, where a buffer has several; 0: not said */
	uint64_t scratch;     /* address where probes may write */
	uint32_t scratch_rkey;
	uint32_t nr_qps;
	uint32_t qpns[RDMA_QPS_MAX], psns[RDMA_QPS_MAX];
	struct rdma_port port;
};

/* Returns the length; cap >= RDMA_HELLO_MAX.  */
#define RDMA_HELLO_MAX 2048u
size_t rdma_hello_encode(const struct rdma_hello *hello, void *buf, size_t cap);
/* 0 or -EPROTO */
int rdma_hello_decode(const void *buf, size_t len, struct rdma_hello *hello);

/* A buffer's keys. */
struct rdma_keys {
	uint64_t base, len, chunk;
	uint32_t nr;
	bool relaxed;
	uint32_t rkeys[96];
};
size_t rdma_keys_encode(const struct rdma_keys *keys, void *buf, size_t cap); /* 0: does not fit */
int rdma_keys_decode(const void *buf, size_t len, struct rdma_keys *keys);

#endif
