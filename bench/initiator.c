/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The initiator: find the target, prepare memory on both sides, run the load,
 * have both ends verify, report.
 */
#include "initiator.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pattern.h"

#define BUFFERS_LOOK_MS 10

/* ---- the target's segment ----------------------------------------------------------------------
 */

struct others {
	const char *self;
	size_t nr;
	char name[MC_SEGMENT_NAME_MAX + 1]; /* of the first */
	char list[512];
};

static int others_add(void *ctx, const char *name)
{
	struct others *o = ctx;
	size_t used = strlen(o->list);

	if (strcmp(name, o->self) == 0)
		return 0;
	if (o->nr++ == 0)
		snprintf(o->name, sizeof o->name, "%s", name);
	snprintf(o->list + used, sizeof o->list - used, "%s'%s'", used ? ", " : "", name);
	return 0;
}

/* Without --segment_id: the only other segment. */
static int find_segment(struct mc_engine *engine, struct others *o, struct mc_error *err)
{
	int r;

	o->self = mc_engine_name(engine);
	r = mc_segment_list(engine, BENCH_CONNECT_NS, others_add, o, err);
	if (r < 0)
		return r;
	if (o->nr == 0)
		return mc_fail(
			err, -ENOENT,
			"no other segment is known at this metadata server; start a target with "
			"the same --metadata_server, or name one by --segment_id");
	if (o->nr > 1)
		return mc_fail(err, -EINVAL,
			       "several segments are there: %s; choose by --segment_id", o->list);
	return 0;
}

static int open_segment(const struct bench_options *opts, struct mc_engine *engine,
			struct mc_segment **ret_segment, struct mc_error *err)
{
	struct others o = {0};
	const char *name = opts->segment_id;

	if (!*name) {
		int r = find_segment(engine, &o, err);

		if (r < 0)
			return r;
		name = o.name;
	}
	return mc_segment_open(engine, name, BENCH_CONNECT_NS, ret_segment, err);
}

/* A target that is just coming up is known before it has registered its memory: how many buffers
 * it has, once it has any or has had its time. */
static size_t wait_buffers(const struct mc_segment *segment)
{
	struct pollfd stop = {.fd = mc_stop_fd(), .events = POLLIN};
	uint64_t end = bench_now_ns() + BENCH_BUFFERS_NS;
	size_t nr;

	while (!(nr = mc_segment_nr_buffers(segment)) && !mc_stopping() && bench_now_ns() < end)
		poll(&stop, 1, BUFFERS_LOOK_MS);
	return nr;
}

/* The offsets of the target's buffers; each must hold what the flags ask for. */
static int find_buffers(struct initiator *in, struct mc_error *err)
{
	const struct bench_options *opts = in->opts;
	const struct mc_segment *segment = in->segment;
	size_t nr = wait_buffers(segment);
	uint64_t need = bench_footprint(opts);

	if (nr == 0 && mc_stopping())
		return mc_fail(err, -ECANCELED, "interrupted");
	if (nr == 0)
		return mc_fail(err, -ENOENT,
			       "segment '%s' has no buffers after %d s; is it a target?",
			       mc_segment_name(segment), (int)(BENCH_BUFFERS_NS / MC_SEC));
	nr = nr < BENCH_MAX_BUFFERS ? nr : BENCH_MAX_BUFFERS;
	for (size_t i = 0; i < nr; i++) {
		struct mc_buffer_info info = {.size = sizeof info};

		mc_segment_buffer(segment, i, &info);
		if (info.len < need)
			return mc_fail(err, -EACCES,
				       "segment '%s': buffer %zu holds %" PRIu64
				       " bytes, the batches span %" PRIu64
				       "; start the target with --buffer_size=%" PRIu64
				       ", or lower %s, --batch_size or --threads",
				       mc_segment_name(segment), i, info.len, need, need,
				       opts->sweep.min ? "the end of --sweep" : "--block_size");
		if (opts->check && bench_is_device_memory(info.location))
			return mc_fail(err, -EOPNOTSUPP,
				       "segment '%s': --check: its memory at '%s' is not the CPU's to fill and compare; leave "
				       "--check out, or start the target without --use_vram",
				       mc_segment_name(segment), info.location);
		in->remote[i] = info.offset;
	}
	in->nr_remote = nr;
	return 0;
}

