//! What happens to the home: drawn from a seed, every kind of it before any comes again.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use std::fmt;

/// A process of a radiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// `thermidor run`.
    Daemon,
    /// `thermidor guard`.
    Guard,
    /// `thermidor ingress`.
    Ingress,
    /// The process that serves the volume's replica.
    Volume,
    /// The container's first process.
    Container,
    /// Postfix's master in it.
    Postfix,
    /// Dovecot's master in it.
    Dovecot,
    /// All of these at once.
    All,
}

/// Whose it is, when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// The radiator where mail runs.
    Active,
    /// The one that leads.
    Leader,
    /// One where mail does not run.
    Standby,
}

/// Which way a cut radiator is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From everybody, the clients too.
    Both,
    /// The other radiators do not hear it.
    Mute,
    /// It does not hear the other radiators.
    Deaf,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9.
    Kill(Whose, Process),
    /// A process is stopped for so long, ms.
    Stop(Whose, Process, u64),
    /// A whole radiator stands still for so long, ms.
    Freeze(Whose, u64),
    /// A radiator is cut off for so long, ms.
    Cut(Whose, Way, u64),
    /// A plug is pulled for so long, ms; what the kernel had not brought to the disk is lost.
    Unplug(Whose, u64),
    /// All plugs at once.
    Blackout(u64),
}

impl Fault {
    /// Its kind, for counting.
    pub fn kind(&self) -> String {
        match self {
            Fault::Kill(_, process) => format!("kill {process:?}").to_lowercase(),
            Fault::Stop(_, process, _) => format!("stop {process:?}").to_lowercase(),
            Fault::Freeze(..) => "freeze radiator".into(),
            Fault::Cut(_, way, _) => format!("cut {way:?}").to_lowercase(),
            Fault::Unplug(..) => "unplug".into(),
            Fault::Blackout(_) => "blackout".into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Fault::Kill(whose, _) => write!(f, "{kind} ({whose:?})"),
            Fault::Stop(whose, _, ms) | Fault::Freeze(whose, ms) => write!(f, "{kind} ({whose:?}, {ms} ms)"),
            Fault::Cut(whose, _, ms) | Fault::Unplug(whose, ms) => write!(f, "{kind} ({whose:?}, {ms} ms)"),
            Fault::Blackout(ms) => write!(f, "{kind} ({ms} ms)"),
        }
    }
}

/// The kinds in one deal; what is frequent in a life is in it more than once.
const KINDS: [Kind; 18] = [
    Kind::Kill(Process::Daemon),
    Kind::Kill(Process::Guard),
    Kind::Kill(Process::Ingress),
    Kind::Kill(Process::Volume),
    Kind::Kill(Process::Container),
    Kind::Kill(Process::Postfix),
    Kind::Kill(Process::Dovecot),
    Kind::Kill(Process::All),
    Kind::Stop(Process::Daemon),
    Kind::Stop(Process::Guard),
    Kind::Stop(Process::Ingress),
    Kind::Stop(Process::Volume),
    Kind::Freeze,
    Kind::Cut(Way::Both),
    Kind::Cut(Way::Mute),
    Kind::Cut(Way::Deaf),
    Kind::Unplug,
    Kind::Blackout,
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill(Process),
    Stop(Process),
    Freeze,
    Cut(Way),
    Unplug,
    Blackout,
}

/// Faults without end: one seed, the same ones.
#[derive(Debug)]
pub struct Faults {
    rng: StdRng,
    deck: Vec<Kind>,
}

impl Faults {
    /// From that seed.
    pub fn from_seed(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), deck: Vec::new() }
    }
}

impl Iterator for Faults {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.deck.is_empty() {
            self.deck.extend(KINDS);
            self.deck.shuffle(&mut self.rng);
        }
        let kind = self.deck.pop()?;
        let rng = &mut self.rng;
        // The active has most to lose.
        let whose = *[Whose::Active, Whose::Active, Whose::Leader, Whose::Standby].choose(rng)?;
        Some(match kind {
            Kind::Kill(process @ (Process::Container | Process::Postfix | Process::Dovecot)) => {
                Fault::Kill(Whose::Active, process)
            }
            Kind::Kill(process) => Fault::Kill(whose, process),
            Kind::Stop(process) => Fault::Stop(whose, process, rng.random_range(100..3_000)),
            Kind::Freeze => Fault::Freeze(whose, rng.random_range(100..3_000)),
            Kind::Cut(way) => Fault::Cut(whose, way, rng.random_range(500..8_000)),
            Kind::Unplug => Fault::Unplug(whose, rng.random_range(500..4_000)),
            Kind::Blackout => Fault::Blackout(rng.random_range(500..2_000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_seed_is_one_series_and_another_is_another() {
        let series = |seed| Faults::from_seed(seed).take(100).collect::<Vec<_>>();
        assert_eq!(series(7), series(7));
        assert_ne!(series(7), series(8));
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let kinds: BTreeSet<String> = Faults::from_seed(3).take(KINDS.len()).map(|f| f.kind()).collect();
        assert_eq!(kinds.len(), KINDS.len(), "{kinds:?}");
    }
}
