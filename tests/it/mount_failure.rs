//! Every reason for which the kernel refuses an overlay, and what overstore makes of it.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use overstore::testing::apply::{Cause, MountFailure};
use overstore::testing::linux::KernelLog;
use overstore::testing::linux::System;
use overstore::testing::overlayfs::{MountOption, MountOptions};
use overstore::testing::plan::Overlay;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{CapabilitySet, UnshareFlags};

/// A tmpfs with the four directories, in a mount namespace that is this thread's own.
struct Scratch {
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Scratch {
    /// `None` (reported) without root.
    fn new() -> Option<Scratch> {
        if !rustix::process::geteuid().is_root() {
            crate::support::skip("root", "mounting needs it");
            return None;
        }
        // Only the thread's own namespace and working directory: nothing of the process is shared
        // that matters to anybody.
        #[allow(unsafe_code, reason = "no descriptor table is unshared")]
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("root may");
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .expect("root may");
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("it is there");
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), None).expect("root may");
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("it is ours");
        for name in ["real", "lower", "upper", "work"] {
            fs::create_dir(root.join(name)).expect("it is empty");
        }
        Some(Scratch {
            root,
            _directory: directory,
        })
    }

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
    let failure = MountFailure::explain(overlay, errno, log);
    let text = failure.to_string();
    assert!(
        text.contains(overlay.real.to_str().expect("UTF-8")),
        "{text}"
    );
    failure
}

#[test]
fn what_the_kernel_takes_is_mounted() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    attempt(&scratch.overlay()).expect("nothing is wrong with it");
}

#[test]
fn a_text_that_is_too_long() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let mut overlay = scratch.overlay();
    overlay.options.lowerdir = Path::new("/").join("a/".repeat(2100));
    let failure = MountFailure::explain(&overlay, Errno::INVAL, KernelLog::default());
    assert!(matches!(failure.cause, Cause::TextTooLong(_)), "{failure}");
}

#[test]
fn no_permission() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let mut sets = rustix::thread::capabilities(None).expect("our own");
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    rustix::thread::set_capabilities(None, sets).expect("fewer are always possible");
    assert_eq!(explained(&scratch.overlay()).cause, Cause::NotPermitted);
}

#[test]
fn a_kernel_without_overlays() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    // The number that such a kernel gives: fs_type of mount(2).
    let failure = MountFailure::explain(&scratch.overlay(), Errno::NODEV, KernelLog::default());
    assert_eq!(failure.cause, Cause::NoOverlay);
}

#[test]
fn missing_directories() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
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
}

#[test]
fn a_read_only_upper_layer() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
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
}

#[test]
fn layers_on_different_mounts() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let overlay = scratch.overlay();
    // The same file system, but a mount of its own.
    mount_bind(&overlay.options.workdir, &overlay.options.workdir).expect("root may");
    let failure = explained(&overlay);
    assert!(
        matches!(failure.cause, Cause::DifferentMounts { .. }),
        "{failure}"
    );
}

#[test]
fn layers_inside_each_other() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
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
}

#[test]
fn a_third_level() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
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
}

#[test]
fn an_upper_layer_in_use() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
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
}

#[test]
fn a_file_system_that_cannot_be_an_upper_layer() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let mut overlay = scratch.overlay();
    overlay.options.upperdir = PathBuf::from("/proc/sys");
    overlay.options.workdir = PathBuf::from("/proc/tty");
    let failure = explained(&overlay);
    assert_eq!(failure.cause, Cause::UpperUnfit(overlay.options.upperdir));
}

#[test]
fn an_unknown_option() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let mut overlay = scratch.overlay();
    overlay.options.further = vec![option("foo", None)];
    let failure = explained(&overlay);
    let text = failure.to_string();
    assert!(text.contains("Unknown parameter 'foo'"), "{text}");
    overlay.options.further = vec![option("index", Some("perhaps"))];
    let text = explained(&overlay).to_string();
    assert!(text.contains("Bad value for 'index'"), "{text}");
}

#[test]
fn options_that_exclude_each_other() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let mut overlay = scratch.overlay();
    overlay.options.further = vec![option("userxattr", None), option("metacopy", Some("on"))];
    let failure = explained(&overlay);
    let text = failure.to_string();
    assert!(
        text.contains("userxattr") && text.contains("metacopy"),
        "{text}"
    );
}

#[test]
fn a_cause_that_cannot_be_told_says_where_to_look() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let failure = MountFailure::explain(&scratch.overlay(), Errno::IO, KernelLog::default());
    assert!(matches!(failure.cause, Cause::Unknown { .. }), "{failure}");
    assert!(failure.to_string().contains("dmesg"), "{failure}");
}
