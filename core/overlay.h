/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin's table of operations laid over stubs, so that callers never test for NULL. */
#ifndef MC_CORE_OVERLAY_H
#define MC_CORE_OVERLAY_H

#include "loader.h"

/* Fill p->ops and p->has_* from p->desc.  Tables may be shorter or longer than ours.  Returns NULL,
 * or the name of a required operation (or the head of the table) that is missing. */
const char *mc_overlay(struct mc_plugin *p);

#endif
