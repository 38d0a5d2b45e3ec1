/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster key, and the proofs of its knowledge that both ends of a connection
 * to the port give each other.  What is proven, and the bytes: docs/wire.md,
 * "Admission".  Here is no socket and no clock; stream_admit.c and stream_dial.c
 * carry the messages.
 *
 *   dialler  -> preamble                    (offers MC_ADMIT_HMAC)
 *   listener -> challenge: its nonce
 *   dialler  -> reply: its nonce, its proof
 *   listener -> verdict, its proof
 */
#ifndef MC_CORE_ADMIT_H
#define MC_CORE_ADMIT_H

#include <mooncake/types.h>

struct mc_answer;

#define MC_ADMIT_KEY_MIN 16u   /* bytes */
#define MC_ADMIT_KEY_MAX 4096u
#define MC_ADMIT_HMAC (1u << 0) /* the scheme: HMAC-SHA-256 */
#define MC_ADMIT_NONCE 32u
#define MC_ADMIT_MAC 32u

/* What mod-admit.so does for us. */
struct mc_admit_ops {
	/* Start the library, which takes milliseconds; before anything else, by any thread.  0; -EIO: it
	 * refused, here as below. */
	int (*start)(void);
	int (*hmac)(const uint8_t *key, size_t key_len, const uint8_t *data, size_t len,
		    uint8_t out[MC_ADMIT_MAC]);
	/* In constant time. */
	bool (*equal)(const uint8_t *a, const uint8_t *b, size_t len);
};

/* Immutable, used by any thread. */
struct mc_admit_key;

/* Read the key of a file: all its bytes but one line end at the end.  Refused are files of this
 * user that others may read, as ssh does.  [any] but control, reads the disk */
int mc_admit_key_open(const char *path, struct mc_admit_key **ret_key, struct mc_error *err);
/* Of bytes that the caller has, and may wipe. */
int mc_admit_key_new(const struct mc_admit_ops *ops, const uint8_t *bytes, size_t len,
		     struct mc_admit_key **ret_key);
/* Wipes it. */
void mc_admit_key_free(struct mc_admit_key *key);

/* What both ends have said on one connection, and what they prove about it: every proof covers all
 * bytes before it.  One end makes it when the preamble is complete. */
struct mc_admit_talk;
int mc_admit_talk_new(const struct mc_admit_key *key, const uint8_t *preamble, size_t len,
		      struct mc_admit_talk **ret_talk);
void mc_admit_talk_free(struct mc_admit_talk *talk);

/* Nonces are given by the caller: 32 fresh random bytes each.  A call out of turn is -EPROTO. */

/* The listener: write the challenge to out[MC_ANSWER_MAX]; its length, or -errno. */
int mc_admit_challenge(struct mc_admit_talk *talk, const struct mc_answer *answer,
		       const uint8_t nonce[MC_ADMIT_NONCE], uint8_t *out);
/* ... check the reply: 0; -EBADMSG: it is none; -EACCES: of another key, connection or direction. */
int mc_admit_check_reply(struct mc_admit_talk *talk, const uint8_t *reply, size_t len);
/* ... write the verdict with our proof to out[MC_ANSWER_MAX], after a good reply only: who has proven
 * nothing gets no proof to guess keys from.  Its length, or -errno. */
int mc_admit_verdict(struct mc_admit_talk *talk, const struct mc_answer *answer, uint8_t *out);

/* The dialler: write the reply to a challenge to out[MC_REPLY_SIZE]; its length, or -EBADMSG: not a
 * challenge that we know. */
int mc_admit_reply(struct mc_admit_talk *talk, const uint8_t *challenge, size_t len,
		   const uint8_t nonce[MC_ADMIT_NONCE], uint8_t *out);
/* ... check the verdict's proof: 0; -EACCES: it has none, or a wrong one. */
int mc_admit_check_verdict(struct mc_admit_talk *talk, const uint8_t *verdict, size_t len);

#endif
