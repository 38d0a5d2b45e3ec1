/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that play a part in a scenario: started by name and arguments, led by a
 * pipe, heard by another; and the bytes that they write, read back and compare.
 *
 *   PROGRAM --as ROLE DIR NAME ARGUMENT...     descriptor 3 says how far it is
 */
#ifndef MC_TESTS_ROLES_H
#define MC_TESTS_ROLES_H

#include "peers.h"

/* ---- what is written and read back -------------------------------------------------------------- */

/* A part of a segment that is this one's alone. */
struct churn {
	struct mc_engine *engine;
	struct mc_segment *segment;
	unsigned char *local; /* PEER_LEN */
	uint64_t offset;
	size_t len;
	unsigned seed;
};

static inline unsigned char byte_of(unsigned seed, size_t i)
{
	return (unsigned char)(seed * 151 + i * 7 + (i >> 8));
}

/* Write the part, clear it here, read it back: is it what was written? */
static inline bool churn_once(struct churn *c)
{
	size_t nr = c->len / 16384;
	bool good = true;

	c->seed++;
	for (size_t i = 0; i < c->len; i++)
		c->local[i] = byte_of(c->seed, i);
	for (uint32_t op = 0; op < 2; op++) {
		struct mc_batch *b = submit_many(c->engine, op ? MC_OP_READ : MC_OP_WRITE, c->local, c->segment,
						 c->offset, c->len, nr, 16384, T);

		if (mc_batch_wait(b, T) != 0 || mc_batch_failed(b)) {
			printf("%s: %zu requests failed, the first with %d\n", op ? "read" : "write", mc_batch_failed(b),
			       status_of(b, 0));
			good = false;
		}
		mc_batch_free(b);
		if (!op)
			memset(c->local, 0, c->len);
	}
	for (size_t i = 0; good && i < c->len; i++)
		if (c->local[i] != byte_of(c->seed, i)) {
			printf("byte %zu of round %u is wrong\n", i, c->seed);
			good = false;
		}
	return good;
}

/* The slot-th of nr parts of a segment's buffer that is for all. */
static inline void churn_open(struct churn *c, struct mc_engine *e, const char *target, unsigned slot, unsigned nr)
{
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_error err = {0};
	void *local = NULL;

	*c = (struct churn){.engine = e, .len = PEER_LEN / nr, .seed = slot * 40};
	c->segment = segment_new(e, target);
	for (size_t i = 0; info.access != MC_ACCESS_ALL; i++)
		NEED(mc_segment_buffer(c->segment, i, &info) == 0, "'%s' has no buffer for all", target);
	c->offset = info.offset + slot * c->len;
	NEED(mc_memory_alloc(e, "cpu:0", PEER_LEN, MC_ACCESS_LOCAL, T, &local, &err) == 0, "%s", err.text);
	c->local = local;
}

/* ---- processes with a role ------------------------------------------------------------------------- */

struct role {
	const char *name;
	pid_t pid;
	int input;
	FILE *says;
};

/* Words: role, engine's name, arguments; ended by NULL. */
static inline void role_start(struct role *r, const char *const *words)
{
	const char *argv[12] = {self, "--as", words[0], dir};
	extern char **environ;
	posix_spawn_file_actions_t fa;
	int in[2], out[2];

	for (int n = 4; *++words && n < 11;)
		argv[n++] = *words;
	NEED(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 3);
	NEED(posix_spawn(&r->pid, self, &fa, NULL, (char **)argv, environ) == 0, "spawn");
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(out[1]);
	r->input = in[1];
	r->says = fdopen(out[0], "r");
	r->name = argv[4];
}

/* The next line that it says, without its end. */
static inline const char *role_line(struct role *r)
{
	static char line[600];

	NEED(r->says && fgets(line, sizeof line, r->says), "'%s' says nothing", r->name);
	line[strcspn(line, "\n")] = '\0';
	return line;
}

static inline void role_says(struct role *r, const char *want)
{
	const char *line = role_line(r);

	NEED(!strcmp(line, want), "'%s' says '%s' instead of '%s'", r->name, line, want);
}

static inline void role_kill(struct role *r)
{
	kill(r->pid, SIGKILL);
	waitpid(r->pid, NULL, 0);
	close(r->input);
	fclose(r->says);
}

/* Its input ends, and so does it. */
static inline void role_end(struct role *r)
{
	int status = -1;

	close(r->input);
	waitpid(r->pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "'%s' ended with %x", r->name, status);
	fclose(r->says);
}

#endif
