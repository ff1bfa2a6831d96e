//! How bodies can be compressed. The bytes are the business of `wire::compression`.

use std::fmt;

/// An algorithm that bodies are compressed with (`CompressionType` of 5.x).
///
/// Consumers learn it from the message and need no setting, but they must know it:
///
/// | | read by consumers since | feature of this crate |
/// |---|---|---|
/// | `Zlib` | 4.x | `zlib` |
/// | `Lz4`, in LZ4's frame format | 5.0 | `lz4` |
/// | `Zstd` | 5.0 | `zstd` |
///
/// 4.x consumers take every compressed body for zlib and fail with another, so choose `Lz4` or `Zstd` only when all
/// consumers are 5.x. Brokers of all releases store what they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompressionType {
    /// zlib streams, which every release reads.
    Zlib,
    /// LZ4 frames: quickest, and compresses least.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

impl CompressionType {
    /// The name of the feature of this crate that the algorithm needs.
    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this crate was built with that feature.
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Zlib => cfg!(feature = "zlib"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The levels that it can be told, as far as there are any.
    pub(crate) fn levels(self) -> Option<std::ops::RangeInclusive<u32>> {
        match self {
            Self::Zlib => Some(1..=9),
            Self::Lz4 => None,
            Self::Zstd => Some(1..=22),
        }
    }
}

impl fmt::Display for CompressionType {
    /// As Java names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Zlib => "ZLIB",
            Self::Lz4 => "LZ4",
            Self::Zstd => "ZSTD",
        })
    }
}
