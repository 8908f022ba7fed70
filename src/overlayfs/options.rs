//! The options of an OverlayFS mount, written for mount(2) and read back from the mount table.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::octal;

/// The longest option text that mount(2) takes, in bytes: a page less the byte 0 at its end.
pub const MAX_LENGTH: usize = 4095;

/// One option of an OverlayFS mount, `name` or `name=value`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct MountOption {
    /// The option's name, such as `index`.
    pub name: String,
    /// Its value, such as `on`, if it has one.
    pub value: Option<String>,
}

impl fmt::Display for MountOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The options of the mount that a local-overlay store needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The lower store directory. Nix's own check takes one lower layer, no more.
    pub lowerdir: PathBuf,
    /// The upper layer.
    pub upperdir: PathBuf,
    /// The work directory.
    pub workdir: PathBuf,
    /// Further options, in the order in which they are to be given.
    pub further: Vec<MountOption>,
}

/// An option text that mount(2) would cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the mount options are {length} bytes long, and mount(2) takes {MAX_LENGTH}; use shorter paths \
     for the lower store directory, the upper layer and the work directory"
)]
pub struct OptionsTooLong {
    /// The length of the text in bytes.
    pub length: usize,
}

impl MountOptions {
    /// The text for mount(2): the three directories in the order lower, upper, work, then the
    /// further options.
    ///
    /// # Errors
    /// When it is longer than mount(2) takes.
    pub fn text(&self) -> Result<Vec<u8>, OptionsTooLong> {
        let mut text = Vec::new();
        text.extend_from_slice(b"lowerdir=");
        text.extend(escape_lower(&self.lowerdir));
        text.extend_from_slice(b",upperdir=");
        text.extend(escape(&self.upperdir));
        text.extend_from_slice(b",workdir=");
        text.extend(escape(&self.workdir));
        for option in &self.further {
            text.push(b',');
            text.extend(escape(Path::new(&option.to_string())));
        }
        match text.len() {
            length if length > MAX_LENGTH => Err(OptionsTooLong { length }),
            _ => Ok(text),
        }
    }
}

/// How the mount table shows an option value that was given as `text`.
pub fn as_shown(text: &[u8]) -> Vec<u8> {
    octal::escape(text, octal::OPTION_VALUE)
}

/// The text of a path that is the upper layer or the work directory: `\` and `,` take a backslash.
///
/// A colon may have one too, but is left alone: it stands in the mount table as it was given, and
/// Nix's mount check looks for the path as it is.
pub fn escape(path: &Path) -> Vec<u8> {
    escape_bytes(path, b"\\,")
}

/// The text of a path that is a lower layer: `\`, `,` and `:`, which separates lower layers, take a
/// backslash.
pub fn escape_lower(path: &Path) -> Vec<u8> {
    escape_bytes(path, b"\\,:")
}

fn escape_bytes(path: &Path, set: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if set.contains(&byte) {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text
}

/// Takes the backslashes away: each stands for the byte that follows.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' => bytes.extend(rest.next()),
            _ => bytes.push(byte),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// What is wrong, or worth a thought, with a further option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionProblem {
    /// overstore sets it itself.
    #[error("`{name}` is set by overstore itself: {instead}")]
    SetByOverstore {
        /// The option.
        name: &'static str,
        /// Where it comes from.
        instead: &'static str,
    },
    /// The kernel does not take this value.
    #[error("`{option}` is not what OverlayFS takes; expected {expected}")]
    BadValue {
        /// The option as given.
        option: String,
        /// The forms it can have.
        expected: String,
    },
    /// It belongs to mounts of any kind, not to OverlayFS.
    #[error(
        "`{0}` is a flag of mounts, not an option of OverlayFS; `findmnt` shows those of the mount \
         that overstore makes"
    )]
    Flag(String),
    /// It is not one that overstore knows. A kernel newer than overstore may know it.
    #[error("`{0}` is not an option of OverlayFS that overstore knows")]
    Unknown(String),
    /// After a crash, files can be empty or missing, and the kernel refuses to mount again until
    /// `work/incompat/volatile` in the work directory is removed.
    #[error(
        "with `{0}` nothing in the upper layer is synced: after a crash it has to be thrown away, \
         and the upper database with it"
    )]
    Volatile(String),
}

