//! Cuts a view, or what changed of it, into frames that fit.

use purlin_model::view::{Part, PartKey, View};
use purlin_wire::local::ToProxy;

/// Of parts in one frame, by estimate; far below the limit of a frame, because it is one.
const FRAME: usize = 1024 * 1024;
/// A part but for what it lists.
const PART: usize = 16 * 1024;
const ENDPOINT: usize = 512;
/// An intention with its permissions, of which a config entry cannot hold more than its own limit.
const INTENTION: usize = 512;
const PERMISSION: usize = 1024;

/// The frames that bring one who has `old` (nothing: all is new) to `new`. At least one, so that each revision is
/// acknowledged.
pub(super) fn frames(new: &View, old: Option<&View>) -> Vec<ToProxy> {
    let nothing = View::default();
    let (set, removed) = new.changes_since(old.unwrap_or(&nothing));
    let revision = new.revision;
    let removed = removed.into_iter().cloned().collect();
    let mut frames = Vec::new();
    let mut current = Batch { reset: old.is_none(), removed, set: Vec::new(), size: 0 };
    for (key, part) in set {
        let size = estimate(part);
        if !current.set.is_empty() && current.size + size > FRAME {
            let full = std::mem::take(&mut current);
            frames.push(full.frame(revision, false));
        }
        current.size += size;
        current.set.push((key.clone(), part.clone()));
    }
    frames.push(current.frame(revision, true));
    frames
}

#[derive(Default)]
struct Batch {
    reset: bool,
    removed: Vec<PartKey>,
    set: Vec<(PartKey, Part)>,
    size: usize,
}

impl Batch {
    fn frame(self, revision: u64, last: bool) -> ToProxy {
        ToProxy::View { revision, reset: self.reset, set: self.set, removed: self.removed, last }
    }
}

fn estimate(part: &Part) -> usize {
    match part {
        Part::Target(target) => PART + target.endpoints.len() * ENDPOINT,
        Part::Policy(policy) => {
            let rules = policy.intentions.iter().map(|one| match &one.rule {
                purlin_model::intention::Rule::L4(_) => INTENTION,
                purlin_model::intention::Rule::L7(permissions) => INTENTION + permissions.len() * PERMISSION,
            });
            PART + rules.sum::<usize>()
        }
        _ => PART,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use purlin_model::intention::{Action, Policy};
    use purlin_model::{ServiceKey, ServiceName};

    fn view(revision: u64, services: usize) -> View {
        let policies = (0..services).map(|n| {
            let key = ServiceKey::new(ServiceName::new(format!("s{n}")).unwrap());
            (PartKey::Policy(key.clone()), Part::Policy(Policy::new(key, Action::Deny, Vec::new())))
        });
        View { revision, parts: policies.collect() }
    }

    fn unpack(frame: &ToProxy) -> (bool, usize, usize, bool) {
        match frame {
            ToProxy::View { reset, set, removed, last, .. } => (*reset, set.len(), removed.len(), *last),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_connection_gets_all_in_frames_that_fit() {
        let frames = frames(&view(1, 200), None);
        assert!(frames.len() > 1);
        assert!(unpack(&frames[0]).0, "the first one resets");
        assert!(frames[1..].iter().all(|frame| !unpack(frame).0), "the others do not");
        assert_eq!(frames.iter().map(|frame| unpack(frame).1).sum::<usize>(), 200);
        assert_eq!(frames.iter().filter(|frame| unpack(frame).3).count(), 1);
        for frame in &frames {
            purlin_wire::frame::encode(frame).unwrap();
        }
    }

    #[test]
    fn later_only_what_changed_is_sent() {
        let frames = frames(&view(2, 2), Some(&view(1, 3)));
        assert_eq!(frames.iter().map(unpack).collect::<Vec<_>>(), [(false, 0, 1, true)]);
    }
}
