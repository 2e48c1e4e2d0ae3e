/* One URL into one store object. See fetch.h.
 *
 * TLS is always verified. Credentials are those of the netrc file for exactly the host that asks;
 * the library drops them when a redirect leads elsewhere. A redirect leads to the web or FTP only.
 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <lzma.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "fetch/fetch.h"
#include "nar/tree.h"

enum {
	MAX_REDIRECTS = 10,
	LZMA_MEMORY = 1 << 30, /* bytes; xz -9 wants 65 MiB */
	CHUNK = 64 * 1024,
	BASE_WAIT_MSEC = 250, /* before the second attempt; doubles */
};

/* Where the bytes go: a file, or a NAR that is unpacked, or an xz stream with one in it. */
struct sink {
	int dirfd;
	const char *name;
	int fd; /* of the file */
	struct tree_writer *nar;
	bool nar_ended;
	lzma_stream xz;
	bool is_xz, xz_ended;
	int error; /* -errno, FETCH_FAILED */
	struct err e;
};

static bool ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

static int sink_open(struct sink *s, const struct fetch *f)
{
	if (!f->unpack) {
		s->fd = openat(s->dirfd, s->name,
			       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		return s->fd < 0 ? err_errno(&s->e, -errno, "opening '%s'", f->out) : 0;
	}
	s->nar = tree_writer_new(s->dirfd, s->name);
	s->is_xz = ends_with(f->url, ".xz");
	s->xz = (lzma_stream)LZMA_STREAM_INIT;
	if (!s->nar || (s->is_xz && lzma_stream_decoder(&s->xz, LZMA_MEMORY, LZMA_CONCATENATED)))
		return err_set(&s->e, -ENOMEM, "out of memory");
	return 0;
}

static int feed_nar(struct sink *s, const uint8_t *data, size_t len)
{
	size_t used = 0;
	int r;

	if (s->nar_ended || len == 0)
		return 0; /* what comes behind a NAR does not count, as with upstream */
	r = tree_writer_feed(s->nar, data, len, &used, &s->e);
	if (r == TREE_END)
		s->nar_ended = true;
	return r == TREE_END ? 0 : r;
}

static int feed_xz(struct sink *s, const uint8_t *data, size_t len, lzma_action action)
{
	uint8_t out[CHUNK];

	s->xz.next_in = data;
	s->xz.avail_in = len;
	while (!s->xz_ended) {
		lzma_ret lr;
		int r;

		s->xz.next_out = out;
		s->xz.avail_out = sizeof(out);
		lr = lzma_code(&s->xz, action);
		if (lr != LZMA_OK && lr != LZMA_STREAM_END && lr != LZMA_BUF_ERROR)
			return err_set(&s->e, FETCH_FAILED,
				       "cannot decompress the xz stream (error %d)", (int)lr);
		r = feed_nar(s, out, sizeof(out) - s->xz.avail_out);
		if (r)
			return r;
		s->xz_ended = lr == LZMA_STREAM_END;
		if (s->xz.avail_out > 0 && s->xz.avail_in == 0)
			return 0;
	}
	return 0;
}

static size_t on_data(char *data, size_t one, size_t len, void *ctx)
{
	struct sink *s = ctx;

	(void)one;
	if (s->nar && s->is_xz)
		s->error = feed_xz(s, (const uint8_t *)data, len, LZMA_RUN);
	else if (s->nar)
		s->error = feed_nar(s, (const uint8_t *)data, len);
	else
		s->error = write_full(s->fd, data, len);
	return s->error ? 0 : len;
}

/* All bytes are here. */
static int sink_finish(struct sink *s, const struct fetch *f)
{
	int r = 0;

	if (s->nar && s->is_xz) {
		r = feed_xz(s, NULL, 0, LZMA_FINISH);
		if (r == 0 && !s->xz_ended)
			r = err_set(&s->e, FETCH_FAILED, "the xz stream ends too early");
	}
	if (r == 0 && s->nar && !s->nar_ended)
		r = err_set(&s->e, FETCH_FAILED, "the NAR ends too early");
	if (r == 0 && f->executable && fchmodat(s->dirfd, s->name, 0755, 0) < 0)
		r = err_errno(&s->e, -errno, "making '%s' executable", f->out);
	return r;
}

static void sink_close(struct sink *s)
{
	close_fdp(&s->fd);
	tree_writer_free(s->nar);
	s->nar = NULL;
	if (s->is_xz)
		lzma_end(&s->xz);
	s->is_xz = false;
	err_done(&s->e);
}

static void set_options(CURL *c, const struct fetch *f, const char *url, char *error,
			struct sink *s)
{
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, error);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
	/* A file is one of the sandbox's own, among which the passwords are. The mirrors were chosen
	 * by the administrator. */
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR,
			 f->netrc && url == f->url ? "http,https,ftp,ftps"
						   : "http,https,ftp,ftps,file");
	curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https,ftp,ftps");
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(c, CURLOPT_PIPEWAIT, 0L);
	curl_easy_setopt(c, CURLOPT_USERAGENT, f->user_agent ? f->user_agent : "Airplant");
	if (f->ca_file)
		curl_easy_setopt(c, CURLOPT_CAINFO, f->ca_file);
	if (f->netrc) {
		curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
		curl_easy_setopt(c, CURLOPT_NETRC_FILE, f->netrc);
	}
	if (f->connect_timeout)
		curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)f->connect_timeout);
	if (f->stalled_timeout) {
		curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
		curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)f->stalled_timeout);
	}
}

