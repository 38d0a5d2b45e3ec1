/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: messages and blobs to bytes and back, and the two texts of /proc that say who a
 * process is.  What comes in is a stranger's: it is taken whole or refused.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "core/util/bytes.h"
#include "shm_wire.h"

#define MAGIC UINT32_C(0x4d48534d) /* "MSHM" */
#define ERRNO_MAX 4095u
#define STAT_FIELDS 19 /* from the one after the name to the start time: fields 3 to 22 */

/* Offsets in a message.  0: magic, u32; 4: version, u16; 6: type, u16; 8: the rest. */
enum {
	HELLO_PID = 8, HELLO_SLOT = 12, HELLO_BOOT = 16, HELLO_NS = 32, HELLO_START = 40,
	HELLO_ADDR = 48, HELLO_PROBE = 56, HELLO_KEY = 72, HELLO_END = 80,
	WANT_COOKIE = 8, WANT_KEY = 16, WANT_SLOT = 24, WANT_END = 28,
	GIVE_COOKIE = 8, GIVE_OFFSET = 16, GIVE_LEN = 24, GIVE_STATUS = 32, GIVE_END = 36,
};

static void encode_hello(const struct shm_hello *h, uint8_t *buf)
{
	mc_put32(buf + HELLO_PID, h->pid);
	mc_put32(buf + HELLO_SLOT, h->slot);
	memcpy(buf + HELLO_BOOT, h->boot, sizeof h->boot);
	mc_put64(buf + HELLO_NS, h->pid_ns);
	mc_put64(buf + HELLO_START, h->start);
	mc_put64(buf + HELLO_ADDR, h->probe_addr);
	memcpy(buf + HELLO_PROBE, h->probe, sizeof h->probe);
	mc_put64(buf + HELLO_KEY, h->key);
}

void shm_msg_encode(const struct shm_msg *m, uint8_t buf[SHM_MSG_SIZE])
{
	memset(buf, 0, SHM_MSG_SIZE);
	mc_put32(buf, MAGIC);
	mc_put16(buf + 4, SHM_WIRE_VERSION);
	mc_put16(buf + 6, (uint16_t)m->type);
	switch (m->type) {
	case SHM_HELLO:
		encode_hello(&m->hello, buf);
		break;
	case SHM_WANT:
		mc_put64(buf + WANT_COOKIE, m->want.cookie);
		mc_put64(buf + WANT_KEY, m->want.key);
		mc_put32(buf + WANT_SLOT, m->want.slot);
		break;
	case SHM_GIVE:
		mc_put64(buf + GIVE_COOKIE, m->give.cookie);
		mc_put64(buf + GIVE_OFFSET, m->give.offset);
		mc_put64(buf + GIVE_LEN, m->give.len);
		mc_put32(buf + GIVE_STATUS, (uint32_t)-m->give.status);
		break;
	}
}

static int decode_hello(const uint8_t *buf, struct shm_hello *h)
{
	h->pid = mc_get32(buf + HELLO_PID);
	h->slot = mc_get32(buf + HELLO_SLOT);
	memcpy(h->boot, buf + HELLO_BOOT, sizeof h->boot);
	h->pid_ns = mc_get64(buf + HELLO_NS);
	h->start = mc_get64(buf + HELLO_START);
	h->probe_addr = mc_get64(buf + HELLO_ADDR);
	memcpy(h->probe, buf + HELLO_PROBE, sizeof h->probe);
	h->key = mc_get64(buf + HELLO_KEY);
	return h->pid && h->pid <= INT32_MAX && h->slot < SHM_SLOTS ? 0 : -EPROTO;
}

static int decode_want(const uint8_t *buf, struct shm_want *w)
{
	w->cookie = mc_get64(buf + WANT_COOKIE);
	w->key = mc_get64(buf + WANT_KEY);
	w->slot = mc_get32(buf + WANT_SLOT);
	return w->slot < SHM_SLOTS && w->key ? 0 : -EPROTO;
}

