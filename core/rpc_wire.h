/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of rpc connections, version 1; the prose is in docs/wire.md, "rpc wire".
 * All integers little-endian.  A frame is a head, the service's name (requests
 * only, name_len bytes) and len bytes of payload.
 */
#ifndef MC_CORE_RPC_WIRE_H
#define MC_CORE_RPC_WIRE_H

#include <mooncake/rpc.h>

#define MC_RPC_WIRE_VERSION 1

enum mc_rpc_frame {
	MC_RPC_REQUEST = 1,
	MC_RPC_REPLY = 2,
	MC_RPC_PING = 3, /* answered by PONG: the peer lives, though its handlers take their time */
	MC_RPC_PONG = 4,
};

/* The head as it lies on the wire. */
struct mc_rpc_wire_head {
	uint8_t version;
	uint8_t type;
	uint8_t name_len;  /* REQUEST: 1 .. 63; else 0 */
	uint8_t reserved;  /* 0 */
	uint8_t len[4];    /* of the payload, <= 1 MiB */
	uint8_t id[8];     /* REQUEST: the caller's; REPLY: that of its request; else 0 */
	uint8_t code[4];   /* REQUEST: method; REPLY: status, 0 or -errno (errno as on Linux x86) */
	uint8_t reply[4];  /* REQUEST: most bytes of reply wanted; REPLY: bytes that there were */
	uint8_t timeout[8]; /* REQUEST: ns that the caller still waits, all ones: for ever; else 0 */
};
_Static_assert(sizeof(struct mc_rpc_wire_head) == 32, "wire");
_Static_assert(offsetof(struct mc_rpc_wire_head, len) == 4, "wire");
_Static_assert(offsetof(struct mc_rpc_wire_head, id) == 8, "wire");
_Static_assert(offsetof(struct mc_rpc_wire_head, code) == 16, "wire");
_Static_assert(offsetof(struct mc_rpc_wire_head, reply) == 20, "wire");
_Static_assert(offsetof(struct mc_rpc_wire_head, timeout) == 24, "wire");

#define MC_RPC_HEAD_LEN sizeof(struct mc_rpc_wire_head)
/* Most that comes before a payload. */
#define MC_RPC_PREFIX_MAX (MC_RPC_HEAD_LEN + MC_RPC_SERVICE_NAME_MAX)

/* The same, decoded. */
struct mc_rpc_head {
	enum mc_rpc_frame type;
	uint8_t name_len;
	uint32_t len;
	uint64_t id;
	uint32_t method;   /* REQUEST */
	int32_t status;    /* REPLY: <= 0 */
	uint32_t reply_len; /* REQUEST: wanted at most; REPLY: there were */
	uint64_t timeout_ns;
};

/* Write head (MC_RPC_HEAD_LEN bytes). */
void mc_rpc_head_put(uint8_t *to, const struct mc_rpc_head *head);
/* Read and check a head of MC_RPC_HEAD_LEN bytes.  -EPROTONOSUPPORT: another version, -EPROTO:
 * not a frame; *ret_why says what is wrong. */
int mc_rpc_head_get(const uint8_t *from, struct mc_rpc_head *ret_head, const char **ret_why);

/* Is this a service name: [a-z0-9._-], 1 .. 63 bytes? */
bool mc_rpc_name_ok(const char *name, size_t len);

#endif
