/* SPDX-License-Identifier: Apache-2.0 */
/* `mooncake check-plugin` without the other verbs, for the tests of our own plugins. */
#include "cli/cli.h"

int main(int argc, char **argv)
{
	return cli_check_plugin(argc, argv);
}
