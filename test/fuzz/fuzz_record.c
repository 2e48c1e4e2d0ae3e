/* Fuzzes the record decoder with every layout of the two boundaries. */
#include "ipc/build.h"
#include "ipc/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct layout *const layouts[] = {
		&session_client_layout, &session_options_layout, &session_add_layout,
		&session_text_layout,	&session_sigs_layout,	 &session_build_layout,
		&session_done_layout,	&session_roots_layout,	 &session_built_layout,
		&build_start_layout,	&build_end_layout,	 &build_bye_layout,
	};
	static _Alignas(16) uint8_t record[4096];
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 22);
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 24);
	const struct layout *l;

	if (size < 1)
		return 0;
	l = layouts[data[0] % ELEMENTS(layouts)];
	if (record_decode(l, data + 1, size - 1, &a, record) == 0 &&
	    (record_encode(l, record, &b) < 0 || b.len != size - 1 ||
	     memcmp(b.data, data + 1, b.len)))
		__builtin_trap(); /* what decodes must encode to the same bytes */
	return 0;
}
