use std::collections::BTreeSet;

use crate::nix::hash;
use crate::nix::store_path::StorePath;

/// The metadata of one store object, in Nix's normal form: what Nix itself would write of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// SHA-256 of the object's NAR.
    pub nar_hash: [u8; 32],
    /// When the object was registered, in seconds since 1970.
    pub registration_time: i64,
    /// The derivation it was built from, if that is known.
    pub deriver: Option<StorePath>,
    /// Bytes of the object's NAR; 0 if unknown.
    pub nar_size: i64,
    /// Whether this store built it itself.
    pub ultimate: bool,
    /// The signatures, separated by single spaces, sorted by their bytes; empty if there are none.
    ///
    /// Nix 2.34 sorts by key and then by signature, which differs only where a key's name
    /// continues another's, or where one key signed twice. It reads them as a set.
    pub signatures: String,
    /// What the path was computed from, if that was the content.
    pub content_address: Option<String>,
    /// The references, itself included where it refers to itself; sorted.
    pub references: Vec<StorePath>,
}

/// The metadata of one store object as a lower store has it, before anything about it is known to
/// be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPathInfo<'a> {
    /// The hash, with its algorithm (`sha256:...`), in any encoding.
    pub nar_hash: &'a [u8],
    /// See [`PathInfo::registration_time`].
    pub registration_time: i64,
    /// A store path, or empty.
    pub deriver: &'a [u8],
    /// See [`PathInfo::nar_size`].
    pub nar_size: i64,
    /// See [`PathInfo::ultimate`].
    pub ultimate: bool,
    /// The signatures, separated by spaces.
    pub signatures: &'a [u8],
    /// A content address, or empty.
    pub content_address: &'a [u8],
}

impl RawPathInfo<'_> {
    /// The normal form, still without references.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn normalize(&self, store: &StoreDirectory) -> Result<PathInfo, String> {
        let nar_hash = hash::parse_sha256(self.nar_hash)
            .ok_or_else(|| format!("expected a SHA-256 hash, found {}", quote(self.nar_hash)))?;
        let deriver = match self.deriver {
            b"" => None,
            path => Some(store.parse(path)?),
        };
        if self.nar_size < 0 {
            return Err(format!("expected a size, found {}", self.nar_size));
        }
        let content_address = match self.content_address {
            b"" => None,
            text => Some(
                hash::normal_content_address(text)
                    .ok_or_else(|| format!("expected a content address, found {}", quote(text)))?,
            ),
        };
        let signatures = std::str::from_utf8(self.signatures)
            .map_err(|_| format!("expected signatures, found {}", quote(self.signatures)))?
            .split(' ')
            .filter(|signature| !signature.is_empty())
            .collect::<BTreeSet<_>>();
        Ok(PathInfo {
            nar_hash,
            registration_time: self.registration_time,
            deriver,
            nar_size: self.nar_size,
            ultimate: self.ultimate,
            signatures: signatures.into_iter().collect::<Vec<_>>().join(" "),
            content_address,
            references: Vec::new(),
        })
    }
}

/// The store directory, as it is named inside store paths (`/nix/store`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDirectory(Vec<u8>);

impl StoreDirectory {
    /// From the directory's path, without a slash at its end.
    pub fn new(directory: &[u8]) -> Self {
        Self(directory.to_owned())
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

    /// The whole store path of an object.
    pub fn print(&self, path: &StorePath) -> Vec<u8> {
        [&*self.0, b"/", path.as_str().as_bytes()].concat()
    }
}

/// Foreign bytes for a message: printable, and not too many.
pub(super) fn quote(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let shown = crate::show::show(&bytes[..bytes.len().min(MOST)]);
    let dots = if bytes.len() > MOST { "..." } else { "" };
    format!("'{shown}{dots}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATH: &str = "/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-hello";
    const HASH: &[u8] = b"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn store() -> StoreDirectory {
        StoreDirectory::new(b"/nix/store")
    }

    fn raw() -> RawPathInfo<'static> {
        RawPathInfo {
            nar_hash: HASH,
            registration_time: 7,
            deriver: b"",
            nar_size: 0,
            ultimate: false,
            signatures: b"",
            content_address: b"",
        }
    }

    #[test]
    fn signatures_become_a_sorted_set() {
        let info = RawPathInfo {
            signatures: b" b:2  a:1 b:2 ",
            ..raw()
        }
        .normalize(&store())
        .unwrap();
        assert_eq!(info.signatures, "a:1 b:2");
    }

    #[test]
    fn empty_values_are_absent() {
        let info = raw().normalize(&store()).unwrap();
        assert_eq!(info.deriver, None);
        assert_eq!(info.content_address, None);
        assert_eq!(info.signatures, "");
    }

    #[test]
    fn wrong_values_are_told() {
        let wrong = [
            RawPathInfo {
                nar_hash: b"sha1:00",
                ..raw()
            },
            RawPathInfo {
                deriver: b"/etc/passwd",
                ..raw()
            },
            RawPathInfo {
                deriver: b"/nix/store/../store/x",
                ..raw()
            },
            RawPathInfo {
                nar_size: -1,
                ..raw()
            },
            RawPathInfo {
                content_address: b"fixed",
                ..raw()
            },
            RawPathInfo {
                signatures: b"\xff",
                ..raw()
            },
        ];
        for raw in wrong {
            assert!(raw.normalize(&store()).is_err(), "{raw:?}");
        }
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
