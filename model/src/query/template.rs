//! Templates of prepared queries: one query for all names that begin alike, its texts filled in from the name.

use regex::Captures;

use super::{PreparedQuery, TEXT_BYTES, invalid, too_large};
use crate::{Fault, pattern};

/// What a text is filled in with.
struct Name<'a> {
    full: &'a str,
    prefix: &'a str,
    suffix: &'a str,
    groups: Option<Captures<'a>>,
}

/// What of `text` follows `prefix`, if it begins so; case does not count, as in DNS.
pub(super) fn suffix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

impl PreparedQuery {
    /// The query with every text of its service part filled in for `name`. One that is no template stays as it is.
    pub fn render(&self, name: &str) -> Result<Self, Fault> {
        let Some(template) = &self.template else { return Ok(self.clone()) };
        let pattern = match template.regexp.as_str() {
            "" => None,
            text => Some(pattern::compile(text).map_err(|why| invalid(&format!("Bad Regexp: {why}")))?),
        };
        let name = Name {
            full: name,
            prefix: &self.name,
            suffix: suffix(name, &self.name).unwrap_or(name),
            groups: pattern.as_ref().and_then(|pattern| pattern.captures(name)),
        };
        let mut query = self.clone();
        let service = &mut query.service;
        let texts = [("Service.Service", &mut service.service), ("Service.Near", &mut service.near)];
        let lists = [
            ("Service.Tags", &mut service.tags),
            ("Service.IgnoreCheckIDs", &mut service.ignore_checks),
            ("Service.Failover.Datacenters", &mut service.failover.datacenters),
            ("Service.Failover.Targets", &mut service.failover.targets),
        ];
        let maps = [
            ("Service.NodeMeta", &mut service.node_meta),
            ("Service.ServiceMeta", &mut service.service_meta),
        ];
        let in_lists = lists.into_iter().flat_map(|(of, list)| list.iter_mut().map(move |text| (of, text)));
        let in_maps = maps.into_iter().flat_map(|(of, map)| map.values_mut().map(move |text| (of, text)));
        for (of, text) in texts.into_iter().chain(in_lists).chain(in_maps) {
            *text = fill(text, &name).map_err(|why| {
                invalid(&format!("failed compiling template: Bad format '{text}' in {of}: {why}"))
            })?;
            if text.len() > TEXT_BYTES {
                return Err(too_large(format!("{of} becomes longer than {TEXT_BYTES} bytes for this name")));
            }
        }
        if template.remove_empty_tags {
            service.tags.retain(|tag| !tag.is_empty());
        }
        Ok(query)
    }
}

/// Replaces each `${…}`; `$${` stands for `${` itself.
fn fill(text: &str, name: &Name<'_>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let from = from.get(2..).unwrap_or_default();
        if let Some(literal) = before.strip_suffix('$') {
            filled.push_str(literal);
            filled.push_str("${");
            rest = from;
            continue;
        }
        filled.push_str(before);
        let (inside, after) = from.split_once('}').ok_or("\"${\" without its \"}\"")?;
        filled.push_str(value(inside.trim(), name)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn value<'a>(inside: &str, name: &'a Name<'_>) -> Result<&'a str, String> {
    match inside {
        "name.full" => Ok(name.full),
        "name.prefix" => Ok(name.prefix),
        "name.suffix" => Ok(name.suffix),
        // Hosts of a mesh have no segments.
        "agent.segment" => Ok(""),
        other => {
            let group = other.strip_prefix("match(").and_then(|rest| rest.strip_suffix(')'));
            let group = group.and_then(|number| number.trim().parse::<i64>().ok()).ok_or_else(|| {
                format!(
                    "\"{other}\" is unknown: there are name.full, name.prefix, name.suffix, match(N) and agent.segment"
                )
            })?;
            // What did not match is empty, as in Consul, so that a query never fails by the name it is asked for.
            let group = usize::try_from(group).ok().and_then(|group| name.groups.as_ref()?.get(group));
            Ok(group.map_or("", |found| found.as_str()))
        }
    }
}
