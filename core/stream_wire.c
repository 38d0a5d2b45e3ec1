/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding and decoding of the preamble and its answer.  Foreign bytes: every
 * length is checked before it is used, reserved fields are ignored on reading.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "stream_wire.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

/* preamble                             answer
 *  0 u64 magic                          0 u64 magic
 *  8 u16 version_min                    8 u16 version
 * 10 u16 version_max                   10 u16 length
 * 12 u16 length                        12 u8  step
 * 14 u8  kind                          13 u8  0
 * 15 u8  name_len                      14 u16 status
 * 16 u64 session_id                    16 u64 generation
 * 24 u64 from_generation               24 u16 why_len
 * 32 u64 to_generation                 26 u8[6] 0
 * 40 u64 token                         32 why
 * 48 u32 rail_id
 * 52 u32 lane
 * 56 u32 epoch
 * 60 u32 admission schemes offered, 0: none
 * 64 name
 */
static_assert(MC_PREAMBLE_FIXED + MC_SEGMENT_NAME_MAX <= MC_PREAMBLE_MAX, "preamble");
static_assert(MC_ANSWER_FIXED + MC_ANSWER_WHY_MAX <= MC_ANSWER_MAX, "answer");

enum mc_speaker mc_stream_sniff(const uint8_t first[8])
{
	/* Who may share the port.  Length-prefixed frames of others stay below 2^56 here. */
	static const struct {
		uint64_t magic, mask;
		enum mc_speaker speaker;
	} table[] = {
		{MC_PREAMBLE_MAGIC, UINT64_MAX, MC_SPEAKER_MOONCAKE},
		/* Methods of HTTP with the space behind them; no request is shorter than 8 bytes. */
		{UINT64_C(0x20544547), UINT32_MAX, MC_SPEAKER_HTTP},                    /* GET */
		{UINT64_C(0x2044414548), (UINT64_C(1) << 40) - 1, MC_SPEAKER_HTTP},     /* HEAD */
		{UINT64_C(0x2054534f50), (UINT64_C(1) << 40) - 1, MC_SPEAKER_HTTP},     /* POST */
		{UINT64_C(0x20545550), UINT32_MAX, MC_SPEAKER_HTTP},                    /* PUT */
		{UINT64_C(0x204554454c4544), (UINT64_C(1) << 56) - 1, MC_SPEAKER_HTTP}, /* DELETE */
		{UINT64_C(0x20534e4f4954504f), UINT64_MAX, MC_SPEAKER_HTTP},            /* OPTIONS */
		{UINT64_C(0x204843544150), (UINT64_C(1) << 48) - 1, MC_SPEAKER_HTTP},   /* PATCH */
		{UINT64_C(0x204543415254), (UINT64_C(1) << 48) - 1, MC_SPEAKER_HTTP},   /* TRACE */
		{UINT64_C(0x205443454e4e4f43), UINT64_MAX, MC_SPEAKER_HTTP},            /* CONNECT */
	};
	uint64_t word = mc_get64(first);

	for (size_t i = 0; i < MC_ARRAY_SIZE(table); i++) {
		if ((word & table[i].mask) == table[i].magic)
			return table[i].speaker;
	}
	return MC_SPEAKER_UNKNOWN;
}

static const struct {
	uint16_t code;
	int err;
} errnos[] = {
	{1, EIO},          {2, ESTALE},       {3, ENOENT},     {4, ECONNREFUSED}, {5, EACCES},
	{6, EPROTONOSUPPORT}, {7, ENOMEM},    {8, ENOBUFS},    {9, EBUSY},        {10, EINVAL},
	{11, ECANCELED},   {12, EHOSTDOWN},   {13, EPROTO},    {14, ETIMEDOUT},   {15, ENODEV},
	{16, EEXIST},      {17, ENOTCONN},    {18, EMFILE},    {19, EMSGSIZE},    {20, ENOTSUP},
	{21, ENOSPC},      {22, ENETDOWN},    {23, ESHUTDOWN}, {24, EPERM},       {25, ECONNRESET},
};

uint16_t mc_wire_of_errno(int err)
{
	if (err == 0)
		return 0;
	for (size_t i = 0; i < MC_ARRAY_SIZE(errnos); i++) {
		if (errnos[i].err == (err < 0 ? -err : err))
			return errnos[i].code;
	}
	return 1;
}

int mc_errno_of_wire(uint16_t code)
{
	if (code == 0)
		return 0;
	for (size_t i = 0; i < MC_ARRAY_SIZE(errnos); i++) {
		if (errnos[i].code == code)
			return -errnos[i].err;
	}
	return -EIO;
}

