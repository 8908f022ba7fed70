//! What fixes something that is wrong, as a value: what to do in words, what to set in the
//! description, what to run. Findings have one, and errors.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::escape::{shell_quote, show};

/// What fixes something: one way, or several, the safest first. As JSON it is two fields: `remedy`,
/// the text for people, and `remedies`, the ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remedy {
    ways: Vec<Way>,
}

/// One way to fix something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
struct Way {
    /// What to do, or (where commands follow) what they are for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instruction: Option<String>,
    /// What to set in the description, before anything is run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settings: Vec<Setting>,
    /// What to run, in this order, each after the one before it succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    commands: Vec<CommandLine>,
}

/// A key of the description, and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
struct Setting {
    /// The key, with its table: `lower.read-only`.
    key: String,
    /// The value, as TOML has it.
    value: String,
}

/// A program with its arguments. Shown as a shell takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(Vec<OsString>);

/// What somebody does in place of a command who cannot run it as it is.
#[derive(Debug)]
pub(crate) enum Instead {
    /// Runs this.
    Run(CommandLine),
    /// Does this, which is said before what is run.
    Do(&'static str),
    /// There is nothing to be done in its place: the way is none.
    Nothing,
}

/// A [`CommandLine`] of words: texts and paths.
macro_rules! command {
    ($($word:expr),+ $(,)?) => {
        $crate::remedy::CommandLine::new([$(::std::ffi::OsString::from(
            AsRef::<::std::ffi::OsStr>::as_ref(&$word)
        )),+])
    };
}
pub(crate) use command;

impl CommandLine {
    /// The command line of these words.
    pub(crate) fn new(words: impl IntoIterator<Item = OsString>) -> CommandLine {
        CommandLine(words.into_iter().collect())
    }

    /// The words.
    pub(crate) fn words(self) -> Vec<OsString> {
        self.0
    }

    /// The words, to be looked at.
    pub(crate) fn as_words(&self) -> &[OsString] {
        &self.0
    }

    /// Adds words.
    pub(crate) fn with(mut self, words: impl IntoIterator<Item = OsString>) -> CommandLine {
        self.0.extend(words);
        self
    }
}

impl Remedy {
    /// To be done, in words; or what the commands are for that follow.
    pub(crate) fn say(instruction: impl Into<String>) -> Remedy {
        Remedy {
            ways: vec![Way {
                instruction: Some(instruction.into()),
                ..Way::default()
            }],
        }
    }

    /// Further, to be set in the description.
    pub(crate) fn and_set(mut self, key: &str, value: impl Into<String>) -> Remedy {
        let (key, value) = (key.to_owned(), value.into());
        self.last().settings.push(Setting { key, value });
        self
    }

    /// Further, to be run.
    pub(crate) fn run(mut self, command: CommandLine) -> Remedy {
        self.last().commands.push(command);
        self
    }

    /// Another remedy, less safe than this one or more work.
    pub(crate) fn or(mut self, other: impl Into<Remedy>) -> Remedy {
        self.ways.extend(other.into().ways);
        self
    }

    /// The same, to be run by root.
    pub(crate) fn by_root(mut self) -> Remedy {
        for way in self.ways.iter_mut().filter(|way| !way.commands.is_empty()) {
            way.instruction = Some(match way.instruction.take() {
                Some(instruction) => format!("{instruction}, as root"),
                None => "as root".to_owned(),
            });
        }
        self
    }

    /// The same for somebody who has to do something else in place of its commands.
    pub(crate) fn map_commands(
        mut self,
        mut instead: impl FnMut(CommandLine) -> Instead,
    ) -> Remedy {
        self.ways.retain_mut(|way| {
            let mut is_possible = true;
            for command in std::mem::take(&mut way.commands) {
                match instead(command) {
                    Instead::Run(command) => way.commands.push(command),
                    Instead::Do(what) => way.say(what),
                    Instead::Nothing => is_possible = false,
                }
            }
            is_possible
        });
        self
    }

    /// The same for somebody whose store such keys do nothing for: the words for a key and its value, if
    /// it is one.
    pub(crate) fn map_settings(
        mut self,
        mut words: impl FnMut(&str, &str) -> Option<String>,
    ) -> Remedy {
        for way in &mut self.ways {
            for setting in std::mem::take(&mut way.settings) {
                match words(&setting.key, &setting.value) {
                    Some(words) => way.say(&words),
                    None => way.settings.push(setting),
                }
            }
        }
        self
    }

    /// All commands of it.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &CommandLine> {
        self.ways.iter().flat_map(|way| &way.commands)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// The remedy, if there is one.
    pub(crate) fn some(self) -> Option<Remedy> {
        (!self.is_empty()).then_some(self)
    }

