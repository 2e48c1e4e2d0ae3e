/* airplantd: the core. Reads its surroundings, opens everything, closes its own doors, and runs
 * the loop. It holds no privilege; it never reads a byte that a client sent.
 *
 * Called like nix-daemon: without arguments, or "--daemon". */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "base/log.h"
#include "confine/confine.h"
#include "core/beside.h"
#include "core/cgroup.h"
#include "core/core.h"
#include "core/gc.h"
#include "core/gc_auto.h"
#include "core/goals.h"
#include "core/lease.h"
#include "core/listen.h"
#include "core/names.h"
#include "core/notify.h"
#include "core/optimise.h"
#include "core/place.h"
#include "core/relay.h"
#include "core/rights.h"
#include "core/roots.h"
#include "core/sessions.h"
#include "core/sigcheck.h"
#include "core/store_open.h"
#include "core/used.h"

#ifndef AIRPLANT_VERSION
#define AIRPLANT_VERSION "0"
#endif
#ifndef AIRPLANT_LIBEXECDIR
#define AIRPLANT_LIBEXECDIR "/usr/libexec/airplant"
#endif

enum { GRACE_USEC = 1500 * 1000 };

struct options {
	bool as_root;
	bool stdio;
	bool names; /* our own: the core starts this */
};

struct daemon {
	struct core core;
	struct listener *listener;
	int signal_fd;
	struct loop_fd *signal_watch;
};

static const char usage[] =
	"usage: airplantd [--daemon | --stdio]\n"
	"\n"
	"A build daemon for Nix clients. It runs as its own, unprivileged user.\n"
	"\n"
	"  --daemon       the default, as with nix-daemon\n"
	"  --stdio        speak for the running daemon on the standard streams, as the\n"
	"                 caller: the far end of ssh-ng (remote-program=airplantd)\n"
	"  --run-as-root  run as root all the same (all capabilities are dropped)\n"
	"  --version      print the version\n"
	"  --help         print this\n"
	"\n"
	"Environment: NIX_STORE_DIR, NIX_STATE_DIR, NIX_LOG_DIR, NIX_CONF_DIR, NIX_CONFIG,\n"
	"NIX_DAEMON_SOCKET_PATH, AIRPLANT_LIBEXEC_DIR.\n";

/* 0 goes on, 1 stops with success, -1 with failure. */
static int parse_arguments(int argc, char **argv, struct options *ret)
{
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];

		if (!strcmp(a, "--daemon") || !strcmp(a, "daemon"))
			continue;
		if (!strcmp(a, "--stdio")) {
			ret->stdio = true;
		} else if (!strcmp(a, NAMES_ARGUMENT)) {
			ret->names = true;
		} else if (!strcmp(a, "--run-as-root")) {
			ret->as_root = true;
		} else if (!strcmp(a, "--version")) {
			printf("airplantd (Airplant) %s\n", AIRPLANT_VERSION);
			return 1;
		} else if (!strcmp(a, "--help")) {
			fputs(usage, stdout);
			return 1;
		} else {
			fprintf(stderr, "airplantd: unknown argument '%s'\n\n%s", a, usage);
			return -1;
		}
	}
	return 0;
}

/* An absolute path from the environment, without "." , doubled or trailing slashes. */
static int directory(const char *variable, const char *fallback, char **ret, struct err *e)
{
	const char *value = getenv(variable);
	char *path, *out;

	if (!value || !*value)
		value = fallback;
	if (value[0] != '/')
		return err_set(e, -EINVAL, "%s is not an absolute path: '%s'", variable, value);
	path = out = strdup(value);
	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	for (const char *p = value; *p;) {
		size_t len;

		while (*p == '/')
			p++;
		len = strcspn(p, "/");
		if (len == 2 && !memcmp(p, "..", 2)) {
			free(path);
			return err_set(e, -EINVAL, "%s has '..' in it: '%s'", variable, value);
		}
		if (len > 0 && !(len == 1 && *p == '.')) {
			*out++ = '/';
			memmove(out, p, len);
			out += len;
		}
		p += len;
	}
	*out = 0;
	*ret = path;
	if (!*path)
		return err_set(e, -EINVAL, "%s must not be the root directory", variable);
	return 0;
}

/* The helpers lie beside this program (a build or scratch directory), or where they are installed.
 */
static const char *helpers(char beside[static PATH_MAX])
{
	static const char probe[] = "/airplant-session";
	ssize_t n = readlink("/proc/self/exe", beside, PATH_MAX - sizeof(probe));
	char *slash;

	if (n <= 0)
		return AIRPLANT_LIBEXECDIR;
	beside[n] = 0;
	slash = strrchr(beside, '/');
	memcpy(slash, probe, sizeof(probe));
	if (access(beside, X_OK) < 0)
		return AIRPLANT_LIBEXECDIR;
	*slash = 0;
	return beside;
}

