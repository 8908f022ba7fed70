//! Guests, and the disk images they are booted from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cache::{Cache, Key};

/// A guest, as `guests.toml` describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// What it is, for people.
    pub description: String,
    /// The image it is booted from, known to `images/build`.
    pub image: String,
    /// The kernel and initrd of the image to boot it with.
    pub boot: String,
    /// The guest of the same image and kernel whose saved state it goes on from; its own are only
    /// the real boots. Without it, it is booted and saved itself.
    pub saved: Option<String>,
    /// Whether a run can go without it when its image cannot be made.
    #[serde(default)]
    pub optional: bool,
}

/// A kernel and its initrd.
#[derive(Clone)]
pub struct Boot {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// A finished image.
pub struct Image {
    /// Its name in the cache, which changes with its recipe.
    pub name: String,
    directory: PathBuf,
}

/// Reads the guests from a file.
pub fn read_guests(file: &Path) -> Result<BTreeMap<String, Guest>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    toml::from_str(&text).with_context(|| file.display().to_string())
}

impl Image {
    /// The image called `image`; made by the script `build` in `recipes` unless
    /// it is in the cache. What the script prints goes to a log next to it.
    pub fn get_or_make(cache: &Cache, recipes: &Path, image: &str) -> Result<Self> {
        let key = Key::default()
            .add(image.as_bytes())
            .add_files(recipes)?
            .finish();
        let name = format!("vm-image-{image}-{key}");
        let directory = cache.get_or_make(&name, |place| build(recipes, image, place))?;
        Ok(Self { name, directory })
    }

    /// The root file system.
    pub fn disk(&self) -> PathBuf {
        self.directory.join("disk.raw")
    }

    /// One of the ways to boot the image.
    pub fn boot(&self, name: &str) -> Boot {
        let directory = self.directory.join(name);
        Boot {
            kernel: directory.join("vmlinuz"),
            initrd: directory.join("initrd"),
        }
    }

    /// What was found when the image was made: `kernel-BOOT`, `nix`, `systemd`.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let text = fs::read_to_string(self.directory.join("versions"))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }
}

fn build(recipes: &Path, image: &str, place: &Path) -> Result<()> {
    let log_file = place.join("log");
    let log = fs::File::create(&log_file)?;
    let status = Command::new(recipes.join("build"))
        .arg(image)
        .arg(place)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .context("running images/build")?;
    if !status.success() {
        let text = fs::read_to_string(&log_file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!("the image '{image}' could not be made ({status}):\n{tail}");
    }
    Ok(())
}
