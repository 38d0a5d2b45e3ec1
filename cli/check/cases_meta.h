/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cases of metadata plugins: what cases_meta.c (begin and end, helpers, opening),
 * cases_meta_keys.c, cases_meta_watch.c (cases of one process) and cases_meta_many.c
 * (of several) share.
 */
#ifndef MC_CHECK_CASES_META_H
#define MC_CHECK_CASES_META_H

#include "cases.h"
#include "meta-host.h"

#define CHILDREN 12 /* the most that a case asks for */

struct suite {
	const char *url;    /* of the service */
	char root[64];      /* prefix of all keys of this run */
	uint64_t ttl_ns;    /* of leases that shall end */
	struct mh_inst *in; /* open while a case runs */
	const struct mc_metadata_ops *ops;
	void *a; /* its area */
	/* Processes that were forked before the plugin was loaded and wait for a role. */
	struct {
		pid_t pid;
		int fd;
	} children[CHILDREN];
	unsigned nr_children, nr_used;
};

#define IN(seconds) (mh_now() + (uint64_t)((seconds) * 1e9))

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
int put(struct suite *s, void *area, const char *key, const void *value, size_t len, uint64_t lease,
	uint64_t *ret_rev, struct mc_error *err);
int cas(struct suite *s, void *area, const char *key, const void *value, size_t len, uint64_t lease,
	uint64_t expect, uint64_t *ret_rev, struct mc_error *err);
/* A key of this run; good until the 16th call after this one on the same thread. */
const char *key_of(struct suite *s, const char *fmt, ...) MC_PRINTF(2, 3);
/* Wait until get answers status. */
bool wait_status(struct suite *s, const char *key, int status, uint64_t bound_ns);
/* One more instance, with the run's options. */
int meta_open(struct ctx *c, const char *url, struct mh_inst **ret_inst, struct mc_error *err);

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

/* Slots that need not be there. */
bool has_watch(const struct suite *s);
bool has_leases(const struct suite *s);

/* In a child: what it does.  Returns its exit status. */
int meta_child(struct ctx *c, const char *role, const char *key);
/* Give the next child a role; its pid. */
pid_t child_start(struct suite *s, const char *role, const char *key);

#endif
