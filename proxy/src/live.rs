//! What is under way on a worker and was allowed when it began: judged again when a policy changes, and cut at once
//! when it is no longer allowed.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, Method, Uri};
use purlin_model::ServiceKey;

use crate::authorize::{Call, Denial, Facts};
use crate::report::Edge;

/// All that is under way.
#[derive(Default)]
pub(crate) struct Live {
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
}

/// What is needed to judge it again.
pub(crate) enum What {
    Connection,
    Request {
        method: Method,
        uri: Uri,
        /// Kept only where the policy spoke of headers when the request came.
        headers: Option<Box<HeaderMap>>,
    },
}

impl What {
    pub(crate) fn call(&self) -> Call<'_> {
        match self {
            Self::Connection => Call::Connection,
            Self::Request { method, uri, headers } => {
                Call::Request(Facts { method, path: uri.path(), headers: headers.as_deref() })
            }
        }
    }
}

struct Entry {
    edge: Rc<Edge>,
    what: What,
    denial: RefCell<Option<Denial>>,
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Held as long as it goes on.
pub(crate) struct LiveGuard {
    live: Rc<Live>,
    entry: Rc<Entry>,
    slot: usize,
}

impl Live {
    pub(crate) fn enter(self: &Rc<Self>, edge: Rc<Edge>, what: What) -> LiveGuard {
        let entry = Rc::new(Entry {
            edge,
            what,
            denial: RefCell::default(),
            is_cut: Cell::new(false),
            waker: RefCell::default(),
        });
        let mut entries = self.entries.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            entries.push(None);
            entries.len() - 1
        });
        entries[slot] = Some(entry.clone());
        drop(entries);
        LiveGuard { live: self.clone(), entry, slot }
    }

    /// Judges anew what goes to one of `destinations`.
    pub(crate) fn recheck(
        &self,
        destinations: &HashSet<ServiceKey>,
        verdict: impl Fn(&Edge, Call<'_>) -> Result<(), Denial>,
    ) {
        let cut: Vec<_> = {
            let entries = self.entries.borrow();
            let concerned =
                entries.iter().flatten().filter(|entry| destinations.contains(&entry.edge.destination));
            concerned
                .filter_map(|entry| Some((entry.clone(), verdict(&entry.edge, entry.what.call()).err()?)))
                .collect()
        };
        for (entry, denial) in cut {
            entry.is_cut.set(true);
            *entry.denial.borrow_mut() = Some(denial);
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl LiveGuard {
    /// Ready when a new policy forbids it. One task at a time may wait.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Denial> {
        if self.entry.is_cut.get()
            && let Some(denial) = self.entry.denial.borrow().clone()
        {
            return Poll::Ready(denial);
        }
        let mut waker = self.entry.waker.borrow_mut();
        match waker.as_mut() {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Runs `work` unless it is cut before it ends.
    pub(crate) async fn unless_cut<F: Future>(&self, work: F) -> Result<F::Output, Denial> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(denial) = self.poll_cut(cx) {
                return Poll::Ready(Err(denial));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.live.entries.borrow_mut()[self.slot] = None;
        self.live.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests;
