//! The upper database.

use super::{Code, Finding, Part, Severity, path, up};
use crate::config::Store;
use crate::escape::show;
use crate::nix::layout;
use crate::nix::schema::{VERSION, Verdict};
use crate::observe::{DatabaseContent, FileFacts, Observed};
use crate::remedy::{CommandLine, Remedy, command};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let path = store.database();
    let rule = Rule { store };
    let facts = &observed.database;
    let missing = |actual: &str| {
        vec![
            rule.finding(Code::DatabaseMissing)
                .expected("the upper database")
                .found(actual)
                .remedy(up(store)),
        ]
    };
    match &facts.file {
        FileFacts::File { size: 0, .. } => return missing("an empty file"),
        FileFacts::File { .. } => {}
        FileFacts::Missing => return missing("nothing"),
        FileFacts::Other(kind) => return vec![rule.unreadable(kind.clone().into_owned())],
        FileFacts::Unreachable(errno) => {
            let error = std::io::Error::from_raw_os_error(*errno).to_string();
            return vec![match observed.machine.uid {
                0 => rule.unreadable(error),
                _ => path::not_checked(Part::UpperDatabase, &path, &error),
            }];
        }
    }
    let mut findings = Vec::new();
    findings.extend(rule.version(&facts.schema, observed));
    findings.extend(rule.permissions(observed));
    match &facts.content {
        None => {}
        Some(Ok(content)) => findings.extend(rule.content(content)),
        Some(Err(why)) if observed.machine.uid != 0 => {
            findings.push(path::not_checked(Part::UpperDatabase, &path, why));
        }
        Some(Err(why)) => findings.push(rule.unreadable(why.clone())),
    }
    findings
}

struct Rule<'a> {
    store: &'a Store,
}

