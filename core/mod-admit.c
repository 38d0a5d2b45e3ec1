/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod-admit.so: HMAC-SHA-256 by OpenSSL's libcrypto, for admission by a cluster
 * key.  Opened only by engines that have one, so that others load no libcrypto.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "admit.h"
#include "mc-config.h"
#include "module.h"

/* Without the handler that takes the library down at exit: a program may end while its engines, which
 * it did not close, still admit. */
static int start(void)
{
	return OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL) ? 0 : -EIO;
}

static int hmac(const uint8_t *key, size_t key_len, const uint8_t *data, size_t len,
		uint8_t out[MC_ADMIT_MAC])
{
	unsigned int got = 0;

	if (!HMAC(EVP_sha256(), key, (int)key_len, data, len, out, &got) || got != MC_ADMIT_MAC)
		return -EIO;
	return 0;
}

static bool equal(const uint8_t *a, const uint8_t *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

static const struct mc_admit_ops ops = {.start = start, .hmac = hmac, .equal = equal};

const struct mc_module_desc mc_module_desc = {
	.name = "admit",
	.version = MC_VERSION,
	.ops = &ops,
};
