//! Mount tables: each directory of `tests/mount-tables/` has one (`input/mountinfo`), most as a
//! kernel printed it, and what is understood of it (`expected/`): at each mount point the mounts that
//! can be reached, topmost first, and what overlays are made of.

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use overstore::testing::escape::show;
use overstore::testing::overlayfs::{MountInfo, SuperOptions, stack_at};

use crate::support::{Content, Files, assert_expected, cases};

#[test]
fn every_table_is_understood() {
    for case in cases("mount-tables") {
        let table = fs::read(case.join("input/mountinfo")).unwrap();
        let understood = match MountInfo::parse_all(&table) {
            Ok(mounts) => stacks(&mounts),
            Err(error) => format!("{error}\n"),
        };
        let found = Files::from([("stacks.txt".into(), Content::Text(understood))]);
        assert_expected(&case.join("expected"), &found);
    }
}

fn stacks(mounts: &[MountInfo]) -> String {
    let mut text = String::new();
    let mut seen: Vec<&Path> = Vec::new();
    for MountInfo { mount_point, .. } in mounts {
        if seen.contains(&mount_point.as_path()) {
            continue;
        }
        seen.push(mount_point);
        writeln!(text, "{}", shown(mount_point)).unwrap();
        let stack = stack_at(mounts, mount_point);
        if stack.is_empty() {
            text += "  hidden\n";
        }
        for mount in stack {
            let part = match mount.root.to_str() {
                Some("/") => String::new(),
                _ => format!(", {} of it", shown(&mount.root)),
            };
            let (kind, source) = (mount.fs_type.as_bytes(), mount.source.as_bytes());
            let read_only = if mount.is_read_only() {
                ", read-only"
            } else {
                ""
            };
            let (kind, source) = (show(kind), show(source));
            writeln!(text, "  {}: {kind} {source}{part}{read_only}", mount.id).unwrap();
            if mount.fs_type == "overlay" {
                text += &overlay(&SuperOptions::parse(&mount.super_options));
            }
        }
    }
    text
}

fn overlay(options: &SuperOptions) -> String {
    let mut text = String::new();
    let layers: [(&str, Vec<&PathBuf>); 4] = [
        ("lower layer", options.lower.iter().collect()),
        ("data layer", options.data.iter().collect()),
        ("upper layer", options.upper.iter().collect()),
        ("work directory", options.work.iter().collect()),
    ];
    for (name, paths) in layers {
        for path in paths {
            writeln!(text, "    {name} {}", shown(path)).unwrap();
        }
    }
    for (name, value) in &options.others {
        let value = value
            .as_deref()
            .map_or(String::new(), |value| format!("={}", show(value)));
        writeln!(text, "    option {}{value}", show(name)).unwrap();
    }
    text
}

fn shown(path: &Path) -> String {
    show(path.as_os_str().as_bytes()).into_owned()
}
