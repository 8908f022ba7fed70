//! Many store paths, remembered in little.

use std::mem::size_of;

/// Store paths in eight bytes each: the first 64 bits of their hash parts, sorted. Nix itself takes
/// the hash part for the whole path, and two of a million paths agree in 64 bits once in 37 million
/// stores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathSet(Vec<u64>);

impl PathSet {
    /// What a path takes up as bytes.
    pub const BYTES_A_PATH: usize = size_of::<u64>();

    /// From what [`StorePath::hash_prefix`](crate::nix::store_path::StorePath::hash_prefix) says of
    /// each path, in any order and as often as it likes.
    pub fn new(mut prefixes: Vec<u64>) -> Self {
        prefixes.sort_unstable();
        prefixes.dedup();
        Self(prefixes)
    }

    /// How many paths it has.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path with this prefix is one of them.
    pub fn contains(&self, prefix: u64) -> bool {
        self.0.binary_search(&prefix).is_ok()
    }

    /// The prefixes, sorted.
    pub fn prefixes(&self) -> &[u64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_in_it_once() {
        let set = PathSet::new(vec![7, 1, 7, u64::MAX]);
        assert_eq!(set.prefixes(), [1, 7, u64::MAX]);
        assert_eq!(set.len(), 3);
        assert!(set.contains(7) && !set.contains(2));
        assert!(!set.is_empty() && PathSet::default().is_empty());
    }
}
