/* SPDX-License-Identifier: Apache-2.0 */
/* mc_transport_devices over the transports that were built. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include <mooncake/mooncake.h>

static struct mc_config *config;
static char names[1024];
static bool all_active;

static int note(void *ctx, const struct mc_device_desc *device)
{
	size_t used = strlen(names);

	assert_non_null(device->address);
	assert_non_null(device->remedy);
	snprintf(names + used, sizeof names - used, "%s ", device->name);
	all_active = all_active && device->active;
	return *(int *)ctx;
}

static void test_null(void **state)
{
	struct mc_error err = {0};
	int answer = 0;

	names[0] = '\0';
	all_active = true;
	if (mc_transport_devices(config, "null", note, &answer, &err) == -ENOENT)
		skip(); /* built without it */
	assert_string_equal(names, "null0 ");
	assert_true(all_active);
	answer = 7;
	assert_int_equal(mc_transport_devices(config, "null", note, &answer, &err), 7);
}

static void test_tcp(void **state)
{
	struct mc_error err = {0};
	int answer = 0;

	names[0] = '\0';
	if (mc_transport_devices(config, "tcp", note, &answer, &err) == -ENOENT)
		skip();
	assert_non_null(strstr(names, "lo "));
}

static void test_unknown(void **state)
{
	struct mc_error err = {0};
	int answer = 0;

	assert_int_equal(mc_transport_devices(config, "nul", note, &answer, &err), -ENOENT);
	assert_non_null(strstr(err.text, "nul"));
	assert_int_equal(mc_transport_devices(config, NULL, note, &answer, &err), -EINVAL);
}

static int setup(void **state)
{
	return mc_config_new(&config, NULL);
}

static int teardown(void **state)
{
	mc_config_free(config);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_null),
		cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_unknown),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
