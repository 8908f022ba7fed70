//! The metadata of a store object, as it is found and in Nix's normal form.

use std::collections::BTreeSet;

use super::hash;
use super::store_directory::StoreDirectory;
use super::store_path::StorePath;
use crate::escape::quote;

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
pub(crate) struct RawPathInfo<'a> {
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
    pub(crate) fn normalize(&self, store: &StoreDirectory) -> Result<PathInfo, String> {
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
        if let Some(wrong) = signatures.iter().find(|it| !is_signature(it)) {
            return Err(format!(
                "expected a signature as KEY:SIGNATURE, found {}, which Nix 2.34 and later take for \
                 corrupt",
                quote(wrong.as_bytes())
            ));
        }
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

/// Whether this is the name of a key, a colon, and something in Base64. Nix before 2.34 copies anything else too,
/// and later ones then cannot read the row.
fn is_signature(text: &str) -> bool {
    text.split_once(':').is_some_and(|(key, signature)| {
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        !key.is_empty() && !signature.is_empty() && signature.bytes().all(is_base64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            RawPathInfo {
                signatures: b"a:1 corrupt",
                ..raw()
            },
            RawPathInfo {
                signatures: b":1",
                ..raw()
            },
            RawPathInfo {
                signatures: b"a:",
                ..raw()
            },
        ];
        for raw in wrong {
            assert!(raw.normalize(&store()).is_err(), "{raw:?}");
        }
    }
}
