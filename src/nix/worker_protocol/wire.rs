//! The worker protocol's encoding: numbers are eight bytes, little endian;
//! strings are a length and their bytes, padded with zeros to eight.

use std::io::{self, Read};

/// Why a message could not be read.
#[derive(Debug)]
pub enum WireError {
    Io(io::Error),
    /// What was expected, and what was found.
    Malformed(String),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) fn read_u64(from: &mut impl Read) -> Result<u64, WireError> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads a string of at most `longest` bytes. Memory grows with what really
/// arrives, not with what its length claims.
pub(crate) fn read_bytes(from: &mut impl Read, longest: u64) -> Result<Vec<u8>, WireError> {
    let length = read_u64(from)?;
    if length > longest {
        return Err(WireError::Malformed(format!(
            "expected a string of at most {longest} bytes, found one of {length}"
        )));
    }
    let mut bytes = Vec::new();
    from.by_ref().take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let mut padding = [0; 8];
    let padding = &mut padding[..(length.wrapping_neg() % 8) as usize];
    from.read_exact(padding)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(WireError::Malformed(
            "expected zeros after a string".to_owned(),
        ));
    }
    Ok(bytes)
}

/// Reads how many items follow, at most `most`.
pub(crate) fn read_count(from: &mut impl Read, most: u64) -> Result<u64, WireError> {
    let count = read_u64(from)?;
    if count > most {
        return Err(WireError::Malformed(format!(
            "expected a list of at most {most} items, found one of {count}"
        )));
    }
    Ok(count)
}

pub(crate) fn write_u64(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(&number.to_le_bytes());
}

pub(crate) fn write_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    write_u64(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
    to.resize(to.len().next_multiple_of(8), 0);
}
