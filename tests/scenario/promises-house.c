/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promises about what an engine says and keeps (P7 to P10 of the design):
 * rails in the log, nothing left after many rounds, one sentence for each bad
 * input, and transfers while the metadata are away.
 *
 *   promises-house P7|P8|P9|P10
 */
#include "peers.h"

#include "cli/check/census.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define LEN ((size_t)65536)

static const char *const plain[] = {NULL};

/* ---- what was logged ------------------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char logged[1 << 16]; /* lines; under log_lock */
static size_t logged_len;

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	size_t len = strlen(line);

	pthread_mutex_lock(&log_lock);
	if (logged_len + len + 2 < sizeof logged) {
		memcpy(logged + logged_len, line, len);
		logged_len += len;
		logged[logged_len++] = '\n';
		logged[logged_len] = '\0';
	}
	pthread_mutex_unlock(&log_lock);
}

static void log_begin(enum mc_log_level level)
{
	pthread_mutex_lock(&log_lock);
	logged[logged_len = 0] = '\0';
	pthread_mutex_unlock(&log_lock);
	mc_log_set_level(level);
	mc_log_set_handler(on_log, NULL);
}

static void log_end(void)
{
	mc_log_set_handler(NULL, NULL);
	mc_log_set_level(MC_LOG_ERROR);
}

/* Lines that hold both words. */
static unsigned nr_lines(const char *one, const char *two)
{
	unsigned n = 0;

	pthread_mutex_lock(&log_lock);
	for (char *p = logged, *end; (end = strchr(p, '\n')); p = end + 1) {
		*end = '\0';
		n += strstr(p, one) && strstr(p, two);
		*end = '\n';
	}
	pthread_mutex_unlock(&log_lock);
	return n;
}

static bool logged_soon(const char *one, const char *two)
{
	for (int i = 0; i < 500 && !nr_lines(one, two); i++)
		nap(10 * MC_MSEC);
	return nr_lines(one, two);
}

/* ---- P7 -------------------------------------------------------------------------------------- */

static int count_written(void *ctx, const struct mc_counter *counter)
{
	uint64_t *written = ctx;

	if (!strcmp(counter->name, "bytes_written") && !strncmp(counter->object, "rail tcp:lo", 11))
		*written += counter->value;
	return 0;
}

static void p7_once(void)
{
	static const char *const names[] = {"right", "far"};
	struct mc_engine *a = engine_with("left", plain), *b[2];
	unsigned char *local = memory_new(a, LEN);
	uint64_t written = 0;

	log_begin(MC_LOG_INFO);
	for (int i = 0; i < 2; i++) {
		unsigned char *there;
		struct mc_segment *s;

		b[i] = engine_with(names[i], plain);
		there = memory_new(b[i], LEN);
		s = segment_new(a, names[i]);
		for (int k = 0; k < 100; k++)
			CHECK(move_one(a, MC_OP_WRITE, local, s, (uintptr_t)there, LEN, T) == 0, "write");
		mc_segment_close(s);
	}
	CHECK(logged_soon("peer 'right'", "rail tcp:lo") && logged_soon("peer 'far'", "rail tcp:lo"), "%s", logged);
	CHECK(nr_lines("peer 'right'", "rail tcp:lo") == 1, "%s", logged);
	CHECK(nr_lines("peer 'far'", "rail tcp:lo") == 1, "%s", logged);
	log_end();
	/* The same by the counters. */
	CHECK(mc_engine_counters(a, count_written, &written) == 0 && written == 200 * LEN, "%llu bytes by rails",
	      (unsigned long long)written);
	CHECK(mc_engine_close(a, T) == 0, "close");
	CHECK(mc_engine_close(b[0], T) == 0 && mc_engine_close(b[1], T) == 0, "close");
}

static void say(const char *path, const char *word)
{
	FILE *f = fopen(path, "w");

	NEED(f && fputs(word, f) >= 0 && fclose(f) == 0, "%s", path);
}

