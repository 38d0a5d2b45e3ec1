/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data wire "tcp", version 1: what two tcp transports say to each other on a
 * stream that the core has admitted.  docs/wire.md is the same in prose.
 *
 * Little-endian, no padding but what is spelled out.  A frame is a head, `nr`
 * entries, then the payloads of the entries in their order.  The initiator sends
 * WRITE and READ frames, the target answers with ACK and DATA frames, in any order.
 */
#ifndef MC_TCP_WIRE_H
#define MC_TCP_WIRE_H

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "core/util/bytes.h"

#define MC_TCP_WIRE_VERSION 1
#define MC_TCP_MAGIC 0x5443u            /* "CT" */
#define MC_TCP_FRAME_NR 256u            /* most entries of a frame */
#define MC_TCP_LEN_MAX (UINT32_C(1) << 30) /* largest payload of an entry */

enum tcp_frame {
	TCP_FRAME_WRITE = 1, /* requests; their payloads follow */
	TCP_FRAME_READ = 2,  /* requests, no payload */
	TCP_FRAME_ACK = 3,   /* ends of WRITEs, no payload */
	TCP_FRAME_DATA = 4,  /* ends of READs; payloads of those that went well follow */
};

/* How a request ended.  Numbers of the wire, not errnos of one system. */
enum tcp_status {
	TCP_STATUS_OK = 0,
	TCP_STATUS_STALE = 1,  /* the generation is not the target's */
	TCP_STATUS_ACCESS = 2, /* the range is not registered, or without this right */
	TCP_STATUS_IO = 3,     /* the target could not read or write its memory */
	TCP_STATUS_COUNT
};

struct tcp_wire_head {
	uint16_t magic;
	uint8_t version;
	uint8_t type;        /* enum tcp_frame */
	uint16_t nr;         /* entries, 1..MC_TCP_FRAME_NR */
	uint16_t reserved;   /* 0 */
	uint64_t generation; /* WRITE, READ: of the engine that is meant; ACK, DATA: 0 */
};
static_assert(sizeof(struct tcp_wire_head) == 16, "wire");
static_assert(offsetof(struct tcp_wire_head, type) == 3, "wire");
static_assert(offsetof(struct tcp_wire_head, nr) == 4, "wire");
static_assert(offsetof(struct tcp_wire_head, generation) == 8, "wire");

/* Entry of WRITE and READ frames. */
struct tcp_wire_request {
	uint64_t offset; /* the target's address */
	uint32_t len;    /* <= MC_TCP_LEN_MAX */
	uint32_t tag;    /* comes back in the answer */
};
static_assert(sizeof(struct tcp_wire_request) == 16, "wire");
static_assert(offsetof(struct tcp_wire_request, len) == 8, "wire");
static_assert(offsetof(struct tcp_wire_request, tag) == 12, "wire");

/* Entry of ACK frames. */
struct tcp_wire_ack {
	uint32_t tag;
	uint32_t status; /* enum tcp_status */
};
static_assert(sizeof(struct tcp_wire_ack) == 8, "wire");
static_assert(offsetof(struct tcp_wire_ack, status) == 4, "wire");

/* Entry of DATA frames. */
struct tcp_wire_data {
	uint32_t tag;
	uint32_t status;   /* enum tcp_status */
	uint32_t len;      /* of the payload: what was asked for, or 0 if status is not OK */
	uint32_t reserved; /* 0 */
};
static_assert(sizeof(struct tcp_wire_data) == 16, "wire");
static_assert(offsetof(struct tcp_wire_data, len) == 8, "wire");

#define MC_TCP_HEAD_SIZE sizeof(struct tcp_wire_head)
#define MC_TCP_ENTRY_MAX 16u
/* A head with all its entries. */
#define MC_TCP_FRAME_MAX (MC_TCP_HEAD_SIZE + MC_TCP_FRAME_NR * MC_TCP_ENTRY_MAX)

