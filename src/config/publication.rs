//! The description of a publication: `/etc/overstore/publications/NAME.toml`.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::lower::{read_path, read_paths};
use super::problem::{Errors, Problem};
use super::quantity::Age;
use super::raw::RawDatabase;
use super::read::{At, table};
use super::validate::Reading;
use crate::nix::layout::{STATE_DIR, STORE_DIR};

/// How long the database and the roots of a retired generation are kept, unless it is said.
const GRACE: Age = Age {
    seconds: 7 * 24 * 60 * 60,
};

/// The keys of the file, by table; the first are those of no table.
pub const PUBLICATION_KEYS: [(&str, &[&str]); 4] = [
    ("", RawPublication::KEYS),
    ("include", RawInclude::KEYS),
    ("keep", RawKeep::KEYS),
    ("database", RawDatabase::KEYS),
];

table! {
    in PUBLICATION_KEYS;
    /// The description of a publication, for overstore: which live store is published, to where, what
    /// goes into a generation, and which generations are kept.
    ///
    /// Paths are absolute and have no `..`.
    RawPublication {
        /// The directory that holds the live store and its state: `real` and `state` are below it
        /// unless they are given. Without it they are the system's own.
        #[schemars(example = "/srv/store")]
        "root" root: String,
        /// The live store directory. Default: `${root}/nix/store`, without `root` the same as `store`.
        "real" real: String,
        /// The live store's state directory, which holds its database and its roots. Default:
        /// `${root}/nix/var/nix`, without `root` `/nix/var/nix`.
        "state" state: String,
        /// The store directory, as store paths name it. Default: `/nix/store`.
        "store" store: String,
        /// The directory that the generations are made in, and that consumers mount: it holds
        /// `generations` and the link `current`. It is made if it is missing.
        #[schemars(required, example = "/srv/publications/main")]
        "publication" publication: String,
        /// When generations are made: a systemd calendar event. Default: never.
        #[schemars(example = &"daily")]
        "schedule" schedule: String,
        /// What goes into a generation. Default: what the live store's own roots reach.
        "include" include: RawInclude,
        /// Which generations are kept.
        "keep" keep: RawKeep,
        /// The live store's database.
        "database" database: RawDatabase,
    }
}

table! {
    in PUBLICATION_KEYS;
    /// What goes into a generation, with everything that it refers to. Default: what the live store's
    /// own roots reach.
    #[schemars(rename = "Include")]
    RawInclude {
        /// Whether everything that is valid in the live store goes in. Nothing that was ever
        /// published is then freed while its generation is kept, and the next generation keeps it
        /// again: the store grows for ever. Default: `false`.
        "all-valid" all_valid: bool,
        /// Paths of the live store, or links to them. Default: none.
        #[schemars(example = ["/srv/profiles/team"])]
        "paths" paths: Vec<At<String>>,
        /// Directories of garbage-collector roots or profiles. Default: none; where nothing else is
        /// given, those of the live store.
        #[schemars(example = ["/srv/store/nix/var/nix/gcroots/published"])]
        "roots" roots: Vec<At<String>>,
    }
}

table! {
    in PUBLICATION_KEYS;
    /// Which generations are kept. The current one always is.
    #[schemars(rename = "Keep")]
    RawKeep {
        /// How many of the newest generations are not retired when a new one is made. Default: all.
        "generations" generations: u32,
        /// Generations older than this are retired when a new one is made. Default: never.
        #[schemars(example = &"30d")]
        "younger-than" younger_than: String,
        /// How long the database and the roots of a retired generation stay: consumers are warned
        /// meanwhile, and lose nothing. Default: `7d`.
        #[schemars(example = &"7d")]
        "grace" grace: String,
    }
}

/// A publication, as described by one TOML file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its name: the file's name without `.toml`.
    pub name: String,
    /// The live store directory.
    pub real: PathBuf,
    /// The live store's state directory.
    pub state: PathBuf,
    /// The store directory, as store paths name it.
    pub store: PathBuf,
    /// The directory of the generations.
    pub directory: PathBuf,
    /// When generations are made: a systemd calendar event.
    pub schedule: Option<String>,
    /// What goes into a generation.
    pub chosen: Chosen,
    /// Which generations are kept.
    pub keep: KeptGenerations,
    /// Whether the live store's database may have a write-ahead log.
    pub use_sqlite_wal: bool,
}

/// What goes into a generation, with everything that it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// What the live store's own roots reach.
    OwnRoots,
    /// Everything that is valid.
    AllValid,
    /// What is named.
    Named {
        /// Store paths, or links to them. All have to be valid.
        paths: Vec<PathBuf>,
        /// Directories of roots or profiles. What is not valid of them is passed over.
        roots: Vec<PathBuf>,
    },
}

/// Which generations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptGenerations {
    /// So many of the newest.
    pub newest: Option<u32>,
    /// Those younger than this, in seconds.
    pub younger_than: Option<u64>,
    /// How long a retired one stays, in seconds.
    pub grace: u64,
}

/// Reads the description of a publication. `name` is its name, `label` what messages call the file.
///
/// # Errors
/// Everything that is wrong with the file, at once.
pub fn parse_publication(name: &str, label: &str, text: &str) -> Result<Publication, Errors> {
    let (raw, whole, mut problems) = super::read_keys(text, RawPublication::from_table);
    // Nothing of it depends on who publishes: a timer does it, too.
    let environment = Environment::default();
    let mut reading = Reading {
        environment: &environment,
        problems: &mut problems,
    };
    match reading.publication(name, &raw, whole) {
        Some(publication) if problems.is_empty() => Ok(publication),
        _ => Err(Errors::new(label, text, problems)),
    }
}

