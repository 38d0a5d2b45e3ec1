/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a checkpoint whole?  Headers of safetensors files, and the index of a model whose tensors
 * lie in several: what a copy that was cut short has wrong, found before it is spread.
 */
#ifndef MC_P2P_CLI_SAFETENSORS_H
#define MC_P2P_CLI_SAFETENSORS_H

#include <mooncake/types.h>

/* By its name, what is in a file: "*.safetensors", "*.index.json". */
bool p2pc_is_safetensors(const char *path);
bool p2pc_is_index(const char *path);

/* Check a safetensors file: its header lies inside, is JSON of named tensors, and their bytes follow one another
 * from the header's end to the file's.
 *   what      begins the sentence: "file 'model.safetensors'"
 *   data      the first len bytes of a file of size bytes, len >= p2pc_safetensors_need or len == size
 *   returns   0; -EBADMSG; -ENOMEM */
int p2pc_safetensors_check(const char *what, const void *data, size_t len, uint64_t size, uint64_t *ret_tensors,
			   struct mc_error *err);
/* Bytes of the file's start that the check looks at; len >= 8, or all there are. */
uint64_t p2pc_safetensors_need(const void *data, size_t len);

/* Call file for every file that an index's weight_map names (as often as it does), which stand beside it.
 *   returns   0; -EBADMSG: it is no index; what file returned, below 0 */
int p2pc_index_files(const char *what, const void *text, size_t len,
		     int (*file)(void *ctx, const char *name, struct mc_error *err), void *ctx, struct mc_error *err);

#endif
