/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between stores, written and read.
 */
#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "p2p_wire.h"

size_t mc_p2p_request_put(uint32_t method, const struct mc_p2p_request *request, uint8_t to[MC_P2P_REQUEST_MAX])
{
	mc_put32(to, MC_P2P_FORMAT);
	mc_put32(to + 4, request->count);
	memcpy(to + 8, request->object.bytes, MC_P2P_HASH_SIZE);
	memcpy(to + 24, request->root.bytes, MC_P2P_HASH_SIZE);
	if (method == MC_P2P_DONE_WITH)
		mc_put64(to + 40, request->slot);
	if (method == MC_P2P_GRANT)
		for (uint32_t i = 0; i < request->count; i++)
			mc_put32(to + 40 + 4 * i, request->candidates[i]);
	return method == MC_P2P_GRANT ? 40 + 4 * (size_t)request->count : method == MC_P2P_DONE_WITH ? 48 : 40;
}

int mc_p2p_request_parse(uint32_t method, const void *from, size_t len, struct mc_p2p_request *ret)
{
	const uint8_t *p = from;

	if (len < 40)
		return -EBADMSG;
	if (mc_get32(p) != MC_P2P_FORMAT)
		return -EPROTONOSUPPORT;
	ret->count = mc_get32(p + 4);
	memcpy(ret->object.bytes, p + 8, MC_P2P_HASH_SIZE);
	memcpy(ret->root.bytes, p + 24, MC_P2P_HASH_SIZE);
	switch (method) {
	case MC_P2P_GRANT:
		if (ret->count == 0 || ret->count > MC_P2P_CANDIDATES || len != 40 + 4 * (size_t)ret->count)
			return -EBADMSG;
		for (uint32_t i = 0; i < ret->count; i++)
			ret->candidates[i] = mc_get32(p + 40 + 4 * i);
		return 0;
	case MC_P2P_DONE_WITH:
		if (len != 48 || ret->count > MC_P2P_END_FAILED)
			return -EBADMSG;
		ret->slot = mc_get64(p + 40);
		return 0;
	case MC_P2P_DROP:
	case MC_P2P_KEEP:
	case MC_P2P_LEAVE:
		return len == 40 && ret->count == 0 ? 0 : -EBADMSG;
	default:
		return -EBADMSG;
	}
}

void mc_p2p_answer_put(const struct mc_p2p_answer *answer, uint8_t to[MC_P2P_ANSWER_LEN])
{
	mc_put64(to, answer->slot);
	mc_put64(to + 8, answer->rate);
	mc_put32(to + 16, answer->shard);
	mc_put32(to + 20, answer->retry_ms);
}

int mc_p2p_answer_parse(const void *from, size_t len, struct mc_p2p_answer *ret)
{
	const uint8_t *p = from;

	if (len != MC_P2P_ANSWER_LEN)
		return -EBADMSG;
	ret->slot = mc_get64(p);
	ret->rate = mc_get64(p + 8);
	ret->shard = mc_get32(p + 16);
	ret->retry_ms = mc_get32(p + 20);
	return 0;
}
