//! The options of an OverlayFS mount, written for mount(2) and read back from the mount table.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::octal;

/// The longest option text that mount(2) takes, in bytes: a page less the byte 0 at its end.
pub(crate) const MAX_LENGTH: usize = 4095;

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
#[error("the mount options are {length} bytes long, and mount(2) takes {MAX_LENGTH}")]
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
            text.extend(option.text());
        }
        match text.len() {
            length if length > MAX_LENGTH => Err(OptionsTooLong { length }),
            _ => Ok(text),
        }
    }

    /// How the mount table would show them, if the kernel left none out.
    pub(crate) fn as_shown(&self) -> Vec<u8> {
        let mut text = [
            b"rw,lowerdir=".as_slice(),
            &as_shown(&escape_lower(&self.lowerdir)),
            b",upperdir=",
            &as_shown(&escape(&self.upperdir)),
            b",workdir=",
            &as_shown(&escape(&self.workdir)),
        ]
        .concat();
        for option in &self.further {
            text.push(b',');
            // What a security module shows is quoted as it is given.
            text.extend(match is_context(&option.name) {
                true => option.text(),
                false => as_shown(&option.text()),
            });
        }
        text
    }
}

impl MountOption {
    /// The option in a text for mount(2). A security module reads its own options before OverlayFS
    /// does, and knows quotation marks but no backslash (source: `selinux_sb_eat_lsm_opts`).
    fn text(&self) -> Vec<u8> {
        match &self.value {
            Some(value) if is_context(&self.name) && value.contains(',') => {
                format!("{}=\"{value}\"", self.name).into_bytes()
            }
            _ => escape(Path::new(&self.to_string())),
        }
    }
}

/// Whether an option is one that a security module reads.
pub(crate) fn is_context(name: &str) -> bool {
    kind(name).is_some_and(|kind| kind.takes == Takes::Text)
}

/// How the mount table shows an option value that was given as `text`.
pub(crate) fn as_shown(text: &[u8]) -> Vec<u8> {
    octal::escape(text, octal::OPTION_VALUE)
}

/// The text of a path that is the upper layer or the work directory: `\` and `,` take a backslash.
///
/// A colon may have one too, but is left alone: it stands in the mount table as it was given, and
/// Nix's mount check looks for the path as it is.
pub(crate) fn escape(path: &Path) -> Vec<u8> {
    escape_bytes(path, b"\\,")
}

