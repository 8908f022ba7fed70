//! Whether the upper layer and the upper database are those that belong together, and have all that
//! they had. A table decides it: the layer and its mark, against the database and the objects that
//! its rows name.

use super::{Code, Finding, Part, path};
use crate::config::Store;
use crate::escape::{counted, show_path};
use crate::observe::{FileFacts, Found, Links, Observed, Pairing, Rows};
use crate::records::layer_mark::Mark;
use crate::remedy::{Remedy, command};

/// The upper layer, by its mark and by what is remembered. Its objects count, not its other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// There is no such directory.
    Gone,
    /// It holds no object, and has the mark that is remembered.
    OursEmpty,
    /// It holds no object, and has another mark or none.
    OtherEmpty,
    /// It holds objects, has the mark that is remembered, and was empty when it was mounted last.
    Ours,
    /// The same, and some of its objects had a row then.
    OursUsed,
    /// It holds objects, and has another mark than the one that is remembered.
    Another,
    /// It holds objects and has no mark, although one is remembered; or its opaque marks are those of
    /// another kind of mount.
    Bare,
    /// It holds objects and has a mark, and nothing is remembered.
    Marked,
    /// It holds objects and no mark, and nothing is remembered.
    Unknown,
    /// It holds objects and no mark, and what is remembered is from before there were marks, or it
    /// cannot have one.
    Unmarked,
}

/// The upper database, and the objects that it names and the lower store does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    /// There is none.
    Missing,
    /// It has no row.
    Empty,
    /// All of its objects are there.
    Whole,
    /// Some are missing.
    Lacking,
    /// All are missing.
    Bereft,
}

/// What is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Fine,
    /// Objects are there, and the database that knows them is not.
    DatabaseLost,
    /// This is not the upper layer that the database belongs to.
    LayerReplaced,
    /// It is the layer, and none of its objects is there.
    ObjectsLost,
    /// It is a copy of the layer without the marks that make its directories hide those below.
    MarksLost,
    /// Some objects are missing.
    Incomplete,
}

/// The table: a line for each layer, a column for each database, in the order of [`Database`].
#[rustfmt::skip]
const TABLE: [(Layer, [Verdict; 5]); 10] = {
    use Verdict::*;
    [
        //                    Missing       Empty          Whole      Lacking        Bereft
        (Layer::Gone,       [Fine,         Fine,          Fine,      LayerReplaced, LayerReplaced]),
        (Layer::OursEmpty,  [Fine,         Fine,          Fine,      ObjectsLost,   ObjectsLost]),
        (Layer::OtherEmpty, [Fine,         Fine,          Fine,      LayerReplaced, LayerReplaced]),
        (Layer::Ours,       [DatabaseLost, Fine,          Fine,      Incomplete,    ObjectsLost]),
        (Layer::OursUsed,   [DatabaseLost, DatabaseLost,  Fine,      Incomplete,    ObjectsLost]),
        (Layer::Another,    [DatabaseLost, LayerReplaced, Fine,      LayerReplaced, LayerReplaced]),
        (Layer::Bare,       [DatabaseLost, MarksLost,     MarksLost, MarksLost,     LayerReplaced]),
        (Layer::Marked,     [DatabaseLost, DatabaseLost,  Fine,      Incomplete,    ObjectsLost]),
        (Layer::Unknown,    [DatabaseLost, DatabaseLost,  Fine,      Incomplete,    ObjectsLost]),
        (Layer::Unmarked,   [DatabaseLost, Fine,          Fine,      Incomplete,    ObjectsLost]),
    ]
};

fn verdict(layer: Layer, database: Database) -> Verdict {
    let line = TABLE.iter().find(|(this, _)| *this == layer);
    line.map_or(Verdict::Fine, |(_, line)| line[database as usize])
}

impl Layer {
    fn of(pairing: &Pairing, found: &Found, links: Links) -> Layer {
        if !matches!(found, Found::Directory(_)) {
            return Layer::Gone;
        }
        let remembered = pairing.remembered_mark.as_deref();
        if pairing.objects == 0 {
            return match &pairing.mark {
                Mark::Is(mark) if remembered == Some(mark) => Layer::OursEmpty,
                _ => Layer::OtherEmpty,
            };
        }
        if links == Links::Foreign {
            return Layer::Bare;
        }
        match (&pairing.mark, remembered) {
            (Mark::Is(mark), Some(remembered)) if mark == remembered => {
                match pairing.remembered_rows {
                    0 => Layer::Ours,
                    _ => Layer::OursUsed,
                }
            }
            (Mark::Is(_), Some(_)) => Layer::Another,
            (Mark::Is(_), None) => Layer::Marked,
            (Mark::None, Some(_)) => Layer::Bare,
            (Mark::None | Mark::Impossible, None) if !pairing.remembered => Layer::Unknown,
            (Mark::None | Mark::Impossible, _) => Layer::Unmarked,
        }
    }
}

