/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the checksum filter as bytes.  They come from the engine at the
 * other end, which is a stranger: every length is checked before an entry is read.
 */
#include "checksum_wire.h"

#include <errno.h>
#include <string.h>

#include <mooncake/types.h>

#include "core/util/bytes.h"

uint8_t *ckw_begin(uint8_t *buf, enum ckw_type type)
{
	memset(buf, 0, CKW_HEAD);
	mc_put64(buf, CKW_MAGIC);
	buf[8] = (uint8_t)type;
	buf[9] = CKW_VERSION;
	return buf + CKW_HEAD;
}

void ckw_end(uint8_t *buf, uint16_t nr)
{
	mc_put16(buf + 10, nr);
}

void ckw_ask_put(uint8_t *p, const struct ckw_ask *ask)
{
	memset(p, 0, CKW_ASK_SIZE);
	mc_put32(p, ask->id);
	p[4] = ask->opcode;
	mc_put64(p + 8, ask->offset);
	mc_put64(p + 16, ask->len);
	mc_put64(p + 24, ask->value);
}

void ckw_answer_put(uint8_t *p, const struct ckw_answer *answer)
{
	mc_put32(p, answer->id);
	mc_put32(p + 4, (uint32_t)-answer->status);
	mc_put64(p + 8, answer->hash);
}

void ckw_narrowed_put(uint8_t *p, uint32_t id, int32_t status)
{
	mc_put32(p, id);
	mc_put32(p + 4, (uint32_t)-status);
}

void ckw_part_put(uint8_t *p, uint64_t part)
{
	mc_put64(p, part);
}

bool ckw_is_ours(const void *msg, size_t len)
{
	return len >= CKW_HEAD && mc_get64(msg) == CKW_MAGIC;
}

int ckw_parse(const void *msg, size_t len, uint16_t *ret_nr)
{
	const uint8_t *p = msg;
	size_t nr, want;

	if (!ckw_is_ours(msg, len) || len > CKW_MSG_MAX || p[9] != CKW_VERSION || mc_get32(p + 12) != 0)
		return -EPROTO;
	nr = mc_get16(p + 10);
	switch (p[8]) {
	case CKW_ASK:
		want = nr * CKW_ASK_SIZE;
		break;
	case CKW_ANSWER:
		want = nr * CKW_ANSWER_SIZE;
		break;
	case CKW_NARROW:
		want = nr == 1 ? CKW_ASK_SIZE : 0;
		break;
	case CKW_NARROWED:
		want = nr <= CKW_PARTS ? CKW_NARROWED_HEAD + nr * 8 : 0;
		break;
	default:
		return -EPROTO;
	}
	if (!want || len - CKW_HEAD != want)
		return -EPROTO;
	*ret_nr = (uint16_t)nr;
	return p[8];
}

static const uint8_t *entry(const void *msg, size_t i, size_t size)
{
	return (const uint8_t *)msg + CKW_HEAD + i * size;
}

int ckw_ask_get(const void *msg, uint16_t i, struct ckw_ask *ret)
{
	const uint8_t *p = entry(msg, i, CKW_ASK_SIZE);

	*ret = (struct ckw_ask){.id = mc_get32(p), .opcode = p[4], .offset = mc_get64(p + 8),
				.len = mc_get64(p + 16), .value = mc_get64(p + 24)};
	if (ret->opcode >= MC_OP_COUNT || p[5] || p[6] || p[7] || ret->offset + ret->len < ret->offset)
		return -EPROTO;
	return 0;
}

/* An errno that a person would know; others say only that it failed. */
static int32_t status_of(uint32_t wire)
{
	return wire == 0 ? 0 : wire < 4096 ? -(int32_t)wire : -EPROTO;
}

void ckw_answer_get(const void *msg, uint16_t i, struct ckw_answer *ret)
{
	const uint8_t *p = entry(msg, i, CKW_ANSWER_SIZE);

	*ret = (struct ckw_answer){.id = mc_get32(p), .status = status_of(mc_get32(p + 4)), .hash = mc_get64(p + 8)};
}

void ckw_narrowed_get(const void *msg, struct ckw_answer *ret)
{
	const uint8_t *p = entry(msg, 0, 0);

	*ret = (struct ckw_answer){.id = mc_get32(p), .status = status_of(mc_get32(p + 4))};
}

uint64_t ckw_narrowed_part(const void *msg, uint16_t i)
{
	return mc_get64(entry(msg, i, 8) + CKW_NARROWED_HEAD);
}
