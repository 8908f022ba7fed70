//! How much of a large suite runs.

/// The environment variable that has large suites run whole: `make soak` sets it.
const VARIABLE: &str = "OVERSTORE_SOAK";

/// Whether large suites run whole.
pub fn soaks() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Of a large suite's cases all, where it runs whole; otherwise about so many, from one end to the
/// other, the same in each run.
pub fn sample<T>(cases: Vec<T>, about: usize) -> Vec<T> {
    let step = match soaks() {
        true => 1,
        false => cases.len().div_ceil(about.max(1)).max(1),
    };
    cases.into_iter().step_by(step).collect()
}
