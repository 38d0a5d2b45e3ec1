/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types that applications and plugins share: error sentences, operation codes,
 * access rights, the scope of a failure.  ISO C only; includes nothing of ours.
 */
#ifndef MOONCAKE_TYPES_H
#define MOONCAKE_TYPES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MC_EXPORT __attribute__((visibility("default")))
#define MC_PRINTF(fmt_idx, arg_idx) __attribute__((format(printf, fmt_idx, arg_idx)))
#else
#define MC_EXPORT
#define MC_PRINTF(fmt_idx, arg_idx)
#endif

/* A span that never ends.  Every call that can wait takes a span in nanoseconds. */
#define MC_FOREVER UINT64_MAX
#define MC_MSEC UINT64_C(1000000)
#define MC_SEC UINT64_C(1000000000)

/* Longest segment, device and plugin names, in bytes, without the final NUL. */
#define MC_SEGMENT_NAME_MAX 255
#define MC_DEVICE_NAME_MAX 63
#define MC_PLUGIN_NAME_MAX 31
#define MC_LOCATION_MAX 31

/*
 * One sentence that says what was tried, on what, why it failed and what to do.
 * Filled by cold calls when they return < 0; code is that negative errno.  The
 * layout is frozen.
 */
#define MC_ERROR_TEXT_MAX 1020
struct mc_error {
	int32_t code;
	char text[MC_ERROR_TEXT_MAX];
};

/* Fill err (which may be NULL) and return code: `return mc_fail(err, -EINVAL, "...");`  Control characters of what
 * is quoted, which may come from a stranger and end up in a terminal, become blanks. [any] */
static inline int mc_fail(struct mc_error *err, int code, const char *fmt, ...) MC_PRINTF(3, 4);
static inline int mc_fail(struct mc_error *err, int code, const char *fmt, ...)
{
	if (err) {
		va_list ap;

		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof err->text, fmt, ap);
		va_end(ap);
		for (char *c = err->text; *c; c++)
			if ((unsigned char)*c < ' ' || *c == 0x7f)
				*c = ' ';
	}
	return code;
}

/* The direction of a request, seen from the engine that submits it. */
enum mc_opcode {
	MC_OP_READ = 0,  /* remote segment to local memory */
	MC_OP_WRITE = 1, /* local memory to remote segment */
	MC_OP_COUNT
};

/* What others may do with a buffer. */
#define MC_ACCESS_LOCAL 0u               /* source and destination of our own requests only */
#define MC_ACCESS_REMOTE_READ (1u << 0)
#define MC_ACCESS_REMOTE_WRITE (1u << 1)
#define MC_ACCESS_ALL (MC_ACCESS_REMOTE_READ | MC_ACCESS_REMOTE_WRITE)

/* The largest thing that broke when a request or slice failed; retry follows from it. */
enum mc_scope {
	MC_SCOPE_NONE = 0,  /* nothing broke */
	MC_SCOPE_REQUEST,   /* this request alone: bad range, no rights */
	MC_SCOPE_PEER,      /* the path to this peer */
	MC_SCOPE_NIC,       /* the local device */
	MC_SCOPE_TRANSPORT, /* every device of the transport */
	MC_SCOPE_COUNT
};

enum mc_log_level {
	MC_LOG_ERROR = 0, /* what the user asked for failed */
	MC_LOG_WARN,      /* goes on, worse, and says how */
	MC_LOG_INFO,      /* things opened and closed */
	MC_LOG_DEBUG,     /* per peer */
	MC_LOG_TRACE,     /* per slice; compiled out unless -Dtrace=true */
	MC_LOG_COUNT
};

#ifdef __cplusplus
}
#endif
#endif
