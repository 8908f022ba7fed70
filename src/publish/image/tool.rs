//! The programs that make file systems: given an archive, not a directory, so that nothing has to be
//! copied, and that names, modes, times and order are what we say.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::super::error::PublishError;
use super::{Format, IMAGE};

/// Bytes that are written to the program at once.
const BUFFER: usize = 64 << 10;
/// The most that it is told of what it said, in bytes: the end of it.
const MOST_SAID: u64 = 4 << 10;

/// A program that makes an image in a directory.
pub(super) struct Tool {
    program: &'static str,
    child: Child,
    said: File,
    /// Where the archive goes; none once it is whole.
    input: Option<BufWriter<std::process::ChildStdin>>,
}

impl Tool {
    /// Starts the one of this format in a directory that is held. `processors` is how many it may use,
    /// if not all; `id` tells the image from others.
    pub(super) fn start(
        format: Format,
        directory: &OwnedFd,
        processors: Option<u32>,
        id: [u8; 16],
    ) -> Result<Self, PublishError> {
        let program = format.program();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => PublishError::NoTool(program, format.package()),
            _ => PublishError::io("run", Path::new(program), error),
        };
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let said = rustix::fs::memfd_create("said", flags).map_err(|it| failed(it.into()))?;
        let said = File::from(said);
        let again = || said.try_clone().map_err(failed);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut child = Command::new(program)
            .args(arguments(format, processors, id))
            // Whatever its path leads to by now. Nothing that a variable says of times or options may
            // change what comes out.
            .current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
            .env_clear()
            .env("PATH", path)
            .env("LC_ALL", "C")
            .env("TMPDIR", ".")
            .stdin(Stdio::piped())
            .stdout(again()?)
            .stderr(again()?)
            .spawn()
            .map_err(failed)?;
        let input = child.stdin.take();
        let input = input.map(|input| BufWriter::with_capacity(BUFFER, input));
        Ok(Self {
            program,
            child,
            said,
            input,
        })
    }

    /// Where the archive goes.
    pub(super) fn input(&mut self) -> io::Result<&mut dyn Write> {
        match &mut self.input {
            Some(input) => Ok(input),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The archive is whole: waits for the image.
    pub(super) fn finish(mut self) -> Result<(), PublishError> {
        let flushed = self.input.take().map_or(Ok(()), |mut input| input.flush());
        let status = self.child.wait();
        let status = status.map_err(|error| PublishError::io("wait for", self.path(), error))?;
        match (status.success(), flushed) {
            (true, Ok(())) => Ok(()),
            (true, Err(error)) => Err(PublishError::io("write to", self.path(), error)),
            (false, _) => Err(self.failed(status)),
        }
    }

    /// It ended before the archive did: why.
    pub(super) fn ended(mut self) -> PublishError {
        self.input = None;
        match self.child.wait() {
            Ok(status) => self.failed(status),
            Err(error) => PublishError::io("wait for", self.path(), error),
        }
    }

    fn path(&self) -> &'static Path {
        Path::new(self.program)
    }

    fn failed(&mut self, status: ExitStatus) -> PublishError {
        let mut said = Vec::new();
        // What cannot be read cannot be told.
        let length = self.said.metadata().map_or(0, |data| data.len());
        let begin = io::SeekFrom::Start(length.saturating_sub(MOST_SAID));
        let _ = self.said.seek(begin);
        let _ = (&self.said).take(MOST_SAID).read_to_end(&mut said);
        PublishError::Tool {
            program: self.program,
            status,
            said: crate::escape::show(said.trim_ascii()).replace("\\n", "\n  "),
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Where it is still there, nobody wants its image any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that could depend on who runs it, when, and where, is said.
fn arguments(format: Format, processors: Option<u32>, id: [u8; 16]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    match format {
        Format::Squashfs => {
            add(&["-", IMAGE, "-tar", "-quiet", "-no-progress", "-noappend"]);
            add(&["-all-root", "-all-time", "1", "-mkfs-time", "1"]);
            add(&["-default-mode", "0755", "-exports"]);
            add(&["-comp", "zstd", "-b", "1048576"]);
            if let Some(count) = processors {
                add(&["-processors", &count.to_string()]);
            }
        }
        Format::Erofs => {
            add(&["--quiet", "--tar=f", "--all-root", "-T1", "-x-1", "-zlz4"]);
            add(&["-U", &uuid(id)]);
            if let Some(count) = processors {
                add(&[&format!("--workers={count}")]);
            }
            add(&[IMAGE]);
        }
        Format::State => {}
    }
    arguments
}

/// A UUID with these bytes: of version 8, whose meaning is its maker's (RFC 9562).
fn uuid(mut id: [u8; 16]) -> String {
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_says_what_it_is() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-8fff-bfff-ffffffffffff");
    }
}
