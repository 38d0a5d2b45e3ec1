/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory-fake under another name and, with one BENT_* defined, with one operation that
 * breaks the contract in one way: check-plugin must find it.  Our own state lies behind
 * that of memory-fake.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mooncake/memory.h>

#ifndef NAME
#define NAME "bent"
#endif

extern const struct mc_plugin_desc fake_desc; /* memory-fake's own, by another name */
#define FAKE_OPS ((const struct mc_memory_ops *)fake_desc.ops)
#define FAKE_AREA 4096 /* no smaller than what it asks for, which open checks */

struct own {
	const struct mc_host *host;
	unsigned nr; /* copies so far; atomic */
	struct mc_copy lost;
};

static struct own *own_of(void *inst)
{
	return (struct own *)((char *)inst + FAKE_AREA);
}

static int bent_open(void *inst, const struct mc_host *host, const struct mc_open_args *args, struct mc_error *err)
{
	struct own *o = own_of(inst);

	if (FAKE_OPS->instance_size > FAKE_AREA)
		return mc_fail(err, -EINVAL, "FAKE_AREA is too small");
	o->host = host;
#if defined(BENT_LEAKS_FD)
	if (fcntl(0, F_DUPFD_CLOEXEC, 3) < 0)
		return -errno;
#elif defined(BENT_LEAKS_PAGES)
	if (mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
		return -errno;
#elif defined(BENT_KEEPS)
	if (!host->alloc(host, 4096))
		return mc_fail(err, -ENOMEM, "no memory");
#elif defined(BENT_WORDLESS)
	if (!host->alloc(host, 4096))
		return -ENOMEM;
#elif defined(BENT_BESIDE)
	((unsigned char *)(o + 1))[0] ^= 1;
#elif defined(BENT_NO_DEVICE)
	return mc_fail(err, -ENODEV, "no device is here: plug one in");
#endif
	return FAKE_OPS->open(inst, host, args, err);
}

static void bent_close(void *inst)
{
	FAKE_OPS->close(inst);
}

static int bent_count(void *inst)
{
#ifdef BENT_COUNTS_NONE
	return 0;
#else
	return FAKE_OPS->count(inst);
#endif
}

static int bent_identify(void *inst, const void *addr, uint64_t len, struct mc_mem_desc *desc)
{
	int r = FAKE_OPS->identify(inst, addr, len, desc);

#if defined(BENT_TAKES_ALL)
	desc->kind = "fake";
	r = 0;
#elif defined(BENT_TAKES_PARTS)
	r = r == -EINVAL ? -ENOENT : r;
#elif defined(BENT_ORDINAL)
	desc->ordinal = 0;
#endif
	return r;
}

static int bent_alloc(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
#ifdef BENT_ANY_ORDINAL
	if (desc->ordinal == FAKE_OPS->count(inst))
		desc->ordinal = 0;
#endif
	return FAKE_OPS->alloc(inst, desc, err);
}

#ifndef BENT_NO_FREE
static void bent_free(void *inst, struct mc_mem_desc *desc)
{
	FAKE_OPS->free(inst, desc);
}
#endif

static int bent_copy(void *inst, struct mc_copy *c)
{
	struct own *o = own_of(inst);
	unsigned nr = __atomic_add_fetch(&o->nr, 1, __ATOMIC_RELAXED);
	struct mc_copy *to = c;
	int r;

	(void)nr;
#if defined(BENT_LOSES)
	if (nr == 1000) {
		o->lost = *c;
		return 0;
	}
#elif defined(BENT_STUCK)
	if (nr > 1000)
		return -EAGAIN;
#elif defined(BENT_TOUCHES)
	if (c->mem && FAKE_OPS->identify(inst, c->mem, c->len, &(struct mc_mem_desc){.size = 0}) == -ENOENT) {
		memcpy(c->to_host ? c->hostptr : c->mem, c->to_host ? c->mem : c->hostptr, c->len);
		return MC_DONE;
	}
#elif defined(BENT_OVERRUNS)
	if (c->to_host && c->len == 4096)
		((unsigned char *)c->hostptr)[c->len] ^= 1;
#elif defined(BENT_FORGETS)
	if (c->to_host && c->len == 1)
		return MC_DONE;
#endif
	r = FAKE_OPS->copy(inst, to);
#if defined(BENT_TWICE)
	if (r == 0 && nr == 50)
		o->host->copied(o->host, c, 0);
#elif defined(BENT_EAGER)
	if (r == 0 && nr == 50)
		return -EAGAIN;
#endif
	return r;
}

static int bent_export_dmabuf(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	int r = FAKE_OPS->export_dmabuf(inst, desc, err);

#if defined(BENT_INHERITS)
	if (r == 0)
		fcntl(desc->dmabuf_fd, F_SETFD, 0);
#elif defined(BENT_OFFSET)
	desc->dmabuf_offset = 0;
#endif
	return r;
}

static int bent_flush(void *inst, const struct mc_mem_desc *desc)
{
#ifdef BENT_FLUSHES_ALL
	return 0;
#else
	return FAKE_OPS->flush(inst, desc);
#endif
}

static const struct mc_memory_ops bent_ops = {
	.size = sizeof bent_ops,
	.instance_size = FAKE_AREA + sizeof(struct own),
	.open = bent_open,
	.close = bent_close,
	.count = bent_count,
	.identify = bent_identify,
	.alloc = bent_alloc,
#ifndef BENT_NO_FREE
	.free = bent_free,
#endif
	.copy = bent_copy,
	.export_dmabuf = bent_export_dmabuf,
	.flush = bent_flush,
};

/* In the order of memory-fake. */
static const struct mc_option options[] = {
	{.name = "count", .type = MC_OPT_INT, .def = "2", .min = 0, .max = 64, .doc = "as in memory-fake"},
	{.name = "sync_below", .type = MC_OPT_SIZE, .def = "0", .max = INT64_MAX, .doc = "as in memory-fake"},
	{.name = "depth", .type = MC_OPT_INT, .def = "64", .min = 1, .max = 65536, .doc = "as in memory-fake"},
	{.name = NULL},
};

static const char *const kinds[] = {"fake", NULL};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_MEMORY),
	.name = NAME,
	.version = "1.0",
	.summary = "memory-fake, and something wrong with it",
	.ops = &bent_ops,
	.options = options,
	.memory = kinds,
};
