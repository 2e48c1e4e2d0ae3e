/* Runs a libFuzzer target over folders of files, for compilers and runs without libFuzzer. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *de;
	int n = 0;

	if (!d)
		return -1;
	while ((de = readdir(d))) {
		_cleanup_free_ char *data = NULL;
		size_t len;

		if (!strstr(de->d_name, ".nar"))
			continue;
		if (read_file_at(dirfd(d), de->d_name, 1 << 20, &data, &len) < 0)
			n = -1;
		if (n < 0)
			break;
		LLVMFuzzerTestOneInput((uint8_t *)data, len);
		n++;
	}
	closedir(d);
	return n;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int n = replay(argv[i]);

		if (n <= 0) {
			fprintf(stderr, "%s: nothing that could be replayed\n", argv[i]);
			return 1;
		}
		printf("%s: %d files\n", argv[i], n);
	}
	return argc > 1 ? 0 : 1;
}
