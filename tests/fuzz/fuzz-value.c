/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the values of options, a plugin's as well as the core's.  The input: u8
 * type, u8 flags, i64 min, i64 max, the text.  What is taken lies in the range.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "value.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool within(const struct mc_option *o, const struct mc_value *v)
{
	bool bounded = o->min || o->max;

	if ((o->flags & MC_OPT_AUTO) && v->i == MC_VALUE_AUTO)
		return true;
	switch (o->type) {
	case MC_OPT_INT:
	case MC_OPT_SIZE:
	case MC_OPT_DURATION:
		return !bounded || (v->i >= o->min && v->i <= o->max);
	case MC_OPT_FLOAT:
		return isfinite(v->d) && (!bounded || (v->d >= (double)o->min && v->d <= (double)o->max));
	case MC_OPT_ENUM:
		return strcmp(o->choices[v->i2], v->s) == 0;
	default:
		return o->type == MC_OPT_BOOL || o->type == MC_OPT_STRING;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const words[] = {"off", "sampled", "full", NULL};
	struct mc_option o = {.name = "option", .choices = words};
	struct mc_error err = {0};
	struct mc_value v = {0};
	char text[256] = "", range[64];
	size_t len;

	if (size < 18)
		return 0;
	o.type = data[0] % (MC_OPT_TYPE_COUNT + 1);
	o.flags = data[1] & MC_OPT_AUTO;
	o.min = (int64_t)mc_get64(data + 2);
	o.max = (int64_t)mc_get64(data + 10);
	len = size - 18 < sizeof text - 1 ? size - 18 : sizeof text - 1;
	memcpy(text, data + 18, len);
	mc_value_range(&o, range, sizeof range);
	if (strlen(range) >= sizeof range)
		abort();
	if (mc_value_parse(&o, "option", text, &v, &err) == 0) {
		if (!within(&o, &v))
			abort();
	} else if (!err.text[0]) {
		abort();
	}
	return 0;
}
