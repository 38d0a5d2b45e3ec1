/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Unix socket beside the port, for transports whose engines are on one host
 * and hand descriptors to each other.  Its file is named by the generation and
 * lies in a folder that only this user may enter, unless the user names another;
 * what dead engines left there is swept at each opening.  It appears under its
 * name only when it listens, so a file that refuses connections belongs to nobody.
 */
#include "stream_local.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "stream_port.h"
#include "core/util/check.h"

#define BACKLOG 1024
#define SWEEP_MAX 256
#define UNBORN_SECONDS 60 /* a file that does not listen yet is given this time */
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define NAME_LEN 21 /* 16 digits, ".sock" */

int mc_host_id(char id[MC_HOST_ID_MAX + 1])
{
	int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, id, MC_HOST_ID_MAX);
	close(fd);
	if (n < 0)
		return -errno;
	id[n] = '\0';
	id[strcspn(id, "\n")] = '\0';
	return id[0] ? 0 : -ENOENT;
}

/* ---- paths ---------------------------------------------------------------------------------- */

static void file_name(uint64_t generation, char name[NAME_LEN + 1])
{
	snprintf(name, NAME_LEN + 1, "%016llx.sock", (unsigned long long)generation);
}

bool mc_unix_path_ok(const char *path, uint64_t generation)
{
	const char *slash = strrchr(path, '/');
	char name[NAME_LEN + 1];

	file_name(generation, name);
	return path[0] == '/' && !strcmp(slash + 1, name);
}

/* The address of a file in a folder.  The way through the folder's descriptor is short, whatever its path is. */
static void address_in(int dir, const char *name, struct sockaddr_un *ret_sun)
{
	*ret_sun = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(ret_sun->sun_path, sizeof ret_sun->sun_path, "/proc/self/fd/%d/%.64s", dir, name);
}

static int connect_in(int dir, const char *name)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), r;
	struct sockaddr_un sun;

	if (fd < 0)
		return -errno;
	address_in(dir, name, &sun);
	if (connect(fd, (const struct sockaddr *)&sun, sizeof sun) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

int mc_unix_connect(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash && slash > path ? strndup(path, (size_t)(slash - path)) : NULL;
	int dir, r;

	if (!folder)
		return -EINVAL;
	dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	r = dir < 0 ? -errno : connect_in(dir, slash + 1);
	if (dir >= 0)
		close(dir);
	free(folder);
	return r;
}

const char *mc_unix_remedy(int status)
{
	if (status == -EACCES)
		return "it is another user's: name a folder that both may enter by local_socket";
	if (status == -ENOENT)
		return "it is not to be seen here, as from another container: name a folder that both see by "
		       "local_socket";
	return NULL;
}

/* ---- the folder ----------------------------------------------------------------------------- */

/* A folder of ours that nobody else may enter, made if it is missing: its descriptor, or -errno. */
static int open_private(const char *path)
{
	struct stat st;
	int dir;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	if (fstat(dir, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 077))
		return dir;
	close(dir);
	return -EPERM;
}

/* The runtime directory: the user's, that which the system makes for him, or one in /tmp. */
static int open_runtime(char *path, size_t cap)
{
	const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
	unsigned long uid = (unsigned long)geteuid();
	int dir = -ENOENT;

	if (runtime && *runtime == '/' && snprintf(path, cap, "%s/mooncake.run", runtime) < (int)cap)
		dir = open_private(path);
	if (dir < 0) {
		snprintf(path, cap, "/run/user/%lu/mooncake.run", uid);
		dir = open_private(path);
	}
	if (dir < 0) {
		snprintf(path, cap, "/tmp/mooncake-%lu.run", uid);
		dir = open_private(path);
	}
	return dir;
}

static bool is_stale(int dir, const char *name)
{
	bool unborn = name[0] == '.';
	const char *digits = name + unborn;
	struct stat st;
	int fd;

	if (strlen(digits) != NAME_LEN || strspn(digits, "0123456789abcdef") != 16 || strcmp(digits + 16, ".sock"))
		return false;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISSOCK(st.st_mode) ||
	    (unborn && time(NULL) - st.st_mtime < UNBORN_SECONDS))
		return false;
	fd = connect_in(dir, name);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED;
}

static void sweep(int dir)
{
	int copy = fcntl(dir, F_DUPFD_CLOEXEC, 0);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *entry;

	if (!list) {
		if (copy >= 0)
			close(copy);
		return;
	}
	for (int i = 0; i < SWEEP_MAX && (entry = readdir(list)) != NULL; i++)
		if (is_stale(dir, entry->d_name))
			unlinkat(dir, entry->d_name, 0);
	closedir(list);
}

/* ---- listening ------------------------------------------------------------------------------ */

static int listen_in(int dir, const char *name)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), r = 0;
	struct sockaddr_un sun;
	char unborn[NAME_LEN + 2];

	if (fd < 0)
		return -errno;
	snprintf(unborn, sizeof unborn, ".%s", name);
	address_in(dir, unborn, &sun);
	if (bind(fd, (const struct sockaddr *)&sun, sizeof sun) < 0)
		r = -errno;
	else if (listen(fd, BACKLOG) < 0 || renameat(dir, unborn, dir, name) < 0) {
		r = -errno;
		unlinkat(dir, unborn, 0);
	}
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

int mc_unix_listen(struct mc_port *port, struct mc_error *err)
{
	const char *where = port->engine->set->local_socket;
	bool named = *where == '/';
	char path[4000 + NAME_LEN + 2], name[NAME_LEN + 1];
	int dir, fd;

	if (!strcasecmp(where, "off"))
		return 0;
	if (named) {
		snprintf(path, sizeof path - NAME_LEN - 1, "%s", where);
		dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		dir = dir < 0 ? -errno : dir;
	} else {
		dir = open_runtime(path, sizeof path - NAME_LEN - 1);
	}
	file_name(port->engine->generation, name);
	fd = dir;
	if (dir >= 0) {
		sweep(dir);
		fd = listen_in(dir, name);
		close(dir);
	}
	if (fd < 0 && named)
		return mc_fail(err, fd, "local_socket '%s': cannot listen there: %s; name a folder of yours, or \"off\"",
			       where, strerror(-fd));
	if (fd < 0) {
		mc_info("no Unix socket in %s (%s): engines of this host cannot use transports such as shm; set "
			"XDG_RUNTIME_DIR or local_socket to a folder of this user alone", path,
			fd == -EPERM ? "it is another user's, or open to others" : strerror(-fd));
		return 0;
	}
	snprintf(path + strlen(path), NAME_LEN + 2, "/%s", name);
	port->local_path = strdup(path);
	port->local_fd = fd;
	if (port->local_path)
		return 0;
	mc_unix_unlisten(port);
	return mc_fail(err, -ENOMEM, "port: out of memory");
}

void mc_unix_unlisten(struct mc_port *port)
{
	if (port->local_fd < 0)
		return;
	close(port->local_fd);
	port->local_fd = -1;
	if (port->local_path)
		unlink(port->local_path);
}
