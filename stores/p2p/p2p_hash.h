/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3-128, in the widest vectors that this processor has.  A hash is kept, sent and printed in its
 * canonical form (big-endian), as xxhsum -H2 prints it. */
#ifndef MC_P2P_HASH_H
#define MC_P2P_HASH_H

#include <stddef.h>
#include <stdint.h>

#define MC_P2P_HASH_SIZE 16

struct mc_p2p_hash {
	uint8_t bytes[MC_P2P_HASH_SIZE];
};

/* The state of a hash of which not all bytes are there yet; about 600 bytes. */
struct mc_p2p_hasher {
	_Alignas(64) unsigned char state[640];
};

void mc_p2p_hasher_init(struct mc_p2p_hasher *h);
void mc_p2p_hasher_add(struct mc_p2p_hasher *h, const void *data, size_t len);
void mc_p2p_hasher_end(const struct mc_p2p_hasher *h, struct mc_p2p_hash *ret);

void mc_p2p_hash(const void *data, size_t len, struct mc_p2p_hash *ret);

/* 32 hex digits and a NUL. */
void mc_p2p_hash_text(const struct mc_p2p_hash *hash, char text[33]);
/* 0; -EINVAL: not 32 lower-case hex digits. */
int mc_p2p_hash_parse(const char *text, struct mc_p2p_hash *ret);

/* What one build of p2p_xxh.c offers. */
struct mc_p2p_hash_ops {
	void (*init)(void *state);
	void (*add)(void *state, const void *data, size_t len);
	void (*end)(const void *state, uint8_t hash[MC_P2P_HASH_SIZE]);
};
extern const struct mc_p2p_hash_ops mc_p2p_hash_plain, mc_p2p_hash_avx2, mc_p2p_hash_avx512;
/* The builds that this processor runs, for tests; NULL past the last. */
const struct mc_p2p_hash_ops *mc_p2p_hash_build(size_t idx);

#endif
