/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON text to a tree with positions, and a writer: the one file that sees the
 * JSON library.  The library's streaming parser is used, because it keeps its
 * nesting on the heap and its numbers as text; the tree is built here, bounded
 * in depth and number of values.
 */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <string.h>
#include <yajl/yajl_gen.h>
#include <yajl/yajl_parse.h>

#include "json.h"
#include "util/check.h"
#include "util/cleanup.h"

#define JSON_SIZE_MAX (16u << 20)
#define JSON_DEPTH_MAX 64
#define JSON_VALUES_MAX (1u << 20)
#define JSON_NUMBER_MAX 64

/* A list that is being filled.  It moves into its parent when it is closed, so that no pointer
 * into a growing array is kept. */
struct frame {
	struct mc_json node;
	char *next_key; /* read, its value not yet */
	size_t cap;
};

struct parser {
	yajl_handle yajl;
	const char *what, *text;
	size_t len;
	size_t end;            /* of the token seen last */
	size_t pos;            /* line and column are those of this byte */
	uint32_t line, column;
	size_t nr_values;
	struct frame frames[JSON_DEPTH_MAX + 1]; /* 0 holds the document */
	size_t depth;
	struct mc_error *err;
	int result; /* why a callback gave up; 0: the text itself is bad */
};

static void node_fini(struct mc_json *node)
{
	free(node->key);
	if (node->type == MC_JSON_STRING)
		free(node->s);
	if (node->type == MC_JSON_ARRAY || node->type == MC_JSON_OBJECT) {
		/* At most JSON_DEPTH_MAX deep. */
		for (size_t i = 0; i < node->list.nr; i++)
			node_fini(&node->list.items[i]);
		free(node->list.items);
	}
}

void mc_json_free(struct mc_json *json)
{
	if (!json)
		return;
	node_fini(json);
	free(json);
}

/* Move line and column on to byte `to`; columns count characters. */
static void advance(struct parser *p, size_t to)
{
	to = MC_MIN(to, p->len);
	for (; p->pos < to; p->pos++) {
		unsigned char c = (unsigned char)p->text[p->pos];

		if (c == '\n') {
			p->line++;
			p->column = 1;
		} else if ((c & 0xc0) != 0x80) {
			p->column++;
		}
	}
}

/* Where the token after the last one begins: the library tells only where tokens end. */
static void find_token(struct parser *p)
{
	size_t start = p->end;

	while (start < p->len && strchr(" \t\r\n,:", p->text[start]) && p->text[start])
		start++;
	advance(p, start);
}

static void begin_token(struct parser *p)
{
	find_token(p);
	p->end = MC_MAX(yajl_get_bytes_consumed(p->yajl), p->pos);
}

/* Give up: the answer of a callback. */
static int refuse(struct parser *p, int code, const char *why)
{
	p->result = mc_fail(p->err, code, "%s:%u:%u: %s", p->what, p->line, p->column, why);
	return 0;
}

/* Put a finished value into the list that is open.  Takes node over. */
static int append(struct parser *p, struct mc_json *node)
{
	struct frame *f = &p->frames[p->depth];
	struct mc_json *parent = &f->node;

	if (++p->nr_values > JSON_VALUES_MAX) {
		node_fini(node);
		return refuse(p, -EFBIG, "more than 1048576 values");
	}
	if (parent->list.nr == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 4;
		struct mc_json *items = realloc(parent->list.items, cap * sizeof *items);

		if (!items) {
			node_fini(node);
			return refuse(p, -ENOMEM, "out of memory");
		}
		parent->list.items = items;
		f->cap = cap;
	}
	node->key = mc_steal(f->next_key);
	parent->list.items[parent->list.nr++] = *node;
	return 1;
}

static struct mc_json node_new(struct parser *p, enum mc_json_type type)
{
	begin_token(p);
	return (struct mc_json){.type = type, .line = p->line, .column = p->column};
}

static int on_null(void *ctx)
{
	struct mc_json node = node_new(ctx, MC_JSON_NULL);

	return append(ctx, &node);
}

static int on_bool(void *ctx, int value)
{
	struct mc_json node = node_new(ctx, MC_JSON_BOOL);

	node.b = value;
	return append(ctx, &node);
}

/* strtod of the C locale, whatever the application has set. */
static double number_to_double(const char *text)
{
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	double d = c ? strtod_l(text, NULL, c) : HUGE_VAL;

	if (c)
		freelocale(c);
	return d;
}

