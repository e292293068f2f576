//! The floating address in a network namespace of this test's own thread, which ends with it.

use rustix::thread::UnshareFlags;
use std::process::Command;
use std::time::{Duration, Instant};
use thermidor_services::address::{AddressError, Floating, Keeper, Kept, Netlink};

const PATIENCE: Duration = Duration::from_secs(20);

fn ip(args: &str) -> String {
    let done = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Runs a test in a fresh namespace with the LAN 10.99.0.0/24 on `ing0`, whose other end is `ing1`.
fn in_a_namespace(name: &str, test: impl AsyncFnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED {name}: making a network namespace takes root");
        return;
    }
    std::thread::scope(|scope| {
        let body = scope.spawn(|| {
            #[allow(deprecated)] // a thread of our own, which shares no network with what it does
            if let Err(e) = rustix::thread::unshare(UnshareFlags::NEWNET) {
                println!("SKIPPED {name}: no network namespace to be had: {e}");
                return;
            }
            ip("link add ing0 type veth peer name ing1");
            ip("addr add 10.99.0.2/24 dev ing0");
            ip("addr add 2001:db8::2/64 dev ing0 nodad");
            ip("link set ing0 up");
            ip("link set ing1 up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        });
        body.join().unwrap();
    });
}

fn floating(ip: &str, prefix: u8) -> Option<Floating> {
    Some(Floating { ip: ip.parse().unwrap(), prefix, interface: None })
}

async fn becomes(keeper: &mut Keeper, wanted: Kept) {
    let seen = async {
        while let Some(kept) = keeper.changed().await {
            if kept == wanted {
                return;
            }
        }
        panic!("the keeper ended");
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never {wanted:?}"));
}

async fn gone(address: &str) {
    let begun = Instant::now();
    while ip("-br addr show dev ing0").contains(address) {
        assert!(begun.elapsed() < PATIENCE, "{address} outlives its keeper");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn the_address_is_here_and_announced_while_it_is_held_and_only_then() {
    in_a_namespace("address-held", async || {
        let mut all = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None).unwrap();
        // ETH_P_ARP, in network order.
        let arp = socket2::Protocol::from(i32::from(0x0806u16.to_be()));
        all = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(arp)).unwrap_or(all);
        all.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut keeper = Keeper::start(floating("10.99.0.50", 24), None).unwrap();
        becomes(&mut keeper, Kept::Gone).await;
        keeper.hold(Some(3));
        becomes(&mut keeper, Kept::There).await;
        let shown = ip("-br addr show dev ing0");
        assert!(shown.contains("10.99.0.50/32") && shown.contains("10.99.0.2/24"), "{shown}");
        let frame = tokio::task::spawn_blocking(move || {
            let mut bytes = [0u8; 2048];
            loop {
                use std::io::Read;
                let count = (&all).read(&mut bytes).unwrap();
                if count >= 42 && bytes[28..32] == [10, 99, 0, 50] && bytes[38..42] == [10, 99, 0, 50] {
                    return bytes[..6].to_vec();
                }
            }
        });
        assert_eq!(frame.await.unwrap(), [0xff; 6], "told to everyone");
        // Longer than the kernel's lifetime: it is prolonged.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        assert!(ip("-br addr show dev ing0").contains("10.99.0.50/32"));
        keeper.hold(None);
        becomes(&mut keeper, Kept::Gone).await;
        let shown = ip("-br addr show dev ing0");
        assert!(!shown.contains("10.99.0.50") && shown.contains("10.99.0.2/24"), "{shown}");
    });
}

#[test]
fn the_address_does_not_outlive_a_dead_guard_and_is_taken_away_by_the_next() {
    in_a_namespace("address-left", async || {
        let mut keeper = Keeper::start(floating("10.99.0.50", 24), Some(3)).unwrap();
        becomes(&mut keeper, Kept::There).await;
        drop(keeper);
        gone("10.99.0.50").await;
        let mut keeper = Keeper::start(floating("10.99.0.50", 24), Some(4)).unwrap();
        becomes(&mut keeper, Kept::There).await;
        drop(keeper);
        let mut next = Keeper::start(floating("10.99.0.50", 24), None).unwrap();
        becomes(&mut next, Kept::Gone).await;
        assert!(!ip("-br addr show dev ing0").contains("10.99.0.50"));
    });
}

#[test]
fn another_address_takes_the_place_of_the_first_and_ipv6_is_usable_at_once() {
    in_a_namespace("address-changed", async || {
        let mut keeper = Keeper::start(floating("10.99.0.50", 24), Some(3)).unwrap();
        becomes(&mut keeper, Kept::There).await;
        keeper.is(floating("2001:db8::50", 64));
        gone("10.99.0.50").await;
        becomes(&mut keeper, Kept::There).await;
        let shown = ip("addr show dev ing0");
        let line =
            shown.lines().find(|line| line.contains("2001:db8::50/128")).unwrap_or_else(|| panic!("{shown}"));
        assert!(!line.contains("tentative"), "{line}");
        keeper.is(None);
        gone("2001:db8::50").await;
    });
}

#[test]
fn what_cannot_be_done_is_said_and_the_radiators_own_address_is_never_taken_away() {
    in_a_namespace("address-refused", async || {
        for (address, prefix, why) in [
            ("192.0.2.9", 24, "no interface has an address in the network"),
            ("10.99.0.2", 24, "own address"),
        ] {
            let mut keeper = Keeper::start(floating(address, prefix), Some(1)).unwrap();
            let kept = tokio::time::timeout(PATIENCE, keeper.changed()).await.unwrap().unwrap();
            assert!(matches!(&kept, Kept::Trouble(text) if text.contains(why)), "{kept:?}");
        }
        assert!(!Netlink::open().unwrap().remove("10.99.0.2".parse().unwrap()).await.unwrap());
        assert!(ip("-br addr show dev ing0").contains("10.99.0.2/24"));
        // A held address whose network goes away and comes back is put on again.
        let mut keeper = Keeper::start(floating("10.99.0.50", 24), Some(1)).unwrap();
        becomes(&mut keeper, Kept::There).await;
        ip("link set ing0 down");
        ip("addr flush dev ing0");
        let lost = async { while !matches!(keeper.changed().await, Some(Kept::Trouble(_))) {} };
        tokio::time::timeout(PATIENCE, lost).await.unwrap();
        ip("addr add 10.99.0.2/24 dev ing0");
        ip("link set ing0 up");
        becomes(&mut keeper, Kept::There).await;
        assert!(ip("-br addr show dev ing0").contains("10.99.0.50/32"));
        let none = thermidor_services::address::Interface {
            index: 0,
            name: "none".into(),
            mac: None,
            addresses: vec![],
        };
        let refused = Netlink::open().unwrap().add(&none, "10.99.0.50".parse().unwrap()).await;
        assert!(matches!(refused, Err(AddressError::Kernel { .. })), "{refused:?}");
    });
}
