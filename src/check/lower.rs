//! The lower store: its directory and its metadata source.

use std::io;
use std::path::Path;

use super::path::{self, Named};
use super::{Code, Finding, Part, Severity, mount};
use crate::config::{Lower, MetadataSource, Store};
use crate::escape::{show, show_path};
use crate::nix::layout;
use crate::observe::{
    FileFacts, Found, LogFacts, LowerFacts, Machine, MountFacts, Observed, Place, PublicationFacts,
    SourceFacts,
};

use crate::nix::schema::VERSION as SCHEMA_VERSION;
use crate::remedy::{CommandLine, Fault, Remedy, command};

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lower = Looked {
        store,
        lower: &store.lower,
        facts: &observed.lower,
        above: observed
            .upper_layer
            .strangers
            .as_deref()
            .unwrap_or_default(),
        machine: &observed.machine,
    };
    lower.add(&mut findings);
    findings
}

/// A lower store, described and observed.
struct Looked<'a> {
    store: &'a Store,
    lower: &'a Lower,
    facts: &'a LowerFacts,
    /// Names in the upper layer at which the collector stops.
    above: &'a [std::ffi::OsString],
    machine: &'a Machine,
}

impl Looked<'_> {
    fn add(&self, findings: &mut Vec<Finding>) {
        let named = Named {
            part: Part::LowerStore,
            what: "the lower store directory",
            key: "lower.real",
            below: None,
            missing: Code::LowerMissing,
            made_by_up: false,
            remedy: self.missing(),
        };
        findings.extend(path::finding(&self.facts.directory, &named, self.machine));
        findings.extend(self.through_a_link());
        findings.extend(self.strangers());
        match (&self.lower.source, &self.facts.source) {
            (
                MetadataSource::Database { state, read_only },
                facts @ SourceFacts::Database { .. },
            ) => self.add_database(state, *read_only, facts, findings),
            (
                MetadataSource::Daemon { socket },
                SourceFacts::Daemon {
                    answer: Some(Err(why)),
                },
            ) => findings.push(silent(socket, why)),
            (
                MetadataSource::Overlay {
                    state,
                    read_only,
                    lower,
                    ..
                },
                SourceFacts::Overlay {
                    upper,
                    mount,
                    lower: facts,
                },
            ) => {
                self.add_database(state, *read_only, upper, findings);
                findings.extend(self.mount(&lower.real, mount));
                let below = Looked {
                    lower,
                    facts,
                    ..*self
                };
                below.add(findings);
            }
            _ => {}
        }
    }

    /// What to do where the lower store directory is missing.
    fn missing(&self) -> Remedy {
        let (directory, key) = (&self.facts.directory, self.store.lower_store_key());
        if let Found::Missing { nearest, .. } = &directory.found
            && let Some(root) = root_of(nearest)
            && directory.path == nearest.join("nix/store")
        {
            let root = match root == Path::new("/") {
                true => "\"local\"".to_owned(),
                false => format!("\"{}\"", show_path(root)),
            };
            return Remedy::say(format!("{key} is a store's root, not its store directory"))
                .and_set("lower-store", root);
        }
        Remedy::say(format!("mount or make the lower store, or correct {key}"))
    }

    fn add_database(
        &self,
        state: &Path,
        read_only: bool,
        facts: &SourceFacts,
        findings: &mut Vec<Finding>,
    ) {
        let SourceFacts::Database {
            database,
            log,
            schema,
            state: state_place,
            missing,
        } = facts
        else {
            return;
        };
        let publication = self.facts.publication.as_ref();
        if publication.is_some_and(PublicationFacts::out_of_reach) {
            // That is told.
            return;
        }
        let path = layout::database(state);
        if let Some(finding) = self.database(&path, database) {
            // What is in the way of both is said once.
            let in_the_way = self.facts.directory.in_the_way();
            if !in_the_way.is_some_and(|component| path.starts_with(component)) {
                findings.push(finding);
            }
            return;
        }
        findings.extend(schema_unknown(&state.join("db/schema"), schema, read_only));
        findings.extend(pending(&path, log.as_ref()));
        let on_read_only = |place: &Place| {
            place
                .found
                .directory()
                .is_some_and(|stat| stat.fs.read_only)
        };
        let read_only_mount = on_read_only(&self.facts.directory) || on_read_only(state_place);
        if read_only {
            let gone = |place: &Place, path: &Path| {
                place.found.directory().is_none() && path.starts_with(&place.path)
            };
            // What is above them is missing, which is said already.
            let missing = missing
                .iter()
                .filter(|path| !gone(&self.facts.directory, path) && !gone(state_place, path));
            for path in missing {
                findings.push(match path.ends_with(layout::RESERVED) {
                    true => reserved_missing(path),
                    false => {
                        directory_missing(path, self.cannot_make(state_place, read_only_mount))
                    }
                });
            }
        } else {
            findings.push(self.written(read_only_mount));
        }
    }

    /// Why Nix cannot make what is missing below.
    fn cannot_make(&self, state: &Place, read_only_mount: bool) -> Option<&'static str> {
        if read_only_mount {
            return Some("nothing, and Nix cannot make it on a read-only mount");
        }
        let stat = state.found.directory()?;
        let theirs = self.machine.uid != 0 && stat.uid != self.machine.uid;
        (theirs && stat.mode & 0o022 == 0)
            .then_some("nothing, and Nix may not make it as this user")
    }

    fn database(&self, path: &Path, facts: &FileFacts) -> Option<Finding> {
        let actual = match facts {
            FileFacts::File { .. } => return None,
            FileFacts::Missing => "nothing".to_owned(),
            FileFacts::Other(kind) => kind.clone().into_owned(),
            FileFacts::Unreachable(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                if error.kind() == io::ErrorKind::PermissionDenied && self.machine.uid != 0 {
                    let why = error.to_string();
                    return Some(path::not_checked(Part::LowerStore, path, &why));
                }
                error.to_string()
            }
        };
        let remedy = match facts {
            // One that is there is not to be made anew.
            FileFacts::Unreachable(_) => {
                Remedy::say("find out why it cannot be read").run(command!["ls", "-l", path])
            }
            _ => {
                "name the lower store's state directory with `state` under `[lower]`; objects that \
                  came without a database get one with \
                  `nix-store --store ROOT --load-db <REGISTRATION`"
                    .into()
            }
        };
        Some(
            Finding::at(Code::LowerDatabaseMissing, path)
                .expected("the lower store's database")
                .found(actual)
                .remedy(remedy),
        )
    }

    /// Nix would write to the lower store, or fail to.
    fn written(&self, read_only_mount: bool) -> Finding {
        let nested = matches!(self.lower.source, MetadataSource::Overlay { .. });
        let remedy = match nested {
            true => Remedy::from(
                "serve the nested store with a daemon, and name its socket: \
                 `lower-store = \"unix://SOCKET\"` with `real` under `[lower]`",
            ),
            false => Remedy::say(
                "with `pragma wal_checkpoint(truncate)` run after each change where the store is \
                 published",
            )
            .and_set("lower.read-only", "true"),
        };
        match read_only_mount {
            true => Finding::at(Code::LowerNotDescribedReadOnly, &self.lower.real)
                .expected("`read-only = true` for a lower store that is on a read-only mount")
                .found("it is not set, so Nix will try to write to the lower store, and fail"),
            false => Finding::at(Code::LowerWrittenByNix, &self.lower.real)
                .expected("a lower store that Nix leaves alone")
                .found(match nested {
                    true => "Nix copies metadata into the nested store's own upper database",
                    false => {
                        "Nix opens its database for writing, and may change the owner of its \
                         directory"
                    }
                }),
        }
        .remedy(remedy)
    }

    /// Nix opens no local store whose directory, or a parent of it, is a symbolic link, unless its
    /// settings allow it; a daemon's store is the daemon's affair.
    fn through_a_link(&self) -> Option<Finding> {
        let resolved = self.facts.resolved.as_ref()?;
        self.lower.state()?;
        Some(
            Finding::at(Code::LowerPathSymlink, &self.lower.real)
                .expected("a path without symbolic links: Nix opens no other")
                .found(format!(
                    "it leads through a symbolic link to {}",
                    show_path(resolved)
                ))
                .remedy(
                    Remedy::say("name it by its own path")
                        .and_set("lower.real", format!("\"{}\"", show_path(resolved))),
                ),
        )
    }

    fn strangers(&self) -> impl Iterator<Item = Finding> {
        let names = self.facts.strangers.iter().flatten();
        names.map(|name| {
            Finding::at(Code::LowerStranger, &self.lower.real.join(name))
                .expected("names of store paths only")
                .found(format!(
                    "{}, at which Nix's garbage collector stops",
                    show(name.as_encoded_bytes())
                ))
                .remedy(
                    Remedy::say(
                        "hide it with a whiteout in the upper layer; the lower store stays as it is",
                    )
                    // What is above of that name is somebody's.
                    .run(match self.above.contains(name) {
                        true => super::move_away(self.store, &self.store.real.join(name)),
                        false => command!["rm", "-r", self.store.real.join(name)],
                    }),
                )
        })
    }

    /// The findings about a nested store's mount, as one kind: it is not ours to fix.
    fn mount(&self, below: &Path, facts: &MountFacts) -> Vec<Finding> {
        // By what name its description goes is not known here.
        let up = command![self.store.program, "up"];
        let remedy = Remedy::say(
            "set the nested lower store up first: `overstore up` with its own description",
        );
        mount::wrong(&self.lower.real, below, facts, &up)
            .into_iter()
            .map(|finding| {
                Finding::new(Code::LowerMountWrong, finding.subject)
                    .expected(finding.expected)
                    .found(finding.actual)
                    .remedy(remedy.clone())
            })
            .collect()
    }
}

