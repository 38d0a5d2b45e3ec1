/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What mooncake_p2p does with files, without an engine: manifests, checkpoints that are not whole,
 * folders that are offered, files that are cut while mapped, and targets that appear in one step.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "manifest.h"
#include "map.h"
#include "offer.h"
#include "program.h"
#include "safetensors.h"
#include "target.h"
#include <cli/program/text.h>

#define ROOT "00112233445566778899aabbccddeeff"

/* ---- a folder of the test's own, which is the working one ------------------------------------------ */

static char folder[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

static int setup(void **state)
{
	snprintf(folder, sizeof folder, "/tmp/mc-p2p-files.XXXXXX");
	return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	return chdir("/") == 0 ? nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) : -1;
}

static void put(const char *path, const void *data, size_t len)
{
	FILE *f = fopen(path, "wbe");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void put_text(const char *path, const char *text)
{
	put(path, text, strlen(text));
}

static size_t safetensors(char *buf, const char *header, size_t nr_data)
{
	size_t n = strlen(header);

	mc_put64(buf, n);
	memcpy(buf + 8, header, n);
	memset(buf + 8 + n, 'x', nr_data);
	return 8 + n + nr_data;
}

/* ---- texts ------------------------------------------------------------------------------------ */

static void test_texts(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* UINT64_MAX: refused */
	} sizes[] = {{"0", 0},	   {"64K", 65536},    {"1.5GiB", 1610612736},  {"2GB", 2000000000}, {"7 B", 7}, {"", UINT64_MAX},
		     {"-1", UINT64_MAX}, {"0x10", UINT64_MAX}, {"1e3", UINT64_MAX}, {"4X", UINT64_MAX},	 {"99999999T", UINT64_MAX}},
	  rates[] = {{"100M", 104857600}, {"10Gbit", 1250000000}, {"1MB/s", 1000000}, {"8Kbit/s", 1000}, {"10bit", UINT64_MAX}};
	char buf[MC_TEXT_MAX], *text = NULL;
	size_t len;
	double s;
	FILE *f;

	for (size_t i = 0; i < MC_ARRAY_SIZE(sizes); i++) {
		uint64_t v = UINT64_MAX;

		mc_text_parse_size(sizes[i].text, &v);
		assert_int_equal(v, sizes[i].bytes);
	}
	for (size_t i = 0; i < MC_ARRAY_SIZE(rates); i++) {
		uint64_t v = UINT64_MAX;

		mc_text_parse_rate(rates[i].text, &v);
		assert_int_equal(v, rates[i].bytes);
	}
	assert_int_equal(mc_text_parse_seconds("3min", &s), 0);
	assert_true(s == 180);
	assert_int_equal(mc_text_parse_seconds(".5", &s), 0);
	assert_true(s == 0.5);
	assert_int_equal(mc_text_parse_seconds(".", &s), -EINVAL);
	assert_int_equal(mc_text_parse_seconds("3 weeks", &s), -EINVAL);
	assert_string_equal(mc_text_size(1023, buf), "1023 B");
	assert_string_equal(mc_text_size(1048576, buf), "1 MiB");
	assert_string_equal(mc_text_size(1610612736, buf), "1.5 GiB");
	assert_string_equal(mc_text_size(UINT64_MAX, buf), "16 EiB");
	assert_string_equal(mc_text_seconds(125, buf), "2 min 05 s");
	assert_true(mc_text_plain("\xc3\xbc \xe2\x82\xac \xf0\x9f\x90\x89", 11));
	assert_false(mc_text_plain("\xc0\x80", 2));	  /* overlong */
	assert_false(mc_text_plain("\xed\xa0\x80", 3)); /* a surrogate */
	assert_false(mc_text_plain("\xc2\x9b", 2));	  /* C1's CSI */
	assert_false(mc_text_plain("\xe2\x82", 2));
	f = open_memstream(&text, &len);
	mc_text_json(f, "a\"\\\n\xff\xc3\xbc");
	fputc(' ', f);
	mc_text_tame(f, "\033[2J\xc3\xbc");
	fclose(f);
	assert_string_equal(text, "\"a\\\"\\\\\\u000a?\xc3\xbc\" ?[2J\xc3\xbc");
	free(text);
}

