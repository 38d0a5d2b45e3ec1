/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cases of the level `loads`: what a plugin is before anything of it is called.
 * They open the file themselves, and take plugins of every kind.
 */
#include "cases.h"
#include "footprint.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening the file ------------------------------------------------------------------------ */

static void *open_file(const char *path)
{
	return dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

static int case_load(struct ctx *c)
{
	CHECK(open_file(c->path), "%s", dlerror());
	return PASS;
}

/* Other cases of this level; the sentence of `load` says more. */
#define OPEN(c, dl)                      \
	void *dl = open_file((c)->path); \
	if (!dl)                         \
	return skip(c, "the file cannot be loaded")

/* Its constructors may do nothing: whatever they do, a program suffers that only lists its plugins.
 */
static int case_quiet(struct ctx *c)
{
	static struct footprint before, after;
	bool loaded;

	if (footprint_begin(&before) < 0)
		return skip(c, "/proc cannot be read here");
	loaded = open_file(c->path) != NULL;
	footprint_end(&after);
	if (!loaded)
		return skip(c, "the file cannot be loaded");
	return footprint_compare(&before, &after, c->told->why, WHY_MAX) ? FAIL : PASS;
}

/* ---- what the file exports and links --------------------------------------------------------- */

/* What the dynamic section of a loaded object points to. */
struct tables {
	const struct link_map *map;
	const char *strings;
	const ElfW(Sym) * symbols;
	const uint32_t *gnu_hash; /* either may be NULL */
	const ElfW(Word) * hash;
};

/* The C library has relocated these pointers on most machines, not on all. */
static const void *place(const struct link_map *map, ElfW(Addr) at)
{
	return (const void *)(at < map->l_addr ? map->l_addr + at : at);
}

static int tables_of(void *dl, struct tables *t)
{
	struct link_map *map;

	*t = (struct tables){NULL};
	if (dlinfo(dl, RTLD_DI_LINKMAP, &map) < 0)
		return -EINVAL;
	t->map = map;
	for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
		if (d->d_tag == DT_STRTAB)
			t->strings = place(map, d->d_un.d_ptr);
		else if (d->d_tag == DT_SYMTAB)
			t->symbols = place(map, d->d_un.d_ptr);
		else if (d->d_tag == DT_GNU_HASH)
			t->gnu_hash = place(map, d->d_un.d_ptr);
		else if (d->d_tag == DT_HASH)
			t->hash = place(map, d->d_un.d_ptr);
	}
	return t->strings && t->symbols ? 0 : -EINVAL;
}

/* Names that begin with an underscore are those of linkers and sanitizers. */
static bool is_extra(const struct tables *t, const ElfW(Sym) * s)
{
	const char *name = t->strings + s->st_name;

	return s->st_shndx != SHN_UNDEF && s->st_shndx != SHN_ABS && name[0] && name[0] != '_' &&
	       strcmp(name, MC_PLUGIN_SYMBOL) != 0;
}

/* The first symbol that is defined, global and not the one, or NULL.  A table of GNU hashes holds
 * the defined ones alone, in chains that end with an odd value. */
static const char *extra_by_gnu_hash(const struct tables *t)
{
	const uint32_t nr_buckets = t->gnu_hash[0], first = t->gnu_hash[1], words = t->gnu_hash[2];
	const uint32_t *buckets = t->gnu_hash + 4 + words * (sizeof(ElfW(Addr)) / 4);
	const uint32_t *chains = buckets + nr_buckets;

	for (uint32_t b = 0; b < nr_buckets; b++) {
		for (uint32_t i = buckets[b]; i >= first && i; i++) {
			if (is_extra(t, &t->symbols[i]))
				return t->strings + t->symbols[i].st_name;
			if (chains[i - first] & 1)
				break;
		}
	}
	return NULL;
}

static const char *extra_by_hash(const struct tables *t)
{
	for (ElfW(Word) i = 1; i < t->hash[1]; i++) {
		const ElfW(Sym) *s = &t->symbols[i];

		if (ELF64_ST_BIND(s->st_info) != STB_LOCAL && is_extra(t, s))
			return t->strings + s->st_name;
	}
	return NULL;
}

