//! Whole messages as bytes: the stored record that brokers keep and hand out, and the body of a batch.
//!
//! Layout only. What a producer may put into a batch is `message`'s concern; which record a broker keeps, the
//! mock's. Every length is checked against the bytes that are there before anything is read or allocated.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::WireError;
// Bytes of a record with IPv4 hosts beside body, topic and properties.
pub(crate) use crate::message::batch::RECORD_OVERHEAD;

/// `MessageDecoder.MESSAGE_MAGIC_CODE`: the length of the topic is one byte.
const MAGIC_V1: u32 = 0xDAA3_20A7;

/// `MessageVersion.MESSAGE_VERSION_V2` of 5.x, for topics over 127 bytes: the length of the topic is two bytes.
const MAGIC_V2: u32 = 0xDAA3_20AB;

/// `MessageSysFlag.BORNHOST_V6_FLAG`: the born host has 16 bytes of address.
const BORN_HOST_IPV6: i32 = 1 << 4;

/// `MessageSysFlag.STOREHOSTADDRESS_V6_FLAG`: the store host has 16 bytes of address.
const STORE_HOST_IPV6: i32 = 1 << 5;

/// Bytes of a batch element beside body and properties.
pub(crate) const BATCH_ELEMENT_OVERHEAD: usize = 22;

/// Longest property text: its length travels as a signed 16-bit number.
pub(crate) const MAX_PROPERTIES_LENGTH: usize = 32_767;

/// Longest topic in a record of the first version. Java reads its length as a signed byte.
const MAX_TOPIC_LENGTH_V1: usize = 127;

/// One stored record (`MessageDecoder.decode`), borrowed from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRecord<'a> {
    /// CRC-32 of the body as it is stored, without its highest bit.
    pub(crate) body_crc: u32,
    pub(crate) queue_id: i32,
    pub(crate) flag: i32,
    pub(crate) queue_offset: i64,
    pub(crate) physical_offset: i64,
    /// With the two bits that tell of IPv6 hosts.
    pub(crate) sys_flag: i32,
    pub(crate) born_timestamp_ms: i64,
    pub(crate) born_host: SocketAddr,
    pub(crate) store_timestamp_ms: i64,
    pub(crate) store_host: SocketAddr,
    pub(crate) reconsume_times: i32,
    pub(crate) prepared_transaction_offset: i64,
    /// As stored: still compressed when the system flag says so.
    pub(crate) body: &'a [u8],
    /// Bytes that are no UTF-8 are shown as U+FFFD, as Java's `new String` does.
    pub(crate) topic: Cow<'a, str>,
    /// Property text; the same holds.
    pub(crate) properties: Cow<'a, str>,
}

