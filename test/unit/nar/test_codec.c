/* The NAR reader and writer, without a file system. */
#include "helper.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static void begin_file(struct buf *b, const char *data, bool executable)
{
	assert_int_equal(nar_put_file_begin(b, executable, strlen(data)), 0);
	assert_int_equal(buf_append_str(b, data), 0);
	assert_int_equal(nar_put_file_end(b, strlen(data)), 0);
}

/* /{a (executable "hello"), b -> target, c/{d ("")}} */
static void sample(struct buf *b)
{
	nar_put_begin(b);
	nar_put_dir_begin(b);
	nar_put_entry_begin(b, "a");
	begin_file(b, "hello", true);
	nar_put_entry_end(b);
	nar_put_entry_begin(b, "b");
	nar_put_symlink(b, "target");
	nar_put_entry_end(b);
	nar_put_entry_begin(b, "c");
	nar_put_dir_begin(b);
	nar_put_entry_begin(b, "d");
	begin_file(b, "", false);
	nar_put_entry_end(b);
	nar_put_dir_end(b);
	nar_put_entry_end(b);
	assert_int_equal(nar_put_dir_end(b), 0);
}

/* The events of an archive as text; data of one file is joined, so pieces do not matter. Returns
 * the last event. */
static int events(const uint8_t *data, size_t len, size_t piece, struct buf *log, size_t *ret_used,
		  struct err *e)
{
	struct nar_reader *r = nar_reader_new();
	struct nar_item it;
	size_t at = 0, used;
	int ev;

	assert_non_null(r);
	for (;;) {
		size_t n = len - at < piece ? len - at : piece;

		ev = nar_reader_next(r, data + at, n, &used, &it, e);
		assert_true(used <= n);
		at += used;
		if (ev < 0 || ev == NAR_END || (ev == NAR_MORE && at == len))
			break;
		if (ev == NAR_DIR_BEGIN)
			buf_printf(log, "dir '%s'\n", it.name);
		else if (ev == NAR_DIR_END)
			buf_printf(log, "end\n");
		else if (ev == NAR_FILE_BEGIN)
			buf_printf(log, "file '%s' %d %llu: ", it.name, it.executable,
				   (unsigned long long)it.size);
		else if (ev == NAR_FILE_DATA)
			buf_append(log, it.data, it.data_len);
		else if (ev == NAR_FILE_END)
			buf_printf(log, ".\n");
		else if (ev == NAR_SYMLINK)
			buf_printf(log, "link '%s' %s\n", it.name, it.target);
		else
			assert_int_equal(ev, NAR_MORE);
	}
	nar_reader_free(r);
	if (ret_used)
		*ret_used = at;
	return ev;
}

static void assert_log(const struct buf *nar, const char *want)
{
	for (size_t piece = 1; piece <= nar->len + 1; piece++) {
		_cleanup_buf_ struct buf log = BUF_INIT(ANY_SIZE);
		_cleanup_err_ struct err e = { 0 };
		size_t used;

		assert_int_equal(events(nar->data, nar->len, piece, &log, &used, &e), NAR_END);
		assert_int_equal(used, nar->len);
		buf_append(&log, "", 1);
		assert_string_equal((char *)log.data, want);
	}
}

static void test_all_pieces(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE);

	(void)state;
	sample(&b);
	assert_log(&b, "dir ''\nfile 'a' 1 5: hello.\nlink 'b' target\n"
		       "dir 'c'\nfile 'd' 0 0: .\nend\nend\n");
}

static void test_root_kinds(void **state)
{
	_cleanup_buf_ struct buf file = BUF_INIT(ANY_SIZE), link = BUF_INIT(ANY_SIZE);

	(void)state;
	nar_put_begin(&file);
	begin_file(&file, "12345678", false);
	assert_log(&file, "file '' 0 8: 12345678.\n");
	nar_put_begin(&link);
	nar_put_symlink(&link, "/x");
	assert_log(&link, "link '' /x\n");
}

