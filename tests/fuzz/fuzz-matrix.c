/* SPDX-License-Identifier: Apache-2.0 */
/* The NIC priority matrix: any text is refused or becomes a matrix whose own text parses again. */
#include <stdlib.h>
#include <string.h>

#include "matrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_matrix *m = NULL, *again = NULL;
	char *text = malloc(size + 2);
	struct mc_error err;

	/* Never a path. */
	text[0] = '{';
	memcpy(text + 1, data + (size && data[0] == '{'), size - (size && data[0] == '{'));
	text[1 + size - (size && data[0] == '{')] = '\0';
	if (mc_matrix_parse(text, &m, &err) == 0) {
		if (mc_matrix_parse(m->text, &again, &err) < 0 || strcmp(m->text, again->text) != 0)
			abort();
		mc_matrix_row_find(m, "cuda:1");
	} else if (err.code >= 0 || !memchr(err.text, '\0', sizeof err.text)) {
		abort();
	}
	mc_matrix_free(m);
	mc_matrix_free(again);
	free(text);
	return 0;
}
