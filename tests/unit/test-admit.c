/* SPDX-License-Identifier: Apache-2.0 */
/* Admission without sockets: proofs against vectors made elsewhere, what is out of turn, changed, of
 * another key, connection or direction; and the files of keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admit_wire.h"
#include "module.h"
#include "core/util/bytes.h"

static const struct mc_admit_ops *ops;

/* One connection, as both ends see it, with the messages on the wire. */
struct pair {
	struct mc_admit_talk *dialler, *listener;
	uint8_t challenge[MC_ANSWER_MAX], reply[MC_REPLY_SIZE], verdict[MC_ANSWER_MAX];
	int challenge_len, reply_len, verdict_len;
};

static uint8_t nonce_l[MC_ADMIT_NONCE], nonce_d[MC_ADMIT_NONCE];

static struct mc_admit_key *key_of(uint8_t first)
{
	struct mc_admit_key *key = NULL;
	uint8_t bytes[32];

	for (unsigned i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(first + i);
	assert_int_equal(mc_admit_key_new(ops, bytes, sizeof bytes, &key), 0);
	return key;
}

static size_t preamble(uint8_t out[MC_PREAMBLE_MAX])
{
	const struct mc_stream_hello h = {.kind = MC_STREAM_DATA, .session_id = 1, .from_generation = 2,
					  .to_generation = 3, .rail_id = 4, .lane = 5, .epoch = 6, .token = 7,
					  .admission = MC_ADMIT_HMAC, .from = "node1"};

	return mc_preamble_encode(&h, out);
}

static void pair_begin(struct pair *p, const struct mc_admit_key *dialler, const struct mc_admit_key *listener)
{
	uint8_t buf[MC_PREAMBLE_MAX];
	size_t len = preamble(buf);

	memset(p, 0, sizeof *p);
	assert_int_equal(mc_admit_talk_new(dialler, buf, len, &p->dialler), 0);
	assert_int_equal(mc_admit_talk_new(listener, buf, len, &p->listener), 0);
}

static void pair_challenge(struct pair *p)
{
	const struct mc_answer a = {.version = 1, .step = MC_STEP_CHALLENGE, .generation = 9};

	p->challenge_len = mc_admit_challenge(p->listener, &a, nonce_l, p->challenge);
	assert_int_equal(p->challenge_len, MC_ANSWER_FIXED + MC_ADMIT_TAIL);
}

static void pair_reply(struct pair *p)
{
	p->reply_len = mc_admit_reply(p->dialler, p->challenge, (size_t)p->challenge_len, nonce_d, p->reply);
	assert_int_equal(p->reply_len, MC_REPLY_SIZE);
}

static void pair_verdict(struct pair *p, const char *why)
{
	struct mc_answer a = {.version = 1, .generation = 9, .status = *why ? -ESTALE : 0};

	strcpy(a.why, why);
	p->verdict_len = mc_admit_verdict(p->listener, &a, p->verdict);
	assert_int_equal(p->verdict_len, MC_ANSWER_FIXED + strlen(why) + MC_ADMIT_TAIL);
}

static void pair_end(struct pair *p)
{
	mc_admit_talk_free(p->dialler);
	mc_admit_talk_free(p->listener);
}

static int check_reply(struct pair *p)
{
	return mc_admit_check_reply(p->listener, p->reply, (size_t)p->reply_len);
}

static int check_verdict(struct pair *p)
{
	return mc_admit_check_verdict(p->dialler, p->verdict, (size_t)p->verdict_len);
}

static void hex(const uint8_t *p, char out[2 * MC_ADMIT_MAC + 1])
{
	for (unsigned i = 0; i < MC_ADMIT_MAC; i++)
		sprintf(out + 2 * i, "%02x", p[i]);
}

/* The vectors are Python's hmac over the layout that docs/wire.md gives. */
static void test_vectors(void **state)
{
	struct mc_admit_key *key = key_of(1);
	char text[2 * MC_ADMIT_MAC + 1];
	struct pair p;

	pair_begin(&p, key, key);
	pair_challenge(&p);
	assert_memory_equal(p.challenge + p.challenge_len - MC_ADMIT_NONCE, nonce_l, MC_ADMIT_NONCE);
	pair_reply(&p);
	assert_memory_equal(p.reply + 16, nonce_d, MC_ADMIT_NONCE);
	hex(p.reply + 48, text);
	assert_string_equal(text, "daaf573e33b244bd39f3f52e5543e560d8bd38d00aee4484bcb12f765800742e");
	assert_int_equal(check_reply(&p), 0);
	pair_verdict(&p, "");
	hex(p.verdict + p.verdict_len - MC_ADMIT_MAC, text);
	assert_string_equal(text, "8f3b43789879f28b6ca960360b8f6aab193f684105b3ce125d108323ce9bb18e");
	assert_int_equal(check_verdict(&p), 0);
	pair_end(&p);
	/* A refusal is proven, too. */
	pair_begin(&p, key, key);
	pair_challenge(&p);
	pair_reply(&p);
	assert_int_equal(check_reply(&p), 0);
	pair_verdict(&p, "it was restarted");
	assert_int_equal(check_verdict(&p), 0);
	pair_end(&p);
	mc_admit_key_free(key);
}

static void test_keys_differ(void **state)
{
	struct mc_admit_key *key = key_of(1), *other = key_of(2);
	struct pair p;

	pair_begin(&p, key, other);
	pair_challenge(&p);
	pair_reply(&p);
	assert_int_equal(check_reply(&p), -EACCES);
	/* Nothing to guess the key from is given to who has not proven it. */
	assert_int_equal(mc_admit_verdict(p.listener, &(struct mc_answer){.version = 1}, p.verdict), -EPROTO);
	pair_end(&p);
	mc_admit_key_free(key);
	mc_admit_key_free(other);
}

/* Every byte of every message matters. */
static void test_every_byte(void **state)
{
	struct mc_admit_key *key = key_of(1);
	uint8_t buf[MC_PREAMBLE_MAX];
	size_t len = preamble(buf);
	struct pair p;

	for (size_t i = 0; i < len; i++) {
		pair_begin(&p, key, key);
		mc_admit_talk_free(p.dialler);
		buf[i] ^= 1;
		assert_int_equal(mc_admit_talk_new(key, buf, len, &p.dialler), 0);
		buf[i] ^= 1;
		pair_challenge(&p);
		pair_reply(&p);
		assert_int_equal(check_reply(&p), -EACCES);
		pair_end(&p);
	}
	for (size_t i = 0; i < MC_ANSWER_FIXED + MC_ADMIT_TAIL; i++) {
		pair_begin(&p, key, key);
		pair_challenge(&p);
		p.challenge[i] ^= 1;
		p.reply_len = mc_admit_reply(p.dialler, p.challenge, (size_t)p.challenge_len, nonce_d, p.reply);
		if (p.reply_len > 0)
			assert_int_equal(check_reply(&p), -EACCES);
		else
			assert_int_equal(p.reply_len, -EBADMSG);
		pair_end(&p);
	}
	for (size_t i = 0; i < MC_REPLY_SIZE; i++) {
		pair_begin(&p, key, key);
		pair_challenge(&p);
		pair_reply(&p);
		p.reply[i] ^= 1;
		assert_int_equal(check_reply(&p), i < 16 ? -EBADMSG : -EACCES);
		pair_end(&p);
	}
	for (size_t i = 0; i < MC_ANSWER_FIXED + 3 + MC_ADMIT_TAIL; i++) {
		pair_begin(&p, key, key);
		pair_challenge(&p);
		pair_reply(&p);
		assert_int_equal(check_reply(&p), 0);
		pair_verdict(&p, "why");
		p.verdict[i] ^= 1;
		assert_int_equal(check_verdict(&p), -EACCES);
		pair_end(&p);
	}
	mc_admit_key_free(key);
}

/* What was said on one connection, or by the other end, is worth nothing. */
static void test_spliced(void **state)
{
	struct mc_admit_key *key = key_of(1);
	struct pair old, p;

	pair_begin(&old, key, key);
	pair_challenge(&old);
	pair_reply(&old);
	assert_int_equal(check_reply(&old), 0);
	pair_verdict(&old, "");
	/* A recorded reply meets a fresh challenge. */
	nonce_l[0] ^= 1;
	pair_begin(&p, key, key);
	pair_challenge(&p);
	memcpy(p.reply, old.reply, sizeof p.reply);
	p.reply_len = old.reply_len;
	assert_int_equal(check_reply(&p), -EACCES);
	pair_end(&p);
	nonce_l[0] ^= 1;
	/* A recorded challenge and verdict meet a fresh reply. */
	nonce_d[0] ^= 1;
	pair_begin(&p, key, key);
	memcpy(p.challenge, old.challenge, sizeof p.challenge);
	p.challenge_len = old.challenge_len;
	pair_reply(&p);
	memcpy(p.verdict, old.verdict, sizeof p.verdict);
	p.verdict_len = old.verdict_len;
	assert_int_equal(check_verdict(&p), -EACCES);
	pair_end(&p);
	nonce_d[0] ^= 1;
	/* The dialler's own proof comes back as the listener's. */
	pair_begin(&p, key, key);
	pair_challenge(&p);
	pair_reply(&p);
	memcpy(p.verdict, old.verdict, sizeof p.verdict);
	p.verdict_len = old.verdict_len;
	memcpy(p.verdict + p.verdict_len - MC_ADMIT_MAC, p.reply + MC_REPLY_SIZE - MC_ADMIT_MAC, MC_ADMIT_MAC);
	assert_int_equal(check_verdict(&p), -EACCES);
	pair_end(&p);
	pair_end(&old);
	mc_admit_key_free(key);
}

static void test_turns(void **state)
{
	const struct mc_answer a = {.version = 1};
	struct mc_admit_key *key = key_of(1);
	struct pair p;

	/* A verdict at once, or one that is not of our kind. */
	pair_begin(&p, key, key);
	p.verdict_len = (int)mc_answer_encode(&a, p.verdict);
	assert_int_equal(check_verdict(&p), -EACCES);
	pair_end(&p);
	pair_begin(&p, key, key);
	pair_challenge(&p);
	pair_reply(&p);
	p.verdict_len = (int)mc_answer_encode(&a, p.verdict);
	assert_int_equal(check_verdict(&p), -EACCES);
	assert_int_equal(check_reply(&p), 0);
	pair_end(&p);
	/* A second challenge, reply or verdict; a verdict before the reply. */
	pair_begin(&p, key, key);
	assert_int_equal(check_reply(&p), -EPROTO);
	pair_end(&p);
	pair_begin(&p, key, key);
	pair_challenge(&p);
	assert_int_equal(mc_admit_verdict(p.listener, &a, p.verdict), -EPROTO);
	pair_reply(&p);
	assert_int_equal(check_reply(&p), -EPROTO);
	assert_int_equal(mc_admit_reply(p.dialler, p.challenge, (size_t)p.challenge_len, nonce_d, p.reply), -EPROTO);
	pair_end(&p);
	pair_begin(&p, key, key);
	pair_challenge(&p);
	pair_reply(&p);
	assert_int_equal(check_reply(&p), 0);
	pair_verdict(&p, "");
	assert_int_equal(mc_admit_verdict(p.listener, &a, p.challenge), -EPROTO);
	assert_int_equal(check_reply(&p), -EPROTO);
	assert_int_equal(check_verdict(&p), 0);
	assert_int_equal(check_verdict(&p), -EACCES);
	pair_end(&p);
	/* Cut and too long. */
	for (size_t len = 0; len < 600; len++) {
		uint8_t longer[600] = {0}, out[MC_REPLY_SIZE];

		pair_begin(&p, key, key);
		pair_challenge(&p);
		memcpy(longer, p.challenge, (size_t)p.challenge_len);
		if (len != (size_t)p.challenge_len)
			assert_int_equal(mc_admit_reply(p.dialler, longer, len, nonce_d, out), -EBADMSG);
		if (len != MC_REPLY_SIZE)
			assert_int_equal(mc_admit_check_reply(p.listener, longer, len), -EBADMSG);
		pair_end(&p);
	}
	mc_admit_key_free(key);
}

/* ---- files -------------------------------------------------------------------------------------- */

static char path[64];

static void write_file(const char *text, size_t len, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

/* The key of a file proves what this one proves. */
static void same_as(const char *bytes, size_t len)
{
	struct mc_admit_key *file = NULL, *key = NULL;
	struct mc_error err = {0};
	struct pair p;

	if (mc_admit_key_open(path, &file, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(mc_admit_key_new(ops, (const uint8_t *)bytes, len, &key), 0);
	pair_begin(&p, file, key);
	pair_challenge(&p);
	pair_reply(&p);
	assert_int_equal(check_reply(&p), 0);
	pair_end(&p);
	mc_admit_key_free(file);
	mc_admit_key_free(key);
}

static void refused(int status, const char *says)
{
	struct mc_admit_key *key = NULL;
	struct mc_error err = {0};

	assert_int_equal(mc_admit_key_open(path, &key, &err), status);
	assert_null(key);
	if (!strstr(err.text, says) || !strstr(err.text, path))
		fail_msg("'%s' does not say '%s'", err.text, says);
}

static void test_files(void **state)
{
	static char longest[MC_ADMIT_KEY_MAX + 3];
	static const char key[] = "0123456789abcdef";

	write_file(key, 16, 0600);
	same_as(key, 16);
	write_file("0123456789abcdef\n", 17, 0400);
	same_as(key, 16);
	write_file("0123456789abcdef\r\n", 18, 0600);
	same_as(key, 16);
	/* One line end, and nothing else of what may be a key. */
	write_file("0123456789abcdef\n\n", 18, 0600);
	same_as("0123456789abcdef\n", 17);
	write_file(" 0123456789abc\0 ", 16, 0600);
	same_as(" 0123456789abc\0 ", 16);
	write_file("0123456789abcde\n", 16, 0600);
	refused(-EINVAL, "too few bytes, a key has 16 to 4096");
	write_file("", 0, 0600);
	refused(-EINVAL, "no bytes");
	memset(longest, 'x', sizeof longest);
	memcpy(longest + MC_ADMIT_KEY_MAX, "\r\n", 2);
	write_file(longest, MC_ADMIT_KEY_MAX + 2, 0600);
	same_as(longest, MC_ADMIT_KEY_MAX);
	write_file(longest, MC_ADMIT_KEY_MAX + 3, 0600);
	refused(-EINVAL, "too many bytes");
	write_file(key, 16, 0640);
	refused(-EACCES, "(mode 0640); chmod 600 it");
	write_file(key, 16, 0602);
	refused(-EACCES, "chmod 600");
	/* Whose it is says the user who we act as. */
	if (getuid() == 0) {
		write_file(key, 16, 0640);
		assert_int_equal(chown(path, 65534, 65534), 0);
		assert_int_equal(seteuid(65534), 0);
		refused(-EACCES, "chmod 600");
		assert_int_equal(seteuid(0), 0);
	}
	unlink(path);
	refused(-ENOENT, "No such file");
	assert_int_equal(mkfifo(path, 0600), 0);
	refused(-EINVAL, "not a file");
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),  cmocka_unit_test(test_keys_differ),
		cmocka_unit_test(test_every_byte), cmocka_unit_test(test_spliced),
		cmocka_unit_test(test_turns),    cmocka_unit_test(test_files),
	};
	struct mc_error err = {0};
	const void *found;

	if (mc_module_open("admit", &found, &err) < 0) {
		printf("%s\n", err.text);
		return 1;
	}
	ops = found;
	for (unsigned i = 0; i < MC_ADMIT_NONCE; i++) {
		nonce_l[i] = (uint8_t)(0xa0 + i);
		nonce_d[i] = (uint8_t)(0x40 + i);
	}
	snprintf(path, sizeof path, "/tmp/mc-admit-key-%d", (int)getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
