//! What the address that a broker advertises tells about where it can be reached from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What to look at when an advertised address cannot be reached from here; `None` for a public address, of which nothing
/// can be told.
pub(crate) fn hint(address: &str) -> Option<String> {
    let remedy = "let the broker advertise an address that is reachable from here (brokerIP1 in its configuration), or map \
                  it to one in this client (address_map)";
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let Ok(parsed) = address.parse::<SocketAddr>() else {
        return Some(format!(
            "the broker advertises the name {}, which must resolve here: {remedy}",
            crate::error::printable(host)
        ));
    };
    let kind = kind(parsed.ip())?;
    Some(format!("the broker advertises {}, {kind}: {remedy}", parsed.ip()))
}

fn kind(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => kind_v4(ip),
        IpAddr::V6(ip) if ip.is_loopback() => Some("a loopback address, which is only ever its own host"),
        IpAddr::V6(ip) if ip.is_unspecified() => Some("which is no address"),
        IpAddr::V6(ip) if ip.is_unique_local() => Some("a private address (fc00::/7) of its own network"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address (fe80::/10)"),
        IpAddr::V6(_) => None,
    }
}

fn kind_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        [0, ..] => Some("which is no address"),
        [127, ..] => Some("a loopback address (127.0.0.0/8), which is only ever its own host"),
        [10, ..] => Some("a private address (10.0.0.0/8) of its own network, often that of containers"),
        [172, 17, ..] => {
            Some("an address of Docker's default network (172.17.0.0/16), which only its own host can reach")
        }
        [172, 16..=31, ..] => {
            Some("a private address (172.16.0.0/12) of its own network, often that of containers")
        }
        [192, 168, ..] => Some("a private address (192.168.0.0/16) of its own network"),
        [169, 254, ..] => {
            Some("a link-local address (169.254.0.0/16), which a host gives itself when it gets no other")
        }
        [100, 64..=127, ..] => Some("an address of a provider's inner network (100.64.0.0/10)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_container_addresses_are_recognised() {
        for (address, part) in [
            ("127.0.0.1:10911", "loopback"),
            ("[::1]:10911", "loopback"),
            ("10.1.2.3:10911", "10.0.0.0/8"),
            ("172.17.0.2:10911", "Docker's default"),
            ("172.31.255.1:10911", "172.16.0.0/12"),
            ("192.168.1.5:10911", "192.168.0.0/16"),
            ("169.254.1.1:10911", "169.254.0.0/16"),
            ("[fd00::1]:10911", "fc00::/7"),
            ("[fe80::1]:10911", "fe80::/10"),
            ("[::ffff:10.1.2.3]:10911", "10.0.0.0/8"),
            ("0.0.0.0:10911", "no address"),
            (
                "broker-0.brokers:10911",
                "the name broker-0.brokers, which must resolve here",
            ),
        ] {
            let hint = hint(address).expect(address);
            assert!(hint.contains(part) && hint.contains("brokerIP1"), "{hint}");
        }
    }

    #[test]
    fn nothing_is_said_of_public_addresses() {
        for address in [
            "8.8.8.8:10911",
            "172.32.0.1:10911",
            "172.15.0.1:10911",
            "[2001:db8::1]:10911",
        ] {
            assert_eq!(hint(address), None);
        }
    }
}
