/* SPDX-License-Identifier: Apache-2.0 */
/* Cases: options, devices, opening and closing, forking, registration, being idle. */
#include "cases.h"
#include "leaks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------ */

/* Open with one more option: it works, or fails with a sentence; never more than that. */
static int try_option(struct ctx *c, const char *name, const char *value)
{
	struct fake_world *w = world_open(c, 0);
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	char word[512];
	unsigned nr;
	int r;

	if (c->nr_words == 64)
		return PASS;
	snprintf(word, sizeof word, "%s=%s", name, value);
	c->words[c->nr_words++] = word;
	r = open_one(c, w, &inst, &err);
	c->nr_words--;
	if (r == 0)
		fake_close(inst, BOUND);
	nr = fake_world_free(w);
	CHECK(!nr, "with %s: %u breaches", word, nr);
	CHECK(r == 0 || err.text[0], "with %s: open answered %d without a sentence", word, r);
	return PASS;
}

int options_try(struct ctx *c, const struct mc_plugin_desc *d,
		int (*try)(struct ctx *c, const char *name, const char *value))
{
	const struct mc_option *o;
	char text[32];
	int r = PASS;

	for (size_t i = 0; (o = fake_option_at(d, i)) && r == PASS; i++) {
		if (o->min || o->max) {
			snprintf(text, sizeof text, "%lld%s", (long long)o->min,
				 o->type == MC_OPT_DURATION ? "ns" : "");
			r = try(c, o->name, text);
			snprintf(text, sizeof text, "%lld%s",
				 (long long)(o->max > (INT64_C(1) << 52) ? INT64_C(1) << 52 : o->max),
				 o->type == MC_OPT_DURATION ? "ns" : "");
			if (r == PASS)
				r = try(c, o->name, text);
		}
		for (int j = 0; o->type == MC_OPT_ENUM && o->choices[j] && r == PASS; j++)
			r = try(c, o->name, o->choices[j]);
		if (o->type == MC_OPT_BOOL && r == PASS)
			r = try(c, o->name, "true");
		if (o->type == MC_OPT_BOOL && r == PASS)
			r = try(c, o->name, "false");
		if (o->type == MC_OPT_STRING && r == PASS)
			r = try(c, o->name, "no/such\nthing");
		if ((o->flags & MC_OPT_AUTO) && r == PASS)
			r = try(c, o->name, "auto");
	}
	return fake_option_at(d, 0) ? r : skip(c, "no options");
}

static int case_options(struct ctx *c)
{
	return options_try(c, c->plugin.desc, try_option);
}

static int case_reconfigure(struct ctx *c)
{
	const struct mc_option *o;
	struct pair p;
	struct bufs b;
	int r = pair_open(c, &p, 0, true);

	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r != PASS)
		return r;
	for (size_t i = 0; (o = fake_option_at(c->plugin.desc, i)); i++) {
		struct mc_error err = { 0 };
		int got;

		if (!(o->flags & MC_OPT_RELOADABLE))
			continue;
		CHECK(fake_has(&c->plugin, reconfigure), "option '%s' is reloadable, reconfigure is NULL", o->name);
		got = fake_reconfigure(p.a, c->words, c->nr_words, &err);
		CHECK(got == 0, "reconfigure with the values of open: %d %s", got, err.text);
		r = works(c, &p, &b, i + 1);
		if (r != PASS)
			return r;
	}
	r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

/* ---- devices ---------------------------------------------------------------------------------------- */

struct devices {
	char names[64][MC_DEVICE_NAME_MAX + 1];
	unsigned nr;
};

static int found_device(void *ctx, const char *device)
{
	struct devices *d = ctx;

	if (d->nr < 64)
		snprintf(d->names[d->nr++], sizeof d->names[0], "%s", device);
	return 0;
}

static int case_devices(struct ctx *c)
{
	struct devices d = { .nr = 0 };
	struct fake_world *w = world_open(c, 0);
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	int r = open_one(c, w, &inst, &err);

	CHECK(r == 0, "open: %d %s", r, err.text);
	if (!fake_has(&c->plugin, enumerate) && !fake_has(&c->plugin, probe)) {
		fake_world_free(w);
		return skip(c, "neither enumerate nor probe");
	}
	r = inst->ops->enumerate(&inst->host, found_device, &d);
	CHECK(r == 0 || r == -ENOTSUP, "enumerate answered %d", r);
	if (!d.nr)
		found_device(&d, inst->device);
	for (unsigned i = 0; i < d.nr; i++) {
		struct mc_device_info info = { .size = sizeof info };

		r = inst->ops->probe(&inst->host, d.names[i], &info, &err);
		CHECK(r == 0 || r == -ENOTSUP, "probe of '%s': %d %s", d.names[i], r, err.text);
		CHECK(r < 0 || info.size == sizeof info, "probe of '%s' changes size", d.names[i]);
		CHECK(r < 0 || !strcmp(info.name, d.names[i]), "probe of '%s' names '%s'", d.names[i], info.name);
		CHECK(r < 0 || info.state != MC_STATE_DOWN || info.remedy[0], "'%s' is down without a remedy", d.names[i]);
	}
	CHECK(!fake_world_free(w), "breaches");
	return PASS;
}

