/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a control connection, after the preamble.  Little-endian;
 * docs/wire.md, "Control wire", has the tables.
 *
 * Numbered frames (seq > 0) are messages: each is delivered once, in order, over
 * as many connections as it takes.  Unnumbered ones belong to one connection.
 */
#ifndef MC_CORE_SESSION_WIRE_H
#define MC_CORE_SESSION_WIRE_H

#include <mooncake/types.h>

#define MC_FRAME_HEAD 24
#define MC_FRAME_MAX 65536u /* payload */

enum mc_frame_type {
	MC_FRAME_HELLO = 1, /* first frame of each side */
	MC_FRAME_ACK = 2,   /* nothing but the head */
	MC_FRAME_PING = 3,
	MC_FRAME_PONG = 4,
	MC_FRAME_BYE = 5,   /* u16 errno code, u16 length, sentence */
	/* Numbered. */
	MC_MSG_TABLE = 0x10,
	MC_MSG_REMOVE = 0x11,
	MC_MSG_REFRESH = 0x12,
	MC_MSG_REFRESHED = 0x13,
	MC_MSG_SELF = 0x14, /* the JSON of HELLO: who the sender is from now on */
};

struct mc_frame {
	uint32_t len; /* of the payload */
	uint16_t type;
	uint64_t seq; /* 0: unnumbered */
	uint64_t ack; /* highest number received in order by the sender of the frame */
};

void mc_frame_encode(const struct mc_frame *frame, uint8_t out[MC_FRAME_HEAD]);
/* -EMSGSIZE: longer than MC_FRAME_MAX; -EBADMSG: a type that must not be numbered is, or reverse. */
int mc_frame_decode(const uint8_t head[MC_FRAME_HEAD], struct mc_frame *ret_frame);

/* Payload of HELLO. */
#define MC_HELLO_FIXED 32
#define MC_HELLO_RESUME (1u << 0) /* the session has been up: both ends must know it */
struct mc_hello_head {
	uint64_t session_id;
	uint64_t received; /* highest number received in order */
	uint32_t link;     /* counts the connections of the session; the newest wins */
	uint32_t flags;
	const char *json;  /* who I am; borrowed from the payload, not NUL-terminated */
	size_t json_len;
};
void mc_hello_head_encode(const struct mc_hello_head *head, uint8_t out[MC_HELLO_FIXED]);
int mc_hello_head_decode(const uint8_t *payload, size_t len, struct mc_hello_head *ret_head);

#define MC_BYE_WHY_MAX 300
size_t mc_bye_encode(int status, const char *why, uint8_t out[4 + MC_BYE_WHY_MAX]);
int mc_bye_decode(const uint8_t *payload, size_t len, int *ret_status, char why[MC_BYE_WHY_MAX + 1]);

#endif
