/* SPDX-License-Identifier: Apache-2.0 */
/* rdma-plugin: what cannot be opened or registered is told in one sentence, and leaves nothing. */
#include "rdma-plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- opening ------------------------------------------------------------------------------------------- */

static void refused(const char *device, const char *word, const char *says)
{
	struct fake_world *w = fake_world_new(0);
	struct fake_open how = { .device = device, .words = &word, .nr_words = word ? 1 : 0 };
	struct fake_inst *inst = NULL;
	struct mc_error err = { 0 };
	int r = fake_open(w, &plugin, &how, &inst, &err);

	CHECK(r < 0, "%s opens with %s", device, word ? word : "no option");
	CHECK(strstr(err.text, says), "%s with %s: no '%s' in: %s", device, word ? word : "no option", says, err.text);
	CHECK(strlen(err.text) < sizeof err.text - 1, "the sentence is cut: %s", err.text);
	CHECK(fake_world_free(w) == 0, "breaches, see above");
	CHECK(figure("mock0", "qps") + figure("mock0", "mrs") + figure("mock0", "cqs") == 0, "something is left of %s",
	      device);
}

static void case_sentences(void)
{
	refused("nosuch", NULL, "no RDMA device");
	refused("mock0", "gid_index=99", "out of range");
	refused("mock0", "gid_index=9", "holds no GID");
	refused("mock0", "port=2", "out of range 1..1");
	refused("mock0", "pkey_index=7", "out of range");
	fault("mock0", "down", 1);
	refused("mock0", NULL, "ip link set");
	fault("mock0", "down", 0);
	fault("ib0", "down", 1);
	refused("ib0", NULL, "cable");
	fault("mock0", "gone", 1);
	refused("mock0", NULL, "no RDMA device");
	fault("mock0", "gone", 0);
	/* At each place where the device refuses memory. */
	for (int nth = 1; nth <= 2; nth++) {
		fault("mock0", "reg_after", nth);
		fault("mock0", "reg_errno", ENOMEM);
		refused("mock0", NULL, "pinning");
	}
	fault("mock0", "reg_errno", 0);
	fault("mock0", "qp_errno", ENOMEM);
	refused("mock0", NULL, "queue pair");
}

static void case_probe(void)
{
	struct fake_world *w = fake_world_new(0);
	struct fake_inst *inst = inst_open(w, "mock0", "");
	struct mc_device_info info = { .size = sizeof info };
	struct mc_error err = { 0 };

	CHECK(inst->ops->probe(&inst->host, "mock1", &info, &err) == 0, "probe: %s", err.text);
	CHECK(info.state == MC_STATE_ACTIVE && info.speed > 0, "state %u, speed %llu", info.state,
	      (unsigned long long)info.speed);
	CHECK(strncmp(info.address, "127.77.0.", 9) == 0, "the address is '%s'", info.address);
	fault("mock1", "down", 1);
	memset(&info, 0, sizeof info);
	info.size = sizeof info;
	CHECK(inst->ops->probe(&inst->host, "mock1", &info, &err) == 0, "probe: %s", err.text);
	CHECK(info.state == MC_STATE_DOWN && strstr(info.remedy, "ip link set"), "state %u: %s", info.state, info.remedy);
	CHECK(inst->ops->probe(&inst->host, "nosuch", &info, &err) == 0, "probe: %s", err.text);
	CHECK(info.state == MC_STATE_MISSING && info.remedy[0], "state %u: %s", info.state, info.remedy);
	CHECK(fake_close(inst, BOUND) == 0 && fake_world_free(w) == 0, "breaches, see above");
}

/* ---- registering ------------------------------------------------------------------------------------------ */

static void reg_fails(struct fake_inst *inst, uint64_t len, const char *says)
{
	int64_t before = figure("mock0", "mrs");
	struct mc_error err = { 0 };
	struct fake_buf *buf;

	CHECK(fake_buf_new(inst, len, 0, NULL, MC_ACCESS_ALL, &buf, &err) < 0, "it registers");
	CHECK(strstr(err.text, says), "no '%s' in: %s", says, err.text);
	CHECK(figure("mock0", "mrs") == before, "%lld memory regions became %lld", (long long)before,
	      (long long)figure("mock0", "mrs"));
}

