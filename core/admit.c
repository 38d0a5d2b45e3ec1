/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster key and the proofs made with it.  A proof is HMAC-SHA-256 over the
 * direction's label and every byte that both ends have sent on this connection
 * so far, each message with its length: what is proven on one connection, in one
 * direction, is worth nothing on another.
 */
#include "admit.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admit_wire.h"
#include "module.h"
#include "core/util/bytes.h"
#include "core/util/cleanup.h"

#define LABEL 32
#define PART 4 /* bytes of a part's length */
#define TALK_MAX                                                                                   \
	(LABEL + PART + MC_PREAMBLE_MAX + 2 * (PART + MC_ANSWER_MAX) + 2 * PART + MC_REPLY_SIZE)

struct mc_admit_key {
	const struct mc_admit_ops *ops;
	size_t len;
	uint8_t bytes[MC_ADMIT_KEY_MAX];
};

enum talk_state { TALK_BEGUN, TALK_CHALLENGED, TALK_REPLIED, TALK_ADMITTED, TALK_OVER };

struct mc_admit_talk {
	const struct mc_admit_key *key;
	enum talk_state state;
	size_t len;
	uint8_t bytes[TALK_MAX]; /* room for a label, then the parts */
};

static const char dialler_label[LABEL] = "mooncake admission 1: dialler";
static const char listener_label[LABEL] = "mooncake admission 1: listener";

/* ---- the key ------------------------------------------------------------------------------------ */

