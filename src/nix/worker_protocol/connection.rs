use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::escape::show_line;
use crate::nix::worker_protocol::error::DaemonError;
use crate::nix::worker_protocol::stream::{Deadline, Stream};
use crate::nix::worker_protocol::wire::{self, WireError};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;

/// The newest version we speak. A newer daemon talks down to it.
const NEWEST: (u64, u64) = (1, 38);
/// The oldest: Nix 2.1.
const OLDEST: (u64, u64) = (1, 21);

/// Longest string of the handshake and of messages, in bytes.
const LONGEST_MESSAGE: u64 = 1 << 20;
/// Most items of a list in the handshake and in messages.
const MOST_ITEMS: u64 = 1 << 16;
/// Most bytes of messages taken before an answer, so that an endless stream of
/// them ends. A real daemon sends none for what we ask.
const LONGEST_MESSAGES: u64 = 64 << 20;

/// What comes before an answer.
mod message {
    pub(super) const NEXT: u64 = 0x6f6c_6d67;
    pub(super) const READ: u64 = 0x6461_7461;
    pub(super) const WRITE: u64 = 0x6461_7416;
    pub(super) const LAST: u64 = 0x616c_7473;
    pub(super) const ERROR: u64 = 0x6378_7470;
    pub(super) const START_ACTIVITY: u64 = 0x5354_5254;
    pub(super) const STOP_ACTIVITY: u64 = 0x5354_4f50;
    pub(super) const RESULT: u64 = 0x5253_4c54;
}

/// What a daemon says of itself when it is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonInfo {
    /// Version of the worker protocol that both sides speak.
    pub protocol: (u64, u64),
    /// The daemon's version of Nix, such as `2.26.3`; told since Nix 2.7.
    pub nix_version: Option<String>,
    /// Whether the daemon trusts this user; told since Nix 2.15.
    pub trusted: Option<bool>,
}

/// Whether a Nix daemon answers on `socket`: connects, exchanges versions and
/// hangs up, all within `timeout`. Asks nothing of the daemon's store, beyond
/// the opening of it that a daemon does for every connection.
///
/// # Errors
/// The [`DaemonError`] says what is in the way: nobody listens, no permission,
/// no answer, or something that is not a daemon we can talk to.
pub fn probe(socket: &Path, timeout: Duration) -> Result<DaemonInfo, DaemonError> {
    Ok(Connection::open(socket, timeout)?.info)
}

/// What is done with a line that the daemon tells.
type OnLine<'a> = dyn FnMut(&mut Connection, &[u8]) -> Result<(), DaemonError> + 'a;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    socket: PathBuf,
    reader: BufReader<Stream>,
    writer: Stream,
    /// For the message when it has run out.
    timeout: Duration,
    /// The same of all together, and when that ends, once that is set.
    whole: Option<(Duration, Instant)>,
    /// Bytes of messages that are still taken before an answer.
    patience: u64,
    pub info: DaemonInfo,
}

impl Connection {
    /// Connects to `socket` and agrees on a version, all within `timeout`.
    pub fn open(socket: &Path, timeout: Duration) -> Result<Self, DaemonError> {
        let stream = Stream::connect(socket, Instant::now() + timeout).map_err(|source| {
            DaemonError::Connect {
                socket: socket.to_owned(),
                source,
            }
        })?;
        Self::begin(socket, stream, timeout)
    }

    /// Agrees on a version over a connection to `socket`.
    pub fn begin(socket: &Path, writer: Stream, timeout: Duration) -> Result<Self, DaemonError> {
        let reader = writer.try_clone().map_err(|source| DaemonError::Io {
            socket: socket.to_owned(),
            source,
        })?;
        let mut connection = Self {
            socket: socket.to_owned(),
            reader: BufReader::with_capacity(64 << 10, reader),
            writer,
            timeout,
            whole: None,
            patience: 0,
            info: DaemonInfo {
                protocol: NEWEST,
                nix_version: None,
                trusted: None,
            },
        };
        connection.handshake()?;
        Ok(connection)
    }

