/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the JSON of transfer_engine_bench as a stream: a table says which members
 * are wanted, everything else is passed over.  The files may come from anywhere,
 * so each value is checked for type and range before it is taken.
 */
#include <stdlib.h>
#include <string.h>

#include "json_walk.h"
#include "plot.h"

#define SCHEMA 1

/* Members of a point, as bits of reader.have. */
enum { HAVE_BLOCK = 1, HAVE_RATE = 2, HAVE_P99 = 4, HAVE_CPU = 8, HAVE_OPERATION = 16 };
#define NEEDED (HAVE_BLOCK | HAVE_RATE | HAVE_P99 | HAVE_CPU)

struct reader {
	struct plot_file *file;
	bool schema_seen;
	/* The point that is being read. */
	struct plot_point point;
	unsigned have;
	double target_cpu;
	char rail[PLOT_TEXT_MAX];
	int64_t status;
	/* Of a single run the options say what a sweep's points say themselves. */
	uint64_t block_size;
	bool is_read;
	char failure[PLOT_TEXT_MAX];
};

/* ---- values ------------------------------------------------------------------------------------ */

static int take_text(const char *text, char *buf)
{
	snprintf(buf, PLOT_TEXT_MAX, "%s", text);
	return 1;
}

/* Note the transport of a rail that moved bytes: "tcp" of "tcp:lo -> node1 tcp:lo". */
static void note_rail(struct reader *r)
{
	size_t len = strcspn(r->rail, ":"), used = strlen(r->file->rails);
	const char *p = r->file->rails;

	if (!len || !r->rail[len])
		return;
	while (*p) {
		size_t n = strcspn(p, "+");

		if (n == len && memcmp(p, r->rail, n) == 0)
			return;
		p += n + (p[n] == '+');
	}
	snprintf(r->file->rails + used, sizeof r->file->rails - used, "%s%.*s", used ? "+" : "",
		 (int)len, r->rail);
}

enum member {
	M_NONE,
	M_SCHEMA,
	M_ERROR,
	M_HOST,
	M_CPU,
	M_CPUS,
	M_KERNEL,
	M_TIME,
	M_VERSION,
	M_PROTOCOL,
	M_THREADS,
	M_OPT_OPERATION,
	M_OPT_BLOCK,
	M_OPERATION,
	M_BLOCK,
	M_RATE,
	M_P99,
	M_CPU_HERE,
	M_CPU_THERE,
	M_STATUS,
	M_RUN_ERROR,
	M_RAIL,
	M_RAIL_BYTES,
};

/* Where it stands, and whether a text or a number; of M_CPU_THERE alone a null will do. */
static const struct wanted {
	const char *place;
	enum member member;
	bool text;
} wanted[] = {
	{"schema", M_SCHEMA, false},
	{"error", M_ERROR, true},
	{"machine.host", M_HOST, true},
	{"machine.cpu", M_CPU, true},
	{"machine.cpus", M_CPUS, false},
	{"machine.kernel", M_KERNEL, true},
	{"machine.time", M_TIME, true},
	{"versions.library", M_VERSION, true},
	{"options.protocol", M_PROTOCOL, true},
	{"options.threads", M_THREADS, false},
	{"options.operation", M_OPT_OPERATION, true},
	{"options.block_size", M_OPT_BLOCK, false},
	{"sweep[].operation", M_OPERATION, true},
	{"sweep[].block_size", M_BLOCK, false},
	{"sweep[].throughput_bytes_per_s", M_RATE, false},
	{"sweep[].batch_p99_ns", M_P99, false},
	{"sweep[].cpu_s_per_gb", M_CPU_HERE, false},
	{"sweep[].target_cpu_s_per_gb", M_CPU_THERE, false},
	{"sweep[].status", M_STATUS, false},
	{"sweep[].error", M_RUN_ERROR, true},
	{"sweep[].rails[].name", M_RAIL, true},
	{"sweep[].rails[].bytes_read", M_RAIL_BYTES, false},
	{"sweep[].rails[].bytes_written", M_RAIL_BYTES, false},
	{"results.throughput_bytes_per_s", M_RATE, false},
	{"results.batch_p99_ns", M_P99, false},
	{"results.cpu_s_per_gb", M_CPU_HERE, false},
	{"results.target_cpu_s_per_gb", M_CPU_THERE, false},
	{"results.status", M_STATUS, false},
	{"results.error", M_RUN_ERROR, true},
	{"results.rails[].name", M_RAIL, true},
	{"results.rails[].bytes_read", M_RAIL_BYTES, false},
	{"results.rails[].bytes_written", M_RAIL_BYTES, false},
};

