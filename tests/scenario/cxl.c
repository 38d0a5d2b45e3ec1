/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines of several processes over one pool of memory, which is a file here: both
 * directions, an initiator that is killed in the middle of what it writes, an engine
 * that comes back, and what dead ones leave.
 *
 *   cxl CASE              CLI names the mooncake tool
 *   cxl --serve DIR NAME  does what its input says, line by line
 */
#include "cxl-ends.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#define LEN ((uint64_t)1 << 20)
#define AREA ((uint64_t)16 << 10)
#define NR_AREAS (LEN / AREA)
#define QUARANTINE (1500 * MC_MSEC)

extern char **environ;
static const char *self;

/* ---- both ends ------------------------------------------------------------------------------- */

static void end_open_by(struct end *e, const char *name, const char *matrix)
{
	char pool[96], quarantine[64];
	const char *const settings[] = {matrix, pool, quarantine, "transports.cxl.growth=1MiB",
					"lease_ttl=3s", NULL};
	struct mc_error err;

	snprintf(pool, sizeof pool, "transports.cxl.pool_dir=%s", dir);
	snprintf(quarantine, sizeof quarantine, "transports.cxl.quarantine=%llums",
		 (unsigned long long)(QUARANTINE / MC_MSEC));
	memset(e, 0, sizeof *e);
	e->engine = engine_with(name, settings);
	NEED(mc_memory_alloc(e->engine, "cxl:0", LEN, MC_ACCESS_ALL, T, (void **)&e->mem, &err) == 0, "%s", err.text);
	NEED(mc_memory_alloc(e->engine, "cpu:0", LEN, MC_ACCESS_LOCAL, T, (void **)&e->local, &err) == 0, "%s", err.text);
}

static void end_open(struct end *e, const char *name)
{
	end_open_by(e, name, "nic_priority_matrix={\"*\": [[\"cxl:pool0\"]]}");
}

static void end_close(struct end *e)
{
	mc_segment_close(e->peer);
	CHECK(mc_engine_close(e->engine, T) == 0, "closing");
}

static void fill(unsigned char *at, uint64_t len, unsigned seed)
{
	for (uint64_t i = 0; i < len; i++)
		at[i] = (unsigned char)(seed * 131 + i * 7 + (i >> 8) * 3);
}

static int64_t wrong(const unsigned char *at, uint64_t len, unsigned seed)
{
	for (uint64_t i = 0; i < len; i++)
		if (at[i] != (unsigned char)(seed * 131 + i * 7 + (i >> 8) * 3))
			return (int64_t)i;
	return -1;
}

/* ---- the other process ------------------------------------------------------------------------ */

/* Area after area, each with a notify when it is written; the number is the seed. */
static void write_areas(struct end *e)
{
	for (unsigned k = 0; k < NR_AREAS; k++) {
		char word[16];

		fill(e->local, AREA, k);
		snprintf(word, sizeof word, "%u", k);
		if (transfer(e, MC_OP_WRITE, 0, k * AREA, AREA, 0, word) < 0)
			exit(1);
	}
}

static int serve(char **argv)
{
	struct end e;
	char line[256], word[64];
	unsigned seed;

	snprintf(dir, sizeof dir, "%s", argv[0]);
	mc_log_set_level(MC_LOG_ERROR);
	end_open(&e, argv[1]);
	printf("ready\n");
	while (fgets(line, sizeof line, stdin)) {
		int answer = 0;

		if (sscanf(line, "fill %u", &seed) == 1) {
			fill(e.mem, LEN, seed);
			answer = mc_memory_publish(e.engine, e.mem, LEN, NULL);
		} else if (sscanf(line, "check %u", &seed) == 1) {
			answer = mc_memory_refresh(e.engine, e.mem, LEN, NULL);
			answer = answer ? answer : wrong(e.mem, LEN, seed) >= 0;
		} else if (sscanf(line, "meet %63s", word) == 1) {
			end_meet(&e, word);
		} else if (sscanf(line, "write %u", &seed) == 1) {
			fill(e.local, LEN, seed);
			answer = transfer(&e, MC_OP_WRITE, 0, 0, LEN, 0, "written");
		} else if (!strncmp(line, "areas", 5)) {
			printf("begun\n");
			fflush(stdout);
			write_areas(&e);
		} else {
			answer = -EINVAL;
		}
		printf("%d\n", answer);
	}
	end_close(&e);
	return failures != 0;
}

