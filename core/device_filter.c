/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filters of a device: those that the config names, stacked over the
 * transport's operations before its lanes are opened, and the checksum filter
 * that `verify` asks for.  [helper]
 */
#include "device_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int filter_push(struct mc_device *d, const char *name, struct mc_error *err)
{
	struct mc_device_impl *impl = d->impl;
	const struct mc_config *config = impl->config;
	size_t i = impl->nr_filters;
	int r;

	if (i == MC_DEVICE_FILTERS)
		return mc_fail(err, -E2BIG, "transports.%s.filters: more than %d filters", d->transport,
			       MC_DEVICE_FILTERS);
	r = mc_plugin_load(d->engine->registry, MC_KIND_FILTER, name, &impl->filters[i], err);
	if (r < 0)
		return r;
	impl->nr_filters++;
	r = mc_config_plugin_values(config, "filters", name, impl->filters[i]->desc,
				    &impl->filter_values[i], err);
	if (r < 0)
		return r;
	r = mc_filter_stack_new(impl->filters[i], impl->filter_values[i], d->ops, d->transport,
				&impl->stacks[i], err);
	if (r < 0)
		return r;
	d->ops = mc_filter_stack_ops(impl->stacks[i]);
	return 0;
}

/* "a,b": a is the outermost, so the last name is stacked first. */
static int filters_push(struct mc_device *d, struct mc_error *err)
{
	char *words = strdup(d->impl->settings.filters ? d->impl->settings.filters : "");
	int r = words ? 0 : -ENOMEM;

	while (r == 0 && *words) {
		char *comma = strrchr(words, ',');
		char *name = comma ? comma + 1 : words;

		name += strspn(name, " ");
		name[strcspn(name, " ")] = '\0';
		if (*name)
			r = filter_push(d, name, err);
		*(comma ? comma : words) = '\0';
	}
	free(words);
	return r;
}

static struct mc_plugin *filter_find(const struct mc_device *d, const char *name, size_t *ret_idx)
{
	for (size_t i = 0; i < d->impl->nr_filters; i++) {
		*ret_idx = i;
		if (!strcmp(d->impl->filters[i]->desc->name, name))
			return d->impl->filters[i];
	}
	return NULL;
}

/* `verify`: checksum over whatever else is there, unless the user has placed it himself. */
static int verify_open(struct mc_device *d, struct mc_error *err)
{
	const char *verify = d->engine->set->verify;
	struct mc_plugin *p;
	size_t idx = 0;
	int r;

	if (!strcmp(verify, "off"))
		return 0;
	if (!filter_find(d, "checksum", &idx)) {
		r = filter_push(d, "checksum", err);
		if (r < 0)
			return r;
	}
	p = filter_find(d, "checksum", &idx);
	for (size_t i = 0; !strcmp(verify, "full") && p->desc->options && p->desc->options[i].name; i++)
		if (!strcmp(p->desc->options[i].name, "sample"))
			d->impl->filter_values[idx][i].d = 1;
	return 0;
}

int mc_device_filters_open(struct mc_device *d, struct mc_error *err)
{
	int r = filters_push(d, err);
	size_t at = 0;

	if (r == 0)
		r = verify_open(d, err);
	for (size_t i = 0; r == 0 && i < d->impl->nr_filters && at < sizeof d->filters; i++)
		at += (size_t)snprintf(d->filters + at, sizeof d->filters - at, "%s%s", at ? " " : "",
				       d->impl->filters[i]->desc->name);
	return r;
}