/* The device of the first tier goes down, and the tier below is used. */
static void p7_lower(void)
{
	static const char matrix[] = "nic_priority_matrix={\"*\": [[\"keys:keys0\"], [\"tcp:lo\"]]}";
	char path[96], trigger[128];
	const char *const with[] = {matrix, trigger, NULL}, *const without[] = {matrix, NULL};
	struct mc_engine *a, *b;
	unsigned char *local, *there;
	struct mc_segment *s;

	snprintf(path, sizeof path, "%s/trigger", dir);
	snprintf(trigger, sizeof trigger, "transports.keys.trigger=%s", path);
	log_begin(MC_LOG_INFO);
	a = engine_with("left", with);
	b = engine_with("right", without);
	local = memory_new(a, LEN);
	there = memory_new(b, LEN);
	s = segment_new(a, "right");
	CHECK(move_one(a, MC_OP_WRITE, local, s, (uintptr_t)there, LEN, T) == 0, "write");
	CHECK(logged_soon("rail keys:keys0", "is up"), "%s", logged);
	say(path, "down\n");
	CHECK(logged_soon("device 'keys:keys0'", "is down"), "%s", logged);
	CHECK(logged_soon("rail keys:keys0", "broke"), "%s", logged);
	CHECK(move_one(a, MC_OP_WRITE, local, s, (uintptr_t)there, LEN, T) == 0, "write");
	CHECK(logged_soon("rail tcp:lo", "is up"), "what is used instead is not said: %s", logged);
	log_end();
	mc_segment_close(s);
	CHECK(mc_engine_close(a, T) == 0 && mc_engine_close(b, T) == 0, "close");
}

static void p7(void)
{
	p7_once();
	p7_lower();
}

/* ---- P8 -------------------------------------------------------------------------------------- */

/* As many peers as the config says; one more is told so, and has room when another goes. */
static void p8_bounded(void)
{
	static const char *const two[] = {"max_peers=2", "peer_timeout=1", NULL};
	static const char *const names[] = {"one", "two", "three"};
	struct mc_engine *b = engine_with("right", two), *a[3];
	struct mc_segment *s[3] = {NULL};
	struct mc_error err = {0};
	int r;

	memory_new(b, LEN);
	for (int i = 0; i < 3; i++)
		a[i] = engine_with(names[i], plain);
	s[0] = segment_new(a[0], "right");
	s[1] = segment_new(a[1], "right");
	r = mc_segment_open(a[2], "right", 500 * MC_MSEC, &s[2], &err);
	CHECK(r < 0 && strstr(err.text, "right"), "a third of two: %d %s", r, err.text);
	CHECK(strstr(err.text, "max_peers"), "what is full is not said: %s", err.text);
	mc_segment_close(s[0]);
	CHECK(mc_engine_close(a[0], T) == 0, "close");
	s[2] = segment_new(a[2], "right");
	for (int i = 1; i < 3; i++) {
		mc_segment_close(s[i]);
		CHECK(mc_engine_close(a[i], T) == 0, "close");
	}
	CHECK(mc_engine_close(b, T) == 0, "close");
}

