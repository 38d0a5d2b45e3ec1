/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes, rates and times as people write them, and strings as JSON and terminals take them. */
#include "text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cli/program/words.h>
#include <core/util/check.h>

#define WORD_MAX 127

/* ---- strings ---------------------------------------------------------------------------------- */

/* Bytes of the character at s, of at most len; 0: it is none. */
static size_t character(const unsigned char *s, size_t len)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
	uint32_t code;

	if (!n || n > len)
		return 0;
	code = n == 1 ? s[0] : s[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		code = code << 6 | (s[i] & 0x3fu);
	}
	return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

/* C0, DEL, and C1, which some terminals obey. */
static bool control(const unsigned char *s, size_t n)
{
	return n == 1 ? s[0] < ' ' || s[0] == 0x7f : n == 2 && s[0] == 0xc2 && s[1] < 0xa0;
}

bool mc_text_plain(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;

	for (size_t i = 0; i < len;) {
		size_t n = character(s + i, len - i);

		if (!n || control(s + i, n))
			return false;
		i += n;
	}
	return true;
}

void mc_text_json(FILE *f, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t left = strlen(text);

	fputc('"', f);
	while (left) {
		size_t n = character(s, left);

		if (!n)
			fputc('?', f);
		else if (control(s, n))
			fprintf(f, "\\u%04x", n == 1 ? s[0] : s[1]);
		else
			fprintf(f, "%s%.*s", *s == '"' || *s == '\\' ? "\\" : "", (int)n, (const char *)s);
		s += n ? n : 1;
		left -= n ? n : 1;
	}
	fputc('"', f);
}

void mc_text_tame(FILE *f, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t left = strlen(text);

	while (left) {
		size_t n = character(s, left);

		if (!n || control(s, n))
			fputc('?', f);
		else
			fwrite(s, 1, n, f);
		s += n ? n : 1;
		left -= n ? n : 1;
	}
}

/* ---- writing numbers -------------------------------------------------------------------------- */

const char *mc_text_size(uint64_t bytes, char buf[MC_TEXT_MAX])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1023.95 && u + 1 < MC_ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	snprintf(buf, MC_TEXT_MAX, "%.*f %s", u && v < 99.95 && v != floor(v) ? 1 : 0, v, units[u]);
	return buf;
}

const char *mc_text_seconds(double seconds, char buf[MC_TEXT_MAX])
{
	uint64_t s = seconds > 0 && seconds < 1e9 ? (uint64_t)ceil(seconds) : 0;

	if (s < 60)
		snprintf(buf, MC_TEXT_MAX, "%u s", (unsigned)s);
	else if (s < 3600)
		snprintf(buf, MC_TEXT_MAX, "%u min %02u s", (unsigned)(s / 60), (unsigned)(s % 60));
	else
		snprintf(buf, MC_TEXT_MAX, "%u h %02u min", (unsigned)(s / 3600), (unsigned)(s / 60 % 60));
	return buf;
}

/* ---- reading numbers -------------------------------------------------------------------------- */

/* A number at the start of text; NULL: there is none. */
static const char *number(const char *text, double *ret)
{
	char *end;

	if (!isdigit((unsigned char)text[*text == '.']) || text[strspn(text, "0123456789.")] == 'x')
		return NULL;
	*ret = strtod(text, &end);
	if (!isfinite(*ret) || strcspn(text, "eExX") < (size_t)(end - text))
		return NULL;
	return end + strspn(end, " ");
}

static int to_bytes(double v, uint64_t *ret)
{
	if (!(v >= 0) || v >= 9223372036854775808.0)
		return -EINVAL;
	*ret = (uint64_t)v;
	return 0;
}

int mc_text_parse_size(const char *text, uint64_t *ret)
{
	int64_t bytes;

	if (!isdigit((unsigned char)*text) || mc_word_number(text, true, &bytes) < 0)
		return -EINVAL;
	*ret = (uint64_t)bytes;
	return 0;
}

int mc_text_parse_rate(const char *text, uint64_t *ret)
{
	static const char letters[] = "KMGT";
	char copy[WORD_MAX + 1];
	size_t n = strlen(text);
	const char *unit, *at;
	double v;

	if (n > WORD_MAX)
		return -EINVAL;
	memcpy(copy, text, n + 1);
	if (n > 2 && strcmp(copy + n - 2, "/s") == 0)
		copy[n - 2] = '\0';
	unit = number(copy, &v);
	if (!unit)
		return -EINVAL;
	at = *unit ? strchr(letters, toupper((unsigned char)*unit)) : NULL;
	if (at && strcasecmp(unit + 1, "bit") == 0)
		return to_bytes(v * pow(1000, (double)(at - letters + 1)) / 8, ret);
	return mc_text_parse_size(copy, ret);
}

int mc_text_parse_seconds(const char *text, double *ret)
{
	static const struct {
		const char *name;
		double seconds;
	} units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"min", 60}, {"h", 3600}};
	double v;
	const char *unit = number(text, &v);

	for (size_t i = 0; unit && i < MC_ARRAY_SIZE(units); i++) {
		if (strcmp(unit, units[i].name) == 0) {
			*ret = v * units[i].seconds;
			return 0;
		}
	}
	return -EINVAL;
}
