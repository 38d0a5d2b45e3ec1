/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which GPU the CUDA driver shows a process as its N-th: CUDA_VISIBLE_DEVICES chooses among them and
 * numbers those that it shows from 0 on.  Locations `cuda:N` count as the driver does.
 */
#ifndef MC_CORE_GPU_VISIBLE_H
#define MC_CORE_GPU_VISIBLE_H

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MC_GPU_UUID_LEN 40 /* "GPU-" and 36 characters */

/* The GPU that a word of the list means, or -1: the driver reads no further than to that. */
static inline int32_t mc_gpu_named(const char *word, size_t len, const char (*uuids)[MC_GPU_UUID_LEN + 1], uint32_t nr)
{
	int32_t found = -1;
	unsigned long n;
	char *end;

	if (len == 0)
		return -1;
	if (isdigit((unsigned char)*word)) {
		n = strtoul(word, &end, 10);
		return end == word + len && n < nr ? (int32_t)n : -1;
	}
	/* A beginning is enough, if one GPU has it. */
	for (uint32_t i = 0; i < nr && len > 4; i++)
		if (strncmp(uuids[i], word, len) == 0) {
			if (found >= 0)
				return -1;
			found = (int32_t)i;
		}
	return found;
}

/* Of nr GPUs, which stand in the order of their bus ids, the one that is number `ordinal` by the variable's
 * text (NULL: it is not set); -1: there is none. */
static inline int32_t mc_gpu_visible(const char *list, uint32_t ordinal, const char (*uuids)[MC_GPU_UUID_LEN + 1],
				     uint32_t nr)
{
	uint64_t seen = 0;

	if (!list)
		return ordinal < nr ? (int32_t)ordinal : -1;
	for (uint32_t at = 0;; at++) {
		const char *word = list + strspn(list, " ");
		size_t len = strcspn(word, ",");
		int32_t gpu;

		list = word + len;
		while (len > 0 && word[len - 1] == ' ')
			len--;
		gpu = mc_gpu_named(word, len, uuids, nr);
		if (gpu < 0 || gpu >= 64 || (seen & UINT64_C(1) << gpu)) /* one twice is none to the driver */
			return -1;
		seen |= UINT64_C(1) << gpu;
		if (at == ordinal)
			return gpu;
		if (*list != ',')
			return -1;
		list++;
	}
}

#endif