static void p8_rounds(void)
{
	enum { ROUNDS = SLOW > 1 ? 60 : 500, WARM = ROUNDS * 2 / 5 };
	struct mc_engine *b = engine_with("right", plain);
	unsigned char *there = memory_new(b, LEN);
	struct mallinfo2 before = {0}, after;
	unsigned fds = 0, threads = 0;

	for (int i = 0; i < ROUNDS; i++) {
		struct mc_engine *a = engine_with("left", plain);
		unsigned char *local = memory_new(a, LEN);
		struct mc_segment *s = segment_new(a, "right");

		CHECK(move_one(a, MC_OP_WRITE, local, s, (uintptr_t)there, LEN, T) == 0, "round %d", i);
		mc_segment_close(s);
		NEED(mc_engine_close(a, T) == 0, "round %d: close", i);
		if (i != WARM)
			continue;
		nap(200 * MC_MSEC);
		before = mallinfo2();
		fds = census_fds();
		threads = census_threads();
	}
	/* The helpers of an engine come and go. */
	CHECK(census_settles(census_fds, fds), "%u descriptors, then %u", fds, census_fds());
	CHECK(census_settles(census_threads, threads), "%u threads, then %u", threads, census_threads());
	after = mallinfo2();
	/* About 100 bytes for a round; what is kept for use again has grown by then.  Sanitizers have
	 * a malloc of their own, and find leaks. */
	CHECK(SLOW > 1 || after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + 32768,
	      "%zu bytes, then %zu", before.uordblks + before.hblkhd, after.uordblks + after.hblkhd);
	CHECK(mc_engine_close(b, T) == 0, "close");
}

static void p8(void)
{
	p8_bounded();
	p8_rounds();
}

/* ---- P9 -------------------------------------------------------------------------------------- */

struct two {
	struct mc_engine *a, *b;
	unsigned char *local, *there;
	struct mc_segment *s;
};

static void two_open(struct two *p, const char *const *settings)
{
	p->a = engine_with("left", settings);
	p->b = engine_with("right", settings);
	p->local = memory_new(p->a, 2 * LEN); /* the second half is for what moves() leaves alone */
	p->there = memory_new(p->b, 2 * LEN);
	p->s = segment_new(p->a, "right");
}

static void two_close(struct two *p)
{
	mc_segment_close(p->s);
	CHECK(mc_engine_close(p->a, T) == 0 && mc_engine_close(p->b, T) == 0, "close");
}

static bool moves(struct two *p)
{
	static unsigned char seed;

	memset(p->local, ++seed, LEN);
	return move_one(p->a, MC_OP_WRITE, p->local, p->s, (uintptr_t)p->there, LEN, T) == 0 &&
	       all_are(p->there, LEN, seed);
}

/* One sentence that says where, and nothing changed. */
static void p9_file(const char *text, const char *where)
{
	struct mc_config *c = config_new("x", "{\"*\": [[\"tcp:lo\"]]}");
	struct mc_error err = {0};
	char path[96], before[64];

	snprintf(path, sizeof path, "%s/config.json", dir);
	say(path, text);
	snprintf(before, sizeof before, "%s", mc_config_get(c, "deadline", NULL));
	CHECK(mc_config_load(c, path, &err) == -EINVAL, "'%s' was taken", text);
	CHECK(strstr(err.text, "config.json") && strstr(err.text, where) && !strchr(err.text, '\n'), "'%s': %s",
	      text, err.text);
	CHECK(!strcmp(before, mc_config_get(c, "deadline", NULL)), "'%s' changed something", text);
	mc_config_free(c);
}

static void p9_config(void)
{
	static const char *const matrices[][2] = {
		{"{\"*\": [[\"tcq:lo\"]]}", "tcq"}, {"{\"*\": [[\"tcp:nosuch9\"]]}", "nosuch9"}, {"{\"*\": [", "1:"},
		{"{}", "no row"},
	};
	struct mc_error err = {0};
	char path[96], folder[64], old[256];

	p9_file("{ \"deadline\": \"7s\",\n\"port\": 70000 }", "2:9");
	p9_file("{ \"deadline\": \"7s\", \"prot\": 1 }", "port");
	p9_file("{ \"deadline\": \"7s\", ", "1:");
	p9_file("{ \"deadline\": \"7s\", \"deadline\": \"8s\" }", "deadline");
	for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
		struct mc_config *c = config_new("x", "{\"*\": [[\"tcp:lo\"]]}");
		struct mc_engine *e = NULL;
		int r = mc_config_set(c, "nic_priority_matrix", matrices[i][0], &err);

		r = r ? r : mc_engine_open(c, T, &e, &err);
		CHECK(r < 0 && strstr(err.text, matrices[i][1]), "%s: %d %s", matrices[i][0], r, err.text);
		mc_config_free(c);
		mc_engine_close(e, T);
	}
	/* A manifest; the folder of the others is given back after it. */
	snprintf(old, sizeof old, "%s", getenv("MC_CONFIG_DIR"));
	snprintf(folder, sizeof folder, "%s/plugins.d", dir);
	snprintf(path, sizeof path, "%s/bad.json", folder);
	NEED(mkdir(folder, 0700) == 0, "%s", folder);
	say(path, "{ \"name\": \"bad\", \"kind\": 3 }");
	setenv("MC_CONFIG_DIR", dir, 1);
	struct mc_config *c = NULL;
	CHECK(mc_config_new(&c, &err) == -EINVAL && strstr(err.text, "bad.json") && strstr(err.text, "kind"), "%s",
	      err.text);
	setenv("MC_CONFIG_DIR", old, 1);
	unlink(path);
	rmdir(folder);
}

