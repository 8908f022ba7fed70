//! `.links` in the upper layer, opaque.
//!
//! Nix's collector removes entries of `.links` that nothing else links to; through the overlay it
//! would find the lower store's and leave a whiteout for each. In an opaque directory they do not
//! show.

use std::path::Path;

use super::directory;
use super::durable::Unsynced;
use super::error::{Doing, Error};
use crate::nix::layout;
use crate::overlayfs::markers::{self, Marks};

/// Makes the directory, if it is missing, and makes it opaque. The upper layer must not be mounted.
pub(super) fn make_opaque(
    upper_layer: &Path,
    userxattr: bool,
    unsynced: &mut Unsynced,
) -> Result<(), Error> {
    let path = upper_layer.join(layout::LINKS);
    let links = directory::make(&path, layout::DIRECTORY_MODE, None, unsynced)?;
    let file = links.open().doing("open", &path)?;
    markers::make_opaque(&file, Marks::with_userxattr(userxattr))
        .doing("set the extended attribute that makes opaque of", &path)?;
    unsynced.add(&file, &path)
}
