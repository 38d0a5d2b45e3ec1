/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may connect: the cluster key against those who lack it, have another one,
 * replay, reflect, strip or forge what is said on the wire; and the rights of
 * buffers and of access lists, also against an initiator that does not keep to
 * them.  Attackers know the layout of docs/wire.md and no key.
 *
 *   scenario-admission keys|rpc|replay|reflect|strip|proofless|dribble|older|access|no-keys|buffers|files
 */
#include "peers.h"
#include "relay.h"

#include <dlfcn.h>
#include <stdatomic.h>

#include <mooncake/rpc.h>

/* Refusals come at once; this only tells them from time-outs. */
#define SOON (5 * MC_SEC * SLOW)

static const char *const plain[] = {NULL};
static char key1[96], key2[96]; /* "cluster_key_file=PATH" */
static const char *const with_key1[] = {key1, NULL}, *const with_key2[] = {key2, NULL};

static void key_make(char setting[96], const char *name, const char *text)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	NEED(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s", path);
	close(fd);
	snprintf(setting, 96, "cluster_key_file=%s", path);
}

/* Warnings of this process about the key, by what they say. */
static atomic_uint nr_listener, nr_dialler, nr_access, nr_bounds, nr_rights, nr_narrowed;

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	if (level != MC_LOG_WARN)
		return;
	if (strstr(line, " refused: ") && strstr(line, "cluster_key_file"))
		atomic_fetch_add(&nr_listener, 1);
	if (strstr(line, " given up: ") && strstr(line, "cluster_key_file"))
		atomic_fetch_add(&nr_dialler, 1);
	if (strstr(line, " refused: ") && strstr(line, "access"))
		atomic_fetch_add(&nr_access, 1);
	/* Why a request is denied: one of three, to be told apart. */
	if (strstr(line, "outside of every buffer"))
		atomic_fetch_add(&nr_bounds, 1);
	if (strstr(line, "was registered there without MC_ACCESS_REMOTE_"))
		atomic_fetch_add(&nr_rights, 1);
	if (strstr(line, "its access list leaves 'reader1' only 'read'") ||
	    strstr(line, "its access list leaves 'writer' only 'write'"))
		atomic_fetch_add(&nr_narrowed, 1);
}

static void watch_log(void)
{
	mc_log_set_level(MC_LOG_WARN);
	mc_log_set_handler(on_log, NULL);
}

/* Opening the segment fails with this status, soon, and says all of the words. */
static void refused(struct mc_engine *e, const char *name, int status, const char *word, const char *word2)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};
	uint64_t begin = now_ns();
	int r = mc_segment_open(e, name, 10 * SOON, &s, &err);

	CHECK(r == status, "'%s': %d, not %d: %s", name, r, status, err.text);
	CHECK(strstr(err.text, word) && strstr(err.text, word2), "'%s' lacks '%s' or '%s'", err.text, word, word2);
	CHECK(now_ns() - begin < SOON, "it took %llu ms", (unsigned long long)(now_ns() - begin) / 1000000);
	if (r == 0)
		mc_segment_close(s);
}

static void works(struct mc_engine *e, const char *name, uint64_t base, unsigned char *local)
{
	struct mc_segment *s = segment_new(e, name);

	memset(local, 7, 65536);
	CHECK(move_one(e, MC_OP_WRITE, local, s, base, 65536, T) == 0, "write");
	memset(local, 0, 65536);
	CHECK(move_one(e, MC_OP_READ, local, s, base, 65536, T) == 0 && all_are(local, 65536, 7), "read");
	mc_segment_close(s);
}

static void end(struct mc_engine *e)
{
	CHECK(mc_engine_close(e, T) == 0, "close");
}

/* ---- pairs of keys ------------------------------------------------------------------------------ */

