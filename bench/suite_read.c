/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the JSON of bench/run-all as a stream.  A table says which members are
 * wanted, of what type; other members are passed over.  Files may come from
 * anywhere, so each value is checked for type and range before it is taken, and a
 * member or a point that stands twice is refused.
 */
#include <stdlib.h>
#include <string.h>

#include "json_walk.h"
#include "suite.h"

#define MAX_BLOCK (UINT64_C(1) << 50)

struct reader {
	struct suite *suite;
	uint64_t have; /* a bit per entry of wanted, of the objects that are open */
	/* What is being read. */
	struct suite_point point;
	struct suite_stack of;
	struct suite_run run;
	struct suite_left_out left_out;
	double target_cpu;
};

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
	enum walk_type type;
	bool nullable;
} wanted[NR_MEMBERS] = {
	[M_SCHEMA] = {"schema", WALK_NUMBER, false},
	[M_PROGRAM] = {"program", WALK_TEXT, false},
	[M_VERSION] = {"version", WALK_TEXT, false},
	[M_COMMIT] = {"commit", WALK_TEXT, false},
	[M_QUICK] = {"quick", WALK_BOOL, false},
	[M_SECONDS] = {"seconds", WALK_NUMBER, false},
	[M_TIME] = {"machine.time", WALK_TEXT, false},
	[M_HOST] = {"machine.host", WALK_TEXT, false},
	[M_CPU] = {"machine.cpu", WALK_TEXT, false},
	[M_KERNEL] = {"machine.kernel", WALK_TEXT, false},
	[M_CPUS] = {"machine.cpus", WALK_NUMBER, false},
	[M_MEMORY] = {"machine.memory_bytes", WALK_NUMBER, false},
	[M_GUEST_CPU] = {"guest.cpu", WALK_TEXT, false},
	[M_GUEST_KERNEL] = {"guest.kernel", WALK_TEXT, false},
	[M_GUEST_CPUS] = {"guest.cpus", WALK_NUMBER, false},
	[M_STACK] = {"points[].stack", WALK_TEXT, false},
	[M_WHERE] = {"points[].where", WALK_TEXT, false},
	[M_OPERATION] = {"points[].operation", WALK_TEXT, false},
	[M_KIND] = {"points[].kind", WALK_TEXT, false},
	[M_BLOCK] = {"points[].block_size", WALK_NUMBER, false},
	[M_BATCH] = {"points[].batch_size", WALK_NUMBER, false},
	[M_CHECKED] = {"points[].checked_bytes", WALK_NUMBER, true},
	[M_RATE] = {"points[].samples[].throughput_bytes_per_s", WALK_NUMBER, false},
	[M_P50] = {"points[].samples[].batch_p50_ns", WALK_NUMBER, false},
	[M_P99] = {"points[].samples[].batch_p99_ns", WALK_NUMBER, false},
	[M_CPU_HERE] = {"points[].samples[].cpu_s_per_gb", WALK_NUMBER, false},
	[M_CPU_THERE] = {"points[].samples[].target_cpu_s_per_gb", WALK_NUMBER, true},
	[M_WHAT] = {"left_out[].what", WALK_TEXT, false},
	[M_REASON] = {"left_out[].reason", WALK_TEXT, false},
	[M_FAILED] = {"left_out[].failed", WALK_BOOL, false},
};

/* Nothing else may stand there. */
static const struct {
	const char *place;
	bool array;
} containers[] = {
	{"points", true},           {"points[]", false}, {"points[].samples", true},
	{"points[].samples[]", false}, {"left_out", true}, {"left_out[]", false},
};

static enum member find_wanted(const char *at)
{
	int m = 0;

	while (m < NR_MEMBERS && strcmp(wanted[m].place, at) != 0)
		m++;
	return (enum member)m;
}

/* ---- values ------------------------------------------------------------------------------------ */

/* What does not fit is cut off. */
static int take_text(const char *text, char *buf, size_t cap)
{
	size_t len = strnlen(text, cap - 1);

	memcpy(buf, text, len);
	buf[len] = '\0';
	return 1;
}

static int take_stack(struct walk *w, const char *text)
{
	struct reader *r = w->ctx;

	if (!*text || strlen(text) >= SUITE_NAME_MAX)
		return walk_refuse(w, "a name of 1 to %d bytes is expected", SUITE_NAME_MAX - 1);
	return take_text(text, r->of.name, sizeof r->of.name);
}

