/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the JSON of transfer_engine_bench as a stream: a table says which members
 * are wanted, everything else is passed over.  The files may come from anywhere,
 * so each value is checked for type and range before it is taken.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "plot.h"

#define MAX_DEPTH 12 /* deeper things are passed over */
#define KEY_MAX 48
#define SCHEMA 1

/* Members of a point, as bits of reader.have. */
enum { HAVE_BLOCK = 1, HAVE_RATE = 2, HAVE_P99 = 4, HAVE_CPU = 8, HAVE_OPERATION = 16 };
#define NEEDED (HAVE_BLOCK | HAVE_RATE | HAVE_P99 | HAVE_CPU)

struct frame {
	bool array;
	uint64_t idx; /* of an array: the current element */
	char key[KEY_MAX];
};

struct reader {
	const char *path;
	struct plot_file *file;
	char *error;
	size_t cap;
	struct frame stack[MAX_DEPTH];
	size_t depth; /* may exceed MAX_DEPTH */
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

/* ---- where we are ------------------------------------------------------------------------------
 */

/* "$.sweep[3].block_size"; with any: "sweep[].block_size", as the table has it. */
static void place(const struct reader *r, bool any, char *buf, size_t cap)
{
	size_t n = (size_t)snprintf(buf, cap, "%s", any ? "" : "$");

	for (size_t i = 0; i < r->depth && i < MAX_DEPTH && n < cap; i++) {
		const struct frame *f = &r->stack[i];

		if (f->array && any)
			n += (size_t)snprintf(buf + n, cap - n, "[]");
		else if (f->array)
			n += (size_t)snprintf(buf + n, cap - n, "[%llu]",
					      (unsigned long long)f->idx);
		else
			n += (size_t)snprintf(buf + n, cap - n, "%s%s", any && i == 0 ? "" : ".",
					      f->key);
	}
}

/* Always 0, which ends the parsing. */
static int refuse(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse(struct reader *r, const char *fmt, ...)
{
	char at[512], what[512];
	va_list ap;

	place(r, false, at, sizeof at);
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	snprintf(r->error, r->cap, "%s: %s: %s", r->path, at, what);
	return 0;
}

/* ---- values ------------------------------------------------------------------------------------
 */

static int take_number(struct reader *r, const char *text, double max, double *ret)
{
	double v = strtod(text, NULL);

	if (!(v >= 0) || !(v <= max))
		return refuse(r, "%.40s is not a number from 0 to %g", text, max);
	*ret = v;
	return 1;
}

static int take_count(struct reader *r, const char *text, uint64_t max, uint64_t *ret)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (*end || errno || *text == '-' || v < 1 || v > max)
		return refuse(r, "%.40s is not a whole number from 1 to %llu", text,
			      (unsigned long long)max);
	*ret = v;
	return 1;
}

static int take_operation(struct reader *r, const char *text, bool *ret)
{
	if (strcmp(text, "read") != 0 && strcmp(text, "write") != 0)
		return refuse(r, "'%.40s' is neither 'read' nor 'write'", text);
	*ret = text[0] == 'r';
	return 1;
}

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

static int take_string_member(struct reader *r, enum member m, const char *text)
{
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
		return take_operation(r, text, &r->is_read);
	case M_OPERATION:
		r->have |= HAVE_OPERATION;
		return take_operation(r, text, &r->point.is_read);
	default:
		return 1;
	}
}

static int take_number_member(struct reader *r, enum member m, const char *text)
{
	struct plot_point *p = &r->point;
	double bytes = 0;

	switch (m) {
	case M_SCHEMA:
		if (strtod(text, NULL) != SCHEMA)
			return refuse(r, "%.40s is not a schema that is known here (%d)", text,
				      SCHEMA);
		r->schema_seen = true;
		return 1;
	case M_CPUS:
		return take_count(r, text, 1u << 20, &r->file->cpus);
	case M_THREADS:
		return take_count(r, text, 1u << 20, &r->file->threads);
	case M_OPT_BLOCK:
		return take_count(r, text, PLOT_MAX_BLOCK, &r->block_size);
	case M_BLOCK:
		r->have |= HAVE_BLOCK;
		return take_count(r, text, PLOT_MAX_BLOCK, &p->block_size);
	case M_RATE:
		r->have |= HAVE_RATE;
		return take_number(r, text, 1e18, &p->bytes_per_s);
	case M_P99:
		r->have |= HAVE_P99;
		return take_number(r, text, 1e19, &p->p99_ns);
	case M_CPU_HERE:
		r->have |= HAVE_CPU;
		return take_number(r, text, 1e12, &p->cpu_s_per_gb);
	case M_CPU_THERE:
		p->target_known = true;
		return take_number(r, text, 1e12, &r->target_cpu);
	case M_STATUS:
		r->status = *text == '-' ? -1 : 0;
		return 1;
	case M_RAIL_BYTES:
		if (!take_number(r, text, 1e30, &bytes))
			return 0;
		if (bytes > 0)
			note_rail(r);
		return 1;
	default:
		return 1;
	}
}