/* Every pair of no key, this key and another, with targets that are processes of their own. */
static void keys(void)
{
	const char *const *const sides[] = {plain, with_key1, with_key2};
	static const char *const says[3][3] = {
		{NULL, "set cluster_key_file here", "set cluster_key_file here"},
		{"set cluster_key_file there", NULL, "the same key here and there"},
		{"set cluster_key_file there", "the same key here and there", NULL},
	};
	struct peer targets[3] = {0};
	static const char *const names[] = {"none", "one", "two"};

	for (int i = 0; i < 3; i++)
		peer_start(&targets[i], names[i], sides[i]);
	for (int from = 0; from < 3; from++) {
		struct mc_engine *e = engine_with("initiator", sides[from]);
		unsigned char *local = memory_new(e, 65536);

		for (int to = 0; to < 3; to++) {
			if (says[from][to])
				refused(e, names[to], -EACCES, "cluster key", says[from][to]);
			else
				works(e, names[to], targets[to].base, local);
		}
		/* What was refused has not harmed what works. */
		works(e, names[from], targets[from].base, local);
		end(e);
	}
	for (int i = 0; i < 3; i++)
		peer_end(&targets[i]);
}

/* One warning for many refusals, at the side that refuses; a name that is held by a stranger. */
static void warnings(void)
{
	struct mc_engine *b = engine_with("right", with_key1), *a = engine_with("left", with_key2);
	struct mc_config *c = config_new("right", "{\"*\": [[\"tcp:lo\"]]}");
	struct mc_error err = {0};
	struct mc_engine *e = NULL;
	int r;

	watch_log();
	for (int i = 0; i < 20; i++)
		refused(a, "right", -EACCES, "cluster_key_file", "right");
	CHECK(atomic_load(&nr_listener) >= 1 && atomic_load(&nr_listener) <= 1 + SLOW, "%u warnings",
	      atomic_load(&nr_listener));
	CHECK(atomic_load(&nr_dialler) == 0, "%u warnings of who was refused", atomic_load(&nr_dialler));
	r = mc_engine_open(c, 10 * SOON, &e, &err);
	CHECK(r == -EEXIST && strstr(err.text, "cluster_key_file"), "%d %s", r, err.text);
	mc_config_free(c);
	mc_log_set_handler(NULL, NULL);
	end(a);
	end(b);
}

/* ---- rpc ---------------------------------------------------------------------------------------- */

static void echo(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	CHECK(mc_rpc_reply(request, 0, in->data, in->len) == 0, "reply");
}

static int call(struct mc_engine *e, const char *name)
{
	char reply[8] = "";
	struct mc_rpc_call c = {.size = sizeof c, .data = "hello", .len = 6, .reply = reply, .reply_cap = 8};
	struct mc_rpc_client *client = NULL;
	struct mc_error err = {0};
	uint64_t begin = now_ns();

	NEED(mc_rpc_client_open(e, name, "echo", &client, &err) == 0, "%s", err.text);
	NEED(mc_rpc_start(client, &c, 10 * SOON) == 0 && mc_rpc_wait(client, &c) == 0, "call");
	mc_rpc_client_close(client);
	CHECK(now_ns() - begin < SOON, "it took too long");
	CHECK(c.status || !strcmp(reply, "hello"), "'%s'", reply);
	return c.status;
}

static void rpc(void)
{
	static const char *const listed[] = {key1, "access={\"stranger\": \"none\", \"*\": \"all\"}", NULL};
	struct mc_engine *b = engine_with("right", listed), *same = engine_with("left", with_key1),
			 *other = engine_with("other", with_key2), *none = engine_with("none", plain),
			 *stranger = engine_with("stranger", with_key1);
	struct mc_rpc_service *service;
	struct mc_error err = {0};

	NEED(mc_rpc_serve(b, "echo", echo, NULL, &service, &err) == 0, "%s", err.text);
	CHECK(call(same, "right") == 0, "right key");
	CHECK(call(other, "right") == -EACCES, "wrong key");
	CHECK(call(none, "right") == -EACCES, "no key");
	CHECK(call(stranger, "right") == -EACCES, "no access");
	CHECK(call(same, "none") == -EACCES, "a listener without a key");
	mc_rpc_unserve(service);
	end(same);
	end(other);
	end(none);
	end(stranger);
	end(b);
}