static int take_string_member(struct walk *w, enum member m, const char *text)
{
	struct reader *r = w->ctx;
	struct suite *s = r->suite;

	switch (m) {
	case M_PROGRAM:
		return strcmp(text, "run-all") == 0 ? 1 : walk_refuse(w, "'%.40s' is not 'run-all'", text);
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
		return take_stack(w, text);
	case M_WHERE:
		return walk_take_word(w, text, "host", "guest", &r->of.guest);
	case M_OPERATION:
		return walk_take_word(w, text, "write", "read", &r->point.is_read);
	case M_KIND:
		return walk_take_word(w, text, "throughput", "latency", &r->point.is_latency);
	case M_WHAT:
		return take_text(text, r->left_out.what, sizeof r->left_out.what);
	case M_REASON:
		return take_text(text, r->left_out.reason, sizeof r->left_out.reason);
	default:
		return 1;
	}
}

static int take_number_member(struct walk *w, enum member m, const char *text)
{
	struct reader *r = w->ctx;
	struct suite *s = r->suite;

	switch (m) {
	case M_SCHEMA:
		return strtod(text, NULL) == SUITE_SCHEMA
			       ? 1
			       : walk_refuse(w, "%.40s is not a schema that is known here (%d)", text,
					SUITE_SCHEMA);
	case M_SECONDS:
		return walk_take_number(w, text, 1e6, &s->seconds);
	case M_CPUS:
		return walk_take_count(w, text, 1, 1u << 20, &s->cpus);
	case M_GUEST_CPUS:
		return walk_take_count(w, text, 1, 1u << 20, &s->guest_cpus);
	case M_MEMORY:
		return walk_take_count(w, text, 1, UINT64_C(1) << 60, &s->memory_bytes);
	case M_BLOCK:
		return walk_take_count(w, text, 1, MAX_BLOCK, &r->point.block_size);
	case M_BATCH:
		return walk_take_count(w, text, 1, 1u << 30, &r->point.batch_size);
	case M_CHECKED:
		r->point.checked = true;
		return walk_take_count(w, text, 0, UINT64_MAX, &r->point.checked_bytes);
	case M_RATE:
		return walk_take_number(w, text, 1e18, &r->run.bytes_per_s);
	case M_P50:
		return walk_take_number(w, text, 1e19, &r->run.p50_ns);
	case M_P99:
		return walk_take_number(w, text, 1e19, &r->run.p99_ns);
	case M_CPU_HERE:
		return walk_take_number(w, text, 1e12, &r->run.cpu_s_per_gb);
	case M_CPU_THERE:
		return walk_take_number(w, text, 1e12, &r->target_cpu);
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
static int check_have(struct walk *w, uint64_t needed)
{
	struct reader *r = w->ctx;

	for (int m = 0; m < NR_MEMBERS; m++) {
		const char *dot = strrchr(wanted[m].place, '.');

		if (needed & ~r->have & BIT(m))
			return walk_refuse(w, "member '%s' is missing", dot ? dot + 1 : wanted[m].place);
	}
	return 1;
}

static int run_done(struct walk *w)
{
	struct reader *r = w->ctx;
	struct suite_point *p = &r->point;
	struct suite_run *runs;

	if (!check_have(w, BIT(M_RATE) | BIT(M_P50) | BIT(M_P99) | BIT(M_CPU_HERE) | BIT(M_CPU_THERE)))
		return 0;
	if (p->nr == SUITE_MAX_RUNS)
		return walk_refuse(w, "more than %d samples", SUITE_MAX_RUNS);
	runs = realloc(p->runs, (p->nr + 1) * sizeof *runs);
	if (!runs)
		return walk_refuse(w, "out of memory");
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

static int point_done(struct walk *w)
{
	struct reader *r = w->ctx;
	struct suite *s = r->suite;
	struct suite_point *p = &r->point;

	if (!check_have(w, BIT(M_STACK) | BIT(M_WHERE) | BIT(M_OPERATION) | BIT(M_KIND) | BIT(M_BLOCK) |
				   BIT(M_BATCH) | BIT(M_CHECKED)))
		return 0;
	if (!p->nr)
		return walk_refuse(w, "there is no sample");
	p->stack = stack_of(s, &r->of);
	if (p->stack == SUITE_MAX_STACKS)
		return walk_refuse(w, "more than %d stacks", SUITE_MAX_STACKS);
	for (size_t i = 0; i < s->nr; i++) {
		if (same_point(&s->points[i], p))
			return walk_refuse(w, "the same point as $.points[%zu]", i);
	}
	if (s->nr == SUITE_MAX_POINTS)
		return walk_refuse(w, "more than %d points", SUITE_MAX_POINTS);
	if (!s->points)
		s->points = calloc(SUITE_MAX_POINTS, sizeof *s->points);
	if (!s->points)
		return walk_refuse(w, "out of memory");
	s->points[s->nr++] = *p;
	p->runs = NULL; /* the suite's now */
	return 1;
}

static int left_out_done(struct walk *w)
{
	struct reader *r = w->ctx;
	struct suite *s = r->suite;

	if (!check_have(w, BIT(M_WHAT) | BIT(M_REASON) | BIT(M_FAILED)))
		return 0;
	if (s->nr_left_out == SUITE_MAX_LEFT_OUT)
		return walk_refuse(w, "more than %d entries", SUITE_MAX_LEFT_OUT);
	if (!s->left_out)
		s->left_out = calloc(SUITE_MAX_LEFT_OUT, sizeof *s->left_out);
	if (!s->left_out)
		return walk_refuse(w, "out of memory");
	s->left_out[s->nr_left_out++] = r->left_out;
	return 1;
}

/* ---- what the walk tells ----------------------------------------------------------------------- */

static const char *const type_names[] = {"a text", "a number", "true or false", "null", "an object", "a list"};

/* A list or an object of ours, and nothing else, stands where it does. */
static bool misplaced(const char *at, enum walk_type type, const char **ret_expected)
{
	for (size_t i = 0; i < sizeof containers / sizeof *containers; i++) {
		enum walk_type is = containers[i].array ? WALK_LIST : WALK_OBJECT;

		*ret_expected = type_names[is];
		if (strcmp(containers[i].place, at) == 0)
			return type != is;
	}
	return false;
}

static int wants(struct walk *w, const char *at, enum walk_type type)
{
	struct reader *r = w->ctx;
	enum member m = find_wanted(at);
	const char *expected;

	if (misplaced(at, type, &expected))
		return walk_refuse(w, "%s is expected here", expected) - 1;
	if (m == NR_MEMBERS)
		return 0;
	if (type == WALK_OBJECT || type == WALK_LIST || (type == WALK_NULL && !wanted[m].nullable))
		return walk_refuse(w, "%s stands where a value is expected", type_names[type]) - 1;
	if (r->have & BIT(m))
		return walk_refuse(w, "this member stands twice") - 1;
	if (type != WALK_NULL && type != wanted[m].type)
		return walk_refuse(w, "%s stands where %s is expected", type_names[type],
				   type_names[wanted[m].type]) - 1;
	r->have |= BIT(m);
	return 1;
}

static int value(struct walk *w, const char *at, enum walk_type type, const char *text)
{
	struct reader *r = w->ctx;
	enum member m = find_wanted(at);

	if (type == WALK_TEXT)
		return take_string_member(w, m, text);
	if (type == WALK_NUMBER)
		return take_number_member(w, m, text);
	if (m == M_QUICK)
		r->suite->quick = text[0] == 't';
	else if (m == M_FAILED)
		r->left_out.failed = text[0] == 't';
	else if (m == M_CPU_THERE)
		r->point.target_known = false;
	return 1;
}

static int begin(struct walk *w, const char *at)
{
	struct reader *r = w->ctx;

	if (strcmp(at, "points[]") == 0) {
		free(r->point.runs);
		r->point = (struct suite_point){.target_known = true};
		r->of = (struct suite_stack){0};
		forget(r, "points[].");
	} else if (strcmp(at, "points[].samples[]") == 0) {
		r->run = (struct suite_run){0};
		r->target_cpu = 0;
		forget(r, "points[].samples[].");
	} else if (strcmp(at, "left_out[]") == 0) {
		r->left_out = (struct suite_left_out){0};
		forget(r, "left_out[].");
	}
	return 1;
}

static int end(struct walk *w, const char *at)
{
	if (strcmp(at, "points[]") == 0)
		return point_done(w);
	if (strcmp(at, "points[].samples[]") == 0)
		return run_done(w);
	if (strcmp(at, "left_out[]") == 0)
		return left_out_done(w);
	return 1;
}

static const struct walk_ops ops = {
	.of = "run-all", .wants = wants, .value = value, .begin = begin, .end = end,
};

/* ---- a file ------------------------------------------------------------------------------------ */

static int check_whole(const struct walk *w)
{
	const struct reader *r = w->ctx;

	if (!(r->have & BIT(M_SCHEMA)) || !(r->have & BIT(M_PROGRAM)))
		snprintf(w->error, w->cap, "%s: $.%s: it is missing; is it the result.json of run-all?",
			 w->path, r->have & BIT(M_SCHEMA) ? "program" : "schema");
	else if (!r->suite->nr)
		snprintf(w->error, w->cap, "%s: $.points: there is no point", w->path);
	else
		return 0;
	return -1;
}

int suite_parse(const char *path, const unsigned char *text, size_t len, struct suite *suite,
		char *error, size_t cap)
{
	struct reader r = {.suite = suite};
	struct walk w = {.ops = &ops, .ctx = &r, .path = path, .error = error, .cap = cap};
	int ret = walk_parse(&w, text, len);

	free(r.point.runs);
	return ret < 0 ? ret : check_whole(&w);
}

int suite_read(const char *path, struct suite *suite, char *error, size_t cap)
{
	size_t len;
	unsigned char *text = walk_load(path, SUITE_MAX_FILE_BYTES, &len, error, cap);
	int r = text ? suite_parse(path, text, len, suite, error, cap) : -1;

	free(text);
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