/* ---- one run
 * -------------------------------------------------------------------------------------- */

/* Ask about the entries of every thread. */
static int ask_all(struct initiator *in, enum bench_msg_type type, uint64_t *bytes,
		   struct mc_error *err)
{
	for (uint64_t i = 0; i < in->opts->threads; i++) {
		struct bench_msg msg = {.type = type};
		bool wrote = bench_load_entries(in->load, i, &msg.entries);
		int r;

		if (mc_stopping())
			return mc_fail(err, -ECANCELED, "interrupted");
		if (type == BENCH_MSG_VERIFY && !wrote)
			continue;
		r = bench_ask(in->engine, in->segment, &msg, BENCH_ANSWER_NS, err);
		if (r < 0)
			return r;
		if (msg.status == -EBADMSG)
			return mc_fail(err, -EBADMSG,
				       "check: the target '%s' finds its byte at offset 0x%" PRIx64
				       " wrong",
				       mc_segment_name(in->segment), msg.bad);
		if (msg.status < 0)
			return mc_fail(err, (int)msg.status,
				       "target '%s' could not %s its memory: %s",
				       mc_segment_name(in->segment),
				       type == BENCH_MSG_FILL ? "fill" : "verify",
				       strerror((int)-msg.status));
		*bytes += msg.value;
	}
	return 0;
}

int initiator_alloc(struct initiator *in, bool writes, struct mc_error *err)
{
	uint64_t len = bench_footprint(in->opts);
	int r = find_buffers(in, err);

	if (r == 0)
		r = bench_memory_alloc(&in->local, in->engine, in->opts, len, MC_ACCESS_LOCAL, err);
	if (r == 0 && in->opts->check && writes)
		r = bench_memory_alloc(&in->scratch, in->engine, in->opts, len, MC_ACCESS_LOCAL,
				       err);
	return r;
}

int initiator_prepare(struct initiator *in, struct mc_error *err)
{
	static const struct bench_memory none;
	struct bench_load_args args = {
		.opts = in->opts,
		.engine = in->engine,
		.segment = in->segment,
		.local = &in->local,
		.scratch = in->opts->operation == MC_OP_WRITE ? &in->scratch : &none,
		.remote = in->remote,
		.nr_remote = in->nr_remote,
		.seed = bench_mix((uint64_t)getpid() ^ bench_now_ns()),
		.label = in->label,
		.more_s = in->more_s,
	};
	uint64_t filled = 0;
	int r = bench_load_new(&args, &in->load, err);

	if (r < 0)
		return r;
	/* Only now: it writes to the target's memory, which --check has for itself. */
	return in->opts->check ? ask_all(in, BENCH_MSG_FILL, &filled, err) : 0;
}

/* CPU time of the target so far; false if it does not say, and why the first time. */
static bool ask_cpu(struct initiator *in, uint64_t *ret_ns)
{
	struct bench_msg msg = {.type = BENCH_MSG_CPU};
	struct mc_error err = {0};

	if (mc_stopping())
		return false;
	if (bench_ask(in->engine, in->segment, &msg, BENCH_CONNECT_NS, &err) < 0) {
		if (!in->cpu_said && !mc_stopping())
			fprintf(stderr, "the target's CPU time is unknown: %s\n", err.text);
		in->cpu_said = true;
		return false;
	}
	*ret_ns = msg.value;
	return true;
}

