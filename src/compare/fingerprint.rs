//! What a lower store was like when the upper database was made for it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Dir;
use serde::{Deserialize, Serialize};

use crate::config::{Lower, MetadataSource, Store};
use crate::escape::{show, show_path};
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::daemon::DaemonSource;
use crate::lower::publication::{self, Publication};
use crate::lower::sqlite::SqliteSource;
use crate::lower::{LowerError, Source, retry};
use crate::nix::hash::render_sha256;
use crate::nix::layout;
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;

/// How many paths are remembered.
const PATHS: u32 = 8;
/// How many names of the lower store directory are looked at to find them where a daemon is to be
/// asked. Some are not valid: lock files, what a killed build left.
const NAMES: usize = 64;
/// How long a daemon may take for all of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What tells a lower store from another one, also where that has the same objects. Devices and
/// inodes do not: an image that is mounted again may have others. Of a nested store it is that of
/// the store at its bottom: what the stores above have themselves may be collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    /// The store directory that its paths begin with.
    pub store_directory: String,
    /// What its `schema` file said.
    pub schema: Option<String>,
    /// Its oldest paths, each with the time of its registration: a store that only grows keeps them.
    pub oldest: Vec<String>,
    /// Behind a daemon, which does not say which are the oldest: some of its paths, by their base
    /// names, each with what the daemon said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some: Option<BTreeMap<String, String>>,
    /// Of a publication, whose generations lose paths: its own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<String>,
}

/// In what a lower store is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What that is called.
    pub what: &'static str,
    /// As it was.
    pub was: String,
    /// As it is.
    pub is: String,
}

impl Identity {
    /// The identity of the lower store of `store`, whose `schema` file says this. `None` where its
    /// metadata is not read here.
    ///
    /// # Errors
    /// When the lower store cannot be read.
    pub fn of(store: &Store, schema: Option<&str>) -> Result<Option<Identity>, LowerError> {
        let bottom = store.lower.bottom();
        match &bottom.source {
            MetadataSource::Daemon { socket } => {
                let names = names(&bottom.real);
                Self::of_daemon(store, socket, &names).map(Some)
            }
            _ => Self::of_database(store, bottom, schema),
        }
    }

    /// The same, to be compared with what it was `then`: a daemon is asked for the same paths as
    /// then, and not at all where nothing is known of then.
    ///
    /// # Errors
    /// When the lower store cannot be read.
    pub fn now(
        store: &Store,
        schema: Option<&str>,
        then: Option<&Identity>,
    ) -> Result<Option<Identity>, LowerError> {
        let bottom = store.lower.bottom();
        match (&bottom.source, then) {
            (
                MetadataSource::Daemon { socket },
                Some(Identity {
                    some: Some(some), ..
                }),
            ) => {
                let names = some.keys().map(|name| StorePath::parse(name.as_bytes()));
                let names: Vec<_> = names.flatten().collect();
                Self::of_daemon(store, socket, &names).map(Some)
            }
            _ => Self::of_database(store, bottom, schema),
        }
    }

    fn of_database(
        store: &Store,
        bottom: &Lower,
        schema: Option<&str>,
    ) -> Result<Option<Identity>, LowerError> {
        let MetadataSource::Database { state, .. } = &bottom.source else {
            return Ok(None);
        };
        if let Some((publication, link)) = bottom.published() {
            return Ok(of_publication(publication, link).map(|id| Identity {
                store_directory: show_path(&store.store).into_owned(),
                schema: schema.map(str::to_owned),
                oldest: Vec::new(),
                some: None,
                publication: Some(id),
            }));
        }
        let path = layout::database(state);
        let oldest = retry(
            || SqliteSource::open(&path, directory(store)).map(Box::new),
            |source| -> Result<_, LowerError> {
                let oldest = source.oldest(PATHS)?;
                source.confirmed()?;
                Ok(oldest)
            },
        )?;
        let elsewhere = oldest
            .iter()
            .map(|(path, _)| path.parent().unwrap_or(path))
            .find(|parent| *parent != store.store.as_path());
        Ok(Some(Identity {
            store_directory: show_path(elsewhere.unwrap_or(&store.store)).into_owned(),
            schema: schema.map(str::to_owned),
            oldest: oldest
                .iter()
                .map(|(path, time)| format!("{} ({time})", show_path(path)))
                .collect(),
            some: None,
            publication: None,
        }))
    }

    /// From those of these paths that a daemon knows.
    fn of_daemon(
        store: &Store,
        socket: &Path,
        paths: &[StorePath],
    ) -> Result<Identity, LowerError> {
        let mut daemon = DaemonSource::open_within(socket, directory(store), ANSWER_TIMEOUT)?;
        for path in paths {
            daemon.ask(path)?;
        }
        let mut some = BTreeMap::new();
        for path in paths {
            if let Some(info) = daemon.answer()?
                && some.len() < PATHS as usize
            {
                some.insert(path.as_str().to_owned(), describe(&info));
            }
        }
        Ok(Identity {
            store_directory: show_path(&store.store).into_owned(),
            schema: None,
            oldest: Vec::new(),
            some: Some(some),
            publication: None,
        })
    }

