/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile dialers, at every layer of the port: what is said before admission, on
 * control connections, about paths, on data streams and in rpc.  Each time that
 * connection alone is closed or refused, a few lines say why, the memory stays
 * bounded, and the transfers of others go on.
 *
 *   hostile port|idle|control|floods|sessions|paths|data|rpc
 */
#include "hostile.h"

#include <mooncake/rpc.h>

static const char *const plain[] = {NULL};

/* ---- before admission ------------------------------------------------------------------------- */

/* Send this alone: the connection is closed. */
static void says(const char *what, const void *data, size_t len, unsigned port)
{
	int fd = raw_connect(port);

	raw_send(fd, data, len);
	CHECK(is_closed(fd), "%s: the connection stays", what);
}

static void case_port(void)
{
	struct others o;
	uint8_t good[128], bad[2048];
	unsigned port, before;
	size_t len;

	others_begin(&o, plain);
	port = mc_engine_port(o.b);
	len = preamble_put(good, &(struct preamble){.kind = KIND_CONTROL, .session = 1, .from = 2});
	memset(bad, 0xa5, sizeof bad);
	says("garbage", bad, sizeof bad, port);
	memset(bad, 0, sizeof bad);
	says("zeros", bad, sizeof bad, port);
	memcpy(bad, good, 128);
	mc_put16(bad + 12, 2000);
	says("oversized", bad, 2000, port);
	memcpy(bad, good, 128);
	mc_put16(bad + 12, 10);
	says("shorter than itself", bad, len, port);
	memcpy(bad, good, 128);
	bad[15] = 255;
	says("a name beyond its end", bad, len, port);
	memcpy(bad, good, 128);
	bad[64] = '/';
	says("a name that is none", bad, len, port);
	memcpy(bad, good, 128);
	mc_put16(bad + 8, 7);
	mc_put16(bad + 10, 9);
	says("another version", bad, len, port);
	memcpy(bad, good, 128);
	bad[14] = 77;
	says("an unknown kind", bad, len, port);
	/* Nothing more comes: 3 s are enough for anybody. */
	says("truncated", good, len - 1, port);
	before = (unsigned)(now_ns() / MC_MSEC);
	says("a single byte", good, 1, port);
	CHECK((unsigned)(now_ns() / MC_MSEC) - before < 9000, "it could be slow for long");
	CHECK(logged_soon("does not speak our protocol") && logged_soon("preamble"), "%s", logged);
	for (int i = 0; i < 200; i++)
		says("more garbage", bad + 1, 100, port);
	CHECK(nr_lines("dropped") <= 30, "%u lines", nr_lines("dropped"));
	others_end(&o);
}

/* Connections that say nothing, then ones that stop after the preamble. */
static void case_idle(void)
{
	static int fds[10000];
	struct rlimit limit;
	struct others o;
	unsigned port, before;
	size_t nr = 10000;
	int status;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < nr + 2000)
		nr = limit.rlim_cur > 3000 ? limit.rlim_cur - 2000 : 500;
	others_begin(&o, plain);
	port = mc_engine_port(o.b);
	before = rss_mib();
	for (size_t i = 0; i < nr; i++)
		fds[i] = raw_connect(port);
	others_check(&o);
	CHECK(logged_soon("too many connections wait"), "%s", logged);
	for (size_t i = 0; i < nr; i++)
		close(fds[i]);
	for (size_t i = 0; i < nr / 10; i++) {
		fds[i] = raw_dial(port, &(struct preamble){.kind = KIND_CONTROL, .session = i + 1, .from = i + 1},
				  &status);
		CHECK(status == 0, "connection %zu is refused: %d", i, status);
	}
	others_check(&o);
	CHECK(logged_soon("too many connections wait to say hello"), "%s", logged);
	/* A peer that behaves gets in. */
	mc_segment_close(segment_new(o.b, "left"));
	CHECK_RSS(before, 16);
	for (size_t i = 0; i < nr / 10; i++)
		close(fds[i]);
	CHECK(nr_lines("too many") <= 60, "%u lines", nr_lines("too many"));
	others_end(&o);
}

/* ---- the control wire -------------------------------------------------------------------------- */

