//! What an option of an overlay is where the mount table does not show it: the parameters of the
//! kernel's module, against which the kernel compares what it shows (source: `ovl_show_options`).

/// The parameters in `/sys/module/overlay/parameters` that options default to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `index`.
    pub index: bool,
    /// `metacopy`.
    pub metacopy: bool,
    /// `nfs_export`.
    pub nfs_export: bool,
    /// `redirect_dir`.
    pub redirect_dir: bool,
    /// `redirect_always_follow`: what `redirect_dir=off` is.
    pub redirect_always_follow: bool,
    /// `xino_auto`.
    pub xino_auto: bool,
}

impl Defaults {
    /// Takes the parameters from their files' contents, by name. `None` where one is missing, as in a
    /// kernel that has not loaded the module.
    pub fn read(mut parameter: impl FnMut(&str) -> Option<Vec<u8>>) -> Option<Defaults> {
        let mut flag = |name| match parameter(name)?.trim_ascii() {
            b"Y" => Some(true),
            b"N" => Some(false),
            _ => None,
        };
        Some(Defaults {
            index: flag("index")?,
            metacopy: flag("metacopy")?,
            nfs_export: flag("nfs_export")?,
            redirect_dir: flag("redirect_dir")?,
            redirect_always_follow: flag("redirect_always_follow")?,
            xino_auto: flag("xino_auto")?,
        })
    }

    /// The value that an option has which is not shown; `None` where that cannot be told.
    ///
    /// `one_file_system` is whether all layers are on one: `xino` means nothing then and is never
    /// shown.
    pub fn of(&self, name: &str, one_file_system: bool) -> Option<&'static str> {
        let on = |flag| if flag { "on" } else { "off" };
        match name {
            "index" => Some(on(self.index)),
            "metacopy" => Some(on(self.metacopy)),
            "nfs_export" => Some(on(self.nfs_export)),
            "redirect_dir" if self.redirect_dir => Some("on"),
            "redirect_dir" => Some(self.without_redirects()),
            "xino" if one_file_system => None,
            "xino" => Some(if self.xino_auto { "auto" } else { "off" }),
            "verity" => Some("off"),
            _ => None,
        }
    }

    /// Whether an option that was given one value may have become another.
    pub fn may_become(&self, name: &str, given: &str, found: &str) -> bool {
        match (name, given) {
            _ if given == found => true,
            ("redirect_dir", "off") => found == self.without_redirects(),
            // The kernel decides when it mounts.
            ("uuid", "auto") => matches!(found, "on" | "null"),
            ("xino", "auto") => found == "off",
            _ => false,
        }
    }

    fn without_redirects(&self) -> &'static str {
        match self.redirect_always_follow {
            true => "follow",
            false => "nofollow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_all_there_or_unknown() {
        let yes = |wanted: &'static str| {
            move |name: &str| Some(if name == wanted { b"Y\n" } else { b"N\n" }.to_vec())
        };
        assert_eq!(Defaults::read(yes("")), Some(Defaults::default()));
        let always = Defaults::read(yes("redirect_always_follow"));
        assert_eq!(
            always.and_then(|it| it.of("redirect_dir", false)),
            Some("follow")
        );
        assert_eq!(Defaults::read(|_| None), None);
        assert_eq!(Defaults::read(|_| Some(b"256\n".to_vec())), None);
    }

    #[test]
    fn xino_shows_only_across_file_systems() {
        let defaults = Defaults::default();
        assert_eq!(defaults.of("xino", true), None);
        assert_eq!(defaults.of("xino", false), Some("off"));
        assert_eq!(defaults.of("fsync", false), None);
    }

    /// As seen with Linux 6.18, whose only parameter that is on is `redirect_always_follow`.
    #[test]
    fn some_values_become_others() {
        let defaults = Defaults {
            redirect_always_follow: true,
            ..Defaults::default()
        };
        assert!(defaults.may_become("redirect_dir", "off", "follow"));
        assert!(!defaults.may_become("redirect_dir", "off", "nofollow"));
        assert!(defaults.may_become("uuid", "auto", "on"));
        assert!(!defaults.may_become("uuid", "on", "null"));
        assert!(defaults.may_become("index", "on", "on"));
        assert!(!defaults.may_become("index", "on", "off"));
    }
}