    /// In what `now` is not what this was. A store that has only grown is the same.
    pub fn difference(&self, now: &Identity) -> Option<Difference> {
        let differ = |what, was: &str, is: &str| {
            Some(Difference {
                what,
                was: was.to_owned(),
                is: is.to_owned(),
            })
        };
        let (was, is) = (&self.store_directory, &now.store_directory);
        if was != is {
            return differ("store directory", was, is);
        }
        if let (Some(was), Some(is)) = (&self.publication, &now.publication)
            && was != is
        {
            let shown = |id: &String| show(id.as_bytes()).into_owned();
            return differ("publication", &shown(was), &shown(is));
        }
        if self.publication.is_some() != now.publication.is_some() {
            // Then it was looked at in another way.
            return None;
        }
        match (&self.some, &now.some) {
            (Some(then), Some(now)) => then.iter().find_map(|(path, was)| {
                let is = now.get(path).map_or("not valid", String::as_str);
                (was != is)
                    .then(|| differ("path", &format!("{path} ({was})"), &format!("it is {is}")))
                    .flatten()
            }),
            (None, None) => {
                if self.schema != now.schema {
                    let text = |schema: &Option<String>| {
                        show(schema.as_deref().unwrap_or("none").as_bytes()).into_owned()
                    };
                    return differ("schema", &text(&self.schema), &text(&now.schema));
                }
                let mut now = now.oldest.iter().map(String::as_str);
                self.oldest.iter().find_map(|then| {
                    let is = now.next().unwrap_or("nothing");
                    (then != is)
                        .then(|| differ("oldest paths", then, is))
                        .flatten()
                })
            }
            // Then it was looked at in another way.
            _ => None,
        }
    }
}

/// The identity of a publication, as the generation says that a link leads to. `None` where that cannot
/// be read, which is told elsewhere.
fn of_publication(publication: &Path, link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).unwrap_or_else(|_| link.to_owned());
    let number = publication::number_of(publication, &target)?;
    let opened = Publication::open(publication).ok()?;
    let listed = opened.generation(number).ok()??;
    Some(listed.generation.publication)
}

fn directory(store: &Store) -> StoreDirectory {
    StoreDirectory::new(store.store.as_os_str().as_bytes())
}

/// The first store paths that are found in a directory: it is not listed to its end. None where it
/// cannot be read.
fn names(directory: &Path) -> Vec<StorePath> {
    let opened = safe_path::open_directory(directory, Symlinks::Follow);
    let Some(entries) = opened.ok().and_then(|opened| Dir::new(opened).ok()) else {
        return Vec::new();
    };
    entries
        .take(NAMES)
        .filter_map(|entry| StorePath::parse(entry.ok()?.file_name().to_bytes()).ok())
        .collect()
}

/// What tells a path from another of the same name.
fn describe(info: &PathInfo) -> String {
    let hash = render_sha256(&info.nar_hash);
    format!("registered at {} with {hash}", info.registration_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(oldest: &[&str]) -> Identity {
        Identity {
            store_directory: "/nix/store".to_owned(),
            schema: Some("10".to_owned()),
            oldest: oldest.iter().map(|&path| path.to_owned()).collect(),
            some: None,
            publication: None,
        }
    }

    fn behind_a_daemon(some: &[(&str, &str)]) -> Identity {
        let text = |(path, is): &(&str, &str)| ((*path).to_owned(), (*is).to_owned());
        Identity {
            schema: None,
            some: Some(some.iter().map(text).collect()),
            ..identity(&[])
        }
    }

    fn what(then: &Identity, now: &Identity) -> Option<(&'static str, String, String)> {
        let it = then.difference(now)?;
        Some((it.what, it.was, it.is))
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
        let paths = |now: &[&str]| what(&then, &identity(now));
        let oldest = |was: &str, is: &str| Some(("oldest paths", was.to_owned(), is.to_owned()));
        assert_eq!(paths(&["a", "c"]), oldest("b", "c"));
        assert_eq!(paths(&["a"]), oldest("b", "nothing"));
        assert_eq!(paths(&[]), oldest("a", "nothing"));
        let schema = Identity {
            schema: None,
            ..then.clone()
        };
        let expected = ("schema", "10".to_owned(), "none".to_owned());
        assert_eq!(what(&then, &schema), Some(expected));
        let directory = Identity {
            store_directory: "/gnu/store".to_owned(),
            ..then.clone()
        };
        let expected = (
            "store directory",
            "/nix/store".to_owned(),
            "/gnu/store".to_owned(),
        );
        assert_eq!(what(&then, &directory), Some(expected));
    }

    #[test]
    fn what_a_daemon_said_differs_path_by_path() {
        let then = behind_a_daemon(&[("a", "1"), ("b", "2")]);
        assert_eq!(what(&then, &then), None);
        let path = |was: &str, is: &str| Some(("path", was.to_owned(), is.to_owned()));
        let other = behind_a_daemon(&[("a", "1"), ("b", "3")]);
        assert_eq!(what(&then, &other), path("b (2)", "it is 3"));
        let fewer = behind_a_daemon(&[("b", "2")]);
        assert_eq!(what(&then, &fewer), path("a (1)", "it is not valid"));
        assert_eq!(what(&behind_a_daemon(&[]), &then), None);
    }

    #[test]
    fn what_was_looked_at_in_another_way_is_not_compared() {
        let daemon = behind_a_daemon(&[("a", "1")]);
        assert_eq!(what(&daemon, &identity(&[])), None);
        assert_eq!(what(&identity(&["a"]), &behind_a_daemon(&[])), None);
    }

    #[test]
    fn what_was_written_before_there_were_daemons_is_read() {
        let text = r#"{"store-directory": "/nix/store", "schema": "10", "oldest": ["a"]}"#;
        assert_eq!(
            serde_json::from_str::<Identity>(text).unwrap(),
            identity(&["a"])
        );
    }
}
