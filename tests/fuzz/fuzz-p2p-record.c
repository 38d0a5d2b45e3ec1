/* SPDX-License-Identifier: Apache-2.0 */
/* Values of the P2P store in the metadata service: the record of an object, and the key of a source. */
#include <stdlib.h>
#include <string.h>

#include "p2p_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_p2p_record rec, again;
	struct mc_p2p_offer offer;
	struct mc_error err;
	char *text;

	if (mc_p2p_record_parse("models/llama", data, size, &rec, &err) == 0) {
		/* What was taken is written such that it is taken again. */
		text = mc_p2p_record_print(&rec);
		if (!text || mc_p2p_record_parse(rec.name, text, strlen(text), &again, &err) < 0)
			abort();
		if (again.size != rec.size || again.nr_sizes != rec.nr_sizes)
			abort();
		mc_p2p_record_free(&again);
		mc_p2p_record_free(&rec);
		free(text);
	}
	if (mc_p2p_offer_parse("models/llama", "node1", data, size, &offer, &err) == 0) {
		text = mc_p2p_offer_print(&offer);
		if (!text || mc_p2p_offer_parse("models/llama", "node1", text, strlen(text), &offer, &err) < 0)
			abort();
		free(text);
	}
	return 0;
}
