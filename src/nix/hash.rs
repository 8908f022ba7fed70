//! Hashes and content addresses, and the one form in which Nix writes each.
//!
//! Known from Nix's `hash.cc`, `base-nix-32.cc` and `content-address.cc`, 2.26 to 2.36.

/// The characters of Nix's base 32: no `e`, `o`, `t`, `u`.
const BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
/// The value of each byte that is one of them; 0 for every other.
const BASE32_VALUES: [u8; 256] = {
    let mut values = [0; 256];
    let mut value = 0;
    while value < 32 {
        values[BASE32[value as usize] as usize] = value;
        value += 1;
    }
    values
};
const BASE16: &[u8; 16] = b"0123456789abcdef";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The algorithms Nix knows, with their size in bytes.
const ALGORITHMS: [(&str, usize); 5] = [
    ("md5", 16),
    ("sha1", 20),
    ("sha256", 32),
    ("sha512", 64),
    ("blake3", 32),
];

/// Reads a SHA-256 hash that says that it is one, in any of the encodings that Nix reads:
/// `sha256:` with base 16, 32 or 64, or `sha256-` with base 64.
pub(crate) fn parse_sha256(text: &[u8]) -> Option<[u8; 32]> {
    let bytes = match text.strip_prefix(b"sha256:") {
        Some(rest) => decode(rest, 32),
        None => decode_base64(text.strip_prefix(b"sha256-")?, 32),
    };
    bytes?.try_into().ok()
}

/// The same, or without saying so, as registrations of paths have it.
pub(crate) fn parse_registered_sha256(text: &[u8]) -> Option<[u8; 32]> {
    parse_sha256(text).or_else(|| decode(text, 32)?.try_into().ok())
}

/// As Nix writes the hash of a store object into its database: `sha256:` and base 16.
pub(crate) fn render_sha256(hash: &[u8; 32]) -> String {
    let mut text = String::with_capacity(7 + 64);
    text.push_str("sha256:");
    for byte in hash {
        text.push(char::from(BASE16[usize::from(byte >> 4)]));
        text.push(char::from(BASE16[usize::from(byte & 15)]));
    }
    text
}

/// A content address as Nix writes it, whatever the encoding of the hash in `text`; `None` if it is
/// no content address.
pub(crate) fn normal_content_address(text: &[u8]) -> Option<String> {
    let (method, rest) = match text.strip_prefix(b"text:") {
        Some(rest) => ("text:", rest),
        None => {
            let rest = text.strip_prefix(b"fixed:")?;
            [("fixed:r:", &b"r:"[..]), ("fixed:git:", b"git:")]
                .into_iter()
                .find_map(|(method, prefix)| Some((method, rest.strip_prefix(prefix)?)))
                .unwrap_or(("fixed:", rest))
        }
    };
    let (name, size, hash) = ALGORITHMS.into_iter().find_map(|(name, size)| {
        let hash = rest.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
        Some((name, size, hash))
    })?;
    Some(format!("{method}{name}:{}", base32(&decode(hash, size)?)))
}

/// Nix's base 32: the last digit first.
pub(crate) fn base32(bytes: &[u8]) -> String {
    (0..(bytes.len() * 8).div_ceil(5))
        .rev()
        .map(|digit| {
            let (byte, bit) = (digit * 5 / 8, digit * 5 % 8);
            let next = bytes.get(byte + 1).copied().unwrap_or(0);
            let pair = u16::from_le_bytes([bytes[byte], next]);
            char::from(BASE32[usize::from((pair >> bit) & 31)])
        })
        .collect()
}

/// The first 64 bits of what 13 or more characters of Nix's base 32 say. They sort as the text does.
pub(crate) fn base32_prefix(text: &str) -> u64 {
    let bits = text.bytes().take(13).fold(0_u128, |bits, character| {
        bits << 5 | u128::from(BASE32_VALUES[usize::from(character)])
    });
    // 65 bits.
    (bits >> 1) as u64
}

/// Reads a hash of `size` bytes in base 16, 32 or 64: the length tells which.
fn decode(text: &[u8], size: usize) -> Option<Vec<u8>> {
    if text.len() == size * 2 {
        decode_base16(text)
    } else if text.len() == (size * 8).div_ceil(5) {
        decode_base32(text, size)
    } else if text.len() == size.div_ceil(3) * 4 {
        decode_base64(text, size)
    } else {
        None
    }
}