/// The JSON schema of the file.
pub(crate) fn publication_schema() -> schemars::Schema {
    super::titled(
        schemars::schema_for!(RawPublication),
        "overstore publication",
    )
}

impl Reading<'_> {
    fn publication(
        &mut self,
        name: &str,
        raw: &RawPublication,
        whole: bool,
    ) -> Option<Publication> {
        let mut path =
            |key, given: &Option<At<String>>| read_path(key, given.as_ref()?, self.problems);
        let root = path("root", &raw.root);
        let real = path("real", &raw.real);
        let state = path("state", &raw.state);
        let store = path("store", &raw.store).unwrap_or_else(|| STORE_DIR.into());
        let directory = path("publication", &raw.publication);
        let schedule = match &raw.schedule {
            Some(given) => self.schedule("schedule", given),
            None => None,
        };
        let chosen = self.include(raw.include.as_ref().map(|table| &table.value));
        let keep = self.keep(raw.keep.as_ref().map(|table| &table.value));
        let misspelled = self
            .problems
            .iter()
            .any(|problem| problem.meant.as_deref() == Some("publication"));
        if whole && raw.publication.is_none() && !misspelled {
            self.problems
                .push(Problem::new("`publication` is missing").help(
                    "every description of a publication needs this key: the directory in which \
                     the generations are made, such as `publication = \
                     \"/srv/publications/main\"`",
                ));
        }
        let below = |given: Option<PathBuf>, below: &str, own: &Path| {
            given.unwrap_or_else(|| root.as_ref().map_or(own.into(), |root| root.join(below)))
        };
        let publication = Publication {
            name: name.to_owned(),
            real: below(real, "nix/store", &store),
            state: below(state, "nix/var/nix", Path::new(STATE_DIR)),
            store,
            directory: directory?,
            schedule,
            chosen,
            keep,
            use_sqlite_wal: raw
                .database
                .as_ref()
                .and_then(|database| database.value.use_sqlite_wal.as_ref())
                .is_none_or(|given| given.value),
        };
        self.own_directory(&publication, raw.publication.as_ref()?);
        Some(publication)
    }

    /// The generations are in nobody else's directory.
    fn own_directory(&mut self, publication: &Publication, given: &At<String>) {
        for (what, part) in [
            ("live store directory", &publication.real),
            ("live store's state directory", &publication.state),
        ] {
            let inside = publication.directory.starts_with(part);
            if inside || part.starts_with(&publication.directory) {
                self.problems.push(
                    Problem::new(format!("`publication` and the {what} overlap"))
                        .at(
                            &given.span,
                            match inside {
                                true => format!("it is in the {what}"),
                                false => format!("the {what} is in it"),
                            },
                        )
                        .help("name a directory of its own, beside the live store"),
                );
                return;
            }
        }
    }

    fn include(&mut self, raw: Option<&RawInclude>) -> Chosen {
        let Some(raw) = raw else {
            return Chosen::OwnRoots;
        };
        let paths = read_paths("include.paths", &raw.paths, self.problems);
        let roots = read_paths("include.roots", &raw.roots, self.problems);
        let lists = [&raw.paths, &raw.roots].into_iter().flatten();
        let given = lists.clone().find(|list| !list.value.is_empty());
        match (raw.all_valid.as_ref().filter(|all| all.value), given) {
            (Some(all), Some(list)) => {
                self.problems.push(
                    Problem::new(
                        "`include.all-valid` leaves nothing for `include.paths` and \
                         `include.roots`",
                    )
                    .at(&all.span, "everything that is valid goes in")
                    .at(&list.span, "this is part of it")
                    .help("keep one of the two"),
                );
                Chosen::AllValid
            }
            (Some(_), None) => Chosen::AllValid,
            (None, Some(_)) => Chosen::Named { paths, roots },
            (None, None) => Chosen::OwnRoots,
        }
    }

    fn keep(&mut self, raw: Option<&RawKeep>) -> KeptGenerations {
        let mut age = |key: &str, given: Option<&At<String>>| {
            let given = given?;
            match given.value.parse::<Age>() {
                Ok(age) => Some(age),
                Err(expected) => {
                    self.problems.push(
                        Problem::new(format!("`keep.{key}` cannot be read"))
                            .at(&given.span, expected),
                    );
                    None
                }
            }
        };
        let younger_than = age(
            "younger-than",
            raw.and_then(|raw| raw.younger_than.as_ref()),
        );
        let grace = age("grace", raw.and_then(|raw| raw.grace.as_ref()));
        let newest = raw.and_then(|raw| raw.generations.as_ref());
        if let Some(zero) = newest.filter(|newest| newest.value == 0) {
            self.problems
                .push(Problem::new("`keep.generations` is 0").at(
                    &zero.span,
                    "the current generation is always kept: expected at least 1",
                ));
        }
        KeptGenerations {
            newest: newest.map(|newest| newest.value),
            younger_than: younger_than.map(|age| age.seconds),
            grace: grace.unwrap_or(GRACE).seconds,
        }
    }
}
