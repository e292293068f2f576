//! Bandwidth limits and the agreed hours.

use crate::stage::{BEGIN, Stage, home, noise, terms};
use std::time::{Duration, Instant};
use thermidor_backup::vault::{BlobName, Hours, Window};

async fn timed(work: impl Future) -> Duration {
    let begun = Instant::now();
    work.await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_and_fetching_keep_to_their_limits() {
    let stage = Stage::new().await;
    stage.create().await;
    let content = noise(1, 2_000_000);
    let path = stage.save("data", &content).await;
    let limited = |up, down| {
        let mut terms = terms();
        terms.hours = Hours { up, down, windows: vec![] };
        stage.vault.lend(&home("bob"), terms).unwrap();
    };
    limited(Some(1_000_000), None);
    let (one, two) = (noise(2, 1_000_000), noise(3, 1_000_000));
    // Two at once share one limit.
    let both = timed(async { tokio::join!(stage.save("data", &one), stage.save("data", &two)) }).await;
    assert!(both > Duration::from_millis(1500), "{both:?}");
    // The other way is not held up: it is done while the limited one would have hardly begun.
    let free = timed(stage.get(&path)).await;
    assert!(free < both, "{free:?}");
    limited(None, Some(1_000_000));
    let fetched = timed(async { assert!(stage.get(&path).await.body == content) }).await;
    assert!(fetched > Duration::from_millis(1500), "{fetched:?}");
    limited(None, None);
    let free = timed(stage.get(&path)).await;
    assert!(free < fetched, "{free:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_friends_share_the_vaults_limit() {
    let stage = Stage::with(terms(), |settings| settings.up = Some(1_000_000)).await;
    stage.create().await;
    let content = noise(2, 2_000_000);
    let took = timed(stage.save("data", &content)).await;
    assert!(took > Duration::from_millis(1500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_of_the_agreed_hours_only_reading_goes() {
    // The stage's clock begins at 16:00.
    assert_eq!(BEGIN / 60_000 % (24 * 60), 16 * 60);
    let mut night = terms();
    night.hours.windows = vec![Window { from: 22 * 60, to: 6 * 60 }];
    let stage = Stage::new().await;
    stage.create().await;
    let kept = stage.save("data", b"kept").await;
    stage.vault.lend(&home("bob"), night).unwrap();
    let path = format!("/bob/data/{}", BlobName::of(b"new"));
    let said = stage.ask("POST", &path, b"new").await;
    assert_eq!((said.status, said.header("retry-after")), (503, Some("21600")));
    assert_eq!(stage.get(&path).await.status, 404);
    assert_eq!(stage.get(&kept).await.status, 200);
    let lock = stage.save("locks", b"for a restore").await;
    assert_eq!(stage.ask("DELETE", &lock, b"").await.status, 200);
    stage.pass(Duration::from_secs(6 * 3600));
    assert_eq!(stage.ask("POST", &path, b"new").await.status, 200);
}
