//! What keeps a process from namespaces of its own. The kernel says only a number; what it means is
//! told by the settings, filters and security modules that this process is under. What decides it in
//! the kernel: `create_user_ns`, `inc_ucount`, `may_mount`, seccomp(2), and the security modules'
//! hooks for user namespaces and mounts.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::{exhaustion, id_map, users};
use crate::escape::show;
use crate::remedy::{HasRemedy, Remedy, command};

/// What was asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A user namespace, and a mount namespace in it.
    Users,
    /// A mount namespace, in the user namespace that there is.
    Mounts,
    /// To change mounts in one.
    Mounting,
    /// A PID namespace, and a process in it.
    Processes,
}

impl Asked {
    /// In words, as in "this system does not let this user ...".
    fn in_words(self) -> &'static str {
        match self {
            Asked::Users => "make a user namespace",
            Asked::Mounts => "make a mount namespace",
            Asked::Mounting => "mount in namespaces of its own",
            Asked::Processes => "make a PID namespace",
        }
    }

    /// The settings below `/proc/sys` that limit how many there may be.
    fn limits(self) -> &'static [&'static str] {
        match self {
            Asked::Users => &["user.max_user_namespaces", "user.max_mnt_namespaces"],
            Asked::Mounts | Asked::Mounting => &["user.max_mnt_namespaces"],
            Asked::Processes => &["user.max_pid_namespaces"],
        }
    }
}

/// That it was refused, why, and what can be done about it.
#[derive(Debug, thiserror::Error)]
#[error("this system does not let this user {}: {reason}", asked.in_words())]
pub(crate) struct Forbidden {
    asked: Asked,
    reason: String,
    remedy: Remedy,
}

impl HasRemedy for Forbidden {
    fn remedy(&self) -> Remedy {
        self.remedy.clone()
    }
}

impl Forbidden {
    /// Why something that was asked ended with an error.
    pub(crate) fn because(asked: Asked, errno: Errno) -> Forbidden {
        let (reason, remedy) = reason(&Facts::gather(asked, errno));
        Forbidden {
            asked,
            reason,
            remedy,
        }
    }

    /// A filter of system calls ends the process that asks.
    pub(crate) fn by_death(asked: Asked) -> Forbidden {
        Forbidden {
            asked,
            reason: "a filter of system calls (seccomp) ends a process that does so".to_owned(),
            remedy: without_filter(),
        }
    }
}

/// Whether this process is under a filter of system calls (seccomp(2)).
pub(crate) fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

/// A filter of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// There is none.
    None,
    /// There is one.
    Installed,
    /// There is one, and it refuses what was asked for whatever its arguments are.
    Refuses,
}

/// A security module, and the name of what this process is to it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Label {
    /// A profile of AppArmor.
    AppArmor(String),
    /// A context of SELinux.
    SeLinux(String),
}

/// What this process is under.
#[derive(Debug, Clone)]
struct Facts {
    asked: Asked,
    errno: Errno,
    /// The settings that matter, by their names; those that this kernel has.
    settings: Vec<(&'static str, String)>,
    filter: Filter,
    label: Option<Label>,
    /// Whether this process's user and group have numbers in its user namespace.
    mapped: bool,
    /// Whether that is not the first one.
    nested: bool,
}

/// The settings that matter.
const SETTINGS: [&str; 5] = [
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_pid_namespaces",
    CLONE,
    RESTRICTED,
];

/// Debian's and Arch Linux's own switch.
const CLONE: &str = "kernel.unprivileged_userns_clone";
/// Ubuntu's own one.
const RESTRICTED: &str = "kernel.apparmor_restrict_unprivileged_userns";

impl Facts {
    fn gather(asked: Asked, errno: Errno) -> Facts {
        let setting = |name: &'static str| {
            let file = Path::new("/proc/sys").join(name.replace('.', "/"));
            let value = std::fs::read_to_string(file).ok()?;
            Some((name, value.trim().to_owned()))
        };
        let map = |name: &str| std::fs::read(format!("/proc/self/{name}")).unwrap_or_default();
        let users = map("uid_map");
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        Facts {
            asked,
            errno,
            settings: SETTINGS.into_iter().filter_map(setting).collect(),
            filter: filter(asked),
            label: label(),
            mapped: id_map::maps(&users, user) && id_map::maps(&map("gid_map"), group),
            nested: !id_map::maps_everybody(&users),
        }
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.settings
            .iter()
            .any(|(set, found)| *set == name && found == value)
    }
}

/// A path that leads nowhere.
const NOWHERE: &str = "/proc/self/no-such-file";

/// What the filter of system calls says to a call that does nothing.
fn filter(asked: Asked) -> Filter {
    if !is_filtered() {
        return Filter::None;
    }
    let refuses = match asked {
        Asked::Users | Asked::Mounts => users::unshare_nothing().is_err(),
        Asked::Mounting => {
            // Whoever is let through is told that there is no such place.
            rustix::mount::mount("none", NOWHERE, "none", MountFlags::empty(), None)
                != Err(Errno::NOENT)
        }
        Asked::Processes => false,
    };
    match refuses {
        true => Filter::Refuses,
        false => Filter::Installed,
    }
}

