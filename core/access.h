/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access lists: which peers, by segment name, may read and write our buffers.
 * Decided once per connection at the port and held for a session's lifetime.
 */
#ifndef MC_CORE_ACCESS_H
#define MC_CORE_ACCESS_H

#include <mooncake/types.h>

struct mc_access;

/* Of a config value: JSON text or the path of a file; "" gives NULL, which denies nothing.  [any] */
int mc_access_parse(const char *text, struct mc_access **ret_access, struct mc_error *err);
void mc_access_free(struct mc_access *access);

/* MC_ACCESS_REMOTE_* that this peer does not have; if it has none of them, and only then, the end of
 * a sentence goes to why: which rule it is.  [any] */
uint32_t mc_access_denied(const struct mc_access *access, const char *peer, char *why, size_t size);

#endif
