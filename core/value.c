/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of options.  The core's own keys and the options of plugins are
 * described by the same struct mc_option and parsed here, so that "2MiB" or
 * "250ms" mean the same everywhere and a refusal always names the range.
 */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "json.h"
#include "util/check.h"
#include "value.h"

static const char *const type_names[MC_OPT_TYPE_COUNT] = {
	[MC_OPT_BOOL] = "bool",         [MC_OPT_INT] = "int",     [MC_OPT_SIZE] = "size",
	[MC_OPT_DURATION] = "duration", [MC_OPT_FLOAT] = "float", [MC_OPT_STRING] = "string",
	[MC_OPT_ENUM] = "enum",
};

struct unit {
	const char *name;
	int64_t factor;
};

/* Largest first: the printer takes the first that divides. */
static const struct unit size_units[] = {
	{"TiB", INT64_C(1) << 40}, {"GiB", 1 << 30},	{"GB", 1000000000}, {"MiB", 1 << 20},
	{"MB", 1000000},	   {"KiB", 1 << 10},	{"KB", 1000},	    {"B", 1},
	/* Read only: the printer never comes past B. */
	{"T", INT64_C(1) << 40},   {"G", 1 << 30},	{"M", 1 << 20},	    {"K", 1 << 10},
	{NULL, 0},
};
static const struct unit duration_units[] = {
	{"min", 60 * (int64_t)MC_SEC}, {"s", MC_SEC}, {"ms", MC_MSEC}, {"us", 1000}, {"ns", 1}, {NULL, 0},
};

const char *mc_option_type_name(uint32_t type)
{
	return type > 0 && type < MC_OPT_TYPE_COUNT ? type_names[type] : NULL;
}

uint32_t mc_option_type_parse(const char *name)
{
	for (uint32_t t = 1; t < MC_OPT_TYPE_COUNT; t++) {
		if (strcmp(type_names[t], name) == 0)
			return t;
	}
	return 0;
}

const struct mc_option *mc_option_at(const struct mc_plugin_desc *desc, size_t idx)
{
	const struct mc_option *o;

	if (!desc->options)
		return NULL;
	o = (const struct mc_option *)((const char *)desc->options + idx * desc->option_size);
	return o->name ? o : NULL;
}

void mc_value_print(uint32_t type, int64_t value, char *buf, size_t cap)
{
	const struct unit *u = type == MC_OPT_SIZE ? size_units : duration_units;

	if (type == MC_OPT_SIZE && value > -1024 && value < 1024)
		u = NULL;
	if (value && u && (type == MC_OPT_SIZE || type == MC_OPT_DURATION)) {
		while (value % u->factor)
			u++;
		snprintf(buf, cap, "%lld%s", (long long)(value / u->factor), u->name);
		return;
	}
	snprintf(buf, cap, "%lld", (long long)value);
}

/* Bounds as people read them; a maximum of all that 64 bits hold is none. */
static void print_bounds(const struct mc_option *o, char *buf, size_t cap)
{
	char min[32], max[32];

	mc_value_print(o->type, o->min, min, sizeof min);
	mc_value_print(o->type, o->max, max, sizeof max);
	if (o->max == INT64_MAX)
		snprintf(buf, cap, "%s and more", min);
	else
		snprintf(buf, cap, "%s..%s", min, max);
}

void mc_value_range(const struct mc_option *o, char *buf, size_t cap)
{
	char bounds[72];
	size_t at = 0;

	buf[0] = '\0';
	if (o->type == MC_OPT_ENUM) {
		for (int i = 0; o->choices && o->choices[i] && at < cap; i++)
			at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? ", " : "", o->choices[i]);
	} else if (o->type != MC_OPT_BOOL && o->type != MC_OPT_STRING && (o->min || o->max)) {
		print_bounds(o, bounds, sizeof bounds);
		snprintf(buf, cap, "%s%s", bounds, o->flags & MC_OPT_AUTO ? " or auto" : "");
	}
}

static int refuse_range(const struct mc_option *o, const char *where, const char *text,
			struct mc_error *err)
{
	char bounds[72];

	print_bounds(o, bounds, sizeof bounds);
	return mc_fail(err, -EINVAL, "%s: %s is out of range %s", where, text, bounds);
}

static int check_range(const struct mc_option *o, const char *where, const char *text, int64_t i,
		       struct mc_error *err)
{
	if ((o->min || o->max) && (i < o->min || i > o->max))
		return refuse_range(o, where, text, err);
	return 0;
}

static int parse_bool(const char *where, const char *text, struct mc_value *ret,
		      struct mc_error *err)
{
	static const char *const yes[] = {"true", "1", "yes", "on"};
	static const char *const no[] = {"false", "0", "no", "off"};

	for (size_t i = 0; i < MC_ARRAY_SIZE(yes); i++) {
		if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
			ret->b = strcasecmp(text, yes[i]) == 0;
			return 0;
		}
	}
	return mc_fail(err, -EINVAL, "%s: '%.64s' is not true or false", where, text);
}

/* Digits with an optional fraction, times a unit, without rounding through a double.  Returns
 * -EINVAL (not a number, unknown unit), or -ERANGE. */
