//! What no longer fits together across the layers and the upper database.

use std::path::{Path, PathBuf};

use super::move_away;
use crate::check::{Code, Finding, Part, up};
use crate::compare::Difference;
use crate::compare::Identity;
use crate::compare::{Across, Contents, Damaged, Missing, Odd, Several};
use crate::config::Store;
use crate::escape::show_path;
use crate::lower::sqlite::WrongRows;
use crate::nix::hash::render_sha256;
use crate::nix::store_path::StorePath;
use crate::remedy::{CommandLine, Remedy, command};

/// Rows whose object is in neither layer.
pub(super) fn missing(store: &Store, missing: &Several<Missing>) -> Vec<Finding> {
    let show = |path: &StorePath| format!("{}/{path}", show_path(&store.store));
    let finding = |missing: &Missing| {
        let referrers: Vec<_> = missing.referrers.iter().map(show).collect();
        Finding::new(Code::RowWithoutObject, show(&missing.path))
            .expected("an object in the upper layer or in the lower store directory")
            .found(match referrers.len() {
                0 => instead(missing),
                _ => format!("{}; {} depend on it", instead(missing), referrers.join(", ")),
            })
            .remedy(
                bring_back(store, missing)
                .or(Remedy::say(
                    "where the lower store was replaced, see what puts this store right over it; with \
                     the old one at hand, add `--old STORE`, and leave `--dry-run` out to do it",
                )
                .run(store.command(["reconcile", "--dry-run"])))
                .or(Remedy::say(
                    "where a substituter has it, have Nix fetch it again",
                )
                .run(repair(store, &missing.path))),
            )
    };
    each(missing, finding)
}

/// What there is in the place of a missing object.
fn instead(missing: &Missing) -> String {
    match missing.odd {
        None => "an object in neither layer".to_owned(),
        Some(Odd { is_above, kind }) => format!(
            "an object in neither layer: {kind}, which is no store object, is in its place in the {}",
            match is_above {
                true => "upper layer",
                false => "lower store directory",
            }
        ),
    }
}

/// How a missing object comes back to where it was.
fn bring_back(store: &Store, missing: &Missing) -> Remedy {
    match missing.odd {
        None => {
            Remedy::say("bring back the lower store that had it, or the upper layer from a backup")
        }
        Some(Odd { is_above: true, .. }) => {
            let above = store.upper_layer.join(missing.path.as_str());
            Remedy::say("move away what is in its place, and bring it back from a backup")
                .run(store.command(["down"]))
                .run(move_away(store, &above))
        }
        // Those who use a store change nothing in what is below.
        Some(Odd {
            is_above: false, ..
        }) => Remedy::say(
            "have the lower store's owner put the object back, with `nix-store --repair-path` there or \
             from a backup",
        ),
    }
}

/// Objects of the lower store that something above hides.
pub(super) fn hidden(store: &Store, hidden: &Several<StorePath>) -> Vec<Finding> {
    let finding = |path: &StorePath| {
        let above = store.upper_layer.join(path.as_str());
        Finding::at(Code::LowerObjectHidden, &above)
            .expected("the object of the lower store, which is valid")
            .found("a whiteout, an opaque directory, a pipe, a socket or a device that hides it")
            .remedy(
                Remedy::from(store.command(["down"]))
                    .run(move_away(store, &above))
                    .run(up(store)),
            )
    };
    each(hidden, finding)
}

/// The findings of [`crate::compare::layers`], but for rows without an object: [`super::check`] tells
/// those.
pub fn findings(store: &Store, across: &Across) -> Vec<Finding> {
    let hidden = hidden(store, &across.hiding);
    let unknown = each(&across.unknown, |path| without_row(store, path));
    let both = each(&across.both, |path| in_both_layers(store, path));
    let differing = each(&across.differing, |(path, what)| {
        metadata_differs(store, path, what)
    });
    [unknown, hidden, both, differing].concat()
}

/// What Nix would stop at, and keep, once it were copied from the lower store.
pub(crate) fn lower_rows(wrong: &WrongRows) -> Vec<Finding> {
    let several = Several {
        first: wrong.first.clone(),
        count: wrong.count,
    };
    each(&several, |(path, what)| {
        Finding::new(Code::LowerRowUnreadable, path.clone())
            .expected("a row that Nix can read")
            .found(what.clone())
            .remedy(
                "have the lower store's owner correct it, or delete the path there; until then \
                 `overstore warm` leaves it out, and Nix, which does not, may fail at everything above \
                 that needs it",
            )
    })
}

fn without_row(store: &Store, path: &StorePath) -> Finding {
    Finding::at(
        Code::ObjectWithoutRow,
        &store.upper_layer.join(path.as_str()),
    )
    .expected("metadata of it in the upper database")
    .found("none: an interrupted operation left it, or the row was lost")
    .remedy(
        Remedy::say(
            "if it is of use, bring back the database that knew it, or add the same \
             thing again (build, copy or `nix-store --add` it), which makes it valid",
        )
        .or(Remedy::say(
            "if nothing of it is needed, delete it, with all that neither database knows",
        )
        .run(store.command(["gc", "--leftovers"]))),
    )
}