static int read_environment(struct core *core, struct err *e)
{
	_cleanup_free_ char *socket = NULL;
	char beside[PATH_MAX];
	int r = directory("NIX_STORE_DIR", "/nix/store", &core->store_dir, e);

	r = r ? r : directory("NIX_STATE_DIR", "/nix/var/nix", &core->state_dir, e);
	r = r ? r : directory("NIX_LOG_DIR", "/nix/var/log/nix", &core->log_dir, e);
	r = r ? r : directory("NIX_CONF_DIR", "/etc/nix", &core->conf_dir, e);
	r = r ? r : directory("AIRPLANT_LIBEXEC_DIR", helpers(beside), &core->libexec_dir, e);
	if (r < 0)
		return r;
	if (asprintf(&socket, "%s/daemon-socket/socket", core->state_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	return directory("NIX_DAEMON_SOCKET_PATH", socket, &core->socket_path, e);
}

static void warn(void *ctx, const char *text)
{
	(void)ctx;
	log_warn("%s", text);
}

static int load_settings(const struct core *core, struct settings *ret, struct keyring **ret_keys,
			 struct err *e)
{
	struct keyring *keys = keyring_new();
	int r;

	settings_init(ret);
	r = keys ? settings_load(ret, core->conf_dir, getenv("NIX_CONFIG"), warn, NULL, e)
		 : err_set(e, -ENOMEM, "out of memory");
	if (r == 0)
		r = rights_check(ret->may, e);
	/* One bad key does not keep the daemon down; what it would have signed stays unsigned. */
	for (size_t i = 0; r == 0 && i < ret->trusted_public_keys.n; i++) {
		_cleanup_err_ struct err k = {};

		if (keyring_add_public(keys, ret->trusted_public_keys.v[i], &k) != 0)
			log_warn("trusted-public-keys: %s", err_msg(&k));
	}
	for (size_t i = 0; r == 0 && i < ret->secret_key_files.n; i++) {
		_cleanup_err_ struct err k = {};

		if (keyring_add_secret_file(keys, ret->secret_key_files.v[i], &k) != 0)
			log_warn("secret-key-files: %s", err_msg(&k));
	}
	if (r != 0) {
		settings_done(ret);
		keyring_free(keys);
		return r;
	}
	*ret_keys = keys;
	return 0;
}

static void reload(struct daemon *d)
{
	struct core *core = &d->core;
	_cleanup_err_ struct err e = {};
	struct settings fresh, old;
	struct keyring *keys;

	if (load_settings(core, &fresh, &keys, &e) != 0) {
		log_error("settings not reloaded: %s", err_msg(&e));
		return;
	}
	old = core->settings;
	keyring_free(core->keyring);
	core->settings = fresh;
	core->keyring = keys;
	if (core->sessions)
		sessions_settings_changed(core->sessions, listener_desk(d->listener), &old);
	settings_done(&old);
	if (core->goals)
		goals_settings_changed(core->goals);
	log_info("settings reloaded");
}

/* The point of this daemon is that it is nobody. */
static int check_identity(const struct options *o, struct err *e)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = {};

	if (o->as_root)
		return 0;
	if (geteuid() == 0)
		return err_set(e, -EPERM,
			       "Airplant does not run as root: start it as its own user, for "
			       "example with User=airplant in its unit, or with "
			       "'runuser -u airplant -- airplantd'");
	if (syscall(SYS_capget, &h, d) < 0)
		return err_errno(e, -errno, "reading the daemon's capabilities");
	if (d[0].permitted || d[1].permitted)
		return err_set(
			e, -EPERM,
			"airplantd was started with capabilities (%08x%08x), and wants none: "
			"remove AmbientCapabilities= from its unit, or file capabilities "
			"from the program",
			d[1].permitted, d[0].permitted);
	return 0;
}

/* newuidmap is set-user-ID: where it is used, no_new_privs is out of reach. */
static int seal(struct core *core, struct err *e)
{
	enum confine_profile profile = CONFINE_CORE;
	enum build_ids_mode mode;

	if (core->settings.ids == IDS_USE_SUBID) {
		profile = CONFINE_CORE_SUBID;
	} else if (core->settings.ids == IDS_AUTO) {
		int r = lease_probe(core, &mode, e);

		if (r < 0)
			return r;
		if (mode == IDS_SUBID)
			profile = CONFINE_CORE_SUBID;
	}
	return confine_seal(profile, e);
}

/* Not the daemon at all: a caller's way to it. */
static int relay(struct core *core, struct err *e)
{
	int r = read_environment(core, e);

	return r ? r : relay_stdio(core->socket_path, e);
}

static void on_signal(void *ctx, uint32_t events)
{
	struct daemon *d = ctx;
	struct signalfd_siginfo si;

	(void)events;
	while (read(d->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGHUP) {
			reload(d);
			continue;
		}
		log_info("ending on signal %u", si.ssi_signo);
		loop_quit(d->core.loop);
	}
}

static int watch_signals(struct daemon *d, struct err *e)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_errno(e, -errno, "setting up signals");
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return err_errno(e, -errno, "setting up signals");
	r = loop_add(d->core.loop, d->signal_fd, EPOLLIN, on_signal, d, &d->signal_watch);
	return r < 0 ? err_errno(e, r, "watching signals") : 0;
}