/* ---- open and close ------------------------------------------------------------------------------------- */

static int one_cycle(struct ctx *c, int i)
{
	struct fake_world *w = world_open(c, 0);
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	int r = open_one(c, w, &inst, &err);

	CHECK(r == 0, "open %d: %d %s", i, r, err.text);
	r = fake_run(w, NULL, NULL, BOUND);
	CHECK(r == 0, "it never gets quiet");
	CHECK(fake_close(inst, BOUND) == 0, "close %d does not end", i);
	CHECK(!fake_world_free(w), "breaches in cycle %d", i);
	return PASS;
}

static int case_open_close(struct ctx *c)
{
	return leaks_over(c, one_cycle, false);
}

static int fail_each(struct ctx *c, void (*inject)(struct fake_world *, unsigned))
{
	for (unsigned nth = 1; nth < 50; nth++) {
		struct fake_world *w = world_open(c, 0);
		struct fake_inst *inst = NULL;
		struct mc_error err = { 0 };
		int r;

		inject(w, nth);
		r = open_one(c, w, &inst, &err);
		inject(w, 0);
		CHECK(r == 0 || err.text[0], "open answered %d without a sentence", r);
		if (r == 0)
			fake_run(w, NULL, NULL, BOUND);
		CHECK(!fake_world_free(w), "breaches when call %u fails", nth);
	}
	return PASS;
}

static int case_open_fails(struct ctx *c)
{
	int r = fail_each(c, fake_fail_alloc);

	return r == PASS ? fail_each(c, fake_fail_watch) : r;
}

static int case_lanes(struct ctx *c)
{
	struct fake_world *w = world_open(c, 0);
	struct fake_inst *lanes[3] = { NULL };
	struct mc_error err = { 0 };

	for (uint32_t i = 0; i < 3; i++) {
		struct fake_open how = { .device = c->device, .words = c->words, .nr_words = c->nr_words,
					 .lane = i, .nr_lanes = 3, .lane0 = lanes[0] };
		int r = fake_open(w, &c->plugin, &how, &lanes[i], &err);

		CHECK(r == 0, "lane %u: %d %s", i, r, err.text);
	}
	for (int i = 3; i-- > 0;)
		CHECK(fake_close(lanes[i], BOUND) == 0, "lane %d does not close", i);
	CHECK(!fake_world_free(w), "breaches");
	return PASS;
}

/* ---- registration ------------------------------------------------------------------------------------------ */

static int case_register(struct ctx *c)
{
	struct pair p;
	struct mc_error err = { 0 };
	struct fake_buf *b;
	int r = pair_open(c, &p, 0, true);

	if (r != PASS)
		return r;
	for (int i = 0; i < 200; i++) {
		r = fake_buf_new(p.b, 4096 + (uint64_t)i, (uint64_t)i % 7, NULL, MC_ACCESS_ALL, &b, &err);
		CHECK(r == 0, "registration %d: %d %s", i, r, err.text);
		CHECK(fake_buf_free(b, BOUND) == 0, "registration %d does not end", i);
		if (i % 20 == 0)
			fake_run(p.w, NULL, NULL, BOUND);
	}
	if (p.a->caps.max_reg && p.a->caps.max_reg < 1u << 28) {
		r = fake_buf_new(p.a, p.a->caps.max_reg + 1, 0, NULL, MC_ACCESS_ALL, &b, &err);
		CHECK(r < 0, "more than max_reg is registered");
		CHECK(err.text[0], "more than max_reg is refused without a sentence");
	}
	return pair_close(c, &p);
}

/* Peers reach memory that the device owns like any other. */
static int owned_works(struct ctx *c, struct pair *p, struct fake_buf *b)
{
	struct mc_error err = { 0 };
	struct bufs bufs = { .target = b };
	int r = fake_buf_new(p->a, b->len, 0, NULL, MC_ACCESS_LOCAL, &bufs.local, &err);

	CHECK(r == 0, "registering at the initiator: %d %s", r, err.text);
	r = remote_wait(c, p, b, &bufs.remote);
	if (r == PASS)
		r = works(c, p, &bufs, 77);
	if (r == PASS)
		CHECK(fake_buf_free(bufs.local, BOUND) == 0, "unregistering does not end");
	return r;
}

