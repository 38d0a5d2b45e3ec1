/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding and decoding of the messages of admission.  Foreign bytes: scheme 1 has
 * one size for each of them and takes no other.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "admit_wire.h"
#include "core/util/bytes.h"

/* reply                       tail of a challenge or verdict
 *  0 u64 magic                 0 u32 scheme
 *  8 u16 version, 1            4 u32 0
 * 10 u16 length, 80            8 u8[32] challenge: nonce; verdict: proof
 * 12 u32 scheme
 * 16 u8[32] nonce
 * 48 u8[32] proof
 */
static_assert(MC_REPLY_SIZE == 80, "reply");
static_assert(MC_ADMIT_TAIL == 40 && MC_ADMIT_NONCE == MC_ADMIT_MAC, "tail");
static_assert(MC_ANSWER_FIXED + MC_ANSWER_WHY_MAX + MC_ADMIT_TAIL <= MC_ANSWER_MAX, "answer");

size_t mc_admit_tail_put(uint8_t out[MC_ANSWER_MAX], size_t len)
{
	memset(out + len, 0, MC_ADMIT_TAIL);
	mc_put32(out + len, MC_ADMIT_HMAC);
	mc_put16(out + 10, (uint16_t)(len + MC_ADMIT_TAIL));
	return len + MC_ADMIT_TAIL;
}

const uint8_t *mc_admit_tail_get(const uint8_t *answer, size_t len)
{
	size_t at;

	if (len < MC_ANSWER_FIXED)
		return NULL;
	at = MC_ANSWER_FIXED + (size_t)mc_get16(answer + 24);
	if (len != at + MC_ADMIT_TAIL || mc_get32(answer + at) != MC_ADMIT_HMAC ||
	    mc_get32(answer + at + 4) != 0)
		return NULL;
	return answer + at + 8;
}

void mc_reply_encode(const uint8_t nonce[MC_ADMIT_NONCE], uint8_t out[MC_REPLY_SIZE])
{
	memset(out, 0, MC_REPLY_SIZE);
	mc_put64(out, MC_REPLY_MAGIC);
	mc_put16(out + 8, 1);
	mc_put16(out + 10, MC_REPLY_SIZE);
	mc_put32(out + 12, MC_ADMIT_HMAC);
	memcpy(out + 16, nonce, MC_ADMIT_NONCE);
}

int mc_reply_check(const uint8_t *reply, size_t len)
{
	if (len != MC_REPLY_SIZE || mc_get64(reply) != MC_REPLY_MAGIC || mc_get16(reply + 8) != 1 ||
	    mc_get16(reply + 10) != MC_REPLY_SIZE || mc_get32(reply + 12) != MC_ADMIT_HMAC)
		return -EBADMSG;
	return 0;
}
