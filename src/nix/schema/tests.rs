use super::*;
use proptest::prelude::*;
use rusqlite::Connection;

/// What `sqlite3 db.sqlite .schema` prints of a database made by Nix 2.26.3, and by 2.34.8.
const NIX: &str = include_str!("nix.schema");

/// The same with the experimental feature `ca-derivations`.
const NIX_WITH_CA_DERIVATIONS: &str = include_str!("nix-ca-derivations.schema");

const CA_DERIVATIONS: &str = "20220326-ca-derivations";
const NO_INDEX_REFERRER: &str = "20260309-drop-redundant-indexreferrer";

fn database(sql: &str) -> Connection {
    let database = Connection::open_in_memory().unwrap();
    database.execute_batch(sql).unwrap();
    database
}

fn objects(database: &Connection) -> Vec<SchemaObject> {
    let mut rows = database
        .prepare("select type, name, sql from sqlite_master")
        .unwrap();
    let object = |row: &rusqlite::Row| {
        Ok(SchemaObject {
            kind: row.get(0)?,
            name: row.get(1)?,
            sql: row.get(2)?,
        })
    };
    rows.query_map([], object)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// What `.schema` prints.
fn printed(database: &Connection) -> String {
    objects(database)
        .into_iter()
        .filter_map(|object| object.sql)
        .map(|sql| sql + ";\n")
        .collect()
}

fn judged(sql: &str, migrations: &[&str]) -> Verdict {
    let migrations: Vec<_> = migrations.iter().map(ToString::to_string).collect();
    judge(&objects(&database(sql)), &migrations)
}

/// SQLite makes this table itself, and nobody else may.
fn statements(schema: &str) -> String {
    schema.replace("CREATE TABLE sqlite_sequence(name,seq);\n", "")
}

#[test]
fn our_schema_is_nix_s_byte_by_byte() {
    let ours = database(SQL);
    assert_eq!(printed(&ours), NIX);
    // A second time it changes nothing.
    ours.execute_batch(SQL).unwrap();
    assert_eq!(printed(&ours), NIX);
}

#[test]
fn what_nix_makes_is_found_good() {
    assert_eq!(judged(&statements(NIX), &[]), Verdict::default());
    let with_ca = statements(NIX_WITH_CA_DERIVATIONS);
    assert_eq!(judged(&with_ca, &[CA_DERIVATIONS]), Verdict::default());
    // Made before there were records.
    assert_eq!(judged(&with_ca, &[]), Verdict::default());
}

#[test]
fn what_newer_versions_change_is_known() {
    let newer = format!(
        "{SQL} drop index IndexReferrer; create table BuildTraceV3 (id); \
         create index IndexBuildTraceV3 on BuildTraceV3(id);"
    );
    assert_eq!(
        judged(&newer, &["20251017-ca-derivations", NO_INDEX_REFERRER]),
        Verdict::default()
    );
}

#[test]
fn a_database_that_old_versions_brought_up_is_good() {
    let old = SQL
        .replace(" -- base16 representation", "")
        .replace("    narSize          integer,\n    ultimate         integer, -- null implies \"false\"\n    sigs             text, -- space-separated\n    ca               text -- if not null, an assertion that the path is content-addressed; see ValidPathInfo\n", "    narSize          integer\n");
    let migrated = format!(
        "{old}; alter table ValidPaths add column ultimate integer; \
         alter table ValidPaths add column sigs text; alter table ValidPaths add column ca text;"
    );
    assert_ne!(printed(&database(&migrated)), NIX);
    assert_eq!(judged(&migrated, &[]), Verdict::default());
}

#[test]
fn what_is_missing_is_named() {
    let missing = |sql: &str, migrations: &[&str]| judged(sql, migrations).missing;
    assert_eq!(missing("", &[]).len(), 8);
    assert_eq!(
        missing(&format!("{SQL} drop trigger DeleteSelfRefs"), &[]),
        ["trigger DeleteSelfRefs"]
    );
    assert_eq!(
        missing(&format!("{SQL} drop table SchemaMigrations"), &[]),
        ["table SchemaMigrations"]
    );
    // An index can be dropped by a migration, but only then.
    let without = format!("{SQL} drop index IndexReferrer");
    assert_eq!(missing(&without, &[]), ["index IndexReferrer"]);
    assert_eq!(missing(&without, &[NO_INDEX_REFERRER]), [""; 0]);
    // A migration that is recorded has happened.
    assert_eq!(missing(SQL, &[CA_DERIVATIONS]).len(), 7);
}

#[test]
fn what_is_different_is_named() {
    let altered = SQL.replace("on delete restrict", "on delete cascade");
    assert_eq!(judged(&altered, &[]).altered, ["table Refs"]);
    let another_kind = format!("{SQL} drop index IndexReference; create table IndexReference (a)");
    let verdict = judged(&another_kind, &[]);
    assert_eq!(verdict.missing, ["index IndexReference"]);
    assert_eq!(verdict.foreign, ["table IndexReference"]);
}

#[test]
fn nothing_hides_in_quotes() {
    for (column, hiding) in [
        ("text unique not null", r#""text unique" not null"#),
        ("text unique not null", "`text unique not null`"),
        (
            "text not null, --",
            r#"text not null, "--" as (hex(path)), --"#,
        ),
        (
            "text not null, --",
            "\"text\n--\" check (hex(path)) not null, --",
        ),
    ] {
        let altered = SQL.replacen(column, hiding, 1);
        assert_ne!(altered, SQL);
        assert_eq!(
            judged(&altered, &[]).altered,
            ["table ValidPaths"],
            "{hiding}"
        );
    }
    let quoted = SQL.replacen("    path  ", "    \"Path\"", 1);
    assert_eq!(judged(&quoted, &[]), Verdict::default());
}

#[test]
fn what_is_foreign_is_named() {
    let foreign = format!("{SQL} create table Notes (a unique); create view V as select 1;");
    let verdict = judged(&foreign, &["20300101-something"]);
    assert_eq!(verdict.foreign, ["table Notes", "view V"]);
    assert_eq!(verdict.unknown_migrations, ["20300101-something"]);
    assert_eq!((verdict.missing.len(), verdict.altered.len()), (0, 0));
}

proptest! {
    #[test]
    fn any_rows_are_judged(
        rows in prop::collection::vec((".{0,8}", ".{0,8}", prop::option::of(".{0,40}")), 0..6),
        migrations in prop::collection::vec(".{0,8}", 0..3),
    ) {
        let objects: Vec<_> = rows
            .into_iter()
            .map(|(kind, name, sql)| SchemaObject { kind, name, sql })
            .collect();
        prop_assert_eq!(judge(&objects, &migrations).missing.len(), OBJECTS.len());
    }
}
