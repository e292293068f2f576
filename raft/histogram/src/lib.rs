//! The histograms that openraft keeps of its own batches and delays. Nobody here reads them, and the published
//! `base2histogram` makes tables of 27 MiB for widths that openraft never uses: this takes its place (see `[patch]` in
//! the workspace's Cargo.toml) with a bucket for each power of two, and no more than openraft calls.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

/// A bucket for each length of a number in bits, 0 to 64.
const BUCKETS: usize = u64::BITS as usize + 1;

/// How often values of each size were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    of: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self { counts: Vec::new(), of: PhantomData }
    }

    /// Records a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts.resize(BUCKETS, 0);
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// How many values were recorded.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The least value of the bucket in which the given share of all values is reached; 0 where there are none.
    fn reached(&self, permille: u64) -> u64 {
        let wanted = u128::from(self.total()) * u128::from(permille);
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += u128::from(*count) * 1000;
            if sum >= wanted && sum > 0 {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    /// The usual percentiles, each exact to a factor of two.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.reached(1),
            p1: self.reached(10),
            p5: self.reached(50),
            p10: self.reached(100),
            p50: self.reached(500),
            p90: self.reached(900),
            p99: self.reached(990),
            p99_9: self.reached(999),
        }
    }
}

/// Percentiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// 0.1 % of the values are no greater.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// Half of them.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values, half of them up to {}, 99 % up to {}", self.samples, self.p50, self.p99)
    }
}

/// Several histograms, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()>(Vec<(String, Histogram<T>)>);

impl<T> AsciiChart<T> {
    /// None yet.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// One more.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.0.push((name.to_owned(), histogram));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_factor_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p50, 0, "nothing recorded");
        histogram.record_n(10, 90);
        histogram.record_n(1000, 9);
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p90), (100, 8, 8, 8));
        assert_eq!((stats.p99, stats.p99_9), (512, 1 << 63));
        let zeros = {
            let mut h = Histogram::<()>::new();
            h.record_n(0, 3);
            h
        };
        assert_eq!((zeros.total(), zeros.percentile_stats().p99), (3, 0));
        assert!(AsciiChart::new().add("delay", zeros).to_string().starts_with("delay: 3 values"));
    }
}