impl Database {
    /// `None` where it could not be looked into.
    fn of(rows: &Rows) -> Option<Database> {
        Some(match rows {
            Rows::NoDatabase => Database::Missing,
            Rows::Unknown(_) => return None,
            Rows::Known(objects) if objects.rows == 0 => Database::Empty,
            Rows::Known(objects) if objects.missing.count == 0 => Database::Whole,
            Rows::Known(objects) if objects.above == 0 => Database::Bereft,
            Rows::Known(_) => Database::Lacking,
        })
    }
}

fn judged(observed: &Observed) -> Verdict {
    let pairing = &observed.pairing;
    let layer = &observed.upper_layer;
    let Some(database) = Database::of(&pairing.rows) else {
        return Verdict::Fine;
    };
    match verdict(
        Layer::of(pairing, &layer.place.found, layer.links),
        database,
    ) {
        // It was said that they are given up.
        Verdict::ObjectsLost if pairing.accepted_loss => Verdict::Incomplete,
        verdict => verdict,
    }
}

/// What was lost of the upper layer or the upper database, each cause once.
pub(super) fn findings(store: &Store, observed: &Observed) -> Vec<Finding> {
    let rule = Rule { store, observed };
    let mut findings: Vec<_> = rule.of_others().into_iter().collect();
    findings.extend(match judged(observed) {
        Verdict::Fine => rule.unreadable().into_iter().chain(rule.hidden()).collect(),
        Verdict::DatabaseLost => vec![rule.database_lost()],
        Verdict::LayerReplaced => vec![rule.layer_replaced()],
        Verdict::ObjectsLost => vec![rule.objects_lost()],
        Verdict::MarksLost => vec![rule.marks_lost()],
        Verdict::Incomplete => [rule.incomplete(), rule.hidden()].concat(),
    });
    findings
}

/// Whether a loss is the cause of another finding, which is then not told beside it.
pub(super) fn explains(observed: &Observed, code: Code) -> bool {
    match judged(observed) {
        Verdict::Fine | Verdict::Incomplete => false,
        Verdict::DatabaseLost => {
            matches!(
                code,
                Code::DatabaseMissing
                    | Code::WorkdirMissing
                    | Code::StateMissing
                    | Code::MountMissing
                    | Code::ObjectWithoutRow
            )
        }
        Verdict::LayerReplaced | Verdict::ObjectsLost => {
            matches!(
                code,
                Code::UpperMissing
                    | Code::WorkdirMissing
                    | Code::LinksNotOpaque
                    | Code::UpperPermissions
                    | Code::MountMissing
                    | Code::ObjectWithoutRow
            )
        }
        Verdict::MarksLost => {
            matches!(
                code,
                Code::LinksNotOpaque | Code::WorkdirMissing | Code::MountMissing
            )
        }
    }
}

struct Rule<'a> {
    store: &'a Store,
    observed: &'a Observed,
}

