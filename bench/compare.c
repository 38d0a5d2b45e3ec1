/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_compare A.json B.json: two results of bench/run-all, point by point.
 * A line each: the medians, and what the runs allow to be said about their ratio.
 * The same files always give the same answer.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

/* An interval that reaches further than this from "the same" says nothing. */
#define CLEAR 0.10

enum by { BY_SPEED, BY_P99, BY_CPU };

struct arguments {
	const char *paths[2];
	double threshold;
	enum by by;
	bool json;
};

enum verdict { WORSE, BETTER, SAME, UNCLEAR, FEW, UNKNOWN, ONLY_A, ONLY_B, NR_VERDICTS };

static const char *const verdict_words[NR_VERDICTS] = {
	"slower", "faster", "same", "unclear", "few_runs", "unknown", "only_a", "only_b",
};

/* One line of the answer.  change.ratio and its interval: above 1 is better for B. */
struct line {
	const struct suite *suite; /* whose the point is that names the line */
	const struct suite_point *point;
	double a, b; /* medians */
	enum suite_figure figure;
	struct suite_ratio change;
	enum verdict verdict;
	bool bad; /* slower by more than the threshold, with confidence */
	char sentence[128];
};

struct answer {
	const struct arguments *args;
	struct line *lines;
	size_t nr, count[NR_VERDICTS], bad;
};

/* ---- judging -----------------------------------------------------------------------------------
 */

static enum suite_figure figure_of(enum by by, const struct suite_point *p)
{
	if (by == BY_P99)
		return SUITE_P99;
	if (by == BY_CPU)
		return SUITE_CPU;
	return p->is_latency ? SUITE_P50 : SUITE_RATE;
}

/* How what is compared changes from A to B: a speed; or a p99 or CPU time, and then less is better. */
struct change {
	double mid, lo, hi;
};

static struct change change_of(const struct suite_ratio *c, enum by by)
{
	if (by == BY_SPEED)
		return (struct change){.mid = c->ratio - 1, .lo = c->lo - 1, .hi = c->hi - 1};
	return (struct change){.mid = 1 / c->ratio - 1, .lo = 1 / c->hi - 1, .hi = 1 / c->lo - 1};
}

/* "4 % slower": the change, in the words of what is compared. */
static void say_change(struct line *l, enum by by)
{
	static const char *const worse[] = {"slower", "longer p99", "more CPU"};
	static const char *const better[] = {"faster", "shorter p99", "less CPU"};
	bool is_worse = l->verdict == WORSE;
	struct change c = change_of(&l->change, by);
	double lo = c.lo, hi = c.hi, mid = c.mid;
	int decimals = fabs(mid) < 0.02 ? 1 : 0;

	if (mid < 0) {
		double far = -lo;

		lo = -hi;
		hi = far;
		mid = -mid;
	}
	snprintf(l->sentence, sizeof l->sentence, "%.*f %% %s [%.*f..%.*f]", decimals, mid * 100,
		 is_worse ? worse[by] : better[by], decimals, lo * 100, decimals, hi * 100);
}

static void judge(struct line *l, const struct arguments *args, bool known)
{
	const struct suite_ratio *c = &l->change;
	struct change change = known ? change_of(c, args->by) : (struct change){0};
	double lo = change.lo * 100, hi = change.hi * 100;

	if (!known) {
		l->verdict = UNKNOWN;
		snprintf(l->sentence, sizeof l->sentence, "not known in both");
	} else if (!c->enough) {
		l->verdict = FEW;
		snprintf(l->sentence, sizeof l->sentence, "too few runs to tell [%+.1f..%+.1f]", lo, hi);
	} else if (c->hi < 1 || c->lo > 1) {
		l->verdict = c->hi < 1 ? WORSE : BETTER;
		say_change(l, args->by);
	} else if (c->lo >= 1 - CLEAR && c->hi <= 1 + CLEAR) {
		l->verdict = SAME;
		snprintf(l->sentence, sizeof l->sentence, "no difference [%+.1f..%+.1f]", lo, hi);
	} else {
		l->verdict = UNCLEAR;
		snprintf(l->sentence, sizeof l->sentence, "unclear, the runs differ too much [%+.0f..%+.0f]",
			 lo, hi);
	}
	l->bad = l->verdict == WORSE &&
		 (args->by == BY_SPEED ? change.hi < -args->threshold : change.lo > args->threshold);
}