fn in_both_layers(store: &Store, path: &StorePath) -> Finding {
    Finding::at(
        Code::ObjectInBothLayers,
        &store.upper_layer.join(path.as_str()),
    )
    .expected("each object once")
    .found("the lower store has it too: its space is lost here")
    .remedy(
        Remedy::say(
            "nothing has to be done; this compares the two, and removes the upper copy where they are equal (Nix's own `--optimise` does not compare, and the upper copy may be the good one of a damaged lower object)",
        )
        .run(store.command(["optimise"])),
    )
}

fn metadata_differs(store: &Store, path: &StorePath, what: &str) -> Finding {
    Finding::at(Code::MetadataDiffers, &store.store.join(path.as_str()))
        .expected(format!("the {what} that the lower store has"))
        .found(format!("another {what}"))
        .remedy(
            Remedy::say("keep both; find out which is right, here and on the lower store")
                .run(nix_store(store, "--verify-path", path))
                .or(Remedy::say(
                    "where the lower store has the right ones, have them take the places of all that \
                     differ above, which are given up",
                )
                .run(store.command(["down"]))
                .run(store.command(["reconcile", "--prefer-lower"]))),
        )
}

/// Whether the lower store is one that the upper database cannot have been made for, or another than
/// it was made for, where that is known.
pub fn lower_changed(store: &Store, then: Option<&Identity>, now: &Identity) -> Option<Finding> {
    let finding = Finding::at(Code::LowerStoreChanged, &store.lower.real);
    let directory = show_path(&store.store);
    if now.store_directory != directory {
        return Some(
            finding
                .expected(format!(
                    "a lower store whose paths begin with {directory}, as those above do"
                ))
                .found(format!("paths that begin with {}", now.store_directory))
                .remedy(
                    Remedy::say(format!(
                        "bring back the earlier lower store, or correct {}",
                        store.lower_store_key()
                    ))
                    .or(Remedy::say("where nothing has been added above yet")
                        .and_set("store", format!("\"{}\"", now.store_directory))),
                ),
        );
    }
    let Difference { what, was, is } = then?.difference(now)?;
    Some(
        finding
            .expected(format!(
                "the lower store that the upper database was made for, which only grows; its \
                 {what}: {was}"
            ))
            .found(is)
            .remedy(
                Remedy::say("bring that one back").or(Remedy::say(
                    "where it was replaced, put this store right over it; with the old one at hand, \
                     name it with `--old STORE`",
                )
                .run(store.command(["down"]))
                .run(store.command(["reconcile"]))),
            ),
    )
}

/// Where a copy of a damaged object is kept.
fn beside(store: &Store, path: &StorePath) -> PathBuf {
    let beside = store.upper_layer.parent().unwrap_or(Path::new("/"));
    beside.join(format!("{path}.damaged"))
}

/// The command that has Nix fetch or build an object again.
fn repair(store: &Store, path: &StorePath) -> CommandLine {
    nix_store(store, "--repair-path", path)
}

/// A command of Nix about one path of this store.
fn nix_store(store: &Store, what: &str, path: &StorePath) -> CommandLine {
    let url = store
        .reference()
        .render_for_all()
        .unwrap_or_else(|texts| texts.since_2_34);
    let features = store.experimental_features().join(" ");
    command![
        "nix-store",
        "--extra-experimental-features",
        features,
        "--store",
        url,
        what,
        store.store.join(path.as_str())
    ]
}

/// The findings of [`crate::compare::contents`].
pub fn damaged(store: &Store, contents: &Contents) -> Vec<Finding> {
    let finding =
        |damaged: &Damaged| {
            let (layer, part) = match damaged.upper {
                true => (&store.upper_layer, Part::UpperLayer),
                false => (&store.lower.real, Part::LowerStore),
            };
            Finding::at(Code::ObjectDamaged, &layer.join(damaged.path.as_str()))
                .part(part)
                .expected(render_sha256(&damaged.expected))
                .found(match &damaged.actual {
                    Ok(hash) => render_sha256(hash),
                    Err(why) => format!("it cannot be hashed: {why}"),
                })
                .remedy(match damaged.upper {
                    true => Remedy::say("keep a copy of it, then have Nix fetch or build it again")
                        .run(command![
                            "cp",
                            "-a",
                            layer.join(damaged.path.as_str()),
                            beside(store, &damaged.path)
                        ])
                        .run(repair(store, &damaged.path)),
                    // The lower store's owner repairs it for everybody.
                    false => Remedy::say(
                        "have the lower store's owner repair it with `nix-store --repair-path`",
                    )
                    .or(Remedy::say("have Nix put a good copy above")
                        .run(repair(store, &damaged.path))),
                })
        };
    contents.damaged.iter().map(finding).collect()
}

/// A finding for each that is listed; the last one says how many more there are.
fn each<T>(several: &Several<T>, finding: impl FnMut(&T) -> Finding) -> Vec<Finding> {
    let mut findings: Vec<Finding> = several.first.iter().map(finding).collect();
    let more = several.count.saturating_sub(findings.len() as u64);
    if let Some(last) = findings.last_mut()
        && more > 0
    {
        last.actual += &format!(" (and {more} more like this)");
    }
    findings
}
