//! Messages to the service manager (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::remedy::{HasRemedy, Remedy};

/// How much longer the service manager is to wait when another piece of work begins, in
/// microseconds; as long as the units give the first one (`TimeoutStartSec=`).
const EXTENSION: u32 = 300_000_000;

/// How long a service manager may take no message. Its queue holds hundreds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The service manager, if this process runs under one that wants to hear of it. One that does not
/// listen is no reason not to do the work; one that listens and does not read is told at the end.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Whether it took a message no longer: nothing more is sent then.
    deaf: AtomicBool,
}

/// The service manager took no messages.
#[derive(Debug, thiserror::Error)]
#[error(
    "the service manager has taken no message for {} s, so it does not know how this ended",
    PATIENCE.as_secs()
)]
pub(crate) struct Deaf;

impl HasRemedy for Deaf {
    fn remedy(&self) -> Remedy {
        Remedy::say("see why it does not read from its notification socket")
    }
}

impl ServiceManager {
    /// The service manager that `NOTIFY_SOCKET` names, if it does. To be called before `--root`
    /// changes what that path means.
    pub(crate) fn from_environment() -> ServiceManager {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        ServiceManager {
            socket: name.and_then(|name| connect(&name).ok()),
            deaf: AtomicBool::new(false),
        }
    }

    /// Tells what is being done, for `systemctl status`, and that it takes its time.
    pub(crate) fn working(&self, text: &str) {
        self.send(&[
            NotifyState::Status(&line(text)),
            NotifyState::ExtendTimeoutUsec(EXTENSION),
        ]);
    }

    /// Tells that the service is ready.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    /// Tells how it ended.
    pub(crate) fn status(&self, text: &str) {
        self.send(&[NotifyState::Status(&line(text))]);
    }

    /// Whether all messages were taken.
    ///
    /// # Errors
    /// When it listens and does not read.
    pub(crate) fn has_heard(&self) -> Result<(), Deaf> {
        match self.deaf.load(Ordering::Relaxed) {
            true => Err(Deaf),
            false => Ok(()),
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        if self.deaf.load(Ordering::Relaxed) {
            return;
        }
        let lines: Vec<_> = states.iter().map(|state| format!("{state}\n")).collect();
        let sent = socket.send(lines.concat().as_bytes());
        // See above of any other error.
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.deaf.store(true, Ordering::Relaxed);
        }
    }
}

/// Connects to a socket that is named as in sd_notify(3). It stays the same whatever its path comes
/// to mean.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// A newline would begin another variable.
fn line(text: &str) -> String {
    text.replace('\n', " ")
}
