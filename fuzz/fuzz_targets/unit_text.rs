//! Names and values of any kind, as words of units.
#![no_main]

use std::path::Path;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use libfuzzer_sys::fuzz_target;
use overstore::testing::systemd::{argument, environment_value, prose, unit_name, word};

fuzz_target!(|bytes: &[u8]| {
    let written = word(bytes);
    assert!(
        written.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{written:?}"
    );
    assert_eq!(read(&written), bytes, "{written:?}");
    let argument = argument(Path::new(OsStr::from_bytes(bytes)));
    assert_eq!(read(&argument.replace("$$", "$")), bytes, "{argument:?}");
    assert_eq!(argument.replace("$$", "").find('$'), None, "{argument:?}");

    let text = String::from_utf8_lossy(bytes);
    // The values are store URLs, in which control characters are encoded.
    let url = text.replace(char::is_control, "");
    for line in [prose(&text), environment_value(&url)] {
        assert!(!line.contains(['\n', '\r', '\0']), "{line:?}");
        // A backslash that is not escaped itself would have the next line go on with this one.
        let backslashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
        assert_eq!(backslashes % 2, 0, "{line:?}");
    }
    let name = unit_name(&text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.-\\".contains(&byte);
    assert!(
        name.bytes().all(plain) && !name.starts_with('.'),
        "{name:?}"
    );
});

/// A word as systemd reads it (systemd.syntax(7), and specifiers of systemd.unit(5)).
fn read(word: &str) -> Vec<u8> {
    let word = word
        .strip_prefix('"')
        .and_then(|word| word.strip_suffix('"'))
        .unwrap_or(word);
    let (mut bytes, mut rest) = (Vec::new(), word.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => bytes.push(
                rest.next()
                    .filter(|byte| *byte == b'%')
                    .expect("a specifier"),
            ),
            b'\\' => match rest.next().expect("an escape") {
                b'x' => {
                    let digits = [rest.next(), rest.next()].map(|digit| digit.expect("two digits"));
                    let digits = std::str::from_utf8(&digits).expect("digits");
                    bytes.push(u8::from_str_radix(digits, 16).expect("a byte"));
                }
                other => bytes.push(other),
            },
            other => bytes.push(other),
        }
    }
    bytes
}