impl OptionProblem {
    /// Whether the option cannot be passed on. If not, the problem is a warning.
    pub fn refuses(&self) -> bool {
        match self {
            Self::SetByOverstore { .. } | Self::BadValue { .. } | Self::Flag(_) => true,
            Self::Unknown(_) | Self::Volatile(_) => false,
        }
    }
}

/// What an option takes.
enum Takes {
    Nothing,
    OneOf(&'static [&'static str]),
    /// It is not for the configuration: the text says where it comes from.
    SetBy(&'static str),
}

const ON_OFF: Takes = Takes::OneOf(&["on", "off"]);

/// The options of OverlayFS, as of Linux 7. Which of them a kernel has depends on its version; their
/// defaults, on its build and on parameters of the module.
const OPTIONS: [(&str, Takes); 18] = [
    (
        "lowerdir",
        Takes::SetBy("the lower store directory follows from the key `lower-store`"),
    ),
    (
        "lowerdir+",
        Takes::SetBy("the lower store directory follows from the key `lower-store`"),
    ),
    (
        "datadir+",
        Takes::SetBy("Nix's mount check takes one lower layer, no more"),
    ),
    ("upperdir", Takes::SetBy("it is the key `upper-layer`")),
    ("workdir", Takes::SetBy("it is the key `workdir`")),
    (
        "userxattr",
        Takes::SetBy("`overstore exec` uses it where it has no root privileges"),
    ),
    ("default_permissions", Takes::Nothing),
    (
        "redirect_dir",
        Takes::OneOf(&["on", "off", "follow", "nofollow"]),
    ),
    ("index", ON_OFF),
    ("uuid", Takes::OneOf(&["on", "off", "null", "auto"])),
    ("nfs_export", ON_OFF),
    ("xino", Takes::OneOf(&["on", "off", "auto"])),
    ("metacopy", ON_OFF),
    ("verity", Takes::OneOf(&["on", "off", "require"])),
    ("volatile", Takes::Nothing),
    ("fsync", Takes::OneOf(&["auto", "strict", "volatile"])),
    ("override_creds", Takes::Nothing),
    ("nooverride_creds", Takes::Nothing),
];

/// Options that mount(8) turns into flags of the mount.
const FLAGS: [&str; 19] = [
    "defaults",
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "nodiratime",
    "lazytime",
    "sync",
    "async",
    "dirsync",
];

/// The names of the options that a configuration can give, for suggestions.
pub fn known_options() -> impl Iterator<Item = &'static str> {
    OPTIONS
        .iter()
        .filter(|(_, takes)| !matches!(takes, Takes::SetBy(_)))
        .map(|(name, _)| *name)
}

/// Judges one further option by itself.
pub fn judge(option: &MountOption) -> Option<OptionProblem> {
    let known = OPTIONS.iter().find(|(name, _)| *name == option.name);
    let Some((name, takes)) = known else {
        let name = option.name.clone();
        return Some(match FLAGS.contains(&name.as_str()) {
            true => OptionProblem::Flag(name),
            false => OptionProblem::Unknown(name),
        });
    };
    let expected = match (takes, option.value.as_deref()) {
        (Takes::SetBy(instead), _) => {
            return Some(OptionProblem::SetByOverstore { name, instead });
        }
        (Takes::Nothing, None) => None,
        (Takes::Nothing, Some(_)) => Some(format!("`{name}` without a value")),
        (Takes::OneOf(values), Some(value)) if values.contains(&value) => None,
        (Takes::OneOf(values), _) => {
            let forms: Vec<_> = values
                .iter()
                .map(|value| format!("`{name}={value}`"))
                .collect();
            Some(forms.join(" or "))
        }
    };
    match expected {
        Some(expected) => Some(OptionProblem::BadValue {
            option: option.to_string(),
            expected,
        }),
        None if is_volatile(name, option.value.as_deref()) => {
            Some(OptionProblem::Volatile(option.to_string()))
        }
        None => None,
    }
}

fn is_volatile(name: &str, value: Option<&str>) -> bool {
    // Newer kernels (seen with 6.18.44) take both for the same, and show the latter.
    matches!(
        (name, value),
        ("volatile", None) | ("fsync", Some("volatile"))
    )
}