fn decode_base16(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks_exact(2)
        .map(|pair| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok())
        .collect()
}

fn decode_base32(text: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    for (number, character) in text.iter().rev().enumerate() {
        let digit = BASE32.iter().position(|known| known == character)?;
        let (byte, bit) = (number * 5 / 8, number * 5 % 8);
        let [low, high] = u16::try_from(digit << bit).ok()?.to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return None,
            None => {}
        }
    }
    Some(bytes)
}

/// With or without the `=` at the end, as Nix reads it.
fn decode_base64(text: &[u8], size: usize) -> Option<Vec<u8>> {
    let text = text.split(|byte| *byte == b'=').next()?;
    let mut bytes = Vec::with_capacity(size);
    let (mut pending, mut bits) = (0_u32, 0);
    for character in text {
        let digit = BASE64.iter().position(|known| known == character)?;
        pending = (pending << 6 | digit as u32) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits) as u8);
        }
    }
    (bytes.len() == size).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SHA-256 of `abc`, in the three encodings as `nix hash convert` prints them.
    const BASE16_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const BASE32_ABC: &str = "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s";
    const BASE64_ABC: &str = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";

    #[test]
    fn every_encoding_reads_the_same() {
        for text in [
            format!("sha256:{BASE16_ABC}"),
            format!("sha256:{}", BASE16_ABC.to_uppercase()),
            format!("sha256:{BASE32_ABC}"),
            format!("sha256:{BASE64_ABC}"),
            format!("sha256-{BASE64_ABC}"),
        ] {
            let hash = parse_sha256(text.as_bytes()).unwrap();
            assert_eq!(render_sha256(&hash), format!("sha256:{BASE16_ABC}"));
            assert_eq!(base32(&hash), BASE32_ABC);
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in [
            "",
            "sha256:",
            BASE16_ABC,
            "sha256:ba78",
            "sha512:ba78",
            &format!("sha1:{BASE16_ABC}"),
            &format!("sha256-{BASE16_ABC}"),
            &format!("sha256:{}", BASE16_ABC.replace('b', "g")),
            &format!("sha256:{}", BASE32_ABC.replace('b', "e")),
            // More bits than the hash has.
            &format!("sha256:z{}", &BASE32_ABC[1..]),
        ] {
            assert_eq!(parse_sha256(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn content_addresses_take_their_normal_form() {
        for method in ["text:", "fixed:", "fixed:r:", "fixed:git:"] {
            for hash in [BASE16_ABC, BASE32_ABC, BASE64_ABC] {
                assert_eq!(
                    normal_content_address(format!("{method}sha256:{hash}").as_bytes()),
                    Some(format!("{method}sha256:{BASE32_ABC}"))
                );
            }
        }
        assert_eq!(
            normal_content_address(b"fixed:md5:900150983cd24fb0d6963f7d28e17f72").as_deref(),
            Some("fixed:md5:3jgzhjhz9zjvbb0kyj7jc500ch")
        );
        for text in [
            "",
            "text",
            "text:sha256",
            "fixed:x:sha256:",
            "fixed:sha256-",
        ] {
            assert_eq!(normal_content_address(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_hash_survives_each_encoding(hash: [u8; 32]) {
            let base32 = format!("sha256:{}", base32(&hash));
            prop_assert_eq!(parse_sha256(base32.as_bytes()), Some(hash));
            prop_assert_eq!(parse_sha256(render_sha256(&hash).as_bytes()), Some(hash));
        }

        #[test]
        fn a_prefix_is_the_first_bits(hash: [u8; 20], other: [u8; 20]) {
            let [text, other] = [hash, other].map(|hash| base32(&hash));
            let expected = u64::from_le_bytes(hash[12..].try_into().unwrap());
            prop_assert_eq!(base32_prefix(&text), expected);
            prop_assert_eq!(expected.cmp(&base32_prefix(&other)), text.cmp(&other));
        }

        #[test]
        fn nothing_makes_it_panic(text: Vec<u8>, hash in "(sha256|md5)[:-][0-9a-zA-Z+/=]{0,70}") {
            let _ = parse_sha256(&text);
            let _ = parse_sha256(hash.as_bytes());
            let _ = normal_content_address(&text);
            let _ = normal_content_address(format!("fixed:{hash}").as_bytes());
        }
    }
}
