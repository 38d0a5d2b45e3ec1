/* SPDX-License-Identifier: Apache-2.0 */
/* JSON of others, read value by value: where each stands, and what it is. */
#ifndef MC_P2P_CLI_JSON_READ_H
#define MC_P2P_CLI_JSON_READ_H

#include <mooncake/types.h>

enum p2pc_json_type {
	P2PC_JSON_NULL,
	P2PC_JSON_BOOL,   /* text is "true" or "false" */
	P2PC_JSON_NUMBER, /* text is as it was written */
	P2PC_JSON_TEXT,
	P2PC_JSON_MAP,  /* one begins: its members have depth + 1 */
	P2PC_JSON_LIST,
	P2PC_JSON_END, /* of the map or list that began at this depth */
};

#define P2PC_JSON_DEPTH 6 /* levels whose keys are kept */
#define P2PC_JSON_KEY 256

/* Where a value stands: depth maps and lists are around it, and level[i] says where in them. */
struct p2pc_json_level {
	bool list;
	uint64_t idx;            /* in a list */
	char key[P2PC_JSON_KEY]; /* in a map; cut short if it is longer */
};

struct p2pc_json {
	/* Set by the caller.  each returns 0, or a negative errno by p2pc_json_fail; text ends with a NUL and
	 * holds no other. */
	int (*each)(struct p2pc_json *j, enum p2pc_json_type type, const char *text, size_t len);
	void *ctx;
	const char *what; /* begins sentences: "file 'model.safetensors'" */
	struct mc_error *err;

	size_t depth;
	struct p2pc_json_level level[P2PC_JSON_DEPTH];
	int status;
	char *text;
	size_t cap;
};

/* Read one value, which all of text must be.  0, or what each returned, or -EBADMSG, -ENOMEM. */
int p2pc_json_read(struct p2pc_json *j, const void *text, size_t len);
/* Is the value at this depth, in a map, under this key? */
bool p2pc_json_at(const struct p2pc_json *j, size_t depth, const char *key);
/* "WHAT: what is wrong"; returns -EBADMSG. */
int p2pc_json_fail(struct p2pc_json *j, const char *fmt, ...) MC_PRINTF(2, 3);
/* A whole number from 0 to 2^63 - 1, or a sentence that names it. */
int p2pc_json_count(struct p2pc_json *j, const char *name, enum p2pc_json_type type, const char *text, uint64_t *ret);

#endif
