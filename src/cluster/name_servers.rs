//! The list of name servers: how it is written, which of them to ask next, and how it changes.

use std::sync::Arc;

use crate::net::sync::Mutex;

/// What separates addresses in a list, as in Java's `namesrvAddr`.
const SEPARATOR: char = ';';

/// The name servers of a cluster. All are equal; the one that answered last is asked first.
#[derive(Debug)]
pub(crate) struct NameServers {
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    addresses: Vec<Arc<str>>,
    preferred: usize,
}

impl NameServers {
    /// Reads a list such as `10.0.0.1:9876;mq.example.com:9876;[::1]:9876`. `Err` says what is wrong with it.
    pub(crate) fn parse(list: &str) -> Result<Self, String> {
        let mut addresses: Vec<Arc<str>> = Vec::new();
        for address in list
            .split(SEPARATOR)
            .map(str::trim)
            .filter(|address| !address.is_empty())
        {
            check_address(address)?;
            if !addresses.iter().any(|known| &**known == address) {
                addresses.push(address.into());
            }
        }
        if addresses.is_empty() {
            return Err("no address is given; write host:port, several separated by ';'".to_owned());
        }
        let list = List {
            addresses,
            preferred: 0,
        };
        Ok(Self {
            list: Mutex::new(list),
        })
    }

    /// All addresses in the order in which they are to be asked now.
    pub(crate) fn in_order(&self) -> Vec<Arc<str>> {
        let list = self.list.lock();
        let first = list.preferred % list.addresses.len().max(1);
        let (before, from) = list
            .addresses
            .split_at_checked(first)
            .unwrap_or((&[], &list.addresses));
        from.iter().chain(before).map(Arc::clone).collect()
    }

    /// Remembers who answered.
    pub(crate) fn answered(&self, address: &str) {
        let mut list = self.list.lock();
        if let Some(index) = list.addresses.iter().position(|known| &**known == address) {
            list.preferred = index;
        }
    }

    pub(crate) fn contains(&self, address: &str) -> bool {
        self.list.lock().addresses.iter().any(|known| &**known == address)
    }

    /// Takes over another list, and says which addresses are gone.
    pub(crate) fn replace_by(&self, other: Self) -> Vec<Arc<str>> {
        let mut before = std::mem::replace(&mut *self.list.lock(), other.list.into_inner());
        before.addresses.retain(|address| !self.contains(address));
        before.addresses
    }
}

/// Checks the form `host:port`, with an IPv6 literal in brackets.
pub(super) fn check_address(address: &str) -> Result<(), String> {
    if address.contains("://") {
        return Err(format!("{address:?} is a URL; write host:port"));
    }
    let (host, port) = address
        .rsplit_once(':')
        .filter(|_| !address.ends_with(']'))
        .ok_or_else(|| format!("{address:?} has no port; write host:port"))?;
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!(
            "{address:?} has no valid port: {port:?} is not a number from 1 to 65535"
        ));
    }
    if host.is_empty() {
        return Err(format!("{address:?} has no host; write host:port"));
    }
    if host.chars().any(|c| c.is_whitespace() || c == ',' || c == '/') {
        return Err(format!(
            "{address:?} has no valid host; separate several addresses by ';'"
        ));
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if host.contains(':') && bracketed.is_none() {
        return Err(format!(
            "{address:?} has more than one ':'; write host:port, and an IPv6 address in brackets, as in [::1]:9876"
        ));
    }
    if let Some(literal) = bracketed {
        if literal
            .split('%')
            .next()
            .is_none_or(|ip| ip.parse::<std::net::Ipv6Addr>().is_err())
        {
            return Err(format!("{address:?} has no valid IPv6 address in its brackets"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(servers: &NameServers) -> Vec<String> {
        servers.in_order().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_is_read_as_java_reads_it() {
        let servers =
            NameServers::parse(" 10.0.0.1:9876; mq.example.com:9876 ;[::1]:9876;;10.0.0.1:9876").unwrap();
        assert_eq!(
            order(&servers),
            ["10.0.0.1:9876", "mq.example.com:9876", "[::1]:9876"]
        );
    }

    #[test]
    fn who_answered_is_asked_first_and_the_others_in_turn() {
        let servers = NameServers::parse("a:1;b:1;c:1").unwrap();
        servers.answered("b:1");
        assert_eq!(order(&servers), ["b:1", "c:1", "a:1"]);
    }

    #[test]
    fn a_list_may_change() {
        let servers = NameServers::parse("a:1;b:1;c:1").unwrap();
        servers.answered("c:1");
        let gone = servers.replace_by(NameServers::parse("d:1;b:1").unwrap());
        assert_eq!(gone, ["a:1".into(), "c:1".into()]);
        assert_eq!(order(&servers), ["d:1", "b:1"]);
        assert!(servers.contains("d:1") && !servers.contains("a:1"));
    }

    #[test]
    fn a_bad_list_says_what_is_wrong() {
        let reason = |list| NameServers::parse(list).unwrap_err();
        assert!(reason(" ; ").contains("no address is given"));
        assert!(reason("localhost").contains("has no port"));
        assert!(reason("localhost:0").contains("not a number from 1 to 65535"));
        assert!(reason("localhost:98765").contains("not a number from 1 to 65535"));
        assert!(reason("::1:9876").contains("in brackets"));
        assert!(reason("[::x]:9876").contains("no valid IPv6 address"));
        assert!(reason("http://host:9876").contains("is a URL"));
        assert!(reason("a:1,b:1").contains("separate several addresses by ';'"));
        assert!(reason("a:1 b:1").contains("separate several addresses by ';'"));
        assert!(reason(":9876").contains("has no host"));
        assert!(reason("[::1]").contains("has no port"));
        assert!(reason("[[::1]]:9876").contains("no valid IPv6 address"));
        assert!(reason("host:9876:9876").contains("more than one ':'"));
    }
}
