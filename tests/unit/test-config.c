/* SPDX-License-Identifier: Apache-2.0 */
/* The config: types and ranges, precedence and origins, files, the environment, plugins' options. */
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

#include "config.h"
#include "loader.h"
#include "value.h"

static struct mc_error err;
static char dir[] = "/tmp/mc-test-config-XXXXXX";
static char file[64];
static char last_line[4096];
static int nr_lines;

static void write_to(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static struct mc_config *config(void)
{
	struct mc_config *c = NULL;

	memset(&err, 0, sizeof err);
	mc_config_new(&c, &err);
	assert_string_equal(err.text, "");
	return c;
}

static void set(struct mc_config *c, const char *key, const char *value)
{
	memset(&err, 0, sizeof err);
	mc_config_set(c, key, value, &err);
	assert_string_equal(err.text, "");
}

static void refuse(const char *key, const char *value, int code, const char *why)
{
	struct mc_config *c = config();

	assert_int_equal(mc_config_set(c, key, value, &err), code);
	assert_string_equal(err.text, why);
	mc_config_free(c);
}

static void note_bad(void *ctx, const struct mc_error *why)
{
	char *all = ctx;

	snprintf(all + strlen(all), 1024 - strlen(all), "%s\n", why->text + strlen(file));
}

/* Who explains a file hears of all that is wrong, and sees what is right. */
static void test_file_good(void **state)
{
	struct mc_config *c = config();
	char all[1024] = "";

	write_to("c.json", "{\"prot\":1,\"port\":99999,\"transports\":3,\"filters\":{\"nosuch\":{}},\"retry_count\":3}");
	assert_int_equal(mc_config_load_good(c, file, note_bad, all), 0);
	assert_non_null(strstr(all, ":1:9: unknown key 'prot' (did you mean 'port'?)\n"));
	assert_non_null(strstr(all, ": port: 99999 is out of range 0..65535\n"));
	assert_non_null(strstr(all, ": transports: it must be an object of plugins, not a whole number\n"));
	assert_non_null(strstr(all, "no filter 'nosuch'"));
	assert_int_equal(mc_config_settings(c)->retry_count, 3);
	assert_int_equal(mc_config_settings(c)->port, 12001);
	write_to("c.json", "{");
	*all = '\0';
	assert_int_equal(mc_config_load_good(c, file, note_bad, all), 0);
	assert_non_null(strstr(all, "it ends too early"));
	assert_int_equal(mc_config_settings(c)->retry_count, 3);
	mc_config_free(c);
}

static void test_defaults(void **state)
{
	const struct mc_settings *s;
	struct mc_config *c;
	enum mc_origin origin;
	char want[64];

	unsetenv("XDG_RUNTIME_DIR");
	c = config();
	s = mc_config_settings(c);
	assert_int_equal(s->port, 12001);
	assert_int_equal(s->deadline, 30 * (int64_t)MC_SEC);
	assert_true(s->slice_size == MC_VALUE_AUTO);
	assert_int_equal(s->spin, 50000);
	assert_int_equal(s->staging_pool, 64 << 20);
	assert_false(s->spill);
	assert_string_equal(s->log_level, "info");
	assert_string_equal(s->cluster, "default");
	assert_string_equal(mc_config_get(c, "rail_window", &origin), "2ms");
	assert_int_equal(origin, MC_ORIGIN_DEFAULT);
	snprintf(want, sizeof want, "file:///tmp/mooncake-%u", getuid());
	assert_string_equal(s->metadata_server, want);
	assert_null(mc_config_get(c, "nothing", NULL));
	mc_config_free(c);
	setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	c = config();
	assert_string_equal(mc_config_settings(c)->metadata_server, "file:///run/user/7/mooncake");
	mc_config_free(c);
	mc_config_free(NULL);
}

static void test_values(void **state)
{
	struct mc_config *c = config();
	const struct mc_settings *s = mc_config_settings(c);

	set(c, "deadline", "2.5");
	assert_int_equal(s->deadline, 2500 * (int64_t)MC_MSEC);
	set(c, "deadline", "1500 ms");
	assert_int_equal(s->deadline, 1500 * (int64_t)MC_MSEC);
	set(c, "deadline", "2min");
	assert_int_equal(s->deadline, 120 * (int64_t)MC_SEC);
	set(c, "slice-size", "64KiB");
	assert_int_equal(s->slice_size, 65536);
	set(c, "slice_size", "1.5MB");
	assert_int_equal(s->slice_size, 1500000);
	set(c, "slice_size", "64K");
	assert_int_equal(s->slice_size, 65536);
	set(c, "slice_size", "1.5m");
	assert_int_equal(s->slice_size, 3 << 19);
	set(c, "slice_size", "1G");
	assert_int_equal(s->slice_size, 1 << 30);
	set(c, "staging_pool", "1T");
	assert_int_equal(s->staging_pool, INT64_C(1) << 40);
	set(c, "slice_size", "AUTO");
	assert_true(s->slice_size == MC_VALUE_AUTO);
	for (int i = 0; i < 4; i++) {
		set(c, "spill", ((const char *[]){"true", "1", "Yes", "on"})[i]);
		assert_true(s->spill);
		set(c, "spill", ((const char *[]){"false", "0", "no", "OFF"})[i]);
		assert_false(s->spill);
	}
	set(c, "log_level", "WARNING");
	assert_string_equal(s->log_level, "warn");
	set(c, "metadata_server", "h1:2379,[::1]:2379");
	assert_string_equal(s->metadata_server, "etcd://h1:2379,[::1]:2379");
	set(c, "cluster", "blue/");
	assert_string_equal(s->cluster, "blue");
	mc_config_free(c);
}

static void test_refused(void **state)
{
	refuse("prot", "1", -ENOENT, "unknown key 'prot' (did you mean 'port'?)");
	refuse("completely-else", "1", -ENOENT, 
	       "unknown key 'completely-else'; docs/config.md and transfer_engine_bench --helpfull list them all");
	refuse("port", "70000", -EINVAL, "port: 70000 is out of range 0..65535");
	refuse("port", "-1", -EINVAL, "port: -1 is out of range 0..65535");
	refuse("port", "99999999999999999999", -EINVAL,
	       "port: 99999999999999999999 is out of range 0..65535");
	refuse("port", "12x", -EINVAL, "port: '12x' is not a whole number");
	refuse("port", "", -EINVAL, "port: '' is not a whole number");
	refuse("port", " 1", -EINVAL, "port: ' 1' is not a whole number");
	refuse("spill", "maybe", -EINVAL, "spill: 'maybe' is not true or false");
	refuse("deadline", "0", -EINVAL, "deadline: 0 is out of range 1ms..1440min");
	refuse("deadline", "99999999999min", -EINVAL, "deadline: 99999999999min is out of range 1ms..1440min");
	refuse("deadline", "3 weeks", -EINVAL,
	       "deadline: '3 weeks' is not a duration such as 30, 2.5s or 250ms");
	refuse("slice_size", "12", -EINVAL, "slice_size: 12 is out of range 1KiB..1GiB");
	refuse("slice_size", "1P", -EINVAL, "slice_size: '1P' is not a size such as 65536 or 64KiB or 'auto'");
	refuse("slice_size", "x", -EINVAL, "slice_size: 'x' is not a size such as 65536 or 64KiB or 'auto'");
	refuse("log_level", "wran", -EINVAL,
	       "log_level: 'wran' is not one of error, warn, info, debug, trace (did you mean 'warn'?)");
	refuse("metadata_server", "/tmp/x", -EINVAL,
	       "metadata_server: '/tmp/x' is a path; write file:///tmp/x");
	refuse("metadata_server", "host", -EINVAL,
	       "metadata_server: 'host' is neither a URL such as file:///dir or etcd://host:2379, nor host:port");
	refuse("cluster", "a/b", -EINVAL,
	       "cluster: 'a/b' is not the name of a cluster: 1 to 63 of letters, digits, '.', '_', '-'");
}

static void load_refused(const char *text, const char *why)
{
	struct mc_config *c = config();
	char want[1024];

	set(c, "deadline", "7s");
	write_to("c.json", text);
	assert_int_equal(mc_config_load(c, file, &err), -EINVAL);
	snprintf(want, sizeof want, "%s:%s", file, why);
	assert_string_equal(err.text, want);
	/* Nothing of a bad file is kept. */
	assert_int_equal(mc_config_origin(c, "port"), MC_ORIGIN_DEFAULT);
	assert_string_equal(mc_config_get(c, "deadline", NULL), "7s");
	mc_config_free(c);
}

static void test_file_refused(void **state)
{
	load_refused("{\"port\": 1, \"prot\": 2}", "1:21: unknown key 'prot' (did you mean 'port'?)");
	load_refused("{\"port\": 1,\n \"retry_count\": 70000}",
		     "2:17: retry_count: 70000 is out of range 0..1000");
	load_refused("{\"port\": true}", "1:10: port: 'true' is not a whole number");
	load_refused("{\"port\": null}", "1:10: port: it must be a single value, not null");
	load_refused("{\"port\": 1, \"cluster\": 5}", "1:24: cluster: it must be a string, not a whole number");
	load_refused("[1]", "1:1: a config is an object, not an array");
	load_refused("{\"port\": 1,}", "1:12: invalid object key (must be a string)");
	load_refused("{\"port\": 1, \"transports\": 5}",
		     "1:27: transports: it must be an object of plugins, not a whole number");
	load_refused("{\"port\": 1, \"transports\": {\"godo\": {}}}",
		     "1:36: transports: no transport 'godo' (did you mean 'good'?); there are: good, plain, wide");
	load_refused("{\"port\": 1, \"transports\": {\"good\": 5}}",
		     "1:36: transports.good: it must be an object of options, not a whole number");
	load_refused("{\"port\": 1, \"transports\": {\"good\": {\"dpeth\": 5}}}",
		     "1:46: unknown key 'transports.good.dpeth' (did you mean 'transports.good.depth'?)");
	load_refused("{\"port\": 1, \"transports\": {\"good\": {\"depth\": 65}}}",
		     "1:46: transports.good.depth: 65 is out of range 1..64");
}

static void test_file(void **state)
{
	struct mc_transport_settings ts;
	struct mc_config *c = config();
	const struct mc_settings *s = mc_config_settings(c);

	write_to("c.json",
		 "{\"port\": 0, \"spill\": true, \"deadline\": 2.5, \"staging_chunk\": \"2MiB\",\n"
		 " \"advertise_address\": [\"10.0.0.1\", \"host\"],\n"
		 " \"nic_priority_matrix\": {\"cpu:0\": [[\"eth0\"], []]},\n"
		 " \"transports\": {\"good\": {\"depth\": 4, \"lanes\": 3, \"filters\": [\"a\", \"b\"]}}}");
	assert_int_equal(mc_config_load(c, file, &err), 0);
	assert_int_equal(s->port, 0);
	assert_true(s->spill);
	assert_int_equal(s->deadline, 2500 * (int64_t)MC_MSEC);
	assert_int_equal(s->staging_chunk, 2 << 20);
	assert_string_equal(s->advertise_address, "10.0.0.1,host");
	assert_string_equal(s->nic_priority_matrix, "{\"cpu:0\":[[\"eth0\"],[]]}");
	assert_string_equal(mc_config_get(c, "transports.good.depth", NULL), "4");
	mc_config_transport(c, "good", &ts);
	assert_int_equal(ts.lanes, 3);
	assert_string_equal(ts.filters, "a,b");
	assert_int_equal(ts.bandwidth, 0);
	mc_config_transport(c, "unheard-of", &ts);
	assert_int_equal(ts.lanes, 1);
	assert_int_equal(mc_config_load(c, "/nowhere.json", &err), -ENOENT);
	mc_config_free(c);
}

static int find_key(void *ctx, const struct mc_config_key *key)
{
	struct mc_config_key *want = ctx;

	if (strcmp(key->key, want->key) != 0)
		return 0;
	*want = *key;
	return 1;
}

static struct mc_config_key key_of(const struct mc_config *c, const char *name)
{
	struct mc_config_key key = {.key = name};

	assert_int_equal(mc_config_each(c, find_key, &key), 1);
	return key;
}

/* A transport has its own default, and bounds within ours, of what the core reads; not another type. */
static void test_own_default(void **state)
{
	struct mc_transport_settings ts;
	struct mc_config *c = config();

	mc_config_transport(c, "wide", &ts);
	assert_int_equal(ts.lanes, 2);
	assert_int_equal(ts.bandwidth, 0);
	set(c, "transports.wide.lanes", "8");
	mc_config_transport(c, "wide", &ts);
	assert_int_equal(ts.lanes, 8);
	assert_int_equal(mc_config_set(c, "transports.wide.lanes", "9", &err), -EINVAL);
	mc_config_free(c);
}

static void test_precedence(void **state)
{
	struct mc_config *c = config(), *copy;
	struct mc_config_key key;
	char want[128];

	key = key_of(c, "retry_count");
	assert_string_equal(key.type, "int");
	assert_string_equal(key.env, "MC_RETRY_CNT");
	assert_true(key.reloadable);
	assert_null(key.origin_detail);

	write_to("c.json", "{\n  \"retry_count\": 5}");
	assert_int_equal(mc_config_load(c, file, &err), 0);
	key = key_of(c, "retry_count");
	snprintf(want, sizeof want, "%s:2:18", file);
	assert_string_equal(key.origin_detail, want);
	assert_int_equal(key.origin, MC_ORIGIN_FILE);

	setenv("MC_RETRY_CNT", "6", 1);
	assert_int_equal(mc_config_env(c, &err), 0);
	key = key_of(c, "retry_count");
	assert_string_equal(key.value, "6");
	assert_string_equal(key.origin_detail, "MC_RETRY_CNT");
	/* A lower origin comes later: checked, not used. */
	assert_int_equal(mc_config_load(c, file, &err), 0);
	assert_int_equal(mc_config_settings(c)->retry_count, 6);

	set(c, "retry-count", "7");
	assert_int_equal(mc_config_env(c, &err), 0);
	assert_int_equal(mc_config_settings(c)->retry_count, 7);
	assert_int_equal(mc_config_origin(c, "retry_count"), MC_ORIGIN_FLAG);

	/* A copy lives on its own. */
	set(c, "cluster", "one");
	assert_int_equal(mc_config_clone(c, &copy), 0);
	set(c, "cluster", "two");
	mc_config_free(c);
	assert_string_equal(mc_config_settings(copy)->cluster, "one");
	assert_int_equal(mc_config_settings(copy)->retry_count, 7);
	mc_config_free(copy);
	unsetenv("MC_RETRY_CNT");
}

static void on_line(void *arg, enum mc_log_level level, const char *line)
{
	snprintf(last_line, sizeof last_line, "%s", line);
	nr_lines++;
}

static int note_change(void *ctx, const struct mc_config_change *change)
{
	snprintf(ctx, 256, "%s '%s' '%s'", change->key, change->was, change->is);
	return 1;
}

/* Whoever shows values or changes cannot show a password. */
static void test_secret(void **state)
{
	struct mc_config *c = config(), *other = config();
	char text[256] = "";

	assert_string_equal(key_of(c, "transports.good.token").value, "");
	set(c, "transports.good.token", "hush");
	assert_string_equal(key_of(c, "transports.good.token").value, "(secret)");
	assert_string_equal(mc_config_get(c, "transports.good.token", NULL), "hush");
	assert_int_equal(mc_config_diff(other, c, note_change, text), 1);
	assert_string_equal(text, "transports.good.token '' '(secret)'");
	set(other, "transports.good.token", "hush2");
	assert_int_equal(mc_config_diff(other, c, note_change, text), 1);
	assert_string_equal(text, "transports.good.token '(secret)' '(secret)'");
	mc_config_free(other);
	mc_config_free(c);
}

static void test_environment(void **state)
{
	struct mc_config *c = config();

	mc_log_set_handler(on_line, NULL);
	setenv("MC_HANDSHAKE_PORT", "70000", 1);
	assert_int_equal(mc_config_env(c, &err), -EINVAL);
	assert_string_equal(err.text, "MC_HANDSHAKE_PORT: 70000 is out of range 0..65535");
	setenv("MC_HANDSHAKE_PORT", "", 1); /* as if it were not there */
	setenv("MC_LOG_LEVEL", "DEBUG", 1);
	setenv("MC_TRANSFER_TIMEOUT", "60", 1);
	setenv("MC_METADATA_CLUSTER_ID", "blue/", 1);
	setenv("MC_GOOD_DEPTH", "3", 1);
	assert_int_equal(mc_config_env(c, &err), 0);
	assert_int_equal(mc_config_settings(c)->port, 12001);
	assert_string_equal(mc_config_settings(c)->log_level, "debug");
	assert_int_equal(mc_config_settings(c)->deadline, 60 * (int64_t)MC_SEC);
	assert_string_equal(mc_config_settings(c)->cluster, "blue");
	assert_string_equal(mc_config_get(c, "transports.good.depth", NULL), "3");
	assert_int_equal(nr_lines, 0);

	setenv("MC_LOG_LEVL", "x", 1);
	assert_int_equal(mc_config_env(c, &err), 0);
	assert_int_equal(nr_lines, 1);
	assert_string_equal(last_line, "environment: unknown MC_* variables are ignored: "
				       "MC_LOG_LEVL (did you mean MC_LOG_LEVEL?)");
	assert_int_equal(mc_config_env(c, &err), 0);
	assert_int_equal(nr_lines, 1);
	mc_log_set_handler(NULL, NULL);
	unsetenv("MC_HANDSHAKE_PORT");
	unsetenv("MC_LOG_LEVEL");
	unsetenv("MC_LOG_LEVL");
	unsetenv("MC_TRANSFER_TIMEOUT");
	unsetenv("MC_METADATA_CLUSTER_ID");
	unsetenv("MC_GOOD_DEPTH");
	mc_config_free(c);
}

static const char *const colours[] = {"red", "green", NULL};
static const struct mc_option options[] = {
	{.name = "depth", .type = MC_OPT_INT, .def = "16", .min = 1, .max = 32},
	{.name = "colour", .type = MC_OPT_ENUM, .def = "red", .choices = colours},
	{.name = "token", .type = MC_OPT_STRING, .flags = MC_OPT_REQUIRED},
	{.name = "ratio", .type = MC_OPT_FLOAT, .def = "0.5", .min = 0, .max = 1},
	{.name = NULL},
};
static const struct mc_plugin_desc good_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT), .name = "good", .options = options};

