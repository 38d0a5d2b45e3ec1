/* SPDX-License-Identifier: Apache-2.0 */
/* What the master tells by HTTP, on the engine's port. */
#ifndef MC_MASTER_PAGES_H
#define MC_MASTER_PAGES_H

#include <mooncake/mooncake.h>

#include "keep.h"
#include "serve.h"

struct master_pages;

/* All three are borrowed until master_pages_close.  0; -EEXIST, -ENOMEM, ... */
int master_pages_open(struct mc_engine *engine, struct mc_master *state, struct master_server *server, struct master_keep *keep,
		      struct master_pages **ret_pages, struct mc_error *err);
/* Accepts NULL. */
void master_pages_close(struct master_pages *pages);
/* Take the figures that /metrics shows, which may not wait for the state's locks.  One thread, now and then. */
void master_pages_look(struct master_pages *pages, uint64_t now);

#endif
