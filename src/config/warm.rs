//! `[warm]`: what `up` copies from the lower store.

use super::WarmAtUp;
use super::lower::read_paths;
use super::problem::Problem;
use super::raw::RawWarm;
use super::read::At;
use super::validate::Reading;

impl Reading<'_> {
    pub(super) fn warm(&mut self, raw: Option<&At<RawWarm>>) -> Option<WarmAtUp> {
        let table = raw?;
        let raw = &table.value;
        let paths = read_paths("warm.paths", &raw.paths, self.problems);
        let roots = read_paths("warm.roots", &raw.roots, self.problems);
        let is_true = |key: &Option<At<bool>>| key.as_ref().is_some_and(|key| key.value);
        let lists = [&raw.paths, &raw.roots].into_iter().flatten();
        let given = lists.clone().find(|list| !list.value.is_empty());
        if let (Some(all), Some(list)) = (raw.all.as_ref().filter(|all| all.value), given) {
            self.problems.push(
                Problem::new("`warm.all` leaves nothing for `warm.paths` and `warm.roots`")
                    .at(&all.span, "everything that is valid below is copied")
                    .at(&list.span, "this is part of it")
                    .help("keep one of the two"),
            );
            return None;
        }
        if !is_true(&raw.all) && given.is_none() {
            if let Some(keep) = raw.keep.as_ref().filter(|keep| keep.value) {
                self.problems.push(
                    Problem::new("`warm.keep` has nothing to keep")
                        .at(&keep.span, "nothing is copied")
                        .help("give `warm.paths`, `warm.roots` or `warm.all`, too"),
                );
            }
            return None;
        }
        Some(WarmAtUp {
            all: is_true(&raw.all),
            paths,
            roots,
            keep: is_true(&raw.keep),
        })
    }
}
