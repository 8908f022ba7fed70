use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Most bytes of a socket's path that fit into an address.
const LONGEST_ADDRESS: usize = 107;

/// A stream socket whose reads and writes do not wait for ever.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    deadline: Deadline,
    /// How many more bytes are read.
    left: u64,
}

/// When a read or a write has taken too long.
#[derive(Debug, Clone, Copy)]
pub enum Deadline {
    /// All of them together, by this moment.
    Total(Instant),
    /// Each of them, after this long without a byte, and all of them together, by this moment.
    Idle(Duration, Instant),
}

impl Stream {
    /// Connects; a full queue of waiting connections is waited for until `deadline`.
    pub fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        // Kept open until the connection is made: the address goes through it.
        let (_parent, address) = address(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(false)?;
        Ok(Self::new(socket, Deadline::Total(deadline)))
    }

    pub fn new(socket: UnixStream, deadline: Deadline) -> Self {
        Self {
            socket,
            deadline,
            left: u64::MAX,
        }
    }

    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Reads no more than so many bytes from now on.
    pub fn set_limit(&mut self, bytes: u64) {
        self.left = bytes;
    }

    /// Ends the conversation from this side, on every handle.
    pub fn shut_down(&self) {
        // It may have ended already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// A second handle on the same connection, with the same deadline.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            deadline: self.deadline,
            left: self.left,
        })
    }

    fn remaining(&self) -> io::Result<Duration> {
        let remaining = match self.deadline {
            Deadline::Total(end) => end.saturating_duration_since(Instant::now()),
            Deadline::Idle(wait, end) => wait.min(end.saturating_duration_since(Instant::now())),
        };
        if remaining.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(remaining)
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.remaining()?))?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        if most == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let wanted = buffer.len().min(most);
        let count = self.socket.read(&mut buffer[..wanted])?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.remaining()?))?;
        self.socket.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The socket's address, and what has to stay open while it is used: a path
/// too long for an address is reached through its directory's descriptor.
fn address(path: &Path) -> io::Result<(Option<rustix::fd::OwnedFd>, SocketAddrUnix)> {
    if path.as_os_str().len() <= LONGEST_ADDRESS {
        return Ok((None, SocketAddrUnix::new(path)?));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = rustix::fs::open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut short = PathBuf::from("/proc/self/fd");
    short.push(parent.as_raw_fd().to_string());
    short.push(name);
    let address = SocketAddrUnix::new(&short)?;
    Ok((Some(parent), address))
}
