//! Connections to and from other hosts, with the certificates by which the far end proved itself: cut when one of
//! them is revoked while the connection lasts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use purlin_wire::tls;
use rustls_pki_types::CertificateDer;

/// Places of connections that ended are cleared when there are twice as many, and not below this.
const CLEAR_AT_LEAST: usize = 64;

/// All of one worker.
#[derive(Default)]
pub(crate) struct Bonds {
    bonds: RefCell<Vec<Weak<Bond>>>,
    clear_at: Cell<usize>,
}

/// One connection's.
#[derive(Debug)]
pub(crate) struct Bond {
    /// SHA-256 of each certificate that the far end showed.
    chain: Vec<[u8; 32]>,
    is_broken: AtomicBool,
    reader: AtomicWaker,
}

impl Bonds {
    /// For a connection whose far end showed that chain; none if it may not be used at all.
    pub(crate) fn tie(
        &self,
        chain: &[CertificateDer<'_>],
        revoked: &BTreeSet<[u8; 32]>,
    ) -> Result<Arc<Bond>, String> {
        let chain: Vec<_> = chain.iter().map(|certificate| tls::fingerprint(certificate)).collect();
        // A resumed session skipped the verifier.
        if chain.iter().any(|one| revoked.contains(one)) {
            return Err("its certificate was revoked".into());
        }
        let bond = Arc::new(Bond { chain, is_broken: AtomicBool::new(false), reader: AtomicWaker::new() });
        let mut bonds = self.bonds.borrow_mut();
        if bonds.len() >= self.clear_at.get().max(CLEAR_AT_LEAST) {
            bonds.retain(|bond| bond.strong_count() > 0);
            self.clear_at.set(bonds.len() * 2);
        }
        bonds.push(Arc::downgrade(&bond));
        Ok(bond)
    }

    /// Cuts what rests on a certificate that is revoked; how many that were.
    pub(crate) fn cut(&self, revoked: &BTreeSet<[u8; 32]>) -> usize {
        let bonds = self.bonds.borrow();
        let lives = bonds.iter().filter_map(Weak::upgrade);
        let cut = lives.filter(|bond| bond.chain.iter().any(|one| revoked.contains(one)));
        cut.map(|bond| {
            bond.is_broken.store(true, Ordering::Relaxed);
            bond.reader.wake();
        })
        .count()
    }
}

impl Bond {
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_broken.load(Ordering::Relaxed) {
            let why = "the certificate of the other end was revoked";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Ok(())
    }

    /// As `poll`, unless the connection is cut; one that waits is woken by that.
    pub(crate) fn guard<T>(&self, cx: &Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_pending() {
            self.reader.register(cx.waker());
            self.check()?;
        }
        poll
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn what_rests_on_a_revoked_certificate_is_cut_and_not_made_anew() {
        let bonds = Bonds::default();
        let chain = |bytes: &[u8]| [CertificateDer::from(bytes.to_vec()), CertificateDer::from(vec![9])];
        let none = BTreeSet::new();
        let (one, other) = (bonds.tie(&chain(b"1"), &none).unwrap(), bonds.tie(&chain(b"2"), &none).unwrap());
        let revoked = BTreeSet::from([tls::fingerprint(b"1")]);
        assert_eq!(bonds.cut(&revoked), 1);
        assert!(one.check().is_err() && other.check().is_ok());
        let waker = noop_waker();
        let polled = one.guard(&Context::from_waker(&waker), Poll::<io::Result<()>>::Pending);
        assert!(matches!(polled, Poll::Ready(Err(_))), "who waits to read is told");
        assert!(bonds.tie(&chain(b"1"), &revoked).is_err());
        // An authority counts as much as the certificate that it signed.
        assert_eq!(bonds.cut(&BTreeSet::from([tls::fingerprint(&[9])])), 2);
    }

    #[test]
    fn connections_that_ended_leave_no_places_behind() {
        let bonds = Bonds::default();
        for _ in 0..10 * CLEAR_AT_LEAST {
            bonds.tie(&[], &BTreeSet::new()).unwrap();
        }
        assert!(bonds.bonds.borrow().len() <= CLEAR_AT_LEAST);
    }
}
