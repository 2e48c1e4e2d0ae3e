/* Attributes and small macros that every file may use. libc only; linked by every process. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define _cleanup_(f)   __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _must_check_   __attribute__((warn_unused_result))
#define _noreturn_     __attribute__((noreturn))
#define _nonnull_      __attribute__((nonnull))

#define ELEMENTS(a) (sizeof(a) / sizeof((a)[0]))

#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) *_pp = &(p);                                                         \
		__typeof__(p) _v = *_pp;                                                           \
		*_pp = NULL;                                                                       \
		_v;                                                                                \
	})

#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int *_f = &(fd);                                                                   \
		int _v = *_f;                                                                      \
		*_f = -1;                                                                          \
		_v;                                                                                \
	})

static inline void freep(void *p)
{
	free(*(void **)p);
}
#define _cleanup_free_ _cleanup_(freep)

static inline int add_size(size_t a, size_t b, size_t *ret)
{
	return __builtin_add_overflow(a, b, ret) ? -1 : 0;
}

static inline int mul_size(size_t a, size_t b, size_t *ret)
{
	return __builtin_mul_overflow(a, b, ret) ? -1 : 0;
}
