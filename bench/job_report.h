/* SPDX-License-Identifier: Apache-2.0 */
/* What a job prints: the bench's report with the job's own lines. */
#ifndef MC_BENCH_JOB_REPORT_H
#define MC_BENCH_JOB_REPORT_H

#include "job_load.h"

struct bench_job_report {
	const struct bench_report *base; /* its result is result->base, with the final status */
	const struct bench_job *job;
	const struct bench_trace *trace; /* NULL: not a replay */
	const struct bench_job_result *result;
	uint32_t nr_peers;
};

void bench_job_report_text(FILE *f, const struct bench_job_report *report);
void bench_job_report_json(FILE *f, const struct bench_job_report *report);

#endif
