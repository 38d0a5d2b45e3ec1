/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of a job: find the targets, read the trace, prepare memory on both
 * sides, run the threads, have both ends verify, report.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "initiator.h"
#include "job_load.h"
#include "job_report.h"
#include "pattern.h"

#include <core/util/check.h>
#include <core/util/cleanup.h>

struct job_run {
	struct initiator *in; /* its engine, memory, rails and report are ours meanwhile */
	const struct bench_job *job;
	struct bench_peer peers[BENCH_MAX_PEERS];
	uint32_t nr_peers;
	char names[4096]; /* of the targets, with commas */
	struct bench_trace trace;
	struct bench_job_load *load;
	struct bench_job_result result;
	uint64_t checked; /* bytes that targets found right */
};

/* ---- targets -----------------------------------------------------------------------------------
 */

struct name_list {
	const char *self;
	uint64_t want; /* 0: all */
	size_t nr, used, cap;
	char *text; /* "a,b" */
	bool full;
};

static int name_add(void *ctx, const char *name)
{
	struct name_list *l = ctx;
	int n;

	if (strcmp(name, l->self) == 0)
		return 0;
	n = snprintf(l->text + l->used, l->cap - l->used, "%s%s", l->used ? "," : "", name);
	l->full = l->full || (size_t)n >= l->cap - l->used;
	if (l->full)
		return 1;
	l->used += (size_t)n;
	l->nr++;
	return 0;
}

/* The segments that the user named, or all others. */
static int list_targets(struct job_run *run, struct mc_error *err)
{
	const char *given = run->in->opts->segment_id;
	struct name_list list = {
		.self = mc_engine_name(run->in->engine), .text = run->names, .cap = sizeof run->names};
	int r;

	if (*given && (size_t)snprintf(run->names, sizeof run->names, "%s", given) >= sizeof run->names)
		return mc_fail(err, -ENAMETOOLONG, "flag --segment_id: the list is too long");
	if (*given)
		return 0;
	r = mc_segment_list(run->in->engine, BENCH_CONNECT_NS, name_add, &list, err);
	if (r < 0)
		return r;
	if (list.nr == 0)
		return mc_fail(err, -ENOENT,
			       "no other segment is known at this metadata server; start targets with the same "
			       "--metadata_server, or name some by --segment_id");
	if (list.full || (run->job->peers && list.nr != run->job->peers))
		return mc_fail(err, -EINVAL,
			       "job '%s' is for %" PRIu64 " targets, and these segments are there: %.500s; choose by "
			       "--segment_id=A,B",
			       run->job->name, run->job->peers, run->names);
	return 0;
}

/* A target's buffers, each of which must hold the footprint. */
static int find_buffers(struct job_run *run, struct bench_peer *peer, struct mc_error *err)
{
	uint64_t need = run->job->footprint;

	peer->nr_remote = MC_MIN(mc_segment_nr_buffers(peer->segment), (size_t)BENCH_MAX_BUFFERS);
	if (!peer->nr_remote)
		return mc_fail(err, -ENOENT, "segment '%s' has no buffers; is it a target?",
			       mc_segment_name(peer->segment));
	for (size_t i = 0; i < peer->nr_remote; i++) {
		struct mc_buffer_info info = {.size = sizeof info};

		mc_segment_buffer(peer->segment, i, &info);
		if (info.len < need)
			return mc_fail(err, -EACCES,
				       "segment '%s': buffer %zu holds %" PRIu64 " bytes, job '%s' uses %" PRIu64
				       "; start the target with --buffer_size=%" PRIu64 ", or lower --footprint",
				       mc_segment_name(peer->segment), i, info.len, run->job->name, need, need);
		if (run->in->opts->check && bench_is_device_memory(info.location))
			return mc_fail(err, -EOPNOTSUPP,
				       "segment '%s': --check: its memory at '%s' is not the CPU's to fill and compare; leave "
				       "--check out, or start the target without --use_vram",
				       mc_segment_name(peer->segment), info.location);
		peer->remote[i] = info.offset;
	}
	return 0;
}

