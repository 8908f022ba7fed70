//! What the deletion of objects frees, in real bytes.

use std::collections::{HashMap, HashSet};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::CollectError;
use super::layers::Layer;
use crate::linux::file_identity::FileIdentity;
use crate::linux::tree;
use crate::nix::layout;
use crate::nix::store_path::StorePath;

/// Adds up objects of the upper layer. A file with several links counts with the last one that goes.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    layer: &'a Layer,
    /// Links seen so far of files that have several, and those that are wanted.
    linked: HashMap<FileIdentity, (u64, u64)>,
    /// The files that have a link in `.links`, once that matters.
    optimised: Option<HashSet<u64>>,
}

impl<'a> Space<'a> {
    /// Nothing so far.
    pub(crate) fn new(layer: &'a Layer) -> Self {
        Self {
            layer,
            linked: HashMap::new(),
            optimised: None,
        }
    }

    /// The bytes that go with an object, after those that were added up before it.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn of(&mut self, path: &StorePath) -> Result<u64, CollectError> {
        self.add(path.as_str())
            .map_err(|error| CollectError::layer(&self.layer.path().join(path.as_str()), error))
    }

    /// The bytes that go with an object, after those that were added up before it. What disappears
    /// meanwhile counts as nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn add(&mut self, name: &str) -> Result<u64, Errno> {
        let mut bytes = 0;
        tree::visit(self.layer.fd(), name, |stat| {
            bytes += self.count(stat)?;
            Ok(())
        })?;
        Ok(bytes)
    }

    fn count(&mut self, stat: &Stat) -> Result<u64, Errno> {
        let (bytes, links) = (tree::bytes(stat), stat.st_nlink);
        if links < 2 || tree::is_directory(stat) {
            return Ok(bytes);
        }
        let optimised = match &self.optimised {
            Some(optimised) => optimised,
            None => {
                let links = tree::inodes(self.layer.fd(), layout::LINKS)?;
                self.optimised.insert(links.into_iter().collect())
            }
        };
        let wanted = links - u64::from(optimised.contains(&stat.st_ino));
        let (seen, wanted) = self
            .linked
            .entry(FileIdentity::from(stat))
            .or_insert((0, wanted));
        *seen += 1;
        Ok(if seen == wanted { bytes } else { 0 })
    }
}
