/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What blocks of a class are worth at an age, learnt from a sample of all accesses: a ring of the
 * last ones whose key's hash is in the sample, whether the block is still stored or not.  An entry
 * of the ring lives until its block is accessed again; how many live entries pass each age, and how
 * many are accessed there, are counted by class.
 */
#ifndef MC_POLICY_LEARN_H
#define MC_POLICY_LEARN_H

#include <stdint.h>
#include <stddef.h>

#define LEARN_CLASSES 32u
#define LEARN_BINS 56u /* of ages, four to an octave */

struct learn_entry {
	uint64_t key;
	uint32_t time;
	uint8_t class, live;
	uint16_t reserved;
};

struct learn {
	struct learn_entry *ring;
	uint32_t *table; /* key -> its live entry, linear probing; NONE: nothing */
	uint32_t ring_mask; /* entries are a power of two, the table twice as many */
	uint32_t nr_pushed; /* entries ever; the ring has the last ones */
	uint32_t passed[LEARN_BINS]; /* entries that have come to the age where a bin begins */
	uint64_t sampled; /* keys are in the sample whose hash is below it */
	uint32_t unit; /* accesses in the first bin */
	float bound[LEARN_BINS + 1]; /* ages where bins begin */
	float reached[LEARN_CLASSES][LEARN_BINS], hit[LEARN_CLASSES][LEARN_BINS];
	float nr_reached[LEARN_BINS]; /* of all classes, since the bin was halved */
	float worth[LEARN_CLASSES][LEARN_BINS];
};

int learn_init(struct learn *l, uint64_t capacity);
void learn_fini(struct learn *l);
/* An access at a time, of a block that is of a class from then on. */
void learn_access(struct learn *l, uint64_t key, uint32_t now, uint8_t class);
/* Work out the worth of all classes. */
void learn_settle(struct learn *l);
uint32_t learn_bin(const struct learn *l, uint32_t age);
size_t learn_memory(const struct learn *l);

#endif