/* After a good preamble these bytes: the connection is closed. */
static void control_says(const char *what, struct mc_engine *e, const void *data, size_t len)
{
	int status, fd = raw_dial(mc_engine_port(e), &(struct preamble){.kind = KIND_CONTROL, .session = 0x99,
									 .from = 0x98}, &status);

	CHECK(status == 0, "%s: not admitted: %d", what, status);
	raw_send(fd, data, len);
	CHECK(is_closed(fd), "%s: the connection stays", what);
}

static void hello_says(const char *what, struct mc_engine *e, const char *json)
{
	static uint8_t buf[FRAME_HEAD + 65536];
	uint32_t len = hello_put(buf + FRAME_HEAD, 0x99, 1, json);

	memset(buf, 0, FRAME_HEAD);
	mc_put32(buf, len);
	mc_put16(buf + 4, HELLO);
	control_says(what, e, buf, FRAME_HEAD + len);
}

/* By the book until now; then this message: the session ends. */
static void session_says(const char *what, struct mc_engine *e, uint16_t type, const void *data, uint32_t len)
{
	struct raw_session s;

	session_hello(&s, e);
	session_send(&s, type, data, len);
	CHECK(is_closed(s.fd), "%s: the session stays", what);
}

static void case_control(void)
{
	static char text[60000];
	uint8_t buf[256] = {0};
	struct raw_session s;
	struct others o;

	others_begin(&o, plain);
	memset(buf, 0xff, sizeof buf);
	control_says("garbage", o.b, buf, sizeof buf);
	memset(buf, 0, sizeof buf);
	control_says("frames of type 0", o.b, buf, sizeof buf);
	mc_put32(buf, 65537);
	mc_put16(buf + 4, HELLO);
	control_says("an oversized frame", o.b, buf, sizeof buf);
	mc_put32(buf, 32);
	mc_put16(buf + 4, PING);
	control_says("a ping before the hello", o.b, buf, FRAME_HEAD + 32);
	mc_put16(buf + 4, HELLO);
	mc_put64(buf + FRAME_HEAD, 0x99);
	mc_put32(buf + FRAME_HEAD + 24, 5000);
	control_says("a hello longer than its frame", o.b, buf, FRAME_HEAD + 32);
	control_says("a truncated hello", o.b, buf, FRAME_HEAD + 10);
	hello_says("no JSON", o.b, "hello");
	hello_says("an array", o.b, "[1]");
	hello_says("nobody", o.b, "{}");
	hello_says("another generation", o.b, hello_json(0x1234));
	hello_says("no devices", o.b, "{\"name\": \"x\", \"generation\": \"0000000000000098\", \"addresses\": []}");
	hello_says("a name", o.b, "{\"name\": \"a/b\", \"generation\": \"0000000000000098\"}");
	hello_says("lanes", o.b, "{\"name\": \"x\", \"generation\": \"0000000000000098\", \"addresses\": [], "
		   "\"devices\": [{\"name\": \"d\", \"wire\": \"w\", \"lanes\": 99999}]}");
	memset(text, '[', sizeof text - 1);
	hello_says("too deep", o.b, text);
	session_says("a second hello", o.b, HELLO, buf, 32);
	session_says("a table from who only asks", o.b, TABLE, buf, 16);
	session_says("half a refresh", o.b, REFRESH, buf, 4);
	session_hello(&s, o.b);
	s.seq = 5; /* messages are missing */
	session_send(&s, REFRESH, buf, 8);
	CHECK(is_closed(s.fd), "a gap in the numbers");
	CHECK(logged_soon("broke the control protocol") && logged_soon("malformed"), "%s", logged);
	CHECK(nr_lines("closed") <= 30, "%u lines", nr_lines("closed"));
	others_end(&o);
}

