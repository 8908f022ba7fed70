//! A database with hostile contents: tables that are not quite Nix's, values of any type in them,
//! pages changed at will, and any part of it only in a write-ahead log.

use arbitrary::Arbitrary;
use overstore::testing::nix::schema;
use rusqlite::Connection;
use rusqlite::types::Value as SqlValue;

use crate::store::NAMES;

/// How to make one.
#[derive(Debug, Arbitrary)]
pub struct Image {
    tables: Tables,
    rows: Vec<Row>,
    references: Vec<(Value, Value)>,
    outputs: Vec<(Value, Value, Value)>,
    patches: Vec<Patch>,
    /// Whether rows and changed pages are only in the log.
    logged: bool,
    log_patches: Vec<Patch>,
    cut: Option<u16>,
}

/// The bytes of a database and of its log.
#[derive(Debug)]
pub struct Files {
    pub database: Vec<u8>,
    pub log: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
enum Tables {
    /// Nix's own.
    Nix,
    /// Columns without types, and no keys: every value stays what it is.
    Untyped,
    /// No row ids.
    WithoutRowId,
    View,
    Generated,
    FullText,
    Check,
    Trigger,
    Expression,
    Utf16,
}

#[derive(Debug, Arbitrary)]
struct Row {
    id: Value,
    path: Value,
    /// Whether the path is taken for text, also where it has bytes that no text has.
    path_is_text: bool,
    hash: Value,
    registration_time: Value,
    deriver: Value,
    nar_size: Value,
    ultimate: Value,
    signatures: Value,
    content_address: Value,
}

#[derive(Debug, Arbitrary)]
enum Value {
    Null,
    Small(i8),
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    /// A store path among a few.
    Path(u8),
    /// A path beginning like one of the store.
    Beginning(String),
    Hash,
    Large(u8),
}

#[derive(Debug, Arbitrary)]
struct Patch {
    page: u8,
    offset: u16,
    bytes: Vec<u8>,
}

impl Image {
    /// The files, unless SQLite does not make even a database.
    pub fn files(&self) -> Option<Files> {
        let (before, mut after) = self.pages().ok()?;
        let page_size = 512;
        for patch in &self.patches {
            patch.apply(&mut after, page_size);
        }
        let mut files = match self.logged {
            true => Files {
                log: log(&before, &after, page_size),
                database: before,
            },
            false => Files {
                database: after,
                log: Vec::new(),
            },
        };
        for patch in &self.log_patches {
            patch.apply(&mut files.log, page_size);
        }
        if let Some(cut) = self.cut {
            files.database.truncate(usize::from(cut));
        }
        Some(files)
    }

    /// The database without rows, and with them.
    fn pages(&self) -> rusqlite::Result<(Vec<u8>, Vec<u8>)> {
        let mut connection = Connection::open_in_memory()?;
        connection.execute_batch("pragma page_size = 512; pragma foreign_keys = 0")?;
        if matches!(self.tables, Tables::Utf16) {
            connection.execute_batch("pragma encoding = 'utf-16'")?;
        }
        connection.execute_batch(&self.tables.sql())?;
        let before = connection.serialize("main")?.to_vec();
        // What does not fit the tables is left out.
        for row in self.rows.iter().take(32) {
            let _ = connection.execute(
                "insert or ignore into ValidPaths (id, path, hash, registrationTime, deriver, \
                 narSize, ultimate, sigs, ca) values (?, iif(?, cast(?3 as text), ?3), ?, ?, ?, ?, ?, ?, ?)",
                [
                    row.id.sql(),
                    SqlValue::Integer(row.path_is_text.into()),
                    row.path.sql(),
                    row.hash.sql(),
                    row.registration_time.sql(),
                    row.deriver.sql(),
                    row.nar_size.sql(),
                    row.ultimate.sql(),
                    row.signatures.sql(),
                    row.content_address.sql(),
                ],
            );
        }
        for (referrer, reference) in self.references.iter().take(64) {
            let _ = connection.execute(
                "insert or ignore into Refs values (?, ?)",
                [referrer, reference].map(Value::sql),
            );
        }
        for (derivation, id, path) in self.outputs.iter().take(16) {
            let _ = connection.execute(
                "insert or ignore into DerivationOutputs values (?, ?, ?)",
                [derivation, id, path].map(Value::sql),
            );
        }
        Ok((before, connection.serialize("main")?.to_vec()))
    }
}

impl Tables {
    fn sql(&self) -> String {
        let columns = "id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca";
        let others = "create table Refs (referrer, reference);
                      create table DerivationOutputs (drv, id, path);
                      create table SchemaMigrations (migration);";
        match self {
            Self::Nix | Self::Utf16 => schema::SQL.to_owned(),
            Self::Untyped => format!("create table ValidPaths ({columns}); {others}"),
            Self::WithoutRowId => format!(
                "create table ValidPaths ({columns}, primary key (id)) without rowid; {others}"
            ),
            Self::View => format!(
                "create table Hidden ({columns}); {others}
                 create view ValidPaths as with recursive n(x) as
                 (select 1 union all select x + 1 from n) select x as {columns} from n, Hidden;"
            ),
            Self::Generated => format!(
                "create table ValidPaths ({columns},
                 more as (hex(zeroblob(1000000))) virtual); {others}"
            ),
            Self::FullText => {
                format!("create virtual table ValidPaths using fts5 ({columns}); {others}")
            }
            Self::Check => format!(
                "create table ValidPaths ({columns},
                 check (length(hex(zeroblob(1000000))) > 0)); {others}"
            ),
            Self::Trigger => format!(
                "{} create trigger More after insert on ValidPaths begin
                 update ValidPaths set path = '/etc/passwd';
                 select count(*) from ValidPaths a, ValidPaths b, ValidPaths c; end;
                 create trigger Other after insert on Refs begin
                 delete from ValidPaths; select load_extension('x'); end;",
                schema::SQL
            ),
            Self::Expression => format!(
                "{} create index Mine on ValidPaths (length(path)) where hex(path) > '0';",
                schema::SQL
            ),
        }
    }
}

