/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the etcd-outage program share.  Each case runs in a process of its own. */
#ifndef CONFORMANCE_ETCD_OUTAGE_H
#define CONFORMANCE_ETCD_OUTAGE_H

#include "etcd-relay.h"
#include "cli/check/meta-host.h"

#include <stdio.h>
#include <stdlib.h>

#define IN(seconds) (mh_now() + (uint64_t)((seconds)*1e9))
#define KEY "mooncake/outage/"

/* The world of a case: the script with its servers, the plugin, what was opened. */
struct outage {
	pid_t script;
	FILE *to, *from;
	char url[1024]; /* the servers' */
	int port;       /* of the first */
	char *options[16]; /* of the plugin, that the servers need */
	size_t nr_options;
	struct fake_plugin plugin;
	const struct mc_metadata_ops *ops;
	struct relay *relay, *relay2;
	struct mh_inst *direct, *in;
};
extern struct outage w;

#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("%s:%d: %s: ", __FILE__, __LINE__, #cond);                          \
			printf(" " __VA_ARGS__);                                                   \
			printf("\n");                                                              \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Have the script do something to its servers, and wait until it is done. */
void command(const char *text);
/* words: options, NULL: those that the servers need; fmt: the URL. */
struct mh_inst *open_url(const char *const *words, const char *fmt, ...) MC_PRINTF(2, 3);

struct value {
	char text[64];
	uint64_t revision, lease;
};
int get(struct mh_inst *in, const char *key, double seconds, struct value *v, struct mc_error *err);
uint64_t put(struct mh_inst *in, const char *key, const char *value, uint64_t lease); /* its revision */
struct mh_watch *watch(struct mh_inst *in);                                           /* of KEY */
void watch_end(struct mh_watch *watch);

void case_compaction(void);
void case_wiped(void);
void case_resume(void);
void case_silent(void);

#endif
