/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts of the metadata conformance program: metadata.c (start, helpers),
 * metadata-keys.c, metadata-watch.c (cases of one process), metadata-many.c (of
 * several processes).
 */
#ifndef MC_TESTS_METADATA_H
#define MC_TESTS_METADATA_H

#include "meta-host.h"

struct suite {
	struct mh_plugin plugin;
	const char *self, *path, *url; /* this program, the plugin, the service */
	char root[64];                 /* prefix of all keys of this run */
	uint64_t ttl_ns;               /* of leases that shall end */
	struct mh_inst *in;            /* one instance for all cases */
	const struct mc_metadata_ops *ops;
	void *a; /* its area */
};

struct test_case {
	const char *name;
	int (*run)(struct suite *s); /* 0, SKIP, or -1; why holds the sentence of the last two */
};

#define SKIP 77
extern char why[2048];
/* Say in why what was expected.  Returns -1. */
int explain(int line, const char *cond, const char *fmt, ...) MC_PRINTF(3, 4);

#define EXPECT(cond, ...)                                                                          \
	do {                                                                                       \
		if (!(cond))                                                                       \
			return explain(__LINE__, #cond, " " __VA_ARGS__);                          \
	} while (0)

#define IN(seconds) (mh_now() + (uint64_t)((seconds)*1e9))

/* What get found. */
struct got {
	int status;
	uint64_t revision, len, lease;
	unsigned char *value; /* free it */
};

struct got get(struct suite *s, void *area, const char *key);
/* mc_kv_emit that fills a struct got. */
int got_emit(void *ctx, const struct mc_kv *kv);
int status_of(struct suite *s, void *area, const char *key);
int put(struct suite *s, void *area, const char *key, const void *value, size_t len,
	uint64_t lease, uint64_t *ret_rev, struct mc_error *err);
int cas(struct suite *s, void *area, const char *key, const void *value, size_t len,
	uint64_t lease, uint64_t expect, uint64_t *ret_rev, struct mc_error *err);
/* A key of this run; good until the 16th call after this one on the same thread. */
const char *key_of(struct suite *s, const char *fmt, ...) MC_PRINTF(2, 3);
/* Wait until get answers status. */
bool wait_status(struct suite *s, const char *key, int status, uint64_t bound_ns);

/* Bytes that can be checked without knowing what was written: length and seed stand inside. */
void pattern_fill(unsigned char *buf, size_t len, uint64_t seed);
bool pattern_ok(const unsigned char *buf, size_t len);

/* A sentence: present, one line, with the code. */
bool sentence(const struct mc_error *err, int r);
uint64_t mix(uint64_t x);

struct listed {
	char keys[64][MC_KV_KEY_MAX + 1];
	size_t nr, stop_at;
	bool bad;
};

/* mc_kv_emit with a struct listed; values must equal their keys. */
int list_emit(void *ctx, const struct mc_kv *kv);

/* Each ends with name NULL. */
extern const struct test_case key_cases[], watch_cases[], many_cases[];
/* What a child process does: argv[0] is its role.  Returns its exit status. */
int child_main(struct suite *s, int argc, char **argv);

#endif
