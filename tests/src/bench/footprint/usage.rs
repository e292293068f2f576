//! What processes use, as the kernel counts it: memory, processor time, writes to the disk.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::{Duration, Instant};
use thermidor_supervisor::demo::lab::Radiator;

/// The processes that a radiator runs for itself: daemon, guard, ingress.
pub const VERBS: [&str; 3] = ["run", "guard", "ingress"];

/// Ticks of processor time in a second, as Linux counts them for programs, whatever its own clock.
pub const TICKS: f64 = 100.0;

/// What one process has used.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Used {
    /// Whose it is; 0 where it is of several.
    pid: u32,
    /// Resident and its own, KiB.
    own_kib: u64,
    /// Resident and of files: the program itself, KiB.
    file_kib: u64,
    /// Processor time, ticks.
    ticks: u64,
    /// Written to disks, bytes.
    written: u64,
}

/// What a radiator used over a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Resident memory, MiB; the program's pages, which the three share, are counted once.
    pub memory_mib: f64,
    /// Processor time, % of a core.
    pub cpu_percent: f64,
    /// Written to disks, KB/s.
    pub written_kb_s: f64,
    /// Where it goes, for people: each process in words.
    pub each: String,
}

impl Used {
    fn resident_kib(&self) -> u64 {
        self.own_kib + self.file_kib
    }
}

/// A field of `/proc/PID/status` or `/proc/PID/io`: its first number.
pub fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("no number at {name}"))
}

/// Time in user and kernel mode out of `/proc/PID/stat`: fields 14 and 15; the second may hold
/// blanks and parentheses.
pub fn ticks(stat: &str) -> Result<u64> {
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    Ok(number(11).context("no user time in stat")? + number(12).context("no kernel time in stat")?)
}

fn used(pid: u32) -> Result<Used> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let status = read("status")?;
    Ok(Used {
        pid,
        own_kib: field(&status, "RssAnon")? + field(&status, "RssShmem")?,
        file_kib: field(&status, "RssFile")?,
        ticks: ticks(&read("stat")?)?,
        written: field(&read("io")?, "write_bytes")?,
    })
}

/// The three processes together: file pages once, the rest summed up.
fn together(three: &[Used]) -> Used {
    three.iter().fold(Used::default(), |sum, one| Used {
        pid: 0,
        own_kib: sum.own_kib + one.own_kib,
        file_kib: sum.file_kib.max(one.file_kib),
        ticks: sum.ticks + one.ticks,
        written: sum.written + one.written,
    })
}

/// The three of a radiator, in the order of [`VERBS`].
fn three(radiator: &Radiator) -> Result<Vec<Used>> {
    let of = |verb: &&str| {
        let pids = radiator.pids_of(verb);
        ensure!(pids.len() == 1, "{} runs {} processes of {verb}", radiator.name(), pids.len());
        used(pids[0])
    };
    VERBS.iter().map(of).collect()
}

/// Watches radiators for that long. Memory is the most of one look a second.
pub fn watch(radiators: &[Radiator], window: Duration) -> Result<Vec<Usage>> {
    let look = || radiators.iter().map(three).collect::<Result<Vec<_>>>();
    let (began, before) = (Instant::now(), look()?);
    let mut looks = vec![before.clone()];
    while began.elapsed() < window {
        std::thread::sleep(Duration::from_secs(1).min(window));
        looks.push(look()?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let pids = |look: &[Vec<Used>]| look.iter().flatten().map(|used| used.pid).collect::<Vec<_>>();
    ensure!(pids(&before) == pids(&looks[looks.len() - 1]), "a process was restarted while it was watched");
    let usages = before.iter().enumerate().map(|(radiator, before)| {
        let most_kib = looks.iter().map(|look| together(&look[radiator]).resident_kib()).max();
        let after = &looks[looks.len() - 1][radiator];
        let (from, to) = (together(before), together(after));
        let cpu_percent = |from: Used, to: Used| (to.ticks - from.ticks) as f64 / TICKS / seconds * 100.0;
        let each = VERBS.iter().zip(before.iter().zip(after)).map(|(verb, (from, to))| {
            let (own, file) = (to.own_kib as f64 / 1024.0, to.file_kib as f64 / 1024.0);
            format!("{verb} {own:.1} + {file:.1} MiB, {:.2} %", cpu_percent(*from, *to))
        });
        Usage {
            memory_mib: most_kib.unwrap_or_default() as f64 / 1024.0,
            cpu_percent: cpu_percent(from, to),
            written_kb_s: (to.written - from.written) as f64 / 1000.0 / seconds,
            each: each.collect::<Vec<_>>().join("; "),
        }
    });
    Ok(usages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1 2";
        assert_eq!(ticks(stat).unwrap(), 300);
        assert!(ticks("42 nonsense").is_err());
        let status = "Name:\tx\nRssAnon:\t    4100 kB\nRssFile:\t   900 kB\n";
        assert_eq!(field(status, "RssAnon").unwrap(), 4100);
        assert!(field(status, "RssShmem").is_err());
        assert_eq!(field("write_bytes: 4096\ncancelled_write_bytes: 1\n", "write_bytes").unwrap(), 4096);
    }

    #[test]
    fn pages_of_the_program_count_once() {
        let one = Used { pid: 4, own_kib: 10, file_kib: 100, ticks: 3, written: 7 };
        let other = Used { pid: 5, own_kib: 20, file_kib: 90, ticks: 4, written: 0 };
        assert_eq!(
            together(&[one, other]),
            Used { pid: 0, own_kib: 30, file_kib: 100, ticks: 7, written: 7 }
        );
    }

    #[test]
    fn this_process_is_read_and_its_time_grows() {
        let before = used(std::process::id()).unwrap();
        let began = Instant::now();
        while used(std::process::id()).unwrap().ticks == before.ticks {
            assert!(began.elapsed() < Duration::from_secs(30), "no time passes");
        }
        assert!(before.own_kib > 0 && before.file_kib > 0);
    }
}
