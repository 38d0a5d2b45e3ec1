/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put and get: a file's or stdin's bytes into the store, and back.  A value passes through one
 * buffer that the engine has allocated, so that the store's copy of it is the only other one; it
 * must fit into memory, as a value does that an inference engine wants.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>
#include <core/util/cleanup.h>

#include "program.h"

#define STDIN_STEP ((size_t)1 << 20)
#define PIECE (UINT64_C(256) << 20) /* of a get: so much is in memory at a time */

static double seconds_since(uint64_t start)
{
	return (double)(msc_now_ns() - start) / 1e9;
}

/* ---- put -------------------------------------------------------------------------------------- */

static int read_full(int fd, const char *name, uint8_t *to, uint64_t len, struct mc_error *err)
{
	for (uint64_t done = 0; done < len && !mc_stopping();) {
		ssize_t n = read(fd, to + done, (size_t)MC_MIN(len - done, (uint64_t)1 << 30));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return mc_fail(err, -errno, "file '%s': %s", name, strerror(errno));
		if (n == 0)
			return mc_fail(err, -ESTALE, "file '%s': it was cut while it was read", name);
		done += (uint64_t)n;
	}
	return mc_stopping() ? mc_fail(err, -ECANCELED, "interrupted") : 0;
}

/* Whatever comes, until it ends; *ret is to be freed. */
static int read_stream(int fd, uint8_t **ret, uint64_t *ret_len, struct mc_error *err)
{
	size_t cap = 0, len = 0;

	*ret = NULL;
	for (;;) {
		ssize_t n;

		if (len == cap) {
			uint8_t *more = realloc(*ret, cap = cap ? 2 * cap : STDIN_STEP);

			if (!more)
				return mc_fail(err, -ENOMEM, "stdin: no memory for more than %zu bytes", len);
			*ret = more;
		}
		n = read(fd, *ret + len, cap - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return mc_fail(err, -errno, "stdin: %s", strerror(errno));
		if (n == 0)
			break;
		len += (size_t)n;
	}
	*ret_len = len;
	return 0;
}

static int put_bytes(const struct msc_options *o, struct msc_session *s, const void *data, uint64_t len, struct mc_error *err)
{
	struct mc_store_config config = {
		.size = sizeof config,
		.flags = (o->soft_pin ? MC_STORE_SOFT_PIN : 0) | (o->hard_pin ? MC_STORE_HARD_PIN : 0) |
			 (o->replace ? MC_STORE_REPLACE : 0) | (o->replicas > 1 ? MC_STORE_ALL_REPLICAS : 0),
		.nr_replicas = (uint32_t)o->replicas,
		.preferred = *o->preferred ? o->preferred : NULL,
	};
	uint64_t start = msc_now_ns();
	char size[MC_TEXT_MAX], per[MC_TEXT_MAX];
	double seconds;
	int r;

	if (!len)
		return mc_fail(err, -EINVAL, "'%s': a value has at least one byte", o->args[1]);
	r = mc_store_put(s->store, o->args[0], strlen(o->args[0]), data, len, &config, msc_timeout(o), err);
	if (r == -EEXIST)
		return mc_fail(err, r, "key '%s': it is there already; --replace puts the new value in its place", o->args[0]);
	if (r < 0)
		return r;
	seconds = seconds_since(start);
	if (o->json) {
		putchar('{');
		msc_print_key(o->args[0], strlen(o->args[0]), true);
		printf(", \"size\": %" PRIu64 ", \"seconds\": %.6f}\n", len, seconds);
	} else {
		fputs("put '", stdout);
		msc_print_key(o->args[0], strlen(o->args[0]), false);
		printf("': %s, %s/s\n", mc_text_size(len, size), mc_text_size((uint64_t)((double)len / (seconds + 1e-9)), per));
	}
	return 0;
}

static int put_file(const struct msc_options *o, struct msc_session *s, int fd, uint64_t len, struct mc_error *err)
{
	void *data;
	int r = mc_memory_alloc(s->engine, "*", len, MC_ACCESS_LOCAL, MSC_MEMORY_NS, &data, err);

	if (r < 0)
		return r;
	r = read_full(fd, o->args[1], data, len, err);
	if (r == 0)
		r = put_bytes(o, s, data, len, err);
	mc_memory_free(s->engine, data, MSC_CLOSE_NS, NULL);
	return r;
}

int msc_put(const struct msc_options *o, struct mc_config *config)
{
	bool from_stdin = strcmp(o->args[1], "-") == 0;
	mc_cleanup(mc_closep) int fd = from_stdin ? dup(STDIN_FILENO) : open(o->args[1], O_RDONLY | O_CLOEXEC);
	mc_cleanup(mc_freep) uint8_t *data = NULL;
	struct msc_session s = {0};
	struct mc_error err = {0};
	struct stat st;
	uint64_t len = 0;
	int r = 0, code = MSC_EXIT_OK;

	/* What can be wrong with the file is said before anything is opened. */
	if (fd < 0 || fstat(fd, &st) < 0)
		r = mc_fail(&err, -errno, "file '%s': %s", o->args[1], strerror(errno));
	else if (S_ISDIR(st.st_mode))
		r = mc_fail(&err, -EISDIR, "file '%s': it is a folder; a value is the bytes of one file", o->args[1]);
	else if (!S_ISREG(st.st_mode))
		r = read_stream(fd, &data, &len, &err);
	if (r == 0)
		r = msc_session_open(&s, o, config, true, &err);
	if (r == 0)
		r = S_ISREG(st.st_mode) && st.st_size ? put_file(o, &s, fd, (uint64_t)st.st_size, &err) : put_bytes(o, &s, data, len, &err);
	if (r < 0)
		code = msc_fail(o, &s, &err);
	msc_session_close(&s);
	return code;
}

/* ---- get -------------------------------------------------------------------------------------- */

struct getting {
	const struct msc_options *o;
	struct msc_session session;
	const char *path; /* "-": stdout */
	char part[4096];  /* its temporary file, until all is there */
	int fd;
	void *buffer;
	uint64_t cap, want, done, whole;
};

static int out_open(struct getting *g, struct mc_error *err)
{
	const char *key = g->o->args[0], *slash = strrchr(key, '/');

	g->path = *g->o->output ? g->o->output : slash ? slash + 1 : key;
	if (strcmp(g->path, "-") == 0) {
		g->fd = STDOUT_FILENO;
		return 0;
	}
	if (!*g->path)
		return mc_fail(err, -EINVAL, "key '%s': it is no name of a file; write one with -o", key);
	if (!g->o->force && access(g->path, F_OK) == 0)
		return mc_fail(err, -EEXIST, "file '%s': it is there already; --force writes over it", g->path);
	if ((size_t)snprintf(g->part, sizeof g->part, "%s.%ld.mc-part", g->path, (long)getpid()) >= sizeof g->part)
		return mc_fail(err, -ENAMETOOLONG, "file '%.200s...': the path is too long", g->path);
	g->fd = open(g->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (g->fd < 0) {
		int r = -errno;

		g->part[0] = '\0';
		return mc_fail(err, r, "file '%s': %s", g->path, strerror(-r));
	}
	return 0;
}

static int write_full(struct getting *g, const uint8_t *data, uint64_t len, struct mc_error *err)
{
	while (len) {
		ssize_t n = write(g->fd, data, (size_t)MC_MIN(len, (uint64_t)1 << 30));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return mc_fail(err, -errno, "%s'%s': %s", *g->part ? "file " : "", *g->part ? g->path : "stdout", strerror(errno));
		data += n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* How much there is to get, and a buffer for a piece of it. */
static int measure(struct getting *g, struct mc_error *err)
{
	const struct msc_options *o = g->o;
	int r = mc_store_exist(g->session.store, o->args[0], strlen(o->args[0]), &g->whole, msc_timeout(o), err);

	if (r == -ENOENT)
		return mc_fail(err, r, "key '%s': there is no such value", o->args[0]);
	if (r < 0)
		return r;
	if (o->offset > g->whole)
		return mc_fail(err, -EINVAL, "flag --offset: %" PRIu64 " is behind the end of the value, which has %" PRIu64 " bytes",
			       o->offset, g->whole);
	g->want = MC_MIN(g->whole - o->offset, o->len);
	/* A value that has a checksum is verified as a whole only, so it is got as one. */
	g->cap = o->checksum && g->want == g->whole ? g->want : MC_MIN(g->want, PIECE);
	return g->cap ? mc_memory_alloc(g->session.engine, "*", g->cap, MC_ACCESS_LOCAL, MSC_MEMORY_NS, &g->buffer, err) : 0;
}

static int fetch(struct getting *g, struct mc_error *err)
{
	char done[MC_TEXT_MAX], want[MC_TEXT_MAX], line[128];

	while (g->done < g->want) {
		struct mc_store_range range = {g->buffer, MC_MIN(g->cap, g->want - g->done)};
		struct mc_store_op op = {.key = g->o->args[0], .key_len = (uint32_t)strlen(g->o->args[0]), .ranges = &range,
					 .nr_ranges = 1, .offset = g->o->offset + g->done};
		int r;

		if (mc_stopping())
			return mc_fail(err, -ECANCELED, "interrupted");
		r = mc_store_get_batch(g->session.store, &op, 1, NULL, msc_timeout(g->o), err);
		if (r < 0 || op.status < 0)
			return r < 0 ? r : op.status;
		if (op.len != g->whole || op.moved != range.len)
			return mc_fail(err, -ESTALE, "key '%s': another value was put in its place meanwhile; get it again", g->o->args[0]);
		r = write_full(g, g->buffer, range.len, err);
		if (r < 0)
			return r;
		g->done += range.len;
		snprintf(line, sizeof line, "%s of %s", mc_text_size(g->done, done), mc_text_size(g->want, want));
		if (mc_tell_progress_on() && g->done < g->want)
			mc_tell_progress(line);
	}
	mc_tell_progress_end();
	return 0;
}

static int finish(struct getting *g, uint64_t start, struct mc_error *err)
{
	double seconds = seconds_since(start);
	char size[MC_TEXT_MAX], per[MC_TEXT_MAX];
	int r = 0;

	if (!*g->part)
		return 0;
	if (fsync(g->fd) < 0 && errno != EINVAL)
		r = -errno;
	if (close(g->fd) < 0 && r == 0)
		r = -errno;
	g->fd = -1;
	if (r == 0 && (g->o->force ? rename(g->part, g->path) : link(g->part, g->path)) < 0)
		r = -errno;
	if (r == 0 && !g->o->force)
		unlink(g->part);
	if (r < 0)
		return mc_fail(err, r, "file '%s': %s", g->path, strerror(-r));
	g->part[0] = '\0';
	if (g->o->json) {
		putchar('{');
		msc_print_key(g->o->args[0], strlen(g->o->args[0]), true);
		fputs(", \"path\": ", stdout);
		mc_text_json(stdout, g->path);
		printf(", \"size\": %" PRIu64 ", \"offset\": %" PRIu64 ", \"whole\": %" PRIu64 ", \"seconds\": %.6f}\n", g->want,
		       g->o->offset, g->whole, seconds);
	} else {
		fputs("got '", stdout);
		mc_text_tame(stdout, g->path);
		printf("': %s, %s/s\n", mc_text_size(g->want, size), mc_text_size((uint64_t)((double)g->want / (seconds + 1e-9)), per));
	}
	return 0;
}

int msc_get(const struct msc_options *o, struct mc_config *config)
{
	struct getting g = {.o = o, .fd = -1};
	struct mc_error err = {0};
	uint64_t start = 0;
	int r = msc_session_open(&g.session, o, config, true, &err), code = MSC_EXIT_OK;

	if (r == 0)
		r = measure(&g, &err);
	if (r == 0)
		r = out_open(&g, &err);
	start = msc_now_ns();
	if (r == 0)
		r = fetch(&g, &err);
	if (r == 0)
		r = finish(&g, start, &err);
	if (r < 0)
		code = msc_fail(o, &g.session, &err);
	if (*g.part) {
		close(g.fd);
		unlink(g.part);
	}
	if (g.buffer)
		mc_memory_free(g.session.engine, g.buffer, MSC_CLOSE_NS, NULL);
	msc_session_close(&g.session);
	return code;
}
