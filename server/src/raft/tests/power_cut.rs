//! The power is cut while a writer acknowledges entries; afterwards every acknowledged one must be there.
pub(super) struct Disk;
impl Disk {
    pub(super) fn new(_m: u64) -> Option<Self> {
        None
    }
    pub(super) fn path(&self) -> &std::path::Path {
        unreachable!()
    }
}
