//! Finding the instances of a service, as catalog and health both answer with them.

use std::collections::BTreeMap;

use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::service::ServiceEntry;
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{NodeName, Revision, ServiceKey, ServiceName};

use super::Api;
use super::answer::Failure;
use super::read::{Source, followed, view_source};
use super::request::Request;
use super::shape::service::{SIDECAR, Shown};

/// Which of a service's lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// What was registered under the name; of `<name>-sidecar-proxy`, the proxies of `<name>`.
    Named,
    /// The proxies of the name.
    Proxies,
    /// What a client in the mesh dials to reach it: proxies, and instances that speak the mesh's TLS themselves.
    Connect,
}

/// One line and the entry that it was found in.
pub(super) struct Line {
    pub(super) entry: ServiceEntry,
    pub(super) shown: Shown,
}

/// The lines of the service that the path names, filtered by `?tag` and `?node-meta`, ordered by `?near`.
pub(super) async fn lines(api: &Api, request: &Request, want: Want) -> Result<(Vec<Line>, Source), Failure> {
    let asked = request.parameter(0);
    let (name, want) = match asked.strip_suffix(SIDECAR) {
        Some(base) if want == Want::Named => (base, Want::Proxies),
        _ => (asked, want),
    };
    // What cannot be a name is the name of nothing.
    let Ok(name) = ServiceName::new(name) else {
        return Ok((Vec::new(), Source { index: Revision(1), ..view_source(api, &[], false) }));
    };
    let topic = Topic::Service(ServiceKey::new(name));
    let ([contents], source) = followed(api, request, [topic]).await?;
    let tags: Vec<String> = request.query.all("tag").map(str::to_lowercase).collect();
    let meta = request.query.pairs("node-meta");
    let mut lines = lines_of(&contents, want, |entry| {
        has_tags(&entry.instance.tags, &tags) && has_meta(&entry.node.meta, &meta)
    });
    near(api, request, &mut lines, |line| &line.entry.node.name);
    Ok((lines, source))
}

/// The lines of a service's topic that are wanted.
pub(super) fn lines_of(contents: &Contents, want: Want, wanted: impl Fn(&ServiceEntry) -> bool) -> Vec<Line> {
    let line = |entry: &ServiceEntry| {
        let shown = match want {
            Want::Named => Some(Shown::registered(entry.instance.clone())),
            Want::Connect if entry.instance.native => Some(Shown::registered(entry.instance.clone())),
            Want::Connect | Want::Proxies => Shown::sidecar(&entry.instance, entry.node.mesh_port),
        };
        Some(Line { shown: shown?, entry: entry.clone() })
    };
    entries(contents).filter(|entry| wanted(entry)).filter_map(line).collect()
}

fn entries(contents: &Contents) -> impl Iterator<Item = &ServiceEntry> {
    contents.records.values().filter_map(|record| match record {
        Record::Entry(entry) => Some(entry),
        _ => None,
    })
}

/// As in Consul a host that left is no node of the catalog any more, though `members` still tells of it.
pub(super) fn is_listed(node: &Node) -> bool {
    node.status != NodeStatus::Left || node.role == NodeRole::External
}

/// The nodes of a topic that `?node-meta` allows.
pub(super) fn nodes<'a>(request: &Request, contents: &'a Contents) -> Vec<&'a Node> {
    let meta = request.query.pairs("node-meta");
    contents
        .records
        .values()
        .filter_map(|record| match record {
            Record::Node(node) if is_listed(node) && has_meta(&node.meta, &meta) => Some(node),
            _ => None,
        })
        .collect()
}

/// All of `wanted`, which are lower case, are among `tags`.
fn has_tags(tags: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| tags.iter().any(|tag| tag.to_lowercase() == *wanted))
}

pub(super) fn has_meta(meta: &BTreeMap<String, String>, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(key, value)| meta.get(key) == Some(value))
}

/// `?near=_agent`, or a node's name: what is on that host comes first; otherwise the order stays.
pub(super) fn near<T>(api: &Api, request: &Request, items: &mut [T], node: impl Fn(&T) -> &NodeName) {
    let near = match request.query.filled("near") {
        None => return,
        Some("_agent" | "_ip") => api.core.config().node_name.as_str(),
        Some(name) => name,
    };
    put_first(items, near, node);
}

/// What is on that host comes first; otherwise the order stays.
pub(super) fn put_first<T>(items: &mut [T], near: &str, node: impl Fn(&T) -> &NodeName) {
    items.sort_by_key(|item| node(item).as_str() != near);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn every_tag_must_be_there_whatever_its_case() {
        let tags = texts(&["V1", "blue"]);
        assert!(has_tags(&tags, &[]));
        assert!(has_tags(&tags, &texts(&["v1", "blue"])));
        assert!(!has_tags(&tags, &texts(&["v1", "green"])));
    }

    #[test]
    fn every_pair_of_metadata_must_match() {
        let meta = BTreeMap::from([("os".to_owned(), "debian".to_owned())]);
        assert!(has_meta(&meta, &[]));
        assert!(has_meta(&meta, &[("os".to_owned(), "debian".to_owned())]));
        assert!(!has_meta(&meta, &[("os".to_owned(), String::new())]));
        assert!(!has_meta(&meta, &[("rack".to_owned(), "1".to_owned())]));
    }
}
