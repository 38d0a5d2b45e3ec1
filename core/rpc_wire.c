/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of rpc frames: written field by field, and checked before anything of a
 * frame is believed.
 */
#include "rpc_wire.h"

#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"

void mc_rpc_head_put(uint8_t *to, const struct mc_rpc_head *head)
{
	struct mc_rpc_wire_head w = {
		.version = MC_RPC_WIRE_VERSION,
		.type = (uint8_t)head->type,
		.name_len = head->name_len,
	};

	mc_put32(w.len, head->len);
	mc_put64(w.id, head->id);
	mc_put32(w.code, head->type == MC_RPC_REPLY ? (uint32_t)head->status : head->method);
	mc_put32(w.reply, head->reply_len);
	mc_put64(w.timeout, head->timeout_ns);
	memcpy(to, &w, sizeof w);
}

static int bad(int r, const char *what, const char **ret_why)
{
	*ret_why = what;
	return r;
}

int mc_rpc_head_get(const uint8_t *from, struct mc_rpc_head *ret_head, const char **ret_why)
{
	struct mc_rpc_wire_head w;
	struct mc_rpc_head h;

	memcpy(&w, from, sizeof w);
	if (w.version != MC_RPC_WIRE_VERSION)
		return bad(-EPROTONOSUPPORT, "another version of the rpc wire", ret_why);
	if (w.type < MC_RPC_REQUEST || w.type > MC_RPC_PONG)
		return bad(-EPROTO, "unknown type of frame", ret_why);
	if (w.reserved != 0)
		return bad(-EPROTO, "reserved bits are set", ret_why);
	memset(&h, 0, sizeof h);
	h.type = w.type;
	h.name_len = w.name_len;
	h.len = mc_get32(w.len);
	h.id = mc_get64(w.id);
	h.reply_len = mc_get32(w.reply);
	h.timeout_ns = mc_get64(w.timeout);
	if (h.len > MC_RPC_MESSAGE_MAX)
		return bad(-EPROTO, "message longer than 1 MiB", ret_why);
	switch (h.type) {
	case MC_RPC_REQUEST:
		h.method = mc_get32(w.code);
		if (h.name_len < 1 || h.name_len > MC_RPC_SERVICE_NAME_MAX)
			return bad(-EPROTO, "service name of a bad length", ret_why);
		break;
	case MC_RPC_REPLY:
		h.status = (int32_t)mc_get32(w.code);
		if (h.status > 0 || h.status < -4095 || h.name_len != 0)
			return bad(-EPROTO, "reply with a bad status or with a name", ret_why);
		if (h.len != h.reply_len && (h.len != 0 || h.status != -EMSGSIZE))
			return bad(-EPROTO, "reply of two lengths", ret_why);
		break;
	default:
		if (h.len != 0 || h.name_len != 0)
			return bad(-EPROTO, "ping with a payload", ret_why);
	}
	*ret_head = h;
	return 0;
}

bool mc_rpc_name_ok(const char *name, size_t len)
{
	if (len < 1 || len > MC_RPC_SERVICE_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
		      c == '-'))
			return false;
	}
	return true;
}
