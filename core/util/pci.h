/* SPDX-License-Identifier: Apache-2.0 */
/* The PCI address of a device of sysfs, from the link that leads to it.  Header-only, stateless. */
#ifndef MC_UTIL_PCI_H
#define MC_UTIL_PCI_H

#include <limits.h>
#include <string.h>
#include <unistd.h>

#define MC_PCI_LEN 12 /* of "0000:3b:00.0" */

/* Write the address to pci, which has room for MC_PCI_LEN + 1, if the link leads to a PCI device:
 * virtio, USB and virtual devices have other names, or no link. */
static inline void mc_pci_of_link(const char *path, char *pci)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof target - 1);
	const char *name;

	if (n <= 0)
		return;
	target[n] = '\0';
	name = strrchr(target, '/');
	name = name ? name + 1 : target;
	if (strlen(name) == MC_PCI_LEN && name[4] == ':' && name[7] == ':' && name[10] == '.')
		memcpy(pci, name, MC_PCI_LEN + 1);
}

#endif
