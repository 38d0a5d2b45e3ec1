/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzer of engine records as the metadata service gives them, and of addresses and names. */
#include <stdlib.h>
#include <string.h>

#include "addr.h"
#include "record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_record *record;
	struct mc_error err;
	struct mc_addr addr;
	char text[512];
	size_t len = size < sizeof text - 1 ? size : sizeof text - 1;

	if (mc_record_parse("record", (const char *)data, size, &record, &err) == 0) {
		if (mc_name_check(record->name, NULL) < 0 || !record->addresses[0])
			abort();
		mc_record_free(record);
	}
	if (len)
		memcpy(text, data, len);
	text[len] = '\0';
	(void)mc_addr_parse(text, &addr);
	(void)mc_name_check(text, NULL);
	(void)mc_name_port(text);
	return 0;
}
