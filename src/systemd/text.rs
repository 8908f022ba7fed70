//! How systemd writes things: unit names, and words in unit files.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::escape::unit_line_continues;

/// A string as part of a unit's name, as `systemd-escape` makes it (systemd.unit(5), "String
/// escaping for inclusion in unit names").
pub fn unit_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                name.push(char::from(byte));
            }
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name
}

/// One word of a setting that takes several: in quotes, with specifiers (`%`) made ordinary.
pub fn word(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:=@,~".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    text.push('"');
    for &byte in bytes {
        match byte {
            b'%' => text.push_str("%%"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text.push('"');
    text
}

/// A path as one word.
pub(crate) fn path(path: &Path) -> String {
    word(path.as_os_str().as_bytes())
}

/// One word of a command line, where `$` begins a variable, too.
pub fn argument(path: &Path) -> String {
    word(path.as_os_str().as_bytes()).replace('$', "$$")
}

/// Text for people in a setting, such as a description.
pub fn prose(text: &str) -> String {
    let mut text: String = text
        .chars()
        .map(|character| match character.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => character,
        })
        .collect();
    if unit_line_continues(&text) {
        text.push('\\');
    }
    text.replace('%', "%%")
}

/// A value in double quotes, read alike by systemd's `EnvironmentFile=` (which expands nothing, but
/// takes a backslash before these four characters away) and by a shell that sources the file.
pub fn environment_value(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\' | '`' | '$') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_systemd_escape() {
        for (text, name) in [
            ("example", "example"),
            ("a-b", "a\\x2db"),
            ("a b", "a\\x20b"),
            (".hidden", "\\x2ehidden"),
            ("v1.2", "v1.2"),
            ("ü", "\\xc3\\xbc"),
        ] {
            assert_eq!(unit_name(text), name);
        }
    }

    #[test]
    fn words_are_read_back_as_they_were() {
        for (bytes, text) in [
            (b"/mnt/a".as_slice(), "/mnt/a"),
            (b"/a b", "\"/a b\""),
            (b"/100%", "\"/100%%\""),
            (b"/q\"\\", "\"/q\\\"\\\\\""),
            (b"/\xc3\xbc", "\"/\\xc3\\xbc\""),
            (b"", "\"\""),
        ] {
            assert_eq!(word(bytes), text);
        }
        assert_eq!(argument(Path::new("/$HOME")), "\"/$$HOME\"");
    }

    #[test]
    fn prose_stays_in_its_line() {
        assert_eq!(prose("a\\"), "a\\\\");
        assert_eq!(prose("a\\\\"), "a\\\\");
        assert_eq!(prose("100%\n[Service]"), "100%%\u{fffd}[Service]");
    }

    #[test]
    fn quotes_what_a_shell_would_expand() {
        assert_eq!(
            environment_value("unix:///run/s?root=/a'b!c"),
            r#""unix:///run/s?root=/a'b!c""#
        );
        assert_eq!(environment_value(r#"/$x/`y`"\"#), r#""/\$x/\`y\`\"\\""#);
    }

    /// The value of `X=` in a file as systemd reads it (systemd.exec(5), `EnvironmentFile=`; source:
    /// `parse_env_file_internal`), for a value in double quotes.
    fn read_by_systemd(text: &str) -> Option<String> {
        let mut characters = text.strip_prefix("X=\"")?.chars();
        let mut value = String::new();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => match characters.next()? {
                    escaped @ ('"' | '\\' | '`' | '$') => value.push(escaped),
                    '\n' => {}
                    other => value.extend(['\\', other]),
                },
                other => value.push(other),
            }
        }
        // What follows a closing quote would be part of the value.
        (characters.as_str() == "\n").then_some(value)
    }

    proptest! {
        #[test]
        fn systemd_reads_environment_values_back(value in "\\PC*|[\"\\\\`$'#; %a]*") {
            let text = format!("X={}\n", environment_value(&value));
            prop_assert_eq!(read_by_systemd(&text), Some(value));
        }
    }

    /// The reader above against systemd's own, where it is installed. This program of it expands
    /// variables, which `EnvironmentFile=` does not.
    #[test]
    fn systemd_s_own_reader_agrees() {
        let program =
            "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator";
        if !Path::new(program).exists() {
            crate::skip::skip(
                "systemd",
                "its generators are missing; tests/setup installs it",
            );
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("environment.d")).unwrap();
        let file = directory.path().join("environment.d/x.conf");
        for value in [
            "local-overlay://?root=/a'b#c;d&e=%2520f",
            "a\"b\\c`d e",
            "\\\\",
            "trailing\\",
            "ä=\u{1f600}",
        ] {
            std::fs::write(
                &file,
                format!("OVERSTORE_URL={}\n", environment_value(value)),
            )
            .unwrap();
            let output = std::process::Command::new(program)
                .env_clear()
                .env("XDG_CONFIG_HOME", directory.path())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("OVERSTORE_URL="));
            let line = line.unwrap_or_else(|| panic!("{text}"));
            // It prints what it read for a shell: quoted where that needs it.
            let found = match line.starts_with('"') {
                true => read_by_systemd(&format!("X={line}\n")).unwrap(),
                false => line.to_owned(),
            };
            assert_eq!(found, value);
        }
    }
}