/* ---- attacks ------------------------------------------------------------------------------------ */

/* An engine "right" that is reached through the relay only. */
static struct mc_engine *behind(struct relay *r, const char *const *settings)
{
	const char *all[8] = {NULL};
	char address[64];
	struct mc_engine *e;
	int n = 0;

	snprintf(address, sizeof address, "advertise_address=127.0.0.1:%u", r->port);
	for (; *settings; settings++)
		all[n++] = *settings;
	all[n] = address;
	e = engine_with("right", all);
	relay_to(r, mc_engine_port(e));
	return e;
}

/* A dialogue that was admitted, byte for byte once more: another challenge, another proof. */
static void replay(void)
{
	struct relay relay;
	struct mc_engine *a, *b;
	struct mc_rpc_service *service;
	struct mc_error err = {0};
	unsigned char *local, *there, buf[512];
	bool kinds[4] = {false};

	relay_start(&relay);
	b = behind(&relay, with_key1);
	a = engine_with("left", with_key1);
	local = memory_new(a, 65536);
	there = memory_new(b, 65536);
	NEED(mc_rpc_serve(b, "echo", echo, NULL, &service, &err) == 0, "%s", err.text);
	CHECK(call(a, "right") == 0, "call");
	works(a, "right", (uintptr_t)there, local);
	for (int i = 0; i < relay_count(&relay); i++) {
		static struct recorded copy, *rec = &copy;
		int fd = dial(mc_engine_port(b));
		size_t len;

		relay_recorded(&relay, i, rec);
		len = preamble_length(rec->bytes);
		NEED(rec->len > len + WIRE_REPLY, "connection %d: %zu bytes", i, rec->len);
		kinds[rec->bytes[14] & 3] = true;
		send_all(fd, rec->bytes, len);
		NEED(recv_answer(fd, buf) > 0 && buf[12] == 1, "no challenge");
		send_all(fd, rec->bytes + len, WIRE_REPLY);
		NEED(recv_answer(fd, buf) > 0, "no verdict");
		CHECK(answer_status(buf) == WIRE_EACCES && buf[12] == 0, "kind %u: %u", rec->bytes[14],
		      answer_status(buf));
		CHECK(closed(fd), "kind %u: it stays open", rec->bytes[14]);
		close(fd);
		/* All of it in one go. */
		fd = dial(mc_engine_port(b));
		send_all(fd, rec->bytes, rec->len);
		CHECK(closed(fd), "kind %u: it stays open", rec->bytes[14]);
		close(fd);
	}
	CHECK(kinds[1] && kinds[2] && kinds[3], "not every kind was seen");
	works(a, "right", (uintptr_t)there, local);
	mc_rpc_unserve(service);
	end(a);
	end(b);
	relay_end(&relay);
}

/* We are the listener that "left" dials, and let it prove to itself what we cannot. */
static void reflect_once(bool own_preamble)
{
	struct relay relay;
	struct mc_engine *b, *a;
	struct opener opener;
	unsigned char pre[1024], mine[128], buf[512], reply[WIRE_REPLY];
	size_t len;
	int from, to;

	relay_start(&relay);
	b = behind(&relay, with_key1);
	relay_hold(&relay); /* from now on connections are ours */
	a = engine_with("left", with_key1);
	opener_start(&opener, a, "right");
	from = relay_accept(&relay);
	len = recv_preamble(from, pre);
	NEED(len > 0, "no preamble");
	to = dial(mc_engine_port(a));
	if (own_preamble)
		send_all(to, pre, len);
	else
		send_all(to, mine, preamble_make(mine, 1, 77, 99, mc_engine_generation(a), 1, "mallory"));
	NEED(recv_answer(to, buf) > 0 && buf[12] == 1, "no challenge");
	send_all(from, buf, answer_length(buf));
	NEED(recv_exactly(from, reply, sizeof reply), "no reply");
	send_all(to, reply, sizeof reply);
	len = recv_answer(to, buf);
	/* It meant another engine's port, or signed another preamble. */
	CHECK(len > 0 && answer_status(buf) == (own_preamble ? WIRE_ESTALE : WIRE_EACCES), "status %u",
	      answer_status(buf));
	CHECK(closed(to), "it stays open");
	/* Its own proof in an answer of ours that admits it. */
	verdict_make(buf, mc_engine_generation(b), reply + WIRE_REPLY - 32);
	send_all(from, buf, answer_length(buf));
	CHECK(closed(from), "it stays open");
	close(from);
	close(to);
	CHECK(opener_end(&opener) == -EACCES, "%d", opener.status);
	end(a);
	end(b);
	relay_end(&relay);
}

