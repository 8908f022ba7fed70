//! Every reason for which the kernel refuses an overlay, and what overstore makes of it.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use overstore::testing::apply::{Cause, MountFailure};
use overstore::testing::linux::KernelLog;
use overstore::testing::linux::System;
use overstore::testing::overlayfs::{MountOption, MountOptions};
use overstore::testing::plan::Overlay;
use overstore::testing::remedy::HasRemedy;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::support::skip;

/// A tmpfs with the four directories.
struct Scratch {
    root: PathBuf,
}

/// Waits until no other test here provokes messages of the kernel, also none of another run: its log is
/// one for all mounts, and a test takes for its own what is said meanwhile. Where the log may not be read,
/// none does.
fn alone() -> Option<File> {
    let log = File::open("/dev/kmsg").ok()?;
    flock(&log, FlockOperation::LockExclusive).expect("nobody minds");
    Some(log)
}

/// Runs a test, one at a time, on a thread of its own, which has a mount namespace of its own with a [`Scratch`];
/// what it does to its capabilities ends with it, too. Skips it without root.
fn in_scratch(test: impl FnOnce(Scratch) + Send) {
    if !rustix::process::geteuid().is_root() {
        skip("root", "mounting needs it");
        return;
    }
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let root = place.path().canonicalize().unwrap();
    let thread = || {
        // The thread's own root and working directories go with it.
        #[allow(unsafe_code, reason = "no descriptor table is unshared")]
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
        for name in ["real", "lower", "upper", "work"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        test(Scratch { root });
    };
    std::thread::scope(|scope| scope.spawn(thread).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

impl Scratch {
    fn overlay(&self) -> Overlay {
        Overlay {
            real: self.root.join("real"),
            options: MountOptions {
                lowerdir: self.root.join("lower"),
                upperdir: self.root.join("upper"),
                workdir: self.root.join("work"),
                further: Vec::new(),
            },
        }
    }
}

fn option(name: &str, value: Option<&str>) -> MountOption {
    MountOption {
        name: name.to_owned(),
        value: value.map(str::to_owned),
    }
}

fn attempt(overlay: &Overlay) -> Result<(), Errno> {
    let text = overlay.options.text().expect("not too long");
    let text = CString::new(text).expect("no zero");
    mount(
        "overlay",
        &overlay.real,
        "overlay",
        MountFlags::empty(),
        &*text,
    )
}

/// Mounts, which has to fail, and explains it.
#[track_caller]
fn explained(overlay: &Overlay) -> MountFailure {
    let log = KernelLog::from_now(&System::here().expect("/proc and /run"));
    let errno = attempt(overlay).expect_err("the kernel should have refused");
    let failure = MountFailure::explain(overlay, errno, log, Cause::from_mount_api(overlay));
    let text = failure.to_string();
    assert!(
        text.contains(overlay.real.to_str().expect("UTF-8")),
        "{text}"
    );
    failure
}

#[test]
fn what_the_kernel_takes_is_mounted() {
    in_scratch(|scratch| {
        attempt(&scratch.overlay()).expect("nothing is wrong with it");
    });
}

#[test]
fn a_text_that_is_too_long() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        overlay.options.lowerdir = Path::new("/").join("a/".repeat(2100));
        let failure = MountFailure::explain(&overlay, Errno::INVAL, KernelLog::default(), None);
        assert!(matches!(failure.cause, Cause::TextTooLong(_)), "{failure}");
    });
}

#[test]
fn no_permission() {
    in_scratch(|scratch| {
        let mut sets = rustix::thread::capabilities(None).expect("our own");
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, sets).expect("fewer are always possible");
        assert_eq!(explained(&scratch.overlay()).cause, Cause::NotPermitted);
    });
}

#[test]
fn a_kernel_without_overlays() {
    in_scratch(|scratch| {
        // The number that such a kernel gives: fs_type of mount(2).
        let failure =
            MountFailure::explain(&scratch.overlay(), Errno::NODEV, KernelLog::default(), None);
        assert_eq!(failure.cause, Cause::NoOverlay);
    });
}

#[test]
fn missing_directories() {
    in_scratch(|scratch| {
        for name in ["lower", "upper", "work"] {
            let path = scratch.root.join(name);
            fs::remove_dir(&path).expect("it is empty");
            let failure = explained(&scratch.overlay());
            assert!(
                matches!(&failure.cause, Cause::Directory { path: found, .. } if *found == path),
                "{failure}"
            );
            fs::write(&path, "a file").expect("there is nothing");
            let failure = explained(&scratch.overlay());
            assert!(
                matches!(&failure.cause, Cause::Directory { why, .. } if why.contains("not a directory")),
                "{failure}"
            );
            fs::remove_file(&path).expect("it was just made");
            fs::create_dir(&path).expect("there is nothing");
        }
    });
}

