//! Message ids: the client's unique key (property `UNIQ_KEY`) and the broker's offset message id,
//! between their parts and their hexadecimal text.
//!
//! Pure arithmetic: clock, address, process id and randomness are passed in. Nothing here remembers the last id
//! that was built; who counts and who reads the clock lives above `wire`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::message::id::{ID_CAPACITY, MessageId, OffsetMessageId};

use super::WireError;

/// Bytes of an id around its address (process id, tag, time, counter; or port and offset).
const BYTES_BESIDE_ADDRESS: usize = 12;

const MILLISECONDS_PER_DAY: u64 = 86_400_000;

/// How far UTC-12, the last time zone on earth to begin a month, is behind UTC.
const UTC_MINUS_12_MILLISECONDS: u64 = 12 * 3_600_000;

/// What all unique keys of one maker begin with, as `MessageClientIDSetter.createUniqID` lays them out: address, low 16 bits
/// of the process id, a tag that is constant for the maker.
#[derive(Clone, Copy)]
pub(crate) struct UniqueKeyPrefix(HexDigits);

impl UniqueKeyPrefix {
    pub(crate) fn new(ip: IpAddr, process_id: u16, tag: u32) -> Self {
        let mut digits = HexDigits::new();
        digits.push_address(ip);
        digits.push(&process_id.to_be_bytes());
        digits.push(&tag.to_be_bytes());
        Self(digits)
    }

    /// Builds a unique key: behind the prefix come milliseconds and counter.
    ///
    /// `milliseconds` comes from [`id_milliseconds`]. Does not allocate.
    #[inline]
    pub(crate) fn key(&self, milliseconds: u32, counter: u16) -> MessageId {
        let mut digits = self.0;
        digits.push(&milliseconds.to_be_bytes());
        digits.push(&counter.to_be_bytes());
        MessageId::from_digits(digits.digits, digits.len)
    }
}

impl fmt::Debug for UniqueKeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UniqueKeyPrefix").field(&self.0.as_str()).finish()
    }
}

/// The time that goes into a unique key: milliseconds since the start of the current month in UTC-12.
///
/// Apache's readers (`MessageClientIDSetter.getNearlyTimeFromID`) add this number to the start of the month in
/// *their* time zone and search forward from there for the message. Unlike 4.7.0, which counts from the month of
/// the writer's own zone: a reader further east would begin its search after the message was stored. No zone begins
/// a month later than UTC-12, so a reader anywhere lands at or (by at most 26 hours) before the true time.
pub(crate) fn id_milliseconds(unix_ms: u64) -> u32 {
    let there = unix_ms.saturating_sub(UTC_MINUS_12_MILLISECONDS);
    let since_month_start = (day_of_month(there / MILLISECONDS_PER_DAY) - 1) * MILLISECONDS_PER_DAY
        + there % MILLISECONDS_PER_DAY;
    // A month has 2 678 400 000 ms at most, which 32 bits hold.
    u32::try_from(since_month_start).unwrap_or(u32::MAX)
}

/// Day of the month, 1 to 31, of a day counted from 1970-01-01 (the proleptic Gregorian calendar, no leap seconds).
///
/// Counts from 0000-03-01 in eras of 400 years, so that the leap day is the last one of its year.
fn day_of_month(days_since_1970: u64) -> u64 {
    const DAYS_FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let day_of_era = (days_since_1970.saturating_add(DAYS_FROM_MARCH_OF_YEAR_0)) % DAYS_PER_ERA;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March repeat in groups of five with 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month_from_march + 2) / 5 + 1
}

/// Builds the offset message id of a record, as `MessageDecoder.createMessageId`: store host address, port as 32
/// bits, physical offset.
pub(crate) fn offset_message_id(store_host: SocketAddr, physical_offset: u64) -> OffsetMessageId {
    let mut digits = HexDigits::new();
    digits.push_address(store_host.ip());
    digits.push(&u32::from(store_host.port()).to_be_bytes());
    digits.push(&physical_offset.to_be_bytes());
    OffsetMessageId::from_digits(digits.digits, digits.len)
}