/// The text of a path that is a lower layer: `\`, `,` and `:`, which separates lower layers, take a
/// backslash.
pub(crate) fn escape_lower(path: &Path) -> Vec<u8> {
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

/// What an option is. Source: the kernel's `fs/overlayfs/params.c` (`super.c` before 6.4).
#[derive(Debug)]
pub(crate) struct OptionKind {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// Values that put store objects at risk (`None`: the option without a value), and how.
    pub risks: &'static [(Option<&'static str>, &'static str)],
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// No value.
    Nothing,
    /// One of these values.
    OneOf(&'static [&'static str]),
    /// Any text: a security module reads it.
    Text,
    /// It is not for the description: overstore sets it, for this reason.
    SetByOverstore(&'static str),
    /// It is none of OverlayFS: what mount(8) takes, and the kernel as a flag of any mount.
    Flag,
}

/// The option with which an overlay keeps its marks in `user.overlay.*`.
pub(crate) const USERXATTR: &str = "userxattr";

const ON_OFF: Takes = Takes::OneOf(&["on", "off"]);

const UNSYNCED: &str = "the kernel then writes nothing out to the upper layer: after a power cut its \
                        objects may be damaged, and the overlay cannot be mounted again before \
                        somebody removes `work/incompat` from the work directory";

/// An option without risks.
const fn option(name: &'static str, takes: Takes) -> OptionKind {
    OptionKind {
        name,
        takes,
        risks: &[],
    }
}

/// The options of OverlayFS, as of Linux 7. Which of them a kernel has depends on its version; their
/// defaults, on its build and on parameters of the module ([`Defaults`](super::defaults::Defaults)).
const OPTIONS: &[OptionKind] = &[
    option(
        "lowerdir",
        Takes::SetByOverstore("it follows from `lower-store`"),
    ),
    option(
        "lowerdir+",
        Takes::SetByOverstore(
            "it follows from `lower-store`, and Nix wants exactly one lower layer",
        ),
    ),
    option(
        "datadir+",
        Takes::SetByOverstore("data-only layers are no part of a local-overlay store"),
    ),
    option(
        "upperdir",
        Takes::SetByOverstore("it follows from `upper-layer`"),
    ),
    option(
        "workdir",
        Takes::SetByOverstore("it follows from `workdir`"),
    ),
    // Where the mount is made in a user namespace, overstore sets it.
    option(USERXATTR, Takes::Nothing),
    option("default_permissions", Takes::Nothing),
    OptionKind {
        name: "redirect_dir",
        takes: Takes::OneOf(&["on", "off", "follow", "nofollow"]),
        risks: &[(
            Some("on"),
            "a directory of the upper layer can then be a mere pointer to one in the lower store: \
             the upper layer is no longer whole without this very mount, and Nix works on it directly",
        )],
    },
    option("index", ON_OFF),
    option("uuid", Takes::OneOf(&["on", "off", "null", "auto"])),
    option("nfs_export", ON_OFF),
    option("xino", Takes::OneOf(&["on", "off", "auto"])),
    OptionKind {
        name: "metacopy",
        takes: ON_OFF,
        risks: &[(
            Some("on"),
            "a file of the upper layer can then be without its data, which only the lower store has: \
             the upper layer is no longer whole without this very mount, and Nix works on it directly",
        )],
    },
    option("verity", Takes::OneOf(&["on", "off", "require"])),
    OptionKind {
        name: "volatile",
        takes: Takes::Nothing,
        risks: &[(None, UNSYNCED)],
    },
    OptionKind {
        name: "fsync",
        takes: Takes::OneOf(&["auto", "strict", "volatile"]),
        // Newer kernels (seen with 6.18.44) take it for the same, and show this.
        risks: &[(Some("volatile"), UNSYNCED)],
    },
    option("override_creds", Takes::Nothing),
    option("nooverride_creds", Takes::Nothing),
    option("context", Takes::Text),
    option("fscontext", Takes::Text),
    option("defcontext", Takes::Text),
    option("rootcontext", Takes::Text),
];

/// What mount(8) takes as an option and the kernel as a flag of the mount, not of OverlayFS.
const FLAGS: &[&str] = &[
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "lazytime",
    "mand",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "nouser",
    "private",
    "relatime",
    "remount",
    "ro",
    "rw",
    "shared",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "user",
    "users",
    "_netdev",
];

/// What an option of this name is, if there is one.
pub(crate) fn kind(name: &str) -> Option<&'static OptionKind> {
    const FLAG: OptionKind = option("", Takes::Flag);
    OPTIONS
        .iter()
        .find(|option| option.name == name)
        .or_else(|| FLAGS.contains(&name).then_some(&FLAG))
}

/// The names of the options that a description can give, for suggestions.
pub(crate) fn known_options() -> impl Iterator<Item = &'static str> {
    OPTIONS
        .iter()
        .filter(|option| !matches!(option.takes, Takes::SetByOverstore(_)))
        .map(|option| option.name)
}

impl OptionKind {
    /// The forms it can have, in words, if a value is none that it takes.
    pub(crate) fn expected_instead_of(&self, value: Option<&str>) -> Option<String> {
        let name = self.name;
        match (self.takes, value) {
            (Takes::Nothing, Some(_)) => Some(format!("`{name}` without a value")),
            (Takes::OneOf(values), value) if !value.is_some_and(|it| values.contains(&it)) => {
                let forms: Vec<_> = values
                    .iter()
                    .map(|value| format!("`{name}={value}`"))
                    .collect();
                Some(forms.join(" or "))
            }
            (Takes::Text, None) => Some(format!("`{name}=` and a text")),
            _ => None,
        }
    }

    /// Whether a value turns on something that is off unless somebody, or the kernel's build, wants it
    /// on. What a kernel shows and does not count as that is a default that it fell back from, or
    /// chose itself.
    pub(crate) fn turns_on(&self, value: Option<&str>) -> bool {
        match (self.takes, value) {
            (Takes::Nothing, None) => true,
            (Takes::OneOf(_), Some(value)) => match self.name {
                "uuid" => value == "off",
                "fsync" => value == "volatile",
                _ => !matches!(value, "off" | "nofollow" | "follow" | "auto"),
            },
            _ => false,
        }
    }

