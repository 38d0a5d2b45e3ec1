/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance of metadata plugins: one program for all of them, which sees only
 * mooncake/metadata.h.
 *
 *   metadata [--ttl=SECONDS] [--only=CASE] [--setup=COMMAND] PLUGIN.so [URL]
 *
 * "@TMP@" in the URL becomes a fresh directory that is removed at the end.
 * COMMAND starts a server, prints its URL as one line, with options of the plugin
 * behind it (NAME=VALUE), and ends when its stdin closes; when it exits with 77,
 * everything is skipped.  Exit: 0, 1 failed,
 * 2 usage, 77 all skipped.
 */
#include "metadata.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

char why[2048];

/* ---- helpers ------------------------------------------------------------------------------- */

int explain(int line, const char *cond, const char *fmt, ...)
{
	int n = snprintf(why, 400, "line %d: %s:", line, cond);
	va_list ap;

	if (n > 399)
		n = 399;
	va_start(ap, fmt);
	vsnprintf(why + n, sizeof why - (size_t)n, fmt, ap);
	va_end(ap);
	return -1;
}

int got_emit(void *ctx, const struct mc_kv *kv)
{
	struct got *g = ctx;

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

/* ---- main
 * -------------------------------------------------------------------------------------------- */

struct totals {
	unsigned passed, failed, skipped;
};

static void run_cases(struct suite *s, const struct test_case *c, const char *only,
		      struct totals *t)
{
	for (; c->name; c++) {
		unsigned breaches = mh_breaches();
		uint64_t begin = mh_now();
		int r;

		if (only && strcmp(only, c->name) != 0)
			continue;
		why[0] = '\0';
		r = c->run(s);
		if (r == 0 && mh_breaches() > breaches) {
			r = -1;
			snprintf(why, sizeof why, "breach: %s", mh_last_breach());
		}
		if (r == 0)
			printf("ok    %s (%.2f s)\n", c->name, (double)(mh_now() - begin) / 1e9);
		else
			printf("%s  %s: %s\n", r == SKIP ? "skip" : "FAIL", c->name, why);
		fflush(stdout);
		t->passed += r == 0;
		t->skipped += r == SKIP;
		t->failed += r != 0 && r != SKIP;
	}
}

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

/* Start the set-up command; its URL, or NULL.  *ret_fd closed ends it.  Options of the plugin go
 * where children find them, too. */
static char *setup_start(const char *command, int *ret_fd, pid_t *ret_pid)
{
	int in[2], out[2];
	static char url[1024];
	char *options;
	size_t n = 0;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return NULL;
	*ret_pid = fork();
	if (*ret_pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	*ret_fd = in[1];
	while (n < sizeof url - 1 && read(out[0], url + n, 1) == 1 && url[n] != '\n')
		n++;
	url[n] = '\0';
	close(out[0]);
	options = strchr(url, ' ');
	if (options) {
		*options = '\0';
		setenv("MH_OPTIONS", options + 1, 1);
	}
	return n ? url : NULL;
}

/* Replace "@TMP@". */
static char *expand(const char *url, char tmp[])
{
	const char *at = strstr(url, "@TMP@");
	static char out[1024];

	if (!at)
		return strcpy(out, url);
	if (!mkdtemp(tmp))
		return NULL;
	snprintf(out, sizeof out, "%.*s%s%s", (int)(at - url), url, tmp, at + 5);
	return out;
}

static int run_all(struct suite *s, const char *only)
{
	struct mc_error err = {0};
	struct totals t = {0};

	snprintf(s->root, sizeof s->root, "mooncake/conformance/%d-%llx/", (int)getpid(),
		 (unsigned long long)mh_now());
	if (mh_load(s->path, &s->plugin, &err) < 0 ||
	    mh_open(&s->plugin, s->url, NULL, &s->in, &err) < 0) {
		printf("FAIL  open: %s\n0 passed, 1 failed, 0 skipped\n", err.text);
		return 1;
	}
	s->ops = s->plugin.ops;
	s->a = mh_area(s->in);
	run_cases(s, key_cases, only, &t);
	run_cases(s, watch_cases, only, &t);
	run_cases(s, many_cases, only, &t);
	mh_close(s->in);
	printf("%u passed, %u failed, %u skipped\n", t.passed, t.failed, t.skipped);
	return t.failed ? 1 : t.passed ? 0 : 77;
}

static int child(int argc, char **argv)
{
	struct suite s = {.self = argv[0], .path = argv[2], .url = argv[3]};
	struct mc_error err = {0};
	int r;

	snprintf(s.root, sizeof s.root, "%s", argv[4]);
	s.ttl_ns = strtoull(argv[5], NULL, 10);
	if (mh_load(s.path, &s.plugin, &err) < 0 ||
	    mh_open(&s.plugin, s.url, NULL, &s.in, &err) < 0) {
		fprintf(stderr, "child: %s\n", err.text);
		return 1;
	}
	s.ops = s.plugin.ops;
	s.a = mh_area(s.in);
	r = child_main(&s, argc - 6, argv + 6);
	mh_close(s.in);
	return r;
}

int main(int argc, char **argv)
{
	struct suite s = {.self = "/proc/self/exe", .ttl_ns = MC_SEC};
	const char *setup = NULL, *only = NULL, *url = NULL;
	char tmp[] = "/tmp/mooncake-metadata-XXXXXX";
	int r, fd = -1, status;
	pid_t pid = 0;

	if (argc > 6 && !strcmp(argv[1], "--child"))
		return child(argc, argv);
	for (argv++; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strncmp(*argv, "--ttl=", 6))
			s.ttl_ns = (uint64_t)(strtod(*argv + 6, NULL) * 1e9);
		else if (!strncmp(*argv, "--only=", 7))
			only = *argv + 7;
		else if (!strncmp(*argv, "--setup=", 8))
			setup = *argv + 8;
		else
			break;
	}
	if (argv[0] && (argv[1] || setup) && s.ttl_ns) {
		s.path = argv[0];
		url = argv[1];
	} else {
		fprintf(stderr, "usage: metadata [--ttl=SECONDS] [--only=CASE] [--setup=COMMAND] "
				"PLUGIN.so [URL]\n");
		return 2;
	}
	if (setup) {
		url = setup_start(setup, &fd, &pid);
		if (!url) {
			waitpid(pid, &status, 0);
			r = WIFEXITED(status) && WEXITSTATUS(status) == 77 ? 77 : 1;
			printf("%s  set-up: '%s' gave no URL\n0 passed, %d failed, %d skipped\n",
			       r == 77 ? "skip" : "FAIL", setup, r == 1, r == 77);
			return r;
		}
	}
	s.url = expand(url, tmp);
	r = s.url ? run_all(&s, only) : 1;
	if (!strchr(tmp, 'X') || strcmp(strrchr(tmp, '-'), "-XXXXXX") != 0)
		nftw(tmp, rm_one, 16, FTW_DEPTH | FTW_PHYS);
	if (fd >= 0)
		close(fd);
	if (pid > 0)
		waitpid(pid, &status, 0);
	return r;
}
