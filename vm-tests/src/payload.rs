//! The read-only disk that brings the scenarios and the program into a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Makes the disk in `directory`. On it are `scenarios` and, if there is one,
/// `program`: what `make install DESTDIR=...` made, to be copied over the guest.
pub fn make(scenarios: &Path, program: Option<&Path>, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("payload");
    copy_tree(scenarios, &tree.join("scenarios"))?;
    if let Some(program) = program {
        copy_tree(program, &tree.join("program"))?;
    }
    let image = directory.join("payload.raw");
    let size = fs::File::create(&image).and_then(|file| file.set_len(256 << 20));
    size.with_context(|| format!("making {}", image.display()))?;
    let status = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(&tree)
        .arg(&image)
        .status()
        .context("running mke2fs (Debian: e2fsprogs)")?;
    if !status.success() {
        bail!("mke2fs: {status}");
    }
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

/// What of the program's tree belongs into an initrd.
const IN_INITRD: [&str; 2] = [
    "usr/bin/overstore",
    "usr/lib/systemd/system/overstore-initrd@.service",
];

/// Makes an initrd in `directory`: `initrd`, and after it an archive with the program and the trees
/// `additions`. The kernel unpacks one after the other.
pub fn extend_initrd(
    initrd: &Path,
    additions: &[PathBuf],
    program: &Path,
    directory: &Path,
) -> Result<PathBuf> {
    let tree = directory.join("initrd-tree");
    for addition in additions {
        copy_tree(addition, &tree)?;
    }
    for name in IN_INITRD {
        let place = tree.join(name);
        fs::create_dir_all(place.parent().context("it has a parent")?)?;
        fs::copy(program.join(name), &place).with_context(|| format!("copying {name}"))?;
    }
    let mut content = fs::read(initrd)?;
    // An archive begins at a multiple of four bytes.
    content.resize(content.len().next_multiple_of(4), 0);
    // The directories of a release's archive are writable to their group, and the root directory of an
    // initrd is not.
    let archive = "chmod --recursive go-w . && find . | cpio --quiet --create --format=newc";
    let output = Command::new("sh")
        .args(["-c", archive])
        .current_dir(&tree)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("running cpio (Debian: cpio)")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("cpio: {}", output.status);
    }
    content.extend(output.stdout);
    let extended = directory.join("initrd");
    fs::write(&extended, content)?;
    fs::remove_dir_all(&tree)?;
    Ok(extended)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let status = Command::new("cp")
        .args([
            "--recursive",
            "--preserve=mode,links",
            "--no-target-directory",
        ])
        .args([from, to])
        .status()
        .context("running cp")?;
    if !status.success() {
        bail!("copying {}: {status}", from.display());
    }
    Ok(())
}
