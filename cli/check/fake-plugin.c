/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host's loader and option parser: one shared object, its descriptor
 * checked as far as the tests need it, its table laid over stubs, and
 * "name=value" words read by the plugin's own option table.
 */
#include "fake-host.h"
#include "core/util/check.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- stubs: what a NULL slot answers ------------------------------------------------------- */

static int stub_enumerate(const struct mc_host *h, int (*found)(void *, const char *), void *ctx)
{
	return -ENOTSUP;
}
static int stub_probe(const struct mc_host *h, const char *d, struct mc_device_info *i, struct mc_error *e)
{
	return -ENOTSUP;
}
static int stub_reconfigure(void *inst, const struct mc_value *o, struct mc_error *err)
{
	return mc_fail(err, -ENOTSUP, "no option can change while the device is open");
}
static void stub_void(void *inst)
{
}
static int stub_mem_alloc(void *inst, void *region, struct mc_mem_desc *d, struct mc_error *err)
{
	return -ENOTSUP;
}
static void stub_mem_free(void *inst, void *region, struct mc_mem_desc *d)
{
}
static int stub_mem_reg(void *inst, void *region, const struct mc_mem_desc *d, struct mc_error *err)
{
	return 0;
}
static void stub_two(void *inst, void *obj)
{
}
static int stub_export(void *inst, void *region, void *blob, size_t cap)
{
	return 0;
}
static int stub_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	return 0;
}
static int stub_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	return -ENOTSUP;
}
static void stub_msg(void *inst, void *peer, const void *msg, size_t len)
{
}
static void stub_attach(void *inst, void *peer, const struct mc_stream *s)
{
}
static int stub_arm(void *inst)
{
	return 0;
}
static int stub_cancel(void *inst, struct mc_slice *s)
{
	return -EALREADY;
}
static int stub_fence(void *inst, void *peer, uint32_t epoch)
{
	return -ENOTSUP;
}
static void stub_explain(void *inst, const void *region, char *text, size_t cap)
{
	if (cap)
		*text = '\0';
}

static void stub_counters(void *inst, void (*emit)(void *, const char *, uint64_t), void *ctx)
{
}

static const struct mc_transport_ops stubs = {
	.size = sizeof(struct mc_transport_ops),
	.enumerate = stub_enumerate,
	.probe = stub_probe,
	.reconfigure = stub_reconfigure,
	.stop = stub_void,
	.mem_alloc = stub_mem_alloc,
	.mem_free = stub_mem_free,
	.mem_reg = stub_mem_reg,
	.mem_unreg = stub_two,
	.mem_export = stub_export,
	.mem_import = stub_import,
	.mem_release = stub_two,
	.peer_accept = stub_accept,
	.peer_msg = stub_msg,
	.peer_attach = stub_attach,
	.flush = stub_void,
	.arm = stub_arm,
	.cancel = stub_cancel,
	.fence = stub_fence,
	.counters = stub_counters,
	.mem_explain = stub_explain,
};

/* Slot by slot: everything behind the sizes is a function pointer. */
static void overlay(struct mc_transport_ops *to, const struct mc_transport_ops *from)
{
	size_t first = offsetof(struct mc_transport_ops, enumerate);
	size_t end = MC_MIN(from->size, sizeof *to);
	static const char null[sizeof(void (*)(void))];

	*to = stubs;
	memcpy((char *)to + sizeof to->size, (const char *)from + sizeof to->size,
	       MC_MIN(end, first) - sizeof to->size);
	for (size_t off = first; off + sizeof null <= end; off += sizeof null)
		if (memcmp((const char *)from + off, null, sizeof null))
			memcpy((char *)to + off, (const char *)from + off, sizeof null);
}