/* The CPU time of one end is no match for that of both. */
static bool comparable(enum suite_figure figure, const struct suite_point *a, const struct suite_point *b)
{
	return figure != SUITE_CPU || a->target_known == b->target_known;
}

static void compare_points(struct line *l, const struct arguments *args, const struct suite_point *a,
			   const struct suite_point *b)
{
	double va[SUITE_MAX_RUNS], vb[SUITE_MAX_RUNS];
	size_t na = suite_values(a, l->figure, va), nb = suite_values(b, l->figure, vb);
	bool known;

	l->a = suite_median(va, na);
	l->b = suite_median(vb, nb);
	/* More is better: of times, a's over b's. */
	known = l->figure == SUITE_RATE ? suite_compare(va, na, vb, nb, &l->change)
					: suite_compare(vb, nb, va, na, &l->change);
	judge(l, args, known && comparable(l->figure, a, b));
}

static const struct suite_point *find(const struct suite *s, const struct suite *of,
				      const struct suite_point *p)
{
	for (size_t i = 0; i < s->nr; i++) {
		const struct suite_point *q = &s->points[i];

		if (q->is_read == p->is_read && q->is_latency == p->is_latency &&
		    q->block_size == p->block_size && q->batch_size == p->batch_size &&
		    s->stacks[q->stack].guest == of->stacks[p->stack].guest &&
		    strcmp(s->stacks[q->stack].name, of->stacks[p->stack].name) == 0)
			return q;
	}
	return NULL;
}

static void add(struct answer *answer, const struct line *l)
{
	answer->lines[answer->nr++] = *l;
	answer->count[l->verdict]++;
	answer->bad += l->bad;
}

/* Points of A in its order, then what only B has. */
static int compare(struct answer *answer, const struct suite *a, const struct suite *b)
{
	const struct arguments *args = answer->args;

	answer->lines = calloc(a->nr + b->nr, sizeof *answer->lines);
	if (!answer->lines)
		return -1;
	for (size_t i = 0; i < a->nr; i++) {
		const struct suite_point *p = &a->points[i], *q = find(b, a, p);
		struct line l = {.suite = a, .point = p, .verdict = ONLY_A};

		l.figure = figure_of(args->by, p);
		l.a = suite_point_median(p, l.figure);
		snprintf(l.sentence, sizeof l.sentence, "only in A");
		if (q)
			compare_points(&l, args, p, q);
		add(answer, &l);
	}
	for (size_t i = 0; i < b->nr; i++) {
		const struct suite_point *p = &b->points[i];
		struct line l = {.suite = b, .point = p, .verdict = ONLY_B};

		l.figure = figure_of(args->by, p);
		l.b = suite_point_median(p, l.figure);
		snprintf(l.sentence, sizeof l.sentence, "only in B");
		if (!find(a, b, p))
			add(answer, &l);
	}
	return 0;
}

/* ---- for people --------------------------------------------------------------------------------
 */

static void value_text(enum suite_figure figure, double value, char *buf, size_t cap)
{
	if (figure == SUITE_RATE)
		suite_rate_text(value, buf, cap);
	else if (figure == SUITE_CPU)
		snprintf(buf, cap, "%.3f s/GB", value);
	else
		suite_time_text(value, buf, cap);
}

/* What comes from a file may hold anything; a terminal gets no control characters. */
static void print_text(const char *text)
{
	for (; *text; text++)
		putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
}

static void describe(char name, const char *path, const struct suite *s)
{
	printf("%c: %s: ", name, path);
	print_text(s->version);
	if (*s->commit) {
		printf(" (");
		print_text(s->commit);
		printf(")");
	}
	printf(", ");
	print_text(s->host);
	printf(", ");
	print_text(s->time);
	printf(", runs of %g s%s\n", s->seconds, s->quick ? ", a smoke run" : "");
}

