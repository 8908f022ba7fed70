//! The database of an image: the same bytes from the same objects, in whatever order, when and by
//! which version of Nix they came into the live store.
//!
//! Rows are numbered in the order of their paths, times of registration are 1 (as those of files in a
//! store are), signatures are sorted, and what Nix reads as nothing is null.

use rusqlite::params;

use super::super::database::{Copied, Draft, Wanted};
use super::super::error::PublishError;
use crate::lower::sqlite::{read_row, text};
use crate::nix::hash::render_sha256;
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;

/// New ids by old ones.
const NUMBERS: &str = "create temp table numbers (old integer primary key, new integer not null)";

/// Tables whose rows are not those of paths, each with the way to copy it. A reference to a row that
/// is missing keeps a number that leads nowhere, so that it is found when what was copied is verified.
const TABLES: [(&str, &str); 5] = [
    (
        "Refs",
        "insert into main.Refs select f.new, coalesce(t.new, -r.reference) \
         from live.Refs r join numbers f on f.old = r.referrer \
         left join numbers t on t.old = r.reference order by 1, 2",
    ),
    (
        "DerivationOutputs",
        "insert into main.DerivationOutputs select n.new, d.id, d.path \
         from live.DerivationOutputs d join numbers n on n.old = d.drv order by 1, 2",
    ),
    (
        "Realisations",
        "create temp table realised (old integer primary key, new integer not null); \
         insert into realised select r.id, row_number() over (order by r.drvPath, r.outputName) \
         from live.Realisations r join numbers n on n.old = r.outputPath; \
         insert into main.Realisations select m.new, r.drvPath, r.outputName, n.new, r.signatures \
         from live.Realisations r join realised m on m.old = r.id \
         join numbers n on n.old = r.outputPath order by 1",
    ),
    (
        "RealisationsRefs",
        "insert into main.RealisationsRefs select f.new, t.new from live.RealisationsRefs r \
         join realised f on f.old = r.referrer left join realised t on t.old = r.realisationReference \
         where r.realisationReference is null or t.new is not null order by 1, 2",
    ),
    (
        "SchemaMigrations",
        "insert into main.SchemaMigrations select * from live.SchemaMigrations order by 1",
    ),
];

/// Copies what is wanted from what the draft is made from.
pub(super) fn copy(
    draft: &Draft,
    wanted: &Wanted,
    store: &StoreDirectory,
) -> Result<Copied, PublishError> {
    let objects = draft.objects()?;
    draft.define(&objects, &["table"])?;
    let all = draft.chooses_all(wanted, store)?;
    draft.batch(NUMBERS)?;
    let of = match all {
        true => "live.ValidPaths",
        false => "live.ValidPaths where id in (select id from chosen)",
    };
    draft.batch(&format!(
        "insert into numbers select id, row_number() over (order by path) from {of}"
    ))?;
    paths(draft, store)?;
    let tables = objects.iter().filter(|it| it.kind == "table");
    for table in tables.filter(|it| it.name != "ValidPaths") {
        let known = TABLES.iter().find(|(name, _)| *name == table.name);
        match known {
            Some((_, sql)) => draft.batch(sql)?,
            // What was built from what: true whatever is packed. `Realisations` come before what refers
            // to them, as they were made.
            None => draft.batch(&format!(
                "insert into main.{0} select * from live.{0} order by 1, 2",
                table.name
            ))?,
        }
    }
    draft.define(&objects, &["index", "trigger"])?;
    draft.counts()
}

/// The rows of paths.
fn paths(draft: &Draft, store: &StoreDirectory) -> Result<(), PublishError> {
    let connection = draft.connection();
    let copy = || -> rusqlite::Result<()> {
        let mut insert = connection.prepare(
            "insert into main.ValidPaths \
             (id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca) \
             values (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8)",
        )?;
        // Nothing can be read of such a row: verifying tells what.
        let mut as_it_is = connection.prepare(
            "insert into main.ValidPaths select ?1, path, hash, 1, deriver, narSize, ultimate, sigs, \
             ca from live.ValidPaths where id = ?2",
        )?;
        let mut select = connection.prepare(
            "select n.new, n.old, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
             from live.ValidPaths join numbers n on n.old = id order by n.new",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (new, old): (i64, i64) = (row.get(0)?, row.get(1)?);
            let path = text(row, 2)
                .ok()
                .and_then(|path| std::str::from_utf8(path).ok());
            let (Some(path), Ok(info)) = (path, read_row(row, 3, store)) else {
                as_it_is.execute([new, old])?;
                continue;
            };
            let PathInfo {
                nar_hash,
                nar_size,
                ultimate,
                ..
            } = info;
            let deriver = info.deriver.map(|path| store.print(&path));
            let deriver = deriver.map(|path| String::from_utf8_lossy(&path).into_owned());
            let signatures = Some(info.signatures).filter(|it| !it.is_empty());
            insert.execute(params![
                new,
                path,
                render_sha256(&nar_hash),
                deriver,
                (nar_size != 0).then_some(nar_size),
                ultimate.then_some(1),
                signatures,
                info.content_address,
            ])?;
        }
        Ok(())
    };
    copy().map_err(|error| draft.error(error))
}
