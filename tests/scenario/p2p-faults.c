/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects of the P2P store under faults: sources and getters that are killed, that
 * come back, that serve wrong bytes; names that are taken; a metadata service that
 * is silent.  An object arrives intact or the error says why, and what is not whole
 * never counts as such.
 *
 *   p2p-faults CASE...
 */
#include "p2p-peers.h"

#include <mooncake/kv.h>
#include <sys/inotify.h>

/* Bytes per second: an object takes about a second, so that "at 50 %" can be hit. */
#define CAP "p2p.get=4000000"
#define LOW_CAP "p2p.get=1500000" /* where too late would be wrong */
#define QUICK "peer_timeout=2"

/* ---- sources ------------------------------------------------------------------------------------- */

/* One of two sources is killed early, midway, late. */
static void source_killed(void)
{
	static const unsigned at[] = {10, 50, 99};
	struct role dies, stays, g;

	p2p_start(&stays, "stays", QUICK);
	p2p_start(&g, "g", QUICK, CAP);
	for (size_t i = 0; i < 3; i++) {
		struct p2p_got got;
		bool over;

		p2p_start(&dies, "dies", QUICK);
		CHECK(p2p_ask(&stays, "register", "o%zu 1", i) == 0, "register");
		CHECK(p2p_ask(&dies, "register", "o%zu 1", i) == 0, "register");
		p2p_tell(&g, "get o%zu 1", i);
		over = p2p_follow(&g, at[i], &got);
		role_kill(&dies);
		if (!over)
			p2p_good(&g);
		else
			CHECK(got.status == 0 && got.right, "over at %u %%: %s", at[i], got.text);
		CHECK(at[i] > 50 || p2p_logged("g", "dies", ""), "a source that has gone is not named");
		CHECK(p2p_ask(&g, "delete", "o%zu", i) == 0, "delete");
	}
	role_end(&g);
	role_end(&stays);
}

/* The only one is killed: the error says why; what has come counts when it is back. */
static void source_alone(void)
{
	struct role s, g, h;
	struct p2p_got got;

	p2p_start(&s, "s", QUICK);
	p2p_start(&g, "g", QUICK, LOW_CAP, "p2p.patience=2000");
	p2p_start(&h, "h", QUICK, "p2p.patience=1000");
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	p2p_tell(&g, "get o 1");
	CHECK(!p2p_follow(&g, 50, &got), "over too soon");
	role_kill(&s);
	NEED(p2p_follow(&g, 1000, &got), "no end");
	CHECK(got.status == -ENODATA && !got.right, "%d %s", got.status, got.text);
	CHECK(strstr(got.text, "'o'") && strstr(got.text, "s"), "it does not say of what and why: %s", got.text);
	/* What it has is not whole, and is nobody's object. */
	p2p_tell(&h, "get o 1");
	NEED(p2p_follow(&h, 1000, &got), "no end");
	CHECK(got.status < 0 && !got.right, "a part of an object was got as all of it: %d", got.status);

	p2p_start(&s, "s", QUICK);
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register again");
	p2p_tell(&g, "get o 1 resume");
	got = p2p_good(&g);
	CHECK(got.resumed >= NR_SHARDS / 2, "%u shards were there already", got.resumed);
	/* It goes and comes back while somebody waits for it. */
	CHECK(p2p_ask(&g, "delete", "o") == 0, "delete");
	role_end(&g);
	p2p_start(&g, "g", QUICK, CAP);
	CHECK(p2p_ask(&s, "register", "again 2") == 0, "register");
	p2p_tell(&g, "get again 2");
	CHECK(!p2p_follow(&g, 50, &got), "over too soon");
	role_kill(&s);
	p2p_start(&s, "s", QUICK);
	CHECK(p2p_ask(&s, "register", "again 2") == 0, "register again");
	p2p_good(&g);
	role_end(&g);
	role_end(&h);
	role_end(&s);
}

/* Its only source is silent: who cancels need not wait until that is certain. */
static void source_frozen(void)
{
	const char *line;
	unsigned ms = 0;
	int status = 0;
	struct role s, g;

	p2p_start(&s, "s");
	p2p_start(&g, "g");
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	kill(s.pid, SIGSTOP);
	p2p_tell(&g, "cancelled o 300");
	p2p_answer(&g, "cancelled", &line);
	NEED(sscanf(line, "cancelled %d %u", &status, &ms) == 2, "%s", line);
	CHECK(status == -ECANCELED && ms < 2500 * SLOW, "cancelled after %u ms: %s", ms, line);
	kill(s.pid, SIGCONT);
	p2p_tell(&g, "get o 1");
	p2p_good(&g);
	role_end(&g);
	role_end(&s);
}