/* The table's entry for where we are; NULL: nobody wants it. */
static const struct wanted *find_wanted(const struct reader *r)
{
	char at[MAX_DEPTH * (KEY_MAX + 2)];

	if (r->depth > MAX_DEPTH)
		return NULL;
	place(r, true, at, sizeof at);
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
		if (strcmp(wanted[i].place, at) == 0)
			return &wanted[i];
	}
	return NULL;
}

/* ---- what the parser tells ---------------------------------------------------------------------
 */

/* An element of an array has passed. */
static int passed(struct reader *r, int ok)
{
	if (r->depth && r->depth <= MAX_DEPTH && r->stack[r->depth - 1].array)
		r->stack[r->depth - 1].idx++;
	return ok;
}

static int on_text(void *ctx, const unsigned char *s, size_t len)
{
	struct reader *r = ctx;
	const struct wanted *w = find_wanted(r);
	char text[PLOT_TEXT_MAX];

	if (!w)
		return passed(r, 1);
	if (!w->text)
		return refuse(r, "a text stands where a number is expected");
	if (memchr(s, 0, len))
		return refuse(r, "the text holds a NUL");
	snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1),
		 (const char *)s);
	return passed(r, take_string_member(r, w->member, text));
}

static int on_number(void *ctx, const char *s, size_t len)
{
	struct reader *r = ctx;
	const struct wanted *w = find_wanted(r);
	char text[64];

	if (!w)
		return passed(r, 1);
	if (w->text)
		return refuse(r, "a number stands where a text is expected");
	if (len >= sizeof text)
		return refuse(r, "a number of %zu digits", len);
	snprintf(text, sizeof text, "%.*s", (int)len, s);
	return passed(r, take_number_member(r, w->member, text));
}

static int on_null(void *ctx)
{
	struct reader *r = ctx;
	const struct wanted *w = find_wanted(r);

	return w && w->member != M_CPU_THERE ? refuse(r, "null stands where a value is expected")
					     : passed(r, 1);
}

static int on_bool(void *ctx, int value)
{
	struct reader *r = ctx;

	return find_wanted(r) ? refuse(r, "true or false stands where a value is expected")
			      : passed(r, 1);
}

static bool at_point(const struct reader *r)
{
	char at[MAX_DEPTH * (KEY_MAX + 2)];

	if (r->depth > 2)
		return false;
	place(r, true, at, sizeof at);
	return strcmp(at, "results") == 0 || strcmp(at, "sweep[]") == 0;
}

static int push(struct reader *r, bool array)
{
	if (find_wanted(r))
		return refuse(r, "%s stands where a value is expected",
			      array ? "a list" : "an object");
	if (r->depth < MAX_DEPTH)
		r->stack[r->depth] = (struct frame){.array = array};
	r->depth++;
	return 1;
}

static int on_map(void *ctx)
{
	struct reader *r = ctx;

	if (at_point(r)) {
		r->point = (struct plot_point){0};
		r->have = 0;
		r->target_cpu = 0;
		r->status = 0;
	}
	return push(r, false);
}

static int on_key(void *ctx, const unsigned char *key, size_t len)
{
	struct reader *r = ctx;

	/* A key that is cut short equals none of ours. */
	if (r->depth <= MAX_DEPTH)
		snprintf(r->stack[r->depth - 1].key, KEY_MAX, "%.*s",
			 (int)(len < KEY_MAX ? len : KEY_MAX - 1), (const char *)key);
	return 1;
}

static int point_done(struct reader *r)
{
	struct plot_file *f = r->file;
	bool single = !r->stack[0].array && strcmp(r->stack[0].key, "results") == 0;

	if (single) /* its options, which may come later, say the rest */
		r->have |= HAVE_BLOCK | HAVE_OPERATION;
	if (r->status < 0)
		return refuse(r, "this run failed: %.150s",
			      r->failure[0] ? r->failure : "no reason is given");
	if ((r->have & NEEDED) != NEEDED || !(r->have & HAVE_OPERATION))
		return refuse(r, "%s is missing",
			      !(r->have & HAVE_BLOCK)       ? "the block size"
			      : !(r->have & HAVE_OPERATION) ? "the operation"
			      : !(r->have & HAVE_RATE)      ? "the throughput"
			      : !(r->have & HAVE_P99)       ? "the latency"
							    : "the CPU time");
	if (f->nr == PLOT_MAX_POINTS)
		return refuse(r, "more than %d points", PLOT_MAX_POINTS);
	if (f->nr == f->cap) {
		size_t cap = f->cap ? 2 * f->cap : 32;
		struct plot_point *points = realloc(f->points, cap * sizeof *points);

		if (!points)
			return refuse(r, "out of memory");
		f->points = points;
		f->cap = cap;
	}
	r->point.cpu_s_per_gb += r->target_cpu;
	f->points[f->nr++] = r->point;
	return 1;
}

