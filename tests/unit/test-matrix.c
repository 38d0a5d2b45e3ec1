/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix: the shapes that users write, every refusal with its place, resolving by claims. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "loader.h"
#include "matrix.h"

static struct mc_error err;

static struct mc_matrix *parse(const char *text)
{
	struct mc_matrix *m = NULL;

	memset(&err, 0, sizeof err);
	mc_matrix_parse(text, &m, &err);
	assert_string_equal(err.text, "");
	return m;
}

static void refuse(const char *text, const char *why)
{
	struct mc_matrix *m = NULL;

	memset(&err, 0, sizeof err);
	assert_int_equal(mc_matrix_parse(text, &m, &err), -EINVAL);
	assert_string_equal(err.text, why);
	assert_null(m);
}

static void test_shapes(void **state)
{
	struct mc_matrix *m = parse("{ \"cpu:0\": [[\"mlx5_0\"], []] }");

	assert_int_equal(m->nr_rows, 1);
	assert_string_equal(m->rows[0].location, "cpu:0");
	assert_int_equal(m->rows[0].nr_tiers, 2);
	assert_int_equal(m->rows[0].tiers[0].nr, 1);
	assert_int_equal(m->rows[0].tiers[1].nr, 0);
	assert_null(m->rows[0].tiers[0].entries[0].transport);
	assert_string_equal(m->rows[0].tiers[0].entries[0].device, "mlx5_0");
	assert_string_equal(m->text, "{\"cpu:0\":[[\"mlx5_0\"],[]]}");
	mc_matrix_free(m);

	m = parse(" {\"gpu:1\": [[{\"device\": \"rdma:mlx5_0\", \"require\": true, \"weight\": 2.5}, \"tcp:eth0\"],"
		  " [\"a\"], [\"b\"]], \"*\": [[\"lo\"]]}");
	assert_string_equal(m->rows[0].location, "cuda:1");
	assert_int_equal(m->rows[0].nr_tiers, 3);
	assert_string_equal(m->rows[0].tiers[0].entries[0].transport, "rdma");
	assert_true(m->rows[0].tiers[0].entries[0].require);
	assert_true(m->rows[0].tiers[0].entries[0].weight == 2.5);
	assert_true(m->rows[0].tiers[0].entries[1].weight == 1);
	assert_ptr_equal(mc_matrix_row_find(m, "cuda:1"), &m->rows[0]);
	assert_ptr_equal(mc_matrix_row_find(m, "gpu:1"), &m->rows[0]);
	assert_null(mc_matrix_row_find(NULL, "cpu:7"));
	assert_ptr_equal(mc_matrix_row_find(m, "cpu:7"), &m->rows[1]);
	mc_matrix_free(m);
	mc_matrix_free(NULL);

	m = parse("{\"cpu:0\": [[\"a\"]]}");
	assert_null(mc_matrix_row_find(m, "cpu:1"));
	mc_matrix_free(m);
}

static void test_refused(void **state)
{
	refuse("", "nic_priority_matrix: it is empty; leave it out to have one written");
	refuse("{}", "nic_priority_matrix: it has no row; leave it out to have one written");
	refuse("[]", "nic_priority_matrix: it must be an object such as {\"cpu:0\": [[\"eth0\"], []]}, not an array");
	refuse("{\"cpu:0\": [[\"a\"]],\n \"x\" 1}",
	       "nic_priority_matrix:2:6: object key and value must be separated by a colon (':')");
	refuse("{\"cpu\": [[\"a\"]]}", "nic_priority_matrix: $.cpu: location 'cpu' has no number: write 'cpu:0', or '*' for all");
	refuse("{\"cpu:x\": [[\"a\"]]}",
	       "nic_priority_matrix: $.cpu:x: location 'cpu:x': it must be KIND:NUMBER such as cpu:0, or '*'");
	refuse("{\"cpu:01\": [[\"a\"]]}",
	       "nic_priority_matrix: $.cpu:01: location 'cpu:01': it must be KIND:NUMBER such as cpu:0, or '*'");
	refuse("{\"cpu:99999999999\": [[\"a\"]]}",
	       "nic_priority_matrix: $.cpu:99999999999: location 'cpu:99999999999': it must be KIND:NUMBER such as cpu:0, or '*'");
	refuse("{\"cpu:0\": []}", "nic_priority_matrix: $.cpu:0: the row names no device");
	refuse("{\"cpu:0\": [[], []]}", "nic_priority_matrix: $.cpu:0: the row names no device");
	refuse("{\"cpu:0\": \"a\"}", "nic_priority_matrix: $.cpu:0 must be an array of tiers, not a string");
	refuse("{\"cpu:0\": [\"a\"]}", "nic_priority_matrix: $.cpu:0[0] must be an array of devices, not a string");
	refuse("{\"cuda:0\": [[\"a\"], [5]]}",
	       "nic_priority_matrix: $.cuda:0[1][0] must be a device name or an object, not a whole number");
	refuse("{\"cpu:0\": [[\"a\"], [\"b\", \"a\"]]}",
	       "nic_priority_matrix: $.cpu:0[1][1]: device 'a' is in this row already, at [0][0]");
	refuse("{\"cpu:0\": [[\"\"]]}",
	       "nic_priority_matrix: $.cpu:0[0][0]: '' is not a device name: 1 to 63 bytes without blanks and '/'");
	refuse("{\"cpu:0\": [[\"tcp:../x\"]]}",
	       "nic_priority_matrix: $.cpu:0[0][0]: '../x' is not a device name: 1 to 63 bytes without blanks and '/'");
	refuse("{\"cpu:0\": [[\"TCP:eth0\"]]}", "nic_priority_matrix: $.cpu:0[0][0]: 'TCP' is not the name of a transport");
	refuse("{\"cpu:0\": [[{\"device\": \"a\", \"weigth\": 1}]]}",
	       "nic_priority_matrix: $.cpu:0[0][0]: unknown key 'weigth' (did you mean 'weight'?)");
	refuse("{\"cpu:0\": [[{\"require\": true}]]}", "nic_priority_matrix: $.cpu:0[0][0]: there is no \"device\"");
	refuse("{\"cpu:0\": [[{\"device\": 1}]]}",
	       "nic_priority_matrix: $.cpu:0[0][0].device must be a string, not a whole number");
	refuse("{\"cpu:0\": [[{\"device\": \"a\", \"require\": 1}]]}",
	       "nic_priority_matrix: $.cpu:0[0][0].require must be true or false, not a whole number");
	refuse("{\"cpu:0\": [[{\"device\": \"a\", \"weight\": 0}]]}",
	       "nic_priority_matrix: $.cpu:0[0][0].weight: 0 is out of range: above 0, up to 1000");
	refuse("{\"gpu:0\": [[\"a\"]], \"cuda:0\": [[\"b\"]]}",
	       "nic_priority_matrix: $.cuda:0: location 'cuda:0' has a row already");
	refuse("{\"cpu:0\": [[\"a\"]], \"cpu:0\": [[\"b\"]]}", "nic_priority_matrix:1:29: the key 'cpu:0' is there twice");
}

