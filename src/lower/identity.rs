//! What a lower store was like when the upper database was made for it.

use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::sqlite::SqliteSource;
use super::{LowerError, StoreDirectory, retry};
use crate::config::{MetadataSource, Store};
use crate::show::show_path;

/// How many of the oldest paths are remembered.
const OLDEST: u32 = 8;

/// What tells a lower store from another one, also where that has the same objects. Devices and
/// inodes do not: an image that is mounted again may have others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    /// The store directory that its paths begin with.
    pub store_directory: String,
    /// What its `schema` file said.
    pub schema: Option<String>,
    /// Its oldest paths, each with the time of its registration: a store that only grows keeps them.
    pub oldest: Vec<String>,
}

impl Identity {
    /// The identity of the lower store of `store` now. `None` where it is not a database that is
    /// read here.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn of(store: &Store, schema: Option<&str>) -> Result<Option<Identity>, LowerError> {
        let MetadataSource::Database { state, .. } = &store.lower.source else {
            return Ok(None);
        };
        let path = state.join("db/db.sqlite");
        let directory = StoreDirectory::new(store.store.as_os_str().as_bytes());
        let oldest = retry(
            || SqliteSource::open(&path, directory.clone()).map(Box::new),
            |source| -> Result<_, LowerError> {
                let oldest = source.oldest(OLDEST)?;
                source.confirmed()?;
                Ok(oldest)
            },
        )?;
        Ok(Some(Identity {
            store_directory: show_path(&store.store).into_owned(),
            schema: schema.map(str::to_owned),
            oldest,
        }))
    }

    /// In what `now` is not what this was: what that is called, as it was, as it is. A store that
    /// has only grown is the same.
    pub fn difference<'a>(&'a self, now: &'a Identity) -> Option<(&'static str, &'a str, &'a str)> {
        if self.store_directory != now.store_directory {
            return Some((
                "store directory",
                &self.store_directory,
                &now.store_directory,
            ));
        }
        if self.schema != now.schema {
            let text = |schema: &'a Option<String>| schema.as_deref().unwrap_or("none");
            return Some(("schema", text(&self.schema), text(&now.schema)));
        }
        let mut now = now.oldest.iter();
        self.oldest.iter().find_map(|then| match now.next() {
            Some(now) if now == then => None,
            Some(now) => Some(("oldest paths", then.as_str(), now.as_str())),
            None => Some(("oldest paths", then.as_str(), "nothing")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(oldest: &[&str]) -> Identity {
        Identity {
            store_directory: "/nix/store".to_owned(),
            schema: Some("10".to_owned()),
            oldest: oldest.iter().map(|&path| path.to_owned()).collect(),
        }
    }

    #[test]
    fn a_store_that_grew_is_the_same() {
        for then in [&[][..], &["a"], &["a", "b"]] {
            assert_eq!(identity(then).difference(&identity(&["a", "b"])), None);
        }
    }

    #[test]
    fn another_store_differs_in_something() {
        let then = identity(&["a", "b"]);
        let paths = |now: &[&str]| {
            then.difference(&identity(now))
                .map(|it| (it.0, it.1 == "b"))
        };
        assert_eq!(paths(&["a", "c"]), Some(("oldest paths", true)));
        assert_eq!(paths(&["a"]), Some(("oldest paths", true)));
        assert_eq!(paths(&[]), Some(("oldest paths", false)));
        let schema = Identity {
            schema: None,
            ..then.clone()
        };
        assert_eq!(then.difference(&schema), Some(("schema", "10", "none")));
        let directory = Identity {
            store_directory: "/gnu/store".to_owned(),
            ..then.clone()
        };
        let expected = ("store directory", "/nix/store", "/gnu/store");
        assert_eq!(then.difference(&directory), Some(expected));
    }
}