static void reflect(void)
{
	reflect_once(false);
	reflect_once(true);
}

/* Neither side believes that the other wants no proof. */
static void strip(void)
{
	static const char *const *const targets[] = {with_key1, plain};

	for (int i = 0; i < 2; i++) {
		struct relay relay;
		struct mc_engine *a, *b;

		relay_start(&relay);
		relay.strip = true;
		b = behind(&relay, targets[i]);
		a = engine_with("left", with_key1);
		watch_log();
		for (int n = 0; n < 5; n++)
			refused(a, "right", -EACCES, "cluster_key_file", "right");
		mc_log_set_handler(NULL, NULL);
		end(a);
		end(b);
		relay_end(&relay);
	}
	/* The second time the listener admitted what it saw, and the dialler refused. */
	CHECK(atomic_load(&nr_dialler) >= 1 && atomic_load(&nr_dialler) <= 1 + SLOW, "%u warnings",
	      atomic_load(&nr_dialler));
	CHECK(atomic_load(&nr_listener) >= 1, "no warning of the listener");
}

/* Answers that nobody has proven: admitted, or "restarted", which would end a session. */
static void forged(void)
{
	for (int status = 0; status < 3; status++) {
		struct relay relay;
		struct mc_engine *b, *a;
		struct opener opener;
		unsigned char pre[1024], buf[512];
		int from;

		relay_start(&relay);
		b = behind(&relay, with_key1);
		relay_hold(&relay);
		a = engine_with("left", with_key1);
		opener_start(&opener, a, "right");
		from = relay_accept(&relay);
		NEED(recv_preamble(from, pre) > 0, "no preamble");
		verdict_make(buf, mc_engine_generation(b), status == 2 ? pre : NULL);
		buf[14] = status == 1 ? WIRE_ESTALE : 0;
		send_all(from, buf, answer_length(buf));
		CHECK(closed(from), "it stays open");
		close(from);
		CHECK(opener_end(&opener) == -EACCES, "status %d: %d", status, opener.status);
		end(a);
		end(b);
		relay_end(&relay);
	}
}

/* Every kind of connection without a proof, with a wrong one, and with none in time. */
static void proofless(void)
{
	struct mc_engine *b = engine_with("right", with_key1), *a = engine_with("left", with_key1);
	unsigned char *local = memory_new(a, 65536), *there = memory_new(b, 65536), pre[128], buf[512];
	unsigned char reply[WIRE_REPLY];
	int silent[3];

	works(a, "right", (uintptr_t)there, local);
	for (unsigned kind = 1; kind <= 3; kind++) {
		int fd = dial(mc_engine_port(b));

		send_all(fd, pre, preamble_make(pre, kind, 5, mc_engine_generation(a), mc_engine_generation(b), 0, "left"));
		NEED(recv_answer(fd, buf) > 0, "no answer");
		CHECK(answer_status(buf) == WIRE_EACCES && buf[12] == 0, "kind %u: %u", kind, answer_status(buf));
		CHECK(strstr((char *)buf + 32, "cluster_key_file"), "'%s'", (char *)buf + 32);
		CHECK(closed(fd), "kind %u: it stays open", kind);
		close(fd);
		for (int bad = 0; bad < 2; bad++) {
			fd = dial(mc_engine_port(b));
			send_all(fd, pre, preamble_make(pre, kind, 5, mc_engine_generation(a), mc_engine_generation(b), 1, "left"));
			NEED(recv_answer(fd, buf) > 0 && buf[12] == 1, "no challenge");
			reply_make(reply);
			if (bad)
				reply[10] = 79;
			send_all(fd, reply, sizeof reply);
			if (!bad)
				CHECK(recv_answer(fd, buf) == 0 || answer_status(buf) == WIRE_EACCES, "%u",
				      answer_status(buf));
			CHECK(closed(fd), "kind %u: it stays open", kind);
			close(fd);
		}
		silent[kind - 1] = dial(mc_engine_port(b));
		send_all(silent[kind - 1], pre, preamble_make(pre, kind, 5, 6, 0, 1, "left"));
		NEED(recv_answer(silent[kind - 1], buf) > 0 && buf[12] == 1, "no challenge");
		send_all(silent[kind - 1], reply, 16);
	}
	for (int i = 0; i < 3; i++) {
		CHECK(closed(silent[i]), "who says no more stays");
		close(silent[i]);
	}
	works(a, "right", (uintptr_t)there, local);
	end(a);
	end(b);
	forged();
}

