//! The frames that tell neighbours where an address is now: gratuitous ARP (RFC 5227) and
//! unsolicited neighbour advertisement (RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub type Mac = [u8; 6];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Shortest Ethernet frame without its checksum.
const FRAME_MIN: usize = 60;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Override: replace what you have cached.
const OVERRIDE: u8 = 0x20;

/// The frame that announces `ip` at `mac`, and its EtherType.
pub fn frame(ip: IpAddr, mac: Mac) -> (Vec<u8>, u16) {
    match ip {
        IpAddr::V4(ip) => (arp(ip, mac), ETHERTYPE_ARP),
        IpAddr::V6(ip) => (advertisement(ip, mac), ETHERTYPE_IPV6),
    }
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes()].concat()
}

/// An ARP announcement: a request for one's own address, which every neighbour hears.
fn arp(ip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, address lengths 6 and 4, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame.resize(FRAME_MIN, 0);
    frame
}

/// A neighbour advertisement to all nodes.
fn advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(ip.octets());
    // Option: target link-layer address, length 1 x 8 bytes.
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(ip, all_nodes, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum over pseudo-header and message (RFC 4443, 2.3).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let len = (message.len() as u32).to_be_bytes();
    let bytes = [&from.octets()[..], &to.octets(), &len, &[0, 0, 0, ICMPV6], message].concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_arp_announcement_names_the_address_as_sender_and_target() {
        let (frame, ethertype) = frame("192.168.1.50".parse().unwrap(), MAC);
        assert_eq!((frame.len(), ethertype), (60, 0x0806));
        assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 9, 192, 168, 1, 50]);
        assert_eq!(frame[38..42], [192, 168, 1, 50]);
    }

    #[test]
    fn a_neighbour_advertisement_sums_to_nothing() {
        let ip: Ipv6Addr = "2001:db8::50".parse().unwrap();
        let (frame, ethertype) = frame(ip.into(), MAC);
        assert_eq!((frame.len(), ethertype, frame[20], frame[21]), (86, 0x86dd, 58, 255));
        assert_eq!(frame[62..78], ip.octets());
        let to = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[38..54]).unwrap());
        assert_eq!(checksum(ip, to, &frame[54..]), 0, "a message with its checksum in place");
    }
}
