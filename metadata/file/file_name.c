/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names in the directory: keys to file names and back.  All but [A-Za-z0-9._-]
 * is percent-encoded byte by byte, so the encoding of a prefix is a prefix of
 * the encoding, and a directory is always flat.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "file.h"

static const char hexdigits[] = "0123456789ABCDEF";

uint64_t file_hash(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}

static bool plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

/* Encode key behind "k.".  False: it does not fit FILE_NAME_MAX. */
static bool encode(const char *key, char name[FILE_NAME_SIZE])
{
	size_t n = 2;

	memcpy(name, "k.", 2);
	for (const unsigned char *p = (const unsigned char *)key; *p; p++) {
		if (n + (plain(*p) ? 1 : 3) > FILE_NAME_MAX)
			return false;
		if (plain(*p)) {
			name[n++] = (char)*p;
		} else {
			name[n++] = '%';
			name[n++] = hexdigits[*p >> 4];
			name[n++] = hexdigits[*p & 15];
		}
	}
	name[n] = '\0';
	return true;
}

int file_name_of(const char *key, char name[FILE_NAME_SIZE])
{
	size_t len = key ? strnlen(key, MC_KV_KEY_MAX + 1) : 0;
	XXH128_hash_t h;

	if (len == 0 || len > MC_KV_KEY_MAX)
		return -EINVAL;
	if (encode(key, name))
		return 0;
	h = XXH3_128bits(key, len);
	snprintf(name, FILE_NAME_SIZE, "h.%016llx%016llx", (unsigned long long)h.high64,
		 (unsigned long long)h.low64);
	return 0;
}

static int hex_value(char c)
{
	const char *p = c ? strchr(hexdigits, c) : NULL;

	return p ? (int)(p - hexdigits) : -1;
}

/* Decode what encode wrote, and nothing else: each key has one name. */
static bool decode(const char *enc, char key[MC_KV_KEY_MAX + 1])
{
	size_t n = 0;

	if (!*enc || strlen(enc) > FILE_NAME_MAX - 2)
		return false;
	for (const char *p = enc; *p; p++) {
		int c = (unsigned char)*p;

		if (c == '%') {
			int hi = hex_value(p[1]);
			int lo = hi < 0 ? -1 : hex_value(p[2]);

			if (lo < 0)
				return false;
			c = hi << 4 | lo;
			if (c == 0 || plain((unsigned char)c))
				return false;
			p += 2;
		} else if (!plain((unsigned char)c)) {
			return false;
		}
		key[n++] = (char)c;
	}
	key[n] = '\0';
	return true;
}

static bool lower_hex(const char *s, size_t digits)
{
	return strspn(s, "0123456789abcdef") == digits && s[digits] == '\0';
}

enum file_kind file_name_kind(const char *name, char *key, uint64_t *id)
{
	unsigned long long v;

	if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, FILE_LOCK_NAME) ||
	    !strcmp(name, FILE_SWEPT_NAME))
		return FILE_OURS;
	if (!name[0] || name[1] != '.')
		return FILE_JUNK;
	switch (name[0]) {
	case 'k':
		return decode(name + 2, key) ? FILE_KEY : FILE_JUNK;
	case 'h':
		return lower_hex(name + 2, 32) ? FILE_HASHED : FILE_JUNK;
	case 'l':
		if (!lower_hex(name + 2, 16) || sscanf(name + 2, "%llx", &v) != 1 || v == 0)
			return FILE_JUNK;
		*id = v;
		return FILE_LEASE;
	case 't':
		return strlen(name) < sizeof(((struct file_temp *)0)->name) ? FILE_TEMP : FILE_JUNK;
	default:
		return FILE_JUNK;
	}
}