impl<'a> StoredRecord<'a> {
    /// Reads the record at the front of `bytes` and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// When the bytes end early, the magic number is neither version's, a port is no port, or the announced total
    /// differs from the sum of the parts.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<(StoredRecord<'a>, usize), WireError> {
        let total = length(&mut Cursor(bytes), "record")?;
        let record = bytes.get(..total).ok_or_else(|| cut_short("record"))?;
        let mut cursor = Cursor(record);
        cursor.array::<4>("record")?;
        let magic = cursor.u32("magic number")?;
        let body_crc = cursor.u32("body checksum")?;
        let queue_id = cursor.i32("queue id")?;
        let flag = cursor.i32("flag")?;
        let queue_offset = cursor.i64("queue offset")?;
        let physical_offset = cursor.i64("physical offset")?;
        let sys_flag = cursor.i32("system flag")?;
        let born_timestamp_ms = cursor.i64("born timestamp")?;
        let born_host = cursor.host(sys_flag & BORN_HOST_IPV6 != 0, "born host")?;
        let store_timestamp_ms = cursor.i64("store timestamp")?;
        let store_host = cursor.host(sys_flag & STORE_HOST_IPV6 != 0, "store host")?;
        let reconsume_times = cursor.i32("reconsume times")?;
        let prepared_transaction_offset = cursor.i64("prepared transaction offset")?;
        let body_length = length(&mut cursor, "body")?;
        let body = cursor.take(body_length, "body")?;
        let topic_length = match magic {
            MAGIC_V1 => usize::from(u8::from_be_bytes(cursor.array("topic")?)),
            MAGIC_V2 => short_length(&mut cursor, "topic")?,
            other => {
                return Err(WireError::new(format!(
                    "a stored record has magic number {other:#010x}"
                )));
            }
        };
        let topic = String::from_utf8_lossy(cursor.take(topic_length, "topic")?);
        let properties_length = short_length(&mut cursor, "properties")?;
        let properties = String::from_utf8_lossy(cursor.take(properties_length, "properties")?);
        if !cursor.0.is_empty() {
            return Err(WireError::new(format!(
                "a stored record has {} bytes too many",
                cursor.0.len()
            )));
        }
        let record = StoredRecord {
            body_crc,
            queue_id,
            flag,
            queue_offset,
            physical_offset,
            sys_flag,
            born_timestamp_ms,
            born_host,
            store_timestamp_ms,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            body,
            topic,
            properties,
        };
        Ok((record, total))
    }

    /// Appends the record. The checksum and the two host bits of the system flag are worked out here; what the
    /// fields say about them is ignored.
    ///
    /// # Errors
    ///
    /// When body, topic or properties are longer than their length fields can say. `out` is then as it was.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let long_topic = self.topic.len() > MAX_TOPIC_LENGTH_V1;
        let host_bytes = |host: SocketAddr| if host.is_ipv4() { 8 } else { 20 };
        let total = RECORD_OVERHEAD - 16
            + host_bytes(self.born_host)
            + host_bytes(self.store_host)
            + usize::from(long_topic)
            + self.body.len()
            + self.topic.len()
            + self.properties.len();
        let total = i32::try_from(total).map_err(|_| too_long("record"))?;
        let body_length = i32::try_from(self.body.len()).map_err(|_| too_long("body"))?;
        let topic_length = i16::try_from(self.topic.len()).map_err(|_| too_long("topic"))?;
        let properties_length = i16::try_from(self.properties.len()).map_err(|_| too_long("properties"))?;
        let host_bit = |host: SocketAddr, bit: i32| if host.is_ipv4() { 0 } else { bit };
        let sys_flag = self.sys_flag & !(BORN_HOST_IPV6 | STORE_HOST_IPV6)
            | host_bit(self.born_host, BORN_HOST_IPV6)
            | host_bit(self.store_host, STORE_HOST_IPV6);

        out.extend_from_slice(&total.to_be_bytes());
        out.extend_from_slice(&(if long_topic { MAGIC_V2 } else { MAGIC_V1 }).to_be_bytes());
        out.extend_from_slice(&body_crc(self.body).to_be_bytes());
        out.extend_from_slice(&self.queue_id.to_be_bytes());
        out.extend_from_slice(&self.flag.to_be_bytes());
        out.extend_from_slice(&self.queue_offset.to_be_bytes());
        out.extend_from_slice(&self.physical_offset.to_be_bytes());
        out.extend_from_slice(&sys_flag.to_be_bytes());
        out.extend_from_slice(&self.born_timestamp_ms.to_be_bytes());
        append_host(out, self.born_host);
        out.extend_from_slice(&self.store_timestamp_ms.to_be_bytes());
        append_host(out, self.store_host);
        out.extend_from_slice(&self.reconsume_times.to_be_bytes());
        out.extend_from_slice(&self.prepared_transaction_offset.to_be_bytes());
        out.extend_from_slice(&body_length.to_be_bytes());
        out.extend_from_slice(self.body);
        let [high, low] = topic_length.to_be_bytes();
        if long_topic {
            out.push(high);
        }
        out.push(low);
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(&properties_length.to_be_bytes());
        out.extend_from_slice(self.properties.as_bytes());
        Ok(())
    }
}

/// CRC-32 of a body, without its highest bit, as brokers store it (`UtilAll.crc32`).
pub(crate) fn body_crc(body: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc_table();
    let crc = body.iter().fold(u32::MAX, |crc, &byte| {
        let [_, _, _, low] = crc.to_be_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default();
        (crc >> 8) ^ entry
    });
    !crc & 0x7FFF_FFFF
}