/* A record that is not one: of a name of its own, beside the good ones. */
static void p9_record(struct two *p, const char *text)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};
	char path[512] = "";
	DIR *d = opendir(dir);
	struct dirent *de;
	int r;

	while (d && (de = readdir(d))) {
		const char *at = strstr(de->d_name, "left");

		if (de->d_name[0] == 'k' && at)
			snprintf(path, sizeof path, "%s/%.*swild%s", dir, (int)(at - de->d_name), de->d_name, at + 4);
	}
	closedir(d);
	NEED(path[0], "no record of 'left'");
	say(path, text);
	r = mc_segment_open(p->a, "wild", T, &s, &err);
	CHECK(r < 0 && strstr(err.text, "wild"), "%d %s", r, err.text);
	mc_segment_close(s);
	CHECK(moves(p), "after a bad record");
	unlink(path);
}

static int dial(struct mc_engine *e)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(mc_engine_port(e)),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	NEED(fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0, "connect: %s", strerror(errno));
	return fd;
}

static void put_le(unsigned char *p, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (unsigned char)(value >> (8 * i));
}

/* A preamble of a control connection; docs/wire.md.  Its length. */
static size_t preamble(unsigned char p[128], unsigned version)
{
	memset(p, 0, 128);
	memcpy(p, "mooncake", 8);
	put_le(p + 8, version, 2);
	put_le(p + 10, version, 2);
	put_le(p + 12, 68, 2);
	p[14] = 1; /* control */
	p[15] = 4;
	put_le(p + 16, 0x1234567, 8);
	put_le(p + 24, 77, 8);
	memcpy(p + 64, "wild", 4);
	return 68;
}

