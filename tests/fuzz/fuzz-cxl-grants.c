/* SPDX-License-Identifier: Apache-2.0 */
/* The grants of a pool, as anybody who can write the metadata service may have left them. */
#include <stdlib.h>
#include <string.h>

#include "cxl_doc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cxl_doc doc, again;
	struct cxl_geometry g;
	struct cxl_grant grant;
	struct mc_error err;
	uint32_t slot;
	size_t len;
	char *text;

	if (cxl_geometry_plan((uint64_t)1 << 20, 4096, 0, &g, &err) < 0)
		abort();
	for (unsigned i = 0; i < CXL_UUID_LEN; i++)
		g.uuid[i] = (uint8_t)(i * 17);
	if (cxl_doc_parse(&doc, &g, (const char *)data, size, &err) < 0)
		return 0;
	/* What was taken can be written, and is read as the same. */
	text = cxl_doc_text(&doc, &len);
	if (!text || cxl_doc_parse(&again, &g, text, len, &err) < 0 || again.nr_members != doc.nr_members ||
	    again.nr_grants != doc.nr_grants)
		abort();
	free(text);
	cxl_doc_join(&doc, UINT64_MAX, "fuzz", &slot);
	if (cxl_doc_grant(&doc, UINT64_MAX, 1, 8, &grant) == 0 && grant.first + grant.nr > g.nr_units)
		abort();
	cxl_doc_leave(&doc, UINT64_MAX);
	return 0;
}
