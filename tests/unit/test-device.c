/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices as the matrix names them: what opens, what is refused with which
 * sentence, what is used instead, and which plugins are never touched.  Whole
 * engines over the test plugins, with manifests that this test writes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mooncake/mooncake.h>

#include "device.h"
#include "lane.h"
#include "log.h"
#include "segment.h"

#define T (10 * MC_SEC)

static char dir[64] = "/tmp/mc-device-XXXXXX";
static struct mc_config *config;
static struct mc_engine *engine;
static struct mc_error err;

/* ---- the log -------------------------------------------------------------------------------- */

static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER; /* guards lines */
static char lines[64][512];
static size_t nr_lines;

static void log_line(void *arg, enum mc_log_level level, const char *line)
{
	if (level > MC_LOG_INFO)
		return;
	pthread_mutex_lock(&lines_lock);
	if (nr_lines < 64)
		snprintf(lines[nr_lines++], sizeof lines[0], "%d %s", level, line);
	pthread_mutex_unlock(&lines_lock);
}

/* Lines of a level that hold a text. */
static size_t logged(enum mc_log_level level, const char *text)
{
	size_t nr = 0;

	pthread_mutex_lock(&lines_lock);
	for (size_t i = 0; i < nr_lines; i++)
		nr += lines[i][0] == '0' + (int)level && strstr(lines[i], text);
	pthread_mutex_unlock(&lines_lock);
	return nr;
}

/* ---- engines -------------------------------------------------------------------------------- */

static void manifest(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof path, "%s/plugins.d/%s.json", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* A transport of the tests that claims device names. */
static void transport(const char *name, const char *claims, const char *more)
{
	char text[1024];

	snprintf(text, sizeof text,
		 "{\"name\": \"%s\", \"kind\": \"transport\", \"library\": \"transport-%s.so\", \"wire\": \"%s\", "
		 "\"memory\": [\"cpu\"], \"claims\": [\"%s\"]%s}", name, name, name, claims, more);
	manifest(name, text);
}

static int group_setup(void **state)
{
	const char *built = getenv("MC_CONFIG_DIR"), *plugins = getenv("MC_PLUGIN_PATH");
	const char *tests = getenv("TEST_PLUGIN_DIR");
	char text[8192];

	assert_non_null(built);
	assert_non_null(plugins);
	assert_non_null(tests);
	assert_non_null(mkdtemp(dir));
	snprintf(text, sizeof text, "cp -r '%s/plugins.d' '%s' && mkdir '%s/meta'", built, dir, dir);
	assert_int_equal(system(text), 0);
	snprintf(text, sizeof text, "%s:%s", plugins, tests);
	setenv("MC_PLUGIN_PATH", text, 1);
	setenv("MC_CONFIG_DIR", dir, 1);
	transport("keys", "k[et]*", ", \"options\": {\"depth\": {\"type\": \"int\", \"default\": 64, "
		  "\"min\": 1, \"max\": 65536, \"doc\": \"slices\"}}");
	transport("altkeys", "[ak]*", "");
	transport("gone", "gone*", ", \"optional\": true");
	transport("undefined", "undefined*", "");
	manifest("count", "{\"name\": \"count\", \"kind\": \"filter\", \"library\": \"filter-count.so\"}");
	mc_log_set_handler(log_line, NULL);
	mc_log_set_level(MC_LOG_INFO);
	return 0;
}

static int group_teardown(void **state)
{
	char text[128];

	mc_log_set_handler(NULL, NULL);
	snprintf(text, sizeof text, "rm -rf '%s'", dir);
	return system(text);
}

static int setup(void **state)
{
	char url[128];

	nr_lines = 0;
	memset(&err, 0, sizeof err);
	engine = NULL;
	assert_int_equal(mc_config_new(&config, &err), 0);
	snprintf(url, sizeof url, "file://%s/meta", dir);
	assert_int_equal(mc_config_set(config, "metadata_server", url, &err), 0);
	assert_int_equal(mc_config_set(config, "port", "0", &err), 0);
	assert_int_equal(mc_config_set(config, "listen_address", "127.0.0.1", &err), 0);
	return 0;
}

static int teardown(void **state)
{
	int r = mc_engine_close(engine, T);

	mc_config_free(config);
	return r;
}

static void set(const char *key, const char *value)
{
	if (mc_config_set(config, key, value, &err) < 0)
		fail_msg("%s", err.text);
}

static void opens(const char *matrix)
{
	set("nic_priority_matrix", matrix);
	if (mc_engine_open(config, T, &engine, &err) < 0)
		fail_msg("%s: %s", matrix, err.text);
}

/* Opening fails with this errno and a sentence that holds both words. */
static void refused(const char *matrix, int want, const char *a, const char *b)
{
	int r;

	set("nic_priority_matrix", matrix);
	r = mc_engine_open(config, T, &engine, &err);
	if (r != want || !strstr(err.text, a) || !strstr(err.text, b))
		fail_msg("%s: %d (not %d), '%s' lacks '%s' or '%s'", matrix, r, want, err.text, a, b);
	assert_null(engine);
	assert_int_equal(err.code, want);
}

static bool mapped(const char *file)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	bool found = false;

	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		found |= strstr(line, file) != NULL;
	fclose(f);
	return found;
}