static int open_target(struct job_run *run, const char *name, size_t len, struct mc_error *err)
{
	struct bench_peer *peer = &run->peers[run->nr_peers];
	char text[MC_SEGMENT_NAME_MAX + 1];
	int r;

	if (!len || len > MC_SEGMENT_NAME_MAX)
		return mc_fail(err, -EINVAL, "flag --segment_id: '%.300s': a name is empty or too long", run->names);
	if (run->nr_peers == BENCH_MAX_PEERS)
		return mc_fail(err, -EINVAL, "flag --segment_id: more than %d targets", BENCH_MAX_PEERS);
	snprintf(text, sizeof text, "%.*s", (int)len, name);
	for (uint32_t i = 0; i < run->nr_peers; i++) {
		if (strcmp(mc_segment_name(run->peers[i].segment), text) == 0)
			return mc_fail(err, -EINVAL, "flag --segment_id: '%s' is there twice", text);
	}
	r = mc_segment_open(run->in->engine, text, BENCH_CONNECT_NS, &peer->segment, err);
	if (r < 0)
		return r;
	run->nr_peers++;
	return find_buffers(run, peer, err);
}

static int open_targets(struct job_run *run, struct mc_error *err)
{
	int r = list_targets(run, err);

	for (const char *p = run->names; r == 0; p++) {
		size_t len = strcspn(p, ",");

		r = open_target(run, p, len, err);
		p += len;
		if (!*p)
			break;
	}
	if (r == 0 && run->job->peers && run->nr_peers != run->job->peers)
		r = mc_fail(err, -EINVAL,
			    "job '%s' is for %" PRIu64 " targets, and --segment_id names %u; name as many",
			    run->job->name, run->job->peers, run->nr_peers);
	return r;
}

/* ---- preparing ---------------------------------------------------------------------------------
 */

static int read_trace(struct job_run *run, struct mc_error *err)
{
	const struct bench_job *job = run->job;
	mc_cleanup(mc_fclosep) FILE *f = NULL;

	if (!bench_job_replays(job))
		return 0;
	f = fopen(job->trace, "re");
	if (!f)
		return mc_fail(err, -errno, "trace '%s': %s", job->trace, strerror(errno));
	return bench_trace_read(&run->trace, job->trace, f,
				job->footprint / bench_job_largest(job) * run->nr_peers, job->evict, err);
}

static int ask(struct job_run *run, uint32_t peer, struct bench_msg *msg, struct mc_error *err)
{
	struct mc_segment *segment = run->peers[peer].segment;
	const char *name = mc_segment_name(segment), *what = msg->type == BENCH_MSG_FILL ? "fill" : "verify";
	int r;

	if (mc_stopping())
		return mc_fail(err, -ECANCELED, "interrupted");
	r = bench_ask(run->in->engine, segment, msg, BENCH_ANSWER_NS, err);
	if (r < 0)
		return r;
	if (msg->status == -EBADMSG)
		return mc_fail(err, -EBADMSG, "check: the target '%s' finds its byte at offset 0x%" PRIx64 " wrong",
			       name, msg->bad);
	if (msg->status < 0)
		return mc_fail(err, (int)msg->status, "target '%s' could not %s its memory: %s", name, what,
			       strerror((int)-msg->status));
	return 0;
}

struct asking {
	struct job_run *run;
	enum bench_msg_type type;
	uint64_t bytes;
	struct mc_error *err;
};

static int ask_entries(void *ctx, uint32_t peer, const struct bench_entries *entries)
{
	struct asking *a = ctx;
	struct bench_msg msg = {.type = a->type, .entries = *entries};
	int r = ask(a->run, peer, &msg, a->err);

	a->bytes += r == 0 ? msg.value : 0;
	return r;
}

static int prepare(struct job_run *run, struct mc_error *err)
{
	struct initiator *in = run->in;
	struct bench_job_args args = {
		.opts = in->opts,
		.job = run->job,
		.trace = bench_job_replays(run->job) ? &run->trace : NULL,
		.engine = in->engine,
		.peers = run->peers,
		.nr_peers = run->nr_peers,
		.local = &in->local,
		.seed = run->job->seed,
	};
	struct asking asking = {run, BENCH_MSG_FILL, 0, err};
	char locations[64][MC_LOCATION_MAX + 1];
	size_t nr = bench_locations(in->opts, locations, MC_ARRAY_SIZE(locations));
	uint64_t len;
	int r;

	if (__builtin_mul_overflow(bench_job_memory(&args), bench_job_rows(run->job, nr), &len))
		return mc_fail(err, -ENOMEM, "job '%s': too much memory for batches", run->job->name);
	r = bench_memory_alloc(&in->local, in->engine, in->opts, len, MC_ACCESS_LOCAL, err);
	if (r == 0)
		r = bench_job_load_new(&args, &run->load, err);
	/* Only now: it writes to the targets' memory, which --check has for itself. */
	if (r == 0 && in->opts->check)
		r = bench_job_fill_each(run->load, ask_entries, &asking);
	return r;
}

