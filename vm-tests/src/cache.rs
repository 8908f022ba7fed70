//! Things that are slow to make and kept between runs, by what they are made of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A directory of finished things, each under a name that says what it is made
/// of: a changed recipe is another name, so nothing in it is ever out of date.
pub struct Cache {
    directory: PathBuf,
}

/// The name of a thing in the cache: a hash over everything it depends on.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds one ingredient. Its length goes in too: no two lists of ingredients
    /// run together into the same bytes.
    pub fn add(mut self, ingredient: &[u8]) -> Self {
        self.0.update((ingredient.len() as u64).to_le_bytes());
        self.0.update(ingredient);
        self
    }

    /// Adds every file of a directory (not of directories in it) with its name.
    pub fn add_files(mut self, directory: &Path) -> Result<Self> {
        let mut files = fs::read_dir(directory)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("reading {}", directory.display()))?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let content = fs::read(file.path())
                .with_context(|| format!("reading {}", file.path().display()))?;
            self = self.add(file.file_name().as_encoded_bytes()).add(&content);
        }
        Ok(self)
    }

    /// The first 16 bytes of the hash, in hexadecimal.
    pub fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl Cache {
    /// Opens the cache, which is made when missing. The path becomes absolute:
    /// it ends up in the backing file names of disk images.
    pub fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self {
            directory: directory.canonicalize()?,
        })
    }

    /// The directory of the thing called `name`, if it has been made.
    pub fn get(&self, name: &str) -> Option<PathBuf> {
        let place = self.directory.join(name);
        place.is_dir().then_some(place)
    }

    /// The directory of the thing called `name`; `make` fills it if it is not
    /// there yet. Two runs at once do not make the same thing twice, and one
    /// that is interrupted leaves nothing that looks finished.
    pub fn get_or_make(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let lock = File::create(self.directory.join(format!("{name}.lock")))?;
        lock.lock()?;
        if let Some(place) = self.get(name) {
            return Ok(place);
        }
        let unfinished = self.directory.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir(&unfinished)?;
        make(&unfinished)?;
        let place = self.directory.join(name);
        fs::rename(&unfinished, &place)?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_lists_of_ingredients_apart() {
        let one = Key::default().add(b"ab").add(b"c").finish();
        let other = Key::default().add(b"a").add(b"bc").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn what_failed_is_made_again_and_what_is_there_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let failed = cache.get_or_make("thing", |place| {
            fs::write(place.join("half"), "")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        assert!(cache.get("thing").is_none());

        let place = cache.get_or_make("thing", |place| {
            assert!(!place.join("half").exists());
            Ok(fs::write(place.join("whole"), "1")?)
        });
        assert!(place.unwrap().join("whole").exists());
        let again = cache.get_or_make("thing", |_| panic!("made twice"));
        assert!(again.is_ok());
    }
}