/// What this process is to the security module, unless it is unconfined.
fn label() -> Option<Label> {
    let read = |file: &str| {
        let text = std::fs::read(Path::new("/proc/self/attr").join(file)).ok()?;
        let text = text.trim_ascii_end();
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        (!text.is_empty()).then(|| show(text).into_owned())
    };
    if let Some(profile) = read("apparmor/current") {
        return app_armor(&profile);
    }
    let current = read("current")?;
    match current.contains(':') && !current.ends_with(')') {
        true => Some(Label::SeLinux(current)),
        false => app_armor(&current),
    }
}

/// `NAME (MODE)`, of which only some modes forbid anything.
fn app_armor(profile: &str) -> Option<Label> {
    let (name, mode) = profile.rsplit_once(" (")?;
    matches!(mode, "enforce)" | "kill)" | "prompt)" | "user)")
        .then(|| Label::AppArmor(name.to_owned()))
}

/// The remedy of what may be the doing of this process's filter of system calls, if it has one.
pub(crate) fn remedy_of_filter() -> Remedy {
    match is_filtered() {
        true => without_filter(),
        false => Remedy::default(),
    }
}

/// That this process's filter of system calls, if it has one, lets it change its root directory, which is
/// needed for mounting by descriptor. Containers have filters that allow it with a capability only.
///
/// # Errors
/// When it does not.
pub(crate) fn expect_to_change_root() -> Result<(), Forbidden> {
    // Whoever is let through is told that there is no such place.
    if !is_filtered() || rustix::process::chroot(NOWHERE) == Err(Errno::NOENT) {
        return Ok(());
    }
    Err(Forbidden {
        asked: Asked::Mounting,
        reason: "a filter of system calls (seccomp) does not allow `chroot`".to_owned(),
        remedy: Remedy::say(
            "have the filter allow it: a container's with its settings (Docker, Podman: \
             `--cap-add=sys_chroot`, or `--security-opt seccomp=unconfined`), a service's with \
             `SystemCallFilter=`",
        )
        .or("run it outside of that sandbox"),
    })
}

fn without_filter() -> Remedy {
    Remedy::say(
        "have the filter allow `unshare`, `clone`, `setns` and the calls that mount: a container's \
         with its settings (Docker, Podman: `--security-opt seccomp=unconfined`), a service's with \
         `SystemCallFilter=`",
    )
    .or("run it outside of that sandbox")
}

/// Sets a setting until the next boot.
fn set(why: &str, name: &str, value: &str) -> Remedy {
    Remedy::say(why).run(command!["sysctl", format!("{name}={value}")])
}

/// What kept the kernel from it, and what can be done about it.
fn reason(facts: &Facts) -> (String, Remedy) {
    match facts.errno {
        Errno::AGAIN => return exhaustion::too_many_processes(),
        Errno::NOSPC | Errno::USERS => return used_up(facts),
        Errno::INVAL if facts.asked == Asked::Users => {
            return (
                "the kernel has none".to_owned(),
                Remedy::say("use a kernel with CONFIG_USER_NS").or("run it as root"),
            );
        }
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => {}
        errno => return (errno.to_string(), Remedy::say("run it as root")),
    }
    refused(facts)
}

/// There are as many as there may be.
fn used_up(facts: &Facts) -> (String, Remedy) {
    let none = facts.asked.limits().iter().find(|name| facts.is(name, "0"));
    match none {
        Some(name) => (
            format!("{name} is 0"),
            set("as root, allow them", name, "15000"),
        ),
        None if facts.nested => {
            let limits = facts.asked.limits().join(" or ");
            (
                format!(
                    "a user namespace around this process allows no more of them by its {limits} (as \
                     `bwrap --disable-userns` has it), or they are nested too deeply"
                ),
                Remedy::say("run it outside of that sandbox").or(format!(
                    "allow them there: a larger {limits}, bubblewrap without `--disable-userns`"
                )),
            )
        }
        None => (
            format!(
                "there are as many as {} allows",
                facts.asked.limits().join(" or ")
            ),
            Remedy::say("end what uses them").or(set(
                "as root, allow more",
                facts.asked.limits()[0],
                "100000",
            )),
        ),
    }
}