/* ---- running -----------------------------------------------------------------------------------
 */

/* CPU time of all targets so far; false if one does not say, and why the first time. */
static bool ask_cpu(struct job_run *run, uint64_t *ret_ns)
{
	*ret_ns = 0;
	for (uint32_t i = 0; i < run->nr_peers; i++) {
		struct bench_msg msg = {.type = BENCH_MSG_CPU};
		struct mc_error err = {0};

		if (mc_stopping())
			return false;
		if (bench_ask(run->in->engine, run->peers[i].segment, &msg, BENCH_CONNECT_NS, &err) < 0) {
			if (!mc_stopping())
				fprintf(stderr, "the target's CPU time is unknown: %s\n", err.text);
			return false;
		}
		*ret_ns += msg.value;
	}
	return true;
}

static int measure(struct job_run *run, struct mc_error *err)
{
	struct initiator *in = run->in;
	struct bench_report *rep = &in->report;
	struct bench_result *res = &in->result;
	uint64_t before = 0, after = 0;
	struct asking asking = {run, BENCH_MSG_VERIFY, 0, &res->err};
	size_t nr_before;
	bool known;
	int r = bench_job_load_start(run->load, err);

	if (r < 0)
		return r;
	known = ask_cpu(run, &before);
	nr_before = bench_rails_read(in->engine, in->before, BENCH_MAX_RAILS);
	bench_job_load_finish(run->load, &run->result);
	*res = run->result.base;
	rep->nr_rails = bench_rails_read(in->engine, rep->rails, BENCH_MAX_RAILS);
	bench_rails_subtract(rep->rails, rep->nr_rails, in->before, nr_before);
	known = known && res->status == 0 && ask_cpu(run, &after);
	rep->remote_cpu_known = known;
	rep->remote_cpu_ns = after - before;
	if (res->status == 0 && in->opts->check)
		res->status = bench_job_written_each(run->load, ask_entries, &asking);
	rep->remote_checked = asking.bytes;
	return 0;
}

static void report(struct job_run *run)
{
	struct initiator *in = run->in;
	const struct bench_job_report rep = {
		.base = &in->report,
		.job = run->job,
		.trace = bench_job_replays(run->job) ? &run->trace : NULL,
		.result = &run->result,
		.nr_peers = run->nr_peers,
	};

	in->report.segment = run->names;
	if (in->opts->json)
		bench_job_report_json(stdout, &rep);
	else
		bench_job_report_text(stdout, &rep);
	fflush(stdout);
	if (in->result.status < 0)
		initiator_failure(in);
	bench_report_line(in->opts->json ? stderr : stdout, &in->report);
	fflush(stdout);
}

int bench_job_run(struct initiator *in, const struct bench_job *job, bool *ret_reported, struct mc_error *err)
{
	struct bench_job seeded = *job;
	struct job_run *run = calloc(1, sizeof *run);
	int r;

	if (!run)
		return mc_fail(err, -ENOMEM, "no memory");
	/* One that JSON carries, and --seed takes. */
	if (!seeded.seed)
		seeded.seed = (bench_mix((uint64_t)getpid() ^ bench_now_ns()) >> 32) + 1;
	run->in = in;
	run->job = &seeded;
	r = open_targets(run, err);
	if (r == 0)
		r = read_trace(run, err);
	if (r == 0)
		r = prepare(run, err);
	if (r == 0)
		r = measure(run, err);
	if (r == 0) {
		*ret_reported = true;
		report(run);
		r = in->result.status;
	}
	bench_job_load_free(run->load);
	bench_trace_fini(&run->trace);
	for (uint32_t i = 0; i < run->nr_peers; i++)
		mc_segment_close(run->peers[i].segment);
	in->report.segment = "";
	free(run);
	return r;
}