/* Who never reads what it is answered. */
static void case_floods(void)
{
	static const char *const few[] = {"notify_queue=64", NULL};
	static uint8_t buf[65536], got[65536];
	struct raw_session s;
	struct others o;
	unsigned before, nr = 0;
	uint32_t len;

	others_begin(&o, few);
	before = rss_mib();
	session_hello(&s, o.b);
	for (size_t i = 0; i + FRAME_HEAD <= sizeof buf; i += FRAME_HEAD)
		mc_put16(buf + i + 4, PING);
	for (int i = 0; i < 1000; i++) /* 65 MB of pings */
		NEED(raw_send(s.fd, buf, sizeof buf / FRAME_HEAD * FRAME_HEAD), "pings are not taken");
	CHECK_RSS(before, 16);
	others_check(&o);
	close(s.fd);
	/* Questions whose answers wait. */
	session_hello(&s, o.b);
	memset(buf, 0, sizeof buf);
	for (nr = 0; nr < 1000000 && session_send(&s, REFRESH, buf, 8); nr++)
		;
	CHECK(nr < 1000000, "it was asked for ever");
	CHECK(is_closed(s.fd), "the session stays");
	CHECK(logged_soon("does not take the answers"), "%s", logged);
	CHECK_RSS(before, 48);
	others_check(&o);
	/* Notifies that nobody takes: refused one by one. */
	session_hello(&s, o.b);
	for (uint64_t id = 1; id <= 5000; id++) {
		mc_put64(buf, id);
		mc_put64(buf + 8, 1);
		NEED(session_send(&s, NOTIFY, buf, 16 + 4096), "notify");
		NEED(session_wait(&s, NOTIFY + 1, got, &len) && len == 10, "no answer");
		CHECK(mc_get16(got + 8) == (id <= 64 ? 0 : 8), "notify %llu: %u", (unsigned long long)id,
		      mc_get16(got + 8));
	}
	mc_put64(buf, 5001);
	session_send(&s, NOTIFY, buf, 16 + 5000); /* too long */
	NEED(session_wait(&s, NOTIFY + 1, got, &len) && mc_get16(got + 8) != 0, "a notify that is too long is taken");
	session_send(&s, NOTIFY, buf, 3);
	session_send(&s, NOTIFY + 7, buf, 3);
	session_send(&s, 0x7777, buf, 3);
	CHECK_RSS(before, 48);
	close(s.fd);
	others_end(&o);
}

/* More sessions than max_peers: the rest is sent away, and whoever was there stays. */
static void case_sessions(void)
{
	static const char *const few[] = {"max_peers=32", NULL};
	static struct raw_session all[31];
	uint8_t hello[2048], got[65536];
	struct others o;
	unsigned before;
	uint64_t seq;
	uint32_t len;
	int status, fd, type;

	others_begin(&o, few);
	before = rss_mib();
	for (size_t i = 0; i < 31; i++)
		session_hello(&all[i], o.b);
	for (uint64_t i = 0; i < 500; i++) {
		fd = raw_dial(mc_engine_port(o.b), &(struct preamble){.kind = KIND_CONTROL, .session = 0x90000 + i,
								       .from = 0x80000 + i}, &status);
		if (status == 0) {
			NEED(frame_send(fd, HELLO, 0, 0, hello, hello_put(hello, 0x90000 + i, 1,
									  hello_json(0x80000 + i))), "hello");
			type = frame_recv(fd, got, &len, &seq);
			CHECK(type == BYE && memmem(got, len, "max_peers", 9), "session %llu: %d",
			      (unsigned long long)i, type);
		}
		CHECK(is_closed(fd), "the connection stays");
	}
	others_check(&o);
	CHECK_RSS(before, 16);
	/* Another hello in the name of a session that is there, but of another generation. */
	fd = raw_dial(mc_engine_port(o.b), &(struct preamble){.kind = KIND_CONTROL, .session = all[0].id, .from = 7},
		      &status);
	CHECK(status == 0 && frame_send(fd, HELLO, 0, 0, hello, hello_put(hello, all[0].id, 99, hello_json(7))), "hello");
	CHECK(is_closed(fd), "a foreign session was taken over");
	NEED(frame_send(all[0].fd, PING, 0, 0, NULL, 0) && session_wait(&all[0], PONG, got, &len), "it was cut off");
	for (size_t i = 0; i < 31; i++)
		close(all[i].fd);
	others_end(&o);
}

/* ---- paths and data ------------------------------------------------------------------------------- */