/* One source gives a shard in minutes, the other at once: what the slow one was asked for comes from the other. */
static void source_slow(void)
{
	struct role slow, s, g;
	struct p2p_got got;

	p2p_start(&slow, "slow", "p2p.serve=10000");
	p2p_start(&s, "s");
	p2p_start(&g, "g", "p2p.timeout=60000");
	CHECK(p2p_ask(&slow, "register", "o 1 1048576") == 0, "register");
	CHECK(p2p_ask(&s, "register", "o 1 1048576") == 0, "register");
	p2p_tell(&g, "get o 1");
	NEED(p2p_follow(&g, 1000, &got), "no end");
	CHECK(got.status == 0 && got.right, "%d %s", got.status, got.text);
	CHECK(got.dropped == 0, "being slow is no fault, %u sources were dropped", got.dropped);
	role_end(&g);
	role_end(&s);
	role_end(&slow);
}

#define NR_SILENT 4

/* All but one are silent: the one that answers is found, however many there are.  One after the other, the time would be
 * over before its turn. */
static void sources_frozen(void)
{
	static const char *const names[NR_SILENT] = {"a0", "a1", "a2", "a3"};
	struct role silent[NR_SILENT], z, g;
	const char *line;

	p2p_start(&z, "z");
	p2p_start(&g, "g", "p2p.timeout=11000");
	for (size_t i = 0; i < NR_SILENT; i++) {
		p2p_start(&silent[i], names[i]);
		CHECK(p2p_ask(&silent[i], "register", "o 1") == 0, "register");
	}
	p2p_tell(&z, "get o 1");
	p2p_good(&z);
	for (size_t i = 0; i < NR_SILENT; i++)
		kill(silent[i].pid, SIGSTOP);
	p2p_tell(&g, "stat o");
	CHECK(p2p_answer(&g, "stat", &line) == 0 && strstr(line, " z=128"), "%s", line);
	p2p_tell(&g, "get o 1");
	p2p_good(&g);
	for (size_t i = 0; i < NR_SILENT; i++) {
		kill(silent[i].pid, SIGCONT);
		role_end(&silent[i]);
	}
	role_end(&g);
	role_end(&z);
}

/* ---- getters --------------------------------------------------------------------------------------- */

#define NR_GETTERS 4

/* Half of them are killed midway; one of these is started again and keeps what verifies. */
static void getters_killed(void)
{
	static const char *const names[NR_GETTERS] = {"g0", "g1", "g2", "g3"};
	struct role s, g[NR_GETTERS];
	struct p2p_got got;

	p2p_start(&s, "s", QUICK);
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	for (size_t i = 0; i < NR_GETTERS; i++)
		p2p_start(&g[i], names[i], QUICK, CAP);
	for (size_t i = 0; i < NR_GETTERS; i++)
		p2p_tell(&g[i], "get o 1");
	CHECK(!p2p_follow(&g[3], 50, &got), "over too soon");
	role_kill(&g[3]);
	role_kill(&g[2]);
	p2p_good(&g[0]);
	p2p_good(&g[1]);
	p2p_start(&g[3], "g3", QUICK, CAP);
	p2p_tell(&g[3], "get o 1 resume");
	got = p2p_good(&g[3]);
	CHECK(got.resumed >= NR_SHARDS / 4 && got.moved < OBJECT_LEN, "%u shards were kept, %llu bytes moved", got.resumed,
	      got.moved);
	/* Each of them is a source now: the seed is not needed. */
	role_end(&s);
	p2p_start(&g[2], "g2", QUICK);
	p2p_tell(&g[2], "get o 1");
	p2p_good(&g[2]);
	for (size_t i = 0; i < NR_GETTERS; i++)
		role_end(&g[i]);
}

/* One that is read from gives up: it takes back what it offers, and is not told of as a source that failed. */
static void getter_leaves(void)
{
	struct role s, x, g;
	struct p2p_got got;
	const char *line;
	char cap[40];

	snprintf(cap, sizeof cap, "p2p.get=%u", 1500000 / SLOW);
	p2p_start(&s, "s");
	p2p_start(&x, "x", "p2p.get=100000");
	p2p_start(&g, "g", cap);
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	p2p_tell(&x, "cancelled o %u", 1200 * SLOW);
	p2p_tell(&g, "get o 1");
	p2p_answer(&x, "cancelled", &line);
	got = p2p_good(&g);
	CHECK(got.dropped == 1 && p2p_logged("g", "'x' offers it no more", ""), "%u sources were dropped", got.dropped);
	CHECK(!p2p_logged("g", "warning", ""), "who left is told of as one that failed");
	role_end(&g);
	role_end(&x);
	role_end(&s);
}

