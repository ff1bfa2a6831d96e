//! Compressed bodies both ways, and the bits of the system flag that tell of them.
//!
//! What comes from the network is never trusted: what a body would take when it is decompressed is bounded, whatever
//! it announces.

use std::borrow::Cow;
use std::io;

use super::WireError;
use super::limits::MAX_DECOMPRESSED_BYTES;
use crate::message::CompressionType;

/// `MessageSysFlag.COMPRESSED_FLAG`.
const COMPRESSED: i32 = 1;

/// `MessageSysFlag.COMPRESSION_TYPE_COMPARATOR` of 5.x: bits 8 to 10 say how.
const TYPE_MASK: i32 = 7 << 8;

/// The bits of the system flag for a body that is compressed so.
///
/// Unlike 5.x, which sets the type bits for zlib too: all releases take absent ones for it, and 4.7.0 sets none.
pub(crate) fn sys_flag(compression: CompressionType) -> i32 {
    match compression {
        CompressionType::Zlib => COMPRESSED,
        CompressionType::Lz4 => COMPRESSED | 1 << 8,
        CompressionType::Zstd => COMPRESSED | 2 << 8,
    }
}

/// How a body with this system flag is compressed. `None`: it is not.
///
/// # Errors
/// For a type that 5.5.0 does not know either (`CompressionType.findByValue`).
pub(crate) fn compression(sys_flag: i32) -> Result<Option<CompressionType>, WireError> {
    if sys_flag & COMPRESSED == 0 {
        return Ok(None);
    }
    match (sys_flag & TYPE_MASK) >> 8 {
        0 | 3 => Ok(Some(CompressionType::Zlib)),
        1 => Ok(Some(CompressionType::Lz4)),
        2 => Ok(Some(CompressionType::Zstd)),
        other => Err(WireError::new(format!(
            "a body is compressed in a way that is not known: type {other}"
        ))),
    }
}

/// The compressed body, if that is smaller than the body itself.
pub(crate) fn compress(compression: CompressionType, level: u32, body: &[u8]) -> Option<Vec<u8>> {
    // Nothing here can fail but for want of the feature, and then the body goes out as it is.
    let compressed = encode(compression, level, body).ok()?;
    (compressed.len() < body.len()).then_some(compressed)
}

/// All bodies of a batch compressed, if that makes them smaller together: one flag holds for all of them, so that one that
/// grows must be compressed as well.
pub(crate) fn compress_all<'a>(
    compression: CompressionType,
    level: u32,
    bodies: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<Vec<u8>>> {
    let (mut plain, mut small) = (0_usize, 0_usize);
    let mut all = Vec::with_capacity(bodies.size_hint().0);
    for body in bodies {
        let compressed = encode(compression, level, body).ok()?;
        plain += body.len();
        small += compressed.len();
        all.push(compressed);
    }
    (small < plain).then_some(all)
}

/// The body of a message as its sender gave it.
///
/// # Errors
/// When it takes more than [`MAX_DECOMPRESSED_BYTES`], is not what the flag says, or is compressed in a way that this
/// crate was built without.
pub(crate) fn decompress(sys_flag: i32, body: &[u8]) -> Result<Cow<'_, [u8]>, WireError> {
    let Some(compression) = compression(sys_flag)? else {
        return Ok(Cow::Borrowed(body));
    };
    if !compression.is_built_in() {
        return Err(WireError::new(format!(
            "the body is compressed with {compression}, which needs the feature {} of this crate",
            compression.feature()
        )));
    }
    match decode(compression, body) {
        Ok(plain) if plain.len() > MAX_DECOMPRESSED_BYTES => Err(WireError::new(format!(
            "a body of {} bytes, compressed with {compression}, would take more than {MAX_DECOMPRESSED_BYTES} bytes \
             when it is decompressed",
            body.len()
        ))),
        Ok(plain) => Ok(Cow::Owned(plain)),
        Err(error) => Err(WireError::new(format!(
            "a body of {} bytes is said to be compressed with {compression} and is not: {error}",
            body.len()
        ))),
    }
}

