use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::escape::show_path;
use crate::linux::users;
use crate::nix::layout;
use crate::remedy::{HasRemedy, Remedy, command};

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket cannot be connected to.
    #[error(
        "cannot connect to the daemon's socket {socket}: {source}{}",
        why(source), socket = show_path(socket))]
    Connect {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The other end did not answer, or stopped answering.
    #[error(
        "the daemon behind {socket} did not answer within {} s",
        .waited.as_secs_f32(), socket = show_path(socket))]
    Silent {
        /// The daemon's socket.
        socket: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// The other end hung up.
    #[error(
        "the daemon behind {socket} closed the connection, as a daemon does that cannot open its store, or does not allow this user", socket = show_path(socket))]
    Closed {
        /// The daemon's socket.
        socket: PathBuf,
    },
    /// The other end speaks something else than the worker protocol.
    #[error(
        "what answers on {socket} is not a Nix daemon: expected the magic number of the worker protocol, found {found:#x}", socket = show_path(socket))]
    NotADaemon {
        /// The daemon's socket.
        socket: PathBuf,
        /// The number found in place of the protocol's magic number.
        found: u64,
    },
    /// The daemon speaks a version of the protocol that we do not.
    #[error(
        "the daemon behind {socket} speaks version {major}.{minor} of the worker protocol, expected 1.21 (Nix 2.1) or a later 1.x", socket = show_path(socket))]
    Version {
        /// The daemon's socket.
        socket: PathBuf,
        /// The daemon's major version.
        major: u64,
        /// The daemon's minor version.
        minor: u64,
    },
    /// The daemon answered with an error of its own.
    #[error("the daemon behind {socket} reports: {message}", socket = show_path(socket))]
    Remote {
        /// The daemon's socket.
        socket: PathBuf,
        /// The daemon's message, in one printable line.
        message: String,
    },
    /// The daemon sent something that the protocol does not allow.
    #[error("the daemon behind {socket} broke the worker protocol: {what}", socket = show_path(socket))]
    Malformed {
        /// The daemon's socket.
        socket: PathBuf,
        /// What was expected, and what was found.
        what: String,
    },
    /// Another error while reading or writing.
    #[error("cannot talk to the daemon behind {socket}: {source}", socket = show_path(socket))]
    Io {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What an error number of connect(2) means of a daemon, where its own text does not tell.
fn why(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => " (nobody listens on it)",
        io::ErrorKind::WouldBlock => " (its queue of waiting connections is full)",
        _ => "",
    }
}

impl HasRemedy for DaemonError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Connect { socket, source } => match source.kind() {
                io::ErrorKind::NotFound => start(socket).or("correct the path"),
                io::ErrorKind::ConnectionRefused => start(socket),
                io::ErrorKind::PermissionDenied => Remedy::say(
                    "give this user access to the socket's directory (on Debian: the group nix-users)",
                ),
                io::ErrorKind::WouldBlock => {
                    Remedy::say("try again later").or("see why the daemon takes no connections")
                }
                _ => Remedy::say("name a socket that the lower store's daemon listens on"),
            },
            Self::Silent { .. } => {
                Remedy::say("see whether it is stuck or overloaded, and restart it if so")
            }
            Self::Closed { .. } | Self::Io { .. } => {
                let user = users::in_words(rustix::process::geteuid().as_raw());
                Remedy::say("read the daemon's own log, which says why").or(format!(
                    "where it says that {user} is not allowed, name {user}, or a group as `@GROUP`, in \
                     `allowed-users` of the daemon's nix.conf"
                ))
            }
            Self::NotADaemon { .. } => {
                Remedy::say("name a socket that the lower store's daemon listens on")
            }
            Self::Version { .. } => Remedy::say("use a newer Nix there"),
            Self::Remote { .. } => {
                Remedy::say("fix what the daemon reports; its own log may say more")
            }
            Self::Malformed { .. } => {
                Remedy::say("see whether a Nix daemon listens there; its own log may say more")
            }
        }
    }
}

/// Has the daemon that listens on a socket started.
fn start(socket: &Path) -> Remedy {
    match socket == Path::new(layout::STATE_DIR).join(layout::DAEMON_SOCKET) {
        true => Remedy::from(command!["systemctl", "start", "nix-daemon.socket"]),
        false => Remedy::say("start the daemon of the lower store on it").run(command![
            "systemctl",
            "list-sockets",
            socket
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a socket is called does not break out of the message's line.
    #[test]
    fn hostile_names_stay_in_their_line() {
        let socket = PathBuf::from("/a\n\u{202e}b");
        let source = || io::Error::from(io::ErrorKind::NotFound);
        for error in [
            DaemonError::Connect {
                socket: socket.clone(),
                source: source(),
            },
            DaemonError::Silent {
                socket: socket.clone(),
                waited: Duration::ZERO,
            },
            DaemonError::Closed {
                socket: socket.clone(),
            },
            DaemonError::NotADaemon {
                socket: socket.clone(),
                found: 0,
            },
            DaemonError::Version {
                socket: socket.clone(),
                major: 1,
                minor: 2,
            },
            DaemonError::Remote {
                socket: socket.clone(),
                message: String::new(),
            },
            DaemonError::Malformed {
                socket: socket.clone(),
                what: String::new(),
            },
            DaemonError::Io {
                socket,
                source: source(),
            },
        ] {
            let text = error.to_string();
            assert!(text.contains(r"/a\n\u{202e}b"), "{text}");
            assert!(!text.contains(['\n', '\u{202e}']), "{text}");
        }
    }
}
