/* SPDX-License-Identifier: Apache-2.0 */
/* The loader: every refusal by errno and sentence, tables shorter and longer than ours, sharing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loader.h"

static char dir[4096];
static struct mc_error err;

static const char *path_of(const char *name)
{
	static char path[8192];

	snprintf(path, sizeof path, "%s/transport-%s.so", dir, name);
	return path;
}

static void expect_refused(const char *name, int code, const char *fmt)
{
	struct mc_plugin *p = NULL;
	char want[16384], middle[8192];

	memset(&err, 0, sizeof err);
	snprintf(middle, sizeof middle, fmt, path_of(name));
	snprintf(want, sizeof want, "transport '%s' refused: %s", name, middle);
	assert_int_equal(mc_plugin_load_file(path_of(name), MC_KIND_TRANSPORT, name, &p, &err), code);
	assert_string_equal(err.text, want);
	assert_int_equal(err.code, code);
	assert_null(p);
}

static void test_bad_descriptors(void **state)
{
	expect_refused("no-desc", -ELIBBAD,
		       "%s does not export 'mc_plugin_desc': it is not a plugin of Mooncake");
	expect_refused("magic", -ELIBBAD, "%s: bad magic 0x0000000000001234 in its descriptor");
	expect_refused("major-old", -EPROTONOSUPPORT,
		       "%s speaks plugin ABI 0.9, this core speaks 1.x; rebuild the plugin");
	expect_refused("major-new", -EPROTONOSUPPORT,
		       "%s speaks plugin ABI 3.1, this core speaks 1.x; rebuild the plugin or update Mooncake");
	expect_refused("kind", -ELIBBAD, "%s is a metadata plugin, not a transport plugin");
	expect_refused("kind-unknown", -ELIBBAD, "%s: kind 99 is unknown");
	expect_refused("name", -ELIBBAD, "%s calls itself 'somebody-else'");
	expect_refused("no-ops", -ELIBBAD, "%s: it has no table of operations");
	expect_refused("no-wire", -ELIBBAD, "%s: a transport must name its wire");
	expect_refused("desc-tiny", -ELIBBAD, "%s: 'mc_plugin_desc' is too small for a descriptor");
}

static void test_bad_sizes(void **state)
{
	struct mc_plugin *p;

	assert_int_equal(mc_plugin_load_file(path_of("desc-short"), MC_KIND_TRANSPORT, NULL, &p, &err),
			 -ELIBBAD);
	assert_non_null(strstr(err.text, ": its descriptor has "));
	assert_int_equal(mc_plugin_load_file(path_of("desc-lies"), MC_KIND_TRANSPORT, NULL, &p, &err),
			 -ELIBBAD);
	assert_non_null(strstr(err.text, ": the descriptor says 4096 bytes, but the symbol has "));
	assert_int_equal(mc_plugin_load_file(path_of("option-size"), MC_KIND_TRANSPORT, NULL, &p, &err),
			 -ELIBBAD);
	assert_non_null(strstr(err.text, ": its options have 8 bytes each, ABI 1.0 has "));
}

static void test_bad_tables(void **state)
{
	expect_refused("no-submit", -ELIBBAD,
		       "%s: its table has no 'submit', which a transport plugin must have");
	expect_refused("table-tiny", -ELIBBAD,
		       "%s: its table has no 'size and the sizes of private areas', which a transport plugin must have");
	expect_refused("option-type", -ELIBBAD, "%s: option 'depth' has unknown type 77");
	expect_refused("option-default", -ELIBBAD,
		       "%s: the default of option depth: 100 is out of range 1..64");
	expect_refused("option-none", -ELIBBAD, "%s: option 'depth' has no default");
	expect_refused("option-choices", -ELIBBAD, "%s: option 'depth' is an enum without choices");
}

static void test_borrowed(void **state)
{
	struct mc_plugin *p;

	assert_int_equal(mc_plugin_load_file(path_of("borrowed"), MC_KIND_TRANSPORT, "borrowed", &p, &err),
			 -ELIBBAD);
	assert_non_null(strstr(err.text, "transport-borrowed.so does not export 'mc_plugin_desc' itself: "
					 "the one found lies in "));
	assert_non_null(strstr(err.text, "transport-good.so, which it links"));
}

static void test_not_loadable(void **state)
{
	struct mc_plugin *p;

	assert_int_equal(mc_plugin_load_file(path_of("gone"), MC_KIND_TRANSPORT, "gone", &p, &err),
			 -ELIBACC);
	assert_non_null(strstr(err.text, "transport 'gone' refused: "));
	assert_non_null(strstr(err.text, "libibverbs.so.99: cannot open shared object file"));
	assert_non_null(strstr(err.text, "; install libibverbs1"));
	assert_int_equal(mc_plugin_load_file(path_of("undefined"), MC_KIND_TRANSPORT, "undefined", &p, &err),
			 -ELIBACC);
	assert_non_null(strstr(err.text, "undefined symbol: mc_gone"));
	assert_non_null(strstr(err.text, "; rebuild the plugin"));
	assert_int_equal(mc_plugin_load_file("/dev/null", MC_KIND_TRANSPORT, "null", &p, &err), -ELIBACC);
	assert_int_equal(mc_plugin_load_file("/nowhere.so", MC_KIND_TRANSPORT, "x", &p, &err), -ENOENT);
	assert_string_equal(err.text, "transport 'x' refused: /nowhere.so: No such file or directory");
}

static void test_not_found(void **state)
{
	struct mc_plugin *p;
	char want[8192];

	setenv("MC_PLUGIN_PATH", "/nowhere/a::/nowhere/b", 1);
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "goood", &p, &err), -ENOENT);
	assert_non_null(strstr(err.text, "transport 'goood' refused: there is no file for it"));
	assert_non_null(strstr(err.text, "tried: /nowhere/a/transport-goood.so, /nowhere/b/transport-goood.so, "));
	setenv("MC_PLUGIN_PATH", dir, 1);
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "goood", &p, &err), -ENOENT);
	assert_non_null(strstr(err.text, "(did you mean 'good'?)"));
	snprintf(want, sizeof want, "%.200s", dir);
	assert_non_null(strstr(err.text, want));
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "../good", &p, &err), -EINVAL);
	assert_string_equal(err.text,
			    "transport '../good' refused: the name is not [a-z0-9-]+ of at most 31 bytes");
}

static void test_overlay(void **state)
{
	struct mc_plugin *p;

	setenv("MC_PLUGIN_PATH", dir, 1);
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "good", &p, &err), 0);
	assert_string_equal(p->desc->name, "good");
	assert_true(p->has_fence);
	assert_false(p->has_cancel);
	assert_int_equal(p->ops.transport.fence(NULL, NULL, 0), 42);
	assert_int_equal(p->ops.transport.cancel(NULL, NULL), -ENOTSUP);
	assert_int_equal(p->ops.transport.size, sizeof(struct mc_transport_ops));
	p->ops.transport.flush(NULL);
	mc_plugin_unref(p);

	/* What lies behind a short table's end is not the table's. */
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "table-short", &p, &err), 0);
	assert_false(p->has_fence);
	assert_int_equal(p->ops.transport.fence(NULL, NULL, 0), -ENOTSUP);
	assert_int_equal(p->ops.transport.submit(NULL, NULL), MC_DONE);
	mc_plugin_unref(p);

	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "table-long", &p, &err), 0);
	assert_int_equal(p->ops.transport.fence(NULL, NULL, 0), 42);
	assert_int_equal(p->ops.transport.size, sizeof(struct mc_transport_ops));
	mc_plugin_unref(p);

	assert_int_equal(mc_plugin_load(NULL, MC_KIND_METADATA, "min", &p, &err), 0);
	assert_int_equal(p->ops.metadata.lease_keepalive(NULL, 0, 0, &err), -ENOTSUP);
	assert_string_equal(err.text, "the metadata plugin has no leases");
	mc_plugin_unref(p);
}

