/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: what a plugin's tables say comes back; refusals; the administrator's over ours. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "manifest.h"

static struct mc_error err;

static int parse(struct mc_manifest *m, const char *text)
{
	memset(&err, 0, sizeof err);
	return mc_manifest_parse(m, "m.json", text, strlen(text), &err);
}

static void refuse(const char *text, const char *why)
{
	struct mc_manifest m = {0};

	assert_int_equal(parse(&m, text), -EINVAL);
	assert_string_equal(err.text, why);
	mc_manifest_fini(&m);
}

static void test_round_trip(void **state)
{
	struct mc_manifest m = {0};
	struct mc_plugin *p;
	char path[4096];
	char *text;

	snprintf(path, sizeof path, "%s/transport-good.so", getenv("TEST_PLUGIN_DIR"));
	assert_int_equal(mc_plugin_load_file(path, 0, NULL, &p, &err), 0);
	text = mc_manifest_write(p->desc, "transport-good.so");
	mc_plugin_unref(p);
	assert_non_null(text);
	assert_int_equal(parse(&m, text), 0);
	free(text);
	assert_string_equal(m.name, "good");
	assert_int_equal(m.kind, MC_KIND_TRANSPORT);
	assert_string_equal(m.library, "transport-good.so");
	assert_string_equal(m.summary, "does nothing");
	assert_string_equal(m.wire, "good");
	assert_int_equal(m.wire_min, 1);
	assert_int_equal(m.wire_max, 2);
	assert_string_equal(m.memory[0], "cpu");
	assert_null(m.memory[1]);
	assert_string_equal(m.claims[0], "good*");
	assert_null(m.schemes[0]);
	assert_false(m.optional);
	assert_true(m.has_options);
	assert_string_equal(m.options[0].name, "depth");
	assert_int_equal(m.options[0].type, MC_OPT_INT);
	assert_string_equal(m.options[0].def, "16");
	assert_int_equal(m.options[0].max, 64);
	assert_string_equal(m.options[0].env, "MC_GOOD_DEPTH");
	assert_string_equal(m.options[0].doc, "How deep.");
	assert_int_equal(m.options[1].flags, MC_OPT_RELOADABLE);
	assert_string_equal(m.options[1].choices[1], "green");
	assert_int_equal(m.options[2].flags, MC_OPT_REQUIRED);
	assert_null(m.options[2].def);
	assert_null(m.options[3].name);
	assert_null(m.values[0]);
	mc_manifest_fini(&m);
}

#define HEAD "\"name\":\"a\",\"kind\":\"transport\",\"library\":\"a.so\",\"wire\":\"w\""

static void test_refused(void **state)
{
	refuse("[]", "m.json:1:1: a manifest is an object, not an array");
	refuse("{}", "manifest 'm.json': there is no \"name\"");
	refuse("{\"name\":\"a\"}", "manifest 'm.json': there is no \"kind\"");
	refuse("{\"name\":\"a\",\"kind\":\"transport\"}", "manifest 'm.json': there is no \"library\"");
	refuse("{\"name\":\"a\",\"kind\":\"transprot\"}",
	       "m.json:1:20: kind 'transprot' is not one of transport, metadata, memory, filter (did you mean 'transport'?)");
	refuse("{" HEAD ",\"clams\":[]}", "m.json:1:68: unknown key 'clams' (did you mean 'claims'?)");
	refuse("{\"name\":\"A b\",\"kind\":\"filter\",\"library\":\"a.so\"}",
	       "manifest 'm.json': name 'A b' is not [a-z0-9-]+ of at most 31 bytes");
	refuse("{\"name\":\"a\",\"kind\":\"filter\",\"library\":\"../a.so\"}",
	       "manifest 'm.json': library '../a.so' is neither a file name nor an absolute path");
	refuse("{\"name\":\"a\",\"kind\":\"transport\",\"library\":\"a.so\"}",
	       "manifest 'm.json': a transport needs a \"wire\"");
	refuse("{" HEAD ",\"wire_min\":3,\"wire_max\":2}", "manifest 'm.json': wire_min 3 is above wire_max 2");
	refuse("{" HEAD ",\"wire_max\":70000}", "m.json:1:71: wire_max: 70000 is out of range 0..65535");
	refuse("{" HEAD ",\"claims\":\"eth*\"}", "m.json:1:69: 'claims' must be an array of strings, not a string");
	refuse("{" HEAD ",\"memory\":[\"cpu\",1]}", "m.json:1:76: memory[1] must be a string that is not empty");
	refuse("{" HEAD ",\"optional\":1}", "m.json:1:71: 'optional' must be true or false, not a whole number");
	refuse("{" HEAD ",\"options\":{\"x\":{\"type\":\"integer\"}}}",
	       "m.json:1:75: options.x: type 'integer' is not one of bool, int, size, duration, float, string, enum");
	refuse("{" HEAD ",\"options\":{\"x\":{\"type\":\"int\"}}}",
	       "m.json:1:75: options.x: it needs a default, or \"required\": true");
	refuse("{" HEAD ",\"options\":{\"x\":{\"type\":\"int\",\"default\":9,\"min\":1,\"max\":4}}}",
	       "m.json:1:75: options.x: 9 is out of range 1..4");
	refuse("{" HEAD ",\"options\":{\"x\":{\"type\":\"enum\",\"default\":\"a\"}}}",
	       "m.json:1:75: options.x: an enum needs choices");
	refuse("{" HEAD ",\"options\":{\"x\":{\"type\":\"int\",\"default\":1,\"env\":\"PATH\"}}}",
	       "m.json:1:75: options.x: the variable 'PATH' does not begin with MC_");
	refuse("{" HEAD ",\"options\":{\"X y\":{\"type\":\"int\",\"default\":1}}}",
	       "m.json:1:77: option name 'X y' is not [a-z0-9_]+");
	refuse("{" HEAD ",\"options\":{\"x\":4}}",
	       "m.json:1:75: options.x: a bare value needs an option of that name in the manifest below; say its type");
}

