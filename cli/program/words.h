/* SPDX-License-Identifier: Apache-2.0 */
/* Words that people write on a command line or in a job: numbers with units, and misspelt names. */
#ifndef MC_PROGRAM_WORDS_H
#define MC_PROGRAM_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Edit distance of two names; of b the first 127 bytes count. */
size_t mc_word_distance(const char *a, const char *b);
/* Which of nr names is the closest, and how far it is. */
size_t mc_word_closest(const char *word, const char *(*name)(size_t idx), size_t nr, size_t *ret_distance);
/* A whole number; with units also "64K", "1.5GiB", "2GB".  0; -EINVAL. */
int mc_word_number(const char *text, bool units, int64_t *ret);
/* A finite number: "0.99".  0; -EINVAL. */
int mc_word_real(const char *text, double *ret);
/* Seconds: "2.5", "10s", "2ms", "50us", "3min".  0; -EINVAL. */
int mc_word_seconds(const char *text, double *ret);

#endif
