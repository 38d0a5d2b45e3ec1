/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzer of the JSON in which a peer says who it is.  What is taken can be dialled and routed to. */
#include <stdlib.h>
#include <string.h>

#include "addr.h"
#include "session_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct mc_peer_info *info)
{
	struct mc_addr addr;

	if (!info->generation || mc_name_check(info->name, NULL) < 0 || !info->addresses)
		abort();
	for (char **at = info->addresses; *at; at++)
		if (mc_addr_parse(*at, &addr) < 0 || !addr.port)
			abort();
	for (size_t i = 0; i < info->nr_devices; i++) {
		const struct mc_remote_device *d = &info->devices[i];

		if (!d->name[0] || !d->wire[0] || d->wire_min > d->wire_max || !d->nr_lanes || d->nr_lanes > 1024)
			abort();
	}
	if (info->matrix && !info->matrix->nr_rows)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_error err = {0};
	struct mc_peer_info info;

	if (mc_hello_parse((const char *)data, size, &info, &err) == 0) {
		check(&info);
		mc_peer_info_fini(&info);
	} else if (!err.text[0]) {
		abort();
	}
	return 0;
}
