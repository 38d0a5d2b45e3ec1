/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access lists.  { "trainer-*": "read", "node1": "all", "*": "none" }: the first
 * pattern that matches the peer's segment name decides; who matches none has no
 * access.  '*' stands for any bytes, '?' for one; all else for itself, brackets
 * too, for names may contain them ("[::1]:12001").
 */
#include "access.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

#define MAX_RULES 4096

struct rule {
	char *pattern;
	const char *right; /* the word */
	uint32_t denied;
};

struct mc_access {
	size_t nr;
	struct rule *rules;
};

static const struct {
	const char *word;
	uint32_t denied;
} rights[] = {
	{"none", MC_ACCESS_ALL},
	{"read", MC_ACCESS_REMOTE_WRITE},
	{"write", MC_ACCESS_REMOTE_READ},
	{"all", 0},
};

static void json_freep(struct mc_json **json)
{
	mc_json_free(*json);
}

void mc_access_free(struct mc_access *access)
{
	if (!access)
		return;
	for (size_t i = 0; i < access->nr; i++)
		free(access->rules[i].pattern);
	free(access->rules);
	free(access);
}

static int parse_rule(const struct mc_json *v, struct rule *rule, const char *what, struct mc_error *err)
{
	if (v->type != MC_JSON_STRING)
		return mc_fail(err, -EINVAL,
			       "%s:%u:%u: '%.128s': a right is \"none\", \"read\", \"write\" or \"all\", not %s",
			       what, v->line, v->column, v->key, mc_json_type_name(v->type));
	for (size_t i = 0; i < MC_ARRAY_SIZE(rights); i++) {
		if (strcmp(v->s, rights[i].word) != 0)
			continue;
		rule->right = rights[i].word;
		rule->denied = rights[i].denied;
		rule->pattern = strdup(v->key);
		return rule->pattern ? 0 : mc_fail(err, -ENOMEM, "access: out of memory");
	}
	return mc_fail(err, -EINVAL,
		       "%s:%u:%u: '%.128s': '%.64s' is no right; it is none, read, write or all", what,
		       v->line, v->column, v->key, v->s);
}

int mc_access_parse(const char *text, struct mc_access **ret_access, struct mc_error *err)
{
	const char *what = "access";
	mc_cleanup(mc_freep) char *file = NULL;
	mc_cleanup(json_freep) struct mc_json *json = NULL;
	struct mc_error why = {0};
	struct mc_access *a;
	size_t len = strlen(text);
	int r = 0;

	*ret_access = NULL;
	if (!len)
		return 0;
	if (*text != '{' && *text != '[') {
		what = text;
		r = mc_read_file(text, &file, &len, &why);
		if (r < 0)
			return mc_fail(err, r == -ENOMEM ? r : -EINVAL,
				       "access: %.700s; give the rules themselves, beginning with '{', or the "
				       "path of a file", why.text);
		text = file;
	}
	if (r == 0)
		r = mc_json_parse(what, text, len, &json, err);
	if (r < 0)
		return r;
	if (json->type != MC_JSON_OBJECT || json->list.nr > MAX_RULES)
		return mc_fail(err, -EINVAL,
			       "%s: access is an object of at most %d rules, such as {\"trainer-*\": "
			       "\"read\", \"*\": \"none\"}",
			       what, MAX_RULES);
	a = calloc(1, sizeof *a);
	if (a)
		a->rules = calloc(json->list.nr + 1, sizeof *a->rules);
	if (!a || !a->rules)
		r = mc_fail(err, -ENOMEM, "access: out of memory");
	for (size_t i = 0; r == 0 && i < json->list.nr; i++) {
		r = parse_rule(&json->list.items[i], &a->rules[i], what, err);
		a->nr += r == 0;
	}
	if (r < 0)
		mc_access_free(a);
	else
		*ret_access = a;
	return r;
}

/* Time is bounded by the product of the lengths: one '*' is gone back to, the last. */
static bool matches(const char *pattern, const char *name)
{
	const char *star = NULL, *retry = NULL;

	while (*name) {
		if (*pattern == '*') {
			star = ++pattern;
			retry = name;
		} else if (*pattern == '?' || *pattern == *name) {
			pattern++;
			name++;
		} else if (star) {
			pattern = star;
			name = ++retry;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}

uint32_t mc_access_denied(const struct mc_access *access, const char *peer, char *why, size_t size)
{
	if (!access)
		return 0;
	for (size_t i = 0; i < access->nr; i++) {
		const struct rule *rule = &access->rules[i];

		if (!matches(rule->pattern, peer))
			continue;
		if (rule->denied == MC_ACCESS_ALL)
			snprintf(why, size, "by its rule '%.64s': '%s' of access", rule->pattern, rule->right);
		return rule->denied;
	}
	snprintf(why, size, "for no rule of its access names it");
	return MC_ACCESS_ALL;
}