/* ---- plugins -------------------------------------------------------------------------------- */

/* First, for what is loaded stays. */
static void test_only_what_is_named(void **state)
{
	opens("{\"*\": [[\"null0\"]]}");
	assert_true(mapped("transport-null.so"));
	assert_false(mapped("transport-tcp.so"));
	assert_false(mapped("transport-keys.so"));
	assert_false(mapped("transport-altkeys.so"));
	assert_false(mapped("filter-count.so"));
	assert_false(mapped("mod-discover"));
	assert_false(mapped("libhwloc"));
	assert_int_equal(logged(MC_LOG_WARN, ""), 0);
}

static void test_bare_names(void **state)
{
	refused("{\"*\": [[\"keys0\"]]}", -EINVAL, "altkeys, keys", "'altkeys:keys0' or 'keys:keys0'");
	refused("{\"*\": [[\"zz0\"]]}", -ENODEV, "no transport claims it", "'TRANSPORT:zz0'");
	refused("{\"*\": [[\"null0\"], [\"zz0\"]]}", -ENODEV, "$.*[1][0]", "zz0");
	refused("{\"*\": [[\"kesy:keys0\"]]}", -ENODEV, "kesy", "did you mean 'keys'?");
	refused("{\"cuda:0\": [[\"ktx\"]]}", -ENODEV, "ktx", "does not reach cuda memory");
	opens("{\"*\": [[\"altkeys0\", \"keys:keys0\"]]}");
	assert_int_equal(engine->nr_devices, 2);
	assert_null(mc_device_find(engine, "keys", "altkeys0"));
	assert_non_null(mc_device_find(engine, "keys", "keys0"));
}

static void test_library_missing(void **state)
{
	refused("{\"*\": [[\"undefined:undefined0\"], [\"null0\"]]}", -ELIBACC, "undefined", "transport-undefined.so");
	refused("{\"*\": [[{\"device\": \"gone0\", \"require\": true}], [\"null0\"]]}", -ELIBACC,
		"gone", "libibverbs.so.99");
	refused("{\"*\": [[\"gone0\"]]}", -ELIBACC, "gone", "nothing else is left for location '*'");
	refused("{\"cpu:0\": [[\"gone0\"]], \"*\": [[\"null0\"]]}", -ELIBACC, "gone", "'cpu:0'");
	nr_lines = 0;
	opens("{\"*\": [[\"gone0\"], [\"null0\"]]}");
	assert_int_equal(engine->nr_devices, 1);
	assert_int_equal(logged(MC_LOG_WARN, ""), 1);
	assert_int_equal(logged(MC_LOG_WARN, "using null:null0 instead"), 1);
	assert_int_equal(logged(MC_LOG_WARN, "libibverbs.so.99"), 1);
}

/* ---- devices -------------------------------------------------------------------------------- */

static void test_first_tier(void **state)
{
	/* Where it stands, and what there is instead. */
	refused("{\"*\": [[\"tcp:nosuch0\"]]}", -ENODEV, "nic_priority_matrix: $.*[0][0]: device 'tcp:nosuch0'", "there are: lo");
	refused("{\"*\": [[\"tcp:nosuch0\"], [\"null0\"]]}", -ENODEV, "tcp:nosuch0", "");
	refused("{\"*\": [[\"null0\", \"tcp:nosuch0\"]]}", -ENODEV, "tcp:nosuch0", "");
	refused("{\"*\": [[\"keys:keysdown\"]]}", -ENETDOWN, "is down", "use keys0");
	/* In another row it stands in the first tier. */
	refused("{\"*\": [[\"null0\"], [\"keys:keysdown\"]], \"cpu:0\": [[\"keys:keysdown\"]]}", -ENETDOWN,
		"is down", "use keys0");
	refused("{\"cpu:0\": [[\"keys:keysdown\"]], \"*\": [[\"null0\"], [\"keys:keysdown\"]]}", -ENETDOWN,
		"is down", "use keys0");
}

