//! The `overstore` program.
fn main() {}