static void print_lines(const struct answer *answer)
{
	printf("\n%-40s %11s %11s  %s\n", "", "A", "B", "B is");
	for (size_t i = 0; i < answer->nr; i++) {
		const struct line *l = &answer->lines[i];
		char name[160], a[32], b[32];

		if (l->verdict == ONLY_A || l->verdict == ONLY_B)
			continue;
		suite_point_text(l->suite, l->point, name, sizeof name);
		for (char *c = name; *c; c++)
			*c = (unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c;
		value_text(l->figure, l->a, a, sizeof a);
		value_text(l->figure, l->b, b, sizeof b);
		printf("%-40s %11s %11s  %s%s\n", name, a, b, l->sentence, l->bad ? "  <-" : "");
	}
}

static void print_answer(const struct answer *answer, const struct suite *a, const struct suite *b)
{
	const size_t *n = answer->count;

	describe('A', answer->args->paths[0], a);
	describe('B', answer->args->paths[1], b);
	print_lines(answer);
	if (n[ONLY_A] + n[ONLY_B])
		printf("not compared: %zu only in A, %zu only in B; --json names them\n", n[ONLY_A], n[ONLY_B]);
	printf("\n%zu points: %zu worse by more than %g %%, %zu worse by less, %zu better, %zu without a "
	       "difference, %zu undecided, %zu only in one\n",
	       answer->nr, answer->bad, answer->args->threshold * 100, n[WORSE] - answer->bad, n[BETTER],
	       n[SAME], n[UNCLEAR] + n[FEW] + n[UNKNOWN], n[ONLY_A] + n[ONLY_B]);
}

/* ---- for programs ------------------------------------------------------------------------------
 */

static void json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < ' ' || c == 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void json_number(const char *name, double value, bool known)
{
	printf(", \"%s\": ", name);
	if (known)
		printf("%.9g", value);
	else
		fputs("null", stdout);
}

static void json_line(const struct line *l, bool first)
{
	static const char *const figures[] = {"bytes_per_s", "p50_ns", "p99_ns", "cpu_s_per_gb"};
	const struct suite_stack *stack = &l->suite->stacks[l->point->stack];
	bool known = l->verdict != UNKNOWN && l->verdict != ONLY_A && l->verdict != ONLY_B;

	printf("%s\n    {\"stack\": ", first ? "" : ",");
	json_string(stack->name);
	printf(", \"where\": \"%s\", \"operation\": \"%s\", \"kind\": \"%s\", \"block_size\": %" PRIu64
	       ", \"batch_size\": %" PRIu64 ",\n     \"figure\": \"%s\"",
	       stack->guest ? "guest" : "host", l->point->is_read ? "read" : "write",
	       l->point->is_latency ? "latency" : "throughput", l->point->block_size, l->point->batch_size,
	       figures[l->figure]);
	json_number("a", l->a, l->verdict != ONLY_B);
	json_number("b", l->b, l->verdict != ONLY_A);
	/* As the sentence has it: above 1 is better. */
	json_number("ratio", l->change.ratio, known);
	json_number("low", l->change.lo, known);
	json_number("high", l->change.hi, known);
	printf(",\n     \"verdict\": \"%s\", \"bad\": %s, \"sentence\": ", verdict_words[l->verdict],
	       l->bad ? "true" : "false");
	json_string(l->sentence);
	putchar('}');
}

static void json_side(char name, const char *path, const struct suite *s)
{
	printf("  \"%c\": {\"path\": ", name);
	json_string(path);
	printf(", \"version\": ");
	json_string(s->version);
	printf(", \"host\": ");
	json_string(s->host);
	printf(", \"time\": ");
	json_string(s->time);
	printf(", \"seconds\": %.9g, \"quick\": %s},\n", s->seconds, s->quick ? "true" : "false");
}

static void json_answer(const struct answer *answer, const struct suite *a, const struct suite *b)
{
	static const char *const names[] = {"speed", "p99", "cpu"};

	printf("{\n  \"schema\": %d,\n  \"program\": \"compare\",\n", SUITE_SCHEMA);
	json_side('a', answer->args->paths[0], a);
	json_side('b', answer->args->paths[1], b);
	printf("  \"by\": \"%s\",\n  \"threshold\": %.9g,\n  \"confidence\": 0.9,\n  \"bad\": %zu,\n"
	       "  \"points\": [",
	       names[answer->args->by], answer->args->threshold, answer->bad);
	for (size_t i = 0; i < answer->nr; i++)
		json_line(&answer->lines[i], i == 0);
	printf("\n  ]\n}\n");
}

/* ---- the command line --------------------------------------------------------------------------
 */

static void usage(FILE *f)
{
	fputs("usage: bench/compare [FLAG...] A.json B.json\n"
	      "  Two results of bench/run-all: how B stands to A, a line for each point.\n"
	      "    bench/compare before/result.json after/result.json\n"
	      "  --by=speed|p99|cpu  speed (default): throughput, p50 of single transfers\n"
	      "  --threshold=P       how many percent worse is bad (default 3)\n"
	      "  --json              one object instead of lines\n"
	      "In brackets stands the 90 % interval of the change, in percent, from the runs\n"
	      "of both files; fewer than 3 runs in each give none.  'No difference': it holds 0\n"
	      "and stays within 10.  A point is bad when all of its interval is worse than the\n"
	      "threshold.  Of 20 points that have not changed, one or two are called different\n"
	      "by chance, seldom by much.\n"
	      "Exit: 0 no point is bad, 1 one is, 2 usage or a file that cannot be used.\n",
	      f);
}

static int parse_flag(const char *arg, struct arguments *args)
{
	char *end;

	if (strcmp(arg, "--json") == 0) {
		args->json = true;
	} else if (strcmp(arg, "--by=speed") == 0) {
		args->by = BY_SPEED;
	} else if (strcmp(arg, "--by=p99") == 0) {
		args->by = BY_P99;
	} else if (strcmp(arg, "--by=cpu") == 0) {
		args->by = BY_CPU;
	} else if (strncmp(arg, "--threshold=", 12) == 0) {
		args->threshold = strtod(arg + 12, &end) / 100;
		if (end == arg + 12 || *end || !(args->threshold >= 0 && args->threshold < 1)) {
			fprintf(stderr, "%s: not a number of percent from 0 to 99\n", arg);
			return -1;
		}
	} else {
		fprintf(stderr, "unknown flag, or a value that it does not take: %s\n", arg);
		return -1;
	}
	return 0;
}

/* Returns 0, or the exit code + 1. */
static int parse_arguments(int argc, char **argv, struct arguments *args)
{
	size_t nr = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			usage(stdout);
			return 1;
		}
		if (argv[i][0] == '-') {
			if (parse_flag(argv[i], args) < 0)
				return 3;
		} else if (nr < 2) {
			args->paths[nr++] = argv[i];
		} else {
			nr = 3;
			break;
		}
	}
	if (nr == 2)
		return 0;
	usage(stderr);
	return 3;
}

