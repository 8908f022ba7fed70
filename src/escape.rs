//! Bytes as text for people: paths are bytes, and a message or a terminal takes text.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anstream::adapter::strip_bytes;

/// `bytes` as they are if they are printable UTF-8, otherwise escaped: `\n`, `\\`, `\xFF`, ...
///
/// Escaped and other texts can look alike; where that matters, keep the bytes.
pub fn show(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(is_printable) => Cow::Borrowed(text),
        _ => Cow::Owned(escape(bytes)),
    }
}

/// [`show`] for a path.
pub(crate) fn show_path(path: &Path) -> Cow<'_, str> {
    show(path.as_os_str().as_bytes())
}

/// What a program says to people, as one line: its own lines after each other, without what colours
/// them on a terminal and without bytes that are no text, the rest as [`show`] does it.
pub(crate) fn show_line(message: &[u8]) -> String {
    let lines = show_lines(message);
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// As [`show_line`], with the lines that it has.
pub(crate) fn show_lines(message: &[u8]) -> String {
    let plain: Vec<u8> = strip_bytes(message).flatten().copied().collect();
    let lines = plain.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| show(line.strip_suffix(b"\r").unwrap_or(line)).into_owned());
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// How many there are of something: `1 object`, `2 objects`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

/// Foreign bytes for a message: in quotes, printable, and not too many.
pub(crate) fn quote(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let shown = show(&bytes[..bytes.len().min(MOST)]);
    let dots = if bytes.len() > MOST { "..." } else { "" };
    format!("'{shown}{dots}'")
}

/// A path as one word of a shell's command line.
pub(crate) fn shell_quote(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return show(bytes).into_owned();
    }
    let text = show(bytes);
    match text {
        Cow::Borrowed(text) => format!("'{}'", text.replace('\'', "'\\''")),
        // Bash and others read escapes in this form only.
        Cow::Owned(_) => {
            let mut word = String::from("$'");
            for &byte in bytes {
                match byte {
                    b'\'' | b'\\' => word.extend(['\\', char::from(byte)]),
                    b' '..=b'~' => word.push(char::from(byte)),
                    _ => {
                        // Writing to a String cannot fail.
                        let _ = write!(word, "\\{byte:03o}");
                    }
                }
            }
            word.push('\'');
            word
        }
    }
}

/// Bytes as part of a URI: all but unreserved characters and slashes as `%XX` (RFC 3986).
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    percent_encode_unless(bytes, |byte| {
        byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte)
    })
}

/// The same with another choice of the bytes that stand for themselves.
pub(crate) fn percent_encode_unless(bytes: &[u8], keeps: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if keeps(byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// A path as the whole value of a setting that takes one, such as `ListenStream=`: not in quotes,
/// with specifiers made ordinary. `None` for one that no such setting can have: there is no way to
/// write a line's end, a space at the end, or what is not UTF-8.
pub(crate) fn unit_value(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let fits =
        !text.chars().any(char::is_control) && text.trim() == text && !unit_line_continues(text);
    fits.then(|| text.replace('%', "%%"))
}

/// Whether a line that ends with this goes on in the next one: after a backslash that is not itself
/// behind one (systemd.syntax(7); source: `config_parse`).
pub(crate) fn unit_line_continues(text: &str) -> bool {
    text.bytes()
        .fold(false, |escaped, byte| !escaped && byte == b'\\')
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if is_printable(character) => text.push(character),
                _ => text.extend(character.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

/// Neither a control character nor one that changes the direction or the place of those around it.
fn is_printable(character: char) -> bool {
    // `escape_debug` keeps exactly what Rust's tables call printable, and escapes these three.
    matches!(character, '\\' | '\'' | '"') || character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    use proptest::prelude::*;

    #[test]
    fn printable_text_stays() {
        for text in ["", "/nix/store", "/mnt/größe 'a' \"b\"", r"C:\x"] {
            assert_eq!(show(text.as_bytes()), text);
        }
    }

    #[test]
    fn the_rest_is_escaped() {
        assert_eq!(show(b"/a\nb"), r"/a\nb");
        assert_eq!(show(b"/a\\b\x1b"), r"/a\\b\u{1b}");
        assert_eq!(show(b"/\xc3\xa4\xff"), r"/ä\xFF");
        assert_eq!(show("/a\u{202e}b".as_bytes()), r"/a\u{202e}b");
        assert_eq!(show_path(Path::new("/a\tb")), r"/a\tb");
    }

    #[test]
    fn what_programs_say_keeps_its_words_only() {
        let said = "\u{1b}[31;1merror:\u{1b}[0m no\r\n  \u{202e}path\tis\n\n".as_bytes();
        assert_eq!(show_lines(said), "error: no\n  \\u{202e}path\\tis");
        assert_eq!(show_line(said), r"error: no \u{202e}path\tis");
        assert_eq!(show_line(b"a\xff \n \n b"), "a b");
        assert_eq!(show_lines(b""), "");
    }

    #[test]
    fn a_path_is_quoted_for_a_shell() {
        assert_eq!(shell_quote(Path::new("/nix/store")), "/nix/store");
        assert_eq!(shell_quote(Path::new("/a b")), "'/a b'");
        assert_eq!(shell_quote(Path::new("/a'b")), r"'/a'\''b'");
        assert_eq!(shell_quote(Path::new("/a\n'b")), r"$'/a\012\'b'");
    }

    #[test]
    fn nothing_goes_on_in_the_next_line() {
        for path in ["/a\nb", "/a\u{85}b", "/a\\", "/a ", "/a\rb", "/a\\\\\\"] {
            assert_eq!(unit_value(Path::new(path)), None, "{path:?}");
        }
        assert_eq!(unit_value(Path::new(OsStr::from_bytes(b"/\xff"))), None);
        assert_eq!(
            unit_value(Path::new("/a b%\\c\\\\")).unwrap(),
            "/a b%%\\c\\\\"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_is_printable(bytes: Vec<u8>) {
            prop_assert!(show(&bytes).chars().all(is_printable));
        }
    }
}
