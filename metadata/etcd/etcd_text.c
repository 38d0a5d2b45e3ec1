/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of requests: JSON text that grows, with keys and values in base64 as
 * etcd's gateway has them, and the way back from base64.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "core/util/check.h"
#include "etcd.h"

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void etcd_text_fini(struct etcd_text *t)
{
	free(t->s);
	*t = (struct etcd_text){0};
}

/* Room for n more bytes and a final NUL; NULL: no memory, now or before. */
static char *grow(struct etcd_text *t, size_t n)
{
	if (t->failed || n > SIZE_MAX / 4 - t->len) {
		t->failed = true;
		return NULL;
	}
	if (t->len + n + 1 > t->room) {
		size_t room = MC_MAX(2 * t->room, MC_MAX(t->len + n + 1, (size_t)256));
		char *s = realloc(t->s, room);

		if (!s) {
			t->failed = true;
			return NULL;
		}
		t->s = s;
		t->room = room;
	}
	return t->s + t->len;
}

static void add(struct etcd_text *t, const char *s, size_t n)
{
	char *at = grow(t, n);

	if (!at)
		return;
	memcpy(at, s, n);
	t->len += n;
	t->s[t->len] = '\0';
}

void etcd_text_add(struct etcd_text *t, const char *s)
{
	add(t, s, strlen(s));
}

void etcd_text_bytes(struct etcd_text *t, const void *bytes, size_t len)
{
	const uint8_t *b = bytes;
	char *at = grow(t, (len + 2) / 3 * 4 + 2), *start = at;

	if (!at)
		return;
	*at++ = '"';
	for (; len >= 3; len -= 3, b += 3) {
		*at++ = letters[b[0] >> 2];
		*at++ = letters[(b[0] & 3) << 4 | b[1] >> 4];
		*at++ = letters[(b[1] & 15) << 2 | b[2] >> 6];
		*at++ = letters[b[2] & 63];
	}
	if (len) {
		uint8_t second = len == 2 ? b[1] : 0;

		*at++ = letters[b[0] >> 2];
		*at++ = letters[(b[0] & 3) << 4 | second >> 4];
		*at++ = len == 2 ? letters[(second & 15) << 2] : '=';
		*at++ = '=';
	}
	*at++ = '"';
	t->len += (size_t)(at - start);
	t->s[t->len] = '\0';
}

void etcd_text_string(struct etcd_text *t, const char *s)
{
	add(t, "\"", 1);
	for (; *s; s++) {
		char escaped[8];

		if (*s == '"' || *s == '\\') {
			snprintf(escaped, sizeof escaped, "\\%c", *s);
			etcd_text_add(t, escaped);
		} else if ((unsigned char)*s < 0x20) {
			snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned char)*s);
			etcd_text_add(t, escaped);
		} else {
			add(t, s, 1);
		}
	}
	add(t, "\"", 1);
}

void etcd_text_u64(struct etcd_text *t, uint64_t u)
{
	char digits[24];

	snprintf(digits, sizeof digits, "\"%" PRIu64 "\"", u);
	etcd_text_add(t, digits);
}

void etcd_text_range(struct etcd_text *t, const char *prefix, const char *after)
{
	size_t len = strlen(prefix), n = len;
	uint8_t end[MC_KV_KEY_MAX + 1];

	/* The first key after one is that key with a byte 0 behind it. */
	etcd_text_add(t, "\"key\":");
	if (after)
		etcd_text_bytes(t, after, strlen(after) + 1);
	else
		etcd_text_bytes(t, len ? prefix : "", len ? len : 1);
	etcd_text_add(t, ",\"range_end\":");
	/* The end is the prefix with its last byte counted up; one of 0xff bytes has none, which is
	 * said by a byte 0. */
	if (n > MC_KV_KEY_MAX)
		n = 0;
	memcpy(end, prefix, n);
	while (n && end[n - 1] == 0xff)
		n--;
	if (n)
		end[n - 1]++;
	else
		end[n++] = 0;
	etcd_text_bytes(t, end, n);
}

static int letter(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ssize_t etcd_base64_decode(const unsigned char *text, size_t len, uint8_t *out)
{
	uint32_t bits = 0;
	uint8_t *at = out;
	size_t rest;

	if (len % 4)
		return -EBADMSG;
	if (len && text[len - 1] == '=')
		len -= text[len - 2] == '=' ? 2 : 1;
	for (size_t i = 0; i < len; i++) {
		int v = letter(text[i]);

		if (v < 0)
			return -EBADMSG;
		bits = bits << 6 | (uint32_t)v;
		if (i % 4 == 3) {
			*at++ = (uint8_t)(bits >> 16);
			*at++ = (uint8_t)(bits >> 8);
			*at++ = (uint8_t)bits;
			bits = 0;
		}
	}
	/* 2 letters hold one byte, 3 hold two; what is left over must be 0. */
	rest = len % 4;
	if (rest == 2) {
		if (bits & 15)
			return -EBADMSG;
		*at++ = (uint8_t)(bits >> 4);
	} else if (rest == 3) {
		if (bits & 3)
			return -EBADMSG;
		*at++ = (uint8_t)(bits >> 10);
		*at++ = (uint8_t)(bits >> 2);
	}
	return at - out;
}
