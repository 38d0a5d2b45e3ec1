/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From paths to an object.  A folder is walked: files, and links that lead to files (model caches
 * are folders of links), belong to it; a link that leads to a folder or nowhere, a socket, a pipe
 * or a device is refused by name, for what was asked for could not arrive.
 */
#include "offer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <core/util/cleanup.h>

#include "safetensors.h"

/* ---- looking ---------------------------------------------------------------------------------- */

static int add_file(struct p2pc_manifest *m, const char *path, const char *source, const struct stat *st,
		    struct mc_error *err)
{
	struct p2pc_entry what = {.size = (uint64_t)st->st_size, .exec = (st->st_mode & 0100) != 0};

	if (p2pc_path_check(path, err) < 0)
		return -EINVAL;
	if (p2pc_manifest_add(m, path, source, &what) < 0)
		return mc_fail(err, -ENOMEM, "out of memory");
	/* Its text is longer: half of what a folder of that size would need is bound enough for the walk. */
	if (m->nr > P2PC_MANIFEST_MAX / 16)
		return mc_fail(err, -E2BIG, "more files than an object can have");
	return 0;
}

static bool is_part(const char *name)
{
	size_t n = strlen(name), m = strlen(P2PC_PART_SUFFIX);

	return name[0] == '.' && n > m && strcmp(name + n - m, P2PC_PART_SUFFIX) == 0;
}

static int walk(struct p2pc_manifest *m, int fd, const char *path, const char *source, struct mc_error *err);

/* fd: of the folder that holds it, by this name. */
static int look_at(struct p2pc_manifest *m, int fd, const char *name, const char *path, const char *source,
		   struct mc_error *err)
{
	struct stat st;
	int below;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return mc_fail(err, -errno, "'%s': %s", source, strerror(errno));
	if (S_ISLNK(st.st_mode)) {
		if (fstatat(fd, name, &st, 0) < 0)
			return mc_fail(err, -errno, "link '%s': it leads nowhere: %s", source, strerror(errno));
		if (S_ISDIR(st.st_mode))
			return mc_fail(err, -ELOOP, "link '%s': it leads to a folder, which is not followed; serve that one too, "
						    "or put files in its place", source);
	}
	if (S_ISREG(st.st_mode))
		return add_file(m, path, source, &st, err);
	if (!S_ISDIR(st.st_mode))
		return mc_fail(err, -EINVAL, "'%s' is neither a file nor a folder", source);
	below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (below < 0)
		return mc_fail(err, -errno, "folder '%s': %s", source, strerror(errno));
	return walk(m, below, path, source, err);
}

/* Takes fd. */
static int walk(struct p2pc_manifest *m, int fd, const char *path, const char *source, struct mc_error *err)
{
	DIR *dir = fdopendir(fd);
	struct dirent *e;
	size_t before = m->nr;
	int r = 0;

	if (!dir) {
		r = mc_fail(err, -errno, "folder '%s': %s", source, strerror(errno));
		close(fd);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir))) {
		mc_cleanup(mc_freep) char *sub = NULL, *from = NULL;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || is_part(e->d_name))
			continue;
		if (asprintf(&sub, "%s%s%s", path, *path ? "/" : "", e->d_name) < 0 ||
		    asprintf(&from, "%s/%s", source, e->d_name) < 0)
			r = mc_fail(err, -ENOMEM, "out of memory");
		else
			r = look_at(m, fd, e->d_name, sub, from, err);
	}
	if (r == 0 && errno)
		r = mc_fail(err, -errno, "folder '%s': %s", source, strerror(errno));
	closedir(dir);
	if (r == 0 && m->nr == before && *path) {
		r = p2pc_path_check(path, err);
		if (r == 0 && p2pc_manifest_add(m, path, NULL, &(struct p2pc_entry){.dir = true}) < 0)
			r = mc_fail(err, -ENOMEM, "out of memory");
	}
	return r;
}

/* The last part of a path, also of "." and "dir/". */
static char *last_part(const char *path)
{
	mc_cleanup(mc_freep) char *real = NULL;
	size_t n = strlen(path);
	const char *from;

	while (n > 1 && path[n - 1] == '/')
		n--;
	from = memrchr(path, '/', n);
	from = from && n > 1 ? from + 1 : path;
	n -= (size_t)(from - path);
	if ((n == 1 && (*from == '.' || *from == '/')) || (n == 2 && strncmp(from, "..", 2) == 0)) {
		real = realpath(path, NULL);
		from = real && strrchr(real, '/') ? strrchr(real, '/') + 1 : "";
		n = strlen(from);
	}
	return strndup(from, n);
}

/* One path of those that were named; alone: it is the whole object. */
static int look(struct p2pc_offer *o, const char *path, bool alone, struct mc_error *err)
{
	mc_cleanup(mc_freep) char *name = last_part(path);
	struct stat st;
	int fd;

	if (!name)
		return mc_fail(err, -ENOMEM, "out of memory");
	if (stat(path, &st) < 0)
		return mc_fail(err, -errno, "'%s': %s", path, strerror(errno));
	if (S_ISREG(st.st_mode))
		return add_file(&o->manifest, name, path, &st, err);
	if (!S_ISDIR(st.st_mode))
		return mc_fail(err, -EINVAL, "'%s' is neither a file nor a folder", path);
	if (!alone)
		return mc_fail(err, -EINVAL, "'%s' is a folder; --name puts several files into one object, or one folder", path);
	o->manifest.tree = true;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return mc_fail(err, -errno, "folder '%s': %s", path, strerror(errno));
	return walk(&o->manifest, fd, "", path, err);
}

