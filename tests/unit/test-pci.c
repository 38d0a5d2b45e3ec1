/* SPDX-License-Identifier: Apache-2.0 */
/* PCI addresses from links such as sysfs has: of PCI devices, of others, and none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/util/pci.h"

static char folder[] = "/tmp/mc-test-pci.XXXXXX";

/* What a link to target says. */
static const char *of(const char *target, char *pci)
{
	char path[64];

	snprintf(path, sizeof path, "%s/device", folder);
	*pci = '\0';
	if (target)
		assert_int_equal(symlink(target, path), 0);
	mc_pci_of_link(path, pci);
	if (target)
		unlink(path);
	return pci;
}

static void test_links(void **state)
{
	char pci[MC_PCI_LEN + 1];

	assert_string_equal(of("../../../0000:3b:00.0", pci), "0000:3b:00.0");
	assert_string_equal(of("10de:01:1f.7", pci), "10de:01:1f.7");
	assert_string_equal(of("../../../virtio0", pci), "");
	assert_string_equal(of("../../../1-2:1.0", pci), "");
	assert_string_equal(of("../../../0000:3b:00.10", pci), "");
	assert_string_equal(of("../../../0000-3b:00.0", pci), "");
	assert_string_equal(of("0000:3b:00.0/", pci), "");
	assert_string_equal(of(NULL, pci), "");
}

static int make_folder(void **state)
{
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_links),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
