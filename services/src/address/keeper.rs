//! Keeps the floating address where the lease is: puts it on, announces it, prolongs its life,
//! takes it away. A thread of its own, so that the guard never waits for the kernel: on a busy machine a change of
//! addresses or the end of a packet socket can take a second.

use super::interface::{AddressError, Interface, Netlink, choose};
use super::{Floating, announce, packet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often its life is prolonged; a quarter of what the kernel gives it.
const PROLONG: Duration = Duration::from_millis(500);
/// When a failed removal or addition is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How often a new address is announced, and in which distance.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(100);
/// Reports that wait for the guard.
const REPORTS_MAX: usize = 16;

/// What became of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is on its interface, announced.
    There,
    /// It is not on this radiator.
    Gone,
    /// Neither could be done, and why; it is tried again.
    Trouble(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    address: Option<Floating>,
    /// In which epoch it is held.
    epoch: Option<u64>,
}

/// The guard's handle on the thread, which ends with it; the address then ends by its lifetime.
pub struct Keeper {
    wanted: watch::Sender<Wanted>,
    reports: mpsc::Receiver<Kept>,
}

impl Keeper {
    /// Begins with the address held in that epoch, or not held: then one that is left over is taken
    /// away. In the network namespace of the calling thread.
    pub fn start(address: Option<Floating>, epoch: Option<u64>) -> io::Result<Self> {
        let (wanted, follow) = watch::channel(Wanted { address, epoch });
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let keeping = move || runtime.block_on(keep(follow, report));
        std::thread::Builder::new().name("address".into()).spawn(keeping)?;
        Ok(Self { wanted, reports })
    }

    /// The home's floating address is another one.
    pub fn is(&self, address: Option<Floating>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.address != address;
            wanted.address = address;
            changed
        });
    }

    /// The lease is held in this epoch, or (`None`) is not.
    pub fn hold(&self, epoch: Option<u64>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.epoch != epoch;
            wanted.epoch = epoch;
            changed
        });
    }

    /// What became of it, as it happens.
    pub async fn changed(&mut self) -> Option<Kept> {
        self.reports.recv().await
    }
}

async fn keep(mut wanted: watch::Receiver<Wanted>, report: mpsc::Sender<Kept>) {
    // Where it was put, until it is surely gone again.
    let mut placed: Option<IpAddr> = None;
    let mut announced: Option<(IpAddr, u64)> = None;
    loop {
        let now = wanted.borrow_and_update().clone();
        let pause = match step(&now, &mut placed, &mut announced).await {
            Ok(kept) => {
                let pause = if kept == Kept::There { Some(PROLONG) } else { None };
                if report.send(kept).await.is_err() {
                    return;
                }
                pause
            }
            Err(e) => {
                if report.send(Kept::Trouble(e.to_string())).await.is_err() {
                    return;
                }
                Some(RETRY)
            }
        };
        let changed = async {
            match pause {
                Some(pause) => tokio::time::timeout(pause, wanted.changed()).await.unwrap_or(Ok(())),
                None => wanted.changed().await,
            }
        };
        if changed.await.is_err() {
            return;
        }
    }
}

async fn step(
    wanted: &Wanted,
    placed: &mut Option<IpAddr>,
    announced: &mut Option<(IpAddr, u64)>,
) -> Result<Kept, AddressError> {
    let open = || {
        Netlink::open()
            .map_err(|e| AddressError::Kernel { what: "speak with the kernel", why: e.to_string() })
    };
    let is = wanted.address.as_ref().map(|floating| floating.ip);
    let held = wanted.address.as_ref().zip(wanted.epoch);
    // Left over from an earlier guard, or the home's address has changed, or the lease is lost.
    for ip in [*placed, is].into_iter().flatten() {
        if held.is_none_or(|(floating, _)| floating.ip != ip) {
            open()?.remove(ip).await?;
            *announced = None;
        }
    }
    let Some((floating, epoch)) = held else {
        *placed = None;
        return Ok(Kept::Gone);
    };
    let netlink = open()?;
    let interfaces = netlink.interfaces().await?;
    let interface = choose(floating, &interfaces)?;
    *placed = Some(floating.ip);
    netlink.add(interface, floating.ip).await?;
    if *announced != Some((floating.ip, epoch)) {
        announce(interface, floating.ip)?;
        *announced = Some((floating.ip, epoch));
    }
    Ok(Kept::There)
}

/// Announces at once, and twice more without being waited for: neighbours lose frames.
fn announce(interface: &Interface, ip: IpAddr) -> Result<(), AddressError> {
    let mac = interface.mac.ok_or_else(|| AddressError::NoLan(interface.name.clone()))?;
    let (frame, ethertype) = announce::frame(ip, mac);
    let failed =
        |e: io::Error| AddressError::Kernel { what: "announce the floating address", why: e.to_string() };
    packet::send(interface.index, ethertype, &frame).map_err(failed)?;
    let (index, name) = (interface.index, interface.name.clone());
    tracing::info!(%ip, interface = %name, "the floating address is here");
    tokio::spawn(async move {
        for _ in 1..ANNOUNCEMENTS {
            tokio::time::sleep(ANNOUNCE_PAUSE).await;
            if let Err(e) = packet::send(index, ethertype, &frame) {
                tracing::debug!(%ip, interface = %name, error = %e, "an announcement was not sent");
            }
        }
    });
    Ok(())
}
