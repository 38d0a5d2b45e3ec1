/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile listeners: a segment whose record names a raw socket, which answers an
 * initiator with nonsense at every step.  The open or the request fails with a
 * sentence and in time, the memory stays bounded, and the engine goes on to use
 * others.
 *
 *   hostile-listener answers|hellos|tables|paths
 */
#include "hostile.h"

enum way {
	A_GARBAGE, A_CUT, A_LONG, A_CHALLENGE, A_STATUS, A_VERSION, A_GENERATION, A_MUTE,
	H_GARBAGE, H_OVERSIZED, H_JSON_LEN, H_NO_JSON, H_SESSION, H_GENERATION, H_CLOSES,
	T_OVERLAP, T_ENTRY_SIZE, T_COUNT, T_BLOBS, T_WRAPS, T_TWICE, T_EMPTY_FRAME, T_MANY, T_LARGE,
	P_MUTE, P_REFUSES, P_NO_STREAM, P_BYE, P_FLOODS,
};

static struct {
	int fd;
	unsigned port;
	uint64_t generation; /* of the engine whose record leads here */
	_Atomic enum way way;
	atomic_bool stop;
	pthread_t thread;
} evil;

/* ---- the raw side ---------------------------------------------------------------------------- */

static bool send_answer(int fd, uint16_t version, uint16_t length, uint8_t step, uint16_t status, uint64_t generation)
{
	uint8_t out[64] = {0};

	memcpy(out, "moncake!", 8);
	mc_put16(out + 8, version);
	mc_put16(out + 10, length);
	out[12] = step;
	mc_put16(out + 14, status);
	mc_put64(out + 16, generation);
	mc_put16(out + 24, 4);
	memcpy(out + 32, "no\r\n", 4);
	return raw_send(fd, out, 36);
}

/* False: nothing more is to be said. */
static bool bad_answer(int fd, enum way way)
{
	static const uint8_t garbage[600] = {0xa5};

	switch (way) {
	case A_GARBAGE:
		raw_send(fd, garbage, sizeof garbage);
		return false;
	case A_CUT:
		raw_send(fd, "moncake!\1", 9);
		return false;
	case A_LONG:
		send_answer(fd, 1, 5000, 0, 0, evil.generation);
		return false;
	case A_CHALLENGE:
		send_answer(fd, 1, 36, 1, 0, evil.generation);
		return false;
	case A_STATUS:
		send_answer(fd, 1, 36, 0, 7777, evil.generation);
		return false;
	case A_VERSION:
		send_answer(fd, 9, 36, 0, 0, evil.generation);
		return false;
	case A_GENERATION:
		send_answer(fd, 1, 36, 0, 0, evil.generation + 1);
		return false;
	case A_MUTE:
		return false;
	default:
		return send_answer(fd, 1, 36, 0, 0, evil.generation);
	}
}

static bool bad_hello(int fd, enum way way, uint64_t session)
{
	static __thread uint8_t buf[66000];
	uint32_t len = hello_put(buf, session, 1, hello_json(evil.generation));

	switch (way) {
	case H_GARBAGE:
		memset(buf, 0xa5, sizeof buf);
		raw_send(fd, buf, 1000);
		return false;
	case H_OVERSIZED:
		memset(buf, 0, sizeof buf);
		mc_put32(buf, 1 << 30);
		mc_put16(buf + 4, HELLO);
		raw_send(fd, buf, 1000);
		return false;
	case H_JSON_LEN:
		mc_put32(buf + 24, UINT32_MAX);
		break;
	case H_NO_JSON:
		memset(buf + HELLO_FIXED, '{', len - HELLO_FIXED);
		break;
	case H_SESSION:
		mc_put64(buf, session + 1);
		break;
	case H_GENERATION:
		len = hello_put(buf, session, 1, hello_json(evil.generation + 1));
		break;
	case H_CLOSES:
		return false;
	default:
		break;
	}
	return frame_send(fd, HELLO, 0, 0, buf, len) && way > H_CLOSES;
}

static uint32_t entry_put(uint8_t *out, uint32_t id, uint64_t base, uint64_t len)
{
	memset(out, 0, 40);
	mc_put32(out, 48);
	mc_put32(out + 4, id);
	mc_put64(out + 8, base);
	mc_put64(out + 16, len);
	mc_put32(out + 24, 7); /* whatever one may do */
	out[32] = 5;
	out[33] = 3;
	memcpy(out + 40, "cpu:0cpu", 8);
	return 48;
}

static uint32_t table_put(uint8_t *out, uint32_t flags, uint32_t nr)
{
	mc_put64(out, 1);
	mc_put32(out + 8, flags);
	mc_put32(out + 12, nr);
	return 16;
}