/* Would the same request have another answer? */
static bool is_transient(CURLcode code, long status)
{
	switch (code) {
	case CURLE_HTTP_RETURNED_ERROR:
		return status == 408 || status == 429 ||
		       (status >= 500 && status != 501 && status != 505 && status != 511);
	case CURLE_FAILED_INIT:
	case CURLE_URL_MALFORMAT:
	case CURLE_NOT_BUILT_IN:
	case CURLE_REMOTE_ACCESS_DENIED:
	case CURLE_FILE_COULDNT_READ_FILE:
	case CURLE_FUNCTION_NOT_FOUND:
	case CURLE_ABORTED_BY_CALLBACK:
	case CURLE_BAD_FUNCTION_ARGUMENT:
	case CURLE_INTERFACE_FAILED:
	case CURLE_UNKNOWN_OPTION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_TOO_MANY_REDIRECTS:
	case CURLE_WRITE_ERROR:
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_PEER_FAILED_VERIFICATION:
		return false;
	default:
		return true;
	}
}

/* 0, FETCH_FAILED, or TRANSIENT: it may go better the next time. */
enum { TRANSIENT = 2 };

static int transfer(const struct fetch *f, const char *url, struct sink *s, struct err *e)
{
	char error[CURL_ERROR_SIZE] = "";
	CURL *c = curl_easy_init();
	long status = 0;
	CURLcode code;

	if (!c)
		return err_set(e, FETCH_FAILED, "out of memory");
	set_options(c, f, url, error, s);
	code = curl_easy_perform(c);
	curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_cleanup(c);
	if (code == CURLE_OK)
		return 0;
	if (s->error < 0 && !s->e.code)
		(void)err_errno(&s->e, s->error, "writing '%s'", f->out);
	if (s->error)
		return err_set(e, FETCH_FAILED, "unable to download '%s': %s", url, err_msg(&s->e));
	if (code == CURLE_HTTP_RETURNED_ERROR)
		(void)err_set(e, FETCH_FAILED, "unable to download '%s': HTTP error %ld", url,
			      status);
	else
		(void)err_set(e, FETCH_FAILED, "unable to download '%s': %s (%d)%s%s", url,
			      curl_easy_strerror(code), (int)code, *error ? " " : "", error);
	return is_transient(code, status) ? TRANSIENT : FETCH_FAILED;
}

static int attempt(const struct fetch *f, const char *url, struct sink *s, struct err *e)
{
	int r = sink_open(s, f);

	if (r == 0)
		r = transfer(f, url, s, e);
	else
		r = err_set(e, FETCH_FAILED, "%s", err_msg(&s->e));
	if (r == 0) {
		r = sink_finish(s, f);
		if (r)
			r = err_set(e, FETCH_FAILED, "unable to download '%s': %s", url,
				    err_msg(&s->e));
	}
	sink_close(s);
	if (r)
		(void)rm_tree_at(s->dirfd, s->name);
	return r;
}

/* Twice as long each time, with a random part, so that many do not come back at once. */
static void wait_a_while(uint64_t n)
{
	uint32_t random = 0;
	uint64_t msec = (uint64_t)BASE_WAIT_MSEC << (n < 8 ? n : 8);
	struct timespec t;

	if (getrandom(&random, sizeof(random), 0) == sizeof(random))
		msec += random % (msec / 2 + 1);
	t = (struct timespec){ .tv_sec = (time_t)(msec / 1000),
			       .tv_nsec = (long)(msec % 1000) * 1000000 };
	(void)nanosleep(&t, NULL);
}

static int fetch_from(const struct fetch *f, const char *url, int dirfd, const char *name,
		      struct err *e)
{
	uint64_t attempts = f->attempts ? f->attempts : 1;
	int r = FETCH_FAILED;

	for (uint64_t i = 0; i < attempts; i++) {
		struct sink s = { .dirfd = dirfd, .name = name, .fd = -1 };

		err_done(e);
		*e = (struct err){};
		r = attempt(f, url, &s, e);
		if (r != TRANSIENT)
			break;
		if (i + 1 < attempts) {
			fprintf(stderr, "warning: %s; retrying (attempt %llu/%llu)\n", err_msg(e),
				(unsigned long long)i + 1, (unsigned long long)attempts);
			wait_a_while(i);
		}
	}
	return r ? FETCH_FAILED : 0;
}

/* 0 when one of them has it. */
static int fetch_from_mirrors(const struct fetch *f, int dirfd, const char *name)
{
	_cleanup_free_ char *list = f->mirrors && f->mirror_hash ? strdup(f->mirrors) : NULL;
	char *save = list;

	for (char *m; save && (m = strsep(&save, " "));) {
		_cleanup_err_ struct err e = {};
		_cleanup_free_ char *url = NULL;

		if (!*m)
			continue;
		if (asprintf(&url, "%s%s%s", m, ends_with(m, "/") ? "" : "/", f->mirror_hash) < 0) {
			url = NULL;
			return FETCH_FAILED;
		}
		if (fetch_from(f, url, dirfd, name, &e) == 0)
			return 0;
	}
	return FETCH_FAILED;
}

int fetch_url(const struct fetch *f, struct err *e)
{
	const char *slash = strrchr(f->out, '/');
	_cleanup_free_ char *parent = slash ? strndup(f->out, (size_t)(slash - f->out)) : NULL;
	_cleanup_close_ int dirfd = -1;

	if (!parent || curl_global_init(CURL_GLOBAL_DEFAULT))
		return err_set(e, FETCH_FAILED, "out of memory");
	dirfd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return err_set(e, FETCH_FAILED, "opening '%s': %s", parent, strerror(errno));
	if (fetch_from_mirrors(f, dirfd, slash + 1) == 0)
		return 0;
	return fetch_from(f, f->url, dirfd, slash + 1, e);
}