/// Pairs of options that the kernel refuses together, with no reason but `EINVAL`. The second has to
/// have been given: what a kernel defaults to gives way.
const CONFLICTS: [([&str; 2], [&str; 2]); 8] = [
    (["userxattr", ""], ["redirect_dir", "on"]),
    (["userxattr", ""], ["redirect_dir", "follow"]),
    (["userxattr", ""], ["metacopy", "on"]),
    (["nfs_export", "on"], ["index", "off"]),
    (["nfs_export", "on"], ["metacopy", "on"]),
    (["metacopy", "on"], ["redirect_dir", "off"]),
    (["metacopy", "on"], ["redirect_dir", "nofollow"]),
    (["metacopy", "on"], ["redirect_dir", "follow"]),
];

/// Two options that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("OverlayFS does not take `{first}` together with `{second}`; remove one of them")]
pub struct Conflict {
    /// One of them.
    pub first: String,
    /// The other one.
    pub second: String,
}

/// The pairs among the options that the kernel refuses together.
pub fn conflicts(options: &[MountOption]) -> Vec<Conflict> {
    // Of an option that is given twice, the kernel takes the last.
    let given = |[name, value]: &[&str; 2]| {
        let option = options.iter().rev().find(|option| option.name == *name)?;
        (option.value.as_deref().unwrap_or_default() == *value).then(|| option.to_string())
    };
    CONFLICTS
        .iter()
        .filter_map(|(first, second)| {
            Some(Conflict {
                first: given(first)?,
                second: given(second)?,
            })
        })
        .collect()
}

/// The options of an overlay, as the mount table shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SuperOptions {
    /// The lower layers, the topmost first, each as it was given: a relative path stays relative.
    pub lower: Vec<PathBuf>,
    /// The data-only lower layers (after `::`, or `datadir+`).
    pub data: Vec<PathBuf>,
    /// Whether the lower layers were added one by one, as `lowerdir+`. They are then shown so.
    pub appended: bool,
    /// The upper layer; `None` for an overlay that is read-only for the lack of one.
    pub upper: Option<PathBuf>,
    /// The work directory.
    pub work: Option<PathBuf>,
    /// All other options in the order shown, `rw` or `ro` among them.
    pub others: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl SuperOptions {
    /// Reads [`MountInfo::super_options`](super::mountinfo::MountInfo::super_options). Takes any
    /// bytes: what it does not know is among [`others`](Self::others).
    pub fn parse(text: &[u8]) -> Self {
        let mut options = Self::default();
        // A comma in a value is shown in octal.
        for option in text
            .split(|&byte| byte == b',')
            .filter(|option| !option.is_empty())
        {
            let mut parts = option.splitn(2, |&byte| byte == b'=');
            let name = octal::unescape(parts.next().unwrap_or_default());
            let value = parts.next().map(octal::unescape);
            match (name.as_slice(), value) {
                (b"lowerdir", Some(value)) => options.add_lower(&value),
                (b"lowerdir+", Some(value)) => {
                    // These are taken as they are, without any escapes.
                    options.appended = true;
                    options.lower.push(OsString::from_vec(value).into());
                }
                (b"datadir+", Some(value)) => options.data.push(OsString::from_vec(value).into()),
                (b"upperdir", Some(value)) => options.upper = Some(unescape(&value)),
                (b"workdir", Some(value)) => options.work = Some(unescape(&value)),
                (_, value) => options.others.push((name, value)),
            }
        }
        options
    }

    /// The value of another option, if it has one.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self
            .others
            .iter()
            .find(|(known, _)| known == name.as_bytes())?;
        value.as_deref()
    }

    /// Whether another option is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.others
            .iter()
            .any(|(known, _)| known == name.as_bytes())
    }

    /// Whether the overlay does not sync its upper layer.
    pub fn is_volatile(&self) -> bool {
        self.has("volatile") || self.value("fsync") == Some(b"volatile")
    }

    /// Adds the layers of `lowerdir=a:b::data`.
    fn add_lower(&mut self, text: &[u8]) {
        let mut rest = text;
        let mut data = false;
        loop {
            let end = end_of_layer(rest);
            let layer = unescape(&rest[..end]);
            if data {
                self.data.push(layer)
            } else {
                self.lower.push(layer)
            }
            match &rest[end..] {
                [b':', b':', tail @ ..] => (rest, data) = (tail, true),
                [b':', tail @ ..] => rest = tail,
                _ => return,
            }
        }
    }
}

/// Where the first layer ends: at a colon without a backslash, or at the end.
fn end_of_layer(text: &[u8]) -> usize {
    let mut at = 0;
    while at < text.len() && text[at] != b':' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
}

#[cfg(test)]
mod tests;
