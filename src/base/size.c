/* See size.h. */
#include "base/size.h"

#include <stdio.h>

void size_print(int64_t bytes, char ret[static 32])
{
	static const char units[] = "KMGTPE";
	double value = (double)bytes / 1024;
	size_t unit = 0;

	while ((value > 1000 || value < -1000) && units[unit + 1]) {
		value /= 1024;
		unit++;
	}
	snprintf(ret, 32, "%.1f %ciB", value, units[unit]);
}