/* Bytes on the port: one line about them, and the connection ends. */
static void p9_bytes(struct two *p, const char *what, const void *bytes, size_t len, bool hello)
{
	unsigned char answer[512], frame[128] = {0};
	struct timeval patience = {.tv_sec = 5};
	unsigned before = nr_lines("", "");
	int fd = dial(p->b);
	ssize_t n;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	CHECK(send(fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len, "%s: send", what);
	if (hello) {
		static const char json[] = "{\"name\": 7}";

		CHECK(recv(fd, answer, 32, MSG_WAITALL) == 32 && !memcmp(answer, "moncake!", 8), "%s: answer", what);
		put_le(frame, 32 + sizeof json - 1, 4);
		put_le(frame + 4, 1, 2);
		put_le(frame + 24, 0x1234567, 8);
		put_le(frame + 40, 1, 4);
		put_le(frame + 48, sizeof json - 1, 4);
		memcpy(frame + 56, json, sizeof json - 1);
		CHECK(send(fd, frame, 56 + sizeof json - 1, MSG_NOSIGNAL) > 0, "%s: send", what);
	}
	do
		n = recv(fd, answer, sizeof answer, 0);
	while (n > 0);
	CHECK(n == 0 || errno == ECONNRESET, "%s: the connection stays: %s", what, strerror(errno));
	close(fd);
	for (int i = 0; i < 200 && nr_lines("", "") == before; i++)
		nap(10 * MC_MSEC);
	nap(50 * MC_MSEC);
	CHECK(nr_lines("", "") == before + 1, "%s: %u lines: %s", what, nr_lines("", "") - before, logged);
	CHECK(moves(p), "after %s", what);
}

static void p9(void)
{
	struct mc_batch *batch;
	struct two p;
	unsigned char bytes[128];
	size_t len;

	two_open(&p, plain);
	/* Accepted before all this, and nothing of it is lost. */
	batch = submit_many(p.a, MC_OP_READ, p.local + LEN, p.s, (uintptr_t)p.there + LEN, LEN, 1000, 4096, T);
	p9_config();
	CHECK(moves(&p), "after bad configs");
	p9_record(&p, "this is no record");
	p9_record(&p, "");
	CHECK(mc_batch_wait(batch, T) == 0 && !mc_batch_failed(batch), "the batch");
	mc_batch_free(batch);
	log_begin(MC_LOG_WARN);
	p9_bytes(&p, "another protocol", "SSH-2.0-OpenSSH_9.2p1\r\n", 23, false);
	len = preamble(bytes, 99);
	p9_bytes(&p, "a version of the future", bytes, len, false);
	len = preamble(bytes, 1);
	put_le(bytes + 12, 5000, 2);
	p9_bytes(&p, "a preamble that is too long", bytes, len, false);
	len = preamble(bytes, 1);
	p9_bytes(&p, "a hello that is no hello", bytes, len, true);
	log_end();
	two_close(&p);
}

/* ---- P10 ------------------------------------------------------------------------------------- */

static int count_name(void *ctx, const char *name)
{
	++*(int *)ctx;
	return 0;
}

static int nr_records(struct mc_engine *e)
{
	int n = 0;

	return mc_segment_list(e, T, count_name, &n, NULL) < 0 ? -1 : n;
}

static void p10(void)
{
	static const char *const settings[] = {"lease_ttl=600ms", "peer_timeout=1", NULL};
	struct mc_engine *third;
	struct mc_segment *s;
	char away[64], cmd[128];
	unsigned char *local;
	struct two p;

	snprintf(away, sizeof away, "%s.away", dir);
	two_open(&p, settings);
	log_begin(MC_LOG_WARN);
	NEED(rename(dir, away) == 0, "rename: %s", strerror(errno));
	/* For longer than leases and peers live. */
	for (int i = 0; i < 30; i++) {
		CHECK(moves(&p), "%d: while the metadata are away", i);
		nap(50 * MC_MSEC);
	}
	NEED(logged_soon("transfers go on", "'left'"), "%s", logged);
	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir); /* whatever was put in its place */
	NEED(system(cmd) == 0 && rename(away, dir) == 0, "rename back: %s", strerror(errno));
	CHECK(logged_soon("published again", "'left'") && logged_soon("published again", "'right'"), "%s", logged);
	CHECK(nr_records(p.a) == 2, "%d records", nr_records(p.a));
	log_end();
	/* Who comes new finds it. */
	third = engine_with("third", settings);
	local = memory_new(third, LEN);
	s = segment_new(third, "right");
	memset(local, 200, LEN);
	CHECK(move_one(third, MC_OP_WRITE, local, s, (uintptr_t)p.there, LEN, T) == 0, "the third");
	mc_segment_close(s);
	CHECK(moves(&p), "after the return");
	CHECK(mc_engine_close(third, T) == 0, "close");
	two_close(&p);
}

int main(int argc, char **argv)
{
	static const struct promise promises[] = {{"P7", p7}, {"P8", p8}, {"P9", p9}, {"P10", p10}};

	return promises_main(argc, argv, promises, sizeof promises / sizeof *promises);
}