static int on_number(void *ctx, const char *digits, size_t len)
{
	struct mc_json node = node_new(ctx, MC_JSON_INT);
	char text[JSON_NUMBER_MAX + 1];

	if (len > JSON_NUMBER_MAX)
		return refuse(ctx, -ERANGE, "the number has more than 64 characters");
	memcpy(text, digits, len);
	text[len] = '\0';
	errno = 0;
	if (strpbrk(text, ".eE")) {
		node.type = MC_JSON_DOUBLE;
		node.d = number_to_double(text);
		if (!isfinite(node.d))
			return refuse(ctx, -ERANGE, "the number is out of the range of a double");
	} else {
		node.i = strtoll(text, NULL, 10);
		if (errno == ERANGE)
			return refuse(ctx, -ERANGE, "the number is out of the range of 64 bits");
	}
	return append(ctx, &node);
}

static int copy_string(struct parser *p, const unsigned char *s, size_t len, char **ret)
{
	if (memchr(s, '\0', len))
		return refuse(p, -EINVAL, "the string holds a NUL character");
	*ret = strndup((const char *)s, len);
	return *ret ? 1 : refuse(p, -ENOMEM, "out of memory");
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
	struct mc_json node = node_new(ctx, MC_JSON_STRING);

	return copy_string(ctx, s, len, &node.s) ? append(ctx, &node) : 0;
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
	struct parser *p = ctx;

	begin_token(p);
	return copy_string(p, s, len, &p->frames[p->depth].next_key);
}

static int open_list(struct parser *p, enum mc_json_type type)
{
	struct mc_json node = node_new(p, type);

	if (p->depth == JSON_DEPTH_MAX)
		return refuse(p, -EINVAL, "nested more than 64 deep");
	p->depth++;
	p->frames[p->depth] = (struct frame){.node = node};
	return 1;
}

static int close_list(struct parser *p)
{
	struct mc_json node = p->frames[p->depth].node;

	begin_token(p);
	p->frames[p->depth] = (struct frame){0};
	p->depth--;
	return append(p, &node);
}

static int compare_keys(const void *a, const void *b)
{
	const struct mc_json *x = *(const struct mc_json *const *)a;
	const struct mc_json *y = *(const struct mc_json *const *)b;
	int c = strcmp(x->key, y->key);

	/* Equal keys in the order of the text. */
	return c ? c : (x > y) - (x < y);
}

static int check_keys(struct parser *p, const struct mc_json *object)
{
	mc_cleanup(mc_freep) const struct mc_json **sorted = NULL;
	size_t nr = object->list.nr;

	if (nr < 2)
		return 1;
	sorted = malloc(nr * sizeof *sorted);
	if (!sorted)
		return refuse(p, -ENOMEM, "out of memory");
	for (size_t i = 0; i < nr; i++)
		sorted[i] = &object->list.items[i];
	qsort(sorted, nr, sizeof *sorted, compare_keys);
	for (size_t i = 1; i < nr; i++) {
		const struct mc_json *twice = sorted[i];

		if (strcmp(sorted[i - 1]->key, twice->key) == 0) {
			p->result = mc_fail(p->err, -EINVAL, "%s:%u:%u: the key '%.128s' is there twice",
					    p->what, twice->line, twice->column, twice->key);
			return 0;
		}
	}
	return 1;
}

static int on_map_start(void *ctx)
{
	return open_list(ctx, MC_JSON_OBJECT);
}

static int on_map_end(void *ctx)
{
	struct parser *p = ctx;

	return check_keys(p, &p->frames[p->depth].node) && close_list(p);
}

static int on_array_start(void *ctx)
{
	return open_list(ctx, MC_JSON_ARRAY);
}

static int on_array_end(void *ctx)
{
	return close_list(ctx);
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_bool,
	.yajl_number = on_number,
	.yajl_string = on_string,
	.yajl_map_key = on_key,
	.yajl_start_map = on_map_start,
	.yajl_end_map = on_map_end,
	.yajl_start_array = on_array_start,
	.yajl_end_array = on_array_end,
};

static bool is_blank(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!memchr(" \t\r\n", text[i], 4))
			return false;
	return true;
}

