/* SPDX-License-Identifier: Apache-2.0 */
/*
 * yajl's events with the place of each value.  Strings are copied so that they end
 * with a NUL; one that holds a NUL is refused, for no name or path does.
 */
#include "json_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_parse.h>

int p2pc_json_fail(struct p2pc_json *j, const char *fmt, ...)
{
	char what[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	return mc_fail(j->err, -EBADMSG, "%s: %s", j->what, what);
}

bool p2pc_json_at(const struct p2pc_json *j, size_t depth, const char *key)
{
	return j->depth == depth && depth && !j->level[depth - 1].list && strcmp(j->level[depth - 1].key, key) == 0;
}

int p2pc_json_count(struct p2pc_json *j, const char *name, enum p2pc_json_type type, const char *text, uint64_t *ret)
{
	uint64_t v = 0;

	if (type != P2PC_JSON_NUMBER)
		return p2pc_json_fail(j, "%s is not a number", name);
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9' || v > (INT64_MAX - 9) / 10)
			return p2pc_json_fail(j, "%s is %.40s, which is not a whole number below 2^63", name, text);
		v = v * 10 + (uint64_t)(*p - '0');
	}
	*ret = v;
	return 0;
}

/* ---- what the parser tells -------------------------------------------------------------------- */

static int tell(struct p2pc_json *j, enum p2pc_json_type type, const void *text, size_t len)
{
	int r;

	if (memchr(text, 0, len)) {
		j->status = p2pc_json_fail(j, "a text holds a NUL");
		return 0;
	}
	if (len >= j->cap) {
		char *more = realloc(j->text, len + 64);

		if (!more) {
			j->status = mc_fail(j->err, -ENOMEM, "%s: out of memory", j->what);
			return 0;
		}
		j->text = more;
		j->cap = len + 64;
	}
	memcpy(j->text, text, len);
	j->text[len] = '\0';
	r = j->each(j, type, j->text, len);
	if (r < 0)
		j->status = r;
	return r >= 0;
}

/* An element of a list has passed. */
static int passed(struct p2pc_json *j, int ok)
{
	if (j->depth && j->depth <= P2PC_JSON_DEPTH && j->level[j->depth - 1].list)
		j->level[j->depth - 1].idx++;
	return ok;
}

static int on_null(void *ctx)
{
	return passed(ctx, tell(ctx, P2PC_JSON_NULL, "", 0));
}

static int on_bool(void *ctx, int value)
{
	return passed(ctx, tell(ctx, P2PC_JSON_BOOL, value ? "true" : "false", value ? 4 : 5));
}

static int on_number(void *ctx, const char *s, size_t len)
{
	return passed(ctx, tell(ctx, P2PC_JSON_NUMBER, s, len));
}

static int on_text(void *ctx, const unsigned char *s, size_t len)
{
	return passed(ctx, tell(ctx, P2PC_JSON_TEXT, s, len));
}

static int push(struct p2pc_json *j, bool list)
{
	if (!tell(j, list ? P2PC_JSON_LIST : P2PC_JSON_MAP, "", 0))
		return 0;
	if (j->depth < P2PC_JSON_DEPTH) {
		j->level[j->depth].list = list;
		j->level[j->depth].idx = 0;
		j->level[j->depth].key[0] = '\0';
	}
	j->depth++;
	return 1;
}

static int pop(struct p2pc_json *j)
{
	j->depth--;
	return passed(j, tell(j, P2PC_JSON_END, "", 0));
}

static int on_map(void *ctx)
{
	return push(ctx, false);
}

static int on_list(void *ctx)
{
	return push(ctx, true);
}

static int on_end(void *ctx)
{
	return pop(ctx);
}

static int on_key(void *ctx, const unsigned char *key, size_t len)
{
	struct p2pc_json *j = ctx;

	if (memchr(key, 0, len)) {
		j->status = p2pc_json_fail(j, "a key holds a NUL");
		return 0;
	}
	if (j->depth <= P2PC_JSON_DEPTH) {
		char *to = j->level[j->depth - 1].key;

		len = len < P2PC_JSON_KEY ? len : P2PC_JSON_KEY - 1;
		memcpy(to, key, len);
		to[len] = '\0';
	}
	return 1;
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_bool,
	.yajl_number = on_number,
	.yajl_string = on_text,
	.yajl_start_map = on_map,
	.yajl_map_key = on_key,
	.yajl_end_map = on_end,
	.yajl_start_array = on_list,
	.yajl_end_array = on_end,
};

/* ---- a text ----------------------------------------------------------------------------------- */

static int syntax_error(struct p2pc_json *j, yajl_handle h, const unsigned char *text, size_t len)
{
	size_t end = yajl_get_bytes_consumed(h), line = 1, column = 1;
	unsigned char *why = yajl_get_error(h, 0, text, len);
	int r;

	for (size_t i = 0; i < end && i < len; i++) {
		column = text[i] == '\n' ? 1 : column + 1;
		line += text[i] == '\n';
	}
	if (why)
		why[strcspn((char *)why, "\n")] = '\0';
	r = p2pc_json_fail(j, "no JSON at line %zu, column %zu: %.200s", line, column, why ? (char *)why : "out of memory");
	if (why)
		yajl_free_error(h, why);
	return r;
}

int p2pc_json_read(struct p2pc_json *j, const void *text, size_t len)
{
	yajl_handle h = yajl_alloc(&callbacks, NULL, j);
	yajl_status status;

	j->depth = 0;
	j->status = 0;
	j->text = NULL;
	j->cap = 0;
	if (!h)
		return mc_fail(j->err, -ENOMEM, "%s: out of memory", j->what);
	status = yajl_parse(h, text, len);
	if (status == yajl_status_ok)
		status = yajl_complete_parse(h);
	if (status != yajl_status_ok && j->status == 0)
		j->status = syntax_error(j, h, text, len);
	yajl_free(h);
	free(j->text);
	return j->status;
}
