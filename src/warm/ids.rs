//! Row ids, many at once.

/// Ids in order, taken together where none is between them.
pub(super) fn runs(ids: &[i64]) -> impl Iterator<Item = &[i64]> {
    ids.chunk_by(|id, next| id + 1 == *next)
}

/// How much larger the new ids are than those below: the gaps between them stay, so that all
/// references can be copied by SQLite itself. `None` where the ids are too far apart for that.
pub(super) fn shift(ids: &[i64], first_new: i64) -> Option<i64> {
    const FAR: i64 = 1 << 40;
    let (first, last) = (*ids.first()?, *ids.last()?);
    let near = last.checked_sub(first)? < FAR && (0..FAR).contains(&first_new);
    (near && (-FAR..FAR).contains(&first)).then(|| first_new - first)
}
