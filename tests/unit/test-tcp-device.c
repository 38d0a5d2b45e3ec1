/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp's devices: what probe says of interfaces that are there, down or missing, and
 * that an interface which goes down or comes back is told to the host.  The latter
 * happens in a network namespace of its own, where the system allows one.
 */
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/check/fake-host.h"

#define BOUND (5 * MC_SEC)

static const struct mc_transport_ops *ops;

static struct mc_device_info probe(const char *device)
{
	struct mc_device_info info = { .size = sizeof info };
	struct mc_error err;

	assert_int_equal(ops->probe(NULL, device, &info, &err), 0);
	return info;
}

static int note_lo(void *ctx, const char *device)
{
	*(bool *)ctx |= !strcmp(device, "lo");
	return 0;
}

static void test_probe(void **state)
{
	struct mc_device_info info = probe("lo");
	bool seen = false;

	(void)state;
	assert_int_equal(info.state, MC_STATE_ACTIVE);
	assert_string_equal(info.address, "127.0.0.1");
	assert_string_equal(info.subnet, "127.0.0.0/8");
	assert_string_equal(info.pci, "");
	info = probe("nosuch0");
	assert_int_equal(info.state, MC_STATE_MISSING);
	assert_non_null(strstr(info.remedy, "no interface 'nosuch0'"));
	assert_int_equal(probe("../lo").state, MC_STATE_MISSING);
	assert_int_equal(probe("").state, MC_STATE_MISSING);
	assert_int_equal(ops->enumerate(NULL, note_lo, &seen), 0);
	assert_true(seen);
}

static void set_lo(bool up)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

/* More news than a socket has room for. */
static void flood_lo(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	for (int i = 0; i < 2000; i++) {
		ifr.ifr_mtu = 1500 + i % 2;
		assert_int_equal(ioctl(fd, SIOCSIFMTU, &ifr), 0);
	}
	close(fd);
}

static bool is_down(void *ctx)
{
	return ((struct fake_inst *)ctx)->last_event == MC_DEVICE_DOWN;
}

static bool is_up(void *ctx)
{
	return ((struct fake_inst *)ctx)->last_event == MC_DEVICE_UP;
}

static void test_link(void **state)
{
	struct fake_open how = { .device = "lo" };
	struct fake_plugin plugin;
	struct fake_inst *inst;
	struct mc_error err = { 0 };
	struct fake_world *w;

	(void)state;
	if (unshare(CLONE_NEWNET) < 0) {
		print_message("skipped: a network namespace: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(probe("lo").state, MC_STATE_DOWN);
	assert_string_equal(probe("lo").remedy, "interface lo is down: ip link set lo up");
	w = fake_world_new(0);
	assert_int_equal(fake_plugin_init(&mc_plugin_desc, MC_KIND_TRANSPORT, &plugin, &err), 0);
	assert_int_equal(fake_open(w, &plugin, &how, &inst, &err), -ENETDOWN);
	assert_non_null(strstr(err.text, "ip link set lo up"));
	set_lo(true);
	if (fake_open(w, &plugin, &how, &inst, &err) < 0)
		fail_msg("%s", err.text);
	set_lo(false);
	assert_int_equal(fake_run(w, is_down, inst, BOUND), 0);
	set_lo(true);
	assert_int_equal(fake_run(w, is_up, inst, BOUND), 0);
	assert_int_equal(inst->nr_events, 2);
	set_lo(false);
	assert_int_equal(fake_run(w, is_down, inst, BOUND), 0);
	/* That it is up again finds no room. */
	flood_lo();
	set_lo(true);
	assert_int_equal(fake_run(w, is_up, inst, BOUND), 0);
	assert_int_equal(inst->nr_events, 4);
	assert_int_equal(fake_close(inst, BOUND), 0);
	assert_int_equal(fake_world_free(w), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_link),
	};

	ops = mc_plugin_desc.ops;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