static int on_map_end(void *ctx)
{
	struct reader *r = ctx;

	r->depth--;
	return at_point(r) && !point_done(r) ? 0 : passed(r, 1);
}

static int on_array(void *ctx)
{
	return push(ctx, true);
}

static int on_array_end(void *ctx)
{
	struct reader *r = ctx;

	r->depth--;
	return passed(r, 1);
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_bool,
	.yajl_number = on_number,
	.yajl_string = on_text,
	.yajl_start_map = on_map,
	.yajl_map_key = on_key,
	.yajl_end_map = on_map_end,
	.yajl_start_array = on_array,
	.yajl_end_array = on_array_end,
};

/* ---- a file ------------------------------------------------------------------------------------
 */

/* "path:line:column: what the parser says", in one line. */
static void syntax_error(struct reader *r, yajl_handle h, const unsigned char *text, size_t len)
{
	size_t at = yajl_get_bytes_consumed(h), line = 1, column = 1;
	unsigned char *why = yajl_get_error(h, 0, text, len);

	at = at < len ? at : len;
	for (size_t i = 0; i < at; i++) {
		column = text[i] == '\n' ? 1 : column + 1;
		line += text[i] == '\n';
	}
	if (why)
		why[strcspn((char *)why, "\n")] = '\0';
	snprintf(r->error, r->cap, "%s:%zu:%zu: not the JSON of a bench: %s", r->path, line, column,
		 why ? (char *)why : "out of memory");
	if (why)
		yajl_free_error(h, why);
}

static int check_whole(struct reader *r)
{
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
		snprintf(r->error, r->cap,
			 "%s: $.schema: it is missing; is it the output of "
			 "transfer_engine_bench --json?",
			 r->path);
	else if (!r->file->nr && r->failure[0])
		snprintf(r->error, r->cap, "%s: $.error: the run failed: %.150s", r->path,
			 r->failure);
	else if (incomplete)
		snprintf(r->error, r->cap, "%s: $.options.block_size: it is missing", r->path);
	else if (!r->file->nr)
		snprintf(r->error, r->cap, "%s: there is neither $.results nor a point in $.sweep",
			 r->path);
	else
		return 0;
	return -1;
}

int plot_parse(const char *path, const unsigned char *text, size_t len, struct plot_file *file,
	       char *error, size_t cap)
{
	struct reader r = {.path = path, .file = file, .error = error, .cap = cap};
	yajl_handle h = yajl_alloc(&callbacks, NULL, &r);
	yajl_status status;
	int ret = -1;

	error[0] = '\0';
	if (!h) {
		snprintf(error, cap, "%s: out of memory", path);
		return -1;
	}
	status = yajl_parse(h, text, len);
	if (status == yajl_status_ok)
		status = yajl_complete_parse(h);
	if (status == yajl_status_ok)
		ret = check_whole(&r);
	else if (!error[0])
		syntax_error(&r, h, text, len);
	yajl_free(h);
	return ret;
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
	FILE *f = fopen(path, "re");
	unsigned char *text = f ? malloc(PLOT_MAX_FILE_BYTES + 1) : NULL;
	size_t len;
	int r = -1;

	name_of(path, file->name);
	if (!text) {
		snprintf(error, cap, "%s: %s", path, strerror(errno));
		goto out;
	}
	len = fread(text, 1, PLOT_MAX_FILE_BYTES + 1, f);
	if (ferror(f))
		snprintf(error, cap, "%s: %s", path, strerror(errno));
	else if (len > PLOT_MAX_FILE_BYTES)
		snprintf(error, cap, "%s: larger than %u bytes", path, PLOT_MAX_FILE_BYTES);
	else
		r = plot_parse(path, text, len, file, error, cap);
out:
	free(text);
	if (f)
		fclose(f);
	return r;
}

void plot_file_fini(struct plot_file *file)
{
	free(file->points);
	file->points = NULL;
	file->nr = file->cap = 0;
}
