/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loader: finds a plugin's shared object, checks it before anything of it
 * runs, and lays its table over stubs.  The one file that opens shared objects.
 * Every refusal is one sentence that names the file, the check and the remedy.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "loader.h"
#include "manifest.h"
#include "mc-config.h"
#include "overlay.h"
#include "util/check.h"
#include "util/cleanup.h"
#include "value.h"

#define PATH_LEN 4096
/* Folders of MC_PLUGIN_PATH, the library's own, plugindir. */
#define FOLDERS_MAX 64

/* A plugin and how often it is used. */
struct loaded {
	struct mc_plugin plugin;
	struct loaded *next;
	void *handle;
	size_t refs;
};

/* Guards `list` and every refs in it: engines of one process share plugins.  Not held while a
 * shared object is opened or checked. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded *list;
static int (*trial)(const char *path, struct mc_error *err);

/* Who is being refused, for the sentences. */
struct subject {
	uint32_t kind;    /* 0: any */
	const char *name; /* NULL: any */
	const char *path;
	struct mc_error *err;
};

static int refuse(const struct subject *s, int code, const char *fmt, ...) MC_PRINTF(3, 4);
static int refuse(const struct subject *s, int code, const char *fmt, ...)
{
	const char *kind = mc_plugin_kind_name(s->kind);
	char why[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	return mc_fail(s->err, code, "%s '%.200s' refused: %s", kind ? kind : "plugin",
		       s->name ? s->name : s->path, why);
}

/* ---- checks ------------------------------------------------------------------------------------ */

/* Which package brings a library that plugins link. */
static const char *package_of(const char *why)
{
	static const struct {
		const char *library, *package;
	} known[] = {
		{"libibverbs.so", "install libibverbs1"},
		{"librdmacm.so", "install librdmacm1"},
		{"libcurl.so", "install libcurl4"},
		{"libcxl.so", "install libcxl1"},
		{"libdaxctl.so", "install libdaxctl1"},
		{"libhwloc.so", "install libhwloc15"},
		{"libnuma.so", "install libnuma1"},
		{"liburing.so", "install liburing2"},
		{"libyajl.so", "install libyajl2"},
		{"libcuda.so", "install the NVIDIA driver"},
	};

	for (size_t i = 0; i < MC_ARRAY_SIZE(known); i++) {
		if (strstr(why, known[i].library))
			return known[i].package;
	}
	if (strstr(why, "undefined symbol"))
		return "rebuild the plugin: it was linked without something that it uses";
	if (strstr(why, "invalid ELF header") || strstr(why, "file too short"))
		return "it is no shared object of this machine: build the plugin again, or take the file away";
	return "see `ldd` for what is missing";
}

/* The descriptor, proven to lie in this very file: a lookup also searches what the file links. */
static int find_desc(const struct subject *s, void *handle, const struct mc_plugin_desc **ret)
{
	const ElfW(Sym) *symbol = NULL;
	struct link_map *own = NULL;
	Dl_info info;
	void *at;

	dlerror();
	at = dlsym(handle, MC_PLUGIN_SYMBOL);
	if (!at)
		return refuse(s, -ELIBBAD,
			      "%s does not export '" MC_PLUGIN_SYMBOL "': it is not a plugin of Mooncake",
			      s->path);
	if (dlinfo(handle, RTLD_DI_LINKMAP, &own) < 0 ||
	    !dladdr1(at, &info, (void **)&symbol, RTLD_DL_SYMENT))
		return refuse(s, -ELIBBAD, "%s: '" MC_PLUGIN_SYMBOL "' lies in no file", s->path);
	if (strcmp(info.dli_fname, own->l_name) != 0)
		return refuse(s, -ELIBBAD,
			      "%s does not export '" MC_PLUGIN_SYMBOL "' itself: the one found lies in %s, which it links",
			      s->path, info.dli_fname);
	if (!symbol || symbol->st_size < offsetof(struct mc_plugin_desc, name))
		return refuse(s, -ELIBBAD, "%s: '" MC_PLUGIN_SYMBOL "' is too small for a descriptor",
			      s->path);
	*ret = at;
	if ((*ret)->magic == MC_PLUGIN_MAGIC && (*ret)->size > symbol->st_size)
		return refuse(s, -ELIBBAD, "%s: the descriptor says %llu bytes, but the symbol has %llu",
			      s->path, (unsigned long long)(*ret)->size,
			      (unsigned long long)symbol->st_size);
	return 0;
}

/* The head, whose layout never changes, then what ABI 1.0 has. */
static int check_head(const struct subject *s, const struct mc_plugin_desc *d)
{
	const char *is = mc_plugin_kind_name(d->kind);

	if (d->magic != MC_PLUGIN_MAGIC)
		return refuse(s, -ELIBBAD, "%s: bad magic 0x%016llx in its descriptor", s->path,
			      (unsigned long long)d->magic);
	if (d->abi_major != MC_ABI_MAJOR)
		return refuse(s, -EPROTONOSUPPORT,
			      "%s speaks plugin ABI %u.%u, this core speaks %d.x; rebuild the plugin%s",
			      s->path, d->abi_major, d->abi_minor, MC_ABI_MAJOR,
			      d->abi_major > MC_ABI_MAJOR ? " or update Mooncake" : "");
	if (d->size < sizeof *d)
		return refuse(s, -ELIBBAD, "%s: its descriptor has %llu bytes, ABI %d.0 has %zu", s->path,
			      (unsigned long long)d->size, MC_ABI_MAJOR, sizeof *d);
	if (!is)
		return refuse(s, -ELIBBAD, "%s: kind %u is unknown", s->path, d->kind);
	if (s->kind && d->kind != s->kind)
		return refuse(s, -ELIBBAD, "%s is a %s plugin, not a %s plugin", s->path, is,
			      mc_plugin_kind_name(s->kind));
	if (!d->name || !mc_plugin_name_ok(d->name))
		return refuse(s, -ELIBBAD, "%s: its name is not [a-z0-9-]+ of at most %d bytes", s->path,
			      MC_PLUGIN_NAME_MAX);
	if (s->name && strcmp(d->name, s->name) != 0)
		return refuse(s, -ELIBBAD, "%s calls itself '%s'", s->path, d->name);
	if (!d->ops)
		return refuse(s, -ELIBBAD, "%s: it has no table of operations", s->path);
	if (d->kind == MC_KIND_TRANSPORT && !d->wire)
		return refuse(s, -ELIBBAD, "%s: a transport must name its wire", s->path);
	return 0;
}

static int check_options(const struct subject *s, const struct mc_plugin_desc *d)
{
	const struct mc_option *o;
	struct mc_error why;
	struct mc_value v;

	if (d->options && d->option_size < sizeof(struct mc_option))
		return refuse(s, -ELIBBAD, "%s: its options have %zu bytes each, ABI %d.0 has %zu",
			      s->path, d->option_size, MC_ABI_MAJOR, sizeof(struct mc_option));
	for (size_t i = 0; (o = mc_option_at(d, i)); i++) {
		if (!mc_option_type_name(o->type))
			return refuse(s, -ELIBBAD, "%s: option '%s' has unknown type %u", s->path, o->name,
				      o->type);
		if (o->type == MC_OPT_ENUM && !o->choices)
			return refuse(s, -ELIBBAD, "%s: option '%s' is an enum without choices", s->path,
				      o->name);
		if (!o->def && !(o->flags & MC_OPT_REQUIRED))
			return refuse(s, -ELIBBAD, "%s: option '%s' has no default", s->path, o->name);
		if (o->def && mc_value_parse(o, o->name, o->def, &v, &why) < 0)
			return refuse(s, -ELIBBAD, "%s: the default of option %.300s", s->path, why.text);
	}
	return 0;
}

/* Check all, then fill p->ops.  Nothing of the plugin has run when this returns. */
static int examine(const struct subject *s, void *handle, struct mc_plugin *p)
{
	const struct mc_plugin_desc *desc = NULL;
	const char *missing;
	int r;

	if ((r = find_desc(s, handle, &desc)) < 0 || (r = check_head(s, desc)) < 0 ||
	    (r = check_options(s, desc)) < 0)
		return r;
	p->desc = desc;
	missing = mc_overlay(p);
	if (missing)
		return refuse(s, -ELIBBAD, "%s: its table has no '%s', which a %s plugin must have",
			      s->path, missing, mc_plugin_kind_name(desc->kind));
	return 0;
}

/* ---- the list of loaded ones ------------------------------------------------------------------- */

struct mc_plugin *mc_plugin_ref(struct mc_plugin *plugin)
{
	struct loaded *l = MC_CONTAINER_OF(plugin, struct loaded, plugin);

	pthread_mutex_lock(&list_lock);
	l->refs++;
	pthread_mutex_unlock(&list_lock);
	return plugin;
}

static void loaded_free(struct loaded *l)
{
	/* The file itself stays mapped: RTLD_NODELETE. */
	if (l->handle)
		dlclose(l->handle);
	free(l->plugin.path);
	free(l);
}

void mc_plugin_unref(struct mc_plugin *plugin)
{
	struct loaded *l = plugin ? MC_CONTAINER_OF(plugin, struct loaded, plugin) : NULL;
	struct loaded **at = &list;

	if (!l)
		return;
	pthread_mutex_lock(&list_lock);
	if (--l->refs > 0) {
		pthread_mutex_unlock(&list_lock);
		return;
	}
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	pthread_mutex_unlock(&list_lock);
	loaded_free(l);
}

/* One of this path that is loaded already, with a reference. */
static struct loaded *find_loaded_locked(const char *path)
{
	for (struct loaded *l = list; l; l = l->next) {
		if (strcmp(l->plugin.path, path) == 0) {
			l->refs++;
			return l;
		}
	}
	return NULL;
}

static struct loaded *find_loaded(const char *path)
{
	struct loaded *l;

	pthread_mutex_lock(&list_lock);
	l = find_loaded_locked(path);
	pthread_mutex_unlock(&list_lock);
	return l;
}

/* Put a new one into the list, unless another thread was faster. */
static struct loaded *publish(struct loaded *l)
{
	struct loaded *other;

	pthread_mutex_lock(&list_lock);
	other = find_loaded_locked(l->plugin.path);
	if (!other) {
		l->refs = 1;
		l->next = list;
		list = l;
	}
	pthread_mutex_unlock(&list_lock);
	if (!other)
		return l;
	loaded_free(l);
	return other;
}

void mc_plugin_set_trial(int (*try)(const char *path, struct mc_error *err))
{
	trial = try;
}

static int load_new(const struct subject *s, struct loaded **ret)
{
	struct mc_error verdict;
	struct loaded *l;
	int r = trial ? trial(s->path, &verdict) : 0;

	if (r < 0)
		return refuse(s, r, "%s: %s", s->path, verdict.text);
	l = calloc(1, sizeof *l);
	if (!l)
		return refuse(s, -ENOMEM, "%s: out of memory", s->path);
	l->plugin.path = strdup(s->path);
	l->handle = l->plugin.path ? dlopen(s->path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) : NULL;
	if (!l->plugin.path) {
		r = refuse(s, -ENOMEM, "%s: out of memory", s->path);
	} else if (!l->handle) {
		const char *why = dlerror();

		r = refuse(s, -ELIBACC, "%s cannot be loaded: %.500s; %s", s->path, why ? why : "?",
			   package_of(why ? why : ""));
	} else {
		r = examine(s, l->handle, &l->plugin);
	}
	if (r < 0) {
		loaded_free(l);
		return r;
	}
	*ret = publish(l);
	return 0;
}

int mc_plugin_load_file(const char *path, enum mc_kind kind, const char *name,
			struct mc_plugin **ret_plugin, struct mc_error *err)
{
	struct subject s = {.kind = kind, .name = name, .path = path, .err = err};
	mc_cleanup(mc_freep) char *real = realpath(path, NULL);
	struct loaded *l;
	int r;

	if (!real) {
		r = -errno;
		return refuse(&s, r, "%s: %s", path, strerror(-r));
	}
	s.path = real;
	l = find_loaded(real);
	if (l) {
		/* Loaded under another name or kind: the same refusal as the first time. */
		r = check_head(&s, l->plugin.desc);
		if (r < 0) {
			mc_plugin_unref(&l->plugin);
			return r;
		}
	} else {
		r = load_new(&s, &l);
		if (r < 0)
			return r;
	}
	*ret_plugin = &l->plugin;
	return 0;
}

/* A plugin's sentence without the device that it begins with ("tcp:eth0: ", "device 'eth0': "):
 * whoever passes it on has named it. */
static const char *without_device(const char *why, const char *device)
{
	const char *colon = strchr(device, ':');
	const char *names[] = {device, colon ? colon + 1 : device};

	for (size_t i = 0; i < MC_ARRAY_SIZE(names); i++) {
		size_t len = strlen(names[i]);
		const char *p = why;
		bool quoted;

		p += strncmp(p, "device ", 7) ? 0 : 7;
		quoted = *p == '\'';
		p += quoted;
		if (strncmp(p, names[i], len) != 0)
			continue;
		p += len;
		if (quoted && *p++ != '\'')
			continue;
		if (!strncmp(p, ": ", 2) && p[2])
			return p + 2;
	}
	return why;
}

int mc_plugin_open_failed(const struct mc_plugin *plugin, const char *device, int r,
			  struct mc_error *err)
{
	char text[700];
	const char *why = text;

	if (!err)
		return r;
	snprintf(text, sizeof text, "%.699s", err->text[0] ? err->text : strerror(-r));
	if (device)
		why = without_device(text, device);
	return mc_fail(err, r, "%s '%s' refused: %s cannot open %s%s%s: %s", mc_plugin_kind_name(plugin->desc->kind),
		       plugin->desc->name, plugin->path, device ? "'" : "an instance",
		       device ? device : "", device ? "'" : "", why);
}

/* ---- the search -------------------------------------------------------------------------------- */

struct search {
	char *folders[FOLDERS_MAX];
	size_t nr;
};

static void search_add(struct search *s, const char *folder, size_t len)
{
	if (len && s->nr < FOLDERS_MAX && (s->folders[s->nr] = strndup(folder, len)))
		s->nr++;
}

static void search_fini(struct search *s)
{
	for (size_t i = 0; i < s->nr; i++)
		free(s->folders[i]);
}

/* The core is part of some programs, instead of a library that they link. */
static bool is_program(const char *own)
{
	mc_cleanup(mc_freep) char *program = realpath("/proc/self/exe", NULL);

	return program && strcmp(program, own) == 0;
}

/* MC_PLUGIN_PATH; beside this library, so that a moved installation works; where it was built for. */
static void search_init(struct search *s)
{
	const char *path = secure_getenv("MC_PLUGIN_PATH");
	mc_cleanup(mc_freep) char *own = NULL;
	Dl_info info;

	s->nr = 0;
	while (path && *path) {
		size_t len = strcspn(path, ":");

		search_add(s, path, len);
		path += len + (path[len] == ':');
	}
	if (dladdr((void *)&list, &info) && info.dli_fname && (own = realpath(info.dli_fname, NULL))) {
		char folder[PATH_LEN];
		int len = (int)(strrchr(own, '/') - own);

		if (snprintf(folder, sizeof folder, "%.*s/%s", len, own,
			     is_program(own) ? MC_BIN_TO_LIB "/mooncake" : "mooncake") < (int)sizeof folder &&
		    strcmp(folder, MC_PLUGINDIR) != 0)
			search_add(s, folder, strlen(folder));
	}
	search_add(s, MC_PLUGINDIR, strlen(MC_PLUGINDIR));
}

int mc_plugin_folders(int (*each)(void *ctx, const char *folder), void *ctx)
{
	struct search s;
	int r = 0;

	search_init(&s);
	for (size_t i = 0; i < s.nr && r == 0; i++)
		r = each(ctx, s.folders[i]);
	search_fini(&s);
	return r;
}

/* " 'tcp', 'null'": the plugins of a kind whose files lie in the folders, up to what fits; the
 * closest to name goes to near. */
static void list_files(const struct search *s, uint32_t kind, const char *name, char *buf,
		       size_t cap, char near[MC_PLUGIN_NAME_MAX + 1])
{
	size_t prefix = strlen(mc_plugin_kind_name(kind)), at = 0;

	snprintf(buf, cap, "none");
	*near = '\0';
	for (size_t i = 0; i < s->nr; i++) {
		DIR *dir = opendir(s->folders[i]);
		struct dirent *e;

		while (dir && (e = readdir(dir))) {
			const char *words[3] = {e->d_name, near, NULL};
			char word[MC_PLUGIN_NAME_MAX + 1];
			size_t len = strlen(e->d_name);
			const char *best;

			if (strncmp(e->d_name, mc_plugin_kind_name(kind), prefix) != 0 ||
			    e->d_name[prefix] != '-' || len < prefix + 5 ||
			    len - prefix - 4 > MC_PLUGIN_NAME_MAX ||
			    strcmp(e->d_name + len - 3, ".so") != 0)
				continue;
			snprintf(word, sizeof word, "%.*s", (int)(len - prefix - 4),
				 e->d_name + prefix + 1);
			words[0] = word;
			best = mc_closest(name, words);
			if (best == word)
				strcpy(near, word);
			if (at < cap)
				at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", word);
		}
		if (dir)
			closedir(dir);
	}
}

static int not_found(const struct search *s, uint32_t kind, const char *name, const char *file,
		     struct mc_error *err)
{
	char tried[400] = "", there[200], near[MC_PLUGIN_NAME_MAX + 1];
	size_t at = 0;

	for (size_t i = 0; i < s->nr && at < sizeof tried; i++)
		at += (size_t)snprintf(tried + at, sizeof tried - at, "%s%s/%s", i ? ", " : "",
				       s->folders[i], file);
	list_files(s, kind, name, there, sizeof there, near);
	return mc_fail(err, -ENOENT,
		       "%s '%.64s' refused: there is no file for it%s%s%s; tried: %s; plugins there: %s",
		       mc_plugin_kind_name(kind), name, *near ? " (did you mean '" : "", near,
		       *near ? "'?)" : "", tried, there);
}

int mc_plugin_load(const struct mc_registry *registry, enum mc_kind kind, const char *name,
		   struct mc_plugin **ret_plugin, struct mc_error *err)
{
	const struct mc_manifest *m;
	char path[PATH_LEN], by_name[64];
	const char *file = by_name;
	struct search s;
	int r = -ENOENT;

	if (!mc_plugin_name_ok(name))
		return mc_fail(err, -EINVAL,
			       "%s '%.64s' refused: the name is not [a-z0-9-]+ of at most %d bytes",
			       mc_plugin_kind_name(kind), name, MC_PLUGIN_NAME_MAX);
	/* Without a manifest the file name follows from the name. */
	m = registry ? mc_registry_find(registry, kind, name, NULL) : NULL;
	snprintf(by_name, sizeof by_name, "%s-%s.so", mc_plugin_kind_name(kind), name);
	if (m)
		file = m->library;
	if (*file == '/')
		return mc_plugin_load_file(file, kind, name, ret_plugin, err);
	search_init(&s);
	for (size_t i = 0; i < s.nr && r == -ENOENT; i++) {
		snprintf(path, sizeof path, "%s/%s", s.folders[i], file);
		if (access(path, F_OK) == 0)
			r = mc_plugin_load_file(path, kind, name, ret_plugin, err);
	}
	if (r == -ENOENT)
		not_found(&s, kind, name, file, err);
	search_fini(&s);
	return r;
}
