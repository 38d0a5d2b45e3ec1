/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of access lists.  The input: a peer's name, a line end, the list as JSON.
 * Rights are a subset of what there is, and who has none is told which rule it was.
 */
#include <stdlib.h>
#include <string.h>

#include "access.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_access *access = NULL;
	struct mc_error err = {0};
	char *name = malloc(size + 2), *list, why[100] = "";
	uint32_t denied;

	if (!name)
		return 0;
	memcpy(name, data, size);
	name[size] = name[size + 1] = '\0';
	list = name + strcspn(name, "\n");
	*list++ = '\0';
	/* Anything else is the path of a file. */
	if ((*list == '{' || *list == '[') && mc_access_parse(list, &access, &err) == 0) {
		denied = mc_access_denied(access, name, why, sizeof why);
		if ((denied & ~(uint32_t)MC_ACCESS_ALL) || (denied == MC_ACCESS_ALL) != (*why != '\0'))
			abort();
	} else if ((*list == '{' || *list == '[') && (!err.text[0] || access)) {
		abort();
	}
	mc_access_free(access);
	free(name);
	return 0;
}
