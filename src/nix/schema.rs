//! The schema of Nix's database: what a new one has, and what an existing one may have.
//!
//! Nix counts schemas twice. The number in the file `db/schema` is 10 since Nix 2.0, and a Nix
//! refuses a higher one. What came later is a *migration*, recorded by name in the table
//! `SchemaMigrations`; a Nix leaves alone what it does not know.

/// The number that the file `db/schema` holds, without a newline.
pub const VERSION: u32 = 10;

/// Declares the objects of a new database, as statements and one by one.
macro_rules! schema {
    ($($kind:literal $name:literal $definition:literal;)*) => {
        /// The statements that make Nix's schema in an empty database, in Nix's order; they leave
        /// alone what is there.
        ///
        /// SQLite keeps the text of each statement from the object's name on, so that spaces and
        /// comments count: with these, `.schema` of `sqlite3` prints what it prints of a database
        /// made by Nix 2.26.3 or 2.34.8, byte by byte.
        pub const SQL: &str = concat!(
            $("create ", $kind, " if not exists ", $name, $definition, ";\n",)*
        );

        /// The same, one by one.
        const OBJECTS: &[Object] = &[
            $(Object { kind: $kind, name: $name, definition: concat!($name, $definition) },)*
        ];
    };
}

schema! {
    "table" "ValidPaths" r#" (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null, -- base16 representation
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer, -- null implies "false"
    sigs             text, -- space-separated
    ca               text -- if not null, an assertion that the path is content-addressed; see ValidPathInfo
)"#;
    "table" "Refs" " (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
)";
    "index" "IndexReferrer" " on Refs(referrer)";
    "index" "IndexReference" " on Refs(reference)";
    "trigger" "DeleteSelfRefs" " before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end";
    "table" "DerivationOutputs" r#" (
    drv  integer not null,
    id   text not null, -- symbolic output id, usually "out"
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
)"#;
    "index" "IndexDerivationOutputs" " on DerivationOutputs(path)";
    "table" "SchemaMigrations" " (migration text primary key not null)";
}

/// An object of a new database.
struct Object {
    kind: &'static str,
    name: &'static str,
    /// From its name on.
    definition: &'static str,
}

/// A change to the schema that Nix makes once and records by name.
struct Migration {
    name: &'static str,
    adds: &'static [(&'static str, &'static str)],
    drops: &'static [&'static str],
}

/// The migrations of Nix up to 2.36.
const MIGRATIONS: &[Migration] = &[
    // With the experimental feature `ca-derivations`, up to 2.34. Before 2.7 the same tables were
    // made without a record.
    Migration {
        name: "20220326-ca-derivations",
        adds: &[
            ("table", "Realisations"),
            ("index", "IndexRealisations"),
            ("trigger", "DeleteSelfRefsViaRealisations"),
            ("table", "RealisationsRefs"),
            ("index", "IndexRealisationsRefsRealisationReference"),
            ("index", "IndexRealisationsRefs"),
            ("index", "IndexRealisationsRefsOnOutputPath"),
        ],
        drops: &[],
    },
    // The same, from 2.35 on.
    Migration {
        name: "20251017-ca-derivations",
        adds: &[("table", "BuildTraceV3"), ("index", "IndexBuildTraceV3")],
        drops: &[],
    },
    // From 2.35 on, always: the primary key of `Refs` serves as well.
    Migration {
        name: "20260309-drop-redundant-indexreferrer",
        adds: &[],
        drops: &["IndexReferrer"],
    },
];

/// An object of an existing database: a row of `sqlite_master`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaObject {
    /// Its `type`: `table`, `index`, `trigger` or `view`.
    pub kind: String,
    /// Its `name`.
    pub name: String,
    /// Its `sql`; `None` for an index that SQLite made by itself.
    pub sql: Option<String>,
}

/// The statements that make Nix's schema in an attached database of this name, in which there is
/// nothing.
pub(crate) fn statements(database: &str) -> String {
    let statement = |it: &Object| format!("create {} {database}.{};\n", it.kind, it.definition);
    OBJECTS.iter().map(statement).collect()
}

