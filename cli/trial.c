/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plugins are strangers: before one is loaded into this process, a child loads it
 * and looks what that did.  One whose constructor crashes, hangs or ends the process
 * is refused; of one that prints the first line is kept, for the verbs to tell.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check/child.h"
#include "check/footprint.h"
#include "cli.h"
#include "core/loader.h"
#include "core/util/check.h"

#define SECONDS 10 /* in which a plugin is loaded */
#define TOLD_FD 3 /* where the child tells */

struct tried {
	struct tried *next;
	char *path;
	char *said; /* NULL: nothing */
	int status; /* 0, or -errno: refused */
	char why[200];
};

/* What the child tells; without `over` loading ended it. */
struct told {
	bool over;
	char said[sizeof((struct footprint *)0)->words];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tried *list; /* newest first; kept until the end */

/* Whether it can be loaded at all is the loader's to say. */
int cli_trial_child(const char *path)
{
	static struct footprint before, after;
	struct told told = {.over = true};
	bool looks;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fcntl(TOLD_FD, F_SETFD, FD_CLOEXEC) < 0)
		return CLI_USAGE;
	looks = footprint_begin(&before) == 0;
	dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (looks) {
		footprint_end(&after);
		if (after.said > before.said)
			memcpy(told.said, after.words, sizeof told.said);
	}
	_exit(write(TOLD_FD, &told, sizeof told) != sizeof told);
}

/* A process of its own program, in a group of its own, so that what it starts ends with it: the child of a fork would
 * have this one's locks as other threads held them.  0 or -errno. */
static int start_child(const char *path, int told_fd, pid_t *ret_pid)
{
	char *argv[] = {(char *)"mooncake", (char *)CLI_TRIAL, (char *)path, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setsigmask(&attr, &none);
	r = posix_spawn_file_actions_adddup2(&files, told_fd, TOLD_FD);
	if (r == 0)
		r = posix_spawn(ret_pid, "/proc/self/exe", &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

static void judge(struct tried *t, const struct told *told, int r, int status)
{
	char how[128];

	child_how(r, status, SECONDS, how, sizeof how);
	if (told->over) {
		t->status = 0;
	} else if (how[0]) {
		t->status = -ELIBBAD;
		snprintf(t->why, sizeof t->why, "loading it %s; mooncake check-plugin says more", how);
	} else {
		t->status = -ELIBBAD;
		snprintf(t->why, sizeof t->why,
			 "loading it ends the process, with exit status %d; mooncake check-plugin says more",
			 WEXITSTATUS(status));
	}
	if (told->over && told->said[0] &&
	    asprintf(&t->said, "%s: loading it prints: '%.*s'", t->path, (int)sizeof told->said, told->said) < 0)
		abort();
}

/* Without a process or a pipe it is loaded untried. */
static void run(struct tried *t)
{
	struct told told = {.over = false};
	int pair[2], status = 0, started, r;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return;
	started = start_child(t->path, pair[1], &pid);
	close(pair[1]);
	if (started == 0) {
		r = child_wait(pid, SECONDS, &status);
		if (r < 0 || read(pair[0], &told, sizeof told) != sizeof told)
			told.over = false;
		judge(t, &told, r, status);
	}
	close(pair[0]);
}

static struct tried *find_locked(const char *path)
{
	for (struct tried *t = list; t; t = t->next) {
		if (strcmp(t->path, path) == 0)
			return t;
	}
	return NULL;
}

static int try(const char *path, struct mc_error *err)
{
	struct tried *t;

	pthread_mutex_lock(&lock);
	t = find_locked(path);
	if (!t) {
		t = calloc(1, sizeof *t);
		if (!t || !(t->path = strdup(path)))
			abort();
		run(t);
		t->next = list;
		list = t;
	}
	pthread_mutex_unlock(&lock);
	return t->status < 0 ? mc_fail(err, t->status, "%s", t->why) : 0;
}

void cli_try_plugins(void)
{
	signal(SIGCHLD, SIG_DFL); /* children are waited for, whatever whoever started us ignores */
	mc_plugin_set_trial(try);
}

const char *cli_plugin_said(const char *path)
{
	const struct tried *t;

	pthread_mutex_lock(&lock);
	t = find_locked(path);
	pthread_mutex_unlock(&lock);
	return t ? t->said : NULL;
}

void cli_plugins_said(void (*each)(void *ctx, const char *sentence), void *ctx)
{
	for (const struct tried *t = list; t; t = t->next) {
		if (t->said)
			each(ctx, t->said);
	}
}