/* The memory of a getter is a file that is cut: its own fault, and no source's.  Over shm, where each request tells its
 * own end; where many share a stream that breaks, the source of another shard may be dropped as well. */
static void getter_cut(void)
{
	struct role s, g;
	struct p2p_got got;
	char path[200];

	p2p_start(&s, "s", QUICK);
	p2p_start(&g, "cutter", QUICK, "retry_count=1", CAP);
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	p2p_tell(&g, "get o 1");
	CHECK(!p2p_follow(&g, 30, &got), "over too soon");
	snprintf(path, sizeof path, "%s/cutter.o", dir);
	NEED(truncate(path, 0) == 0, "%s", path);
	NEED(p2p_follow(&g, 1000, &got), "no end");
	CHECK(got.status == -EFAULT && strstr(got.text, "our own memory"), "%d %s", got.status, got.text);
	CHECK(!p2p_logged("cutter", "reading shard", ""), "the source is blamed");
	role_end(&g);
	role_end(&s);
}

/* ---- wrong bytes -------------------------------------------------------------------------------------- */

static void wrong_bytes(void)
{
	struct role liar, honest, g, h;
	struct p2p_got got;

	p2p_start(&liar, "liar", QUICK);
	p2p_start(&honest, "honest", QUICK, "p2p.serve=8000000");
	p2p_start(&g, "g", QUICK, "p2p.patience=2000");
	CHECK(p2p_ask(&liar, "register", "o 1") == 0, "register");
	CHECK(p2p_ask(&honest, "register", "o 1") == 0, "register");
	CHECK(p2p_ask(&liar, "spoil", "o") == 0, "spoil");
	p2p_tell(&g, "get o 1");
	got = p2p_good(&g);
	CHECK(got.corrupt >= 1 && p2p_logged("g", "liar", ""), "%u corrupt; the liar is not named", got.corrupt);
	CHECK(!p2p_logged("g", "honest", ""), "the honest one is blamed");
	CHECK(p2p_ask(&g, "delete", "o") == 0, "delete");

	/* The wire flips bits of every other slice from one of them. */
	p2p_start(&h, "h", QUICK, "transports.tcp.filters=fault", "filters.fault.flip=0.5", "filters.fault.ops=read",
		  "filters.fault.peer=liar", "filters.fault.after=4");
	CHECK(p2p_ask(&liar, "spoil", "o") == 0, "spoil"); /* twice is not at all */
	p2p_tell(&h, "get o 1");
	got = p2p_good(&h);
	CHECK(got.corrupt + got.dropped >= 1 && p2p_logged("h", "liar", ""), "nothing was wrong: %u, %u", got.corrupt,
	      got.dropped);
	role_end(&h);

	/* It flips one from the only one, who is asked once more and not blamed. */
	CHECK(p2p_ask(&liar, "unregister", "o") == 0, "unregister");
	p2p_start(&h, "h", QUICK, "transports.tcp.lanes=1", "transports.tcp.filters=fault", "filters.fault.flip_nth=16",
		  "filters.fault.ops=read", "filters.fault.peer=honest");
	p2p_tell(&h, "get o 1");
	got = p2p_good(&h);
	CHECK(got.corrupt == 1 && got.dropped == 0 && p2p_logged("h", "'honest' does not verify; it is read once more", ""),
	      "%u corrupt, %u dropped", got.corrupt, got.dropped);
	role_end(&h);
	CHECK(p2p_ask(&liar, "register", "o 1") == 0, "register");

	/* Nobody is honest. */
	CHECK(p2p_ask(&honest, "spoil", "o") == 0, "spoil");
	CHECK(p2p_ask(&liar, "spoil", "o") == 0, "spoil");
	p2p_tell(&g, "get o 1");
	NEED(p2p_follow(&g, 1000, &got), "no end");
	CHECK((got.status == -EBADMSG || got.status == -ENODATA) && got.done < NR_SHARDS, "%d %s", got.status, got.text);
	CHECK(strstr(got.text, "liar") || strstr(got.text, "honest"), "nobody is named: %s", got.text);
	role_end(&g);
	role_end(&honest);
	role_end(&liar);
}

