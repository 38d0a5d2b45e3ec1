/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between the two ends of a path, over the control connection; all
 * integers little-endian.  Each begins with the head:
 *
 *    0  u32  rail id, chosen by the active side
 *    4  u16  lane of the active side
 *    6  u16  0
 *    8  u32  epoch of the connection
 *   12  i32  status: 0 or -errno (OPENED, BROKEN)
 *
 * and goes on with: OPEN, the fields below; OPENED and BROKEN, a sentence; HANDSHAKE, the
 * plugin's bytes; FENCE and FENCED, nothing.
 *
 * OPEN:
 *    0  u16  lane wanted at the passive side
 *    2  u16  version of the wire
 *    4  four names, each a u8 length and its bytes: transport and device of the passive side,
 *       transport and device of the active side
 */
#ifndef MC_CORE_PATH_WIRE_H
#define MC_CORE_PATH_WIRE_H

#include <mooncake/types.h>

#define MC_PATH_HEAD_RAIL 0
#define MC_PATH_HEAD_LANE 4
#define MC_PATH_HEAD_RESERVED 6
#define MC_PATH_HEAD_EPOCH 8
#define MC_PATH_HEAD_STATUS 12
#define MC_PATH_HEAD_SIZE 16

#define MC_PATH_OPEN_REMOTE_LANE 0
#define MC_PATH_OPEN_WIRE_VERSION 2
#define MC_PATH_OPEN_FIXED 4
#define MC_PATH_OPEN_MAX (MC_PATH_OPEN_FIXED + 2 * (MC_PLUGIN_NAME_MAX + 1 + MC_DEVICE_NAME_MAX + 1))

/* What a peer may have in one session, whatever its devices allow; a hostile one is stopped there. */
#define MC_PATHS_PER_SESSION 1024
#define MC_STREAMS_PER_SESSION 1024
#define MC_NOTES_PER_SESSION (16u << 20) /* bytes that wait for workers */
/* Twice what a transport may ask for: one whose answer was lost is dialled again. */
#define MC_STREAMS_PER_PATH 32

struct mc_path_open {
	uint16_t lane, wire_version;
	char transport[MC_PLUGIN_NAME_MAX + 1], device[MC_DEVICE_NAME_MAX + 1];
	char from_transport[MC_PLUGIN_NAME_MAX + 1], from_device[MC_DEVICE_NAME_MAX + 1];
};
/* Write what follows the head of OPEN; returns its length.  Names fit their fields. */
size_t mc_path_open_encode(const struct mc_path_open *open, uint8_t body[MC_PATH_OPEN_MAX]);
/* Check and read it.  -EBADMSG. */
int mc_path_open_decode(const void *body, size_t len, struct mc_path_open *ret);

#endif
