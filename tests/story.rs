//! The list of stories.

mod join;
mod ran;
mod traffic;
mod walls;

pub fn all() -> Vec<(&'static str, fn())> {
    [join::STORIES, traffic::STORIES, walls::STORIES].concat()
}
