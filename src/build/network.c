/* The network of a build that may use one: a namespace of its own, whose only way out is `pasta`,
 * a process in the machine's network namespace that speaks for the builder.
 *
 * pasta reads every packet the builder sends. So it gets nothing of ours: the slot's id, namespaces
 * of its own for processes and mounts, three descriptors, and of O's capabilities those that it
 * needs to configure the namespace, most of which it gives up before the first packet; it empties
 * its file system and filters its system calls itself. It ends with the supervisor.
 *
 * Never: the machine's network for a builder. Without pasta the namespace stays empty, and the
 * client is told why. Linked by airplant-build alone. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "build/network.h"
#include "build/supervisor.h"

enum { READY_USEC = 10 * 1000 * 1000, OUTPUT_MAX = 4096 };

/* Fixed, so that a build does not see the machine's. Link-local and unique-local addresses that
 * nobody routes; pasta answers for the gateway, and asks the machine's name server there. */
#define ADDRESS_4 "169.254.1.2"
#define ADDRESS_6 "fd53:4e49:583a::2"
#define GATEWAY_6 "fd53:4e49:583a::1"

/* --- the process that becomes pasta -------------------------------------- */

/* What pasta keeps of O's capabilities over exec. None of them reaches a file of another id. */
static bool pasta_needs(unsigned long cap)
{
	return cap == CAP_NET_ADMIN || cap == CAP_SYS_ADMIN || cap == CAP_NET_BIND_SERVICE ||
	       cap == CAP_SETUID || cap == CAP_SETGID || cap == CAP_SYS_PTRACE;
}

static int cut_capabilities(void)
{
	for (unsigned long cap = 0; cap < 64; cap++)
		if (!pasta_needs(cap) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return errno == EINVAL ? 0 : -errno; /* EINVAL: the kernel knows no more */
	return 0;
}

/* pasta itself would wait for ever. */
static int check_tun(struct err *e)
{
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	struct stat st;
	int r = -errno;

	if (fd >= 0)
		return 0;
	if (r == -ENOENT || r == -ENODEV || r == -ENXIO || stat("/dev/net/tun", &st) < 0)
		return err_set(e, r,
			       "/dev/net/tun cannot be opened (%s); 'modprobe tun' loads the "
			       "driver behind it",
			       strerror(-r));
	return err_set(e, r,
		       "/dev/net/tun has mode %04o and cannot be opened (%s); 'chmod 0666 "
		       "/dev/net/tun' makes it what distributions have",
		       (unsigned int)st.st_mode & 07777, strerror(-r));
}

static int receive_namespace(int sock, struct err *e)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(sock, 0, &m);

	if (r != 0 || m.n_fds != 1)
		return err_set(e, -EPIPE, "the build's network namespace did not come");
	return TAKE_FD(m.fds[0]);
}

/* Standard input is the namespace, standard output says when it is ready. */
static int set_fds(int netns, int out, struct err *e)
{
	if (dup2(netns, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 ||
	    syscall(SYS_close_range, 3U, ~0U, 0U) < 0)
		return err_errno(e, -errno, "connecting pasta");
	return 0;
}

static int become_pasta(struct build *b, int sock, int out, struct err *e)
{
	_cleanup_close_ int netns = -1;
	int r = child_become_slot(b, e);

	if (r == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		r = err_errno(e, -errno, "setting death signal");
	if (r < 0)
		return r;
	/* Ends here when the supervisor died before the death signal was set. */
	netns = receive_namespace(sock, e);
	if (netns < 0)
		return netns;
	r = check_tun(e);
	if (r == 0)
		r = cut_capabilities();
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = -errno;
	if (r == 0 && (chdir("/") < 0 || setsid() < 0))
		r = -errno;
	if (r == 0)
		return set_fds(netns, out, e);
	return *err_msg(e) ? r : err_errno(e, r, "preparing pasta's process for '%s'", b->s.drv);
}

static _noreturn_ void pasta_main(struct build *b, int sock, int out)
{
	/* clang-format off */
	const char *const argv[] = {
		"pasta", "--foreground", "--quiet", "--config-net",
		"--pid", "/proc/self/fd/1",
		"--netns-only", "--netns", "/proc/self/fd/0", "--no-netns-quit",
		"--ns-ifname", "eth0",
		"--address", ADDRESS_4, "--netmask", "30", "--gateway", NETWORK_DNS,
		"--address", ADDRESS_6, "--gateway", GATEWAY_6,
		"--dns-forward", NETWORK_DNS,
		/* Nothing on the machine's loopback, no port in either direction. */
		"--no-map-gw", "-t", "none", "-u", "none", "-U", "none",
		"-T", b->s.net_loopback ? "auto" : "none", NULL,
	};
	/* clang-format on */

	static char *const envp[] = { NULL };
	struct err e = { 0 };

	if (become_pasta(b, sock, out, &e) < 0) {
		dprintf(out, "%s\n", err_msg(&e));
		_exit(1);
	}
	execve(b->s.net_helper, (char *const *)(uintptr_t)argv, envp);
	dprintf(2, "executing '%s': %s\n", b->s.net_helper, strerror(errno));
	_exit(1);
}

/* --- the supervisor's side ------------------------------------------------ */

/* Clones the process while the machine's network namespace is still there to be in. */
static int start_helper(struct build *b, int *ret_sock, struct err *e)
{
	int sock[2], out[2], pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
			 CLONE_NEWCGROUP,
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
	};
	long pid;

	if (pipe2(out, O_CLOEXEC) < 0)
		return err_errno(e, -errno, "creating a pipe");
	(void)fchmod(out[1], 0622); /* pasta opens it by its name in /proc, as the slot's id */
	if (chan_pair(sock) < 0) {
		close(out[0]);
		close(out[1]);
		return err_errno(e, -EMFILE, "creating a socket pair");
	}
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0) {
		close(sock[0]);
		pasta_main(b, sock[1], out[1]);
	}
	close(sock[1]);
	close(out[1]);
	if (pid < 0) {
		close(sock[0]);
		close(out[0]);
		return err_errno(e, -errno, "creating pasta's namespaces");
	}
	(void)fcntl(out[0], F_SETFL, O_NONBLOCK);
	b->net_pidfd = pidfd;
	b->net_out = out[0];
	*ret_sock = sock[0];
	return 0;
}

