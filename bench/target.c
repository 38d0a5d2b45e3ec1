/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: memory that others read and write, and answers to the initiator's
 * questions.  It says once that it is ready, then sleeps until a signal or the
 * end of its duration.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <core/util/check.h>

#define TOUCH_BYTES ((size_t)8 << 20) /* between two looks at the stop signal */

/* Write the line for scripts: to a temporary file first, so that it appears whole. */
static int write_ready_file(const char *path, const char *line, struct mc_error *err)
{
	char temp[4096];
	FILE *f;
	int r = 0;

	if ((size_t)snprintf(temp, sizeof temp, "%s.%ld", path, (long)getpid()) >= sizeof temp)
		return mc_fail(err, -ENAMETOOLONG, "flag --ready_file: the path is too long");
	f = fopen(temp, "we");
	if (!f || fputs(line, f) < 0)
		r = -errno;
	if (f && fclose(f) != 0 && r == 0)
		r = -errno;
	if (r == 0 && rename(temp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(temp);
		return mc_fail(err, r, "ready file '%s': %s", path, strerror(-r));
	}
	return 0;
}

static int announce(const struct bench_options *opts, const struct mc_engine *engine,
		    struct mc_error *err)
{
	char line[MC_SEGMENT_NAME_MAX + 32];

	printf("target '%s' is ready on port %u\n", mc_engine_name(engine),
	       (unsigned)mc_engine_port(engine));
	fflush(stdout);
	snprintf(line, sizeof line, "%s %u\n", mc_engine_name(engine),
		 (unsigned)mc_engine_port(engine));
	if (opts->ready_fd >= 0) {
		ssize_t n = write((int)opts->ready_fd, line, strlen(line));

		if (n < 0)
			return mc_fail(err, -errno, "ready descriptor %" PRId64 ": %s",
				       opts->ready_fd, strerror(errno));
		close((int)opts->ready_fd);
	}
	return *opts->ready_file ? write_ready_file(opts->ready_file, line, err) : 0;
}

static void answer(struct mc_engine *engine, const struct bench_memory *mem,
		   const struct mc_notify *notify)
{
	struct mc_error err = {0};
	struct bench_msg msg, reply;
	uint8_t buf[BENCH_MSG_LEN];
	struct mc_segment *segment;
	int r;

	if (bench_msg_decode(notify->data, notify->len, &msg) < 0 || msg.reply)
		return;
	bench_memory_serve(mem, &msg, mc_stopping, &reply);
	bench_msg_encode(&reply, buf);
	r = mc_segment_open(engine, notify->from, BENCH_CONNECT_NS, &segment, &err);
	if (r == 0) {
		r = mc_notify_send(segment, buf, sizeof buf, BENCH_CONNECT_NS, &err);
		mc_segment_close(segment);
	}
	if (r == -ENOENT || r == -ESTALE || r == -EHOSTDOWN)
		fprintf(stderr, "'%s' has left before it was answered\n", notify->from);
	else if (r < 0 && !mc_stopping())
		fprintf(stderr, "no answer to '%s': %s\n", notify->from, err.text);
}

static void serve(const struct bench_options *opts, struct mc_engine *engine,
		  const struct bench_memory *mem)
{
	struct pollfd pfds[2] = {{.fd = mc_stop_fd(), .events = POLLIN},
				 {.fd = mc_notify_fd(engine), .events = POLLIN}};
	struct mc_notify notify = {.size = sizeof notify};
	uint64_t end =
		opts->duration > 0 ? bench_now_ns() + (uint64_t)(opts->duration * 1e9) : MC_FOREVER;

	while (!mc_stopping()) {
		uint64_t now = bench_now_ns();
		int timeout_ms = -1;

		if (now >= end)
			return;
		if (end != MC_FOREVER)
			timeout_ms = end - now > 3600 * MC_SEC ? 3600000
							       : (int)((end - now) / MC_MSEC + 1);
		poll(pfds, 2, timeout_ms);
		while (!mc_stopping() && mc_notify_recv(engine, &notify, 0) == 0)
			answer(engine, mem, &notify);
	}
}

static int ignore_counter(void *ctx, const struct mc_counter *counter)
{
	return 0;
}

/* Before anybody is told that we are here: untouched memory is one page of zeros, and is read too
 * fast.  The memory is registered already, so the engine's workers must see it as it is now: asking
 * for counters goes through every one of them. */
static void touch(struct mc_engine *engine, const struct bench_memory *mem)
{
	for (size_t i = 0; i < mem->nr; i++) {
		uint8_t *at = mem->bufs[i].addr;
		size_t left = mem->bufs[i].len;

		while (left > 0 && !mc_stopping()) {
			size_t n = MC_MIN(left, TOUCH_BYTES);

			memset(at, 0x5a, n);
			at += n;
			left -= n;
		}
	}
	mc_engine_counters(engine, ignore_counter, NULL);
}

static int run(const struct bench_options *opts, struct mc_engine *engine, struct mc_error *err)
{
	struct bench_memory *mem = calloc(1, sizeof *mem); /* too large for a small stack */
	uint64_t len = opts->buffer_size, need = bench_footprint(opts);
	int r;

	if (!mem)
		return mc_fail(err, -ENOMEM, "target: out of memory");
	/* What was named is kept: the batches are the initiator's, which says if they do not fit. */
	if (len < need && !bench_option_given(opts, "buffer_size")) {
		fprintf(stderr,
			"buffer size: %" PRIu64 " bytes, for the batches that the flags describe\n",
			need);
		len = need;
	}
	r = bench_memory_alloc(mem, engine, opts, len, MC_ACCESS_ALL, err);
	if (r == 0 && !bench_memory_reachable(mem, mc_engine_matrix(engine)))
		r = mc_fail(err, -ENETUNREACH,
			    "target '%s': no row of nic_priority_matrix covers its memory at '%s', so nobody "
			    "could reach it: %.300s; add a row for it, or for \"*\"",
			    mc_engine_name(engine), mem->bufs[0].location, mc_engine_matrix(engine));
	if (r == 0 && opts->init_mem && !opts->device_memory)
		touch(engine, mem);
	if (r == 0 && !mc_stopping())
		r = announce(opts, engine, err);
	if (r == 0)
		serve(opts, engine, mem);
	if (!mc_stopping()) /* else closing the engine does it, within its bound */
		bench_memory_free(mem, engine);
	free(mem);
	return r;
}

int bench_target(const struct bench_options *opts, const struct mc_config *config)
{
	struct mc_engine *engine;
	struct mc_error err = {0};
	int r = mc_engine_open(config, BENCH_OPEN_NS, &engine, &err);
	bool usage = bench_is_usage(config, r);

	if (r == 0) {
		bench_stop_name(mc_engine_name(engine));
		bench_reload_start(engine);
		r = run(opts, engine, &err);
		bench_reload_end();
		mc_engine_close(engine, BENCH_CLOSE_NS); /* warns of what was not confirmed in time */
	}
	mc_stop_done();
	if (r < 0) {
		bench_report_error(opts, err.text);
		return usage ? BENCH_EXIT_USAGE : BENCH_EXIT_FAILED;
	}
	return BENCH_EXIT_OK;
}
