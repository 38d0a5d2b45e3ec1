/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A large cluster on file metadata: opening an engine and a segment touches the
 * records of these two, however many others there are.  Counted, not timed: the
 * kernel tells which files of the directory are opened.
 *
 * Started with the path of the program that writes records (records.c).
 */
#include <fcntl.h>
#include <sys/inotify.h>

#include "engines.h"

#define NR_RECORDS 2000

static const char tcp[] = "{\"*\": [[\"tcp:lo\"]]}";

struct opened {
	unsigned others; /* files of engines that nobody asked for */
	unsigned walks; /* the directory itself */
	unsigned own;
};

/* What was opened since the watch began; a queue that overflows counts as all of it. */
static struct opened read_events(int fd)
{
	_Alignas(struct inotify_event) char buf[65536];
	struct opened o = {0};
	ssize_t n;

	while ((n = read(fd, buf, sizeof buf)) > 0) {
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *ev = (const void *)p;

			if (ev->mask & IN_Q_OVERFLOW)
				o.others += NR_RECORDS;
			else if (ev->len == 0)
				o.walks++;
			else if (strstr(ev->name, "node-"))
				o.others++;
			else
				o.own++;
			p += sizeof *ev + ev->len;
		}
	}
	return o;
}

static void fill(const char *program)
{
	char cmd[512];
	int fd;

	snprintf(cmd, sizeof cmd, "'%s' '%s' %d", program, dir, NR_RECORDS);
	CHECK(system(cmd) == 0, "%s", cmd);
	/* Somebody has swept a moment ago. */
	snprintf(cmd, sizeof cmd, "%s/swept", dir);
	fd = open(cmd, O_WRONLY | O_CREAT, 0600);
	CHECK(fd >= 0, "%s", cmd);
	close(fd);
}

static int count(void *ctx, const char *name)
{
	++*(unsigned *)ctx;
	return 0;
}

int main(int argc, char **argv)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	struct mc_segment *segment = NULL;
	struct mc_error err = {0};
	struct mc_engine *a, *b;
	unsigned nr = 0;
	struct opened o;
	int r;

	engines_begin();
	fill(argc > 1 ? argv[1] : "");
	if (inotify_add_watch(fd, dir, IN_OPEN) < 0) {
		printf("no inotify watch: %s\n", strerror(errno));
		engines_end();
		return 77;
	}
	a = engine_new("a", tcp);
	b = engine_new("b", tcp);
	r = mc_segment_open(b, "a", T, &segment, &err);
	CHECK(r == 0, "%d %s", r, err.text);
	mc_segment_close(segment);
	o = read_events(fd);
	CHECK(o.own > 0, "the events do not show what was opened");
	CHECK(o.others == 0, "%u records of others were opened", o.others);
	CHECK(o.walks <= 2, "the directory was opened %u times by two engines", o.walks);

	/* A list does look at them all, once. */
	r = mc_segment_list(b, T, count, &nr, &err);
	CHECK(r == NR_RECORDS + 2 && nr == (unsigned)r, "%d %s", r, err.text);
	o = read_events(fd);
	CHECK(o.others == NR_RECORDS, "a list of %d opened %u records", NR_RECORDS, o.others);
	CHECK(o.walks == 1, "a list opened the directory %u times", o.walks);
	CHECK(mc_engine_close(b, T) == 0 && mc_engine_close(a, T) == 0, "close");
	close(fd);
	return engines_end();
}