static void test_lower_tier(void **state)
{
	opens("{\"*\": [[\"null0\"], [\"keys:keysdown\", \"tcp:nosuch0\"]], "
	      "\"cpu:0\": [[\"null0\"], [\"keys:keysdown\"]]}");
	assert_int_equal(engine->nr_devices, 1);
	assert_int_equal(logged(MC_LOG_WARN, ""), 2);
	assert_int_equal(logged(MC_LOG_WARN, "keysdown"), 1);
	assert_int_equal(logged(MC_LOG_WARN, "use keys0; using null:null0 instead"), 1);
	assert_int_equal(logged(MC_LOG_WARN, "tcp:nosuch0"), 1);
}

static void test_require(void **state)
{
	refused("{\"*\": [[\"null0\"], [{\"device\": \"keys:keysdown\", \"require\": true}]]}", -ENETDOWN,
		"keysdown", "use keys0");
	/* Required in one row only. */
	refused("{\"*\": [[\"null0\"], [\"keys:keysdown\"]], "
		"\"cpu:0\": [[\"null0\"], [{\"device\": \"keys:keysdown\", \"require\": true}]]}", -ENETDOWN,
		"keysdown", "use keys0");
	refused("{\"*\": [[{\"device\": \"tcp:nosuch0\", \"require\": true}]]}", -ENXIO, "tcp:nosuch0", "");
	opens("{\"*\": [[\"null0\"], [\"keys:keys0\"]], "
	      "\"cpu:0\": [[{\"device\": \"keys:keys0\", \"require\": true, \"weight\": 2.5}]]}");
	assert_true(mc_device_find(engine, "keys", "keys0")->require);
	assert_false(mc_device_find(engine, "null", "null0")->require);
	assert_int_equal(logged(MC_LOG_WARN, ""), 0);
	assert_non_null(strstr(mc_engine_matrix(engine), "\"weight\":2.5"));
}

/* A device has one weight, wherever it is written. */
static void test_weight(void **state)
{
	refused("{\"cpu:0\": [[{\"device\": \"null:null0\", \"weight\": 2}]], "
		"\"*\": [[{\"device\": \"null0\", \"weight\": 3}]]}", -EINVAL, "null:null0", "weights 2 and 3");
	opens("{\"cpu:0\": [[\"null0\", {\"device\": \"null1\", \"weight\": 0.5}]], "
	      "\"*\": [[{\"device\": \"null0\", \"weight\": 3}, \"null1\"]]}");
	assert_true(mc_device_find(engine, "null", "null0")->weight == 3);
	assert_true(mc_device_find(engine, "null", "null1")->weight == 0.5);
}

static int count_lanes(void *ctx, const struct mc_counter *c)
{
	if (!strncmp(c->object, "device null:null0", 17) && !strcmp(c->name, "failures"))
		++*(int *)ctx;
	return 0;
}

static void test_lanes(void **state)
{
	struct mc_device *d;
	int nr = 0;

	assert_int_equal(mc_config_set(config, "transports.null.lanes", "0", &err), -EINVAL);
	assert_non_null(strstr(err.text, "transports.null.lanes"));
	assert_int_equal(mc_config_set(config, "transports.null.lanes", "65", &err), -EINVAL);
	set("transports.null.lanes", "3");
	opens("{\"*\": [[\"null0\"]]}");
	d = mc_device_find(engine, "null", "null0");
	assert_int_equal(d->nr_lanes, 3);
	assert_string_equal(d->lanes[2]->label, "null:null0/2");
	assert_ptr_not_equal(d->lanes[1]->worker, d->lanes[2]->worker);
	assert_int_equal(mc_engine_counters(engine, count_lanes, &nr), 0);
	assert_int_equal(nr, 3);
}

static int find_filter(void *ctx, const struct mc_counter *c)
{
	*(bool *)ctx |= !strcmp(c->object, "device null:null0") && strstr(c->name, "fences");
	return 0;
}

static void test_filters(void **state)
{
	bool counted = false;

	set("transports.null.filters", "cuont");
	refused("{\"*\": [[\"null0\"]]}", -ENOENT, "cuont", "did you mean 'count'?");
	set("transports.null.filters", "count, count");
	opens("{\"*\": [[\"null0\"]]}");
	assert_true(mapped("filter-count.so"));
	mc_engine_counters(engine, find_filter, &counted);
	assert_true(counted);
}

