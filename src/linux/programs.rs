//! Another program, run for what it says: for a time, and no longer than it is of use.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The size in bytes above which nothing more is read.
const LONGEST: u64 = 1 << 20;

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
    let output = child.stdout.take().map(read).transpose();
    let errors = child.stderr.take().map(read).transpose();
    let (output, errors) = match (output, errors) {
        (Ok(output), Ok(errors)) => (output, errors),
        (Err(error), _) | (_, Err(error)) => {
            // It is not ours to wait for any more.
            let _ = child.kill();
            return Err(error);
        }
    };
    let output = output.map(|it| gathered(&it, end)).unwrap_or_default();
    let errors = errors.map(|it| gathered(&it, end)).unwrap_or_default();
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
        output,
        errors,
        status,
    })
}

/// Reads a stream in a thread of its own: whoever the program has started can keep it open.
fn read(mut stream: impl Read + Send + 'static) -> io::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = channel();
    thread::Builder::new().spawn(move || {
        let mut left = LONGEST;
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = (&mut stream).take(left).read(&mut buffer) {
            left -= length as u64;
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

/// What was read until the stream's end, or until the time is over.
fn gathered(pieces: &Receiver<Vec<u8>>, end: Instant) -> Vec<u8> {
    let mut gathered = Vec::new();
    loop {
        match pieces.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(piece) => gathered.extend(piece),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return gathered,
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
        assert_eq!(said.output.len() as u64, LONGEST);
        assert!(!said.status.unwrap().success());
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let missing = run(Command::new("/no/such/program"), Duration::from_secs(1));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
