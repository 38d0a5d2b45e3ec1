/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first bytes of a connection to the port.  Little-endian; docs/wire.md,
 * "Port and preamble", has the tables.  Both messages carry their own length, so
 * a later version may append fields that an earlier one skips.
 *
 *   dialler  -> preamble
 *   listener -> answer: the verdict (step 0).  Step 1 is a challenge, to which the
 *               dialler replies and waits again: admit_wire.h.
 */
#ifndef MC_CORE_STREAM_WIRE_H
#define MC_CORE_STREAM_WIRE_H

#include "stream.h"

#define MC_PREAMBLE_MAGIC UINT64_C(0x656b61636e6f6f6d) /* "mooncake" */
#define MC_ANSWER_MAGIC UINT64_C(0x21656b61636e6f6d)   /* "moncake!" */
#define MC_STREAM_VERSION_MIN 1
#define MC_STREAM_VERSION_MAX 1

#define MC_PREAMBLE_FIXED 64  /* bytes before the name */
#define MC_PREAMBLE_MAX 1024  /* of any version */
#define MC_ANSWER_FIXED 32    /* bytes before the sentence */
#define MC_ANSWER_WHY_MAX 255
#define MC_ANSWER_MAX 512     /* of any version */

enum mc_answer_step { MC_STEP_VERDICT = 0, MC_STEP_CHALLENGE = 1 };

struct mc_answer {
	uint16_t version; /* chosen; 0: none in common */
	uint8_t step;
	int status; /* 0 or -errno */
	uint64_t generation; /* of the listener */
	char why[MC_ANSWER_WHY_MAX + 1];
};

/* Bytes of a preamble, at most MC_PREAMBLE_MAX. */
size_t mc_preamble_encode(const struct mc_stream_hello *hello, uint8_t out[MC_PREAMBLE_MAX]);
/* How long the message will be once MC_PREAMBLE_FIXED bytes of it are here; -EBADMSG. */
int mc_preamble_length(const uint8_t head[MC_PREAMBLE_FIXED]);
/* -EBADMSG: not well-formed; -EPROTONOSUPPORT: no common version. */
int mc_preamble_decode(const uint8_t *buf, size_t len, struct mc_stream_hello *ret_hello);

size_t mc_answer_encode(const struct mc_answer *answer, uint8_t out[MC_ANSWER_MAX]);
int mc_answer_length(const uint8_t head[MC_ANSWER_FIXED]);
int mc_answer_decode(const uint8_t *buf, size_t len, struct mc_answer *ret_answer);

/* errno values as the wire names them, the same on every architecture. */
uint16_t mc_wire_of_errno(int err);
int mc_errno_of_wire(uint16_t code);

/* Who speaks, from the first 8 bytes of a connection. */
enum mc_speaker { MC_SPEAKER_UNKNOWN = 0, MC_SPEAKER_MOONCAKE, MC_SPEAKER_HTTP };
enum mc_speaker mc_stream_sniff(const uint8_t first[8]);

#endif