struct other {
	pid_t pid;
	FILE *to, *from;
};

static void other_start(struct other *o, const char *name)
{
	char *const argv[] = {(char *)self, (char *)"--serve", dir, (char *)name, NULL};
	posix_spawn_file_actions_t actions;
	char line[64] = "";
	int in[2], out[2];

	NEED(pipe(in) == 0 && pipe(out) == 0, "pipe");
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	for (int i = 0; i < 2; i++) {
		posix_spawn_file_actions_addclose(&actions, in[i]);
		posix_spawn_file_actions_addclose(&actions, out[i]);
	}
	NEED(posix_spawn(&o->pid, self, &actions, NULL, argv, environ) == 0, "spawn");
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	o->to = fdopen(in[1], "w");
	o->from = fdopen(out[0], "r");
	NEED(o->to && o->from && fgets(line, sizeof line, o->from) && !strcmp(line, "ready\n"), "%s does not come up", name);
}

/* What it answers to a line; -1 if it says nothing any more. */
static int ask(struct other *o, const char *line)
{
	char answer[64];

	fprintf(o->to, "%s\n", line);
	fflush(o->to);
	return fgets(answer, sizeof answer, o->from) ? atoi(answer) : -1;
}

static int other_end(struct other *o, int sig)
{
	int status = 0;

	if (sig)
		kill(o->pid, sig);
	fclose(o->to);
	waitpid(o->pid, &status, 0);
	fclose(o->from);
	return status;
}

/* ---- cases ------------------------------------------------------------------------------------- */

static bool notified(struct end *e, const char *word, uint64_t span_ns)
{
	struct mc_notify n = {.size = sizeof n};

	return mc_notify_recv(e->engine, &n, span_ns) == 0 && !strcmp((const char *)n.data, word);
}

