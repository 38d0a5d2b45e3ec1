/* SPDX-License-Identifier: Apache-2.0 */
/* Config files: any text is refused with nothing changed, or read. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mc_config *pristine;
	struct mc_config *c;
	struct mc_error err;
	char path[32];
	int fd;

	if (!pristine) {
		setenv("MC_CONFIG_DIR", "/nonexistent", 1);
		if (mc_config_new(&pristine, &err) < 0)
			abort();
	}
	fd = memfd_create("config", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size || mc_config_clone(pristine, &c) < 0)
		abort();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (mc_config_load(c, path, &err) < 0 && mc_config_origin(c, "port") != MC_ORIGIN_DEFAULT)
		abort();
	if (mc_config_settings(c)->port < 0 || mc_config_settings(c)->port > 65535)
		abort();
	mc_config_free(c);
	close(fd);
	return 0;
}
