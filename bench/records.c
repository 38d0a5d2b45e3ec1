/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fill a directory of the file metadata plugin with the records of engines that
 * other machines seem to run, in the format that metadata/file/file.h describes:
 * a key file and a lease file each.  Their leases last an hour, by every reader's
 * clock.  For measuring how lookups and lists grow with the cluster.
 *
 *   file_records DIRECTORY NUMBER [CLUSTER]     names: node00000, node00001, ...
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/util/bytes.h"

#define KEY_HEAD 48
#define LEASE_SIZE 144
#define LEASE_TTL_NS (UINT64_C(3600) * 1000000000)

static int write_file(int dir, const char *name, const void *head, size_t head_len,
		      const void *body, size_t body_len)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, head, head_len) != (ssize_t)head_len ||
	    write(fd, body, body_len) != (ssize_t)body_len)
		r = errno ? -errno : -ENOSPC;
	close(fd);
	return r;
}

static int write_lease(int dir, uint64_t id)
{
	uint8_t b[LEASE_SIZE] = {0};
	char name[32], host[64] = {0};
	uint8_t sum[56 + sizeof host];

	snprintf(host, sizeof host, "elsewhere-%llx", (unsigned long long)id);
	memcpy(b, "MCLS", 4);
	mc_put16(b + 4, 1);
	mc_put16(b + 6, (uint16_t)strlen(host));
	mc_put64(b + 8, id);
	mc_put64(b + 16, LEASE_TTL_NS);
	mc_put64(b + 24, id | 1); /* boot: nobody's */
	mc_put32(b + 48, 1);
	memcpy(b + 80, host, sizeof host);
	memcpy(sum, b, 56);
	memcpy(sum + 56, host, sizeof host);
	mc_put64(b + 56, XXH3_64bits(sum, sizeof sum));
	snprintf(name, sizeof name, "l.%016llx", (unsigned long long)id);
	return write_file(dir, name, b, 80, b + 80, sizeof b - 80);
}

static int write_key(int dir, const char *cluster, unsigned i, uint64_t lease)
{
	static const char value[] =
		"{\"format\":1,\"generation\":\"0000000000000001\",\"addresses\":"
		"[\"192.0.2.1:12001\"],\"devices\":[]}";
	uint8_t head[KEY_HEAD], body[1024], sum[40 + 512];
	char name[512], key[256];
	size_t len, value_len = sizeof value - 1;

	len = (size_t)snprintf(key, sizeof key, "mooncake/%s/engine/node%05u", cluster, i);
	snprintf(name, sizeof name, "k.mooncake%%2F%s%%2Fengine%%2Fnode%05u", cluster, i);
	memcpy(head, "MCKV", 4);
	mc_put16(head + 4, 1);
	mc_put16(head + 6, (uint16_t)len);
	mc_put64(head + 8, i + 1);
	mc_put64(head + 16, lease);
	mc_put64(head + 24, value_len);
	mc_put64(head + 32, XXH3_64bits(value, value_len));
	memcpy(sum, head, 40);
	memcpy(sum + 40, key, len);
	mc_put64(head + 40, XXH3_64bits(sum, 40 + len));
	memcpy(body, key, len + 1);
	memcpy(body + len + 1, value, value_len);
	return write_file(dir, name, head, sizeof head, body, len + 1 + value_len);
}

int main(int argc, char **argv)
{
	const char *cluster = argc > 3 ? argv[3] : "default";
	long nr = argc > 2 ? atol(argv[2]) : 0;
	int dir, r = 0;

	if (argc < 3 || argc > 4 || nr < 1 || nr > 100000 || strlen(cluster) > 64 ||
	    strspn(cluster, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(cluster)) {
		fprintf(stderr, "usage: file_records DIRECTORY NUMBER (1..100000) [CLUSTER]\n");
		return 2;
	}
	if (mkdir(argv[1], 0700) < 0 && errno != EEXIST) {
		perror(argv[1]);
		return 1;
	}
	dir = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		perror(argv[1]);
		return 1;
	}
	for (unsigned i = 0; r == 0 && i < (unsigned)nr; i++) {
		uint64_t lease = UINT64_C(0x6d63000000000000) + i;

		r = write_lease(dir, lease);
		if (r == 0)
			r = write_key(dir, cluster, i, lease);
	}
	close(dir);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
	return r < 0;
}
