/* SPDX-License-Identifier: Apache-2.0 */
/* A shared object that is no plugin, but uses the descriptor of a library that it links. */
#include <mooncake/plugin.h>

MC_EXPORT const void *mc_not_a_plugin(void);
MC_EXPORT const void *mc_not_a_plugin(void)
{
	return &mc_plugin_desc;
}
