/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An application with pages of its own on its engine's port (mooncake/http.h), for
 * http.sh.  Prints the port, and ends at the end of stdin: by then its pages are
 * taken back, in the middle of whatever is asked.
 */
#include "engines.h"

#include <time.h>

#include <mooncake/http.h>

static int echo(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	const char *word = mc_http_argument(ask, "word");

	mc_http_print(answer, "%s %s word=%s body=%zu:%.20s", ask->method, ask->path, word ? word : "(none)",
		      ask->body_len, (const char *)ask->body);
	return strcmp(ask->method, "PUT") != 0 ? 200 : 201;
}

static int tree(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	mc_http_type(answer, "application/json");
	for (int i = 0; i < 20000; i++)
		mc_http_print(answer, "%s%d", i ? "," : "[", i);
	mc_http_write(answer, "]\n", 2);
	return 200;
}

static int slow(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct timespec ts = {.tv_sec = atoi(mc_http_argument(ask, "s"))};

	nanosleep(&ts, NULL);
	mc_http_print(answer, "slow\n");
	return 200;
}

static int nothing(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	return 0;
}

static void metrics(void *arg, struct mc_http_answer *answer)
{
	mc_http_print(answer, "# HELP page_words_total Words.\n# TYPE page_words_total counter\npage_words_total 7\n");
}

int main(void)
{
	static const struct {
		const char *path;
		mc_http_handler handler;
	} served[] = {{"/echo", echo}, {"/tree/", tree}, {"/tree/echo", echo}, {"/slow", slow}, {"/nothing", nothing}};
	struct mc_http_page *pages[6], *other = NULL;
	struct mc_engine *engine;
	struct mc_error err = {0};
	char line[8];

	engines_begin();
	engine = engine_new("pages", "{\"*\": [[\"tcp:lo\"]]}");
	for (size_t i = 0; i < 5; i++)
		CHECK(mc_http_serve(engine, served[i].path, "a page of the test", served[i].handler, NULL, &pages[i], &err) == 0,
		      "%s", err.text);
	CHECK(mc_http_serve_metrics(engine, metrics, NULL, &pages[5], &err) == 0, "%s", err.text);
	CHECK(mc_http_serve(engine, "/echo", "", echo, NULL, &other, &err) == -EEXIST, "twice");
	CHECK(mc_http_serve(engine, "/health", "", echo, NULL, &other, &err) == -EEXIST, "the engine's own");
	CHECK(mc_http_serve(engine, "echo", "", echo, NULL, &other, &err) == -EINVAL, "no path");
	CHECK(mc_http_serve(engine, "/a b", "", echo, NULL, &other, &err) == -EINVAL, "a blank");
	CHECK(mc_http_serve(engine, "/none", "", NULL, NULL, &other, &err) == -EINVAL, "no handler");
	printf("%u\n", mc_engine_port(engine));
	fflush(stdout);
	if (fgets(line, sizeof line, stdin))
		fputs("stdin is not at its end\n", stderr);
	for (size_t i = 0; i < 6; i++)
		mc_http_unserve(pages[i]);
	CHECK(mc_engine_close(engine, T) == 0, "close");
	return engines_end();
}
