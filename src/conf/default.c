/* Defaults that depend on the machine: what upstream compiles in or looks up at start. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "conf/table.h"

/* Kernel names of machines whose Nix name is another one. */
static const struct {
	const char *machine, *system;
} renamed[] = {
	{ "i386", "i686-linux" },	{ "i486", "i686-linux" },
	{ "i586", "i686-linux" },	{ "ppc64le", "powerpc64le-linux" },
	{ "ppc64", "powerpc64-linux" }, { "armv8l", "armv7l-linux" },
};

int conf_default_system(char **ret)
{
	struct utsname u;

	if (uname(&u) < 0)
		return -errno;
	for (size_t i = 0; i < ELEMENTS(renamed); i++)
		if (!strcmp(renamed[i].machine, u.machine)) {
			*ret = strdup(renamed[i].system);
			return *ret ? 0 : -ENOMEM;
		}
	return asprintf(ret, "%s-linux", u.machine) < 0 ? -ENOMEM : 0;
}

#if defined(__x86_64__)
struct cpu_bits {
	unsigned int ecx1, ebx7, ecx_ext;
};

static bool has(unsigned int word, unsigned int bits)
{
	return (word & bits) == bits;
}

/* The levels of the x86-64 psABI, from the processor's own feature words. */
static int x86_level(void)
{
	unsigned int a, b, c, d;
	struct cpu_bits bits = { 0 };

	if (__get_cpuid(1, &a, &b, &c, &d))
		bits.ecx1 = c;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
		bits.ebx7 = b;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d))
		bits.ecx_ext = c;
	/* sse3 ssse3 cx16 sse4.1 sse4.2 popcnt; lahf */
	if (!has(bits.ecx1, 1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23) ||
	    !has(bits.ecx_ext, 1u << 0))
		return 1;
	/* fma movbe osxsave avx f16c; bmi1 avx2 bmi2; lzcnt */
	if (!has(bits.ecx1, 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29) ||
	    !has(bits.ebx7, 1u << 3 | 1u << 5 | 1u << 8) || !has(bits.ecx_ext, 1u << 5))
		return 2;
	/* avx512 f dq cd bw vl */
	return has(bits.ebx7, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) ? 4 : 3;
}

/* The first WSL emulates system calls, and not the 32-bit ones. */
static bool is_wsl1(void)
{
	static const char tail[] = "-Microsoft";
	struct utsname u;
	size_t len;

	if (uname(&u) < 0)
		return false;
	len = strlen(u.release);
	return len >= sizeof(tail) - 1 && !strcmp(u.release + len - (sizeof(tail) - 1), tail);
}
#endif

int conf_default_platforms(struct strv *ret)
{
	int r = 0;
#if defined(__x86_64__)
	static const char *const levels[] = { "x86_64-v1-linux", "x86_64-v2-linux",
					      "x86_64-v3-linux", "x86_64-v4-linux" };
	int level = x86_level();

	if (!is_wsl1())
		r = strv_add(ret, "i686-linux");
	for (int i = 0; !r && i < level; i++)
		r = strv_add(ret, levels[i]);
#else
	(void)ret; /* no other machine has extra platforms by default */
#endif
	return r;
}

int conf_default_features(struct strv *ret)
{
	static const char *const fixed[] = { "nixos-test", "benchmark", "big-parallel",
					     "uid-range" };
	int r = 0;

	for (size_t i = 0; !r && i < ELEMENTS(fixed); i++)
		r = strv_add(ret, fixed[i]);
	if (!r && !access("/dev/kvm", R_OK | W_OK))
		r = strv_add(ret, "kvm");
	if (!r)
		strv_sort(ret);
	return r;
}
