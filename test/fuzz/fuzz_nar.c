/* libFuzzer target for the NAR reader. Oracle: whatever is accepted gives the same events in pieces
 * of any size, and writing the events gives an archive that is accepted with the same events. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "nar/nar.h"
#include "nar/refscan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads an archive in pieces of `piece` bytes and writes what it says. Returns the bytes used, or
 * 0. */
static size_t rewrite_archive(const uint8_t *data, size_t len, size_t piece, struct buf *out)
{
	struct nar_reader *r = nar_reader_new();
	_cleanup_err_ struct err e = { 0 };
	struct nar_item item;
	size_t at = 0, used, depth = 0;
	uint64_t left = 0, size = 0;
	int event = NAR_MORE;

	assert(r && nar_put_begin(out) == 0);
	for (;;) {
		size_t n = len - at < piece ? len - at : piece;

		event = nar_reader_next(r, data + at, n, &used, &item, &e);
		assert(used <= n);
		at += used;
		if (event < 0 || event == NAR_END || (event == NAR_MORE && at == len))
			break;
		assert(depth <= NAR_MAX_DEPTH);
		if (depth &&
		    (event == NAR_DIR_BEGIN || event == NAR_FILE_BEGIN || event == NAR_SYMLINK)) {
			assert(item.name[0] && !strchr(item.name, '/'));
			assert(strcmp(item.name, ".") && strcmp(item.name, ".."));
			assert(nar_put_entry_begin(out, item.name) == 0);
		}
		switch (event) {
		case NAR_MORE:
			assert(used == n);
			continue;
		case NAR_DIR_BEGIN:
			depth++;
			assert(nar_put_dir_begin(out) == 0);
			continue;
		case NAR_DIR_END:
			assert(depth-- > 0 && nar_put_dir_end(out) == 0);
			break;
		case NAR_FILE_BEGIN:
			left = size = item.size;
			assert(nar_put_file_begin(out, item.executable, size) == 0);
			continue;
		case NAR_FILE_DATA:
			assert(item.data_len && item.data_len <= left);
			left -= item.data_len;
			assert(buf_append(out, item.data, item.data_len) == 0);
			continue;
		case NAR_FILE_END:
			assert(left == 0 && nar_put_file_end(out, size) == 0);
			break;
		case NAR_SYMLINK:
			assert(item.target[0] && nar_put_symlink(out, item.target) == 0);
			break;
		default:
			abort();
		}
		if (depth)
			assert(nar_put_entry_end(out) == 0);
	}
	if (event < 0) {
		assert(e.code == NAR_BAD && e.msg);
		assert(nar_reader_next(r, data, len, &used, &item, &e) < 0);
	}
	nar_reader_free(r);
	return event == NAR_END ? at : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_buf_ struct buf a = BUF_INIT(1 << 24), b = BUF_INIT(1 << 24),
				 c = BUF_INIT(1 << 24);
	size_t whole = rewrite_archive(data, size, SIZE_MAX, &a);
	size_t pieces = rewrite_archive(data, size, 1 + size % 7, &b);

	assert(whole == pieces);
	assert(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
	if (whole) {
		assert(rewrite_archive(a.data, a.len, SIZE_MAX, &c) == a.len);
		assert(a.len == c.len && memcmp(a.data, c.data, a.len) == 0);
	}
	return 0;
}
