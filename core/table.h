/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding of buffer tables; docs/wire.md, "Buffer tables". */
#ifndef MC_CORE_TABLE_H
#define MC_CORE_TABLE_H

#include "segment.h"
#include "session.h"

#define MC_ENTRY_FIXED 40
#define MC_ENTRY_MAX 60000u /* bytes of one buffer with all its blobs */
#define MC_TABLE_HEAD 16    /* u64 version, u32 flags, u32 count */
#define MC_TABLE_FIRST (1u << 0) /* begins a whole table; without it: additions */
#define MC_TABLE_LAST (1u << 1)  /* ends it */

/* Bytes of an entry; 0: it is larger than MC_ENTRY_MAX. */
size_t mc_entry_size(const struct mc_local_buf *buf, size_t nr_devices);
void mc_entry_encode(const struct mc_local_buf *buf, size_t nr_devices, uint8_t *out);
/* Make an entry what a peer without these rights is told: the others, and no device's keys if they would
 * give it more.  Its new size. */
size_t mc_entry_restrict(uint8_t *entry, uint32_t denied);
/* Read one entry at the front of len bytes; its size, or -EBADMSG, -ENOMEM.  The result has one
 * reference, see mc_remote_buf_unref. */
int mc_entry_decode(const uint8_t *p, size_t len, struct mc_remote_buf **ret_buf);
struct mc_remote_buf *mc_remote_buf_ref(struct mc_remote_buf *buf);
void mc_remote_buf_unref(struct mc_remote_buf *buf);
bool mc_remote_buf_same(const struct mc_remote_buf *a, const struct mc_remote_buf *b);
/* Index of the first of nr entries, sorted by base, whose base is above `base`. */
size_t mc_bufs_above(struct mc_remote_buf *const *bufs, size_t nr, uint64_t base);

#endif