static void test_options(void **state)
{
	assert_int_equal(mc_config_set(config, "transports.keys.depth", "0", &err), -EINVAL);
	assert_non_null(strstr(err.text, "transports.keys.depth"));
	assert_non_null(strstr(err.text, "1"));
	assert_int_equal(mc_config_set(config, "transports.keys.dept", "1", &err), -ENOENT);
	assert_non_null(strstr(err.text, "transports.keys.depth"));
	/* Without a schema in its manifest, the plugin's own table says so when it is opened. */
	set("transports.altkeys.depth", "0");
	refused("{\"*\": [[\"altkeys:altkeys0\"]]}", -EINVAL, "transports.altkeys.depth", "1");
	set("transports.altkeys.depth", "8");
	set("transports.altkeys.no_such", "8");
	refused("{\"*\": [[\"altkeys:altkeys0\"]]}", -EINVAL, "transports.altkeys.no_such", "");
}

static void test_star_row(void **state)
{
	void *mem[2];
	struct mc_local_buf *buf;

	opens("{\"cpu:0\": [[\"keys:keys0\"]], \"*\": [[\"null0\"]]}");
	for (int i = 0; i < 2; i++)
		if (mc_memory_alloc(engine, i ? "*" : "cpu:0", 4096, MC_ACCESS_ALL, T, &mem[i], &err) < 0)
			fail_msg("%s", err.text);
	buf = mc_local_find(engine, mem[0], 1);
	assert_non_null(buf->blobs[mc_device_find(engine, "keys", "keys0")->idx].data);
	assert_null(buf->regions[mc_device_find(engine, "null", "null0")->idx]);
	mc_local_put(buf);
	assert_string_equal(mc_matrix_row_find(engine->matrix, "cpu:7")->tiers[0].entries[0].device, "null0");
}

static void test_discovery(void **state)
{
	const struct mc_matrix_row *row;
	const struct mc_matrix_tier *last;

	if (mc_engine_open(config, T, &engine, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(logged(MC_LOG_INFO, "nic_priority_matrix: none was given"), 1);
	assert_int_equal(logged(MC_LOG_INFO, mc_engine_matrix(engine)), 1);
	for (size_t i = 0; i < engine->matrix->nr_rows; i++) {
		row = &engine->matrix->rows[i];
		last = &row->tiers[row->nr_tiers - 1];
		assert_true(last->nr > 0);
		assert_string_equal(last->entries[last->nr - 1].transport, "tcp");
	}
}

/* ---- the port ------------------------------------------------------------------------------- */

static uint16_t free_port(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	close(fd);
	return ntohs(at.sin_port);
}

static struct pollfd knocker = {.fd = -1, .events = POLLIN};
static int knocked;

/* What is no preamble is refused at once by a port that admits. */
static void knock(uint16_t port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(port)};
	char junk[64] = "not a preamble of ours, nor anything else that is known here";

	knocker.fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(knocker.fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(send(knocker.fd, junk, sizeof junk, MSG_NOSIGNAL), sizeof junk);
	knocked = poll(&knocker, 1, 200);
}

/* The log tells when the engine is half open. */
static void knock_line(void *arg, enum mc_log_level level, const char *line)
{
	if (strstr(line, "device 'null:null0': open"))
		knock(*(uint16_t *)arg);
}

/* The port listens early, and answers nobody before the devices are open. */
static void test_port_waits(void **state)
{
	uint16_t port = free_port();
	char text[8];

	snprintf(text, sizeof text, "%u", port);
	set("port", text);
	knocked = -1;
	mc_log_set_handler(knock_line, &port);
	opens("{\"*\": [[\"null0\"]]}");
	mc_log_set_handler(log_line, NULL);
	assert_int_equal(knocked, 0);
	assert_int_equal(poll(&knocker, 1, 10000), 1);
	close(knocker.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_only_what_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bare_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_library_missing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_tier, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lower_tier, setup, teardown),
		cmocka_unit_test_setup_teardown(test_require, setup, teardown),
		cmocka_unit_test_setup_teardown(test_weight, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lanes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_filters, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options, setup, teardown),
		cmocka_unit_test_setup_teardown(test_star_row, setup, teardown),
		cmocka_unit_test_setup_teardown(test_port_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discovery, setup, teardown),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
