//! Frames: how one message lies in a stream of bytes. Length of the body (u32, big endian), version (one byte), body.
//!
//! The body is MessagePack with named fields, so that a reader skips fields it does not know. Nothing is allocated
//! for a length that is over the limit, and no more at once than has arrived for one that is not.

use std::fmt;
use std::io;
use std::io::Write;

use bytes::{Buf, Bytes, BytesMut};
use purlin_model::limit;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserializer, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of the framing itself, not of what is said in it.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 5;
/// Read at once, and so the most that is allocated before bytes arrive.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {length} bytes or more is over the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("stream ended within a frame")]
    Truncated,
    #[error("frame cannot be read: {0}")]
    Undecodable(String),
    #[error("message cannot be encoded: {0}")]
    Unencodable(String),
    #[error("frame has version {0}, this build reads {VERSION}; upgrade the older side")]
    Version(u8),
    #[error("stream broke: {0}")]
    Io(#[from] io::Error),
}

/// A closed set of messages that grows with versions: an unknown one is told from a broken one by its name.
pub trait Vocabulary: DeserializeOwned {
    /// The names of all variants.
    const VARIANTS: &'static [&'static str];
}

/// A whole frame. To tell many the same, encode it once and share the bytes.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Bytes, FrameError> {
    encode_within(message, limit::FRAME_BYTES)
}

/// As [`encode`], with a limit of the body of one's own.
pub fn encode_within<T: Serialize + ?Sized>(message: &T, limit: usize) -> Result<Bytes, FrameError> {
    let mut bytes = write_named(message, limit, vec![0; HEADER_BYTES])?;
    let length = bytes.len() - HEADER_BYTES;
    let header = u32::try_from(length).map_err(|_| FrameError::TooLong { length, limit })?;
    bytes[..4].copy_from_slice(&header.to_be_bytes());
    bytes[4] = VERSION;
    Ok(bytes.into())
}

/// A body without a frame, for what travels inside another message.
pub fn encode_body<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>, FrameError> {
    write_named(message, limit::FRAME_BYTES, Vec::new())
}

pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let mut rest = body;
    let message = rmp_serde::from_read(&mut rest).map_err(|e| FrameError::Undecodable(e.to_string()))?;
    if !rest.is_empty() {
        return Err(FrameError::Undecodable(format!("{} bytes follow the message", rest.len())));
    }
    Ok(message)
}

fn write_named<T: Serialize + ?Sized>(
    message: &T,
    limit: usize,
    start: Vec<u8>,
) -> Result<Vec<u8>, FrameError> {
    let mut bounded = Bounded { end: start.len().saturating_add(limit), bytes: start, overflow: false };
    let written = rmp_serde::encode::write_named(&mut bounded, message);
    if bounded.overflow {
        return Err(FrameError::TooLong { length: limit.saturating_add(1), limit });
    }
    written.map_err(|e| FrameError::Unencodable(e.to_string()))?;
    Ok(bounded.bytes)
}

/// Grows to `end` and no further.
struct Bounded {
    bytes: Vec<u8>,
    end: usize,
    overflow: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.end {
            self.overflow = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads exactly one frame, and no byte beyond it; `None` where the stream ends before a frame begins.
///
/// Not cancel safe: a dropped read loses bytes. In a `select!` use [`FrameReader`].
pub async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin + ?Sized),
    limit: usize,
) -> Result<Option<T>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match reader.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            count => filled += count,
        }
    }
    let length = body_length(header, limit)?;
    let mut body = BytesMut::new();
    while body.len() < length {
        let missing = length - body.len();
        body.reserve(missing.min(CHUNK_BYTES));
        if (&mut *reader).take(missing as u64).read_buf(&mut body).await? == 0 {
            return Err(FrameError::Truncated);
        }
    }
    decode_body(&body).map(Some)
}

/// Not cancel safe: a dropped write may leave half a frame behind.
pub async fn write<T: Serialize + ?Sized>(
    writer: &mut (impl AsyncWrite + Unpin + ?Sized),
    message: &T,
) -> Result<(), FrameError> {
    write_encoded(writer, &encode(message)?).await
}

/// Writes what [`encode`] gave. Not cancel safe.
pub async fn write_encoded(
    writer: &mut (impl AsyncWrite + Unpin + ?Sized),
    frame: &[u8],
) -> Result<(), FrameError> {
    writer.write_all(frame).await?;
    writer.flush().await?;
    Ok(())
}

fn body_length(header: [u8; HEADER_BYTES], limit: usize) -> Result<usize, FrameError> {
    let [a, b, c, d, version] = header;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(length)
}

/// Reads frame after frame; cancel safe, so it may stand in a `select!`.
///
/// After `Undecodable` the next frame can be read; after any other error the stream is of no more use.
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    limit: usize,
    skipped: u64,
}

impl<R> fmt::Debug for FrameReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(reader: R, limit: usize) -> Self {
        Self { reader, buffer: BytesMut::new(), limit, skipped: 0 }
    }

    /// The next message; `None` where the stream ends at the border of a frame.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        match self.next_body().await? {
            Some(body) => decode_body(&body).map(Some),
            None => Ok(None),
        }
    }

    /// As [`FrameReader::next`], passing over messages of a kind that this build does not know.
    pub async fn next_known<T: Vocabulary>(&mut self) -> Result<Option<T>, FrameError> {
        while let Some(body) = self.next_body().await? {
            match decode_body(&body) {
                Err(FrameError::Undecodable(_)) if is_unknown::<T>(&body) => self.skipped += 1,
                known => return known.map(Some),
            }
        }
        Ok(None)
    }

    /// How many messages [`FrameReader::next_known`] passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    async fn next_body(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let missing = match self.missing()? {
                0 => return Ok(Some(self.take_body())),
                missing => missing,
            };
            self.buffer.reserve(missing.clamp(HEADER_BYTES, CHUNK_BYTES));
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    /// Bytes that must come before there is a whole frame, as far as it is known.
    fn missing(&self) -> Result<usize, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(HEADER_BYTES - self.buffer.len());
        };
        let whole = HEADER_BYTES + body_length(*header, self.limit)?;
        Ok(whole.saturating_sub(self.buffer.len()))
    }

    fn take_body(&mut self) -> Bytes {
        let length = self.buffer.get_u32() as usize;
        self.buffer.advance(1);
        self.buffer.split_to(length).freeze()
    }
}

fn is_unknown<T: Vocabulary>(body: &[u8]) -> bool {
    variant_name(body).is_some_and(|name| !T::VARIANTS.contains(&name.as_str()))
}

/// The name of an enum's variant: the text itself, or the only key of a map.
fn variant_name(body: &[u8]) -> Option<String> {
    struct Name;
    impl<'de> Visitor<'de> for Name {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a variant")
        }
        fn visit_str<E>(self, name: &str) -> Result<String, E> {
            Ok(name.to_owned())
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let name = map.next_key::<String>()?.unwrap_or_default();
            map.next_value::<IgnoredAny>()?;
            Ok(name)
        }
    }
    rmp_serde::Deserializer::from_read_ref(body).deserialize_any(Name).ok()
}

#[cfg(test)]
mod tests;
