//! Nix's own mount check, predicted.
//!
//! With `check-mount`, which is on by default, Nix looks for the merged store directory in the text
//! of `/proc/self/mounts` (source: `LocalOverlayStore`'s constructor, the same from 2.26 to 2.36).
//! The paths go into regular expressions as they are, and are compared with what the kernel prints,
//! escapes and all: so a path can be mounted well and never pass.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use regress::Regex;

use crate::escape::show;
use crate::overlayfs::octal;
use crate::overlayfs::options::{as_shown, escape, escape_lower};

/// The paths that decide whether the check passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckedPath {
    /// The merged store directory.
    Real,
    /// The lower store directory.
    Lower,
    /// The upper layer.
    Upper,
    /// The work directory: it is not compared, but stands on the same line.
    Work,
}

/// What Nix's check will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Accepted,
    /// No line of the mount table is taken for the mount.
    NoMount,
    /// The mount has another lower layer: its text, or the path taken as a pattern, is different.
    LowerDiffers {
        /// The line that was taken for the mount.
        line: Vec<u8>,
    },
    /// The mount has another upper layer.
    UpperDiffers {
        /// The line that was taken for the mount.
        line: Vec<u8>,
    },
    /// A path is no valid regular expression, so Nix fails with `regex_error`; or it matches the
    /// empty text, and Nix never ends.
    BadPattern(CheckedPath),
}

/// Predicts the check's verdict.
///
/// `mounts` is `/proc/self/mounts` as Nix will see it; `real`, `lower` and `upper` are the merged
/// store directory, the lower store directory and the upper layer as Nix knows them.
///
/// Nix uses `std::regex` of the C++ library of GCC. Its dialect is nearly that of the engine used
/// here; where a pattern is valid in one of them only, [`Verdict::BadPattern`] is the answer. Of
/// 60,000 random paths that consist mostly of operators, both engines accept or refuse all but 24
/// alike; those have a doubled operator such as `**`, which GCC takes.
pub fn predict(mounts: &[u8], real: &[u8], lower: &[u8], upper: &[u8]) -> Verdict {
    let Some(mount) = pattern(&[br"(^|\n)overlay ", real, br" .*(\n|$)"]) else {
        return Verdict::BadPattern(CheckedPath::Real);
    };
    let mounts = characters(mounts);
    let mut rest = mounts.as_str();
    let mut line = "";
    // The last match counts. Each search begins where the match before ended, so that a `^` can match
    // there.
    while let Some(found) = mount.find(rest) {
        if found.range().is_empty() {
            return Verdict::BadPattern(CheckedPath::Real);
        }
        line = &rest[found.range()];
        rest = &rest[found.end()..];
    }
    let shown = || bytes(line.trim_matches('\n'));
    match has_option(line, "lowerdir", lower) {
        None => return Verdict::BadPattern(CheckedPath::Lower),
        Some(false) if line.is_empty() => return Verdict::NoMount,
        Some(false) => return Verdict::LowerDiffers { line: shown() },
        Some(true) => {}
    }
    match has_option(line, "upperdir", upper) {
        None => Verdict::BadPattern(CheckedPath::Upper),
        Some(false) => Verdict::UpperDiffers { line: shown() },
        Some(true) => Verdict::Accepted,
    }
}

/// Whether the line has the option, by Nix's rule; `None` if the value is no valid pattern.
fn has_option(line: &str, name: &str, value: &[u8]) -> Option<bool> {
    if is_plain(value) && has_plain_option(line, name, value) {
        return Some(true);
    }
    let option = pattern(&[br"\b", name.as_bytes(), b"=", value, b"( |,)"])?;
    Some(option.find(line).is_some())
}

/// Whether a path has no byte that means something to a pattern, or that the kernel shows in another
/// way. (A dot does; it matches itself too.) Such a path is matched by itself, which spares most
/// stores the making of patterns.
fn is_plain(path: &[u8]) -> bool {
    path.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

/// Whether a line has an option as it stands, with a word's boundary before it.
fn has_plain_option(line: &str, name: &str, value: &[u8]) -> bool {
    let option = format!("{name}={}", characters(value));
    line.match_indices(&option).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + option.len()..].chars().next();
        matches!(before, Some(' ' | ',')) && matches!(after, Some(' ' | ','))
    })
}

/// A regular expression over bytes.
fn pattern(parts: &[&[u8]]) -> Option<Regex> {
    let text = parts.concat();
    if is_only_valid_here(&text) {
        return None;
    }
    Regex::new(&characters(&text)).ok()
}