/// What consumers would be told of a local lower store that they read as read-only, for its owner.
/// `prepare` is what makes what is missing, and `beside` where names can be moved to that do not belong
/// into the store directory.
pub(crate) fn for_owner(
    real: &Path,
    state: &Path,
    facts: &LowerFacts,
    prepare: &CommandLine,
    beside: &Path,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.directory.found.directory().is_none() {
        findings.push(
            Finding::at(Code::LowerMissing, real)
                .expected("the lower store directory")
                .found("nothing that can be looked at")
                .remedy("give the root of a lower store, or the directory of a publication"),
        );
    }
    for name in facts.strangers.iter().flatten() {
        findings.push(
            Finding::at(Code::LowerStranger, &real.join(name))
                .expected("names of store paths only")
                .found("a name at which Nix's garbage collector stops, in every store above")
                .remedy(
                    Remedy::say("if no store above uses it, move it out of the store directory")
                        .run(command!["mv", "-n", "--", real.join(name), beside]),
                ),
        );
    }
    let SourceFacts::Database {
        database,
        log,
        schema,
        missing,
        ..
    } = &facts.source
    else {
        return findings;
    };
    let path = layout::database(state);
    if !matches!(database, FileFacts::File { .. }) {
        findings.push(
            Finding::at(Code::LowerDatabaseMissing, &path)
                .expected("the lower store's database")
                .found("no file that can be read")
                .remedy(
                    "objects that came without a database get one with \
                     `nix-store --store ROOT --load-db <REGISTRATION`",
                ),
        );
        return findings;
    }
    findings.extend(schema_unknown(&state.join("db/schema"), schema, true));
    findings.extend(pending(&path, log.as_ref()));
    for path in missing {
        let finding = match path.ends_with(layout::RESERVED) {
            true => reserved_missing(path),
            false => directory_missing(path, None),
        };
        findings.push(finding.remedy(prepare.clone()));
    }
    findings
}