/* One byte at a time, both ways. */
static void dribble(void)
{
	struct relay relay;
	struct mc_engine *a, *b;

	relay_start(&relay);
	relay.dribble = true;
	b = behind(&relay, with_key1);
	a = engine_with("left", with_key1);
	works(a, "right", (uintptr_t)memory_new(b, 65536), memory_new(a, 65536));
	end(a);
	end(b);
	relay_end(&relay);
}

/* Without a key both ends say what engines said that do not know admission. */
static void older(void)
{
	static struct recorded rec;
	struct relay relay;
	struct mc_engine *a, *b;
	unsigned char pre[128], buf[512];
	int fd;

	relay_start(&relay);
	b = behind(&relay, plain);
	a = engine_with("left", plain);
	works(a, "right", (uintptr_t)memory_new(b, 65536), memory_new(a, 65536));
	for (int i = 0; i < relay_count(&relay); i++) {
		relay_recorded(&relay, i, &rec);
		CHECK(preamble_length(rec.bytes) == 64 + 4 && all_are(rec.bytes + 60, 4, 0), "connection %d", i);
	}
	CHECK(relay_count(&relay) >= 2, "%d connections", relay_count(&relay));
	fd = dial(mc_engine_port(b));
	send_all(fd, pre, preamble_make(pre, 1, 5, 6, mc_engine_generation(b), 0, "older"));
	CHECK(recv_answer(fd, buf) == 32 && answer_status(buf) == 0 && buf[12] == 0, "status %u", answer_status(buf));
	close(fd);
	end(a);
	end(b);
	relay_end(&relay);
}

/* ---- rights --------------------------------------------------------------------------------------- */

/* A hostile initiator reads in its peer's table what it would like to see there: all rights on the
 * buffer at hostile_base, and that it were at hostile_at. */
static atomic_bool hostile;
static _Atomic uint64_t hostile_base, hostile_at;
static atomic_uint nr_hostile;

ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	static ssize_t (*real)(int, void *, size_t, int); /* the same for every thread */
	ssize_t (*next)(int, void *, size_t, int) = __atomic_load_n(&real, __ATOMIC_RELAXED);
	uint64_t base = atomic_load(&hostile_base), at = atomic_load(&hostile_at);
	ssize_t n;

	if (!next) {
		next = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
		__atomic_store_n(&real, next, __ATOMIC_RELAXED);
	}
	n = next(fd, buf, len, flags);
	/* An entry: base at 8, access at 24. */
	for (unsigned char *p = buf; atomic_load(&hostile) && n >= 40 && p + 20 <= (unsigned char *)buf + n; p++) {
		if (memcmp(p, &base, sizeof base) == 0 && p[16] <= MC_ACCESS_ALL) {
			wire_put(p, at, 8);
			p[16] = MC_ACCESS_ALL;
			atomic_fetch_add(&nr_hostile, 1);
		}
	}
	return n;
}

/* A segment whose table lies about the buffer at base. */
static struct mc_segment *segment_lying(struct mc_engine *e, const char *name, uint64_t base, uint64_t at)
{
	struct mc_segment *s;

