//! The mount namespaces of this machine, by the processes in them.

use std::collections::HashSet;
use std::ffi::CStr;

use rustix::fs::{Dir, Mode, OFlags, openat, readlinkat};

use crate::linux::root::System;

/// One process of each mount namespace but ours. Those of other users are left out where this
/// process may not look at them.
pub(crate) fn others(system: &System) -> impl Iterator<Item = u32> + '_ {
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    seen.extend(namespace(system, "self"));
    processes(system).into_iter().filter(move |process| {
        namespace(system, &process.to_string()).is_some_and(|namespace| seen.insert(namespace))
    })
}

fn namespace(system: &System, process: &str) -> Option<Vec<u8>> {
    let link = readlinkat(system.proc(), format!("{process}/ns/mnt"), Vec::new()).ok()?;
    Some(link.into_bytes())
}

fn processes(system: &System) -> Vec<u32> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(entries) = openat(system.proc(), ".", flags, Mode::empty()).and_then(Dir::new) else {
        return Vec::new();
    };
    let number = |name: &CStr| name.to_str().ok()?.parse().ok();
    entries
        .filter_map(|entry| number(entry.ok()?.file_name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_among_those_there_are() {
        let system = System::here().unwrap();
        assert!(processes(&system).contains(&std::process::id()));
        assert!(!others(&system).any(|process| process == std::process::id()));
    }
}
