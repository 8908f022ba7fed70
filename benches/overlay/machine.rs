//! What it was measured on.

use std::fs;

use crate::generator::Result;
use crate::support::World;

/// A list of what the figures depend on.
pub fn describe(world: &World) -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let processor = field(&processor, "model name").unwrap_or("unknown processor");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory =
        field(&memory, "MemTotal").and_then(|size| size.split(' ').next()?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "- Machine: {processor}, {} cores, {} GiB\n- Kernel: Linux {}\n- {}- {}",
        std::thread::available_parallelism()?,
        memory.unwrap_or_default().div_ceil(1 << 20),
        kernel.split('-').next().unwrap_or_default().trim(),
        world.ok(["nix", "--version"]),
        world.ok(["overstore", "--version"]),
    ))
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}