/* ---- names and the metadata service ----------------------------------------------------------------------- */

/* Another object under a name that is taken is refused, and both owners are named. */
static void names(void)
{
	struct role first, second, g;
	const char *line;

	p2p_start(&first, "first", QUICK);
	p2p_start(&second, "second", QUICK);
	p2p_start(&g, "g", QUICK);
	CHECK(p2p_ask(&first, "register", "o 1") == 0, "register");
	p2p_tell(&second, "register o 2");
	CHECK(p2p_answer(&second, "register", &line) == -EEXIST, "%s", line);
	CHECK(strstr(line, "'first'") && strstr(line, "'second'"), "the owners are not named: %s", line);
	p2p_tell(&g, "get o 1");
	p2p_good(&g);
	/* When nobody has it any more, its name is free. */
	CHECK(p2p_ask(&g, "delete", "o") == 0, "delete");
	CHECK(p2p_ask(&first, "unregister", "o") == 0, "unregister");
	CHECK(p2p_ask(&second, "register", "o 2") == 0, "register");
	p2p_tell(&g, "get o 2");
	p2p_good(&g);
	role_end(&g);
	role_end(&second);
	role_end(&first);
}

#define NR_RACES 15

/* Two objects that are registered under one name at the same moment: never do both have it. */
static void names_race(void)
{
	struct role r[2], g;

	p2p_start(&r[0], "first", QUICK);
	p2p_start(&r[1], "second", QUICK);
	p2p_start(&g, "g", QUICK);
	for (unsigned i = 0; i < NR_RACES; i++) {
		const char *line;
		int status[2];

		for (unsigned k = 0; k < 2; k++)
			p2p_tell(&r[k], "register o%u %u", i % 2, k + 1);
		for (unsigned k = 0; k < 2; k++) {
			status[k] = p2p_answer(&r[k], "register", &line);
			CHECK(status[k] == 0 || (status[k] == -EEXIST && strstr(line, "'first'") && strstr(line, "'second'")),
			      "%s", line);
		}
		CHECK(status[0] < 0 || status[1] < 0, "race %u: both have it", i);
		if (status[0] == 0 || status[1] == 0) {
			p2p_tell(&g, "get o%u %u", i % 2, status[0] == 0 ? 1 : 2);
			p2p_good(&g);
			CHECK(p2p_ask(&g, "delete", "o%u", i % 2) == 0, "delete");
		}
		for (unsigned k = 0; k < 2; k++)
			CHECK(status[k] < 0 || p2p_ask(&r[k], "unregister", "o%u", i % 2) == 0, "unregister");
	}
	role_end(&g);
	role_end(&r[1]);
	role_end(&r[0]);
}

/* Counts writes and removals: of keys of applications in the folder of the metadata, or of all in etcd, whose revision
 * goes up by one with each. */
struct counter {
	int fd;
	struct mc_engine *engine;
	uint64_t revision;
};

static uint64_t revision_now(struct mc_engine *engine)
{
	struct mc_error err = {0};
	uint64_t revision = 0;
	int r = mc_kv_write(engine, "counter", "", 0, 0, T, &revision, &err);

	NEED(r == 0, "%s", err.text);
	return revision;
}

static void counter_begin(struct counter *c)
{
	const char *url = getenv("METADATA");
	char metadata[200];

	if (url) {
		snprintf(metadata, sizeof metadata, "metadata_server=%s", url);
		c->engine = engine_with("counter", (const char *const[]){metadata, NULL});
		c->revision = revision_now(c->engine);
		return;
	}
	c->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	NEED(c->fd >= 0 && inotify_add_watch(c->fd, dir, IN_MOVED_TO | IN_CREATE | IN_DELETE) >= 0, "inotify");
}

/* Since the beginning, or the last call. */
static unsigned counted(struct counter *c)
{
	_Alignas(struct inotify_event) char buf[16384];
	uint64_t last = c->revision;
	unsigned nr = 0;
	ssize_t n;

	if (c->engine) {
		c->revision = revision_now(c->engine);
		return (unsigned)(c->revision - last - 1);
	}
	while ((n = read(c->fd, buf, sizeof buf)) > 0)
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *ev = (const void *)p;

			nr += ev->len && strstr(ev->name, "app%2F") != NULL;
			p += sizeof *ev + ev->len;
		}
	return nr;
}