static uint32_t path_head(uint8_t *out, uint32_t rail, uint16_t lane, uint32_t epoch)
{
	memset(out, 0, PATH_HEAD);
	mc_put32(out, rail);
	mc_put16(out + 4, lane);
	mc_put32(out + 8, epoch);
	return PATH_HEAD;
}

static uint32_t path_open(uint8_t *out, uint32_t rail, const char *transport, const char *device)
{
	const char *names[] = {transport, device, "tcp", "lo"};
	uint32_t at = path_head(out, rail, 0, 1);

	mc_put16(out + at, 0);
	mc_put16(out + at + 2, 1);
	at += 4;
	for (int i = 0; i < 4; i++) {
		out[at++] = (uint8_t)strlen(names[i]);
		memcpy(out + at, names[i], strlen(names[i]));
		at += (uint32_t)strlen(names[i]);
	}
	return at;
}

/* The status of OPENED. */
static int opens(struct raw_session *s, const uint8_t *msg, uint32_t len)
{
	uint8_t got[65536];
	uint32_t n;

	NEED(session_send(s, OPEN, msg, len) && session_wait(s, OPENED, got, &n) && n >= PATH_HEAD, "no answer");
	return (int)mc_get32(got + 12);
}

static int data_stream(const struct raw_session *s, uint32_t rail, uint32_t epoch, uint64_t token, int *ret_status)
{
	return raw_dial(s->port, &(struct preamble){.kind = KIND_DATA, .session = s->id, .from = s->generation,
						    .to = s->to, .rail = rail, .epoch = epoch, .token = token},
			ret_status);
}

static void case_paths(void)
{
	static uint8_t msg[65536], got[65536];
	struct raw_session s;
	struct others o;
	unsigned before, taken = 0;
	uint32_t len;
	int fd, second, status;

	others_begin(&o, plain);
	before = rss_mib();
	session_hello(&s, o.b);
	len = path_open(msg, 1, "tcp", "lo");
	CHECK(opens(&s, msg, len - 1) < 0 && opens(&s, msg, PATH_HEAD) < 0, "a cut message opens a path");
	CHECK(opens(&s, msg, path_open(msg, 1, "tcp", "nosuch")) == -ENODEV, "a device that is not there");
	for (uint32_t rail = 1; rail <= 2000; rail++)
		taken += opens(&s, msg, path_open(msg, rail, "tcp", "lo")) == 0;
	CHECK(taken == 1, "%u paths for one pair of lanes", taken);
	/* Streams: for nobody, of nothing, twice with one token, too many. */
	fd = data_stream(&s, 999, 1, 0, &status);
	CHECK(status != 0 && is_closed(fd), "a stream for no path: %d", status);
	s.id++;
	fd = data_stream(&s, 1, 1, 0, &status);
	CHECK(status == 3 && is_closed(fd), "a stream of no session: %d", status);
	s.id--;
	fd = data_stream(&s, 1, 1, 0, &status);
	CHECK(status == 0, "the good one: %d", status);
	second = data_stream(&s, 1, 1, 0, &status);
	CHECK(status == 9 && is_closed(second), "a second stream of one token: %d", status);
	taken = 1;
	for (uint64_t token = 1; token < 100; token++) {
		(void)data_stream(&s, 1, 1, token, &status); /* they end with the process */
		taken += status == 0;
	}
	CHECK(taken <= 32, "%u streams for one path", taken);
	/* Messages for plugins and staging, for paths that are there and that are not. */
	for (uint32_t i = 0; i < 20000; i++) {
		path_head(msg, i % 3, 0, i % 2);
		memset(msg + PATH_HEAD, (int)i, 200);
		if (!session_send(&s, (uint16_t)(i % 5 ? STAGE + i % 9 : HANDSHAKE + i % 4), msg, i % 200))
			break; /* it may have enough of us */
	}
	others_check(&o);
	CHECK_RSS(before, 32);
	close(fd);
	close(s.fd);
	/* Fences of nothing are answered, which costs nothing. */
	session_hello(&s, o.b);
	for (uint32_t i = 0; i < 1000; i++) {
		NEED(session_send(&s, FENCE, msg, path_head(msg, i, 0, i)), "fence");
		NEED(session_wait(&s, FENCED, got, &len), "not fenced");
	}
	close(s.fd);
	others_end(&o);
}

