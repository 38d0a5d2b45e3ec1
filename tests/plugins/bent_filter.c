/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filter that passes everything on and, with one BENT_* defined, one that breaks the
 * contract in one way: check-plugin must find it.
 */
#include <errno.h>
#include <stdlib.h>

#include <mooncake/transport.h>

#ifndef NAME
#define NAME "bent"
#endif

struct bent {
	const struct mc_host *host;
	const struct mc_filter_next *next;
	struct mc_slice *gone;
	unsigned nr;
};

#ifndef BENT_NO_OPEN
static int bent_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     const struct mc_filter_next *next, struct mc_transport_caps *caps, struct mc_error *err)
{
	struct bent *b = inst;

	b->host = host;
	b->next = next;
#if defined(BENT_WIDENS)
	caps->max_slice *= 2;
#elif defined(BENT_CRASHES)
	if (args->options[0].i == 7)
		abort();
#elif defined(BENT_KEEPS)
	if (!host->alloc(host, 4096))
		return mc_fail(err, -ENOMEM, "no memory");
#endif
	caps->flags &= ~MC_CAP_SYNC;
	return 0;
}
#endif

static void bent_close(void *inst)
{
}

static int bent_submit(void *inst, struct mc_slice *slice)
{
	struct bent *b = inst;

#if defined(BENT_INSIDE)
	b->next->complete(b->next, slice, 0, MC_SCOPE_NONE, slice->len);
	return 0;
#elif defined(BENT_REFUSES)
	if (++b->nr % 4 == 0)
		return -EIO;
#elif defined(BENT_SHORT)
	slice->len /= 2;
	{
		int r = b->next->submit(b->next, slice);

		slice->len *= 2;
		return r;
	}
#endif
	return b->next->submit(b->next, slice);
}

static void bent_completed(void *inst, struct mc_slice *slice, int status, int scope, uint64_t done_len)
{
	struct bent *b = inst;

#if defined(BENT_SWALLOWS)
	if (++b->nr == 5) {
		b->gone = slice;
		return;
	}
#elif defined(BENT_TWICE)
	b->next->complete(b->next, slice, status, scope, done_len);
#elif defined(BENT_SCOPELESS)
	if (status < 0)
		scope = MC_SCOPE_NONE;
#elif defined(BENT_SHORT)
	done_len = slice->len;
#endif
	b->next->complete(b->next, slice, status, scope, done_len);
}

#ifdef BENT_LATE_FENCE
/* Says that all has ended, and leaves it to the transport. */
static int bent_fence(void *inst, void *peer, uint32_t epoch)
{
	struct bent *b = inst;

	b->host->fenced(b->host, peer, epoch);
	return b->next->fence(b->next, peer, epoch);
}
#endif

static const struct mc_filter_ops bent_ops = {
	.size = sizeof bent_ops,
	.instance_size = sizeof(struct bent),
	.slice_size = 16,
#ifndef BENT_NO_OPEN
	.open = bent_open,
#endif
	.close = bent_close,
	.submit = bent_submit,
	.completed = bent_completed,
#ifdef BENT_LATE_FENCE
	.fence = bent_fence,
#endif
};

static const struct mc_option options[] = {
	{.name = "colour", .type = MC_OPT_INT, .def = "3", .min = 1, .max = 7, .doc = "has no effect"},
	{.name = NULL},
};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_FILTER),
	.name = NAME,
	.version = "1.0",
	.summary = "passes everything on, and does something wrong",
	.ops = &bent_ops,
	.options = options,
};
