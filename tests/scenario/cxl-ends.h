/* SPDX-License-Identifier: Apache-2.0 */
/* Scenarios of engines over a pool of memory: one end, and a transfer from it. */
#ifndef MC_TESTS_CXL_ENDS_H
#define MC_TESTS_CXL_ENDS_H

#include "patient.h"

struct end {
	struct mc_engine *engine;
	unsigned char *mem, *local; /* of the pool; of the host */
	struct mc_segment *peer;
	uint64_t to; /* the peer's memory */
};

static inline void end_meet(struct end *e, const char *name)
{
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_error err;

	mc_segment_close(e->peer);
	NEED(mc_segment_open(e->engine, name, 4 * T, &e->peer, &err) == 0, "%s", err.text);
	e->to = 0;
	for (size_t i = 0; mc_segment_buffer(e->peer, i, &info) == 0; i++)
		if (!strncmp(info.location, "cxl:", 4))
			e->to = info.offset;
	NEED(e->to, "%s shows no memory of the pool", name);
}

/* One request; with a notify if word is not NULL.  Its status. */
static inline int transfer(struct end *e, enum mc_opcode op, uint64_t local, uint64_t remote, uint64_t len, uint32_t flags,
			   const char *word)
{
	struct mc_request req = {.opcode = op, .flags = flags, .local = e->local + local, .segment = e->peer,
				 .offset = e->to + remote, .len = len};
	struct mc_request_status status = {.size = sizeof status};
	struct mc_batch *batch;

	NEED(mc_batch_new(e->engine, 1, &batch) == 0, "batch");
	if (word)
		mc_batch_set_notify(batch, e->peer, word, strlen(word) + 1);
	NEED(mc_batch_submit(batch, &req, 1, NULL) == 0, "submit");
	NEED(mc_batch_wait(batch, 4 * T) == 0, "wait");
	mc_batch_status(batch, 0, &status);
	mc_batch_free(batch);
	return status.status;
}

#endif
