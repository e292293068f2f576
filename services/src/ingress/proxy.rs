//! The PROXY protocol's header, version 2 (haproxy.org, proxy-protocol.txt, section 2.2):
//! tells a container whom it really speaks with.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for a TCP connection of `client` to `server`, 28 or 52 bytes. Where one address is
/// of IPv4 and the other of IPv6, both are written as IPv6.
pub fn header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client_ip, server_ip) = (client.ip().to_canonical(), server.ip().to_canonical());
    let mut bytes = SIGNATURE.to_vec();
    bytes.push(PROXY);
    match (client_ip, server_ip) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            bytes.extend([TCP_OVER_IPV4, 0, 12]);
            bytes.extend(client.octets());
            bytes.extend(server.octets());
        }
        _ => {
            bytes.extend([TCP_OVER_IPV6, 0, 36]);
            for ip in [client_ip, server_ip] {
                bytes.extend(match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                });
            }
        }
    }
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(server.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_written_as_the_protocol_says() {
        let v4 = header("192.0.2.7:56324".parse().unwrap(), "198.51.100.1:25".parse().unwrap());
        assert_eq!(v4[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(v4[16..], [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0, 25]);
        let v6 = header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:256".parse().unwrap());
        assert_eq!((v6.len(), v6[13], v6[15]), (52, 0x21, 36));
        assert_eq!(v6[16..20], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(v6[48..], [0, 1, 1, 0]);
        let mapped = header("[::ffff:192.0.2.7]:1".parse().unwrap(), "198.51.100.1:2".parse().unwrap());
        assert_eq!(mapped.len(), 28);
        let mixed = header("192.0.2.7:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!(mixed[16..32], "::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
}
