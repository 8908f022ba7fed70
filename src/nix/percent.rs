//! Percent-encoding, with the byte sets that all versions of Nix read alike.
//!
//! Nix up to 2.30 matches URLs with a regular expression of its own, from 2.31 with Boost.URL; the
//! sets here are what both take as it is and without changing it.

use crate::escape::percent_encode_unless;

/// Where in a URL a text stands, which decides the bytes that need no encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The path of a URL such as `unix:///run/socket`.
    Path,
    /// The value of a parameter of a URL that stands alone: on a command line, in `nix.conf`.
    Value,
    /// The value of a parameter of a URL that is itself the value of a parameter.
    ///
    /// Nix also takes a raw space and a raw `"` in a query, and the URL around this one encodes
    /// them. To leave them raw here keeps the text free of `%`, which is what makes versions differ.
    NestedValue,
}

impl Place {
    /// Whether `byte` can stand for itself here.
    pub(super) fn keeps(self, byte: u8) -> bool {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => true,
            b'/' | b':' | b'@' | b'!' | b'$' | b'\'' | b'(' | b')' | b'*' | b',' | b';' => true,
            b'+' | b'=' => true,
            b'?' => self != Self::Path,
            b'&' => self == Self::Path,
            b' ' | b'"' => self == Self::NestedValue,
            _ => false,
        }
    }
}

/// Percent-encodes the bytes that cannot stand for themselves at `place`.
pub(super) fn encode(bytes: &[u8], place: Place) -> String {
    percent_encode_unless(bytes, |byte| place.keeps(byte))
}

/// Decodes every `%XX`; the error is the place of a `%` that no two hexadecimal digits follow.
pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, usize> {
    let digit = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte == b'%' {
            let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                return Err(at);
            };
            // Two hexadecimal digits are at most 255.
            bytes.push((high * 16 + low) as u8);
            at += 3;
        } else {
            bytes.push(byte);
            at += 1;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encodes_exactly_what_must_be() {
        let free = "ABCXYZabcxyz0189-._~/:=?@!$'()*,;+";
        assert_eq!(encode(free.as_bytes(), Place::Value), free);
        assert_eq!(
            encode(b"#&%\\^|{}<>`\" []\n\xff", Place::Value),
            "%23%26%25%5C%5E%7C%7B%7D%3C%3E%60%22%20%5B%5D%0A%FF"
        );
        assert_eq!(encode(b"a b\"&", Place::NestedValue), "a b\"%26");
        assert_eq!(encode(b"/a?b&c", Place::Path), "/a%3Fb&c");
    }

    #[test]
    fn says_where_a_percent_sign_is_wrong() {
        assert_eq!(decode(b"/a%2"), Err(2));
        assert_eq!(decode(b"%zz"), Err(0));
        assert_eq!(decode(b"%+1"), Err(0));
        assert_eq!(decode(b"%41%"), Err(3));
        assert_eq!(decode(b"%c3%A4"), Ok(b"\xc3\xa4".to_vec()));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(bytes: Vec<u8>, place in 0..3usize) {
            let place = [Place::Path, Place::Value, Place::NestedValue][place];
            let text = encode(&bytes, place);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(decode(text.as_bytes()), Ok(bytes));
        }

        #[test]
        fn decoding_takes_any_bytes(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