static void test_shared(void **state)
{
	struct mc_plugin *a, *b;

	setenv("MC_PLUGIN_PATH", dir, 1);
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "good", &a, &err), 0);
	assert_int_equal(mc_plugin_load_file(path_of("good"), 0, NULL, &b, &err), 0);
	assert_ptr_equal(a, b);
	/* Refused as on the first load, though it is loaded. */
	assert_int_equal(mc_plugin_load_file(path_of("good"), MC_KIND_FILTER, NULL, &b, &err), -ELIBBAD);
	assert_int_equal(mc_plugin_load_file(path_of("good"), 0, "best", &b, &err), -ELIBBAD);
	mc_plugin_unref(a);
	mc_plugin_unref(b);
	mc_plugin_unref(NULL);
}

static void test_open_fails(void **state)
{
	struct mc_open_args args = {.size = sizeof args, .device = "good0"};
	struct mc_plugin *p;
	char want[8192];
	int r;

	setenv("MC_PLUGIN_PATH", dir, 1);
	assert_int_equal(mc_plugin_load(NULL, MC_KIND_TRANSPORT, "open-fails", &p, &err), 0);
	r = p->ops.transport.open(NULL, NULL, &args, NULL, &err);
	assert_int_equal(mc_plugin_open_failed(p, args.device, r, &err), -ENODEV);
	snprintf(want, sizeof want,
		 "transport 'open-fails' refused: %s cannot open 'good0': the cable is cut",
		 p->path);
	assert_string_equal(err.text, want);
	/* However it names itself, it is named once. */
	for (size_t i = 0; i < 6; i++) {
		static const char *const ways[] = {"rdma:ra0: ", "ra0: ", "device ra0: ", "device 'ra0': ",
						   "device rdma:ra0: ", "device 'rdma:ra0': "};

		snprintf(err.text, sizeof err.text, "%spinning 12 KiB", ways[i]);
		mc_plugin_open_failed(p, "rdma:ra0", -ENOMEM, &err);
		snprintf(want, sizeof want, "transport 'open-fails' refused: %s cannot open 'rdma:ra0': pinning 12 KiB",
			 p->path);
		assert_string_equal(err.text, want);
	}
	/* What only looks like it stays. */
	for (size_t i = 0; i < 4; i++) {
		static const char *const others[] = {"ra01: no", "device 'ra0: no", "device ra0 is down", "ra0: "};

		snprintf(err.text, sizeof err.text, "%s", others[i]);
		mc_plugin_open_failed(p, "rdma:ra0", -ENOMEM, &err);
		snprintf(want, sizeof want, "cannot open 'rdma:ra0': %s", others[i]);
		assert_non_null(strstr(err.text, want));
	}
	err.text[0] = '\0';
	mc_plugin_open_failed(p, NULL, -EBUSY, &err);
	assert_non_null(strstr(err.text, "cannot open an instance: Device or resource busy"));
	mc_plugin_unref(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_descriptors), cmocka_unit_test(test_bad_sizes),
		cmocka_unit_test(test_bad_tables),	cmocka_unit_test(test_borrowed),
		cmocka_unit_test(test_not_loadable),	cmocka_unit_test(test_not_found),
		cmocka_unit_test(test_overlay),		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_open_fails),
	};
	const char *from = getenv("TEST_PLUGIN_DIR");

	if (!from || !realpath(from, dir)) {
		fprintf(stderr, "TEST_PLUGIN_DIR must name the folder of the test plugins\n");
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
