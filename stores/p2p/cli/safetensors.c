/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A safetensors file is a length (u64, little-endian), a JSON header of that length, and the
 * tensors' bytes: {"NAME": {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}, offsets
 * from the header's end, without gaps; "__metadata__" is free text.  Published with the format
 * (huggingface/safetensors, README).
 */
#include "safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <core/util/bytes.h>
#include <core/util/check.h>

#include "json_read.h"
#include "manifest.h"

#define HEADER_MAX 100000000u /* the format's own bound */

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n > m && strcmp(s + n - m, end) == 0;
}

bool p2pc_is_safetensors(const char *path)
{
	return ends_with(path, ".safetensors");
}

bool p2pc_is_index(const char *path)
{
	return ends_with(path, ".index.json");
}

/* ---- the header ------------------------------------------------------------------------------- */

struct span {
	uint64_t begin, end;
};

struct header {
	struct span *spans;
	size_t nr, cap;
	/* The tensor that is being read. */
	unsigned width; /* bytes of an element; 0: a type that we do not know */
	bool has_type, has_shape, overflow;
	unsigned nr_offsets;
	uint64_t elements;
	struct span at;
};

static unsigned type_width(const char *type)
{
	static const struct {
		const char *name;
		unsigned width;
	} types[] = {{"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"U16", 2}, {"I16", 2}, {"F16", 2},
		     {"BF16", 2}, {"U32", 4},  {"I32", 4}, {"F32", 4},	   {"U64", 8},	   {"I64", 8}, {"F64", 8}};

	for (size_t i = 0; i < MC_ARRAY_SIZE(types); i++)
		if (strcmp(types[i].name, type) == 0)
			return types[i].width;
	return 0;
}

static int tensor_end(struct p2pc_json *j)
{
	struct header *h = j->ctx;
	const char *name = j->level[0].key;
	uint64_t size = 0;

	if (!h->has_type || !h->has_shape || h->nr_offsets != 2)
		return p2pc_json_fail(j, "tensor '%.100s' lacks dtype, shape or two data_offsets", name);
	if (h->at.begin > h->at.end)
		return p2pc_json_fail(j, "tensor '%.100s' ends before it begins", name);
	if (h->overflow || (h->width && __builtin_mul_overflow(h->elements, h->width, &size)) ||
	    (h->width && size != h->at.end - h->at.begin))
		return p2pc_json_fail(j, "tensor '%.100s' has %" PRIu64 " bytes, which is not what its dtype and shape say",
				      name, h->at.end - h->at.begin);
	if (h->nr == h->cap) {
		size_t cap = h->cap ? h->cap * 2 : 64;
		struct span *more = reallocarray(h->spans, cap, sizeof *more);

		if (!more)
			return mc_fail(j->err, -ENOMEM, "%s: out of memory", j->what);
		h->spans = more;
		h->cap = cap;
	}
	h->spans[h->nr++] = h->at;
	return 0;
}

static int tensor_number(struct p2pc_json *j, enum p2pc_json_type type, const char *text)
{
	struct header *h = j->ctx;
	uint64_t v;
	int r = p2pc_json_count(j, j->level[1].key, type, text, &v);

	if (r < 0)
		return r;
	if (strcmp(j->level[1].key, "shape") == 0) {
		h->overflow |= __builtin_mul_overflow(h->elements, v, &h->elements);
	} else {
		if (h->nr_offsets < 2)
			*(h->nr_offsets ? &h->at.end : &h->at.begin) = v;
		h->nr_offsets++;
	}
	return 0;
}

static int header_value(struct p2pc_json *j, enum p2pc_json_type type, const char *text, size_t len)
{
	struct header *h = j->ctx;
	const char *field = j->level[1].key;

	if (j->depth == 0)
		return type == P2PC_JSON_MAP || type == P2PC_JSON_END ? 0 : p2pc_json_fail(j, "its header is no object");
	if (strcmp(j->level[0].key, "__metadata__") == 0)
		return 0;
	if (j->depth == 1 && type == P2PC_JSON_END)
		return tensor_end(j);
	if (j->depth == 1) {
		*h = (struct header){.spans = h->spans, .nr = h->nr, .cap = h->cap, .elements = 1};
		return type == P2PC_JSON_MAP ? 0 : p2pc_json_fail(j, "'%.100s' in its header is no tensor", j->level[0].key);
	}
	if (p2pc_json_at(j, 2, "dtype") && type == P2PC_JSON_TEXT) {
		h->has_type = true;
		h->width = type_width(text);
		return 0;
	}
	if (p2pc_json_at(j, 2, "shape") || p2pc_json_at(j, 2, "data_offsets")) {
		h->has_shape |= *field == 's';
		return type == P2PC_JSON_LIST || type == P2PC_JSON_END
			       ? 0
			       : p2pc_json_fail(j, "%s of tensor '%.100s' is no list", field, j->level[0].key);
	}
	if (j->depth == 3 && (strcmp(field, "shape") == 0 || strcmp(field, "data_offsets") == 0))
		return tensor_number(j, type, text);
	return p2pc_json_fail(j, "tensor '%.100s' has a '%.40s'", j->level[0].key, field);
}

static int compare_spans(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->end < y->end ? -1 : x->end > y->end;
}

/* Without gaps, from 0 to the end of the file. */
static int check_spans(const char *what, struct header *h, uint64_t has, struct mc_error *err)
{
	uint64_t at = 0;

	if (h->nr)
		qsort(h->spans, h->nr, sizeof *h->spans, compare_spans);
	for (size_t i = 0; i < h->nr; i++) {
		if (h->spans[i].begin != at)
			return mc_fail(err, -EBADMSG, "%s: its header leaves bytes without a tensor, or has two for some, at %" PRIu64,
				       what, MC_MIN(at, h->spans[i].begin));
		at = h->spans[i].end;
	}
	if (at > has)
		return mc_fail(err, -EBADMSG, "%s: cut short: its header names %" PRIu64 " bytes of tensors, it has %" PRIu64, what,
			       at, has);
	if (at < has)
		return mc_fail(err, -EBADMSG, "%s: %" PRIu64 " bytes follow the last tensor of its header", what, has - at);
	return 0;
}

uint64_t p2pc_safetensors_need(const void *data, size_t len)
{
	return len < 8 || mc_get64(data) > HEADER_MAX ? 8 : 8 + mc_get64(data);
}

int p2pc_safetensors_check(const char *what, const void *data, size_t len, uint64_t size, uint64_t *ret_tensors,
			   struct mc_error *err)
{
	struct header h = {0};
	struct p2pc_json j = {.each = header_value, .ctx = &h, .what = what, .err = err};
	uint64_t n;
	int r;

	if (len < 8)
		return mc_fail(err, -EBADMSG, "%s: cut short: %zu bytes are no safetensors file", what, len);
	n = mc_get64(data);
	if (n > HEADER_MAX)
		return mc_fail(err, -EBADMSG, "%s: no safetensors file: its header would be of %" PRIu64 " bytes", what, n);
	if (n > size - 8 || n > len - 8)
		return mc_fail(err, -EBADMSG, "%s: cut short inside its header, of %" PRIu64 " bytes", what, n);
	r = p2pc_json_read(&j, (const char *)data + 8, n);
	if (r == 0)
		r = check_spans(what, &h, size - 8 - n, err);
	if (r == 0)
		*ret_tensors = h.nr;
	free(h.spans);
	return r;
}

/* ---- the index -------------------------------------------------------------------------------- */

struct index_reading {
	int (*file)(void *ctx, const char *name, struct mc_error *err);
	void *ctx;
	bool has_map;
};

static int index_value(struct p2pc_json *j, enum p2pc_json_type type, const char *text, size_t len)
{
	struct index_reading *r = j->ctx;

	if (p2pc_json_at(j, 1, "weight_map")) {
		r->has_map = true;
		return type == P2PC_JSON_MAP || type == P2PC_JSON_END ? 0 : p2pc_json_fail(j, "its weight_map is no object");
	}
	if (j->depth != 2 || j->level[0].list || strcmp(j->level[0].key, "weight_map") != 0)
		return 0;
	if (type != P2PC_JSON_TEXT)
		return p2pc_json_fail(j, "its weight_map has no file for '%.100s'", j->level[1].key);
	if (p2pc_path_check(text, NULL) < 0)
		return p2pc_json_fail(j, "its weight_map names '%.200s', which is no plain relative path", text);
	return r->file(r->ctx, text, j->err);
}

int p2pc_index_files(const char *what, const void *text, size_t len,
		     int (*file)(void *ctx, const char *name, struct mc_error *err), void *ctx, struct mc_error *err)
{
	struct index_reading r = {.file = file, .ctx = ctx};
	struct p2pc_json j = {.each = index_value, .ctx = &r, .what = what, .err = err};
	int e = p2pc_json_read(&j, text, len);

	if (e == 0 && !r.has_map)
		e = mc_fail(err, -EBADMSG, "%s: no index of a model: it has no weight_map", what);
	return e;
}
