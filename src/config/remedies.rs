//! Remedies for those whose store is not set up for everybody: what each can carry out.

use std::ffi::OsStr;
use std::path::Path;

use super::store::{SetUpFor, Store};
use crate::escape::shell_quote;
use crate::remedy::{CommandLine, Instead, Remedy};

/// What is done in place of unmounting a store that is mounted as long as something runs in it.
const END: &str = "end what runs in it first";

/// What is done in place of setting up a store that is gone with its command.
const AGAIN: &str = "run it again";

/// Commands that need the store to be mounted. They join the set-up of a store of one's own by
/// themselves.
const NEED_THE_MOUNT: [&str; 3] = ["gc", "optimise", "refresh"];

impl Store {
    /// A remedy as whoever uses this store can carry it out.
    pub(crate) fn fit(&self, remedy: Remedy) -> Remedy {
        match self.set_up_for {
            SetUpFor::Everybody => remedy,
            SetUpFor::Processes => self.in_namespaces(remedy),
            SetUpFor::Command => {
                let remedy = remedy.map_commands(|command| self.for_command(command));
                let remedy = remedy.map_settings(|key, value| Some(self.option(key, value)));
                match remedy.is_empty() {
                    true => Remedy::say("use a store with a description in place of `--ephemeral`"),
                    false => remedy,
                }
            }
        }
    }

    /// What names the lower store, as whoever uses this store writes it.
    pub(crate) fn lower_store_key(&self) -> &'static str {
        match self.set_up_for {
            SetUpFor::Everybody | SetUpFor::Processes => "`lower-store`",
            SetUpFor::Command => "`--lower`",
        }
    }

    /// A remedy as a user carries it out in namespaces of that user's own.
    pub(crate) fn in_namespaces(&self, remedy: Remedy) -> Remedy {
        let remedy = remedy.map_commands(|command| self.for_processes(command));
        // Timers are root's.
        remedy.map_settings(|key, _| {
            let what = key.strip_suffix(".schedule")?;
            let what = self
                .bare_command([what])
                .with(self.arguments.iter().cloned());
            Some(format!("run `{what}` now and then"))
        })
    }

    /// Whether a command of a remedy is one for this store, and not for what is below it.
    pub(crate) fn concerns(&self, command: &CommandLine) -> bool {
        !matches!(self.what(command), What::Other)
    }

    fn is_own_command(&self, command: &CommandLine) -> bool {
        let words = command.as_words();
        let program = words.first().map(Path::new).and_then(Path::file_name);
        program == Path::new(&self.program).file_name() && words.ends_with(&self.arguments)
    }

    /// A command that is run where the store is set up.
    fn inside(&self, command: CommandLine) -> CommandLine {
        self.command(["exec"])
            .with(["--".into()])
            .with(command.words())
    }

    fn for_processes(&self, command: CommandLine) -> Instead {
        match self.what(&command) {
            What::Up => Instead::Run(self.exec_instead(command)),
            What::Down => Instead::Do(END),
            What::NeedsMount if self.own.is_some() => Instead::Run(command),
            What::NeedsMount | What::InMount => Instead::Run(self.inside(command)),
            What::Store | What::Other => Instead::Run(command),
        }
    }

    fn for_command(&self, command: CommandLine) -> Instead {
        match self.what(&command) {
            What::Up | What::Down => Instead::Do(AGAIN),
            What::NeedsMount | What::InMount | What::Store => Instead::Nothing,
            What::Other => Instead::Run(command),
        }
    }

    /// `exec` with the flags of an `up`, and a look whether that was all.
    pub(crate) fn exec_instead(&self, up: CommandLine) -> CommandLine {
        let mut words = up.words().into_iter();
        let program = words.next();
        CommandLine::new(program)
            .with(["exec".into()])
            .with(words.skip(1))
            .with(["--".into()])
            .with(self.command(["check"]).words())
    }

    /// What a command of a remedy does.
    fn what(&self, command: &CommandLine) -> What {
        let words = command.as_words();
        let word = |number: usize| words.get(number).map_or(OsStr::new(""), |it| it);
        if self.is_own_command(command) {
            return match word(1).to_str() {
                Some("up") => What::Up,
                Some("down") => What::Down,
                Some(name) if NEED_THE_MOUNT.contains(&name) => What::NeedsMount,
                _ => What::Store,
            };
        }
        let in_mount = |word: &&std::ffi::OsString| Path::new(word).starts_with(&self.real.value);
        match (word(0).to_str(), words.iter().find(in_mount)) {
            (Some("mount" | "umount"), Some(_)) => What::Down,
            // Elsewhere, another store is at that path, or none.
            (_, Some(_)) => What::InMount,
            (Some("nix" | "nix-store"), _) if words.contains(&"--store".into()) => What::InMount,
            _ => What::Other,
        }
    }

    /// The option of `exec --ephemeral` that does what a key of a description does.
    fn option(&self, key: &str, value: &str) -> String {
        let given = &self.lower.given;
        let lower = match key {
            "lower-store" => value.trim_matches('"').to_owned(),
            "lower.read-only" if given.contains('?') => format!("{given}&read-only={value}"),
            "lower.read-only" => format!("{given}?read-only={value}"),
            _ => {
                return format!(
                    "use a description, with its `{key} = {value}`, in place of `--ephemeral`"
                );
            }
        };
        format!("give `--lower {}`", shell_quote(Path::new(&lower)))
    }
}

/// What a command of a remedy does, as far as it matters who runs it.
enum What {
    /// Sets the store up.
    Up,
    /// Unmounts it, or changes how it is mounted.
    Down,
    /// Is a command of overstore for this store that needs it to be mounted.
    NeedsMount,
    /// Is another command of overstore for this store.
    Store,
    /// Looks into the merged store, or has Nix open it.
    InMount,
    /// Has nothing to do with where the store is set up.
    Other,
}
