//! `/proc/self/mountinfo`: the mounts of a mount namespace (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::octal;
use crate::escape::show;

/// One line of it: one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's number. Another mount may get it once this one is gone.
    pub id: u64,
    /// The number of the mount that this one is mounted on. It need not be listed: the parent of the
    /// first mount that can be reached from the root directory is not.
    pub parent: u64,
    /// Major number of the file system's device.
    pub major: u32,
    /// Minor number of the file system's device.
    pub minor: u32,
    /// What of the file system is shown: `/`, or a directory of it for a bind mount.
    pub root: PathBuf,
    /// Where it is mounted, seen from the root directory of the process.
    pub mount_point: PathBuf,
    /// The mount's own options, as printed: `rw,nosuid,relatime`.
    pub options: Vec<u8>,
    /// The optional fields: `shared:1`, `master:2`, ...
    pub optional: Vec<Vec<u8>>,
    /// The file system's type: `overlay`.
    pub fs_type: OsString,
    /// What was mounted, as the file system chose to call it; may be empty.
    pub source: OsString,
    /// The options of the file system, as printed: octal escapes and all, since an escaped comma
    /// must not be taken for one between options. For an overlay, see
    /// [`SuperOptions`](super::options::SuperOptions).
    pub super_options: Vec<u8>,
}

/// A line that is not one of `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a line of /proc/self/mountinfo (proc_pid_mountinfo(5)); found `{0}`")]
pub struct BadLine(pub String);

impl MountInfo {
    /// Reads one line, without its newline.
    ///
    /// # Errors
    /// When a field is missing or a number is none.
    pub fn parse(line: &[u8]) -> Result<Self, BadLine> {
        parse_line(line).ok_or_else(|| BadLine(show(line).into_owned()))
    }

    /// Reads the whole file, in the order printed.
    ///
    /// # Errors
    /// When a line cannot be read.
    pub fn parse_all(content: &[u8]) -> Result<Vec<Self>, BadLine> {
        content
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(Self::parse)
            .collect()
    }

    /// Whether both mounts show one file system.
    pub(crate) fn is_of_same_file_system(&self, other: &MountInfo) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }

    /// The line, without a newline, as the kernel prints it.
    pub fn to_line(&self) -> Vec<u8> {
        let path = |path: &Path| octal::escape(path.as_os_str().as_bytes(), octal::PATH);
        let mut fields = vec![
            self.id.to_string().into_bytes(),
            self.parent.to_string().into_bytes(),
            format!("{}:{}", self.major, self.minor).into_bytes(),
            path(&self.root),
            path(&self.mount_point),
            self.options.clone(),
        ];
        fields.extend(self.optional.iter().cloned());
        fields.push(b"-".to_vec());
        fields.push(octal::escape(self.fs_type.as_bytes(), octal::SOURCE));
        fields.push(octal::escape(self.source.as_bytes(), octal::SOURCE));
        fields.push(self.super_options.clone());
        fields.join(&b' ')
    }

    /// Whether the mount itself has this option (`ro`, `nosuid`, ...). A mount that is `rw` can still
    /// show a file system that is read-only: see [`super_option`](Self::super_option).
    pub fn option(&self, name: &str) -> bool {
        has_option(&self.options, name)
    }

    /// Whether the file system has this option, for all its mounts.
    pub fn super_option(&self, name: &str) -> bool {
        has_option(&self.super_options, name)
    }

    /// Whether nothing can be written through this mount.
    pub fn is_read_only(&self) -> bool {
        self.option("ro") || self.super_option("ro")
    }
}

fn has_option(options: &[u8], name: &str) -> bool {
    options
        .split(|&byte| byte == b',')
        .any(|option| option == name.as_bytes())
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    // Fields are separated by single spaces: a source may be empty.
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.splitn(2, |&byte| byte == b':');
    let major = number(device.next()?)?;
    let minor = number(device.next()?)?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = fields.next()?.to_vec();
    let mut optional = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            field => optional.push(field.to_vec()),
        }
    }
    let fs_type = OsString::from_vec(octal::unescape(fields.next()?));
    let source = OsString::from_vec(octal::unescape(fields.next()?));
    // No file system prints a raw space, but one that did would print it here, at the end.
    let super_options = fields.collect::<Vec<_>>().join(&b' ');
    Some(MountInfo {
        id,
        parent,
        major,
        minor,
        root,
        mount_point,
        options,
        optional,
        fs_type,
        source,
        super_options,
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(octal::unescape(field)))
}

/// The mounts at exactly `path`, topmost first: what `umount` would take away, one after the other.
///
/// `path` is absolute, without symbolic links and `.` or `..`. A mount that was made there but lies
/// hidden, because something else was mounted over a directory above it later, is not among them.
pub fn stack_at<'a>(mounts: &'a [MountInfo], path: &Path) -> Vec<&'a MountInfo> {
    let mut stack = Vec::new();
    // The mount that shows the directory reached so far, if it is listed.
    let mut current: Option<&MountInfo> = None;
    let mut directories: Vec<&Path> = path.ancestors().collect();
    directories.reverse();
    // Every mount is passed once at most, so that a list that is no tree cannot keep us here.
    let mut passed = 0;
    for directory in directories {
        while passed < mounts.len()
            && let Some(mount) = mounted_on(mounts, current, directory)
        {
            passed += 1;
            current = Some(mount);
            if directory == path {
                stack.push(mount);
            }
        }
    }
    stack.reverse();
    stack
}

