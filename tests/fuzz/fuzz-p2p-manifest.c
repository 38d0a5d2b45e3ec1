/* SPDX-License-Identifier: Apache-2.0 */
/* A manifest of a stranger: refused with a sentence, or each of its paths stays inside, none twice, and printed it is
 * the same manifest again. */
#include <stdlib.h>
#include <string.h>

#include "manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct p2pc_manifest *m)
{
	uint64_t sum = 0;

	if (!m->nr || (!m->tree && m->nr != 1))
		abort();
	for (size_t i = 0; i < m->nr; i++) {
		const char *path = m->entries[i].path;

		sum += m->entries[i].size;
		if (*path == '/' || strstr(path, "//") || strncmp(path, "../", 3) == 0 || strstr(path, "/../") ||
		    strcmp(path, "..") == 0 || (strlen(path) > 2 && strcmp(path + strlen(path) - 3, "/..") == 0))
			abort();
		if (i && strcmp(path, m->entries[i - 1].path) == 0)
			abort();
	}
	if (sum != m->size)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct p2pc_manifest m, again;
	struct mc_error err = {0};
	size_t len, second_len;
	char *text, *second;

	if (p2pc_manifest_parse(data, size, &m, &err) < 0) {
		if (!err.text[0])
			abort();
		return 0;
	}
	check(&m);
	text = p2pc_manifest_print(&m, &len);
	if (!text || p2pc_manifest_parse(text, len, &again, &err) < 0)
		abort();
	second = p2pc_manifest_print(&again, &second_len);
	if (!second || len != second_len || memcmp(text, second, len) != 0)
		abort();
	free(second);
	free(text);
	p2pc_manifest_free(&again);
	p2pc_manifest_free(&m);
	return 0;
}
