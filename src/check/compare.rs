//! What no longer fits together across the layers and the upper database.

use crate::check::{Code, Finding, Part, up};
use crate::compare::Difference;
use crate::compare::Identity;
use crate::compare::{Across, Contents, Damaged, Several};
use crate::config::{MEMORY_FILE, Store};
use crate::escape::show_path;
use crate::nix::hash::render_sha256;
use crate::nix::store_path::StorePath;
use crate::remedy::{Remedy, command};

/// The findings of [`crate::compare::layers`].
pub fn findings(store: &Store, across: &Across) -> Vec<Finding> {
    let mut findings = Vec::new();
    let show = |path: &StorePath| format!("{}/{path}", show_path(&store.store));
    let in_upper =
        |path: &StorePath| show_path(&store.upper_layer.join(path.as_str())).into_owned();

    for missing in &across.missing.first {
        let referrers: Vec<_> = missing.referrers.iter().map(show).collect();
        let actual = match referrers.len() {
            0 => "an object in neither layer".to_owned(),
            _ => format!(
                "an object in neither layer; {} depend on it",
                referrers.join(", ")
            ),
        };
        findings.push(
            Finding::new(Code::RowWithoutObject, show(&missing.path))
                .expected("an object in the upper layer or in the lower store directory")
                .found(actual)
                .remedy(
                    "bring back the lower store that had it, or have Nix drop it: \
                     `nix-store --verify` on this store",
                ),
        );
    }
    for path in &across.unknown.first {
        findings.push(
            Finding::new(Code::ObjectWithoutRow, in_upper(path))
                .expected("metadata of it in the upper database")
                .found("none: left over by something that was interrupted")
                .remedy(
                    Remedy::say(
                        "if nothing of it is needed, delete it, with all that neither database knows",
                    )
                    .run(store.command(["gc", "--leftovers"])),
                ),
        );
    }
    for path in &across.hiding.first {
        findings.push(
            Finding::new(Code::LowerObjectHidden, in_upper(path))
                .expected("the object of the lower store, which is valid")
                .found("a whiteout or an opaque directory that hides it")
                .remedy(
                    Remedy::from(store.command(["down"]))
                        .run(command!["rm", "-r", store.upper_layer.join(path.as_str())])
                        .run(up(store)),
                ),
        );
    }
    for path in &across.both.first {
        findings.push(
            Finding::new(Code::ObjectInBothLayers, in_upper(path))
                .expected("each object once")
                .found("the lower store has it too: its space is lost here")
                .remedy("`nix-store --optimise` on this store removes it from the upper layer"),
        );
    }
    for (path, what) in &across.differing.first {
        findings.push(
            Finding::new(Code::MetadataDiffers, show(path))
                .expected(format!("the {what} that the lower store has"))
                .found(format!("another {what}"))
                .remedy(
                    "find out which is right (`nix-store --verify-path` on both stores), and \
                     delete the other",
                ),
        );
    }
    // What is not listed is at least counted.
    more(&mut findings, &across.missing, Code::RowWithoutObject);
    more(&mut findings, &across.unknown, Code::ObjectWithoutRow);
    more(&mut findings, &across.hiding, Code::LowerObjectHidden);
    more(&mut findings, &across.both, Code::ObjectInBothLayers);
    more(&mut findings, &across.differing, Code::MetadataDiffers);
    findings
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
                    Remedy::say(
                        "bring back the lower store that was there, or correct `lower-store`",
                    )
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
                    "where it was replaced and nothing else is found here, have overstore forget it",
                )
                .run(command!["rm", store.memory().join(MEMORY_FILE)])),
            ),
    )
}

/// The findings of [`crate::compare::contents`].
pub fn damaged(store: &Store, contents: &Contents) -> Vec<Finding> {
    let finding = |damaged: &Damaged| {
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
                true => "`nix-store --repair-path` on this store, or delete it and build it again",
                false => "`nix-store --repair-path` on the lower store",
            })
    };
    contents.damaged.iter().map(finding).collect()
}

/// Says in the last finding of a kind how many more of it there are.
fn more<T>(findings: &mut [Finding], several: &Several<T>, code: Code) {
    let more = several.count.saturating_sub(several.first.len() as u64);
    let last = findings.iter_mut().rfind(|finding| finding.code == code);
    if let Some(last) = last
        && more > 0
    {
        last.actual += &format!(" (and {more} more like this)");
    }
}