    /// How a value puts store objects at risk, if it does.
    pub(crate) fn risk_of(&self, value: Option<&str>) -> Option<&'static str> {
        let (_, why) = self.risks.iter().find(|(risky, _)| *risky == value)?;
        Some(why)
    }
}

/// An option, and some of its values.
type Given = (&'static str, &'static [&'static str]);

/// Pairs of options that the kernel refuses together, with no reason but `EINVAL`. Both have to have
/// been given: what a kernel defaults to gives way. Source: `ovl_fs_params_verify`.
const CONFLICTS: &[(Given, Given)] = &[
    // `off` is `follow` unless a parameter of the module says otherwise.
    (
        (USERXATTR, &[""]),
        ("redirect_dir", &["on", "off", "follow"]),
    ),
    ((USERXATTR, &[""]), ("metacopy", &["on"])),
    ((USERXATTR, &[""]), ("verity", &["on", "require"])),
    (("nfs_export", &["on"]), ("index", &["off"])),
    (("nfs_export", &["on"]), ("metacopy", &["on"])),
    (
        ("metacopy", &["on"]),
        ("redirect_dir", &["off", "nofollow", "follow"]),
    ),
    (("verity", &["on", "require"]), ("metacopy", &["off"])),
    (
        ("verity", &["on", "require"]),
        ("redirect_dir", &["off", "nofollow", "follow"]),
    ),
];

/// Whether an option follows from others: the kernel turns on what those need.
pub(crate) fn implied(options: &[MountOption], option: &MountOption) -> bool {
    let given = |name: &str, values: &[&str]| {
        options.iter().any(|option| {
            option.name == name && values.contains(&option.value.as_deref().unwrap_or_default())
        })
    };
    let verity = given("verity", &["on", "require"]);
    match (option.name.as_str(), option.value.as_deref()) {
        ("metacopy", Some("on")) => verity,
        ("redirect_dir", Some("on")) => verity || given("metacopy", &["on"]),
        ("index", Some("on")) => given("nfs_export", &["on"]),
        _ => false,
    }
}

/// The pairs among the options that the kernel refuses together.
pub(crate) fn conflicts(options: &[MountOption]) -> Vec<[&MountOption; 2]> {
    let given = |(name, values): &Given| {
        options.iter().find(|option| {
            let value = option.value.as_deref().unwrap_or_default();
            option.name == *name && values.contains(&value)
        })
    };
    CONFLICTS
        .iter()
        .filter_map(|(first, second)| Some([given(first)?, given(second)?]))
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
        let mut rest = text;
        while !rest.is_empty() {
            let (option, tail) = first_option(rest);
            rest = tail;
            if option.is_empty() {
                continue;
            }
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
                (name_of_any, Some(value)) if is_context_bytes(name_of_any) => {
                    let bare = unquoted(&value).to_owned();
                    options.others.push((name, Some(bare)));
                }
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

/// Parts the first option from the others. A comma in a value is shown in octal, but in a security
/// context: that is in quotation marks then.
fn first_option(text: &[u8]) -> (&[u8], &[u8]) {
    let quoted = text
        .iter()
        .position(|&byte| byte == b'=')
        .filter(|&equals| is_context_bytes(&text[..equals]))
        .map(|equals| &text[equals + 1..])
        .and_then(|value| Some((value, value.strip_prefix(b"\"")?)))
        .and_then(|(value, inside)| {
            let end = inside.iter().position(|&byte| byte == b'"')?;
            Some(text.len() - value.len() + end + 2)
        });
    let from = quoted.unwrap_or(0);
    match text[from..].iter().position(|&byte| byte == b',') {
        Some(comma) => (&text[..from + comma], &text[from + comma + 1..]),
        None => (text, &[]),
    }
}

fn is_context_bytes(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(is_context)
}

/// A value without quotation marks around it.
fn unquoted(value: &[u8]) -> &[u8] {
    let inside = |value: &'_ [u8]| -> Option<std::ops::Range<usize>> {
        value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        Some(1..value.len() - 1)
    };
    inside(value).map_or(value, |range| &value[range])
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
