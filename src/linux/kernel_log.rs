//! The kernel's log, from a moment on.

use std::fs::File;
use std::io::Read;

use rustix::fs::{SeekFrom, seek};

use crate::escape::show;
use crate::linux::root::System;

/// More than one record of the log can have (`CONSOLE_EXT_LOG_MAX` in Linux's `console.h`).
const RECORD: usize = 8192;

/// The kernel's log since this was made. Empty where it may not be read.
#[derive(Debug, Default)]
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// What the log will say from now on.
    pub fn from_now(system: &System) -> KernelLog {
        let open = || {
            let file = system.open_kernel_log()?;
            seek(&file, SeekFrom::End(0))?;
            Ok::<_, std::io::Error>(file)
        };
        KernelLog(open().ok())
    }

    /// What the log has, from its beginning.
    ///
    /// # Errors
    /// Those of opening it: often only root may.
    pub fn whole(system: &System) -> std::io::Result<KernelLog> {
        Ok(KernelLog(Some(system.open_kernel_log()?)))
    }

    /// What OverlayFS has said since then, or `None` if nothing, or if it may not be read.
    pub fn about_overlays(self) -> Option<Vec<String>> {
        let mut file = self.0?;
        let mut lines = Vec::new();
        let mut record = [0; RECORD];
        // One record a read; a reader that was overtaken gets an error and goes on after it.
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => lines.extend(overlay_message(&record[..length])),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(_) => break,
            }
        }
        lines.dedup();
        (!lines.is_empty()).then_some(lines)
    }
}

/// The message in a record like `3,1234,98765432,-;overlayfs: ...` if it is from OverlayFS. What
/// follows the first line are further fields.
fn overlay_message(record: &[u8]) -> Option<String> {
    let start = record.iter().position(|&byte| byte == b';')? + 1;
    let message = record[start..].split(|&byte| byte == b'\n').next()?;
    message
        .starts_with(b"overlay")
        .then(|| show(message).into_owned())
}

#[cfg(test)]
mod tests {
    use super::overlay_message;

    #[test]
    fn only_what_overlayfs_says_is_taken() {
        assert_eq!(
            overlay_message(b"3,1,2,-;overlayfs: a; b\n SUBSYSTEM=x\n").as_deref(),
            Some("overlayfs: a; b")
        );
        assert_eq!(
            overlay_message(b"3,1,2,-,caller=T1;overlay: Unknown parameter 'foo'\n").as_deref(),
            Some("overlay: Unknown parameter 'foo'")
        );
        assert_eq!(overlay_message(b"6,1,2,-;usb: overlay\n"), None);
        assert_eq!(overlay_message(b"no record"), None);
    }
}
