/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata plugins: what surrounds each case, the processes that it needs, and the cases
 * of opening and closing.  The service is at --device=URL; the cases write below a prefix
 * of their own.
 */
#include "cases_meta.h"
#include "leaks.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct suite suite; /* of this process: each case has one of its own */

/* ---- helpers ------------------------------------------------------------------------------- */

int got_emit(void *ctx, const struct mc_kv *kv)
{
	struct got *g = ctx;

	free(g->value);
	g->revision = kv->revision;
	g->len = kv->len;
	g->lease = kv->lease;
	g->value = malloc(kv->len + 1);
	if (kv->len)
		memcpy(g->value, kv->value, kv->len);
	return 0;
}

struct got get(struct suite *s, void *area, const char *key)
{
	struct mc_error err = {0};
	struct got g = {0};

	g.status = s->ops->get(area, key, IN(5), got_emit, &g, &err);
	if (g.status == 0 && !g.value) {
		g.value = calloc(1, 1); /* it answered 0 and emitted nothing: revision 0 tells */
		g.len = UINT64_MAX;
	}
	return g;
}

int status_of(struct suite *s, void *area, const char *key)
{
	struct got g = get(s, area, key);

	free(g.value);
	return g.status;
}

int put(struct suite *s, void *area, const char *key, const void *value, size_t len, uint64_t lease,
	uint64_t *ret_rev, struct mc_error *err)
{
	struct mc_kv kv = {
		.size = sizeof kv, .key = key, .value = value, .len = len, .lease = lease};

	return s->ops->put(area, &kv, IN(5), ret_rev, err);
}

int cas(struct suite *s, void *area, const char *key, const void *value, size_t len, uint64_t lease,
	uint64_t expect, uint64_t *ret_rev, struct mc_error *err)
{
	struct mc_kv kv = {
		.size = sizeof kv, .key = key, .value = value, .len = len, .lease = lease};

	return s->ops->cas(area, &kv, expect, IN(5), ret_rev, err);
}

const char *key_of(struct suite *s, const char *fmt, ...)
{
	static _Thread_local char bufs[16][256];
	static _Thread_local unsigned next;
	char *buf = bufs[next++ % 16];
	int n = snprintf(buf, 256, "%s", s->root);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + n, 256 - (size_t)n, fmt, ap);
	va_end(ap);
	return buf;
}

bool wait_status(struct suite *s, const char *key, int status, uint64_t bound_ns)
{
	uint64_t end = mh_now() + bound_ns;

	for (;;) {
		bool ok = status_of(s, s->a, key) == status;

		if (ok || mh_now() >= end)
			return ok;
		mh_sleep(10 * MC_MSEC);
	}
}

uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

void pattern_fill(unsigned char *buf, size_t len, uint64_t seed)
{
	uint64_t size = len;

	memcpy(buf, &seed, 8);
	memcpy(buf + 8, &size, 8);
	for (size_t i = 16; i < len; i++)
		buf[i] = (unsigned char)mix(seed + i);
}

bool pattern_ok(const unsigned char *buf, size_t len)
{
	uint64_t seed, size;

	if (len < 16)
		return false;
	memcpy(&seed, buf, 8);
	memcpy(&size, buf + 8, 8);
	for (size_t i = 16; i < len; i++)
		if (buf[i] != (unsigned char)mix(seed + i))
			return false;
	return size == len;
}

bool sentence(const struct mc_error *err, int r)
{
	return err->code == r && strlen(err->text) > 8 && !strchr(err->text, '\n');
}

int list_emit(void *ctx, const struct mc_kv *kv)
{
	struct listed *l = ctx;

	l->bad |= !kv->revision || kv->len != strlen(kv->key) ||
		  memcmp(kv->value, kv->key, kv->len) != 0;
	if (l->nr < 64)
		snprintf(l->keys[l->nr++], sizeof l->keys[0], "%s", kv->key);
	return l->nr == l->stop_at;
}

bool has_watch(const struct suite *s)
{
	return s->ops->watch && s->ops->unwatch;
}

bool has_leases(const struct suite *s)
{
	return s->ops->lease_grant && s->ops->lease_keepalive && s->ops->lease_revoke;
}

int meta_open(struct ctx *c, const char *url, struct mh_inst **ret_inst, struct mc_error *err)
{
	return mh_open(&c->plugin, url, c->words, c->nr_words, ret_inst, err);
}

/* ---- children ------------------------------------------------------------------------------ */

struct role {
	char name[16], key[256];
};

static int suite_open(struct ctx *c, struct mc_error *err)
{
	struct suite *s = c->meta;
	int r = fake_plugin_load(c->path, MC_KIND_METADATA, &c->plugin, err);

	if (r == 0)
		r = meta_open(c, s->url, &s->in, err);
	if (r < 0)
		return r;
	s->ops = &c->plugin.ops.metadata;
	s->a = mh_area(s->in);
	return 0;
}

