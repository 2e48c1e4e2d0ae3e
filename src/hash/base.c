/* Base 16 and the store's own base 32.
 *
 * Base 32 here is neither RFC 4648's alphabet (no e, o, t, u) nor its order: the text begins with
 * the five highest bits of the last byte. Decoding accepts only what encoding can have written,
 * apart from upper-case base 16. Pure. */
#include "hash/hash.h"

#include <string.h>

static const char digits32[] = "0123456789abcdfghijklmnpqrsvwxyz";
static const char digits16[] = "0123456789abcdef";

/* Value of a digit plus one; 0 marks a character that is none. */
static const uint8_t value32[256] = {
	['0'] = 1,  ['1'] = 2,	['2'] = 3,  ['3'] = 4,	['4'] = 5,  ['5'] = 6,	['6'] = 7,
	['7'] = 8,  ['8'] = 9,	['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14,
	['f'] = 15, ['g'] = 16, ['h'] = 17, ['i'] = 18, ['j'] = 19, ['k'] = 20, ['l'] = 21,
	['m'] = 22, ['n'] = 23, ['p'] = 24, ['q'] = 25, ['r'] = 26, ['s'] = 27, ['v'] = 28,
	['w'] = 29, ['x'] = 30, ['y'] = 31, ['z'] = 32,
};

size_t base32_len(size_t bytes)
{
	return bytes ? (bytes * 8 - 1) / 5 + 1 : 0;
}

void base32_encode(const uint8_t *data, size_t len, char *ret)
{
	size_t n = base32_len(len);

	ret[n] = 0;
	for (size_t i = 0; i < n; i++) {
		size_t bit = i * 5, at = bit / 8, shift = bit % 8;
		unsigned int v = data[at] >> shift;

		if (at + 1 < len)
			v |= (unsigned int)data[at + 1] << (8 - shift);
		ret[n - 1 - i] = digits32[v & 31];
	}
}

int base32_decode(const char *text, size_t text_len, uint8_t *ret, size_t ret_len)
{
	if (text_len != base32_len(ret_len))
		return HASH_BAD;
	memset(ret, 0, ret_len);
	for (size_t i = 0; i < text_len; i++) {
		size_t bit = i * 5, at = bit / 8, shift = bit % 8;
		unsigned int v = value32[(uint8_t)text[text_len - 1 - i]];

		if (!v)
			return HASH_BAD;
		v = (v - 1) << shift;
		ret[at] |= (uint8_t)v;
		if (at + 1 < ret_len)
			ret[at + 1] |= (uint8_t)(v >> 8);
		else if (v >> 8)
			return HASH_BAD; /* bits beyond the last byte */
	}
	return 0;
}

void base16_encode(const uint8_t *data, size_t len, char *ret)
{
	for (size_t i = 0; i < len; i++) {
		ret[i * 2] = digits16[data[i] >> 4];
		ret[i * 2 + 1] = digits16[data[i] & 15];
	}
	ret[len * 2] = 0;
}

/* One more than the value of a digit; 0: it is none. A table, since no processor can guess which of
 * two ways the next digit of a hash takes. */
static const uint8_t value16[256] = {
	['0'] = 1,  ['1'] = 2,	['2'] = 3,  ['3'] = 4,	['4'] = 5,  ['5'] = 6,
	['6'] = 7,  ['7'] = 8,	['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12,
	['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16, ['A'] = 11, ['B'] = 12,
	['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

int base16_decode(const char *text, size_t text_len, uint8_t *ret, size_t ret_len)
{
	if (text_len % 2 || text_len / 2 != ret_len)
		return HASH_BAD;
	for (size_t i = 0; i < ret_len; i++) {
		unsigned int hi = value16[(uint8_t)text[i * 2]];
		unsigned int lo = value16[(uint8_t)text[i * 2 + 1]];

		if (!hi || !lo)
			return HASH_BAD;
		ret[i] = (uint8_t)((hi - 1) << 4 | (lo - 1));
	}
	return 0;
}
