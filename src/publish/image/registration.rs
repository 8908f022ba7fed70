//! A registration of paths, as `nix-store --dump-db` prints it and nixpkgs' `closureInfo` makes it: what
//! there is of a store where its database is not to be had, as for a builder.
//!
//! Known from Nix's `decodeValidPathInfo`: a path, the hash and the size of its NAR, its deriver or
//! nothing, the number of its references and each of them, a line each.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use rusqlite::{Connection, params};

use super::super::error::PublishError;
use crate::escape::quote;
use crate::nix::hash::{parse_registered_sha256, render_sha256};

/// Longest line, in bytes.
const LONGEST: u64 = 8 << 10;

/// Reads one from a file into an empty database of Nix's schema, attached as `database`. Paths that are
/// only referred to have no row then, as where a reference leads nowhere.
pub(super) fn read(
    path: &Path,
    connection: &Connection,
    database: &str,
) -> Result<(), PublishError> {
    let file = File::open(path).map_err(|error| PublishError::io("open", path, error))?;
    let mut lines = Lines {
        path,
        file: BufReader::new(file),
        number: 0,
    };
    let sqlite = |source| PublishError::Sqlite {
        action: "read into",
        path: path.to_owned(),
        source,
    };
    let prepare = |sql: &str| connection.prepare(sql).map_err(sqlite);
    let mut number = prepare(&format!(
        "insert into {database}.ValidPaths (path, hash, registrationTime) values (?1, '', 1) \
         on conflict (path) do update set path = path returning id"
    ))?;
    let mut number = |path: &str| -> Result<i64, PublishError> {
        number.query_row([path], |row| row.get(0)).map_err(sqlite)
    };
    let mut register = prepare(&format!(
        "update {database}.ValidPaths set hash = ?2, narSize = ?3, deriver = ?4 where id = ?1"
    ))?;
    let mut refer = prepare(&format!(
        "insert or ignore into {database}.Refs values (?1, ?2)"
    ))?;
    while let Some(object) = lines.next()? {
        let id = number(&object)?;
        let hash = lines.field("a hash")?;
        let hash = parse_registered_sha256(hash.as_bytes())
            .ok_or_else(|| lines.unexpected("a SHA-256 hash", &hash))?;
        let size = lines.count("a size")?;
        let deriver = Some(lines.field("a deriver, or nothing")?).filter(|it| !it.is_empty());
        register
            .execute(params![id, render_sha256(&hash), size, deriver])
            .map_err(sqlite)?;
        for _ in 0..lines.count("a number of references")? {
            let reference = number(&lines.field("a reference")?)?;
            refer.execute([id, reference]).map_err(sqlite)?;
        }
    }
    let unregistered = format!("delete from {database}.ValidPaths where hash = ''");
    connection.execute_batch(&unregistered).map_err(sqlite)
}

struct Lines<'p> {
    path: &'p Path,
    file: BufReader<File>,
    /// Of the line that was read last.
    number: u64,
}

impl Lines<'_> {
    /// The next line, without its end; none at the end.
    fn next(&mut self) -> Result<Option<String>, PublishError> {
        self.number += 1;
        let mut line = Vec::new();
        let mut limited = (&mut self.file).take(LONGEST);
        limited
            .read_until(b'\n', &mut line)
            .map_err(|error| PublishError::io("read", self.path, error))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 == LONGEST {
            return Err(self.wrong(format!("it is longer than {LONGEST} bytes")));
        }
        match String::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(error) => {
                let found = quote(error.as_bytes());
                Err(self.wrong(format!("expected text, found {found}")))
            }
        }
    }

    /// The next line, which has to be there.
    fn field(&mut self, expected: &str) -> Result<String, PublishError> {
        let line = self.next()?;
        line.ok_or_else(|| self.wrong(format!("expected {expected}, found the end")))
    }

    /// The next line, which has to be a number.
    fn count(&mut self, expected: &str) -> Result<i64, PublishError> {
        let text = self.field(expected)?;
        let count = text.parse().ok().filter(|count| *count >= 0);
        count.ok_or_else(|| self.unexpected(expected, &text))
    }

    fn unexpected(&self, expected: &str, found: &str) -> PublishError {
        self.wrong(format!(
            "expected {expected}, found {}",
            quote(found.as_bytes())
        ))
    }

    fn wrong(&self, what: String) -> PublishError {
        PublishError::Registration {
            path: self.path.to_owned(),
            line: self.number,
            what,
        }
    }
}