static inline void tcp_head_put(uint8_t *p, enum tcp_frame type, uint32_t nr, uint64_t generation)
{
	mc_put16(p, MC_TCP_MAGIC);
	p[2] = MC_TCP_WIRE_VERSION;
	p[3] = (uint8_t)type;
	mc_put16(p + 4, (uint16_t)nr);
	mc_put16(p + 6, 0);
	mc_put64(p + 8, generation);
}

/* Check a head of MC_TCP_HEAD_SIZE bytes that came in at the target (passive) or the initiator.
 * Returns the length of its entries; or -EPROTO with the sentence. */
static inline int tcp_head_check(const uint8_t *p, int passive, const char **ret_why)
{
	uint32_t nr = mc_get16(p + 4), size;

	*ret_why = "this is no tcp frame";
	if (mc_get16(p) != MC_TCP_MAGIC || mc_get16(p + 6))
		return -EPROTO;
	*ret_why = "the frame's version is not 1";
	if (p[2] != MC_TCP_WIRE_VERSION)
		return -EPROTO;
	*ret_why = "the frame's type is not one for this end";
	switch (p[3]) {
	case TCP_FRAME_WRITE:
	case TCP_FRAME_READ:
		if (!passive)
			return -EPROTO;
		size = sizeof(struct tcp_wire_request);
		break;
	case TCP_FRAME_ACK:
	case TCP_FRAME_DATA:
		if (passive)
			return -EPROTO;
		size = p[3] == TCP_FRAME_ACK ? sizeof(struct tcp_wire_ack)
					     : sizeof(struct tcp_wire_data);
		break;
	default:
		return -EPROTO;
	}
	*ret_why = "the frame's number of entries is not within 1 and 256";
	if (!nr || nr > MC_TCP_FRAME_NR)
		return -EPROTO;
	return (int)(nr * size);
}

static inline void tcp_request_put(uint8_t *p, uint64_t offset, uint32_t len, uint32_t tag)
{
	mc_put64(p, offset);
	mc_put32(p + 8, len);
	mc_put32(p + 12, tag);
}

static inline struct tcp_wire_request tcp_request_get(const uint8_t *p)
{
	return (struct tcp_wire_request){ mc_get64(p), mc_get32(p + 8), mc_get32(p + 12) };
}

static inline void tcp_ack_put(uint8_t *p, uint32_t tag, uint32_t status)
{
	mc_put32(p, tag);
	mc_put32(p + 4, status);
}

static inline struct tcp_wire_ack tcp_ack_get(const uint8_t *p)
{
	return (struct tcp_wire_ack){ mc_get32(p), mc_get32(p + 4) };
}

static inline void tcp_data_put(uint8_t *p, uint32_t tag, uint32_t status, uint32_t len)
{
	mc_put32(p, tag);
	mc_put32(p + 4, status);
	mc_put32(p + 8, len);
	mc_put32(p + 12, 0);
}

static inline struct tcp_wire_data tcp_data_get(const uint8_t *p)
{
	return (struct tcp_wire_data){ mc_get32(p), mc_get32(p + 4), mc_get32(p + 8),
				       mc_get32(p + 12) };
}

/* What the target tells about an errno of range_get or mem_copy. */
static inline uint32_t tcp_status_of(int r)
{
	switch (r) {
	case 0:
		return TCP_STATUS_OK;
	case -ESTALE:
		return TCP_STATUS_STALE;
	case -EACCES:
		return TCP_STATUS_ACCESS;
	default:
		return TCP_STATUS_IO;
	}
}

/* And what the initiator makes of it; statuses that it does not know are -EIO. */
static inline int tcp_status_errno(uint32_t status)
{
	switch (status) {
	case TCP_STATUS_OK:
		return 0;
	case TCP_STATUS_STALE:
		return -ESTALE;
	case TCP_STATUS_ACCESS:
		return -EACCES;
	default:
		return -EIO;
	}
}

#endif