static void child_main(struct ctx *c, int fd)
{
	struct mc_error err = {0};
	struct role role;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(fd, &role, sizeof role) != sizeof role)
		_exit(0); /* it was not needed */
	close(fd);
	if (suite_open(c, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		_exit(1);
	}
	r = meta_child(c, role.name, role.key);
	mh_close(c->meta->in);
	_exit(r);
}

/* Forked while this process has one thread and no plugin, so that nothing is inherited but what is meant. */
static int children_fork(struct ctx *c, unsigned nr)
{
	struct suite *s = c->meta;

	for (; s->nr_children < nr; s->nr_children++) {
		int fds[2];
		pid_t pid;

		if (pipe2(fds, O_CLOEXEC) < 0)
			return -errno;
		pid = fork();
		if (pid < 0)
			return -errno;
		if (pid == 0) {
			for (unsigned i = 0; i < s->nr_children; i++)
				close(s->children[i].fd);
			close(fds[1]);
			child_main(c, fds[0]);
		}
		close(fds[0]);
		s->children[s->nr_children].pid = pid;
		s->children[s->nr_children].fd = fds[1];
	}
	return 0;
}

pid_t child_start(struct suite *s, const char *name, const char *key)
{
	struct role role = {.name = ""};
	unsigned i = s->nr_used++;

	snprintf(role.name, sizeof role.name, "%s", name);
	snprintf(role.key, sizeof role.key, "%s", key);
	if (i >= s->nr_children || write(s->children[i].fd, &role, sizeof role) != sizeof role)
		return -1;
	close(s->children[i].fd);
	return s->children[i].pid;
}

static void children_end(struct suite *s)
{
	for (; s->nr_used < s->nr_children; s->nr_used++) {
		close(s->children[s->nr_used].fd);
		waitpid(s->children[s->nr_used].pid, NULL, 0);
	}
}

/* ---- around each case ------------------------------------------------------------------------ */

int meta_begin(struct ctx *c, unsigned nr_children, struct mc_error *err)
{
	struct suite *s = c->meta = &suite;
	int r;

	s->url = c->device;
	s->ttl_ns = c->ttl_ns;
	snprintf(s->root, sizeof s->root, "mooncake/conformance/%d-%llx/", (int)getpid(),
		 (unsigned long long)mh_now());
	signal(SIGPIPE, SIG_IGN);
	r = children_fork(c, nr_children);
	if (r < 0)
		return mc_fail(err, r, "no process: %s", strerror(-r));
	return suite_open(c, err);
}

int meta_end(struct ctx *c)
{
	struct suite *s = c->meta;

	mh_close(s->in);
	children_end(s);
	return mh_breaches() ? fail(c, "%s", "") : PASS;
}

void meta_tell_breach(struct ctx *c)
{
	int section;
	const char *breach = mh_last_breach(&section);
	size_t at = strlen(c->told->why);

	if (!mh_breaches())
		return;
	c->told->section = section;
	snprintf(c->told->why + at, WHY_MAX - at, "%s%s", at ? ": " : "", breach);
}

/* ---- cases: opening ---------------------------------------------------------------------------- */

static int case_schemes(struct ctx *c)
{
	const char *const *schemes = c->plugin.desc->schemes;
	bool ours = false;

	for (size_t i = 0; schemes && schemes[i]; i++) {
		size_t n = strlen(schemes[i]);

		ours |= !strncmp(c->device, schemes[i], n) && c->device[n] == ':';
	}
	CHECK(ours, "none of the descriptor's schemes fits '%s', which it opens", c->device);
	return PASS;
}

static int case_bad_url(struct ctx *c)
{
	char bare[64];
	const char *urls[] = {"", "nonsense", "bogus:///x", bare};

	snprintf(bare, sizeof bare, "%.50s://", c->plugin.desc->schemes[0]);
	for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
		struct mc_error err = {0};
		struct mh_inst *in;
		int r = meta_open(c, urls[i], &in, &err);

		CHECK(r < 0, "URL '%s' is opened", urls[i]);
		CHECK(sentence(&err, r), "open of URL '%s' answers %d without a sentence of one line", urls[i], r);
		CHECK(strstr(err.text, urls[i]), "open does not name the URL '%s': %s", urls[i], err.text);
	}
	return PASS;
}

/* Open with one more option: it works, or fails with a sentence; never more than that. */
static int try_option(struct ctx *c, const char *name, const char *value)
{
	struct mh_inst *in = NULL;
	struct mc_error err = {0};
	char word[512];
	int r;

	snprintf(word, sizeof word, "%s=%s", name, value);
	c->words[c->nr_words++] = word;
	r = meta_open(c, c->device, &in, &err);
	c->nr_words--;
	if (r == 0)
		mh_close(in);
	CHECK(r == 0 || err.text[0], "with %s: open answered %d without a sentence", word, r);
	CHECK(!mh_breaches(), "with %s", word);
	return PASS;
}

