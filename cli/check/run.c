/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check-plugin: runs the cases, each in a process of its own, so that a plugin that
 * crashes or hangs is a finding and not the end.  This process loads no plugin.
 */
#include "check.h"
#include "child.h"
#include "core/util/check.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *const level_names[NR_LEVELS] = {"loads", "lives", "moves", "behaves", "performs"};

const struct case_list case_lists[] = {
	{0, load_cases},
	{MC_KIND_TRANSPORT, life_cases},
	{MC_KIND_TRANSPORT, data_cases},
	{MC_KIND_TRANSPORT, peer_cases},
	{MC_KIND_TRANSPORT, process_cases},
	{MC_KIND_METADATA, meta_cases},
	{MC_KIND_METADATA, meta_key_cases},
	{MC_KIND_METADATA, meta_watch_cases},
	{MC_KIND_METADATA, meta_many_cases},
	{MC_KIND_MEMORY, mem_cases},
	{MC_KIND_MEMORY, mem_copy_cases},
	{MC_KIND_FILTER, filter_cases},
	{.cases = NULL},
};
const char *const kind_names[MC_KIND_COUNT] = {"plugin", "transport", "metadata plugin", "memory plugin", "filter"};

/* ---- the child ------------------------------------------------------------------------------- */

/* What a breach is against, by the words of its sentence.  The first that fits. */
static int breach_section(const char *breach)
{
	static const struct {
		const char *words;
		int section;
	} table[] = {
		{"instance's worker", 2},
		{"private areas", 3},
		{"after its close", 3},
		{"after close", 4},
		{"gives everything back: memory", 9},
		{"a copy that was taken", 9},
		{"peer_close", 6},
		{"exactly once", 5},
		{"from inside submit", 5},
		{"from inside cancel", 5},
		{"guard of", 5},
		{"MC_CAP_SYNC", 5},
		{"has a scope", 5},
		{"done_len", 5},
		{"submit answers", 5},
		{"cancel answers", 4},
		{"fence", 6},
		{"slices of an epoch", 6},
		{"peer_ready", 7},
		{"counter", 7},
		{"range_", 7},
		{"a watch", 7},
		{"rewatch", 7},
		{"device_event", 7},
		{"handshake message", 7},
		{"imported", 7},
	};

	for (size_t i = 0; i < MC_ARRAY_SIZE(table); i++)
		if (strstr(breach, table[i].words))
			return table[i].section;
	return 0;
}

/* What the fake host saw says more than what the case noticed. */
static void tell_breach(struct ctx *c)
{
	const char *breach = fake_last_of_all();
	size_t at = strlen(c->told->why);

	if (!breach[0])
		return;
	c->told->section = breach_section(breach);
	if (!strstr(c->told->why, breach))
		snprintf(c->told->why + at, WHY_MAX - at, "%s%s", at ? ": " : "", breach);
}

static int begin(struct ctx *c, const struct test_case *t, struct mc_error *err)
{
	if (t->level == LOADS)
		return 0;
	if (c->kind == MC_KIND_METADATA)
		return meta_begin(c, t->children, err);
	if (c->kind == MC_KIND_MEMORY)
		return fake_plugin_load(c->path, MC_KIND_MEMORY, &c->plugin, err);
	return ctx_load(c, err);
}

static void run_child(struct ctx *c, const struct test_case *t)
{
	struct mc_error err = {0};
	int r;

	setpgid(0, 0); /* so that what it starts ends with it */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(2, 1); /* the report has stdout for itself */
	if (t->level == LIVES)
		mallopt(M_ARENA_MAX, 1); /* one more of malloc's is no leak */
	if (begin(c, t, &err) < 0) {
		c->told->over = true;
		_exit(fail(c, "%s", err.text));
	}
	r = t->run(c);
	if (r == PASS && c->meta)
		r = meta_end(c);
	c->told->over = true;
	if (r == FAIL && c->meta)
		meta_tell_breach(c);
	else if (r == FAIL)
		tell_breach(c);
	if (r != PASS)
		_exit(r); /* what is still open then says nothing */
	exit(r); /* where a sanitizer looks for leaks */
}

/* ---- the parent ------------------------------------------------------------------------------ */

static double seconds_since(uint64_t t)
{
	return (double)(fake_real_ns() - t) / 1e9;
}

static int run_case(struct ctx *c, const struct test_case *t, unsigned seconds)
{
	int status = 0, r;
	char how[128];
	pid_t pid;

	memset(c->told, 0, sizeof *c->told);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		run_child(c, t);
	if (pid < 0)
		return fail(c, "no process: %s", strerror(errno));
	r = child_wait(pid, seconds, &status);
	child_how(r, status, seconds, how, sizeof how);
	if (how[0])
		return fail(c, "%s", how);
	r = WEXITSTATUS(status);
	if (!c->told->over)
		return fail(c, "the process ends inside the plugin, with exit status %d", r);
	if (r == PASS || r == SKIP)
		return r;
	if (!c->told->why[0])
		fail(c,
		     "the process ends with exit status %d: a sanitizer or a destructor did that",
		     r);
	return FAIL;
}

