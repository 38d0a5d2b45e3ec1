/* SPDX-License-Identifier: Apache-2.0 */
/* What fuzzers hold a picture or a page to, whatever words of a file are in it. */
#ifndef MC_FUZZ_MARKUP_H
#define MC_FUZZ_MARKUP_H

#include <stdlib.h>

/* Tags are closed, and the text is clean. */
static inline void check_markup(const char *text, size_t len)
{
	size_t open = 0, shut = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		open += c == '<';
		shut += c == '>';
		if ((c < ' ' && c != '\n') || c == 0x7f)
			abort();
	}
	if (open != shut)
		abort();
}

#endif