static void test_over(void **state)
{
	struct mc_manifest m = {0};

	assert_int_equal(parse(&m, "{" HEAD ",\"claims\":[\"a*\"],\"options\":{\"x\":{\"type\":\"int\","
				   "\"default\":1,\"max\":8}}}"), 0);
	assert_int_equal(parse(&m, "{\"optional\":true,\"claims\":[],\"options\":{\"x\":5,"
				   "\"y\":{\"type\":\"bool\",\"default\":true}}}"), 0);
	assert_true(m.optional);
	assert_string_equal(m.name, "a");
	assert_null(m.claims[0]);
	assert_string_equal(m.values[0], "5");
	assert_string_equal(m.options[1].name, "y");
	assert_string_equal(m.options[1].def, "true");
	assert_int_equal(parse(&m, "{\"options\":{\"x\":9}}"), -EINVAL);
	assert_string_equal(err.text, "m.json:1:17: options.x: 9 is out of range 0..8");
	assert_int_equal(parse(&m, "{\"options\":{\"x\":{\"type\":\"int\",\"default\":1}}}"), -EINVAL);
	assert_string_equal(err.text,
			    "m.json:1:17: options.x: the manifest below describes it already; give the bare value");
	mc_manifest_fini(&m);
}

static void write_to(const char *dir, const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/plugins.d/%s", dir, name);
	f = fopen(path, "w");
	fputs(text, f);
	fclose(f);
}

static void note_bad(void *ctx, const char *path, const struct mc_error *why)
{
	assert_non_null(strstr(path, "/b.json"));
	assert_non_null(strstr(why->text, path));
	++*(int *)ctx;
}

/* What is good is there all the same, and the rest is told. */
static void check_good(int want_bad)
{
	struct mc_registry *reg;
	int nr = 0;

	assert_int_equal(mc_registry_load_good(&reg, note_bad, &nr, &err), 0);
	assert_int_equal(nr, want_bad);
	assert_int_equal(mc_registry_nr(reg), 2);
	assert_non_null(mc_registry_find(reg, MC_KIND_TRANSPORT, "a", NULL));
	assert_non_null(mc_registry_find(reg, MC_KIND_METADATA, "file", NULL));
	mc_registry_free(reg);
}

static void test_registry(void **state)
{
	char dir[] = "/tmp/mc-test-manifest-XXXXXX", path[128];
	struct mc_registry *reg;

	assert_non_null(mkdtemp(dir));
	setenv("MC_CONFIG_DIR", dir, 1);
	/* No folder, no manifests. */
	assert_int_equal(mc_registry_load(&reg, &err), 0);
	assert_int_equal(mc_registry_nr(reg), 0);
	assert_null(mc_registry_find(reg, MC_KIND_TRANSPORT, "a", &err));
	assert_string_equal(err.text, "no transport 'a'; there are: none");
	mc_registry_free(reg);

	snprintf(path, sizeof path, "%s/plugins.d", dir);
	mkdir(path, 0700);
	write_to(dir, "a.json", "{" HEAD "}");
	write_to(dir, "file.json", "{\"name\":\"file\",\"kind\":\"metadata\",\"library\":\"f.so\",\"schemes\":[\"file\"]}");
	write_to(dir, ".hidden.json", "broken");
	write_to(dir, "README", "broken");
	assert_int_equal(mc_registry_load(&reg, &err), 0);
	assert_int_equal(mc_registry_nr(reg), 2);
	assert_string_equal(mc_registry_at(reg, 1)->name, "file");
	assert_null(mc_registry_at(reg, 2));
	assert_non_null(mc_registry_scheme(reg, "file", &err));
	assert_null(mc_registry_scheme(reg, "redis", &err));
	assert_string_equal(err.text, "no metadata plugin serves the scheme 'redis'; there are: file://");
	/* A kind of its own: a transport called file is another thing. */
	assert_null(mc_registry_find(reg, MC_KIND_TRANSPORT, "file", NULL));
	assert_ptr_equal(mc_registry_ref(reg), reg);
	mc_registry_free(reg);
	assert_int_equal(mc_registry_nr(reg), 2);
	mc_registry_free(reg);
	mc_registry_free(NULL);
	check_good(0);

	write_to(dir, "b.json", "{" HEAD "}");
	check_good(1);
	assert_int_equal(mc_registry_load(&reg, &err), -EINVAL);
	snprintf(path, sizeof path, "transport 'a': both '%s/plugins.d/a.json' and '%s/plugins.d/b.json' describe it; remove one",
		 dir, dir);
	assert_true(strncmp(err.text, path, sizeof path - 1) == 0);
	write_to(dir, "b.json", "{");
	check_good(1);
	assert_int_equal(mc_registry_load(&reg, &err), -EINVAL);
	assert_non_null(strstr(err.text, "/plugins.d/b.json:1:2: it ends too early"));
	snprintf(path, sizeof path, "rm -r %s", dir);
	assert_int_equal(system(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_over),
		cmocka_unit_test(test_registry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
