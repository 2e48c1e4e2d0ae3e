/* The boundary between the core and the tracer of roots: what airplant-roots says to whoever
 * connects to its socket as the daemon's user (or reads its output, with --stdio). Nothing is
 * ever sent to it. libc alone.
 *
 * A stream of records. A record is one letter and fields; each field ends with a NUL and holds
 * none. The number of fields follows from the letter:
 *
 *   stream = hello *( root / link / unknown / skipped / flood ) end EOF
 *   hello   = "A" version NUL                       "1": ROOTS_VERSION
 *   root    = "P" base NUL what NUL                 this store path is alive
 *   link    = "L" link NUL state NUL owner NUL target NUL base NUL
 *   unknown = "I" sentence NUL                      the answer is INCOMPLETE, and why
 *   skipped = "S" number NUL                        at most one record; see below
 *   flood   = "F" uid NUL number NUL                see below
 *   end     = "Z" number NUL                        how many records came before, the hello too
 *
 * base    a base name in the store, "<32 base 32 digits>-<name>", checked here. There was a file of
 *         that name a moment ago; whether it is a valid path is the core's business.
 *         What does not match this grammar never leaves the tracer.
 * what    how upstream names the root: the path of the link that holds it (for an indirect root the
 *         user's link), "/proc/PID/exe", "/proc/PID/fd/7", "/proc/PID/maps",
 *         "/proc/sys/kernel/modprobe". "{temp:PID}" for what stock process PID noted in temproots/PID and
 *         still needs: the only one whose file need not be there. Any bytes but NUL. One path may have many of these
 *         records; the same record may come twice.
 * link    what was found, relative to the state directory: "gcroots/auto/NAME".
 * owner   the uid of the user's link (the target), "-" where that could not be seen.
 * target  the text of the link, as it stands there; empty for a directory.
 * number, version, uid  decimal, without sign or leading zeros.
 *
 * Liveness and `--print-roots` need the P records alone: every root has one. An L record tells
 * besides how each indirect link fares (a link below gcroots/ or profiles/ that does not lead into
 * the store itself); its state is one letter:
 *
 *   "a"  alive: it leads to `base`, for which there is a P record as well. Remember the pair.
 *   "g"  gone: nothing is at `target`, and the place could be looked at. As upstream, the
 *        core may delete the link when it is in gcroots/auto.
 *   "o"  the target exists and is no link into the store (a file, a directory, a loop). No
 *        root; not stale.
 *   "u"  cannot look (EACCES, ESTALE, EIO, no answer in time …): ALIVE, never gone.
 *        `base` is empty since it is not known: protect what was remembered when this link was last
 *        "a", or what the client held when it was made. A link in gcroots/auto of which the core
 *        remembers nothing (from before it kept such notes): delete nothing, and name it. Elsewhere
 *        (profiles/per-user/ALICE/…) somebody hides his own roots: a warning is enough, or one user
 *        could stop all collections.
 *
 * base is empty in all states but "a".
 *
 * F: user `uid` holds so much that looking at all of it takes more than a fair share of time, or
 * some of his memory cannot be read in time; `number` of his processes were not looked at in full
 * (exe, cwd and root were). The answer counts as complete: nobody but that user can lose by it,
 * and otherwise anybody could stop collections. Worth a line in the log. Never sent for uid 0.
 * There may be several for one uid; their numbers add up.
 *
 * S: so many processes were not looked at, because the tracer was told to do without them: those of
 * other users (--own-user, for setups where nobody can see them), or those that the kernel hides
 * even from CAP_SYS_PTRACE (--skip-hidden). Not an incomplete answer: it is what was asked for.
 *
 * No Z, a Z with another number, bytes behind it, an I, an unknown letter or version, anything
 * malformed, or a time limit of the client: nothing may be deleted. */
#pragma once

enum { ROOTS_VERSION = 1 };

enum {
	ROOTS_FIELD_MAX = 8192, /* bytes of one field, without its NUL; longer ones are malformed */
};

enum roots_record {
	ROOTS_HELLO = 'A',
	ROOTS_ROOT = 'P',
	ROOTS_LINK = 'L',
	ROOTS_INCOMPLETE = 'I',
	ROOTS_SKIPPED = 'S',
	ROOTS_FLOOD = 'F',
	ROOTS_END = 'Z',
};

enum roots_link_state {
	ROOTS_ALIVE = 'a',
	ROOTS_GONE = 'g',
	ROOTS_OTHER = 'o',
	ROOTS_UNKNOWN = 'u',
};

/* How the names of temporary roots begin. */
#define ROOTS_TEMP "{temp:"

/* Where the core finds it unless told otherwise. */
#define ROOTS_SOCKET "/run/airplant/roots/socket"