impl Rule<'_> {
    fn layer(&self, code: Code) -> Finding {
        Finding::at(code, &self.store.upper_layer)
    }

    fn database_lost(&self) -> Finding {
        let empty = self.observed.pairing.rows != Rows::NoDatabase;
        let layer = show_path(&self.store.upper_layer);
        Finding::at(Code::DatabaseLost, &self.store.database())
            .expected("the upper database that knows the objects in the upper layer")
            .found(format!(
                "{}; {layer} holds {}. A file system that is not mounted, a state directory that \
                 was emptied (as everything in /run is by a reboot), or a `state` that was edited",
                match empty {
                    true => "one without a row",
                    false => "none",
                },
                counted(self.observed.pairing.objects, "object"),
            ))
            .remedy(
                Remedy::say(format!(
                    "mount what belongs at {}, or correct `state`, or bring the database back from \
                     a backup; until then run no garbage collection on this store, which would \
                     delete these objects",
                    show_path(&self.store.state)
                ))
                .or(Remedy::say(
                    "go on with an empty database; Nix then considers none of them valid",
                )
                .run(self.store.command(["up", "--accept-lost-database"]))),
            )
    }

    /// The first of what is missing, and of how many.
    fn missing(&self) -> String {
        let Rows::Known(objects) = &self.observed.pairing.rows else {
            return "the upper database does not know what is in it".to_owned();
        };
        let first = objects.missing.first.first();
        format!(
            "{} that the upper database names {} in neither layer{}",
            counted(objects.missing.count, "object"),
            match objects.missing.count {
                1 => "is",
                _ => "are",
            },
            first
                .map(|first| format!(", such as {}/{}", show_path(&self.store.store), first.path))
                .unwrap_or_default(),
        )
    }

    fn layer_replaced(&self) -> Finding {
        let found = match (
            &self.observed.upper_layer.place.found,
            self.observed.pairing.objects,
        ) {
            (Found::Directory(_), 0) => "an empty directory",
            (Found::Directory(_), _) => "another directory with objects",
            _ => "nothing",
        };
        self.layer(Code::UpperReplaced)
            .expected("the upper layer that belongs to the upper database")
            .found(format!(
                "{found}; {}. A file system that is not mounted, or an `upper-layer` or a `state` \
                 that was edited",
                self.missing()
            ))
            .remedy(
                Remedy::say(format!(
                    "mount what belongs at {}, or correct `upper-layer`; see what is mounted there",
                    show_path(&self.store.upper_layer)
                ))
                .run(command!["findmnt", "--target", self.store.upper_layer])
                .or(self.again(
                    "go on with this one, and give up what is in the other",
                    "--accept-other-layer",
                )),
            )
    }

    fn objects_lost(&self) -> Finding {
        self.layer(Code::ObjectsLost)
            .expected("the objects that the upper database names")
            .found(format!(
                "none of those that would be in it: {}. It was emptied, or the lower store {} is \
                 another one than before",
                self.missing(),
                show_path(&self.store.lower.real),
            ))
            .remedy(
                Remedy::say("bring back the earlier lower store, or the upper layer from a backup")
                    .or(Remedy::say(
                        "where the lower store was replaced, see what puts this store right over it; \
                         with the old one at hand, add `--old STORE`, and leave `--dry-run` out to do it",
                    )
                    .run(self.store.command(["reconcile", "--dry-run"])))
                    .or(self.again("go on without these objects", "--accept-lost-objects")),
            )
    }

    fn marks_lost(&self) -> Finding {
        let foreign = self.observed.upper_layer.links == Links::Foreign;
        let userxattr = self.observed.machine.user_namespace || self.store.userxattr();
        self.layer(Code::MarksLost)
            .expected(
                "directories marked opaque, as they were: each hides the lower store's one of its \
                 name",
            )
            .found(match (foreign, userxattr) {
                (true, false) => {
                    "marks that were made in a user namespace (`overstore exec`), and mean nothing \
                     to root's mount: objects would show mixed with those below"
                }
                (true, true) => {
                    "marks that root made without `userxattr`, and that mean nothing with it, or in a \
                     user namespace: objects would show mixed with those below"
                }
                (false, _) => {
                    "no mark of overstore, which it had: a copy without extended attributes, in \
                     which objects would show mixed with those below"
                }
            })
            .remedy({
                let restore = self.again(
                    "set the marks again, for each object that is what the database says",
                    "--restore-marks",
                );
                match foreign {
                    true => restore,
                    false => Remedy::say("copy it again with them (cp -a, rsync -aX, tar --xattrs)")
                        .or(restore),
                }
            })
    }

    fn incomplete(&self) -> Vec<Finding> {
        let Rows::Known(objects) = &self.observed.pairing.rows else {
            return Vec::new();
        };
        super::compare::missing(self.store, &objects.missing)
    }

    /// Rows that are of another store directory.
    fn of_others(&self) -> Option<Finding> {
        let Rows::Known(objects) = &self.observed.pairing.rows else {
            return None;
        };
        let first = objects.of_others.first.as_ref()?;
        let database = self.store.database();
        let directory = show_path(&self.store.store);
        Some(
            Finding::at(Code::RowOfAnotherStore, &database)
                .expected(format!("rows of paths in {directory}"))
                .found(format!(
                    "{} of another store directory, such as {first}",
                    counted(objects.of_others.count, "row")
                ))
                .remedy(
                    Remedy::say("correct `store`, if it was edited").or(Remedy::say(
                        "see which they are, and keep them: what put them there may need them",
                    )
                    .run(command![
                        "sqlite3",
                        database,
                        format!(
                            "select path from ValidPaths where path not like '{}/%'",
                            directory.replace('\'', "''")
                        )
                    ])),
                ),
        )
    }

    fn hidden(&self) -> Vec<Finding> {
        match &self.observed.pairing.rows {
            Rows::Known(objects) => super::compare::hidden(self.store, &objects.hidden),
            Rows::NoDatabase | Rows::Unknown(_) => Vec::new(),
        }
    }

    /// Sets the store up, from where it is, with a flag.
    fn again(&self, why: &str, flag: &str) -> Remedy {
        let remedy = Remedy::say(why);
        let remedy = match self.observed.mount.overlay {
            Some(_) => remedy.run(super::down(self.store, self.observed)),
            None => remedy,
        };
        remedy.run(self.store.command(["up", flag]))
    }

    /// `check` looks into the database more closely, and says so itself.
    fn unreadable(&self) -> Option<Finding> {
        let Rows::Unknown(why) = &self.observed.pairing.rows else {
            return None;
        };
        if why.is_empty() || self.observed.database.content.is_some() {
            return None;
        }
        let database = self.store.database();
        let part = Part::UpperDatabase;
        let owner = match self.observed.database.file {
            FileFacts::File { uid, .. } => uid,
            _ => return None,
        };
        if ![0, owner].contains(&self.observed.machine.uid) {
            return Some(path::not_checked(part, &database, why));
        }
        Some(
            Finding::at(Code::LayersUnreadable, &database)
                .expected("rows that can be compared with the objects in the layers")
                .found(why.clone())
                .remedy(
                    Remedy::say("see what is wrong with it").run(self.store.command(["check"])),
                ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::{self, DESCRIPTION};
    use crate::check::{Code, check};
    use crate::compare::{Missing, Objects, Several};
    use crate::nix::store_path::StorePath;
    use crate::plan::{Allowed, plan};

    const LAYERS: [Layer; 10] = [
        Layer::Gone,
        Layer::OursEmpty,
        Layer::OtherEmpty,
        Layer::Ours,
        Layer::OursUsed,
        Layer::Another,
        Layer::Bare,
        Layer::Marked,
        Layer::Unknown,
        Layer::Unmarked,
    ];
    const DATABASES: [Database; 5] = [
        Database::Missing,
        Database::Empty,
        Database::Whole,
        Database::Lacking,
        Database::Bereft,
    ];

    /// The store that is down, with this layer and this database.
    fn observed(layer: Layer, database: Database) -> (Store, Observed) {
        let store = fixture::store(DESCRIPTION);
        let mut observed = fixture::observed(&store);
        fixture::unmounted(&mut observed);
        let pairing = &mut observed.pairing;
        let mark = |text: &str| Mark::Is(text.to_owned());
        (pairing.mark, pairing.remembered_mark) = match layer {
            Layer::Ours | Layer::OursUsed | Layer::OursEmpty => (mark("a"), Some("a".to_owned())),
            Layer::Another => (mark("b"), Some("a".to_owned())),
            Layer::Marked => (mark("a"), None),
            Layer::Bare | Layer::OtherEmpty | Layer::Gone => (Mark::None, Some("a".to_owned())),
            Layer::Unknown | Layer::Unmarked => (Mark::None, None),
        };
        pairing.remembered_rows = u64::from(layer == Layer::OursUsed);
        pairing.remembered = !matches!(layer, Layer::Marked | Layer::Unknown);
        pairing.objects = match layer {
            Layer::Gone | Layer::OursEmpty | Layer::OtherEmpty => 0,
            _ => 3,
        };
        if layer == Layer::Gone {
            observed.upper_layer.place.found = fixture::nothing_below("/mnt");
            observed.upper_layer.links = Links::Missing;
        }
        let missing = Missing {
            path: StorePath::parse(b"00000000000000000000000000000000-a").unwrap(),
            referrers: Vec::new(),
            odd: None,
        };
        let objects = |rows, above, missing: &[Missing]| {
            Rows::Known(Objects {
                rows,
                above,
                missing: Several {
                    first: missing.to_vec(),
                    count: missing.len() as u64,
                },
                ..Objects::default()
            })
        };
        pairing.rows = match database {
            Database::Missing => Rows::NoDatabase,
            Database::Empty => objects(0, 0, &[]),
            Database::Whole => objects(3, 2, &[]),
            Database::Lacking => objects(3, 2, &[missing]),
            Database::Bereft => objects(3, 0, &[missing]),
        };
        if database == Database::Missing {
            observed.database.file = FileFacts::Missing;
            observed.database.schema = Ok(None);
            observed.database.content = None;
        }
        (store, observed)
    }

    /// What can be: a layer without objects has none of those that a row names.
    fn can_be(layer: Layer, database: Database) -> bool {
        let empty = matches!(layer, Layer::Gone | Layer::OursEmpty | Layer::OtherEmpty);
        !(empty && database == Database::Lacking)
    }

    #[test]
    fn each_cell_of_the_table_is_reached_and_tells_one_cause() {
        for layer in LAYERS {
            for database in DATABASES.into_iter().filter(|&it| can_be(layer, it)) {
                let (store, observed) = observed(layer, database);
                let cell = verdict(layer, database);
                assert_eq!(judged(&observed), cell, "{layer:?} {database:?}");
                let found: Vec<_> = check(&store, &observed)
                    .iter()
                    .map(|finding| finding.code)
                    .collect();
                let codes = match cell {
                    Verdict::Fine => continue,
                    Verdict::DatabaseLost => vec![Code::DatabaseLost],
                    Verdict::LayerReplaced => vec![Code::UpperReplaced],
                    Verdict::ObjectsLost => vec![Code::ObjectsLost],
                    Verdict::MarksLost => vec![Code::MarksLost],
                    Verdict::Incomplete => vec![Code::MountMissing, Code::RowWithoutObject],
                };
                assert_eq!(found, codes, "{layer:?} {database:?}");
            }
        }
    }

    #[test]
    fn up_refuses_what_it_would_make_worse_and_each_flag_lets_one_cause_through() {
        let none = Allowed::default();
        let flags: [(Allowed, Option<Verdict>); 6] = [
            (none, None),
            (
                Allowed {
                    fix_permissions: true,
                    ..none
                },
                None,
            ),
            (
                Allowed {
                    lost_database: true,
                    ..none
                },
                Some(Verdict::DatabaseLost),
            ),
            (
                Allowed {
                    other_layer: true,
                    ..none
                },
                Some(Verdict::LayerReplaced),
            ),
            (
                Allowed {
                    lost_objects: true,
                    ..none
                },
                Some(Verdict::ObjectsLost),
            ),
            (
                Allowed {
                    restore_marks: true,
                    ..none
                },
                Some(Verdict::MarksLost),
            ),
        ];
        for layer in LAYERS {
            for database in DATABASES.into_iter().filter(|&it| can_be(layer, it)) {
                let (store, observed) = observed(layer, database);
                let cell = verdict(layer, database);
                let stops = !matches!(cell, Verdict::Fine | Verdict::Incomplete);
                for (allowed, lets) in flags {
                    let refused = plan(&store, &observed, allowed).is_err();
                    let expected = stops && lets != Some(cell);
                    assert_eq!(refused, expected, "{layer:?} {database:?} {allowed:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_given_up_is_missing_and_no_longer_stops_anything() {
        let (store, mut observed) = observed(Layer::OursEmpty, Database::Bereft);
        observed.pairing.accepted_loss = true;
        assert_eq!(judged(&observed), Verdict::Incomplete);
        assert!(plan(&store, &observed, Allowed::default()).is_ok());
    }

    #[test]
    fn marks_of_another_kind_of_mount_are_lost_ones() {
        let (_, mut observed) = observed(Layer::Ours, Database::Whole);
        assert_eq!(judged(&observed), Verdict::Fine);
        observed.upper_layer.links = Links::Foreign;
        assert_eq!(judged(&observed), Verdict::MarksLost);
    }

    #[test]
    fn a_layer_that_cannot_have_a_mark_is_told_by_its_objects() {
        for (database, expected) in [
            (Database::Whole, Verdict::Fine),
            (Database::Lacking, Verdict::Incomplete),
            (Database::Bereft, Verdict::ObjectsLost),
            (Database::Missing, Verdict::DatabaseLost),
        ] {
            for remembered in [None, Some("a".to_owned())] {
                let (_, mut observed) = observed(Layer::Unmarked, database);
                observed.pairing.mark = Mark::Impossible;
                observed.pairing.remembered_mark = remembered;
                assert_eq!(judged(&observed), expected, "{database:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_judged() {
        let (store, mut observed) = observed(Layer::Bare, Database::Bereft);
        observed.pairing.rows = Rows::Unknown(String::new());
        assert_eq!(judged(&observed), Verdict::Fine);
        observed.pairing.rows = Rows::Unknown("no such table".to_owned());
        observed.database.content = None;
        let found = check(&store, &observed);
        assert!(found.iter().any(|it| it.code == Code::LayersUnreadable));
    }
}