static void add_result(struct check *k, const struct test_case *t, int outcome, double seconds)
{
	struct result *r = &k->results[k->nr_results];

	if (k->nr_results == RESULTS_MAX)
		return;
	k->nr_results++;
	*r = (struct result){.test = t, .outcome = outcome, .seconds = seconds};
	if (outcome != PASS)
		snprintf(r->why, sizeof r->why, "%s", k->c.told->why);
	if (outcome == FAIL)
		r->section = k->c.told->section ? k->c.told->section : t->section;
	k->counts[outcome == PASS ? 0 : outcome == SKIP ? 2 : 1]++;
	report_result(k, r);
}

static void run_one(struct check *k, const struct test_case *t)
{
	uint64_t start = fake_real_ns();
	int r = run_case(&k->c, t, k->seconds);

	add_result(k, t, r, seconds_since(start));
}

/* ---- before the cases ------------------------------------------------------------------------ */

static int first_device(void *ctx, const char *device)
{
	struct told *told = ctx;

	snprintf(told->device, sizeof told->device, "%s", device);
	return 1;
}

static int find_device(struct ctx *c)
{
	struct fake_world *w = fake_world_new(0);

	fake_enumerate(w, &c->plugin, first_device, c->told);
	fake_world_free(w);
	if (!c->told->device[0])
		snprintf(c->told->device, sizeof c->told->device, "%.60s0", c->plugin.desc->name);
	return PASS;
}

/* A transport, or a filter over one. */
static bool has_transport(const struct check *k)
{
	return k->kind == MC_KIND_TRANSPORT || (k->kind == MC_KIND_FILTER && k->c.over);
}

/* The filter becomes the innermost one, and its options with it. */
static void put_over(struct check *k)
{
	struct ctx *c = &k->c;
	struct filter *f = &c->filters[0];

	memmove(f + 1, f, sizeof *f * c->nr_filters++);
	*f = (struct filter){.path = c->path, .nr_words = MC_MIN(c->nr_words, MC_ARRAY_SIZE(f->words))};
	memcpy(f->words, c->words, sizeof f->words[0] * f->nr_words);
	memcpy(c->words, k->over_words, sizeof c->words[0] * k->nr_over_words);
	c->nr_words = k->nr_over_words;
	c->over = k->over;
}

/* Who it is, and the device to use if none was named: the first that it finds.  What fails here is
 * found again by a case. */
static void look_first(struct check *k)
{
	static const struct test_case who = {LOADS, "who", case_head, 0};
	static const struct test_case where = {LIVES, "where", find_device, 0};

	if (run_case(&k->c, &who, k->seconds) == PASS) {
		k->kind = k->c.kind = k->c.told->kind;
		memcpy(k->name, k->c.told->name, sizeof k->name);
		memcpy(k->version, k->c.told->version, sizeof k->version);
	}
	if (k->kind == MC_KIND_FILTER && k->over)
		put_over(k);
	if (k->c.device || !has_transport(k) || k->last == LOADS)
		return;
	if (run_case(&k->c, &where, k->seconds) == PASS && k->c.told->device[0])
		memcpy(k->device, k->c.told->device, sizeof k->device);
	else
		snprintf(k->device, sizeof k->device, "%.60s0", k->name);
	k->c.device = k->device;
}

/* ---- performs -------------------------------------------------------------------------------- */

static void bench_one(struct check *k, struct ctx *c, const char *name, const struct test_case *t)
{
	struct bench_row *row = &k->rows[k->nr_rows++];

	snprintf(row->name, sizeof row->name, "%s", name);
	row->there = run_case(c, t, k->seconds) == PASS;
	snprintf(row->why, sizeof row->why, "%s", c->told->why);
	for (unsigned i = 0; i < BENCH_POINTS; i++) {
		row->mbps[i] = c->told->bench[i].mbps;
		row->us[i] = c->told->bench[i].us;
	}
}

/* Our own transports beside it; the core knows where they lie. */
static void bench_reference(struct check *k, const char *name, const char *device,
			    const struct test_case *t)
{
	static const struct test_case find = {LOADS, "find", find_wanted, 0};
	struct ctx c = {.kind = MC_KIND_TRANSPORT, .told = k->c.told, .device = device, .wanted = name, .no_data = true};
	char path[sizeof c.told->path];

	if (!strcmp(k->name, name))
		return;
	if (run_case(&c, &find, k->seconds) != PASS) {
		struct bench_row *row = &k->rows[k->nr_rows++];

		snprintf(row->name, sizeof row->name, "%s", name);
		snprintf(row->why, sizeof row->why, "%s", c.told->why);
		return;
	}
	memcpy(path, c.told->path, sizeof path);
	c.path = path;
	bench_one(k, &c, name, t);
}

