//! Lower metadata sources: how the metadata of a lower store is read.
//!
//! Everything here is read-only by construction: no function of this module writes to a lower
//! store, takes a lock on it, or opens one of its files for writing.

pub(crate) mod daemon;
pub(crate) mod database;
mod error;
mod open;
mod overlay;
pub(crate) mod places;
pub(crate) mod publication;
pub(crate) mod sqlite;
pub(crate) mod summaries;

pub use error::LowerError;
pub(crate) use open::{Transient, open, open_whole, retry};
pub use overlay::OverlaySource;

use std::collections::BTreeSet;

use crate::nix::path_info::PathInfo;
use crate::nix::store_path::StorePath;
use summaries::{Key, Summary};

/// Where the metadata of store objects is read from.
///
/// Questions and answers are apart so that a source with a long way to it can have several under
/// way: up to [`window`](Self::window) questions may be open, and answers come in their order.
pub trait Source {
    /// Asks for the metadata of one object.
    ///
    /// # Errors
    /// When the source cannot be asked.
    fn ask(&mut self, path: &StorePath) -> Result<(), LowerError>;

    /// The answer to the oldest open question: `None` when the path is not valid there.
    ///
    /// # Errors
    /// When the source cannot be read, or has something that no store has.
    fn answer(&mut self) -> Result<Option<PathInfo>, LowerError>;

    /// How many questions may be open at once, at least 1.
    fn window(&self) -> usize;

    /// Hands every valid path to `each`. No question may be open.
    ///
    /// # Errors
    /// When the source cannot be read, has something that no store has, or `each` fails.
    fn all_paths(
        &mut self,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError>;

    /// Hands paths to `each` whose closures together are everything that is valid: where that can
    /// be told at once, those that no other path refers to; otherwise all. No question may be open.
    ///
    /// # Errors
    /// As [`all_paths`](Self::all_paths).
    fn tops(
        &mut self,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        self.all_paths(each)
    }

    /// The summaries of everything that is valid, sorted, where they are had in one pass and are not
    /// many more than `most`. No question may be open.
    ///
    /// # Errors
    /// When the source cannot be read, or has something that no store has.
    fn summaries(&mut self, _key: &Key, _most: u64) -> Result<Option<Vec<Summary>>, LowerError> {
        Ok(None)
    }

    /// The outputs among what is valid that a realisation names and that one of these derivations has
    /// built, each behind that one, where this can be told at once. No question may be open.
    ///
    /// # Errors
    /// When the source cannot be read.
    fn realised(
        &mut self,
        _derivers: &BTreeSet<StorePath>,
    ) -> Result<Vec<(StorePath, StorePath)>, LowerError> {
        Ok(Vec::new())
    }

    /// Proves that all that was read so far belongs to one state of the source.
    ///
    /// # Errors
    /// When it does not, or when that cannot be told: what was read is to be thrown away.
    fn confirm(&mut self) -> Result<(), LowerError>;
}

/// Asks a source for the metadata of these paths: the answers, in their order.
///
/// # Errors
/// When the source cannot be asked or read.
pub(crate) fn answers(
    source: &mut dyn Source,
    paths: &[StorePath],
) -> Result<Vec<Option<PathInfo>>, LowerError> {
    let window = source.window();
    let (mut asked, mut answers) = (paths.iter(), Vec::with_capacity(paths.len()));
    let mut open = 0;
    while answers.len() < paths.len() {
        while open < window
            && let Some(path) = asked.next()
        {
            source.ask(path)?;
            open += 1;
        }
        answers.push(source.answer()?);
        open -= 1;
    }
    Ok(answers)
}
