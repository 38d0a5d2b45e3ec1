/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One build of XXH3-128.  meson compiles this file once per vector width; which of them runs is chosen by
 * p2p_hash.c.  Everything of xxhash.h is static here, so that no build uses another one's code.
 */
#include "p2p_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(XXH3_state_t) <= sizeof(struct mc_p2p_hasher), "the state fits");

static void init(void *state)
{
	XXH3_128bits_reset(state);
}

static void add(void *state, const void *data, size_t len)
{
	XXH3_128bits_update(state, data, len);
}

static void end(const void *state, uint8_t hash[MC_P2P_HASH_SIZE])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(hash, canonical.digest, MC_P2P_HASH_SIZE);
}

const struct mc_p2p_hash_ops P2P_HASH_OPS = {.init = init, .add = add, .end = end};
