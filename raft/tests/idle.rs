//! What an idle home writes to its disks. Alone in its process, whose writes it counts.

mod harness;

use harness::*;
use std::time::{Duration, Instant};
use thermidor_raft::Node;

/// Bytes that this process has had written to disks so far.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_home_writes_next_to_nothing() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let busy = written_bytes();
    assert!(busy > 0, "it was founded on a disk whose writes are counted");
    same_states(&nodes).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let commits: Vec<u64> = nodes.iter().map(|n| n.log_commits()).collect();
    let (before, begun) = (written_bytes(), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let bytes_a_second = (written_bytes() - before) as f64 / begun.elapsed().as_secs_f64();
    let after: Vec<u64> = nodes.iter().map(|n| n.log_commits()).collect();
    assert_eq!(commits, after, "no heartbeat is written");
    assert!(bytes_a_second < 10_000.0, "{bytes_a_second} bytes a second");
    assert!(leader(&nodes).await.silent_ms().len() == 2);
    shut_all(machines).await;
}
