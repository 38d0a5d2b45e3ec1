/* SPDX-License-Identifier: Apache-2.0 */
/* The message with which the active end of a path opens the passive one: written and checked. */
#include <errno.h>
#include <string.h>

#include "core/util/bytes.h"
#include "path_wire.h"

static size_t put_name(uint8_t *at, const char *name)
{
	size_t len = strlen(name);

	at[0] = (uint8_t)len;
	memcpy(at + 1, name, len);
	return len + 1;
}

size_t mc_path_open_encode(const struct mc_path_open *open, uint8_t body[MC_PATH_OPEN_MAX])
{
	size_t len = MC_PATH_OPEN_FIXED;

	mc_put16(body + MC_PATH_OPEN_REMOTE_LANE, open->lane);
	mc_put16(body + MC_PATH_OPEN_WIRE_VERSION, open->wire_version);
	len += put_name(body + len, open->transport);
	len += put_name(body + len, open->device);
	len += put_name(body + len, open->from_transport);
	len += put_name(body + len, open->from_device);
	return len;
}

static bool get_name(const uint8_t **at, const uint8_t *end, char *name, size_t size)
{
	size_t len;

	if (*at >= end)
		return false;
	len = **at;
	if (!len || len >= size || len > (size_t)(end - *at - 1) || memchr(*at + 1, 0, len))
		return false;
	memcpy(name, *at + 1, len);
	name[len] = '\0';
	*at += len + 1;
	return true;
}

int mc_path_open_decode(const void *body, size_t len, struct mc_path_open *ret)
{
	const uint8_t *at = body, *end = at + len;

	if (len < MC_PATH_OPEN_FIXED)
		return -EBADMSG;
	memset(ret, 0, sizeof *ret);
	ret->lane = mc_get16(at + MC_PATH_OPEN_REMOTE_LANE);
	ret->wire_version = mc_get16(at + MC_PATH_OPEN_WIRE_VERSION);
	at += MC_PATH_OPEN_FIXED;
	if (!get_name(&at, end, ret->transport, sizeof ret->transport) ||
	    !get_name(&at, end, ret->device, sizeof ret->device) ||
	    !get_name(&at, end, ret->from_transport, sizeof ret->from_transport) ||
	    !get_name(&at, end, ret->from_device, sizeof ret->from_device) || at != end)
		return -EBADMSG;
	return 0;
}
