/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk: yajl's events, with a stack of keys and indices from which the place of
 * a value is written.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "json_walk.h"

/* ---- where we are ------------------------------------------------------------------------------ */

/* "$.points[3].stack"; with any: "points[].stack", as tables have it.  False: too deep for one. */
static bool place(const struct walk *w, bool any, char buf[WALK_PLACE])
{
	size_t n = (size_t)snprintf(buf, WALK_PLACE, "%s", any ? "" : "$");

	for (size_t i = 0; i < w->depth && i < WALK_DEPTH; i++) {
		if (w->stack[i].array && any)
			n += (size_t)snprintf(buf + n, WALK_PLACE - n, "[]");
		else if (w->stack[i].array)
			n += (size_t)snprintf(buf + n, WALK_PLACE - n, "[%llu]",
					      (unsigned long long)w->stack[i].idx);
		else
			n += (size_t)snprintf(buf + n, WALK_PLACE - n, "%s%s", any && i == 0 ? "" : ".",
					      w->stack[i].key);
	}
	return w->depth <= WALK_DEPTH;
}

int walk_refuse(struct walk *w, const char *fmt, ...)
{
	char at[WALK_PLACE], what[512];
	va_list ap;

	place(w, false, at);
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	snprintf(w->error, w->cap, "%s: %s: %s", w->path, at, what);
	return 0;
}

/* ---- values ------------------------------------------------------------------------------------ */

int walk_take_number(struct walk *w, const char *text, double max, double *ret)
{
	double v = strtod(text, NULL);

	if (!(v >= 0) || !(v <= max))
		return walk_refuse(w, "%.40s is not a number from 0 to %g", text, max);
	*ret = v;
	return 1;
}

int walk_take_count(struct walk *w, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (*end || errno || *text == '-' || v < min || v > max)
		return walk_refuse(w, "%.40s is not a whole number from %llu to %llu", text,
				   (unsigned long long)min, (unsigned long long)max);
	*ret = v;
	return 1;
}

int walk_take_word(struct walk *w, const char *text, const char *no, const char *yes, bool *ret)
{
	if (strcmp(text, no) != 0 && strcmp(text, yes) != 0)
		return walk_refuse(w, "'%.40s' is neither '%s' nor '%s'", text, no, yes);
	*ret = strcmp(text, yes) == 0;
	return 1;
}

/* ---- what the parser tells --------------------------------------------------------------------- */

/* An element of an array has passed. */
static int passed(struct walk *w, int ok)
{
	if (w->depth && w->depth <= WALK_DEPTH && w->stack[w->depth - 1].array)
		w->stack[w->depth - 1].idx++;
	return ok;
}

/* text is NULL for null alone. */
static int on_value(struct walk *w, enum walk_type type, const char *text, size_t len)
{
	char at[WALK_PLACE], copy[WALK_TEXT_MAX];
	int wants = place(w, true, at) ? w->ops->wants(w, at, type) : 0;

	if (wants <= 0)
		return wants < 0 ? 0 : passed(w, 1);
	if (text && memchr(text, 0, len))
		return walk_refuse(w, "the text holds a NUL");
	if (type == WALK_NUMBER && len >= 64)
		return walk_refuse(w, "a number of %zu digits", len);
	if (text)
		snprintf(copy, sizeof copy, "%.*s", (int)(len < sizeof copy ? len : sizeof copy - 1), text);
	return passed(w, w->ops->value(w, at, type, text ? copy : NULL));
}

static int on_text(void *ctx, const unsigned char *s, size_t len)
{
	return on_value(ctx, WALK_TEXT, (const char *)s, len);
}

static int on_number(void *ctx, const char *s, size_t len)
{
	return on_value(ctx, WALK_NUMBER, s, len);
}

static int on_bool(void *ctx, int value)
{
	return on_value(ctx, WALK_BOOL, value ? "true" : "false", value ? 4 : 5);
}

static int on_null(void *ctx)
{
	return on_value(ctx, WALK_NULL, NULL, 0);
}