static void counter_end(struct counter *c)
{
	if (c->engine)
		CHECK(mc_engine_close(c->engine, T) == 0, "close");
	else
		close(c->fd);
}

/* A getter writes its key once and removes it once; until it has all, it is not said to. */
static void metadata_writes(void)
{
	struct role s, g, h;
	struct p2p_got got;
	const char *line;
	unsigned have = 0, nr;
	struct counter c = {.fd = -1};

	p2p_start(&s, "s", QUICK);
	p2p_start(&g, "g", QUICK, LOW_CAP);
	p2p_start(&h, "h", QUICK);
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	counter_begin(&c);
	p2p_tell(&g, "get o 1");
	CHECK(!p2p_follow(&g, 30, &got), "over too soon");
	p2p_tell(&h, "stat o");
	CHECK(p2p_answer(&h, "stat", &line) == 0, "%s", line);
	CHECK(strstr(line, " g=") && sscanf(strstr(line, " g="), " g=%u", &have) == 1 && have > 0 && have < NR_SHARDS,
	      "a getter midway is not seen as such: %s", line);
	p2p_good(&g);
	nr = counted(&c);
	CHECK(nr == 1, "%u metadata writes for a get", nr);
	p2p_tell(&h, "stat o");
	p2p_answer(&h, "stat", &line);
	CHECK(strstr(line, " g=128"), "%s", line);
	CHECK(p2p_ask(&g, "delete", "o") == 0, "delete");
	nr += counted(&c);
	CHECK(nr >= 2 && nr <= 3, "%u metadata writes in all", nr);
	counter_end(&c);
	role_end(&h);
	role_end(&g);
	role_end(&s);
}

/* METADATA is a real etcd, process ETCD_PID: it is frozen for ten seconds while an object is got, and while another
 * get begins. */
static void etcd_stopped(void)
{
	const char *pid = getenv("ETCD_PID"), *url = getenv("METADATA"), *line;
	struct role s, g, h;
	struct p2p_got got;

	NEED(pid && url, "ETCD_PID, METADATA");
	p2p_start(&s, "s", QUICK, "lease_ttl=4s");
	p2p_start(&g, "g", QUICK, "lease_ttl=4s", "p2p.get=600000");
	p2p_start(&h, "h", QUICK, "lease_ttl=4s");
	CHECK(p2p_ask(&s, "register", "o 1") == 0, "register");
	p2p_tell(&g, "get o 1");
	CHECK(!p2p_follow(&g, 20, &got), "over too soon");
	kill(atoi(pid), SIGSTOP);
	p2p_tell(&h, "get o 1");
	nap(10 * MC_SEC);
	kill(atoi(pid), SIGCONT);
	p2p_good(&g);
	NEED(p2p_follow(&h, 1000, &got), "no end");
	CHECK(got.status == 0 ? got.right : strstr(got.text, url) != NULL, "%d %s", got.status, got.text);
	printf("what began without etcd ended with %d %s\n", got.status, got.text);
	if (got.status < 0) {
		p2p_tell(&h, "get o 1");
		p2p_good(&h);
	}
	/* All three are found again. */
	for (int i = 0; i < 200; i++) {
		p2p_tell(&h, "stat o");
		if (p2p_answer(&h, "stat", &line) == 0 && strstr(line, " s=128") && strstr(line, " g=128") &&
		    strstr(line, " h=128"))
			break;
		nap(50 * MC_MSEC);
	}
	CHECK(strstr(line, " s=128") && strstr(line, " g=128") && strstr(line, " h=128"), "%s", line);
	role_end(&h);
	role_end(&g);
	role_end(&s);
}

int main(int argc, char **argv)
{
	static const struct promise cases[] = {
		{"source_killed", source_killed}, {"source_alone", source_alone}, {"source_frozen", source_frozen},
		{"sources_frozen", sources_frozen}, {"source_slow", source_slow},
		{"getters_killed", getters_killed}, {"getter_leaves", getter_leaves}, {"getter_cut", getter_cut},
		{"wrong_bytes", wrong_bytes},
		{"names", names}, {"names_race", names_race}, {"metadata_writes", metadata_writes}, {"etcd_stopped", etcd_stopped},
	};

	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 5 && !strcmp(argv[1], "--as"))
		return p2p_peer_main(argc - 3, argv + 3);
	engines_begin();
	cases_run(argc, argv, cases, sizeof cases / sizeof cases[0]);
	return engines_end();
}
