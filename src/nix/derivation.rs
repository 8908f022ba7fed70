//! Derivations: the outputs that a `.drv` file names.

use super::store_directory::StoreDirectory;
use super::store_path::StorePath;

/// The outputs at the beginning of a derivation: `Derive([("out","/nix/store/...","",""),...],`.
///
/// A derivation whose outputs are addressed by a content not yet known, or that depends on one, has
/// no paths there, and Nix then registers none. The path of an output of a fixed content is
/// written there too; Nix computes it again and comes to the same.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn parse_outputs(
    text: &[u8],
    store: &StoreDirectory,
) -> Result<Vec<(String, StorePath)>, String> {
    let mut reader = Reader { text };
    if !reader.skip(b"Derive(") {
        if !reader.skip(b"DrvWithVersion(") {
            return Err("expected 'Derive(' at its beginning".to_owned());
        }
        reader.string()?;
        reader.expect(b",")?;
    }
    reader.expect(b"[")?;
    let mut outputs = Vec::new();
    while !reader.skip(b"]") {
        if !outputs.is_empty() || reader.text.starts_with(b",") {
            reader.expect(b",")?;
        }
        reader.expect(b"(")?;
        let name = reader.string()?;
        reader.expect(b",")?;
        let path = reader.string()?;
        reader.expect(b",")?;
        reader.string()?;
        reader.expect(b",")?;
        reader.string()?;
        reader.expect(b")")?;
        let name = String::from_utf8(name).map_err(|_| "an output's name is no text".to_owned())?;
        outputs.push((name, path));
    }
    outputs
        .into_iter()
        .filter(|(_, path)| !path.is_empty())
        .map(|(name, path)| Ok((name, store.parse(&path)?)))
        .collect()
}

/// Nix's ATerm: strings in quotes, with C-like escapes.
struct Reader<'a> {
    text: &'a [u8],
}

impl Reader<'_> {
    fn skip(&mut self, token: &[u8]) -> bool {
        match self.text.strip_prefix(token) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &[u8]) -> Result<(), String> {
        if self.skip(token) {
            Ok(())
        } else {
            Err(format!("expected '{}'", String::from_utf8_lossy(token)))
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, String> {
        self.expect(b"\"")?;
        let mut string = Vec::new();
        loop {
            let (&byte, rest) = self.text.split_first().ok_or("it ends within a string")?;
            self.text = rest;
            match byte {
                b'"' => return Ok(string),
                b'\\' => {
                    let (&escaped, rest) =
                        self.text.split_first().ok_or("it ends within a string")?;
                    self.text = rest;
                    string.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => other,
                    });
                }
                other => string.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "/nix/store/7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a";

    fn outputs(text: &str) -> Result<Vec<(String, String)>, String> {
        let outputs = parse_outputs(text.as_bytes(), &StoreDirectory::new(b"/nix/store"))?;
        Ok(outputs
            .into_iter()
            .map(|(name, path)| (name, format!("/nix/store/{path}")))
            .collect())
    }

    #[test]
    fn outputs_are_read() {
        let two = [
            ("dev".to_owned(), A.to_owned()),
            ("out".to_owned(), format!("{A}b")),
        ];
        for begin in ["Derive([", "DrvWithVersion(\"xp-dyn-drv\",["] {
            let text = format!(
                "{begin}(\"dev\",\"{A}\",\"\",\"\"),(\"out\",\"{A}b\",\"r:sha256\",\"00\")],[],"
            );
            assert_eq!(outputs(&text).unwrap(), two);
        }
        assert_eq!(
            outputs("Derive([(\"out\",\"\",\"r:sha256\",\"\")],").unwrap(),
            []
        );
    }

    #[test]
    fn what_is_no_derivation_is_told() {
        for text in [
            "",
            "Derive(",
            "Derive([(\"out",
            "Derive([(\"out\",\"/etc/passwd\",\"\",\"\")],",
            "Derive([(\"out\" \"\",\"\",\"\")],",
        ] {
            assert!(outputs(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in r#"(Derive\(\[)?[(),\[\]"\\a]*"#) {
            let _ = outputs(&text);
        }
    }
}
