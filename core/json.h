/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A JSON tree with positions, and a writer.  json.c is the one file that sees
 * the JSON library.  Numbers keep 64 bits; duplicate keys are refused.
 */
#ifndef MC_CORE_JSON_H
#define MC_CORE_JSON_H

#include <mooncake/types.h>

enum mc_json_type { MC_JSON_NULL, MC_JSON_BOOL, MC_JSON_INT, MC_JSON_DOUBLE, MC_JSON_STRING, MC_JSON_ARRAY, MC_JSON_OBJECT };

struct mc_json {
	enum mc_json_type type;
	uint32_t line, column; /* 1-based */
	char *key;             /* in an object; else NULL */
	union {
		bool b;
		int64_t i;
		double d;
		char *s;
		struct {
			struct mc_json *items;
			size_t nr;
		} list; /* ARRAY and OBJECT */
	};
};

/* Parse len bytes; `what` (a file name, 'matrix') begins error sentences: "what:line:column: ...".
 * Depth is at most 64, size at most 16 MiB, values at most 1,048,576. */
int mc_json_parse(const char *what, const char *text, size_t len, struct mc_json **ret_json,
		  struct mc_error *err);
void mc_json_free(struct mc_json *json);
const struct mc_json *mc_json_get(const struct mc_json *object, const char *key);
/* Shortcuts; the default if absent or of another type. */
const char *mc_json_str(const struct mc_json *object, const char *key, const char *def);
int64_t mc_json_int(const struct mc_json *object, const char *key, int64_t def);
/* Unsigned 64-bit ids travel as strings of 16 hex digits. */
uint64_t mc_json_hex(const struct mc_json *object, const char *key, uint64_t def);

/* A scalar as a user would write it; an array of strings joined with commas.  NULL: it is neither, or
 * memory ran out. */
char *mc_json_text(const struct mc_json *json);
/* "a number", "an object", ...: for sentences. */
const char *mc_json_type_name(enum mc_json_type type);

/* Writer: builds text; mc_json_out_take gives it away (NULL if memory ran out at any step, a string
 * was not UTF-8, or brackets do not match).  Accepts NULL for o everywhere. */
struct mc_json_out;
struct mc_json_out *mc_json_out_new(bool pretty);
void mc_json_out_open(struct mc_json_out *o, char bracket); /* '{' or '[' */
void mc_json_out_close(struct mc_json_out *o);
void mc_json_out_key(struct mc_json_out *o, const char *key);
void mc_json_out_str(struct mc_json_out *o, const char *s);
void mc_json_out_int(struct mc_json_out *o, int64_t i);
void mc_json_out_hex(struct mc_json_out *o, uint64_t u);
void mc_json_out_double(struct mc_json_out *o, double d);
void mc_json_out_bool(struct mc_json_out *o, bool b);
void mc_json_out_json(struct mc_json_out *o, const struct mc_json *json); /* a whole tree */
char *mc_json_out_take(struct mc_json_out *o); /* also frees o */

/* Whole file into memory, NUL-terminated; at most 16 MiB. */
int mc_read_file(const char *path, char **ret_text, size_t *ret_len, struct mc_error *err);
/* The word of words (NULL-terminated) closest to word by edit distance, or NULL if none is near. */
const char *mc_closest(const char *word, const char *const *words);

#endif