/* Devices are compared with each other: what no host has is refused before that takes minutes. */
static void test_too_many(void **state)
{
	static char text[5000 * 16];
	size_t len = (size_t)sprintf(text, "{\"cpu:0\": [[\"a\"]], \"cpu:1\": [[\"b\"], [\"d0\"");

	for (int i = 1; i < 4095; i++)
		len += (size_t)sprintf(text + len, ", \"d%d\"", i);
	strcpy(text + len, "]]}");
	refuse(text, "nic_priority_matrix: $.cpu:1[1]: more than 4096 devices in all rows");
}

static void test_control_characters(void **state)
{
	refuse("{\"cpu:0\": [[\"\\u001b[31m\\u007f\"]]}",
	       "nic_priority_matrix: $.cpu:0[0][0]: ' [31m ' is not a device name: 1 to 63 bytes without blanks and '/'");
}

static void test_file(void **state)
{
	char path[] = "/tmp/mc-test-matrix-XXXXXX", want[256];
	int fd = mkstemp(path);
	struct mc_matrix *m;

	assert_int_equal(write(fd, "{\"cpu:0\":\n [[3]]}", 17), 17);
	assert_int_equal(mc_matrix_parse(path, &m, &err), -EINVAL);
	snprintf(want, sizeof want, "%s: $.cpu:0[0][0] must be a device name or an object, not a whole number",
		 path);
	assert_string_equal(err.text, want);
	assert_int_equal(pwrite(fd, "\"x\"", 3, 13), 3);
	close(fd);
	assert_int_equal(mc_matrix_parse(path, &m, &err), -EINVAL);
	snprintf(want, sizeof want, "%s:2:", path);
	assert_non_null(strstr(err.text, want));
	unlink(path);
	assert_int_equal(mc_matrix_parse(path, &m, &err), -ENOENT);
}

static void test_location(void **state)
{
	char kind[MC_PLUGIN_NAME_MAX + 1];
	int32_t ordinal;

	assert_int_equal(mc_location_parse("cuda:12", kind, &ordinal, &err), 0);
	assert_string_equal(kind, "cuda");
	assert_int_equal(ordinal, 12);
	assert_int_equal(mc_location_parse("*", kind, &ordinal, &err), 0);
	assert_string_equal(kind, "*");
	assert_int_equal(ordinal, -1);
	assert_int_equal(mc_location_parse("gpu", kind, &ordinal, &err), 0);
	assert_string_equal(kind, "cuda");
	assert_int_equal(ordinal, -1);
	assert_int_equal(mc_location_parse("", kind, &ordinal, &err), -EINVAL);
	assert_int_equal(mc_location_parse(":1", kind, &ordinal, &err), -EINVAL);
	assert_int_equal(mc_location_parse("cpu:", kind, &ordinal, &err), -EINVAL);
	assert_int_equal(mc_location_parse("cpu:1 ", kind, &ordinal, &err), -EINVAL);
	assert_int_equal(mc_location_parse("cpu:-1", kind, &ordinal, &err), -EINVAL);
	assert_int_equal(mc_location_parse("a-location-that-is-far-too-long:0", kind, &ordinal, &err), -EINVAL);
}

