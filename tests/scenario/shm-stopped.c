/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writer over shared memory that is stopped in the middle of a copy: mc_peer_evict does not
 * say that it is cut off before it has gone on or is gone, however long ago its session ended;
 * once it says so not a byte changes any more.
 */
#include "peers.h"

#define LEN ((size_t)64 << 20)

static struct writer {
	pid_t pid;
	uint64_t generation;
} writer;

/* The writer: copies all of its memory into ours until something fails. */
static int write_on(const char *name, const char *target)
{
	static const char *const settings[] = {"peer_timeout=1s", NULL};
	struct mc_engine *e = engine_with(name, settings);
	struct mc_segment *s = segment_new(e, target);
	struct mc_buffer_info b = {.size = sizeof b};
	unsigned char *mem = memory_new(e, LEN);
	bool told = false;

	NEED(mc_segment_buffer(s, 0, &b) == 0 && b.len >= LEN, "buffer");
	memset(mem, 1, LEN);
	for (;;) {
		struct mc_batch *batch = submit_many(e, MC_OP_WRITE, mem, s, b.offset, LEN, LEN >> 20, 1 << 20, T);

		mc_batch_wait(batch, T);
		if (mc_batch_failed(batch))
			break;
		mc_batch_free(batch);
		if (!told)
			dprintf(3, "%llu\n", (unsigned long long)mc_engine_generation(e));
		told = true;
	}
	for (;;)
		pause();
}

static void writer_start(const char *name)
{
	char *argv[] = {(char *)self, "--write", dir, (char *)name, NULL};
	extern char **environ;
	posix_spawn_file_actions_t fa;
	unsigned long long generation = 0;
	int out[2];
	FILE *f;

	NEED(pipe2(out, O_CLOEXEC) == 0, "pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, out[1], 3);
	NEED(posix_spawn(&writer.pid, self, &fa, NULL, argv, environ) == 0, "spawn");
	posix_spawn_file_actions_destroy(&fa);
	close(out[1]);
	f = fdopen(out[0], "r");
	NEED(f && fscanf(f, "%llu", &generation) == 1, "'%s' did not come up", name);
	fclose(f);
	writer.generation = generation;
}

static void writer_end(void)
{
	kill(writer.pid, SIGKILL);
	waitpid(writer.pid, NULL, 0);
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Stopped inside of a copy? */
static bool stop_inside(struct mc_engine *e, const char *name, bool late)
{
	int r;

	writer_start(name);
	pause_ms(20);
	kill(writer.pid, SIGSTOP);
	waitpid(writer.pid, NULL, WUNTRACED);
	if (late)
		pause_ms(2500); /* its session has ended by itself */
	r = mc_peer_evict(e, writer.generation, 300 * MC_MSEC);
	CHECK(r == -ETIMEDOUT || r == 0 || r == -ENOENT, "%d", r);
	return r == -ETIMEDOUT;
}

static void cut_off(struct mc_engine *e, unsigned char *mem, bool late, bool killed)
{
	char name[32];
	bool inside = false;
	int r;

	for (int i = 0; i < 10 && !inside; i++) {
		snprintf(name, sizeof name, "writer-%d-%d-%d", late, killed, i);
		inside = stop_inside(e, name, late);
		if (!inside) {
			/* Cut off while it was stopped: nothing of it comes when it goes on. */
			memset(mem, GUARD, LEN);
			kill(writer.pid, SIGCONT);
			pause_ms(100);
			CHECK(guard_holds(mem, LEN), "it writes although it was cut off");
			writer_end();
		}
	}
	CHECK(inside, "it was never stopped inside of a copy");
	if (!inside)
		return;
	CHECK(mc_peer_evict(e, writer.generation, 100 * MC_MSEC) == -ETIMEDOUT, "it is inside still");
	kill(writer.pid, killed ? SIGKILL : SIGCONT);
	r = mc_peer_evict(e, writer.generation, T);
	CHECK(r == 0 || r == -ENOENT, "%d", r);
	memset(mem, GUARD, LEN);
	pause_ms(100);
	CHECK(guard_holds(mem, LEN), "it writes although it was cut off");
	writer_end();
}

int main(int argc, char **argv)
{
	static const char *const settings[] = {"peer_timeout=1s", NULL};
	struct mc_engine *e;
	unsigned char *mem;

	self = argv[0];
	if (argc == 4 && !strcmp(argv[1], "--write")) {
		mc_log_set_level(MC_LOG_ERROR);
		snprintf(dir, sizeof dir, "%s", argv[2]);
		return write_on(argv[3], "target");
	}
	engines_begin();
	e = engine_with("target", settings);
	mem = memory_new(e, LEN);
	cut_off(e, mem, false, false);
	cut_off(e, mem, true, false);
	cut_off(e, mem, true, true);
	/* Closing does not wait for one that is stopped. */
	stop_inside(e, "writer-last", false);
	CHECK(mc_engine_close(e, T) == 0, "close");
	writer_end();
	return engines_end();
}