#define TCP_HEAD 16
enum { TCP_WRITE = 1, TCP_READ, TCP_ACK, TCP_DATA };

/* One entry of a WRITE or READ frame. */
static size_t tcp_frame(uint8_t *out, uint8_t type, uint64_t generation, uint64_t offset, uint32_t len, uint32_t tag)
{
	memset(out, 0, TCP_HEAD);
	mc_put16(out, 0x5443);
	out[2] = 1;
	out[3] = type;
	mc_put16(out + 4, 1);
	mc_put64(out + 8, generation);
	mc_put64(out + TCP_HEAD, offset);
	mc_put32(out + TCP_HEAD + 8, len);
	mc_put32(out + TCP_HEAD + 12, tag);
	return TCP_HEAD + 16;
}

/* Write len bytes of 0xee there; the status of the ACK, or -1. */
static int tcp_write(int fd, uint64_t generation, uint64_t offset, uint32_t len)
{
	static uint8_t buf[TCP_HEAD + 16 + 65536];
	size_t head = tcp_frame(buf, TCP_WRITE, generation, offset, len, 5);

	memset(buf + head, 0xee, len);
	if (!raw_send(fd, buf, head + len) || !raw_recv(fd, buf, TCP_HEAD + 8) || buf[3] != TCP_ACK ||
	    mc_get32(buf + TCP_HEAD) != 5)
		return -1;
	return (int)mc_get32(buf + TCP_HEAD + 4);
}

/* A session with its one path, and a stream of it. */
static int stream_new(struct raw_session *s, struct mc_engine *e)
{
	uint8_t msg[256];
	int fd, status;

	session_hello(s, e);
	NEED(opens(s, msg, path_open(msg, 1, "tcp", "lo")) == 0, "path");
	fd = data_stream(s, 1, 1, 0, &status);
	NEED(status == 0, "stream: %d", status);
	return fd;
}

/* These bytes end the stream, and it alone. */
static void stream_says(const char *what, struct others *o, const void *data, size_t len)
{
	struct raw_session s;
	uint8_t got[65536];
	uint32_t n;
	int fd = stream_new(&s, o->b);

	raw_send(fd, data, len);
	CHECK(is_closed(fd), "%s: the stream stays", what);
	CHECK(frame_send(s.fd, PING, 0, 0, NULL, 0) && session_wait(&s, PONG, got, &n), "%s: the session ended", what);
	close(s.fd);
}

static void case_data(void)
{
	static uint8_t buf[65536];
	uint64_t at, generation;
	unsigned char *mine;
	struct raw_session s;
	struct others o;
	unsigned before;
	size_t len;
	int fd;

	others_begin(&o, plain);
	before = rss_mib();
	mine = memory_new(o.b, LEN); /* the hostile one's share */
	memset(mine, GUARD, LEN);
	at = (uintptr_t)mine;
	generation = mc_engine_generation(o.b);
	fd = stream_new(&s, o.b);
	/* Refused, and the stream goes on. */
	CHECK(tcp_write(fd, generation, at - 1, 100) == 2, "before the buffer");
	CHECK(tcp_write(fd, generation, at + LEN - 99, 100) == 2, "over its end");
	CHECK(tcp_write(fd, generation, 0, 100) == 2, "nowhere");
	CHECK(tcp_write(fd, generation, UINT64_MAX - 10, 100) == 2, "an offset that wraps");
	CHECK(tcp_write(fd, generation, (uintptr_t)&s, 100) == 2, "memory that is not registered");
	CHECK(tcp_write(fd, generation + 1, at, 100) == 1, "another generation");
	CHECK(guard_holds(mine, LEN), "written");
	CHECK(tcp_write(fd, generation, at, 100) == 0 && all_are(mine, 100, 0xee), "the one that is right");
	close(fd);
	close(s.fd);
	/* Against the rules: closed. */
	memset(buf, 0xa5, sizeof buf);
	stream_says("garbage", &o, buf, 1000);
	len = tcp_frame(buf, TCP_WRITE, generation, at, (1u << 30) + 1, 1);
	stream_says("an oversized write", &o, buf, len);
	len = tcp_frame(buf, TCP_ACK, 0, 1, 0, 1);
	stream_says("an answer to nothing", &o, buf, len);
	len = tcp_frame(buf, TCP_READ, generation, at, 100, 1);
	mc_put16(buf + 4, 0);
	stream_says("no entries", &o, buf, len);
	mc_put16(buf + 4, 257);
	stream_says("too many entries", &o, buf, len);
	mc_put16(buf + 4, 1);
	buf[2] = 9;
	stream_says("another version", &o, buf, len);
	/* Reads whose answers nobody takes: it reads no further. */
	fd = stream_new(&s, o.b);
	len = 0;
	for (uint32_t tag = 0; len + 64 < sizeof buf; tag++)
		len += tcp_frame(buf + len, TCP_READ, generation, at, LEN, tag);
	for (int i = 0; i < 500 && send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT) > 0; i++)
		nap(MC_MSEC);
	others_check(&o);
	CHECK_RSS(before, 16);
	close(fd);
	/* A write that stops in its middle, and stays. */
	fd = stream_new(&s, o.b);
	len = tcp_frame(buf, TCP_WRITE, generation, at, LEN, 1);
	CHECK(raw_send(fd, buf, len + 100), "send");
	others_check(&o);
	CHECK(mc_memory_free(o.b, mine, T, NULL) == 0, "the buffer cannot be had back");
	close(fd);
	close(s.fd);
	others_end(&o);
}

