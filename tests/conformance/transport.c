/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance of a transport plugin: loads one shared object under the fake host
 * and runs every case that its capabilities allow, each in a process of its own.
 *
 *   conformance-transport PLUGIN.so [--device D] [--option k=v]... [--memory memory-KIND.so]...
 *                         [--filter filter-NAME.so [--filter-option k=v]...]...
 *                         [--case NAME] [--no-data] [--strict]
 *
 * One line per case, then `N passed, N failed, N skipped`.  Exit status 0 when
 * nothing failed (with --strict: nor was skipped), 1 otherwise, 2 for usage.
 */
#include "transport.h"
#include "unit/filter-stack.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CASE_SECONDS 100
#define WHY_MAX 512

static int say(struct ctx *c, int result, const char *fmt, va_list ap)
{
	vsnprintf(c->why, WHY_MAX, fmt, ap);
	return result;
}

int fail(struct ctx *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, FAIL, fmt, ap);
	va_end(ap);
	return FAIL;
}

int skip(struct ctx *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, SKIP, fmt, ap);
	va_end(ap);
	return SKIP;
}

/* ---- pairs --------------------------------------------------------------------------------------- */

struct fake_world *world_open(struct ctx *c, unsigned flags)
{
	struct fake_world *w = fake_world_new(flags);

	for (unsigned i = 0; i < c->nr_memories; i++) {
		struct mc_error err = { 0 };

		if (fake_memory_open(w, &c->memories[i], NULL, 0, &err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			abort();
		}
	}
	return w;
}

int open_one(struct ctx *c, struct fake_world *w, struct fake_inst **ret, struct mc_error *err)
{
	struct fake_open how = { .device = c->device, .words = c->words, .nr_words = c->nr_words };

	return fake_open(w, &c->plugin, &how, ret, err);
}

int pair_connect(struct ctx *c, struct pair *p)
{
	int r = fake_peer_open(p->a, p->la, &p->peer);

	CHECK(r == 0, "peer_open answered %d", r);
	r = fake_peer_wait(p->peer, BOUND);
	CHECK(r == 0, "the peer does not get ready: %d %s", r, p->peer->why);
	return PASS;
}

int pair_open(struct ctx *c, struct pair *p, unsigned flags, bool connect)
{
	struct mc_error err = { 0 };
	int r;

	memset(p, 0, sizeof *p);
	p->w = world_open(c, flags);
	r = open_one(c, p->w, &p->a, &err);
	CHECK(r == 0, "open of the initiator: %d %s", r, err.text);
	r = open_one(c, p->w, &p->b, &err);
	CHECK(r == 0, "open of the target: %d %s", r, err.text);
	r = fake_link(p->a, p->b, &p->la, &p->lb);
	CHECK(r == 0, "no link: %d", r);
	return connect ? pair_connect(c, p) : PASS;
}

int pair_close(struct ctx *c, struct pair *p)
{
	char last[512];
	unsigned nr;

	fake_peer_close(p->peer);
	fake_close(p->a, BOUND);
	fake_close(p->b, BOUND);
	snprintf(last, sizeof last, "%s", fake_last_breach(p->w));
	nr = fake_world_free(p->w);
	CHECK(!nr, "%u breaches: %s", nr, last[0] ? last : "at the end of the world, see above");
	return PASS;
}

struct wait_remote {
	struct fake_peer *peer;
	void *base;
};

static bool remote_known(void *ctx)
{
	struct wait_remote *w = ctx;
	struct fake_remote *r = fake_remote_find(w->peer, w->base);

	return r && r->area && r->status != -EINPROGRESS;
}

int remote_wait(struct ctx *c, struct pair *p, struct fake_buf *target, struct fake_remote **ret)
{
	struct wait_remote wait = { p->peer, target->base };
	int r = fake_run_on(p->a, remote_known, &wait, BOUND);

	CHECK(r == 0, "the remote buffer is not imported: %d", r);
	*ret = fake_remote_find(p->peer, target->base);
	CHECK((*ret)->status == 0, "mem_import answered %d", (*ret)->status);
	return PASS;
}

int bufs_open(struct ctx *c, struct pair *p, uint64_t len, const char *local_kind,
	      const char *target_kind, uint32_t access, struct bufs *ret)
{
	struct mc_error err = { 0 };
	int r = fake_buf_new(p->a, len, 0, local_kind, MC_ACCESS_LOCAL, &ret->local, &err);

	CHECK(r == 0, "registering at the initiator: %d %s", r, err.text);
	r = fake_buf_new(p->b, len, 0, target_kind, access, &ret->target, &err);
	CHECK(r == 0, "registering at the target: %d %s", r, err.text);
	return remote_wait(c, p, ret->target, &ret->remote);
}

int bufs_close(struct ctx *c, struct pair *p, struct bufs *b)
{
	int r = fake_buf_free(b->target, BOUND);

	CHECK(r == 0, "the target's buffer stays held: %d", r);
	r = fake_buf_free(b->local, BOUND);
	CHECK(r == 0, "the initiator's buffer stays held: %d", r);
	CHECK(!fake_breaches(p->w), "%s", fake_last_breach(p->w));
	return PASS;
}

int transfer(struct pair *p, enum mc_opcode op, struct fake_buf *local, uint64_t local_off,
	     struct fake_remote *remote, uint64_t remote_off, uint64_t len, int *ret_scope)
{
	struct fake_slice *s = fake_slice_new(p->a);
	int r;

