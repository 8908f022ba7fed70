use std::collections::VecDeque;

use rusqlite::{ErrorCode, OptionalExtension, Row, Transaction};

use super::upper_writer::{ID_OF, Target, Upper, Writer};
use crate::lower::sqlite::text as read_text;
use crate::lower::{LowerError, Source};
use crate::nix::path_info::PathInfo;
use crate::nix::store_path::StorePath;
use crate::warm::error::MOST_LISTED;
use crate::warm::{LeftOut, Wanted, WarmError, Warmed};

/// Most paths that one conversation is about: more than any store has that is asked path by path.
/// `SECURITY.md` names it.
const MOST_PATHS: i64 = if cfg!(test) { 1000 } else { 1 << 22 };
/// Most pages, of 4 KiB, for what was answered, on the disk of temporary files; the upper database
/// grows by no more than this. Named there, too.
const MOST_PAGES: i64 = 1 << 20;
/// How often what has vanished from the upper database meanwhile is asked for.
const TRIES: usize = 5;

/// Most answers that are kept in one transaction, which costs as much as there are changed pages in
/// memory.
const MOST_ANSWERS: usize = 64;
/// After so many bytes of answers there are no more in it, where a path counts as so many.
const MOST_BYTES: usize = 1 << 20;
const BYTES_OF_A_PATH: usize = 64;

/// A path that is to be asked for.
const TO_ASK: i64 = 0;
/// One whose answer is here.
const ANSWERED: i64 = 1;
/// One that was in the upper database when it was met.
const PRESENT: i64 = 2;
/// One that is not valid below.
const NOT_VALID: i64 = 3;
/// One that is being written.
const NEW: i64 = 4;
/// One whose metadata below is wrong, or that of something it refers to.
const LEFT_OUT: i64 = 5;

/// Copies from any source, path by path, with as many questions open as it takes.
///
/// Who is asked may take any time, and may be hostile: so everything is asked for first, into
/// temporary tables that SQLite moves to a file when they grow, and no lock of the upper database is
/// held before it is written. Memory: 8 bytes a path of the closure, and what is kept at once.
pub(super) fn copy(
    target: Target<'_>,
    source: &mut dyn Source,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    let connection = &target.upper.connection;
    let copied = copy_asked(target, source, wanted)
        // Whatever went wrong may come from a change meanwhile.
        .map_err(|error| source.confirm().err().map_or(error, WarmError::from));
    // They take room on a disk.
    let cleared = connection.execute_batch(DROP);
    let warmed = copied?;
    cleared.map_err(|error| target.upper.error(error))?;
    target.upper.checkpoint();
    Ok(warmed)
}

const DROP: &str = "drop table if exists temp.Wanted; drop table if exists temp.WantedRefs";

fn copy_asked(
    target: Target<'_>,
    source: &mut dyn Source,
    wanted: Wanted<'_>,
) -> Result<Warmed, WarmError> {
    let upper = target.upper;
    let create = format!(
        "{DROP};
         pragma temp.cache_size = -8192;
         create temp table Wanted (number integer primary key, path text unique not null,
             root integer not null, state integer not null, id integer, hash blob, time integer,
             deriver text, size integer, ultimate integer, signatures text, ca text);
         create temp table WantedRefs (referrer integer not null, reference integer not null,
             primary key (referrer, reference)) without rowid;
         pragma temp.max_page_count = {MOST_PAGES}"
    );
    let connection = &upper.connection;
    connection
        .execute_batch(&create)
        .map_err(|error| upper.error(error))?;
    let mut copy = Copy {
        target,
        prefix: String::from_utf8_lossy(target.store.as_bytes()).into_owned() + "/",
        placed: 0,
        missing: 0,
        invalid: 0,
        left_out: LeftOut::default(),
    };
    match wanted {
        Wanted::All => {
            // `each` of a source can only fail as a source does.
            let mut failed = None;
            source.all_paths(&mut |path| {
                if failed.is_none() {
                    failed = copy.place(&path, true).err();
                }
                Ok(())
            })?;
            failed.map_or(Ok(()), Err)?;
        }
        Wanted::Closures(paths) | Wanted::ValidClosures(paths) => {
            for path in paths {
                copy.place(path, true)?;
            }
        }
    }
    for _ in 0..TRIES {
        copy.ask(source)?;
        copy.leave_out()?;
        copy.expect_complete(!matches!(wanted, Wanted::ValidClosures(_)))?;
        source.confirm()?;
        if let Some(warmed) = copy.write(wanted == Wanted::All)? {
            return Ok(warmed);
        }
        copy.ask_for_what_vanished()?;
    }
    Err(WarmError::Restless)
}

