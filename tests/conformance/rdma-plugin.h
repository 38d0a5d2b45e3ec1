/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the rdma-plugin program share.  Each case runs in a process of its own. */
#ifndef CONFORMANCE_RDMA_PLUGIN_H
#define CONFORMANCE_RDMA_PLUGIN_H

#include <stdarg.h>
#include <stdio.h>

#include "core/util/check.h"
#include "cli/check/fake-host.h"
#include "tests/verbs/mock-verbs.h"

#define BOUND (20 * MC_SEC)
#define BURST 64u

struct rdma_case {
	const char *name;
	void (*run)(void);
};
extern const struct rdma_case open_cases[], fault_cases[], peer_cases[], limit_cases[];
extern struct fake_plugin plugin;
extern uint64_t peer_timeout_ns; /* of what is opened from now on */

_Noreturn void die(const char *file, int line, const char *fmt, ...) MC_PRINTF(3, 4);
#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond))                                                                       \
			die(__FILE__, __LINE__, __VA_ARGS__);                                      \
	} while (0)

/* An initiator, a target, a buffer at each. */
struct net {
	struct fake_world *w;
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_peer *peer;
	struct fake_buf *local, *target;
	struct fake_remote *remote;
};

/* words: options, with spaces between. */
struct fake_inst *inst_open(struct fake_world *w, const char *device, const char *words);
void net_open(struct net *n, const char *a, const char *b, const char *words);
void net_connect(struct net *n);
void net_bufs(struct net *n, uint64_t len);
void net_import(struct net *n);
int net_transfer(struct net *n, enum mc_opcode op, uint64_t off, uint64_t len);
void net_works(struct net *n, uint64_t seed); /* all of both buffers, there and back */
void net_breaks(struct net *n);               /* the plugin says so, with a reason */
void net_reconnect(struct net *n);            /* fence at both ends, close, open, import */
void net_close(struct net *n);

struct burst {
	struct fake_slice *s[BURST];
	unsigned nr;
};
void burst_submit(struct net *n, struct burst *b, enum mc_opcode op, uint64_t len);
void burst_wait(struct net *n, struct burst *b);
void burst_ended(struct burst *b, int status, int scope); /* each of them so; freed */

void fault(const char *device, const char *name, int64_t value);
int64_t figure(const char *device, const char *name);

#endif
