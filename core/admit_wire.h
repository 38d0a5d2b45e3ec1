/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of admission, little-endian; docs/wire.md, "Admission".  Challenge
 * and verdict are answers (stream_wire.h) that end in the 40 bytes below; the
 * reply is a message of its own.
 */
#ifndef MC_CORE_ADMIT_WIRE_H
#define MC_CORE_ADMIT_WIRE_H

#include "admit.h"
#include "stream_wire.h"

#define MC_REPLY_MAGIC UINT64_C(0x3f656b61636e6f6d) /* "moncake?" */
#define MC_REPLY_SIZE (16 + MC_ADMIT_NONCE + MC_ADMIT_MAC)
#define MC_ADMIT_TAIL (8 + MC_ADMIT_NONCE) /* of an answer: scheme, 0, nonce or proof */

/* Put the tail behind an answer that mc_answer_encode wrote, zeroed but for the scheme; the length of
 * both. */
size_t mc_admit_tail_put(uint8_t out[MC_ANSWER_MAX], size_t len);
/* The nonce or proof of an answer that was decoded; NULL: it does not end in a tail of our scheme. */
const uint8_t *mc_admit_tail_get(const uint8_t *answer, size_t len);

/* The reply without its proof. */
void mc_reply_encode(const uint8_t nonce[MC_ADMIT_NONCE], uint8_t out[MC_REPLY_SIZE]);
/* 0, -EBADMSG. */
int mc_reply_check(const uint8_t *reply, size_t len);

#endif