/// Something says no.
fn refused(facts: &Facts) -> (String, Remedy) {
    if facts.filter == Filter::Refuses {
        return by_filter();
    }
    if facts.asked != Asked::Processes && facts.is(CLONE, "0") {
        return (
            format!("{CLONE} is 0"),
            set("as root, allow them", CLONE, "1"),
        );
    }
    if facts.is(RESTRICTED, "1") {
        let profile = "as root, give overstore an AppArmor profile that allows `userns`";
        let all = set("as root, allow them to every program", RESTRICTED, "0");
        return (format!("{RESTRICTED} is 1"), Remedy::say(profile).or(all));
    }
    match &facts.label {
        Some(Label::AppArmor(profile)) => {
            return (
                format!("the AppArmor profile {profile} of this process does not allow it"),
                Remedy::say(
                    "as root, have that profile allow `userns`, `mount`, `umount`, `pivot_root` and \
                     `capability sys_admin`, with `flags=(attach_disconnected)`; a container's with its \
                     settings (Docker, Podman: `--security-opt apparmor=unconfined`)",
                )
                .or("run it outside of what that profile is for"),
            );
        }
        Some(Label::SeLinux(context)) if facts.errno == Errno::ACCESS => {
            return (
                format!("SELinux does not allow it to {context}"),
                Remedy::say(
                    "have its policy allow it; a container's with its settings (Podman: \
                     `--security-opt label=disable`)",
                )
                .or("run it outside of that container"),
            );
        }
        _ => {}
    }
    if facts.errno == Errno::NOSYS || facts.filter == Filter::Installed {
        return by_filter();
    }
    if !facts.mapped {
        return (
            "this user, or its group, has no number in the user namespace that it is in".to_owned(),
            Remedy::say("run it outside of that namespace, or as a user and a group that it maps"),
        );
    }
    (
        "Operation not permitted (inside a chroot it never is)".to_owned(),
        Remedy::say("run it outside of the chroot")
            .or("enter it with pivot_root")
            .or("run it as root"),
    )
}

fn by_filter() -> (String, Remedy) {
    let reason = "a filter of system calls (seccomp) does not allow it";
    (reason.to_owned(), without_filter())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that nothing forbids anything.
    fn free() -> Facts {
        Facts {
            asked: Asked::Users,
            errno: Errno::PERM,
            settings: Vec::new(),
            filter: Filter::None,
            label: None,
            mapped: true,
            nested: false,
        }
    }

    #[track_caller]
    fn says(facts: Facts, part: &str, remedy_part: &str) {
        let (reason, remedy) = reason(&facts);
        assert!(reason.contains(part), "{reason}");
        let remedy = remedy.to_string();
        assert!(remedy.contains(remedy_part), "{remedy}");
    }

    #[test]
    fn each_limit_is_named() {
        let set = |name, value: &str| vec![(name, value.to_owned())];
        for (asked, name) in [
            (Asked::Users, "user.max_user_namespaces"),
            (Asked::Users, "user.max_mnt_namespaces"),
            (Asked::Mounts, "user.max_mnt_namespaces"),
            (Asked::Processes, "user.max_pid_namespaces"),
        ] {
            let facts = Facts {
                asked,
                errno: Errno::NOSPC,
                settings: set(name, "0"),
                ..free()
            };
            let remedy = format!("sysctl {name}=15000");
            says(facts.clone(), &format!("{name} is 0"), &remedy);
            let settings = set(name, "7");
            says(
                Facts {
                    settings: settings.clone(),
                    nested: true,
                    ..facts.clone()
                },
                "around this process",
                "outside of that sandbox",
            );
            let many = Facts { settings, ..facts };
            says(many, "as many as user.max_", "end what uses them");
        }
        let debian = Facts {
            settings: set(CLONE, "0"),
            ..free()
        };
        says(debian, "userns_clone is 0", "userns_clone=1");
        let ubuntu = Facts {
            asked: Asked::Mounting,
            errno: Errno::ACCESS,
            settings: set(RESTRICTED, "1"),
            label: Some(Label::AppArmor("unprivileged_userns".to_owned())),
            ..free()
        };
        says(ubuntu, "apparmor_restrict", "AppArmor profile that allows");
    }

    #[test]
    fn who_forbids_it_is_named() {
        for asked in [
            Asked::Users,
            Asked::Mounts,
            Asked::Mounting,
            Asked::Processes,
        ] {
            for (filter, errno) in [
                (Filter::Refuses, Errno::PERM),
                (Filter::Installed, Errno::PERM),
                (Filter::Refuses, Errno::NOSYS),
            ] {
                let facts = Facts {
                    asked,
                    errno,
                    filter,
                    ..free()
                };
                says(facts, "seccomp", "seccomp=unconfined");
            }
        }
        let label = Some(Label::AppArmor("docker-default".to_owned()));
        let confined = Facts { label, ..free() };
        says(confined.clone(), "profile docker-default", "apparmor=");
        let context = "system_u:system_r:container_t:s0:c1,c2".to_owned();
        let label = Some(Label::SeLinux(context));
        let errno = Errno::ACCESS;
        says(
            Facts {
                label,
                errno,
                ..free()
            },
            "SELinux does not allow it to system_u:",
            "label=disable",
        );
        let mapped = false;
        says(Facts { mapped, ..free() }, "has no number", "that it maps");
        says(free(), "chroot", "outside of the chroot");
        let errno = Errno::INVAL;
        says(Facts { errno, ..free() }, "has none", "CONFIG_USER_NS");
        let errno = Errno::AGAIN;
        says(Facts { errno, ..free() }, "processes", "ulimit -u");
    }

    #[test]
    fn labels_are_read() {
        let docker = app_armor("docker-default (enforce)");
        assert_eq!(docker, Some(Label::AppArmor("docker-default".to_owned())));
        assert_eq!(app_armor("unconfined"), None);
        assert_eq!(app_armor("firefox (complain)"), None);
    }
}
