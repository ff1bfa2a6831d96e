//! Odd frames that were sent to real servers: what a server closed the connection on must be an error here, everything
//! else must decode, and so must the answers.

use std::collections::HashSet;

use serde_json::Value;

use super::{Checked, Tally, bytes, name_of, reason, text};
use crate::wire::frame::FrameBuffer;

pub(super) fn check(rows: &[Value], tally: &mut Tally) {
    // 5.5.0 waits for 12 bytes before it looks at any (HandshakeHandler), so another server's refusal counts for it.
    let refused: HashSet<&str> = rows
        .iter()
        .filter(|row| is_refusal(row))
        .filter_map(|row| row["request_hex"].as_str())
        .collect();
    for row in rows {
        let is_refused = row["request_hex"]
            .as_str()
            .is_some_and(|request| refused.contains(request));
        tally.record("probe", &name_of(row), check_row(row, is_refused));
    }
}

fn is_refusal(row: &Value) -> bool {
    row["outcome"]
        .as_str()
        .is_some_and(|outcome| outcome.contains("closed"))
}

fn check_row(row: &Value, is_refused: bool) -> Checked {
    let outcome = text(row, "outcome")?;
    let is_silence = outcome.starts_with("no answer");
    if !is_refused && !is_silence && outcome != "answer" {
        return Err(format!("unknown outcome {outcome}"));
    }
    let request = bytes(text(row, "request_hex")?)?;
    for piece in [1, 7, usize::MAX] {
        match (decode_stream(&request, piece), is_refused) {
            (Ok(_), true) => return Err("the server closed, but here the request decodes".to_owned()),
            (Err(error), false) => return Err(format!("the server took it: {error}")),
            // A server that did not answer may be waiting for more as well.
            (Ok(Stream { is_whole: false, .. }), false) if !is_silence => {
                return Err("the server answered, but here the frame is not whole".to_owned());
            }
            _ => {}
        }
    }
    match row["response_hex"].as_str() {
        Some(response) if !response.is_empty() => {
            let stream = decode_stream(&bytes(response)?, 5)?;
            if stream.is_whole && stream.frames == 1 {
                Ok(())
            } else {
                Err("the answer is not one whole frame".to_owned())
            }
        }
        _ if outcome == "answer" => Err("the row has no answer".to_owned()),
        _ => Ok(()),
    }
}

/// What a stream of bytes held.
struct Stream {
    frames: usize,
    is_whole: bool,
}

/// Reads the bytes in pieces of at most `piece`, and every header.
fn decode_stream(bytes: &[u8], piece: usize) -> Result<Stream, String> {
    let mut buffer = FrameBuffer::new();
    let mut frames = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = buffer.space();
        let count = rest.len().min(piece).min(space.len());
        let (front, tail) = rest.split_at(count);
        space[..count].copy_from_slice(front);
        rest = tail;
        buffer.filled(count);
        while let Some(frame) = buffer.next_frame().map_err(reason)? {
            frame.header().map_err(reason)?;
            frames += 1;
        }
    }
    Ok(Stream {
        frames,
        is_whole: !buffer.is_within_frame(),
    })
}
