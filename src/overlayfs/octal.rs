//! The octal escapes of `/proc/self/mountinfo` and `/proc/self/mounts`: a space reads `\040`.
//!
//! The kernel escapes a few bytes, which differ from field to field, and the backslash in all of
//! them; every other byte stands as it is.

/// Bytes escaped in mount points, roots and option values.
pub(crate) const PATH: &[u8] = b" \t\n\\";
/// Bytes escaped in the mount's source.
pub(crate) const SOURCE: &[u8] = b" \t\n\\#";
/// Bytes escaped in the value of an option of the file system.
pub(crate) const OPTION_VALUE: &[u8] = b", \t\n\\";

/// Writes `bytes` as the kernel does, with those in `set` escaped.
pub(crate) fn escape(bytes: &[u8], set: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        if set.contains(&byte) {
            text.push(b'\\');
            text.extend([byte >> 6, byte >> 3 & 7, byte & 7].map(|digit| b'0' + digit));
        } else {
            text.push(byte);
        }
    }
    text
}

/// Reads what the kernel wrote. A backslash without three octal digits stands for itself.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match *rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                rest = &rest[3..];
                (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')
            }
            _ => first,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_three_octal_digits() {
        assert_eq!(escape(b"a b\t\\#", PATH), b"a\\040b\\011\\134#");
        assert_eq!(escape(b"a#", SOURCE), b"a\\043");
        assert_eq!(unescape(b"a\\040b\\0\\400\\08\\"), b"a b\\0\\400\\08\\");
        assert_eq!(unescape(b"\\377\\1340"), b"\xff\\0");
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(bytes: Vec<u8>) {
            for set in [PATH, SOURCE, OPTION_VALUE] {
                prop_assert_eq!(unescape(&escape(&bytes, set)), bytes.clone());
            }
        }
    }
}
