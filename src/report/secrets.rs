//! What a text must not tell strangers: passwords and tokens in URLs and settings.

/// What stands in place of a secret.
pub(crate) const MASK: &str = "***";

/// Words in a name whose value is a secret.
const SECRET: [&str; 11] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "credential",
    "api-key",
    "api_key",
    "apikey",
    "private-key",
    "authorization",
];

/// A text with a mask for the user and the password of each URL, and for each value whose name says
/// that it is secret. URLs inside of URLs are seen, too, however often they are encoded. What only looks
/// like a secret is masked as well.
pub(crate) fn masked(text: &str) -> String {
    let lines = text.split('\n').map(|line| values(&users(line)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Without what is between `://` and `@`.
fn users(line: &str) -> String {
    let bytes = line.as_bytes();
    let mut kept = String::with_capacity(line.len());
    let (mut at, mut from) = (0, 0);
    while at < bytes.len() {
        let Some(begin) = authority(bytes, at) else {
            at += 1;
            continue;
        };
        if let Some(end) = last_at_sign(bytes, begin) {
            kept += &line[from..begin];
            kept += MASK;
            from = end;
        }
        at = begin;
    }
    kept + &line[from..]
}

/// Where the authority of a URL begins, if its colon and slashes are at this place.
fn authority(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    for byte in b"://" {
        end += encoded(&bytes[end..], *byte)?;
    }
    Some(end)
}

/// The last `@` of an authority, which a password that was not encoded can have, too.
fn last_at_sign(bytes: &[u8], begin: usize) -> Option<usize> {
    let (mut at, mut found) = (begin, None);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let ends = |byte: &u8| encoded(rest, *byte).is_some();
        if rest[0].is_ascii_whitespace() || b"/?#&\"'<>`".iter().any(ends) {
            break;
        }
        match encoded(rest, b'@') {
            Some(length) => {
                found = Some(at);
                at += length;
            }
            None => at += 1,
        }
    }
    found
}

/// How long the text begins with a byte takes up that is written as it is, or encoded any number of
/// times: `:`, `%3A`, `%253a`.
fn encoded(text: &[u8], byte: u8) -> Option<usize> {
    if text.first() == Some(&byte) {
        return Some(1);
    }
    let mut rest = text.strip_prefix(b"%")?;
    while let Some(inner) = rest.strip_prefix(b"25") {
        rest = inner;
    }
    let digits = format!("{byte:02x}");
    rest.get(..2)?
        .eq_ignore_ascii_case(digits.as_bytes())
        .then(|| text.len() - rest.len() + 2)
}

/// Without the values that have a secret's name.
fn values(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut kept = String::with_capacity(line.len());
    let mut from = 0;
    while let Some(name) = next_name(&lower, from) {
        match value(line, name) {
            Some((begin, end)) => {
                kept += &line[from..begin];
                kept += MASK;
                from = end;
            }
            None => {
                kept += &line[from..name];
                from = name;
            }
        }
    }
    kept + &line[from..]
}

/// Where the next name of a secret ends.
fn next_name(lower: &str, from: usize) -> Option<usize> {
    let found = SECRET.iter().filter_map(|word| {
        let begin = lower[from..].find(word)? + from;
        Some((begin, begin + word.len()))
    });
    let (_, mut end) = found.min()?;
    let is_of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    while lower.as_bytes().get(end).is_some_and(is_of_a_name) {
        end += 1;
    }
    Some(end)
}

/// The place of the value of a name that ends here, if it has one: `name=value`, `name = value`,
/// `name: value`, `"name": "value"`, `--name value`.
fn value(line: &str, name: usize) -> Option<(usize, usize)> {
    let bytes = line.as_bytes();
    let spaces = |from: usize| bytes[from..].iter().take_while(|it| **it == b' ').count();
    let quote = usize::from(matches!(bytes.get(name), Some(b'"' | b'\'')));
    let before = name + quote + spaces(name + quote);
    let separator = encoded(&bytes[before..], b'=').or_else(|| encoded(&bytes[before..], b':'));
    let word = line[..name].rfind(' ').map_or(0, |space| space + 1);
    let is_option = separator.is_none() && line[word..name].starts_with("--");
    let after = before + separator.unwrap_or(0);
    if (separator.is_none() && !is_option) || after >= bytes.len() {
        return None;
    }
    let begin = after + spaces(after);
    let is_alone = begin > after && !is_option;
    if let Some(quote @ (b'"' | b'\'')) = bytes.get(begin) {
        let length = bytes[begin + 1..].iter().position(|it| it == quote);
        let end = length.map_or(bytes.len(), |length| begin + 1 + length);
        return Some((begin + 1, end));
    }
    // A value that stands alone goes on to the end of the line: it can be several words.
    let ends = |at: &usize| {
        let ends = |byte: &u8| encoded(&bytes[*at..], *byte).is_some();
        bytes[*at] == b'"' || b"&'".iter().any(ends) || (bytes[*at] == b' ' && !is_alone)
    };
    let end = (begin..bytes.len()).find(ends).unwrap_or(bytes.len());
    (end > begin).then_some((begin, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn users_of_urls_are_masked_however_deep() {
        for (text, shown) in [
            ("ssh-ng://nix:pw@builder", "ssh-ng://***@builder"),
            ("a://u:p@rt@h/x@y b://c", "a://***@h/x@y b://c"),
            ("https://cache.example/a@b", "https://cache.example/a@b"),
            (
                "local-overlay://?lower-store=mounted-ssh-ng%3A%2F%2Fnix%3apw%40builder%3Freal=/x",
                "local-overlay://?lower-store=mounted-ssh-ng%3A%2F%2F***%40builder%3Freal=/x",
            ),
            ("x%253A%252f%252Fu%2540h", "x%253A%252f%252F***%2540h"),
            ("no://\"user@host", "no://\"user@host"),
            ("größe://ü:pw@h", "größe://***@h"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn values_with_the_name_of_a_secret_are_masked() {
        for (text, shown) in [
            (
                "access-tokens = github.com=a gitlab.com=b",
                "access-tokens = ***",
            ),
            (
                "s3://b?profile=x&secret-key=a&y=z",
                "s3://b?profile=x&secret-key=***&y=z",
            ),
            (
                "s3://b%3Fsecret%3Da%26y%3Dz",
                "s3://b%3Fsecret%3D***%26y%3Dz",
            ),
            ("Authorization: Bearer a b", "Authorization: ***"),
            (
                "{\"password\": \"a b\", \"x\": 1}",
                "{\"password\": \"***\", \"x\": 1}",
            ),
            ("nix --access-token abc --x", "nix --access-token *** --x"),
            ("TOKEN=a PASSWD=b next", "TOKEN=*** PASSWD=*** next"),
            ("token = 'a b' # c", "token = '***' # c"),
            ("no password", "no password"),
            ("a token that expired", "a token that expired"),
            ("password=", "password="),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn lines_stay() {
        let text = "a\nhttps://u@h\n\ntoken=x\n";
        assert_eq!(masked(text), "a\nhttps://***@h\n\ntoken=***\n");
    }

    proptest! {
        /// Whatever is around it, and as often as it is encoded.
        #[test]
        fn a_password_never_shows(before in "\\PC{0,20}", after in "\\PC{0,20}", depth in 0_usize..3) {
            let percent = format!("%{}", "25".repeat(depth));
            let url = match depth {
                0 => "ssh://nix:hunter2@host".to_owned(),
                _ => ["ssh", "3A", "2F", "2Fnix", "3Ahunter2", "40host"].join(&percent),
            };
            let shown = masked(&format!("{before} {url} {after}"));
            prop_assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