/// A schema, judged against what Nix makes. Each list is empty where there is nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Objects that Nix makes and that are not there, as `table Refs`.
    pub missing: Vec<String>,
    /// Objects that are there under the right name, and defined in another way.
    pub altered: Vec<String>,
    /// Objects that no Nix known to overstore makes. They do no harm by themselves.
    pub foreign: Vec<String>,
    /// Recorded migrations that overstore does not know: a newer Nix was here.
    pub unknown_migrations: Vec<String>,
}

impl SchemaObject {
    /// Whether some Nix makes an object of this kind and name, and not SQLite by itself.
    pub(crate) fn is_of_nix(&self) -> bool {
        known().any(|it| it == (&*self.kind, &*self.name))
    }
}

/// The objects that a Nix makes, by their kinds and names.
fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    OBJECTS
        .iter()
        .map(|it| (it.kind, it.name))
        .chain(MIGRATIONS.iter().flat_map(|it| it.adds).copied())
}

/// Judges a schema by its objects and by the migrations that are recorded in it.
pub fn judge(objects: &[SchemaObject], migrations: &[String]) -> Verdict {
    let mut verdict = Verdict::default();
    let recorded = |migration: &Migration| migrations.iter().any(|name| name == migration.name);
    let dropped = |name| {
        MIGRATIONS
            .iter()
            .any(|migration| migration.drops.contains(&name) && recorded(migration))
    };
    let find = |kind: &str, name: &str| {
        objects
            .iter()
            .find(|object| object.kind == kind && object.name == name)
    };
    for Object {
        kind,
        name,
        definition,
    } in OBJECTS
    {
        let description = format!("{kind} {name}");
        match find(kind, name) {
            None if dropped(*name) => {}
            None => verdict.missing.push(description),
            Some(object) if !is_defined_as(object, definition) => verdict.altered.push(description),
            Some(_) => {}
        }
    }
    for (kind, name) in MIGRATIONS
        .iter()
        .filter(|it| recorded(it))
        .flat_map(|it| it.adds)
    {
        if find(kind, name).is_none() {
            verdict.missing.push(format!("{kind} {name}"));
        }
    }
    // SQLite's own names begin so, and nobody else's may.
    let is_known = |object: &SchemaObject| object.name.starts_with("sqlite_") || object.is_of_nix();
    verdict.foreign = objects
        .iter()
        .filter(|object| !is_known(object))
        .map(|object| format!("{} {}", object.kind, object.name))
        .collect();
    verdict.unknown_migrations = migrations
        .iter()
        .filter(|name| {
            MIGRATIONS
                .iter()
                .all(|migration| migration.name != name.as_str())
        })
        .cloned()
        .collect();
    verdict
}

/// Whether the object was made by a statement that says the same. Comments and spaces differ where
/// an old Nix made it and added columns since.
fn is_defined_as(object: &SchemaObject, definition: &str) -> bool {
    let expected = format!("create {} {definition}", object.kind);
    object
        .sql
        .as_deref()
        .is_some_and(|sql| tokens(sql) == tokens(&expected))
}

/// The words and signs of a statement, in lower case and without comments. SQLite leaves a name as it
/// was written, so a word in quotes is the same word; anything else in quotes stays what it is.
fn tokens(sql: &str) -> Vec<String> {
    let is_word = |character: &char| character.is_alphanumeric() || *character == '_';
    let mut tokens = Vec::new();
    let mut rest = sql.chars().peekable();
    while let Some(first) = rest.next() {
        let mut token = String::from(first);
        match first {
            _ if is_word(&first) => {
                while let Some(next) = rest.next_if(is_word) {
                    token.push(next);
                }
            }
            '-' if rest.peek() == Some(&'-') => {
                rest.find(|character| *character == '\n');
                continue;
            }
            '"' | '`' | '\'' => {
                let quoted: String = rest.by_ref().take_while(|next| *next != first).collect();
                token = match first != '\''
                    && !quoted.is_empty()
                    && quoted.chars().all(|c| is_word(&c))
                {
                    true => quoted,
                    false => format!("{first}{quoted}{first}"),
                };
            }
            _ if first.is_whitespace() => continue,
            _ => {}
        }
        tokens.push(token.to_lowercase());
    }
    tokens
}

#[cfg(test)]
mod tests;
