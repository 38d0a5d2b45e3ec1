/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a user gets for a matrix, a setting, a device or a memory that RDMA cannot work with:
 * one sentence that says what and how to mend it; the rest goes on, or the engine does not
 * open where it was told that it needs the device.
 *
 *   rails 2 rdma-bad      ra0 is as it should be, ra1 is down
 */
#include "patient.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GOOD "{\"*\": [[\"rdma:ra0\"], [\"tcp:lo\"]]}"
#define NOBODY 65534u

/* What was logged as a warning or worse since it was cleared. */
static char said[8192];

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	size_t len = strlen(said);

	if (level <= MC_LOG_WARN)
		snprintf(said + len, sizeof said - len, "%s\n", line);
}

/* All of the words, which have '|' between them. */
static bool has_all(const char *text, const char *words)
{
	char copy[512], *save = NULL;

	snprintf(copy, sizeof copy, "%s", words);
	for (char *w = strtok_r(copy, "|", &save); w; w = strtok_r(NULL, "|", &save))
		if (!strstr(text, w))
			return false;
	return true;
}

/* Open with a setting more; *ret_engine is NULL if it did not open. */
static int open_as(const char *matrix, const char *key, const char *value, struct mc_engine **ret_engine,
		   struct mc_error *err)
{
	struct mc_config *c = config_new("bad", matrix);
	int r = key ? mc_config_set(c, key, value, err) : 0;

	*ret_engine = NULL;
	*said = '\0';
	r = r < 0 ? r : mc_engine_open(c, T, ret_engine, err);
	mc_config_free(c);
	return r;
}

/* It opens, and a warning has all of the words. */
static void goes_on(const char *what, const char *matrix, const char *key, const char *value, const char *words)
{
	struct mc_error err = {0};
	struct mc_engine *e;
	int r = open_as(matrix, key, value, &e, &err);

	CHECK(r == 0, "%s: %d %s", what, r, err.text);
	CHECK(has_all(said, words), "%s: '%s' is not all in '%s'", what, words, said);
	printf("%s: %s", what, said);
	CHECK(mc_engine_close(e, T) == 0, "%s: close", what);
}

/* It does not, and the error has all of the words. */
static void refused(const char *what, const char *matrix, const char *key, const char *value, const char *words)
{
	struct mc_error err = {0};
	struct mc_engine *e;
	int r = open_as(matrix, key, value, &e, &err);

	CHECK(r < 0 && has_all(err.text, words), "%s: %d '%s' has not all of '%s'", what, r, err.text, words);
	printf("%s: %s\n", what, err.text);
	mc_engine_close(e, T);
}

/* ---- the matrix and the settings --------------------------------------------------------------------- */

static void devices(void)
{
	refused("absent and required", "{\"*\": [[{\"device\": \"rdma:nic9\", \"require\": true}], [\"tcp:lo\"]]}", NULL,
		NULL, "nic9|ra0, ra1");
	goes_on("absent", "{\"*\": [[\"rdma:nic9\"], [\"tcp:lo\"]]}", NULL, NULL, "nic9|ra0, ra1|tcp:lo");
	refused("absent and alone", "{\"*\": [[\"rdma:nic9\"]]}", NULL, NULL, "nic9|ra0, ra1");
	refused("down and required", "{\"*\": [[{\"device\": \"rdma:ra1\", \"require\": true}], [\"tcp:lo\"]]}", NULL, NULL,
		"ra1|DOWN|ip link set ea1 up");
	goes_on("down", "{\"*\": [[\"rdma:ra1\"], [\"tcp:lo\"]]}", NULL, NULL, "ra1|DOWN|ip link set ea1 up");
}

static void settings(void)
{
	goes_on("gid_index that is empty", GOOD, "transports.rdma.gid_index", "99", "gid_index 99|10.77.0.1|auto|tcp:lo");
	goes_on("gid_index out of range", GOOD, "transports.rdma.gid_index", "60000",
		"gid_index 60000|out of range|10.77.0.1|auto|tcp:lo");
	refused("mtu", GOOD, "transports.rdma.mtu", "3000", "mtu|3000|256, 512, 1024, 2048, 4096");
	goes_on("port", GOOD, "transports.rdma.port", "7", "ra0|port|tcp:lo");
	refused("ack_retries", GOOD, "transports.rdma.ack_retries", "7", "ack_retries|7|6");
	setenv("MC_MTU", "3000", 1);
	{
		struct mc_config *c = config_new("bad", "{\"*\": [[\"rdma:ra0\"]]}");
		struct mc_engine *e = NULL;
		struct mc_error err = {0};
		int r = mc_config_env(c, &err);

		CHECK(r == 0, "the variable of a plugin that may not be used: %d %s", r, err.text);
		r = mc_engine_open(c, T, &e, &err);
		CHECK(r == -EINVAL && has_all(err.text, "MC_MTU|3000|256, 512, 1024, 2048, 4096"), "MC_MTU: %d %s", r,
		      err.text);
		printf("MC_MTU: %s\n", err.text);
		mc_config_free(c);
	}
	unsetenv("MC_MTU");
}

/* ---- memory -------------------------------------------------------------------------------------------- */

