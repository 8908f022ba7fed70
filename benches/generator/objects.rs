//! The store directory.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::Row;

/// One object in so many is a directory.
const DIRECTORIES: u32 = 64;

/// Names of one file. ext4 allows 65,000.
const LINKS: u32 = 60_000;

pub struct Objects {
    directory: PathBuf,
    count: u32,
    /// The file that is being linked to, and how many names it has.
    file: Option<(PathBuf, u32)>,
}

impl Objects {
    pub fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            count: 0,
            file: None,
        })
    }

    pub fn add(&mut self, row: &Row) -> io::Result<()> {
        let path = self.directory.join(&row.base_name);
        self.count += 1;
        if let Some(content) = &row.content {
            return file(&path, content);
        }
        if self.count.is_multiple_of(DIRECTORIES) {
            fs::create_dir(&path)?;
            return normal(&File::open(&path)?, 0o555);
        }
        match &mut self.file {
            Some((first, names)) if *names < LINKS => {
                fs::hard_link(first, &path)?;
                *names += 1;
            }
            _ => {
                file(&path, "")?;
                self.file = Some((path, 1));
            }
        }
        Ok(())
    }
}

fn file(path: &Path, content: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content.as_bytes())?;
    normal(&file, 0o444)
}

/// Mode and time as Nix gives them to every object.
fn normal(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1))
}
