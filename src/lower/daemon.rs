use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use crate::escape::quote;
use crate::escape::show_path;
use crate::lower::{LowerError, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::path_info::RawPathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::nix::worker_protocol::connection::Connection;
use crate::nix::worker_protocol::{DaemonError, wire};

/// The questions we ask, by their numbers in the protocol.
mod operation {
    pub(super) const QUERY_ALL_VALID_PATHS: u64 = 23;
    pub(super) const QUERY_PATH_INFO: u64 = 26;
}

/// How long the connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a daemon may be silent when it was asked something.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long all that it is asked may take: a million paths take two minutes.
const CONVERSATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Most bytes that it may answer with: those of a million paths are about 1 GiB.
const MOST_BYTES: u64 = 4 << 30;

/// Questions under way at once. Enough to keep the daemon busy; few enough that all of them fit
/// into the socket's buffer: were we to wait for room in it while the daemon waits for us to read,
/// both would wait for ever.
const WINDOW: usize = 256;
/// Questions are sent when this many bytes are together, or when there is nothing else to do.
const SEND_AT: usize = 8 << 10;

/// Longest string in an answer, in bytes. A store path has at most 250 after the store directory.
const LONGEST_STRING: u64 = 4 << 10;
/// Most references of one path.
const MOST_REFERENCES: u64 = 1 << 16;
/// Most signatures of one path.
const MOST_SIGNATURES: u64 = 1 << 8;
/// Most valid paths of a store.
const MOST_PATHS: u64 = 1 << 32;

/// A daemon's store as a source.
///
/// Each answer is of the moment in which the daemon gave it: in a store that only grows they all
/// belong together.
#[derive(Debug)]
pub struct DaemonSource {
    connection: Connection,
    store: StoreDirectory,
    asked: VecDeque<StorePath>,
    unsent: Vec<u8>,
}

impl DaemonSource {
    /// Connects to the daemon behind `socket`.
    ///
    /// # Errors
    /// When nobody answers there, or something that is not a daemon we can talk to.
    pub fn open(socket: &Path, store: StoreDirectory) -> Result<Self, LowerError> {
        let mut connection = Connection::open(socket, CONNECT_TIMEOUT)?;
        connection.set_limits(ANSWER_TIMEOUT, CONVERSATION_TIMEOUT, MOST_BYTES);
        Ok(Self::new(connection, store))
    }

    /// The same, with one time limit for everything that is asked of it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(
        socket: &Path,
        store: StoreDirectory,
        timeout: Duration,
    ) -> Result<Self, LowerError> {
        Ok(Self::new(Connection::open(socket, timeout)?, store))
    }

    pub fn new(connection: Connection, store: StoreDirectory) -> Self {
        Self {
            connection,
            store,
            asked: VecDeque::new(),
            unsent: Vec::new(),
        }
    }

    fn send(&mut self) -> Result<(), DaemonError> {
        self.connection.send(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    fn read_string(&mut self) -> Result<Vec<u8>, DaemonError> {
        self.connection
            .read(|from| wire::read_bytes(from, LONGEST_STRING))
    }

    fn read_number(&mut self) -> Result<i64, DaemonError> {
        let number = self.connection.read(wire::read_u64)?;
        i64::try_from(number).map_err(|_| {
            self.connection
                .malformed(format!("found the huge number {number}"))
        })
    }

    fn read_path(&mut self) -> Result<StorePath, DaemonError> {
        let path = self.read_string()?;
        self.store
            .parse(&path)
            .map_err(|what| self.connection.malformed(what))
    }

    fn read_info(&mut self, path: &StorePath) -> Result<PathInfo, LowerError> {
        let deriver = self.read_string()?;
        let mut nar_hash = self.read_string()?;
        if !nar_hash.iter().any(|byte| b":-".contains(byte)) {
            nar_hash.splice(..0, *b"sha256:");
        }
        let count = self
            .connection
            .read(|from| wire::read_count(from, MOST_REFERENCES))?;
        let mut references = Vec::new();
        for _ in 0..count {
            references.push(self.read_path()?);
        }
        references.sort();
        references.dedup();
        let registration_time = self.read_number()?;
        let nar_size = self.read_number()?;
        let ultimate = self.read_number()? != 0;
        let count = self
            .connection
            .read(|from| wire::read_count(from, MOST_SIGNATURES))?;
        let mut signatures = Vec::new();
        for _ in 0..count {
            signatures.extend(self.read_string()?);
            signatures.push(b' ');
        }
        let content_address = self.read_string()?;
        let raw = RawPathInfo {
            nar_hash: &nar_hash,
            registration_time,
            deriver: &deriver,
            nar_size,
            ultimate,
            signatures: &signatures,
            content_address: &content_address,
        };
        match raw.normalize(&self.store) {
            Ok(info) => Ok(PathInfo { references, ..info }),
            Err(what) => Err(LowerError::Row {
                origin: quote(show_path(self.connection.socket()).as_bytes()),
                path: path.clone(),
                what,
            }),
        }
    }
}

impl Source for DaemonSource {
    fn ask(&mut self, path: &StorePath) -> Result<(), LowerError> {
        wire::write_u64(&mut self.unsent, operation::QUERY_PATH_INFO);
        wire::write_bytes(&mut self.unsent, &self.store.print(path));
        self.asked.push_back(path.clone());
        if self.unsent.len() >= SEND_AT {
            self.send()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Option<PathInfo>, LowerError> {
        let Some(path) = self.asked.pop_front() else {
            return Ok(None);
        };
        if !self.unsent.is_empty() && self.connection.has_nothing_to_read() {
            self.send()?;
        }
        self.connection.wait_for_answer()?;
        match self.connection.read(wire::read_u64)? {
            0 => Ok(None),
            _ => self.read_info(&path).map(Some),
        }
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn all_paths(
        &mut self,
        each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        wire::write_u64(&mut self.unsent, operation::QUERY_ALL_VALID_PATHS);
        self.send()?;
        self.connection.wait_for_answer()?;
        for _ in 0..self
            .connection
            .read(|from| wire::read_count(from, MOST_PATHS))?
        {
            each(self.read_path()?)?;
        }
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), LowerError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::nix::worker_protocol::stream::{Deadline, Stream};

    const NAME: &str = "7rjhx2kv5z0d4a1l6m9ysbcp3fgiqnw8-a";

    /// What a daemon says: to the handshake, to `QueryPathInfo` (with an activity before the
    /// answer), and to `QueryAllValidPaths`.
    fn conversation() -> Vec<u8> {
        const LAST: u64 = 0x616c_7473;
        let mut said = Vec::new();
        let path = format!("/nix/store/{NAME}");
        for number in [0x6478_696f, 0x126, 0] {
            wire::write_u64(&mut said, number);
        }
        wire::write_bytes(&mut said, b"2.26.3");
        for number in [1, LAST, 0x5354_5254, 7, 3, 100] {
            wire::write_u64(&mut said, number);
        }
        wire::write_bytes(&mut said, b"querying");
        for number in [2, 0, 5, 1] {
            wire::write_u64(&mut said, number);
        }
        wire::write_bytes(&mut said, b"field");
        for number in [0, 0x5354_4f50, 7, LAST, 1] {
            wire::write_u64(&mut said, number);
        }
        wire::write_bytes(&mut said, b"");
        wire::write_bytes(&mut said, "0f".repeat(32).as_bytes());
        wire::write_u64(&mut said, 1);
        wire::write_bytes(&mut said, path.as_bytes());
        for number in [1_700_000_000, 120, 0, 1] {
            wire::write_u64(&mut said, number);
        }
        wire::write_bytes(&mut said, b"key-1:AAAA");
        wire::write_bytes(&mut said, b"");
        for number in [LAST, 1] {
            wire::write_u64(&mut said, number);
        }
        wire::write_bytes(&mut said, path.as_bytes());
        said
    }

    /// Talks to somebody who says `said` whatever is asked, and hangs up.
    fn talk(said: &[u8]) -> Result<(PathInfo, Vec<StorePath>), LowerError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let timeout = Duration::from_secs(5);
        let stream = Stream::new(ours, Deadline::Total(Instant::now() + timeout));
        let connection = Connection::begin(Path::new("socket"), stream, timeout)?;
        let mut source = DaemonSource::new(connection, StoreDirectory::new(b"/nix/store"));
        let path = StorePath::parse(NAME.as_bytes()).unwrap();
        source.ask(&path)?;
        let info = source.answer()?;
        let mut paths = Vec::new();
        source.all_paths(&mut |path| {
            paths.push(path);
            Ok(())
        })?;
        let absent = DaemonError::Malformed {
            socket: "socket".into(),
            what: "absent".to_owned(),
        };
        Ok((info.ok_or(absent)?, paths))
    }

    #[test]
    fn a_whole_conversation_is_understood() {
        let (info, paths) = talk(&conversation()).unwrap();
        assert_eq!(info.nar_hash, [15; 32]);
        assert_eq!(info.references, paths);
        assert_eq!(info.signatures, "key-1:AAAA");
        assert_eq!(paths[0].as_str(), NAME);
    }

    proptest! {
        /// Whatever is changed in it, the end is an answer or an error.
        #[test]
        fn a_changed_conversation_does_no_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            words in prop::collection::vec(
                (any::<prop::sample::Index>(), prop_oneof![any::<u64>(), 0..300_u64]), 0..3),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut said = conversation();
            for (index, byte) in changes {
                let at = index.index(said.len());
                said[at] = byte;
            }
            for (index, word) in words {
                let at = index.index(said.len() / 8) * 8;
                said[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            if !whole {
                said.truncate(cut.index(said.len()));
            }
            if let Ok((info, paths)) = talk(&said) {
                for path in info.references.iter().chain(&paths) {
                    prop_assert!(!path.as_str().contains('/'));
                }
            }
        }

        #[test]
        fn any_bytes_do_no_harm(said: Vec<u8>) {
            prop_assert!(talk(&said).is_err());
        }
    }
}
