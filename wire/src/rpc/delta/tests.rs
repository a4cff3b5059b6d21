use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::{collection, prop_assert, prop_assert_eq};
use purlin_model::limit;
use purlin_model::topic::{Delta, Record, ServerInfo, Topic};
use purlin_model::{NodeName, Revision};

use super::{Assembler, PIECE_BYTES, delta_frames, pieces};
use crate::frame::{FrameError, FrameReader, HEADER_BYTES};
use crate::rpc::{Down, Item, WireDelta};

fn record(bytes: usize) -> Record {
    let node = NodeName::new("n").unwrap();
    Record::Server(ServerInfo {
        node,
        address: "x".repeat(bytes),
        leader: false,
        voter: true,
        id: None,
        level: 0,
        sealing: Vec::new(),
    })
}

fn delta(sizes: &[usize], removed: usize, reset: bool) -> Delta {
    let set = sizes.iter().enumerate().map(|(i, size)| (format!("{i:06}"), record(*size))).collect();
    let removed = (0..removed).map(|i| format!("gone-{i}-{}", "y".repeat(400))).collect();
    Delta { topic: Topic::Servers, revision: Revision(9), reset, set, removed }
}

fn assemble(pieces: Vec<WireDelta>) -> Vec<Delta> {
    let mut assembler = Assembler::default();
    pieces.into_iter().filter_map(|piece| assembler.push(piece).unwrap()).collect()
}

#[test]
fn an_empty_delta_is_one_piece() {
    for reset in [true, false] {
        let cut = pieces(&delta(&[], 0, reset)).unwrap();
        assert!(cut.len() == 1 && cut[0].reset == reset && !cut[0].more);
        assert_eq!(assemble(cut), [delta(&[], 0, reset)]);
    }
}

#[test]
fn only_the_first_piece_resets_and_only_the_last_ends() {
    let whole = delta(&[300_000; 10], 0, true);
    let cut = pieces(&whole).unwrap();
    assert!(cut.len() > 2, "{}", cut.len());
    for (i, piece) in cut.iter().enumerate() {
        assert_eq!((piece.reset, piece.more), (i == 0, i + 1 < cut.len()), "piece {i}");
    }
    assert_eq!(assemble(cut), [whole]);
}

#[tokio::test]
async fn frames_stay_below_a_quarter_of_the_limit() {
    let whole = delta(&[700; 6_000], 9_000, false);
    let frames = delta_frames(&whole).unwrap();
    assert!(frames.len() > 4);
    assert!(frames.iter().all(|frame| frame.len() < limit::FRAME_BYTES / 4 + HEADER_BYTES), "too large");
    let bytes: Vec<u8> = frames.concat();
    let mut reader = FrameReader::new(&bytes[..], limit::FRAME_BYTES);
    let mut heard = Vec::new();
    while let Some(Down::Delta(piece)) = reader.next_known().await.unwrap() {
        heard.push(piece);
    }
    assert_eq!(assemble(heard), [whole]);
}

#[test]
fn one_large_record_goes_alone_and_one_too_large_is_an_error() {
    let whole = delta(&[10, PIECE_BYTES + 5, 10], 0, false);
    let cut = pieces(&whole).unwrap();
    assert_eq!(cut.iter().map(|piece| piece.set.len()).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(assemble(cut), [whole]);
    assert!(matches!(delta_frames(&delta(&[limit::FRAME_BYTES], 0, false)), Err(FrameError::TooLong { .. })));
}

#[test]
fn a_foreign_piece_between_two_is_refused() {
    let cut = pieces(&delta(&[300_000; 10], 0, true)).unwrap();
    let strange = [
        WireDelta { topic: Topic::Nodes, ..cut[1].clone() },
        WireDelta { revision: Revision(10), ..cut[1].clone() },
        WireDelta { reset: true, ..cut[1].clone() },
    ];
    for piece in strange {
        let mut assembler = Assembler::default();
        assert!(assembler.push(cut[0].clone()).unwrap().is_none());
        assert!(assembler.push(piece).is_err());
    }
}

#[test]
fn pieces_without_end_are_refused_and_unknown_kinds_counted() {
    let mut assembler = Assembler::default();
    let junk = Item { key: "k".into(), kind: "of tomorrow".into(), body: vec![0; 32 * 1024 * 1024] };
    let piece = WireDelta {
        topic: Topic::Servers,
        revision: Revision(1),
        reset: false,
        set: vec![junk],
        removed: vec![],
        more: true,
    };
    let mut taken = 0;
    let error = loop {
        match assembler.push(piece.clone()) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(matches!(error, FrameError::TooLong { .. }));
    assert_eq!((taken, assembler.skipped()), (7, 8));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cut_and_put_together_is_the_same(
        sizes in collection::vec(0_usize..400_000, 0..20),
        removed in 0_usize..30,
        reset: bool,
        _seed in any::<u8>(),
    ) {
        let whole = delta(&sizes, removed, reset);
        let cut = pieces(&whole).unwrap();
        prop_assert!(!cut.is_empty());
        prop_assert_eq!(assemble(cut), vec![whole]);
    }
}
