//! From the address that a broker advertises to the one that is dialled: for brokers in containers and behind NAT.

use super::name_servers::check_address;
use crate::net::sync::{AtomicBool, Ordering};

/// The user's map. `None` means that the advertised address is dialled.
pub(crate) type Map = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

pub(crate) struct AddressMap {
    map: Map,
    warned: AtomicBool,
}

impl AddressMap {
    pub(crate) fn new(map: Map) -> Self {
        Self {
            map,
            warned: AtomicBool::new(false),
        }
    }

    /// What is dialled in the place of an advertised address, if it is not the same. What is no address is not dialled.
    pub(crate) fn dialled_as(&self, advertised: &str) -> Option<String> {
        let mapped = (self.map)(advertised).filter(|mapped| mapped != advertised)?;
        match check_address(&mapped) {
            Ok(()) => Some(mapped),
            Err(reason) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    let reason = crate::error::printable(&reason);
                    log::warn!(
                        "the address map gives no address for {advertised}, which is dialled as it is (said once): {reason}"
                    );
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_dialled_if_it_is_one() {
        let map = AddressMap::new(Box::new(|address| match address {
            "172.17.0.2:10911" => Some("localhost:10911".to_owned()),
            "172.17.0.3:10911" => Some("localhost".to_owned()),
            "172.17.0.4:10911" => Some(address.to_owned()),
            _ => None,
        }));
        assert_eq!(
            map.dialled_as("172.17.0.2:10911").as_deref(),
            Some("localhost:10911")
        );
        assert_eq!(map.dialled_as("172.17.0.3:10911"), None);
        assert!(map.warned.load(Ordering::Relaxed));
        assert_eq!(map.dialled_as("172.17.0.4:10911"), None);
        assert_eq!(map.dialled_as("172.17.0.5:10911"), None);
    }
}