static int case_owned_memory(struct ctx *c)
{
	struct pair p;
	struct mc_error err = { 0 };
	struct fake_buf *b;
	int r;

	if (!fake_has(&c->plugin, mem_alloc))
		return skip(c, "no memory of its own (mem_alloc)");
	r = pair_open(c, &p, 0, true);
	if (r != PASS)
		return r;
	r = fake_buf_new_owned(p.b, 100000, MC_ACCESS_ALL, &b, &err);
	CHECK(r == 0, "mem_alloc: %d %s", r, err.text);
	fake_buf_fill(b, 0, b->len, 1);
	CHECK(fake_buf_check(b, 0, b->len, 1) < 0, "memory of mem_alloc does not hold what is written");
	r = owned_works(c, &p, b);
	if (r != PASS)
		return r;
	CHECK(fake_buf_free(b, BOUND) == 0, "mem_free does not end");
	fake_run(p.w, NULL, NULL, BOUND);
	return pair_close(c, &p);
}

/* ---- counters, idleness --------------------------------------------------------------------------------------- */

static void count_name(void *ctx, const char *name, uint64_t value)
{
	unsigned *bad = ctx;

	*bad += !*name || name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_")];
}

static int case_counters(struct ctx *c)
{
	struct pair p;
	unsigned bad = 0;
	int r = pair_open(c, &p, 0, true);

	if (r != PASS)
		return r;
	p.a->ops->counters(p.a->priv, count_name, &bad);
	for (unsigned i = 0; i < p.a->nr_counters; i++)
		count_name(&bad, p.a->counters[i].name, 0);
	CHECK(!bad, "%u names of counters are not [a-z0-9_]+", bad);
	return pair_close(c, &p);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static int case_idle(struct ctx *c)
{
	struct pair p;
	uint64_t t;
	int r = pair_open(c, &p, 0, true);

	if (r != PASS)
		return r;
	fake_run(p.w, never, NULL, 50 * MC_MSEC); /* what follows a connection may still run */
	t = cpu_ns();
	fake_run(p.w, never, NULL, 400 * MC_MSEC);
	t = cpu_ns() - t;
	CHECK(t < 80 * MC_MSEC, "an idle connection uses %llu us of CPU in 400 ms", (unsigned long long)(t / 1000));
	return pair_close(c, &p);
}

/* ---- fork ------------------------------------------------------------------------------------------------------ */

/* While a child lives, pages that either side writes are copied: what is registered must stay the
 * pages that the parent sees. */
static int case_fork(struct ctx *c)
{
	bool before[LEAKS_FDS];
	struct pair p;
	struct bufs b;
	pid_t pid;
	int r;

	fds_open(before);
	r = pair_open(c, &p, 0, true);
	if (r == PASS)
		r = bufs_open(c, &p, 65536, NULL, NULL, MC_ACCESS_ALL, &b);
	if (r == PASS)
		r = closed_on_exec(c, before);
	if (r == PASS)
		r = works(c, &p, &b, 1);
	if (r != PASS)
		return r;
	pid = bystander_start();
	CHECK(pid > 0, "no process: %s", strerror(errno));
	for (uint64_t i = 2; i < 6 && r == PASS; i++)
		r = works(c, &p, &b, i);
	bystander_end(pid);
	if (r != PASS) {
		char why[WHY_MAX];

		snprintf(why, sizeof why, "%s", c->told->why);
		return fail(c, "after the program has forked: %s", why);
	}
	r = works(c, &p, &b, 7);
	if (r == PASS)
		r = bufs_close(c, &p, &b);
	return r == PASS ? pair_close(c, &p) : r;
}

static int case_open(struct ctx *c)
{
	struct fake_world *w = world_open(c, 0);
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	int r = open_one(c, w, &inst, &err);

	CHECK(r == 0, "'%s' cannot be opened: %s (%s)", c->device, err.text, strerror(-r));
	fake_close(inst, BOUND);
	fake_world_free(w); /* what is breached, the others tell */
	return PASS;
}

const struct test_case life_cases[] = {
	{ LIVES, "open", case_open, 4 },
	{ LIVES, "options", case_options, 1 },
	{ LIVES, "devices", case_devices, 4 },
	{ LIVES, "open-close-100", case_open_close, 4 },
	{ LIVES, "open-fails", case_open_fails, 4 },
	{ LIVES, "lanes", case_lanes, 3 },
	{ LIVES, "reconfigure", case_reconfigure, 4 },
	{ LIVES, "counters", case_counters, 4 },
	{ LIVES, "idle", case_idle, 4 },
	{ LIVES, "fork", case_fork, 3 },
	{ MOVES, "register", case_register, 4 },
	{ MOVES, "owned-memory", case_owned_memory, 4 },
	{ .run = NULL },
};
