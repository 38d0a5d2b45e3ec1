/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading, checking and writing manifests.  They come from whoever serves the object, so
 * nothing in one may lead outside the folder that is written, name a thing twice, or make a
 * file where a folder has to be.
 */
#include "manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cli/program/text.h>

#include "json_read.h"

/* ---- paths ------------------------------------------------------------------------------------ */

int p2pc_path_check(const char *path, struct mc_error *err)
{
	size_t len = strlen(path);

	if (!len || len > P2PC_PATH_MAX)
		return mc_fail(err, -EINVAL, "path '%.80s': %s", path, len ? "longer than 4095 bytes" : "empty");
	if (!mc_text_plain(path, len))
		return mc_fail(err, -EINVAL, "path '%.200s': not UTF-8, or a control character in it", path);
	for (const char *part = path;;) {
		size_t n = strcspn(part, "/");

		if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
			return mc_fail(err, -EINVAL, "path '%.200s': not a plain relative path (it holds '%.*s')", path,
				       n ? (int)n : 1, n ? part : "/");
		if (n > P2PC_PART_MAX)
			return mc_fail(err, -EINVAL, "path '%.80s...': a name in it is longer than 255 bytes", path);
		if (!part[n])
			return 0;
		part += n + 1;
	}
}

int p2pc_path_compare(const char *a, const char *b)
{
	for (;; a++, b++) {
		unsigned x = *a == '/' ? 1 : *a ? (unsigned)(unsigned char)*a + 1 : 0;
		unsigned y = *b == '/' ? 1 : *b ? (unsigned)(unsigned char)*b + 1 : 0;

		if (x != y)
			return x < y ? -1 : 1;
		if (!x)
			return 0;
	}
}

static int compare_entries(const void *a, const void *b)
{
	return p2pc_path_compare(((const struct p2pc_entry *)a)->path, ((const struct p2pc_entry *)b)->path);
}

/* ---- the table -------------------------------------------------------------------------------- */

int p2pc_manifest_add(struct p2pc_manifest *m, const char *path, const char *source, const struct p2pc_entry *what)
{
	char *copy = strdup(path), *from = source ? strdup(source) : NULL;

	if (m->nr == m->cap) {
		size_t cap = m->cap ? m->cap * 2 : 16;
		struct p2pc_entry *more = reallocarray(m->entries, cap, sizeof *more);

		if (more) {
			m->entries = more;
			m->cap = cap;
		}
	}
	if (!copy || (source && !from) || m->nr == m->cap) {
		free(copy);
		free(from);
		return -ENOMEM;
	}
	m->entries[m->nr] = *what;
	m->entries[m->nr].path = copy;
	m->entries[m->nr++].source = from;
	return 0;
}

void p2pc_manifest_free(struct p2pc_manifest *m)
{
	for (size_t i = 0; i < m->nr; i++) {
		free(m->entries[i].path);
		free(m->entries[i].source);
	}
	free(m->entries);
	*m = (struct p2pc_manifest){0};
}

/* In order, each path good and none in the way of the next; sets the size. */
static int check(struct p2pc_manifest *m, struct mc_error *err)
{
	m->size = 0;
	if (!m->nr || (!m->tree && (m->nr != 1 || m->entries[0].dir || strchr(m->entries[0].path, '/'))))
		return mc_fail(err, -EBADMSG, "%s", m->nr ? "kind 'file' has one entry, a file without '/' in its path"
							 : "it names no file");
	for (size_t i = 0; i < m->nr; i++) {
		const struct p2pc_entry *e = &m->entries[i], *before = i ? e - 1 : NULL;
		size_t n = before ? strlen(before->path) : 0;

		if (p2pc_path_check(e->path, err) < 0)
			return -EBADMSG;
		if (before && e->source && before->source && strcmp(before->path, e->path) == 0)
			return mc_fail(err, -EEXIST, "'%.200s' and '%.200s' would both be '%.200s' in the object; rename one, or put "
						     "them into a folder and serve that", before->source, e->source, e->path);
		if (before && p2pc_path_compare(before->path, e->path) >= 0)
			return mc_fail(err, -EBADMSG, "path '%.200s' is there twice or out of order", e->path);
		if (before && strncmp(before->path, e->path, n) == 0 && e->path[n] == '/')
			return mc_fail(err, -EBADMSG, "path '%.200s' lies inside '%.200s', which is %s", e->path,
				       before->path, before->dir ? "an empty folder" : "a file");
		if ((e->dir && (e->size || e->exec)) || __builtin_add_overflow(m->size, e->size, &m->size) ||
		    m->size > INT64_MAX)
			return mc_fail(err, -EBADMSG, "path '%.200s': a size that cannot be", e->path);
	}
	return 0;
}

int p2pc_manifest_seal(struct p2pc_manifest *m, struct mc_error *err)
{
	if (m->nr)
		qsort(m->entries, m->nr, sizeof *m->entries, compare_entries);
	return check(m, err);
}

/* ---- reading ---------------------------------------------------------------------------------- */

enum { HAS_FORMAT = 1, HAS_KIND = 2, HAS_ENTRIES = 4, HAS_PATH = 8, HAS_SIZE = 16, HAS_MODE = 32, HAS_DIR = 64 };

struct reading {
	struct p2pc_manifest *m;
	unsigned has;
	char *path;
	uint64_t size;
	bool exec;
};

static int once(struct p2pc_json *j, unsigned bit)
{
	struct reading *r = j->ctx;

	if (r->has & bit)
		return p2pc_json_fail(j, "'%.40s' is there twice", j->level[j->depth - 1].key);
	r->has |= bit;
	return 0;
}

