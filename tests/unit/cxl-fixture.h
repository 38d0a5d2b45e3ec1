/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines over a pool that is a file of the test, under the fake host: the plugin is
 * linked in, so that tests see its inside.  All run on the test's thread.
 */
#ifndef MC_TESTS_CXL_FIXTURE_H
#define MC_TESTS_CXL_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/check/fake-host.h"
#include "cxl.h"

#define BOUND (20 * MC_SEC)
#define POOL_SIZE ((uint64_t)4 << 20)

static char pool_dir[] = "/tmp/mc-cxl-XXXXXX";

static int pool_setup(void **state)
{
	memcpy(pool_dir + sizeof pool_dir - 7, "XXXXXX", 6);
	return mkdtemp(pool_dir) ? 0 : -1;
}

static int pool_teardown(void **state)
{
	char cmd[64];

	snprintf(cmd, sizeof cmd, "rm -rf '%s'", pool_dir);
	return system(cmd);
}

static void pool_path(const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", pool_dir, name);
}

/* A fresh file with a pool in it; 0 or -errno. */
static int pool_make(const char *name, uint64_t size, unsigned char uuid_byte)
{
	uint8_t uuid[CXL_UUID_LEN];
	struct cxl_geometry g;
	struct cxl_place place;
	struct mc_error err;
	char path[128];
	int fd;

	pool_path(name, path);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	close(fd);
	memset(uuid, uuid_byte, sizeof uuid);
	assert_int_equal(cxl_device_find_path(path, &place, &err), 0);
	return cxl_pool_format(&place, 0, 0, uuid, false, &g, &err);
}

static int engine_open(struct fake_world *w, const struct fake_plugin *plugin, const char *device, const char *option,
		       struct fake_inst **ret, struct mc_error *err)
{
	char dir[96];
	const char *const words[] = {dir, "quarantine=200ms", "growth=64KiB", option};
	struct fake_open how = {.device = device, .words = words, .nr_words = option ? 4 : 3};

	snprintf(dir, sizeof dir, "pool_dir=%s", pool_dir);
	return fake_open(w, plugin, &how, ret, err);
}

static struct cxl_device *device_of(struct fake_inst *inst)
{
	return ((struct cxl *)inst->priv)->device;
}

static struct cxl_ledger *ledger_of(struct fake_inst *inst)
{
	return &device_of(inst)->ledger;
}

static inline bool told(void *ctx)
{
	const struct fake_peer *p = ctx;

	return p->remotes && p->remotes->area && p->remotes->status != -EINPROGRESS;
}

/* Of a slice that was set: what submit says; 1 (MC_DONE): it is done. */
static inline int one(struct fake_inst *inst, struct fake_peer *peer, enum mc_opcode op, struct fake_buf *local,
	       struct fake_remote *remote, uint64_t off, uint64_t len, unsigned flags)
{
	struct fake_slice *s = fake_slice_new(inst);
	int r;

	fake_slice_set(s, peer, op, local, off, remote, off, len, flags);
	r = fake_submit(s);
	fake_slice_free(s);
	return r;
}

#endif