size_t mc_preamble_encode(const struct mc_stream_hello *hello, uint8_t out[MC_PREAMBLE_MAX])
{
	size_t name_len = strlen(hello->from), len = MC_PREAMBLE_FIXED + name_len;

	memset(out, 0, MC_PREAMBLE_FIXED);
	mc_put64(out, MC_PREAMBLE_MAGIC);
	mc_put16(out + 8, MC_STREAM_VERSION_MIN);
	mc_put16(out + 10, MC_STREAM_VERSION_MAX);
	mc_put16(out + 12, (uint16_t)len);
	out[14] = (uint8_t)hello->kind;
	out[15] = (uint8_t)name_len;
	mc_put64(out + 16, hello->session_id);
	mc_put64(out + 24, hello->from_generation);
	mc_put64(out + 32, hello->to_generation);
	mc_put64(out + 40, hello->token);
	mc_put32(out + 48, hello->rail_id);
	mc_put32(out + 52, hello->lane);
	mc_put32(out + 56, hello->epoch);
	mc_put32(out + 60, hello->admission);
	memcpy(out + MC_PREAMBLE_FIXED, hello->from, name_len);
	return len;
}

int mc_preamble_length(const uint8_t head[MC_PREAMBLE_FIXED])
{
	uint16_t len = mc_get16(head + 12);

	if (mc_get64(head) != MC_PREAMBLE_MAGIC || len < MC_PREAMBLE_FIXED + head[15] ||
	    len > MC_PREAMBLE_MAX)
		return -EBADMSG;
	return len;
}

int mc_preamble_decode(const uint8_t *buf, size_t len, struct mc_stream_hello *ret_hello)
{
	struct mc_stream_hello h;
	int r;

	if (len < MC_PREAMBLE_FIXED)
		return -EBADMSG;
	r = mc_preamble_length(buf);
	if (r < 0 || (size_t)r != len)
		return -EBADMSG;
	if (mc_get16(buf + 8) > mc_get16(buf + 10))
		return -EBADMSG;
	if (mc_get16(buf + 8) > MC_STREAM_VERSION_MAX || mc_get16(buf + 10) < MC_STREAM_VERSION_MIN)
		return -EPROTONOSUPPORT;
	memset(&h, 0, sizeof h);
	h.kind = buf[14];
	h.session_id = mc_get64(buf + 16);
	h.from_generation = mc_get64(buf + 24);
	h.to_generation = mc_get64(buf + 32);
	h.token = mc_get64(buf + 40);
	h.rail_id = mc_get32(buf + 48);
	h.lane = mc_get32(buf + 52);
	h.epoch = mc_get32(buf + 56);
	h.admission = mc_get32(buf + 60);
	memcpy(h.from, buf + MC_PREAMBLE_FIXED, buf[15]);
	if (strlen(h.from) != buf[15])
		return -EBADMSG; /* a NUL inside the name */
	*ret_hello = h;
	return 0;
}

size_t mc_answer_encode(const struct mc_answer *answer, uint8_t out[MC_ANSWER_MAX])
{
	size_t why_len = strnlen(answer->why, MC_ANSWER_WHY_MAX), len = MC_ANSWER_FIXED + why_len;

	memset(out, 0, MC_ANSWER_FIXED);
	mc_put64(out, MC_ANSWER_MAGIC);
	mc_put16(out + 8, answer->version);
	mc_put16(out + 10, (uint16_t)len);
	out[12] = answer->step;
	mc_put16(out + 14, mc_wire_of_errno(answer->status));
	mc_put64(out + 16, answer->generation);
	mc_put16(out + 24, (uint16_t)why_len);
	memcpy(out + MC_ANSWER_FIXED, answer->why, why_len);
	return len;
}

int mc_answer_length(const uint8_t head[MC_ANSWER_FIXED])
{
	uint16_t len = mc_get16(head + 10);

	if (mc_get64(head) != MC_ANSWER_MAGIC || len < MC_ANSWER_FIXED || len > MC_ANSWER_MAX ||
	    mc_get16(head + 24) > len - MC_ANSWER_FIXED)
		return -EBADMSG;
	return len;
}

int mc_answer_decode(const uint8_t *buf, size_t len, struct mc_answer *ret_answer)
{
	struct mc_answer a;
	size_t why_len;
	int r;

	if (len < MC_ANSWER_FIXED)
		return -EBADMSG;
	r = mc_answer_length(buf);
	if (r < 0 || (size_t)r != len)
		return -EBADMSG;
	memset(&a, 0, sizeof a);
	a.version = mc_get16(buf + 8);
	a.step = buf[12];
	a.status = mc_errno_of_wire(mc_get16(buf + 14));
	a.generation = mc_get64(buf + 16);
	why_len = MC_MIN(mc_get16(buf + 24), MC_ANSWER_WHY_MAX);
	memcpy(a.why, buf + MC_ANSWER_FIXED, why_len);
	/* It will be printed: no control characters, whatever the peer is. */
	for (size_t i = 0; i < why_len; i++) {
		if ((unsigned char)a.why[i] < ' ' || a.why[i] == 0x7f)
			a.why[i] = '?';
	}
	*ret_answer = a;
	return 0;
}
