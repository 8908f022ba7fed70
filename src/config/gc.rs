//! `[gc]`: collecting garbage by itself.

use super::Gc;
use super::problem::Problem;
use super::quantity::{Age, Size};
use super::raw::RawGc;
use super::read::At;
use super::validate::Reading;
use crate::escape::unit_value;

impl Reading<'_> {
    /// Reads it.
    pub(super) fn gc(&mut self, raw: Option<&At<RawGc>>) -> Option<Gc> {
        let raw = &raw?.value;
        let mut limits = Vec::new();
        let mut limit = |key: &str, option, given: &Option<At<String>>, wrong: Option<&str>| {
            let Some(given) = given else { return };
            match wrong {
                None => limits.push((option, given.value.clone())),
                Some(expected) => self.problems.push(
                    Problem::new(format!("`gc.{key}` cannot be read")).at(&given.span, expected),
                ),
            }
        };
        let age = |given: &Option<At<String>>| given.as_ref()?.value.parse::<Age>().err();
        let size = |given: &Option<At<String>>| given.as_ref()?.value.parse::<Size>().err();
        let older_than = &raw.older_than;
        limit("older-than", "--older-than", older_than, age(older_than));
        limit("min-free", "--min-free", &raw.min_free, size(&raw.min_free));
        limit("max-free", "--max-free", &raw.max_free, size(&raw.max_free));
        let schedule = match &raw.schedule {
            None => (!limits.is_empty()).then(|| "daily".to_owned()),
            Some(given) => Some(self.schedule("gc.schedule", given)?),
        };
        Some(Gc {
            schedule,
            limits,
            optimise: raw.optimise.as_ref().is_some_and(|given| given.value),
            leftovers: raw.leftovers.as_ref().is_some_and(|given| given.value),
        })
    }
    /// Reads a systemd calendar event.
    pub(super) fn schedule(&mut self, key: &str, given: &At<String>) -> Option<String> {
        let text = given.value.trim();
        if text.is_empty() || text.contains('%') || unit_value(text.as_ref()).is_none() {
            self.problems.push(
                Problem::new(format!("`{key}` is not a calendar event"))
                    .at(
                        &given.span,
                        "expected a systemd calendar event, such as `daily` or `Sun 03:00`",
                    )
                    .help("`systemd-analyze calendar` explains what one means"),
            );
            return None;
        }
        Some(given.value.clone())
    }
}
