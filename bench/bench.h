/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the bench share: the run's state, stopping, memory, results. */
#ifndef MC_BENCH_BENCH_H
#define MC_BENCH_BENCH_H

#include <cli/program/stop.h>
#include <mooncake/mooncake.h>

#include "flags.h"
#include "message.h"
#include "stats.h"

/* Exit codes. */
enum { BENCH_EXIT_OK = 0, BENCH_EXIT_FAILED = 1, BENCH_EXIT_USAGE = 2 };

#define BENCH_OPEN_NS (30 * MC_SEC)
#define BENCH_CONNECT_NS (10 * MC_SEC)
#define BENCH_MEMORY_NS (60 * MC_SEC)
#define BENCH_CLOSE_NS (700 * MC_MSEC) /* a stopped bench is gone within a second */
#define BENCH_ANSWER_NS (30 * MC_SEC)
#define BENCH_BUFFERS_NS (5 * MC_SEC) /* a target that comes up has its first one by then */
#define BENCH_MAX_BUFFERS 1024

/* ---- stop.c ---------------------------------------------------------------------------------- */

/* mc_stop_init: SIGINT and SIGTERM become mc_stopping(), SIGHUP bench_reload_ask(), unless it says that our
 * terminal is gone.  A process that has not ended a second after the signal, or gets a second one (300 ms later
 * at least: some send it twice), is ended where it is. */
int bench_stop_init(struct mc_error *err);
/* Whose record the sentence about a process that did not end in time is about.  Any thread. */
void bench_stop_name(const char *name);

/* ---- reload.c -------------------------------------------------------------------------------- */

/* What the config is read from again; borrowed.  Before bench_stop_init. */
void bench_reload_init(int argc, char **argv);
/* SIGHUP came.  Any thread. */
void bench_reload_ask(void);
/* From now on the engine takes a new config when asked, also if that was before.  Until the end, which
 * waits for one under way: before the engine is closed. */
void bench_reload_start(struct mc_engine *engine);
void bench_reload_end(void);

/* ---- memory.c -------------------------------------------------------------------------------- */

struct bench_memory {
	struct mc_engine *engine;
	bool device; /* the CPU may not touch it */
	size_t nr;
	struct {
		void *addr;
		uint64_t len;
		char location[MC_LOCATION_MAX + 1];
	} bufs[BENCH_MAX_BUFFERS];
};

/* The host's NUMA nodes with memory, as many as fit; at least one.  dir:
 * "/sys/devices/system/node". */
size_t bench_numa_nodes(const char *dir, unsigned *nodes, size_t cap);
/* Locations of the buffers: one per NUMA node, the GPU, or those that GPUs may have. */
size_t bench_locations(const struct bench_options *opts, char (*locations)[MC_LOCATION_MAX + 1],
		       size_t cap);
/* Allocate a buffer of len bytes at each location.  Undo with bench_memory_free, also on error. */
int bench_memory_alloc(struct bench_memory *mem, struct mc_engine *engine,
		       const struct bench_options *opts, uint64_t len, uint32_t access,
		       struct mc_error *err);
/* Has the engine's matrix (mc_engine_matrix) a row for any of it? */
bool bench_memory_reachable(const struct bench_memory *mem, const char *matrix);
void bench_memory_free(struct bench_memory *mem, struct mc_engine *engine);
/* Does [addr, addr + len) lie inside one buffer? */
bool bench_memory_has(const struct bench_memory *mem, uint64_t addr, uint64_t len);
/* Do it: check the entries against mem, then fill or compare.  stop (may be NULL) ends it early. */
int64_t bench_memory_serve(const struct bench_memory *mem, const struct bench_msg *msg,
			   bool (*stop)(void), struct bench_msg *reply);

/* ---- setup.c --------------------------------------------------------------------------------- */

/* Put what --protocol, --device_name and the like mean into the config. */
int bench_configure(const struct bench_options *opts, struct mc_config *config,
		    struct mc_error *err);
/* Is an engine that did not open the fault of what the user wrote?  Then the exit code is 2. */
bool bench_is_usage(const struct mc_config *config, int status);
/* The matrix text that gives devices ("a,b"), qualified by transport if not empty, to every
 * location. */
int bench_matrix_text(const char *transport, const char *devices, char *buf, size_t cap,
		      struct mc_error *err);

/* ---- target.c, initiator.c: return an exit code ------------------------------------------------
 */

