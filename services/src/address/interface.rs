//! Interfaces and their addresses, through rtnetlink.

use super::Floating;
use super::announce::Mac;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use std::io;
use std::net::IpAddr;

/// How long the kernel keeps the address without being told again, s.
pub const LIFETIME_S: u32 = 2;

/// Why the address cannot be held here.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No interface fits.
    #[error(
        "no interface has an address in the network of {ip}/{prefix}: name one, `address: {ip}/{prefix} on IF`, or give this radiator an address there"
    )]
    NoInterface {
        /// The floating address.
        ip: IpAddr,
        /// Its network's prefix.
        prefix: u8,
    },
    /// The interface that was named does not exist.
    #[error("there is no interface {0}: `ip link` lists them")]
    Missing(String),
    /// Nobody outside would hear of it.
    #[error("interface {0} has no Ethernet address: a floating address needs a LAN")]
    NoLan(String),
    /// The address is this radiator's own.
    #[error("{0} is this radiator's own address: choose one that no machine has")]
    Own(IpAddr),
    /// The kernel refuses.
    #[error("cannot {what}: {why}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        why: String,
    },
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None`: loopback, a tunnel.
    pub mac: Option<Mac>,
    /// Its addresses with their prefixes; permanent: not one that this module put there.
    pub addresses: Vec<Assigned>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// It has no lifetime.
    pub permanent: bool,
}

fn kernel(what: &'static str) -> impl Fn(rtnetlink::Error) -> AddressError {
    move |e| AddressError::Kernel { what, why: e.to_string() }
}

/// Whether two addresses are of one network.
fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let ((a_bits, a_len), (b_bits, b_len)) = (bits(a), bits(b));
    a_len == b_len && (prefix == 0 || (a_bits ^ b_bits) >> (128 - u32::from(prefix.min(a_len))) == 0)
}

/// Chooses the interface for the floating address.
pub fn choose<'a>(floating: &Floating, interfaces: &'a [Interface]) -> Result<&'a Interface, AddressError> {
    let Floating { ip, prefix, interface } = floating;
    let own = |a: &&Assigned| a.ip == *ip && a.permanent;
    if interfaces.iter().flat_map(|i| &i.addresses).any(|a| own(&a)) {
        return Err(AddressError::Own(*ip));
    }
    let near = |a: &Assigned| a.ip != *ip && same_network(a.ip, *ip, *prefix);
    let chosen = match interface {
        Some(name) => {
            interfaces.iter().find(|i| i.name == *name).ok_or_else(|| AddressError::Missing(name.clone()))?
        }
        None => interfaces
            .iter()
            .filter(|i| i.addresses.iter().any(near))
            .min_by_key(|i| (i.mac.is_none(), i.index))
            .ok_or(AddressError::NoInterface { ip: *ip, prefix: *prefix })?,
    };
    if chosen.mac.is_none() { Err(AddressError::NoLan(chosen.name.clone())) } else { Ok(chosen) }
}

/// A conversation with the kernel about the network namespace it was opened in.
pub struct Netlink {
    handle: rtnetlink::Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens one, in the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All interfaces.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, AddressError> {
        let listed = kernel("list the interfaces");
        let mut interfaces = Vec::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(&listed)? {
            let lan = !link.header.flags.contains(LinkFlags::Loopback);
            let mut found =
                Interface { index: link.header.index, name: String::new(), mac: None, addresses: vec![] };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => found.name = name,
                    LinkAttribute::Address(bytes) if lan => found.mac = bytes.try_into().ok(),
                    _ => {}
                }
            }
            interfaces.push(found);
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(&listed)? {
            let assigned = assigned(&message);
            let of = interfaces.iter_mut().find(|i| i.index == message.header.index);
            if let (Some(interface), Some(assigned)) = (of, assigned) {
                interface.addresses.push(assigned);
            }
        }
        Ok(interfaces)
    }

    /// Puts an address on an interface, or prolongs its life there. As a host's address without its
    /// network's prefix, so that neither a route nor the radiator's own address depends on it.
    pub async fn add(&self, interface: &Interface, ip: IpAddr) -> Result<(), AddressError> {
        let mut request = self.handle.address().add(interface.index, ip, host_prefix(ip)).replace();
        let mut life = CacheInfo::default();
        (life.ifa_preferred, life.ifa_valid) = (LIFETIME_S, LIFETIME_S);
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::CacheInfo(life));
        if ip.is_ipv6() {
            // Its holder is decided by the home; asking the neighbours first would cost a second.
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(kernel("put the floating address on its interface"))
    }

    /// Takes an address away wherever this module put it. Tells whether there was one.
    pub async fn remove(&self, ip: IpAddr) -> Result<bool, AddressError> {
        let took = kernel("take the floating address away");
        let mut found = Vec::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(&took)? {
            if assigned(&message).is_some_and(|a| a.ip == ip && !a.permanent) {
                found.push(message);
            }
        }
        let any = !found.is_empty();
        for message in found {
            self.handle.address().del(message).execute().await.map_err(&took)?;
        }
        Ok(any)
    }
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On a point-to-point link IFA_ADDRESS is the other end.
    let local = of(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let address = of(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    let permanent = message.header.flags.contains(AddressHeaderFlags::Permanent);
    local.or(address).map(|ip| Assigned { ip, prefix: message.header.prefix_len, permanent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, lan: bool, addresses: &[(&str, u8)]) -> Interface {
        let assigned = |(ip, prefix): &(&str, u8)| Assigned {
            ip: ip.parse().unwrap(),
            prefix: *prefix,
            permanent: true,
        };
        Interface {
            index,
            name: name.into(),
            mac: lan.then_some([2, 0, 0, 0, 0, index as u8]),
            addresses: addresses.iter().map(assigned).collect(),
        }
    }

    #[test]
    fn the_interface_of_the_same_network_is_chosen_or_the_person_is_told_what_to_do() {
        let here = [
            interface(1, "lo", false, &[("127.0.0.1", 8), ("::1", 128)]),
            interface(2, "wan", true, &[("203.0.113.2", 24)]),
            interface(3, "lan", true, &[("192.168.1.10", 24), ("2001:db8::a", 64)]),
        ];
        let float = |ip: &str, prefix, interface: Option<&str>| Floating {
            ip: ip.parse().unwrap(),
            prefix,
            interface: interface.map(Into::into),
        };
        let name = |f: Floating| choose(&f, &here).map(|i| i.name.clone()).map_err(|e| e.to_string());
        assert_eq!(name(float("192.168.1.50", 24, None)).unwrap(), "lan");
        assert_eq!(name(float("2001:db8::50", 64, None)).unwrap(), "lan");
        assert_eq!(name(float("192.168.1.50", 24, Some("wan"))).unwrap(), "wan");
        assert!(name(float("10.0.0.1", 24, None)).unwrap_err().contains("no interface has an address"));
        assert!(name(float("127.0.0.9", 8, None)).unwrap_err().contains("needs a LAN"));
        assert!(name(float("192.168.1.50", 24, Some("eno9"))).unwrap_err().contains("no interface eno9"));
        assert!(name(float("192.168.1.10", 24, None)).unwrap_err().contains("own address"));
    }

    #[test]
    fn networks_are_compared_by_prefix_and_family() {
        let same = |a: &str, b: &str, prefix| same_network(a.parse().unwrap(), b.parse().unwrap(), prefix);
        assert!(same("10.0.0.1", "10.0.1.1", 16) && !same("10.0.0.1", "10.0.1.1", 24));
        assert!(same("1.2.3.4", "5.6.7.8", 0) && !same("1.2.3.4", "1.2.3.5", 32));
        assert!(same("fe80::1", "fe80::2", 64) && !same("0.0.0.0", "::", 0));
    }
}