/* Tables without end: of many buffers, or of large ones. */
static void endless(int fd, uint64_t *seq, bool large)
{
	static __thread uint8_t buf[65536];
	uint64_t base = 4096;
	uint32_t id = 1;
	bool sent = true;

	while (sent && !atomic_load(&evil.stop)) {
		uint32_t nr = large ? 1 : 1000, at = table_put(buf, id == 1, nr);

		for (uint32_t i = 0; i < nr; i++, base += 4096)
			at += entry_put(buf + at, id++, base, 4096);
		if (large) {
			mc_put32(buf + 16, 59000);
			mc_put16(buf + 16 + 34, 1);
			mc_put16(buf + at + 2, 59000 - 48 - 4);
			at = 16 + 59000;
		}
		sent = frame_send(fd, TABLE, ++*seq, 0, buf, at);
	}
}

static bool bad_table(int fd, enum way way, uint64_t *seq)
{
	uint8_t buf[512] = {0};
	uint32_t at = table_put(buf, 3, 2);

	at += entry_put(buf + at, 1, 0x10000, 0x1000);
	at += entry_put(buf + at, 2, 0x20000, 0x1000);
	switch (way) {
	case T_OVERLAP:
		mc_put64(buf + 16 + 16, 0x10001);
		break;
	case T_ENTRY_SIZE:
		mc_put32(buf + 16, 1 << 30);
		break;
	case T_COUNT:
		mc_put32(buf + 12, UINT32_MAX);
		break;
	case T_BLOBS:
		mc_put16(buf + 16 + 34, 0xffff);
		break;
	case T_WRAPS:
		mc_put64(buf + 64 + 16, UINT64_MAX - 0x100);
		break;
	case T_TWICE:
		mc_put32(buf + 64 + 4, 1);
		break;
	case T_EMPTY_FRAME:
		at = 0;
		break;
	case T_MANY:
	case T_LARGE:
		endless(fd, seq, way == T_LARGE);
		return false;
	default:
		break;
	}
	return frame_send(fd, TABLE, ++*seq, 0, buf, at) && way > T_LARGE;
}

/* Messages that nobody asked for, until the other end has enough. */
static void floods(int fd, uint64_t *seq)
{
	static __thread uint8_t buf[65536];
	bool sent = true;

	for (uint32_t i = 0; sent && i < 200000 && !atomic_load(&evil.stop); i++) {
		memset(buf, (int)i, 64);
		switch (i % 6) {
		case 0:
			sent = frame_send(fd, REFRESHED, ++*seq, 0, buf, 8);
			break;
		case 1:
			sent = frame_send(fd, NOTIFY + 1, ++*seq, 0, buf, 10);
			break;
		case 2:
			sent = frame_send(fd, REMOVE, ++*seq, 0, buf, table_put(buf, 0, 0));
			break;
		default:
			memset(buf, 0, 16);
			mc_put32(buf, i % 8);
			mc_put32(buf + 8, i % 3);
			mc_put32(buf + 12, i % 2 ? 0 : (uint32_t)-ECONNRESET);
			sent = frame_send(fd, (uint16_t)(OPENED + i % 5), ++*seq, 0, buf, 16 + i % 4096);
			break;
		}
	}
}

/* A session by the book, but for its paths. */
static void bad_paths(int fd, enum way way, uint64_t *seq)
{
	static __thread uint8_t got[65536];
	uint64_t theirs;
	uint32_t len;
	int type;

	if (way == P_FLOODS)
		floods(fd, seq);
	while ((type = frame_recv(fd, got, &len, &theirs)) >= 0 && !atomic_load(&evil.stop)) {
		if (type == PING)
			frame_send(fd, PONG, 0, theirs, NULL, 0);
		if (type != OPEN || way == P_MUTE)
			continue;
		if (way == P_BYE) {
			mc_put16(got, 5);
			mc_put16(got + 2, 60000); /* a sentence that is not there */
			frame_send(fd, BYE, 0, theirs, got, 4);
		} else if (way != P_FLOODS) {
			mc_put32(got + 12, way == P_REFUSES ? (uint32_t)-EACCES : 0);
			frame_send(fd, OPENED, ++*seq, theirs, got, 16);
		}
	}
}

static void *talk(void *arg)
{
	enum way way = atomic_load(&evil.way);
	int fd = (int)(intptr_t)arg;
	uint8_t head[64], rest[1024];
	uint64_t seq = 0;
	struct timeval wait = {.tv_sec = 20};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	if (raw_recv(fd, head, sizeof head) && raw_recv(fd, rest, head[15])) {
		if (head[14] == KIND_DATA)
			send_answer(fd, 1, 36, 0, 5, evil.generation);
		else if (bad_answer(fd, way) && bad_hello(fd, way, mc_get64(head + 16)) && bad_table(fd, way, &seq))
			bad_paths(fd, way, &seq);
		/* Mute, but there, until the other end leaves. */
		while (way != A_CUT && way != H_CLOSES && recv(fd, rest, sizeof rest, 0) > 0)
			;
	}
	close(fd);
	return NULL;
}