/// The table of the reflected polynomial 0xEDB88320 (ISO 3309, as zlib and `java.util.zip.CRC32`).
#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses an index out of bounds"
)]
const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut entry = 0_u32;
    let mut index = 0;
    while index < table.len() {
        let mut value = entry;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ 0xEDB8_8320
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        entry += 1;
        index += 1;
    }
    table
}

fn append_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
    out.extend_from_slice(&u32::from(host.port()).to_be_bytes());
}

/// One message of a batch body. It carries no topic: that is in the header of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchElement<'a> {
    pub(crate) flag: i32,
    pub(crate) body: &'a [u8],
    /// Property text.
    pub(crate) properties: &'a str,
}

/// Appends one message to a batch body (`MessageDecoder.encodeMessage`). Magic number and checksum are 0, as Java
/// sends them: the broker works them out.
///
/// # Errors
///
/// When the body is over 2 GiB or the properties over 32 767 bytes. `out` is then as it was.
pub(crate) fn append_batch_element<'a>(
    out: &mut Vec<u8>,
    flag: i32,
    body: &[u8],
    properties: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<(), WireError> {
    let properties_length = super::properties::encoded_len(properties.clone());
    let total = body
        .len()
        .saturating_add(properties_length)
        .saturating_add(BATCH_ELEMENT_OVERHEAD);
    let total = i32::try_from(total).map_err(|_| too_long("batch element"))?;
    let body_length = i32::try_from(body.len()).map_err(|_| too_long("body"))?;
    let properties_length = i16::try_from(properties_length).map_err(|_| too_long("properties"))?;
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&flag.to_be_bytes());
    out.extend_from_slice(&body_length.to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&properties_length.to_be_bytes());
    for (name, value) in properties {
        for text in [name, "\u{1}", value, "\u{2}"] {
            out.extend_from_slice(text.as_bytes());
        }
    }
    Ok(())
}

/// The messages of a batch body, in their order. Ends after the first error.
///
/// An element whose total differs from the sum of its parts is an error, unlike for a broker, which reads on from
/// where the parts end: such a batch was not written by any client we know.
#[derive(Clone, Debug)]
pub(crate) struct BatchElements<'a> {
    rest: &'a [u8],
}

impl<'a> BatchElements<'a> {
    pub(crate) fn new(body: &'a [u8]) -> BatchElements<'a> {
        BatchElements { rest: body }
    }

    fn read(&mut self) -> Result<BatchElement<'a>, WireError> {
        let total = length(&mut Cursor(self.rest), "batch element")?;
        let (element, rest) = self
            .rest
            .split_at_checked(total)
            .ok_or_else(|| cut_short("batch element"))?;
        let mut cursor = Cursor(element);
        // Total, magic number and checksum: brokers look at none of them.
        cursor.array::<12>("batch element")?;
        let flag = cursor.i32("flag")?;
        let body_length = length(&mut cursor, "body")?;
        let body = cursor.take(body_length, "body")?;
        let properties_length = short_length(&mut cursor, "properties")?;
        let properties = std::str::from_utf8(cursor.take(properties_length, "properties")?)
            .map_err(|_| WireError::new("the properties of a batch element are not UTF-8"))?;
        if !cursor.0.is_empty() {
            return Err(WireError::new(format!(
                "a batch element has {} bytes too many",
                cursor.0.len()
            )));
        }
        self.rest = rest;
        Ok(BatchElement {
            flag,
            body,
            properties,
        })
    }
}

