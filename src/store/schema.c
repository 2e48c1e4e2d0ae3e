/* The tables of schema 10, as Nix 2.34 makes them (feature rows A1 to A4).
 *
 * SQLite keeps the text of these statements in the file, and column names, types and constraint
 * order are what the stock tools read. So nothing here may change without a new schema number. */
#include "store/internal.h"

static const char tables[] =
	"create table if not exists ValidPaths (\n"
	"    id               integer primary key autoincrement not null,\n"
	"    path             text unique not null,\n"
	"    hash             text not null,\n" /* sha256:<base 16> */
	"    registrationTime integer not null,\n"
	"    deriver          text,\n"
	"    narSize          integer,\n"
	"    ultimate         integer,\n" /* NULL or 1 */
	"    sigs             text,\n"	  /* separated by spaces */
	"    ca               text\n"
	");\n"
	"create table if not exists Refs (\n"
	"    referrer  integer not null,\n"
	"    reference integer not null,\n"
	"    primary key (referrer, reference),\n"
	"    foreign key (referrer) references ValidPaths(id) on delete cascade,\n"
	"    foreign key (reference) references ValidPaths(id) on delete restrict\n"
	");\n"
	"create index if not exists IndexReferrer on Refs(referrer);\n"
	"create index if not exists IndexReference on Refs(reference);\n"
	/* A path that refers to itself could never be deleted: its own row restricts it. */
	"create trigger if not exists DeleteSelfRefs before delete on ValidPaths\n"
	"  begin\n"
	"    delete from Refs where referrer = old.id and reference = old.id;\n"
	"  end;\n"
	"create table if not exists DerivationOutputs (\n"
	"    drv  integer not null,\n"
	"    id   text not null,\n" /* name of the output */
	"    path text not null,\n"
	"    primary key (drv, id),\n"
	"    foreign key (drv) references ValidPaths(id) on delete cascade\n"
	");\n"
	"create index if not exists IndexDerivationOutputs on DerivationOutputs(path);\n";

/* Migrations since schema 10 are listed by name here instead of raising the number. */
static const char migrations[] =
	"create table if not exists SchemaMigrations (migration text primary key not null);\n";

/* What the feature ca-derivations adds: upstream's ca-specific-schema.sql of 2.34. */
static const char realisations[] =
	"create table if not exists Realisations (\n"
	"    id integer primary key autoincrement not null,\n"
	"    drvPath text not null,\n" /* sha256:<base 16>, the hash modulo */
	"    outputName text not null, -- symbolic output id, usually \"out\"\n"
	"    outputPath integer not null,\n"
	"    signatures text, -- space-separated list\n"
	"    foreign key (outputPath) references ValidPaths(id) on delete cascade\n"
	");\n"
	"create index if not exists IndexRealisations on Realisations(drvPath, outputName);\n"
	/* A path may depend on itself by way of realisations: those links must not restrict. */
	"create trigger if not exists DeleteSelfRefsViaRealisations before delete on ValidPaths\n"
	"  begin\n"
	"    delete from RealisationsRefs where realisationReference in (\n"
	"      select id from Realisations where outputPath = old.id\n"
	"    );\n"
	"  end;\n"
	"create table if not exists RealisationsRefs (\n"
	"    referrer integer not null,\n"
	"    realisationReference integer,\n"
	"    foreign key (referrer) references Realisations(id) on delete cascade,\n"
	"    foreign key (realisationReference) references Realisations(id) on delete restrict\n"
	");\n"
	"create index if not exists IndexRealisationsRefsRealisationReference on "
	"RealisationsRefs(realisationReference);\n"
	"create index if not exists IndexRealisationsRefs on RealisationsRefs(referrer);\n"
	"create index if not exists IndexRealisationsRefsOnOutputPath on "
	"Realisations(outputPath);\n"
	"insert or ignore into SchemaMigrations values('20220326-ca-derivations');\n";

/* Of the first form, as Nix 2.4 wrote it: the steps, and so the texts, are upstream's. */
static const char with_ids[] =
	"create table Realisations2 (\n"
	"    id integer primary key autoincrement not null,\n"
	"    drvPath text not null,\n"
	"    outputName text not null, -- symbolic output id, usually \"out\"\n"
	"    outputPath integer not null,\n"
	"    signatures text, -- space-separated list\n"
	"    foreign key (outputPath) references ValidPaths(id) on delete cascade\n"
	");\n"
	"insert into Realisations2 (drvPath, outputName, outputPath, signatures)\n"
	"    select drvPath, outputName, outputPath, signatures from Realisations;\n"
	"drop table Realisations;\n"
	"alter table Realisations2 rename to Realisations;\n";

/* What each schema has that the one before had not. A migration that was committed and then
 * interrupted, before its number was written, is done again: so each step looks first. Upstream
 * commits after each of them, and so may have left any part of it. */
static const struct step {
	int since;
	const char *column; /* of ValidPaths; NULL: always */
	const char *text;
} steps[] = {
	{ 8, "ultimate", "alter table ValidPaths add column ultimate integer" },
	{ 8, "sigs", "alter table ValidPaths add column sigs text" },
	{ 9, NULL, "drop table if exists FailedPaths" },
	{ 10, "ca", "alter table ValidPaths add column ca text" },
};

bool db_schema_has(sqlite3 *sql, const char *table, const char *column)
{
	return sqlite3_table_column_metadata(sql, NULL, table, column, NULL, NULL, NULL, NULL,
					     NULL) == SQLITE_OK;
}

static int begin(sqlite3 *sql)
{
	return sqlite3_exec(sql, "begin immediate", NULL, NULL, NULL);
}

static int finish(sqlite3 *sql, int rc)
{
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sql, "commit", NULL, NULL, NULL);
	if (rc != SQLITE_OK && !sqlite3_get_autocommit(sql))
		(void)sqlite3_exec(sql, "rollback", NULL, NULL, NULL); /* rc is the story */
	return db_errno(rc);
}

static int run(sqlite3 *sql, const char *a, const char *b)
{
	int rc = begin(sql);

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sql, a, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sql, b, NULL, NULL, NULL);
	return finish(sql, rc);
}

int db_schema_create(sqlite3 *sql)
{
	return run(sql, tables, migrations);
}

int db_schema_migrate(sqlite3 *sql, int from)
{
	int rc;

	if (from >= DB_SCHEMA_VERSION)
		return 0;
	rc = begin(sql);
	for (size_t i = 0; rc == SQLITE_OK && i < ELEMENTS(steps); i++)
		if (from < steps[i].since &&
		    (!steps[i].column || !db_schema_has(sql, "ValidPaths", steps[i].column)))
			rc = sqlite3_exec(sql, steps[i].text, NULL, NULL, NULL);
	return finish(sql, rc);
}

int db_schema_realisations(sqlite3 *sql)
{
	const bool old = db_schema_has(sql, "Realisations", "drvPath") &&
			 !db_schema_has(sql, "Realisations", "id");
	int rc = begin(sql);

	if (rc == SQLITE_OK && old)
		rc = sqlite3_exec(sql, with_ids, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sql, migrations, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sql, realisations, NULL, NULL, NULL);
	return finish(sql, rc);
}
