//! The overlay of a store, as it is to be mounted.

use std::path::PathBuf;

use crate::config::Store;
use crate::overlayfs::options::{MountOptions, USERXATTR};

/// What is to be mounted where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The merged store directory.
    pub real: PathBuf,
    /// The layers and the further options.
    pub options: MountOptions,
}

impl Overlay {
    /// The overlay of a store. `userxattr` is for those who may not set `trusted.*` attributes.
    pub fn of(store: &Store, userxattr: bool) -> Overlay {
        Overlay {
            real: store.real.value.clone(),
            options: MountOptions {
                lowerdir: store.lower.real.clone(),
                upperdir: store.upper_layer.clone(),
                workdir: store.workdir.clone(),
                further: store.overlay_options(userxattr),
            },
        }
    }

    /// Whether it keeps its marks in `user.*` attributes.
    pub(crate) fn userxattr(&self) -> bool {
        self.options
            .further
            .iter()
            .any(|option| option.name == USERXATTR)
    }
}
