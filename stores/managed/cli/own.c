/* SPDX-License-Identifier: Apache-2.0 */
/* The child dies with us, whatever ends us (PR_SET_PDEATHSIG); what it says goes to a file. */
#include "own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cli/program/stop.h>
#include <core/util/check.h>

#define PATIENCE_MS 30000
#define LOOK_MS 20
#define OURS 5 /* flags that every one has */

static const char *find(const char *program, char *buf, size_t cap)
{
	ssize_t n;
	char *slash;

	if (*program)
		return program;
	n = readlink("/proc/self/exe", buf, cap - 32);
	buf[n > 0 ? n : 0] = '\0';
	slash = strrchr(buf, '/');
	if (slash) {
		strcpy(slash + 1, "mooncake_master");
		if (access(buf, X_OK) == 0)
			return buf;
	}
	return "mooncake_master";
}

static void child(const struct msc_own *own, const char *program, char **argv, pid_t parent)
{
	char path[128];
	sigset_t none;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	snprintf(path, sizeof path, "%s/said", own->dir);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp(program, argv);
	dprintf(STDERR_FILENO, "program '%s': %s; --master_program=PATH says where it is\n", program, strerror(errno));
	_exit(127);
}

/* Its last words, for our sentence. */
static int gone(const struct msc_own *own, int status, struct mc_error *err)
{
	char path[128], said[512];
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof path, "%s/said", own->dir);
	f = fopen(path, "re");
	if (f) {
		n = fread(said, 1, sizeof said - 1, f);
		fclose(f);
	}
	said[n] = '\0';
	said[strcspn(said, "\n")] = '\0';
	return mc_fail(err, -ECHILD, "a master of our own did not start: %s", n ? said : WIFSIGNALED(status) ? "it was killed" : "it ended");
}

static int await(struct msc_own *own, const char *ready, struct mc_error *err)
{
	for (int waited = 0; waited < PATIENCE_MS && !mc_stopping(); waited += LOOK_MS) {
		int status;

		if (access(ready, F_OK) == 0)
			return 0;
		if (waitpid(own->pid, &status, WNOHANG) == own->pid) {
			own->pid = 0;
			return gone(own, status, err);
		}
		mc_stop_wait(LOOK_MS * MC_MSEC);
	}
	return mc_stopping() ? mc_fail(err, -ECANCELED, "interrupted") :
			       mc_fail(err, -ETIMEDOUT, "a master of our own did not start in %d s", PATIENCE_MS / 1000);
}

int msc_own_start(struct msc_own *own, const char *program, const char *const *flags, struct mc_config *config,
		  struct mc_error *err)
{
	const char *tmp = getenv("TMPDIR"), *matrix = mc_config_get(config, "nic_priority_matrix", NULL);
	char path[512], metadata[128], ready[96], ready_flag[128], matrix_flag[4200], metadata_flag[160];
	char *argv[MSC_OWN_FLAGS + OURS + 2] = {"mooncake_master", "--port=0", ready_flag, metadata_flag};
	size_t n = 4;
	pid_t parent = getpid();
	int r;

	*own = (struct msc_own){0};
	if ((size_t)snprintf(own->dir, sizeof own->dir, "%s/mooncake-own.XXXXXX", tmp && *tmp ? tmp : "/tmp") >= sizeof own->dir)
		snprintf(own->dir, sizeof own->dir, "/tmp/mooncake-own.XXXXXX");
	if (!mkdtemp(own->dir)) {
		r = -errno;
		own->dir[0] = '\0';
		return mc_fail(err, r, "a temporary folder: %s", strerror(-r));
	}
	snprintf(path, sizeof path, "%s/metadata", own->dir);
	if (mkdir(path, 0700) < 0)
		return mc_fail(err, -errno, "folder '%s': %s", path, strerror(errno));
	snprintf(metadata, sizeof metadata, "file://%s/metadata", own->dir);
	snprintf(metadata_flag, sizeof metadata_flag, "--metadata_server=%s", metadata);
	snprintf(ready, sizeof ready, "%s/ready", own->dir);
	snprintf(ready_flag, sizeof ready_flag, "--ready_file=%s", ready);
	if (matrix && *matrix && (size_t)snprintf(matrix_flag, sizeof matrix_flag, "--nic_priority_matrix=%s", matrix) < sizeof matrix_flag)
		argv[n++] = matrix_flag;
	for (size_t i = 0; flags[i] && i < MSC_OWN_FLAGS; i++)
		argv[n++] = (char *)flags[i];
	r = mc_config_set(config, "metadata_server", metadata, err);
	if (r < 0)
		return r;
	program = find(program, path, sizeof path);
	own->pid = fork();
	if (own->pid == 0)
		child(own, program, argv, parent);
	if (own->pid < 0) {
		own->pid = 0;
		return mc_fail(err, -errno, "a process: %s", strerror(errno));
	}
	return await(own, ready, err);
}

static void remove_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		char below[1024];

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    (size_t)snprintf(below, sizeof below, "%s/%s", path, e->d_name) >= sizeof below)
			continue;
		if (unlink(below) < 0 && errno == EISDIR)
			remove_tree(below);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

void msc_own_stop(struct msc_own *own)
{
	if (own->pid > 0) {
		kill(own->pid, SIGTERM);
		for (int waited = 0; waited < 3000 && waitpid(own->pid, NULL, WNOHANG) == 0; waited += LOOK_MS) {
			usleep(LOOK_MS * 1000);
			if (waited + LOOK_MS >= 3000) {
				kill(own->pid, SIGKILL);
				waitpid(own->pid, NULL, 0);
			}
		}
	}
	if (*own->dir)
		remove_tree(own->dir);
	*own = (struct msc_own){0};
}
