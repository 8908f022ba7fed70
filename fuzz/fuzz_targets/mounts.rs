//! What the kernel lists of mounts: mount points, sources and options are anybody's.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use overstore::testing::nix::mount_check;
use overstore::testing::overlayfs::SuperOptions;
use overstore::testing::overlayfs::{MountInfo, stack_at};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mounts) = MountInfo::parse_all(bytes) {
        for mount in &mounts {
            let again = MountInfo::parse(&mount.to_line());
            assert_eq!(again.as_ref(), Ok(mount));
            let options = SuperOptions::parse(&mount.super_options);
            options.value("lowerdir");
            options.is_volatile();
            stack_at(&mounts, &mount.mount_point);
        }
        stack_at(&mounts, Path::new("/nix/store"));
    }
    mount_check::predict(bytes, b"/nix/store", b"/mnt/lower", b"/mnt/upper");
});