impl<'a> Iterator for BatchElements<'a> {
    type Item = Result<BatchElement<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.read();
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

/// What is left to read of a record.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, part: &str) -> Result<&'a [u8], WireError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or_else(|| cut_short(part))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self, part: &str) -> Result<[u8; N], WireError> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| cut_short(part))?;
        self.0 = rest;
        Ok(*front)
    }

    fn u32(&mut self, part: &str) -> Result<u32, WireError> {
        self.array(part).map(u32::from_be_bytes)
    }

    fn i32(&mut self, part: &str) -> Result<i32, WireError> {
        self.array(part).map(i32::from_be_bytes)
    }

    fn i64(&mut self, part: &str) -> Result<i64, WireError> {
        self.array(part).map(i64::from_be_bytes)
    }

    fn host(&mut self, is_ipv6: bool, part: &str) -> Result<SocketAddr, WireError> {
        let ip = if is_ipv6 {
            IpAddr::V6(Ipv6Addr::from(self.array::<16>(part)?))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.array::<4>(part)?))
        };
        let number = self.i32(part)?;
        let number =
            u16::try_from(number).map_err(|_| WireError::new(format!("the {part} has port {number}")))?;
        Ok(SocketAddr::new(ip, number))
    }
}

fn length(cursor: &mut Cursor<'_>, part: &str) -> Result<usize, WireError> {
    let length = cursor.i32(part)?;
    usize::try_from(length).map_err(|_| WireError::new(format!("the {part} announces {length} bytes")))
}

fn short_length(cursor: &mut Cursor<'_>, part: &str) -> Result<usize, WireError> {
    let length = i16::from_be_bytes(cursor.array(part)?);
    usize::try_from(length).map_err(|_| WireError::new(format!("the {part} announces {length} bytes")))
}

fn cut_short(part: &str) -> WireError {
    WireError::new(format!("the bytes end within the {part}"))
}

