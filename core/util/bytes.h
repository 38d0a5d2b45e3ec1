/* SPDX-License-Identifier: Apache-2.0 */
/* Little-endian wire integers: get and put helpers, never casts.  Header-only, stateless. */
#ifndef MC_UTIL_BYTES_H
#define MC_UTIL_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define MC_LE16(x) __builtin_bswap16(x)
#define MC_LE32(x) __builtin_bswap32(x)
#define MC_LE64(x) __builtin_bswap64(x)
#else
#define MC_LE16(x) (x)
#define MC_LE32(x) (x)
#define MC_LE64(x) (x)
#endif

static inline uint16_t mc_get16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof v);
	return MC_LE16(v);
}

static inline uint32_t mc_get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return MC_LE32(v);
}

static inline uint64_t mc_get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof v);
	return MC_LE64(v);
}

static inline void mc_put16(void *p, uint16_t v)
{
	v = MC_LE16(v);
	memcpy(p, &v, sizeof v);
}

static inline void mc_put32(void *p, uint32_t v)
{
	v = MC_LE32(v);
	memcpy(p, &v, sizeof v);
}

static inline void mc_put64(void *p, uint64_t v)
{
	v = MC_LE64(v);
	memcpy(p, &v, sizeof v);
}

#endif
