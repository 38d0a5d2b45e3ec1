/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a file of JSON as a stream and tells where each value stands.  The files may
 * come from anywhere: sizes are bounded, and the owner is asked for each value
 * whether it wants it, before it gets it.
 */
#ifndef MC_BENCH_JSON_WALK_H
#define MC_BENCH_JSON_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WALK_DEPTH 12 /* deeper things are passed over */
#define WALK_KEY 48   /* bytes of a key that count, with the NUL */
#define WALK_PLACE (WALK_DEPTH * (WALK_KEY + 24))
#define WALK_TEXT_MAX 1024 /* what is longer is cut off */

enum walk_type { WALK_TEXT, WALK_NUMBER, WALK_BOOL, WALK_NULL, WALK_OBJECT, WALK_LIST };

struct walk;

/* A place is like "points[].samples[].p99".  All but wants answer 1, or walk_refuse(). */
struct walk_ops {
	const char *of; /* "not the JSON of a bench" */
	/* May a value of this type stand here?  1: it is to be taken; 0: nobody wants it; -1: refused. */
	int (*wants)(struct walk *w, const char *place, enum walk_type type);
	/* Text, or the digits of a number as they stand, or "true" or "false"; NULL: null. */
	int (*value)(struct walk *w, const char *place, enum walk_type type, const char *text);
	int (*begin)(struct walk *w, const char *place); /* an object */
	int (*end)(struct walk *w, const char *place);
};

struct walk {
	const struct walk_ops *ops;
	void *ctx;
	const char *path; /* of the file, for sentences */
	char *error;
	size_t cap;
	/* The walk's own. */
	struct {
		bool array;
		uint64_t idx; /* of an array: the current element */
		char key[WALK_KEY];
	} stack[WALK_DEPTH];
	size_t depth; /* may exceed WALK_DEPTH */
};

/* "path: $.points[3].p99: ..." in the error.  Always 0, which ends the walk. */
int walk_refuse(struct walk *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Values in their range; 1, or 0 and refused. */
int walk_take_number(struct walk *w, const char *text, double max, double *ret);
int walk_take_count(struct walk *w, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/* One of two words; *ret: it is the second. */
int walk_take_word(struct walk *w, const char *text, const char *no, const char *yes, bool *ret);

/* 0; -1: what is wrong, and where, is in the error. */
int walk_parse(struct walk *w, const unsigned char *text, size_t len);

/* The bytes of a file of at most max bytes, to be freed; NULL: error says why. */
unsigned char *walk_load(const char *path, size_t max, size_t *ret_len, char *error, size_t cap);

#endif