/// What a source says of a path.
enum Answer {
    Valid(PathInfo),
    NotValid {
        /// Whether it was wanted itself.
        root: bool,
    },
    /// Its row is wrong: how.
    Wrong(String),
}

struct Copy<'u> {
    target: Target<'u>,
    /// What whole paths begin with.
    prefix: String,
    /// How many paths are in the table, numbered from 1.
    placed: i64,
    /// How many were referred to, and are not valid.
    missing: usize,
    /// How many were wanted themselves, and are not.
    invalid: usize,
    /// What is not copied.
    left_out: LeftOut,
}

impl Copy<'_> {
    fn upper(&self) -> &Upper {
        self.target.upper
    }

    /// An error of the tables: theirs where they are full.
    fn error(&self, error: rusqlite::Error) -> WarmError {
        let full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        let pages = || {
            let sql = "pragma temp.page_count";
            self.upper()
                .connection
                .query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        // What did not fit may be gone by now, with its transaction.
        match full && pages().is_ok_and(|pages| pages >= MOST_PAGES / 16 * 15) {
            true => WarmError::TooMuch,
            false => self.upper().error(error),
        }
    }

    fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, WarmError> {
        let connection = &self.upper().connection;
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(parameters))
            .map_err(|error| self.error(error))
    }

    fn find<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, WarmError> {
        let connection = &self.upper().connection;
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(parameters, read).optional())
            .map_err(|error| self.error(error))
    }

    /// The number of a path among those that are wanted; puts it there.
    fn place(&mut self, path: &StorePath, root: bool) -> Result<i64, WarmError> {
        let by_path = "select number from temp.Wanted where path = ?";
        if let Some(number) = self.find(by_path, [path.as_str()], |row| row.get(0))? {
            return Ok(number);
        }
        if self.placed >= MOST_PATHS {
            return Err(WarmError::TooMuch);
        }
        let whole = format!("{}{}", self.prefix, path.as_str());
        let present = self.find(ID_OF, [whole], |_| Ok(()))?.is_some();
        let state = if present { PRESENT } else { TO_ASK };
        self.placed += 1;
        self.target.counts.expect(1);
        let insert = "insert into temp.Wanted (number, path, root, state) values (?, ?, ?, ?)";
        self.execute(insert, (self.placed, path.as_str(), root, state))?;
        Ok(self.placed)
    }

    /// The next one to be asked for.
    fn next(&self, after: i64) -> Result<Option<(i64, StorePath, bool)>, WarmError> {
        let sql = "select number, path, root from temp.Wanted where number > ? and state = ? \
                   order by number limit 1";
        let next = self.find(sql, (after, TO_ASK), |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?))
        })?;
        let Some((number, path, root)) = next else {
            return Ok(None);
        };
        Ok(Some((number, self.parse(&path)?, root)))
    }

    fn parse(&self, path: &str) -> Result<StorePath, WarmError> {
        StorePath::parse(path.as_bytes())
            .map_err(|_| self.upper().error(rusqlite::Error::InvalidQuery))
    }

    /// Asks for everything that is wanted, and for what that refers to.
    fn ask(&mut self, source: &mut dyn Source) -> Result<(), WarmError> {
        let mut asked = VecDeque::new();
        let mut last = 0;
        loop {
            while asked.len() < source.window()
                && let Some(wanted) = self.next(last)?
            {
                last = wanted.0;
                source.ask(&wanted.1)?;
                asked.push_back(wanted);
            }
            if asked.is_empty() {
                return Ok(());
            }
            // Nobody is waited for in the transaction.
            let (mut answers, mut bytes) = (Vec::new(), 0);
            while answers.len() < MOST_ANSWERS
                && bytes < MOST_BYTES
                && let Some((number, _, root)) = asked.pop_front()
            {
                let answer = match source.answer() {
                    Err(wrong @ LowerError::Row { .. }) => Answer::Wrong(wrong.to_string()),
                    answer => match answer? {
                        Some(info) => Answer::Valid(info),
                        None => Answer::NotValid { root },
                    },
                };
                if let Answer::Valid(info) = &answer {
                    bytes += BYTES_OF_A_PATH * info.references.len() + info.signatures.len();
                }
                answers.push((number, answer));
            }
            self.keep_all(answers)?;
            if self.missing > MOST_LISTED {
                return Ok(());
            }
        }
    }

    /// Keeps answers, in one transaction.
    fn keep_all(&mut self, answers: Vec<(i64, Answer)>) -> Result<(), WarmError> {
        let upper = self.target.upper;
        let deferred = rusqlite::TransactionBehavior::Deferred;
        let transaction = Transaction::new_unchecked(&upper.connection, deferred)
            .map_err(|error| upper.error(error))?;
        for (number, answer) in answers {
            let set_state = "update temp.Wanted set state = ? where number = ?";
            match answer {
                Answer::Valid(info) => self.keep(number, &info)?,
                Answer::NotValid { root } => {
                    self.execute(set_state, (NOT_VALID, number))?;
                    self.missing += usize::from(!root);
                    self.invalid += usize::from(root);
                }
                Answer::Wrong(why) => {
                    self.execute(set_state, (LEFT_OUT, number))?;
                    self.left_out.count += 1;
                    if self.left_out.first.len() < MOST_LISTED {
                        self.left_out.first.push(why);
                    }
                    continue;
                }
            }
            self.target.counts.add(1);
        }
        transaction.commit().map_err(|error| self.error(error))
    }

    /// Keeps what is said of a valid path.
    fn keep(&mut self, number: i64, info: &PathInfo) -> Result<(), WarmError> {
        let sql = "update temp.Wanted set state = ?, hash = ?, time = ?, deriver = ?, size = ?, \
                   ultimate = ?, signatures = ?, ca = ? where number = ?";
        let deriver = info.deriver.as_ref().map(StorePath::as_str);
        self.execute(
            sql,
            (
                ANSWERED,
                info.nar_hash,
                info.registration_time,
                deriver,
                info.nar_size,
                info.ultimate,
                &info.signatures,
                &info.content_address,
                number,
            ),
        )?;
        for reference in &info.references {
            let reference = self.place(reference, false)?;
            let sql = "insert or ignore into temp.WantedRefs values (?, ?)";
            self.execute(sql, (number, reference))?;
        }
        Ok(())
    }

    /// What was kept.
    fn kept(&self, row: &Row<'_>) -> Result<(i64, StorePath, PathInfo), WarmError> {
        type Columns = (i64, String, Option<String>);
        let read = || -> rusqlite::Result<(Columns, PathInfo)> {
            let info = PathInfo {
                nar_hash: row.get(3)?,
                registration_time: row.get(4)?,
                deriver: None,
                nar_size: row.get(5)?,
                ultimate: row.get(6)?,
                signatures: row.get(7)?,
                content_address: row.get(8)?,
                references: Vec::new(),
            };
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?), info))
        };
        let ((id, path, deriver), info) = read().map_err(|error| self.upper().error(error))?;
        let deriver = deriver.map(|deriver| self.parse(&deriver)).transpose()?;
        Ok((id, self.parse(&path)?, PathInfo { deriver, ..info }))
    }

    /// Expects that all that is referred to is valid, and all that was wanted itself where that has
    /// to be.
    fn expect_complete(&self, roots_have_to_be_valid: bool) -> Result<(), WarmError> {
        let list = |sql: &str| -> rusqlite::Result<Vec<(String, String)>> {
            let mut statement = self.upper().connection.prepare(sql)?;
            let rows = statement.query_map([NOT_VALID], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.take(MOST_LISTED).collect()
        };
        if self.invalid > 0 && roots_have_to_be_valid {
            let sql = "select path, '' from temp.Wanted where state = ? and root";
            let invalid = list(sql).map_err(|error| self.error(error))?;
            let paths = invalid.iter().map(|(path, _)| self.parse(path));
            return Err(WarmError::NotValid(paths.collect::<Result<_, _>>()?));
        }
        if self.invalid + self.missing == 0 {
            return Ok(());
        }
        let dangling = list(
            "select one.path, other.path from temp.WantedRefs \
             join temp.Wanted one on one.number = referrer \
             join temp.Wanted other on other.number = reference where other.state = ? and one.state = 1",
        )
        .map_err(|error| self.error(error))?;
        let prefix = &self.prefix;
        let whole = |(one, other)| (format!("{prefix}{one}"), format!("{prefix}{other}"));
        match dangling.is_empty() {
            true => Ok(()),
            false => Err(WarmError::Incomplete(
                dangling.into_iter().map(whole).collect(),
            )),
        }
    }

    /// Writes what was answered, in one transaction; `None`, and nothing is written, where something
    /// has vanished from the upper database since it was met.
    fn write(&self, all: bool) -> Result<Option<Warmed>, WarmError> {
        let upper = self.upper();
        let transaction = upper.begin(self.target.waiting)?;
        let mut writer = Writer::new(self.target)?;
        self.execute(
            "update temp.Wanted set id = (select id from main.ValidPaths v \
             indexed by sqlite_autoindex_ValidPaths_1 where v.path = ?1 || Wanted.path) \
             where state in (?2, ?3)",
            (&self.prefix, ANSWERED, PRESENT),
        )?;
        let vanished = "select 1 from temp.Wanted where state = ? and id is null limit 1";
        if self.find(vanished, [PRESENT], |_| Ok(()))?.is_some() {
            return Ok(None);
        }
        self.execute(
            "update temp.Wanted set state = ?1, id = ?2 + number where state = ?3 and id is null",
            (NEW, writer.next_id - 1, ANSWERED),
        )?;
        let mut warmed = Warmed {
            invalid: self.invalid as u64,
            left_out: self.left_out.clone(),
            ..Warmed::default()
        };
        self.rows(&mut writer, &mut warmed)?;
        let references = self.execute(
            "insert into main.Refs (referrer, reference) select one.id, other.id \
             from temp.Wanted one cross join temp.WantedRefs on referrer = one.number \
             cross join temp.Wanted other on other.number = reference where one.state = ?",
            [NEW],
        )?;
        warmed.references = references as u64;
        let there = "select count(*) from temp.Wanted where root and state in (?, ?)";
        let present = self.find(there, (ANSWERED, PRESENT), |row| row.get::<_, i64>(0))?;
        warmed.present = present.map_or(0, i64::unsigned_abs);
        self.add_present(all, &mut warmed)?;
        drop(writer);
        transaction.commit().map_err(|error| self.error(error))?;
        Ok(Some(warmed))
    }

    /// Leaves out all that refers to what is left out.
    fn leave_out(&mut self) -> Result<(), WarmError> {
        if self.left_out.count == 0 {
            return Ok(());
        }
        self.execute(
            "create index if not exists temp.ByReference on WantedRefs (reference)",
            [],
        )?;
        let out = self.execute(
            "with recursive Out(number) as (select number from temp.Wanted where state = ?1 \
             union select referrer from Out join temp.WantedRefs on reference = Out.number) \
             update temp.Wanted set state = ?1 where number in Out and state != ?1",
            [LEFT_OUT],
        )?;
        self.left_out.count += out as u64;
        Ok(())
    }

    /// Writes the new rows.
    fn rows(&self, writer: &mut Writer<'_>, warmed: &mut Warmed) -> Result<(), WarmError> {
        let error = |error| self.error(error);
        let sql = "select id, path, deriver, hash, time, size, ultimate, signatures, ca \
                   from temp.Wanted where state = ? order by number";
        let connection = &self.upper().connection;
        let mut statement = connection.prepare(sql).map_err(error)?;
        let mut rows = statement.query([NEW]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let (id, path, info) = self.kept(row)?;
            warmed.outputs += writer.path(id, &path, &info)?;
            warmed.copied += 1;
            warmed.prefixes.push(path.hash_prefix());
        }
        Ok(())
    }

    /// Adds what was met and was there before, and its closures, all of which the upper database has.
    fn add_present(&self, all: bool, warmed: &mut Warmed) -> Result<(), WarmError> {
        let error = |error| self.upper().error(error);
        // Of everything, each path was met for itself.
        let closures = "with recursive Closure(id) as \
             (select id from temp.Wanted where state in (?1, ?2) \
             union select reference from Closure join main.Refs on referrer = Closure.id) \
             select path from Closure join main.ValidPaths using (id)";
        let alone = "select ?3 || path from temp.Wanted where state in (?1, ?2)";
        let sql = if all { alone } else { closures };
        let connection = &self.upper().connection;
        let mut statement = connection.prepare(sql).map_err(error)?;
        let rows = match all {
            true => statement.query((ANSWERED, PRESENT, &self.prefix)),
            false => statement.query((ANSWERED, PRESENT)),
        };
        let mut rows = rows.map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            // What is no store path is none of those that `status` looks for.
            let path = read_text(row, 0).and_then(|path| self.target.store.parse(path));
            warmed.prefixes.extend(path.map(|path| path.hash_prefix()));
        }
        Ok(())
    }

    /// Has what has vanished from the upper database be asked for.
    fn ask_for_what_vanished(&self) -> Result<(), WarmError> {
        self.execute(
            "update temp.Wanted set state = ?1 where state = ?2 and not exists \
             (select 1 from main.ValidPaths v indexed by sqlite_autoindex_ValidPaths_1 \
             where v.path = ?3 || Wanted.path)",
            (TO_ASK, PRESENT, &self.prefix),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs::File;
    use std::path::Path;
    use std::time::Duration;

    use rusqlite::Connection;

    use super::*;
    use crate::counts::Counts;
    use crate::nix::schema;
    use crate::nix::store_directory::StoreDirectory;
    use crate::warm::outputs::Objects;

    fn path(number: usize) -> StorePath {
        StorePath::parse(format!("{number:032}-a").as_bytes()).unwrap()
    }

    fn info(references: &[usize]) -> PathInfo {
        PathInfo {
            nar_hash: [7; 32],
            registration_time: 7,
            deriver: None,
            nar_size: 7,
            ultimate: false,
            signatures: String::new(),
            content_address: None,
            references: references.iter().map(|&number| path(number)).collect(),
        }
    }

    /// A source whose answers are made as they are asked for.
    struct Told<'a> {
        asked: VecDeque<StorePath>,
        answer: &'a mut dyn FnMut(&StorePath) -> Option<PathInfo>,
    }

    impl Source for Told<'_> {
        fn ask(&mut self, path: &StorePath) -> Result<(), LowerError> {
            self.asked.push_back(path.clone());
            Ok(())
        }

        fn answer(&mut self) -> Result<Option<PathInfo>, LowerError> {
            let asked = self.asked.pop_front();
            Ok(asked.and_then(|path| (self.answer)(&path)))
        }

        fn window(&self) -> usize {
            4
        }

        fn all_paths(
            &mut self,
            each: &mut dyn FnMut(StorePath) -> Result<(), LowerError>,
        ) -> Result<(), LowerError> {
            (0..3).try_for_each(|number| each(path(number)))
        }

        fn confirm(&mut self) -> Result<(), LowerError> {
            Ok(())
        }
    }

    /// The database of a new store.
    fn database(directory: &Path) -> Connection {
        File::create(directory.join("big-lock")).unwrap();
        let connection = Connection::open(directory.join("db.sqlite")).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        let sql = format!("pragma journal_mode = wal; {}", schema::SQL);
        connection.execute_batch(&sql).unwrap();
        connection
    }

    fn copy_from(
        directory: &Path,
        wanted: Wanted<'_>,
        answer: &mut dyn FnMut(&StorePath) -> Option<PathInfo>,
    ) -> Result<Warmed, WarmError> {
        let target = Target {
            upper: &Upper::open(directory, true)?,
            store: &StoreDirectory::new(b"/nix/store"),
            objects: &Objects::open(directory)?,
            waiting: &|_| {},
            counts: &Counts::default(),
        };
        let asked = VecDeque::new();
        copy(target, &mut Told { asked, answer }, wanted)
    }

    /// Security case W1: whoever answers, however slowly, keeps nobody from writing.
    #[test]
    fn no_lock_is_held_while_somebody_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let other = database(&directory);
        let mut asked = 0;
        let warmed = copy_from(&directory, Wanted::Closures(&[path(0)]), &mut |of| {
            asked += 1;
            other
                .execute_batch("begin immediate; delete from Refs; commit")
                .unwrap();
            let lock = File::open(directory.join("big-lock")).unwrap();
            let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
            rustix::fs::flock(&lock, exclusive).unwrap();
            let references: &[usize] = if *of == path(0) { &[0, 1, 2] } else { &[] };
            Some(info(references))
        })
        .unwrap();
        assert_eq!((asked, warmed.copied, warmed.references), (3, 3, 3));
    }

    /// Security case W1: a daemon that invents references comes to an end, and leaves nothing.
    #[test]
    fn invented_references_end() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let other = database(&directory);
        let mut last = 1;
        let error = copy_from(&directory, Wanted::Closures(&[path(0)]), &mut |_| {
            last += 10;
            Some(info(&(last - 10..last).collect::<Vec<_>>()))
        });
        assert!(matches!(error, Err(WarmError::TooMuch)), "{error:?}");
        let rows = other.query_row("select count(*) from ValidPaths", [], |row| row.get(0));
        assert_eq!(rows, Ok(0));
    }

    /// What is collected from the upper database while others are asked for is asked for, too; what is
    /// added there meanwhile is taken as it is.
    #[test]
    fn the_upper_database_may_change_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let other = database(&directory);
        let add = |number: usize| {
            let sql = "insert into ValidPaths (path, hash, registrationTime) values (?, 'x', 1)";
            let whole = format!("/nix/store/{}", path(number).as_str());
            other.execute(sql, [whole]).unwrap();
        };
        add(1);
        let mut asked = HashMap::new();
        let warmed = copy_from(&directory, Wanted::All, &mut |of| {
            *asked.entry(of.clone()).or_insert(0) += 1;
            if *of == path(0) {
                other.execute("delete from ValidPaths", []).unwrap();
                add(2);
                return Some(info(&[1, 2]));
            }
            Some(info(&[]))
        })
        .unwrap();
        assert_eq!(
            asked,
            HashMap::from([0, 1, 2].map(|number| (path(number), 1)))
        );
        assert_eq!(
            (warmed.copied, warmed.present, warmed.references),
            (2, 1, 2)
        );
        let dangling =
            other.query_row("select count(*) from pragma_foreign_key_check", [], |row| {
                row.get::<_, i64>(0)
            });
        assert_eq!(dangling, Ok(0));
    }

    #[test]
    fn what_is_not_valid_is_told_with_who_refers_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let _other = database(&directory);
        let mut answer = |of: &StorePath| (*of == path(0)).then(|| info(&[1]));
        let whole = |number| format!("/nix/store/{}", path(number).as_str());
        let error = copy_from(&directory, Wanted::Closures(&[path(0)]), &mut answer);
        let expected = vec![(whole(0), whole(1))];
        assert!(
            matches!(&error, Err(WarmError::Incomplete(found)) if *found == expected),
            "{error:?}"
        );
        let error = copy_from(&directory, Wanted::Closures(&[path(2)]), &mut answer);
        assert!(matches!(&error, Err(WarmError::NotValid(_))), "{error:?}");
        let both = [path(0), path(1)];
        let error = copy_from(&directory, Wanted::ValidClosures(&both), &mut answer);
        assert!(matches!(&error, Err(WarmError::Incomplete(_))), "{error:?}");
        let warmed = copy_from(&directory, Wanted::ValidClosures(&[path(2)]), &mut answer);
        assert_eq!(warmed.unwrap().invalid, 1);
    }
}