/// Whether a pattern has what this engine takes and GCC's does not, or takes for something else: a
/// brace that begins no count, a group of a kind that C++ does not have, a reference to a group.
fn is_only_valid_here(pattern: &[u8]) -> bool {
    let mut rest = pattern;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' if tail.first().is_some_and(u8::is_ascii_digit) => return true,
            b'\\' => rest = tail.get(1..).unwrap_or_default(),
            b'[' => {
                let end = tail
                    .iter()
                    .position(|&byte| byte == b']')
                    .unwrap_or(tail.len());
                rest = &tail[end..];
            }
            b'{' if !is_count(tail) => return true,
            b'(' if tail.starts_with(b"?") && !matches!(tail.get(1), Some(b':' | b'=' | b'!')) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Whether a text begins with `1}`, `1,}` or `1,2}`.
fn is_count(text: &[u8]) -> bool {
    let Some(end) = text.iter().position(|&byte| byte == b'}') else {
        return false;
    };
    let number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let mut numbers = text[..end].splitn(2, |&byte| byte == b',');
    numbers.next().is_some_and(number)
        && numbers
            .next()
            .is_none_or(|last| last.is_empty() || number(last))
}

/// Every byte as the character of the same number: the patterns are about bytes, and the engine
/// takes text. None of these characters means more to it than the byte does to GCC's.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What [`characters`] was made of.
fn bytes(characters: &str) -> Vec<u8> {
    characters
        .chars()
        .filter_map(|character| u8::try_from(character).ok())
        .collect()
}

/// Why a path cannot pass the check, however it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmatchable {
    /// The kernel prints something else for a byte.
    #[error(
        "the kernel shows its `{}` as `{}`, and Nix compares the path as it is",
        show(&[*.byte]), octal_text(*.byte)
    )]
    Escaped {
        /// The byte.
        byte: u8,
    },
    /// A colon in the lower store directory needs a backslash, which the kernel then prints.
    #[error(
        "its `:` needs a backslash in the mount option, which the kernel shows, and Nix compares the \
         path as it is"
    )]
    Colon,
    /// An operator of regular expressions.
    #[error("Nix takes its `{0}` for an operator of a regular expression")]
    Operator(char),
    /// A carriage return: the pattern for the rest of the line ends there.
    #[error("it has a carriage return, which Nix takes for the end of the line in the mount table")]
    CarriageReturn,
}

fn octal_text(byte: u8) -> String {
    characters(&octal::escape(&[byte], &[byte]))
}

/// Tells beforehand that a path can never pass Nix's check, and why.
///
/// `path` is absolute and without a trailing slash. That every path of a store passes by itself
/// means that all pass together, when overstore mounts them.
pub fn unmatchable(part: CheckedPath, path: &[u8]) -> Option<Unmatchable> {
    if is_plain(path) {
        return None;
    }
    let with = |this, default: &'static [u8]| if this == part { path } else { default };
    let real = with(CheckedPath::Real, b"/m");
    let lower = with(CheckedPath::Lower, b"/l");
    let upper = with(CheckedPath::Upper, b"/u");
    let work = with(CheckedPath::Work, b"/w");
    let mounts = line_of(real, lower, upper, work);
    match predict(&mounts, real, lower, upper) {
        Verdict::Accepted => None,
        _ => Some(reason(part, path)),
    }
}

/// The line of `/proc/self/mounts` for an overlay as overstore mounts it.
fn line_of(real: &[u8], lower: &[u8], upper: &[u8], work: &[u8]) -> Vec<u8> {
    let path = |bytes| Path::new(OsStr::from_bytes(bytes));
    [
        b"overlay ".as_slice(),
        &octal::escape(real, octal::PATH),
        b" overlay rw,relatime,lowerdir=",
        &as_shown(&escape_lower(path(lower))),
        b",upperdir=",
        &as_shown(&escape(path(upper))),
        b",workdir=",
        &as_shown(&escape(path(work))),
        b",uuid=on 0 0\n",
    ]
    .concat()
}

/// The first byte that keeps a path from matching. It is known that one does.
fn reason(part: CheckedPath, path: &[u8]) -> Unmatchable {
    let cause = |byte: u8| match byte {
        b'\r' => Some(Unmatchable::CarriageReturn),
        b' ' | b'\t' | b'\n' | b'\\' => Some(Unmatchable::Escaped { byte }),
        b',' if part != CheckedPath::Real => Some(Unmatchable::Escaped { byte }),
        b':' if part == CheckedPath::Lower => Some(Unmatchable::Colon),
        b'^' | b'$' | b'*' | b'+' | b'?' | b'(' | b')' | b'[' | b'{' => {
            Some(Unmatchable::Operator(char::from(byte)))
        }
        _ => None,
    };
    // Only a `|` is left: it parts the pattern in two, each of which may still match something.
    path.iter()
        .find_map(|&byte| cause(byte))
        .unwrap_or(Unmatchable::Operator('|'))
}

#[cfg(test)]
mod tests;
