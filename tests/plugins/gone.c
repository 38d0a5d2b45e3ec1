/* SPDX-License-Identifier: Apache-2.0 */
/* A library that carries another name inside than its file has, so that nobody finds it again. */
int mc_gone(void);
int mc_gone(void)
{
	return 0;
}