static int take_string_member(struct walk *w, enum member m, const char *text)
{
	struct reader *r = w->ctx;
	struct plot_file *f = r->file;

	switch (m) {
	case M_HOST:
		return take_text(text, f->host);
	case M_CPU:
		return take_text(text, f->cpu);
	case M_KERNEL:
		return take_text(text, f->kernel);
	case M_TIME:
		return take_text(text, f->time);
	case M_VERSION:
		return take_text(text, f->version);
	case M_PROTOCOL:
		return take_text(text, f->protocol);
	case M_RAIL:
		return take_text(text, r->rail);
	case M_ERROR:
	case M_RUN_ERROR:
		return *text ? take_text(text, r->failure) : 1;
	case M_OPT_OPERATION:
		return walk_take_word(w, text, "write", "read", &r->is_read);
	case M_OPERATION:
		r->have |= HAVE_OPERATION;
		return walk_take_word(w, text, "write", "read", &r->point.is_read);
	default:
		return 1;
	}
}

static int take_number_member(struct walk *w, enum member m, const char *text)
{
	struct reader *r = w->ctx;
	struct plot_point *p = &r->point;
	double bytes = 0;

	switch (m) {
	case M_SCHEMA:
		if (strtod(text, NULL) != SCHEMA)
			return walk_refuse(w, "%.40s is not a schema that is known here (%d)", text,
				      SCHEMA);
		r->schema_seen = true;
		return 1;
	case M_CPUS:
		return walk_take_count(w, text, 1, 1u << 20, &r->file->cpus);
	case M_THREADS:
		return walk_take_count(w, text, 1, 1u << 20, &r->file->threads);
	case M_OPT_BLOCK:
		return walk_take_count(w, text, 1, PLOT_MAX_BLOCK, &r->block_size);
	case M_BLOCK:
		r->have |= HAVE_BLOCK;
		return walk_take_count(w, text, 1, PLOT_MAX_BLOCK, &p->block_size);
	case M_RATE:
		r->have |= HAVE_RATE;
		return walk_take_number(w, text, 1e18, &p->bytes_per_s);
	case M_P99:
		r->have |= HAVE_P99;
		return walk_take_number(w, text, 1e19, &p->p99_ns);
	case M_CPU_HERE:
		r->have |= HAVE_CPU;
		return walk_take_number(w, text, 1e12, &p->cpu_s_per_gb);
	case M_CPU_THERE:
		p->target_known = true;
		return walk_take_number(w, text, 1e12, &r->target_cpu);
	case M_STATUS:
		r->status = *text == '-' ? -1 : 0;
		return 1;
	case M_RAIL_BYTES:
		if (!walk_take_number(w, text, 1e30, &bytes))
			return 0;
		if (bytes > 0)
			note_rail(r);
		return 1;
	default:
		return 1;
	}
}

/* The table's entry; NULL: nobody wants it. */
static const struct wanted *find_wanted(const char *at)
{
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
		if (strcmp(wanted[i].place, at) == 0)
			return &wanted[i];
	}
	return NULL;
}

/* ---- what the walk tells ----------------------------------------------------------------------- */

static int wants(struct walk *w, const char *at, enum walk_type type)
{
	static const char *const names[] = {"a text", "a number", "true or false", "null", "an object", "a list"};
	const struct wanted *want = find_wanted(at);

	if (!want || (type == WALK_NULL && want->member == M_CPU_THERE))
		return 0;
	if (type > WALK_NUMBER)
		return walk_refuse(w, "%s stands where a value is expected", names[type]) - 1;
	if (want->text != (type == WALK_TEXT))
		return walk_refuse(w, "%s stands where %s is expected", names[type], names[!want->text]) - 1;
	return 1;
}

static int value(struct walk *w, const char *at, enum walk_type type, const char *text)
{
	enum member m = find_wanted(at)->member;

	return type == WALK_TEXT ? take_string_member(w, m, text) : take_number_member(w, m, text);
}

