//! Prepared queries over DNS: the name picks the query, the query picks the instances and how long they may be
//! remembered.

use hickory_proto::op::ResponseCode;
use purlin_model::query::{self, PreparedQuery};
use purlin_model::service::ServiceEntry;
use purlin_model::topic::{Record as Fact, Topic};

use super::super::endpoint::{Endpoint, ordinary, through_mesh};
use super::{Answer, PROXY_SUFFIX, Resolver, Stop, seconds};

impl Resolver<'_> {
    pub(super) fn prepared(&self, name: &str) -> Result<Answer, Stop> {
        let known = self.known(Topic::Queries(None))?;
        let queries = known.records.values().filter_map(|record| match record {
            Fact::Query(query) => Some(query),
            _ => None,
        });
        match query::resolve(queries, name) {
            Ok(Some(query)) => self.execute(&query),
            // A template that cannot be filled in for this name has no answer, as one that is not there.
            Ok(None) | Err(_) => Ok(self.without(ResponseCode::NXDomain)),
        }
    }

    fn execute(&self, query: &PreparedQuery) -> Result<Answer, Stop> {
        let lower = query.service.service.to_ascii_lowercase();
        let (behind, proxies) = match lower.strip_suffix(PROXY_SUFFIX) {
            Some(behind) if !query.service.connect => (behind, true),
            _ => (lower.as_str(), query.service.connect),
        };
        let Some(contents) = self.instances(behind)? else {
            return Ok(self.without(ResponseCode::NXDomain));
        };
        let mut found: Vec<&ServiceEntry> = contents
            .records
            .values()
            .filter_map(|record| match record {
                Fact::Entry(entry) if query.service.finds(entry) => Some(entry),
                _ => None,
            })
            .collect();
        fastrand::shuffle(&mut found);
        let near = match query.service.near.as_str() {
            // Who asks this resolver is on its host, or has no other place here.
            "_agent" | "_ip" => self.settings.node.as_str(),
            name => name,
        };
        found.sort_by_key(|entry| entry.node.name.as_str() != near);
        let endpoints: Vec<Endpoint<'_>> = if proxies {
            found.into_iter().filter_map(through_mesh).collect()
        } else {
            found.into_iter().map(ordinary).collect()
        };
        let ttl = query.dns_ttl().map_or_else(|| self.service_ttl(&lower), seconds);
        Ok(self.places(&endpoints, ttl))
    }
}
