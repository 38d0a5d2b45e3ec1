/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which build of XXH3-128 this processor runs, and hashes as text.
 */
#include <errno.h>
#include <string.h>

#include "p2p_hash.h"

const struct mc_p2p_hash_ops *mc_p2p_hash_build(size_t idx)
{
	const struct mc_p2p_hash_ops *builds[4] = {0};
	size_t nr = 0;

#ifdef P2P_HASH_AVX512
	if (__builtin_cpu_supports("avx512f"))
		builds[nr++] = &mc_p2p_hash_avx512;
#endif
#ifdef P2P_HASH_AVX2
	if (__builtin_cpu_supports("avx2"))
		builds[nr++] = &mc_p2p_hash_avx2;
#endif
	builds[nr++] = &mc_p2p_hash_plain;
	return idx < nr ? builds[idx] : NULL;
}

/* The widest; asked once, any thread may be the first. */
static const struct mc_p2p_hash_ops *ops(void)
{
	static const struct mc_p2p_hash_ops *chosen;
	const struct mc_p2p_hash_ops *o = __atomic_load_n(&chosen, __ATOMIC_RELAXED);

	if (!o) {
		o = mc_p2p_hash_build(0);
		__atomic_store_n(&chosen, o, __ATOMIC_RELAXED);
	}
	return o;
}

void mc_p2p_hasher_init(struct mc_p2p_hasher *h)
{
	ops()->init(h->state);
}

void mc_p2p_hasher_add(struct mc_p2p_hasher *h, const void *data, size_t len)
{
	ops()->add(h->state, data, len);
}

void mc_p2p_hasher_end(const struct mc_p2p_hasher *h, struct mc_p2p_hash *ret)
{
	ops()->end(h->state, ret->bytes);
}

void mc_p2p_hash(const void *data, size_t len, struct mc_p2p_hash *ret)
{
	struct mc_p2p_hasher h;

	mc_p2p_hasher_init(&h);
	mc_p2p_hasher_add(&h, data, len);
	mc_p2p_hasher_end(&h, ret);
}

void mc_p2p_hash_text(const struct mc_p2p_hash *hash, char text[33])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < MC_P2P_HASH_SIZE; i++) {
		text[2 * i] = digits[hash->bytes[i] >> 4];
		text[2 * i + 1] = digits[hash->bytes[i] & 15];
	}
	text[32] = '\0';
}

int mc_p2p_hash_parse(const char *text, struct mc_p2p_hash *ret)
{
	static const char digits[] = "0123456789abcdef";
	struct mc_p2p_hash hash;

	if (strlen(text) != 2 * MC_P2P_HASH_SIZE)
		return -EINVAL;
	for (size_t i = 0; i < 2 * MC_P2P_HASH_SIZE; i++) {
		const char *at = strchr(digits, text[i]);

		if (!at)
			return -EINVAL;
		hash.bytes[i / 2] = (uint8_t)((i & 1 ? hash.bytes[i / 2] << 4 : 0) | (at - digits));
	}
	*ret = hash;
	return 0;
}
