/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Targets that are processes of their own, so that they can be frozen, killed and
 * started again.  The buffer of a target is a file mapped by both: the test sees
 * and sets its bytes whatever the target does.  Each start of a target gives it the
 * same address, so a request meant for an earlier one would hit.
 *
 *   PROGRAM --serve DIR NAME [KEY=VALUE]...   serves until its input ends
 */
#ifndef MC_TESTS_PEERS_H
#define MC_TESTS_PEERS_H

#include "patient.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define PEER_LEN ((size_t)4 << 20)
#define PEER_AT ((void *)0x7ea000000000) /* free for us under every sanitizer */
#define GUARD 0x5a

struct peer {
	const char *name;
	unsigned char *mem; /* PEER_LEN, as the target sees it */
	uint64_t base;      /* its address there */
	uint64_t generation;
	pid_t pid;
	int input;
};

static const char *self; /* argv[0] */

static inline unsigned char *peer_map(const char *name, void *at)
{
	char path[128];
	void *mem;
	int fd;

	snprintf(path, sizeof path, "%s/%s.mem", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	NEED(fd >= 0 && ftruncate(fd, (off_t)PEER_LEN) == 0, "%s: %s", path, strerror(errno));
	mem = mmap(at, PEER_LEN, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);
	NEED(mem != MAP_FAILED, "%s: %s", path, strerror(errno));
	close(fd);
	return mem;
}

static inline int peer_serve(int argc, char **argv)
{
	struct mc_error err = {0};
	struct mc_engine *e;
	unsigned char *mem;
	char c;

	mc_log_set_level(MC_LOG_ERROR);
	snprintf(dir, sizeof dir, "%s", argv[0]);
	e = engine_with(argv[1], (const char *const *)argv + 2);
	mem = peer_map(argv[1], PEER_AT);
	NEED(mc_memory_register(e, mem, PEER_LEN, "cpu:0", MC_ACCESS_ALL, T, &err) == 0, "%s", err.text);
	dprintf(3, "%llu\n", (unsigned long long)mc_engine_generation(e));
	while (read(0, &c, 1) > 0)
		;
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

static inline void peer_start(struct peer *p, const char *name, const char *const *settings)
{
	const char *argv[16] = {self, "--serve", dir, name};
	extern char **environ;
	posix_spawn_file_actions_t fa;
	int in[2], out[2];
	unsigned long long generation = 0;
	FILE *f;

	for (int n = 4; *settings && n < 15; settings++)
		argv[n++] = *settings;
	NEED(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 3);
	NEED(posix_spawn(&p->pid, self, &fa, NULL, (char **)argv, environ) == 0, "spawn");
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(out[1]);
	f = fdopen(out[0], "r");
	NEED(f && fscanf(f, "%llu", &generation) == 1, "'%s' did not come up", name);
	fclose(f);
	p->name = name;
	p->input = in[1];
	p->generation = generation;
	p->base = (uintptr_t)PEER_AT;
	if (!p->mem)
		p->mem = peer_map(name, NULL);
}

static inline void peer_signal(const struct peer *p, int sig)
{
	NEED(kill(p->pid, sig) == 0, "kill: %s", strerror(errno));
	if (sig == SIGSTOP)
		waitpid(p->pid, NULL, WUNTRACED);
}

static inline void peer_kill(struct peer *p)
{
	kill(p->pid, SIGKILL);
	waitpid(p->pid, NULL, 0);
	close(p->input);
	p->pid = 0;
}

static inline void peer_end(struct peer *p)
{
	int status = -1;

	close(p->input);
	waitpid(p->pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "'%s' ended with %x", p->name, status);
	munmap(p->mem, PEER_LEN);
	p->mem = NULL;
	p->pid = 0;
}

/* Sockets that a process has. */
static inline unsigned nr_sockets(pid_t pid)
{
	char path[300], to[64];
	struct dirent *de;
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	d = opendir(path);
	NEED(d, "%s", path);
	while ((de = readdir(d))) {
		ssize_t len;

		snprintf(path, sizeof path, "/proc/%d/fd/%s", (int)pid, de->d_name);
		len = readlink(path, to, sizeof to);
		n += len > 7 && !memcmp(to, "socket:", 7);
	}
	closedir(d);
	return n;
}

/* ---- requests -------------------------------------------------------------------------------- */

static inline struct mc_segment *segment_new(struct mc_engine *e, const char *name)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};
	int r = mc_segment_open(e, name, T, &s, &err);

	NEED(r == 0, "%s: %d %s", name, r, err.text);
	return s;
}