static void test_progress_line(void **state)
{
	struct p2pc_progress p = {.name = "llama-70b"};
	struct mc_p2p_progress now = {.size = sizeof now, .state = MC_P2P_GETTING, .len = 100 << 20, .nr_shards = 100, .nr_sources = 1};
	char line[1024];

	p2pc_progress_line(&p, &now, MC_SEC, 79, line, sizeof line);
	assert_non_null(strstr(line, "[--"));
	assert_null(strstr(line, "left"));
	now.done_len = 50 << 20;
	now.nr_sources = 5;
	p2pc_progress_line(&p, &now, 11 * MC_SEC, 79, line, sizeof line);
	assert_non_null(strstr(line, "#-"));
	assert_non_null(strstr(line, "50 %  50 MiB of 100 MiB  5 MiB/s  10 s left  5 sources"));
	for (size_t columns = 1; columns < 260; columns++) {
		p2pc_progress_line(&p, &now, 12 * MC_SEC, columns, line, sizeof line);
		assert_true(strlen(line) <= columns);
	}
	/* The longest texts there are: name and sources give way to the bar. */
	p = (struct p2pc_progress){.name = "llama-3.1-405b-instruct-awq-int4"};
	now.len = UINT64_C(1023) << 30;
	now.done_len = UINT64_C(600) << 30;
	p2pc_progress_line(&p, &now, MC_SEC, 79, line, sizeof line);
	assert_memory_equal(line, "llama-3.1-405b-instruct", 23);
	assert_non_null(strstr(line, "--] "));
	now.done_len += UINT64_C(1000) << 20;
	p2pc_progress_line(&p, &now, 2 * MC_SEC, 79, line, sizeof line);
	assert_memory_equal(line, "llama-3.", 8);
	assert_non_null(strstr(line, " [####"));
	assert_non_null(strstr(line, "1000 MiB/s  7 min 13 s left"));
	p2pc_progress_line(&p, &now, 3 * MC_SEC, 120, line, sizeof line);
	assert_memory_equal(line, "llama-3.1-405b-instruct- [", 26);
}

/* ---- manifests -------------------------------------------------------------------------------- */

#define ENTRY(path) "{\"path\":\"" path "\",\"size\":1,\"mode\":\"0644\"}"
#define TREE(entries) "{\"format\":1,\"kind\":\"tree\",\"entries\":[" entries "]}"

static void test_manifest(void **state)
{
	static const struct {
		const char *text, *why; /* NULL: it is good */
	} cases[] = {
		{TREE(ENTRY("a") "," ENTRY("b/c")), NULL},
		{TREE(ENTRY("a/b") "," ENTRY("a.b")), NULL}, /* '/' comes before all others */
		{TREE(ENTRY("a.b") "," ENTRY("a/b")), "out of order"},
		{TREE(ENTRY("\\u00fc\xe2\x82\xac") ",{\"path\":\"\xf0\x9f\x90\x89\",\"dir\":true}"), NULL},
		{"{\"format\":1,\"kind\":\"file\",\"entries\":[" ENTRY("a") "]}", NULL},
		{"{\"format\":1,\"kind\":\"file\",\"entries\":[" ENTRY("a/b") "]}", "without '/'"},
		{"{\"format\":1,\"kind\":\"file\",\"entries\":[" ENTRY("a") "," ENTRY("b") "]}", "one entry"},
		{TREE(""), "names no file"},
		{TREE(ENTRY("a") "," ENTRY("a")), "twice"},
		{TREE(ENTRY("b") "," ENTRY("a")), "out of order"},
		{TREE(ENTRY("a") "," ENTRY("a/b")), "which is a file"},
		{TREE("{\"path\":\"a\",\"dir\":true}," ENTRY("a/b")), "which is an empty folder"},
		{TREE(ENTRY("..")), "not a plain relative path"},
		{TREE(ENTRY("../a")), "not a plain relative path"},
		{TREE(ENTRY("a/../b")), "not a plain relative path"},
		{TREE(ENTRY("a/./b")), "not a plain relative path"},
		{TREE(ENTRY("/etc/passwd")), "not a plain relative path"},
		{TREE(ENTRY("a//b")), "not a plain relative path"},
		{TREE(ENTRY("a/")), "not a plain relative path"},
		{TREE(ENTRY("")), "empty"},
		{TREE(ENTRY("a\\nb")), "control character"},
		{TREE(ENTRY("a\\u0000b")), "NUL"},
		{TREE("{\"path\":\"a\",\"size\":-1,\"mode\":\"0644\"}"), "whole number"},
		{TREE("{\"path\":\"a\",\"size\":1.5,\"mode\":\"0644\"}"), "whole number"},
		{TREE("{\"path\":\"a\",\"size\":18446744073709551616,\"mode\":\"0644\"}"), "whole number"},
		{TREE("{\"path\":\"a\",\"size\":1,\"mode\":\"4755\"}"), "mode"},
		{TREE("{\"path\":\"a\",\"size\":1}"), "neither path"},
		{TREE("{\"path\":\"a\",\"dir\":true,\"size\":1}"), "neither path"},
		{TREE("{\"path\":\"a\",\"path\":\"b\",\"dir\":true}"), "twice"},
		{TREE("{\"path\":\"a\",\"size\":9000000000000000000,\"mode\":\"0644\"},"
		      "{\"path\":\"b\",\"size\":9000000000000000000,\"mode\":\"0644\"}"), "cannot be"},
		{TREE("7"), "no object"},
		{"{\"format\":2,\"kind\":\"tree\",\"entries\":[" ENTRY("a") "]}", "format is 2"},
		{"{\"kind\":\"tree\",\"entries\":[" ENTRY("a") "]}", "lacks"},
		{"{\"format\":1,\"kind\":\"link\",\"entries\":[]}", "neither 'file' nor 'tree'"},
		{"{\"format\":1,\"kind\":\"tree\",\"more\":1,\"entries\":[]}", "'more'"},
		{"[]", "no object"},
		{"{\"format\":1", "no JSON"},
		{"", "no JSON"},
	};

	for (size_t i = 0; i < MC_ARRAY_SIZE(cases); i++) {
		struct p2pc_manifest m = {0};
		struct mc_error err = {0};
		int r = p2pc_manifest_parse(cases[i].text, strlen(cases[i].text), &m, &err);

		if (cases[i].why) {
			assert_int_equal(r, -EBADMSG);
			if (!strstr(err.text, cases[i].why))
				fail_msg("'%s' gave '%s', not '%s'", cases[i].text, err.text, cases[i].why);
			continue;
		}
		if (r < 0)
			fail_msg("'%s': %s", cases[i].text, err.text);
		p2pc_manifest_free(&m);
	}
}

