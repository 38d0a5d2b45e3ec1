/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a directory of metadata/file with the records of engines that do not exist:
 * records DIRECTORY NR [TEXT].  For scenarios of large clusters, and, with the text of
 * the records, of what cannot be read.  Keys without a lease, so that nobody has to keep
 * them.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"

static int write_record(const char *dir, unsigned long i, const char *text)
{
	char key[96], name[FILE_NAME_SIZE], path[4096], value[256];
	struct mc_kv kv = {.size = sizeof kv, .key = key, .value = value};
	uint8_t head[FILE_KEY_HEAD];
	FILE *f;
	bool ok;

	snprintf(key, sizeof key, "mooncake/default/engine/node-%05lu", i);
	kv.len = (size_t)snprintf(value, sizeof value,
				  "{\"format\": 1, \"name\": \"node-%05lu\", \"generation\": \"%016lx\", "
				  "\"addresses\": [\"127.0.0.1:1\"], \"devices\": []}",
				  i, i + 1);
	if (text) {
		kv.value = text;
		kv.len = strlen(text);
	}
	if (file_name_of(key, name) < 0)
		return -1;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "we");
	if (!f)
		return -1;
	file_key_encode(head, &kv, i + 1);
	ok = fwrite(head, sizeof head, 1, f) == 1 && fwrite(key, strlen(key) + 1, 1, f) == 1 &&
	     fwrite(kv.value, kv.len, 1, f) == 1;
	return fclose(f) == 0 && ok ? 0 : -1;
}

int main(int argc, char **argv)
{
	unsigned long nr = argc == 3 || argc == 4 ? strtoul(argv[2], NULL, 10) : 0;

	for (unsigned long i = 0; i < nr; i++) {
		if (write_record(argv[1], i, argv[3]) < 0) {
			perror(argv[1]);
			return 1;
		}
	}
	return argc == 3 || argc == 4 ? 0 : 2;
}
