/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry: all manifests of this host, read once and immutable.  Ours lie
 * in DATADIR/plugins.d, the administrator's in SYSCONFDIR/plugins.d: one with
 * the same file name replaces ours, or, without "library", is laid over it.
 * MC_CONFIG_DIR names one folder instead of both.
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "loader.h"
#include "log.h"
#include "manifest.h"
#include "mc-config.h"
#include "util/check.h"
#include "util/cleanup.h"

#define PATH_MAX_LEN 4096

/* Who is told of manifests that are left out; NULL: one that is broken breaks all. */
struct teller {
	void (*bad)(void *ctx, const char *path, const struct mc_error *why);
	void *ctx;
};

struct mc_registry {
	int refs; /* atomic */
	size_t nr;
	struct mc_manifest *manifests;
};

struct mc_registry *mc_registry_ref(struct mc_registry *registry)
{
	__atomic_fetch_add(&registry->refs, 1, __ATOMIC_RELAXED);
	return registry;
}

void mc_registry_free(struct mc_registry *registry)
{
	if (!registry || __atomic_sub_fetch(&registry->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (size_t i = 0; i < registry->nr; i++)
		mc_manifest_fini(&registry->manifests[i]);
	free(registry->manifests);
	free(registry);
}

size_t mc_registry_nr(const struct mc_registry *registry)
{
	return registry->nr;
}

const struct mc_manifest *mc_registry_at(const struct mc_registry *registry, size_t idx)
{
	return idx < registry->nr ? &registry->manifests[idx] : NULL;
}

static int is_manifest(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return entry->d_name[0] != '.' && len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0;
}

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static struct mc_manifest *find_file(struct mc_registry *registry, const char *name)
{
	for (size_t i = 0; i < registry->nr; i++) {
		if (strcmp(file_name(registry->manifests[i].path), name) == 0)
			return &registry->manifests[i];
	}
	return NULL;
}

/* A free place at the end; it does not count until nr does. */
static struct mc_manifest *new_place(struct mc_registry *registry)
{
	struct mc_manifest *more =
		realloc(registry->manifests, (registry->nr + 1) * sizeof *registry->manifests);

	if (!more)
		return NULL;
	registry->manifests = more;
	more[registry->nr] = (struct mc_manifest){0};
	return &more[registry->nr];
}

/* Over one of the same file name.  On error `under` may hold half of both. */
static int read_over(struct mc_manifest *under, const char *path, const char *text, size_t len,
		     struct mc_error *err)
{
	struct mc_json *root;
	int r = mc_json_parse(path, text, len, &root, err);

	if (r < 0)
		return r;
	if (mc_json_get(root, "library"))
		mc_manifest_fini(under); /* a whole one takes its place */
	mc_json_free(root);
	return mc_manifest_parse(under, path, text, len, err);
}

static int read_manifest(struct mc_registry *registry, const char *dir, const char *name,
			 struct mc_error *err)
{
	mc_cleanup(mc_freep) char *text = NULL;
	struct mc_manifest *under, *m;
	char path[PATH_MAX_LEN];
	size_t len;
	int r;

	if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
		return mc_fail(err, -ENAMETOOLONG, "manifest '%s' in '%.200s': the path is too long", name, dir);
	r = mc_read_file(path, &text, &len, err);
	if (r < 0)
		return r;
	under = find_file(registry, name);
	if (under)
		return read_over(under, path, text, len, err);
	m = new_place(registry);
	if (!m)
		return mc_fail(err, -ENOMEM, "manifest '%s': out of memory", path);
	r = mc_manifest_parse(m, path, text, len, err);
	if (r < 0)
		mc_manifest_fini(m);
	else
		registry->nr++;
	return r;
}

static void drop(struct mc_registry *registry, struct mc_manifest *m)
{
	mc_manifest_fini(m);
	registry->nr--;
	memmove(m, m + 1, (size_t)(&registry->manifests[registry->nr] - m) * sizeof *m);
}

/* One that is broken is told and left out; what it was laid over is as it was. */
static int read_good(struct mc_registry *registry, const char *dir, const char *name,
		     const struct teller *teller, struct mc_error *err)
{
	struct mc_manifest *under = find_file(registry, name);
	mc_cleanup(mc_freep) char *below = under ? strdup(under->path) : NULL;
	mc_cleanup(mc_freep) char *text = NULL;
	char path[PATH_MAX_LEN];
	struct mc_error why = {0};
	size_t len;
	int r = read_manifest(registry, dir, name, &why);

	if (r == 0 || r == -ENOMEM)
		return r == 0 ? 0 : mc_fail(err, r, "%s", why.text);
	snprintf(path, sizeof path, "%s/%s", dir, name);
	teller->bad(teller->ctx, path, &why);
	if (!below)
		return 0;
	mc_manifest_fini(under);
	if (mc_read_file(below, &text, &len, &why) < 0 || mc_manifest_parse(under, below, text, len, &why) < 0)
		drop(registry, under);
	return 0;
}

static int read_dir(struct mc_registry *registry, const char *dir, const struct teller *teller,
		    struct mc_error *err)
{
	struct dirent **names;
	int nr = scandir(dir, &names, is_manifest, alphasort), r = 0;

	if (nr < 0 && errno == ENOENT)
		return 0;
	if (nr < 0) {
		r = -errno;
		return mc_fail(err, r, "manifests in '%s': cannot list them: %s", dir, strerror(-r));
	}
	for (int i = 0; i < nr; i++) {
		if (r == 0 && teller)
			r = read_good(registry, dir, names[i]->d_name, teller, err);
		else if (r == 0)
			r = read_manifest(registry, dir, names[i]->d_name, err);
		free(names[i]);
	}
	free(names);
	return r;
}

static int check_twice(struct mc_registry *registry, const struct teller *teller, struct mc_error *err)
{
	for (size_t i = 0; i < registry->nr; i++) {
		for (size_t j = i + 1; j < registry->nr; j++) {
			const struct mc_manifest *a = &registry->manifests[i];
			struct mc_manifest *b = &registry->manifests[j];
			struct mc_error why;

			if (a->kind != b->kind || strcmp(a->name, b->name) != 0)
				continue;
			mc_fail(&why, -EINVAL, "%s '%s': both '%s' and '%s' describe it; remove one",
				mc_plugin_kind_name(a->kind), a->name, a->path, b->path);
			if (!teller)
				return mc_fail(err, -EINVAL, "%s", why.text);
			teller->bad(teller->ctx, b->path, &why);
			drop(registry, b);
			j--;
		}
	}
	return 0;
}

static int load(struct mc_registry **ret_registry, const struct teller *teller, struct mc_error *err)
{
	const char *only = secure_getenv("MC_CONFIG_DIR");
	struct mc_registry *registry = calloc(1, sizeof *registry);
	char dir[PATH_MAX_LEN];
	int r;

	if (!registry)
		return mc_fail(err, -ENOMEM, "manifests: out of memory");
	registry->refs = 1;
	if (only && *only) {
		snprintf(dir, sizeof dir, "%s/plugins.d", only);
		r = read_dir(registry, dir, teller, err);
	} else {
		r = read_dir(registry, MC_DATADIR "/plugins.d", teller, err);
		if (r == 0)
			r = read_dir(registry, MC_SYSCONFDIR "/plugins.d", teller, err);
	}
	if (r == 0)
		r = check_twice(registry, teller, err);
	if (r < 0) {
		mc_registry_free(registry);
		return r;
	}
	*ret_registry = registry;
	return 0;
}

int mc_registry_load(struct mc_registry **ret_registry, struct mc_error *err)
{
	return load(ret_registry, NULL, err);
}

int mc_registry_load_good(struct mc_registry **ret_registry,
			  void (*bad)(void *ctx, const char *path, const struct mc_error *why), void *ctx,
			  struct mc_error *err)
{
	const struct teller teller = {.bad = bad, .ctx = ctx};

	return load(ret_registry, &teller, err);
}

/* "tcp, null" of those of a kind (0: all) that fit; words ends with NULL, borrowed. */
static void list_names(const struct mc_registry *registry, uint32_t kind, char *buf, size_t cap)
{
	size_t at = 0;

	snprintf(buf, cap, "none");
	for (size_t i = 0; i < registry->nr && at < cap; i++) {
		const struct mc_manifest *m = &registry->manifests[i];

		if (m->kind == kind)
			at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", m->name);
	}
}

static const char *closest_name(const struct mc_registry *registry, uint32_t kind, const char *name)
{
	mc_cleanup(mc_freep) const char **words = calloc(registry->nr + 1, sizeof *words);
	size_t nr = 0;

	for (size_t i = 0; words && i < registry->nr; i++) {
		if (registry->manifests[i].kind == kind)
			words[nr++] = registry->manifests[i].name;
	}
	return words ? mc_closest(name, words) : NULL;
}

const struct mc_manifest *mc_registry_find(const struct mc_registry *registry, enum mc_kind kind,
					   const char *name, struct mc_error *err)
{
	char names[512];
	const char *near;

	for (size_t i = 0; i < registry->nr; i++) {
		const struct mc_manifest *m = &registry->manifests[i];

		if (m->kind == kind && strcmp(m->name, name) == 0)
			return m;
	}
	near = closest_name(registry, kind, name);
	list_names(registry, kind, names, sizeof names);
	mc_fail(err, -ENOENT, "no %s '%.64s'%s%s%s; there are: %s", mc_plugin_kind_name(kind), name,
		near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "", names);
	return NULL;
}

const struct mc_manifest *mc_registry_scheme(const struct mc_registry *registry, const char *scheme,
					     struct mc_error *err)
{
	char known[512] = "none";
	size_t at = 0;

	for (size_t i = 0; i < registry->nr; i++) {
		const struct mc_manifest *m = &registry->manifests[i];

		if (m->kind != MC_KIND_METADATA)
			continue;
		for (char **s = m->schemes; *s; s++) {
			if (strcmp(*s, scheme) == 0)
				return m;
			if (at < sizeof known)
				at += (size_t)snprintf(known + at, sizeof known - at, "%s%s://",
						       at ? ", " : "", *s);
		}
	}
	mc_fail(err, -ENOENT, "no metadata plugin serves the scheme '%.64s'; there are: %s",
		scheme, known);
	return NULL;
}

/* "sysfs:class/net/STAR": a device of this name exists there; else a glob on the name. */
static bool claims(const struct mc_manifest *m, const char *device)
{
	for (char **c = m->claims; *c; c++) {
		const char *dir = strncmp(*c, "sysfs:", 6) == 0 ? *c + 6 : NULL;
		size_t len = dir ? strlen(dir) : 0;
		char path[PATH_MAX_LEN];

		if (!dir) {
			if (fnmatch(*c, device, 0) == 0)
				return true;
			continue;
		}
		if (strchr(device, '/') || device[0] == '.')
			continue;
		if (len >= 2 && strcmp(dir + len - 2, "/*") == 0)
			len -= 2;
		snprintf(path, sizeof path, "/sys/%.*s/%s", (int)len, dir, device);
		if (access(path, F_OK) == 0)
			return true;
	}
	return false;
}

static void kind_add(const char **words, size_t *nr, const char *word)
{
	for (size_t i = 0; i < *nr; i++)
		if (strcmp(words[i], word) == 0)
			return;
	if (strcmp(word, "*") != 0)
		words[(*nr)++] = word;
}

int mc_registry_memory_kind(const struct mc_registry *registry, const char *kind, struct mc_error *err)
{
	/* One matrix may serve hosts with such memory and hosts without. */
	static const char *const everywhere[] = {"cpu", "cuda", "cxl"};
	size_t nr = 0, cap = MC_ARRAY_SIZE(everywhere) + 1, at = 0;
	mc_cleanup(mc_freep) const char **words = NULL;
	const char *near;
	char known[512] = "";

	for (size_t i = 0; i < registry->nr; i++) {
		cap++;
		for (char **k = registry->manifests[i].memory; *k; k++)
			cap++;
	}
	words = calloc(cap, sizeof *words);
	if (!words)
		return mc_fail(err, -ENOMEM, "memory kinds: out of memory");
	for (size_t i = 0; i < MC_ARRAY_SIZE(everywhere); i++)
		kind_add(words, &nr, everywhere[i]);
	for (size_t i = 0; i < registry->nr; i++) {
		const struct mc_manifest *m = &registry->manifests[i];

		if (m->kind == MC_KIND_MEMORY)
			kind_add(words, &nr, m->name);
		for (char **k = m->memory; *k; k++)
			kind_add(words, &nr, *k);
	}
	for (size_t i = 0; i < nr; i++) {
		if (strcmp(words[i], kind) == 0)
			return 0;
		if (at < sizeof known)
			at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", at ? ", " : "", words[i]);
	}
	near = mc_closest(kind, words);
	return mc_fail(err, -EINVAL, "no memory kind '%.64s'%s%s%s; there are: %s", kind,
		       near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "", known);
}

static bool reaches(const struct mc_manifest *m, const char *kind)
{
	if (strcmp(kind, "*") == 0)
		return true;
	for (char **k = m->memory; *k; k++) {
		if (strcmp(*k, "*") == 0 || strcmp(*k, kind) == 0)
			return true;
	}
	return false;
}

/* ": rdma looks for it in /sys/class/infiniband, tcp in /sys/class/net", of those that reach the memory; "": none
 * looks anywhere. */
static void list_places(const struct mc_registry *registry, const char *kind, char *buf, size_t cap)
{
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < registry->nr; i++) {
		const struct mc_manifest *m = &registry->manifests[i];

		if (m->kind != MC_KIND_TRANSPORT || !reaches(m, kind))
			continue;
		for (char **c = m->claims; *c && at < cap; c++) {
			const char *dir = strncmp(*c, "sysfs:", 6) == 0 ? *c + 6 : NULL;
			size_t len = dir ? strlen(dir) : 0;

			if (!dir)
				continue;
			if (len >= 2 && strcmp(dir + len - 2, "/*") == 0)
				len -= 2;
			at += (size_t)snprintf(buf + at, cap - at, "%s%s %s/sys/%.*s", at ? ", " : ": ", m->name,
					       at ? "in " : "looks for it in ", (int)len, dir);
		}
	}
}

const struct mc_manifest *mc_registry_claim(const struct mc_registry *registry, const char *device,
					    const char *kind, struct mc_error *err)
{
	const struct mc_manifest *found = NULL, *unreached = NULL;
	char names[256], how[512], places[256];
	size_t nr = 0, at = 0, hat = 0;

	how[0] = '\0';
	for (size_t i = 0; i < registry->nr; i++) {
		const struct mc_manifest *m = &registry->manifests[i];

		if (m->kind != MC_KIND_TRANSPORT || !claims(m, device))
			continue;
		if (!reaches(m, kind)) {
			unreached = m;
			continue;
		}
		found = m;
		nr++;
		if (at < sizeof names)
			at += (size_t)snprintf(names + at, sizeof names - at, "%s%s",
					       at ? ", " : "", m->name);
		if (hat < sizeof how)
			hat += (size_t)snprintf(how + hat, sizeof how - hat, "%s'%s:%.64s'",
						hat ? " or " : "", m->name, device);
	}
	if (nr == 1)
		return found;
	if (nr > 1) {
		mc_fail(err, -EINVAL, "device '%.64s': several transports claim it (%s); write %s", device,
			names, how);
	} else if (unreached) {
		mc_fail(err, -ENODEV,
			"device '%.64s': transport '%s' claims it, but does not reach %s memory", device,
			unreached->name, kind);
	} else {
		list_names(registry, MC_KIND_TRANSPORT, names, sizeof names);
		list_places(registry, kind, places, sizeof places);
		mc_fail(err, -ENODEV,
			"device '%.64s': no transport claims it%s; if it exists, write 'TRANSPORT:%.64s' with one of: %s",
			device, places, device, names);
	}
	return NULL;
}
