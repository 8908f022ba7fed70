//! Messages to the service manager (sd_notify(3)).
//!
//! Written out here because the socket has to be opened before `--root` changes what paths mean;
//! the usual libraries open it anew for each message.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager, if this process runs under one that wants to hear of it.
#[derive(Debug, Default)]
pub struct ServiceManager(Option<UnixDatagram>);

impl ServiceManager {
    /// Opens the socket that `NOTIFY_SOCKET` names, if it does. One that does not work is as none:
    /// a service manager that does not listen is no reason not to do the work.
    pub fn from_environment() -> ServiceManager {
        ServiceManager(std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name)))
    }

    /// Tells what is being done, for `systemctl status`.
    pub fn status(&self, text: &str) {
        // A newline would begin another variable.
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// Tells that the service is ready.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.0 {
            // See `from_environment`.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// Connects to a socket by its path, or by its abstract name after an `@`.
fn connect(name: &OsStr) -> Option<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("overstore-test-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap())
                .unwrap();
        for (socket, name) in [
            (at_path, path.into_os_string()),
            (at_name, format!("@{abstract_name}").into()),
        ] {
            let manager = ServiceManager(connect(&name));
            manager.status("one\ntwo");
            manager.ready("done");
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"STATUS=one two");
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\nSTATUS=done");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_is_no_error() {
        ServiceManager(connect(OsStr::new("/nowhere/notify"))).ready("done");
        ServiceManager(connect(OsStr::new("vsock:2:1234"))).ready("done");
    }
}
