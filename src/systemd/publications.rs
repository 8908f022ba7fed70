//! From publications to unit files. Pure, as [`units`](super::units).

use std::path::{Path, PathBuf};

use super::text::{argument, path, prose, unit_name, word};
use super::units::{Content, Files, HEAD, Places};
use crate::config::{Chosen, Publication};
use crate::escape::show_path;

/// Stops the service from doing what it never has to do. What roots lead to may be anywhere, so
/// nothing is hidden from it.
const SANDBOX: &str = "\
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID
NoNewPrivileges=yes
PrivateNetwork=yes
PrivateMounts=no
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
RestrictNamespaces=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@resources
SystemCallErrorNumber=EPERM
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectHostname=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
UMask=0022
";

/// A publication and the file that describes it.
#[derive(Debug)]
pub(crate) struct DescribedPublication {
    /// The publication.
    pub publication: Publication,
    /// The file.
    pub file: PathBuf,
}

/// The units of all publications: a service that makes a generation, and a timer where the
/// description says when.
pub(crate) fn publication_units(described: &[DescribedPublication], places: Places<'_>) -> Files {
    let mut files = Files::new();
    for DescribedPublication { publication, file } in described {
        let head = format!("{HEAD}{}.\n", show_path(file));
        let name = prose(&publication.name);
        let unit = format!("overstore-publish@{}", unit_name(&publication.name));
        let needed: String = needed(publication)
            .map(|needed| format!("RequiresMountsFor={}\n", path(needed)))
            .collect();
        let text = format!(
            "{head}\n[Unit]\nDescription=A generation of the publication {name}\n\
             Documentation=man:overstore-publish(1)\n{needed}\
             # What roots lead to has to be there.\n\
             After=local-fs.target remote-fs.target\n\n\
             [Service]\nType=oneshot\nNotifyAccess=exec\nExecStart={} publish {}\n\
             TimeoutStartSec=infinity\nNice=10\nIOSchedulingClass=idle\n\
             LogExtraFields={}\n{SANDBOX}",
            argument(places.program),
            argument(file),
            word(format!("OVERSTORE_PUBLICATION={}", publication.name).as_bytes())
        );
        files.insert(format!("{unit}.service").into(), Content::Text(text));
        let Some(schedule) = &publication.schedule else {
            continue;
        };
        let text = format!(
            "{head}\n[Unit]\nDescription=Generations of the publication {name}, by themselves\n\
             Documentation=man:overstore-publish(1)\n\n\
             [Timer]\nOnCalendar={schedule}\nRandomizedDelaySec=5min\nPersistent=yes\n"
        );
        files.insert(format!("{unit}.timer").into(), Content::Text(text));
        files.insert(
            format!("timers.target.wants/{unit}.timer").into(),
            Content::Link(format!("../{unit}.timer").into()),
        );
    }
    files
}

/// What has to be mounted.
fn needed(publication: &Publication) -> impl Iterator<Item = &Path> {
    let named = match &publication.chosen {
        Chosen::Named { paths, roots } => [&paths[..], &roots[..]],
        Chosen::OwnRoots | Chosen::AllValid => [&[][..], &[][..]],
    };
    let own = [
        &publication.real,
        &publication.state,
        &publication.directory,
    ];
    let named = named.into_iter().flatten();
    own.into_iter().chain(named).map(PathBuf::as_path)
}
