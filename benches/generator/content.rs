//! How Nix hashes, names and writes down what it makes: enough of it for derivations that Nix
//! accepts. From Nix's manual, "Store path specification" and "Derivation", and its source
//! (`path.cc`, `derivations.cc`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::STORE;

pub type Hash = [u8; 32];

pub fn sha256(bytes: impl AsRef<[u8]>) -> Hash {
    Sha256::digest(bytes.as_ref()).into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Nix's base 32: the least significant bits last, digits without `e`, `o`, `t` and `u`.
pub fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let length = (bytes.len() * 8).div_ceil(5);
    (0..length)
        .rev()
        .map(|digit| {
            let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
            let high = bytes.get(byte + 1).copied().unwrap_or_default();
            let pair = u16::from_le_bytes([bytes[byte], high]);
            char::from(DIGITS[usize::from(pair >> shift & 31)])
        })
        .collect()
}

/// The base name of a store path: a fingerprint of what kind of object it is, folded to 160 bits.
pub fn base_name(kind: &str, hash: &Hash, name: &str) -> String {
    let fingerprint = sha256(format!("{kind}:sha256:{}:{STORE}:{name}", hex(hash)));
    let mut folded = [0; 20];
    for (position, byte) in fingerprint.iter().enumerate() {
        folded[position % 20] ^= byte;
    }
    format!("{}-{name}", base32(&folded))
}

/// The base name of an object that is addressed by its NAR hash and refers to nothing.
pub fn source_name(nar_hash: &Hash, name: &str) -> String {
    base_name("source", nar_hash, name)
}

/// Its content address as the database has it.
pub fn source_address(nar_hash: &Hash) -> String {
    format!("fixed:r:sha256:{}", base32(nar_hash))
}

/// The NAR of a file that is not executable: its hash and its size in bytes.
pub fn nar_of_file(content: &str) -> (Hash, u64) {
    let mut nar = Vec::new();
    for token in [
        "nix-archive-1",
        "(",
        "type",
        "regular",
        "contents",
        content,
        ")",
    ] {
        nar.extend((token.len() as u64).to_le_bytes());
        nar.extend(token.as_bytes());
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    (sha256(&nar), nar.len() as u64)
}

/// A derivation before its output paths are known.
#[derive(Default)]
pub struct Derivation {
    /// Without `.drv`.
    pub name: String,
    pub outputs: &'static [&'static str],
    /// The NAR hash of the only output, if it is fixed.
    pub fixed: Option<Hash>,
    /// The derivations that it needs: by base name, what it stands for in hashes and the outputs.
    pub inputs: BTreeMap<String, (Hash, BTreeSet<&'static str>)>,
    /// Base names of the other objects that it needs.
    pub sources: BTreeSet<String>,
}

/// A derivation with everything that follows from its inputs.
pub struct Instantiated {
    pub base_name: String,
    pub content: String,
    pub content_address: String,
    /// The base names of its outputs, in the order of [`Derivation::outputs`].
    pub outputs: Vec<String>,
    /// What it stands for in the hashes of derivations that need it.
    pub modulo: Hash,
}

impl Derivation {
    pub fn instantiate(&self) -> Instantiated {
        let (modulo, outputs) = match &self.fixed {
            Some(hash) => {
                let output = source_name(hash, &self.name);
                let text = format!("fixed:out:r:sha256:{}:{STORE}/{output}", hex(hash));
                (sha256(text), vec![output])
            }
            None => {
                let inputs = self
                    .inputs
                    .values()
                    .map(|(modulo, outputs)| (hex(modulo), outputs))
                    .collect();
                let hash = sha256(self.text(&inputs, None));
                let outputs: Vec<_> = self
                    .outputs
                    .iter()
                    .map(|output| {
                        let name = output_name(&self.name, output);
                        base_name(&format!("output:{output}"), &hash, &name)
                    })
                    .collect();
                (sha256(self.text(&inputs, Some(&outputs))), outputs)
            }
        };
        let inputs = self
            .inputs
            .iter()
            .map(|(base_name, (_, outputs))| (format!("{STORE}/{base_name}"), outputs))
            .collect();
        let content = self.text(&inputs, Some(&outputs));
        let hash = sha256(&content);
        let references: BTreeSet<_> = self.inputs.keys().chain(&self.sources).collect();
        let kind = references
            .iter()
            .fold(String::from("text"), |mut kind, reference| {
                let _ = write!(kind, ":{STORE}/{reference}");
                kind
            });
        Instantiated {
            base_name: base_name(&kind, &hash, &format!("{}.drv", self.name)),
            content_address: format!("text:sha256:{}", base32(&hash)),
            content,
            outputs,
            modulo,
        }
    }

    /// The file's text; without `paths` the one that is hashed to get them.
    fn text(
        &self,
        inputs: &BTreeMap<String, &BTreeSet<&'static str>>,
        paths: Option<&[String]>,
    ) -> String {
        let outputs: BTreeMap<_, _> = self
            .outputs
            .iter()
            .enumerate()
            .map(|(position, output)| {
                let path = paths.map(|paths| format!("{STORE}/{}", paths[position]));
                (*output, path.unwrap_or_default())
            })
            .collect();
        let (algorithm, hash) = match &self.fixed {
            Some(hash) => ("r:sha256", hex(hash)),
            None => ("", String::new()),
        };
        let described = outputs
            .iter()
            .map(|(name, path)| format!("({name:?},{path:?},{algorithm:?},{hash:?})"));
        let inputs = inputs
            .iter()
            .map(|(input, outputs)| format!("({input:?},{})", strings(outputs.iter())));
        let sources = self
            .sources
            .iter()
            .map(|source| format!("{STORE}/{source}"));
        let mut environment = BTreeMap::from([
            ("builder", "/bin/sh".to_owned()),
            ("name", self.name.clone()),
            ("outputs", self.outputs.join(" ")),
            ("system", "x86_64-linux".to_owned()),
        ]);
        environment.extend(outputs.clone());
        let environment = environment
            .iter()
            .map(|(name, value)| format!("({name:?},{value:?})"));
        format!(
            "Derive({},{},{},\"x86_64-linux\",\"/bin/sh\",[\"-e\"],{})",
            list(described),
            list(inputs),
            strings(sources),
            list(environment)
        )
    }
}

/// The name of the object that is an output of a derivation.
pub fn output_name(derivation: &str, output: &str) -> String {
    if output == "out" {
        derivation.to_owned()
    } else {
        format!("{derivation}-{output}")
    }
}

/// None of the strings has a character that would have to be escaped.
fn strings<T: AsRef<str>>(items: impl Iterator<Item = T>) -> String {
    list(items.map(|item| format!("{:?}", item.as_ref())))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}