static int case_options(struct ctx *c)
{
	return options_try(c, c->plugin.desc, try_option);
}

static int case_reconfigure(struct ctx *c)
{
	const struct mc_plugin_desc *d = c->plugin.desc;
	const struct mc_option *o;
	struct mc_error err = {0};
	struct mc_value *values;
	bool any = false;
	int r;

	for (size_t i = 0; (o = fake_option_at(d, i)); i++)
		any |= (o->flags & MC_OPT_RELOADABLE) != 0;
	if (!any)
		return skip(c, "no option is reloadable");
	CHECK(c->meta->ops->reconfigure, "an option is reloadable, reconfigure is NULL");
	r = fake_options_parse(d, c->words, c->nr_words, &values, &err);
	CHECK(r == 0, "%s", err.text);
	r = c->meta->ops->reconfigure(c->meta->a, values, &err);
	fake_options_free(d, values);
	CHECK(r == 0, "reconfigure with the values of open: %d %s", r, err.text);
	r = status_of(c->meta, c->meta->a, key_of(c->meta, "nothing"));
	CHECK(r == -ENOENT, "after reconfigure get answers %d", r);
	return PASS;
}

static int one_cycle(struct ctx *c, int i)
{
	struct suite *s = c->meta;
	struct mc_error err = {0};
	struct mh_inst *in;
	int r = meta_open(c, s->url, &in, &err);

	CHECK(r == 0, "open %d: %d %s", i, r, err.text);
	if (i % 10 == 0 && has_watch(s)) {
		struct mh_watch *w;

		CHECK(mh_watch(in, s->root, &w, &err) == 0, "watch in cycle %d: %s", i, err.text);
		mh_unwatch(w);
		mh_watch_free(w);
	}
	if (i % 10 == 0 && has_leases(s)) {
		uint64_t lease;

		r = s->ops->lease_grant(mh_area(in), 10 * MC_SEC, IN(5), &lease, &err);
		CHECK(r == 0, "lease_grant in cycle %d: %s", i, err.text);
	}
	mh_close(in);
	CHECK(!mh_breaches(), "in cycle %d", i);
	return PASS;
}

static int case_open_close(struct ctx *c)
{
	return leaks_over(c, one_cycle, true);
}

/* Each allocation and each watch that open and watch ask for fails once. */
static int case_open_fails(struct ctx *c)
{
	struct suite *s = c->meta;

	for (unsigned nth = 1, kind = 0; kind < 2; nth++) {
		struct mh_inst *in;
		struct mh_watch *w;
		struct mc_error err = {0};
		const char *what = "open";
		int r;

		mh_fail(kind ? 0 : nth, kind ? nth : 0);
		r = meta_open(c, s->url, &in, &err);
		if (r == 0 && has_watch(s)) {
			what = "watch";
			r = mh_watch(in, s->root, &w, &err);
			if (r == 0) {
				mh_unwatch(w);
				mh_watch_free(w);
			}
			mh_close(in);
		} else if (r == 0) {
			mh_close(in);
		}
		CHECK(r == 0 || sentence(&err, r), "%s answered %d without a sentence when %s %u fails", what, r,
		      kind ? "watch" : "alloc", nth);
		CHECK(!mh_breaches(), "when %s %u fails", kind ? "watch" : "alloc", nth);
		if (!mh_failed() || nth == 50) {
			kind++;
			nth = 0;
		}
	}
	mh_fail(0, 0);
	return PASS;
}

static int case_fork(struct ctx *c)
{
	struct suite *s = c->meta;
	bool before[LEAKS_FDS];
	struct mc_error err = {0};
	struct mh_inst *in;
	pid_t pid;
	int r;

	fds_open(before);
	r = meta_open(c, s->url, &in, &err);
	CHECK(r == 0, "open: %d %s", r, err.text);
	r = put(s, mh_area(in), key_of(s, "fork"), "v", 1, 0, NULL, &err);
	CHECK(r == 0, "put: %d %s", r, err.text);
	r = closed_on_exec(c, before);
	if (r != PASS)
		return r;
	pid = bystander_start();
	CHECK(pid > 0, "no process: %s", strerror(errno));
	r = status_of(s, mh_area(in), key_of(s, "fork"));
	bystander_end(pid);
	CHECK(r == 0, "after the program has forked get answers %d", r);
	mh_close(in);
	return PASS;
}

/* It has been opened for each case. */
static int case_open(struct ctx *c)
{
	return PASS;
}

const struct test_case meta_cases[] = {
	{LIVES, "open", case_open, 8},
	{LIVES, "schemes", case_schemes, 8},
	{LIVES, "bad-url", case_bad_url, 8},
	{LIVES, "options", case_options, 1},
	{LIVES, "reconfigure", case_reconfigure, 8},
	{LIVES, "open-close-100", case_open_close, 8},
	{LIVES, "open-fails", case_open_fails, 8},
	{LIVES, "fork", case_fork, 3},
	{.run = NULL},
};