/* ---- resolving --------------------------------------------------------------------------------- */

static void manifest(const char *dir, const char *name, const char *memory, const char *claims)
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof path, "%s/plugins.d/%s.json", dir, name);
	f = fopen(path, "w");
	fprintf(f, "{\"name\":\"%s\",\"kind\":\"transport\",\"library\":\"transport-%s.so\",\"wire\":\"w\","
		   "\"memory\":[%s],\"claims\":[%s]}", name, name, memory, claims);
	fclose(f);
}

static void resolve(const struct mc_registry *reg, const char *text, int code, const char *want)
{
	struct mc_matrix *m = parse(text);

	assert_int_equal(mc_matrix_resolve(m, reg, &err), code);
	assert_string_equal(code ? err.text : m->text, want);
	mc_matrix_free(m);
}

static void test_resolve(void **state)
{
	char dir[] = "/tmp/mc-test-matrix-XXXXXX", cmd[64];
	struct mc_registry *reg;

	assert_non_null(mkdtemp(dir));
	snprintf(cmd, sizeof cmd, "%s/plugins.d", dir);
	mkdir(cmd, 0700);
	manifest(dir, "tcp", "\"*\"", "\"sysfs:class/net/*\", \"eth*\"");
	manifest(dir, "rdma", "\"cpu\"", "\"mlx5_*\"");
	manifest(dir, "gdr", "\"cuda\"", "\"mlx5_*\"");
	manifest(dir, "efa", "\"cpu\"", "\"eth9\"");
	setenv("MC_CONFIG_DIR", dir, 1);
	assert_int_equal(mc_registry_load(&reg, &err), 0);
	assert_int_equal(mc_registry_nr(reg), 4);

	/* The same device serves two kinds of memory through two transports. */
	resolve(reg, "{\"cpu:0\":[[\"mlx5_0\"],[\"eth0\"]],\"gpu:0\":[[\"mlx5_0\"],[\"eth0\"]]}", 0,
		"{\"cpu:0\":[[\"rdma:mlx5_0\"],[\"tcp:eth0\"]],\"cuda:0\":[[\"gdr:mlx5_0\"],[\"tcp:eth0\"]]}");
	resolve(reg, "{\"*\":[[\"lo\"]]}", 0, "{\"*\":[[\"tcp:lo\"]]}");
	resolve(reg, "{\"*\":[[\"mlx5_0\"]]}", -EINVAL,
		"nic_priority_matrix: $.*[0][0]: device 'mlx5_0': several transports claim it (gdr, rdma); write 'gdr:mlx5_0' or 'rdma:mlx5_0'");
	resolve(reg, "{\"cpu:0\":[[\"a\"],[]]}", -ENODEV,
		"nic_priority_matrix: $.cpu:0[0][0]: device 'a': no transport claims it: tcp looks for it in /sys/class/net; if it exists, write 'TRANSPORT:a' with one of: efa, gdr, rdma, tcp");
	resolve(reg, "{\"cxl:0\":[[\"eth0\"],[\"mlx5_1\"]]}", -ENODEV,
		"nic_priority_matrix: $.cxl:0[1][0]: device 'mlx5_1': transport 'rdma' claims it, but does not reach cxl memory");
	resolve(reg, "{\"cpux:0\":[[\"lo\"]]}", -EINVAL,
		"nic_priority_matrix: $.cpux:0: no memory kind 'cpux' (did you mean 'cpu'?); there are: cpu, cuda, cxl");
	resolve(reg, "{\"cuda:0\":[[\"lo\"]],\"cxl:3\":[[\"lo\"]]}", 0,
		"{\"cuda:0\":[[\"tcp:lo\"]],\"cxl:3\":[[\"tcp:lo\"]]}");
	resolve(reg, "{\"cpu:0\":[[\"rdmaa:x\"]]}", -ENOENT,
		"nic_priority_matrix: $.cpu:0[0][0]: no transport 'rdmaa' (did you mean 'rdma'?); there are: efa, gdr, rdma, tcp");
	resolve(reg, "{\"cpu:0\":[[\"mlx5_0\"],[\"rdma:mlx5_0\"]]}", -EINVAL,
		"nic_priority_matrix: $.cpu:0[1][0]: device 'mlx5_0' is in this row already, at [0][0]");
	resolve(reg, "{\"cpu:0\":[[\"eth9\"]]}", -EINVAL,
		"nic_priority_matrix: $.cpu:0[0][0]: device 'eth9': several transports claim it (efa, tcp); write 'efa:eth9' or 'tcp:eth9'");
	mc_registry_free(reg);
	snprintf(cmd, sizeof cmd, "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shapes),	 cmocka_unit_test(test_refused),
		cmocka_unit_test(test_file),	 cmocka_unit_test(test_location),
		cmocka_unit_test(test_resolve),	 cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_control_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
