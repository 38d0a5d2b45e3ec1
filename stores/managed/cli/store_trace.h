/* SPDX-License-Identifier: Apache-2.0 */
/* Traces of requests for blocks, read from JSON lines, and the picture of hit ratios over
 * capacities. */
#ifndef MC_STORE_TRACE_H
#define MC_STORE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct trace {
	const char *name; /* the file's, without folder; borrowed */
	uint32_t *keys; /* all accesses, request after request; numbers below nr_keys */
	size_t *starts; /* of requests in keys, nr_requests + 1 of them */
	size_t nr_accesses, nr_requests, longest;
	uint32_t nr_keys, nr_different;
};

/* The part of a trace between two shares of its lines.  returns 0; -EBADMSG: a line has no list of
 * numbers below 2^31 named "hash_ids"; -ERANGE: it is empty; -errno */
int trace_read(const char *path, double from, double to, struct trace *ret_trace);
void trace_free(struct trace *t);

/* Beginning and end of the picture, of two panels side by side. */
void trace_picture(FILE *f, bool begin);
/* One panel: ratios[capacity][policy]; the last policy is drawn as ours. */
void trace_panel(FILE *f, int at, const char *title, const char *const *names, size_t nr_names,
		 const uint32_t *capacities, size_t nr_capacities, const double *ratios);

#endif
