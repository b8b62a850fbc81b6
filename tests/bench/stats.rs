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

/// Moves more and more bytes until that takes about some seconds, and returns the last rate.
///
/// `run` moves a number of bytes and returns MiB/s; the runs before the last one warm up.
pub fn sized<E>(seconds: f64, mut run: impl FnMut(u64) -> Result<f64, E>) -> Result<f64, E> {
    const MOST: u64 = 8 << 30;
    let mut bytes = 4 << 20;
    loop {
        let rate = run(bytes)?;
        let took = bytes as f64 / (1 << 20) as f64 / rate;
        if took >= seconds * 0.7 || bytes >= MOST {
            return Ok(rate);
        }
        // The first runs are mostly start-up, and say little about how much is enough.
        let factor = (seconds / took).min(8.0);
        // Whole chunks of 64 KiB.
        bytes = ((bytes as f64 * factor) as u64).min(MOST) / 65_536 * 65_536;
    }
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