/* The library's own words, without its "parse error: ", full stop and newline; plainer ones for the commonest. */
static int refuse_syntax(struct parser *p)
{
	unsigned char *theirs = yajl_get_error(p->yajl, 0, (const unsigned char *)p->text, p->len);
	const char *why = theirs ? (const char *)theirs : "bad JSON";
	const char *colon = strstr(why, "error: ");
	char text[160];

	snprintf(text, sizeof text, "%s", colon ? colon + strlen("error: ") : why);
	text[strcspn(text, "\n")] = '\0';
	if (*text && text[strlen(text) - 1] == '.')
		text[strlen(text) - 1] = '\0';
	if (theirs)
		yajl_free_error(p->yajl, theirs);
	if (strcmp(text, "premature EOF") == 0)
		snprintf(text, sizeof text, "%s", is_blank(p->text, p->len)
							  ? "it is empty"
							  : "it ends too early: a quote or bracket is not closed");
	find_token(p);
	refuse(p, -EINVAL, text);
	return p->result;
}

static void parser_fini(struct parser *p)
{
	for (size_t i = 0; i <= p->depth; i++) {
		node_fini(&p->frames[i].node);
		free(p->frames[i].next_key);
	}
	if (p->yajl)
		yajl_free(p->yajl);
	free(p);
}

static int parse(struct parser *p, struct mc_json **ret_json)
{
	struct mc_json *document = &p->frames[0].node;
	yajl_status status;

	status = yajl_parse(p->yajl, (const unsigned char *)p->text, p->len);
	if (status == yajl_status_ok)
		status = yajl_complete_parse(p->yajl);
	if (p->result < 0)
		return p->result;
	if (status != yajl_status_ok)
		return refuse_syntax(p);
	if (document->list.nr != 1) {
		refuse(p, -EINVAL, "there is no JSON value");
		return p->result;
	}
	*ret_json = malloc(sizeof **ret_json);
	if (!*ret_json)
		return mc_fail(p->err, -ENOMEM, "%s: out of memory", p->what);
	**ret_json = document->list.items[0];
	document->list.nr = 0;
	return 0;
}

int mc_json_parse(const char *what, const char *text, size_t len, struct mc_json **ret_json,
		  struct mc_error *err)
{
	struct parser *p;
	int r = -ENOMEM;

	if (len > JSON_SIZE_MAX)
		return mc_fail(err, -EFBIG, "%s: more than 16 MiB of JSON", what);
	p = calloc(1, sizeof *p);
	if (!p)
		return mc_fail(err, -ENOMEM, "%s: out of memory", what);
	*p = (struct parser){.what = what, .text = text, .len = len, .line = 1, .column = 1, .err = err};
	p->frames[0].node.type = MC_JSON_ARRAY;
	p->yajl = yajl_alloc(&callbacks, NULL, p);
	if (p->yajl)
		r = parse(p, ret_json);
	else
		mc_fail(err, r, "%s: out of memory", what);
	parser_fini(p);
	return r;
}

const struct mc_json *mc_json_get(const struct mc_json *object, const char *key)
{
	if (!object || object->type != MC_JSON_OBJECT)
		return NULL;
	for (size_t i = 0; i < object->list.nr; i++) {
		if (strcmp(object->list.items[i].key, key) == 0)
			return &object->list.items[i];
	}
	return NULL;
}

const char *mc_json_str(const struct mc_json *object, const char *key, const char *def)
{
	const struct mc_json *v = mc_json_get(object, key);

	return v && v->type == MC_JSON_STRING ? v->s : def;
}

int64_t mc_json_int(const struct mc_json *object, const char *key, int64_t def)
{
	const struct mc_json *v = mc_json_get(object, key);

	return v && v->type == MC_JSON_INT ? v->i : def;
}

uint64_t mc_json_hex(const struct mc_json *object, const char *key, uint64_t def)
{
	const char *s = mc_json_str(object, key, NULL);
	uint64_t u = 0;

	if (!s || strlen(s) != 16)
		return def;
	for (; *s; s++) {
		const char *digits = "0123456789abcdef";
		const char *at = strchr(digits, *s >= 'A' && *s <= 'F' ? *s - 'A' + 'a' : *s);

		if (!at)
			return def;
		u = u << 4 | (uint64_t)(at - digits);
	}
	return u;
}

/* ---- writer ------------------------------------------------------------------------------------ */

struct mc_json_out {
	yajl_gen gen;
	bool failed;
	size_t depth;
	uint64_t objects; /* bit n: the bracket at depth n is a brace */
};

