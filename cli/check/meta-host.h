/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host for metadata plugins under test, without the core: a loop thread per
 * instance that plays the control loop (watch, timer, post), two helper threads
 * for run_blocking, and a log of the events of each watch.  It counts what a
 * plugin does against the contract.
 */
#ifndef MC_CHECK_META_HOST_H
#define MC_CHECK_META_HOST_H

#include "fake-host.h"

struct mh_event {
	char *key;
	unsigned char *value; /* NULL: deleted */
	uint64_t len, revision;
};

struct mh_inst;
struct mh_watch {
	struct mh_inst *inst;
	struct mh_event *events; /* [mx of the instance] */
	size_t nr, room;
	bool over; /* unwatch returned: an event now is a breach */
	_Alignas(64) unsigned char area[];
};

uint64_t mh_now(void); /* monotonic, ns */
void mh_sleep(uint64_t ns);

/* words: options, "name=value". */
int mh_open(const struct fake_plugin *p, const char *url, const char *const *words, size_t nr_words,
	    struct mh_inst **ret_inst, struct mc_error *err);
/* NULL is fine. */
void mh_close(struct mh_inst *inst);
void *mh_area(struct mh_inst *inst); /* what ops take first */
/* Breaches of the contract by all instances so far; the last one's sentence, and the section of
 * docs/plugin-abi.md that it is against (NULL is fine). */
unsigned mh_breaches(void);
const char *mh_last_breach(int *ret_section);
/* The nth call of alloc, or of watch, in all instances fails from now on: 1 = the next, 0 = none. */
void mh_fail(unsigned nth_alloc, unsigned nth_watch);
bool mh_failed(void); /* that call came */

int mh_watch(struct mh_inst *inst, const char *prefix, struct mh_watch **ret_watch,
	     struct mc_error *err);
void mh_unwatch(struct mh_watch *w);
void mh_watch_free(struct mh_watch *w); /* after mh_unwatch, before mh_close */
size_t mh_watch_count(struct mh_watch *w);
/* Wait until the last event of key is revision rev (0: deleted).  False: not within bound_ns. */
bool mh_watch_wait(struct mh_watch *w, const char *key, uint64_t rev, uint64_t bound_ns);

#endif
