/* SPDX-License-Identifier: Apache-2.0 */
/* The first bytes of a safetensors file, and the index of a model: the first byte says which.  A file that is taken
 * for whole is not, once it has a byte less or more; names of an index stay in its folder. */
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check_name(void *ctx, const char *name, struct mc_error *err)
{
	if (!*name || *name == '/' || strncmp(name, "../", 3) == 0 || strcmp(name, "..") == 0 || strstr(name, "/../"))
		abort();
	return 0;
}

/* Exactly so many bytes, so that reading past them is seen. */
static void *copy_of(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_error err = {0};
	uint64_t tensors = 0;
	void *copy;
	int r;

	if (!size)
		return 0;
	copy = copy_of(data + 1, size - 1);
	if (data[0] == 'i') {
		r = p2pc_index_files("index", copy, size - 1, check_name, NULL, &err);
	} else {
		r = p2pc_safetensors_check("file", copy, size - 1, size - 1, &tensors, &err);
		/* Bytes that are not there cannot be told from those that are, by what is looked at. */
		if (r == 0 && p2pc_safetensors_need(copy, size - 1) < size - 1 &&
		    p2pc_safetensors_check("file", copy, size - 2, size - 2, &tensors, NULL) == 0)
			abort();
		if (r == 0 && p2pc_safetensors_check("file", copy, size - 1, size, &tensors, NULL) == 0)
			abort();
	}
	if (r < 0 && !err.text[0])
		abort();
	free(copy);
	return 0;
}
