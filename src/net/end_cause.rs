//! Why a connection ended, and what that means for a request that was on its way. Nothing is ended here.

use std::{io, sync::Arc, time::Duration};

use crate::error::{Error, Written, printable};

/// Why a connection ended.
#[derive(Clone, Debug)]
pub(crate) enum EndCause {
    /// The operating system or the peer ended it.
    Io(Arc<io::Error>),
    /// The peer sent something that is not the protocol.
    Protocol(Arc<str>),
    /// The producer closed it.
    Closed,
}

impl EndCause {
    /// What was wrong with a peer that ended the connection, or made us end it, before it had said anything. `None` if
    /// that was not its doing, or only that it was silent.
    pub(super) fn of_an_unfit_peer(&self) -> Option<Arc<io::Error>> {
        match self {
            Self::Closed => None,
            Self::Io(source) if source.kind() == io::ErrorKind::TimedOut => None,
            Self::Io(source) => {
                let reason = format!("{source} before it had said anything");
                Some(Arc::new(io::Error::new(source.kind(), reason)))
            }
            Self::Protocol(reason) => {
                let reason = format!("the peer does not speak the protocol: {}", printable(reason));
                Some(Arc::new(io::Error::new(io::ErrorKind::InvalidData, reason)))
            }
        }
    }

    /// The error of a request of which so much was written.
    pub(super) fn error(&self, address: &Arc<str>, written: Written, waited: Duration) -> Error {
        let address = Arc::clone(address);
        let source = match self {
            Self::Protocol(reason) => {
                return Error::Protocol {
                    address,
                    written,
                    reason: printable(reason).into(),
                };
            }
            Self::Io(source) => Arc::clone(source),
            Self::Closed => Arc::new(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed by this producer",
            )),
        };
        Error::ConnectionLost {
            address,
            written,
            waited,
            source,
        }
    }
}
