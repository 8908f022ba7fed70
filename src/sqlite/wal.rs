//! SQLite's write-ahead log, read without SQLite.
//!
//! Known from "WAL-Mode File Format" and "Checksum Algorithm" in SQLite's
//! documentation (`fileformat2.html`, `walformat.html`).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the log's own header.
pub(crate) const HEADER: usize = 32;
/// The only version of the format there is, of the log and of its index.
pub(crate) const VERSION: u32 = 3_007_000;
/// Bytes before the page in each frame.
const FRAME_HEADER: usize = 24;
/// Most changed pages in a log that is taken: a million are 4 GiB, and 16 MiB of memory here.
const MOST_PAGES: usize = 1 << 20;

/// The committed pages in a log: the state of its last whole transaction.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Page number to the newest committed frame with it, both from 1.
    frames: HashMap<u32, u32>,
    /// Bytes of a page.
    page_size: u32,
    /// Pages of the database after the last commit; 0 when nothing is committed here.
    pages: u32,
}

impl Log {
    /// Reads the log up to its last commit. What is not (yet) a whole transaction is left out, as
    /// SQLite does; so is what remains of an earlier round of the log.
    ///
    /// # Errors
    /// Those of reading. `InvalidData` when the log has more changed pages than any real one.
    pub(crate) fn read(file: &File, header: &[u8; HEADER]) -> io::Result<Self> {
        let Some(header) = Header::parse(header) else {
            return Ok(Self::default());
        };
        let mut log = Self {
            page_size: header.page_size,
            ..Self::default()
        };
        let mut sum = header.sum;
        let mut pending = HashMap::new();
        let frame_size = FRAME_HEADER + header.page_size as usize;
        // Several frames a read, within bounded memory.
        let mut chunk = vec![0; frame_size * (1_usize << 18).div_ceil(frame_size)];
        let mut offset = HEADER as u64;
        let mut frame_number: u32 = 0;
        loop {
            let filled = read_full(file, &mut chunk, offset)?;
            offset += filled as u64;
            for frame in chunk[..filled].chunks_exact(frame_size) {
                let (frame_header, page) = frame.split_at(FRAME_HEADER);
                let page_number = be32(frame_header, 0);
                frame_number = match frame_number.checked_add(1) {
                    Some(next) if page_number != 0 && frame_header[8..16] == header.salts => next,
                    _ => return Ok(log),
                };
                sum = header.add(header.add(sum, &frame_header[..8]), page);
                if sum != [be32(frame_header, 16), be32(frame_header, 20)] {
                    return Ok(log);
                }
                pending.insert(page_number, frame_number);
                let pages_after_commit = be32(frame_header, 4);
                if pages_after_commit != 0 {
                    log.pages = pages_after_commit;
                    log.frames.extend(pending.drain());
                }
                if pending.len() + log.frames.len() > MOST_PAGES {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the write-ahead log has more changed pages than any real one",
                    ));
                }
            }
            if filled < chunk.len() {
                return Ok(log);
            }
        }
    }

    /// Whether the log has committed pages, so that the database alone is not the whole.
    pub(crate) fn has_content(&self) -> bool {
        self.pages != 0
    }

    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// The pages that the database has after the last commit and that are here, each with where in
    /// the log's file it is.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (u32, u64)> {
        // A transaction may have made the database shorter.
        let pages = self.frames.keys().filter(|&&page| page <= self.pages);
        pages.filter_map(|&page| Some((page, self.offset_of(page)?)))
    }

    /// Where in the log's file a page (from 1) is, if it is there.
    pub(crate) fn offset_of(&self, page: u32) -> Option<u64> {
        let frame = u64::from(*self.frames.get(&page)?) - 1;
        let frame_size = FRAME_HEADER as u64 + u64::from(self.page_size);
        Some(HEADER as u64 + frame * frame_size + FRAME_HEADER as u64)
    }
}

/// The log's header, once its checksum was found right.
pub(crate) struct Header {
    page_size: u32,
    /// What tells this round of the log from the ones before.
    pub salts: [u8; 8],
    big_endian: bool,
    sum: [u32; 2],
}

impl Header {
    /// Reads a header; `None` if it is not valid, and SQLite ignores the log.
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let magic = be32(bytes, 0);
        let page_size = be32(bytes, 8);
        let mut header = Self {
            page_size,
            salts: [0; 8],
            big_endian: magic & 1 == 1,
            sum: [0, 0],
        };
        header.salts.copy_from_slice(&bytes[16..24]);
        header.sum = header.add([0, 0], &bytes[..24]);
        (magic & !1 == 0x377f_0682
            && be32(bytes, 4) == VERSION
            && page_size.is_power_of_two()
            && (512..=65536).contains(&page_size)
            && header.sum == [be32(bytes, 24), be32(bytes, 28)])
        .then_some(header)
    }

    fn add(&self, sum: [u32; 2], bytes: &[u8]) -> [u32; 2] {
        checksum(self.big_endian, sum, bytes)
    }
}

/// Goes on with SQLite's checksum over `bytes`, whose length is a multiple of eight, as words of one
/// byte order.
pub(crate) fn checksum(big_endian: bool, [mut a, mut b]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let word = |word: &[u8]| {
        let word = [word[0], word[1], word[2], word[3]];
        if big_endian {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    };
    for pair in bytes.chunks_exact(8) {
        a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
    }
    [a, b]
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