/* A file that is mapped for reading can be read by peers, and nothing else. */
static void read_only(void)
{
	static const char path[] = "/tmp/weights";
	struct mc_error err = {0};
	struct mc_engine *e, *reader;
	struct mc_segment *s = NULL;
	unsigned char *mem, *local;
	struct mc_batch *b;
	void *p = NULL;
	int fd, r;

	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	for (int i = 0; i < 16; i++)
		NEED(pwrite(fd, &(char[4096]){'w', (char)i}, 4096, i * 4096) == 4096, "%s", path);
	mem = mmap(NULL, 65536, PROT_READ, MAP_PRIVATE, fd, 0);
	NEED(mem != MAP_FAILED, "mmap");
	close(fd);
	NEED(open_as("{\"*\": [[{\"device\": \"rdma:ra0\", \"require\": true}]]}", NULL, NULL, &e, &err) == 0, "%s", err.text);
	r = mc_memory_register(e, mem, 65536, "cpu:0", MC_ACCESS_ALL, T, &err);
	CHECK(r < 0 && has_all(err.text, "read"), "read-only: %d %s", r, err.text);
	printf("read-only: %s\n", err.text);
	r = mc_memory_register(e, mem, 65536, "cpu:0", MC_ACCESS_REMOTE_READ, T, &err);
	CHECK(r == 0, "for reading: %d %s", r, err.text);
	reader = engine_with("reader", (const char *const[]){"nic_priority_matrix={\"*\": [[\"rdma:rb0\"]]}", NULL});
	NEED(mc_segment_open(reader, "bad", T, &s, &err) == 0, "%s", err.text);
	NEED(mc_memory_alloc(reader, "cpu:0", 65536, MC_ACCESS_LOCAL, T, &p, &err) == 0, "%s", err.text);
	local = p;
	NEED(mc_batch_new(reader, 1, &b) == 0, "batch");
	NEED(mc_batch_submit(b, &(struct mc_request){.opcode = MC_OP_READ, .local = local, .segment = s,
			     .offset = (uintptr_t)mem, .len = 65536}, 1, NULL) == 0, "submit");
	CHECK(mc_batch_wait(b, T) == 0 && !mc_batch_failed(b) && !memcmp(local, mem, 65536), "it cannot be read");
	mc_batch_free(b);
	mc_segment_close(s);
	CHECK(mc_engine_close(reader, T) == 0, "close");
	CHECK(mc_engine_close(e, T) == 0, "close");
	munmap(mem, 65536);
	unlink(path);
}

/* Of root's rights keep the one to read everything: a user's own folder need not be open to others. */
static int become_nobody(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

	data[0].effective = data[0].permitted = 1u << CAP_DAC_READ_SEARCH;
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
		return -errno;
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* In a process that is not root's. */
static void as_nobody(void (*run)(void))
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	NEED(pid >= 0, "fork");
	if (!pid) {
		struct rlimit little = {65536, 65536};

		failures = 0;
		NEED(setrlimit(RLIMIT_MEMLOCK, &little) == 0 && become_nobody() == 0, "nobody");
		run();
		_exit(failures != 0);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "not well: %x", status);
}

static int chown_all(void)
{
	char cmd[64];

	snprintf(cmd, sizeof cmd, "chown -R %u '%s'", NOBODY, dir);
	return system(cmd);
}

static void no_rights(void)
{
	goes_on("no rights", GOOD, NULL, NULL, "/dev/infiniband/uverbs|Permission denied|rdma|tcp:lo");
}

static void memlock(void)
{
	enum { LEN = 1 << 20 };
	struct mc_error err = {0};
	struct mc_engine *e;
	void *mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r;

	NEED(mem != MAP_FAILED, "mmap");
	NEED(open_as("{\"*\": [[{\"device\": \"rdma:ra0\", \"require\": true}], [\"tcp:lo\"]]}", NULL, NULL, &e, &err) == 0, "%s",
	     err.text);
	r = mc_memory_register(e, mem, LEN, "cpu:0", MC_ACCESS_ALL, T, &err);
	CHECK(r < 0 && has_all(err.text, "ra0|memlock|ulimit -l"), "memlock, required: %d %s", r, err.text);
	printf("memlock, required: %s\n", err.text);
	CHECK(mc_engine_close(e, T) == 0, "close");
	NEED(open_as(GOOD, NULL, NULL, &e, &err) == 0, "%s", err.text);
	r = mc_memory_register(e, mem, LEN, "cpu:0", MC_ACCESS_ALL, T, &err);
	CHECK(r == 0 && has_all(said, "ra0|memlock|ulimit -l"), "memlock: %d %s, %s", r, err.text, said);
	printf("memlock: %s", said);
	CHECK(mc_engine_close(e, T) == 0, "close");
	munmap(mem, LEN);
}

int main(void)
{
	uint64_t start = now_ns();

	signal(SIGPIPE, SIG_IGN);
	engines_begin();
	mc_log_set_level(MC_LOG_INFO);
	mc_log_set_handler(on_log, NULL);
	NEED(system("ip link set ea1 down") == 0, "ip");
	devices();
	settings();
	read_only();
	NEED(chown_all() == 0, "chown");
	NEED(system("chmod 600 /dev/infiniband/uverbs*") == 0, "chmod");
	as_nobody(no_rights);
	NEED(system("chmod 666 /dev/infiniband/uverbs*") == 0, "chmod");
	as_nobody(memlock);
	printf("%llu ms\n", (unsigned long long)((now_ns() - start) / MC_MSEC));
	mc_log_set_handler(NULL, NULL);
	return engines_end();
}