impl Rule<'_> {
    /// A finding about the database file.
    fn finding(&self, code: Code) -> Finding {
        Finding::at(code, &self.store.database())
    }

    /// A command line of the `sqlite3` program.
    fn sqlite(&self, sql: &str) -> CommandLine {
        command!["sqlite3", self.store.database(), sql]
    }

    /// A way back from a database that is lost: objects of the upper layer are registered anew.
    fn restore(&self) -> Remedy {
        let saved = ".output recovered.sql";
        Remedy::say("restore it from a backup").or(Remedy::say("save what can be read")
            .run(command![
                "sqlite3",
                self.store.database(),
                saved,
                ".recover"
            ])
            .run(command![
                "sqlite3",
                "recovered.sqlite",
                ".read recovered.sql"
            ]))
    }

    fn unreadable(&self, actual: String) -> Finding {
        self.finding(Code::DatabaseUnreadable)
            .expected("a database that SQLite can read")
            .found(actual)
            .remedy(self.restore())
    }

    fn version(
        &self,
        schema: &Result<Option<String>, String>,
        observed: &Observed,
    ) -> Option<Finding> {
        let file = self.store.state.join("db/schema");
        let write = command!["sh", "-c", format!("printf {VERSION} >\"$0\""), &file];
        let schema = schema.as_ref().map(Option::as_deref);
        let (actual, remedy): (_, Remedy) = match schema.map(|text| text.map(str::parse::<u32>)) {
            // Nix takes 0 for a store to be made, and makes what is missing.
            Ok(Some(Ok(VERSION | 0))) => return None,
            Ok(Some(Ok(version))) if version < VERSION => (
                format!(
                    "version {version}, whose database Nix would upgrade, or refuse; this kind of store has always had version {VERSION}"
                ),
                Remedy::from(write),
            ),
            Ok(Some(Ok(version))) => (
                format!("version {version}"),
                "use the version of Nix that made it, and an overstore that knows it".into(),
            ),
            Ok(Some(Err(_))) => (
                format!(
                    "`{}`",
                    show(schema.ok().flatten().unwrap_or_default().as_bytes())
                ),
                Remedy::from(write),
            ),
            Ok(None) => (
                "no schema file: an interrupted run did not write it".to_owned(),
                up(self.store).into(),
            ),
            Err(why) if observed.machine.uid != 0 => {
                return Some(path::not_checked(Part::UpperDatabase, &file, why));
            }
            Err(why) => (
                format!("a file `schema` that cannot be read: {why}"),
                Remedy::say("see what it is; move it away, and write the version to a new file")
                    .run(command!["ls", "-ld", &file]),
            ),
        };
        let code = match schema {
            Ok(None) => Code::SchemaIncomplete,
            _ => Code::SchemaUnknown,
        };
        Some(
            self.finding(code)
                .expected(format!(
                    "schema version {VERSION} in the file `schema` beside it"
                ))
                .found(actual)
                .remedy(remedy),
        )
    }

    fn permissions(&self, observed: &Observed) -> Vec<Finding> {
        let facts = &observed.database;
        let files = [
            (layout::DATABASE_FILE, &facts.file),
            ("big-lock", &facts.big_lock),
            ("reserved", &facts.reserved),
        ];
        let wrong = files.into_iter().filter_map(|(name, facts)| match facts {
            FileFacts::File { mode, uid, .. } => {
                let ours = *uid == 0 || *uid == observed.machine.uid;
                (!ours || mode & 0o022 != 0).then_some((name, *uid, *mode))
            }
            _ => None,
        });
        let lock = match &facts.big_lock {
            FileFacts::Other(kind) => {
                let path = self
                    .store
                    .state
                    .join(layout::DATABASE_DIRECTORY)
                    .join("big-lock");
                Some(
                    Finding::at(Code::DatabasePermissions, &path)
                        .expected("a file, which Nix opens to write and locks")
                        .found(kind.clone())
                        .remedy(super::move_away(self.store, &path)),
                )
            }
            _ => None,
        };
        wrong
            .map(|(name, uid, mode)| {
                let path = self.store.state.join(layout::DATABASE_DIRECTORY).join(name);
                Finding::at(Code::DatabasePermissions, &path)
                    .expected("a file that only its owner, who runs the store, can write to")
                    .found(format!("owner {uid}, mode {mode:04o}"))
                    .remedy(match uid == 0 || uid == observed.machine.uid {
                        true => Remedy::from(command!["chmod", "go-w", path]),
                        false => Remedy::say(format!(
                            "where the store is meant to be user {uid}'s, run `overstore exec` as \
                             that user"
                        ))
                        .or(Remedy::say(
                            "where it is meant to be root's, give the file to root",
                        )
                        .run(command!["chown", "root", path])
                        .run(command!["chmod", "go-w", path])),
                    })
            })
            .chain(lock)
            .collect()
    }

    fn content(&self, content: &DatabaseContent) -> Vec<Finding> {
        let mut findings = self.schema(&content.schema);
        if let Some(first) = content.quick_check.first() {
            findings.push(
                self.finding(Code::DatabaseDamaged)
                    .expected("`ok` from SQLite's quick_check")
                    .found(format!(
                        "{}{}",
                        show(first.as_bytes()),
                        more(&content.quick_check)
                    ))
                    .remedy(self.restore()),
            );
        }
        if let Some(first) = content.foreign_keys.first() {
            findings.push(
                self.finding(Code::ForeignKeyViolated)
                    .expected("rows that refer only to rows that exist")
                    .found(format!("{first}{}", more(&content.foreign_keys)))
                    .remedy(
                        Remedy::say(
                            "with the store down and the database saved, delete those rows",
                        )
                        .run(self.sqlite(
                            "delete from Refs where referrer not in (select id from ValidPaths) or \
                             reference not in (select id from ValidPaths); delete from \
                             DerivationOutputs where drv not in (select id from ValidPaths)",
                        )),
                    ),
            );
        }
        if content.wal != self.store.use_sqlite_wal {
            let mode = |wal| match wal {
                true => "wal",
                false => "truncate",
            };
            findings.push(
                self.finding(Code::JournalModeDiffers)
                    .expected(match self.store.use_sqlite_wal {
                        true => "a write-ahead log (`use-sqlite-wal` is true)",
                        false => "no write-ahead log (`use-sqlite-wal` is false)",
                    })
                    .found(match content.wal {
                        true => "a database in WAL mode",
                        false => "a database that is not in WAL mode",
                    })
                    .remedy(
                        Remedy::say(
                            "set `use-sqlite-wal` to the same value in nix.conf and under `[database]`, then run",
                        )
                        .run(self.sqlite(&format!(
                            "pragma journal_mode = {}",
                            mode(self.store.use_sqlite_wal)
                        ))),
                    ),
            );
        }
        findings
    }

    fn schema(&self, verdict: &Verdict) -> Vec<Finding> {
        let mut findings = Vec::new();
        let lacking: Vec<String> = [&verdict.missing, &verdict.altered]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if !lacking.is_empty() {
            findings.push(
                self.finding(Code::SchemaIncomplete)
                    .expected("everything that Nix makes in its database, as Nix makes it")
                    .found(format!(
                        "missing or different: {}",
                        show(lacking.join(", ").as_bytes())
                    ))
                    .remedy(self.restore()),
            );
        }
        if !verdict.foreign.is_empty() {
            findings.push(
                self.finding(Code::SchemaForeign)
                    .expected("nothing but what Nix makes in its database")
                    .found(show(verdict.foreign.join(", ").as_bytes()))
                    .remedy(Remedy::say("see what it is").run(self.sqlite(".schema"))),
            );
        }
        if !verdict.unknown_migrations.is_empty() {
            findings.push(
                self.finding(Code::SchemaForeign)
                    .severity(Severity::Note)
                    .expected("migrations that overstore knows")
                    .found(show(verdict.unknown_migrations.join(", ").as_bytes()))
                    .remedy("use a newer overstore to have them checked"),
            );
        }
        findings
    }
}

/// How many more there are than the one shown.
fn more(lines: &[String]) -> String {
    match lines.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    }
}