/* Older readers took it for an empty file; upstream 2.34 does not. */
static void test_file_without_contents(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE), log = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };

	(void)state;
	nar_put_begin(&b);
	nar_put_str(&b, "(", 1);
	nar_put_str(&b, "type", 4);
	nar_put_str(&b, "regular", 7);
	nar_put_str(&b, ")", 1);
	assert_int_equal(events(b.data, b.len, SIZE_MAX, &log, NULL, &e), -1);
	assert_string_equal(err_msg(&e), "bad archive: expected tag 'contents', got ')'");
}

static void test_input_behind_the_end(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE), log = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	size_t len, used;

	(void)state;
	sample(&b);
	len = b.len;
	buf_append_str(&b, "not looked at");
	assert_int_equal(events(b.data, b.len, SIZE_MAX, &log, &used, &e), NAR_END);
	assert_int_equal(used, len);
}

static void test_data_is_a_slice_of_the_input(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE);
	struct nar_reader *r = nar_reader_new();
	struct nar_item it;
	size_t used, at = 0;
	char big[100000];

	(void)state;
	memset(big, 'x', sizeof(big));
	nar_put_begin(&b);
	nar_put_file_begin(&b, false, sizeof(big));
	size_t offset = b.len;
	buf_append(&b, big, sizeof(big));
	nar_put_file_end(&b, sizeof(big));
	assert_int_equal(nar_reader_next(r, b.data, b.len, &used, &it, NULL), NAR_FILE_BEGIN);
	at += used;
	assert_int_equal(nar_reader_next(r, b.data + at, b.len - at, &used, &it, NULL),
			 NAR_FILE_DATA);
	assert_ptr_equal(it.data, b.data + offset);
	assert_int_equal(it.data_len, sizeof(big));
	nar_reader_free(r);
}

static void test_truncated_everywhere(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE);

	(void)state;
	sample(&b);
	for (size_t len = 0; len < b.len; len++) {
		_cleanup_buf_ struct buf log = BUF_INIT(ANY_SIZE);
		_cleanup_err_ struct err e = { 0 };

		assert_int_equal(events(b.data, len, SIZE_MAX, &log, NULL, &e), NAR_MORE);
	}
}

/* Every byte outside of names, targets and contents matters: a changed one is refused, or changes
 * what the archive says. */
static void test_every_byte_matters(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE), want = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };

	(void)state;
	sample(&b);
	events(b.data, b.len, SIZE_MAX, &want, NULL, &e);
	for (size_t i = 0; i < b.len; i++) {
		_cleanup_buf_ struct buf log = BUF_INIT(ANY_SIZE);
		int ev;

		b.data[i] ^= 1;
		ev = events(b.data, b.len, SIZE_MAX, &log, NULL, &e);
		b.data[i] ^= 1;
		if (ev == NAR_END)
			assert_true(log.len != want.len || memcmp(log.data, want.data, log.len));
	}
}

static void deep(struct buf *b, size_t levels)
{
	nar_put_begin(b);
	for (size_t i = 0; i < levels; i++) {
		nar_put_dir_begin(b);
		if (i + 1 < levels)
			nar_put_entry_begin(b, "d");
	}
	for (size_t i = 0; i < levels; i++) {
		nar_put_dir_end(b);
		if (i + 1 < levels)
			nar_put_entry_end(b);
	}
}

static void test_depth(void **state)
{
	static const size_t levels[] = { 1, 63, 64, 65, 100000 };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(levels); i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE), log = BUF_INIT(ANY_SIZE);
		_cleanup_err_ struct err e = { 0 };
		int ev;

		deep(&b, levels[i]);
		ev = events(b.data, b.len, SIZE_MAX, &log, NULL, &e);
		if (levels[i] <= 64) {
			assert_int_equal(ev, NAR_END);
			continue;
		}
		assert_int_equal(ev, -1);
		assert_int_equal(e.code, NAR_BAD);
		assert_string_equal(
			e.msg, "bad archive: NAR directory nesting exceeds maximum depth of 64");
	}
}