static void test_plugin_values(void **state)
{
	struct mc_config *c = config();
	struct mc_value *v;

	/* Its manifest says 24; `token` is missing. */
	assert_int_equal(mc_config_origin(c, "transports.good.depth"), MC_ORIGIN_MANIFEST);
	assert_int_equal(mc_config_plugin_values(c, "transports", "good", &good_desc, &v, &err), -EINVAL);
	assert_string_equal(err.text, "transports.good.token: the plugin needs it; set it in the config");
	set(c, "transports.good.token", "abc");
	set(c, "transports.good.colour", "GREEN");
	set(c, "transports.good.lanes", "2"); /* the core's, no option of the plugin */
	assert_int_equal(mc_config_plugin_values(c, "transports", "good", &good_desc, &v, &err), 0);
	assert_int_equal(v[0].i, 24);
	assert_int_equal(v[0].set, MC_ORIGIN_MANIFEST);
	assert_string_equal(v[1].s, "green");
	assert_int_equal(v[1].i2, 1);
	assert_int_equal(v[1].set, MC_ORIGIN_FLAG);
	assert_string_equal(v[2].s, "abc");
	assert_true(v[3].d == 0.5);
	assert_int_equal(v[3].set, 0);
	mc_values_free(v);

	/* A host's variable of a plugin counts when the plugin is opened. */
	setenv("MC_GOOD_DEPTH", "n", 1);
	assert_int_equal(mc_config_env(c, &err), 0);
	unsetenv("MC_GOOD_DEPTH");
	assert_int_equal(mc_config_plugin_values(c, "transports", "good", &good_desc, &v, &err), -EINVAL);
	assert_non_null(strstr(err.text, "MC_GOOD_DEPTH: 'n' is not"));

	/* The plugin's own table is narrower than its manifest. */
	set(c, "transports.good.depth", "40");
	assert_int_equal(mc_config_plugin_values(c, "transports", "good", &good_desc, &v, &err), -EINVAL);
	assert_string_equal(err.text, "transports.good.depth: 40 is out of range 1..32");

	/* A manifest without a schema: checked when the plugin is opened. */
	set(c, "transports.plain.dpth", "4");
	assert_int_equal(mc_config_plugin_values(c, "transports", "plain", &good_desc, &v, &err), -EINVAL);
	assert_string_equal(err.text, "transports.plain.dpth: the plugin has no option 'dpth' (did you mean 'depth'?)");
	mc_config_free(c);
}