static void *listen_run(void *arg)
{
	while (!atomic_load(&evil.stop)) {
		int fd = accept4(evil.fd, NULL, NULL, SOCK_CLOEXEC);
		pthread_t thread;

		if (fd >= 0 && pthread_create(&thread, NULL, talk, (void *)(intptr_t)fd) == 0)
			pthread_detach(thread);
	}
	return NULL;
}

/* ---- the test -------------------------------------------------------------------------------------- */

static struct others o;
static struct mc_engine *owner, *victim;
static unsigned char *mine;
static unsigned before;

static void begin(void)
{
	static const char *const plain[] = {NULL}, *const few[] = {"max_peer_buffers=5000", NULL};
	char advertise[64];
	const char *const leads[] = {advertise, NULL};
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;

	evil.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	NEED(bind(evil.fd, (struct sockaddr *)&at, len) == 0 && listen(evil.fd, 64) == 0 &&
	     getsockname(evil.fd, (struct sockaddr *)&at, &len) == 0, "listen");
	snprintf(advertise, sizeof advertise, "advertise_address=127.0.0.1:%u", ntohs(at.sin_port));
	owner = engine_with("evil", leads);
	evil.generation = mc_engine_generation(owner);
	NEED(pthread_create(&evil.thread, NULL, listen_run, NULL) == 0, "thread");
	others_begin(&o, plain);
	victim = engine_with("victim", few);
	mine = memory_new(victim, LEN);
	before = rss_mib();
}

static void end(void)
{
	struct mc_segment *s = segment_new(victim, "right");

	CHECK(move_one(victim, MC_OP_READ, mine, s, (uintptr_t)o.there, LEN, T) == 0, "the victim is of no use any more");
	mc_segment_close(s);
	CHECK_RSS(before, 48);
	CHECK(mc_engine_close(victim, T) == 0, "close");
	others_end(&o);
	atomic_store(&evil.stop, true);
	shutdown(evil.fd, SHUT_RDWR);
	pthread_join(evil.thread, NULL);
	close(evil.fd);
	CHECK(mc_engine_close(owner, T) == 0, "close");
}

/* Opening fails, in time, and says so. */
static void opens_not(enum way way)
{
	struct mc_error err = {0};
	struct mc_segment *s = NULL;
	uint64_t at = now_ns();
	int r;

	atomic_store(&evil.way, way);
	r = mc_segment_open(victim, "evil", 2 * MC_SEC, &s, &err);
	CHECK(r < 0 && strstr(err.text, "'evil'"), "way %d: %d %s", way, r, err.text);
	CHECK(now_ns() - at < (SLOW + 3) * MC_SEC, "way %d took %llu ms", way,
	      (unsigned long long)((now_ns() - at) / MC_MSEC));
	CHECK((way != T_MANY && way != T_LARGE) || strstr(err.text, "max_peer_buffers"), "way %d: %s", way, err.text);
	for (const char *p = err.text; *p; p++)
		CHECK((unsigned char)*p >= ' ', "way %d: a control character of the peer's in the sentence", way);
	mc_segment_close(s);
}

static void case_answers(void)
{
	begin();
	for (enum way way = A_GARBAGE; way <= A_MUTE; way++)
		opens_not(way);
	end();
}

static void case_hellos(void)
{
	begin();
	for (enum way way = H_GARBAGE; way <= H_CLOSES; way++)
		opens_not(way);
	end();
}

static void case_tables(void)
{
	begin();
	for (enum way way = T_OVERLAP; way <= T_LARGE; way++)
		opens_not(way);
	CHECK(logged_soon("malformed"), "%s", logged);
	end();
}

/* The segment opens; nothing moves, and the request ends when its time is over or before. */
static void case_paths(void)
{
	begin();
	for (enum way way = P_MUTE; way <= P_FLOODS; way++) {
		struct mc_segment *s;
		uint64_t at;
		int r;

		atomic_store(&evil.way, way);
		s = segment_new(victim, "evil");
		memset(mine, GUARD, LEN);
		at = now_ns();
		r = move_one(victim, MC_OP_READ, mine, s, 0x10000, 0x1000, MC_SEC);

		CHECK(r < 0, "way %d: the request ended with %d", way, r);
		CHECK(now_ns() - at < (SLOW + 7) * MC_SEC, "way %d took %llu ms", way,
		      (unsigned long long)((now_ns() - at) / MC_MSEC));
		CHECK(guard_holds(mine, LEN), "way %d: bytes came from nowhere", way);
		mc_segment_close(s);
		mc_peer_evict(victim, evil.generation, T);
	}
	end();
}

int main(int argc, char **argv)
{
	static const struct promise cases[] = {{"answers", case_answers}, {"hellos", case_hellos},
					       {"tables", case_tables}, {"paths", case_paths}};

	return promises_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
