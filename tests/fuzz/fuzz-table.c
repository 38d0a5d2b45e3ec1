/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of buffer tables: messages (u8 type - 0x10, u16 length, payload) to an
 * active session.  Whatever comes, a snapshot is sorted and its buffers are disjoint.
 */
#include <stdlib.h>
#include <string.h>

#include "session_impl.h"
#include "core/util/bytes.h"

static void check(struct mc_session *s)
{
	struct mc_snapshot *snap = mc_session_snapshot(s);

	for (size_t i = 1; snap && i < snap->nr; i++) {
		if (snap->bufs[i - 1]->base + snap->bufs[i - 1]->len > snap->bufs[i]->base)
			abort();
	}
	mc_snapshot_unref(snap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_sessions ss = {.refs = 2};
	struct mc_session_impl *i;

	pthread_mutex_init(&ss.lock, NULL);
	pthread_cond_init(&ss.changed, NULL);
	i = mc_session_new(&ss, true, 1);
	while (i && size >= 3) {
		uint16_t type = MC_MSG_TABLE + data[0] % 4, len = mc_get16(data + 1);

		data += 3;
		size -= 3;
		if (len > size)
			break;
		if (mc_table_message(i, type, data, len) < 0)
			break;
		mc_table_publish(i);
		check(&i->s);
		data += len;
		size -= len;
	}
	if (i) {
		HASH_DEL(ss.by_id, i);
		mc_session_unref(&i->s);
	}
	pthread_cond_destroy(&ss.changed);
	pthread_mutex_destroy(&ss.lock);
	return 0;
}
