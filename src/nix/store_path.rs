//! Store paths, and the names in a store directory that are none.
//!
//! The rules are those of Nix's `StorePath` and `LocalStore::collectGarbage` (sources of 2.26 to
//! 2.36, which do not differ in this).

use std::fmt;

use super::hash::base32_prefix;
use super::layout;
use crate::escape::show;

/// Characters of the hash part: 160 bits in Nix's base 32.
const HASH_LENGTH: usize = 32;

/// What the name of a lock file ends in.
const LOCK: &str = ".lock";

/// The longest name of a store object, in bytes; the hash part and its dash do not count.
const MAX_NAME_LENGTH: usize = 211;

/// The base name of a store path, `HASH-NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(String);

/// Why a base name is not that of a store path. The order of checks is Nix's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadStorePath {
    /// Not longer than a hash part. Nix: `is too short to be a valid store path`.
    #[error("it is too short: no more than 32 bytes")]
    TooShort,
    /// A byte of the hash part is none of Nix's base 32.
    #[error("its hash part has `{}`, which is not in Nix's base 32", show(&[*.0]))]
    HashByte(u8),
    /// There is nothing after the dash.
    #[error("its name is empty")]
    EmptyName,
    /// The name is longer than 211 bytes.
    #[error("its name has {0} bytes, more than 211")]
    NameTooLong(usize),
    /// The name is `.` or `..`, or its first part before a dash is.
    #[error("its name begins with the part `.` or `..`")]
    Dots,
    /// A byte of the name is not allowed there.
    #[error("its name has `{}`, which is not one of the allowed A-Z a-z 0-9 + - . _ ? =", show(&[*.0]))]
    NameByte(u8),
    /// Something other than a dash stands between hash part and name. Nix never makes such a path,
    /// and does not notice one either.
    #[error("there is `{}` instead of a dash after its hash part", show(&[*.0]))]
    Separator(u8),
}

impl StorePath {
    /// Reads a base name.
    ///
    /// # Errors
    /// When Nix would not take it for a store path, and when its separator is not a dash.
    pub fn parse(base_name: &[u8]) -> Result<Self, BadStorePath> {
        let (hash_part, rest) = base_name
            .split_at_checked(HASH_LENGTH)
            .ok_or(BadStorePath::TooShort)?;
        let (separator, name) = rest.split_first().ok_or(BadStorePath::TooShort)?;
        if let Some(byte) = hash_part.iter().find(|byte| !is_base32(**byte)) {
            return Err(BadStorePath::HashByte(*byte));
        }
        check_name(name)?;
        if *separator != b'-' {
            return Err(BadStorePath::Separator(*separator));
        }
        // Every byte was found to be ASCII.
        Ok(Self(String::from_utf8_lossy(base_name).into_owned()))
    }

    /// The hash part: 32 characters of Nix's base 32.
    pub fn hash_part(&self) -> &str {
        &self.0[..HASH_LENGTH]
    }

    /// The first 64 of the hash part's 160 bits: enough to tell the paths of a store apart.
    pub fn hash_prefix(&self) -> u64 {
        base32_prefix(self.hash_part())
    }

    /// The name: what follows the hash part and the dash.
    pub fn name(&self) -> &str {
        &self.0[HASH_LENGTH + 1..]
    }

    /// The base name, `HASH-NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether Nix names so what is no object: lock files, what builds leave for a moment, and what
    /// is about to be deleted.
    pub(crate) fn is_temporary(&self) -> bool {
        let name = self.as_str();
        let suffixes = [LOCK, ".chroot", ".check", ".tmp"];
        suffixes.iter().any(|suffix| name.ends_with(suffix)) || name.contains(".old-")
    }

    /// Whether it is the path of a derivation.
    pub fn is_derivation(&self) -> bool {
        self.name().ends_with(".drv")
    }

    /// The store path that this one is the lock file of, by its name: `HASH-NAME.lock`.
    ///
    /// Nix makes such files beside the objects that it builds or adds. To the collector each is a
    /// store path of its own, that is not valid.
    pub fn locked(&self) -> Option<StorePath> {
        Self::parse(self.0.strip_suffix(LOCK)?.as_bytes()).ok()
    }

