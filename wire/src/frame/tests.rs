use std::collections::BTreeMap;

use futures_util::FutureExt;
use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::{collection, prop_assert_eq};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::{
    FrameError, FrameReader, HEADER_BYTES, VERSION, Vocabulary, decode_body, encode, encode_body,
    encode_within, read, write,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
    #[serde(default)]
    pages: Vec<u32>,
}

fn note() -> Note {
    Note { text: "hello".into(), pages: vec![1, 2, 70_000] }
}

/// A header as it would stand before a body of that length.
fn header(length: u32) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(VERSION);
    bytes
}

async fn read_all(bytes: &[u8], limit: usize) -> Result<Option<Note>, FrameError> {
    read(&mut &bytes[..], limit).await
}

#[tokio::test]
async fn a_frame_reads_back_and_the_next_byte_stays() {
    let mut bytes = Vec::new();
    write(&mut bytes, &note()).await.unwrap();
    bytes.extend_from_slice(b"rest");
    let mut rest = &bytes[..];
    assert_eq!(read::<Note>(&mut rest, 1000).await.unwrap(), Some(note()));
    assert_eq!(rest, b"rest");
}

#[tokio::test]
async fn the_end_is_clean_only_at_a_border() {
    let frame = encode(&note()).unwrap();
    assert!(matches!(read_all(&[], 1000).await, Ok(None)));
    for cut in 1..frame.len() {
        assert!(matches!(read_all(&frame[..cut], 1000).await, Err(FrameError::Truncated)), "cut at {cut}");
        let mut reader = FrameReader::new(&frame[..cut], 1000);
        assert!(matches!(reader.next::<Note>().await, Err(FrameError::Truncated)), "cut at {cut}");
    }
    let mut reader = FrameReader::new(&frame[..], 1000);
    assert_eq!(reader.next().await.unwrap(), Some(note()));
    assert!(matches!(reader.next::<Note>().await, Ok(None)));
}

#[tokio::test]
async fn the_limit_holds_to_the_byte_on_both_sides() {
    let body = encode_body(&note()).unwrap().len();
    assert!(encode_within(&note(), body).is_ok());
    assert!(matches!(encode_within(&note(), body - 1), Err(FrameError::TooLong { .. })));
    let frame = encode(&note()).unwrap();
    assert!(read_all(&frame, body).await.is_ok());
    assert!(matches!(read_all(&frame, body - 1).await, Err(FrameError::TooLong { .. })));
    let mut reader = FrameReader::new(&frame[..], body - 1);
    assert!(matches!(reader.next::<Note>().await, Err(FrameError::TooLong { .. })));
}

#[tokio::test]
async fn a_claimed_length_allocates_nothing() {
    let claim = header(u32::MAX);
    assert!(matches!(read_all(&claim, 1000).await, Err(FrameError::TooLong { .. })));
    // Within the limit, a claim costs no more than one chunk before its bytes arrive.
    let claim = header(4_000_000);
    let mut reader = FrameReader::new(&claim[..], 4_000_000);
    assert!(matches!(reader.next::<Note>().await, Err(FrameError::Truncated)));
    assert!(reader.buffer.capacity() <= 2 * super::CHUNK_BYTES, "{}", reader.buffer.capacity());
}

#[tokio::test]
async fn another_version_is_named() {
    let mut frame = encode(&note()).unwrap().to_vec();
    frame[4] = 9;
    assert!(matches!(read_all(&frame, 1000).await, Err(FrameError::Version(9))));
}

#[tokio::test]
async fn what_cannot_be_read_leaves_the_next_frame_readable() {
    let mut bytes = encode(&"not a note").unwrap().to_vec();
    bytes.extend_from_slice(&encode(&note()).unwrap());
    let mut reader = FrameReader::new(&bytes[..], 1000);
    assert!(matches!(reader.next::<Note>().await, Err(FrameError::Undecodable(_))));
    assert_eq!(reader.next().await.unwrap(), Some(note()));
}

#[test]
fn bytes_behind_a_message_are_refused() {
    let mut body = encode_body(&note()).unwrap();
    body.push(0);
    assert!(matches!(decode_body::<Note>(&body), Err(FrameError::Undecodable(_))));
}