static int push(struct walk *w, enum walk_type type)
{
	char at[WALK_PLACE];

	if (place(w, true, at)) {
		if (w->ops->wants(w, at, type) < 0 || (type == WALK_OBJECT && !w->ops->begin(w, at)))
			return 0;
	}
	if (w->depth < WALK_DEPTH) {
		memset(&w->stack[w->depth], 0, sizeof w->stack[w->depth]);
		w->stack[w->depth].array = type == WALK_LIST;
	}
	w->depth++;
	return 1;
}

static int on_map(void *ctx)
{
	return push(ctx, WALK_OBJECT);
}

static int on_array(void *ctx)
{
	return push(ctx, WALK_LIST);
}

static int on_key(void *ctx, const unsigned char *key, size_t len)
{
	struct walk *w = ctx;

	/* A key that is cut short, or holds what a table's have not, equals none of a table's. */
	if (w->depth <= WALK_DEPTH) {
		char *to = w->stack[w->depth - 1].key;
		size_t n = len < WALK_KEY ? len : WALK_KEY - 1;

		for (size_t i = 0; i < n; i++)
			to[i] = key[i] && !strchr(".[]", key[i]) ? (char)key[i] : '?';
		to[n] = '\0';
	}
	return 1;
}

static int on_map_end(void *ctx)
{
	struct walk *w = ctx;
	char at[WALK_PLACE];

	w->depth--;
	return passed(w, place(w, true, at) ? w->ops->end(w, at) : 1);
}

static int on_array_end(void *ctx)
{
	struct walk *w = ctx;

	w->depth--;
	return passed(w, 1);
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_bool,
	.yajl_number = on_number,
	.yajl_string = on_text,
	.yajl_start_map = on_map,
	.yajl_map_key = on_key,
	.yajl_end_map = on_map_end,
	.yajl_start_array = on_array,
	.yajl_end_array = on_array_end,
};

/* ---- a file ------------------------------------------------------------------------------------ */

/* "path:line:column: what the parser says", in one line. */
static void syntax_error(struct walk *w, yajl_handle h, const unsigned char *text, size_t len)
{
	size_t end = yajl_get_bytes_consumed(h), line = 1, column = 1;
	unsigned char *why = yajl_get_error(h, 0, text, len);

	end = end < len ? end : len;
	for (size_t i = 0; i < end; i++) {
		column = text[i] == '\n' ? 1 : column + 1;
		line += text[i] == '\n';
	}
	if (why)
		why[strcspn((char *)why, "\n")] = '\0';
	snprintf(w->error, w->cap, "%s:%zu:%zu: not the JSON of %s: %s", w->path, line, column, w->ops->of,
		 why ? (char *)why : "out of memory");
	if (why)
		yajl_free_error(h, why);
}

int walk_parse(struct walk *w, const unsigned char *text, size_t len)
{
	yajl_handle h = yajl_alloc(&callbacks, NULL, w);
	yajl_status status;

	w->error[0] = '\0';
	if (!h) {
		snprintf(w->error, w->cap, "%s: out of memory", w->path);
		return -1;
	}
	status = yajl_parse(h, text, len);
	if (status == yajl_status_ok)
		status = yajl_complete_parse(h);
	if (status != yajl_status_ok && !w->error[0])
		syntax_error(w, h, text, len);
	yajl_free(h);
	return status == yajl_status_ok ? 0 : -1;
}

unsigned char *walk_load(const char *path, size_t max, size_t *ret_len, char *error, size_t cap)
{
	FILE *f = fopen(path, "re");
	unsigned char *text = f ? malloc(max + 1) : NULL;

	error[0] = '\0';
	if (text)
		*ret_len = fread(text, 1, max + 1, f);
	if (!text || ferror(f))
		snprintf(error, cap, "%s: %s", path, strerror(errno));
	else if (*ret_len > max)
		snprintf(error, cap, "%s: larger than %zu bytes", path, max);
	if (f)
		fclose(f);
	if (error[0]) {
		free(text);
		return NULL;
	}
	return text;
}
