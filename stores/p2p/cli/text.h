/* SPDX-License-Identifier: Apache-2.0 */
/* Texts that mooncake_p2p reads from people and writes for them: sizes, rates, times, JSON strings. */
#ifndef MC_P2P_CLI_TEXT_H
#define MC_P2P_CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* UTF-8 (no surrogates, nothing overlong) without control characters. */
bool p2pc_text_plain(const char *text, size_t len);
/* A string as JSON, in quotes; what is no UTF-8 becomes '?'. */
void p2pc_text_json(FILE *f, const char *text);
/* The same for a terminal, without quotes: what it would obey becomes '?'. */
void p2pc_text_tame(FILE *f, const char *text);

/* "1.5 GiB", "312 B". */
#define P2PC_SIZE_TEXT 24
const char *p2pc_size_text(uint64_t bytes, char buf[P2PC_SIZE_TEXT]);
/* "3 s", "2 min 05 s", "1 h 07 min". */
const char *p2pc_seconds_text(double seconds, char buf[P2PC_SIZE_TEXT]);
/* "64K", "1.5GiB", "2GB", "100": 1024 but for KB, MB, GB, TB.  0; -EINVAL. */
int p2pc_parse_size(const char *text, uint64_t *ret);
/* A rate in bytes per second: a size, or with "/s" after it, or bits as in "10Gbit".  0; -EINVAL. */
int p2pc_parse_rate(const char *text, uint64_t *ret);
/* "2.5", "10s", "500ms", "3min", "2h", in seconds.  0; -EINVAL. */
int p2pc_parse_seconds(const char *text, double *ret);

#endif