int net_start(struct build *b, struct err *e)
{
	_cleanup_close_ int sock = -1, netns = -1;
	int r = 0;

	if (b->s.network && !*b->s.net_helper)
		b->net_missing = "'pasta' was not found (install the package passt, or say where "
				 "it is with the setting 'pasta-path')";
	else if (b->s.network)
		r = start_helper(b, &sock, e);
	if (r < 0)
		return r;
	if (unshare(CLONE_NEWNET) < 0)
		return err_errno(e, -errno, "creating the build's network namespace");
	r = root_loopback();
	if (r < 0)
		return err_errno(e, r, "cannot set loopback interface flags");
	if (sock < 0)
		return 0;
	netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (netns < 0)
		return err_errno(e, -errno, "opening the build's network namespace");
	(void)chan_send(sock, 0, 0, NULL, 0, &netns, 1); /* when it has died, net_wait() says so */
	return 0;
}

/* pasta's process id on a line of its own. */
static bool is_ready(const char *text)
{
	while (*text) {
		size_t digits = strspn(text, "0123456789");

		if (digits && text[digits] == '\n')
			return true;
		text += strcspn(text, "\n");
		text += *text == '\n';
	}
	return false;
}

/* What pasta said, on one line that can be printed. */
static const char *last_words(struct build *b, char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char)end[-1]))
		*--end = 0;
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			*p = *p == '\n' ? ';' : '?';
	return *text ? arena_printf(&b->arena, "pasta could not start: %s", text)
		     : "pasta ended without a word before the network was up";
}

enum { NET_READY, NET_WAITING, NET_DEAD };

static int read_output(int fd, char *text, size_t *len)
{
	ssize_t n = read(fd, text + *len, OUTPUT_MAX - 1 - *len);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? NET_WAITING : NET_DEAD;
	*len += (size_t)n;
	text[*len] = 0;
	if (is_ready(text))
		return NET_READY;
	return n == 0 ? NET_DEAD : NET_WAITING;
}

void net_end(struct build *b)
{
	close_fdp(&b->net_out);
	if (b->net_pidfd < 0)
		return;
	(void)syscall(SYS_pidfd_send_signal, b->net_pidfd, SIGKILL, NULL, 0); /* or it is dead */
	(void)waitid(P_PIDFD, (id_t)b->net_pidfd, &(siginfo_t){ 0 }, WEXITED | __WALL);
	close_fdp(&b->net_pidfd);
}

void net_wait(struct build *b)
{
	char text[OUTPUT_MAX] = "";
	uint64_t now = now_usec(), end = now + READY_USEC;
	size_t len = 0;
	int state = NET_WAITING;

	if (b->net_pidfd < 0)
		return;
	while (state == NET_WAITING && (now = now_usec()) < end) {
		struct pollfd p[] = { { .fd = b->net_out, .events = POLLIN },
				      { .fd = b->chan, .events = POLLIN } };

		if (poll(p, ELEMENTS(p), (int)((end - now + 999) / 1000)) < 0)
			continue; /* EINTR: once more */
		if (p[1].revents)
			return; /* the caller looks at it */
		if (p[0].revents)
			state = read_output(b->net_out, text, &len);
	}
	close_fdp(&b->net_out); /* it may go on talking: nobody listens */
	if (state == NET_READY)
		return;
	net_end(b);
	b->net_missing =
		state == NET_DEAD ? last_words(b, text) : "pasta was not ready after 10 seconds";
}