static int case_exports(struct ctx *c)
{
	struct tables t;
	const char *extra = NULL;
	OPEN(c, dl);

	CHECK(dlsym(dl, MC_PLUGIN_SYMBOL), "it does not export " MC_PLUGIN_SYMBOL);
	if (tables_of(dl, &t) < 0 || (!t.gnu_hash && !t.hash))
		return skip(c, "the file has no table of symbols that is known here");
	extra = t.gnu_hash ? extra_by_gnu_hash(&t) : extra_by_hash(&t);
	CHECK(!extra, "it exports '%s', which it must not: compile with -fvisibility=hidden",
	      extra);
	return PASS;
}

/* A plugin reaches the host through the table of services alone. */
static int case_links(struct ctx *c)
{
	static const char *const ours[] = {"libmooncake.so", "mod-",    "transport-",
					   "metadata-",      "memory-", "filter-"};
	struct tables t;
	OPEN(c, dl);

	if (tables_of(dl, &t) < 0)
		return skip(c, "the file has no dynamic section that is known here");
	for (const ElfW(Dyn) *d = t.map->l_ld; d->d_tag != DT_NULL; d++) {
		const char *name, *slash;

		if (d->d_tag != DT_NEEDED)
			continue;
		name = t.strings + d->d_un.d_val;
		slash = strrchr(name, '/');
		name = slash ? slash + 1 : name;
		for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
			CHECK(strncmp(name, ours[i], strlen(ours[i])) != 0,
			      "it links %s: a plugin links no library of ours and no other plugin",
			      name);
	}
	return PASS;
}

/* ---- the descriptor -------------------------------------------------------------------------- */

static const char *const kinds[] = {"", "transport", "metadata", "memory", "filter"};

/* The descriptor, as soon as its head is sound; else NULL. */
static const struct mc_plugin_desc *desc_of(void *dl)
{
	const struct mc_plugin_desc *d = dlsym(dl, MC_PLUGIN_SYMBOL);

	if (!d || d->magic != MC_PLUGIN_MAGIC || d->abi_major != MC_ABI_MAJOR ||
	    d->size < sizeof *d)
		return NULL;
	return d->kind && d->kind < MC_KIND_COUNT && d->name ? d : NULL;
}

#define DESC(c, d)                             \
	const struct mc_plugin_desc *d = NULL; \
	OPEN(c, dl);                           \
	d = desc_of(dl);                       \
	if (!d)                                \
	return skip(c, "the head of the descriptor is not sound")

static bool word_is(const char *s, const char *chars)
{
	return s && *s && strspn(s, chars) == strlen(s);
}

static int check_file_name(struct ctx *c, const struct mc_plugin_desc *d)
{
	const char *slash = strrchr(c->path, '/'), *file = slash ? slash + 1 : c->path;
	char want[128];

	snprintf(want, sizeof want, "%s-%.64s.so", kinds[d->kind], d->name);
	CHECK(!strcmp(file, want), "the file is named '%s', the plugin in it is found as '%s'",
	      file, want);
	return PASS;
}

static int case_descriptor(struct ctx *c)
{
	DESC(c, d);

	CHECK(word_is(d->name, "abcdefghijklmnopqrstuvwxyz0123456789-"), "name '%s'", d->name);
	CHECK(strlen(d->name) <= MC_PLUGIN_NAME_MAX, "the name is longer than %d",
	      MC_PLUGIN_NAME_MAX);
	CHECK(d->version && *d->version && d->summary && *d->summary, "no version or summary");
	CHECK(!(d->flags & ~MC_PLUGIN_OPTIONAL), "flags are %#x", d->flags);
	if (d->kind == MC_KIND_TRANSPORT) {
		CHECK(d->wire && *d->wire && d->wire_min && d->wire_min <= d->wire_max,
		      "wire %u..%u", d->wire_min, d->wire_max);
		CHECK(d->claims, "no claims (an empty list is fine)");
	}
	if (d->kind == MC_KIND_TRANSPORT || d->kind == MC_KIND_MEMORY)
		CHECK(d->memory && d->memory[0], "no memory kinds");
	if (d->kind == MC_KIND_METADATA)
		CHECK(d->schemes && d->schemes[0], "no schemes");
	return check_file_name(c, d);
}

/* Slots that need others. */
static int metadata_table(struct ctx *c, const struct mc_metadata_ops *o)
{
	c->told->section = 8;
	CHECK(!o->watch == !o->unwatch, "watch needs unwatch, and unwatch watch");
	CHECK(!o->lease_grant == !o->lease_keepalive && !o->lease_grant == !o->lease_revoke,
	      "lease_grant, lease_keepalive and lease_revoke need one another");
	return PASS;
}

