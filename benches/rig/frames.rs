//! What has been read from a socket, cut into frames. Made for speed: one large read, no copy.

use std::io::{self, Read};

/// Room that a read has at least.
const ROOM: usize = 64 << 10;
/// No frame of a benchmark is larger.
const LARGEST: usize = 64 << 20;

/// Bytes that were read and not yet taken.
pub(crate) struct Frames {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; 512 << 10],
            from: 0,
            to: 0,
        }
    }

    /// Reads once. 0 is the end of the stream.
    pub(crate) fn read(&mut self, mut stream: impl Read) -> io::Result<usize> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.buffer.len() - self.to < ROOM {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            let wanted = self.length().unwrap_or(0) + 4 + ROOM;
            if wanted > LARGEST {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a frame of absurd length",
                ));
            }
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted, 0);
            }
        }
        loop {
            match stream.read(self.buffer.get_mut(self.to..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.to += count;
                    return Ok(count);
                }
            }
        }
    }

    fn length(&self) -> Option<usize> {
        let length = self.buffer.get(self.from..self.to)?.first_chunk()?;
        usize::try_from(u32::from_be_bytes(*length)).ok()
    }

    /// The next whole frame, without its length.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let start = self.from + 4;
        let end = start.checked_add(self.length()?)?;
        if end > self.to {
            return None;
        }
        self.from = end;
        self.buffer.get(start..end)
    }
}
