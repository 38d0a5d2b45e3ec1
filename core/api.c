/* SPDX-License-Identifier: Apache-2.0 */
/* The public API: checks arguments, calls in. */
#include <mooncake/mooncake.h>
#include "mc-config.h"

const char *mc_version(void)
{
	return MC_VERSION;
}
