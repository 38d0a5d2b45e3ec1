/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses and segment names as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "addr.h"

static void test_parse(void **state)
{
	static const struct {
		const char *text, *host;
		int port; /* -1: refused */
	} cases[] = {
		{"node1", "node1", 0},          {"node1:12001", "node1", 12001},
		{"192.0.2.1:1", "192.0.2.1", 1}, {"[::1]:65535", "::1", 65535},
		{"[::1]", "::1", 0},            {"fe80::1", "fe80::1", 0},
		{"", "", -1},                   {":1", "", -1},
		{"a:", "", -1},                 {"a:0", "", -1},
		{"a:65536", "", -1},            {"a:1x", "", -1},
		{"[::1", "", -1},               {"[::1]x", "", -1},
		{"a b:1", "", -1},              {"a/b:1", "", -1},
	};
	struct mc_addr a;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int r = mc_addr_parse(cases[i].text, &a);

		if ((r < 0) != (cases[i].port < 0))
			fail_msg("'%s' gave %d", cases[i].text, r);
		if (r < 0)
			continue;
		assert_string_equal(a.host, cases[i].host);
		assert_int_equal(a.port, cases[i].port);
	}
}

static void test_format(void **state)
{
	char text[MC_ADDR_TEXT_MAX];
	struct mc_addr a;
	struct sockaddr_storage ss;

	mc_addr_format("::1", 5, text);
	assert_string_equal(text, "[::1]:5");
	assert_int_equal(mc_addr_parse("[::ffff:192.0.2.7]:9", &a), 0);
	assert_true(mc_addr_numeric(&a, &ss) > 0);
	mc_addr_of_sock((struct sockaddr *)&ss, text);
	assert_string_equal(text, "192.0.2.7:9");
	assert_int_equal(mc_addr_parse("node1:9", &a), 0);
	assert_int_equal(mc_addr_numeric(&a, &ss), -EINVAL);
}

static void test_list(void **state)
{
	struct mc_error err;
	char **list;

	assert_int_equal(mc_addr_list("node1, [::1]:7,192.0.2.1", 12001, &list, &err), 0);
	assert_int_equal(mc_addr_list_nr(list), 3);
	assert_string_equal(list[0], "node1:12001");
	assert_string_equal(list[1], "[::1]:7");
	assert_string_equal(list[2], "192.0.2.1:12001");
	mc_addr_list_free(list);
	assert_int_equal(mc_addr_list(" , ", 1, &list, &err), -EINVAL);
	assert_int_equal(mc_addr_list("a:b", 1, &list, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'a:b'"));
}

static void test_names(void **state)
{
	static const char *const bad[] = {"", "a/b", "a@b", "a\nb", "\x7f", "\xff", "\xc0\x80",
					  "\xed\xa0\x80", "\xc2\x85"};
	char lengthy[300];

	assert_int_equal(mc_name_check("node1:12001", NULL), 0);
	assert_int_equal(mc_name_check("\xe8\x8a\x82\xe7\x82\xb9", NULL), 0);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(mc_name_check(bad[i], NULL), -EINVAL);
	memset(lengthy, 'x', sizeof lengthy);
	lengthy[256] = '\0';
	assert_int_equal(mc_name_check(lengthy, NULL), -EINVAL);
	lengthy[255] = '\0';
	assert_int_equal(mc_name_check(lengthy, NULL), 0);
	assert_int_equal(mc_name_port("node1:12001"), 12001);
	assert_int_equal(mc_name_port("[::1]:12001"), 12001);
	assert_int_equal(mc_name_port("::1"), 0);
	assert_int_equal(mc_name_port("a:b:1"), 0);
	assert_int_equal(mc_name_port("node1"), 0);
	assert_int_equal(mc_name_port("node1:x"), 0);
}

static void test_name_ports(void **state)
{
	static const char *const good[] = {"q", "q:0", "q:1", "q:65535", "[::1]:7", "::1", "a:b:c", "[::1]"},
				 *const bad[] = {"q:", "q:00", "q:70000", "q:x", "[::1]:"};
	struct mc_error err;

	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_int_equal(mc_name_port_check(good[i], &err), 0);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(mc_name_port_check(bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, "1 to 65535"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_name_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
