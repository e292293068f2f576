//! Callers that put one value after another, each when the one before was answered, and what
//! was measured of it. The same for both that are compared.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A value's size, bytes.
pub const VALUE_BYTES: usize = 256;

/// Keys that callers share: a home's state is small by design, and small for both.
const KEYS: usize = 64;

/// A value: its number at the front, the rest drawn from it, so that none is like another.
pub type Value = [u8; VALUE_BYTES];

/// What may be read back, by key: the last value that each of its callers had answered, for the last
/// of those is the last of all.
pub type Last = BTreeMap<String, Vec<Value>>;

/// The value of that number.
pub fn value(number: u64) -> Value {
    let mut bytes = [0; VALUE_BYTES];
    let mut seed = number;
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&seed.to_be_bytes());
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
    bytes
}

/// One way in, over one connection.
pub trait Door: Send + Sync + 'static {
    /// Puts a value under a key; returns once a majority has it on disk.
    fn put(&self, key: String, value: Value) -> impl Future<Output = Result<()>> + Send;
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// How long each put took, ms.
    pub latencies_ms: Vec<f64>,
    /// Puts answered per second.
    pub per_second: f64,
    /// What may be read back.
    pub last: Last,
}

/// Lets so many callers put for that long, after a while that is not counted. They share
/// keys and doors evenly. A put that fails ends the run: nothing fails here.
pub async fn run<D: Door>(
    doors: &[Arc<D>],
    callers: usize,
    first: u64,
    warm_up: Duration,
    time: Duration,
) -> Result<Measured> {
    ensure!(!doors.is_empty() && callers > 0, "nobody puts anything");
    let begin = Instant::now() + warm_up;
    let end = begin + time;
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let door = doors[caller % doors.len()].clone();
            tokio::spawn(call(door, caller, first, begin, end))
        })
        .collect();
    let mut measured = Measured { latencies_ms: Vec::new(), per_second: 0.0, last: Last::new() };
    for task in tasks {
        let (latencies, key, last) = task.await??;
        measured.latencies_ms.extend(latencies);
        measured.last.entry(key).or_default().push(last);
    }
    measured.per_second = measured.latencies_ms.len() as f64 / time.as_secs_f64();
    Ok(measured)
}

/// One caller. A put counts if it was answered within the time.
async fn call<D: Door>(
    door: Arc<D>,
    caller: usize,
    first: u64,
    begin: Instant,
    end: Instant,
) -> Result<(Vec<f64>, String, Value)> {
    let key = format!("bench/{}", caller % KEYS);
    let mut latencies = Vec::new();
    let mut number = first + ((caller as u64) << 32);
    loop {
        let sent = Instant::now();
        let value = value(number);
        door.put(key.clone(), value).await?;
        let answered = Instant::now();
        if answered >= begin && answered < end {
            latencies.push(answered.duration_since(sent).as_secs_f64() * 1000.0);
        }
        if answered >= end {
            return Ok((latencies, key, value));
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Shelf(Mutex<BTreeMap<String, Value>>);

    impl Door for Shelf {
        async fn put(&self, key: String, value: Value) -> Result<()> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ensure!(value[0] != 0xff, "full");
            self.0.lock().unwrap().insert(key, value);
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_last_value_answered_of_each_caller_is_what_is_there() {
        let shelf = Arc::new(Shelf::default());
        let (warm_up, time) = (Duration::from_millis(5), Duration::from_millis(50));
        let measured = run(&[shelf.clone(), shelf.clone()], 3, 7, warm_up, time).await.unwrap();
        assert_eq!(measured.last.len(), 3);
        for (key, value) in &*shelf.0.lock().unwrap() {
            assert_eq!(measured.last[key], [*value]);
        }
        assert!(!measured.latencies_ms.is_empty() && measured.per_second > 0.0);
    }

    #[tokio::test]
    async fn what_is_read_back_of_a_shared_key_is_the_last_of_one_of_its_callers() {
        let shelf = Arc::new(Shelf::default());
        let callers = KEYS * 2 + 1;
        let measured =
            run(std::slice::from_ref(&shelf), callers, 0, Duration::ZERO, Duration::from_millis(20)).await;
        let last = measured.unwrap().last;
        assert_eq!((last.len(), last["bench/0"].len(), last["bench/1"].len()), (KEYS, 3, 2));
        for (key, value) in &*shelf.0.lock().unwrap() {
            assert!(last[key].contains(value), "{key}");
        }
    }

    #[tokio::test]
    async fn a_put_that_fails_fails_the_run() {
        let shelf = Arc::new(Shelf::default());
        let first = 0xff << 56;
        assert!(run(&[shelf], 1, first, Duration::ZERO, Duration::from_millis(5)).await.is_err());
    }

    #[test]
    fn no_two_values_are_alike() {
        assert_ne!(value(1), value(2));
        assert_eq!(value(9)[..8], 9_u64.to_be_bytes());
        assert_ne!(value(9)[8..16], value(9)[16..24]);
    }
}
