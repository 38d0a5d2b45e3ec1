/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata/etcd over real servers that are killed, frozen, cut off, restarted,
 * compacted, or want something else than they get.
 *
 *   etcd-outage SETUP.sh PLUGIN.so CASE
 *
 * SETUP.sh starts the servers and takes commands (etcd-setup.sh says which).
 * Cases of a watch that misses something are in etcd-outage-watch.c.
 */
#include "etcd-outage.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct outage w;

/* ---- helpers ------------------------------------------------------------------------------- */

void command(const char *text)
{
	char line[64] = "";

	fprintf(w.to, "%s\n", text);
	fflush(w.to);
	CHECK(fgets(line, sizeof line, w.from) && !strcmp(line, "done\n"), "'%s': %s", text, line);
}

static void setup(const char *script, const char *kind)
{
	int in[2], out[2];
	char *options;

	CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
	w.script = fork();
	if (w.script == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(script, script, kind, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	w.to = fdopen(in[1], "w");
	w.from = fdopen(out[0], "r");
	if (!fgets(w.url, sizeof w.url, w.from)) {
		int status;

		waitpid(w.script, &status, 0);
		exit(WIFEXITED(status) && WEXITSTATUS(status) == 77 ? 77 : 1);
	}
	w.url[strcspn(w.url, "\n")] = '\0';
	options = strchr(w.url, ' ');
	if (options) {
		*options++ = '\0';
		while (w.nr_options < 16 && (w.options[w.nr_options] = strsep(&options, " ")))
			w.nr_options++;
	}
	w.port = atoi(strrchr(w.url, ':') + 1);
	if (strchr(w.url, ','))
		w.port = atoi(strchr(strstr(w.url, "//"), ':') + 1);
}

static int open_with(const char *url, const char *const *words, struct mh_inst **ret_inst, struct mc_error *err)
{
	size_t nr = 0;

	if (!words)
		return mh_open(&w.plugin, url, (const char *const *)w.options, w.nr_options, ret_inst, err);
	while (words[nr])
		nr++;
	return mh_open(&w.plugin, url, words, nr, ret_inst, err);
}

struct mh_inst *open_url(const char *const *words, const char *fmt, ...)
{
	struct mc_error err = {0};
	struct mh_inst *in = NULL;
	char url[512];
	va_list ap;
	int r;

	va_start(ap, fmt);
	vsnprintf(url, sizeof url, fmt, ap);
	va_end(ap);
	r = open_with(url, words, &in, &err);
	CHECK(r == 0, "%s: %s", url, err.text);
	return in;
}

/* Opening must fail, soon, with this word in the sentence. */
static void refuse(const char *const *words, const char *url, const char *word)
{
	uint64_t begin = mh_now();
	struct mc_error err = {0};
	struct mh_inst *in;
	int r = open_with(url, words, &in, &err);

	CHECK(r < 0 && err.code == r, "'%s' was opened", url);
	CHECK(strstr(err.text, word), "'%s': no '%s' in: %s", url, word, err.text);
	CHECK(mh_now() - begin < (SLOW > 10 ? 10 : 5) * MC_SEC, "it took %.1f s", (double)(mh_now() - begin) / 1e9);
}

static int keep_value(void *ctx, const struct mc_kv *kv)
{
	struct value *v = ctx;

	snprintf(v->text, sizeof v->text, "%.*s", (int)kv->len, (const char *)kv->value);
	v->revision = kv->revision;
	v->lease = kv->lease;
	return 0;
}

int get(struct mh_inst *in, const char *key, double seconds, struct value *v, struct mc_error *err)
{
	return w.ops->get(mh_area(in), key, IN(seconds), keep_value, v, err);
}

uint64_t put(struct mh_inst *in, const char *key, const char *value, uint64_t lease)
{
	struct mc_kv kv = {
		.size = sizeof kv, .key = key, .value = value, .len = strlen(value), .lease = lease};
	struct mc_error err = {0};
	uint64_t revision = 0;
	int r = w.ops->put(mh_area(in), &kv, IN(20), &revision, &err);

	CHECK(r == 0, "put '%s': %s", key, err.text);
	return revision;
}

struct mh_watch *watch(struct mh_inst *in)
{
	struct mc_error err = {0};
	struct mh_watch *watch = NULL;

	CHECK(mh_watch(in, KEY, &watch, &err) == 0, "%s", err.text);
	return watch;
}

void watch_end(struct mh_watch *watch)
{
	mh_unwatch(watch);
	mh_watch_free(watch);
}

/* ---- cases ---------------------------------------------------------------------------------- */

/* Killed, and started again with its data. */
static void case_restart(void)
{
	struct mh_watch *watching = watch(w.direct);
	struct mc_error err = {0};
	char endpoint[40];
	struct value v;
	uint64_t lease, begin;
	int r;

	CHECK(w.ops->lease_grant(mh_area(w.direct), 60 * MC_SEC, IN(5), &lease, &err) == 0, "%s", err.text);
	put(w.direct, KEY "a", "one", lease);
	command("kill");
	snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d/v3/", w.port);
	begin = mh_now();
	r = get(w.direct, KEY "a", 8, &v, &err);
	CHECK(r == -ECONNREFUSED && strstr(err.text, endpoint) && strstr(err.text, "ECONNREFUSED"), "%d: %s", r,
	      err.text);
	CHECK(mh_now() - begin < 5 * MC_SEC);
	begin = mh_now();
	CHECK(get(w.direct, KEY "a", 8, &v, &err) == -ECONNREFUSED);
	CHECK(mh_now() - begin < 1500 * MC_MSEC, "what is known to be down is not waited for again");
	command("start");
	CHECK(get(w.direct, KEY "a", 10, &v, &err) == 0 && !strcmp(v.text, "one"), "%s", err.text);
	CHECK(w.ops->lease_keepalive(mh_area(w.direct), lease, IN(10), &err) == 0, "%s", err.text);
	CHECK(mh_watch_wait(watching, KEY "b", put(w.direct, KEY "b", "two", 0), 20 * MC_SEC), "the watch is lost");
	watch_end(watching);
}

/* Stopped and thawed: calls keep their deadlines, and go on. */
static void case_frozen(void)
{
	struct mh_watch *watching = watch(w.direct);
	struct mc_error err = {0};
	struct value v;
	uint64_t begin;
	int r;

	put(w.direct, KEY "a", "one", 0);
	command("stop");
	begin = mh_now();
	r = get(w.direct, KEY "a", 0.3, &v, &err);
	CHECK(r == -ETIMEDOUT, "%d: %s", r, err.text);
	CHECK(mh_now() - begin < 3 * MC_SEC);
	command("cont");
	CHECK(get(w.direct, KEY "a", 20, &v, &err) == 0, "%s", err.text);
	CHECK(mh_watch_wait(watching, KEY "a", put(w.direct, KEY "a", "two", 0), 20 * MC_SEC));
	watch_end(watching);
}

/* Endpoints that refuse, that take connections and say nothing, that drop packets: skipped, and not
 * tried first the next time. */
static void case_endpoints(void)
{
	static const char *const words[] = {"connect_timeout=300ms", "request_timeout=300ms", NULL};
	struct relay *full = relay_new(w.port);
	int fds[300], nr = 0;
	struct mc_error err = {0};
	struct value v;
	uint64_t begin;

	relay_set(w.relay, RELAY_CUT);
	relay_set(w.relay2, RELAY_STALL);
	/* One whose queue of connections is full drops what asks for another. */
	relay_set(full, RELAY_STALL);
	for (; nr < 300; nr++) {
		struct sockaddr_in a = {.sin_family = AF_INET,
					.sin_port = htons((uint16_t)relay_port(full)),
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

		fds[nr] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		CHECK(fds[nr] >= 0 && (connect(fds[nr], (void *)&a, sizeof a) == 0 || errno == EINPROGRESS));
	}
	begin = mh_now();
	w.in = open_url(words, "etcd://127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d",
			relay_port(w.relay), relay_port(w.relay2), relay_port(full), w.port);
	CHECK(mh_now() - begin < 4 * MC_SEC, "opening took %.1f s", (double)(mh_now() - begin) / 1e9);
	put(w.in, KEY "a", "one", 0);
	begin = mh_now();
	for (int i = 0; i < 5; i++)
		CHECK(get(w.in, KEY "a", 5, &v, &err) == 0, "%s", err.text);
	CHECK(mh_now() - begin < 250 * MC_MSEC * SLOW, "the dead are asked before the living");
	while (nr)
		close(fds[--nr]);
	relay_free(full);
}

/* The member that is used dies: the others go on. */
static void case_member(void)
{
	struct mh_watch *watching = watch(w.direct);
	struct mc_error err = {0};
	uint64_t end = IN(40), revision = 0;
	struct mc_kv kv = {.size = sizeof kv, .key = KEY "a", .value = "two", .len = 3};
	int r;

	put(w.direct, KEY "a", "one", 0);
	command("kill_member 1");
	/* Electing another leader may take some calls. */
	do {
		r = w.ops->put(mh_area(w.direct), &kv, IN(10), &revision, &err);
	} while (r < 0 && mh_now() < end);
	CHECK(r == 0, "%s", err.text);
	CHECK(mh_watch_wait(watching, KEY "a", revision, 20 * MC_SEC), "the watch did not move");
	watch_end(watching);
}

static void case_lease_short(void)
{
	struct mc_error err = {0};
	struct value v;
	uint64_t lease;

	CHECK(w.ops->lease_grant(mh_area(w.in), 10 * MC_SEC, IN(5), &lease, &err) == 0, "%s", err.text);
	put(w.in, KEY "a", "one", lease);
	relay_set(w.relay, RELAY_CUT);
	CHECK(w.ops->lease_keepalive(mh_area(w.in), lease, IN(0.5), &err) < 0 && err.code != -ENOENT, "%s", err.text);
	mh_sleep(500 * MC_MSEC);
	relay_set(w.relay, RELAY_PASS);
	CHECK(w.ops->lease_keepalive(mh_area(w.in), lease, IN(5), &err) == 0, "%s", err.text);
	CHECK(get(w.in, KEY "a", 5, &v, &err) == 0 && v.lease == lease, "%s", err.text);
}

static void case_lease_long(void)
{
	uint64_t lease, end = IN(30);
	struct mc_error err = {0};
	struct value v;

	CHECK(w.ops->lease_grant(mh_area(w.in), 2 * MC_SEC, IN(5), &lease, &err) == 0, "%s", err.text);
	put(w.in, KEY "a", "one", lease);
	relay_set(w.relay, RELAY_CUT);
	while (get(w.direct, KEY "a", 5, &v, &err) == 0 && mh_now() < end)
		mh_sleep(100 * MC_MSEC);
	relay_set(w.relay, RELAY_PASS);
	CHECK(w.ops->lease_keepalive(mh_area(w.in), lease, IN(5), &err) == -ENOENT, "%s", err.text);
	CHECK(w.ops->lease_grant(mh_area(w.in), 10 * MC_SEC, IN(5), &lease, &err) == 0, "%s", err.text);
	put(w.in, KEY "a", "two", lease);
}

static void *pass_soon(void *arg)
{
	mh_sleep(300 * MC_MSEC);
	relay_set(w.relay, RELAY_PASS);
	return NULL;
}

static pthread_t swallow(void)
{
	pthread_t t;

	relay_set(w.relay, RELAY_SWALLOW);
	pthread_create(&t, NULL, pass_soon, NULL);
	return t;
}

/* The answer is lost, but not what was asked for. */
static void case_swallowed(void)
{
	struct mc_kv kv = {.size = sizeof kv, .key = KEY "a", .value = "one", .len = 3};
	uint64_t revision = 0, lease, lease2;
	struct mc_error err = {0};
	struct value v = {0};
	pthread_t t;
	int r;

	CHECK(w.ops->lease_grant(mh_area(w.in), 60 * MC_SEC, IN(5), &lease, &err) == 0, "%s", err.text);
	kv.lease = lease;
	t = swallow();
	r = w.ops->cas(mh_area(w.in), &kv, 0, IN(10), &revision, &err);
	pthread_join(t, NULL);
	CHECK(r == 0, "%s", err.text);
	CHECK(get(w.direct, KEY "a", 5, &v, &err) == 0 && v.revision == revision, "%s", err.text);
	/* Without a lease another may have written the same. */
	kv.key = KEY "b";
	kv.lease = 0;
	t = swallow();
	r = w.ops->cas(mh_area(w.in), &kv, 0, IN(10), &revision, &err);
	pthread_join(t, NULL);
	CHECK(r < 0 && r != -EEXIST && strstr(err.text, "not known"), "%d: %s", r, err.text);
	/* Somebody else has it. */
	kv.value = "two";
	t = swallow();
	r = w.ops->cas(mh_area(w.in), &kv, 0, IN(10), &revision, &err);
	pthread_join(t, NULL);
	CHECK(r == -EEXIST, "%d: %s", r, err.text);
	t = swallow();
	r = w.ops->del(mh_area(w.in), KEY "a", v.revision, IN(10), &err);
	pthread_join(t, NULL);
	CHECK(r == 0, "%s", err.text);
	t = swallow();
	r = w.ops->lease_grant(mh_area(w.in), 60 * MC_SEC, IN(10), &lease2, &err);
	pthread_join(t, NULL);
	CHECK(r == 0, "%s", err.text);
	CHECK(w.ops->lease_keepalive(mh_area(w.in), lease2, IN(5), &err) == 0, "%s", err.text);
	t = swallow();
	r = w.ops->lease_revoke(mh_area(w.in), lease, IN(10), &err);
	pthread_join(t, NULL);
	CHECK(r == 0, "%s", err.text);
}

/* Rights are asked for; a token that etcd has forgotten is fetched anew, for watches too. */
static void case_users(void)
{
	static const char *const none[] = {NULL}, *const wrong[] = {"user=engine", "password=no", NULL},
			  *const half[] = {"user=engine", NULL};
	struct mh_watch *watching = watch(w.in);
	struct mc_error err = {0};
	struct value v;

	CHECK(mh_watch_wait(watching, KEY "a", put(w.direct, KEY "a", "one", 0), 20 * MC_SEC));
	refuse(none, w.url, "metadata.etcd.user");
	refuse(wrong, w.url, "user 'engine'");
	refuse(half, w.url, "password_file");
	CHECK(get(w.direct, "elsewhere", 5, &v, &err) == -EACCES && strstr(err.text, "grant"), "%s", err.text);
	command("forget");
	CHECK(get(w.direct, KEY "a", 10, &v, &err) == 0, "%s", err.text);
	relay_set(w.relay, RELAY_CUT);
	command("forget");
	relay_set(w.relay, RELAY_PASS);
	CHECK(mh_watch_wait(watching, KEY "a", put(w.direct, KEY "a", "two", 0), 30 * MC_SEC));
	watch_end(watching);
}

static void case_tls(void)
{
	static const char *const none[] = {NULL}, *const bad_file[] = {"ca=/nowhere.pem", NULL};
	const char *const no_cert[] = {w.options[0], NULL};
	char url[64];

	snprintf(url, sizeof url, "etcd://127.0.0.1:%d", w.port);
	refuse(NULL, url, "etcds://");
	refuse(none, w.url, "metadata.etcd.ca");
	refuse(bad_file, w.url, "metadata.etcd.ca");
	refuse(no_cert, w.url, "metadata.etcd.cert");
	w.in = open_url(NULL, "etcd://https://localhost:%d", w.port);
	put(w.in, KEY "a", "one", 0);
}

static void case_wrong(void)
{
	char url[64];

	snprintf(url, sizeof url, "etcds://127.0.0.1:%d", w.port);
	refuse(NULL, url, "etcd://");
	relay_set(w.relay, RELAY_CUT);
	snprintf(url, sizeof url, "etcd://127.0.0.1:%d", relay_port(w.relay));
	refuse(NULL, url, "ECONNREFUSED");
	relay_set(w.relay2, RELAY_STALL);
	snprintf(url, sizeof url, "etcd://127.0.0.1:%d", relay_port(w.relay2));
	refuse(NULL, url, "no answer within");
	refuse(NULL, "etcd://no-such-host.invalid", "no-such-host.invalid");
}

static int count_one(void *ctx, const struct mc_kv *kv)
{
	return ++*(int *)ctx == 100;
}

/* Pages; and one that breaks in the middle is taken up where it broke. */
static void case_pages(void)
{
	static const char *const words[] = {"page=3", NULL};
	struct mc_error err = {0};
	char key[64];
	int nr = 0;

	w.in = open_url(words, "etcd://127.0.0.1:%d", relay_port(w.relay));
	for (int i = 0; i < 10; i++) {
		snprintf(key, sizeof key, KEY "page/%d", i);
		put(w.in, key, "v", 0);
	}
	CHECK(w.ops->list(mh_area(w.in), KEY "page/", IN(5), count_one, &nr, &err) == 0 && nr == 10, "%d %s", nr,
	      err.text);
	nr = 97;
	CHECK(w.ops->list(mh_area(w.in), KEY "page/", IN(5), count_one, &nr, &err) == 0 && nr == 100, "%d", nr);
}

static const struct {
	const char *name, *kind;
	bool relay; /* w.in goes through the first relay */
	void (*run)(void);
} cases[] = {
	{"restart", "plain", false, case_restart},
	{"frozen", "plain", false, case_frozen},
	{"endpoints", "plain", false, case_endpoints},
	{"member", "cluster", false, case_member},
	{"compaction", "plain", true, case_compaction},
	{"resume", "plain", true, case_resume},
	{"silent", "plain", false, case_silent},
	{"lease-short", "plain", true, case_lease_short},
	{"lease-long", "plain", true, case_lease_long},
	{"swallowed", "plain", true, case_swallowed},
	{"users", "users", true, case_users},
	{"tls", "tls", false, case_tls},
	{"wrong", "plain", false, case_wrong},
	{"pages", "plain", false, case_pages},
	{"wiped", "plain", false, case_wiped},
};

static int finish(void)
{
	int status;

	mh_close(w.in);
	mh_close(w.direct);
	relay_free(w.relay);
	relay_free(w.relay2);
	fclose(w.to);
	fclose(w.from);
	waitpid(w.script, &status, 0);
	CHECK(!mh_breaches(), "breach: %s", mh_last_breach(NULL));
	return 0;
}

int main(int argc, char **argv)
{
	struct mc_error err = {0};

	for (size_t i = 0; argc == 4 && i < sizeof cases / sizeof cases[0]; i++) {
		if (strcmp(cases[i].name, argv[3]) != 0)
			continue;
		setvbuf(stdout, NULL, _IOLBF, 0);
		setup(argv[1], cases[i].kind);
		CHECK(fake_plugin_load(argv[2], MC_KIND_METADATA, &w.plugin, &err) == 0, "%s", err.text);
		w.ops = &w.plugin.ops.metadata;
		w.relay = relay_new(w.port);
		w.relay2 = relay_new(w.port);
		CHECK(w.relay && w.relay2);
		w.direct = open_url(NULL, "%s", w.url);
		if (cases[i].relay)
			w.in = open_url(NULL, "etcd://127.0.0.1:%d", relay_port(w.relay));
		cases[i].run();
		return finish();
	}
	fprintf(stderr, "usage: etcd-outage SETUP.sh PLUGIN.so CASE\n");
	return 2;
}
