/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata/file: the key-value service in a directory, for processes of one
 * machine or of machines that share a POSIX file system.  Nothing has to be
 * started.  This file: the descriptor, the options, the URL, open and close.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "core/util/cleanup.h"

#ifndef MC_VERSION
#define MC_VERSION "0"
#endif

enum { OPT_FSYNC, OPT_RESCAN, OPT_ACCESS };

static const char *const access_words[] = {"private", "group", "all", NULL};

static const struct mc_option file_options[] = {
	[OPT_FSYNC] = {.name = "fsync",
		       .type = MC_OPT_BOOL,
		       .def = "true",
		       .flags = MC_OPT_RELOADABLE,
		       .doc = "Bring values without a lease to the disk before a write returns."},
	[OPT_RESCAN] = {.name = "rescan",
			.type = MC_OPT_DURATION,
			.def = "1s",
			.flags = MC_OPT_RELOADABLE,
			.min = 10 * (int64_t)MC_MSEC,
			.max = 3600 * (int64_t)MC_SEC,
			.doc = "How often watches look at the whole directory, beside inotify."},
	[OPT_ACCESS] = {.name = "access",
			.type = MC_OPT_ENUM,
			.def = "private",
			.choices = access_words,
			.doc = "Who may use files and directories that are created: this user, "
			       "its group, all."},
	{.name = NULL},
};

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The directory that a URL names, to be freed. */
static int parse_url(const char *url, char **ret_path, struct mc_error *err)
{
	const char *p = url ? url : "";
	char *path, *out;

	if (strncmp(p, "file://", 7) != 0)
		return mc_fail(err, -EINVAL,
			       "metadata '%s': not a file URL; write file:///directory", p);
	p += 7;
	if (!strncmp(p, "localhost/", 10))
		p += 9;
	if (*p != '/')
		return mc_fail(err, -EINVAL,
			       "metadata '%s': the directory must be absolute; write "
			       "file:///directory with three slashes",
			       url);
	path = out = malloc(strlen(p) + 1);
	if (!path)
		return mc_fail(err, -ENOMEM, "metadata '%s': out of memory", url);
	for (; *p; p++) {
		int hi, lo;

		if (*p != '%') {
			*out++ = *p;
			continue;
		}
		hi = hex(p[1]);
		lo = hi < 0 ? -1 : hex(p[2]);
		if (lo < 0 || hi + lo == 0) {
			free(path);
			return mc_fail(err, -EINVAL,
				       "metadata '%s': '%%' must be followed by two hex digits, "
				       "not 00; write %%25 for a '%%' in the name",
				       url);
		}
		*out++ = (char)(hi << 4 | lo);
		p += 2;
	}
	*out = '\0';
	while (out > path + 1 && out[-1] == '/')
		*--out = '\0';
	*ret_path = path;
	return 0;
}

/* The directory itself, not its parents: one of them that is missing is more often mistyped, or not
 * mounted, than wanted. */
static int make_dir(const char *path, mode_t mode)
{
	if (mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	return mode != 0700 && chmod(path, mode) < 0 ? -errno : 0;
}

static int make_failed(const char *url, const char *path, int code, struct mc_error *err)
{
	int len = (int)(strrchr(path, '/') - path);
	mc_cleanup(mc_freep) char *parent = strndup(path, (size_t)len);

	/* Where nothing can be created, as in /proc, it is not the parent that is missing. */
	if (code == -ENOENT && len && parent && access(parent, F_OK) < 0)
		return mc_fail(err, code,
			       "metadata '%s': there is no directory '%s' to create '%s' in; create it "
			       "(mkdir -p), or name another",
			       url, parent, path + len + 1);
	return mc_fail(err, code,
		       "metadata '%s': cannot create directory '%s': %s; name one in a place that this "
		       "user may write to",
		       url, path, strerrordesc_np(-code));
}

static int open_dir(struct file_inst *f, const char *url, mode_t dir_mode, struct mc_error *err)
{
	int fd, r;

	f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->dirfd < 0 && errno == ENOENT) {
		r = make_dir(f->path, dir_mode);
		if (r < 0)
			return make_failed(url, f->path, r, err);
		f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (f->dirfd < 0) {
		r = -errno;
		return mc_fail(err, r,
			       "metadata '%s': cannot open directory '%s': %s; name a directory that "
			       "this user may read and write, or one that does not exist yet",
			       url, f->path, strerrordesc_np(-r));
	}
	/* Where it cannot be written, reading still works; writes say why they fail. */
	fd = openat(f->dirfd, FILE_LOCK_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, f->file_mode);
	if (fd >= 0) {
		r = fchmod(fd, f->file_mode);
		(void)r; /* it is ours: it cannot fail but on file systems without modes */
		close(fd);
	} else if (errno != EEXIST) {
		f->host->log(f->host, MC_LOG_DEBUG, "directory '%s': read only: %s", f->path,
			     strerrordesc_np(errno));
	}
	return 0;
}

static void free_inst(struct file_inst *f)
{
	file_lease_fini(f);
	pthread_mutex_destroy(&f->lease_mx);
	if (f->dirfd >= 0)
		close(f->dirfd);
	free(f->path);
	f->path = NULL;
	f->dirfd = -1;
}

static int file_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_error *err)
{
	static const mode_t modes[] = {0700, 0770, 0777};
	struct file_inst *f = inst;
	mode_t dir_mode = modes[args->options[OPT_ACCESS].i2];
	int r;

	f->host = host;
	f->dirfd = -1;
	f->fsync = args->options[OPT_FSYNC].b;
	f->file_mode = dir_mode & 0666;
	r = parse_url(args->device, &f->path, err);
	if (r < 0)
		return r;
	pthread_mutex_init(&f->lease_mx, NULL);
	file_self_init(&f->self);
	r = open_dir(f, args->device, dir_mode, err);
	if (r == 0)
		r = file_ctl_open(f, (uint64_t)args->options[OPT_RESCAN].i, err);
	if (r < 0)
		free_inst(f);
	return r;
}

static void file_close(void *inst)
{
	struct file_inst *f = inst;

	if (!f->ctl)
		return;
	file_ctl_close(f);
	free_inst(f);
}

static int file_reconfigure(void *inst, const struct mc_value *options, struct mc_error *err)
{
	struct file_inst *f = inst;

	__atomic_store_n(&f->fsync, options[OPT_FSYNC].b, __ATOMIC_RELAXED);
	file_ctl_set_interval(f, (uint64_t)options[OPT_RESCAN].i);
	return 0;
}

static const struct mc_metadata_ops file_ops = {
	.size = sizeof file_ops,
	.instance_size = sizeof(struct file_inst),
	.watch_size = sizeof(struct file_watch),
	.open = file_open,
	.close = file_close,
	.get = file_get,
	.put = file_put,
	.cas = file_cas,
	.del = file_del,
	.list = file_list,
	.watch = file_watch_add,
	.unwatch = file_watch_remove,
	.lease_grant = file_lease_grant,
	.lease_keepalive = file_lease_keepalive,
	.lease_revoke = file_lease_revoke,
	.reconfigure = file_reconfigure,
};

static const char *const file_schemes[] = {"file", NULL};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_METADATA),
	.name = "file",
	.version = MC_VERSION,
	.summary = "a directory, on one machine or on a shared POSIX file system",
	.ops = &file_ops,
	.options = file_options,
	.schemes = file_schemes,
};