int fake_plugin_init(const struct mc_plugin_desc *desc, enum mc_kind kind, struct fake_plugin *ret,
		     struct mc_error *err)
{
	if (desc->magic != MC_PLUGIN_MAGIC || desc->size < sizeof *desc)
		return mc_fail(err, -ELIBBAD, "plugin '%s': bad descriptor", ret->path);
	if (desc->abi_major != MC_ABI_MAJOR)
		return mc_fail(err, -EPROTONOSUPPORT, "plugin '%s' speaks ABI %u.%u, the kit %u.%u",
			       desc->name, desc->abi_major, desc->abi_minor, MC_ABI_MAJOR, MC_ABI_MINOR);
	if (desc->kind != kind)
		return mc_fail(err, -ELIBBAD, "plugin '%s' is of kind %u, not %u", desc->name,
			       desc->kind, kind);
	ret->desc = desc;
	if (kind == MC_KIND_TRANSPORT) {
		const struct mc_transport_ops *o = desc->ops;

		ret->raw = o;
		overlay(&ret->ops.transport, o);
		if (!o->open || !o->close || !o->submit || !o->progress || !o->peer_open || !o->peer_close)
			return mc_fail(err, -ELIBBAD, "transport '%s': a required operation is missing",
				       desc->name);
	} else if (kind == MC_KIND_MEMORY) {
		const struct mc_memory_ops *o = desc->ops;

		memcpy(&ret->ops.memory, o, MC_MIN(o->size, sizeof *o));
		if (!o->open || !o->close || !o->identify || !o->copy)
			return mc_fail(err, -ELIBBAD, "memory plugin '%s': a required operation is missing",
				       desc->name);
	} else if (kind == MC_KIND_METADATA) {
		const struct mc_metadata_ops *o = desc->ops;

		memcpy(&ret->ops.metadata, o, MC_MIN(o->size, sizeof *o));
		if (!o->open || !o->close || !o->get || !o->put || !o->cas || !o->del || !o->list)
			return mc_fail(err, -ELIBBAD, "metadata plugin '%s': a required operation is missing",
				       desc->name);
	} else if (kind == MC_KIND_FILTER) {
		const struct mc_filter_ops *o = desc->ops;

		memcpy(&ret->ops.filter, o, MC_MIN(o->size, sizeof *o));
	}
	return 0;
}

int fake_plugin_load(const char *path, enum mc_kind kind, struct fake_plugin *ret, struct mc_error *err)
{
	const struct mc_plugin_desc *desc;

	memset(ret, 0, sizeof *ret);
	snprintf(ret->path, sizeof ret->path, "%s", path);
	ret->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!ret->dl)
		return mc_fail(err, -ELIBACC, "%s", dlerror());
	desc = dlsym(ret->dl, MC_PLUGIN_SYMBOL);
	if (!desc)
		return mc_fail(err, -ELIBBAD, "plugin '%s': no symbol %s", path, MC_PLUGIN_SYMBOL);
	return fake_plugin_init(desc, kind, ret, err);
}

/* ---- options ---------------------------------------------------------------------------------- */

struct unit {
	const char *name;
	double factor;
};