static const struct {
	const char *file, *sentence;
} sentences[] = {
	{ "magic-other.nar", "bad archive: input doesn't look like a Nix archive" },
	{ "magic-long.nar", "bad archive: input doesn't look like a Nix archive" },
	{ "magic-padding.nar", "bad archive: input doesn't look like a Nix archive" },
	{ "unsorted.nar", "bad archive: NAR directory is not sorted" },
	{ "unsorted-signed.nar", "bad archive: NAR directory is not sorted" },
	{ "dup.nar", "bad archive: NAR directory is not sorted" },
	{ "name-dotdot.nar", "bad archive: NAR contains invalid file name '..'" },
	{ "name-slash.nar", "bad archive: NAR contains invalid file name 'a/b'" },
	{ "name-empty.nar", "bad archive: NAR contains invalid file name ''" },
	{ "name-256.nar", "string is too long" },
	{ "link-nul.nar", "bad archive: NAR contains invalid symlink target" },
	{ "padding-contents.nar", "non-zero padding" },
	{ "padding-tag.nar", "non-zero padding" },
	{ "type-unknown.nar", "bad archive: unknown file type 'device'" },
	{ "string-2e64-1.nar", "string is too long" },
};

static void must_fail(const char *name, const uint8_t *data, size_t len, size_t piece)
{
	_cleanup_buf_ struct buf log = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };

	if (events(data, len, piece, &log, NULL, &e) != -1)
		fail_msg("%s was not refused", name);
	assert_int_equal(e.code, NAR_BAD);
	assert_non_null(e.msg);
	for (size_t i = 0; i < ELEMENTS(sentences); i++)
		if (!strcmp(sentences[i].file, name))
			assert_string_equal(e.msg, sentences[i].sentence);
}

static void test_must_fail_files(void **state)
{
	DIR *d = opendir(TEST_DATA "/must-fail/nar");
	struct dirent *de;
	size_t n = 0;

	(void)state;
	assert_non_null(d);
	while ((de = readdir(d))) {
		_cleanup_free_ char *data = NULL;
		size_t len;

		if (!strstr(de->d_name, ".nar"))
			continue;
		assert_int_equal(read_file_at(dirfd(d), de->d_name, 1 << 20, &data, &len), 0);
		must_fail(de->d_name, (uint8_t *)data, len, SIZE_MAX);
		must_fail(de->d_name, (uint8_t *)data, len, 1);
		must_fail(de->d_name, (uint8_t *)data, len, 7);
		n++;
	}
	closedir(d);
	assert_true(n >= 60);
}

static void test_largest_size_begins(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANY_SIZE), log = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };

	(void)state;
	nar_put_begin(&b);
	nar_put_file_begin(&b, false, INT64_MAX);
	assert_int_equal(events(b.data, b.len, SIZE_MAX, &log, NULL, &e), NAR_MORE);
	buf_append(&log, "", 1);
	assert_string_equal((char *)log.data, "file '' 0 9223372036854775807: ");
}

static void test_writer_keeps_the_limit(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(40);

	(void)state;
	assert_int_equal(nar_put_begin(&b), 0);
	assert_true(nar_put_dir_begin(&b) < 0);
	assert_int_equal(b.len, 24); /* as it was */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_pieces),
		cmocka_unit_test(test_root_kinds),
		cmocka_unit_test(test_file_without_contents),
		cmocka_unit_test(test_input_behind_the_end),
		cmocka_unit_test(test_data_is_a_slice_of_the_input),
		cmocka_unit_test(test_truncated_everywhere),
		cmocka_unit_test(test_every_byte_matters),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_must_fail_files),
		cmocka_unit_test(test_largest_size_begins),
		cmocka_unit_test(test_writer_keeps_the_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
