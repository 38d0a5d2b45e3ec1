/* SPDX-License-Identifier: Apache-2.0 */
/* The Unix socket beside the port: its file and folder, who dials it, and what a peer may make us dial. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "engine-fixture.h"
#include "session_impl.h"
#include "stream_local.h"

static char dir[64];
static char folder[96]; /* of the sockets */
static sem_t done;

static int setup(void **state)
{
	strcpy(dir, "/tmp/mc-unix-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(folder, sizeof folder, "%s/mooncake.run", dir);
	setenv("XDG_RUNTIME_DIR", dir, 1);
	sem_init(&done, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	rmdir(folder);
	/* Nothing was left behind. */
	assert_int_equal(rmdir(dir), 0);
	sem_destroy(&done);
	return 0;
}

static unsigned nr_files(void)
{
	DIR *d = opendir(folder);
	unsigned nr = 0;

	assert_non_null(d);
	while (readdir(d))
		nr++;
	closedir(d);
	return nr - 2;
}

static struct dialled {
	int fd;
	char why[512];
} answer;

static void dialled(void *arg, int fd, const char *why)
{
	answer.fd = fd;
	snprintf(answer.why, sizeof answer.why, "%s", why ? why : "");
	sem_post(&done);
}

static void dial(struct fixture *from, const char *path, uint64_t generation)
{
	struct mc_stream_hello hello = {.kind = MC_STREAM_CONTROL, .session_id = 7,
					.from_generation = from->engine.generation, .to_generation = generation};

	snprintf(hello.from, sizeof hello.from, "%s", from->engine.name);
	assert_int_equal(mc_stream_dial_local(&from->engine, path, &hello, fixture_deadline(20 * MC_SEC), dialled,
					      NULL), 0);
	sem_wait(&done);
}

static void test_dial(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	const char *path = mc_engine_local_path(&b->engine);
	struct ucred cred;
	socklen_t len = sizeof cred;
	char gone[200];
	struct stat st;

	assert_non_null(path);
	assert_int_equal(strncmp(path, folder, strlen(folder)), 0);
	assert_int_equal(stat(folder, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(nr_files(), 2);
	dial(a, path, b->engine.generation);
	if (answer.fd < 0)
		fail_msg("%s", answer.why);
	assert_int_equal(getsockopt(answer.fd, SOL_SOCKET, SO_PEERCRED, &cred, &len), 0);
	assert_int_equal(cred.pid, getpid());
	close(answer.fd);
	/* It is the same door: another generation is told so. */
	dial(a, path, b->engine.generation + 1);
	assert_int_equal(answer.fd, -ESTALE);
	snprintf(gone, sizeof gone, "%s", path);
	fixture_free(b);
	assert_int_equal(nr_files(), 1);
	dial(a, gone, 0);
	assert_int_equal(answer.fd, -ENOENT);
	assert_non_null(strstr(answer.why, gone));
	fixture_free(a);
}

/* Both keys are asked for there, too. */
static void test_key(void **state)
{
	char file[96];
	const char *const with[] = {"cluster_key_file", file, NULL};
	struct fixture *a, *b;
	FILE *f;

	snprintf(file, sizeof file, "%s/key", dir);
	f = fopen(file, "w");
	assert_non_null(f);
	fputs("a key that nobody would guess", f);
	fclose(f);
	assert_int_equal(chmod(file, 0600), 0);
	a = fixture_start("alpha", NULL);
	b = fixture_new("beta", with);
	if (fixture_open(b, 10 * MC_SEC, &(struct mc_error){0}) == 0) {
		dial(a, mc_engine_local_path(&b->engine), 0);
		assert_int_equal(answer.fd, -EACCES);
		dial(b, mc_engine_local_path(&a->engine), 0);
		assert_int_equal(answer.fd, -EACCES);
	}
	fixture_free(a);
	fixture_free(b);
	unlink(file);
}

/* A session tells both ends where the other one is; only engines of this host, and only such paths. */
static void test_told(void **state)
{
	struct fixture *a = fixture_start("alpha", NULL), *b = fixture_start("beta", NULL);
	char *text = mc_hello_json(&b->engine), *at, other[2048];
	struct mc_peer_info info;
	struct mc_session *s;
	struct mc_error err;

	assert_int_equal(mc_session_open(&a->engine, "beta", fixture_deadline(10 * MC_SEC), &s, &err), 0);
	assert_string_equal(s->peer->local_path, mc_engine_local_path(&b->engine));
	mc_session_unref(s);
	assert_non_null(text);
	assert_int_equal(mc_hello_parse(text, strlen(text), &info, &err), 0);
	assert_string_equal(info.local_path, mc_engine_local_path(&b->engine));
	mc_peer_info_fini(&info);
	/* Of another host: it is not wrong, but nothing to us. */
	snprintf(other, sizeof other, "%s", text);
	at = strstr(other, "\"host\":\"");
	assert_non_null(at);
	at[8] = at[8] == '0' ? '1' : '0';
	assert_int_equal(mc_hello_parse(other, strlen(other), &info, &err), 0);
	assert_null(info.local_path);
	mc_peer_info_fini(&info);
	/* Another program's socket, on this host: no peer makes us dial it. */
	snprintf(other, sizeof other, "%s", text);
	at = strstr(other, ".sock");
	assert_non_null(at);
	at[-1] = at[-1] == '0' ? '1' : '0';
	assert_int_equal(mc_hello_parse(other, strlen(other), &info, &err), -EINVAL);
	free(text);
	fixture_free(a);
	fixture_free(b);
}

static void test_paths(void **state)
{
	assert_true(mc_unix_path_ok("/run/x/00000000000000ab.sock", 0xab));
	assert_true(mc_unix_path_ok("/00000000000000ab.sock", 0xab));
	assert_false(mc_unix_path_ok("/run/x/00000000000000ac.sock", 0xab));
	assert_false(mc_unix_path_ok("00000000000000ab.sock", 0xab));
	assert_false(mc_unix_path_ok("/run/docker.sock", 0xab));
	assert_false(mc_unix_path_ok("", 0xab));
	assert_int_equal(mc_unix_connect("/00000000000000ab.sock"), -EINVAL);
	assert_int_equal(mc_unix_connect("/no/such/00000000000000ab.sock"), -ENOENT);
}

/* Longer than an address of a socket can be. */
static void test_long(void **state)
{
	char path[300] = "", *at;
	const char *const there[] = {"local_socket", path, NULL};
	struct fixture *a, *b;

	snprintf(path, sizeof path, "%s/%0200d", dir, 7);
	assert_int_equal(mkdir(path, 0700), 0);
	a = fixture_start("alpha", there);
	b = fixture_start("beta", NULL);
	assert_true(strlen(mc_engine_local_path(&a->engine)) > sizeof ((struct sockaddr_un *)0)->sun_path);
	dial(b, mc_engine_local_path(&a->engine), a->engine.generation);
	if (answer.fd < 0)
		fail_msg("%s", answer.why);
	close(answer.fd);
	fixture_free(a);
	fixture_free(b);
	at = strrchr(path, '/');
	assert_non_null(at);
	assert_int_equal(rmdir(path), 0);
}

static void leave(const char *name, bool listens, int *ret_fd)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	*ret_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(sun.sun_path, sizeof sun.sun_path, "%s/%s", folder, name);
	assert_int_equal(bind(*ret_fd, (struct sockaddr *)&sun, sizeof sun), 0);
	if (listens)
		assert_int_equal(listen(*ret_fd, 4), 0);
}

/* What the dead left goes; what lives, is being born, or is not ours stays. */
static void test_sweep(void **state)
{
	const char *const names[] = {"0000000000000001.sock", "0000000000000002.sock", ".0000000000000003.sock",
				     "other.sock"};
	char path[200];
	struct fixture *a;
	int fds[4];

	assert_int_equal(mkdir(folder, 0700), 0);
	for (int i = 0; i < 4; i++)
		leave(names[i], i == 1, &fds[i]);
	a = fixture_start("alpha", NULL);
	assert_int_equal(nr_files(), 4);
	fixture_free(a);
	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		assert_int_equal(unlink(path), i ? 0 : -1);
		close(fds[i]);
	}
}

/* A folder that others may enter is not used; the user may say where, or that there is none. */
static void test_where(void **state)
{
	const char *const off[] = {"local_socket", "off", NULL};
	const char *const nowhere[] = {"local_socket", "/no/such/folder", NULL};
	struct fixture *a;
	struct mc_error err = {0};

	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(chmod(folder, 0755), 0);
	a = fixture_start("alpha", NULL);
	assert_int_equal(nr_files(), 0);
	fixture_free(a);
	a = fixture_start("alpha", off);
	assert_null(mc_engine_local_path(&a->engine));
	fixture_free(a);
	a = fixture_new("alpha", nowhere);
	assert_int_equal(fixture_open(a, MC_SEC, &err), -ENOENT);
	assert_non_null(strstr(err.text, "local_socket '/no/such/folder': cannot listen there"));
	fixture_free(a);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_dial), T(test_key), T(test_told), T(test_paths), T(test_long), T(test_sweep), T(test_where),
	};

	return cmocka_run_group_tests(tests, NULL, fixture_cleanup);
#undef T
}