/* ---- checkpoints ------------------------------------------------------------------------------ */

static void test_safetensors(void **state)
{
	static const struct {
		const char *header;
		size_t nr_data;
		const char *why;
	} cases[] = {
		{"{\"__metadata__\":{\"a\":\"b\"},\"w\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
		 "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]}}  ", 16, NULL},
		{"{\"w\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, NULL}, /* a type to come */
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, NULL},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 3, "cut short: its header names 4 bytes of tensors, it has 3"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5, "1 bytes follow"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, "without a tensor"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"v\":{\"dtype\":\"U8\",\"shape\":[4],"
		 "\"data_offsets\":[2,6]}}", 6, "has two for some"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,4]}}", 4, "dtype and shape"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "dtype and shape"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", 4, "ends before"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", 4, "lacks"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,1,4]}}", 4, "lacks"},
		{"{\"w\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", 4, "whole number"},
		{"{\"w\":7}", 0, "no tensor"},
		{"[1]", 0, "no object"},
		{"{\"w\":", 0, "no JSON"},
	};
	char buf[1024];
	uint64_t nr;
	struct mc_error err;

	for (size_t i = 0; i < MC_ARRAY_SIZE(cases); i++) {
		size_t n = safetensors(buf, cases[i].header, cases[i].nr_data);
		int r = p2pc_safetensors_check("file 'x'", buf, n, n, &nr, &err);

		if (cases[i].why && (r != -EBADMSG || !strstr(err.text, cases[i].why)))
			fail_msg("'%s' gave '%s', not '%s'", cases[i].header, err.text, cases[i].why);
		if (!cases[i].why && r < 0)
			fail_msg("'%s': %s", cases[i].header, err.text);
	}
	assert_int_equal(p2pc_safetensors_check("file 'x'", buf, 7, 7, &nr, &err), -EBADMSG);
	mc_put64(buf, UINT64_MAX);
	assert_int_equal(p2pc_safetensors_check("file 'x'", buf, 64, 64, &nr, &err), -EBADMSG);
	mc_put64(buf, 57);
	assert_int_equal(p2pc_safetensors_check("file 'x'", buf, 64, 64, &nr, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "cut short inside its header"));
}

/* ---- offers ----------------------------------------------------------------------------------- */

static int offer(struct p2pc_offer *o, const char *path, bool force, struct mc_error *err)
{
	char *paths[] = {(char *)path};

	return p2pc_offer_open(o, NULL, paths, 1, force, err);
}

