/* SPDX-License-Identifier: Apache-2.0 */
/* The host of the metadata conformance suite: loading a plugin, parsing its options. */
#include "meta-host.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int mh_load(const char *path, struct mh_plugin *ret, struct mc_error *err)
{
	void *dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct mc_plugin_desc *d;
	Dl_info info;

	if (!dl)
		return mc_fail(err, -ELIBACC, "%s", dlerror());
	d = dlsym(dl, MC_PLUGIN_SYMBOL);
	if (!d || !dladdr(d, &info) || !strstr(path, strrchr(info.dli_fname, '/')))
		return mc_fail(err, -ELIBBAD, "%s: no descriptor of its own", path);
	if (d->magic != MC_PLUGIN_MAGIC || d->abi_major != MC_ABI_MAJOR || d->size < sizeof *d ||
	    d->option_size < sizeof(struct mc_option))
		return mc_fail(err, -ELIBBAD, "%s: bad head of the descriptor", path);
	if (d->kind != MC_KIND_METADATA || !d->ops)
		return mc_fail(err, -ELIBBAD, "%s: not a metadata plugin", path);
	ret->desc = d;
	ret->ops = d->ops;
	return 0;
}

static const struct {
	const char *suffix;
	double ns;
} spans[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"min", 60e9}, {"s", 1e9}, {"", 1e9}};
static const struct {
	const char *suffix;
	double bytes;
} sizes[] = {{"KiB", 1024}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"", 1}};

static int parse_value(const struct mc_option *o, const char *text, struct mc_value *v)
{
	char *end;
	double d = strtod(text, &end);

	if (!strcmp(text, "auto") && o->flags & MC_OPT_AUTO) {
		v->i = MC_VALUE_AUTO;
		return 0;
	}
	switch (o->type) {
	case MC_OPT_BOOL:
		v->b = !strcmp(text, "true");
		return v->b || !strcmp(text, "false") ? 0 : -EINVAL;
	case MC_OPT_STRING:
		v->s = text;
		return 0;
	case MC_OPT_ENUM:
		for (int i = 0; o->choices && o->choices[i]; i++) {
			if (!strcmp(text, o->choices[i])) {
				v->s = o->choices[i];
				v->i2 = i;
				return 0;
			}
		}
		return -EINVAL;
	case MC_OPT_FLOAT:
		v->d = d;
		return *end || end == text ? -EINVAL : 0;
	case MC_OPT_INT:
		v->i = strtoll(text, &end, 0);
		break;
	case MC_OPT_DURATION:
		for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++)
			if (!strcmp(end, spans[i].suffix)) {
				v->i = (int64_t)(d * spans[i].ns);
				end = (char *)(uintptr_t) "";
				break;
			}
		break;
	case MC_OPT_SIZE:
		for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
			if (!strcmp(end, sizes[i].suffix)) {
				v->i = (int64_t)(d * sizes[i].bytes);
				end = (char *)(uintptr_t) "";
				break;
			}
		break;
	default:
		return -EINVAL;
	}
	if (end == text || *end || ((o->min || o->max) && (v->i < o->min || v->i > o->max)))
		return -EINVAL;
	return 0;
}

static const struct mc_option *option_at(const struct mc_plugin_desc *d, size_t i)
{
	return (const void *)((const char *)d->options + i * d->option_size);
}

/* MH_OPTIONS, which the set-up command has filled, as words. */
static char setup_text[1024];
static const char *setup_words[17];

static void setup_split(void)
{
	char *rest = setup_text;
	size_t nr = 0;

	snprintf(setup_text, sizeof setup_text, "%s", getenv("MH_OPTIONS") ? getenv("MH_OPTIONS") : "");
	while (nr < 16 && (setup_words[nr] = strsep(&rest, " ")))
		nr++;
}

static const char *word_for(const char *name, const char *const *words)
{
	size_t n = strlen(name);

	for (; words && *words; words++)
		if (!strncmp(*words, name, n) && (*words)[n] == '=')
			return *words + n + 1;
	return NULL;
}

int mh_options(const struct mc_plugin_desc *d, const char *const *words,
	       struct mc_value **ret_values, struct mc_error *err)
{
	static pthread_once_t split = PTHREAD_ONCE_INIT;
	struct mc_value *v;
	size_t nr = 0;

	pthread_once(&split, setup_split);
	if (!words)
		words = setup_words;
	while (d->options && option_at(d, nr)->name)
		nr++;
	v = calloc(nr + 1, sizeof *v);
	for (size_t i = 0; i < nr; i++) {
		const struct mc_option *o = option_at(d, i);
		const char *text = word_for(o->name, words);

		if (!*o->name || o->name[strspn(o->name, "abcdefghijklmnopqrstuvwxyz0123456789_")])
			mc_fail(err, -EINVAL, "option '%s': bad name", o->name);
		else if (!o->doc || !*o->doc)
			mc_fail(err, -EINVAL, "option '%s': no doc", o->name);
		else if (!o->def && !(o->flags & MC_OPT_REQUIRED))
			mc_fail(err, -EINVAL, "option '%s': neither default nor required", o->name);
		else if (o->def && parse_value(o, o->def, &v[i]) < 0)
			mc_fail(err, -EINVAL, "option '%s': its default is not valid", o->name);
		else if (text && parse_value(o, text, &v[i]) < 0)
			mc_fail(err, -EINVAL, "option '%s': '%s' is not valid", o->name, text);
		else
			continue;
		free(v);
		return -EINVAL;
	}
	*ret_values = v;
	return 0;
}