/* ---- rpc ------------------------------------------------------------------------------------------------ */

static void echo(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *incoming)
{
	mc_rpc_reply(request, 0, NULL, 0);
}

static void rpc_says(const char *what, struct mc_engine *e, const void *data, size_t len)
{
	int status, fd = raw_dial(mc_engine_port(e), &(struct preamble){.kind = KIND_RPC, .from = 0x55}, &status);

	CHECK(status == 0, "%s: not admitted: %d", what, status);
	raw_send(fd, data, len);
	CHECK(is_closed(fd), "%s: the connection stays", what);
}

static void case_rpc(void)
{
	static uint8_t buf[65536];
	struct mc_rpc_service *service;
	struct mc_error err = {0};
	struct others o;
	unsigned before;
	int fd, status, n = 0;

	others_begin(&o, plain);
	NEED(mc_rpc_serve(o.b, "echo", echo, NULL, &service, &err) == 0, "%s", err.text);
	before = rss_mib();
	memset(buf, 0xa5, sizeof buf);
	rpc_says("garbage", o.b, buf, 1000);
	memset(buf, 0, sizeof buf);
	buf[0] = 1;
	buf[1] = 2;
	rpc_says("a reply to nobody", o.b, buf, 32); /* the direction is wrong */
	buf[1] = 1;
	rpc_says("a request for no service", o.b, buf, 32);
	buf[2] = 4;
	memcpy(buf + 32, "echo", 4);
	mc_put32(buf + 4, (1u << 20) + 1);
	rpc_says("an oversized request", o.b, buf, 36);
	mc_put32(buf + 4, 0);
	/* Requests for large replies that are not taken: read no further. */
	fd = raw_dial(mc_engine_port(o.b), &(struct preamble){.kind = KIND_RPC, .from = 0x55}, &status);
	memcpy(buf + 32, "echo", 4);
	mc_put32(buf + 20, 1 << 20);
	mc_put64(buf + 24, UINT64_MAX);
	for (size_t at = 36; at + 36 <= sizeof buf; at += 36, n++) {
		memcpy(buf + at, buf, 36);
		mc_put64(buf + at + 8, at);
	}
	for (int i = 0; i < 2000 && send(fd, buf, (size_t)n * 36, MSG_NOSIGNAL | MSG_DONTWAIT) > 0; i++)
		nap(MC_MSEC / 4);
	others_check(&o);
	CHECK_RSS(before, 32);
	close(fd);
	mc_rpc_unserve(service);
	others_end(&o);
}

int main(int argc, char **argv)
{
	static const struct promise cases[] = {
		{"port", case_port}, {"idle", case_idle}, {"control", case_control}, {"floods", case_floods},
		{"sessions", case_sessions}, {"paths", case_paths}, {"data", case_data}, {"rpc", case_rpc},
	};

	return promises_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
