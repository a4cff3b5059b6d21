//! A prepared query as clients read it and write it.

use purlin_model::definition::reader::{Problems, Table};
use purlin_model::query::{Failover, PreparedQuery, ServiceQuery, Template};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::answer::Failure;

/// The one kind of template.
const PREFIX_MATCH: &str = "name_prefix_match";

pub(in crate::api) fn query(query: &PreparedQuery) -> Value {
    let service = &query.service;
    let failover = &service.failover;
    let target = |datacenter: &String| json!({"Peer": "", "Datacenter": datacenter});
    let template = query.template.as_ref();
    json!({
        "ID": query.id.to_string(),
        "Name": query.name,
        "Session": query.session.map(|id| id.to_string()).unwrap_or_default(),
        "Token": query.token,
        "Template": {
            "Type": template.map_or("", |_| PREFIX_MATCH),
            "Regexp": template.map_or("", |template| &template.regexp),
            "RemoveEmptyTags": template.is_some_and(|template| template.remove_empty_tags),
        },
        "Service": {
            "Service": service.service,
            "SamenessGroup": "",
            "Failover": {
                "NearestN": failover.nearest,
                "Datacenters": failover.datacenters,
                "Targets": failover.targets.iter().map(target).collect::<Vec<_>>(),
            },
            "OnlyPassing": service.only_passing,
            "IgnoreCheckIDs": service.ignore_checks,
            "Near": service.near,
            "Tags": service.tags,
            "NodeMeta": service.node_meta,
            "ServiceMeta": service.service_meta,
            "Connect": service.connect,
            "Peer": "",
        },
        "DNS": dns(query),
        "CreateIndex": query.create_index.0,
        "ModifyIndex": query.modify_index.0,
    })
}

pub(in crate::api) fn dns(query: &PreparedQuery) -> Value {
    json!({"TTL": query.ttl})
}

/// Reads the body of a query; its id is for the caller to say.
pub(in crate::api) fn parse(body: &Value) -> Result<PreparedQuery, Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "prepared query", &problems).map(|table| {
        let query = PreparedQuery {
            id: Uuid::nil(),
            name: table.text("Name").unwrap_or_default(),
            session: session(&table),
            token: table.text("Token").unwrap_or_default(),
            template: table.child("Template").and_then(|table| template(&table)),
            service: table.child("Service").map(|table| service(&table)).unwrap_or_default(),
            ttl: table.child("DNS").map(|table| ttl(&table)).unwrap_or_default(),
            ..PreparedQuery::default()
        };
        table.ignore(&["ID", "CreateIndex", "ModifyIndex", "RaftIndex"]);
        table.finish();
        query
    });
    let (faults, _) = problems.into_parts();
    let query = read.filter(|_| faults.is_empty()).ok_or_else(|| Failure::from(faults))?;
    query.check()?;
    Ok(query)
}

fn session(table: &Table<'_>) -> Option<Uuid> {
    let text = table.filled("Session")?;
    let id = Uuid::try_parse(&text).ok();
    if id.is_none() {
        table.refuse("Session", format!("invalid session {text:?}: it must be the id of one"));
    }
    id
}

fn template(table: &Table<'_>) -> Option<Template> {
    let kind = table.text("Type").unwrap_or_default();
    let template = Template {
        regexp: table.text("Regexp").unwrap_or_default(),
        remove_empty_tags: table.flag("RemoveEmptyTags").unwrap_or_default(),
    };
    table.finish();
    match kind.as_str() {
        PREFIX_MATCH => return Some(template),
        "" if template == Template::default() => {}
        "" => table.refuse("Type", format!("is missing: a template has Type {PREFIX_MATCH:?}")),
        other => {
            table.refuse("Type", format!("Bad Template.Type '{other}': the one type is {PREFIX_MATCH:?}"))
        }
    }
    None
}

fn service(table: &Table<'_>) -> ServiceQuery {
    let service = ServiceQuery {
        service: table.text("Service").unwrap_or_default(),
        failover: table.child("Failover").map(|table| failover(&table)).unwrap_or_default(),
        only_passing: table.flag("OnlyPassing").unwrap_or_default(),
        ignore_checks: table.texts("IgnoreCheckIDs"),
        near: table.text("Near").unwrap_or_default(),
        tags: table.texts("Tags"),
        node_meta: table.text_map("NodeMeta"),
        service_meta: table.text_map("ServiceMeta"),
        connect: table.flag("Connect").unwrap_or_default(),
    };
    table.unsupported(&["SamenessGroup", "Peer"]);
    table.only(&["Namespace", "Partition"], "default");
    table.finish();
    service
}

fn failover(table: &Table<'_>) -> Failover {
    let nearest = table.number("NearestN", 0..=u64::from(u32::MAX)).unwrap_or_default();
    let mut targets = Vec::new();
    for target in table.children("Targets") {
        target.unsupported(&["Peer"]);
        target.only(&["Namespace", "Partition"], "default");
        targets.extend(target.filled("Datacenter"));
        target.finish();
    }
    let datacenters = table.texts("Datacenters");
    table.finish();
    Failover { nearest: u32::try_from(nearest).unwrap_or_default(), datacenters, targets }
}

/// As it was written: clients read it back.
fn ttl(table: &Table<'_>) -> String {
    let ttl = table.text("TTL").unwrap_or_default();
    table.finish();
    ttl
}
