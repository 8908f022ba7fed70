//! Another program, run for what it says: for a time, and no longer than it is of use.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

/// The size in bytes above which nothing more is read.
const LONGEST: usize = 1 << 20;

/// How often a program is looked at that has closed what it writes to, and has not ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    /// What it wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub errors: Vec<u8>,
    /// How it ended; `None` if the time was over before, and it was killed.
    pub status: Option<ExitStatus>,
}

/// Standard input that is at its end, also where there is no `/dev/null`, as in a bare tree.
pub(crate) fn no_input() -> Stdio {
    io::pipe().map_or_else(|_| Stdio::null(), |(reader, _)| reader.into())
}

/// Runs a program without input.
///
/// What it writes after the first mebibyte of a stream is not read. Once the time is over it is killed,
/// and not waited for: it can be stuck in the kernel.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run(mut command: Command, time: Duration) -> io::Result<Said> {
    command
        .stdin(no_input())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let end = Instant::now() + time;
    let mut child = command.spawn()?;
    let mut output = Stream::new(child.stdout.take());
    let mut errors = Stream::new(child.stderr.take());
    let gathered = gather([&mut output, &mut errors], end);
    if let Err(error) = gathered {
        // It is not ours to wait for any more.
        let _ = child.kill();
        return Err(error.into());
    }
    let mut status = child.try_wait()?;
    while status.is_none() && Instant::now() < end {
        thread::sleep(PAUSE);
        status = child.try_wait()?;
    }
    if status.is_none() {
        // One that has ended meanwhile is as good as killed.
        let _ = child.kill();
        let _ = child.try_wait();
    }
    Ok(Said {
        output: output.said,
        errors: errors.said,
        status,
    })
}

/// What a program writes to, and what was read of it.
struct Stream {
    /// `None` at its end.
    open: Option<OwnedFd>,
    said: Vec<u8>,
}

impl Stream {
    fn new(open: Option<impl Into<OwnedFd>>) -> Self {
        Self {
            open: open.map(Into::into),
            said: Vec::new(),
        }
    }

    /// Reads once, without waiting. Who writes more than is wanted finds it closed.
    fn read(&mut self) -> Result<(), Errno> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let mut buffer = [0; 8192];
        let wanted = buffer.len().min(LONGEST - self.said.len());
        match rustix::io::read(open, &mut buffer[..wanted]) {
            Ok(0) => self.open = None,
            Ok(length) => self.said.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Reads streams until their ends, or until the time is over: whoever the program has started can keep
/// them open. No thread does it, since a process that has or just had another one is not let into a user
/// namespace.
fn gather(mut streams: [&mut Stream; 2], end: Instant) -> Result<(), Errno> {
    for open in streams.iter().filter_map(|stream| stream.open.as_ref()) {
        ioctl_fionbio(open, true)?;
    }
    loop {
        let open = streams.iter().filter_map(|stream| stream.open.as_ref());
        let mut open: Vec<_> = open.map(|it| PollFd::new(it, PollFlags::IN)).collect();
        let left = end.saturating_duration_since(Instant::now());
        if open.is_empty() || left.is_zero() {
            return Ok(());
        }
        match poll(&mut open, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        for stream in &mut streams {
            stream.read()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time: Duration) -> Said {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, time).unwrap()
    }

    #[test]
    fn both_streams_and_the_end_are_told() {
        let said = shell("echo out; echo error >&2; exit 3", Duration::from_secs(60));
        assert_eq!(said.output, b"out\n");
        assert_eq!(said.errors, b"error\n");
        assert_eq!(said.status.unwrap().code(), Some(3));
    }

    #[test]
    fn what_never_ends_is_left() {
        let said = shell(
            "echo out; sleep 1000 & sleep 1000",
            Duration::from_millis(300),
        );
        // How far it came in that time is the machine's affair.
        assert!(b"out\n".starts_with(&said.output));
        assert!(said.status.is_none());
    }

    #[test]
    fn what_writes_without_end_is_cut() {
        let said = shell("exec cat /dev/zero", Duration::from_secs(60));
        assert_eq!(said.output.len(), LONGEST);
        assert!(!said.status.unwrap().success());
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let missing = run(Command::new("/no/such/program"), Duration::from_secs(1));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
