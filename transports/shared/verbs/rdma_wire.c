/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handshake's messages and the blob of a buffer's keys, to and from bytes.  A
 * message has a fixed head, its queue pairs, and its GIDs:
 *
 *   0  u8 version   1 u8 message   2 u16 lid       4 u32 round      8 u32 pages
 *  12  u32 attempt 16 u32 attempts 20 u8 own 21 u8 far 22 u8 flags  23 u8 queue pairs
 *  24  u32 mtu     28 u32 reads    32 u32 port mtu 36 u32 scratch key
 *  40  u64 scratch 48 u16 GIDs     50 u16 length of the reason
 *      pages: of 4 KiB, of a memory region where a buffer has several; 0: not said
 *      flags: 1 InfiniBand, 2 relaxed order
 *  52  queue pairs: u32 number, u32 PSN · GIDs: 16 bytes, u8 type, u8 prefix, u16 index · the reason
 *
 * Keys:   0 u8 version  1 u8 flags (1 relaxed)  2 u16 keys  4 u32 0  8 u64 base  16 u64 length
 *        24 u64 chunk  32 u32 per key
 */
#include "rdma_wire.h"

#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "core/util/check.h"

enum { HEAD = 52, QP_LEN = 8, GID_LEN = 20, KEYS_HEAD = 32 };
#define PAGE_SHIFT 12
#define KEYS_RELAXED 1u
#define FLAG_INFINIBAND 1u
#define FLAG_RELAXED 2u

static size_t put_qps(unsigned char *p, const struct rdma_hello *hello)
{
	for (uint32_t i = 0; i < hello->nr_qps; i++, p += QP_LEN) {
		mc_put32(p, hello->qpns[i]);
		mc_put32(p + 4, hello->psns[i]);
	}
	return hello->nr_qps * QP_LEN;
}

static size_t put_gids(unsigned char *p, const struct rdma_port *port)
{
	for (uint32_t i = 0; i < port->nr_gids; i++, p += GID_LEN) {
		memcpy(p, port->gids[i].raw, 16);
		p[16] = port->gids[i].type;
		p[17] = port->gids[i].prefix;
		mc_put16(p + 18, port->gids[i].index);
	}
	return port->nr_gids * GID_LEN;
}

size_t rdma_hello_encode(const struct rdma_hello *hello, void *buf, size_t cap)
{
	const struct rdma_port *port = &hello->port;
	size_t why = strnlen(hello->why, sizeof hello->why - 1), at = HEAD;
	unsigned char *p = buf;

	MC_ASSERT(cap >= RDMA_HELLO_MAX && hello->nr_qps <= RDMA_QPS_MAX && port->nr_gids <= RDMA_GIDS_MAX);
	memset(p, 0, HEAD);
	p[0] = RDMA_WIRE_VERSION;
	p[1] = hello->msg;
	mc_put16(p + 2, port->lid);
	mc_put32(p + 4, hello->round);
	mc_put32(p + 8, (uint32_t)MC_MIN(hello->chunk >> PAGE_SHIFT, (uint64_t)UINT32_MAX));
	mc_put32(p + 12, hello->attempt);
	mc_put32(p + 16, hello->nr_attempts);
	p[20] = hello->own;
	p[21] = hello->far;
	p[22] = (port->infiniband ? FLAG_INFINIBAND : 0) | (hello->relaxed ? FLAG_RELAXED : 0);
	p[23] = (unsigned char)hello->nr_qps;
	mc_put32(p + 24, hello->mtu);
	mc_put32(p + 28, hello->rd_atomic);
	mc_put32(p + 32, port->mtu);
	mc_put32(p + 36, hello->scratch_rkey);
	mc_put64(p + 40, hello->scratch);
	mc_put16(p + 48, (uint16_t)port->nr_gids);
	mc_put16(p + 50, (uint16_t)why);
	at += put_qps(p + at, hello);
	at += put_gids(p + at, port);
	memcpy(p + at, hello->why, why);
	return at + why;
}

static bool known_mtu(uint32_t mtu)
{
	return mtu >= 256 && mtu <= 4096 && !(mtu & (mtu - 1));
}

static void get_lists(const unsigned char *p, struct rdma_hello *hello)
{
	for (uint32_t i = 0; i < hello->nr_qps; i++, p += QP_LEN) {
		hello->qpns[i] = mc_get32(p) & 0xffffff;
		hello->psns[i] = mc_get32(p + 4) & 0xffffff;
	}
	for (uint32_t i = 0; i < hello->port.nr_gids; i++, p += GID_LEN) {
		struct rdma_gid *gid = &hello->port.gids[i];

		memcpy(gid->raw, p, 16);
		gid->type = p[16];
		gid->prefix = p[17];
		gid->index = mc_get16(p + 18);
	}
}

