/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers that break the rules: raw sockets that speak docs/wire.md by hand, as far
 * as a test wants, and a transfer of others that goes on meanwhile.
 */
#ifndef MC_TESTS_HOSTILE_H
#define MC_TESTS_HOSTILE_H

#include "peers.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "core/util/bytes.h"

#define LEN ((size_t)65536)
#define FRAME_HEAD 24
#define HELLO_FIXED 32
#define PATH_HEAD 16

enum { KIND_CONTROL = 1, KIND_DATA, KIND_RPC };
enum { HELLO = 1, ACK, PING, PONG, BYE, TABLE = 0x10, REMOVE, REFRESH, REFRESHED };
enum { OPEN = 0x100, OPENED, HANDSHAKE, FENCE, FENCED, BROKEN, STAGE = 0x200, NOTIFY = 0x300 };

/* ---- what is logged ---------------------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char logged[1 << 16]; /* lines; under log_lock */
static size_t logged_len;

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	int n;

	pthread_mutex_lock(&log_lock);
	n = snprintf(logged + logged_len, sizeof logged - logged_len, "%s\n", line);
	if (n > 0 && (size_t)n < sizeof logged - logged_len)
		logged_len += (size_t)n;
	pthread_mutex_unlock(&log_lock);
}

static inline void log_begin(void)
{
	pthread_mutex_lock(&log_lock);
	logged[logged_len = 0] = '\0';
	pthread_mutex_unlock(&log_lock);
	mc_log_set_handler(on_log, NULL);
	mc_log_set_level(MC_LOG_WARN);
}

/* How many lines hold the word. */
static inline unsigned nr_lines(const char *word)
{
	unsigned n = 0;

	pthread_mutex_lock(&log_lock);
	for (char *p = logged, *end; (end = strchr(p, '\n')); p = end + 1) {
		*end = '\0';
		n += strstr(p, word) != NULL;
		*end = '\n';
	}
	pthread_mutex_unlock(&log_lock);
	return n;
}

static inline bool logged_soon(const char *word)
{
	for (int i = 0; i < 1000 && !nr_lines(word); i++)
		nap(10 * MC_MSEC);
	return nr_lines(word);
}

/* ---- memory ----------------------------------------------------------------------------------------- */

/* MiB of this process that are in memory. */
static inline unsigned rss_mib(void)
{
	unsigned long total = 0, rss = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	NEED(f && fscanf(f, "%lu %lu", &total, &rss) == 2, "statm");
	fclose(f);
	return (unsigned)(rss * 4096 >> 20);
}

/* Sanitizers keep what was freed. */
#define CHECK_RSS(before, limit)                                                                   \
	CHECK(SLOW > 1 || rss_mib() <= (before) + (limit), "%u MiB, then %u", (before), rss_mib())

/* ---- raw connections ----------------------------------------------------------------------------------- */