static int parse_scaled(const char *text, const struct unit *units, int64_t bare, int64_t *ret)
{
	bool negative = *text == '-';
	int64_t whole = 0, fraction = 0, scale = 1, factor = bare, total;
	const char *p = text + negative;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, *p - '0', &whole))
			return -ERANGE;
	}
	if (*p == '.') {
		for (p++; *p >= '0' && *p <= '9'; p++) {
			if (scale < 1000000) {
				fraction = fraction * 10 + (*p - '0');
				scale *= 10;
			}
		}
	}
	while (*p == ' ')
		p++;
	if (*p) {
		while (units->name && strcasecmp(units->name, p) != 0)
			units++;
		if (!units->name)
			return -EINVAL;
		factor = units->factor;
	}
	/* fraction < 10^6 and factor <= 2^40: no overflow below 2^63. */
	if (__builtin_mul_overflow(whole, factor, &total) ||
	    __builtin_add_overflow(total, fraction * factor / scale, &total))
		return -ERANGE;
	*ret = negative ? -total : total;
	return 0;
}

static int parse_int(const struct mc_option *o, const char *where, const char *text,
		     struct mc_value *ret, struct mc_error *err)
{
	char *end;
	int64_t i;

	errno = 0;
	i = strtoll(text, &end, 10);
	if (!*text || *end || strchr(" \t\n\v\f\r", *text))
		return mc_fail(err, -EINVAL, "%s: '%.64s' is not a whole number%s", where, text,
			       o->flags & MC_OPT_AUTO ? " or 'auto'" : "");
	if (errno == ERANGE || i == MC_VALUE_AUTO) {
		if (o->min || o->max)
			return refuse_range(o, where, text, err);
		return mc_fail(err, -EINVAL, "%s: %.64s is out of the range of 64 bits", where, text);
	}
	ret->i = i;
	return check_range(o, where, text, i, err);
}

static int parse_quantity(const struct mc_option *o, const char *where, const char *text,
			  struct mc_value *ret, struct mc_error *err)
{
	bool size = o->type == MC_OPT_SIZE;
	int r = size ? parse_scaled(text, size_units, 1, &ret->i)
		     : parse_scaled(text, duration_units, MC_SEC, &ret->i);

	if (r == -ERANGE && (o->min || o->max))
		return refuse_range(o, where, text, err);
	if (r == -ERANGE)
		return mc_fail(err, -EINVAL, "%s: %.64s is out of the range of 64 bits", where, text);
	if (r < 0)
		return mc_fail(err, -EINVAL, "%s: '%.64s' is not a %s such as %s%s", where, text,
			       size ? "size" : "duration", size ? "65536 or 64KiB" : "30, 2.5s or 250ms",
			       o->flags & MC_OPT_AUTO ? " or 'auto'" : "");
	return check_range(o, where, text, ret->i, err);
}

static int parse_float(const struct mc_option *o, const char *where, const char *text,
		       struct mc_value *ret, struct mc_error *err)
{
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	char *end = NULL;

	ret->d = c ? strtod_l(text, &end, c) : 0;
	if (c)
		freelocale(c);
	if (!end || end == text || *end || !isfinite(ret->d))
		return mc_fail(err, -EINVAL, "%s: '%.64s' is not a number", where, text);
	if ((o->min || o->max) && (ret->d < (double)o->min || ret->d > (double)o->max))
		return refuse_range(o, where, text, err);
	return 0;
}

static int parse_enum(const struct mc_option *o, const char *where, const char *text,
		      struct mc_value *ret, struct mc_error *err)
{
	char words[256] = "";
	const char *near;

	for (int32_t i = 0; o->choices[i]; i++) {
		size_t len = strlen(words);

		if (strcasecmp(o->choices[i], text) == 0) {
			ret->s = o->choices[i];
			ret->i2 = i;
			return 0;
		}
		snprintf(words + len, sizeof words - len, "%s%s", i ? ", " : "", o->choices[i]);
	}
	near = mc_closest(text, o->choices);
	return mc_fail(err, -EINVAL, "%s: '%.64s' is not one of %s%s%s%s", where, text, words,
		       near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

int mc_value_parse(const struct mc_option *o, const char *where, const char *text,
		   struct mc_value *ret, struct mc_error *err)
{
	struct mc_value v = {0};
	int r = 0;

	if ((o->flags & MC_OPT_AUTO) && strcasecmp(text, "auto") == 0) {
		v.i = MC_VALUE_AUTO;
		*ret = v;
		return 0;
	}
	switch (o->type) {
	case MC_OPT_BOOL:
		r = parse_bool(where, text, &v, err);
		break;
	case MC_OPT_INT:
		r = parse_int(o, where, text, &v, err);
		break;
	case MC_OPT_SIZE:
	case MC_OPT_DURATION:
		r = parse_quantity(o, where, text, &v, err);
		break;
	case MC_OPT_FLOAT:
		r = parse_float(o, where, text, &v, err);
		break;
	case MC_OPT_STRING:
		v.s = text;
		break;
	case MC_OPT_ENUM:
		r = parse_enum(o, where, text, &v, err);
		break;
	default:
		r = mc_fail(err, -EINVAL, "%s: option type %u is unknown", where, o->type);
		break;
	}
	if (r == 0)
		*ret = v;
	return r;
}