struct mc_json_out *mc_json_out_new(bool pretty)
{
	struct mc_json_out *o = calloc(1, sizeof *o);

	if (!o)
		return NULL;
	o->gen = yajl_gen_alloc(NULL);
	if (!o->gen) {
		free(o);
		return NULL;
	}
	yajl_gen_config(o->gen, yajl_gen_beautify, pretty ? 1 : 0);
	yajl_gen_config(o->gen, yajl_gen_indent_string, "  ");
	yajl_gen_config(o->gen, yajl_gen_validate_utf8, 1);
	return o;
}

static void note(struct mc_json_out *o, yajl_gen_status status)
{
	if (status != yajl_gen_status_ok)
		o->failed = true;
}

void mc_json_out_open(struct mc_json_out *o, char bracket)
{
	if (!o)
		return;
	if (o->depth == JSON_DEPTH_MAX) {
		o->failed = true;
		return;
	}
	if (bracket == '{') {
		o->objects |= UINT64_C(1) << o->depth;
		note(o, yajl_gen_map_open(o->gen));
	} else {
		o->objects &= ~(UINT64_C(1) << o->depth);
		note(o, yajl_gen_array_open(o->gen));
	}
	o->depth++;
}

void mc_json_out_close(struct mc_json_out *o)
{
	if (!o)
		return;
	if (o->depth == 0) {
		o->failed = true;
		return;
	}
	o->depth--;
	if (o->objects >> o->depth & 1)
		note(o, yajl_gen_map_close(o->gen));
	else
		note(o, yajl_gen_array_close(o->gen));
}

void mc_json_out_str(struct mc_json_out *o, const char *s)
{
	if (o)
		note(o, yajl_gen_string(o->gen, (const unsigned char *)s, strlen(s)));
}

void mc_json_out_key(struct mc_json_out *o, const char *key)
{
	mc_json_out_str(o, key);
}

void mc_json_out_int(struct mc_json_out *o, int64_t i)
{
	if (o)
		note(o, yajl_gen_integer(o->gen, i));
}

void mc_json_out_hex(struct mc_json_out *o, uint64_t u)
{
	char text[17];

	snprintf(text, sizeof text, "%016llx", (unsigned long long)u);
	mc_json_out_str(o, text);
}

void mc_json_out_double(struct mc_json_out *o, double d)
{
	char text[40];
	char *comma;

	if (!o)
		return;
	if (!isfinite(d)) {
		note(o, yajl_gen_null(o->gen));
		return;
	}
	/* The shortest text that reads back as the same number. */
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(text, sizeof text, "%.*g", digits, d);
		if (strtod(text, NULL) == d)
			break;
	}
	comma = strchr(text, ','); /* of the application's locale */
	if (comma)
		*comma = '.';
	note(o, yajl_gen_number(o->gen, text, strlen(text)));
}

void mc_json_out_bool(struct mc_json_out *o, bool b)
{
	if (o)
		note(o, yajl_gen_bool(o->gen, b));
}

void mc_json_out_json(struct mc_json_out *o, const struct mc_json *json)
{
	switch (json->type) {
	case MC_JSON_NULL:
		if (o)
			note(o, yajl_gen_null(o->gen));
		break;
	case MC_JSON_BOOL:
		mc_json_out_bool(o, json->b);
		break;
	case MC_JSON_INT:
		mc_json_out_int(o, json->i);
		break;
	case MC_JSON_DOUBLE:
		mc_json_out_double(o, json->d);
		break;
	case MC_JSON_STRING:
		mc_json_out_str(o, json->s);
		break;
	case MC_JSON_ARRAY:
	case MC_JSON_OBJECT:
		mc_json_out_open(o, json->type == MC_JSON_OBJECT ? '{' : '[');
		for (size_t i = 0; i < json->list.nr; i++) {
			if (json->type == MC_JSON_OBJECT)
				mc_json_out_key(o, json->list.items[i].key);
			mc_json_out_json(o, &json->list.items[i]);
		}
		mc_json_out_close(o);
		break;
	}
}

char *mc_json_out_take(struct mc_json_out *o)
{
	const unsigned char *buf;
	char *text = NULL;
	size_t len;

	if (!o)
		return NULL;
	if (!o->failed && o->depth == 0 &&
	    yajl_gen_get_buf(o->gen, &buf, &len) == yajl_gen_status_ok)
		text = strndup((const char *)buf, len);
	yajl_gen_free(o->gen);
	free(o);
	return text;
}
