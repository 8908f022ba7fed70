//! The mount at the merged store directory.

use std::path::Path;

use super::place::{self, Named};
use super::{Code, Finding, Part, Severity, down_up, up};
use crate::config::Store;
use crate::nix::mount_check::{self, CheckedPath, Verdict};
use crate::observe::{Identity, MountFacts, Observed, OverlayFacts, Recorded};
use crate::overlayfs::options::{MountOption, SuperOptions};
use crate::show::{quote, show, show_path};
use std::os::unix::ffi::OsStrExt;

pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let facts = &observed.mount;
    let named = Named {
        part: Part::Mount,
        what: "the merged store directory",
        key: "real",
        missing: (Code::MountMissing, Severity::Error),
        remedy: up(store),
    };
    if let Some(finding) = place::finding(&facts.place, &named, &observed.machine) {
        return [Some(finding), unsupported(observed)]
            .into_iter()
            .flatten()
            .collect();
    }
    let mut findings = wrong(&store.real, facts, &up(store));
    let Some(overlay) = &facts.overlay else {
        findings.extend(unsupported(observed));
        return findings;
    };
    let options = SuperOptions::parse(&overlay.info.super_options);
    findings.extend(layers(store, overlay, &options));
    findings.extend(differing_options(store, overlay, &options));
    findings.extend(risky(store, &options));
    findings.extend(nix_check(store, facts));
    findings
}

/// What is wrong with a mount whatever its layers should be; as it applies to a nested store too.
pub(super) fn wrong(real: &Path, facts: &MountFacts, up: &str) -> Vec<Finding> {
    let finding = |code, expected: &str, actual: String, remedy: String| Finding {
        code,
        severity: Severity::Error,
        part: Part::Mount,
        subject: show_path(real).into_owned(),
        expected: expected.to_owned(),
        actual,
        remedy,
    };
    let Some(overlay) = &facts.overlay else {
        let buried = facts.buried.first();
        return vec![match facts.stack.first() {
            None if buried.is_some() => finding(
                Code::MountHidden,
                "the overlay, with nothing mounted over it or over a directory above it",
                "an overlay that nobody sees: something is mounted over a directory above it"
                    .to_owned(),
                format!(
                    "see what it is, and unmount it: findmnt --target {}",
                    quote(real)
                ),
            ),
            None => finding(
                Code::MountMissing,
                "an overlay",
                "nothing is mounted there".to_owned(),
                up.to_owned(),
            ),
            Some(top) => {
                let kind = show(top.fs_type.as_bytes()).into_owned();
                let below = facts.stack.iter().skip(1);
                match below.into_iter().any(|mount| mount.fs_type == "overlay") {
                    true => finding(
                        Code::MountHidden,
                        "the overlay as the topmost mount, or under a bind mount of itself",
                        format!("a mount of type {kind} on top of it"),
                        format!("umount {}", quote(real)),
                    ),
                    false => finding(
                        Code::MountForeign,
                        "an overlay",
                        format!("a mount of type {kind}"),
                        format!(
                            "unmount it if nobody needs it, then mount the store: umount {} && {up}",
                            quote(real)
                        ),
                    ),
                }
            }
        }];
    };
    let mut findings = Vec::new();
    if overlay.info.super_option("ro") {
        findings.push(finding(
            Code::MountReadOnly,
            "an overlay that can be written to",
            "its file system is read-only".to_owned(),
            format!(
                "LIBMOUNT_FORCE_MOUNT2=always mount -o remount,rw {}",
                quote(real)
            ),
        ));
    }
    if let (Identity::Different(how), up) = (&overlay.lower, up) {
        findings.push(finding(
            Code::LowerdirDiffers,
            "an overlay over the lower store directory described",
            how.clone(),
            up.to_owned(),
        ));
    }
    if let (Identity::Different(how), up) = (&overlay.upper, up) {
        findings.push(finding(
            Code::UpperdirDiffers,
            "an overlay that writes to the upper layer described",
            how.clone(),
            up.to_owned(),
        ));
    }
    findings
}
