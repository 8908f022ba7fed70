//! The store directory that store paths name.

use super::store_path::StorePath;
use crate::escape::quote;

/// The store directory, as it is named inside store paths (`/nix/store`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDirectory(Vec<u8>);

impl StoreDirectory {
    /// From the directory's path, without a slash at its end.
    pub fn new(directory: &[u8]) -> Self {
        Self(directory.to_owned())
    }

    /// The directory's path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a whole store path, which has to lie directly in this directory.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(&self, path: &[u8]) -> Result<StorePath, String> {
        path.strip_prefix(&*self.0)
            .and_then(|rest| rest.strip_prefix(b"/"))
            .ok_or_else(|| {
                format!(
                    "expected a path in {}, found {}",
                    quote(&self.0),
                    quote(path)
                )
            })
            .and_then(|name| {
                StorePath::parse(name)
                    .map_err(|error| format!("{} is no store path: {error}", quote(path)))
            })
    }

    /// Whether a path is a store path of another store directory.
    pub(crate) fn is_of_another(&self, path: &[u8]) -> bool {
        let mut parts = path.rsplitn(2, |byte| *byte == b'/');
        let (Some(name), Some(directory)) = (parts.next(), parts.next()) else {
            return false;
        };
        let below = path
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.first() == Some(&b'/'));
        directory.first() == Some(&b'/') && !below && StorePath::parse(name).is_ok()
    }

    /// The whole store path of an object.
    pub fn print(&self, path: &StorePath) -> Vec<u8> {
        [&*self.0, b"/", path.as_str().as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATH: &str = "/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-hello";

    fn store() -> StoreDirectory {
        StoreDirectory::new(b"/nix/store")
    }

    #[test]
    fn paths_outside_the_store_are_refused() {
        let store = store();
        assert_eq!(
            store.print(&store.parse(PATH.as_bytes()).unwrap()),
            PATH.as_bytes()
        );
        for path in [
            "",
            "/",
            "/nix/store",
            "/nix/store/",
            "/nix/store/..",
            &PATH.replace("store", "stare"),
            &PATH.replace("store/", "store//"),
            &format!("{PATH}/bin"),
            &format!("{PATH}\0"),
            &PATH[1..],
        ] {
            assert!(store.parse(path.as_bytes()).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_lies_in_the_store(name: Vec<u8>) {
            let path = [b"/nix/store/", &*name].concat();
            if let Ok(parsed) = store().parse(&path) {
                prop_assert_eq!(store().print(&parsed), path);
                prop_assert!(!parsed.as_str().contains('/'));
            }
        }
    }
}
