/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding of control frames; foreign bytes, checked before use. */
#include <errno.h>
#include <string.h>

#include "session_wire.h"
#include "stream_wire.h"
#include "core/util/bytes.h"
#include "core/util/check.h"

/* head                     hello                 bye
 *  0 u32 len                0 u64 session_id      0 u16 errno code
 *  4 u16 type               8 u64 received        2 u16 why_len
 *  6 u16 0                 16 u32 link            4 why
 *  8 u64 seq               20 u32 flags
 * 16 u64 ack               24 u32 json_len
 *                          28 u32 0
 *                          32 json
 */
void mc_frame_encode(const struct mc_frame *frame, uint8_t out[MC_FRAME_HEAD])
{
	mc_put32(out, frame->len);
	mc_put16(out + 4, frame->type);
	mc_put16(out + 6, 0);
	mc_put64(out + 8, frame->seq);
	mc_put64(out + 16, frame->ack);
}

int mc_frame_decode(const uint8_t head[MC_FRAME_HEAD], struct mc_frame *ret_frame)
{
	struct mc_frame f = {.len = mc_get32(head),
			     .type = mc_get16(head + 4),
			     .seq = mc_get64(head + 8),
			     .ack = mc_get64(head + 16)};

	if (f.len > MC_FRAME_MAX)
		return -EMSGSIZE;
	if (f.type == 0 || (f.type < MC_MSG_TABLE) != (f.seq == 0))
		return -EBADMSG;
	*ret_frame = f;
	return 0;
}

void mc_hello_head_encode(const struct mc_hello_head *head, uint8_t out[MC_HELLO_FIXED])
{
	memset(out, 0, MC_HELLO_FIXED);
	mc_put64(out, head->session_id);
	mc_put64(out + 8, head->received);
	mc_put32(out + 16, head->link);
	mc_put32(out + 20, head->flags);
	mc_put32(out + 24, (uint32_t)head->json_len);
}

int mc_hello_head_decode(const uint8_t *payload, size_t len, struct mc_hello_head *ret_head)
{
	struct mc_hello_head h;

	if (len < MC_HELLO_FIXED)
		return -EBADMSG;
	h.session_id = mc_get64(payload);
	h.received = mc_get64(payload + 8);
	h.link = mc_get32(payload + 16);
	h.flags = mc_get32(payload + 20);
	h.json_len = mc_get32(payload + 24);
	h.json = (const char *)payload + MC_HELLO_FIXED;
	if (h.json_len > len - MC_HELLO_FIXED)
		return -EBADMSG;
	*ret_head = h;
	return 0;
}

size_t mc_bye_encode(int status, const char *why, uint8_t out[4 + MC_BYE_WHY_MAX])
{
	size_t len = strnlen(why, MC_BYE_WHY_MAX);

	mc_put16(out, mc_wire_of_errno(status));
	mc_put16(out + 2, (uint16_t)len);
	memcpy(out + 4, why, len);
	return 4 + len;
}

int mc_bye_decode(const uint8_t *payload, size_t len, int *ret_status, char why[MC_BYE_WHY_MAX + 1])
{
	size_t n;

	if (len < 4)
		return -EBADMSG;
	n = mc_get16(payload + 2);
	if (n > len - 4)
		return -EBADMSG;
	n = MC_MIN(n, MC_BYE_WHY_MAX);
	memcpy(why, payload + 4, n);
	why[n] = '\0';
	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)why[i] < ' ' || why[i] == 0x7f)
			why[i] = '?';
	}
	*ret_status = mc_errno_of_wire(mc_get16(payload));
	return 0;
}
