/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filters: the transport's cases run with the filter over --over; here are those that are
 * the filter's alone.  Its options are parsed when it is stacked, which lasts as long as
 * the process: each value is tried in one of its own.
 */
#include "cases.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_stack(struct ctx *c, const char *word)
{
	struct mc_error err = {0};
	struct fake_world *w;
	struct fake_inst *inst = NULL;
	unsigned nr;
	int r = ctx_load(c, &err);

	CHECK(r == 0, "with %s: %s", word, err.text);
	w = world_open(c, 0);
	r = open_one(c, w, &inst, &err);
	if (r == 0)
		fake_close(inst, BOUND);
	nr = fake_world_free(w);
	CHECK(!nr, "with %s: %s", word, fake_last_of_all());
	CHECK(r == 0 || err.text[0], "with %s: open answered %d without a sentence", word, r);
	return PASS;
}

/* Open with one more option: it works, or fails with a sentence; never more than that. */
static int try_option(struct ctx *c, const char *name, const char *value)
{
	struct filter *f = &c->filters[0];
	char word[512];
	int status = 0;
	pid_t pid;

	if (f->nr_words == sizeof f->words / sizeof f->words[0])
		return PASS;
	snprintf(word, sizeof word, "%s=%s", name, value);
	pid = fork();
	CHECK(pid >= 0, "no process: %s", strerror(errno));
	if (pid == 0) {
		f->words[f->nr_words++] = word;
		_exit(open_stack(c, word));
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	CHECK(!WIFSIGNALED(status), "with %s: it crashes: %s", word, strsignal(WTERMSIG(status)));
	return WEXITSTATUS(status);
}

static int case_filter_options(struct ctx *c)
{
	struct fake_plugin p;
	struct mc_error err = {0};

	CHECK(fake_plugin_load(c->path, MC_KIND_FILTER, &p, &err) == 0, "%s", err.text);
	return options_try(c, p.desc, try_option);
}

/* What it must not do: more than the transport can. */
static int case_narrows(struct ctx *c)
{
	struct ctx plain = *c;
	struct fake_world *w, *w2;
	struct fake_inst *with = NULL, *without = NULL;
	const struct mc_transport_caps *a, *b;
	struct mc_error err = {0};

	plain.nr_filters = 0;
	CHECK(ctx_load(&plain, &err) == 0, "%s", err.text);
	w = world_open(c, 0);
	w2 = world_open(&plain, 0);
	CHECK(open_one(c, w, &with, &err) == 0, "open with the filter: %s", err.text);
	CHECK(open_one(&plain, w2, &without, &err) == 0, "open without the filter: %s", err.text);
	a = &with->caps;
	b = &without->caps;
	CHECK(!(a->flags & ~b->flags & ~(MC_CAP_TRUST | MC_CAP_OWN_THREAD)),
	      "the filter's caps have flags %#x, the transport's %#x: it may only narrow them", a->flags, b->flags);
	CHECK(a->max_slice <= b->max_slice, "the filter's max_slice is larger than the transport's");
	CHECK(!b->max_reg || (a->max_reg && a->max_reg <= b->max_reg), "the filter's max_reg is larger than the transport's");
	CHECK(a->alignment >= b->alignment, "the filter's alignment is less strict than the transport's");
	for (const char *const *k = a->local_kinds; *k; k++)
		CHECK(has_kind(b->local_kinds, *k), "the filter's local_kinds have '%s', the transport's do not", *k);
	for (const char *const *k = a->remote_kinds; *k; k++)
		CHECK(has_kind(b->remote_kinds, *k), "the filter's remote_kinds have '%s', the transport's do not", *k);
	fake_close(with, BOUND);
	fake_close(without, BOUND);
	CHECK(!fake_world_free(w) && !fake_world_free(w2), "%s", "");
	return PASS;
}

const struct test_case filter_cases[] = {
	{LIVES, "filter-options", case_filter_options, 1},
	{LIVES, "filter-caps", case_narrows, 10},
	{.run = NULL},
};
