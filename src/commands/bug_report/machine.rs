//! The machine, for a bug report.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::escape::{show, show_lines};
use crate::linux::kernel_log::KernelLog;
use crate::linux::programs;
use crate::linux::regular_file;
use crate::linux::root::System;
use crate::overlayfs::mountinfo::MountInfo;
use crate::report::Section;

/// How long a program of the system may take.
const PROGRAM_TIME: Duration = Duration::from_secs(30);

/// The size in bytes above which a file of the system is something else.
const LONGEST: u64 = 1 << 20;

/// Nix's settings that say something of a store, and nothing that others must not know.
const SETTINGS: [&str; 24] = [
    "allowed-users",
    "auto-optimise-store",
    "build-dir",
    "build-users-group",
    "builders",
    "experimental-features",
    "extra-experimental-features",
    "extra-substituters",
    "gc-keep-derivations",
    "gc-keep-outputs",
    "include",
    "!include",
    "keep-derivations",
    "keep-outputs",
    "max-free",
    "min-free",
    "require-drop-supplementary-groups",
    "require-sigs",
    "sandbox",
    "store",
    "substitute",
    "substituters",
    "trusted-users",
    "use-sqlite-wal",
];

/// Nix's variables of the same kind.
const VARIABLES: [&str; 8] = [
    "NIX_CONF_DIR",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_LOG_DIR",
    "NIX_REMOTE",
    "NIX_STATE_DIR",
    "NIX_STORE",
    "NIX_STORE_DIR",
    "NIX_USER_CONF_FILES",
];

/// File systems whose mounts are told wherever they are.
const FILE_SYSTEMS: [&str; 7] = [
    "overlay", "squashfs", "erofs", "nfs", "nfs4", "virtiofs", "9p",
];

/// Files that tell what a kernel permits.
const LIMITS: [&str; 6] = [
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/user/max_mnt_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/self/uid_map",
    "/proc/self/cgroup",
];

/// What is known of the machine, and of the mounts of these parts of stores.
pub(super) fn sections(system: &System, parts: &[PathBuf]) -> Vec<Section> {
    vec![
        overstore(),
        kernel(),
        kernel_log(system),
        of_program("Nix", "nix", &["--version"]),
        settings(),
        mounts(system, parts),
        records(),
        of_program("systemd", "systemctl", &["--version"]),
        of_program(
            "units",
            "systemctl",
            &[
                "list-units",
                "--all",
                "--no-pager",
                "--plain",
                "--no-legend",
                "overstore*",
            ],
        ),
        of_program(
            "journal",
            "journalctl",
            &[
                "--no-pager",
                "--quiet",
                "--output=short-iso",
                "--lines=300",
                "--unit=overstore*",
            ],
        ),
    ]
}

fn overstore() -> Section {
    let linked = match cfg!(target_feature = "crt-static") {
        true => "static",
        false => "dynamic",
    };
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let text = format!(
        "overstore {} ({}, {linked})\nprogram: {}\nuser: {} (effective {})\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        show(program.as_os_str().as_bytes()),
        rustix::process::getuid().as_raw(),
        rustix::process::geteuid().as_raw(),
    );
    Section::new("overstore", &text)
}

fn kernel() -> Section {
    let uname = rustix::system::uname();
    let mut text = String::new();
    for part in [
        uname.sysname(),
        uname.release(),
        uname.version(),
        uname.machine(),
    ] {
        // Writing to a String cannot fail.
        let _ = write!(text, "{} ", show(part.to_bytes()));
    }
    text.push('\n');
    let release = read(Path::new("/etc/os-release")).unwrap_or_default();
    for line in release
        .lines()
        .filter(|line| line.starts_with("PRETTY_NAME="))
    {
        let _ = writeln!(text, "{line}");
    }
    for file in LIMITS {
        let content = read(Path::new(file)).unwrap_or_else(|why| format!("({why})"));
        let _ = writeln!(text, "{file}: {}", content.trim().replace('\n', "; "));
    }
    let parameters = std::fs::read_dir("/sys/module/overlay/parameters");
    let mut parameters: Vec<PathBuf> = parameters
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    parameters.sort();
    for file in parameters {
        let content = read(&file).unwrap_or_else(|why| format!("({why})"));
        let _ = writeln!(
            text,
            "{}: {}",
            show(file.as_os_str().as_bytes()),
            content.trim()
        );
    }
    Section::new("kernel", &text)
}

