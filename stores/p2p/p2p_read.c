/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a peer's control block.
 */
#include <errno.h>
#include <string.h>

#include "p2p_impl.h"

#define SCRATCH (256u << 10)
#define LOOK_NS (100 * MC_MSEC)

int mc_p2p_reader_open(struct p2p_reader *r, struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err)
{
	void *scratch;
	int e;

	r->engine = engine;
	e = mc_memory_alloc(engine, "*", SCRATCH, MC_ACCESS_LOCAL, mc_p2p_left(deadline_ns), &scratch, err);
	if (e < 0)
		return e;
	r->scratch = scratch;
	e = mc_batch_new(engine, 1, &r->batch);
	return e < 0 ? mc_fail(err, e, "p2p store: out of memory") : 0;
}

void mc_p2p_reader_close(struct p2p_reader *r)
{
	mc_batch_free(r->batch);
	if (r->scratch)
		mc_memory_free(r->engine, r->scratch, 10 * MC_SEC, NULL);
	memset(r, 0, sizeof *r);
}

static int read_once(struct p2p_reader *r, struct mc_segment *segment, uint64_t offset, uint64_t len, uint64_t timeout_ns)
{
	struct mc_request q = {.opcode = MC_OP_READ, .local = r->scratch, .segment = segment, .offset = offset, .len = len};
	struct mc_request_status st = {.size = sizeof st};
	int e;

	mc_batch_set_deadline(r->batch, timeout_ns);
	e = mc_batch_submit(r->batch, &q, 1, NULL);
	if (e < 0)
		return e;
	/* Its deadline ends it, or that nobody wants it any more. */
	while (mc_batch_wait(r->batch, LOOK_NS) == -ETIMEDOUT)
		if (r->over && r->over(r->arg))
			mc_batch_cancel(r->batch);
	mc_batch_status(r->batch, 0, &st);
	mc_batch_reset(r->batch);
	return st.status;
}

int mc_p2p_read(struct p2p_reader *r, struct mc_segment *segment, uint64_t offset, uint8_t *to, uint64_t len,
		uint64_t timeout_ns, struct mc_error *err)
{
	while (len) {
		uint64_t n = MC_MIN(len, SCRATCH);
		int e = read_once(r, segment, offset, n, timeout_ns);

		if (e < 0)
			return mc_fail(err, e, "its control block cannot be read: %s", strerror(-e));
		memcpy(to, r->scratch, n);
		offset += n;
		to += n;
		len -= n;
	}
	return 0;
}
