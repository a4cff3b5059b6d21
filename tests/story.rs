//! The list of stories.

mod walls;

pub fn all() -> Vec<(&'static str, fn())> {
    [walls::STORIES].concat()
}
