//! Who is asking, and on which kernel.

use std::io;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::{Depth, Machine};
use crate::config::Store;
use crate::linux::id_map;
use crate::linux::regular_file;
use crate::linux::root::System;
use crate::overlayfs::defaults::Defaults;

/// Where the kernel's module shows its parameters.
const PARAMETERS: &str = "/sys/module/overlay/parameters";

/// More than any `nix.conf` has.
const LONGEST_SETTINGS: u64 = 1 << 20;

/// Looks at the process and the kernel.
///
/// # Errors
/// When `/proc` or the group database cannot be read.
pub(super) fn observe(system: &System, store: &Store, depth: Depth) -> io::Result<Machine> {
    let build_users_gid = match &store.build_users_group {
        Some(name) => system.group(name)?,
        None => None,
    };
    let file_systems = system.read_proc("filesystems")?;
    Ok(Machine {
        uid: rustix::process::geteuid().as_raw(),
        user_namespace: !id_map::maps_everybody(&system.read_proc("self/uid_map")?),
        can_mount: rustix::thread::capabilities(None)?
            .effective
            .contains(CapabilitySet::SYS_ADMIN),
        kernel: String::from_utf8_lossy(rustix::system::uname().release().to_bytes()).into_owned(),
        overlay_loaded: knows(&file_systems, "overlay"),
        overlay_defaults: Defaults::read(|name| {
            std::fs::read(Path::new(PARAMETERS).join(name)).ok()
        }),
        min_free: match depth {
            Depth::Check { .. } => min_free(),
            _ => None,
        },
        build_users_gid,
    })
}

/// The `min-free` of the system's `nix.conf`, if it has one that is not zero.
fn min_free() -> Option<String> {
    let directory = std::env::var_os("NIX_CONF_DIR").unwrap_or_else(|| "/etc/nix".into());
    let file = Path::new(&directory).join("nix.conf");
    let text = regular_file::read(&file, LONGEST_SETTINGS).ok()?;
    let text = String::from_utf8_lossy(&text);
    // Of several the last counts.
    let mut set = text.lines().rev().filter_map(|line| {
        let (name, value) = line.split('#').next()?.split_once('=')?;
        (name.trim() == "min-free").then(|| value.trim().to_owned())
    });
    set.next()
        .filter(|value| !value.trim_matches('0').is_empty())
}

/// Whether `/proc/filesystems` names a file system.
fn knows(file_systems: &[u8], name: &str) -> bool {
    file_systems
        .split(|byte| *byte == b'\n')
        .any(|line| line.rsplit(|byte| *byte == b'\t').next() == Some(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_is_found_by_its_whole_name() {
        assert!(knows(b"nodev\tproc\nnodev\toverlay\n\text4\n", "overlay"));
        assert!(!knows(b"nodev\tproc\n\toverlayfs\n", "overlay"));
    }
}