/// The mount whose mount point is `directory`, as `current` shows it.
///
/// Without a current mount it is the first one that is met on the way: the one whose parent lies
/// outside of what the process can reach.
fn mounted_on<'a>(
    mounts: &'a [MountInfo],
    current: Option<&MountInfo>,
    directory: &Path,
) -> Option<&'a MountInfo> {
    mounts
        .iter()
        .filter(|mount| mount.mount_point == directory)
        .find(|mount| match current {
            // The root of the whole mount tree is its own parent.
            Some(current) => mount.parent == current.id && mount.id != current.id,
            None => mount.parent == mount.id || mounts.iter().all(|other| other.id != mount.parent),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> MountInfo {
        MountInfo::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let mount = read(
            r"208 178 0:44 /a\040b /mnt/x\134y rw,nosuid master:1 shared:7 - overlay ov\043 ro,lowerdir=/l\134\054x",
        );
        assert_eq!(
            mount,
            MountInfo {
                id: 208,
                parent: 178,
                major: 0,
                minor: 44,
                root: "/a b".into(),
                mount_point: r"/mnt/x\y".into(),
                options: b"rw,nosuid".to_vec(),
                optional: vec![b"master:1".to_vec(), b"shared:7".to_vec()],
                fs_type: "overlay".into(),
                source: "ov#".into(),
                super_options: br"ro,lowerdir=/l\134\054x".to_vec(),
            }
        );
        assert!(mount.option("nosuid") && !mount.option("nos") && !mount.option("ro"));
        assert!(mount.super_option("ro") && mount.is_read_only());
    }

    #[test]
    fn fields_may_be_empty_or_absent() {
        let mount = read("217 214 0:59 / /mnt rw - overlay  rw");
        assert_eq!(mount.source, "");
        assert_eq!(mount.optional, Vec::<Vec<u8>>::new());
        assert!(!mount.is_read_only());
        assert_eq!(read("1 1 0:1 / / rw - rootfs none ").super_options, b"");
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in [
            "",
            "1 2 0:3 / / rw",
            "1 2 0:3 / / rw shared:1 overlay none rw",
            "x 2 0:3 / / rw - t s o",
            "1 2 03 / / rw - t s o",
            "1 2 0:3 / / rw - t",
        ] {
            assert!(MountInfo::parse(line.as_bytes()).is_err(), "{line}");
        }
        assert!(MountInfo::parse_all(b"1 1 0:1 / / rw - t s o\n\nx\n").is_err());
        assert_eq!(
            MountInfo::parse_all(b"1 1 0:1 / / rw - t s o\n")
                .unwrap()
                .len(),
            1
        );
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\\')], 0..20)
    }

    /// As the kernel prints it: without spaces and newlines.
    fn printed() -> impl Strategy<Value = Vec<u8>> {
        bytes().prop_map(|bytes| octal::escape(&bytes, octal::PATH))
    }

    prop_compose! {
        fn mount()(
            (id, parent, major, minor) in any::<(u64, u64, u32, u32)>(),
            (root, mount_point, fs_type, source) in (bytes(), bytes(), bytes(), bytes()),
            (options, super_options) in (printed(), printed()),
            optional in prop::collection::vec(printed(), 0..3),
        ) -> MountInfo {
            let text = OsString::from_vec;
            MountInfo {
                id, parent, major, minor,
                root: text(root).into(),
                mount_point: text(mount_point).into(),
                options,
                optional: optional.into_iter().filter(|field| field != b"-").collect(),
                fs_type: text(fs_type),
                source: text(source),
                super_options,
            }
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(mounts in prop::collection::vec(mount(), 0..4)) {
            let content: Vec<u8> = mounts.iter().flat_map(|mount| [mount.to_line(), b"\n".to_vec()].concat()).collect();
            prop_assert_eq!(MountInfo::parse_all(&content), Ok(mounts));
        }

        #[test]
        fn any_bytes_are_read_or_refused(line: Vec<u8>) {
            let _ = MountInfo::parse(&line);
        }

        #[test]
        fn any_tree_has_a_stack(parents in prop::collection::vec(0..6u64, 1..6)) {
            let mounts: Vec<_> = parents.iter().enumerate().map(|(id, parent)| {
                read(&format!("{id} {parent} 0:1 / /a rw - t s o"))
            }).collect();
            prop_assert!(stack_at(&mounts, Path::new("/a")).len() <= mounts.len());
        }
    }

    #[test]
    fn this_machine_s_own_can_be_read() {
        let content = std::fs::read("/proc/self/mountinfo").unwrap();
        let mounts = MountInfo::parse_all(&content).unwrap();
        for (mount, line) in mounts.iter().zip(content.split(|&byte| byte == b'\n')) {
            assert_eq!(mount.to_line(), line);
        }
    }
}
