/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transport that does nothing, and, with one BAD_* defined, one that the
 * loader must refuse; with one LOAD_* loading it is what goes wrong.  Its operations are never called, but for `open`.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <mooncake/transport.h>

/* A BAD_* member comes after the good one that it replaces. */
#pragma GCC diagnostic ignored "-Woverride-init"

#ifndef NAME
#define NAME "good"
#endif

#ifdef USE_GONE
int mc_gone(void);
#endif

#if defined(LOAD_CRASHES) || defined(LOAD_HANGS) || defined(LOAD_EXITS) || defined(LOAD_PRINTS)
__attribute__((constructor)) static void loaded(void)
{
#if defined(LOAD_CRASHES)
	signal(SIGSEGV, SIG_DFL); /* a sanitizer has its own */
	raise(SIGSEGV);
#elif defined(LOAD_HANGS)
	for (;;)
		pause();
#elif defined(LOAD_EXITS)
	_exit(0);
#else
	puts("hello from the constructor");
#endif
}
#endif

static int good_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_transport_caps *caps, struct mc_error *err)
{
#ifdef USE_GONE
	return mc_gone();
#elif defined(BAD_OPEN_FAILS)
	return mc_fail(err, -ENODEV, "device '%s': the cable is cut", args->device);
#else
	return 0;
#endif
}

static void good_close(void *inst)
{
}

__attribute__((unused)) static int good_submit(void *inst, struct mc_slice *slice)
{
	return MC_DONE;
}

static int good_progress(void *inst)
{
	return 0;
}

static int good_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	return 0;
}

static void good_peer_close(void *inst, void *peer)
{
}

static int good_fence(void *inst, void *peer, uint32_t epoch)
{
	return 42;
}

/* Longer than the core's table, as that of a plugin built against later headers. */
struct long_ops {
	struct mc_transport_ops ops;
	void (*later)(void);
};

static const struct long_ops table __attribute__((unused)) = {
	.ops = {
#if defined(BAD_TABLE_SHORT)
		.size = offsetof(struct mc_transport_ops, fence), /* fence below does not count */
#elif defined(BAD_TABLE_LONG)
		.size = sizeof(struct long_ops),
#elif defined(BAD_TABLE_TINY)
		.size = sizeof(size_t),
#else
		.size = sizeof(struct mc_transport_ops),
#endif
		.instance_size = 8,
		.open = good_open,
		.close = good_close,
#ifndef BAD_NO_SUBMIT
		.submit = good_submit,
#endif
		.progress = good_progress,
		.peer_open = good_peer_open,
		.peer_close = good_peer_close,
		.fence = good_fence,
	},
	.later = (void (*)(void))good_progress,
};

static const char *const colours[] = {"red", "green", NULL};
static const struct mc_option options[] = {
#ifdef BAD_OPTION_TYPE
	{.name = "depth", .type = 77, .def = "1"},
#elif defined(BAD_OPTION_DEFAULT)
	{.name = "depth", .type = MC_OPT_INT, .def = "100", .min = 1, .max = 64},
#elif defined(BAD_OPTION_NONE)
	{.name = "depth", .type = MC_OPT_INT},
#elif defined(BAD_OPTION_CHOICES)
	{.name = "depth", .type = MC_OPT_ENUM, .def = "red"},
#else
	{.name = "depth", .type = MC_OPT_INT, .def = "16", .min = 1, .max = 64, .env = "MC_GOOD_DEPTH",
	 .doc = "How deep."},
	{.name = "colour", .type = MC_OPT_ENUM, .def = "red", .choices = colours,
	 .flags = MC_OPT_RELOADABLE, .doc = "Which colour."},
	{.name = "token", .type = MC_OPT_STRING, .flags = MC_OPT_REQUIRED, .doc = "Must be said."},
#endif
	{.name = NULL, .choices = colours},
};

static const char *const memory[] = {"cpu", NULL};
static const char *const claims[] = {"good*", NULL};

#ifdef BAD_DESC_TINY
extern MC_EXPORT const uint64_t tiny __asm__("mc_plugin_desc");
const uint64_t tiny = MC_PLUGIN_MAGIC;
const void *const unused[] = {&table, options, memory, claims};
#elif defined(BAD_NO_DESC)
const struct mc_plugin_desc another_name __attribute__((visibility("hidden"))) = {
#else
const struct mc_plugin_desc mc_plugin_desc = {
#endif
#ifndef BAD_DESC_TINY
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
#if defined(BAD_MAGIC)
	.magic = 0x1234,
#elif defined(BAD_MAJOR_OLD)
	.abi_major = 0, .abi_minor = 9,
#elif defined(BAD_MAJOR_NEW)
	.abi_major = 3, .abi_minor = 1,
#elif defined(BAD_DESC_SHORT)
	.size = offsetof(struct mc_plugin_desc, wire),
#elif defined(BAD_DESC_LIES)
	.size = 4096,
#elif defined(BAD_KIND)
	.kind = MC_KIND_METADATA,
#elif defined(BAD_KIND_UNKNOWN)
	.kind = 99,
#elif defined(BAD_OPTION_SIZE)
	.option_size = 8,
#endif
#ifdef BAD_NAME
	.name = "somebody-else",
#else
	.name = NAME,
#endif
	.version = "1.2.3",
	.summary = "does nothing",
#ifndef BAD_NO_OPS
	.ops = &table,
#endif
	.options = options,
#ifndef BAD_NO_WIRE
	.wire = "good",
#endif
	.wire_min = 1, .wire_max = 2,
	.memory = memory,
	.claims = claims,
};
#endif