/* What a message that connects must have. */
static bool can_connect(const struct rdma_hello *hello)
{
	for (uint32_t i = 0; i < hello->port.nr_gids; i++)
		if (hello->port.gids[i].type > RDMA_GID_ROCE2 || hello->port.gids[i].prefix > 128)
			return false;
	return hello->nr_qps && hello->rd_atomic && known_mtu(hello->mtu) && known_mtu(hello->port.mtu) &&
	       (hello->port.nr_gids || hello->port.infiniband);
}

/* A sentence of a stranger goes to the log: printable ASCII only. */
static void get_why(struct rdma_hello *hello, const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hello->why[i] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
	hello->why[len] = '\0';
}

int rdma_hello_decode(const void *buf, size_t len, struct rdma_hello *hello)
{
	const unsigned char *p = buf;
	size_t why, lists;

	memset(hello, 0, sizeof *hello);
	if (len < HEAD || p[0] != RDMA_WIRE_VERSION || p[1] < RDMA_MSG_HELLO || p[1] > RDMA_MSG_PARK)
		return -EPROTO;
	hello->msg = p[1];
	hello->nr_qps = p[23];
	hello->port.nr_gids = mc_get16(p + 48);
	why = mc_get16(p + 50);
	if (hello->nr_qps > RDMA_QPS_MAX || hello->port.nr_gids > RDMA_GIDS_MAX || why >= sizeof hello->why)
		return -EPROTO;
	lists = hello->nr_qps * QP_LEN + hello->port.nr_gids * GID_LEN;
	if (len != HEAD + lists + why)
		return -EPROTO;
	hello->port.lid = mc_get16(p + 2);
	hello->round = mc_get32(p + 4);
	hello->chunk = (uint64_t)mc_get32(p + 8) << PAGE_SHIFT;
	hello->attempt = mc_get32(p + 12);
	hello->nr_attempts = mc_get32(p + 16);
	hello->own = p[20];
	hello->far = p[21];
	hello->port.infiniband = p[22] & FLAG_INFINIBAND;
	hello->relaxed = p[22] & FLAG_RELAXED;
	hello->mtu = mc_get32(p + 24);
	hello->rd_atomic = mc_get32(p + 28);
	hello->port.mtu = mc_get32(p + 32);
	hello->scratch_rkey = mc_get32(p + 36);
	hello->scratch = mc_get64(p + 40);
	get_lists(p + HEAD, hello);
	get_why(hello, p + HEAD + lists, why);
	if (hello->msg == RDMA_MSG_HELLO || hello->msg == RDMA_MSG_ACCEPT)
		return can_connect(hello) ? 0 : -EPROTO;
	return 0;
}

size_t rdma_keys_encode(const struct rdma_keys *keys, void *buf, size_t cap)
{
	unsigned char *p = buf;

	if (cap < KEYS_HEAD + 4 * (size_t)keys->nr)
		return 0;
	memset(p, 0, KEYS_HEAD);
	p[0] = RDMA_WIRE_VERSION;
	p[1] = keys->relaxed ? KEYS_RELAXED : 0;
	mc_put16(p + 2, (uint16_t)keys->nr);
	mc_put64(p + 8, keys->base);
	mc_put64(p + 16, keys->len);
	mc_put64(p + 24, keys->chunk);
	for (uint32_t i = 0; i < keys->nr; i++)
		mc_put32(p + KEYS_HEAD + 4 * i, keys->rkeys[i]);
	return KEYS_HEAD + 4 * (size_t)keys->nr;
}

int rdma_keys_decode(const void *buf, size_t len, struct rdma_keys *keys)
{
	const unsigned char *p = buf;

	if (len < KEYS_HEAD || p[0] != RDMA_WIRE_VERSION)
		return -EPROTO;
	keys->relaxed = p[1] & KEYS_RELAXED;
	keys->nr = mc_get16(p + 2);
	keys->base = mc_get64(p + 8);
	keys->len = mc_get64(p + 16);
	keys->chunk = mc_get64(p + 24);
	if (!keys->nr || keys->nr > MC_ARRAY_SIZE(keys->rkeys) || len != KEYS_HEAD + 4 * (size_t)keys->nr)
		return -EPROTO;
	/* So many chunks cover the buffer, and one less would not. */
	if (!keys->chunk || !keys->len || keys->base + keys->len < keys->base ||
	    (keys->len - 1) / keys->chunk + 1 != keys->nr)
		return -EPROTO;
	for (uint32_t i = 0; i < keys->nr; i++)
		keys->rkeys[i] = mc_get32(p + KEYS_HEAD + 4 * i);
	return 0;
}
