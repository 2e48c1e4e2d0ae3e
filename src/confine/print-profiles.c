/* Prints the tables of profiles.c and builder.c as JSON, with the filters that were made of them,
 * for the test that compares them with running processes (test/client/test_seals.py). Never
 * installed. */
#include <stdio.h>

#include "base/macro.h"
#include "confine/profiles.h"

/* As the kernel gives it back: the bytes of the program. */
static void print_filter(const char *key, const struct sock_fprog *f)
{
	const unsigned char *bytes = (const unsigned char *)f->filter;

	printf(", \"%s\": \"", key);
	for (size_t i = 0; i < f->len * sizeof(*f->filter); i++)
		printf("%02x", bytes[i]);
	putchar('"');
}

static void print_profile(int i, const struct profile *p)
{
	printf("%s\n\"%s%s\": { \"caps\": %llu, \"bounding\": %llu, \"dumpable\": %d, ",
	       i ? "," : "", p->process,
	       p->privileged_children	? " (subid)"
	       : i == CONFINE_ROOTS_OWN ? " (own)"
					: "",
	       (unsigned long long)p->caps, p->passes_no_caps_on ? 0 : (unsigned long long)p->caps,
	       p->dumpable);
	printf("\"no_new_privs\": %d, \"wall\": %d, \"namespaces\": %u, \"kills\": %d, "
	       "\"starter\": \"%s\"",
	       !p->privileged_children, p->n_places > 0, p->namespaces, p->otherwise == ANSWER_KILL,
	       p->starter ? p->starter : "");
	if (!p->privileged_children)
		print_filter("filter", &confine_filters[i]);
	printf(" }");
}

int main(void)
{
	printf("{ \"processes\": {");
	for (int i = 0; i < N_PROFILES; i++)
		print_profile(i, &confine_profiles[i]);
	printf(" },\n\"builders\": {");
	for (int i = 0; i < N_BUILDERS; i++) {
		printf("%s\n\"%s\": { \"starter\": \"airplantd\"", i ? "," : "",
		       confine_builders[i].process);
		print_filter("filter", &confine_builder_programs[i][0]);
		print_filter("i386", &confine_builder_programs[i][1]);
		printf(" }");
	}
	printf(" } }\n");
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