    fn last(&mut self) -> &mut Way {
        if self.ways.is_empty() {
            self.ways.push(Way::default());
        }
        let last = self.ways.len() - 1;
        &mut self.ways[last]
    }
}

/// What goes wrong, and may know what fixes it. Its text says only what is wrong; whoever shows it
/// shows the remedy after it.
pub trait HasRemedy {
    /// What fixes it, as far as that is known.
    fn remedy(&self) -> Remedy {
        Remedy::default()
    }
}

/// A text alone knows nothing further.
impl HasRemedy for &str {}
impl HasRemedy for String {}

/// At a path that only who reports it knows: see [`of_io`].
impl HasRemedy for io::Error {
    fn remedy(&self) -> Remedy {
        match in_words(self) {
            (instruction, Look::Kernel) => Remedy::say(instruction).run(command!["dmesg"]),
            (instruction, _) => Remedy::say(instruction),
        }
    }
}

impl HasRemedy for Errno {
    fn remedy(&self) -> Remedy {
        io::Error::from(*self).remedy()
    }
}

/// What helps against a failure that is the file system's, at a path on it; nothing is known of
/// others.
pub(crate) fn of_file_system(kind: ErrorKind, path: &Path) -> Remedy {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Remedy::say("make room on its file system, then run this again")
                .run(command!["df", path])
                .run(command!["df", "-i", path])
        }
        ErrorKind::ReadOnlyFilesystem => {
            Remedy::say("see why its file system is read-only, or name another path")
                .run(command!["findmnt", "--target", path])
        }
        _ => Remedy::default(),
    }
}

/// What helps against the failure of a system call at a path. There is always something: at least, where
/// to look.
pub(crate) fn of_io(error: &io::Error, path: &Path) -> Remedy {
    let known = of_file_system(error.kind(), path);
    if !known.is_empty() {
        return known;
    }
    let (instruction, look) = in_words(error);
    let remedy = Remedy::say(instruction);
    match look {
        Look::Entry => remedy.run(command!["ls", "-ld", path]),
        Look::Users => remedy.run(command!["fuser", "-v", path]),
        Look::Kernel => remedy.run(command!["dmesg"]),
        Look::Nowhere => remedy,
    }
}

/// What shows more of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// What is at the path.
    Entry,
    /// Who uses it.
    Users,
    /// The kernel's log.
    Kernel,
    Nowhere,
}

/// What helps against the failure of a system call, by its kind, and where to look.
fn in_words(error: &io::Error) -> (&'static str, Look) {
    let Some(number) = error.raw_os_error() else {
        return match error.kind() {
            ErrorKind::PermissionDenied => {
                ("run this as root, or as whoever may do it", Look::Entry)
            }
            ErrorKind::NotFound => (
                "see whether this path is right, and mount what holds it",
                Look::Nowhere,
            ),
            _ => ("see what is there, or name another path", Look::Entry),
        };
    };
    match Errno::from_raw_os_error(number) {
        Errno::NOENT => (
            "see whether this path is right, and mount what holds it",
            Look::Nowhere,
        ),
        Errno::ACCESS | Errno::PERM => ("run this as root, or as whoever may do it", Look::Entry),
        Errno::NOSPC | Errno::DQUOT => (
            "make room on its file system, then run this again",
            Look::Nowhere,
        ),
        Errno::ROFS => ("see why its file system is read-only", Look::Nowhere),
        Errno::BUSY | Errno::TXTBSY => ("see who has it, then run this again", Look::Users),
        Errno::AGAIN => ("run this again when less is at work", Look::Nowhere),
        Errno::INTR | Errno::PIPE => ("run this again", Look::Nowhere),
        Errno::MFILE | Errno::NFILE => (
            "raise the limit of open files, as with `ulimit -n 4096`",
            Look::Nowhere,
        ),
        Errno::NOMEM => ("end other programs, then run this again", Look::Nowhere),
        Errno::NOTDIR
        | Errno::ISDIR
        | Errno::EXIST
        | Errno::NOTEMPTY
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::NXIO
        | Errno::XDEV => ("see what is there, or name another path", Look::Entry),
        _ => (
            "see what the kernel says, then run this again",
            Look::Kernel,
        ),
    }
}

/// Something that went wrong, as it is told: what, and what fixes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What, in words.
    pub(crate) what: String,
    /// What fixes it; empty where nothing is known to.
    pub(crate) remedy: Remedy,
}

impl Fault {
    /// What an error tells.
    pub(crate) fn of(error: &(impl fmt::Display + HasRemedy)) -> Fault {
        Fault {
            what: error.to_string(),
            remedy: error.remedy(),
        }
    }

    /// What went wrong; nothing is known to fix it.
    pub(crate) fn new(what: impl Into<String>) -> Fault {
        Fault {
            what: what.into(),
            remedy: Remedy::default(),
        }
    }

    /// Says what fixes it.
    pub(crate) fn remedy(self, remedy: impl Into<Remedy>) -> Fault {
        Fault {
            remedy: remedy.into(),
            ..self
        }
    }
}

/// For people: what fixes it is a line of its own.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.remedy.is_empty() {
            true => Ok(()),
            false => write!(f, "\nremedy: {}", self.remedy),
        }
    }
}

