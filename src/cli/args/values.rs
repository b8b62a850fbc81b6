//! Values of flags: durations, sizes, limits; and suggestions for a misspelt word.
//!
//! **Thread:** main.
//! **Owns:** nothing.
//! **Never:** accepts what it does not understand.

use std::time::Duration;

use crate::cli::quote::quoted;
use crate::wire::protocol::ResourceLimits;

/// The longest duration that is accepted: every clock can count it.
const LONGEST_DURATION: Duration = Duration::from_secs(36_500 * 24 * 3600);

/// Numbers with units, `1.5s` or `1h30m`, or a single number without one, which has the unit `bare`.
/// In whole milliseconds, rounded up, so that no time becomes none.
pub(super) fn duration(text: &str, bare: &str) -> Result<Duration, String> {
    let expected = || "expected a duration: 500ms, 1.5s, 2m, 1h30m or 1d".to_owned();
    let mut nanoseconds: u128 = 0;
    let mut rest = text;
    loop {
        let number = &rest[..digits(rest)];
        rest = &rest[number.len()..];
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" if number.len() == text.len() => bare,
            unit => unit,
        };
        let unit: u128 = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(expected()),
        };
        let part = scaled(number, unit).ok_or_else(expected)?;
        nanoseconds = nanoseconds.saturating_add(part);
        rest = &rest[letters..];
        if rest.is_empty() {
            break;
        }
    }
    let milliseconds = u64::try_from(nanoseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let duration = Duration::from_millis(milliseconds);
    match duration <= LONGEST_DURATION {
        true => Ok(duration),
        false => Err("must be at most 36500d".to_owned()),
    }
}

/// A number of bytes, with a unit as `head -c` has them: K, M, G and T are powers of 1024, also as
/// KiB; kB, MB and so on are powers of 1000.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let number = &text[..digits(text)];
    let unit = text[number.len()..].to_ascii_lowercase();
    let unit: u128 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => 0,
    };
    scaled(number, unit)
        .filter(|_| unit > 0)
        .ok_or_else(|| "expected a number of bytes: 4096, 64K, 16M or 1G".to_owned())
        .and_then(|bytes| u64::try_from(bytes).map_err(|_| "too large".to_owned()))
}

/// `HEAD,TAIL`, both of them sizes.
pub(super) fn head_and_tail(text: &str) -> Result<(u64, u64), String> {
    let (head, tail) = text
        .split_once(',')
        .ok_or_else(|| "expected HEAD,TAIL, as in 64K,64K".to_owned())?;
    Ok((size(head)?, size(tail)?))
}

/// The limits by name, each with the `=` after which its value stands.
pub(super) const LIMITS: &[&str] = &[
    "cpu-seconds=",
    "file-bytes=",
    "data-bytes=",
    "core-bytes=",
    "open-files=",
    "processes=",
    "stack-bytes=",
    "nice=",
    "oom-score-adj=",
];

/// Sets the limit that `NAME=VALUE` names.
pub(super) fn limit(limits: &mut ResourceLimits, text: &str) -> Result<(), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let count = || match value.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(format!("{name}: expected a whole number")),
    };
    let bytes = || size(value).map(Some).map_err(|e| format!("{name}: {e}"));
    let between = |least: i32, most: i32| match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(format!("{name}: expected a whole number from {least} to {most}")),
    };
    match name {
        "cpu-seconds" => limits.cpu_seconds = count()?,
        "file-bytes" => limits.file_bytes = bytes()?,
        "data-bytes" => limits.data_bytes = bytes()?,
        "core-bytes" => limits.core_bytes = bytes()?,
        "open-files" => limits.open_files = count()?,
        "processes" => limits.processes = count()?,
        "stack-bytes" => limits.stack_bytes = bytes()?,
        "nice" => limits.nice = between(-20, 19)?,
        "oom-score-adj" => limits.oom_score_adj = between(-1000, 1000)?,
        _ => {
            let names = LIMITS.iter().map(|name| name.trim_end_matches('='));
            return Err(match nearest(name, names.clone()) {
                Some(meant) => format!("unknown limit {}; did you mean {meant}?", quoted(name)),
                None => format!(
                    "unknown limit {}: expected {}",
                    quoted(name),
                    names.collect::<Vec<_>>().join(", ")
                ),
            });
        }
    }
    Ok(())
}

/// How many bytes at the beginning are a number, whole or decimal.
fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len())
}

/// `number`, which may have a decimal point, times `unit`, rounded up.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    /// More could overflow.
    const MAX_DECIMALS: usize = 18;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if number.is_empty() || decimals.len() > MAX_DECIMALS {
        return None;
    }
    let whole: u128 = match whole {
        "" => 0,
        whole => whole.parse::<u64>().ok()?.into(),
    };
    // Neither of the two is a number if it is empty or has another point.
    let fraction: u128 = decimals.parse::<u64>().ok()?.into();
    let scale = 10_u128.pow(decimals.len() as u32);
    Some(whole * unit + (fraction * unit).div_ceil(scale))
}

/// The word that was probably meant: one that begins so, or differs in few characters.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length < 2 {
        return None;
    }
    known
        .map(|known| match known.starts_with(word) {
            true => (0, known),
            false => (distance(word, known), known),
        })
        .min()
        .filter(|(distance, _)| *distance <= (length / 3).max(1))
        .map(|(_, known)| known)
}

/// How many characters must be inserted, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("3", 3_000),
            ("2m", 120_000),
            ("0s", 0),
            ("0", 0),
            ("1.5s", 1_500),
            ("1.5", 1_500),
            (".25h", 900_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
            ("1m0.5s", 60_500),
            // Rounded up: a short time is not none.
            ("0.0001ms", 1),
            ("36500d", 36_500 * 86_400_000),
        ] {
            assert_eq!(
                duration(text, "s"),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        assert_eq!(duration("10", "ms"), Ok(Duration::from_millis(10)));
        for bad in [
            "",
            "s",
            ".",
            ".s",
            "1.",
            "1.s",
            "1.2.3s",
            "-1s",
            "+1s",
            "10 s",
            " 1s",
            "1h30",
            "30 1h",
            "1y",
            "5S",
            "1e3",
            "soon",
            "s1",
            "1ss",
            "ü",
            "0.0000000000000000000001s",
        ] {
            let error = duration(bad, "s").unwrap_err();
            assert!(
                error.starts_with("expected a duration: 500ms"),
                "{bad:?}: {error}"
            );
        }
        for long in ["36500.1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(long, "s").is_err(), "{long:?}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65_536),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("64kB", 64_000),
            ("1.5M", 1_572_864),
            ("2G", 2_147_483_648),
            ("1T", 1_099_511_627_776),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "K",
            "-1",
            "1X",
            "1 K",
            "18446744073709551615K",
            "1.2.3",
            "none",
            "1ü",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }
}