/// The root that a store directory with the usual name belongs to.
fn root_of(store_directory: &Path) -> Option<&Path> {
    match store_directory.ends_with("nix/store") {
        true => store_directory.parent()?.parent(),
        false => None,
    }
}

/// A daemon does not answer, or not as one.
pub(crate) fn silent(socket: &Path, why: &Fault) -> Finding {
    Finding::at(Code::LowerDaemonSilent, socket)
        .expected("the answer of a Nix daemon")
        .found(&*why.what)
        .remedy(why.remedy.clone())
}

fn schema_unknown(path: &Path, schema: &Option<String>, read_only: bool) -> Option<Finding> {
    let version = schema.as_deref().map(str::parse::<u32>);
    let (actual, remedy) = match version {
        Some(Ok(SCHEMA_VERSION)) => return None,
        Some(Ok(version)) if version > SCHEMA_VERSION => (
            format!("version {version}"),
            "use a version of Nix and of overstore that know it",
        ),
        // Nix makes or upgrades what it may write to.
        Some(Ok(_)) | None if !read_only => return None,
        Some(Ok(version)) => (
            format!("version {version}, which Nix cannot upgrade in a read-only store"),
            "have a newer Nix open the store once, where it can be written to",
        ),
        Some(Err(_)) => (
            format!(
                "`{}`",
                show(schema.as_deref().unwrap_or_default().as_bytes())
            ),
            "write the version that the database has to the file: 10 for every Nix since 2.0",
        ),
        None => (
            "nothing that can be read".to_owned(),
            "copy the file `schema` beside the database too when publishing the store",
        ),
    };
    Some(
        Finding::at(Code::LowerSchemaUnknown, path)
            .expected(format!("schema version {SCHEMA_VERSION}"))
            .found(actual)
            .remedy(remedy),
    )
}

