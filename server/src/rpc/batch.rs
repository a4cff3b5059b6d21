//! Many who want the same proof of freshness share one: who comes while a question is under way joins the next.
//!
//! A proof that was asked for before a reader came may be older than what that reader must see, so nobody joins a
//! question that has begun.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use purlin_model::{Fault, Revision};

type Answer = Result<Revision, Fault>;

#[derive(Default)]
pub(crate) struct Batch {
    /// The question that has not begun.
    next: Arc<Mutex<Option<Shared<BoxFuture<'static, Answer>>>>>,
    /// Held while one is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// One for each strength of proof.
#[derive(Default)]
pub(crate) struct Barriers {
    pub(crate) default: Batch,
    pub(crate) consistent: Batch,
}

impl Batch {
    /// The answer to a question that begins after this call did.
    pub(crate) async fn join<F>(&self, ask: impl FnOnce() -> F + Send + 'static) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let shared = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.get_or_insert_with(|| self.question(ask)).clone()
        };
        shared.await
    }

    fn question<F>(&self, ask: impl FnOnce() -> F + Send + 'static) -> Shared<BoxFuture<'static, Answer>>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let (next, turn) = (self.next.clone(), self.turn.clone());
        async move {
            let _turn = turn.lock().await;
            next.lock().unwrap_or_else(PoisonError::into_inner).take();
            ask().await
        }
        .boxed()
        .shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_comes_while_one_is_asked_joins_the_next() {
        let batch = Arc::new(Batch::default());
        let (asked, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let join = || {
            let (batch, asked, gate) = (batch.clone(), asked.clone(), gate.clone());
            tokio::spawn(async move {
                let ask = move || async move {
                    let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.acquire().await.unwrap().forget();
                    Ok(Revision(number))
                };
                batch.join(ask).await
            })
        };
        let first = join();
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..20).map(|_| join()).collect();
        tokio::task::yield_now().await;
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(Revision(1)));
        for one in later {
            assert_eq!(one.await.unwrap(), Ok(Revision(2)));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_leaves_the_way_free() {
        let batch = Batch::default();
        let never = batch.join(std::future::pending);
        assert!(never.now_or_never().is_none());
        // The question that nobody waits for any more ended with its last reader.
        let next = batch.join(|| async { Ok(Revision(7)) });
        assert_eq!(next.await, Ok(Revision(7)));
    }
}
