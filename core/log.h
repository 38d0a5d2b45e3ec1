/* SPDX-License-Identifier: Apache-2.0 */
/* Logging of the core: one line per call, to stderr or the application's handler.  Keeps errno. */
#ifndef MC_CORE_LOG_H
#define MC_CORE_LOG_H

#include <mooncake/types.h>

extern int mc_log_level_now; /* read relaxed, set by mc_log_set_level */

/* [any] */
void mc_log(int level, const char *fmt, ...) MC_PRINTF(2, 3);
void mc_logv(int level, const char *prefix, const char *fmt, va_list ap);

#define mc_log_enabled(level) ((level) <= __atomic_load_n(&mc_log_level_now, __ATOMIC_RELAXED))
#define mc_error_log(...) mc_log(MC_LOG_ERROR, __VA_ARGS__)
#define mc_warn(...) mc_log(MC_LOG_WARN, __VA_ARGS__)
#define mc_info(...)                                                                               \
	do {                                                                                       \
		if (mc_log_enabled(MC_LOG_INFO))                                                   \
			mc_log(MC_LOG_INFO, __VA_ARGS__);                                          \
	} while (0)
#define mc_debug(...)                                                                              \
	do {                                                                                       \
		if (mc_log_enabled(MC_LOG_DEBUG))                                                  \
			mc_log(MC_LOG_DEBUG, __VA_ARGS__);                                         \
	} while (0)
#ifdef MC_TRACE
#define mc_trace(...) mc_log(MC_LOG_TRACE, __VA_ARGS__)
#else
#define mc_trace(...) ((void)0)
#endif

/* At most `burst` lines per ten seconds from this call site; the next one says how many were left out. */
struct mc_ratelimit {
	uint64_t window_ns;
	uint32_t used, dropped;
};
bool mc_ratelimit_ok(struct mc_ratelimit *rl, uint32_t burst, uint32_t *ret_dropped);

#endif