fn too_long(part: &str) -> WireError {
    WireError::new(format!("the {part} is longer than its length field can say"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Pulled from a 4.7.0 broker by the Go client 2.1.2.
    const RECORD_OF_4_7_0: &str = "\
        000000f2daa320a764791b2f000000010000000000000000000000010000000000006f8e00000000000001a2079622ae\
        7f0000010000a01a000001a2079622b17f0000010000465a0000000000000000000000000000000a7175657374696f6e\
        2031097665635f676f5f727200845245504c595f544f5f434c49454e54013139322e302e322e3240766563676f025454\
        4c013802554e49515f4b455901433030303032303233374138303030303030303037333265333861383030303802434f\
        5252454c4154494f4e5f49440131396437666438612d343639322d343531322d383634362d6430316661326166626230\
        3802";

    /// From a transaction check of a 5.5.0 broker.
    const RECORD_OF_5_5_0: &str = "\
        00000169daa320a7694f935e0000000300000000000000000000001b000000000000acc000000000000001a20796d888\
        7f00000100009302000001a20796d88c7f000001000046be0000000000000000000000000000000c68616c6620756e6b\
        6e6f776e067665635f676f00fc4d53475f524547494f4e0144656661756c74526567696f6e02554e49515f4b45590143\
        3030303032303233394546303030303030303037333265663034303030306302434c55535445520144656661756c7443\
        6c7573746572025047524f55500150475f74786e5f676f025f5f7472616e73616374696f6e49645f5f01433030303032\
        3032333945463030303030303030373332656630343030303063025452414e5f4d534701747275650257414954016661\
        6c73650254524143455f4f4e0174727565025452414e53414354494f4e5f434845434b5f54494d45530131025245414c\
        5f544f504943017665635f676f025245414c5f514944013302";

    /// Three messages sent as a batch by Java 4.7.0.
    const BATCH_OF_JAVA_4_7_0: &str = "\
        000000850000000000000000000000000000000c626174636820626f6479203000634b45595301626b30026901300255\
        4e49515f4b45590146443030303030303030303030303030303030303030303030303030303030323236373235464644\
        324232373733323841444337303030340257414954017472756502544147530154616742020000008a00000000000000\
        00000000010000000c626174636820626f6479203100684b45595301626b310269013102554e49515f4b455901464430\
        303030303030303030303030303030303030303030303030303030303232363732354646443242323737333238414443\
        37303030350257414954017472756502544147530154616742026e01c3bc020000008500000000000000000000000200\
        00000c626174636820626f6479203200634b45595301626b320269013202554e49515f4b455901464430303030303030\
        303030303030303030303030303030303030303030303232363732354646443242323737333238414443373030303602\
        5741495401747275650254414753015461674202";

    /// The same by Java 4.9.7, which leaves out the last separator.
    const BATCH_OF_JAVA_4_9_7: &str = "\
        000000840000000000000000000000000000000c626174636820626f6479203000624b45595301626b30026901300255\
        4e49515f4b45590146443030303030303030303030303030303030303030303030303030303030323345373335464644\
        324232373733333044394435303030340257414954017472756502544147530154616742000000890000000000000000\
        000000010000000c626174636820626f6479203100674b45595301626b310269013102554e49515f4b45590146443030\
        303030303030303030303030303030303030303030303030303030323345373335464644324232373733333044394436\
        303030350257414954017472756502544147530154616742026e01c3bc00000084000000000000000000000002000000\
        0c626174636820626f6479203200624b45595301626b320269013202554e49515f4b4559014644303030303030303030\
        303030303030303030303030303030303030303032334537333546464432423237373333304439443630303036025741\
        4954017472756502544147530154616742";

    #[test]
    fn a_record_of_4_7_0_is_read() {
        let record = bytes(RECORD_OF_4_7_0);
        let (decoded, taken) = StoredRecord::decode(&record).unwrap();
        assert_eq!(taken, 242);
        let expected = StoredRecord {
            body_crc: 1_685_658_415,
            queue_id: 1,
            flag: 0,
            queue_offset: 1,
            physical_offset: 28_558,
            sys_flag: 0,
            born_timestamp_ms: 1_795_423_609_518,
            born_host: "127.0.0.1:40986".parse().unwrap(),
            store_timestamp_ms: 1_795_423_609_521,
            store_host: "127.0.0.1:18010".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"question 1",
            topic: "vec_go_rr".into(),
            properties: "REPLY_TO_CLIENT\u{1}192.0.2.2@vecgo\u{2}TTL\u{1}8\u{2}\
                         UNIQ_KEY\u{1}C000020237A800000000732e38a80008\u{2}\
                         CORRELATION_ID\u{1}19d7fd8a-4692-4512-8646-d01fa2afbb08\u{2}"
                .into(),
        };
        assert_eq!(decoded, expected);
    }

    #[test]
    fn records_of_brokers_are_encoded_to_the_same_bytes() {
        for hex in [RECORD_OF_4_7_0, RECORD_OF_5_5_0] {
            let record = bytes(hex);
            let (decoded, taken) = StoredRecord::decode(&record).unwrap();
            assert_eq!(taken, record.len());
            assert_eq!(decoded.body_crc, body_crc(decoded.body));
            let mut again = Vec::new();
            decoded.encode(&mut again).unwrap();
            assert_eq!(again, record);
        }
    }

    #[test]
    fn records_with_ipv6_hosts_and_long_topics_survive_the_round_trip() {
        let record = bytes(RECORD_OF_4_7_0);
        let (mut wanted, _) = StoredRecord::decode(&record).unwrap();
        for (born, store, topic, bits) in [
            (
                "[fd00::2]:40986",
                "127.0.0.1:18010",
                "t".repeat(127),
                BORN_HOST_IPV6,
            ),
            (
                "127.0.0.1:40986",
                "[fd00::3]:18010",
                "t".repeat(128),
                STORE_HOST_IPV6,
            ),
            (
                "[fd00::2]:1",
                "[fd00::3]:65535",
                "t".repeat(300),
                BORN_HOST_IPV6 | STORE_HOST_IPV6,
            ),
        ] {
            wanted.born_host = born.parse().unwrap();
            wanted.store_host = store.parse().unwrap();
            wanted.topic = topic.into();
            wanted.sys_flag = bits;
            let mut out = b"before".to_vec();
            wanted.encode(&mut out).unwrap();
            let (decoded, taken) = StoredRecord::decode(&out[6..]).unwrap();
            assert_eq!((&decoded, taken), (&wanted, out.len() - 6));
        }
    }

    #[test]
    fn a_list_of_records_is_walked_by_their_totals() {
        let mut list = bytes(RECORD_OF_4_7_0);
        list.extend(bytes(RECORD_OF_5_5_0));
        let (_, first) = StoredRecord::decode(&list).unwrap();
        let (second, rest) = StoredRecord::decode(&list[first..]).unwrap();
        assert_eq!(second.topic, "vec_go");
        assert_eq!(first + rest, list.len());
    }

    #[test]
    fn no_cut_or_bent_record_is_read_and_none_panics() {
        let record = bytes(RECORD_OF_4_7_0);
        for end in 0..record.len() {
            assert!(StoredRecord::decode(&record[..end]).is_err(), "{end}");
        }
        for at in 0..record.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bent = record.clone();
                bent[at] = value;
                if let Ok((decoded, taken)) = StoredRecord::decode(&bent) {
                    assert_eq!(taken, bent.len());
                    assert!(decoded.body.len() + decoded.topic.len() <= taken);
                }
            }
        }
    }

    #[test]
    fn a_record_that_its_length_fields_cannot_describe_is_refused() {
        let record = bytes(RECORD_OF_4_7_0);
        let (good, _) = StoredRecord::decode(&record).unwrap();
        let long = "x".repeat(MAX_PROPERTIES_LENGTH + 1);
        for bad in [
            StoredRecord {
                properties: long.as_str().into(),
                ..good.clone()
            },
            StoredRecord {
                topic: long.as_str().into(),
                ..good.clone()
            },
        ] {
            let mut out = vec![7];
            assert!(bad.encode(&mut out).is_err());
            assert_eq!(out, [7]);
        }
        let longest = StoredRecord {
            properties: long[1..].into(),
            ..good
        };
        assert!(longest.encode(&mut Vec::new()).is_ok());
    }

    #[test]
    fn batches_of_java_are_read_and_written() {
        for (hex, last_separator) in [(BATCH_OF_JAVA_4_7_0, true), (BATCH_OF_JAVA_4_9_7, false)] {
            let batch = bytes(hex);
            let elements: Vec<_> = BatchElements::new(&batch).collect::<Result<_, _>>().unwrap();
            assert_eq!(elements.len(), 3);
            let mut again = Vec::new();
            for (index, element) in elements.iter().enumerate() {
                assert_eq!(element.body, format!("batch body {index}").as_bytes());
                assert_eq!(element.flag, i32::try_from(index).unwrap());
                let properties = || {
                    crate::wire::properties::pairs(
                        element.properties,
                        crate::wire::properties::ReadingRules::V4_7,
                    )
                };
                assert!(properties().any(|pair| pair == ("i", index.to_string().as_str())));
                append_batch_element(&mut again, element.flag, element.body, properties()).unwrap();
            }
            if last_separator {
                assert_eq!(again, batch);
            } else {
                assert_eq!(again.len(), batch.len() + 3);
            }
        }
    }

    #[test]
    fn no_cut_batch_is_read_and_none_panics() {
        let batch = bytes(BATCH_OF_JAVA_4_7_0);
        let ends = [133, 133 + 138];
        for end in 1..batch.len() {
            let read: Result<Vec<_>, _> = BatchElements::new(&batch[..end]).collect();
            assert_eq!(read.is_ok(), ends.contains(&end), "{end}");
        }
        for at in 0..batch.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bent = batch.clone();
                bent[at] = value;
                assert!(BatchElements::new(&bent).count() <= 4);
            }
        }
        // A total of 0 must not be walked for ever.
        assert_eq!(BatchElements::new(&[0; 64]).count(), 1);
    }

    #[test]
    fn a_batch_element_with_too_many_properties_is_refused() {
        let value = "x".repeat(MAX_PROPERTIES_LENGTH);
        let mut out = vec![7];
        assert!(append_batch_element(&mut out, 0, b"", [("a", value.as_str())].into_iter()).is_err());
        assert_eq!(out, [7]);
        assert!(append_batch_element(&mut out, 0, b"", [("a", &value[3..])].into_iter()).is_ok());
    }
}
