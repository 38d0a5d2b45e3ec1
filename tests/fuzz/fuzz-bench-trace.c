/* SPDX-License-Identifier: Apache-2.0 */
/* A trace of requests, from anywhere: refused with a sentence, or a plan that writes a place before it
 * reads it, and touches none twice in one request.  The last byte says how large the store is. */
#include <stdlib.h>
#include <string.h>

#include "job_trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct bench_trace *t)
{
	bool *written = calloc(t->nr_slots, sizeof *written);
	size_t *used = calloc(t->nr_slots, sizeof *used), nr = 0;

	for (size_t i = 0; i < t->nr; i++) {
		const struct bench_trace_request *q = &t->requests[i];

		if (q->first != nr || q->nr > t->max_ops || (i && q->at_ns < q[-1].at_ns))
			abort();
		for (uint32_t j = 0; j < q->nr; j++, nr++) {
			uint32_t op = t->ops[nr], slot = op & ~BENCH_TRACE_READ;

			if (slot >= t->nr_slots || used[slot] == i + 1 || (op != slot && !written[slot]))
				abort();
			used[slot] = i + 1;
			written[slot] = true;
		}
	}
	if (nr != t->nr_ops || nr != t->reads + t->puts + t->misses)
		abort();
	free(written);
	free(used);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	for (int evict = BENCH_LRU; size && evict <= BENCH_MODULO; evict++) {
		struct mc_error err = {0};
		struct bench_trace trace;
		FILE *f = fmemopen((void *)data, size, "r");

		if (!f)
			abort();
		if (bench_trace_read(&trace, "fuzz", f, data[size - 1] % 9 + 1, evict, &err) == 0)
			check(&trace);
		else if (!err.text[0])
			abort();
		bench_trace_fini(&trace);
		fclose(f);
	}
	return 0;
}
