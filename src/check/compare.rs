//! What no longer fits together across the layers and the upper database.

use crate::check::{Code, Finding, Part, Severity};
use crate::compare::Difference;
use crate::compare::Identity;
use crate::compare::{Across, Contents, Damaged, Several};
use crate::config::{MEMORY_FILE, Store};
use crate::escape::{shell_quote, show_path};
use crate::nix::hash::render_sha256;
use crate::nix::store_path::StorePath;

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
        findings.push(Finding {
            code: Code::RowWithoutObject,
            severity: Severity::Error,
            part: Part::UpperDatabase,
            subject: show(&missing.path),
            expected: "an object in the upper layer or in the lower store directory".to_owned(),
            actual,
            remedy: "bring back the lower store that had it, or have Nix drop it: \
                     `nix-store --verify` on this store"
                .to_owned(),
        });
    }
    for path in &across.unknown.first {
        findings.push(Finding {
            code: Code::ObjectWithoutRow,
            severity: Severity::Warning,
            part: Part::UpperLayer,
            subject: in_upper(path),
            expected: "metadata of it in the upper database".to_owned(),
            actual: "none: left over by something that was interrupted".to_owned(),
            remedy: "collect garbage in this store (`nix-store --gc`), which removes it".to_owned(),
        });
    }
    for path in &across.hiding.first {
        findings.push(Finding {
            code: Code::LowerObjectHidden,
            severity: Severity::Error,
            part: Part::UpperLayer,
            subject: in_upper(path),
            expected: "the object of the lower store, which is valid".to_owned(),
            actual: "a whiteout or an opaque directory that hides it".to_owned(),
            remedy: format!(
                "overstore down {0} && rm -r {1} && overstore up {0}",
                store.arguments,
                shell_quote(&store.upper_layer.join(path.as_str()))
            ),
        });
    }
    for path in &across.both.first {
        findings.push(Finding {
            code: Code::ObjectInBothLayers,
            severity: Severity::Note,
            part: Part::UpperLayer,
            subject: in_upper(path),
            expected: "each object once".to_owned(),
            actual: "the lower store has it too: its space is lost here".to_owned(),
            remedy: "`nix-store --optimise` on this store removes it from the upper layer"
                .to_owned(),
        });
    }
    for (path, what) in &across.differing.first {
        findings.push(Finding {
            code: Code::MetadataDiffers,
            severity: Severity::Error,
            part: Part::UpperDatabase,
            subject: show(path),
            expected: format!("the {what} that the lower store has"),
            actual: format!("another {what}"),
            remedy:
                "find out which is right (`nix-store --verify-path` on both stores), and delete \
                     the other"
                    .to_owned(),
        });
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
    let finding = |expected, actual, remedy| Finding {
        code: Code::LowerStoreChanged,
        severity: Severity::Warning,
        part: Part::LowerStore,
        subject: show_path(&store.lower.real).into_owned(),
        expected,
        actual,
        remedy,
    };
    let directory = show_path(&store.store);
    if now.store_directory != directory {
        return Some(finding(
            format!("a lower store whose paths begin with {directory}, as those above do"),
            format!("paths that begin with {}", now.store_directory),
            format!(
                "bring back the lower store that was there, or correct `lower-store`; where nothing \
                 has been added above yet, set `store = \"{}\"`",
                now.store_directory
            ),
        ));
    }
    let Difference { what, was, is } = then?.difference(now)?;
    Some(finding(
        format!(
            "the lower store that the upper database was made for, which only grows; its {what}: {was}"
        ),
        is,
        format!(
            "bring that one back; or, where it was replaced and nothing else is found here, have \
             overstore forget it: rm {}",
            shell_quote(&store.memory().join(MEMORY_FILE))
        ),
    ))
}

/// The findings of [`crate::compare::contents`].
pub fn damaged(store: &Store, contents: &Contents) -> Vec<Finding> {
    let finding = |damaged: &Damaged| {
        let (layer, part) = match damaged.upper {
            true => (&store.upper_layer, Part::UpperLayer),
            false => (&store.lower.real, Part::LowerStore),
        };
        Finding {
            code: Code::ObjectDamaged,
            severity: Severity::Error,
            part,
            subject: show_path(&layer.join(damaged.path.as_str())).into_owned(),
            expected: render_sha256(&damaged.expected),
            actual: match &damaged.actual {
                Ok(hash) => render_sha256(hash),
                Err(why) => format!("it cannot be hashed: {why}"),
            },
            remedy: match damaged.upper {
                true => "`nix-store --repair-path` on this store, or delete it and build it again",
                false => "`nix-store --repair-path` on the lower store",
            }
            .to_owned(),
        }
    };
    contents.damaged.iter().map(finding).collect()
}

/// Says in the last finding of a kind how many more of it there are.
fn more<T>(findings: &mut [Finding], several: &Several<T>, code: Code) {
    let more = several.count - several.first.len() as u64;
    let last = findings.iter_mut().rfind(|finding| finding.code == code);
    if let Some(last) = last
        && more > 0
    {
        last.actual += &format!(" (and {more} more like this)");
    }
}
