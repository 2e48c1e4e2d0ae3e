/* NAR archives: an iterative push parser without I/O.
 *
 *   nar    = str("nix-archive-1") node
 *   node   = str("(") str("type") ( file / dir / link ) str(")")
 *   file   = str("regular") [ str("executable") str("") ] [ str("contents") bytes ]
 *   link   = str("symlink") str("target") str(TARGET)
 *   dir    = str("directory") *( str("entry") str("(") str("name") str(NAME) str("node") node
 * str(")") ) str(s) = u64 little endian length, s, zero bytes up to a multiple of 8
 *
 * Names are not empty, not "." or "..", hold no "/" and no NUL, and come in strictly rising byte
 * order. Depth is limited (upstream: 64), so are names (255 bytes) and link targets (4095).
 * Anything else ends in NAR_BAD with a sentence; there is no recursion and no allocation that
 * follows a length from the archive. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { NAR_MAX_DEPTH = 64, NAR_NAME_MAX = 255, NAR_TARGET_MAX = 4095, NAR_BAD = 1 };

enum nar_event {
	NAR_MORE,      /* all input used, the archive goes on */
	NAR_DIR_BEGIN, /* name = entry name, "" for the root */
	NAR_DIR_END,
	NAR_FILE_BEGIN, /* name, executable, size (bytes) */
	NAR_FILE_DATA,	/* data, data_len: a piece of the contents, pointing into the input */
	NAR_FILE_END,
	NAR_SYMLINK, /* name, target */
	NAR_END,     /* the archive is complete; input behind it is not looked at */
};

struct nar_reader;
struct nar_item {
	const char *name;
	const char *target;
	const uint8_t *data;
	size_t data_len;
	uint64_t size;
	bool executable;
};

struct nar_reader *nar_reader_new(void);
void nar_reader_free(struct nar_reader *r);
/* Advances over input[0..len); `ret_used` says how much was used. Returns an enum nar_event
 * (>= 0) or -1 with `e` filled (code NAR_BAD). Call again with the rest until NAR_MORE or NAR_END.
 */
int nar_reader_next(struct nar_reader *r, const uint8_t *input, size_t len, size_t *ret_used,
		    struct nar_item *ret, struct err *e);

/* Writing: appends to `b`. Contents of a file go between file_begin and file_end by the caller. */
int nar_put_str(struct buf *b, const void *s, size_t len);
int nar_put_begin(struct buf *b);				       /* magic */
int nar_put_file_begin(struct buf *b, bool executable, uint64_t size); /* up to the contents */
int nar_put_file_end(struct buf *b, uint64_t size);		       /* padding and ")" */
int nar_put_symlink(struct buf *b, const char *target);		       /* whole node */
int nar_put_dir_begin(struct buf *b);
int nar_put_entry_begin(struct buf *b, const char *name);
int nar_put_entry_end(struct buf *b);
int nar_put_dir_end(struct buf *b);