/// Splits an offset message id into the store host and the physical offset. Digits of either case are read, as by
/// `MessageDecoder.decodeMessageId`.
///
/// # Errors
///
/// When the text is not 32 or 56 hexadecimal digits, or names a port above 65 535. A unique key has the same
/// lengths, so it may pass, with a meaningless host.
pub(crate) fn parse_offset_message_id(text: &str) -> Result<(SocketAddr, u64), WireError> {
    match text.len() {
        32 => {
            let (address, rest) = split_digits::<8>(text)?;
            host_and_offset(IpAddr::V4(Ipv4Addr::from_bits(hex_u32(address)?)), rest)
        }
        56 => {
            let (address, rest) = split_digits::<32>(text)?;
            let bits = u128::from_str_radix(checked_digits(address)?, 16).map_err(|_| not_hexadecimal())?;
            host_and_offset(IpAddr::V6(Ipv6Addr::from_bits(bits)), rest)
        }
        other => Err(WireError::new(format!(
            "an offset message id has 32 or 56 digits, not {other}"
        ))),
    }
}

fn host_and_offset(ip: IpAddr, rest: &str) -> Result<(SocketAddr, u64), WireError> {
    let (port, offset) = split_digits::<8>(rest)?;
    let port = hex_u32(port)?;
    let port =
        u16::try_from(port).map_err(|_| WireError::new(format!("an offset message id names port {port}")))?;
    let offset = u64::from_str_radix(checked_digits(offset)?, 16).map_err(|_| not_hexadecimal())?;
    Ok((SocketAddr::new(ip, port), offset))
}

fn split_digits<const N: usize>(text: &str) -> Result<(&str, &str), WireError> {
    text.split_at_checked(N).ok_or_else(not_hexadecimal)
}

fn hex_u32(digits: &str) -> Result<u32, WireError> {
    u32::from_str_radix(checked_digits(digits)?, 16).map_err(|_| not_hexadecimal())
}

/// `from_str_radix` would also read a sign.
fn checked_digits(digits: &str) -> Result<&str, WireError> {
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err(not_hexadecimal())
    }
}

