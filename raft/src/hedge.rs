//! Hedged requests (Dean and Barroso, The Tail at Scale, CACM 56:2, 2013): what may be asked twice is asked again
//! over another connection when the first is slow to answer. TCP waits 200 ms and then twice as long each time for a
//! packet whose repetition is lost too, and everything behind it waits along: a home's network may lose one packet in
//! ten, and a lease must not.

use crate::line::LineError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Asks by the first of `ways`, and by one more each time that `after` has gone by without an answer, or an attempt has
/// failed to get one. A way that `may` not be used now is left out until it may. Returns the first answer
/// and the way by which it came; where all have failed, why the last one has.
pub(crate) async fn hedged<T, F>(
    ways: Vec<usize>,
    after: Duration,
    may: impl Fn(usize) -> bool,
    ask: impl Fn(usize) -> F,
) -> (Option<usize>, Result<T, LineError>)
where
    F: Future<Output = Result<T, LineError>>,
{
    let mut asked = FuturesUnordered::new();
    let mut left = ways;
    let by = |way: usize| {
        let asking = ask(way);
        async move { (way, asking.await) }
    };
    if left.is_empty() {
        return (None, Err(LineError::NotSent("there is no way to it".into())));
    }
    asked.push(by(left.remove(0)));
    let mut next = Instant::now() + after;
    loop {
        let failed = tokio::select! {
            biased;
            Some((way, answer)) = asked.next() => match answer {
                Err(why @ (LineError::NotSent(_) | LineError::Lost(_))) => Some(why),
                answer => return (Some(way), answer),
            },
            () = sleep_until(next), if !left.is_empty() => None,
        };
        let usable = left.iter().position(|way| may(*way));
        match (usable, failed) {
            (Some(at), _) => asked.push(by(left.remove(at))),
            (None, Some(why)) if asked.is_empty() => return (None, Err(why)),
            (None, _) => {}
        }
        next = Instant::now() + after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::time::sleep;

    const AFTER: Duration = Duration::from_millis(20);

    fn lost() -> LineError {
        LineError::Lost("cut".into())
    }

    /// Asks by ways that answer after so many ms, or fail then; returns the outcome and who was asked.
    async fn asking(
        ways: &[(u64, Result<u32, LineError>)],
        may: impl Fn(usize) -> bool,
    ) -> (Option<usize>, Result<u32, LineError>, Vec<usize>) {
        let asked = Mutex::new(Vec::new());
        let all: Vec<usize> = (0..ways.len()).collect();
        let (way, answer) = hedged(all, AFTER, may, |way| {
            asked.lock().unwrap().push(way);
            let (ms, answer) = ways[way].clone();
            async move {
                sleep(Duration::from_millis(ms)).await;
                answer
            }
        })
        .await;
        (way, answer, asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_quick_answer_is_the_only_one_asked_for() {
        let told = asking(&[(0, Ok(1)), (0, Ok(2))], |_| true).await;
        assert_eq!(told, (Some(0), Ok(1), vec![0]));
    }

    #[tokio::test]
    async fn a_slow_way_is_overtaken_by_the_next() {
        let told = asking(&[(60_000, Ok(1)), (60_000, Ok(2)), (0, Ok(3))], |_| true).await;
        assert_eq!(told, (Some(2), Ok(3), vec![0, 1, 2]));
    }

    #[tokio::test]
    async fn a_way_that_fails_is_followed_at_once_and_the_last_failure_is_told() {
        let far = Duration::from_secs(3600);
        let ask = |way: usize| async move { if way == 1 { Ok(way) } else { Err(lost()) } };
        assert_eq!(hedged(vec![0, 1], far, |_| true, ask).await, (Some(1), Ok(1)));
        let told =
            asking(&[(0, Err(LineError::NotSent("refused".into()))), (0, Err(lost()))], |_| true).await;
        assert_eq!(told, (None, Err(lost()), vec![0, 1]));
    }

    #[tokio::test]
    async fn what_it_says_is_an_answer_also_where_it_says_no() {
        let no = Err(LineError::NotLeader(Some(2)));
        let told = asking(&[(0, no.clone()), (0, Ok(1))], |_| true).await;
        assert_eq!(told, (Some(0), no, vec![0]));
    }

    #[tokio::test]
    async fn a_way_that_may_not_be_used_is_left_out() {
        let told = asking(&[(60, Err(lost())), (0, Ok(2)), (0, Ok(3))], |way| way == 2).await;
        assert_eq!(told, (Some(2), Ok(3), vec![0, 2]));
        let told = asking(&[(60, Err(lost())), (0, Ok(2))], |_| false).await;
        assert_eq!(told, (None, Err(lost()), vec![0]));
    }
}
