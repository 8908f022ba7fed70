//! From the ids of rows to their places in the order of ids.

/// Where rows are that are known by their ids. Nix gives ids that begin at 1, with gaps where something
/// was collected: then a table finds them, and a search otherwise.
pub(crate) enum Places<'a> {
    /// By id.
    Table(Vec<u32>),
    /// The ids, ascending.
    Search(&'a [i64]),
}

impl<'a> Places<'a> {
    /// Of these ids, which ascend.
    pub(crate) fn new(ids: &'a [i64]) -> Self {
        let highest = ids.last().copied().unwrap_or(0);
        let lowest = ids.first().copied().unwrap_or(0);
        let most = ids.len().saturating_mul(2) + 1024;
        match usize::try_from(highest) {
            Ok(highest) if highest <= most && lowest >= 0 => {
                let mut table = vec![u32::MAX; highest + 1];
                for (place, &id) in (0..).zip(ids) {
                    if let Some(entry) = usize::try_from(id).ok().and_then(|id| table.get_mut(id)) {
                        *entry = place;
                    }
                }
                Self::Table(table)
            }
            _ => Self::Search(ids),
        }
    }

    /// The place of a row, if there is one.
    pub(crate) fn get(&self, id: i64) -> Option<u32> {
        match self {
            Self::Table(table) => {
                let place = *table.get(usize::try_from(id).ok()?)?;
                (place != u32::MAX).then_some(place)
            }
            Self::Search(ids) => u32::try_from(ids.binary_search(&id).ok()?).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_id_has_its_place(
            ids in prop::collection::btree_set(prop_oneof![0..3000_i64, any::<i64>()], 0..200),
            dense in prop::collection::btree_set(0..900_i64, 0..200),
            others in prop::collection::vec(prop_oneof![-5..3000_i64, any::<i64>()], 0..50),
        ) {
            for ids in [ids, dense] {
                let ids: Vec<i64> = ids.into_iter().collect();
                let places = Places::new(&ids);
                for id in ids.iter().chain(&others) {
                    let expected = ids.iter().position(|it| it == id);
                    prop_assert_eq!(places.get(*id).map(|place| place as usize), expected);
                }
            }
        }
    }
}
