//! What can be said of a store from its description alone.

use super::{Code, Finding, Part, Severity};
use crate::config::{MetadataSource, Store};
use crate::nix::layout;
use crate::nix::mount_check::Unmatchable;
use crate::overlayfs::options;
use std::path::Path;

/// Everything there is to say.
pub fn findings(store: &Store) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(mount_check_impossible(store));
    findings.extend(url_depends_on_version(store));
    findings.extend(risky_options(store));
    findings.extend(database_path_too_long(store));
    findings
}

/// Nix's text check cannot match a path, however the overlay is mounted.
fn mount_check_impossible(store: &Store) -> Vec<Finding> {
    // Whoever turned the check off knows.
    if store.check_mount.given && !store.check_mount.value {
        return Vec::new();
    }
    let asked_for = store.check_mount.value;
    let finding = |(key, path, why): (&str, &Path, Unmatchable)| {
        let finding = Finding::at(Code::MountCheckImpossible, path)
            .expected(format!(
                "a path for `{key}` that Nix's own mount check can match"
            ))
            .found(format!("Nix's check never passes with this path: {why}"));
        match asked_for {
            true => finding.severity(Severity::Error).remedy(
                "remove `check-mount = true`, or use a path of letters, digits, `/`, `-`, `_` and \
                 `.`",
            ),
            false => finding.remedy(
                "none is needed: the store URL says `check-mount=false`, and overstore's own check \
                 covers the mount; for Nix's check as well, use a path of letters, digits, `/`, `-`, \
                 `_` and `.`",
            ),
        }
    };
    store.unmatchable_paths().into_iter().map(finding).collect()
}

/// The URL cannot be written in one way for all versions of Nix.
fn url_depends_on_version(store: &Store) -> Option<Finding> {
    let texts = store.reference().render_for_all().err()?;
    Some(
        Finding::new(Code::UrlDependsOnVersion, "lower-store")
            .expected("one store URL that every version of Nix reads alike")
            .found(format!(
                "Nix 2.33 and before need {}, Nix 2.34 and later {}",
                texts.before_2_34, texts.since_2_34
            ))
            .remedy(format!(
                "use `{}` wherever the URL goes, or name the lower store without `%`, `&`, `#`, \
                 `?` and characters outside ASCII",
                store.command(["url", "--nix-version", "VERSION"])
            )),
    )
}

/// The longest path of a database that SQLite opens, in bytes: its own limit is 512, and the names
/// beside it (`-journal`) have to fit (source: `MAX_PATHNAME` in `os_unix.c`, `sqlite3PagerOpen`).
const LONGEST_DATABASE_PATH: usize = 504;

/// Databases that Nix cannot open for the length of their paths.
fn database_path_too_long(store: &Store) -> impl Iterator<Item = Finding> {
    let mut databases = vec![(store.database(), Part::UpperDatabase, "state")];
    let mut lower = Some(&store.lower);
    while let Some(this) = lower {
        let state = this.state().map(layout::database);
        databases.extend(state.map(|path| (path, Part::LowerStore, "lower.state")));
        lower = match &this.source {
            MetadataSource::Overlay { lower, .. } => Some(lower),
            _ => None,
        };
    }
    let length = |path: &Path| path.as_os_str().len();
    let too_long = databases
        .into_iter()
        .filter(move |(path, ..)| length(path) > LONGEST_DATABASE_PATH);
    too_long.map(move |(path, part, key)| {
        Finding::at(Code::DatabasePathTooLong, &path)
            .part(part)
            .expected(format!(
                "a path of at most {LONGEST_DATABASE_PATH} bytes, which is what SQLite, and so Nix, \
                 opens"
            ))
            .found(format!("one of {} bytes", length(&path)))
            .remedy(match part {
                Part::LowerStore => format!(
                    "bind or link the lower store's state directory at a shorter path, and name that \
                     with `{key}`"
                ),
                _ => format!("name a state directory with a shorter path with `{key}`"),
            })
    })
}

/// Mount options that risk the data.
fn risky_options(store: &Store) -> impl Iterator<Item = Finding> {
    store.mount_options.iter().filter_map(|option| {
        let why = options::kind(&option.name)?.risk_of(option.value.as_deref())?;
        Some(
            Finding::new(Code::MountOptionRisky, option.to_string())
                .expected("mount options that keep the upper layer safe, and complete without the lower store")
                .found(why)
                .remedy(format!(
                    "remove \"{option}\" from `mount.options`, and mount the store again"
                )),
        )
    })
}