/// What OverlayFS has said.
fn kernel_log(system: &System) -> Section {
    match KernelLog::whole(system) {
        Ok(log) => {
            let mut lines = log.about_overlays().unwrap_or_default();
            // What every mount says is said once.
            let mut seen = std::collections::HashSet::new();
            lines.retain(|line| seen.insert(line.clone()));
            Section::new("kernel log, of OverlayFS", &lines.join("\n"))
        }
        Err(error) => Section::new("kernel log, of OverlayFS", "").failed(&error.to_string()),
    }
}

/// What a program says.
fn of_program(title: &str, program: &str, arguments: &[&str]) -> Section {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0");
    let line = format!("$ {program} {}", arguments.join(" "));
    let said = match programs::run(command, PROGRAM_TIME) {
        Ok(said) => said,
        Err(error) => {
            return Section::new(title, &line).failed(&format!("cannot run {program}: {error}"));
        }
    };
    let section = Section::new(title, &format!("{line}\n{}", show_lines(&said.output)));
    let errors = show_lines(&said.errors);
    match said.status {
        Some(status) if status.success() && errors.is_empty() => section,
        Some(status) => section.failed(&format!("{status}: {errors}")),
        None => section.failed(&format!(
            "it did not end within {} seconds: {errors}",
            PROGRAM_TIME.as_secs()
        )),
    }
}

/// Nix's settings.
fn settings() -> Section {
    let mut text = String::new();
    let directory = std::env::var_os("NIX_CONF_DIR").unwrap_or_else(|| "/etc/nix".into());
    let mut files = vec![Path::new(&directory).join("nix.conf")];
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let own = own.or_else(|| Some(home?.join(".config")));
    files.extend(own.map(|own| own.join("nix/nix.conf")));
    for file in files {
        let shown = show(file.as_os_str().as_bytes()).into_owned();
        match read(&file) {
            Ok(content) => {
                let _ = write!(text, "{shown}:\n{}", harmless(&content));
            }
            Err(why) => {
                let _ = writeln!(text, "{shown}: ({why})");
            }
        }
    }
    for name in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            let _ = writeln!(text, "{name}={}", show(value.as_bytes()));
        }
    }
    if let Some(value) = std::env::var_os("NIX_CONFIG") {
        let _ = write!(
            text,
            "NIX_CONFIG:\n{}",
            harmless(&show_lines(value.as_bytes()))
        );
    }
    Section::new("settings of Nix", &text)
}

/// The lines of a nix.conf that can be shown, and how many others it has.
fn harmless(content: &str) -> String {
    let is_setting = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let name = |line: &str| {
        let name = line.trim_start().split([' ', '\t', '=']).next();
        name.unwrap_or_default().to_owned()
    };
    let (shown, others): (Vec<&str>, Vec<&str>) = content
        .lines()
        .filter(is_setting)
        .partition(|line| SETTINGS.contains(&name(line).as_str()));
    let mut text: String = shown.iter().map(|line| format!("  {line}\n")).collect();
    if !others.is_empty() {
        let _ = writeln!(text, "  ({} other settings)", others.len());
    }
    text
}

/// The mounts that a store can depend on, as the kernel tells them.
fn mounts(system: &System, parts: &[PathBuf]) -> Section {
    let content = match system.read_proc("self/mountinfo") {
        Ok(content) => content,
        Err(error) => return Section::new("mounts", "").failed(&error.to_string()),
    };
    let (mut shown, mut others) = (String::new(), 0);
    for line in content
        .split(|byte| *byte == b'\n')
        .filter(|it| !it.is_empty())
    {
        let told = MountInfo::parse(line).is_ok_and(|mount| {
            let at = &mount.mount_point;
            let is_of_a_part = |part: &PathBuf| part.starts_with(at) || at.starts_with(part);
            FILE_SYSTEMS.iter().any(|it| mount.fs_type == *it) || parts.iter().any(is_of_a_part)
        });
        match told {
            true => {
                let _ = writeln!(shown, "{}", show(line));
            }
            false => others += 1,
        }
    }
    let _ = writeln!(shown, "({others} other mounts)");
    Section::new("mounts (/proc/self/mountinfo)", &shown)
}

/// What overstore remembers until the next boot.
fn records() -> Section {
    let mut names: Vec<String> = match std::fs::read_dir("/run/overstore") {
        Ok(entries) => entries
            .filter_map(|entry| Some(show(entry.ok()?.file_name().as_bytes()).into_owned()))
            .collect(),
        Err(error) => return Section::new("/run/overstore", "").failed(&error.to_string()),
    };
    names.sort();
    Section::new("/run/overstore", &names.join("\n"))
}

/// The text of a file of the system, or why it cannot be read.
fn read(file: &Path) -> Result<String, String> {
    match regular_file::read(file, LONGEST) {
        Ok(content) => Ok(show_lines(&content)),
        Err(error) => Err(error.to_string()),
    }
}
