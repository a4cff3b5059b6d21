//! What a client speaks, told from its first bytes. Pure: bytes in, an answer out.
//!
//! A byte is never consumed here, and a prefix that may still become HTTP is never called TCP: only the caller's
//! clock ends the waiting.

/// The first bytes of every HTTP/2 connection with prior knowledge (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is waited for; registered ones have at most 17 letters.
const METHOD_BYTES: usize = 24;
const VERSIONS: [&[u8]; 2] = [b" HTTP/1.1", b" HTTP/1.0"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sniffed {
    Http1,
    Http2,
    Tcp,
    /// May become HTTP with more bytes.
    Undecided,
}

/// Judges what has come so far. `full`: no more than this will be read before an answer.
pub(crate) fn sniff(bytes: &[u8], full: bool) -> Sniffed {
    if bytes.starts_with(PREFACE) {
        return Sniffed::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Sniffed::Undecided;
    }
    match request_line(bytes) {
        // A request line that fills the whole buffer can only be HTTP: let the HTTP server say that it is too long.
        Sniffed::Undecided if full => Sniffed::Http1,
        answer => answer,
    }
}

fn request_line(bytes: &[u8]) -> Sniffed {
    let Some(space) = bytes.iter().take(METHOD_BYTES + 1).position(|&b| b == b' ') else {
        let plausible = bytes.len() <= METHOD_BYTES && bytes.iter().all(|&b| is_method_byte(b));
        return if plausible { Sniffed::Undecided } else { Sniffed::Tcp };
    };
    if space == 0 || !bytes[..space].iter().all(|&b| is_method_byte(b)) {
        return Sniffed::Tcp;
    }
    let rest = &bytes[space + 1..];
    let Some(end) = rest.iter().position(|&b| b == b'\n') else {
        let plausible = rest.iter().all(|&b| is_target_byte(b) || b == b' ' || b == b'\r');
        return if plausible { Sniffed::Undecided } else { Sniffed::Tcp };
    };
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    let Some(target) = VERSIONS.iter().find_map(|version| line.strip_suffix(*version)) else {
        return Sniffed::Tcp;
    };
    let good = !target.is_empty() && target.iter().all(|&b| is_target_byte(b));
    if good { Sniffed::Http1 } else { Sniffed::Tcp }
}

/// Methods are upper case in practice; a lower-case word and a space begins many a text protocol.
fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

fn is_target_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(bytes: &[u8], expected: Sniffed) {
        assert_eq!(sniff(bytes, false), expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn request_lines_are_http1() {
        check(b"GET / HTTP/1.1\r\n", Sniffed::Http1);
        check(b"GET / HTTP/1.0\n", Sniffed::Http1);
        check(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Sniffed::Http1);
        check(b"M-SEARCH http://a/b?c=d HTTP/1.1\r\n", Sniffed::Http1);
    }

    #[test]
    fn the_preface_is_http2_only_when_whole() {
        check(PREFACE, Sniffed::Http2);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Sniffed::Http2);
        for cut in 0..PREFACE.len() {
            check(&PREFACE[..cut], Sniffed::Undecided);
        }
        check(b"PRI * HTTP/2.0\r\n\r\nXX", Sniffed::Tcp);
    }

    #[test]
    fn every_prefix_of_a_request_line_waits() {
        let line = b"DELETE /a/b%20c?d HTTP/1.1\r";
        for cut in 0..line.len() {
            check(&line[..cut], Sniffed::Undecided);
        }
    }

    #[test]
    fn other_protocols_are_tcp_at_the_first_byte_that_tells() {
        check(b"\x16\x03\x01", Sniffed::Tcp);
        check(b"*1\r\n$4\r\nPING\r\n", Sniffed::Tcp);
        check(b"get key\r\n", Sniffed::Tcp);
        check(b"GET key\r\n", Sniffed::Tcp);
        check(b"EHLO mail.example\r\n", Sniffed::Tcp);
        check(b"\0\0\0\x08\x04\xd2\x16\x2f", Sniffed::Tcp);
        check(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Sniffed::Tcp);
    }

    #[test]
    fn a_request_line_longer_than_the_buffer_is_left_to_the_http_server() {
        let mut long = b"GET /".to_vec();
        long.resize(8192, b'a');
        assert_eq!(sniff(&long, false), Sniffed::Undecided);
        assert_eq!(sniff(&long, true), Sniffed::Http1);
    }

    proptest! {
        /// More bytes never change an answer that was given.
        #[test]
        fn answers_are_final(bytes in proptest::collection::vec(any::<u8>(), 0..64), more in proptest::collection::vec(any::<u8>(), 0..64)) {
            let first = sniff(&bytes, false);
            let mut longer = bytes.clone();
            longer.extend(more);
            if first != Sniffed::Undecided {
                prop_assert_eq!(sniff(&longer, false), first);
            }
        }
    }
}
