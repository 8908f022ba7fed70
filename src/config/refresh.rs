//! `[refresh]`: a store brought to what is below on schedule.

use super::RefreshByItself;
use super::raw::RawRefresh;
use super::read::At;
use super::validate::Reading;

impl Reading<'_> {
    /// Reads it.
    pub(super) fn refresh(&mut self, raw: Option<&At<RawRefresh>>) -> Option<RefreshByItself> {
        let raw = &raw?.value;
        let schedule = match &raw.schedule {
            None => None,
            Some(given) => Some(self.schedule("refresh.schedule", given)?),
        };
        Some(RefreshByItself {
            schedule,
            optimise: raw.optimise.as_ref().is_some_and(|given| given.value),
        })
    }
}
