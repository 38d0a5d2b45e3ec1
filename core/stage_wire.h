/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of remote staging, over the control connection; all integers
 * little-endian.  Each begins with the head of path_wire.h, whose status says how
 * it went in GRANT and ACK, and goes on with the tag that the active side chose.
 *
 * REQUEST, 40 bytes, active to passive: a place to stage len bytes of [offset, offset + len)
 *    0  u64  tag
 *    8  u64  generation of the engine that is meant
 *   16  u64  offset
 *   24  u64  len, 1 or more
 *   32  u8   opcode: 0 READ, 1 WRITE
 *   33  u8   0, seven times
 * GRANT, 48 bytes and the blob, passive to active: the place; READ: it holds the bytes
 *    0  u64  tag
 *    8  u64  address of the place
 *   16  u64  bytes granted, 1 to len; 0 if the status says no
 *   24  u64  base of the registration that holds the place
 *   32  u64  its length
 *   40  u32  its id, the same for every place of it; top bit set
 *   44  u16  length of the blob, at most 512
 *   46  u16  0
 *   48       blob for mem_import
 * COMMIT (the bytes are in the place: copy them), RELEASE (the place is not needed any more), ABORT,
 * active to passive; ACK (the copy has ended), ABORTED (nothing will be copied any more), passive to
 * active; 8 bytes: the tag
 */
#ifndef MC_CORE_STAGE_WIRE_H
#define MC_CORE_STAGE_WIRE_H

#include <mooncake/transport.h>

#include "session.h"

enum {
	MC_MSG_STAGE_REQUEST = MC_MSG_STAGE_FIRST,
	MC_MSG_STAGE_GRANT,
	MC_MSG_STAGE_COMMIT,
	MC_MSG_STAGE_ACK,
	MC_MSG_STAGE_RELEASE,
	MC_MSG_STAGE_ABORT,
	MC_MSG_STAGE_ABORTED,
	MC_MSG_STAGE_END
};

#define MC_STAGE_REQUEST_SIZE 40
#define MC_STAGE_GRANT_SIZE 48
#define MC_STAGE_TAG_SIZE 8
#define MC_STAGE_MSG_MAX (MC_STAGE_GRANT_SIZE + MC_EXPORT_BLOB_MAX)
#define MC_STAGE_POOL_BIT 0x80000000u

/* One message without its head; what a type does not have is 0. */
struct mc_stage_msg {
	uint64_t tag, generation, offset, len;
	uint64_t addr, base, region_len;
	uint32_t pool;
	uint16_t blob_len;
	uint8_t opcode;
	const uint8_t *blob; /* borrowed */
};

/* Write the message; returns its length, at most MC_STAGE_MSG_MAX. */
size_t mc_stage_put(uint16_t type, const struct mc_stage_msg *msg, uint8_t *out);
/* Read and check one.  status is the head's: a refusing GRANT has no place.  0, -EBADMSG. */
int mc_stage_parse(uint16_t type, int status, const void *body, size_t len, struct mc_stage_msg *ret);
/* Who sends it: true, the active side. */
bool mc_stage_from_active(uint16_t type);

#endif
