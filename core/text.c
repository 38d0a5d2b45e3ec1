/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that all readers of text need: a file as a string, the closest known word. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "clock.h"
#include "json.h"
#include "util/check.h"
#include "util/cleanup.h"

#define FILE_SIZE_MAX (16u << 20)
#define PIPE_NS (5 * MC_SEC) /* for all that a pipe gives */
#define WORD_MAX 128

/* Until a pipe has bytes or is at its end. */
static int wait_for_bytes(int fd, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (;;) {
		uint64_t now = mc_now_ns();
		int r = now < deadline_ns ? poll(&p, 1, (int)((deadline_ns - now) / MC_MSEC) + 1) : 0;

		if (r > 0)
			return 0;
		if (r == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int read_all(int fd, bool waits, char **ret_text, size_t *ret_len)
{
	uint64_t deadline = waits ? mc_now_ns() + PIPE_NS : 0;
	size_t cap = 4096, len = 0;
	mc_cleanup(mc_freep) char *text = malloc(cap);

	if (!text)
		return -ENOMEM;
	for (;;) {
		int r = waits ? wait_for_bytes(fd, deadline) : 0;
		ssize_t n;

		if (r < 0)
			return r;
		if (len + 1 == cap) {
			char *more = realloc(text, cap * 2);

			if (!more)
				return -ENOMEM;
			text = more;
			cap *= 2;
		}
		n = read(fd, text + len, cap - len - 1);
		if (n < 0 && (errno == EINTR || (errno == EAGAIN && waits)))
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > FILE_SIZE_MAX)
			return -EFBIG;
	}
	text[len] = '\0';
	*ret_text = mc_steal(text);
	*ret_len = len;
	return 0;
}

int mc_read_file(const char *path, char **ret_text, size_t *ret_len, struct mc_error *err)
{
	/* A FIFO must not hold up who reads a config for longer than a command needs to write it. */
	mc_cleanup(mc_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int r;

	r = fd < 0 || fstat(fd, &st) < 0 ? -errno : read_all(fd, !S_ISREG(st.st_mode), ret_text, ret_len);
	if (r == -ETIMEDOUT)
		return mc_fail(err, r, "file '%s': it is a pipe whose writer is not done after %u s; give a file",
			       path, (unsigned)(PIPE_NS / MC_SEC));
	if (r == -EFBIG)
		return mc_fail(err, r, "file '%s': it is larger than %u MiB", path, FILE_SIZE_MAX >> 20);
	if (r < 0)
		return mc_fail(err, r, "file '%s': cannot read it: %s", path, strerror(-r));
	return 0;
}

static char fold(char c)
{
	if (c >= 'A' && c <= 'Z')
		return (char)(c - 'A' + 'a');
	return c == '-' ? '_' : c;
}

/* Edits from a to b, two neighbours that change places being one; case does not count, '-' is '_'. */
static size_t distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	size_t rows[3][WORD_MAX + 1];

	if (la > WORD_MAX || lb > WORD_MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			row[j] = up[j - 1] + (fold(a[i - 1]) != fold(b[j - 1]));
			row[j] = MC_MIN(row[j], MC_MIN(up[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]))
				row[j] = MC_MIN(row[j], up2[j - 2] + 1);
		}
	}
	return rows[la % 3][lb];
}

const char *mc_closest(const char *word, const char *const *words)
{
	size_t limit = (strlen(word) + 2) / 3;
	size_t best_dist = SIZE_MAX;
	const char *best = NULL;

	for (; *words; words++) {
		size_t d = distance(word, *words);

		if (d < best_dist && d <= limit) {
			best_dist = d;
			best = *words;
		}
	}
	return best;
}

const char *mc_json_type_name(enum mc_json_type type)
{
	static const char *const names[] = {
		[MC_JSON_NULL] = "null",	  [MC_JSON_BOOL] = "a boolean",
		[MC_JSON_INT] = "a whole number", [MC_JSON_DOUBLE] = "a number",
		[MC_JSON_STRING] = "a string",	  [MC_JSON_ARRAY] = "an array",
		[MC_JSON_OBJECT] = "an object",
	};

	return names[type];
}

static char *join_strings(const struct mc_json *array)
{
	size_t len = 1, at = 0;
	char *text;

	for (size_t i = 0; i < array->list.nr; i++) {
		if (array->list.items[i].type != MC_JSON_STRING)
			return NULL;
		len += strlen(array->list.items[i].s) + 1;
	}
	text = calloc(1, len);
	for (size_t i = 0; text && i < array->list.nr; i++)
		at += (size_t)sprintf(text + at, "%s%s", i ? "," : "", array->list.items[i].s);
	return text;
}

char *mc_json_text(const struct mc_json *json)
{
	char buf[40], *dot;

	switch (json->type) {
	case MC_JSON_BOOL:
		return strdup(json->b ? "true" : "false");
	case MC_JSON_INT:
		snprintf(buf, sizeof buf, "%lld", (long long)json->i);
		return strdup(buf);
	case MC_JSON_DOUBLE:
		snprintf(buf, sizeof buf, "%.17g", json->d);
		dot = strchr(buf, ','); /* of the application's locale */
		if (dot)
			*dot = '.';
		return strdup(buf);
	case MC_JSON_STRING:
		return strdup(json->s);
	case MC_JSON_ARRAY:
		return join_strings(json);
	case MC_JSON_NULL:
	case MC_JSON_OBJECT:
		break;
	}
	return NULL;
}
