/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory kinds: "cpu" is the core's own, others come from memory plugins, opened
 * when a location of the kind appears.
 */
#ifndef MC_CORE_KIND_H
#define MC_CORE_KIND_H

#include <mooncake/memory.h>

#include "engine.h"

int mc_kinds_new(struct mc_engine *engine);
void mc_kinds_free(struct mc_engine *engine);

/* Make sure that the kind's plugin is open ("cpu" always is).  [any] that may block */
int mc_kind_open(struct mc_engine *engine, const char *kind, struct mc_error *err);
/* What the memory at [addr, addr + len) is: asks the open kinds, else "cpu".  desc->size is set.  [any] */
int mc_kind_identify(struct mc_engine *engine, const void *addr, uint64_t len,
		     struct mc_mem_desc *desc);
/* Memory of a kind ("cpu": pages on that node, huge ones if it is large, and if share
 * says so such as another process may map, by desc->share_fd, which is closed with the memory and
 * stays -1 where the system lets us not).  [helper or caller] */
int mc_kind_alloc(struct mc_engine *engine, struct mc_mem_desc *desc, bool share, struct mc_error *err);
void mc_kind_free(struct mc_engine *engine, struct mc_mem_desc *desc);
/* The kind is open and can copy to and from host memory.  [any] */
bool mc_kind_copies(const struct mc_engine *engine, const char *kind);
/* A dma-buf of memory that the CPU cannot touch: desc->dmabuf_fd (the caller's to close) and offset.
 * -ENOTSUP: its kind has none.  [helper] */
int mc_kind_export_dmabuf(struct mc_engine *engine, struct mc_mem_desc *desc, struct mc_error *err);
/* How many bytes from desc->addr on devices register together.  desc->kind is set.  [any] */
int mc_kind_extent(struct mc_engine *engine, const struct mc_mem_desc *desc, uint64_t *ret_len);
/* Host memory that copies of every open kind will go through, and no more.  [helper] */
void mc_kinds_pin(struct mc_engine *engine, void *addr, uint64_t len);
void mc_kinds_unpin(struct mc_engine *engine, void *addr);
/* Start a copy for a lane: MC_DONE, 0 (c->done runs on the worker later), -EAGAIN, -errno.  [worker] */
int mc_kind_copy(struct mc_engine *engine, struct mc_worker *worker, struct mc_copy *c);
/* Make writes that devices did visible, for every open kind, before a notify is delivered.  May take
 * as long as a device's copy.  [any] but the control loop and workers */
void mc_kinds_flush(struct mc_engine *engine);
/* Is a kind open that has writes to make visible?  [any] */
bool mc_kinds_any(struct mc_engine *engine);
/* Interned name of a kind: equal kinds have equal pointers for the life of the process. */
const char *mc_kind_name(const char *kind);

#endif
