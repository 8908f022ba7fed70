//! What the mount API says in a file system context's own log.

use std::os::fd::AsFd;

use crate::escape::show;

/// Reads the errors in the log of a file system context. Each message is one read, and begins with
/// its severity: `e overlay: Unknown parameter 'foo'`.
pub(crate) fn read(context: impl AsFd) -> Option<String> {
    let mut errors = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = rustix::io::read(&context, &mut buffer) {
        match &buffer[..length] {
            [] => break,
            [b'e', b' ', message @ ..] => errors.push(show(message.trim_ascii()).into_owned()),
            _ => {}
        }
    }
    (!errors.is_empty()).then(|| errors.join("; "))
}