static int decode_give(const uint8_t *buf, struct shm_give *g)
{
	uint32_t status = mc_get32(buf + GIVE_STATUS);

	g->cookie = mc_get64(buf + GIVE_COOKIE);
	g->offset = mc_get64(buf + GIVE_OFFSET);
	g->len = mc_get64(buf + GIVE_LEN);
	g->status = -(int32_t)(status & ERRNO_MAX);
	if (status > ERRNO_MAX || g->offset > INT64_MAX || g->len > INT64_MAX - g->offset)
		return -EPROTO;
	return 0;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

int shm_msg_decode(const uint8_t buf[SHM_MSG_SIZE], struct shm_msg *m)
{
	size_t end;
	int r;

	memset(m, 0, sizeof *m);
	if (mc_get32(buf) != MAGIC || mc_get16(buf + 4) != SHM_WIRE_VERSION)
		return -EPROTO;
	m->type = mc_get16(buf + 6);
	switch (m->type) {
	case SHM_HELLO:
		r = decode_hello(buf, &m->hello);
		end = HELLO_END;
		break;
	case SHM_WANT:
		r = decode_want(buf, &m->want);
		end = WANT_END;
		break;
	case SHM_GIVE:
		r = decode_give(buf, &m->give);
		end = GIVE_END;
		break;
	default:
		return -EPROTO;
	}
	return r == 0 && is_zero(buf + end, SHM_MSG_SIZE - end) ? 0 : -EPROTO;
}

/* 0: version; 1: flags; 2: zero, u16; 4: slot, u32; 8: key, u64. */
void shm_blob_encode(const struct shm_blob *b, uint8_t buf[SHM_BLOB_SIZE])
{
	buf[0] = SHM_WIRE_VERSION;
	buf[1] = (uint8_t)b->flags;
	mc_put16(buf + 2, 0);
	mc_put32(buf + 4, b->slot);
	mc_put64(buf + 8, b->key);
}

int shm_blob_decode(const void *blob, size_t len, struct shm_blob *b)
{
	const uint8_t *p = blob;

	if (!p || len != SHM_BLOB_SIZE || p[0] != SHM_WIRE_VERSION || mc_get16(p + 2))
		return -EPROTO;
	*b = (struct shm_blob){.slot = mc_get32(p + 4), .key = mc_get64(p + 8), .flags = p[1]};
	return b->slot < SHM_SLOTS && b->key && !(b->flags & ~SHM_BLOB_MAPPED) ? 0 : -EPROTO;
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int shm_uuid_parse(const char *text, uint8_t ret_uuid[16])
{
	uint8_t uuid[16];
	size_t nr = 0;

	while (nr < 32) {
		int n;

		if (*text == '-' && nr >= 8 && nr <= 20 && nr % 4 == 0)
			text++;
		n = nibble(*text++);
		if (n < 0)
			return -EINVAL;
		uuid[nr / 2] = (uint8_t)(nr % 2 ? uuid[nr / 2] << 4 | n : n);
		nr++;
	}
	if (*text && *text != '\n')
		return -EINVAL;
	memcpy(ret_uuid, uuid, sizeof uuid);
	return 0;
}

/* "pid (name) state ppid ...": the name may hold anything, ") " included, so the last one counts. */
int shm_stat_parse(const char *text, uint64_t *ret_start)
{
	const char *p = strrchr(text, ')');
	uint64_t start = 0;

	if (!p)
		return -EINVAL;
	for (int i = 0; i <= STAT_FIELDS; i++) {
		p = strchr(p + 1, ' ');
		if (!p)
			return -EINVAL;
	}
	p++;
	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (start > (UINT64_MAX - 9) / 10)
			return -EINVAL;
		start = start * 10 + (uint64_t)(*p - '0');
	}
	*ret_start = start;
	return 0;
}
