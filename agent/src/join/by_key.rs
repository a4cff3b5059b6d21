//! How a host that can show no good certificate any more gets one: it proves the key that it joined with.
//!
//! As after weeks without power. The servers are recognised by the mesh's roots, which this host still has.

use purlin_model::identity::Subject;
use purlin_model::{Fault, FaultCode};
use purlin_wire::node_store::NodeStore;
use purlin_wire::rpc::{self, RenewByKey, Signed};
use purlin_wire::tls::{self, Credentials};

use super::{Door, ONE_SERVER};

#[derive(Debug, thiserror::Error)]
pub enum NotRenewed {
    /// A server of the mesh says that this host is no member any more.
    #[error("{0}")]
    Refused(Fault),
    /// Nobody could tell.
    #[error("{0}")]
    ForNow(String),
}

/// Asks one of `servers` after another, and keeps the certificate that it gets.
pub async fn renew_by_key(
    store: &NodeStore,
    servers: &[String],
    current: &Credentials,
    door: &dyn Door,
) -> Result<Credentials, NotRenewed> {
    let mut last = "no server is known".to_owned();
    let here = |error: &dyn std::fmt::Display| NotRenewed::ForNow(error.to_string());
    let key = store.load_key().map_err(|error| here(&error))?;
    let (Some(key), Subject::Agent { node, .. }) = (key, &current.identity().subject) else {
        return Err(here(&"this host has no key of an agent"));
    };
    let csr = tls::csr_for_key(&key).map_err(|error| here(&error))?;
    let ask = RenewByKey { node: node.clone(), csr };
    for server in servers {
        // Nobody remembers which root a server's own certificate comes from.
        for root in current.roots() {
            match signed(server, tls::fingerprint(root), &ask, door).await {
                Ok(signed) => return keep(store, &key, signed, current).map_err(|why| here(&why)),
                Err(NotRenewed::ForNow(why)) => last = why,
                Err(refused) => return Err(refused),
            }
        }
    }
    Err(NotRenewed::ForNow(last))
}

async fn signed(
    server: &str,
    root: [u8; 32],
    ask: &RenewByKey,
    door: &dyn Door,
) -> Result<Signed, NotRenewed> {
    let link = door.open(server, root, ONE_SERVER).await;
    let link = link.map_err(|error| NotRenewed::ForNow(error.to_string()))?;
    let answer = rpc::call(link.as_ref(), rpc::RENEW_BY_KEY, ask, ONE_SERVER).await;
    link.close("done");
    answer.map_err(|fault: Fault| match fault.code {
        FaultCode::Forbidden => NotRenewed::Refused(fault),
        _ => NotRenewed::ForNow(format!("{server}: {fault}")),
    })
}

/// Believes nothing that its own roots do not vouch for.
fn keep(store: &NodeStore, key: &[u8], signed: Signed, current: &Credentials) -> Result<Credentials, String> {
    let roots = current.roots().iter().map(|root| root.to_vec()).collect();
    let renewed =
        Credentials::from_der(signed.chain.clone(), key, roots).map_err(|error| error.to_string())?;
    if renewed.identity() != current.identity() {
        return Err(format!("the new certificate says {}; it is not used", renewed.identity()));
    }
    store.save_credential(key, &signed.chain).map_err(|error| error.to_string())?;
    Ok(renewed)
}
