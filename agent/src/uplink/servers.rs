//! Tells the connector where servers are, as the servers themselves tell it.

use std::sync::Arc;

use purlin_model::topic::{Record, Topic};
use purlin_wire::link::Connector;
use tokio_util::sync::CancellationToken;

use crate::mirror::Mirror;

/// Runs until told to stop.
pub(crate) async fn tell_connector(mirror: Mirror, connector: Arc<dyn Connector>, stop: CancellationToken) {
    let mut changes = mirror.changes();
    let mut told = Vec::new();
    loop {
        let now = servers(&mirror);
        if !now.is_empty() && now != told {
            connector.learn(now.clone());
            told = now;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn servers(mirror: &Mirror) -> Vec<String> {
    let contents = mirror.peek(&Topic::Servers);
    let records = contents.iter().flat_map(|contents| contents.records.values());
    let addresses = records.filter_map(|record| match record {
        Record::Server(server) => Some(server.address.clone()),
        _ => None,
    });
    addresses.collect()
}
