//! Nix's version number, as far as store URLs depend on it.

use std::fmt;
use std::str::FromStr;

/// A version of Nix, as `nix --version` prints it: `2.26.3`, `2.36.0pre20260822_88b09c6`.
///
/// Only the numbers are kept: no rule that overstore knows depends on a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NixVersion {
    /// The first number, 2 since 2016.
    pub major: u32,
    /// The second number, which counts releases.
    pub minor: u32,
    /// The third number, which counts fixes; 0 where it is left out.
    pub patch: u32,
}

impl NixVersion {
    /// The version `major.minor.0`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self {
            major,
            minor,
            patch: 0,
        }
    }

    /// Reads the output of `nix --version`, such as `nix (Nix) 2.26.3`: the version is its last
    /// word, whatever product name stands before it.
    pub fn from_version_output(output: &str) -> Result<Self, BadVersion> {
        output
            .split_whitespace()
            .next_back()
            .unwrap_or_default()
            .parse()
    }
}

/// A text that is not a version of Nix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a version of Nix, such as 2.26.3; found `{0}`")]
pub struct BadVersion(pub String);

impl FromStr for NixVersion {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion(text.escape_debug().to_string());
        let mut parts = text.splitn(3, '.');
        // A development version may say `2.36pre...`, so what follows the last number is not read.
        let mut number = |required: bool| match parts.next() {
            None if required => Err(bad()),
            None => Ok(0),
            Some(part) => {
                let end = part
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(part.len());
                part[..end].parse().map_err(|_| bad())
            }
        };
        Ok(Self {
            major: number(true)?,
            minor: number(true)?,
            patch: number(false)?,
        })
    }
}

impl fmt::Display for NixVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nix_prints() {
        let version = |major, minor, patch| {
            Ok(NixVersion {
                major,
                minor,
                patch,
            })
        };
        assert_eq!("2.26.3".parse(), version(2, 26, 3));
        assert_eq!("2.34".parse(), version(2, 34, 0));
        assert_eq!("2.36.0pre20260822_88b09c6".parse(), version(2, 36, 0));
        assert_eq!("2.36pre20260822_88b09c6".parse(), version(2, 36, 0));
        assert_eq!(
            NixVersion::from_version_output("nix (Nix) 2.34.8\n"),
            version(2, 34, 8)
        );
        assert!(NixVersion::new(2, 4) < NixVersion::new(2, 26));
        assert_eq!(NixVersion::new(2, 26).to_string(), "2.26.0");
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "2", "x.y", "2.", ".26", "-2.26", "99999999999.1"] {
            assert!(text.parse::<NixVersion>().is_err(), "{text}");
        }
        assert!(NixVersion::from_version_output("").is_err());
    }
}
