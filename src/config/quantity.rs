//! Ages and sizes, as the command line and the configuration write them.

use std::str::FromStr;

/// A length of time: `14d`, `36h`, `30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// In seconds.
    pub seconds: u64,
}

impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNITS: &[(char, u64)] = &[('d', 24 * 60 * 60), ('h', 60 * 60), ('m', 60)];
        let seconds = UNITS
            .iter()
            .find_map(|(unit, seconds)| number(text.strip_suffix(*unit)?)?.checked_mul(*seconds));
        match seconds {
            Some(seconds) => Ok(Self { seconds }),
            None => Err("expected a number of days, hours or minutes, such as `14d` or `36h`"),
        }
    }
}

/// A number of bytes: `1000`, `500M`, `10G`, in powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// In bytes.
    pub bytes: u64,
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNITS: &[(&str, u32)] = &[("K", 10), ("M", 20), ("G", 30), ("T", 40), ("", 0)];
        let bytes = UNITS
            .iter()
            .find_map(|(unit, shift)| number(text.strip_suffix(unit)?)?.checked_mul(1 << shift));
        match bytes {
            Some(bytes) => Ok(Self { bytes }),
            None => Err("expected a number of bytes, such as `500M` or `10G`"),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_read() {
        let age = |text: &str| text.parse().map(|age: Age| age.seconds).ok();
        assert_eq!(age("14d"), Some(14 * 86400));
        assert_eq!([age("2h"), age("0m")], [Some(7200), Some(0)]);
        for wrong in [
            "",
            "d",
            "14",
            "+1d",
            "-1d",
            "1.5d",
            "1w",
            "14d ",
            "99999999999999999d",
        ] {
            assert_eq!(age(wrong), None, "{wrong}");
        }
        let size = |text: &str| text.parse().map(|size: Size| size.bytes).ok();
        assert_eq!(size("1000"), Some(1000));
        assert_eq!([size("2K"), size("10G")], [Some(2048), Some(10 << 30)]);
        for wrong in ["", "G", "1.5G", "-1", "1 G", "1k", "99999999999T"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