static int memory_table(struct ctx *c, const struct mc_memory_ops *o)
{
	c->told->section = 9;
	CHECK(!o->alloc == !o->free, "alloc needs free, and free alloc");
	return PASS;
}

static int filter_table(struct ctx *c, const struct mc_filter_ops *o)
{
	c->told->section = 10;
	CHECK(o->open || !(o->submit || o->flush || o->progress || o->arm || o->cancel || o->fence || o->completed),
	      "a filter with any of submit to completed needs open");
	return PASS;
}

static int case_table(struct ctx *c)
{
	struct fake_plugin p = {.desc = NULL};
	struct mc_error err = {0};
	DESC(c, d);

	CHECK(d->ops, "no table of operations");
	CHECK(fake_plugin_init(d, d->kind, &p, &err) == 0, "%s", err.text);
	if (d->kind == MC_KIND_METADATA)
		return metadata_table(c, &p.ops.metadata);
	if (d->kind == MC_KIND_MEMORY)
		return memory_table(c, &p.ops.memory);
	if (d->kind == MC_KIND_FILTER)
		return filter_table(c, &p.ops.filter);
	CHECK(p.raw->size >= offsetof(struct mc_transport_ops, counters), "table of %zu bytes",
	      p.raw->size);
	CHECK(!fake_has(&p, mem_import) || fake_has(&p, mem_release),
	      "mem_import without mem_release");
	CHECK(!fake_has(&p, mem_alloc) || fake_has(&p, mem_free), "mem_alloc without mem_free");
	return PASS;
}

/* ---- options
 * -------------------------------------------------------------------------------------------------
 */

static int check_option(struct ctx *c, const struct mc_option *o)
{
	CHECK(word_is(o->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), "option name '%s'",
	      o->name);
	CHECK(o->type >= MC_OPT_BOOL && o->type < MC_OPT_TYPE_COUNT, "option '%s': type %u",
	      o->name, o->type);
	CHECK(o->doc && *o->doc, "option '%s' has no doc: nobody is told what it does", o->name);
	CHECK(o->def || (o->flags & MC_OPT_REQUIRED),
	      "option '%s' has no default and is not required", o->name);
	CHECK(o->type != MC_OPT_ENUM || (o->choices && o->choices[0]), "option '%s' has no choices",
	      o->name);
	CHECK(o->min <= o->max, "option '%s': its least value %lld is above its largest %lld",
	      o->name, (long long)o->min, (long long)o->max);
	CHECK(!o->env || !strncmp(o->env, "MC_", 3),
	      "option '%s': variable '%s' does not begin with MC_", o->name, o->env);
	return PASS;
}

static int case_option_table(struct ctx *c)
{
	struct mc_value *values;
	struct mc_error err = {0};
	int r;
	DESC(c, d);

	if (!fake_option_at(d, 0))
		return skip(c, "no options");
	CHECK(d->option_size >= sizeof(struct mc_option), "option_size is %zu", d->option_size);
	for (size_t i = 0; fake_option_at(d, i); i++) {
		r = check_option(c, fake_option_at(d, i));
		if (r != PASS)
			return r;
		for (size_t j = 0; j < i; j++)
			CHECK(strcmp(fake_option_at(d, i)->name, fake_option_at(d, j)->name) != 0,
			      "option '%s' is there twice", fake_option_at(d, i)->name);
	}
	if (c->over)
		r = fake_options_parse(d, c->filters[0].words, c->filters[0].nr_words, &values, &err);
	else
		r = fake_options_parse(d, c->words, c->nr_words, &values, &err);
	CHECK(r == 0, "%s", err.text);
	fake_options_free(d, values);
	return PASS;
}

const struct test_case load_cases[] = {
	{LOADS, "load", case_load, 1},         {LOADS, "quiet", case_quiet, 1},
	{LOADS, "exports", case_exports, 1},   {LOADS, "links", case_links, 1},
	{LOADS, "head", case_head, 1},         {LOADS, "descriptor", case_descriptor, 1},
	{LOADS, "table", case_table, 4},       {LOADS, "option-table", case_option_table, 1},
	{LOADS, "manifest", case_manifest, 1}, {.run = NULL},
};