int bench_target(const struct bench_options *opts, const struct mc_config *config);
struct bench_job;
/* job: what --job says; NULL without it. */
int bench_initiator(const struct bench_options *opts, const struct bench_job *job,
		    const struct mc_config *config);

/* ---- load.c: the threads --------------------------------------------------------------------- */

struct bench_load; /* one run */

/* What one run gave. */
struct bench_result {
	uint64_t duration_ns; /* of transferring: verification is not counted */
	uint64_t batches, requests, bytes;
	uint64_t cpu_ns; /* of this process, over the run */
	uint64_t checked_batches; /* --check: verified here */
	struct bench_hist latency; /* of batches, ns */
	uint64_t first_bad; /* offset, when status is -EBADMSG */
	int status; /* 0, -ECANCELED (stopped), or of the first failure */
	struct mc_error err; /* status < 0: the sentence */
};

struct bench_load_args {
	const struct bench_options *opts;
	struct mc_engine *engine;
	struct mc_segment *segment;
	const struct bench_memory *local;
	const struct bench_memory *scratch; /* --check of writes: read back to here; else empty */
	const uint64_t *remote; /* offsets of the target's buffers */
	size_t nr_remote;
	uint64_t seed;
	const char *label; /* of the progress line; NULL: the operation */
	double more_s; /* what comes after this run, for the time left */
};
int bench_load_new(const struct bench_load_args *args, struct bench_load **ret_load,
		   struct mc_error *err);
/* Start the threads and let each do its first batch; then they wait. */
int bench_load_start(struct bench_load *load, struct mc_error *err);
/* Let them run for the duration and end; progress on a terminal.  Once, after start. */
void bench_load_finish(struct bench_load *load, struct bench_result *result);
void bench_load_free(struct bench_load *load);
/* What a thread's entries hold at the target after the run, for VERIFY and FILL; false: the
 * thread has written nothing. */
bool bench_load_entries(const struct bench_load *load, uint64_t thread, struct bench_entries *ret);

/* ---- report.c -------------------------------------------------------------------------------- */

#define BENCH_MAX_RAILS 64
struct bench_rail {
	char name[512]; /* "tcp:lo -> node1 tcp:lo" */
	uint64_t read, written;
};

struct bench_report {
	const struct bench_options *opts;
	const struct mc_config *config;
	const char *local_name, *segment, *matrix;
	const struct bench_result *result;
	struct bench_rail rails[BENCH_MAX_RAILS];
	size_t nr_rails;
	bool remote_cpu_known;
	uint64_t remote_cpu_ns;
	uint64_t remote_checked; /* bytes that the target found right */
};

/* Bytes per rail so far; take them before and after the run and subtract. */
size_t bench_rails_read(struct mc_engine *engine, struct bench_rail *rails, size_t cap);
void bench_rails_subtract(struct bench_rail *rails, size_t nr, const struct bench_rail *before,
			  size_t nr_before);
/* A size as people write it: "4 KiB", "1.5 MiB", "1000 B". */
void bench_size_text(uint64_t bytes, char *buf, size_t cap);
const char *bench_operation(const struct bench_options *opts); /* "read", "write" */
void bench_report_text(FILE *f, const struct bench_report *report);
/* A sweep's table: its head, a line per point. */
void bench_report_sweep_head(FILE *f, const struct bench_report *report, size_t nr_points);
void bench_report_sweep_line(FILE *f, const struct bench_report *report);
/* A sweep's JSON: begin, each point (opts and result of the report are the point's), end. */
void bench_report_sweep_json_begin(FILE *f, const struct bench_report *report);
void bench_report_sweep_json_point(FILE *f, const struct bench_report *report, bool first);
void bench_report_sweep_json_end(FILE *f, const char *error);
void bench_report_json(FILE *f, const struct bench_report *report);
/* The same in two: machine, versions and options; results, and the end. */
void bench_report_json_head(FILE *f, const struct bench_report *report);
void bench_report_json_tail(FILE *f, const struct bench_report *report);
void bench_json_string(FILE *f, const char *s);
void bench_report_line(FILE *f, const struct bench_report *report); /* Test completed: ... */
/* A failure without results: a sentence on stderr; with --json an object on stdout too. */
void bench_report_error(const struct bench_options *opts, const char *sentence);
double bench_throughput(const struct bench_result *result); /* bytes per second */

#endif