#[test]
fn unknown_fields_are_passed_over_and_missing_ones_filled_in() {
    let newer = BTreeMap::from([("text", "hello"), ("colour", "blue")]);
    let read: Note = decode_body(&encode_body(&newer).unwrap()).unwrap();
    assert_eq!(read, Note { text: "hello".into(), pages: vec![] });
}

#[tokio::test]
async fn a_dropped_read_loses_nothing() {
    let frame = encode(&note()).unwrap();
    let (mut far, near) = tokio::io::duplex(1000);
    let mut reader = FrameReader::new(near, 1000);
    for byte in frame.iter() {
        assert!(reader.next::<Note>().now_or_never().is_none());
        far.write_all(&[*byte]).await.unwrap();
    }
    assert_eq!(reader.next().await.unwrap(), Some(note()));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Old {
    Stop,
    Say { text: String },
}

impl Vocabulary for Old {
    const VARIANTS: &'static [&'static str] = &["Stop", "Say"];
}

#[derive(Serialize)]
enum New {
    Pause,
    Sing {
        tune: u8,
    },
    Shout(u8),
    /// Known to the old by name, but of another form.
    Say(u8),
    Stop,
}

#[tokio::test]
async fn unknown_messages_are_skipped_and_broken_ones_are_not() {
    let mut bytes = Vec::new();
    for message in [New::Pause, New::Sing { tune: 1 }, New::Shout(2), New::Stop, New::Say(3)] {
        write(&mut bytes, &message).await.unwrap();
    }
    write(&mut bytes, &Old::Say { text: "hi".into() }).await.unwrap();
    let mut reader = FrameReader::new(&bytes[..], 1000);
    assert_eq!(reader.next_known::<Old>().await.unwrap(), Some(Old::Stop));
    assert_eq!(reader.skipped(), 3);
    assert!(matches!(reader.next_known::<Old>().await, Err(FrameError::Undecodable(_))));
    assert_eq!(reader.next_known::<Old>().await.unwrap(), Some(Old::Say { text: "hi".into() }));
    assert!(reader.next_known::<Old>().await.unwrap().is_none());
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in collection::vec(any::<u8>(), 0..200), plausible: bool) {
        if plausible && bytes.len() > HEADER_BYTES {
            let length = u32::try_from(bytes.len() - HEADER_BYTES).unwrap();
            bytes[..HEADER_BYTES].copy_from_slice(&header(length));
        }
        let once = block_on(read::<crate::rpc::Down>(&mut &bytes[..], 1000));
        let mut reader = FrameReader::new(&bytes[..], 1000);
        let again = block_on(reader.next::<crate::rpc::Down>());
        // Both ways of reading say the same.
        prop_assert_eq!(format!("{once:?}"), format!("{again:?}"));
        let _ = block_on(reader.next_known::<crate::rpc::Up>());
    }

    #[test]
    fn damaged_frames_never_panic(at in 0_usize..60, byte: u8) {
        let delta = crate::rpc::Down::Progress(purlin_model::Revision(7));
        let mut bytes = encode(&delta).unwrap().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = block_on(read::<crate::rpc::Down>(&mut &bytes[..], 1000));
    }

    #[test]
    fn frames_survive_any_cutting(texts in collection::vec(".{0,40}", 1..6), piece in 1_usize..50) {
        block_on(async {
            let (mut far, near) = tokio::io::duplex(piece);
            let notes: Vec<Note> = texts.into_iter().map(|text| Note { text, pages: vec![] }).collect();
            let said = notes.clone();
            let writer = async move {
                for note in &said {
                    write(&mut far, note).await.unwrap();
                }
                drop(far);
            };
            let reader = async {
                let mut reader = FrameReader::new(near, 1000);
                let mut heard = Vec::new();
                while let Some(note) = reader.next::<Note>().await.unwrap() {
                    heard.push(note);
                }
                heard
            };
            let ((), heard) = tokio::join!(writer, reader);
            assert_eq!(heard, notes);
        });
    }
}