#[test]
fn a_read_only_upper_layer() {
    in_scratch(|scratch| {
        let writable = scratch.root.join("writable");
        fs::create_dir(&writable).expect("new");
        mount("tmpfs", &writable, "tmpfs", MountFlags::empty(), None).expect("root may");
        for name in ["upper", "work"] {
            fs::create_dir(writable.join(name)).expect("new");
        }
        rustix::mount::mount_remount(&writable, MountFlags::RDONLY, "").expect("root may");
        let mut overlay = scratch.overlay();
        overlay.options.upperdir = writable.join("upper");
        overlay.options.workdir = writable.join("work");
        let failure = explained(&overlay);
        assert_eq!(failure.cause, Cause::UpperReadOnly(writable.join("upper")));
    });
}

#[test]
fn layers_on_different_mounts() {
    in_scratch(|scratch| {
        let overlay = scratch.overlay();
        // The same file system, but a mount of its own.
        mount_bind(&overlay.options.workdir, &overlay.options.workdir).expect("root may");
        let failure = explained(&overlay);
        assert!(
            matches!(failure.cause, Cause::DifferentMounts { .. }),
            "{failure}"
        );
    });
}

#[test]
fn layers_inside_each_other() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        overlay.options.workdir = scratch.root.join("upper/work");
        fs::create_dir(&overlay.options.workdir).expect("new");
        let failure = explained(&overlay);
        assert!(
            matches!(&failure.cause, Cause::Nested { inner, .. } if *inner == overlay.options.workdir),
            "{failure}"
        );
        overlay.options.workdir = overlay.options.upperdir.clone();
        let failure = explained(&overlay);
        assert!(matches!(&failure.cause, Cause::Nested { .. }), "{failure}");
    });
}

#[test]
fn a_third_level() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        for level in 1..=2 {
            attempt(&overlay).expect("the kernel stacks two");
            let next = scratch.root.join(format!("level-{level}"));
            for name in ["real", "upper", "work"] {
                fs::create_dir_all(next.join(name)).expect("new");
            }
            overlay = Overlay {
                options: MountOptions {
                    lowerdir: overlay.real,
                    upperdir: next.join("upper"),
                    workdir: next.join("work"),
                    further: Vec::new(),
                },
                real: next.join("real"),
            };
        }
        let failure = explained(&overlay);
        assert_eq!(failure.cause, Cause::TooDeep(overlay.options.lowerdir));
    });
}

#[test]
fn an_upper_layer_in_use() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        overlay.options.further = vec![option("index", Some("on"))];
        attempt(&overlay).expect("nothing is wrong with it");
        overlay.real = scratch.root.join("elsewhere");
        fs::create_dir(&overlay.real).expect("new");
        overlay.options.workdir = scratch.root.join("work-2");
        fs::create_dir(&overlay.options.workdir).expect("new");
        let failure = explained(&overlay);
        assert_eq!(failure.errno, Errno::BUSY);
        assert_eq!(failure.cause, Cause::InUse(overlay.options.upperdir));
    });
}

/// The kernel's log has also what it says of other mounts.
#[test]
fn what_is_said_of_another_mount_is_not_the_cause() {
    in_scratch(|scratch| {
        let mut other = scratch.overlay();
        other.options.upperdir = PathBuf::from("/proc/sys");
        other.options.workdir = PathBuf::from("/proc/tty");
        let overlay = scratch.overlay();
        let log = KernelLog::from_now(&System::here().expect("/proc and /run"));
        attempt(&other).expect_err("it cannot be an upper layer");
        let failure = MountFailure::explain(&overlay, Errno::BUSY, log, None);
        assert_eq!(failure.cause, Cause::InUse(overlay.options.upperdir));
    });
}

#[test]
fn a_file_system_that_cannot_be_an_upper_layer() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        overlay.options.upperdir = PathBuf::from("/proc/sys");
        overlay.options.workdir = PathBuf::from("/proc/tty");
        let failure = explained(&overlay);
        assert_eq!(failure.cause, Cause::UpperUnfit(overlay.options.upperdir));
    });
}

#[test]
fn an_unknown_option() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        overlay.options.further = vec![option("foo", None)];
        let failure = explained(&overlay);
        let text = failure.to_string();
        assert!(text.contains("Unknown parameter 'foo'"), "{text}");
        overlay.options.further = vec![option("index", Some("perhaps"))];
        let text = explained(&overlay).to_string();
        assert!(text.contains("Bad value for 'index'"), "{text}");
    });
}

#[test]
fn options_that_exclude_each_other() {
    in_scratch(|scratch| {
        let mut overlay = scratch.overlay();
        overlay.options.further = vec![option("userxattr", None), option("metacopy", Some("on"))];
        let failure = explained(&overlay);
        let text = failure.to_string();
        assert!(
            text.contains("userxattr") && text.contains("metacopy"),
            "{text}"
        );
    });
}

#[test]
fn a_cause_that_cannot_be_told_says_where_to_look() {
    in_scratch(|scratch| {
        let failure =
            MountFailure::explain(&scratch.overlay(), Errno::IO, KernelLog::default(), None);
        assert!(matches!(failure.cause, Cause::Unknown), "{failure}");
        assert!(
            failure.to_string().contains("the cause is unknown"),
            "{failure}"
        );
        assert!(failure.remedy().to_string().ends_with(": dmesg"));
    });
}
