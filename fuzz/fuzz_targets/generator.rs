//! Descriptions of any name, any values and any bytes, as the generator finds them on a machine.
#![no_main]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use overstore::testing::systemd::generate;

#[derive(Debug, Arbitrary)]
struct Machine {
    stores: Vec<Store>,
}

#[derive(Debug, Arbitrary)]
struct Store {
    name: Vec<u8>,
    content: Content,
}

#[derive(Debug, Arbitrary)]
enum Content {
    /// A description with these values.
    Values([String; 7], bool),
    /// Anything.
    Bytes(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        let (values, gc) = match self {
            Content::Bytes(bytes) => return bytes.clone(),
            Content::Values(values, gc) => (values, gc),
        };
        let [real, lower, upper, workdir, log, socket, option] = values.each_ref().map(|value| {
            let escaped: String = value
                .chars()
                .map(|c| format!("\\U{:08X}", u32::from(c)))
                .collect();
            escaped
        });
        let gc = if *gc {
            "[gc]\nschedule = \"daily\"\n"
        } else {
            ""
        };
        format!(
            "real = \"/{real}\"\nlower-store = \"/{lower}?read-only=true\"\n\
             upper-layer = \"/{upper}\"\nworkdir = \"/{workdir}\"\nlog = \"/{log}\"\n\
             check-mount = false\n[daemon]\nsocket = \"/{socket}\"\n\
             [mount]\noptions = [\"{option}\"]\n{gc}"
        )
        .into_bytes()
    }
}

/// Runs the generator in a directory of its own: every line that it writes.
fn lines(stores: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<String> {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("etc/overstore");
    fs::create_dir_all(&directory).expect("a directory in it");
    for (name, content) in stores {
        let name = [&name[..], b".toml"].concat();
        // Not every name is one of a file.
        let _ = fs::write(directory.join(OsStr::from_bytes(&name)), content);
    }
    let output = root.path().join("units");
    let program = Path::new("/usr/bin/overstore");
    generate(root.path(), &output, program, None).expect("it can be written to");
    let mut lines = Vec::new();
    let mut directories = vec![output];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            match fs::symlink_metadata(&path).expect("it is there") {
                found if found.is_dir() => directories.push(path),
                found if found.is_file() => {
                    let text = fs::read_to_string(&path).expect("units are text");
                    let split = text.split(|character: char| character.is_control());
                    lines.extend(split.map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    lines
}

fn kind(line: &str) -> String {
    match line {
        _ if line.starts_with('#') => "#".to_owned(),
        _ => line
            .split_inclusive('=')
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

/// The kinds of lines that units of harmless descriptions have.
static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let words = ["r", "l", "u", "w", "g", "run/s", "index=off"];
    let harmless = |gc| Content::Values(words.map(str::to_owned), gc).bytes();
    let other = b"root = \"/m\"\nlower-store = \"/l\"\nupper-layer = \"/u2\"\nworkdir = \"/w2\"\n";
    let stores = [
        (b"a".to_vec(), harmless(true)),
        (b"b".to_vec(), other.to_vec()),
    ];
    let known: BTreeSet<_> = lines(stores.into_iter())
        .iter()
        .map(|line| kind(line))
        .collect();
    assert!(known.contains("ExecStart="), "{known:?}");
    known
});

fuzz_target!(|machine: Machine| {
    let stores = machine.stores.into_iter();
    for line in lines(stores.map(|store| (store.name, store.content.bytes()))) {
        assert!(KNOWN.contains(&kind(&line)), "{line:?}");
        let backslashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
        assert!(backslashes % 2 == 0, "{line:?} goes on in the next line");
    }
});