    /// The name of this path's lock file, which is beside the object.
    pub(crate) fn lock_file(&self) -> String {
        format!("{self}{LOCK}")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_base32(byte: u8) -> bool {
    (byte.is_ascii_digit() || byte.is_ascii_lowercase()) && !b"eotu".contains(&byte)
}

fn check_name(name: &[u8]) -> Result<(), BadStorePath> {
    if name.is_empty() {
        return Err(BadStorePath::EmptyName);
    }
    if name.len() > MAX_NAME_LENGTH {
        return Err(BadStorePath::NameTooLong(name.len()));
    }
    if matches!(name.split(|&byte| byte == b'-').next(), Some(b"." | b"..")) {
        return Err(BadStorePath::Dots);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    match name.iter().find(|byte| !allowed(**byte)) {
        Some(byte) => Err(BadStorePath::NameByte(*byte)),
        None => Ok(()),
    }
}

/// A name in a store directory, as Nix's collector sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A store path, valid or not: the collector keeps it or deletes it. Lock files
    /// ([`StorePath::locked`]) and what builds leave behind (`.chroot`, `.check`, `.old-...`) are
    /// named so that they belong here.
    StorePath(StorePath),
    /// `.links`: the collector skips it here, and goes through it afterwards.
    Links,
    /// `tmp-...`: a directory in which Nix receives an object. While it is locked the collector skips
    /// it; one that was left behind stops it, as [`Stranger`](Self::Stranger) does.
    Temporary,
    /// Not a store path. In a local-overlay store it stops the collector, which takes it for garbage,
    /// and fails to parse its name when it is about to delete it.
    Stranger(BadStorePath),
}

impl Entry {
    /// What a name in a store directory is.
    pub(crate) fn of(name: &[u8]) -> Self {
        if name == layout::LINKS.as_bytes() {
            return Self::Links;
        }
        match StorePath::parse(name) {
            Ok(path) => Self::StorePath(path),
            Err(_) if name.starts_with(b"tmp-") => Self::Temporary,
            Err(error) => Self::Stranger(error),
        }
    }

    /// Whether the collector of a local-overlay store stops at this name. A
    /// [`Temporary`](Self::Temporary) directory stops it only when no process holds its lock, which
    /// the name does not tell.
    pub(crate) fn stops_collector(&self) -> bool {
        match self {
            Self::StorePath(_) | Self::Links | Self::Temporary => false,
            Self::Stranger(error) => !matches!(error, BadStorePath::Separator(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8";

    fn parse(name: &str) -> Result<StorePath, BadStorePath> {
        StorePath::parse(format!("{HASH}-{name}").as_bytes())
    }

    #[test]
    fn store_paths_are_read() {
        let path = parse("hello-2.12.1.drv").unwrap();
        assert_eq!(path.hash_part(), HASH);
        assert_eq!(path.name(), "hello-2.12.1.drv");
        assert_eq!(path.as_str(), path.to_string());
        assert!(path.is_derivation());
        for name in [
            "a",
            "...",
            "..a",
            ".a-b",
            "a.-b",
            "A+-._?=9",
            &"x".repeat(211),
        ] {
            assert_eq!(
                parse(name).map(|path| path.name().to_owned()).as_deref(),
                Ok(name)
            );
        }
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        assert_eq!(parse(""), Err(BadStorePath::EmptyName));
        for name in [".", "..", ".-a", "..-a"] {
            assert_eq!(parse(name), Err(BadStorePath::Dots), "{name}");
        }
        assert_eq!(parse(&"x".repeat(212)), Err(BadStorePath::NameTooLong(212)));
        assert_eq!(parse("a b"), Err(BadStorePath::NameByte(b' ')));
        assert_eq!(parse("ä"), Err(BadStorePath::NameByte(0xc3)));
        assert_eq!(
            StorePath::parse(HASH.as_bytes()),
            Err(BadStorePath::TooShort)
        );
        assert_eq!(
            StorePath::parse(format!("{HASH}_a").as_bytes()),
            Err(BadStorePath::Separator(b'_'))
        );
        for letter in ["e", "o", "u", "t", "A", "-", "\n"] {
            let text = format!("{letter}{}-a", &HASH[1..]);
            assert_eq!(
                StorePath::parse(text.as_bytes()),
                Err(BadStorePath::HashByte(letter.as_bytes()[0]))
            );
        }
    }

    #[test]
    fn reasons_read_as_sentences() {
        let reasons = [
            BadStorePath::TooShort,
            BadStorePath::HashByte(b'e'),
            BadStorePath::EmptyName,
            BadStorePath::NameTooLong(212),
            BadStorePath::Dots,
            BadStorePath::NameByte(0xff),
            BadStorePath::Separator(b'\n'),
        ];
        insta::assert_snapshot!(reasons.map(|reason| reason.to_string()).join("\n"));
    }

    #[test]
    fn a_lock_file_names_what_it_locks() {
        assert_eq!(parse("a.lock").unwrap().locked(), parse("a").ok());
        assert_eq!(parse("a").unwrap().locked(), None);
        assert_eq!(parse(".lock").unwrap().locked(), None);
    }

    #[test]
    fn names_in_a_store_directory_are_told_apart() {
        let stops = |name: &str| Entry::of(name.as_bytes()).stops_collector();
        assert_eq!(Entry::of(b".links"), Entry::Links);
        assert_eq!(Entry::of(b"tmp-1234-0"), Entry::Temporary);
        assert!(matches!(
            Entry::of(format!("{HASH}-a.lock").as_bytes()),
            Entry::StorePath(_)
        ));
        for name in [
            "lost+found",
            "nix-path-registration",
            ".tmp-link-12-34",
            ".nfs00000001",
            "tmp",
        ] {
            assert!(stops(name), "{name}");
        }
        // The lock file of an object whose name is as long as may be is no store path any more.
        assert!(stops(&format!("{HASH}-{}.lock", "x".repeat(207))));
        assert!(!stops(&format!("{HASH}-a.chroot")));
        // Nix does not look at the separator.
        assert!(!stops(&format!("{HASH}_a")));
        assert!(!stops(".links"));
    }

    proptest! {
        #[test]
        fn reading_keeps_the_text(name in "[0-9a-zA-Z+_?=][0-9a-zA-Z+._?=-]{0,210}") {
            let path = parse(&name).unwrap();
            prop_assert_eq!(StorePath::parse(path.as_str().as_bytes()), Ok(path));
        }

        #[test]
        fn any_bytes_are_read_or_refused(name: Vec<u8>) {
            if let Entry::StorePath(path) = Entry::of(&name) {
                prop_assert_eq!(path.as_str().as_bytes(), &name);
            }
        }
    }
}
