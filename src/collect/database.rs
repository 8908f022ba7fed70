//! The upper database, read into a [`Graph`].
//!
//! Read as a lower store's database is: as one state of it, without a lock, and without a byte
//! written. A row takes 12 bytes and a reference 4, whatever their paths are.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::graph::{Edges, Graph};
use crate::lower::LowerError;
use crate::lower::database::Database;
use crate::lower::places::Places;
use crate::lower::sqlite::{read_row, text as read_text};
use crate::lower::summaries::{self, Key, Summary};
use crate::nix::path_info::PathInfo;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::sqlite::hardening::is_ordinary_table;

/// How Nix's settings of these names stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    /// `keep-derivations`: a valid output keeps its deriver.
    pub derivations: bool,
    /// `keep-outputs`: a derivation keeps its outputs.
    pub outputs: bool,
    /// Whether `ca-derivations` is among `experimental-features`: then both also hold of outputs whose
    /// paths are known from realisations alone. (Nix itself heeds `keep-outputs` for those only in some
    /// orders of looking.)
    pub realisations: bool,
}

const ROWS: &str = "select id from upper.ValidPaths order by id";
const WHOLE_ROW: &str = "select path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca \
                         from upper.ValidPaths where id = ?";
const REFERENCES: &str = "select referrer, reference from upper.Refs \
                          indexed by sqlite_autoindex_Refs_1 order by referrer, reference";
/// Each derivation, each of its outputs that has a row, and whether the output says that this
/// derivation is its deriver.
const OUTPUTS: &str = "select o.id, d.drv, o.deriver = p.path, d.rowid \
                       from upper.DerivationOutputs d cross join upper.ValidPaths o indexed by sqlite_autoindex_ValidPaths_1 \
                       on o.path = d.path cross join upper.ValidPaths p on p.id = d.drv order by d.rowid";
/// Each output that a realisation names and whose deriver has a row. Nix finds realisations by a hash of
/// the derivation (`queryPartialDerivationOutputMap`), and looks whether the output says the same; the
/// other way round no hash is needed.
const REALISED: &str = "select o.id, d.id, 1, r.rowid from upper.Realisations r \
                        cross join upper.ValidPaths o on o.id = r.outputPath \
                        cross join upper.ValidPaths d indexed by sqlite_autoindex_ValidPaths_1 \
                        on d.path = o.deriver order by r.rowid";
/// The outputs of a derivation.
const OUTPUTS_OF: &str = "select path from upper.DerivationOutputs where drv = ?";
const REFERRERS: &str = "select referrer, rowid from upper.Refs indexed by IndexReference \
                         where reference = ? order by rowid";
/// The outputs of a derivation that say that it is their deriver.
const BUILT_BY: &str = "select o.id, d.rowid from upper.DerivationOutputs d \
                        cross join upper.ValidPaths o indexed by sqlite_autoindex_ValidPaths_1 \
                        on o.path = d.path where d.drv = ?1 and o.deriver = ?2 order by d.rowid";
/// The derivations that have an output.
const DERIVERS: &str =
    "select drv, rowid from upper.DerivationOutputs where path = ? order by rowid";
const BY_PATH: &str = "select id from upper.ValidPaths indexed by sqlite_autoindex_ValidPaths_1 \
                       where path = ?";
const PATH_OF: &str = "select path from upper.ValidPaths where id = ?";
const HIGHEST: &str = "select coalesce(max(id), 0) from upper.ValidPaths";
const BY_ID: &str = "select path, registrationTime, deriver from upper.ValidPaths where id = ?";

