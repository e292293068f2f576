//! What was measured in the lab, as it is handed out of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// A folder of the disk.
    Directory,
    /// ext4 on a loop device over a plain file.
    Loop,
    /// A replicated volume, three replicas.
    Volume,
    /// GlusterFS, three replicas.
    Gluster,
}

impl Side {
    /// All, in the order in which they take their turns.
    pub const ALL: [Side; 4] = [Side::Directory, Side::Loop, Side::Volume, Side::Gluster];
}

/// What is measured of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Measure {
    /// 4 KiB at random, fsync after each, 1/s.
    FsyncIops,
    /// The same, the median of an fsync, ms.
    FsyncP50,
    /// The same, its 99th percentile, ms.
    FsyncP99,
    /// 4 KiB at random, fsync after 32, 1/s.
    Fsync32Iops,
    /// Written in sequence and fsynced, MB/s.
    SeqWrite,
    /// Read in sequence, nothing of it in memory, MB/s.
    SeqRead,
    /// Eight deliverers into Maildirs, messages/s.
    Mail,
    /// Files of 4 KiB made, then synced, files/s.
    SmallFiles,
    /// Messages that Postfix accepted, 1/s.
    Postfix,
}

impl Measure {
    /// All.
    pub const ALL: [Measure; 9] = [
        Measure::FsyncIops,
        Measure::FsyncP50,
        Measure::FsyncP99,
        Measure::Fsync32Iops,
        Measure::SeqWrite,
        Measure::SeqRead,
        Measure::Mail,
        Measure::SmallFiles,
        Measure::Postfix,
    ];

    /// The figure's name, its unit, and what it is for people.
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Measure::FsyncIops => ("volume_fsync_iops", "1/s", "4k random write, fsync each"),
            Measure::FsyncP50 => ("volume_fsync_p50", "ms", "its fsync, median"),
            Measure::FsyncP99 => ("volume_fsync_p99", "ms", "its fsync, 99 of 100"),
            Measure::Fsync32Iops => ("volume_fsync32_iops", "1/s", "4k random write, fsync after 32"),
            Measure::SeqWrite => ("volume_seq_write", "MB/s", "sequential write"),
            Measure::SeqRead => ("volume_seq_read", "MB/s", "sequential read"),
            Measure::Mail => ("volume_mail", "1/s", "mail-like, messages"),
            Measure::SmallFiles => ("volume_small_files", "1/s", "small files, made and synced"),
            Measure::Postfix => ("volume_postfix", "1/s", "Postfix, accepted messages"),
        }
    }
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Every sample, a round each.
    pub samples: BTreeMap<Measure, BTreeMap<Side, Vec<f64>>>,
    /// From the promotion of the next to its mounted volume, s.
    pub takeovers: Vec<f64>,
    /// The most memory that each volume process had, MiB.
    pub rss_mib: Vec<f64>,
    /// Processor time of all three volume processes for a GB written in sequence, s.
    pub cpu_s_per_gb: Vec<f64>,
    /// A network round trip between two processes, ms.
    pub round_trip_ms: Vec<f64>,
    /// Which GlusterFS.
    pub gluster: String,
}

impl Report {
    /// Adds a sample.
    pub fn add(&mut self, measure: Measure, side: Side, value: f64) {
        self.samples.entry(measure).or_default().entry(side).or_default().push(value);
    }

    /// A side's samples.
    pub fn of(&self, measure: Measure, side: Side) -> &[f64] {
        self.samples.get(&measure).and_then(|sides| sides.get(&side)).map_or(&[], Vec::as_slice)
    }
}