static int setup(void **state)
{
	char path[128];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/plugins.d", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	write_to("plugins.d/good.json",
		 "{\"name\":\"good\",\"kind\":\"transport\",\"library\":\"transport-good.so\",\"wire\":\"good\","
		 "\"options\":{\"depth\":{\"type\":\"int\",\"default\":16,\"value\":24,\"min\":1,\"max\":64,"
		 "\"env\":\"MC_GOOD_DEPTH\"},\"colour\":{\"type\":\"enum\",\"default\":\"red\","
		 "\"choices\":[\"red\",\"green\"]},\"token\":{\"type\":\"string\",\"required\":true,"
		 "\"secret\":true}}}");
	write_to("plugins.d/plain.json",
		 "{\"name\":\"plain\",\"kind\":\"transport\",\"library\":\"transport-plain.so\",\"wire\":\"p\"}");
	write_to("plugins.d/wide.json",
		 "{\"name\":\"wide\",\"kind\":\"transport\",\"library\":\"transport-wide.so\",\"wire\":\"w\","
		 "\"options\":{\"lanes\":{\"type\":\"int\",\"default\":2,\"min\":1,\"max\":8},"
		 "\"bandwidth\":{\"type\":\"int\",\"default\":7,\"min\":0,\"max\":8}}}");
	setenv("MC_CONFIG_DIR", dir, 1);
	snprintf(file, sizeof file, "%s/c.json", dir);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -r %s", dir);
	return system(cmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),    cmocka_unit_test(test_values),
		cmocka_unit_test(test_refused),	    cmocka_unit_test(test_file_refused),
		cmocka_unit_test(test_file_good),
		cmocka_unit_test(test_file),	    cmocka_unit_test(test_precedence),
		cmocka_unit_test(test_secret),
		cmocka_unit_test(test_environment), cmocka_unit_test(test_plugin_values),
		cmocka_unit_test(test_own_default),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
