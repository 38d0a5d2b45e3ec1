/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: any text is refused or becomes one, also laid over another. */
#include <stdlib.h>
#include <string.h>

#include "manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char under[] = "{\"name\":\"a\",\"kind\":\"transport\",\"library\":\"a.so\",\"wire\":\"w\","
				    "\"options\":{\"x\":{\"type\":\"int\",\"default\":1,\"max\":8}}}";
	struct mc_manifest alone = {0}, over = {0};
	struct mc_error err;

	if (mc_manifest_parse(&alone, "m.json", (const char *)data, size, &err) == 0) {
		/* What was accepted is whole. */
		if (!alone.name || !alone.library || !alone.memory || !alone.claims || !alone.options)
			abort();
	}
	mc_manifest_fini(&alone);
	if (mc_manifest_parse(&over, "m.json", under, sizeof under - 1, &err) < 0)
		abort();
	mc_manifest_parse(&over, "m.json", (const char *)data, size, &err);
	mc_manifest_fini(&over);
	return 0;
}
