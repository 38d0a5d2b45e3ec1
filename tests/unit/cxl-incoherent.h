/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Caches that nothing keeps coherent, for the cxl transport: each mapping of a pool
 * has a private copy, which meets the file only where the transport says so.  A
 * line of it is like one of a cache: at first it holds what somebody left there,
 * stores stay in it, writing back takes effect with the next fence, and a dirty
 * line that is dropped is written back first.
 *
 * Takes the place of cxl_cache.c.  One rule can be broken on purpose.
 */
#ifndef MC_TESTS_INCOHERENT_H
#define MC_TESTS_INCOHERENT_H

#include "cxl_cache.h"

enum inc_op { INC_WRITE_BACK = 1, INC_DROP, INC_STREAM, INC_FENCE, INC_FORGET, INC_SETTLE, INC_NR_OPS };

/* From now on calls of this kind for this rule do nothing; rule 0: all do what they should. */
void inc_break(enum cxl_rule rule, enum inc_op op);
/* How often it was called so far. */
unsigned inc_calls(enum cxl_rule rule, enum inc_op op);
/* Called before bytes of a WRITE of at least this many bytes go to the pool; NULL: no more. */
void inc_on_write(uint64_t least, void (*hook)(void *arg), void *arg);
/* Every cache, those of mappings that are gone too, gives back its dirty lines, as it may at any time. */
void inc_evict(void);
/* Forget the mappings that are gone. */
void inc_forget(void);

#endif
