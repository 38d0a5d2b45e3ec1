/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rdma transport over the mock verbs library, which can fail as no soft device does: no memory to
 * pin, slow destroying, silence, completions that never come; and many peers on few endpoints.
 *
 *   rdma-plugin PLUGIN.so [CASE]
 */
#include "rdma-plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CASE_SECONDS 100

struct fake_plugin plugin;
uint64_t peer_timeout_ns = 5 * MC_SEC;

void die(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	printf("%s:%d: ", file, line);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

void fault(const char *device, const char *name, int64_t value)
{
	CHECK(mock_verbs_fault(device, name, value) == 0, "no fault %s of %s", name, device);
}

int64_t figure(const char *device, const char *name)
{
	int64_t n = mock_verbs_stat(device, name);

	CHECK(n >= 0, "no figure %s of %s", name, device);
	return n;
}

/* ---- nets ---------------------------------------------------------------------------------------------- */

struct fake_inst *inst_open(struct fake_world *w, const char *device, const char *words)
{
	struct fake_open how = { .device = device, .peer_timeout_ns = peer_timeout_ns };
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	const char *list[16];
	char copy[512], *save, *word;

	snprintf(copy, sizeof copy, "%s", words);
	for (word = strtok_r(copy, " ", &save); word && how.nr_words < 16; word = strtok_r(NULL, " ", &save))
		list[how.nr_words++] = word;
	how.words = list;
	CHECK(fake_open(w, &plugin, &how, &inst, &err) == 0, "open of %s: %s", device, err.text);
	return inst;
}

void net_open(struct net *n, const char *a, const char *b, const char *words)
{
	memset(n, 0, sizeof *n);
	n->w = fake_world_new(0);
	n->a = inst_open(n->w, a, words);
	n->b = inst_open(n->w, b, words);
	CHECK(fake_link(n->a, n->b, &n->la, &n->lb) == 0, "no link");
}

void net_connect(struct net *n)
{
	int r = fake_peer_open(n->a, n->la, &n->peer);

	CHECK(r == 0, "peer_open: %d", r);
	r = fake_peer_wait(n->peer, BOUND);
	CHECK(r == 0, "the peer does not get ready: %d %s", r, n->peer->why);
}

void net_bufs(struct net *n, uint64_t len)
{
	struct mc_error err = { 0 };

	CHECK(fake_buf_new(n->a, len, 0, NULL, MC_ACCESS_LOCAL, &n->local, &err) == 0, "%s", err.text);
	CHECK(fake_buf_new(n->b, len, 0, NULL, MC_ACCESS_ALL, &n->target, &err) == 0, "%s", err.text);
}

static bool has_remote(void *ctx)
{
	struct net *n = ctx;

	n->remote = fake_remote_find(n->peer, n->target->base);
	return n->remote && n->remote->area && n->remote->status != -EINPROGRESS;
}

void net_import(struct net *n)
{
	CHECK(fake_run_on(n->a, has_remote, n, BOUND) == 0, "the buffer is not imported");
	CHECK(n->remote->status == 0, "mem_import: %d", n->remote->status);
}

int net_transfer(struct net *n, enum mc_opcode op, uint64_t off, uint64_t len)
{
	struct fake_slice *s = fake_slice_new(n->a);
	int r;

	fake_slice_set(s, n->peer, op, n->local, off, n->remote, off, len, 0);
	r = fake_transfer(s, BOUND);
	if (s->state != FAKE_INFLIGHT)
		fake_slice_free(s);
	return r;
}

void net_works(struct net *n, uint64_t seed)
{
	uint64_t len = n->local->len;

	fake_buf_fill(n->local, 0, len, seed);
	CHECK(net_transfer(n, MC_OP_WRITE, 0, len) == 0, "a write fails");
	CHECK(fake_buf_check(n->target, 0, len, seed) < 0, "wrong bytes are written");
	fake_buf_fill(n->target, 0, len, ~seed);
	CHECK(net_transfer(n, MC_OP_READ, 0, len) == 0, "a read fails");
	CHECK(fake_buf_check(n->local, 0, len, ~seed) < 0, "wrong bytes are read");
}

void net_close(struct net *n)
{
	unsigned nr;

	if (n->peer && n->peer->open)
		fake_peer_close(n->peer);
	if (n->target)
		CHECK(fake_buf_free(n->target, BOUND) == 0, "the target's buffer stays held");
	if (n->local)
		CHECK(fake_buf_free(n->local, BOUND) == 0, "the initiator's buffer stays held");
	CHECK(fake_close(n->a, BOUND) == 0, "the initiator does not close");
	CHECK(fake_close(n->b, BOUND) == 0, "the target does not close");
	nr = fake_world_free(n->w);
	CHECK(nr == 0, "%u breaches, see above", nr);
}

static bool burst_over(void *ctx)
{
	struct burst *b = ctx;

	for (unsigned i = 0; i < b->nr; i++)
		if (b->s[i]->state == FAKE_INFLIGHT)
			return false;
	return true;
}

void burst_submit(struct net *n, struct burst *b, enum mc_opcode op, uint64_t len)
{
	for (b->nr = 0; b->nr < BURST && (b->nr + 1) * len <= n->local->len; b->nr++) {
		struct fake_slice *s = fake_slice_new(n->a);
		int r;

		fake_slice_set(s, n->peer, op, n->local, b->nr * len, n->remote, b->nr * len, len, 0);
		r = fake_submit(s);
		if (r == -EAGAIN) {
			fake_slice_free(s);
			break;
		}
		CHECK(r == 0, "submit: %d", r);
		b->s[b->nr] = s;
	}
	fake_flush(n->a);
}

void burst_wait(struct net *n, struct burst *b)
{
	CHECK(fake_run_on(n->a, burst_over, b, BOUND) == 0, "slices never end");
}

void burst_ended(struct burst *b, int status, int scope)
{
	for (unsigned i = 0; i < b->nr; i++) {
		CHECK(b->s[i]->state == FAKE_DONE, "slice %u has not ended", i);
		CHECK(b->s[i]->status == status && (status == 0 || b->s[i]->scope == scope),
		      "slice %u of %u ended with %d, scope %d", i, b->nr, b->s[i]->status, b->s[i]->scope);
		fake_slice_free(b->s[i]);
	}
}

static bool broke(void *ctx)
{
	return !((struct fake_peer *)ctx)->ready;
}

void net_breaks(struct net *n)
{
	CHECK(fake_run_on(n->a, broke, n->peer, BOUND) == 0, "nobody says that the connection is broken");
	CHECK(n->peer->why[0], "no reason is given");
}

void net_reconnect(struct net *n)
{
	int r = fake_peer_fence(n->peer, BOUND);

	CHECK(r == 0, "the fence does not end: %d", r);
	fake_peer_close(n->peer);
	net_connect(n);
	net_import(n);
}

/* ---- running --------------------------------------------------------------------------------------------- */

static int run_case(const struct rdma_case *c)
{
	static const char *const devices[] = { "mock0", "mock1", "mock2", "ib0", "ib1", "few" };
	int status = 0;
	pid_t pid;

	/* They are of all processes. */
	for (size_t i = 0; i < MC_ARRAY_SIZE(devices); i++)
		fault(devices[i], "none", 0);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(CASE_SECONDS);
		c->run();
		exit(0);
	}
	waitpid(pid, &status, 0);
	printf("%s %s\n", status ? "FAIL" : "ok  ", c->name);
	if (WIFSIGNALED(status))
		printf("  signal %d\n", WTERMSIG(status));
	return status != 0;
}

int main(int argc, char **argv)
{
	static const struct rdma_case *const lists[] = { open_cases, fault_cases, peer_cases, limit_cases };
	struct mc_error err = { 0 };
	unsigned failed = 0, nr = 0;

	if (argc < 2 || argc > 3) {
		fputs("usage: rdma-plugin PLUGIN.so [CASE]\n", stderr);
		return 2;
	}
	setenv("MOCK_VERBS", "mock0 mock1 mock2 narrow:wire_mtu=1024 lost:gids=v2/127.77.1.1!+v2/127.77.1.2 "
	       "far:gids=v2/127.77.2.1! v1only:gids=v1/127.77.3.1 v2only:gids=v2/127.77.4.1 ib0:ll=ib ib1:ll=ib few:max_qp=8", 1);
	if (fake_plugin_load(argv[1], MC_KIND_TRANSPORT, &plugin, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	for (size_t i = 0; i < MC_ARRAY_SIZE(lists); i++)
		for (const struct rdma_case *c = lists[i]; c->name; c++)
			if (argc < 3 || strcmp(argv[2], c->name) == 0) {
				failed += (unsigned)run_case(c);
				nr++;
			}
	printf("%u passed, %u failed\n", nr - failed, failed);
	return failed || !nr;
}
