//! A daemon that says anything at all.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use overstore::testing::lower::DaemonSource;
use overstore::testing::lower::{LowerError, Source};
use overstore::testing::nix::StoreDirectory;
use overstore::testing::nix::StorePath;
use overstore::testing::nix::probe;
use overstore_fuzz::{NAMES, path};

#[derive(Debug, Arbitrary)]
struct Said {
    /// Whether it begins with a greeting that is right.
    greets: bool,
    minor: u8,
    words: Vec<Word>,
}

#[derive(Debug, Arbitrary)]
enum Word {
    Number(u64),
    Small(u8),
    Message(u8),
    String(Vec<u8>),
    Path(u8),
    Hash,
    Raw(Vec<u8>),
}

impl Said {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.greets {
            let minor = 21 + u64::from(self.minor % 20);
            number(&mut bytes, 0x6478_696f);
            number(&mut bytes, 1 << 8 | minor);
            if minor >= 38 {
                number(&mut bytes, 0);
            }
            if minor >= 33 {
                string(&mut bytes, b"2.34.8");
            }
            if minor >= 35 {
                number(&mut bytes, 1);
            }
            number(&mut bytes, 0x616c_7473);
        }
        for word in &self.words {
            match word {
                Word::Number(value) => number(&mut bytes, *value),
                Word::Small(value) => number(&mut bytes, (*value).into()),
                Word::Message(which) => {
                    let messages = [
                        0x616c_7473,
                        0x6f6c_6d67,
                        0x6461_7461,
                        0x6461_7416,
                        0x6378_7470,
                        0x5354_5254,
                        0x5354_4f50,
                        0x5253_4c54,
                    ];
                    number(&mut bytes, messages[usize::from(which % 8)]);
                }
                Word::String(text) => string(&mut bytes, text),
                Word::Path(index) => string(&mut bytes, path(*index).as_bytes()),
                Word::Hash => string(&mut bytes, "0f".repeat(32).as_bytes()),
                Word::Raw(raw) => bytes.extend(raw),
            }
        }
        bytes
    }
}

fn number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_le_bytes());
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    number(bytes, text.len() as u64);
    bytes.extend(text);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The daemon's socket, and what it says to the next connections.
struct Daemon {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    says: Sender<Vec<u8>>,
}

static DAEMON: LazyLock<Daemon> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let (says, said) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for said in said {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.write_all(&said);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    Daemon {
        _directory: directory,
        socket,
        says,
    }
});

fn talk() -> Result<(), LowerError> {
    let store = StoreDirectory::new(b"/nix/store");
    let mut source = DaemonSource::open(&DAEMON.socket, store)?;
    for name in NAMES {
        source.ask(&StorePath::parse(name.as_bytes()).expect("a store path"))?;
    }
    for _ in NAMES {
        source.answer()?;
    }
    source.all_paths(&mut |path| {
        assert!(!path.as_str().contains('/'));
        Ok(())
    })
}

fuzz_target!(|said: Said| {
    let bytes = said.bytes();
    DAEMON.says.send(bytes.clone()).expect("the daemon runs");
    if let Err(error) = talk() {
        assert!(!error.to_string().contains('\x1b'));
    }
    DAEMON.says.send(bytes).expect("the daemon runs");
    let _ = probe(&DAEMON.socket, Duration::from_secs(5));
});