/* What makes figures differ without any change of ours. */
static void warn(const struct suite *a, const struct suite *b)
{
	if (strcmp(a->host, b->host) != 0 || strcmp(a->cpu, b->cpu) != 0 || a->cpus != b->cpus)
		fprintf(stderr, "warning: the files come from different machines\n");
	if (fabs(a->seconds - b->seconds) > 1e-9)
		fprintf(stderr, "warning: runs of %g s are compared with runs of %g s\n", a->seconds,
			b->seconds);
}

static int run(const struct arguments *args)
{
	static struct suite suites[2];
	struct answer answer = {.args = args};
	char error[1024];
	int r = 0;

	/* Every bad file is told, not the first alone. */
	for (int i = 0; i < 2; i++) {
		if (suite_read(args->paths[i], &suites[i], error, sizeof error) < 0) {
			fprintf(stderr, "%s\n", error);
			r = 2;
		}
	}
	if (r == 0 && compare(&answer, &suites[0], &suites[1]) < 0) {
		fprintf(stderr, "out of memory\n");
		r = 2;
	}
	if (r == 0 && answer.count[ONLY_A] + answer.count[ONLY_B] == answer.nr) {
		fprintf(stderr, "the files have no point in common\n");
		r = 2;
	}
	if (r == 0) {
		warn(&suites[0], &suites[1]);
		(args->json ? json_answer : print_answer)(&answer, &suites[0], &suites[1]);
		r = answer.bad ? 1 : 0;
		if (fflush(stdout) != 0) {
			fprintf(stderr, "standard output: %s\n", strerror(errno));
			r = 2;
		}
	}
	free(answer.lines);
	suite_fini(&suites[0]);
	suite_fini(&suites[1]);
	return r;
}

int main(int argc, char **argv)
{
	struct arguments args = {.threshold = 0.03};
	int r = parse_arguments(argc, argv, &args);

	return r ? r - 1 : run(&args);
}