static void case_register(void)
{
	struct net n;

	net_open(&n, "mock0", "mock1", "max_mr_size=65536");
	net_connect(&n);
	fault("mock0", "reg_errno", ENOMEM);
	for (int nth = 1; nth <= 4; nth++) {
		fault("mock0", "reg_after", nth);
		reg_fails(n.a, 4 * 65536, "pinning 256 KiB");
	}
	fault("mock0", "reg_errno", EFAULT);
	fault("mock0", "reg_after", 3);
	reg_fails(n.a, 4 * 65536, "registering 256 KiB");
	fault("mock0", "reg_errno", 0);
	reg_fails(n.a, 97 * 65536, "max_mr_size");
	net_bufs(&n, 4 * 65536); /* the instance goes on */
	net_import(&n);
	net_works(&n, 1);
	net_close(&n);
	CHECK(figure("mock0", "mrs") == 0 && figure("mock1", "mrs") == 0, "memory regions are left");
}

/* Read-only memory can be sent from and read by peers; a peer that may write it is refused. */
static void case_readonly(void)
{
	struct fake_world *w = fake_world_new(0);
	struct fake_inst *inst = inst_open(w, "mock0", "");
	size_t room = (size_t)1 << 30;
	unsigned char *map = mmap(NULL, room, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct mc_mem_desc desc = { .size = sizeof desc, .addr = map, .len = 65536, .kind = "cpu", .dmabuf_fd = -1,
				    .access = MC_ACCESS_ALL };
	void *region = calloc(1, inst->ops->region_size);
	struct mc_error err = { 0 };

	CHECK(map != MAP_FAILED && region, "no memory");
	/* What others map meanwhile goes into the highest gap that is wide enough: above it, not into the hole below. */
	munmap(map + 65536, room - 65536);
	CHECK(inst->ops->mem_reg(inst->priv, region, &desc, &err) < 0, "it registers for writing");
	CHECK(strstr(err.text, "read-only"), "%s", err.text);
	desc.access = MC_ACCESS_LOCAL | MC_ACCESS_REMOTE_READ;
	CHECK(inst->ops->mem_reg(inst->priv, region, &desc, &err) == 0, "%s", err.text);
	inst->ops->mem_unreg(inst->priv, region);
	/* A hole. */
	munmap(map + 4096, 4096);
	CHECK(inst->ops->mem_reg(inst->priv, region, &desc, &err) < 0, "a hole registers");
	CHECK(strstr(err.text, "not mapped"), "%s", err.text);
	munmap(map, 4096);
	munmap(map + 8192, 65536 - 8192);
	free(region);
	CHECK(fake_close(inst, BOUND) == 0 && fake_world_free(w) == 0, "breaches, see above");
}

static void case_many_registrations(void)
{
	struct fake_world *w = fake_world_new(0);
	struct fake_inst *inst = inst_open(w, "mock0", "max_mr_size=4096");
	int64_t before = figure("mock0", "mrs");
	unsigned char *mem = aligned_alloc(4096, 8192);
	struct mc_mem_desc desc = { .size = sizeof desc, .addr = mem, .len = 8192, .kind = "cpu", .dmabuf_fd = -1,
				    .access = MC_ACCESS_ALL };
	void *region = calloc(1, inst->ops->region_size);
	struct mc_error err = { 0 };

	for (int i = 0; i < 10000; i++) {
		CHECK(inst->ops->mem_reg(inst->priv, region, &desc, &err) == 0, "%d: %s", i, err.text);
		CHECK(figure("mock0", "mrs") == before + 2, "%d: %lld regions", i, (long long)figure("mock0", "mrs"));
		inst->ops->mem_unreg(inst->priv, region);
	}
	CHECK(figure("mock0", "mrs") == before, "a region is left");
	free(region);
	free(mem);
	CHECK(fake_close(inst, BOUND) == 0 && fake_world_free(w) == 0, "breaches, see above");
}

const struct rdma_case open_cases[] = {
	{ "sentences", case_sentences },
	{ "probe", case_probe },
	{ "register", case_register },
	{ "readonly", case_readonly },
	{ "many-registrations", case_many_registrations },
	{ NULL, NULL },
};
