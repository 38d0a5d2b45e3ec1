/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and their values.  What is read was written by anybody who may write to the metadata service: its size
 * and depth are bounded before it is parsed, and each field is checked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_gen.h>
#include <yajl/yajl_tree.h>

#include "core/util/check.h"
#include "p2p_block.h"
#include "p2p_record.h"

#define DEPTH_MAX 8

/* Bytes of the character that begins at s, 0 if it is not UTF-8 (too long a form and surrogates included). */
static size_t utf8_len(const unsigned char *s)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* Without control characters, C1 included. */
static bool is_text(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	while (*s) {
		size_t n = utf8_len(s);

		if (n == 0 || *s < ' ' || *s == 0x7f || (*s == 0xc2 && s[1] < 0xa0))
			return false;
		s += n;
	}
	return true;
}

int mc_p2p_name_check(const char *name, struct mc_error *err)
{
	size_t len = name ? strlen(name) : 0;

	if (len == 0 || len > MC_P2P_NAME_MAX)
		return mc_fail(err, -EINVAL, "object: a name has 1 to %d bytes, not %zu", MC_P2P_NAME_MAX, len);
	if (!is_text(name))
		return mc_fail(err, -EINVAL, "object '%.80s': a name is UTF-8 without control characters", name);
	return 0;
}

void mc_p2p_object_key(const char *name, char key[MC_P2P_KEY_MAX])
{
	snprintf(key, MC_P2P_KEY_MAX, MC_P2P_OBJECTS "%s", name);
}