static inline int raw_connect(unsigned port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval second = {.tv_sec = 10};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	NEED(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0, "port %u: %s", port, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
	return fd;
}

/* False: the other end has closed it, or takes nothing for 10 s. */
static inline bool raw_send(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static inline bool raw_recv(int fd, void *data, size_t len)
{
	return len == 0 || recv(fd, data, len, MSG_WAITALL) == (ssize_t)len;
}

/* The other end closes it, whatever it may still send; within 10 s of its last byte. */
static inline bool is_closed(int fd)
{
	static __thread char sink[65536];
	ssize_t n;

	while ((n = recv(fd, sink, sizeof sink, 0)) > 0)
		;
	n = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? -1 : 0;
	close(fd);
	return n == 0;
}

struct preamble {
	uint8_t kind;
	uint64_t session, from, to, token;
	uint32_t rail, lane, epoch;
};

static inline size_t preamble_put(uint8_t out[128], const struct preamble *p)
{
	static const char name[] = "hostile";

	memset(out, 0, 128);
	memcpy(out, "mooncake", 8);
	mc_put16(out + 8, 1);
	mc_put16(out + 10, 1);
	mc_put16(out + 12, 64 + sizeof name - 1);
	out[14] = p->kind;
	out[15] = sizeof name - 1;
	mc_put64(out + 16, p->session);
	mc_put64(out + 24, p->from);
	mc_put64(out + 32, p->to);
	mc_put64(out + 40, p->token);
	mc_put32(out + 48, p->rail);
	mc_put32(out + 52, p->lane);
	mc_put32(out + 56, p->epoch);
	memcpy(out + 64, name, sizeof name - 1);
	return 64 + sizeof name - 1;
}

/* The code of the answer; -1: none came. */
static inline int raw_answer(int fd)
{
	uint8_t head[32], why[512];

	if (!raw_recv(fd, head, sizeof head) || memcmp(head, "moncake!", 8) != 0)
		return -1;
	return raw_recv(fd, why, (size_t)mc_get16(head + 10) - 32) ? mc_get16(head + 14) : -1;
}

static inline int raw_dial(unsigned port, const struct preamble *p, int *ret_status)
{
	uint8_t out[128];
	int fd = raw_connect(port);

	*ret_status = raw_send(fd, out, preamble_put(out, p)) ? raw_answer(fd) : -1;
	return fd;
}

/* ---- control wire ---------------------------------------------------------------------------------------- */

static inline bool frame_send(int fd, uint16_t type, uint64_t seq, uint64_t ack, const void *payload, uint32_t len)
{
	static __thread uint8_t out[FRAME_HEAD + 65536];

	mc_put32(out, len);
	mc_put16(out + 4, type);
	mc_put16(out + 6, 0);
	mc_put64(out + 8, seq);
	mc_put64(out + 16, ack);
	if (len)
		memcpy(out + FRAME_HEAD, payload, len);
	return raw_send(fd, out, FRAME_HEAD + len);
}

/* The next frame; its type, or -1. */
static inline int frame_recv(int fd, uint8_t payload[65536], uint32_t *ret_len, uint64_t *ret_seq)
{
	uint8_t head[FRAME_HEAD];

	if (!raw_recv(fd, head, sizeof head) || mc_get32(head) > 65536)
		return -1;
	*ret_len = mc_get32(head);
	*ret_seq = mc_get64(head + 8);
	return raw_recv(fd, payload, *ret_len) ? mc_get16(head + 4) : -1;
}

static inline uint32_t hello_put(uint8_t *out, uint64_t session, uint32_t link, const char *json)
{
	memset(out, 0, HELLO_FIXED);
	mc_put64(out, session);
	mc_put32(out + 16, link);
	mc_put32(out + 24, (uint32_t)strlen(json));
	memcpy(out + HELLO_FIXED, json, strlen(json));
	return HELLO_FIXED + (uint32_t)strlen(json);
}

#define DEVICES "[{\"transport\": \"tcp\", \"name\": \"lo\", \"wire\": \"tcp\", \"wire_min\": 1, "  \
		"\"wire_max\": 1, \"lanes\": 1, \"remote_kinds\": \"*\"}]"

static inline const char *hello_json(uint64_t generation)
{
	static __thread char json[1024];

	snprintf(json, sizeof json,
		 "{\"name\": \"hostile\", \"generation\": \"%016llx\", \"cluster\": \"default\", "
		 "\"addresses\": [\"127.0.0.1:1\"], \"devices\": " DEVICES ", "
		 "\"matrix\": \"{\\\"*\\\": [[\\\"tcp:lo\\\"]]}\"}",
		 (unsigned long long)generation);
	return json;
}

/* A session that was opened by the book. */
struct raw_session {
	int fd;
	unsigned port;
	uint64_t id, generation, to, seq;
};

static uint64_t next_id = 0x4000;

static inline void session_hello(struct raw_session *s, struct mc_engine *e)
{
	uint8_t hello[2048], got[65536];
	uint64_t seq;
	uint32_t len;
	int status;

	*s = (struct raw_session){.port = mc_engine_port(e), .to = mc_engine_generation(e), .id = next_id + 1,
				  .generation = next_id + 2};
	next_id += 2;
	s->fd = raw_dial(s->port, &(struct preamble){.kind = KIND_CONTROL, .session = s->id, .from = s->generation,
						     .to = s->to}, &status);
	NEED(status == 0, "the control connection is refused: %d", status);
	NEED(frame_send(s->fd, HELLO, 0, 0, hello, hello_put(hello, s->id, 1, hello_json(s->generation))), "hello");
	NEED(frame_recv(s->fd, got, &len, &seq) == HELLO, "no hello came back");
}

static inline bool session_send(struct raw_session *s, uint16_t type, const void *payload, uint32_t len)
{
	return frame_send(s->fd, type, ++s->seq, 0, payload, len);
}

/* The next message of a type, with its payload; others are thrown away.  False: the connection ended. */
static inline bool session_wait(struct raw_session *s, int type, uint8_t payload[65536], uint32_t *ret_len)
{
	uint64_t seq;
	int got;

	while ((got = frame_recv(s->fd, payload, ret_len, &seq)) >= 0 && got != type)
		;
	return got == type;
}

/* ---- the transfer of others ----------------------------------------------------------------------------------- */

struct others {
	struct mc_engine *a, *b;
	struct mc_segment *s;
	unsigned char *local, *there;
	pthread_t thread;
	atomic_bool stop;
	atomic_ulong nr, failed;
};

static void *others_run(void *arg)
{
	struct others *o = arg;

	for (unsigned char round = 1; !atomic_load(&o->stop); round = (unsigned char)(round % 250 + 1)) {
		memset(o->local, round, LEN);
		if (move_one(o->a, MC_OP_WRITE, o->local, o->s, (uintptr_t)o->there, LEN, T) < 0 ||
		    !all_are(o->there, LEN, round) ||
		    move_one(o->a, MC_OP_READ, o->local, o->s, (uintptr_t)o->there, LEN, T) < 0)
			atomic_fetch_add(&o->failed, 1);
		atomic_fetch_add(&o->nr, 1);
		nap(MC_MSEC);
	}
	return NULL;
}

/* Two engines that move bytes all the time; b, with these settings, is who is attacked. */
static inline void others_begin(struct others *o, const char *const *settings)
{
	static const char *const plain[] = {NULL};

	memset(o, 0, sizeof *o);
	o->a = engine_with("left", plain);
	o->b = engine_with("right", settings);
	o->local = memory_new(o->a, LEN);
	o->there = memory_new(o->b, LEN);
	o->s = segment_new(o->a, "right");
	NEED(pthread_create(&o->thread, NULL, others_run, o) == 0, "thread");
	log_begin();
}

/* They have moved bytes until now, and still do. */
static inline void others_check(struct others *o)
{
	unsigned long before = atomic_load(&o->nr);

	for (int i = 0; i < 1000 && atomic_load(&o->nr) < before + 3; i++)
		nap(10 * MC_MSEC);
	CHECK(atomic_load(&o->nr) >= before + 3, "others have stopped");
	CHECK(atomic_load(&o->failed) == 0, "%lu requests of others have failed", atomic_load(&o->failed));
}

static inline void others_end(struct others *o)
{
	others_check(o);
	atomic_store(&o->stop, true);
	pthread_join(o->thread, NULL);
	mc_log_set_handler(NULL, NULL);
	mc_segment_close(o->s);
	CHECK(mc_engine_close(o->a, T) == 0 && mc_engine_close(o->b, T) == 0, "close");
}

#endif
