/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of remote staging as bytes; the layout is in stage_wire.h.  What
 * is read here comes from another engine: everything is checked before use.
 */
#include "stage_wire.h"

#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "core/util/check.h"

bool mc_stage_from_active(uint16_t type)
{
	return type == MC_MSG_STAGE_REQUEST || type == MC_MSG_STAGE_COMMIT ||
	       type == MC_MSG_STAGE_RELEASE || type == MC_MSG_STAGE_ABORT;
}

size_t mc_stage_put(uint16_t type, const struct mc_stage_msg *msg, uint8_t *out)
{
	mc_put64(out, msg->tag);
	if (type == MC_MSG_STAGE_REQUEST) {
		mc_put64(out + 8, msg->generation);
		mc_put64(out + 16, msg->offset);
		mc_put64(out + 24, msg->len);
		memset(out + 32, 0, 8);
		out[32] = msg->opcode;
		return MC_STAGE_REQUEST_SIZE;
	}
	if (type != MC_MSG_STAGE_GRANT)
		return MC_STAGE_TAG_SIZE;
	mc_put64(out + 8, msg->addr);
	mc_put64(out + 16, msg->len);
	mc_put64(out + 24, msg->base);
	mc_put64(out + 32, msg->region_len);
	mc_put32(out + 40, msg->pool);
	mc_put16(out + 44, msg->blob_len);
	mc_put16(out + 46, 0);
	if (msg->blob_len)
		memcpy(out + MC_STAGE_GRANT_SIZE, msg->blob, msg->blob_len);
	return MC_STAGE_GRANT_SIZE + msg->blob_len;
}

static int parse_request(const uint8_t *at, size_t len, struct mc_stage_msg *m)
{
	static const uint8_t zero[7];

	if (len != MC_STAGE_REQUEST_SIZE || memcmp(at + 33, zero, sizeof zero) != 0)
		return -EBADMSG;
	m->generation = mc_get64(at + 8);
	m->offset = mc_get64(at + 16);
	m->len = mc_get64(at + 24);
	m->opcode = at[32];
	if (!m->len || m->offset + m->len < m->offset || m->opcode >= MC_OP_COUNT)
		return -EBADMSG;
	return 0;
}

static int parse_grant(const uint8_t *at, size_t len, int status, struct mc_stage_msg *m)
{
	if (len < MC_STAGE_GRANT_SIZE)
		return -EBADMSG;
	m->addr = mc_get64(at + 8);
	m->len = mc_get64(at + 16);
	m->base = mc_get64(at + 24);
	m->region_len = mc_get64(at + 32);
	m->pool = mc_get32(at + 40);
	m->blob_len = mc_get16(at + 44);
	m->blob = at + MC_STAGE_GRANT_SIZE;
	if (m->blob_len > MC_EXPORT_BLOB_MAX || len != (size_t)MC_STAGE_GRANT_SIZE + m->blob_len)
		return -EBADMSG;
	if (status < 0)
		return 0;
	if (!m->len || !(m->pool & MC_STAGE_POOL_BIT) || m->base + m->region_len < m->base ||
	    !mc_range_inside(m->base, m->region_len, m->addr, m->len))
		return -EBADMSG;
	return 0;
}

int mc_stage_parse(uint16_t type, int status, const void *body, size_t len, struct mc_stage_msg *ret)
{
	struct mc_stage_msg m = {0};
	int r = 0;

	if (len < MC_STAGE_TAG_SIZE || type < MC_MSG_STAGE_REQUEST || type >= MC_MSG_STAGE_END)
		return -EBADMSG;
	m.tag = mc_get64(body);
	if (type == MC_MSG_STAGE_REQUEST)
		r = parse_request(body, len, &m);
	else if (type == MC_MSG_STAGE_GRANT)
		r = parse_grant(body, len, status, &m);
	else if (len != MC_STAGE_TAG_SIZE)
		r = -EBADMSG;
	if (!r)
		*ret = m;
	return r;
}
