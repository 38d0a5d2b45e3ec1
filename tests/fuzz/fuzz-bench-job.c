/* SPDX-License-Identifier: Apache-2.0 */
/* A job of the bench, from anywhere: refused with a sentence, or its values lie in their ranges and,
 * printed, are the same job again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "job.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct text {
	FILE *f;
	bool more;
};

static void print_key(void *ctx, const char *name, const char *value, bool quote)
{
	struct text *t = ctx;

	fprintf(t->f, "%s\"%s\": ", t->more ? ",\n" : "{", name);
	t->more = true;
	if (quote)
		fputc('"', t->f);
	for (const char *p = value; *p; p++) {
		if (quote && (*p == '"' || *p == '\\'))
			fputc('\\', t->f);
		fputc(*p, t->f);
	}
	if (quote)
		fputc('"', t->f);
}

static char *print(const struct bench_job *job, size_t *ret_len)
{
	char *text = NULL;
	struct text t = {.f = open_memstream(&text, ret_len)};

	if (!t.f)
		abort();
	bench_job_each(job, print_key, &t);
	fputc('}', t.f);
	if (fclose(t.f) != 0)
		abort();
	return text;
}

static void check(const struct bench_job *job)
{
	double shares = 0;

	if (job->batch < 1 || job->depth < 1 || job->depth > 256 || job->threads < 1 || job->threads > 1024 ||
	    job->peers > BENCH_MAX_PEERS || job->layers < 1 || job->nr_blocks < 1 ||
	    job->nr_blocks > BENCH_MAX_SIZES || job->footprint < 1 || !(job->read_share >= 0) ||
	    job->read_share > 1 || !(job->duration >= 0) || !(job->speed >= 0))
		abort();
	for (size_t i = 0; i < job->nr_blocks; i++) {
		shares += job->blocks[i].share;
		if (job->blocks[i].size < 1 || !(job->blocks[i].share > 0))
			abort();
	}
	if (!isfinite(shares) || bench_job_largest(job) > UINT64_C(1) << 34)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_error err = {0};
	struct bench_job job, again;
	char *text, *second;
	size_t len;

	bench_job_init(&job);
	if (bench_job_parse("fuzz", (const char *)data, size, &job, &err) < 0 || bench_job_check(&job, &err) < 0) {
		if (!err.text[0])
			abort();
		return 0;
	}
	check(&job);
	text = print(&job, &len);
	bench_job_init(&again);
	if (bench_job_parse("again", text, len, &again, &err) < 0 || bench_job_check(&again, &err) < 0) {
		fprintf(stderr, "%s\n%s\n", err.text, text);
		abort();
	}
	second = print(&again, &len);
	if (strcmp(text, second) != 0)
		abort();
	free(second);
	free(text);
	return 0;
}
