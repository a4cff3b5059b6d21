//! Lists of byte strings, each as MessagePack `bin`.

use serde::{Deserialize, Deserializer, Serializer};

use super::bytes_field::ByteString;

pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|bytes| ByteString(bytes.clone())))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let list = Vec::<ByteString>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|bytes| bytes.0).collect())
}