    /// From now on gives up after `idle` without a byte, after `whole` altogether, and after so many
    /// bytes.
    pub fn set_limits(&mut self, idle: Duration, whole: Duration, bytes: u64) {
        self.timeout = idle;
        let end = Instant::now() + whole;
        self.whole = Some((whole, end));
        let deadline = Deadline::Idle(idle, end);
        self.writer.set_deadline(deadline);
        self.reader.get_mut().set_deadline(deadline);
        self.reader.get_mut().set_limit(bytes);
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether reading would wait for the daemon.
    pub fn has_nothing_to_read(&self) -> bool {
        self.reader.buffer().is_empty()
    }

    fn handshake(&mut self) -> Result<(), DaemonError> {
        let mut hello = Vec::new();
        wire::write_u64(&mut hello, CLIENT_MAGIC);
        wire::write_u64(&mut hello, encode_version(NEWEST));
        self.send(&hello)?;

        let magic = self.read(wire::read_u64)?;
        if magic != DAEMON_MAGIC {
            return Err(DaemonError::NotADaemon {
                socket: self.socket.clone(),
                found: magic,
            });
        }
        let (major, minor) = decode_version(self.read(wire::read_u64)?);
        if major != NEWEST.0 || (major, minor) < OLDEST {
            return Err(DaemonError::Version {
                socket: self.socket.clone(),
                major,
                minor,
            });
        }
        self.info.protocol = NEWEST.min((major, minor));

        let mut rest = Vec::new();
        if self.speaks(38) {
            // Our features: none.
            wire::write_u64(&mut rest, 0);
        }
        // Two obsolete fields: processor affinity, and space to reserve.
        wire::write_u64(&mut rest, 0);
        wire::write_u64(&mut rest, 0);
        self.send(&rest)?;

        if self.speaks(38) {
            for _ in 0..self.read(|from| wire::read_count(from, MOST_ITEMS))? {
                self.read(|from| wire::read_bytes(from, LONGEST_MESSAGE))?;
            }
        }
        if self.speaks(33) {
            let version = self.read(|from| wire::read_bytes(from, LONGEST_MESSAGE))?;
            self.info.nix_version = Some(show_line(&version));
        }
        if self.speaks(35) {
            self.info.trusted = match self.read(wire::read_u64)? {
                1 => Some(true),
                2 => Some(false),
                _ => None,
            };
        }
        self.wait_for_answer()
    }

    /// Whether the version agreed on is at least 1.`minor`.
    fn speaks(&self, minor: u64) -> bool {
        self.info.protocol >= (1, minor)
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), DaemonError> {
        let sent = self.writer.write_all(bytes);
        sent.map_err(|error| self.explain(error.into()))
    }

    pub fn read<T>(
        &mut self,
        read: impl FnOnce(&mut BufReader<Stream>) -> Result<T, WireError>,
    ) -> Result<T, DaemonError> {
        let result = read(&mut self.reader);
        result.map_err(|error| self.explain(error))
    }

    /// Takes what the daemon tells before an answer, up to the answer.
    pub fn wait_for_answer(&mut self) -> Result<(), DaemonError> {
        self.patience = LONGEST_MESSAGES;
        self.wait_with(&mut |connection, line| connection.spend(line.len() as u64))
    }

    /// Takes what the daemon tells before an answer, up to the answer, and tells `each` of its lines.
    /// There may be any number of those: long work is told step by step.
    pub fn wait_for_answer_telling(
        &mut self,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DaemonError> {
        self.patience = LONGEST_MESSAGES;
        self.wait_with(&mut |connection, line| {
            connection.patience = LONGEST_MESSAGES;
            each(line);
            Ok(())
        })
    }

    /// Says nothing more: the other end reads the end of the conversation.
    pub fn hang_up(&self) {
        self.writer.shut_down();
    }

    fn wait_with(&mut self, each: &mut OnLine<'_>) -> Result<(), DaemonError> {
        loop {
            self.spend(8)?;
            match self.read(wire::read_u64)? {
                message::LAST => return Ok(()),
                message::NEXT => {
                    let line = self.read(|from| wire::read_bytes(from, LONGEST_MESSAGE))?;
                    each(self, &line)?;
                }
                message::START_ACTIVITY => {
                    self.skip_numbers(3)?;
                    self.skip_string()?;
                    self.skip_fields()?;
                    self.skip_numbers(1)?;
                }
                message::STOP_ACTIVITY => self.skip_numbers(1)?,
                message::RESULT => {
                    self.skip_numbers(2)?;
                    self.skip_fields()?;
                }
                message::ERROR => return Err(self.read_error()?),
                message::READ | message::WRITE => {
                    return Err(self.malformed("found a transfer of data, which was not asked for"));
                }
                other => {
                    return Err(self.malformed(format!("found an unknown message {other:#x}")));
                }
            }
        }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), DaemonError> {
        match self.patience.checked_sub(bytes) {
            Some(rest) => {
                self.patience = rest;
                Ok(())
            }
            None => Err(self.malformed("found messages without end, and no answer")),
        }
    }

    /// The error that the daemon reports. It has parts since version 1.26.
    fn read_error(&mut self) -> Result<DaemonError, DaemonError> {
        let message;
        if self.speaks(26) {
            self.skip_string()?; // type
            self.skip_numbers(1)?; // level
            self.skip_string()?; // name, obsolete
            message = self.read(|from| wire::read_bytes(from, LONGEST_MESSAGE))?;
            self.skip_numbers(1)?; // position, always absent
            for _ in 0..self.read(|from| wire::read_count(from, MOST_ITEMS))? {
                self.skip_numbers(1)?;
                self.skip_string()?;
            }
        } else {
            message = self.read(|from| wire::read_bytes(from, LONGEST_MESSAGE))?;
            self.skip_numbers(1)?; // exit status
        }
        Ok(DaemonError::Remote {
            socket: self.socket.clone(),
            message: show_line(&message),
        })
    }

    fn skip_string(&mut self) -> Result<(), DaemonError> {
        let skipped = self.read(|from| wire::read_bytes(from, LONGEST_MESSAGE))?;
        self.spend(skipped.len() as u64)
    }

    fn skip_numbers(&mut self, count: usize) -> Result<(), DaemonError> {
        (0..count).try_for_each(|_| self.read(wire::read_u64).map(drop))
    }

    fn skip_fields(&mut self) -> Result<(), DaemonError> {
        for _ in 0..self.read(|from| wire::read_count(from, MOST_ITEMS))? {
            self.spend(8)?;
            match self.read(wire::read_u64)? {
                0 => self.skip_numbers(1)?,
                1 => self.skip_string()?,
                other => {
                    return Err(self.malformed(format!("found an unknown field type {other}")));
                }
            }
        }
        Ok(())
    }

    pub fn malformed(&self, what: impl Into<String>) -> DaemonError {
        DaemonError::Malformed {
            socket: self.socket.clone(),
            what: what.into(),
        }
    }

    fn explain(&self, error: WireError) -> DaemonError {
        use std::io::ErrorKind as Kind;
        let socket = self.socket.clone();
        match error {
            WireError::Malformed(what) => DaemonError::Malformed { socket, what },
            WireError::Io(error) => match error.kind() {
                Kind::WouldBlock | Kind::TimedOut => DaemonError::Silent {
                    socket,
                    waited: match self.whole {
                        Some((whole, end)) if Instant::now() >= end => whole,
                        _ => self.timeout,
                    },
                },
                Kind::FileTooLarge => DaemonError::Malformed {
                    socket,
                    what: "found more than any store holds".to_owned(),
                },
                Kind::UnexpectedEof | Kind::BrokenPipe | Kind::ConnectionReset => {
                    DaemonError::Closed { socket }
                }
                _ => DaemonError::Io {
                    socket,
                    source: error,
                },
            },
        }
    }
}

fn encode_version((major, minor): (u64, u64)) -> u64 {
    major << 8 | minor
}

fn decode_version(version: u64) -> (u64, u64) {
    (version >> 8, version & 0xff)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    /// For what never answers.
    const SHORT: Duration = Duration::from_millis(300);
    /// For what does, on a busy machine too.
    const LONG: Duration = Duration::from_secs(60);

    /// Probes a socket whose other end does `answer` with the first connection.
    fn probe_with(
        patience: Duration,
        answer: impl FnOnce(UnixStream) + Send + 'static,
    ) -> Result<DaemonInfo, DaemonError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = thread::spawn(move || answer(listener.accept().unwrap().0));
        let result = probe(&socket, patience);
        daemon.join().unwrap();
        result
    }

    /// Takes the client's greeting: who hangs up before it was sent is not heard.
    fn hear(stream: &mut UnixStream) {
        stream.read_exact(&mut [0; 16]).unwrap();
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    #[test]
    fn nobody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let error = probe(&socket, LONG).unwrap_err();
        assert!(matches!(error, DaemonError::Connect { .. }), "{error}");
        drop(UnixListener::bind(&socket).unwrap());
        let error = probe(&socket, LONG).unwrap_err();
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }

    #[test]
    fn silence_ends() {
        let error = probe_with(SHORT, |mut stream| {
            // Until the client has hung up.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert!(
            matches!(error, Err(DaemonError::Silent { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn a_trickle_of_bytes_ends() {
        let error = probe_with(SHORT, |mut stream| {
            for byte in numbers(&[DAEMON_MAGIC; 100]) {
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(SHORT / 10);
            }
        });
        // Not refused for its version, which the second number would be, had each byte its own time.
        assert!(
            matches!(error, Err(DaemonError::Silent { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn hanging_up_is_told() {
        let error = probe_with(LONG, drop);
        assert!(
            matches!(error, Err(DaemonError::Closed { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn another_protocol_is_told() {
        let error = probe_with(LONG, |mut stream| {
            hear(&mut stream);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
        });
        assert!(
            matches!(error, Err(DaemonError::NotADaemon { .. })),
            "{error:?}"
        );
    }

    /// What a daemon says of itself cannot act on a terminal, nor begin a line of its own.
    #[test]
    fn a_hostile_message_stays_in_its_line() {
        let error = probe_with(LONG, |mut stream| {
            hear(&mut stream);
            let said = "error: \u{1b}[31mno\u{1b}[0m \u{202e}kcab\r\n       \u{7}really\n\nerror: \u{200b}x";
            let mut answer =
                numbers(&[DAEMON_MAGIC, 1 << 8 | 21, message::ERROR, said.len() as u64]);
            answer.extend_from_slice(said.as_bytes());
            answer.resize(answer.len().next_multiple_of(8), 0);
            answer.extend(numbers(&[1]));
            stream.write_all(&answer).unwrap();
            // Until the client has read it.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = error.unwrap_err();
        let DaemonError::Remote { message, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(message, r"error: no \u{202e}kcab really error: \u{200b}x");
    }

    #[test]
    fn an_old_daemon_is_told() {
        let error = probe_with(LONG, |mut stream| {
            hear(&mut stream);
            stream
                .write_all(&numbers(&[DAEMON_MAGIC, 1 << 8 | 14]))
                .unwrap();
        });
        assert!(
            matches!(
                error,
                Err(DaemonError::Version {
                    major: 1,
                    minor: 14,
                    ..
                })
            ),
            "{error:?}"
        );
    }

    #[test]
    fn versions_and_features_are_agreed_on() {
        let info = probe_with(LONG, |mut stream| {
            let mut hello = [0; 16];
            stream.read_exact(&mut hello).unwrap();
            assert_eq!(hello[..], numbers(&[CLIENT_MAGIC, 1 << 8 | 38]));
            stream
                .write_all(&numbers(&[DAEMON_MAGIC, 1 << 8 | 39]))
                .unwrap();
            let mut rest = [0; 24];
            stream.read_exact(&mut rest).unwrap();
            // One feature, the daemon's version, not trusted, the end.
            let mut answer = numbers(&[1, 3]);
            answer.extend_from_slice(b"abc\0\0\0\0\0");
            answer.extend(numbers(&[6]));
            answer.extend_from_slice(b"2.36.0\0\0");
            answer.extend(numbers(&[2, message::LAST]));
            stream.write_all(&answer).unwrap();
        });
        assert_eq!(
            info.unwrap(),
            DaemonInfo {
                protocol: (1, 38),
                nix_version: Some("2.36.0".to_owned()),
                trusted: Some(false)
            }
        );
    }

    #[test]
    fn a_refusal_is_told_without_its_colours() {
        let error = probe_with(LONG, |mut stream| {
            let mut answer = numbers(&[DAEMON_MAGIC, 1 << 8 | 30, message::ERROR]);
            answer.extend(numbers(&[5]));
            answer.extend_from_slice(b"Error\0\0\0");
            answer.extend(numbers(&[0, 5]));
            answer.extend_from_slice(b"Error\0\0\0");
            answer.extend(numbers(&[6]));
            answer.extend_from_slice(b"go\x1b[mx\0\0");
            answer.extend(numbers(&[0, 0]));
            stream.write_all(&answer).unwrap();
            // Hanging up before the client has sent its part would be an error of its own.
            stream.read_exact(&mut [0; 32]).unwrap();
        });
        let Err(DaemonError::Remote { message, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(message, "gox");
    }

    #[test]
    fn messages_without_end_end() {
        for message in [
            numbers(&[message::NEXT, 1 << 16]),
            numbers(&[message::RESULT, 1, 2, 1 << 12]),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("socket");
            let listener = UnixListener::bind(&socket).unwrap();
            let daemon = thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                stream
                    .write_all(&numbers(&[DAEMON_MAGIC, 1 << 8 | 30]))
                    .unwrap();
                // A string, or fields that are the number 0.
                let message = [message, vec![0; 1 << 16]].concat();
                while stream.write_all(&message).is_ok() {}
            });
            let error = probe(&socket, LONG).unwrap_err();
            assert!(error.to_string().contains("without end"), "{error}");
            daemon.join().unwrap();
        }
    }

    #[test]
    fn a_long_socket_path_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let short = directory.path().join("socket");
        let listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, deep.join("socket")).unwrap();
        let daemon = thread::spawn(move || drop(listener.accept().unwrap()));
        let error = probe(&deep.join("socket"), LONG).unwrap_err();
        assert!(matches!(error, DaemonError::Closed { .. }), "{error}");
        daemon.join().unwrap();
    }
}
