//! Sizes in bytes as people write them: `4096`, `"64KiB"`, `"64MiB"`, `"1.5GB"`.

const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// One kibibyte in bytes.
pub const KIB: u64 = 1 << 10;
/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;
/// One tebibyte in bytes.
pub const TIB: u64 = 1 << 40;

/// Reads a size. Units are binary (`KiB`, `MiB`, `GiB`, `TiB`) or decimal (`kB`, `MB`, `GB`,
/// `TB`); a bare number is bytes. Fractions are taken when they give whole bytes.
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit = unit.trim();
    let factor = match unit {
        "" => 1,
        unit => UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, factor)| *factor)
            .ok_or_else(|| format!("{text:?} is not a size: the unit {unit:?} is not one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB"))?,
    };
    let digits = number.replace('_', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let not_a_size = || format!("{text:?} is not a size such as \"64MiB\" or a number of bytes");
    let too_large = || format!("{text:?} is too large: sizes end below 16 EiB");
    if whole.is_empty() || whole.contains('.') || fraction.contains('.') {
        return Err(not_a_size());
    }
    let bytes =
        whole.parse::<u64>().map_err(|_| too_large())?.checked_mul(factor).ok_or_else(too_large)?;
    if fraction.is_empty() {
        return Ok(bytes);
    }
    let scale = 10u128.checked_pow(fraction.len() as u32).ok_or_else(not_a_size)?;
    let part = fraction.parse::<u128>().map_err(|_| not_a_size())? * u128::from(factor);
    if part % scale != 0 {
        return Err(format!("{text:?} is not a whole number of bytes"));
    }
    bytes.checked_add((part / scale) as u64).ok_or_else(too_large)
}

/// The shortest exact form: `67108864` is `64MiB`, `1000` is `1000`.
#[must_use]
pub fn exact(bytes: u64) -> String {
    for (name, factor) in &UNITS[..4] {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4_096", 4096),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("1GB", 1_000_000_000),
            ("2kB", 2000),
            ("16TiB", 16 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_the_reason() {
        for (text, words) in [
            ("", "not a size"),
            ("MiB", "not a size"),
            ("64Mb2", "the unit \"Mb2\""),
            ("-1", "the unit \"-1\""),
            ("1.2.3MiB", "not a size"),
            ("0.3B", "not a whole number of bytes"),
            ("99999999TiB", "too large"),
            ("18446744073709551616", "too large"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }

    #[test]
    fn exact_forms_read_back_as_the_same_number() {
        for bytes in [0, 1, 1000, 1024, 1536, 64 << 20, (64 << 20) + 1, 7 << 40] {
            assert_eq!(parse(&exact(bytes)), Ok(bytes));
        }
        assert_eq!(exact(64 << 20), "64MiB");
    }
}
