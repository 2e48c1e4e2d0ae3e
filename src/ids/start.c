/* How the broker becomes what it is: options, identity, block, locks, socket, seal. Until then it
 * reads no foreign byte. */
#include "broker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "confine/confine.h"
#include "helper/helper.h"

static int parse_options(struct broker *b, int argc, char **argv, struct err *e)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "daemon-user", required_argument, NULL, 'u' },
		{ "locks", required_argument, NULL, 'l' },
		{ "start-id", required_argument, NULL, 'i' },
		{ "id-count", required_argument, NULL, 'n' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int r = 0;

		if (c == 's')
			b->socket = optarg;
		else if (c == 'u')
			b->daemon_user = optarg;
		else if (c == 'l')
			b->locks = optarg;
		else if (c == 'i')
			r = helper_number(optarg, &b->block.start);
		else if (c == 'n')
			r = helper_number(optarg, &b->block.count);
		else
			return err_set(e, -EINVAL, "unknown option");
		if (r < 0)
			return err_set(e, r, "'%s' is not a number of an id", optarg);
	}
	if (optind != argc || !b->daemon_user || !b->locks || !b->socket == (b->listener < 0))
		return err_set(
			e, -EINVAL,
			"usage: airplant-ids --daemon-user NAME|UID --locks DIR --socket PATH "
			"[--start-id N] [--id-count N] (no --socket under socket activation)");
	return 0;
}

/* Its own user, no foreign groups; the daemon is another user, and neither is root. */
static int check_identity(struct broker *b, struct err *e)
{
	struct identity *daemon = &b->machine.daemon;
	gid_t groups[32];
	int n = getgroups(ELEMENTS(groups), groups), r;

	b->own = (struct identity){ getuid(), getgid() };
	if (n < 0)
		return err_errno(e, -errno, "cannot read the supplementary groups");
	for (int i = 0; i < n; i++)
		if (groups[i] != b->own.gid)
			return err_set(e, -EPERM, "airplant-ids must not be in the group %u",
				       groups[i]);
	r = helper_user(b->daemon_user, &daemon->uid, &daemon->gid, e);
	if (r < 0)
		return r;
	if (b->own.uid == 0 || b->own.gid == 0 || geteuid() != b->own.uid ||
	    getegid() != b->own.gid)
		return err_set(e, -EPERM,
			       "airplant-ids must not run as root: give it a user of its own");
	if (daemon->uid == 0 || daemon->gid == 0)
		return err_set(e, -EPERM, "the daemon's user must not be root");
	if (daemon->uid == b->own.uid || daemon->gid == b->own.gid)
		return err_set(e, -EPERM,
			       "airplant-ids needs a user and a group apart from the daemon's");
	return 0;
}

/* The files belong to the broker's own user and group. Once its effective uid is the daemon's, the
 * group is what still lets it in; nobody else may open the directory, or what is in it. */
static int open_locks(struct broker *b, struct err *e)
{
	_cleanup_close_ int dir = open(b->locks, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (dir < 0 || fstat(dir, &st) < 0)
		return err_errno(e, -errno, "cannot open the directory for locks '%s'", b->locks);
	if (st.st_uid != b->own.uid || st.st_gid != b->own.gid || (st.st_mode & 07777) != 0750)
		return err_set(e, -EPERM,
			       "the directory for locks '%s' must belong to the broker's own user "
			       "and group and have the mode 0750",
			       b->locks);
	if (flock(dir, LOCK_EX | LOCK_NB) < 0)
		return err_errno(e, -errno, "another broker uses the directory for locks '%s'",
				 b->locks);
	return slots_open(&b->slots, TAKE_FD(dir), b->block.start, IDS_SLOT,
			  b->block.count / IDS_SLOT, e);
}

int broker_start(struct broker *b, int argc, char **argv, struct err *e)
{
	int r = helper_inherit(SOCK_SEQPACKET, 1);

	if (r < 0)
		return err_errno(e, r, "cannot take over the socket");
	if (r > 0)
		b->listener = 3;
	/* NSS is asked below; what it may load must not hang on whoever started us. */
	if (clearenv() != 0)
		return err_set(e, -ENOMEM, "cannot clear the environment");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_errno(e, -errno, "cannot become undumpable");
	r = parse_options(b, argc, argv, e);
	if (r == 0)
		r = check_identity(b, e);
	if (r == 0)
		r = block_check(&b->block, &b->own, &b->machine.daemon, e);
	if (r == 0)
		r = open_locks(b, e);
	if (r == 0)
		r = block_check_running(&b->block, &b->slots, e);
	if (r == 0)
		r = machine_init(&b->machine, e);
	if (r < 0)
		return r;
	if (b->socket) {
		b->listener = helper_listen(b->socket, SOCK_SEQPACKET, e);
		if (b->listener < 0)
			return b->listener;
	}
	if (setresuid((uid_t)-1, b->machine.daemon.uid, (uid_t)-1) < 0)
		return err_errno(e, -errno,
				 "cannot take the daemon's uid (is CAP_SETUID granted?)");
	return confine_seal(CONFINE_IDS, e);
}
