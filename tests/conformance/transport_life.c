/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance: descriptor, options, devices, opening and closing, registration, being idle. */
#include "transport.h"

#include "../census.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- descriptor and options ------------------------------------------------------------------------ */

static const struct mc_option *option_at(const struct mc_plugin_desc *d, size_t i)
{
	const struct mc_option *o = (const void *)((const char *)d->options + i * d->option_size);

	return d->options && o->name ? o : NULL;
}

static bool word_is(const char *s, const char *chars)
{
	return s && *s && strspn(s, chars) == strlen(s);
}

static int check_option(struct ctx *c, const struct mc_option *o)
{
	CHECK(word_is(o->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), "option name '%s'", o->name);
	CHECK(o->type >= MC_OPT_BOOL && o->type < MC_OPT_TYPE_COUNT, "option '%s': type %u", o->name, o->type);
	CHECK(o->doc && *o->doc, "option '%s' has no doc", o->name);
	CHECK(o->def || (o->flags & MC_OPT_REQUIRED), "option '%s' has no default and is not required", o->name);
	CHECK(o->type != MC_OPT_ENUM || (o->choices && o->choices[0]), "option '%s' has no choices", o->name);
	return PASS;
}

static int case_descriptor(struct ctx *c)
{
	const struct mc_plugin_desc *d = c->plugin.desc;
	const struct mc_transport_ops *o = c->plugin.raw;
	struct mc_value *values;
	struct mc_error err = { 0 };
	int r = PASS;

	CHECK(word_is(d->name, "abcdefghijklmnopqrstuvwxyz0123456789-"), "name '%s'", d->name ? d->name : "");
	CHECK(strlen(d->name) <= MC_PLUGIN_NAME_MAX, "the name is longer than %d", MC_PLUGIN_NAME_MAX);
	CHECK(d->version && *d->version && d->summary && *d->summary, "no version or summary");
	CHECK(d->wire && *d->wire && d->wire_min && d->wire_min <= d->wire_max, "wire %u..%u", d->wire_min, d->wire_max);
	CHECK(d->memory && d->memory[0], "no memory kinds");
	CHECK(d->claims, "no claims (an empty list is fine)");
	CHECK(!(d->flags & ~MC_PLUGIN_OPTIONAL), "flags are %#x", d->flags);
	CHECK(o->size >= offsetof(struct mc_transport_ops, counters), "table of %zu bytes", o->size);
	CHECK(!fake_has(&c->plugin, mem_import) || fake_has(&c->plugin, mem_release), "mem_import without mem_release");
	CHECK(!fake_has(&c->plugin, mem_alloc) || fake_has(&c->plugin, mem_free), "mem_alloc without mem_free");
	for (size_t i = 0; option_at(d, i) && r == PASS; i++)
		r = check_option(c, option_at(d, i));
	if (r != PASS)
		return r;
	CHECK(fake_options_parse(d, c->words, c->nr_words, &values, &err) == 0, "%s", err.text);
	fake_options_free(d, values);
	return PASS;
}

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
	CHECK(!nr, "with %s: %u breaches, see above", word, nr);
	CHECK(r == 0 || err.text[0], "with %s: open answered %d without a sentence", word, r);
	return PASS;
}

static int case_options(struct ctx *c)
{
	const struct mc_plugin_desc *d = c->plugin.desc;
	const struct mc_option *o;
	char text[32];
	int r = PASS;

	for (size_t i = 0; (o = option_at(d, i)) && r == PASS; i++) {
		if (o->min || o->max) {
			snprintf(text, sizeof text, "%lld%s", (long long)o->min,
				 o->type == MC_OPT_DURATION ? "ns" : "");
			r = try_option(c, o->name, text);
			snprintf(text, sizeof text, "%lld%s",
				 (long long)(o->max > (INT64_C(1) << 52) ? INT64_C(1) << 52 : o->max),
				 o->type == MC_OPT_DURATION ? "ns" : "");
			if (r == PASS)
				r = try_option(c, o->name, text);
		}
		for (int j = 0; o->type == MC_OPT_ENUM && o->choices[j] && r == PASS; j++)
			r = try_option(c, o->name, o->choices[j]);
		if (o->type == MC_OPT_BOOL && r == PASS)
			r = try_option(c, o->name, "true");
		if (o->type == MC_OPT_BOOL && r == PASS)
			r = try_option(c, o->name, "false");
		if (o->type == MC_OPT_STRING && r == PASS)
			r = try_option(c, o->name, "no/such\nthing");
		if ((o->flags & MC_OPT_AUTO) && r == PASS)
			r = try_option(c, o->name, "auto");
	}
	return option_at(d, 0) ? r : skip(c, "no options");
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
	for (size_t i = 0; (o = option_at(c->plugin.desc, i)); i++) {
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
	CHECK(!fake_world_free(w), "breaches, see above");
	return PASS;
}

/* ---- open and close ------------------------------------------------------------------------------------- */

static long mapped_pages(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	long pages = 0;

	if (f && fscanf(f, "%ld", &pages) != 1)
		pages = 0;
	if (f)
		fclose(f);
	return pages;
}

static int case_open_close(struct ctx *c)
{
	unsigned fds = 0, threads = 0;
	long pages = 0;

	for (int i = 0; i < 100; i++) {
		struct fake_world *w = world_open(c, 0);
		struct fake_inst *inst = NULL;
		struct mc_error err = { 0 };
		int r = open_one(c, w, &inst, &err);

		CHECK(r == 0, "open %d: %d %s", i, r, err.text);
		r = fake_run(w, NULL, NULL, BOUND);
		CHECK(r == 0, "it never gets quiet");
		CHECK(fake_close(inst, BOUND) == 0, "close %d does not end", i);
		CHECK(!fake_world_free(w), "breaches in cycle %d, see above", i);
		if (i == 1) {
			fds = census_fds();
			threads = census_threads();
			pages = mapped_pages();
		}
	}
	CHECK(census_settles(census_fds, fds), "%u descriptors became %u", fds, census_fds());
	CHECK(census_settles(census_threads, threads), "%u threads became %u", threads,
	      census_threads());
	/* 1 MiB of slack for malloc; far less than a page per cycle of any size. */
	CHECK(mapped_pages() <= pages + 256 || mapped_pages() > 1 << 28 /* sanitizers */,
	      "%ld pages became %ld", pages, mapped_pages());
	return PASS;
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
		CHECK(!fake_world_free(w), "breaches when call %u fails, see above", nth);
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
	CHECK(!fake_world_free(w), "breaches, see above");
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

	if (!word_is(name, "abcdefghijklmnopqrstuvwxyz0123456789_"))
		(*bad)++;
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

static bool never(void *ctx)
{
	return false;
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

const struct test_case life_cases[] = {
	{ "descriptor", case_descriptor },
	{ "options", case_options },
	{ "devices", case_devices },
	{ "open-close-100", case_open_close },
	{ "open-fails", case_open_fails },
	{ "lanes", case_lanes },
	{ "register", case_register },
	{ "owned-memory", case_owned_memory },
	{ "reconfigure", case_reconfigure },
	{ "counters", case_counters },
	{ "idle", case_idle },
	{ NULL, NULL },
};