static int basics(struct err *e)
{
	struct rlimit rl;

	umask(022);
	if (chdir("/") < 0)
		return err_errno(e, -errno, "cannot change the current directory");
	/* One session takes four fds; the hard limit is the administrator's. */
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
			log_warn("raising the limit of open files: %s", strerror(errno));
	}
	return 0;
}

static int start(struct daemon *d, const struct options *o, struct err *e)
{
	struct core *core = &d->core;
	int r = check_identity(o, e);

	r = r ? r : basics(e);
	r = r ? r : read_environment(core, e);
	r = r ? r : load_settings(core, &core->settings, &core->keyring, e);
	if (r != 0)
		return r;
	core->uid = geteuid();
	core->gid = getegid();
	core->loop = loop_new();
	core->place = place_new(core);
	core->sessions = sessions_new(core);
	core->gc = gc_new(core);
	core->gc_auto = gc_auto_new(core);
	core->used = used_new(core);
	core->optimiser = optimiser_new(core);
	if (!core->loop || !core->place || !core->sessions || !core->gc ||
	    !core->gc_auto || !core->used || !core->optimiser)
		return err_set(e, -ENOMEM, "out of memory");
	r = watch_signals(d, e);
	r = r ? r : store_lock(core, e);
	r = r ? r : listener_new(core, &d->listener, e);
	r = r ? r : seal(core, e);
	if (r == 0) /* before there are children */
		core->cgroups = cgroups_new(core);
	r = r ? r : store_open(core, e);
	if (r != 0)
		return r;
	core->goals = goals_new(core);
	if (!core->goals)
		return err_set(e, -ENOMEM, "out of memory");
	sessions_warm(core->sessions);
	return listener_start(d->listener, e);
}

static void grace_over(void *ctx)
{
	loop_quit(ctx);
}

/* Builds are ended and cleaned up after; then everything goes, last the database. */
static void stop(struct daemon *d, bool clean)
{
	struct core *core = &d->core;

	listener_free(d->listener);
	if (core->goals && clean && sessions_building(core->sessions)) {
		goals_shutdown(core->goals);
		/* A wait cut short costs scratch directories, which the next start deletes. */
		if (loop_timer(core->loop, GRACE_USEC, grace_over, core->loop, NULL) == 0)
			(void)loop_run(core->loop);
	}
	beside_close(TAKE_PTR(core->beside)); /* it looks at sessions and goals */
	sessions_free(TAKE_PTR(core->sessions));
	if (core->place && core->db)
		place_flush(core->place);
	gc_free(TAKE_PTR(core->gc));
	free(TAKE_PTR(core->gc_auto));
	used_free(TAKE_PTR(core->used));
	roots_free(core->finder);
	goals_free(core->goals);
	optimiser_free(core->optimiser);
	place_free(core->place);
	cgroups_free(core->cgroups);
	store_close(core, clean);
	close_fdp(&core->lock_fd);
	loop_remove(d->signal_watch);
	close_fdp(&d->signal_fd);
	loop_free(core->loop);
	keyring_free(core->keyring);
	settings_done(&core->settings);
	free(core->store_dir);
	free(core->state_dir);
	free(core->log_dir);
	free(core->conf_dir);
	free(core->libexec_dir);
	free(core->socket_path);
}

int main(int argc, char **argv)
{
	static struct daemon d = { .core = { .store_fd = -1, .lock_fd = -1 }, .signal_fd = -1 };
	_cleanup_err_ struct err e = {};
	struct options o = {};
	int r = parse_arguments(argc, argv, &o);

	if (r != 0)
		return r < 0 ? 1 : 0;
	log_setup("airplantd", LOG_LEVEL_INFO);
	if (o.names)
		return names_serve();
	if (o.stdio) {
		r = relay(&d.core, &e);
		if (r != 0)
			fprintf(stderr, "airplantd: %s\n", err_msg(&e));
		return r == 0 ? 0 : 1;
	}
	r = start(&d, &o, &e);
	if (r == 0) {
		notify("READY=1");
		r = loop_run(d.core.loop);
		if (r < 0)
			err_errno(&e, r, "waiting for events");
		notify("STOPPING=1");
	}
	if (r != 0)
		log_error("%s", err_msg(&e));
	stop(&d, r == 0);
	return r == 0 ? 0 : 1;
}