static int parse_scaled(const char *text, const struct unit *units, double bare, int64_t *ret)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text)
		return -EINVAL;
	if (!*end) {
		*ret = (int64_t)(v * bare);
		return 0;
	}
	for (; units->name; units++) {
		if (!strcmp(end, units->name)) {
			*ret = (int64_t)(v * units->factor);
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_enum(const struct mc_option *o, const char *text, struct mc_value *v)
{
	for (int i = 0; o->choices && o->choices[i]; i++) {
		if (!strcmp(o->choices[i], text)) {
			v->s = o->choices[i];
			v->i2 = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_text(const struct mc_option *o, const char *text, struct mc_value *v)
{
	static const struct unit sizes[] = { { "KiB", 1024. }, { "MiB", 1048576. },
		{ "GiB", 1073741824. }, { "TiB", 1099511627776. }, { "KB", 1e3 }, { "MB", 1e6 },
		{ "GB", 1e9 }, { NULL, 0 } };
	static const struct unit spans[] = { { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 },
		{ "s", 1e9 }, { "min", 60e9 }, { NULL, 0 } };
	char *end;

	switch (o->type) {
	case MC_OPT_BOOL:
		v->b = !strcmp(text, "true") || !strcmp(text, "1");
		return v->b || !strcmp(text, "false") || !strcmp(text, "0") ? 0 : -EINVAL;
	case MC_OPT_INT:
		v->i = strtoll(text, &end, 0);
		return end == text || *end ? -EINVAL : 0;
	case MC_OPT_SIZE:
		return parse_scaled(text, sizes, 1, &v->i);
	case MC_OPT_DURATION:
		return parse_scaled(text, spans, 1e9, &v->i);
	case MC_OPT_FLOAT:
		v->d = strtod(text, &end);
		return end == text || *end ? -EINVAL : 0;
	case MC_OPT_STRING:
		v->s = strdup(text);
		return v->s ? 0 : -ENOMEM;
	case MC_OPT_ENUM:
		return parse_enum(o, text, v);
	}
	return -EINVAL;
}

static int parse_value(const struct mc_option *o, const char *text, struct mc_value *v, struct mc_error *err)
{
	bool ranged = o->min || o->max;
	int r;

	if ((o->flags & MC_OPT_AUTO) && !strcmp(text, "auto")) {
		v->i = MC_VALUE_AUTO;
		return 0;
	}
	r = parse_text(o, text, v);
	if (r == 0 && ranged && (o->type == MC_OPT_INT || o->type == MC_OPT_SIZE || o->type == MC_OPT_DURATION))
		r = v->i < o->min || v->i > o->max ? -ERANGE : 0;
	if (r == 0 && ranged && o->type == MC_OPT_FLOAT)
		r = v->d < (double)o->min || v->d > (double)o->max ? -ERANGE : 0;
	if (r < 0)
		return mc_fail(err, r, "option '%s': bad value '%s': %s", o->name, text, strerror(-r));
	return 0;
}

const struct mc_option *fake_option_at(const struct mc_plugin_desc *desc, size_t i)
{
	const struct mc_option *o =
		(const void *)((const char *)desc->options + i * desc->option_size);

	return desc->options && o->name ? o : NULL;
}

static const char *word_value(const char *const *words, size_t nr, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = nr; i-- > 0;)
		if (!strncmp(words[i], name, len) && words[i][len] == '=')
			return words[i] + len + 1;
	return NULL;
}

static int check_words(const struct mc_plugin_desc *desc, const char *const *words, size_t nr,
		       struct mc_error *err)
{
	for (size_t w = 0; w < nr; w++) {
		const struct mc_option *o;
		size_t i = 0, len = strcspn(words[w], "=");

		while ((o = fake_option_at(desc, i)) && (strlen(o->name) != len || strncmp(o->name, words[w], len)))
			i++;
		if (!o || words[w][len] != '=')
			return mc_fail(err, -EINVAL, "plugin '%s' has no option '%s'", desc->name, words[w]);
	}
	return 0;
}

int fake_options_parse(const struct mc_plugin_desc *desc, const char *const *words, size_t nr_words,
		       struct mc_value **ret_values, struct mc_error *err)
{
	const struct mc_option *o;
	struct mc_value *values;
	size_t nr = 0;
	int r = check_words(desc, words, nr_words, err);

	if (r < 0)
		return r;
	while (fake_option_at(desc, nr))
		nr++;
	values = calloc(nr + 1, sizeof *values);
	if (!values)
		return mc_fail(err, -ENOMEM, "no memory for options");
	for (size_t i = 0; (o = fake_option_at(desc, i)); i++) {
		const char *text = word_value(words, nr_words, o->name);

		values[i].set = text != NULL;
		if (!text)
			text = o->def;
		if (text)
			r = parse_value(o, text, &values[i], err);
		else if (o->flags & MC_OPT_REQUIRED)
			r = mc_fail(err, -EINVAL, "option '%s' is required", o->name);
		if (r < 0) {
			fake_options_free(desc, values);
			return r;
		}
	}
	*ret_values = values;
	return 0;
}

void fake_options_free(const struct mc_plugin_desc *desc, struct mc_value *values)
{
	const struct mc_option *o;

	for (size_t i = 0; values && (o = fake_option_at(desc, i)); i++)
		if (o->type == MC_OPT_STRING && values[i].i != MC_VALUE_AUTO)
			free((char *)(uintptr_t)values[i].s);
	free(values);
}
