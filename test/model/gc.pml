/* The protocol between the garbage collector and everybody who uses paths (src/core/gc.h), as a Spin model.
 *
 * Two paths: A refers to B. Two clients, who use one path each, one build of A, one collector and its tracer; the daemon may be killed at any step and
 * starts again. What the core does in one step of its loop is atomic here, but for a crash between the commit of rows
 * and the moving of files, which may come in a later step. What a session reads in the database, what the tracer sees, and what users do with
 * their own links happens at any moment in between.
 *
 * Checked in each state: what a client was promised, or a build needs, is there (row and files, with all it refers to);
 * a valid row has its files; nobody waits for ever (no process can be stuck: nothing here is a lock).
 *
 * Each of these takes out one defence, and must lead to an error: test/model/run. */
#define A 1 /* refers to B */
#define B 2
#define CLOSURE(m) ((m) | (((m) & A) -> B : 0))

#ifndef CRASHES
#define CRASHES 1
#endif

/* On disk: survives a crash. */
byte rows = A | B, files = A | B;
byte home[2]; /* links that clients made */
/* In the core's memory. */
byte tmp[2]; /* temporary roots of a connection */
byte goal;   /* what the build that runs needs */
byte pins, digests, roots, snap, live, dead;
byte queue; /* rows that went, and whose files are still to be moved away */
byte phase;  /* 0 none, 1 roots, 2 load, 3 sweep */
byte life, crashes;
/* What may be relied upon. */
byte promised[2], linked[2];

inline check()
{
	assert(((promised[0] | promised[1] | linked[0] | linked[1] | goal) & ~(rows & files)) == 0);
	assert((rows & ~files) == 0);
	assert(!(rows & A) || (rows & B))
}

inline mark(m)
{
	live = live | ((m) & snap) | ((((m) & snap) & A) -> B : 0)
}

inline pin(m)
{
	if
#ifdef PINS_FROM_MARK
	:: phase == 1 -> skip
#else
	:: phase == 1 -> pins = pins | (m)
#endif
	:: phase == 2 -> pins = pins | (m)
#ifdef NO_PIN_IN_SWEEP
	:: phase == 3 -> skip
#else
	:: phase == 3 -> mark(m); digests = digests | (m);
#ifndef NO_CLAIM_BY_PIN
		files = files & ~(queue & (m)); queue = queue & ~(m)
#endif
#endif
	:: phase == 0 -> skip
	fi
}

inline over()
{
	phase = 0; pins = 0; digests = 0; roots = 0; snap = 0; live = 0; queue = 0
#ifdef NO_RECHECK
	; dead = 0
#endif
}

inline crash()
{
	crashes++;
	life++;
	over(); goal = 0;
	tmp[0] = 0; tmp[1] = 0; promised[0] = 0; promised[1] = 0
}

/* Files first, then the row. What still lies there of a path that went is moved away before. */
inline place(m)
{
	files = files | (m);
#ifndef NO_CLAIM
	queue = queue & ~(m);
#endif
	if
	:: crashes < CRASHES -> crash()
	:: true -> rows = rows | (m); pin(CLOSURE(m))
	fi
}