void mc_p2p_source_key(const char *name, const char *engine, char key[MC_P2P_KEY_MAX])
{
	struct mc_p2p_hash hash;
	char text[33];

	mc_p2p_hash(name, strlen(name), &hash);
	mc_p2p_hash_text(&hash, text);
	snprintf(key, MC_P2P_KEY_MAX, MC_P2P_SOURCES "%s/%s", text, engine ? engine : "");
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_text(yajl_gen g, const char *key, const char *text)
{
	yajl_gen_string(g, (const unsigned char *)key, strlen(key));
	yajl_gen_string(g, (const unsigned char *)text, strlen(text));
}

static void put_u64(yajl_gen g, const char *key, uint64_t v)
{
	char digits[24];
	int n = snprintf(digits, sizeof digits, "%" PRIu64, v);

	if (key)
		yajl_gen_string(g, (const unsigned char *)key, strlen(key));
	yajl_gen_number(g, digits, (size_t)n);
}

static void put_hash(yajl_gen g, const char *key, const struct mc_p2p_hash *hash)
{
	char text[33];

	mc_p2p_hash_text(hash, text);
	put_text(g, key, text);
}

static char *taken(yajl_gen g)
{
	const unsigned char *text;
	size_t len;
	char *copy = NULL;

	if (yajl_gen_get_buf(g, &text, &len) == yajl_gen_status_ok)
		copy = strndup((const char *)text, len);
	yajl_gen_free(g);
	return copy;
}

char *mc_p2p_record_print(const struct mc_p2p_record *record)
{
	yajl_gen g = yajl_gen_alloc(NULL);

	if (!g)
		return NULL;
	yajl_gen_map_open(g);
	put_u64(g, "format", MC_P2P_FORMAT);
	put_text(g, "name", record->name);
	put_u64(g, "size", record->size);
	put_u64(g, "shard_size", record->shard_size);
	put_hash(g, "root", &record->root);
	put_u64(g, "attachment_len", record->attachment_len);
	put_text(g, "created_by", record->created_by);
	put_text(g, "created", record->created);
	yajl_gen_string(g, (const unsigned char *)"sizes", 5);
	yajl_gen_array_open(g);
	for (size_t i = 0; i < record->nr_sizes && i < MC_P2P_SIZES_TOLD; i++)
		put_u64(g, NULL, record->sizes[i]);
	yajl_gen_array_close(g);
	yajl_gen_map_close(g);
	return taken(g);
}

char *mc_p2p_offer_print(const struct mc_p2p_offer *offer)
{
	yajl_gen g = yajl_gen_alloc(NULL);
	char generation[17];

	if (!g)
		return NULL;
	snprintf(generation, sizeof generation, "%016" PRIx64, offer->generation);
	yajl_gen_map_open(g);
	put_u64(g, "format", MC_P2P_FORMAT);
	put_text(g, "name", offer->name);
	put_hash(g, "root", &offer->root);
	put_text(g, "generation", generation);
	yajl_gen_string(g, (const unsigned char *)"block", 5);
	yajl_gen_map_open(g);
	put_u64(g, "offset", offer->block);
	put_u64(g, "len", offer->block_len);
	yajl_gen_map_close(g);
	put_text(g, "host", offer->host);
	put_text(g, "rack", offer->rack);
	put_text(g, "role", offer->role == MC_P2P_SEED ? "seed" : "replica");
	yajl_gen_map_close(g);
	return taken(g);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* A value under way; what begins its sentences. */
struct reading {
	const char *what, *name;
	yajl_val top;
	struct mc_error *err;
};

static int refuse(const struct reading *r, const char *field, const char *why)
{
	return mc_fail(r->err, -EBADMSG, "%s '%.200s': its value cannot be used: %s %s", r->what, r->name, field, why);
}

/* The parser's tree is freed by recursion: what is nested deeper than we ever write is not parsed. */
static bool shallow(const char *text, size_t len)
{
	unsigned int depth = 0;
	bool quoted = false;

	for (size_t i = 0; i < len; i++) {
		if (quoted && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			quoted = !quoted;
		else if (!quoted && (text[i] == '{' || text[i] == '[') && ++depth > DEPTH_MAX)
			return false;
		else if (!quoted && (text[i] == '}' || text[i] == ']') && depth)
			depth--;
	}
	return true;
}

/* malloc'ed tree in r->top; the caller frees it. */
static int parse(struct reading *r, const void *text, size_t len)
{
	char *copy, why[128];

	if (len == 0 || len > MC_P2P_RECORD_MAX || memchr(text, 0, len))
		return refuse(r, "it", "is empty, too long, or holds a NUL");
	if (!shallow(text, len))
		return refuse(r, "it", "is nested too deeply");
	copy = strndup(text, len);
	if (!copy)
		return mc_fail(r->err, -ENOMEM, "%s '%.200s': no memory to read it", r->what, r->name);
	r->top = yajl_tree_parse(copy, why, sizeof why);
	free(copy);
	if (!r->top)
		return refuse(r, "it", "is not JSON");
	if (!YAJL_IS_OBJECT(r->top))
		return refuse(r, "it", "is not an object");
	return 0;
}

static yajl_val field(yajl_val of, const char *key)
{
	const char *path[2] = {key, NULL};

	return of ? yajl_tree_get(of, path, yajl_t_any) : NULL;
}

static bool to_u64(yajl_val v, uint64_t *ret)
{
	const char *digits = v && YAJL_IS_NUMBER(v) ? YAJL_GET_NUMBER(v) : "";
	char *end;

	if (*digits < '0' || *digits > '9')
		return false;
	errno = 0;
	*ret = strtoull(digits, &end, 10);
	return *end == '\0' && errno == 0;
}

static int get_u64(const struct reading *r, yajl_val of, const char *key, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v;

	if (!to_u64(field(of, key), &v) || v < min || v > max)
		return refuse(r, key, "is missing or out of range");
	*ret = v;
	return 0;
}

static int get_text(const struct reading *r, const char *key, char *to, size_t cap)
{
	yajl_val v = field(r->top, key);
	const char *text = v ? YAJL_GET_STRING(v) : NULL;

	if (!text || strlen(text) >= cap || !is_text(text))
		return refuse(r, key, "is missing, too long or no text");
	memcpy(to, text, strlen(text) + 1);
	return 0;
}

/* What both kinds begin with. */
static int get_head(const struct reading *r, char name[MC_P2P_NAME_MAX + 1], struct mc_p2p_hash *root)
{
	uint64_t format;
	char text[33];

	if (get_u64(r, r->top, "format", 1, UINT64_MAX, &format) < 0)
		return -EBADMSG;
	if (format != MC_P2P_FORMAT)
		return refuse(r, "format", "is another than 1: update this program");
	if (get_text(r, "name", name, MC_P2P_NAME_MAX + 1) < 0)
		return -EBADMSG;
	if (strcmp(name, r->name) != 0)
		return refuse(r, "name", "is not that of its key");
	if (get_text(r, "root", text, sizeof text) < 0)
		return -EBADMSG;
	return mc_p2p_hash_parse(text, root) < 0 ? refuse(r, "root", "is not 32 hex digits") : 0;
}

static int get_sizes(const struct reading *r, struct mc_p2p_record *ret)
{
	yajl_val v = field(r->top, "sizes");
	uint64_t sum = 0;

	if (!v || !YAJL_IS_ARRAY(v) || YAJL_GET_ARRAY(v)->len > MC_P2P_SIZES_TOLD)
		return refuse(r, "sizes", "is no list, or too long");
	ret->sizes = calloc(YAJL_GET_ARRAY(v)->len + 1, sizeof *ret->sizes);
	if (!ret->sizes)
		return mc_fail(r->err, -ENOMEM, "%s '%.200s': no memory to read it", r->what, r->name);
	for (size_t i = 0; i < YAJL_GET_ARRAY(v)->len; i++) {
		uint64_t n;

		if (!to_u64(YAJL_GET_ARRAY(v)->values[i], &n) || n > ret->size - sum)
			return refuse(r, "sizes", "do not fit the size");
		sum += n;
		ret->sizes[ret->nr_sizes++] = n;
	}
	return 0;
}

static int get_record(const struct reading *r, struct mc_p2p_record *ret)
{
	int e = get_head(r, ret->name, &ret->root);
	uint32_t nr;

	if (e == 0)
		e = get_u64(r, r->top, "size", 1, UINT64_MAX, &ret->size);
	if (e == 0)
		e = get_u64(r, r->top, "shard_size", MC_P2P_SHARD_MIN, MC_P2P_SHARD_MAX, &ret->shard_size);
	if (e == 0)
		e = get_u64(r, r->top, "attachment_len", 0, MC_P2P_ATTACHMENT_MAX, &ret->attachment_len);
	if (e == 0)
		e = get_text(r, "created_by", ret->created_by, sizeof ret->created_by);
	if (e == 0)
		e = get_text(r, "created", ret->created, sizeof ret->created);
	if (e < 0)
		return e;
	nr = mc_p2p_nr_shards(ret->size, ret->shard_size);
	if (nr == 0 || nr > MC_P2P_SHARDS_MAX)
		return refuse(r, "shard_size", "gives more shards than there may be");
	return get_sizes(r, ret);
}

int mc_p2p_record_parse(const char *name, const void *text, size_t len, struct mc_p2p_record *ret, struct mc_error *err)
{
	struct reading r = {.what = "object", .name = name, .err = err};
	struct mc_p2p_record record = {.nr_sizes = 0};
	int e = parse(&r, text, len);

	if (e == 0)
		e = get_record(&r, &record);
	yajl_tree_free(r.top);
	if (e < 0) {
		mc_p2p_record_free(&record);
		return e;
	}
	*ret = record;
	return 0;
}

void mc_p2p_record_free(struct mc_p2p_record *record)
{
	free(record->sizes);
	record->sizes = NULL;
	record->nr_sizes = 0;
}

static int get_offer(const struct reading *r, struct mc_p2p_offer *ret)
{
	yajl_val block = field(r->top, "block");
	char generation[17], role[16], *end;
	int e = get_head(r, ret->name, &ret->root);

	if (e == 0)
		e = get_text(r, "generation", generation, sizeof generation);
	if (e == 0)
		e = get_u64(r, block && YAJL_IS_OBJECT(block) ? block : NULL, "offset", 1, UINT64_MAX, &ret->block);
	if (e == 0)
		e = get_u64(r, block && YAJL_IS_OBJECT(block) ? block : NULL, "len", MC_P2P_BLOCK_HEADER, UINT32_MAX,
			    &ret->block_len);
	if (e == 0)
		e = get_text(r, "host", ret->host, sizeof ret->host);
	if (e == 0)
		e = get_text(r, "rack", ret->rack, sizeof ret->rack);
	if (e == 0)
		e = get_text(r, "role", role, sizeof role);
	if (e < 0)
		return e;
	if (ret->block_len > UINT64_MAX - ret->block)
		return refuse(r, "block", "wraps around");
	ret->generation = strtoull(generation, &end, 16);
	if (strlen(generation) != 16 || strspn(generation, "0123456789abcdef") != 16)
		return refuse(r, "generation", "is not 16 hex digits");
	ret->role = strcmp(role, "seed") == 0 ? MC_P2P_SEED : MC_P2P_REPLICA;
	return 0;
}

int mc_p2p_offer_parse(const char *name, const char *engine, const void *text, size_t len, struct mc_p2p_offer *ret,
		       struct mc_error *err)
{
	struct reading r = {.what = "source of object", .name = name, .err = err};
	struct mc_p2p_offer offer = {.block = 0};
	int e;

	if (*engine == '\0' || strlen(engine) > MC_SEGMENT_NAME_MAX || strchr(engine, '/'))
		return refuse(&r, "the key", "does not end with an engine's name");
	e = parse(&r, text, len);
	if (e == 0)
		e = get_offer(&r, &offer);
	yajl_tree_free(r.top);
	if (e < 0)
		return e;
	memcpy(offer.engine, engine, strlen(engine) + 1);
	*ret = offer;
	return 0;
}