fn pending(path: &Path, log: Option<&LogFacts>) -> Option<Finding> {
    match log? {
        LogFacts::Empty => None,
        LogFacts::Pending(pages) => Some(
            Finding::at(Code::LowerWalPending, path)
                .expected(
                    "everything in the database itself, since Nix reads a read-only store without \
                     its write-ahead log",
                )
                .found(format!("{pages} pages that only the write-ahead log has"))
                .remedy(
                    Remedy::say("where the lower store is published").run(command![
                        "sqlite3",
                        path,
                        "pragma wal_checkpoint(truncate)"
                    ]),
                ),
        ),
        LogFacts::Other(kind) => Some(
            Finding::at(Code::LowerWalPending, path)
                .expected("a write-ahead log beside the database, or none")
                .found(format!("in its place: {kind}"))
                .remedy(format!(
                    "where the lower store is published: find out who put it there, and move it \
                     away: {}-wal",
                    show_path(path)
                )),
        ),
        LogFacts::Unreadable(errno) => Some(path::not_checked(
            Part::LowerStore,
            path,
            &format!(
                "its write-ahead log: {}",
                io::Error::from_raw_os_error(*errno)
            ),
        )),
    }
}

fn reserved_missing(path: &Path) -> Finding {
    Finding::at(Code::LowerWrittenByNix, path)
        .expected("a file of 8 MiB, which Nix makes where it can, also in a read-only store")
        .found("nothing, so Nix makes it, in the lower store")
        .remedy(
            Remedy::say("where the lower store is published")
                .run(command!["install", "-m", "600", "/dev/null", path])
                .run(command!["fallocate", "-l", "8M", path]),
        )
}

fn directory_missing(path: &Path, cannot_make: Option<&str>) -> Finding {
    Finding::at(Code::LowerDirectoryMissing, path)
        .severity(match cannot_make {
            Some(_) => Severity::Error,
            None => Severity::Warning,
        })
        .expected("a directory, which Nix wants to find although the store is read-only")
        .found(cannot_make.unwrap_or("nothing, so Nix makes it, in the lower store"))
        .remedy(
            Remedy::say("where the lower store is published").run(command!["mkdir", "-p", path]),
        )
}
