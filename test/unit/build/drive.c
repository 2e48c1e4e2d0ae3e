/* Runs one build by hand: drive PROGRAM single|broker SCRIPT [inputs [runs]]. Prints the log, what
 * the supervisor said, and the time. Not a test. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "peer.h"

int main(int argc, char **argv)
{
	double best = 1e9, best_end = 1e9, sum = 0;
	int runs = argc > 5 ? atoi(argv[5]) : 1;
	struct peer p;

	if (argc < 4)
		return 2;
	for (int i = 0; i < runs; i++) {
		peer_init(&p, !strcmp(argv[2], "single") ? IDS_SINGLE : IDS_BROKER, argv[1]);
		if (getenv("NOSANDBOX")) {
			p.start.sandbox = SANDBOX_OFF;
			p.start.store_dir = p.store;
			p.start.build_dir = arena_printf(&p.arena, "%s/build", p.start.scratch);
			p.start.builder =
				arena_printf(&p.arena, "%s/%s/bin/sh", p.store, PEER_BUSYBOX);
			p.start.env.n = 0;
			peer_env(&p, "PATH",
				 arena_printf(&p.arena, "%s/%s/bin", p.store, PEER_BUSYBOX));
			peer_env(&p, "out", arena_printf(&p.arena, "%s/%s", p.store, PEER_OUT));
		}
		if (argc > 4)
			peer_inputs(&p, (size_t)atoi(argv[4]));
		if (!strcmp(argv[3], "true")) {
			strv_add_arena(&p.start.args, &p.arena, "true");
			strv_add_arena(&p.start.args, &p.arena, "x");
			p.start.args.n = 1;
			p.start.builder = "/nix/store/" PEER_BUSYBOX "/bin/busybox";
			p.start.args.v[0] = "true";
			p.start.outputs.n = 0;
		} else {
			peer_script(&p, argv[3]);
		}
		peer_run(&p);
		best = p.ms < best ? p.ms : best;
		best_end = p.ms_end < best_end ? p.ms_end : best_end;
		sum += p.ms;
		if (i == runs - 1) {
			fwrite(p.log, 1, p.log_len, stdout);
			printf("--\nend %d status %llu error %s\nbye %d clean %llu %s; exit %d; "
			       "running uid "
			       "%llu\ncpu %llu %llu us, rss %llu, log %llu zlog %zu\n",
			       p.got_end, (unsigned long long)p.end.status,
			       p.end.error ? p.end.error : "-", p.got_bye,
			       (unsigned long long)p.bye.clean, p.bye.error ? p.bye.error : "",
			       p.exit_status, (unsigned long long)p.running.host_uid,
			       (unsigned long long)p.end.cpu_user_usec,
			       (unsigned long long)p.end.cpu_system_usec,
			       (unsigned long long)p.end.peak_memory_bytes,
			       (unsigned long long)p.end.log_size, p.zlog_len);
			for (size_t k = 0; k < p.end.outputs.n; k++) {
				printf("output %s size %llu ca %s refs", p.end.outputs.v[k].name,
				       (unsigned long long)p.end.outputs.v[k].nar_size,
				       p.end.outputs.v[k].ca);
				for (size_t j = 0; j < p.end.outputs.v[k].refs.n; j++)
					printf(" %s", p.end.outputs.v[k].refs.v[j]);
				printf("\n");
			}
		}
		peer_done(&p);
	}
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	printf("cpu per build %.2f ms\n",
	       ((double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
		(double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3) /
		       runs);
	printf("best %.2f ms (to BUILD_END %.2f), mean %.2f ms over %d\n", best, best_end,
	       sum / runs, runs);
	return 0;
}