/// One state of the upper database.
#[derive(Debug)]
pub(crate) struct UpperRows {
    // The connection goes before what it has attached.
    connection: Connection,
    database: Database,
    store: StoreDirectory,
    has_outputs: bool,
    has_realisations: bool,
    /// The row ids in their order, once they are read: a node is a place in it.
    ids: Vec<i64>,
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowInfo {
    /// The object.
    pub path: StorePath,
    /// When it was registered, in seconds since 1970.
    pub registration_time: i64,
    /// Its deriver, where it has one that is a store path.
    pub deriver: Option<StorePath>,
}

impl UpperRows {
    /// Takes the present state of the database at `path`.
    ///
    /// # Errors
    /// When it cannot be read as it is, or is not Nix's.
    pub(crate) fn open(path: &Path, store: StoreDirectory) -> Result<Self, LowerError> {
        let database = Database::open(path)?;
        let connection = Connection::open_in_memory().map_err(|error| database.error(error))?;
        database.attach(&connection, "upper")?;
        let sqlite = |error| database.error(error);
        let has = |table| is_ordinary_table(&connection, "upper", table).map_err(sqlite);
        let (has_outputs, has_realisations) = (has("DerivationOutputs")?, has("Realisations")?);
        Ok(Self {
            connection,
            database,
            store,
            has_outputs,
            has_realisations,
            ids: Vec::new(),
        })
    }

    /// Gives SQLite this much memory for pages, in KiB, where rows are asked for in no order.
    ///
    /// # Errors
    /// When SQLite will not.
    pub(crate) fn keep_pages(&self, kibibytes: u32) -> Result<(), LowerError> {
        self.connection
            .pragma_update(Some("upper"), "cache_size", -i64::from(kibibytes))
            .map_err(|error| self.database.error(error))
    }

    /// Reads which rows there are: only then they have nodes.
    ///
    /// # Errors
    /// When the database cannot be read, or is damaged.
    pub(crate) fn read_nodes(&mut self) -> Result<(), LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut ids = Vec::new();
        {
            let mut statement = self.prepare(ROWS)?;
            let mut rows = statement.query([]).map_err(sqlite)?;
            let mut last = None;
            while let Some(row) = rows.next().map_err(sqlite)? {
                let id = row.get(0).map_err(sqlite)?;
                self.database.in_order(&mut last, id, "ValidPaths")?;
                ids.push(id);
            }
        }
        self.take_nodes(ids)
    }

    /// The same, and hands the path of each to `each`, with a summary that lacks its references.
    ///
    /// # Errors
    /// As [`read_nodes`](Self::read_nodes); and where a path is none of this store.
    pub(crate) fn read_summaries<E: From<LowerError>>(
        &mut self,
        key: &Key,
        mut each: impl FnMut(StorePath, Summary) -> Result<(), E>,
    ) -> Result<(), E> {
        let attached = (&self.database, &self.connection, "upper");
        let mut ids = Vec::new();
        summaries::each_row(attached, self.store.as_bytes(), key, |id, path, summary| {
            let path = self.store.parse(path);
            let path = path.map_err(|what| E::from(self.database.damaged(what)))?;
            ids.push(id);
            each(path, summary)
        })?;
        Ok(self.take_nodes(ids)?)
    }

    fn take_nodes(&mut self, mut ids: Vec<i64>) -> Result<(), LowerError> {
        if u32::try_from(ids.len()).is_err() {
            let what = "it has more than four billion rows".to_owned();
            return Err(self.database.damaged(what));
        }
        ids.shrink_to_fit();
        self.ids = ids;
        Ok(())
    }

