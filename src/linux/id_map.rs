//! The map of users of a user namespace, `uid_map` (user_namespaces(7)).

/// Whether it is that of the first user namespace.
pub(crate) fn maps_everybody(map: &[u8]) -> bool {
    let fields = map.split(|byte| byte.is_ascii_whitespace());
    fields
        .filter(|field| !field.is_empty())
        .eq([&b"0"[..], b"0", b"4294967295"])
}

/// Whether a user has a number in its namespace: a map of this process's own is asked by the number
/// that this process sees.
pub(crate) fn maps(map: &[u8], user: u32) -> bool {
    let user = u64::from(user);
    String::from_utf8_lossy(map).lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_ascii_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        matches!(numbers[..], [inside, _, count] if (inside..inside.saturating_add(count)).contains(&user))
    })
}

/// Whether this process's user namespace has other users than its own, or `/proc` does not tell.
pub(crate) fn maps_others() -> bool {
    let Ok(map) = std::fs::read("/proc/self/uid_map") else {
        return true;
    };
    let map = String::from_utf8_lossy(&map);
    let mut fields = map.split_ascii_whitespace();
    !matches!((fields.nth(2), fields.next()), (Some("1"), None))
}

/// Whether this process is in the first user namespace; not where `/proc` does not tell.
pub(crate) fn is_first_of_users() -> bool {
    std::fs::read("/proc/self/uid_map").is_ok_and(|map| maps_everybody(&map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_user_namespace_maps_everybody() {
        assert!(maps_everybody(b"         0          0 4294967295\n"));
        assert!(!maps_everybody(b"      1000       1000          1\n"));
        assert!(!maps_everybody(b""));
    }

    #[test]
    fn a_user_is_mapped_or_not() {
        assert!(maps(b"         0          0 4294967295\n", 1000));
        assert!(maps(b"      1000       1000          1\n", 1000));
        assert!(!maps(b"         0       1000          1\n", 1000));
        assert!(!maps(b"", 0));
    }
}
