use std::collections::{BTreeSet, VecDeque};

use super::sqlite::SqliteSource;
use super::summaries::{Key, Summary};
use super::{LowerError, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::store_path::StorePath;

/// A nested lower store: another local-overlay store. Its upper database is looked at first, then
/// its own lower store, as Nix does it.
pub struct OverlaySource {
    upper: SqliteSource,
    lower: Box<dyn Source>,
    /// The answers of the upper database; `None` where the lower source was asked.
    answers: VecDeque<Option<PathInfo>>,
}

impl OverlaySource {
    /// From the sources of its two parts.
    pub fn new(upper: SqliteSource, lower: Box<dyn Source>) -> Self {
        Self {
            upper,
            lower,
            answers: VecDeque::new(),
        }
    }
}

impl Source for OverlaySource {
    fn ask(&mut self, path: &StorePath) -> Result<(), LowerError> {
        self.upper.ask(path)?;
        let answer = self.upper.answer()?;
        if answer.is_none() {
            self.lower.ask(path)?;
        }
        self.answers.push_back(answer);
        Ok(())
    }

    fn answer(&mut self) -> Result<Option<PathInfo>, LowerError> {
        match self.answers.pop_front() {
            Some(Some(info)) => Ok(Some(info)),
            Some(None) => self.lower.answer(),
            None => Ok(None),
        }
    }

    fn window(&self) -> usize {
        self.lower.window()
    }

    fn all_paths(
        &mut self,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        self.upper.all_paths(each)?;
        let upper = &self.upper;
        self.lower.all_paths(&mut |path| {
            if upper.is_valid(&path)? {
                Ok(())
            } else {
                each(path)
            }
        })
    }

    fn summaries(&mut self, key: &Key, most: u64) -> Result<Option<Vec<Summary>>, LowerError> {
        let Some(mut all) = self.upper.summaries(key, most)? else {
            return Ok(None);
        };
        let Some(lower) = self.lower.summaries(key, most)? else {
            return Ok(None);
        };
        let above = all.len();
        for summary in lower {
            let (upper, _) = all.split_at(above);
            if upper
                .binary_search_by_key(&summary.name, |it| it.name)
                .is_err()
            {
                all.push(summary);
            }
        }
        all.sort_unstable();
        Ok(Some(all))
    }

    fn realised(
        &mut self,
        derivers: &BTreeSet<StorePath>,
    ) -> Result<Vec<(StorePath, StorePath)>, LowerError> {
        let mut realised = self.upper.realised(derivers)?;
        realised.append(&mut self.lower.realised(derivers)?);
        Ok(realised)
    }

    fn confirm(&mut self) -> Result<(), LowerError> {
        self.upper.confirm()?;
        self.lower.confirm()
    }
}
