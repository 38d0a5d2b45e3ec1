/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of Prometheus' text format, and of its names, that a scrape must keep:
 * each family has one HELP and one TYPE before its samples and stands together,
 * counters end in _total and nothing else does, labels are well-formed and
 * escaped, no series comes twice, the text is UTF-8 and ends with a newline.
 */
#ifndef MC_TESTS_PROM_LINT_H
#define MC_TESTS_PROM_LINT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct prom_lint {
	char why[400];
	char family[128], type[16];
	char *families[1024], **series;
	size_t nr_families, nr_series, cap_series, line;
};

static int lint_fail(struct prom_lint *l, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static int lint_fail(struct prom_lint *l, const char *fmt, ...)
{
	char what[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	snprintf(l->why, sizeof l->why, "line %zu: %s", l->line, what);
	return -1;
}

static size_t lint_name(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

	return n && !(s[0] >= '0' && s[0] <= '9') ? n : 0;
}

static bool lint_ends(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

/* "# HELP name text" and "# TYPE name type". */
static int lint_comment(struct prom_lint *l, const char *line)
{
	bool help = !strncmp(line, "# HELP ", 7);
	const char *name = line + 7, *rest;
	size_t n;

	if (!help && strncmp(line, "# TYPE ", 7) != 0)
		return lint_fail(l, "a comment that is neither HELP nor TYPE");
	n = lint_name(name);
	rest = name + n;
	if (!n || n >= sizeof l->family || rest[0] != ' ' || !rest[1])
		return lint_fail(l, "a bad name, or nothing behind it");
	if (help) {
		snprintf(l->family, sizeof l->family, "%.*s", (int)n, name);
		l->type[0] = '\0';
		for (size_t i = 0; i < l->nr_families; i++)
			if (!strcmp(l->families[i], l->family))
				return lint_fail(l, "family %s comes twice", l->family);
		if (l->nr_families == sizeof l->families / sizeof l->families[0])
			return lint_fail(l, "too many families");
		l->families[l->nr_families++] = strdup(l->family);
		return 0;
	}
	if (strlen(l->family) != n || strncmp(l->family, name, n) != 0 || l->type[0])
		return lint_fail(l, "TYPE does not follow its HELP");
	snprintf(l->type, sizeof l->type, "%s", rest + 1);
	if (strcmp(l->type, "counter") != 0 && strcmp(l->type, "gauge") != 0)
		return lint_fail(l, "type '%s'", l->type);
	if (!strcmp(l->type, "counter") != lint_ends(l->family, "_total"))
		return lint_fail(l, "%s: counters end in _total, and nothing else does", l->family);
	return 0;
}

/* Behind '{'; the end of it, or NULL. */
static const char *lint_labels(struct prom_lint *l, const char *at)
{
	for (;;) {
		size_t n = lint_name(at);

		if (!n || strncmp(at + n, "=\"", 2) != 0) {
			lint_fail(l, "a bad label");
			return NULL;
		}
		for (at += n + 2; *at && *at != '"'; at++) {
			if (*at == '\\' && (!*++at || !strchr("\\\"n", *at))) {
				lint_fail(l, "a bad escape");
				return NULL;
			}
		}
		if (!*at++) {
			lint_fail(l, "a label without an end");
			return NULL;
		}
		if (*at == '}')
			return at + 1;
		if (*at++ != ',') {
			lint_fail(l, "no comma between labels");
			return NULL;
		}
	}
}

static int lint_sample(struct prom_lint *l, const char *line)
{
	size_t n = lint_name(line);
	const char *at = line + n;
	char *end, *key;

	if (!n || strlen(l->family) != n || strncmp(l->family, line, n) != 0 || !l->type[0])
		return lint_fail(l, "a sample that is not of the family before it");
	if (*at == '{' && !(at = lint_labels(l, at + 1)))
		return -1;
	if (*at++ != ' ')
		return lint_fail(l, "no space before the value");
	strtod(at, &end);
	if (end == at || *end)
		return lint_fail(l, "a value that is no number");
	key = strndup(line, (size_t)(at - line));
	for (size_t i = 0; i < l->nr_series; i++) {
		if (!strcmp(l->series[i], key)) {
			free(key);
			return lint_fail(l, "series %.200s comes twice", line);
		}
	}
	if (l->nr_series == l->cap_series) {
		l->cap_series = l->cap_series ? 2 * l->cap_series : 64;
		l->series = realloc(l->series, l->cap_series * sizeof *l->series);
	}
	l->series[l->nr_series++] = key;
	return 0;
}

/* 0, or -1 and l->why.  Zero l before, and call prom_lint_fini after. */
static inline int prom_lint(struct prom_lint *l, const char *text)
{
	if (!*text || text[strlen(text) - 1] != '\n')
		return lint_fail(l, "the text does not end with a newline");
	while (*text) {
		size_t n = strcspn(text, "\n");
		char *line = strndup(text, n);
		int r;

		l->line++;
		r = line[0] == '#' ? lint_comment(l, line) : lint_sample(l, line);
		free(line);
		if (r < 0)
			return r;
		text += n + 1;
	}
	return 0;
}

static inline void prom_lint_fini(struct prom_lint *l)
{
	for (size_t i = 0; i < l->nr_families; i++)
		free(l->families[i]);
	for (size_t i = 0; i < l->nr_series; i++)
		free(l->series[i]);
	free(l->series);
}

#endif
