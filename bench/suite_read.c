/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the JSON of bench/run-all as a stream.  A table says which members are
 * wanted, of what type; other members are passed over.  Files may come from
 * anywhere, so each value is checked for type and range before it is taken, and a
 * member or a point that stands twice is refused.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "suite.h"

#define MAX_DEPTH 8 /* deeper things are passed over */
#define KEY_MAX 48
#define PLACE_MAX (MAX_DEPTH * (KEY_MAX + 24))
#define MAX_BLOCK (UINT64_C(1) << 50)

struct frame {
	bool array;
	uint64_t idx; /* of an array: the current element */
	char key[KEY_MAX];
};

struct reader {
	const char *path;
	struct suite *suite;
	char *error;
	size_t cap;
	struct frame stack[MAX_DEPTH];
	size_t depth; /* may exceed MAX_DEPTH */
	uint64_t have; /* a bit per entry of wanted, of the objects that are open */
	/* What is being read. */
	struct suite_point point;
	struct suite_stack of;
	struct suite_run run;
	struct suite_left_out left_out;
	double target_cpu;
};

enum type { TEXT, NUMBER, BOOL };

enum member {
	M_SCHEMA,
	M_PROGRAM,
	M_VERSION,
	M_COMMIT,
	M_QUICK,
	M_SECONDS,
	M_TIME,
	M_HOST,
	M_CPU,
	M_KERNEL,
	M_CPUS,
	M_MEMORY,
	M_GUEST_CPU,
	M_GUEST_KERNEL,
	M_GUEST_CPUS,
	M_STACK,
	M_WHERE,
	M_OPERATION,
	M_KIND,
	M_BLOCK,
	M_BATCH,
	M_CHECKED,
	M_RATE,
	M_P50,
	M_P99,
	M_CPU_HERE,
	M_CPU_THERE,
	M_WHAT,
	M_REASON,
	M_FAILED,
	NR_MEMBERS
};

#define BIT(m) (UINT64_C(1) << (m))

static const struct {
	const char *place;
	enum type type;
	bool nullable;
} wanted[NR_MEMBERS] = {
	[M_SCHEMA] = {"schema", NUMBER, false},
	[M_PROGRAM] = {"program", TEXT, false},
	[M_VERSION] = {"version", TEXT, false},
	[M_COMMIT] = {"commit", TEXT, false},
	[M_QUICK] = {"quick", BOOL, false},
	[M_SECONDS] = {"seconds", NUMBER, false},
	[M_TIME] = {"machine.time", TEXT, false},
	[M_HOST] = {"machine.host", TEXT, false},
	[M_CPU] = {"machine.cpu", TEXT, false},
	[M_KERNEL] = {"machine.kernel", TEXT, false},
	[M_CPUS] = {"machine.cpus", NUMBER, false},
	[M_MEMORY] = {"machine.memory_bytes", NUMBER, false},
	[M_GUEST_CPU] = {"guest.cpu", TEXT, false},
	[M_GUEST_KERNEL] = {"guest.kernel", TEXT, false},
	[M_GUEST_CPUS] = {"guest.cpus", NUMBER, false},
	[M_STACK] = {"points[].stack", TEXT, false},
	[M_WHERE] = {"points[].where", TEXT, false},
	[M_OPERATION] = {"points[].operation", TEXT, false},
	[M_KIND] = {"points[].kind", TEXT, false},
	[M_BLOCK] = {"points[].block_size", NUMBER, false},
	[M_BATCH] = {"points[].batch_size", NUMBER, false},
	[M_CHECKED] = {"points[].checked_bytes", NUMBER, true},
	[M_RATE] = {"points[].samples[].throughput_bytes_per_s", NUMBER, false},
	[M_P50] = {"points[].samples[].batch_p50_ns", NUMBER, false},
	[M_P99] = {"points[].samples[].batch_p99_ns", NUMBER, false},
	[M_CPU_HERE] = {"points[].samples[].cpu_s_per_gb", NUMBER, false},
	[M_CPU_THERE] = {"points[].samples[].target_cpu_s_per_gb", NUMBER, true},
	[M_WHAT] = {"left_out[].what", TEXT, false},
	[M_REASON] = {"left_out[].reason", TEXT, false},
	[M_FAILED] = {"left_out[].failed", BOOL, false},
};

/* Nothing else may stand there. */
static const struct {
	const char *place;
	bool array;
} containers[] = {
	{"points", true},           {"points[]", false}, {"points[].samples", true},
	{"points[].samples[]", false}, {"left_out", true}, {"left_out[]", false},
};