proctype Client(byte c)
{
	byte want, seen, born;

again:	born = life; want = 0; seen = 0;
	do
	/* A temporary root, then the question whether it is valid. */
	:: atomic {
		want = c + 1;
#ifdef VALID_FIRST
		seen = rows & want
#else
		tmp[c] = tmp[c] | want; pin(want)
#endif
	   }
	   atomic {
		if
		:: born != life -> goto again
		:: else
		fi;
#ifdef VALID_FIRST
		tmp[c] = tmp[c] | want; pin(want);
#else
		seen = rows & want;
#endif
		if
		:: seen -> promised[c] = promised[c] | CLOSURE(want); check()
		:: else
		fi;
		want = 0; seen = 0
	   }
	/* An add. */
	:: atomic {
		want = c + 1;
		if
		:: want == A && !(rows & B) -> skip /* refused */
		:: else ->
			place(want);
			if
			:: born != life -> check(); goto again
			:: else -> tmp[c] = tmp[c] | want; promised[c] = promised[c] | CLOSURE(want)
			fi
		fi;
		want = 0; check()
	   }
	/* A stock process beside the daemon: it tells us, and writes into the store itself. */
	:: atomic { c == 1 -> want = B; tmp[c] = tmp[c] | B; pin(B) }
	   atomic {
		if
		:: born != life -> goto again
		:: else -> files = files | B; rows = rows | B; promised[c] = promised[c] | B
		fi;
		want = 0; check()
	   }
	/* A link of its own to what it holds: of a profile. (For an indirect root the daemon is asked
	 * besides, pins the target, and the promise begins after that: less is relied upon.) */
	:: atomic { (promised[c] & (c + 1)) && !linked[c] -> home[c] = c + 1; linked[c] = CLOSURE(c + 1) }
	:: atomic { linked[c] -> linked[c] = 0; home[c] = 0 }
	/* It leaves, and comes again. */
	:: atomic {
		promised[c] = 0;
#ifndef NO_PINS_LEFT
		if
		:: phase -> pin(tmp[c])
		:: else
		fi;
#endif
		tmp[c] = 0;
		goto again
	   }
	:: born != life -> goto again
	od
}

/* Needs B, makes A. */
proctype Build()
{
	byte born;

	do
	:: atomic { (rows & B) -> goal = B; pin(B); born = life; check() }
	   atomic {
		if
		:: born != life
		:: else ->
			check();
			place(A);
			if
			:: born == life -> tmp[0] = tmp[0] | A; promised[0] = promised[0] | A | B; goal = 0
			:: else
			fi
		fi;
		check()
	   }
	od
}

inline alive() /* or the collection is over: a crash, or the one who asked has left */
{
	if
	:: born != life -> goto again
	:: else
	fi;
	if
	:: true
	:: over(); goto again
	fi
}

/* Rows of one path or of both: one transaction, committed in the step that looks at who is live. */
inline sweep(m)
{
	atomic {
		alive();
#ifdef NO_RECHECK
		gone = snap & dead & (m);
#else
		gone = snap & ~live & (m);
#endif
		if
		:: (gone & B) && (rows & A & ~gone) -> pin(B); gone = gone & ~B /* something refers to it */
		:: else
		fi;
#ifdef FILES_FIRST
		files = files & ~gone;
#endif
		if
		:: gone && crashes < CRASHES -> crash()
		:: true -> rows = rows & ~gone; queue = gone
		fi;
		gone = 0;
		check()
	}
}

/* The files, one after the other. */
inline throw(p)
{
	atomic {
		alive();
		if
		:: queue & p -> files = files & ~p; queue = queue & ~p; check()
		:: else
		fi
	}
}

/* A name in the store's directory that no row has. */
inline unknown(p)
{
	atomic {
		alive();
		if
#ifdef UNKNOWN_BY_SNAPSHOT
		:: (files & p) && !(snap & p) -> files = files & ~p; check()
#else
		:: (files & p) && !(snap & p) && !(digests & p) && !(rows & p) -> files = files & ~p; check()
#endif
		:: else
		fi
	}
}

proctype Collector()
{
	byte born, gone;

again:	atomic { born = life; gone = 0; phase = 1 }
	/* The tracer, link by link. */
	atomic { alive(); roots = roots | home[0] }
	atomic { alive(); roots = roots | home[1] }
	atomic { alive(); phase = 2; snap = rows }
	atomic {
		alive();
		mark(roots | pins | tmp[0] | tmp[1] | goal);
		digests = pins | tmp[0] | tmp[1] | goal;
#ifdef NO_RECHECK
		dead = snap & ~live;
#endif
		phase = 3
	}
	if
	:: true -> sweep(A | B)
	:: true -> sweep(A); throw(A); sweep(B)
	fi;
	throw(A);
	throw(B);
	unknown(A);
	unknown(B);
	atomic { alive(); over(); goto again }
}

/* Killed between two steps; starts again. */
proctype Killer()
{
	do
	:: atomic { crashes < CRASHES -> crash(); check() }
	:: crashes >= CRASHES -> break
	od
}

init
{
	atomic { run Client(0); run Client(1); run Build(); run Collector(); run Killer() }
}
