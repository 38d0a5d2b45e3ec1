/* SPDX-License-Identifier: Apache-2.0 */
/* The text of metrics: escaping, what does not fit, what a foreign name becomes; and that the check
 * which the scenarios use finds what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "prom.h"
#include "tests/prom-lint.h"

static void escapes(void **state)
{
	char labels[128] = "";

	mc_prom_label(labels, sizeof labels, "a", "plain");
	mc_prom_label(labels, sizeof labels, "b", "q\" b\\ n\n e\xc3\xa9");
	assert_string_equal(labels, "a=\"plain\",b=\"q\\\" b\\\\ n\\n e\xc3\xa9\"");
	labels[0] = '\0';
	mc_prom_label(labels, sizeof labels, "a", "x\xff\xc3y");
	assert_string_equal(labels, "a=\"x__y\"");
}

/* Whatever the size, what is there is whole. */
static void too_long(void **state)
{
	for (size_t size = 1; size < 24; size++) {
		char labels[24] = "";
		struct mc_prom p = {0};
		struct prom_lint l = {0};
		size_t len;
		char *text;

		mc_prom_label(labels, size, "ab", "\"\xe2\x82\xac\\12\n34567890");
		assert_true(strlen(labels) < size);
		mc_prom_family(&p, "x", MC_PROM_GAUGE, "help");
		mc_prom_u64(&p, "x", labels, 1);
		text = mc_prom_take(&p, &len);
		assert_non_null(text);
		if (prom_lint(&l, text) < 0)
			fail_msg("size %zu: %s in: %s", size, l.why, text);
		prom_lint_fini(&l);
		free(text);
	}
}

static void whole_text(void **state)
{
	struct mc_prom p = {0};
	size_t len = 0;
	char *text;

	mc_prom_family(&p, "mooncake_a_total", MC_PROM_COUNTER, "back\\slash \"quote\"\nline");
	mc_prom_u64(&p, "mooncake_a_total", "", UINT64_MAX);
	mc_prom_u64(&p, "mooncake_a_total", "k=\"v\"", 0);
	mc_prom_family(&p, "mooncake_b_seconds", MC_PROM_GAUGE, "b");
	mc_prom_double(&p, "mooncake_b_seconds", "", 1.5);
	text = mc_prom_take(&p, &len);
	assert_string_equal(text, "# HELP mooncake_a_total back\\\\slash \"quote\"\\nline\n"
				  "# TYPE mooncake_a_total counter\n"
				  "mooncake_a_total 18446744073709551615\n"
				  "mooncake_a_total{k=\"v\"} 0\n"
				  "# HELP mooncake_b_seconds b\n"
				  "# TYPE mooncake_b_seconds gauge\n"
				  "mooncake_b_seconds 1.500000\n");
	assert_int_equal(len, strlen(text));
	free(text);
}

static void grows(void **state)
{
	struct mc_prom p = {0};
	size_t len = 0;
	char *text;

	for (int i = 0; i < 100000; i++)
		mc_prom_u64(&p, "x", "k=\"v\"", 7);
	text = mc_prom_take(&p, &len);
	assert_int_equal(len, 100000 * strlen("x{k=\"v\"} 7\n"));
	free(text);
}

static void names(void **state)
{
	char name[8];

	mc_prom_name(name, sizeof name, "a-b.c/d0Zlonger");
	assert_string_equal(name, "a_b_c_d");
}

static void lint_finds(void **state)
{
	static const char *const bad[] = {
		"",
		"x 1\n",
		"# HELP x h\nx 1\n",
		"# HELP x h\n# TYPE x counter\nx 1\n",
		"# HELP x_total h\n# TYPE x_total gauge\nx_total 1\n",
		"# HELP x h\n# TYPE x gauge\nx 1\nx 2\n",
		"# HELP x h\n# TYPE x gauge\nx{a=\"1\"} 1\nx{a=\"1\"} 2\n",
		"# HELP x h\n# TYPE x gauge\nx 1\n# HELP x h\n# TYPE x gauge\n",
		"# HELP x h\n# TYPE x gauge\nx{a=\"1} 1\n",
		"# HELP x h\n# TYPE x gauge\nx{a=\"\\q\"} 1\n",
		"# HELP x h\n# TYPE x gauge\nx{a=\"1\"b=\"2\"} 1\n",
		"# HELP x h\n# TYPE x gauge\nx{a-b=\"1\"} 1\n",
		"# HELP x h\n# TYPE x gauge\nx one\n",
		"# HELP x h\n# TYPE x gauge\nx 1",
		"# HELP x h\n# TYPE y gauge\ny 1\n",
		"# HELP x \n# TYPE x gauge\nx 1\n",
	};

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct prom_lint l = {0};

		if (prom_lint(&l, bad[i]) == 0)
			fail_msg("nothing was found in: %s", bad[i]);
		prom_lint_fini(&l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(escapes), cmocka_unit_test(too_long), cmocka_unit_test(whole_text),
		cmocka_unit_test(grows),   cmocka_unit_test(names),    cmocka_unit_test(lint_finds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