int initiator_measure(struct initiator *in, struct mc_error *err)
{
	struct bench_report *rep = &in->report;
	uint64_t cpu_before = 0, cpu_after = 0;
	bool known;
	size_t nr_before;
	int r = bench_load_start(in->load, err);

	if (r < 0)
		return r;
	known = ask_cpu(in, &cpu_before);
	nr_before = bench_rails_read(in->engine, in->before, BENCH_MAX_RAILS);
	bench_load_finish(in->load, &in->result);
	rep->nr_rails = bench_rails_read(in->engine, rep->rails, BENCH_MAX_RAILS);
	bench_rails_subtract(rep->rails, rep->nr_rails, in->before, nr_before);
	known = known && in->result.status == 0 && ask_cpu(in, &cpu_after);
	rep->remote_cpu_known = known;
	rep->remote_cpu_ns = cpu_after - cpu_before;
	rep->remote_checked = 0;
	if (in->result.status == 0 && in->opts->check) {
		in->result.status =
			ask_all(in, BENCH_MSG_VERIFY, &rep->remote_checked, &in->result.err);
	}
	return 0;
}

void initiator_failure(const struct initiator *in)
{
	fflush(stdout);
	fprintf(stderr, "%s%s\n", in->result.err.text,
		in->result.status == -EBADMSG ? "; --check needs the target for itself: is "
						"another initiator using it?"
					      : "");
}

static void report(struct initiator *in)
{
	if (in->opts->json) {
		bench_report_json(stdout, &in->report);
		fflush(stdout);
	} else {
		bench_report_text(stdout, &in->report);
	}
	if (in->result.status < 0)
		initiator_failure(in);
	bench_report_line(in->opts->json ? stderr : stdout, &in->report);
	fflush(stdout);
}

/* One measurement.  *ret_reported: what is returned has been told. */
static int single(struct initiator *in, bool *ret_reported, struct mc_error *err)
{
	int r = initiator_alloc(in, in->opts->operation == MC_OP_WRITE, err);

	if (r == 0)
		r = initiator_prepare(in, err);
	if (r == 0)
		r = initiator_measure(in, err);
	if (r < 0)
		return r;
	*ret_reported = true;
	report(in);
	return in->result.status;
}

static void release(struct initiator *in)
{
	bench_load_free(in->load);
	bench_reload_end();
	if (in->segment)
		mc_segment_close(in->segment);
	bench_memory_free(&in->scratch, in->engine);
	bench_memory_free(&in->local, in->engine);
	mc_engine_close(in->engine, BENCH_CLOSE_NS);
	mc_stop_done();
}

/* Whatever is asked for, on the engine that is open. */
static int run_any(struct initiator *in, const struct bench_job *job, const struct mc_config *config,
		   bool *ret_reported, struct mc_error *err)
{
	int r = 0;

	in->report = (struct bench_report){
		.opts = in->opts,
		.config = config,
		.local_name = mc_engine_name(in->engine),
		.matrix = mc_engine_matrix(in->engine),
		.result = &in->result,
	};
	if (job)
		return bench_job_run(in, job, ret_reported, err);
	r = open_segment(in->opts, in->engine, &in->segment, err);
	if (r < 0)
		return r;
	in->report.segment = mc_segment_name(in->segment);
	return in->opts->sweep.min ? bench_sweep(in, ret_reported, err) : single(in, ret_reported, err);
}

int bench_initiator(const struct bench_options *opts, const struct bench_job *job,
		    const struct mc_config *config)
{
	struct initiator *in = calloc(1, sizeof *in);
	struct mc_error err = {0};
	bool reported = false, usage = false;
	int r = in ? 0 : mc_fail(&err, -ENOMEM, "no memory");

	if (r == 0)
		r = mc_engine_open(config, BENCH_OPEN_NS, &in->engine, &err);
	usage = bench_is_usage(config, r);
	if (r == 0) {
		bench_stop_name(mc_engine_name(in->engine));
		bench_reload_start(in->engine);
		in->opts = opts;
		r = run_any(in, job, config, &reported, &err);
		release(in);
	}
	mc_stop_done();
	if (r < 0 && !reported)
		bench_report_error(opts, err.text);
	free(in);
	return r == 0 ? BENCH_EXIT_OK : usage ? BENCH_EXIT_USAGE : BENCH_EXIT_FAILED;
}