static int read_head(struct p2pc_json *j, enum p2pc_json_type type, const char *text)
{
	struct reading *r = j->ctx;

	if (type == P2PC_JSON_END && r->has & HAS_ENTRIES)
		return 0;
	if (p2pc_json_at(j, 1, "format")) {
		if (type != P2PC_JSON_NUMBER || strcmp(text, "1") != 0)
			return p2pc_json_fail(j, "its format is %.40s, this program reads 1; a newer one wrote it",
					      *text ? text : "no number");
		return once(j, HAS_FORMAT);
	}
	if (p2pc_json_at(j, 1, "kind")) {
		r->m->tree = strcmp(text, "tree") == 0;
		if (type != P2PC_JSON_TEXT || (!r->m->tree && strcmp(text, "file") != 0))
			return p2pc_json_fail(j, "kind is neither 'file' nor 'tree'");
		return once(j, HAS_KIND);
	}
	if (p2pc_json_at(j, 1, "entries") && type == P2PC_JSON_LIST)
		return once(j, HAS_ENTRIES);
	return p2pc_json_fail(j, "'%.40s' is not what a manifest has there", j->level[0].key);
}

static int read_field(struct p2pc_json *j, enum p2pc_json_type type, const char *text)
{
	struct reading *r = j->ctx;

	if (p2pc_json_at(j, 3, "path") && type == P2PC_JSON_TEXT) {
		free(r->path);
		r->path = strdup(text);
		return r->path ? once(j, HAS_PATH) : -ENOMEM;
	}
	if (p2pc_json_at(j, 3, "size")) {
		int e = p2pc_json_count(j, "size", type, text, &r->size);

		return e < 0 ? e : once(j, HAS_SIZE);
	}
	if (p2pc_json_at(j, 3, "mode")) {
		r->exec = strcmp(text, "0755") == 0;
		if (type != P2PC_JSON_TEXT || (!r->exec && strcmp(text, "0644") != 0))
			return p2pc_json_fail(j, "mode is neither '0644' nor '0755'");
		return once(j, HAS_MODE);
	}
	if (p2pc_json_at(j, 3, "dir") && type == P2PC_JSON_BOOL && strcmp(text, "true") == 0)
		return once(j, HAS_DIR);
	return p2pc_json_fail(j, "'%.40s' is not what an entry has there", j->level[2].key);
}

static int read_entry(struct p2pc_json *j, enum p2pc_json_type type)
{
	struct reading *r = j->ctx;
	unsigned has = r->has & (HAS_PATH | HAS_SIZE | HAS_MODE | HAS_DIR);

	if (type == P2PC_JSON_MAP) {
		r->has &= ~(unsigned)(HAS_PATH | HAS_SIZE | HAS_MODE | HAS_DIR);
		return 0;
	}
	if (type != P2PC_JSON_END)
		return p2pc_json_fail(j, "an entry is no object");
	if (has != (HAS_PATH | HAS_DIR) && has != (HAS_PATH | HAS_SIZE | HAS_MODE))
		return p2pc_json_fail(j, "an entry has neither path, size and mode nor path and dir");
	return p2pc_manifest_add(r->m, r->path, NULL,
				 has & HAS_DIR ? &(struct p2pc_entry){.dir = true}
					       : &(struct p2pc_entry){.size = r->size, .exec = r->exec});
}

static int read_value(struct p2pc_json *j, enum p2pc_json_type type, const char *text, size_t len)
{
	if (j->depth == 0)
		return type == P2PC_JSON_MAP || type == P2PC_JSON_END ? 0 : p2pc_json_fail(j, "it is no object");
	if (j->depth == 1)
		return read_head(j, type, text);
	if (j->depth == 2)
		return read_entry(j, type);
	if (j->depth == 3)
		return read_field(j, type, text);
	return p2pc_json_fail(j, "it is deeper than a manifest");
}

int p2pc_manifest_parse(const void *text, size_t len, struct p2pc_manifest *ret, struct mc_error *err)
{
	struct p2pc_manifest m = {0};
	struct mc_error why = {0};
	struct reading r = {.m = &m};
	struct p2pc_json j = {.each = read_value, .ctx = &r, .what = "manifest", .err = err};
	int e;

	if (len > P2PC_MANIFEST_MAX)
		return mc_fail(err, -EBADMSG, "manifest: larger than %u bytes", P2PC_MANIFEST_MAX);
	e = p2pc_json_read(&j, text, len);
	free(r.path);
	if (e == -ENOMEM)
		mc_fail(err, e, "manifest: out of memory");
	if (e == 0 && (r.has & 7) != 7)
		e = mc_fail(err, -EBADMSG, "manifest: it lacks format, kind or entries");
	if (e == 0 && check(&m, &why) < 0)
		e = mc_fail(err, -EBADMSG, "manifest: %.900s", why.text);
	if (e < 0)
		p2pc_manifest_free(&m);
	else
		*ret = m;
	return e;
}

/* ---- writing ---------------------------------------------------------------------------------- */

char *p2pc_manifest_print(const struct p2pc_manifest *m, size_t *ret_len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_len);

	if (!f)
		return NULL;
	fprintf(f, "{\"format\":1,\"kind\":\"%s\",\"entries\":[", m->tree ? "tree" : "file");
	for (size_t i = 0; i < m->nr; i++) {
		const struct p2pc_entry *e = &m->entries[i];

		fputs(i ? ",{\"path\":" : "{\"path\":", f);
		mc_text_json(f, e->path);
		if (e->dir)
			fputs(",\"dir\":true}", f);
		else
			fprintf(f, ",\"size\":%" PRIu64 ",\"mode\":\"%s\"}", e->size, e->exec ? "0755" : "0644");
	}
	fputs("]}", f);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
