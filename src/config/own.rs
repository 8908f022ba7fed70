//! Stores of an ordinary user's own: what their descriptions may leave out, and a merged store at
//! `/nix/store`, over the system's own.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::raw::RawStore;
use super::read::At;
use super::store::{Lower, Own, Setting};

/// The directory of a store, if it is an ordinary user's own.
pub(super) fn directory(name: &str, raw: &RawStore, environment: &Environment) -> Option<PathBuf> {
    let stores = environment.own_stores.as_ref();
    stores
        .filter(|_| raw.root.is_none())
        .map(|stores| stores.join(name))
}

/// Gives what the description leaves out.
pub(super) fn complete(raw: &mut RawStore, directory: &Path) {
    let default = |key: &mut Option<At<String>>, value: &Path| {
        // TOML has no way to write other paths.
        if let (None, Some(value)) = (&key, value.to_str()) {
            *key = Some(At {
                value: value.to_owned(),
                span: 0..0,
            });
        }
    };
    if raw.published().is_none() {
        default(&mut raw.lower_store, Path::new("daemon"));
    }
    default(&mut raw.upper_layer, &directory.join("upper"));
    default(&mut raw.workdir, &directory.join("work"));
    default(&mut raw.state, &directory.join("state"));
    default(&mut raw.log, &directory.join("log"));
}

/// What is particular about the store; the lower store directory is shown elsewhere if the mount
/// covers it.
pub(super) fn own(directory: PathBuf, real: &Setting<PathBuf>, lower: &mut Lower) -> Own {
    let mut covered = None;
    if lower.real == real.value {
        covered = Some(lower.real.clone());
        lower.show_at(directory.join("lower"));
    }
    Own { directory, covered }
}
