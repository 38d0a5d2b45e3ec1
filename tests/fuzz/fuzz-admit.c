/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of admission, as the port and a dial meet foreign bytes.  The input: u8
 * side, then what the other end sends.  Even: a preamble and a reply, to a
 * listener; odd: answers, to a dialler.  Nonces are fixed and the MAC is a toy, so
 * that seeds can hold proofs that are right.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admit_wire.h"
#include "core/util/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *what)
{
	fprintf(stderr, "fuzz-admit: %s\n", what);
	abort();
}

static uint64_t fnv(uint64_t h, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static int toy_hmac(const uint8_t *key, size_t key_len, const uint8_t *data, size_t len, uint8_t out[MC_ADMIT_MAC])
{
	uint64_t h = fnv(fnv(UINT64_C(0xcbf29ce484222325), key, key_len), data, len);

	for (unsigned i = 0; i < MC_ADMIT_MAC / 8; i++)
		mc_put64(out + 8 * i, h + i);
	return 0;
}

static bool toy_equal(const uint8_t *a, const uint8_t *b, size_t len)
{
	return memcmp(a, b, len) == 0;
}

static const struct mc_admit_ops ops = {.hmac = toy_hmac, .equal = toy_equal};
static const uint8_t nonce[MC_ADMIT_NONCE] = "the nonce of the fuzzed end     ";

/* As stream_admit.c goes on. */
static void listener(const struct mc_admit_key *key, const uint8_t *data, size_t size)
{
	const struct mc_answer ask = {.version = 1, .step = MC_STEP_CHALLENGE, .generation = 9};
	const struct mc_answer yes = {.version = 1, .generation = 9};
	struct mc_admit_talk *talk = NULL;
	struct mc_stream_hello hello;
	uint8_t out[MC_ANSWER_MAX];
	int len = size < MC_PREAMBLE_FIXED ? -EBADMSG : mc_preamble_length(data), r;

	if (len < 0 || (size_t)len > size || mc_preamble_decode(data, (size_t)len, &hello) < 0 ||
	    !(hello.admission & MC_ADMIT_HMAC))
		return;
	if (mc_admit_talk_new(key, data, (size_t)len, &talk) < 0)
		return;
	if (mc_admit_challenge(talk, &ask, nonce, out) != MC_ANSWER_FIXED + MC_ADMIT_TAIL)
		die("a challenge of another size");
	data += len;
	size -= (size_t)len;
	r = mc_admit_check_reply(talk, data, size > MC_REPLY_SIZE ? MC_REPLY_SIZE : size);
	if ((r == 0) != (mc_admit_verdict(talk, &yes, out) > 0))
		die("a proof for who has given none, or none for who has");
	if (r == 0 && mc_admit_check_reply(talk, data, MC_REPLY_SIZE) == 0)
		die("a second reply");
	mc_admit_talk_free(talk);
}

/* As stream_dial.c goes on. */
static void dialler(const struct mc_admit_key *key, const uint8_t *data, size_t size)
{
	const struct mc_stream_hello hello = {.kind = MC_STREAM_CONTROL, .session_id = 1, .from_generation = 2,
					      .to_generation = 9, .admission = MC_ADMIT_HMAC, .from = "node1"};
	uint8_t preamble[MC_PREAMBLE_MAX], reply[MC_REPLY_SIZE];
	struct mc_admit_talk *talk = NULL;
	unsigned nr_replies = 0;

	if (mc_admit_talk_new(key, preamble, mc_preamble_encode(&hello, preamble), &talk) < 0)
		return;
	while (size >= MC_ANSWER_FIXED) {
		int len = mc_answer_length(data), r;
		struct mc_answer ans;

		if (len < 0 || (size_t)len > size || mc_answer_decode(data, (size_t)len, &ans) < 0)
			break;
		if (ans.step == MC_STEP_CHALLENGE) {
			r = mc_admit_reply(talk, data, (size_t)len, nonce, reply);
			if (r > 0 && (r != MC_REPLY_SIZE || nr_replies++))
				die("a second reply, or one of another size");
		} else {
			r = mc_admit_check_verdict(talk, data, (size_t)len);
			if (r == 0 && !nr_replies)
				die("a verdict is believed that answers nothing");
			break;
		}
		if (r < 0)
			break;
		data += len;
		size -= (size_t)len;
	}
	mc_admit_talk_free(talk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_admit_key *key = NULL;
	uint8_t *copy;

	if (size < 1 || mc_admit_key_new(&ops, (const uint8_t *)"sixteen bytes...", 16, &key) < 0)
		return 0;
	copy = malloc(size - 1 ? size - 1 : 1); /* of the exact size, so that a byte too far is seen */
	if (copy) {
		memcpy(copy, data + 1, size - 1);
		if (data[0] & 1)
			dialler(key, copy, size - 1);
		else
			listener(key, copy, size - 1);
	}
	free(copy);
	mc_admit_key_free(key);
	return 0;
}