#[cfg_attr(
    not(any(feature = "zlib", feature = "zstd")),
    allow(
        unused_variables,
        reason = "LZ4 has no levels, and without a feature there is nothing to do"
    )
)]
fn encode(compression: CompressionType, level: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        #[cfg(feature = "zlib")]
        CompressionType::Zlib => {
            use io::Write as _;

            let room = Vec::with_capacity(body.len() / 2);
            let mut encoder = flate2::write::ZlibEncoder::new(room, flate2::Compression::new(level));
            encoder.write_all(body)?;
            encoder.finish()
        }
        #[cfg(feature = "lz4")]
        CompressionType::Lz4 => {
            use io::Write as _;

            // Java's reader takes blocks that stand on their own and no others, which is the encoder's default too.
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(body.len() / 2));
            encoder.write_all(body)?;
            encoder.finish().map_err(io::Error::other)
        }
        #[cfg(feature = "zstd")]
        CompressionType::Zstd => zstd::bulk::compress(body, i32::try_from(level).unwrap_or(0)),
        #[allow(unreachable_patterns, reason = "with all features there is no other")]
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg_attr(
    not(any(feature = "zlib", feature = "lz4", feature = "zstd")),
    allow(unused_variables, reason = "there is nothing to do")
)]
fn decode(compression: CompressionType, body: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        #[cfg(feature = "zlib")]
        CompressionType::Zlib => read(flate2::read::ZlibDecoder::new(body), body),
        #[cfg(feature = "lz4")]
        CompressionType::Lz4 => read(lz4_flex::frame::FrameDecoder::new(body), body),
        #[cfg(feature = "zstd")]
        CompressionType::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
            // The window is memory too, and a frame may ask for much more of it than it ever fills.
            decoder.window_log_max(MAX_DECOMPRESSED_BYTES.ilog2())?;
            read(decoder, body)
        }
        #[allow(unreachable_patterns, reason = "with all features there is no other")]
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Reads everything, or one byte more than the limit.
#[cfg(any(feature = "zlib", feature = "lz4", feature = "zstd"))]
fn read(decoder: impl io::Read, body: &[u8]) -> io::Result<Vec<u8>> {
    use io::Read as _;

    let room = body.len().saturating_mul(4).min(MAX_DECOMPRESSED_BYTES);
    let mut plain = Vec::with_capacity(room);
    let most = u64::try_from(MAX_DECOMPRESSED_BYTES).unwrap_or(u64::MAX);
    decoder.take(most.saturating_add(1)).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CompressionType; 3] = [CompressionType::Zlib, CompressionType::Lz4, CompressionType::Zstd];

    fn built_in() -> impl Iterator<Item = CompressionType> {
        ALL.into_iter().filter(|compression| compression.is_built_in())
    }

    fn text(length: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|i: usize| format!("line {i} of a compressible body\n").into_bytes());
        lines.take(length).collect()
    }

    /// xorshift: nothing that could be compressed.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_is_compressed_comes_back_equal() {
        for compression in built_in() {
            for length in [100, 4096, 70_000, 5 << 20] {
                let body = text(length);
                let compressed = compress(compression, 5, &body).expect("text becomes smaller");
                assert!(compressed.len() < body.len(), "{compression} {length}");
                let again = decompress(sys_flag(compression), &compressed).unwrap();
                assert!(again == body, "{compression} {length}");
            }
        }
    }

    #[test]
    fn what_would_grow_stays_as_it_is() {
        for compression in ALL {
            assert_eq!(compress(compression, 5, &noise(10_000)), None, "{compression}");
            assert_eq!(compress(compression, 5, b"x"), None, "{compression}");
        }
    }

    #[test]
    fn the_bodies_of_a_batch_are_compressed_all_or_none() {
        for compression in built_in() {
            let bodies = [text(5000), noise(100), b"x".to_vec()];
            let all = compress_all(compression, 5, bodies.iter().map(Vec::as_slice)).unwrap();
            for (body, compressed) in bodies.iter().zip(&all) {
                assert!(*decompress(sys_flag(compression), compressed).unwrap() == *body);
            }
            let bodies = [noise(1000), text(50)];
            assert_eq!(
                compress_all(compression, 5, bodies.iter().map(Vec::as_slice)),
                None
            );
        }
    }

    #[test]
    fn without_its_feature_nothing_is_compressed_and_a_compressed_body_is_refused_by_name() {
        for compression in ALL.into_iter().filter(|compression| !compression.is_built_in()) {
            assert_eq!(compress(compression, 5, &text(10_000)), None);
            let error = decompress(sys_flag(compression), b"anything").unwrap_err();
            let wanted = format!("needs the feature {} of this crate", compression.feature());
            assert!(error.reason().contains(&wanted), "{error}");
        }
    }

    #[test]
    fn the_flag_says_whether_and_how() {
        for compression in ALL {
            assert_eq!(super::compression(sys_flag(compression)), Ok(Some(compression)));
        }
        // 5.x sets the type bits for zlib too. Without the first bit they mean nothing.
        assert_eq!(super::compression(0x301), Ok(Some(CompressionType::Zlib)));
        assert_eq!(super::compression(0x300), Ok(None));
        assert_eq!(super::compression(0b1111_1110), Ok(None));
        assert!(super::compression(0x701).is_err());
        assert_eq!(decompress(0, b"plain"), Ok(Cow::Borrowed(&b"plain"[..])));
    }

    #[test]
    fn a_bomb_is_refused_and_the_largest_body_is_not() {
        for compression in built_in() {
            let mut body = vec![0; MAX_DECOMPRESSED_BYTES];
            let largest = compress(compression, 5, &body).unwrap();
            assert_eq!(
                decompress(sys_flag(compression), &largest).unwrap().len(),
                MAX_DECOMPRESSED_BYTES
            );
            body.push(0);
            let bomb = compress(compression, 5, &body).unwrap();
            let error = decompress(sys_flag(compression), &bomb).unwrap_err();
            assert!(error.reason().contains("would take more than"), "{error}");
        }
    }

    #[test]
    fn no_cut_or_bent_body_panics_and_none_becomes_too_large() {
        for compression in built_in() {
            let flag = sys_flag(compression);
            let compressed = compress(compression, 5, &text(5000)).unwrap();
            for end in 0..compressed.len() {
                if let Ok(plain) = decompress(flag, &compressed[..end]) {
                    assert!(plain.len() <= 5000, "{compression} cut at {end}");
                }
            }
            for at in 0..compressed.len() {
                for value in [0, 0x7f, 0xff] {
                    let mut bent = compressed.clone();
                    bent[at] = value;
                    if let Ok(plain) = decompress(flag, &bent) {
                        assert!(plain.len() <= MAX_DECOMPRESSED_BYTES);
                    }
                }
            }
            let error = decompress(flag, b"this is no compressed body").unwrap_err();
            assert!(error.reason().contains("and is not"), "{error}");
        }
    }
}