/* Both ends read and write each other's memory, and their own of it. */
static void case_both_ways(void)
{
	struct other o;
	struct end e;

	other_start(&o, "there");
	end_open(&e, "here");
	end_meet(&e, "there");
	NEED(ask(&o, "meet here") == 0, "it does not meet us");
	for (unsigned seed = 1; seed < 4; seed++) {
		char line[32];

		fill(e.local, LEN, seed);
		CHECK(transfer(&e, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write");
		snprintf(line, sizeof line, "check %u", seed);
		CHECK(ask(&o, line) == 0, "what we wrote is not what it reads");
		snprintf(line, sizeof line, "fill %u", seed + 10);
		CHECK(ask(&o, line) == 0, "fill");
		CHECK(transfer(&e, MC_OP_READ, 0, 0, LEN, 0, NULL) == 0, "read");
		CHECK(wrong(e.local, LEN, seed + 10) < 0, "what we read is not what it wrote");
		snprintf(line, sizeof line, "write %u", seed + 20);
		CHECK(ask(&o, line) == 0, "its write");
		CHECK(notified(&e, "written", T), "its notify");
		CHECK(mc_memory_refresh(e.engine, e.mem, LEN, NULL) == 0, "refresh");
		CHECK(wrong(e.mem, LEN, seed + 20) < 0, "what it wrote is not what we read");
	}
	CHECK(transfer(&e, MC_OP_WRITE, 0, 32, 64, 0, NULL) == -EINVAL, "a cut line is taken");
	CHECK(transfer(&e, MC_OP_WRITE, 3, 31, 65, MC_REQUEST_SOLE, NULL) == 0, "a sole writer is refused");
	CHECK(transfer(&e, MC_OP_READ, 200, 31, 65, 0, NULL) == 0, "a read of cut lines");
	CHECK(!memcmp(e.local + 3, e.local + 200, 65), "what a sole writer wrote");
	end_close(&e);
	CHECK(other_end(&o, 0) == 0, "the other end failed");
}

/* Whatever it was told of is whole; the rest is as it was, but for the one that was under way. */
static void look_at_areas(struct end *e, unsigned nr_told)
{
	unsigned begun = 0;

	CHECK(mc_memory_refresh(e->engine, e->mem, LEN, NULL) == 0, "refresh");
	for (unsigned k = 0; k < nr_told; k++)
		CHECK(wrong(e->mem + k * AREA, AREA, k) < 0, "area %u was notified, and is not whole", k);
	for (unsigned k = nr_told; k < NR_AREAS; k++)
		for (uint64_t i = 0; i < AREA; i++)
			if (e->mem[k * AREA + i] != 0x5a) {
				begun++;
				break;
			}
	/* One whose notify did not come any more, one that was being written. */
	CHECK(begun <= 2, "%u areas have bytes that nobody was told of", begun);
}

/* Killed while it writes, again and again: nothing is notified that is not there. */
static void case_killed(void)
{
	unsigned some = 0;
	struct end e;

	end_open(&e, "here");
	for (unsigned round = 0; round < 4; round++) {
		struct mc_notify n = {.size = sizeof n};
		unsigned told = 0;
		struct other o;

		memset(e.mem, 0x5a, LEN);
		CHECK(mc_memory_publish(e.engine, e.mem, LEN, NULL) == 0, "publish");
		other_start(&o, "there");
		NEED(ask(&o, "meet here") == 0, "it does not meet us");
		fprintf(o.to, "areas\n");
		fflush(o.to);
		/* After some of them, in the middle of another. */
		while (told < 5 + 9 * round && mc_notify_recv(e.engine, &n, T) == 0)
			CHECK(atoi((const char *)n.data) == (int)told++, "notify %s", (const char *)n.data);
		other_end(&o, SIGKILL);
		while (mc_notify_recv(e.engine, &n, 100 * MC_MSEC) == 0)
			CHECK(atoi((const char *)n.data) == (int)told++, "notify %s", (const char *)n.data);
		look_at_areas(&e, told);
		some += told;
	}
	CHECK(some > 20, "only %u areas were written", some);
	end_close(&e);
}

/* It comes back: the old handle says so, the new one reaches the new memory; what the dead one had is free after
 * the quarantine, and not before. */
static void case_restart(void)
{
	struct other o;
	struct end e;
	struct mc_error err;
	uint64_t killed, big = 2 * LEN + LEN / 2;
	void *mem = NULL;
	int r;

	end_open(&e, "here");
	other_start(&o, "there");
	end_meet(&e, "there");
	fill(e.local, LEN, 1);
	CHECK(transfer(&e, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write");
	/* The pool has 4 MiB: with theirs and ours taken there is no room for as much. */
	r = mc_memory_alloc(e.engine, "cxl:0", big, MC_ACCESS_ALL, T, &mem, &err);
	CHECK(r == -ENOSPC, "%d %s", r, err.text);
	killed = now_ns();
	other_end(&o, SIGKILL);
	other_start(&o, "there");
	/* Until its death is known, what is written goes where nobody is. */
	while ((r = transfer(&e, MC_OP_WRITE, 0, 0, LEN, 0, NULL)) == 0 && now_ns() < killed + T)
		nap(10 * MC_MSEC);
	CHECK(r == -ESTALE || r == -EHOSTDOWN, "to one that is dead: %d", r);
	end_meet(&e, "there");
	fill(e.local, LEN, 2);
	CHECK(transfer(&e, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write to the new one");
	CHECK(ask(&o, "check 2") == 0, "what the new one reads");
	CHECK(other_end(&o, 0) == 0, "the other end failed");
	while ((r = mc_memory_alloc(e.engine, "cxl:0", big, MC_ACCESS_ALL, T, &mem, &err)) == -ENOSPC &&
	       now_ns() < killed + 60 * MC_SEC)
		nap(50 * MC_MSEC);
	NEED(r == 0, "%d %s", r, err.text);
	CHECK(now_ns() - killed >= QUARANTINE, "memory of the dead is given away after %llu ms",
	      (unsigned long long)((now_ns() - killed) / MC_MSEC));
	memset(mem, 1, big);
	CHECK(mc_memory_free(e.engine, mem, T, &err) == 0, "%s", err.text);
	end_close(&e);
}

/* One end has no pool: tcp reaches the other one's memory in it, and carries what lies in it. */
static void case_fallback(void)
{
	static const char *const tcp_only[] = {NULL};
	struct end e, b = {0};
	struct mc_request req = {.opcode = MC_OP_WRITE, .len = LEN};
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_segment *plain;
	struct mc_batch *batch;
	struct mc_error err;

	end_open_by(&e, "here", "nic_priority_matrix={\"*\": [[\"cxl:pool0\"], [\"tcp:lo\"]]}");
	b.engine = engine_with("plain", tcp_only);
	NEED(mc_memory_alloc(b.engine, "cpu:0", LEN, MC_ACCESS_ALL, T, (void **)&b.local, &err) == 0, "%s", err.text);
	end_meet(&b, "here");
	fill(b.local, LEN, 1);
	CHECK(transfer(&b, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write over tcp");
	CHECK(transfer(&b, MC_OP_WRITE, 0, 1, 4095, 0, NULL) == 0, "tcp cuts what lines it likes");
	fill(b.local, LEN, 1);
	CHECK(transfer(&b, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write over tcp");
	CHECK(wrong(e.mem, LEN, 1) < 0, "what was written over tcp");
	fill(e.mem, LEN, 2);
	CHECK(transfer(&b, MC_OP_READ, 0, 0, LEN, 0, NULL) == 0, "read over tcp");
	CHECK(wrong(b.local, LEN, 2) < 0, "what was read over tcp");
	/* From the pool, staged, to memory that only tcp reaches. */
	NEED(mc_segment_open(e.engine, "plain", T, &plain, &err) == 0, "%s", err.text);
	NEED(mc_segment_buffer(plain, 0, &info) == 0, "no buffer");
	fill(e.mem, LEN, 3);
	req.local = e.mem;
	req.segment = plain;
	req.offset = info.offset;
	NEED(mc_batch_new(e.engine, 1, &batch) == 0 && mc_batch_submit(batch, &req, 1, NULL) == 0, "submit");
	CHECK(mc_batch_wait(batch, T) == 0 && mc_batch_failed(batch) == 0, "write from the pool over tcp");
	CHECK(wrong(b.local, LEN, 3) < 0, "what was written from the pool");
	mc_batch_free(batch);
	mc_segment_close(plain);
	end_close(&b);
	end_close(&e);
}

static const struct {
	const char *name;
	void (*run)(void);
	unsigned mib; /* of memory in the pool */
} cases[] = {
	{"both-ways", case_both_ways, 4}, {"killed", case_killed, 16}, {"restart", case_restart, 4},
	{"fallback", case_fallback, 4},
};

int main(int argc, char **argv)
{
	char cmd[512];

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	self = "/proc/self/exe";
	if (argc == 4 && !strcmp(argv[1], "--serve"))
		return serve(argv + 2);
	mc_log_set_level(MC_LOG_WARN);
	NEED(argc == 2 && getenv("CLI") && mkdtemp(dir), "usage: cxl CASE");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (!strcmp(cases[i].name, argv[1])) {
			snprintf(cmd, sizeof cmd, "'%s' cxl format --size=%uK '%s/pool0' >/dev/null", getenv("CLI"),
				 (cases[i].mib << 10) + 128, dir);
			NEED(system(cmd) == 0, "no pool");
			cases[i].run();
			snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
			if (system(cmd))
				return 1;
			printf(failures ? "%d failed\n" : "ok\n", failures);
			return failures ? 1 : 0;
		}
	fprintf(stderr, "no case '%s'\n", argv[1]);
	return 2;
}