static int begin(struct walk *w, const char *at)
{
	struct reader *r = w->ctx;

	if (strcmp(at, "results") == 0 || strcmp(at, "sweep[]") == 0) {
		r->point = (struct plot_point){0};
		r->have = 0;
		r->target_cpu = 0;
		r->status = 0;
	}
	return 1;
}

static int point_done(struct walk *w, bool single)
{
	struct reader *r = w->ctx;
	struct plot_file *f = r->file;

	if (single) /* its options, which may come later, say the rest */
		r->have |= HAVE_BLOCK | HAVE_OPERATION;
	if (r->status < 0)
		return walk_refuse(w, "this run failed: %.150s",
			      r->failure[0] ? r->failure : "no reason is given");
	if ((r->have & NEEDED) != NEEDED || !(r->have & HAVE_OPERATION))
		return walk_refuse(w, "%s is missing",
			      !(r->have & HAVE_BLOCK)       ? "the block size"
			      : !(r->have & HAVE_OPERATION) ? "the operation"
			      : !(r->have & HAVE_RATE)      ? "the throughput"
			      : !(r->have & HAVE_P99)       ? "the latency"
							    : "the CPU time");
	if (f->nr == PLOT_MAX_POINTS)
		return walk_refuse(w, "more than %d points", PLOT_MAX_POINTS);
	if (f->nr == f->cap) {
		size_t cap = f->cap ? 2 * f->cap : 32;
		struct plot_point *points = realloc(f->points, cap * sizeof *points);

		if (!points)
			return walk_refuse(w, "out of memory");
		f->points = points;
		f->cap = cap;
	}
	r->point.cpu_s_per_gb += r->target_cpu;
	f->points[f->nr++] = r->point;
	return 1;
}

static int end(struct walk *w, const char *at)
{
	bool single = strcmp(at, "results") == 0;

	return single || strcmp(at, "sweep[]") == 0 ? point_done(w, single) : 1;
}

static const struct walk_ops ops = {
	.of = "a bench", .wants = wants, .value = value, .begin = begin, .end = end,
};

/* ---- a file ------------------------------------------------------------------------------------ */

static int check_whole(struct walk *w)
{
	struct reader *r = w->ctx;
	bool incomplete = false;

	for (size_t i = 0; i < r->file->nr; i++) {
		struct plot_point *p = &r->file->points[i];

		if (p->block_size)
			continue;
		p->block_size = r->block_size;
		p->is_read = r->is_read;
		incomplete = incomplete || !p->block_size;
	}
	if (!r->schema_seen)
		snprintf(w->error, w->cap,
			 "%s: $.schema: it is missing; is it the output of "
			 "transfer_engine_bench --json?",
			 w->path);
	else if (!r->file->nr && r->failure[0])
		snprintf(w->error, w->cap, "%s: $.error: the run failed: %.150s", w->path,
			 r->failure);
	else if (incomplete)
		snprintf(w->error, w->cap, "%s: $.options.block_size: it is missing", w->path);
	else if (!r->file->nr)
		snprintf(w->error, w->cap, "%s: there is neither $.results nor a point in $.sweep",
			 w->path);
	else
		return 0;
	return -1;
}

int plot_parse(const char *path, const unsigned char *text, size_t len, struct plot_file *file,
	       char *error, size_t cap)
{
	struct reader r = {.file = file};
	struct walk w = {.ops = &ops, .ctx = &r, .path = path, .error = error, .cap = cap};

	return walk_parse(&w, text, len) < 0 ? -1 : check_whole(&w);
}

static void name_of(const char *path, char *buf)
{
	const char *slash = strrchr(path, '/');
	size_t len;

	snprintf(buf, PLOT_TEXT_MAX, "%s", slash && slash[1] ? slash + 1 : path);
	len = strlen(buf);
	if (len > 5 && strcmp(buf + len - 5, ".json") == 0)
		buf[len - 5] = '\0';
}

int plot_read(const char *path, struct plot_file *file, char *error, size_t cap)
{
	size_t len;
	unsigned char *text = walk_load(path, PLOT_MAX_FILE_BYTES, &len, error, cap);
	int r = -1;

	name_of(path, file->name);
	if (text)
		r = plot_parse(path, text, len, file, error, cap);
	free(text);
	return r;
}

void plot_file_fini(struct plot_file *file)
{
	free(file->points);
	file->points = NULL;
	file->nr = file->cap = 0;
}