/* What may be read, of a file that is already open. */
static int check_file(int fd, const char *path, struct mc_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return mc_fail(err, -errno, "cluster_key_file '%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return mc_fail(err, -EINVAL, "cluster_key_file '%s': it is not a file", path);
	if (st.st_uid == geteuid() && (st.st_mode & 077))
		return mc_fail(err, -EACCES,
			       "cluster_key_file '%s': others may read or change it (mode %04o); chmod 600 it",
			       path, (unsigned)st.st_mode & 07777);
	return 0;
}

/* The length of the key, or -errno; it is refused if it would not fit. */
static ssize_t read_key(int fd, const char *path, uint8_t *bytes, size_t size, struct mc_error *err)
{
	size_t have = 0;

	while (have < size) {
		ssize_t n = read(fd, bytes + have, size - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return mc_fail(err, -errno, "cluster_key_file '%s': %s", path, strerror(errno));
		if (n == 0)
			break;
		have += (size_t)n;
	}
	/* One line end, as editors and echo leave it. */
	if (have && bytes[have - 1] == '\n') {
		have--;
		if (have && bytes[have - 1] == '\r')
			have--;
	}
	if (have < MC_ADMIT_KEY_MIN || have > MC_ADMIT_KEY_MAX)
		return mc_fail(err, -EINVAL,
			       "cluster_key_file '%s': it holds %s bytes, a key has %u to %u; make one by: "
			       "head -c 32 /dev/urandom | base64",
			       path, have ? have > MC_ADMIT_KEY_MAX ? "too many" : "too few" : "no",
			       MC_ADMIT_KEY_MIN, MC_ADMIT_KEY_MAX);
	return (ssize_t)have;
}

/* The module, and whether its library does what it should here. */
static int open_module(const struct mc_admit_ops **ret_ops, struct mc_error *err)
{
	const uint8_t key[MC_ADMIT_KEY_MIN] = {0};
	uint8_t mac[MC_ADMIT_MAC];
	struct mc_error why = {0};
	const struct mc_admit_ops *ops;
	const void *found;
	int r = mc_module_open("admit", &found, &why);

	if (r == -ENOENT)
		return mc_fail(err, -ENOTSUP,
			       "cluster_key_file is set, but this build has no admission: %s; build it with "
			       "OpenSSL's libcrypto (libssl-dev, -Dadmission=enabled)",
			       why.text);
	if (r < 0)
		return mc_fail(err, r, "cluster_key_file: %s", why.text);
	ops = found;
	r = ops->start();
	/* The first takes milliseconds more, for what the library loads then: not on the control loop. */
	if (r == 0)
		r = ops->hmac(key, sizeof key, key, sizeof key, mac);
	if (r < 0)
		return mc_fail(err, r, "cluster_key_file: libcrypto gives no HMAC-SHA-256 on this host");
	*ret_ops = ops;
	return 0;
}

int mc_admit_key_new(const struct mc_admit_ops *ops, const uint8_t *bytes, size_t len,
		     struct mc_admit_key **ret_key)
{
	struct mc_admit_key *key;

	if (len < MC_ADMIT_KEY_MIN || len > MC_ADMIT_KEY_MAX)
		return -EINVAL;
	key = calloc(1, sizeof *key);
	if (!key)
		return -ENOMEM;
	key->ops = ops;
	key->len = len;
	memcpy(key->bytes, bytes, len);
	*ret_key = key;
	return 0;
}

int mc_admit_key_open(const char *path, struct mc_admit_key **ret_key, struct mc_error *err)
{
	/* A pipe or device would block here. */
	mc_cleanup(mc_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint8_t bytes[MC_ADMIT_KEY_MAX + 3]; /* a line end may follow the longest, and one byte too many */
	const struct mc_admit_ops *ops = NULL;
	ssize_t len;
	int r;

	if (fd < 0)
		return mc_fail(err, -errno, "cluster_key_file '%s': %s", path, strerror(errno));
	r = check_file(fd, path, err);
	if (r < 0)
		return r;
	r = open_module(&ops, err);
	if (r < 0)
		return r;
	len = read_key(fd, path, bytes, sizeof bytes, err);
	r = len < 0 ? (int)len : mc_admit_key_new(ops, bytes, (size_t)len, ret_key);
	explicit_bzero(bytes, sizeof bytes);
	return r == -ENOMEM ? mc_fail(err, r, "cluster_key_file: out of memory") : r;
}

void mc_admit_key_free(struct mc_admit_key *key)
{
	if (!key)
		return;
	explicit_bzero(key, sizeof *key);
	free(key);
}

/* ---- proofs --------------------------------------------------------------------------------------- */

/* Callers know that it fits: every message has a largest size, see TALK_MAX. */
static void add(struct mc_admit_talk *talk, const uint8_t *part, size_t len)
{
	assert(talk->len + PART + len <= sizeof talk->bytes);
	mc_put32(talk->bytes + talk->len, (uint32_t)len);
	memcpy(talk->bytes + talk->len + PART, part, len);
	talk->len += PART + len;
}

static int prove(struct mc_admit_talk *talk, const char label[LABEL], uint8_t out[MC_ADMIT_MAC])
{
	memcpy(talk->bytes, label, LABEL);
	return talk->key->ops->hmac(talk->key->bytes, talk->key->len, talk->bytes, talk->len, out);
}

static int check(struct mc_admit_talk *talk, const char label[LABEL], const uint8_t proof[MC_ADMIT_MAC])
{
	uint8_t mac[MC_ADMIT_MAC];
	int r = prove(talk, label, mac);

	if (r == 0 && !talk->key->ops->equal(mac, proof, MC_ADMIT_MAC))
		r = -EACCES;
	explicit_bzero(mac, sizeof mac);
	return r;
}

int mc_admit_talk_new(const struct mc_admit_key *key, const uint8_t *preamble, size_t len,
		      struct mc_admit_talk **ret_talk)
{
	struct mc_admit_talk *talk;

	if (len > MC_PREAMBLE_MAX)
		return -EBADMSG;
	talk = calloc(1, sizeof *talk);
	if (!talk)
		return -ENOMEM;
	talk->key = key;
	talk->len = LABEL;
	add(talk, preamble, len);
	*ret_talk = talk;
	return 0;
}

void mc_admit_talk_free(struct mc_admit_talk *talk)
{
	free(talk);
}

/* From `state` to `next`; a talk that went wrong is over. */
static bool turn(struct mc_admit_talk *talk, enum talk_state state, enum talk_state next)
{
	bool right = talk->state == state;

	talk->state = right ? next : TALK_OVER;
	return right;
}

int mc_admit_challenge(struct mc_admit_talk *talk, const struct mc_answer *answer,
		       const uint8_t nonce[MC_ADMIT_NONCE], uint8_t *out)
{
	size_t len;

	if (!turn(talk, TALK_BEGUN, TALK_CHALLENGED))
		return -EPROTO;
	len = mc_admit_tail_put(out, mc_answer_encode(answer, out));
	memcpy(out + len - MC_ADMIT_NONCE, nonce, MC_ADMIT_NONCE);
	add(talk, out, len);
	return (int)len;
}

int mc_admit_check_reply(struct mc_admit_talk *talk, const uint8_t *reply, size_t len)
{
	const size_t head = MC_REPLY_SIZE - MC_ADMIT_MAC;
	int r;

	if (!turn(talk, TALK_CHALLENGED, TALK_OVER))
		return -EPROTO;
	r = mc_reply_check(reply, len);
	if (r < 0)
		return r;
	add(talk, reply, head);
	r = check(talk, dialler_label, reply + head);
	if (r < 0)
		return r;
	add(talk, reply + head, MC_ADMIT_MAC);
	talk->state = TALK_ADMITTED;
	return 0;
}

int mc_admit_verdict(struct mc_admit_talk *talk, const struct mc_answer *answer, uint8_t *out)
{
	size_t len;
	int r;

	if (!turn(talk, TALK_ADMITTED, TALK_OVER))
		return -EPROTO;
	len = mc_admit_tail_put(out, mc_answer_encode(answer, out));
	add(talk, out, len - MC_ADMIT_MAC);
	r = prove(talk, listener_label, out + len - MC_ADMIT_MAC);
	return r < 0 ? r : (int)len;
}

int mc_admit_reply(struct mc_admit_talk *talk, const uint8_t *challenge, size_t len,
		   const uint8_t nonce[MC_ADMIT_NONCE], uint8_t *out)
{
	const size_t head = MC_REPLY_SIZE - MC_ADMIT_MAC;
	int r;

	if (!turn(talk, TALK_BEGUN, TALK_REPLIED))
		return -EPROTO;
	if (len > MC_ANSWER_MAX || !mc_admit_tail_get(challenge, len))
		return -EBADMSG;
	add(talk, challenge, len);
	mc_reply_encode(nonce, out);
	add(talk, out, head);
	r = prove(talk, dialler_label, out + head);
	if (r < 0)
		return r;
	add(talk, out + head, MC_ADMIT_MAC);
	return MC_REPLY_SIZE;
}

int mc_admit_check_verdict(struct mc_admit_talk *talk, const uint8_t *verdict, size_t len)
{
	const uint8_t *proof = len <= MC_ANSWER_MAX ? mc_admit_tail_get(verdict, len) : NULL;

	if (!turn(talk, TALK_REPLIED, TALK_OVER) || !proof)
		return -EACCES;
	add(talk, verdict, len - MC_ADMIT_MAC);
	return check(talk, listener_label, proof);
}
