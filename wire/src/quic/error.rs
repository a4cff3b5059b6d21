//! Why a connection did not come about or ended, in words for the one who reads the log.

use quinn::{ConnectionError, TransportErrorCode};

use super::REFUSED;
use crate::link::LinkError;
use crate::tls;

/// Of an attempt to connect. `verdict`: what our own check of the server's certificate said.
pub(super) fn not_connected(address: &str, error: &ConnectionError, verdict: Option<&String>) -> LinkError {
    let untrusted = |why: String| LinkError::Untrusted { address: address.into(), why };
    let unreachable = |why: String| LinkError::Unreachable { address: address.into(), why };
    if let Some(verdict) = verdict {
        return untrusted(verdict.clone());
    }
    match error {
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => untrusted(of_alert(alert)),
            None if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                unreachable("it takes no more connections now; try again".into())
            }
            None => unreachable(error.to_string()),
        },
        ConnectionError::ApplicationClosed(close) if close.error_code == REFUSED => {
            untrusted(format!("it refuses us: {}", String::from_utf8_lossy(&close.reason)))
        }
        ConnectionError::TransportError(transport) => match alert(transport.code) {
            Some(120) => untrusted(of_alert(120)),
            Some(_) => untrusted(transport.reason.clone()),
            None => unreachable(error.to_string()),
        },
        ConnectionError::TimedOut => unreachable(NO_ANSWER.into()),
        other => unreachable(other.to_string()),
    }
}

pub(super) const NO_ANSWER: &str = "no answer; is the server running, and may udp pass to this port";

/// Of a handshake that a server did not complete, for its log.
pub(super) fn not_accepted(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => of_alert(alert),
            None => error.to_string(),
        },
        ConnectionError::TransportError(transport) if alert(transport.code).is_some() => {
            transport.reason.clone()
        }
        other => other.to_string(),
    }
}

/// Of a connection that was there.
pub(super) fn ended(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("the other end closed it: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::ApplicationClosed(_) => "the other end closed it".into(),
        ConnectionError::LocallyClosed => "closed on this side".into(),
        ConnectionError::TimedOut => {
            format!("nothing was heard for {} ms", super::IDLE_TIMEOUT.as_millis())
        }
        ConnectionError::Reset => "the other end was restarted".into(),
        other => not_accepted(other),
    }
}

fn of_alert(alert: u8) -> String {
    tls::explain_alert(alert).unwrap_or_else(|| format!("tls alert {alert}"))
}

/// TLS alerts are the transport errors from 0x100 on.
fn alert(code: TransportErrorCode) -> Option<u8> {
    u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}