	fake_slice_set(s, p->peer, op, local, local_off, remote, remote_off, len, 0);
	r = fake_transfer(s, BOUND);
	if (ret_scope)
		*ret_scope = s->scope;
	if (s->state != FAKE_INFLIGHT)
		fake_slice_free(s);
	return r;
}

int make_visible(struct pair *p, struct bufs *b)
{
	struct fake_slice *s;
	int r;

	if (p->a->caps.visibility != MC_VISIBLE_AFTER_FLUSH)
		return 0;
	s = fake_slice_new(p->a);
	fake_slice_set(s, p->peer, MC_OP_READ, b->local, 0, b->remote, 0, 0, MC_SLICE_FLUSH);
	r = fake_transfer(s, BOUND);
	if (s->state != FAKE_INFLIGHT)
		fake_slice_free(s);
	return r;
}

int works(struct ctx *c, struct pair *p, struct bufs *b, uint64_t seed)
{
	uint64_t len = align_up(p, b->local->len < 4096 ? b->local->len : 4096);
	int r;

	fake_buf_fill(b->local, 0, len, seed);
	r = transfer(p, MC_OP_WRITE, b->local, 0, b->remote, 0, len, NULL);
	CHECK(r == 0, "a write fails: %d", r);
	r = make_visible(p, b);
	CHECK(r == 0, "the flush fails: %d", r);
	CHECK(c->no_data || fake_buf_check(b->target, 0, len, seed) < 0, "a write brings wrong bytes");
	fake_buf_fill(b->target, 0, len, ~seed);
	r = transfer(p, MC_OP_READ, b->local, 0, b->remote, 0, len, NULL);
	CHECK(r == 0, "a read fails: %d", r);
	CHECK(c->no_data || fake_buf_check(b->local, 0, len, ~seed) < 0, "a read brings wrong bytes");
	return PASS;
}

uint64_t align_up(const struct pair *p, uint64_t n)
{
	uint64_t a = p->a->caps.alignment;

	return a > 1 ? (n + a - 1) / a * a : n;
}

/* What the largest slice is for the tests. */
uint64_t largest(const struct pair *p)
{
	uint64_t max = p->peer ? p->peer->caps.max_slice : p->a->caps.max_slice;

	return max < (8u << 20) ? max : 8u << 20;
}

bool has_kind(const char *const *kinds, const char *kind)
{
	while (*kinds && strcmp(*kinds, "*") && strcmp(*kinds, kind))
		kinds++;
	return *kinds;
}

/* ---- running ---------------------------------------------------------------------------------------- */

static int run_child(struct ctx *c, const struct test_case *t)
{
	int r;

	alarm(CASE_SECONDS);
	r = t->run(c);
	if (r != PASS)
		_exit(r); /* what is still open then says nothing */
	exit(r);    /* where a sanitizer looks for leaks */
}

static int run_case(struct ctx *c, const struct test_case *t)
{
	int status, r;
	pid_t pid;

	c->why[0] = 0;
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		run_child(c, t);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return fail(c, "no process: %s", strerror(errno));
	if (WIFSIGNALED(status))
		r = fail(c, "%s (signal %d)", WTERMSIG(status) == SIGALRM ? "does not end" : "crashes",
			 WTERMSIG(status));
	else
		r = WEXITSTATUS(status);
	if (r != PASS && r != SKIP && !c->why[0])
		fail(c, "exit status %d", r);
	return r;
}

static unsigned counts[3]; /* passed, failed, skipped */

static void run_list(struct ctx *c, const struct test_case *cases, const char *only)
{
	for (; cases->name; cases++) {
		int r;

		if (only && strcmp(only, cases->name))
			continue;
		r = run_case(c, cases);
		counts[r == PASS ? 0 : r == SKIP ? 2 : 1]++;
		printf("%s %s%s%s\n", r == PASS ? "ok  " : r == SKIP ? "skip" : "FAIL", cases->name,
		       r == PASS ? "" : ": ", r == PASS ? "" : c->why);
	}
}

static int usage(const char *why)
{
	fprintf(stderr, "%s\nusage: conformance-transport PLUGIN.so [--device D] [--option k=v]... "
			"[--memory FILE.so]... [--filter FILE.so [--filter-option k=v]...]... [--case NAME] "
			"[--no-data] [--strict]\n", why);
	return 2;
}

struct filter {
	const char *path, *words[16];
	size_t nr_words;
};

struct args {
	const char *plugin, *only;
	bool strict;
	struct filter filters[4]; /* the first is the innermost */
	unsigned nr_filters;
};

static int parse_args(struct ctx *c, int argc, char **argv, struct args *a)
{
	for (int i = 1; i < argc; i++) {
		const char *next = argv[i + 1];

		if (!strcmp(argv[i], "--strict"))
			a->strict = true;
		else if (!strcmp(argv[i], "--no-data"))
			c->no_data = true;
		else if (argv[i][0] != '-' && !a->plugin)
			a->plugin = argv[i];
		else if (argv[i][0] != '-' || !next)
			return usage("unknown argument, or a value is missing");
		else if (!strcmp(argv[i], "--device") && ++i)
			c->device = next;
		else if (!strcmp(argv[i], "--case") && ++i)
			a->only = next;
		else if (!strcmp(argv[i], "--option") && c->nr_words < 64 && ++i)
			c->words[c->nr_words++] = next;
		else if (!strcmp(argv[i], "--memory") && c->nr_memories < 4 && ++i) {
			struct mc_error err = { 0 };

			if (fake_plugin_load(next, MC_KIND_MEMORY, &c->memories[c->nr_memories++], &err) < 0)
				return usage(err.text);
		} else if (!strcmp(argv[i], "--filter") && a->nr_filters < 4 && ++i)
			a->filters[a->nr_filters++].path = next;
		else if (!strcmp(argv[i], "--filter-option") && a->nr_filters &&
			 a->filters[a->nr_filters - 1].nr_words < 16 && ++i) {
			struct filter *f = &a->filters[a->nr_filters - 1];

			f->words[f->nr_words++] = next;
		} else
			return usage("unknown option");
	}
	return a->plugin ? 0 : usage("which plugin?");
}

int main(int argc, char **argv)
{
	static struct ctx c;
	struct args a = { 0 };
	struct mc_error err = { 0 };
	int r;

	r = parse_args(&c, argc, argv, &a);
	if (r)
		return r;
	c.why = mmap(NULL, WHY_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (c.why == MAP_FAILED)
		return 1;
	if (fake_plugin_load(a.plugin, MC_KIND_TRANSPORT, &c.plugin, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		printf("FAIL load: %s\n0 passed, 1 failed, 0 skipped\n", err.text);
		return 1;
	}
	for (unsigned i = 0; i < a.nr_filters; i++) {
		const struct filter *f = &a.filters[i];

		if (filter_stack(&c.plugin, f->path, f->words, f->nr_words, &err) < 0)
			return usage(err.text);
	}
	run_list(&c, life_cases, a.only);
	run_list(&c, data_cases, a.only);
	run_list(&c, peer_cases, a.only);
	printf("%u passed, %u failed, %u skipped\n", counts[0], counts[1], counts[2]);
	return counts[1] || (a.strict && counts[2]) ? 1 : 0;
}
