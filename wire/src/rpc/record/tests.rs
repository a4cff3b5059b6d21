use std::collections::BTreeSet;

use super::records;
use crate::frame::FrameError;
use crate::rpc::{Item, samples};

#[test]
fn every_kind_reads_back_and_has_a_name_of_its_own() {
    let samples = samples::all_records();
    let items: Vec<Item> = samples.iter().map(|record| Item::new("key", record).unwrap()).collect();
    let kinds: BTreeSet<&str> = items.iter().map(|item| item.kind.as_str()).collect();
    assert_eq!(kinds.len(), samples.len());
    let read = records(&items).unwrap();
    assert_eq!(read.skipped, 0);
    let found: Vec<_> = read.records.into_iter().map(|(_, record)| record).collect();
    assert_eq!(found, samples);
}

#[test]
fn an_unknown_kind_is_skipped_and_a_broken_body_is_not() {
    let known = Item::new("a", &samples::records()[0]).unwrap();
    let unknown = Item { key: "b".into(), kind: "gateway".into(), body: vec![0xc1] };
    let read = records(&[known.clone(), unknown]).unwrap();
    assert_eq!((read.records.len(), read.skipped), (1, 1));
    let broken = Item { body: vec![0xc1], ..known };
    let Err(FrameError::Undecodable(why)) = records(&[broken]) else { panic!("a broken body was taken") };
    assert!(why.contains("node") && why.contains("\"a\""), "{why}");
}

#[test]
fn a_record_with_fields_of_tomorrow_is_read() {
    use serde::Serialize;
    #[derive(Serialize)]
    struct NewerServer<'a> {
        node: &'a str,
        colour: Vec<u8>,
        address: &'a str,
        leader: bool,
        voter: bool,
    }
    let newer = NewerServer {
        node: "host-1",
        colour: vec![1, 2],
        address: "10.0.0.1:8300",
        leader: true,
        voter: true,
    };
    let item = Item {
        key: "host-1".into(),
        kind: "server".into(),
        body: crate::frame::encode_body(&newer).unwrap(),
    };
    assert!(samples::records().contains(&item.record().unwrap().unwrap()));
}