    /// How many nodes there are.
    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }

    /// What the row of a node says but for its references.
    ///
    /// # Errors
    /// When the database cannot be read, or it is a row that Nix does not write.
    pub(crate) fn whole(&self, node: u32) -> Result<(StorePath, PathInfo), LowerError> {
        let sqlite = |error| self.database.error(error);
        let missing = || self.database.damaged(format!("node {node} has no row"));
        let id = self.id_of_node(node).ok_or_else(missing)?;
        let mut statement = self.prepare(WHOLE_ROW)?;
        let mut rows = statement.query([id]).map_err(sqlite)?;
        let row = rows.next().map_err(sqlite)?.ok_or_else(missing)?;
        let path = read_text(row, 0).and_then(|path| self.store.parse(path));
        let path = path.map_err(|what| self.database.damaged(what))?;
        let info = read_row(row, 1, &self.store);
        let info = info.map_err(|what| self.database.wrong_row(path.clone(), what))?;
        Ok((path, info))
    }

    /// The graph of this state, with the edges that these settings add.
    ///
    /// # Errors
    /// When the database cannot be read, or is damaged.
    pub(crate) fn graph(&self, keep: Keep) -> Result<Graph, LowerError> {
        let nodes = Places::new(&self.ids);
        Ok(Graph {
            count: self.ids.len(),
            references: self.references(&nodes)?,
            kept: Edges::from_pairs(self.kept(&nodes, keep)?),
        })
    }

    /// Proves that all that was read is one state of the database.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn confirm(&self) -> Result<(), LowerError> {
        self.database.confirm()
    }

    /// The node of a path, if it has a row.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn node(&self, path: &StorePath) -> Result<Option<u32>, LowerError> {
        Ok(self.id(path)?.and_then(|id| self.node_of_id(id)))
    }

    /// The row id of a path, if it has a row.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn id(&self, path: &StorePath) -> Result<Option<i64>, LowerError> {
        let whole = self.store.print(path);
        let mut statement = self.prepare(BY_PATH)?;
        statement
            .query_row([String::from_utf8_lossy(&whole)], |row| row.get(0))
            .optional()
            .map_err(|error| self.database.error(error))
    }

    /// What the row of a node says.
    ///
    /// # Errors
    /// When the database cannot be read, or the row is none that Nix writes.
    pub(crate) fn row(&self, node: u32) -> Result<RowInfo, LowerError> {
        match self.ids.get(node as usize) {
            Some(&id) => self.row_of_id(id),
            None => Err(self.database.damaged(format!("node {node} has no row"))),
        }
    }

    /// The same for a row id.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    pub(crate) fn row_of_id(&self, id: i64) -> Result<RowInfo, LowerError> {
        let sqlite = |error| self.database.error(error);
        let missing = || self.database.damaged(format!("row {id} is missing"));
        let mut statement = self.prepare(BY_ID)?;
        let mut rows = statement.query([id]).map_err(sqlite)?;
        let row = rows.next().map_err(sqlite)?.ok_or_else(missing)?;
        let parse = |column| read_text(row, column).and_then(|path| self.store.parse(path));
        Ok(RowInfo {
            path: parse(0).map_err(|what| self.database.damaged(what))?,
            registration_time: row.get(1).map_err(sqlite)?,
            // Nix writes any text there, and never needs it.
            deriver: parse(2).ok(),
        })
    }

    /// The path of a row id.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    pub(crate) fn path_of_id(&self, id: i64) -> Result<StorePath, LowerError> {
        let sqlite = |error| self.database.error(error);
        let missing = || self.database.damaged(format!("row {id} is missing"));
        let mut statement = self.prepare(PATH_OF)?;
        let mut rows = statement.query([id]).map_err(sqlite)?;
        let row = rows.next().map_err(sqlite)?.ok_or_else(missing)?;
        let path = read_text(row, 0).and_then(|path| self.store.parse(path));
        path.map_err(|what| self.database.damaged(what))
    }

    /// About how many rows there are, found at once: not fewer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn about(&self) -> Result<u64, LowerError> {
        let mut statement = self.prepare(HIGHEST)?;
        let highest: i64 = statement
            .query_row([], |row| row.get(0))
            .map_err(|error| self.database.error(error))?;
        Ok(u64::try_from(highest).unwrap_or(0))
    }

    /// The row id of a node.
    pub(crate) fn id_of_node(&self, node: u32) -> Option<i64> {
        self.ids.get(node as usize).copied()
    }

    /// The rows of all that keeps an object alive directly.
    ///
    /// # Errors
    /// When the database cannot be read, or is damaged.
    pub(crate) fn kept_by(
        &self,
        id: i64,
        path: &StorePath,
        keep: Keep,
    ) -> Result<Vec<i64>, LowerError> {
        let whole = self.store.print(path);
        let whole = String::from_utf8_lossy(&whole);
        let mut found = self.list(REFERRERS, [id], "IndexReference")?;
        if self.has_outputs && keep.derivations && path.is_derivation() {
            found.extend(self.list(BUILT_BY, (id, &whole), "DerivationOutputs")?);
        }
        if self.has_outputs && keep.outputs {
            found.extend(self.list(DERIVERS, [&whole], "DerivationOutputs")?);
        }
        Ok(found)
    }

    /// The first column of what a query gives; its second says the order in a tree.
    fn list(
        &self,
        query: &str,
        parameters: impl rusqlite::Params,
        tree: &str,
    ) -> Result<Vec<i64>, LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut statement = self.prepare(query)?;
        let mut rows = statement.query(parameters).map_err(sqlite)?;
        let (mut found, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next().map_err(sqlite)? {
            self.database
                .in_order(&mut last, row.get(1).map_err(sqlite)?, tree)?;
            found.push(row.get(0).map_err(sqlite)?);
        }
        Ok(found)
    }

    /// The paths of a derivation's outputs, as far as they are known without building it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn outputs(&self, node: u32) -> Result<Vec<StorePath>, LowerError> {
        let sqlite = |error| self.database.error(error);
        let Some(id) = self.ids.get(node as usize).filter(|_| self.has_outputs) else {
            return Ok(Vec::new());
        };
        let mut statement = self.prepare(OUTPUTS_OF)?;
        let mut rows = statement.query([id]).map_err(sqlite)?;
        let mut outputs = Vec::new();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let path = read_text(row, 0).and_then(|path| self.store.parse(path));
            outputs.extend(path.ok());
        }
        Ok(outputs)
    }

    fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, LowerError> {
        self.connection
            .prepare_cached(sql)
            .map_err(|error| self.database.error(error))
    }

    /// The node of a row id, once they have nodes.
    pub(crate) fn node_of_id(&self, id: i64) -> Option<u32> {
        u32::try_from(self.ids.binary_search(&id).ok()?).ok()
    }

    fn references(&self, nodes: &Places<'_>) -> Result<Edges, LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut statement = self.prepare(REFERENCES)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let mut edges = Edges::new();
        let mut last = None;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let (from, to): (i64, i64) = (row.get(0).map_err(sqlite)?, row.get(1).map_err(sqlite)?);
            let damaged = |what: &str| {
                self.database
                    .damaged(format!("the reference {from} {what} {to}"))
            };
            if last
                .replace((from, to))
                .is_some_and(|last| last >= (from, to))
            {
                return Err(damaged("is not in its place, to"));
            }
            let (Some(from), Some(to)) = (nodes.get(from), nodes.get(to)) else {
                return Err(damaged("is between rows that do not both exist, to"));
            };
            if !edges.push(from, to) {
                return Err(damaged("is one too many, to"));
            }
        }
        Ok(edges)
    }

    fn kept(&self, nodes: &Places<'_>, keep: Keep) -> Result<Vec<(u32, u32)>, LowerError> {
        let mut pairs = Vec::new();
        if self.has_outputs && (keep.derivations || keep.outputs) {
            self.pairs(
                OUTPUTS,
                "DerivationOutputs",
                nodes,
                |output, derivation, is_deriver| {
                    if keep.derivations && is_deriver {
                        pairs.push((output, derivation));
                    }
                    if keep.outputs {
                        pairs.push((derivation, output));
                    }
                },
            )?;
        }
        if self.reads_realisations(keep) {
            self.pairs(REALISED, "Realisations", nodes, |output, derivation, _| {
                if keep.derivations {
                    pairs.push((output, derivation));
                }
                if keep.outputs {
                    pairs.push((derivation, output));
                }
            })?;
        }
        Ok(pairs)
    }

    /// Hands the nodes that the first two columns of a query name to `each`, with its third one; its
    /// fourth says the order in a tree.
    fn pairs(
        &self,
        query: &str,
        tree: &str,
        nodes: &Places<'_>,
        mut each: impl FnMut(u32, u32, bool),
    ) -> Result<(), LowerError> {
        let sqlite = |error| self.database.error(error);
        let mut statement = self.prepare(query)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let mut last = None;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let place = row.get(3).map_err(sqlite)?;
            self.database.in_order(&mut last, place, tree)?;
            let output = nodes.get(row.get(0).map_err(sqlite)?);
            let derivation = nodes.get(row.get(1).map_err(sqlite)?);
            if let (Some(output), Some(derivation)) = (output, derivation) {
                let third = row.get::<_, Option<bool>>(2).map_err(sqlite)?;
                each(output, derivation, third == Some(true));
            }
        }
        Ok(())
    }

    /// Whether realisations say what keeps an object. They are not found by the object.
    pub(crate) fn reads_realisations(&self, keep: Keep) -> bool {
        self.has_realisations && keep.realisations && (keep.derivations || keep.outputs)
    }
}
