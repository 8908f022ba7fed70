//! Entries with fields in the journal (systemd's "Native Journal Protocol").

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use crate::linux::file_identity::FileIdentity;

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A priority, as syslog(3) numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Something does not work.
    Error = 3,
    /// Something will not.
    Warning = 4,
    /// Worth knowing.
    Notice = 5,
    /// What happens.
    Info = 6,
}

/// The journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    unit: Option<String>,
}

impl Journal {
    /// The journal, if that is where a stream (standard output or error) goes: `JOURNAL_STREAM` names
    /// its device and inode (systemd.exec(5)).
    ///
    /// What is written to the stream itself just before the end can lose its unit: the journal looks
    /// up whose line it is when it comes to read it, and on a busy machine the process is gone by
    /// then.
    pub(crate) fn behind(stream: impl AsFd) -> Option<Journal> {
        let named = std::env::var("JOURNAL_STREAM").ok()?;
        let stream = File::from(stream.as_fd().try_clone_to_owned().ok()?);
        let status = stream.metadata().ok()?;
        if named != FileIdentity::from(&status).to_string() {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Some(Journal {
            socket,
            unit: unit(&cgroup),
        })
    }

    /// A journal at the other end of a socket, for an entry's test.
    #[cfg(test)]
    pub(crate) fn over(socket: UnixDatagram, unit: Option<&str>) -> Journal {
        let unit = unit.map(str::to_owned);
        Journal { socket, unit }
    }

    /// Sends an entry: a message, its priority, and further fields.
    ///
    /// # Errors
    /// When the journal does not take it, as one that is too long for a datagram.
    pub(crate) fn send(
        &self,
        priority: Priority,
        message: &str,
        fields: &[(&str, &str)],
    ) -> io::Result<()> {
        let priority = (priority as u8).to_string();
        let mut entry = Vec::new();
        add(&mut entry, "MESSAGE", message);
        add(&mut entry, "PRIORITY", &priority);
        add(&mut entry, "SYSLOG_IDENTIFIER", "overstore");
        // The journal looks up whose entry this is, and of a process that ended meanwhile it finds
        // nothing. `journalctl --unit` and `systemctl status` take root's word for it, too.
        if let Some(unit) = &self.unit {
            add(&mut entry, "OBJECT_SYSTEMD_UNIT", unit);
        }
        for (name, value) in fields {
            add(&mut entry, name, value);
        }
        self.socket.send(&entry).map(drop)
    }
}

/// The service that a process is of, by its `/proc/self/cgroup`.
fn unit(cgroup: &str) -> Option<String> {
    let last = cgroup.lines().last()?.rsplit('/').next()?;
    last.ends_with(".service").then(|| last.to_owned())
}

/// Adds a field: in one line where the value is one, otherwise with its length.
fn add(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_control_group() {
        assert_eq!(unit("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(unit(""), None);
        let unified = "1:name=systemd:/\n0::/system.slice/overstore-a.service\n";
        assert_eq!(unit(unified).as_deref(), Some("overstore-a.service"));
    }

    #[test]
    fn values_of_several_lines_have_their_length() {
        let (here, there) = UnixDatagram::pair().unwrap();
        let journal = Journal::over(here, Some("overstore-a.service"));
        let fields = [("CODE", "mount-missing"), ("MORE", "a\nb")];
        journal.send(Priority::Error, "one", &fields).unwrap();
        let mut buffer = [0; 200];
        let length = there.recv(&mut buffer).unwrap();
        assert_eq!(
            &buffer[..length],
            b"MESSAGE=one\nPRIORITY=3\nSYSLOG_IDENTIFIER=overstore\n\
              OBJECT_SYSTEMD_UNIT=overstore-a.service\nCODE=mount-missing\n\
              MORE\n\x03\0\0\0\0\0\0\0a\nb\n"
        );
    }
}
