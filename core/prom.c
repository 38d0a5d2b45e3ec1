/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text format of Prometheus: HELP and TYPE before the samples of a family,
 * label values escaped.  What is measured is metrics.c's affair.
 */
#include "prom.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "addr.h"
#include "core/util/check.h"

static bool reserve(struct mc_prom *p, size_t more)
{
	size_t cap = p->cap ? p->cap : 16384;
	char *text;

	while (cap - p->len <= more)
		cap *= 2;
	if (p->failed || cap == p->cap)
		return !p->failed;
	text = realloc(p->text, cap);
	if (!text) {
		p->failed = true;
		return false;
	}
	p->text = text;
	p->cap = cap;
	return true;
}

static void append(struct mc_prom *p, const char *s, size_t len)
{
	if (!reserve(p, len))
		return;
	memcpy(p->text + p->len, s, len);
	p->len += len;
	p->text[p->len] = '\0';
}

static void append_str(struct mc_prom *p, const char *s)
{
	append(p, s, strlen(s));
}

/* In HELP lines quotes stay as they are. */
static void append_help(struct mc_prom *p, const char *s)
{
	for (; *s; s++) {
		if (*s == '\\')
			append(p, "\\\\", 2);
		else if (*s == '\n')
			append(p, "\\n", 2);
		else
			append(p, s, 1);
	}
}

void mc_prom_family(struct mc_prom *p, const char *name, enum mc_prom_type type, const char *help)
{
	append_str(p, "# HELP ");
	append_str(p, name);
	append_str(p, " ");
	append_help(p, help);
	append_str(p, "\n# TYPE ");
	append_str(p, name);
	append_str(p, type == MC_PROM_COUNTER ? " counter\n" : " gauge\n");
}

static void sample(struct mc_prom *p, const char *name, const char *labels, const char *value)
{
	append_str(p, name);
	if (*labels) {
		append_str(p, "{");
		append_str(p, labels);
		append_str(p, "}");
	}
	append_str(p, " ");
	append_str(p, value);
	append_str(p, "\n");
}

void mc_prom_u64(struct mc_prom *p, const char *name, const char *labels, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof text, "%llu", (unsigned long long)value);
	sample(p, name, labels, text);
}

void mc_prom_double(struct mc_prom *p, const char *name, const char *labels, double value)
{
	char text[64], *at;

	snprintf(text, sizeof text, "%.6f", value);
	/* The application may have set a locale with another decimal point. */
	at = text + strspn(text, "-0123456789");
	if (*at)
		*at = '.';
	sample(p, name, labels, text);
}

void mc_prom_label(char *labels, size_t size, const char *name, const char *value)
{
	size_t len = strlen(labels), head = strlen(name) + (len ? 4 : 3);
	char *at = labels + len, *end = labels + size - 2; /* the quote and the NUL that close it */

	if (len + head + 2 > size)
		return;
	at += sprintf(at, "%s%s=\"", len ? "," : "", name);
	while (*value) {
		char special = *value == '\\' || *value == '"' ? *value : *value == '\n' ? 'n' : 0;
		size_t n = special ? 2 : mc_utf8_len((const unsigned char *)value);

		if (end - at < (ptrdiff_t)MC_MAX(n, (size_t)1))
			break;
		if (special) {
			*at++ = '\\';
			*at++ = special;
			n = 1;
		} else if (n) {
			memcpy(at, value, n);
			at += n;
		} else {
			*at++ = '_';
			n = 1;
		}
		value += n;
	}
	*at++ = '"';
	*at = '\0';
}

void mc_prom_name(char *name, size_t size, const char *text)
{
	size_t i;

	for (i = 0; text[i] && i + 1 < size; i++) {
		char c = text[i];
		bool good =
			(c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		name[i] = good ? c : '_';
	}
	name[i] = '\0';
}

char *mc_prom_take(struct mc_prom *p, size_t *ret_len)
{
	char *text = p->text;

	if (p->failed) {
		free(text);
		text = NULL;
	} else {
		*ret_len = p->len;
	}
	memset(p, 0, sizeof *p);
	return text;
}