/* ---- where we are ------------------------------------------------------------------------------
 */

/* "$.points[3].stack"; with any: "points[].stack", as the tables have it. */
static void place(const struct reader *r, bool any, char buf[PLACE_MAX])
{
	size_t n = (size_t)snprintf(buf, PLACE_MAX, "%s", any ? "" : "$");

	for (size_t i = 0; i < r->depth && i < MAX_DEPTH; i++) {
		const struct frame *f = &r->stack[i];

		if (f->array && any)
			n += (size_t)snprintf(buf + n, PLACE_MAX - n, "[]");
		else if (f->array)
			n += (size_t)snprintf(buf + n, PLACE_MAX - n, "[%llu]",
					      (unsigned long long)f->idx);
		else
			n += (size_t)snprintf(buf + n, PLACE_MAX - n, "%s%s", any && i == 0 ? "" : ".",
					      f->key);
	}
}

/* Always 0, which ends the parsing. */
static int refuse(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse(struct reader *r, const char *fmt, ...)
{
	char at[PLACE_MAX], what[512];
	va_list ap;

	place(r, false, at);
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	snprintf(r->error, r->cap, "%s: %s: %s", r->path, at, what);
	return 0;
}

/* The entry of wanted for where we are; NR_MEMBERS: nobody wants it. */
static enum member find_wanted(const struct reader *r)
{
	char at[PLACE_MAX];
	int m = 0;

	if (r->depth > MAX_DEPTH)
		return NR_MEMBERS;
	place(r, true, at);
	while (m < NR_MEMBERS && strcmp(wanted[m].place, at) != 0)
		m++;
	return (enum member)m;
}

/* May an object or a list (array), or a value (neither) begin here? */
static int check_container(struct reader *r, bool map, bool array)
{
	char at[PLACE_MAX];

	if (r->depth > MAX_DEPTH)
		return 1;
	place(r, true, at);
	for (size_t i = 0; i < sizeof containers / sizeof *containers; i++) {
		if (strcmp(containers[i].place, at) == 0 && !(containers[i].array ? array : map))
			return refuse(r, "%s is expected here", containers[i].array ? "a list" : "an object");
	}
	return 1;
}

static bool is_at(const struct reader *r, const char *where)
{
	char here[PLACE_MAX];

	if (r->depth > MAX_DEPTH)
		return false;
	place(r, true, here);
	return strcmp(here, where) == 0;
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

static int take_count(struct reader *r, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (*end || errno || *text == '-' || v < min || v > max)
		return refuse(r, "%.40s is not a whole number from %llu to %llu", text,
			      (unsigned long long)min, (unsigned long long)max);
	*ret = v;
	return 1;
}

/* One of two words. */
static int take_word(struct reader *r, const char *text, const char *no, const char *yes, bool *ret)
{
	if (strcmp(text, no) != 0 && strcmp(text, yes) != 0)
		return refuse(r, "'%.40s' is neither '%s' nor '%s'", text, no, yes);
	*ret = strcmp(text, yes) == 0;
	return 1;
}

/* What does not fit is cut off. */
static int take_text(const char *text, char *buf, size_t cap)
{
	size_t len = strnlen(text, cap - 1);

	memcpy(buf, text, len);
	buf[len] = '\0';
	return 1;
}

static int take_stack(struct reader *r, const char *text)
{
	if (!*text || strlen(text) >= SUITE_NAME_MAX)
		return refuse(r, "a name of 1 to %d bytes is expected", SUITE_NAME_MAX - 1);
	return take_text(text, r->of.name, sizeof r->of.name);
}

static int take_string_member(struct reader *r, enum member m, const char *text)
{
	struct suite *s = r->suite;

	switch (m) {
	case M_PROGRAM:
		return strcmp(text, "run-all") == 0 ? 1 : refuse(r, "'%.40s' is not 'run-all'", text);
	case M_VERSION:
		return take_text(text, s->version, sizeof s->version);
	case M_COMMIT:
		return take_text(text, s->commit, sizeof s->commit);
	case M_TIME:
		return take_text(text, s->time, sizeof s->time);
	case M_HOST:
		return take_text(text, s->host, sizeof s->host);
	case M_CPU:
		return take_text(text, s->cpu, sizeof s->cpu);
	case M_KERNEL:
		return take_text(text, s->kernel, sizeof s->kernel);
	case M_GUEST_CPU:
		return take_text(text, s->guest_cpu, sizeof s->guest_cpu);
	case M_GUEST_KERNEL:
		return take_text(text, s->guest_kernel, sizeof s->guest_kernel);
	case M_STACK:
		return take_stack(r, text);
	case M_WHERE:
		return take_word(r, text, "host", "guest", &r->of.guest);
	case M_OPERATION:
		return take_word(r, text, "write", "read", &r->point.is_read);
	case M_KIND:
		return take_word(r, text, "throughput", "latency", &r->point.is_latency);
	case M_WHAT:
		return take_text(text, r->left_out.what, sizeof r->left_out.what);
	case M_REASON:
		return take_text(text, r->left_out.reason, sizeof r->left_out.reason);
	default:
		return 1;
	}
}

static int take_number_member(struct reader *r, enum member m, const char *text)
{
	struct suite *s = r->suite;

	switch (m) {
	case M_SCHEMA:
		return strtod(text, NULL) == SUITE_SCHEMA
			       ? 1
			       : refuse(r, "%.40s is not a schema that is known here (%d)", text,
					SUITE_SCHEMA);
	case M_SECONDS:
		return take_number(r, text, 1e6, &s->seconds);
	case M_CPUS:
		return take_count(r, text, 1, 1u << 20, &s->cpus);
	case M_GUEST_CPUS:
		return take_count(r, text, 1, 1u << 20, &s->guest_cpus);
	case M_MEMORY:
		return take_count(r, text, 1, UINT64_C(1) << 60, &s->memory_bytes);
	case M_BLOCK:
		return take_count(r, text, 1, MAX_BLOCK, &r->point.block_size);
	case M_BATCH:
		return take_count(r, text, 1, 1u << 30, &r->point.batch_size);
	case M_CHECKED:
		r->point.checked = true;
		return take_count(r, text, 0, UINT64_MAX, &r->point.checked_bytes);
	case M_RATE:
		return take_number(r, text, 1e18, &r->run.bytes_per_s);
	case M_P50:
		return take_number(r, text, 1e19, &r->run.p50_ns);
	case M_P99:
		return take_number(r, text, 1e19, &r->run.p99_ns);
	case M_CPU_HERE:
		return take_number(r, text, 1e12, &r->run.cpu_s_per_gb);
	case M_CPU_THERE:
		return take_number(r, text, 1e12, &r->target_cpu);
	default:
		return 1;
	}
}

/* ---- objects that are complete -----------------------------------------------------------------
 */

/* Forget which members the objects at this place had. */
static void forget(struct reader *r, const char *where)
{
	size_t len = strlen(where);

	for (int m = 0; m < NR_MEMBERS; m++) {
		if (strncmp(wanted[m].place, where, len) == 0)
			r->have &= ~BIT(m);
	}
}

/* All of the needed ones, or the first that is not there is named. */
static int check_have(struct reader *r, uint64_t needed)
{
	for (int m = 0; m < NR_MEMBERS; m++) {
		const char *dot = strrchr(wanted[m].place, '.');

		if (needed & ~r->have & BIT(m))
			return refuse(r, "member '%s' is missing", dot ? dot + 1 : wanted[m].place);
	}
	return 1;
}

static int run_done(struct reader *r)
{
	struct suite_point *p = &r->point;
	struct suite_run *runs;

	if (!check_have(r, BIT(M_RATE) | BIT(M_P50) | BIT(M_P99) | BIT(M_CPU_HERE) | BIT(M_CPU_THERE)))
		return 0;
	if (p->nr == SUITE_MAX_RUNS)
		return refuse(r, "more than %d samples", SUITE_MAX_RUNS);
	runs = realloc(p->runs, (p->nr + 1) * sizeof *runs);
	if (!runs)
		return refuse(r, "out of memory");
	r->run.cpu_s_per_gb += r->target_cpu;
	p->runs = runs;
	p->runs[p->nr++] = r->run;
	return 1;
}

/* Its place in suite.stacks, a new one if need be; SUITE_MAX_STACKS: there is none left. */
static size_t stack_of(struct suite *s, const struct suite_stack *of)
{
	for (size_t i = 0; i < s->nr_stacks; i++) {
		if (s->stacks[i].guest == of->guest && strcmp(s->stacks[i].name, of->name) == 0)
			return i;
	}
	if (s->nr_stacks < SUITE_MAX_STACKS)
		s->stacks[s->nr_stacks++] = *of;
	else
		return SUITE_MAX_STACKS;
	return s->nr_stacks - 1;
}

static bool same_point(const struct suite_point *a, const struct suite_point *b)
{
	return a->stack == b->stack && a->is_read == b->is_read && a->is_latency == b->is_latency &&
	       a->block_size == b->block_size && a->batch_size == b->batch_size;
}

static int point_done(struct reader *r)
{
	struct suite *s = r->suite;
	struct suite_point *p = &r->point;

	if (!check_have(r, BIT(M_STACK) | BIT(M_WHERE) | BIT(M_OPERATION) | BIT(M_KIND) | BIT(M_BLOCK) |
				   BIT(M_BATCH) | BIT(M_CHECKED)))
		return 0;
	if (!p->nr)
		return refuse(r, "there is no sample");
	p->stack = stack_of(s, &r->of);
	if (p->stack == SUITE_MAX_STACKS)
		return refuse(r, "more than %d stacks", SUITE_MAX_STACKS);
	for (size_t i = 0; i < s->nr; i++) {
		if (same_point(&s->points[i], p))
			return refuse(r, "the same point as $.points[%zu]", i);
	}
	if (s->nr == SUITE_MAX_POINTS)
		return refuse(r, "more than %d points", SUITE_MAX_POINTS);
	if (!s->points)
		s->points = calloc(SUITE_MAX_POINTS, sizeof *s->points);
	if (!s->points)
		return refuse(r, "out of memory");
	s->points[s->nr++] = *p;
	p->runs = NULL; /* the suite's now */
	return 1;
}

static int left_out_done(struct reader *r)
{
	struct suite *s = r->suite;

	if (!check_have(r, BIT(M_WHAT) | BIT(M_REASON) | BIT(M_FAILED)))
		return 0;
	if (s->nr_left_out == SUITE_MAX_LEFT_OUT)
		return refuse(r, "more than %d entries", SUITE_MAX_LEFT_OUT);
	if (!s->left_out)
		s->left_out = calloc(SUITE_MAX_LEFT_OUT, sizeof *s->left_out);
	if (!s->left_out)
		return refuse(r, "out of memory");
	s->left_out[s->nr_left_out++] = r->left_out;
	return 1;
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

/* A value of this type begins; *ret: whose it is, NR_MEMBERS: nobody wants it. */
static int expect(struct reader *r, enum type type, const char *name, enum member *ret)
{
	static const char *const names[] = {"a text", "a number", "true or false"};

	*ret = find_wanted(r);
	if (!check_container(r, false, false))
		return 0;
	if (*ret == NR_MEMBERS)
		return 1;
	if (r->have & BIT(*ret))
		return refuse(r, "this member stands twice");
	if (wanted[*ret].type != type)
		return refuse(r, "%s stands where %s is expected", name, names[wanted[*ret].type]);
	r->have |= BIT(*ret);
	return 1;
}

static int on_text(void *ctx, const unsigned char *s, size_t len)
{
	struct reader *r = ctx;
	char text[2 * SUITE_TEXT_MAX];
	enum member m;

	if (!expect(r, TEXT, "a text", &m))
		return 0;
	if (m == NR_MEMBERS)
		return passed(r, 1);
	if (memchr(s, 0, len))
		return refuse(r, "the text holds a NUL");
	snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1),
		 (const char *)s);
	return passed(r, take_string_member(r, m, text));
}

static int on_number(void *ctx, const char *s, size_t len)
{
	struct reader *r = ctx;
	char text[64];
	enum member m;

	if (!expect(r, NUMBER, "a number", &m))
		return 0;
	if (m == NR_MEMBERS)
		return passed(r, 1);
	if (len >= sizeof text)
		return refuse(r, "a number of %zu digits", len);
	snprintf(text, sizeof text, "%.*s", (int)len, s);
	return passed(r, take_number_member(r, m, text));
}

static int on_bool(void *ctx, int value)
{
	struct reader *r = ctx;
	enum member m;

	if (!expect(r, BOOL, "true or false", &m))
		return 0;
	if (m == M_QUICK)
		r->suite->quick = value;
	else if (m == M_FAILED)
		r->left_out.failed = value;
	return passed(r, 1);
}

static int on_null(void *ctx)
{
	struct reader *r = ctx;
	enum member m = find_wanted(r);

	if (!check_container(r, false, false))
		return 0;
	if (m == NR_MEMBERS)
		return passed(r, 1);
	if (!wanted[m].nullable)
		return refuse(r, "null stands where a value is expected");
	if (r->have & BIT(m))
		return refuse(r, "this member stands twice");
	r->have |= BIT(m);
	if (m == M_CPU_THERE)
		r->point.target_known = false;
	return passed(r, 1);
}

static int push(struct reader *r, bool array)
{
	if (find_wanted(r) != NR_MEMBERS)
		return refuse(r, "%s stands where a value is expected", array ? "a list" : "an object");
	if (!check_container(r, !array, array))
		return 0;
	if (r->depth < MAX_DEPTH)
		r->stack[r->depth] = (struct frame){.array = array};
	r->depth++;
	return 1;
}

static int on_map(void *ctx)
{
	struct reader *r = ctx;

	if (is_at(r, "points[]")) {
		free(r->point.runs);
		r->point = (struct suite_point){.target_known = true};
		r->of = (struct suite_stack){0};
		forget(r, "points[].");
	} else if (is_at(r, "points[].samples[]")) {
		r->run = (struct suite_run){0};
		r->target_cpu = 0;
		forget(r, "points[].samples[].");
	} else if (is_at(r, "left_out[]")) {
		r->left_out = (struct suite_left_out){0};
		forget(r, "left_out[].");
	}
	return push(r, false);
}

static int on_key(void *ctx, const unsigned char *key, size_t len)
{
	struct reader *r = ctx;

	/* A key that is cut short, or holds what ours do not, equals none of ours. */
	if (r->depth <= MAX_DEPTH) {
		char *to = r->stack[r->depth - 1].key;
		size_t n = len < KEY_MAX ? len : KEY_MAX - 1;

		for (size_t i = 0; i < n; i++)
			to[i] = key[i] && !strchr(".[]", key[i]) ? (char)key[i] : '?';
		to[n] = '\0';
	}
	return 1;
}

static int on_map_end(void *ctx)
{
	struct reader *r = ctx;
	int ok = 1;

	r->depth--;
	if (is_at(r, "points[]"))
		ok = point_done(r);
	else if (is_at(r, "points[].samples[]"))
		ok = run_done(r);
	else if (is_at(r, "left_out[]"))
		ok = left_out_done(r);
	return passed(r, ok);
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
	size_t end = yajl_get_bytes_consumed(h), line = 1, column = 1;
	unsigned char *why = yajl_get_error(h, 0, text, len);

	end = end < len ? end : len;
	for (size_t i = 0; i < end; i++) {
		column = text[i] == '\n' ? 1 : column + 1;
		line += text[i] == '\n';
	}
	if (why)
		why[strcspn((char *)why, "\n")] = '\0';
	snprintf(r->error, r->cap, "%s:%zu:%zu: not the JSON of run-all: %s", r->path, line, column,
		 why ? (char *)why : "out of memory");
	if (why)
		yajl_free_error(h, why);
}

static int check_whole(struct reader *r)
{
	if (!(r->have & BIT(M_SCHEMA)) || !(r->have & BIT(M_PROGRAM)))
		snprintf(r->error, r->cap, "%s: $.%s: it is missing; is it the result.json of run-all?",
			 r->path, r->have & BIT(M_SCHEMA) ? "program" : "schema");
	else if (!r->suite->nr)
		snprintf(r->error, r->cap, "%s: $.points: there is no point", r->path);
	else
		return 0;
	return -1;
}

int suite_parse(const char *path, const unsigned char *text, size_t len, struct suite *suite,
		char *error, size_t cap)
{
	struct reader r = {.path = path, .suite = suite, .error = error, .cap = cap};
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
	free(r.point.runs);
	return ret;
}

int suite_read(const char *path, struct suite *suite, char *error, size_t cap)
{
	FILE *f = fopen(path, "re");
	unsigned char *text = f ? malloc(SUITE_MAX_FILE_BYTES + 1) : NULL;
	size_t len;
	int r = -1;

	if (!text) {
		snprintf(error, cap, "%s: %s", path, strerror(errno));
		goto out;
	}
	len = fread(text, 1, SUITE_MAX_FILE_BYTES + 1, f);
	if (ferror(f))
		snprintf(error, cap, "%s: %s", path, strerror(errno));
	else if (len > SUITE_MAX_FILE_BYTES)
		snprintf(error, cap, "%s: larger than %u bytes", path, SUITE_MAX_FILE_BYTES);
	else
		r = suite_parse(path, text, len, suite, error, cap);
out:
	free(text);
	if (f)
		fclose(f);
	return r;
}

void suite_fini(struct suite *suite)
{
	for (size_t i = 0; i < suite->nr; i++)
		free(suite->points[i].runs);
	free(suite->points);
	free(suite->left_out);
	memset(suite, 0, sizeof *suite);
}