/* ---- mapping ---------------------------------------------------------------------------------- */

static int map_all(struct p2pc_offer *o, struct mc_error *err)
{
	size_t nr = 0;
	int r;

	for (size_t i = 0; i < o->manifest.nr; i++)
		nr += o->manifest.entries[i].size > 0;
	r = p2pc_map_open(&o->map, nr, o->manifest.size, false, err);
	for (size_t i = 0; r == 0 && i < o->manifest.nr; i++) {
		const struct p2pc_entry *e = &o->manifest.entries[i];
		int fd;

		if (!e->source)
			continue;
		/* Also an empty one: it must be ours to read. */
		fd = open(e->source, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		if (fd < 0)
			return mc_fail(err, -errno, "file '%s': %s", e->source, strerror(errno));
		if (e->size)
			r = p2pc_map_add(&o->map, fd, e->source, e->size, err);
		close(fd);
	}
	return r < 0 ? r : p2pc_map_seal(&o->map, err);
}

/* ---- is the checkpoint whole? ----------------------------------------------------------------- */

struct checking {
	const struct p2pc_offer *offer;
	size_t folder; /* length of the index's own, with its '/' */
	const char *index;
};

/* A file that the index names. */
static int find_file(void *ctx, const char *name, struct mc_error *err)
{
	const struct checking *c = ctx;
	const struct p2pc_manifest *m = &c->offer->manifest;
	size_t low = 0, high = m->nr;
	char path[P2PC_PATH_MAX * 2 + 2];

	snprintf(path, sizeof path, "%.*s%s", (int)c->folder, c->index, name);
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = p2pc_path_compare(path, m->entries[mid].path);

		if (order == 0 && !m->entries[mid].dir)
			return 0;
		if (order > 0)
			low = mid + 1;
		else
			high = mid;
	}
	return mc_fail(err, -EBADMSG, "file '%s' is named by '%s' and is not there", path, c->index);
}

static int check_entry(struct p2pc_offer *o, const struct p2pc_entry *e, const uint8_t *data, struct mc_error *err)
{
	struct checking c = {.offer = o, .index = e->path};
	const char *slash = strrchr(e->path, '/');
	char what[P2PC_PATH_MAX + 16];
	uint64_t tensors = 0;
	int r = 0;

	snprintf(what, sizeof what, "file '%s'", e->path);
	if (p2pc_is_safetensors(e->path))
		r = p2pc_safetensors_check(what, data, e->size, e->size, &tensors, err);
	c.folder = slash ? (size_t)(slash - e->path) + 1 : 0;
	if (p2pc_is_index(e->path) && o->manifest.tree)
		r = p2pc_index_files(what, data, e->size, find_file, &c, err);
	o->nr_tensors += tensors;
	return r;
}

static int check_all(struct p2pc_offer *o, bool force, struct mc_error *err)
{
	size_t at = 0;

	for (size_t i = 0; i < o->manifest.nr; i++) {
		const struct p2pc_entry *e = &o->manifest.entries[i];
		const uint8_t *data = e->size ? o->map.ranges[at++].addr : (const uint8_t *)"";
		struct mc_error why = {0};
		int r = e->dir ? 0 : check_entry(o, e, data, &why);

		o->nr_files += !e->dir;
		if (r < 0 && !force)
			return mc_fail(err, r, "%.900s; --force serves it all the same", why.text);
		if (r < 0)
			fprintf(stderr, "warning: %s: %s\n", o->name, why.text);
	}
	return 0;
}

int p2pc_offer_open(struct p2pc_offer *o, const char *name, char *const *paths, size_t nr, bool force, struct mc_error *err)
{
	struct mc_error why = {0};
	int r = 0;

	*o = (struct p2pc_offer){.name = name ? strdup(name) : last_part(paths[0]), .map.slot = -1};
	o->manifest.tree = nr > 1;
	if (!o->name)
		r = mc_fail(&why, -ENOMEM, "out of memory");
	for (size_t i = 0; r == 0 && i < nr; i++)
		r = look(o, paths[i], nr == 1, &why);
	if (r == 0 && !o->manifest.nr)
		r = mc_fail(&why, -EINVAL, "the folder is empty");
	if (r == 0)
		r = p2pc_manifest_seal(&o->manifest, &why);
	if (r == 0)
		r = map_all(o, &why);
	if (r == 0)
		r = check_all(o, force, &why);
	if (r == 0) {
		o->text = p2pc_manifest_print(&o->manifest, &o->text_len);
		if (!o->text)
			r = mc_fail(&why, -ENOMEM, "out of memory");
		else if (o->text_len > P2PC_MANIFEST_MAX)
			r = mc_fail(&why, -E2BIG, "its list of %zu files has %zu bytes, and %u is the most; pack it with tar",
				    o->manifest.nr, o->text_len, P2PC_MANIFEST_MAX);
	}
	if (r < 0) {
		mc_fail(err, r, "serve '%.200s': %.750s", paths[0], why.text);
		p2pc_offer_close(o);
	}
	return r;
}

void p2pc_offer_close(struct p2pc_offer *o)
{
	p2pc_map_close(&o->map);
	p2pc_manifest_free(&o->manifest);
	free(o->text);
	free(o->name);
	*o = (struct p2pc_offer){.map.slot = -1};
}
