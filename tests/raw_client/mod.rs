//! A client that knows nothing but frames: what the tests of the embedded cluster talk to it with. It shares no code
//! with the library, so that both cannot be wrong in the same way.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// Longer than anything here takes, shorter than anyone's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, or any other frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// 0 is JSON, 1 is the binary form.
    pub(crate) serialization: u8,
    /// The header, if it is JSON.
    pub(crate) header: Value,
    pub(crate) header_bytes: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn code(&self) -> i64 {
        self.header["code"].as_i64().unwrap()
    }

    pub(crate) fn remark(&self) -> &str {
        self.header["remark"].as_str().unwrap_or("")
    }

    /// A header field; the empty text if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.header["extFields"][name].as_str().unwrap_or("")
    }

    pub(crate) fn opaque(&self) -> i64 {
        self.header["opaque"].as_i64().unwrap()
    }
}

/// One whole frame with a JSON header.
pub(crate) fn frame(header: &Value, body: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let header_length = u32::try_from(header.len()).unwrap();
    let length = 4 + header_length + u32::try_from(body.len()).unwrap();
    [
        &length.to_be_bytes()[..],
        &header_length.to_be_bytes(),
        header.as_bytes(),
        body,
    ]
    .concat()
}

/// A request as a 5.5.0 client would number its version.
pub(crate) fn request(code: i32, opaque: i32, fields: &Value, body: &[u8]) -> Vec<u8> {
    let header = json!({
        "code": code, "language": "OTHER", "version": 513, "opaque": opaque, "flag": 0, "extFields": fields
    });
    frame(&header, body)
}

/// The header fields of a `SEND_MESSAGE_V2`.
pub(crate) fn send_fields(topic: &str, queue_id: i32, properties: &str) -> Value {
    json!({
        "a": "test_group", "b": topic, "c": "TBW102", "d": "4", "e": queue_id.to_string(), "f": "0",
        "g": "1795423244454", "h": "7", "i": properties, "j": "0", "k": "false", "m": "false"
    })
}

/// A batch body without properties of its own.
pub(crate) fn batch_body(elements: &[(&[u8], &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (body, properties) in elements {
        let total = u32::try_from(22 + body.len() + properties.len()).unwrap();
        out.extend(total.to_be_bytes());
        out.extend([0; 12]);
        out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(*body);
        out.extend(u16::try_from(properties.len()).unwrap().to_be_bytes());
        out.extend(properties.as_bytes());
    }
    out
}

pub(crate) struct RawClient {
    pub(crate) stream: TcpStream,
    next_opaque: i32,
}

impl RawClient {
    pub(crate) fn connect(address: SocketAddr) -> RawClient {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        RawClient {
            stream,
            next_opaque: 1,
        }
    }

    pub(crate) fn to_broker(cluster: &rocketmq_producer::mock::MockCluster, broker_name: &str) -> RawClient {
        RawClient::connect(cluster.broker_address(broker_name).unwrap())
    }

    pub(crate) fn to_name_server(cluster: &rocketmq_producer::mock::MockCluster) -> RawClient {
        RawClient::connect(cluster.name_servers().split(';').next().unwrap().parse().unwrap())
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame. `None`: the server has closed the connection.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        let mut prefix = [0; 8];
        match self.stream.read_exact(&mut prefix) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer came"),
            Err(_) => return None,
        }
        let length = u32::from_be_bytes(prefix[..4].try_into().unwrap()) as usize;
        let serialization = prefix[4];
        prefix[4] = 0;
        let header_length = u32::from_be_bytes(prefix[4..].try_into().unwrap()) as usize;
        let mut header_bytes = vec![0; header_length];
        self.stream.read_exact(&mut header_bytes).unwrap();
        let mut body = vec![0; length - 4 - header_length];
        self.stream.read_exact(&mut body).unwrap();
        let header = serde_json::from_slice(&header_bytes).unwrap_or(Value::Null);
        Some(Frame {
            serialization,
            header,
            header_bytes,
            body,
        })
    }

    /// Asks and waits for the answer, which must be the very next frame.
    pub(crate) fn ask(&mut self, code: i32, fields: &Value, body: &[u8]) -> Frame {
        let opaque = self.next_opaque;
        self.next_opaque += 1;
        self.write(&request(code, opaque, fields, body));
        let answer = self.read().expect("the server closed the connection");
        assert_eq!(
            (answer.opaque(), answer.header["flag"].as_i64()),
            (opaque.into(), Some(1))
        );
        answer
    }

    /// Sends one message as `SEND_MESSAGE_V2`.
    pub(crate) fn send(&mut self, topic: &str, queue_id: i32, properties: &str, body: &[u8]) -> Frame {
        self.ask(310, &send_fields(topic, queue_id, properties), body)
    }

    pub(crate) fn heartbeat(&mut self, client_id: &str, groups: &[&str]) -> Frame {
        let groups: Vec<_> = groups.iter().map(|group| json!({"groupName": group})).collect();
        let body = json!({"clientID": client_id, "producerDataSet": groups, "consumerDataSet": []});
        self.ask(34, &json!({}), body.to_string().as_bytes())
    }
}
