/* SPDX-License-Identifier: Apache-2.0 */
/* Texts that programs read from people and writes for them: sizes, rates, times, JSON strings. */
#ifndef MC_PROGRAM_TEXT_H
#define MC_PROGRAM_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* UTF-8 (no surrogates, nothing overlong) without control characters. */
bool mc_text_plain(const char *text, size_t len);
/* A string as JSON, in quotes; what is no UTF-8 becomes '?'. */
void mc_text_json(FILE *f, const char *text);
/* The same for a terminal, without quotes: what it would obey becomes '?'. */
void mc_text_tame(FILE *f, const char *text);

/* "1.5 GiB", "312 B". */
#define MC_TEXT_MAX 24
const char *mc_text_size(uint64_t bytes, char buf[MC_TEXT_MAX]);
/* "3 s", "2 min 05 s", "1 h 07 min". */
const char *mc_text_seconds(double seconds, char buf[MC_TEXT_MAX]);
/* "64K", "1.5GiB", "2GB", "100": 1024 but for KB, MB, GB, TB.  0; -EINVAL. */
int mc_text_parse_size(const char *text, uint64_t *ret);
/* A rate in bytes per second: a size, or with "/s" after it, or bits as in "10Gbit".  0; -EINVAL. */
int mc_text_parse_rate(const char *text, uint64_t *ret);
/* "2.5", "10s", "500ms", "3min", "2h", in seconds.  0; -EINVAL. */
int mc_text_parse_seconds(const char *text, double *ret);

#endif