	atomic_store(&nr_hostile, 0);
	atomic_store(&hostile_base, base);
	atomic_store(&hostile_at, at);
	atomic_store(&hostile, true);
	s = segment_new(e, name);
	atomic_store(&hostile, false);
	/* More often where the connection was renewed meanwhile, and what was not acknowledged sent again. */
	CHECK(atomic_load(&nr_hostile) >= 1, "no entry was changed");
	return s;
}

/* Both requests on 64 KiB: how they end, and which bytes they have moved. */
static void requests(struct mc_engine *e, struct mc_segment *s, unsigned char *there, int reads, int writes)
{
	unsigned char *local = memory_new(e, 65536);
	struct mc_error err = {0};
	int r;

	memset(there, 1, 65536);
	memset(local, 2, 65536);
	r = move_one(e, MC_OP_READ, local, s, (uintptr_t)there, 65536, T);
	CHECK(r == reads, "read: %d, not %d", r, reads);
	CHECK(all_are(local, 65536, reads ? 2 : 1), "bytes that were read");
	memset(local, 3, 65536);
	r = move_one(e, MC_OP_WRITE, local, s, (uintptr_t)there, 65536, T);
	CHECK(r == writes, "write: %d, not %d", r, writes);
	CHECK(all_are(there, 65536, writes ? 1 : 3), "bytes that were written");
	CHECK(mc_memory_free(e, local, T, &err) == 0, "%s", err.text);
}

static void rights(struct mc_engine *b, unsigned char *there, const char *name, int reads, int writes, bool lies)
{
	struct mc_engine *e = engine_with(name, with_key1);
	uint64_t base = (uintptr_t)there;
	struct mc_segment *s = lies ? segment_lying(e, "right", base, base) : segment_new(e, "right");
	struct mc_error err = {0};
	unsigned char *late;

	requests(e, s, there, reads, writes);
	/* A buffer that comes later is under the same rule. */
	late = memory_new(b, 65536);
	requests(e, s, late, reads, writes);
	CHECK(mc_memory_free(b, late, T, &err) == 0, "%s", err.text);
	mc_segment_close(s);
	end(e);
}

static void access_lists(void)
{
	static const char *const listed[] = {
		key1, "access={\"reader*\": \"read\", \"writer\": \"write\", \"both\": \"all\", \"*\": \"none\"}", NULL};
	struct mc_engine *b = engine_with("right", listed), *e = engine_with("stranger", with_key1);
	unsigned char *there = memory_new(b, 65536);

	watch_log();
	for (int i = 0; i < 5; i++)
		refused(e, "right", -EACCES, "'stranger'", "rule '*': 'none'");
	CHECK(atomic_load(&nr_access) >= 1 && atomic_load(&nr_access) <= 1 + SLOW, "%u warnings", atomic_load(&nr_access));
	for (int lies = 0; lies < 2; lies++) {
		rights(b, there, "reader1", 0, -EACCES, lies);
		rights(b, there, "writer", -EACCES, 0, lies);
	}
	/* One for each session that was denied something, whatever it asks for. */
	CHECK(atomic_load(&nr_narrowed) >= 2 && !atomic_load(&nr_rights), "%u and %u warnings",
	      atomic_load(&nr_narrowed), atomic_load(&nr_rights));
	mc_log_set_handler(NULL, NULL);
	rights(b, there, "both", 0, 0, false);
	end(e);
	end(b);
}

/* On a wire whose keys give all rights: who has fewer gets none. */
static void no_keys(void)
{
	static const char matrix[] = "nic_priority_matrix={\"*\": [[\"keys:keys0\"]]}";
	static const char *const listed[] = {matrix, "access={\"reader\": \"read\", \"*\": \"all\"}", NULL};
	static const char *const unlisted[] = {matrix, NULL};
	struct mc_engine *b = engine_with("right", listed);
	unsigned char *there = memory_new(b, 65536);

	for (int i = 0; i < 2; i++) {
		struct mc_engine *e = engine_with(i ? "reader" : "both", unlisted);
		struct mc_segment *s = segment_new(e, "right");

		requests(e, s, there, i ? -EACCES : 0, i ? -EACCES : 0);
		mc_segment_close(s);
		end(e);
	}
	end(b);
}

