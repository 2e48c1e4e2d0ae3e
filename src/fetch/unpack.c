/* An archive with one directory in it becomes a channel. See fetch.h. */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "fetch/fetch.h"

enum { BLOCK = 64 * 1024 };

/* Nothing of it may leave the directory it is unpacked in, by name or by link. */
#define FLAGS                                                                                      \
	(ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT |                       \
	 ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS)

static int failed(struct archive *a, const char *src, struct err *e)
{
	const char *why = archive_error_string(a);

	return err_set(e, FETCH_FAILED, "failed to extract archive '%s' (%s)", src,
		       why ? why : "out of memory");
}

static int copy_entry(struct archive *in, struct archive *out, const char *src, struct err *e)
{
	const void *data;
	size_t len;
	la_int64_t offset;
	int r;

	while ((r = archive_read_data_block(in, &data, &len, &offset)) == ARCHIVE_OK)
		if (archive_write_data_block(out, data, len, offset) < ARCHIVE_WARN)
			return failed(out, src, e);
	return r == ARCHIVE_EOF ? 0 : failed(in, src, e);
}

/* Regular files, directories and links; an archive's owners, times and special bits are nothing to
 * us. */
static int unpack_entries(struct archive *in, struct archive *out, const char *src, struct err *e)
{
	struct archive_entry *entry;
	int r;

	while ((r = archive_read_next_header(in, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		const char *name = archive_entry_pathname(entry);
		mode_t type = archive_entry_filetype(entry);

		if (!name)
			return err_set(e, FETCH_FAILED, "cannot get archive member name in '%s'",
				       src);
		if (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK &&
		    !archive_entry_hardlink(entry))
			return err_set(e, FETCH_FAILED,
				       "archive '%s' has a special file in it: '%s'", src, name);
		archive_entry_set_perm(entry, (archive_entry_perm(entry) & 0111) | 0644 |
						      (type == AE_IFDIR ? 0755 : 0));
		if (archive_write_header(out, entry) < ARCHIVE_WARN)
			return failed(out, src, e);
		r = copy_entry(in, out, src, e);
		if (r == 0 && archive_write_finish_entry(out) < ARCHIVE_WARN)
			r = failed(out, src, e);
		if (r)
			return r;
	}
	return r == ARCHIVE_EOF ? 0 : failed(in, src, e);
}

/* Into the working directory. */
static int unpack(const char *src, struct err *e)
{
	struct archive *in = archive_read_new(), *out = archive_write_disk_new();
	int r;

	if (!in || !out)
		return err_set(e, FETCH_FAILED, "out of memory");
	archive_read_support_filter_all(in);
	archive_read_support_format_all(in);
	archive_write_disk_set_options(out, FLAGS);
	if (archive_read_open_filename(in, src, BLOCK) != ARCHIVE_OK)
		r = failed(in, src, e);
	else
		r = unpack_entries(in, out, src, e);
	archive_write_free(out);
	archive_read_free(in);
	return r;
}

/* The name of the one thing in the working directory. */
static int the_one(const char *src, char ret[static 256], struct err *e)
{
	DIR *d = opendir(".");
	struct dirent *de;
	size_t n = 0;

	if (!d)
		return err_set(e, FETCH_FAILED, "reading what was unpacked: %s", strerror(errno));
	while ((de = readdir(d))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		n++;
		snprintf(ret, 256, "%s", de->d_name);
	}
	closedir(d);
	if (n == 0)
		return err_set(e, FETCH_FAILED, "channel tarball '%s' is empty", src);
	if (n > 1)
		return err_set(e, FETCH_FAILED, "channel tarball '%s' contains more than one file",
			       src);
	return 0;
}

int unpack_channel(const char *src, const char *channel, const char *out, struct err *e)
{
	char name[256];
	int r;

	if (!*channel || strchr(channel, '/') || !strcmp(channel, ".") || !strcmp(channel, ".."))
		return err_set(e, FETCH_FAILED,
			       "channelName is not allowed to contain filesystem separators, got "
			       "'%s'",
			       channel);
	if (mkdir(out, 0755) < 0 || chdir(out) < 0)
		return err_set(e, FETCH_FAILED, "creating directory '%s': %s", out,
			       strerror(errno));
	r = unpack(src, e);
	r = r ? r : the_one(src, name, e);
	if (r == 0 && strcmp(name, channel) && rename(name, channel) < 0)
		r = err_set(e, FETCH_FAILED, "failed to rename '%s' to '%s/%s': %s", name, out,
			    channel, strerror(errno));
	return r;
}