impl Value {
    fn sql(&self) -> SqlValue {
        match self {
            Self::Null => SqlValue::Null,
            Self::Small(number) => SqlValue::Integer((*number).into()),
            Self::Integer(number) => SqlValue::Integer(*number),
            Self::Real(number) => SqlValue::Real(*number),
            Self::Text(text) => SqlValue::Text(text.clone()),
            Self::Blob(bytes) => SqlValue::Blob(bytes.clone()),
            Self::Path(index) => SqlValue::Text(crate::path(*index)),
            Self::Beginning(rest) => SqlValue::Text(format!("/nix/store/{}{rest}", NAMES[0])),
            Self::Hash => SqlValue::Text(format!("sha256:{}", "0f".repeat(32))),
            Self::Large(size) => SqlValue::Blob(vec![b'a'; usize::from(*size) * 100]),
        }
    }
}

impl Patch {
    fn apply(&self, bytes: &mut [u8], page_size: usize) {
        let start = usize::from(self.page) * page_size + usize::from(self.offset) % page_size;
        for (to, from) in bytes.iter_mut().skip(start).zip(&self.bytes) {
            *to = *from;
        }
    }
}

/// A log with one transaction that makes `after` of `before`
/// (<https://sqlite.org/fileformat2.html#walformat>).
fn log(before: &[u8], after: &[u8], page_size: usize) -> Vec<u8> {
    let pages = after.len() / page_size;
    let changed: Vec<_> = (0..pages)
        .filter(|page| {
            let range = page * page_size..(page + 1) * page_size;
            before.get(range.clone()) != after.get(range)
        })
        .collect();
    let mut log = Vec::new();
    for word in [0x377f_0682, 3_007_000, page_size as u32, 0, 1, 2] {
        log.extend(u32::to_be_bytes(word));
    }
    let mut sum = checksum([0, 0], &log);
    log.extend(sum.iter().flat_map(|word| word.to_be_bytes()));
    for (place, page) in changed.iter().enumerate() {
        let mut header = (*page as u32 + 1).to_be_bytes().to_vec();
        let committed = match place + 1 == changed.len() {
            true => pages as u32,
            false => 0,
        };
        header.extend(committed.to_be_bytes());
        let content = &after[page * page_size..(page + 1) * page_size];
        sum = checksum(checksum(sum, &header), content);
        header.extend([1_u32, 2].iter().flat_map(|word| word.to_be_bytes()));
        header.extend(sum.iter().flat_map(|word| word.to_be_bytes()));
        log.extend(header);
        log.extend(content);
    }
    log
}

fn checksum([mut a, mut b]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for pair in bytes.chunks_exact(8) {
        a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
    }
    [a, b]
}