fn not_hexadecimal() -> WireError {
    WireError::new("an offset message id has a character that is no hexadecimal digit")
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Upper-case hexadecimal text of at most one id, on the stack.
#[derive(Clone, Copy)]
struct HexDigits {
    digits: [u8; ID_CAPACITY],
    len: usize,
}

impl HexDigits {
    fn new() -> HexDigits {
        HexDigits {
            digits: [0; ID_CAPACITY],
            len: 0,
        }
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let slot = self.digits.get_mut(self.len..self.len + 2);
            let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
            if let Some(slot) = slot {
                slot.copy_from_slice(&[digit(byte >> 4), digit(byte & 0x0f)]);
                self.len += 2;
            }
        }
    }

    fn push_address(&mut self, ip: IpAddr) {
        const { assert!(2 * (16 + BYTES_BESIDE_ADDRESS) <= ID_CAPACITY) };
        match ip {
            IpAddr::V4(v4) => self.push(&v4.octets()),
            IpAddr::V6(v6) => self.push(&v6.octets()),
        }
    }

    fn as_str(&self) -> &str {
        let digits = self.digits.get(..self.len).unwrap_or_default();
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ip: &str, pid: u16, tag: u32, milliseconds: u32, counter: u16) -> String {
        let prefix = UniqueKeyPrefix::new(ip.parse().unwrap(), pid, tag);
        prefix.key(milliseconds, counter).as_str().to_owned()
    }

    #[test]
    fn unique_keys_match_those_of_java_and_go() {
        // Java 4.7.0, IPv6 host.
        assert_eq!(
            key("fd00::2", 9842, 0x5FFD_2B27, 1_932_044_453, 0),
            "FD00000000000000000000000000000226725FFD2B277328A8A50000"
        );
        // Java 5.5.0, IPv4 host.
        assert_eq!(
            key("192.0.2.2", 13413, 0x5FFD_2B27, 1_932_356_247, 2),
            "C000020234655FFD2B27732D6A970002"
        );
        // Go 2.1.2 writes the last digits in lower case; the value is the same.
        assert_eq!(
            key("192.0.2.2", 14248, 0, 1_932_391_000, 1),
            "C000020237A800000000732df2580001".to_uppercase()
        );
    }

    #[test]
    fn offset_message_ids_match_those_of_brokers() {
        for (text, host, offset) in [
            ("7F0000010000472200000000000000B8", "127.0.0.1:18210", 184),
            ("7F000001000046780000000000000A51", "127.0.0.1:18040", 2641),
            ("7F0000010000465A00000000000067C6", "127.0.0.1:18010", 26566),
            (
                "FD00000000000000000000000000000200002A9F0000000000000126",
                "[fd00::2]:10911",
                0x126,
            ),
        ] {
            let host: SocketAddr = host.parse().unwrap();
            assert_eq!(offset_message_id(host, offset).as_str(), text);
            assert_eq!(parse_offset_message_id(text).unwrap(), (host, offset));
            assert_eq!(
                parse_offset_message_id(&text.to_lowercase()).unwrap(),
                (host, offset)
            );
        }
        let widest: SocketAddr = "255.255.255.255:65535".parse().unwrap();
        let id = offset_message_id(widest, u64::MAX);
        assert_eq!(parse_offset_message_id(id.as_str()).unwrap(), (widest, u64::MAX));
    }

    #[test]
    fn texts_that_are_no_offset_message_id_are_refused() {
        for text in [
            "",
            "7F",
            "7F0000010000472200000000000000B",
            "7F0000010000472200000000000000B80",
            "7F00000100004722000000000000 0B8",
            "+F0000010000472200000000000000B8",
            "7F000001+000472200000000000000B8",
            "7F00000100014722000000000000 000",
            // 32 bytes, with characters of two bytes across the places where the parts meet.
            "7F00000é0004722000000000000000é",
            "ééééééééééééééééééééééééééééé",
            "7F000001FFFFFFFF0000000000000000",
        ] {
            assert!(parse_offset_message_id(text).is_err(), "{text}");
        }
    }

    /// Milliseconds since 1970 of a UTC date and time; months written out, to be independent of the code under test.
    fn utc(year: u64, month: usize, day: u64, hour: u64) -> u64 {
        let leap = |y: u64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
        let lengths = |y| {
            [
                31,
                if leap(y) { 29 } else { 28 },
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]
        };
        let years: u64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
        let months: u64 = lengths(year)[..month - 1].iter().sum();
        ((years + months + day - 1) * 24 + hour) * 3_600_000
    }

    #[test]
    fn id_milliseconds_start_with_the_month_of_utc_minus_12() {
        assert_eq!(id_milliseconds(utc(2026, 11, 1, 12)), 0);
        assert_eq!(id_milliseconds(utc(2026, 11, 1, 12) + 1), 1);
        // Twelve hours into November in Greenwich, the last second of October is just passing in UTC-12.
        assert_eq!(id_milliseconds(utc(2026, 11, 1, 12) - 1), 31 * 86_400_000 - 1);
        assert_eq!(id_milliseconds(utc(2024, 3, 1, 12) - 1), 29 * 86_400_000 - 1);
        assert_eq!(id_milliseconds(utc(2100, 3, 1, 12) - 1), 28 * 86_400_000 - 1);
        for year in 1970..2110 {
            for month in 1..=12 {
                for day in 1..=28 {
                    let noon = utc(year, month, day, 12);
                    assert_eq!(
                        u64::from(id_milliseconds(noon)),
                        (day - 1) * 86_400_000,
                        "{year}-{month}-{day}"
                    );
                }
            }
        }
    }

    #[test]
    fn id_milliseconds_are_defined_for_any_clock() {
        assert_eq!(id_milliseconds(0), 0);
        assert_eq!(id_milliseconds(1), 0);
        assert!(id_milliseconds(u64::MAX) < 31 * 86_400_000);
    }

    /// `MessageClientIDSetter.getNearlyTimeFromID`, for a reader whose zone is `offset_hours` ahead of UTC.
    fn time_that_a_reader_decodes(milliseconds: u32, now: u64, offset_hours: i64) -> i64 {
        let shift = offset_hours * 3_600_000;
        let local_day = |ms: i64| (ms + shift).div_euclid(86_400_000);
        let month_start = |day: i64| {
            let in_month = i64::try_from(day_of_month(u64::try_from(day).unwrap())).unwrap();
            (day - in_month + 1, (day - in_month + 1) * 86_400_000 - shift)
        };
        let now = i64::try_from(now).unwrap();
        let (first_day, start) = month_start(local_day(now));
        let time = start + i64::from(milliseconds);
        if time < now {
            time
        } else {
            month_start(first_day - 1).1 + i64::from(milliseconds)
        }
    }

    #[test]
    fn no_reader_looks_for_a_message_after_it_was_born() {
        for born in (utc(2026, 10, 29, 0)..utc(2026, 11, 4, 0)).step_by(1_800_000) {
            for zone in -12..=14 {
                let decoded = time_that_a_reader_decodes(id_milliseconds(born), born + 1_000, zone);
                let born = i64::try_from(born).unwrap();
                assert!(
                    decoded <= born && born - decoded <= 26 * 3_600_000,
                    "{born} UTC{zone:+}: {decoded}"
                );
            }
        }
    }
}