static inline unsigned char *memory_new(struct mc_engine *e, size_t len)
{
	struct mc_error err = {0};
	void *p = NULL;
	int r = mc_memory_alloc(e, "cpu:0", len, MC_ACCESS_ALL, T, &p, &err);

	NEED(r == 0, "%d %s", r, err.text);
	return p;
}

/* nr requests of len bytes, each from its place in [local, local + span) to the same place there. */
static inline struct mc_batch *submit_many(struct mc_engine *e, uint32_t opcode, unsigned char *local,
					   struct mc_segment *s, uint64_t offset, size_t span, size_t nr,
					   size_t len, uint64_t deadline_ns)
{
	struct mc_request *reqs = calloc(nr, sizeof *reqs);
	struct mc_batch *b = NULL;

	NEED(reqs && mc_batch_new(e, nr, &b) == 0, "batch");
	for (size_t i = 0; i < nr; i++) {
		size_t at = i * len % span;

		reqs[i] = (struct mc_request){.opcode = opcode, .local = local + at, .segment = s,
					      .offset = offset + at, .len = len};
	}
	NEED(mc_batch_set_deadline(b, deadline_ns) == 0, "deadline");
	NEED(mc_batch_submit(b, reqs, nr, NULL) == 0, "submit");
	free(reqs);
	return b;
}

/* -EINPROGRESS: not complete. */
static inline int status_of(const struct mc_batch *b, size_t idx)
{
	struct mc_request_status st = {.size = sizeof st};

	CHECK(mc_batch_status(b, idx, &st) == 0, "status");
	return st.state == MC_REQUEST_DONE ? 0 : st.state == MC_REQUEST_FAILED ? st.status : -EINPROGRESS;
}

/* One request of len bytes; how it ended. */
static inline int move_one(struct mc_engine *e, uint32_t opcode, unsigned char *local, struct mc_segment *s,
			   uint64_t offset, size_t len, uint64_t deadline_ns)
{
	struct mc_batch *b = submit_many(e, opcode, local, s, offset, len, 1, len, deadline_ns);
	int r = mc_batch_wait(b, T);

	r = r ? r : status_of(b, 0);
	mc_batch_free(b);
	return r;
}

static inline bool all_are(const unsigned char *p, size_t len, unsigned char c)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != c)
			return false;
	return true;
}

/* Of a buffer that nobody should have touched: where it differs, for the message. */
static inline bool guard_holds(const unsigned char *p, size_t len)
{
	size_t first = len, last = 0, n = 0;

	for (size_t i = 0; i < len; i++) {
		if (p[i] == GUARD)
			continue;
		first = first < i ? first : i;
		last = i;
		n++;
	}
	if (n)
		printf("%zu bytes have changed, from %zu to %zu\n", n, first, last);
	return !n;
}

struct promise {
	const char *name;
	void (*run)(void);
};

/* The cases that are named, in this order; each says how long it took. */
static inline void cases_run(int argc, char **argv, const struct promise *cases, size_t nr)
{
	for (int i = 1; i < argc; i++) {
		uint64_t start = now_ns();
		size_t k = 0;

		while (k < nr && strcmp(argv[i], cases[k].name))
			k++;
		NEED(k < nr, "there is no case '%s'", argv[i]);
		printf("%s\n", argv[i]);
		cases[k].run();
		printf("%s: %llu ms in all\n", argv[i], (unsigned long long)((now_ns() - start) / MC_MSEC));
	}
}

__attribute__((format(printf, 1, 2))) static inline int sh(const char *format, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(cmd, sizeof cmd, format, ap);
	va_end(ap);
	return system(cmd);
}

/* The main of a program of promises. */
static inline int promises_main(int argc, char **argv, const struct promise *promises, size_t nr)
{
	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 4 && !strcmp(argv[1], "--serve"))
		return peer_serve(argc - 2, argv + 2);
	for (size_t i = 0; argc == 2 && i < nr; i++) {
		if (strcmp(argv[1], promises[i].name))
			continue;
		engines_begin();
		promises[i].run();
		return engines_end();
	}
	fprintf(stderr, "usage: %s PROMISE\n", argv[0]);
	return 2;
}

#endif