impl From<&str> for Remedy {
    fn from(instruction: &str) -> Remedy {
        Remedy::say(instruction)
    }
}

impl From<String> for Remedy {
    fn from(instruction: String) -> Remedy {
        Remedy::say(instruction)
    }
}

impl From<CommandLine> for Remedy {
    fn from(command: CommandLine) -> Remedy {
        Remedy::default().run(command)
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

impl Remedy {
    /// The text for people, in the pieces between which a line may end: words, and command lines,
    /// which are typed, or copied, whole.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (number, way) in self.ways.iter().enumerate() {
            if number > 0 {
                append(&mut words, ";");
                words.push("or".to_owned());
            }
            words.extend(way.words());
        }
        words
    }
}

impl Way {
    /// Adds to what is to be done, unless that is said already.
    fn say(&mut self, what: &str) {
        self.instruction = Some(match self.instruction.take() {
            Some(said) if said.ends_with(what) => said,
            Some(said) => format!("{said}; {what}"),
            None => what.to_owned(),
        });
    }

    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let instruction = self.instruction.iter().flat_map(|it| it.split(' '));
        words.extend(instruction.map(str::to_owned));
        for (number, setting) in self.settings.iter().enumerate() {
            match number {
                0 => {
                    append(&mut words, ":");
                    words.push("set".to_owned());
                }
                _ => words.push("and".to_owned()),
            }
            words.push(setting.to_string());
        }
        for (number, command) in self.commands.iter().enumerate() {
            match number {
                0 => append(&mut words, ":"),
                _ => words.push("&&".to_owned()),
            }
            words.push(command.to_string());
        }
        words
    }
}

/// Adds to the last word, if there is one.
fn append(words: &mut [String], text: &str) {
    if let Some(last) = words.last_mut() {
        *last += text;
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.split_once('.') {
            Some((table, key)) => write!(f, "`{key} = {}` under `[{table}]`", self.value),
            None => write!(f, "`{} = {}`", self.key, self.value),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self
            .0
            .iter()
            .map(|word| shell_quote(Path::new(word)))
            .collect();
        f.write_str(&words.join(" "))
    }
}

/// A command as JSON has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Command")]
struct CommandJson {
    /// The program and its arguments; absent where one of them cannot be printed as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Vec<String>>,
    /// The same for a shell.
    shell: String,
}

impl Serialize for CommandLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plain = |word: &OsString| {
            let text = word.to_str()?;
            (show(text.as_bytes()) == text).then(|| text.to_owned())
        };
        CommandJson {
            arguments: self.0.iter().map(plain).collect(),
            shell: self.to_string(),
        }
        .serialize(serializer)
    }
}

impl JsonSchema for CommandLine {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        CommandJson::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        CommandJson::json_schema(generator)
    }
}

/// A remedy as the fields of what has it.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct RemedyJson {
    /// What fixes it, in words.
    remedy: String,
    /// The ways to fix it, the safest first.
    remedies: Vec<Way>,
}

impl Serialize for Remedy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Remedy", 2)?;
        fields.serialize_field("remedy", &self.to_string())?;
        fields.serialize_field("remedies", &self.ways)?;
        fields.end()
    }
}

impl JsonSchema for Remedy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Remedy".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RemedyJson::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_a_text_for_people_and_its_parts_for_scripts() {
        let remedy = Remedy::say("unmount it if nobody needs it")
            .run(command!["umount", Path::new("/a b")])
            .run(command!["overstore", "up", "x"])
            .or(Remedy::default()
                .and_set("lower.read-only", "true")
                .and_set("real", "\"/x\""));
        assert_eq!(
            remedy.to_string(),
            "unmount it if nobody needs it: umount '/a b' && overstore up x; \
             or set `read-only = true` under `[lower]` and `real = \"/x\"`"
        );
        assert_eq!(
            serde_json::to_value(&remedy).unwrap(),
            serde_json::json!({
                "remedy": remedy.to_string(),
                "remedies": [
                    {
                        "instruction": "unmount it if nobody needs it",
                        "commands": [
                            { "arguments": ["umount", "/a b"], "shell": "umount '/a b'" },
                            { "arguments": ["overstore", "up", "x"], "shell": "overstore up x" },
                        ],
                    },
                    {
                        "settings": [
                            { "key": "lower.read-only", "value": "true" },
                            { "key": "real", "value": "\"/x\"" },
                        ],
                    },
                ],
            })
        );
    }

    /// What cannot be printed is for a shell only.
    #[test]
    fn hostile_words_are_escaped() {
        for (word, shell) in [
            (&b"/a\xff"[..], r"rm $'/a\377'"),
            (b"/a\n\xe2\x80\xaeb", r"rm $'/a\012\342\200\256b'"),
        ] {
            let word: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(word);
            let json = serde_json::to_value(command!["rm", word]).unwrap();
            assert_eq!(json, serde_json::json!({ "shell": shell }));
        }
    }
}