static void refused(const char *path, const char *why)
{
	struct p2pc_offer o;
	struct mc_error err = {0};

	assert_true(offer(&o, path, false, &err) < 0);
	if (!strstr(err.text, why))
		fail_msg("'%s' gave '%s', not '%s'", path, err.text, why);
}

static void make_tree(void)
{
	assert_int_equal(mkdir("model", 0755) | mkdir("model/sub", 0755) | mkdir("model/empty", 0755), 0);
	put_text("model/config.json", "{}");
	put_text("model/sub/\xc3\xbc \xf0\x9f\x90\x89.bin", "12345");
	put_text("model/none", "");
	put_text("model/run.sh", "#!/bin/sh\n");
	assert_int_equal(chmod("model/run.sh", 0755), 0);
	put_text("blob", "far away");
	assert_int_equal(symlink("../blob", "model/linked"), 0);
	put_text("model/.x.0011223344556677.mc-part", "unfinished");
}

static void test_offer_tree(void **state)
{
	static const char want[] = TREE("{\"path\":\"config.json\",\"size\":2,\"mode\":\"0644\"},{\"path\":\"empty\",\"dir\":true},"
					"{\"path\":\"linked\",\"size\":8,\"mode\":\"0644\"},{\"path\":\"none\",\"size\":0,\"mode\":\"0644\"},"
					"{\"path\":\"run.sh\",\"size\":10,\"mode\":\"0755\"},"
					"{\"path\":\"sub/\xc3\xbc \xf0\x9f\x90\x89.bin\",\"size\":5,\"mode\":\"0644\"}");
	struct p2pc_offer o;
	struct mc_error err = {0};

	make_tree();
	if (offer(&o, "model/", false, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(o.name, "model");
	assert_string_equal(o.text, want);
	assert_int_equal(o.map.nr, 4); /* an empty file has no bytes */
	assert_memory_equal(o.map.ranges[1].addr, "far away", 8);
	assert_memory_equal(o.map.ranges[3].addr, "12345", 5);
	assert_int_equal(p2pc_map_look(&o.map, &err), 0);
	put_text("blob", "FAR AWAY");
	assert_int_equal(p2pc_map_look(&o.map, &err), -ESTALE);
	p2pc_offer_close(&o);
	assert_int_equal(chdir("model/sub"), 0);
	assert_int_equal(offer(&o, "..", false, &err), 0); /* its name is the folder's */
	assert_string_equal(o.name, "model");
	p2pc_offer_close(&o);
	assert_int_equal(chdir(folder), 0);
	assert_int_equal(mkfifo("model/sub/pipe", 0600), 0);
	refused("model", "'model/sub/pipe' is neither a file nor a folder");
	assert_int_equal(unlink("model/sub/pipe") | symlink(".", "model/sub/self"), 0);
	refused("model", "link 'model/sub/self': it leads to a folder");
	assert_int_equal(unlink("model/sub/self") | symlink("nowhere", "model/sub/gone"), 0);
	refused("model", "link 'model/sub/gone': it leads nowhere");
	assert_int_equal(unlink("model/sub/gone"), 0);
	put_text("model/bad\xff", "x");
	refused("model", "not UTF-8");
	refused("model/empty", "the folder is empty");
	refused("model/none", "it has no byte");
	refused("nothing", "No such file");
	refused("/dev/null", "neither a file nor a folder");
}

static void test_offer_files(void **state)
{
	char *paths[] = {(char *)"b", (char *)"sub/a"}, *same[] = {(char *)"sub/a", (char *)"a"};
	struct p2pc_offer o;
	struct mc_error err = {0};

	assert_int_equal(mkdir("sub", 0755), 0);
	put_text("b", "bb");
	put_text("a", "a");
	put_text("sub/a", "aaa");
	assert_int_equal(p2pc_offer_open(&o, "both", paths, 2, false, &err), 0);
	assert_string_equal(o.name, "both");
	assert_int_equal(o.manifest.nr, 2);
	assert_memory_equal(o.map.ranges[0].addr, "aaa", 3);
	p2pc_offer_close(&o);
	assert_true(p2pc_offer_open(&o, "both", same, 2, false, &err) < 0);
	assert_non_null(strstr(err.text, "would both be"));
	paths[1] = (char *)"sub";
	assert_true(p2pc_offer_open(&o, "both", paths, 2, false, &err) < 0);
	assert_non_null(strstr(err.text, "is a folder"));
	assert_int_equal(p2pc_offer_open(&o, NULL, paths, 1, false, &err), 0);
	assert_string_equal(o.text, "{\"format\":1,\"kind\":\"file\",\"entries\":[{\"path\":\"b\",\"size\":2,\"mode\":\"0644\"}]}");
	p2pc_offer_close(&o);
}

static void test_offer_checkpoint(void **state)
{
	static const char header[] = "{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
	struct p2pc_offer o;
	struct mc_error err = {0};
	char buf[256];
	size_t n = safetensors(buf, header, 4);

	assert_int_equal(mkdir("m", 0755), 0);
	put("m/model-00001-of-00002.safetensors", buf, n);
	put_text("m/model.safetensors.index.json", "{\"weight_map\":{\"w\":\"model-00001-of-00002.safetensors\","
						  "\"v\":\"model-00002-of-00002.safetensors\"}}");
	refused("m", "file 'model-00002-of-00002.safetensors' is named by 'model.safetensors.index.json' and is not there");
	put("m/model-00002-of-00002.safetensors", buf, n - 1);
	refused("m", "file 'model-00002-of-00002.safetensors': cut short");
	assert_int_equal(offer(&o, "m", true, &err), 0);
	p2pc_offer_close(&o);
	put("m/model-00002-of-00002.safetensors", buf, n);
	assert_int_equal(offer(&o, "m", false, &err), 0);
	assert_int_equal(o.nr_tensors, 2);
	p2pc_offer_close(&o);
	put_text("m/model.safetensors.index.json", "{\"weight_map\":{\"w\":\"../../etc/passwd\"}}");
	refused("m", "no plain relative path");
}

/* A file that is cut while others read it: zeros, and a sentence; not SIGBUS. */
static void test_cut(void **state)
{
	enum { LEN = 3 << 16 };
	static char data[LEN];
	struct p2pc_offer o;
	struct mc_error err = {0};
	const uint8_t *at;

	memset(data, 'x', sizeof data);
	assert_int_equal(mkdir("d", 0755), 0);
	put("d/a", data, LEN);
	put("d/b", data, LEN);
	p2pc_map_guard();
	assert_int_equal(offer(&o, "d", false, &err), 0);
	assert_int_equal(truncate("d/a", 1 << 16), 0);
	at = o.map.ranges[0].addr;
	assert_int_equal(at[(1 << 16) - 1], 'x');
	assert_int_equal(at[1 << 16], 0);
	assert_int_equal(at[LEN - 1], 0);
	assert_int_equal(((const uint8_t *)o.map.ranges[1].addr)[LEN - 1], 'x');
	assert_int_equal(p2pc_map_look(&o.map, &err), -ESTALE);
	assert_string_equal(err.text, "file 'd/a' has been cut to 65536 of its 196608 bytes");
	put("d/a", data, LEN); /* it is long again, but our map is not of it any more */
	assert_int_equal(p2pc_map_whole(&o.map, &err), -ESTALE);
	p2pc_offer_close(&o);
	signal(SIGBUS, SIG_DFL);
}

/* ---- targets ---------------------------------------------------------------------------------- */

static void manifest(struct p2pc_manifest *m, const char *text)
{
	struct mc_error err = {0};

	if (p2pc_manifest_parse(text, strlen(text), m, &err) < 0)
		fail_msg("%s", err.text);
}

static void no_target(const char *out, const struct p2pc_manifest *m, bool force, int code, const char *why)
{
	struct p2pc_target t;
	struct mc_error err = {0};
	int r = p2pc_target_open(&t, out, "some/object", m, ROOT, force, &err);

	if (r != code || !strstr(err.text, why))
		fail_msg("'%s' gave %d '%s', not '%s'", out, r, err.text, why);
}

static void holds(const char *path, const char *text, unsigned mode)
{
	char buf[64] = "";
	FILE *f = fopen(path, "re");
	struct stat st;

	if (!f)
		fail_msg("'%s' is not there", path);
	buf[fread(buf, 1, sizeof buf - 1, f)] = '\0';
	assert_int_equal(fstat(fileno(f), &st), 0);
	fclose(f);
	assert_string_equal(buf, text);
	assert_int_equal(st.st_mode & 07777, mode);
}

static void test_target_file(void **state)
{
	struct p2pc_manifest m;
	struct p2pc_target t;
	struct mc_error err = {0};

	umask(022);
	manifest(&m, "{\"format\":1,\"kind\":\"file\",\"entries\":[{\"path\":\"w\",\"size\":5,\"mode\":\"0755\"}]}");
	assert_int_equal(mkdir("d", 0755), 0);
	assert_int_equal(p2pc_target_open(&t, "d", "some/object", &m, ROOT, false, &err), 0);
	assert_string_equal(t.path, "d/w");
	assert_false(t.resumed);
	assert_int_equal(access("d/.w.0011223344556677.mc-part", F_OK), 0);
	no_target("d", &m, false, -EBUSY, "another process is getting it");
	memcpy(t.map.ranges[0].addr, "12", 2);
	p2pc_target_close(&t, true);
	assert_int_not_equal(access("d/w", F_OK), 0);
	/* What was kept is found. */
	assert_int_equal(p2pc_target_open(&t, "d/w", "some/object", &m, ROOT, false, &err), 0);
	assert_true(t.resumed);
	assert_memory_equal(t.map.ranges[0].addr, "12\0\0\0", 5);
	memcpy(t.map.ranges[0].addr, "12345", 5);
	assert_int_equal(p2pc_target_finish(&t, true, &err), 0);
	holds("d/w", "12345", 0755);
	assert_int_equal(p2pc_map_look(&t.map, &err), 0);
	p2pc_target_close(&t, false);
	holds("d/w", "12345", 0755);
	assert_int_not_equal(access("d/.w.0011223344556677.mc-part", F_OK), 0);
	no_target("d", &m, false, -EEXIST, "'d/w' is there already; --force replaces it");
	assert_int_equal(p2pc_target_open(&t, "d", "some/object", &m, ROOT, true, &err), 0);
	memcpy(t.map.ranges[0].addr, "54321", 5);
	/* Nobody replaces what came meanwhile without --force; with it, in one step. */
	assert_int_equal(p2pc_target_finish(&t, false, &err), 0);
	p2pc_target_close(&t, false);
	holds("d/w", "54321", 0755);
	assert_int_equal(p2pc_target_open(&t, "late", "some/object", &m, ROOT, false, &err), 0);
	put_text("late", "mine");
	assert_int_equal(p2pc_target_finish(&t, false, &err), -EEXIST);
	p2pc_target_close(&t, false);
	holds("late", "mine", 0644);
	no_target("nowhere/x", &m, false, -ENOENT, "folder 'nowhere'");
	no_target("/dev/null", &m, true, -EINVAL, "neither a file nor a folder");
	p2pc_manifest_free(&m);
}

/* Where a device may not have pages of files: the bytes are the program's until they are stored. */
static void test_detached(void **state)
{
	struct p2pc_manifest m;
	struct p2pc_target t;
	struct p2pc_offer o;
	struct mc_error err = {0};

	umask(022);
	manifest(&m, "{\"format\":1,\"kind\":\"file\",\"entries\":[{\"path\":\"w\",\"size\":5,\"mode\":\"0644\"}]}");
	assert_int_equal(p2pc_target_open(&t, "w", "some/object", &m, ROOT, false, &err), 0);
	memcpy(t.map.ranges[0].addr, "12", 2);
	assert_int_equal(p2pc_map_detach(&t.map, &err), 0);
	assert_memory_equal(t.map.ranges[0].addr, "12\0\0\0", 5); /* what was there is there */
	memcpy(t.map.ranges[0].addr, "123", 3);
	holds(".w.0011223344556677.mc-part", "12", 0600);
	p2pc_target_close(&t, true);
	holds(".w.0011223344556677.mc-part", "123", 0600);
	assert_int_equal(p2pc_target_open(&t, "w", "some/object", &m, ROOT, false, &err), 0);
	assert_true(t.resumed);
	assert_int_equal(p2pc_map_detach(&t.map, &err), 0);
	memcpy(t.map.ranges[0].addr, "12345", 5);
	assert_int_equal(p2pc_target_finish(&t, true, &err), 0);
	assert_int_equal(p2pc_map_look(&t.map, &err), 0);
	assert_memory_equal(t.map.ranges[0].addr, "12345", 5);
	p2pc_target_close(&t, false);
	holds("w", "12345", 0644);
	/* One that is replaced before it is stored is not written to. */
	assert_int_equal(p2pc_target_open(&t, "v", "some/object", &m, ROOT, false, &err), 0);
	assert_int_equal(p2pc_map_detach(&t.map, &err), 0);
	memcpy(t.map.ranges[0].addr, "12345", 5);
	assert_int_equal(unlink(".v.0011223344556677.mc-part"), 0);
	put_text(".v.0011223344556677.mc-part", "other");
	assert_int_equal(p2pc_target_finish(&t, true, &err), -ESTALE);
	p2pc_target_close(&t, true);
	holds(".v.0011223344556677.mc-part", "other", 0644);
	p2pc_manifest_free(&m);
	/* What is only read. */
	assert_int_equal(offer(&o, "w", false, &err), 0);
	assert_int_equal(p2pc_map_detach(&o.map, &err), 0);
	assert_memory_equal(o.map.ranges[0].addr, "12345", 5);
	assert_int_equal(p2pc_map_look(&o.map, &err), 0);
	assert_int_equal(unlink("w"), 0);
	put_text("w", "54321");
	assert_int_equal(p2pc_map_detach(&o.map, &err), -ESTALE);
	p2pc_offer_close(&o);
}

static void test_target_tree(void **state)
{
	struct p2pc_manifest m;
	struct p2pc_target t;
	struct mc_error err = {0};
	struct stat st;

	umask(022);
	manifest(&m, TREE("{\"path\":\"a/b\",\"size\":3,\"mode\":\"0644\"},{\"path\":\"a/e\",\"dir\":true},"
			  "{\"path\":\"none\",\"size\":0,\"mode\":\"0755\"},{\"path\":\"z\",\"size\":2,\"mode\":\"0755\"}"));
	assert_int_equal(mkdir("there", 0700), 0);
	assert_int_equal(p2pc_target_open(&t, "there/", "some/object", &m, ROOT, false, &err), 0); /* an empty one will do */
	assert_int_equal(t.map.nr, 2);
	memcpy(t.map.ranges[0].addr, "abc", 3);
	memcpy(t.map.ranges[1].addr, "zz", 2);
	assert_int_equal(p2pc_target_finish(&t, true, &err), 0);
	assert_int_equal(p2pc_map_look(&t.map, &err), 0);
	p2pc_target_close(&t, false);
	holds("there/a/b", "abc", 0644);
	holds("there/none", "", 0755);
	holds("there/z", "zz", 0755);
	assert_int_equal(stat("there", &st) | stat("there/a/e", &st), 0);
	no_target("there", &m, false, -EEXIST, "--force replaces it");
	put_text("there/more", "old");
	assert_int_equal(p2pc_target_open(&t, "there", "some/object", &m, ROOT, true, &err), 0);
	memcpy(t.map.ranges[0].addr, "ABC", 3);
	assert_int_equal(p2pc_target_finish(&t, true, &err), 0);
	p2pc_target_close(&t, false);
	holds("there/a/b", "ABC", 0644);
	assert_int_not_equal(access("there/more", F_OK), 0);
	/* Without -o, the last part of its name; unfinished and not wanted any more, it goes as a whole. */
	assert_int_equal(p2pc_target_open(&t, "", "some/object", &m, ROOT, false, &err), 0);
	assert_string_equal(t.path, "object");
	p2pc_target_close(&t, false);
	assert_int_not_equal(access(".object.0011223344556677.mc-part", F_OK), 0);
	/* Nobody leads us out of the part. */
	assert_int_equal(mkdir(".x.0011223344556677.mc-part", 0700) | symlink("../there", ".x.0011223344556677.mc-part/a"), 0);
	no_target("x", &m, false, -EEXIST, "'.x.0011223344556677.mc-part/a' is nothing of the object; remove it");
	put_text("file", "");
	no_target("file", &m, true, -ENOTDIR, "'file' is a file, and the object is a folder");
	assert_int_equal(symlink("there", "link"), 0);
	no_target("link", &m, true, -ENOTDIR, "'link' is a link, and the object is a folder");
	no_target(".", &m, false, -EINVAL, "a folder's own name");
	p2pc_manifest_free(&m);
}

/* What the manifest does not name is refused when a part is found again, and before it appears. */
static void test_target_foreign(void **state)
{
	struct p2pc_manifest m;
	struct p2pc_target t;
	struct mc_error err = {0};
	struct stat st;

	manifest(&m, TREE("{\"path\":\"a/b\",\"size\":3,\"mode\":\"0644\"},{\"path\":\"a/e/f\",\"dir\":true},"
			  "{\"path\":\"a-\",\"size\":1,\"mode\":\"0644\"}"));
	assert_int_equal(p2pc_target_open(&t, "x", "some/object", &m, ROOT, false, &err), 0);
	put_text(".x.0011223344556677.mc-part/a/e/extra", "x");
	assert_int_equal(p2pc_target_finish(&t, false, &err), -EEXIST);
	assert_string_equal(err.text, "'.x.0011223344556677.mc-part/a/e/extra' is nothing of the object; remove it");
	p2pc_target_close(&t, true);
	assert_int_not_equal(access("x", F_OK), 0);
	no_target("x", &m, false, -EEXIST, "a/e/extra' is nothing of the object");
	assert_int_equal(unlink(".x.0011223344556677.mc-part/a/e/extra"), 0);
	assert_int_equal(mkdir(".x.0011223344556677.mc-part/a/e/f/g", 0700), 0);
	no_target("x", &m, false, -EEXIST, "a/e/f/g' is nothing of the object");
	assert_int_equal(rmdir(".x.0011223344556677.mc-part/a/e/f/g"), 0);
	/* A file that others write to under another name is not written to. */
	put_text("mine", "keep");
	assert_int_equal(unlink(".x.0011223344556677.mc-part/a-"), 0);
	assert_int_equal(link("mine", ".x.0011223344556677.mc-part/a-"), 0);
	no_target("x", &m, false, -EMLINK, "a-' is a hard link");
	assert_int_equal(unlink(".x.0011223344556677.mc-part/a-"), 0);
	assert_int_equal(p2pc_target_open(&t, "x", "some/object", &m, ROOT, false, &err), 0);
	assert_int_equal(truncate(".x.0011223344556677.mc-part/a-", 5), 0);
	assert_int_equal(p2pc_target_finish(&t, false, &err), -ESTALE);
	assert_non_null(strstr(err.text, "has grown to 5 of its 1 bytes"));
	p2pc_target_close(&t, true);
	/* Nor do other modes appear than those that we give. */
	umask(022);
	assert_int_equal(chmod(".x.0011223344556677.mc-part/a-", 04600) | chmod(".x.0011223344556677.mc-part/a/b", 0600), 0);
	assert_int_equal(p2pc_target_open(&t, "x", "some/object", &m, ROOT, false, &err), 0);
	memcpy(t.map.ranges[0].addr, "abc", 3);
	assert_int_equal(p2pc_target_finish(&t, false, &err), 0);
	p2pc_target_close(&t, false);
	holds("x/a/b", "abc", 0644);
	assert_int_equal(stat("x/a-", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	put_text(".y.0011223344556677.mc-part", "");
	no_target("y", &m, false, -ENOTDIR, "mc-part' is in the way and no part of a folder; remove it");
	p2pc_manifest_free(&m);
	/* The same of a file. */
	manifest(&m, "{\"format\":1,\"kind\":\"file\",\"entries\":[{\"path\":\"w\",\"size\":5,\"mode\":\"0644\"}]}");
	assert_int_equal(link("mine", ".w.0011223344556677.mc-part"), 0);
	no_target("w", &m, false, -EMLINK, "'.w.0011223344556677.mc-part' is a hard link");
	holds("mine", "keep", 0644);
	assert_int_equal(unlink(".w.0011223344556677.mc-part") | mkdir(".w.0011223344556677.mc-part", 0700), 0);
	no_target("w", &m, false, -EISDIR, "mc-part' is in the way and no part of a file; remove it");
	p2pc_manifest_free(&m);
}

/* No room: one sentence, and nothing is left. */
static void test_target_full(void **state)
{
	struct rlimit old, small = {.rlim_cur = 4096};
	struct p2pc_manifest m;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	manifest(&m, TREE("{\"path\":\"a\",\"size\":3,\"mode\":\"0644\"},{\"path\":\"b\",\"size\":5000,\"mode\":\"0644\"}"));
	no_target("full", &m, false, -EFBIG, "no room on the disk for 4.9 KiB (5000 bytes)");
	assert_int_not_equal(access(".full.0011223344556677.mc-part", F_OK), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	p2pc_manifest_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_progress_line),
		cmocka_unit_test(test_manifest),
		cmocka_unit_test(test_safetensors),
		cmocka_unit_test_setup_teardown(test_offer_tree, setup, teardown),
		cmocka_unit_test_setup_teardown(test_offer_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_offer_checkpoint, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(test_target_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_detached, setup, teardown),
		cmocka_unit_test_setup_teardown(test_target_tree, setup, teardown),
		cmocka_unit_test_setup_teardown(test_target_foreign, setup, teardown),
		cmocka_unit_test_setup_teardown(test_target_full, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
