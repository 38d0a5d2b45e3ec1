/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake cxl: makes a pool of a dax device or a file, and says what is in one.
 * Engines are not asked: what a pool's slots say is the engines' own copy of what
 * the metadata service grants.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "core/util/check.h"
#include "transports/cxl/cxl_hw.h"
#include "transports/cxl/cxl_pool.h"

struct asked {
	bool force, json;
	uint64_t size, unit, engines;
};

/* A dax device, a CXL region or memory device, else the path of a file. */
static int find(const char *name, struct cxl_place *place, struct mc_error *err)
{
	bool device = !strchr(name, '/') && (cxl_is_dax_name(name) || (cxl_hw_is_name(name) && access(name, F_OK) < 0));

	return device ? cxl_device_resolve(name, NULL, place, err) : cxl_device_find_path(name, place, err);
}

/* A file that is to be made, or that is still empty; whatever fails later takes it back. */
struct fresh {
	const char *path;
	bool made, sized;
};

static void fresh_undo(const struct fresh *f)
{
	if (f->made)
		unlink(f->path);
	else if (f->sized && truncate(f->path, 0) < 0)
		fprintf(stderr, "pool '%s': it keeps its size: %s\n", f->path, strerror(errno));
}

static int fresh_make(struct fresh *f, uint64_t size, struct mc_error *err)
{
	struct stat st;
	int fd, r = 0;

	if (cxl_is_dax_name(f->path))
		return mc_fail(err, -EINVAL, "pool '%s': a dax device has its own size: leave --size away, or name the file ./%s",
			       f->path, f->path);
	fd = open(f->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	f->made = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(f->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return mc_fail(err, -errno, "pool '%s': %s: name a file that can be made, in a folder that is there", f->path,
			       strerror(errno));
	memset(&st, 0, sizeof st);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		r = mc_fail(err, -EINVAL, "pool '%s': it is no file: --size makes files, a dax device has its own", f->path);
	else if (st.st_size)
		r = mc_fail(err, -EEXIST, "pool '%s': it has a size already: leave --size away", f->path);
	else if ((r = -posix_fallocate(fd, 0, (off_t)size)) < 0)
		mc_fail(err, r, "pool '%s': there is no room for %llu bytes: %s", f->path, (unsigned long long)size, strerror(-r));
	f->sized = !st.st_size && S_ISREG(st.st_mode);
	close(fd);
	return r;
}

static void print_pool(const char *path, const struct cxl_geometry *g)
{
	char uuid[CXL_UUID_TEXT];

	cxl_uuid_text(g->uuid, uuid);
	printf("pool %s\n  uuid %s, version %u\n  %llu bytes: %u units of %llu KiB, from %llu KiB on\n  %u engines at once, "
	       "%u buffers each\n", path, uuid, CXL_POOL_VERSION, (unsigned long long)g->size, g->nr_units,
	       (unsigned long long)(g->unit >> 10), (unsigned long long)(g->data_offset >> 10), g->nr_slots, g->nr_keys);
}

static void json_pool(struct mc_json_out *o, const char *path, const struct cxl_geometry *g)
{
	char uuid[CXL_UUID_TEXT];

	cxl_uuid_text(g->uuid, uuid);
	cli_json_int(o, "schema", 1);
	cli_json_str(o, "path", path);
	cli_json_str(o, "uuid", uuid);
	cli_json_int(o, "version", CXL_POOL_VERSION);
	cli_json_int(o, "size", (int64_t)g->size);
	cli_json_int(o, "unit", (int64_t)g->unit);
	cli_json_int(o, "units", g->nr_units);
	cli_json_int(o, "slots", g->nr_slots);
	cli_json_int(o, "keys", g->nr_keys);
}

static int format(const struct cli *cli, const char *name, const struct asked *a)
{
	uint8_t uuid[CXL_UUID_LEN];
	struct cxl_geometry g;
	struct cxl_place place;
	struct mc_error err;
	struct fresh fresh = {.path = name};
	int r = a->size ? fresh_make(&fresh, a->size, &err) : 0;

	if (r == 0)
		r = find(name, &place, &err);
	if (r == 0 && getrandom(uuid, sizeof uuid, 0) != (ssize_t)sizeof uuid)
		r = mc_fail(&err, -EIO, "no random bytes for its UUID");
	if (r == 0) {
		uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
		uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
		r = cxl_pool_format(&place, a->unit, (uint32_t)MC_MIN(a->engines, (uint64_t)UINT32_MAX), uuid, a->force, &g, &err);
	}
	if (r < 0) {
		fresh_undo(&fresh);
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	}
	if (a->json) {
		struct mc_json_out *o = mc_json_out_new(true);

		mc_json_out_open(o, '{');
		json_pool(o, place.path, &g);
		mc_json_out_close(o);
		return cli_json_print(cli, o);
	}
	print_pool(place.path, &g);
	return CLI_OK;
}

static uint64_t sum(const struct cxl_pool *pool, uint32_t slot, const struct cxl_ident *ident)
{
	struct cxl_extent extents[CXL_EXTENTS_MAX];
	uint32_t nr = cxl_slot_extents(pool, slot, ident, extents);
	uint64_t units = 0;

	for (uint32_t i = 0; i < nr; i++)
		units += extents[i].nr;
	return units * pool->g.unit;
}

static int info_json(const struct cli *cli, const struct cxl_pool *pool)
{
	struct mc_json_out *o = mc_json_out_new(true);
	struct cxl_ident ident;
	char generation[24];

	mc_json_out_open(o, '{');
	json_pool(o, pool->path, &pool->g);
	cli_json_open(o, "engines", '[');
	for (uint32_t i = 0; i < pool->g.nr_slots; i++) {
		cxl_slot_read(pool, i, &ident);
		if (!ident.generation)
			continue;
		snprintf(generation, sizeof generation, "%016llx", (unsigned long long)ident.generation);
		mc_json_out_open(o, '{');
		cli_json_int(o, "slot", i);
		cli_json_str(o, "name", ident.name);
		cli_json_str(o, "generation", generation);
		cli_json_int(o, "bytes", (int64_t)sum(pool, i, &ident));
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	mc_json_out_close(o);
	return cli_json_print(cli, o);
}

static void info_text(const struct cxl_pool *pool)
{
	struct cli_table t = {0};
	struct cxl_ident ident;

	print_pool(pool->path, &pool->g);
	for (uint32_t i = 0; i < pool->g.nr_slots; i++) {
		char slot[16], generation[24], kib[32];

		cxl_slot_read(pool, i, &ident);
		if (!ident.generation)
			continue;
		if (!t.nr_rows)
			cli_table_row(&t, 4, (const char *const[]){"slot", "engine", "generation", "KiB"});
		snprintf(slot, sizeof slot, "%u", i);
		snprintf(generation, sizeof generation, "%016llx", (unsigned long long)ident.generation);
		snprintf(kib, sizeof kib, "%llu", (unsigned long long)(sum(pool, i, &ident) >> 10));
		cli_table_row(&t, 4, (const char *const[]){slot, ident.name, generation, kib});
	}
	if (t.nr_rows)
		cli_table_print(&t);
	else
		puts("no engine uses it");
}

static int info(const struct cli *cli, const char *name, bool json)
{
	struct cxl_place place;
	struct cxl_pool pool;
	struct mc_error err;
	int code = CLI_OK;

	if (find(name, &place, &err) < 0 || cxl_pool_open(&pool, &place, &err) < 0)
		return cli_error(cli, CLI_FAILED, "%s", err.text);
	if (json)
		code = info_json(cli, &pool);
	else
		info_text(&pool);
	cxl_pool_close(&pool);
	return code;
}

int cli_cxl(int argc, char **argv)
{
	struct asked a = {0};
	const struct cli_option options[] = {
		{"force", CLI_FLAG, &a.force, NULL, "format what has something on it, or is in use"},
		{"size", CLI_SIZE, &a.size, "SIZE", "make the file, of this size"},
		{"unit", CLI_SIZE, &a.unit, "SIZE", "of grants; default 2MiB, of files 4KiB"},
		{"engines", CLI_SIZE, &a.engines, "N", "that can use it at once; default 63, below 64 MiB 15"},
		{"json", CLI_FLAG, &a.json, NULL, "one JSON object"},
		{0},
	};
	struct cli cli = {
		.verb = "cxl",
		.args = "format|info DEVICE|FILE",
		.help = "format: make a pool of a dax device or a file, once, on one host.  What has\n"
			"anything on it is refused, and a pool that is there, too, unless --force says\n"
			"that nobody needs it.  info: what is in a pool, and which engines use it.\n"
			"  mooncake cxl format dax0.0\n"
			"  mooncake cxl format --size=256MiB /dev/shm/pools/pool0\n",
		.options = options,
		.min_args = 2,
		.max_args = 2,
	};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0 && strcmp(cli.argv[0], "format") == 0)
		code = format(&cli, cli.argv[1], &a);
	else if (code < 0 && strcmp(cli.argv[0], "info") == 0)
		code = info(&cli, cli.argv[1], a.json);
	else if (code < 0)
		code = cli_error(&cli, CLI_USAGE, "'%s' is neither format nor info", cli.argv[0]);
	cli_fini(&cli);
	return code;
}
