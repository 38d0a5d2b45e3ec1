/* SPDX-License-Identifier: Apache-2.0 */
/* metadata/etcd: base64, JSON of requests, ranges of prefixes, endpoints of URLs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "etcd.h"

static void check_base64(const char *plain, size_t len, const char *coded)
{
	struct etcd_text t = {0};
	uint8_t back[64];
	char quoted[80];

	etcd_text_bytes(&t, plain, len);
	snprintf(quoted, sizeof quoted, "\"%s\"", coded);
	assert_string_equal(t.s, quoted);
	assert_int_equal(etcd_base64_decode((const void *)coded, strlen(coded), back), len);
	assert_memory_equal(back, plain, len);
	etcd_text_fini(&t);
}

static void test_base64(void **state)
{
	/* RFC 4648, section 10. */
	check_base64("", 0, "");
	check_base64("f", 1, "Zg==");
	check_base64("fo", 2, "Zm8=");
	check_base64("foo", 3, "Zm9v");
	check_base64("foob", 4, "Zm9vYg==");
	check_base64("fooba", 5, "Zm9vYmE=");
	check_base64("foobar", 6, "Zm9vYmFy");
	check_base64("\xff\xfe\xfb\x00\x10", 5, "//77ABA=");
}

static void test_base64_all(void **state)
{
	uint8_t bytes[259], back[262];

	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(i * 7 + (i >> 3));
	for (size_t len = 0; len <= sizeof bytes; len++) {
		struct etcd_text t = {0};

		etcd_text_bytes(&t, bytes, len);
		assert_int_equal(etcd_base64_decode((uint8_t *)t.s + 1, t.len - 2, back), len);
		assert_memory_equal(back, bytes, len);
		etcd_text_fini(&t);
	}
}

static void test_base64_bad(void **state)
{
	static const char *const bad[] = {"Z",	  "Zg",	   "Zg=",  "Zg===", "=",    "====", "Z===",
					  "Zm9v\n", "Zm9\n", "Zm-_", "Zg=a",  "Zh==", "Zm9=", "Zg==Zg=="};
	uint8_t out[16];

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(etcd_base64_decode((const void *)bad[i], strlen(bad[i]), out), -EBADMSG);
}

static void test_string(void **state)
{
	struct etcd_text t = {0};

	etcd_text_string(&t, "a\"b\\c\n\x01\xc3\xa4");
	etcd_text_u64(&t, UINT64_MAX);
	assert_string_equal(t.s, "\"a\\\"b\\\\c\\u000a\\u0001\xc3\xa4\"\"18446744073709551615\"");
	etcd_text_fini(&t);
}

static void check_range(const char *prefix, const char *after, const char *text)
{
	struct etcd_text t = {0};

	etcd_text_range(&t, prefix, after);
	assert_string_equal(t.s, text);
	etcd_text_fini(&t);
}

static void test_range(void **state)
{
	check_range("foo", NULL, "\"key\":\"Zm9v\",\"range_end\":\"Zm9w\"");
	check_range("fo", "foo", "\"key\":\"Zm9vAA==\",\"range_end\":\"ZnA=\"");
	/* A last byte 0xff cannot be counted up; all keys. */
	check_range("f\xff", NULL, "\"key\":\"Zv8=\",\"range_end\":\"Zw==\"");
	check_range("\xff", NULL, "\"key\":\"/w==\",\"range_end\":\"AA==\"");
	check_range("", NULL, "\"key\":\"AA==\",\"range_end\":\"AA==\"");
}

/* The endpoints of a URL with blanks between; NULL: refused with that word. */
static void check_url(const char *url, const char *endpoints, const char *word)
{
	struct etcd_endpoint *list;
	struct mc_error err = {0};
	char text[512] = "";
	size_t nr;
	int r = etcd_url_parse(url, &list, &nr, &err);

	if (!endpoints) {
		assert_int_equal(r, -EINVAL);
		assert_non_null(strstr(err.text, url));
		if (!strstr(err.text, word))
			fail_msg("'%s': no '%s' in: %s", url, word, err.text);
		return;
	}
	assert_int_equal(r, 0);
	for (size_t i = 0; i < nr; i++) {
		strcat(text, i ? " " : "");
		strcat(text, list[i].url);
	}
	assert_string_equal(text, endpoints);
	etcd_endpoints_free(list, nr);
}

static void test_url(void **state)
{
	char many[1024] = "etcd://";

	check_url("etcd://h1:2379", "http://h1:2379", NULL);
	check_url("etcd://h1", "http://h1:2379", NULL);
	check_url("etcd://h1:1,h2:2;h3:3,", "http://h1:1 http://h2:2 http://h3:3", NULL);
	check_url("etcds://h1:1,http://h2:2", "https://h1:1 http://h2:2", NULL);
	check_url("etcd://https://h1:1/,https://h2", "https://h1:1 https://h2:2379", NULL);
	check_url("etcd://[::1]:4001,[fe80::1]", "http://[::1]:4001 http://[fe80::1]:2379", NULL);
	check_url("etcd://", NULL, "no endpoint");
	check_url("etcd://,;", NULL, "no endpoint");
	check_url("http://h1:2379", NULL, "not an etcd URL");
	check_url("etcd://:2379", NULL, "no host");
	check_url("etcd://h1:0", NULL, "not host:port");
	check_url("etcd://h1:", NULL, "not host:port");
	check_url("etcd://h1:65536", NULL, "not host:port");
	check_url("etcd://h1:99999999999999999999", NULL, "not host:port");
	check_url("etcd://h1:2379x", NULL, "not host:port");
	check_url("etcd://::1:2379", NULL, "[::1]:2379");
	check_url("etcd://[::1", NULL, "not host:port");
	check_url("etcd://[::1]2379", NULL, "not host:port");
	check_url("etcd://u:p@h1:2379", NULL, "metadata.etcd.password_file");
	check_url("etcd://h1/x", NULL, "such characters");
	check_url("etcd://h 1", NULL, "such characters");
	check_url("etcd://ftp://h1", NULL, "not host:port");
	for (int i = 0; i < ETCD_MAX_ENDPOINTS + 1; i++)
		strcat(many, "h:1,");
	check_url(many, NULL, "more than 64");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_base64), cmocka_unit_test(test_base64_all),
		cmocka_unit_test(test_base64_bad), cmocka_unit_test(test_string),
		cmocka_unit_test(test_range), cmocka_unit_test(test_url),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
