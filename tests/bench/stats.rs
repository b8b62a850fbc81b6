//! Rates, percentiles and medians.

use std::time::{Duration, Instant};

/// The value below which the given share of the values lies.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The middle value, or the middle between the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// MiB a second since `start`.
pub fn mib_per_second(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / (1 << 20) as f64 / start.elapsed().as_secs_f64()
}

/// How many bytes to move so that it takes about `seconds` at `rate` MiB/s.
pub fn bytes_for(seconds: f64, rate: f64) -> u64 {
    // Whole chunks of 64 KiB, no less than 1 MiB, no more than 4 GiB.
    let chunks = (rate * seconds * 16.0).clamp(16.0, 65_536.0);
    chunks as u64 * 65_536
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