static const struct test_case bench_case = {PERFORMS, "bench", bench_run, 4};

static void run_bench(struct check *k)
{
	uint64_t start = fake_real_ns();

	bench_one(k, &k->c, k->name, &bench_case);
	add_result(k, &bench_case, k->rows[0].there ? PASS : FAIL, seconds_since(start));
	bench_reference(k, "null", "null0", &bench_case);
	bench_reference(k, "tcp", "lo", &bench_case);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bool wanted(const struct check *k, const char *name)
{
	return !k->only || !strcmp(k->only, name);
}

static bool applies(const struct check *k, const struct case_list *l)
{
	return !l->kind || l->kind == k->kind || (l->kind == MC_KIND_TRANSPORT && has_transport(k));
}

static void run_level(struct check *k, enum level level)
{
	for (const struct case_list *l = case_lists; l->cases; l++)
		for (const struct test_case *t = l->cases; t->run && applies(k, l); t++)
			if (t->level == level && wanted(k, t->name) && strcmp(t->name, "open") != 0)
				run_one(k, t);
	if (level == PERFORMS && has_transport(k) && wanted(k, bench_case.name))
		run_bench(k);
}

static bool is_load_case(const char *name)
{
	const struct test_case *t = load_cases;

	while (t->run && strcmp(t->name, name) != 0)
		t++;
	return t->run;
}

static const struct test_case *find_case(const struct check *k, const char *name)
{
	for (const struct case_list *l = case_lists; l->cases; l++)
		for (const struct test_case *t = l->cases; t->run && applies(k, l); t++)
			if (!strcmp(t->name, name))
				return t;
	return NULL;
}

/* What cannot be opened is one finding, not one of every check. */
static bool opens(struct check *k)
{
	const struct test_case *t = find_case(k, "open");
	uint64_t start = fake_real_ns();
	int r = run_case(&k->c, t, k->seconds);

	if (r != PASS || wanted(k, t->name))
		add_result(k, t, r, seconds_since(start));
	k->shut = r != PASS;
	return r == PASS;
}

/* So is a transport that moves nothing; the others do not look at bytes then. */
static void look_for_data(struct check *k)
{
	static const struct test_case probe = {LIVES, "data", find_nothing, 5};
	uint64_t start = fake_real_ns();

	if (k->c.no_data)
		return;
	run_case(&k->c, &probe, MC_MIN(k->seconds, 15));
	if (!k->c.told->nothing)
		return;
	fail(&k->c, "slices succeed and not one byte arrives: if the transport moves nothing by design, say --no-data");
	add_result(k, &probe, FAIL, seconds_since(start));
	k->c.no_data = true;
}

/* What the levels after the first need: a plugin that can be loaded, and something to open. */
static bool goes_on(struct check *k)
{
	static const struct test_case service = {LIVES, "device", NULL, 8}, under = {LIVES, "over", NULL, 10};

	if (!k->kind)
		return false;
	if (k->kind == MC_KIND_METADATA && !k->c.device) {
		skip(&k->c, "the other checks need --device=URL, the service to open; keys are written there");
		add_result(k, &service, SKIP, 0);
		return false;
	}
	if (k->kind == MC_KIND_FILTER && !k->c.over) {
		skip(&k->c, "the other checks need --over=transport-NAME.so, a transport to put the filter over");
		add_result(k, &under, SKIP, 0);
		return false;
	}
	if (!opens(k))
		return false;
	if (has_transport(k))
		look_for_data(k);
	return true;
}

int check_run(struct check *k)
{
	signal(SIGCHLD, SIG_DFL); /* children are waited for, whatever whoever started us ignores */
	k->c.told = mmap(NULL, sizeof *k->c.told, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (k->c.told == MAP_FAILED) {
		perror("check-plugin: memory to share with children");
		return 1;
	}
	look_first(k);
	report_head(k);
	if (!k->kind && k->only && !is_load_case(k->only))
		k->only = "head"; /* which says why it cannot be run */
	run_level(k, LOADS);
	if (k->last > LOADS && (!k->only || !is_load_case(k->only)) && goes_on(k))
		for (int level = LIVES; level <= (int)k->last; level++)
			run_level(k, (enum level)level);
	report_end(k);
	return k->counts[1] || (k->strict && k->counts[2]) ? 1 : 0;
}