/* Each right of a buffer, asked for by an initiator that keeps to it and by one that does not. */
static void buffers(void)
{
	static unsigned char all[65536], of[4][65536];
	struct mc_engine *b = engine_with("right", plain);
	struct mc_error err = {0};

	watch_log();
	CHECK(mc_memory_register(b, all, sizeof all, "cpu:0", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	for (uint32_t access = 0; access <= MC_ACCESS_ALL; access++)
		CHECK(mc_memory_register(b, of[access], sizeof of[access], "cpu:0", access, T, &err) == 0, "%s", err.text);
	for (uint32_t access = 0; access <= MC_ACCESS_ALL; access++) {
		int reads = access & MC_ACCESS_REMOTE_READ ? 0 : -EACCES;
		int writes = access & MC_ACCESS_REMOTE_WRITE ? 0 : -EACCES;
		struct mc_engine *honest = engine_with("honest", plain), *liar = engine_with("liar", plain);
		/* What peers do not see at all stands where another buffer should. */
		uint64_t base = (uintptr_t)(access ? of[access] : all), at = (uintptr_t)of[access];
		struct mc_segment *s = segment_new(honest, "right"), *s2 = segment_lying(liar, "right", base, at);

		requests(honest, s, of[access], reads, writes);
		requests(liar, s2, of[access], reads, writes);
		mc_segment_close(s);
		mc_segment_close(s2);
		end(honest);
		end(liar);
	}
	mc_log_set_handler(NULL, NULL);
	CHECK(atomic_load(&nr_bounds) == 1 && atomic_load(&nr_rights) == 2 && !atomic_load(&nr_narrowed),
	      "%u, %u, %u warnings", atomic_load(&nr_bounds), atomic_load(&nr_rights), atomic_load(&nr_narrowed));
	end(b);
}

/* What is wrong with a key or a list is said when the engine is opened. */
static void files(void)
{
	static const struct {
		const char *key, *value, *says;
		int status;
	} cases[] = {
		{"cluster_key_file", "/no/such/key", "cluster_key_file '/no/such/key': No such file", -EINVAL},
		{"cluster_key_file", "/tmp", "it is not a file", -EINVAL},
		{"cluster_key_file", "/dev/null", "it is not a file", -EINVAL},
		{"access", "{\"a\": \"reed\"}", "access:1:7: 'a': 'reed' is no right", -EINVAL},
		{"access", "/no/such/list", "access: file '/no/such/list'", -EINVAL},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct mc_config *c = config_new("left", "{\"*\": [[\"tcp:lo\"]]}");
		struct mc_engine *e = NULL;
		struct mc_error err = {0};
		int r;

		NEED(mc_config_set(c, cases[i].key, cases[i].value, &err) == 0, "%s", err.text);
		r = mc_engine_open(c, T, &e, &err);
		CHECK(r == cases[i].status && strstr(err.text, cases[i].says), "%s: %d %s", cases[i].value, r, err.text);
		mc_config_free(c);
	}
}

static void run_keys(void)
{
	keys();
	warnings();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {{"keys", run_keys}, {"rpc", rpc},         {"replay", replay},   {"reflect", reflect},
		     {"strip", strip},   {"proofless", proofless}, {"dribble", dribble}, {"older", older}, {"access", access_lists},
		     {"no-keys", no_keys}, {"buffers", buffers}, {"files", files}};

	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 4 && !strcmp(argv[1], "--serve"))
		return peer_serve(argc - 2, argv + 2);
	for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++) {
		if (strcmp(argv[1], cases[i].name))
			continue;
		engines_begin();
		key_make(key1, "key1", "a key that these two know\n");
		key_make(key2, "key2", "a key that nobody else has\n");
		cases[i].run();
		return engines_end();
	}
	fprintf(stderr, "usage: %s CASE\n", argv[0]);
	return 2;
}
