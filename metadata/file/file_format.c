/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two file formats: key files and lease files.  Whatever stands in the
 * directory may come from a crash, another version or another program, so every
 * length is checked before it is used.
 */
#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/util/bytes.h"
#include "file.h"

#define FORMAT_VERSION 1

/* XXH3 over two ranges. */
static uint64_t sum2(const void *a, size_t alen, const void *b, size_t blen)
{
	XXH3_state_t st;

	XXH3_INITSTATE(&st);
	XXH3_64bits_reset(&st);
	XXH3_64bits_update(&st, a, alen);
	XXH3_64bits_update(&st, b, blen);
	return XXH3_64bits_digest(&st);
}

void file_key_encode(uint8_t head[FILE_KEY_HEAD], const struct mc_kv *kv, uint64_t revision)
{
	size_t key_len = strlen(kv->key);

	memcpy(head, "MCKV", 4);
	mc_put16(head + 4, FORMAT_VERSION);
	mc_put16(head + 6, (uint16_t)key_len);
	mc_put64(head + 8, revision);
	mc_put64(head + 16, kv->lease);
	mc_put64(head + 24, kv->len);
	mc_put64(head + 32, kv->len ? XXH3_64bits(kv->value, kv->len) : 0);
	mc_put64(head + 40, sum2(head, 40, kv->key, key_len));
}

int file_key_parse(const uint8_t *buf, size_t len, uint64_t file_size, struct file_key *k,
		   const char **ret_why)
{
	size_t body;

	*ret_why = "it is too short";
	if (len < FILE_KEY_HEAD || len > file_size)
		return -EBADMSG;
	*ret_why = "it is not a key file";
	if (memcmp(buf, "MCKV", 4) != 0)
		return -EBADMSG;
	*ret_why = "its format version is not 1";
	if (mc_get16(buf + 4) != FORMAT_VERSION)
		return -EBADMSG;
	k->key_len = mc_get16(buf + 6);
	k->revision = mc_get64(buf + 8);
	k->lease = mc_get64(buf + 16);
	k->value_len = mc_get64(buf + 24);
	k->value_sum = mc_get64(buf + 32);
	*ret_why = "its lengths do not fit its size";
	if (k->key_len == 0 || k->key_len > MC_KV_KEY_MAX || k->value_len > MC_KV_VALUE_MAX)
		return -EBADMSG;
	body = FILE_KEY_HEAD + k->key_len + 1;
	if (len < body || file_size != body + k->value_len)
		return -EBADMSG;
	k->key = (const char *)buf + FILE_KEY_HEAD;
	*ret_why = "the checksum of its header is wrong";
	if (k->revision == 0 || k->key[k->key_len] != '\0' || memchr(k->key, 0, k->key_len) ||
	    mc_get64(buf + 40) != sum2(buf, 40, k->key, k->key_len))
		return -EBADMSG;
	k->value = NULL;
	if (len < file_size)
		return 0;
	*ret_why = "the checksum of its value is wrong";
	if (k->value_sum != (k->value_len ? XXH3_64bits(buf + body, k->value_len) : 0))
		return -EBADMSG;
	k->value = buf + body;
	return 0;
}

void file_lease_encode(uint8_t buf[FILE_LEASE_SIZE], const struct file_lease *l)
{
	size_t host_len = strnlen(l->holder.host, FILE_HOST_MAX);

	memset(buf, 0, FILE_LEASE_SIZE);
	memcpy(buf, "MCLS", 4);
	mc_put16(buf + 4, FORMAT_VERSION);
	mc_put16(buf + 6, (uint16_t)host_len);
	mc_put64(buf + 8, l->id);
	mc_put64(buf + 16, l->ttl_ns);
	mc_put64(buf + 24, l->holder.boot);
	mc_put64(buf + 32, l->holder.pidns);
	mc_put64(buf + 40, l->holder.start);
	mc_put32(buf + 48, l->holder.pid);
	memcpy(buf + 80, l->holder.host, host_len);
	mc_put64(buf + 56, sum2(buf, 56, buf + 80, FILE_HOST_MAX));
	mc_put64(buf + FILE_LEASE_COUNTER, l->counter);
	mc_put64(buf + FILE_LEASE_ENDED, l->ended);
}

int file_lease_parse(const uint8_t *buf, size_t len, struct file_lease *l)
{
	size_t host_len;

	if (len != FILE_LEASE_SIZE || memcmp(buf, "MCLS", 4) != 0 ||
	    mc_get16(buf + 4) != FORMAT_VERSION)
		return -EBADMSG;
	host_len = mc_get16(buf + 6);
	if (host_len > FILE_HOST_MAX ||
	    mc_get64(buf + 56) != sum2(buf, 56, buf + 80, FILE_HOST_MAX))
		return -EBADMSG;
	l->id = mc_get64(buf + 8);
	l->ttl_ns = mc_get64(buf + 16);
	l->holder.boot = mc_get64(buf + 24);
	l->holder.pidns = mc_get64(buf + 32);
	l->holder.start = mc_get64(buf + 40);
	l->holder.pid = mc_get32(buf + 48);
	l->counter = mc_get64(buf + FILE_LEASE_COUNTER);
	l->ended = mc_get64(buf + FILE_LEASE_ENDED);
	memcpy(l->holder.host, buf + 80, host_len);
	l->holder.host[host_len] = '\0';
	return 0;
}
