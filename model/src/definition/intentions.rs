//! The sources of a service-intentions entry and their permissions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::reader::{Problems, Table};
use crate::config_entry::ServiceIntentions;
use crate::intention::{
    Action, HeaderForm, HeaderMatch, Party, PathForm, Permission, Rule, SourceIntention, precedence,
};
use crate::{Fault, Millis, Namespace, limit};

/// `Permissions` as an intention's body has them.
pub fn parse_permissions(value: &Value) -> Result<Vec<Permission>, Vec<Fault>> {
    let problems = Problems::default();
    let wrapped = serde_json::json!({ "Permissions": value });
    let read = Table::open(&wrapped, "", &problems).map(|table| read_permissions(&table));
    let (faults, _) = problems.into_parts();
    match read {
        Some(permissions) if faults.is_empty() => Ok(permissions),
        _ => Err(faults),
    }
}

pub(super) fn read(table: &Table<'_>, destination: Option<&Party>) -> ServiceIntentions {
    table.unsupported(&["JWT"]);
    let children = table.children("Sources");
    if children.is_empty() {
        table.refuse("Sources", "must name at least one source");
    }
    if children.len() > limit::INTENTION_SOURCES {
        let why =
            format!("{} sources are too many; the limit is {}", children.len(), limit::INTENTION_SOURCES);
        table.refuse("Sources", why);
    }
    let mut sources: Vec<SourceIntention> = Vec::new();
    let mut taken = BTreeSet::new();
    for child in &children {
        if let Some(source) = read_source(child, destination) {
            if !taken.insert(source.source.clone()) {
                child.refuse("Name", format!("\"{}\" is a source more than once", source.source));
            }
            sources.push(source);
        }
    }
    // Most exact first, as they are shown.
    let any = Party::Any;
    sources.sort_by_key(|one| std::cmp::Reverse(precedence(&one.source, destination.unwrap_or(&any))));
    ServiceIntentions { sources }
}

fn read_source(table: &Table<'_>, destination: Option<&Party>) -> Option<SourceIntention> {
    table.only(&["Namespace", "Partition"], "default");
    table.only(&["Type"], "consul");
    table.unsupported(&["Peer", "SamenessGroup"]);
    // Derived or historic: shown by Consul, so that an entry that was read can be written back.
    table.ignore(&["Precedence", "LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime"]);
    let description = table.text("Description").unwrap_or_default();
    if description.len() > 512 {
        table.refuse("Description", "is longer than 512 bytes");
    }
    let source = table.filled("Name").and_then(|text| match Party::parse(&text) {
        Ok(party) => Some(party),
        Err(error) => {
            table.refuse("Name", error.to_string());
            None
        }
    });
    if table.filled("Name").is_none() {
        table.refuse("Name", "is required");
    }
    let rule = read_rule(table, destination);
    table.finish();
    Some(SourceIntention {
        source: source?,
        source_namespace: Namespace::default(),
        rule: rule?,
        description,
        legacy_meta: BTreeMap::new(),
        created_at: Millis(0),
        updated_at: Millis(0),
    })
}

fn read_rule(table: &Table<'_>, destination: Option<&Party>) -> Option<Rule> {
    let permissions = read_permissions(table);
    let given =
        table.value("Permissions").is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()));
    let action = table.filled("Action");
    match (action, given) {
        (Some(_), true) => {
            table.refuse(
                "Action",
                "cannot stand beside \"Permissions\": each of those has an action of its own",
            );
            None
        }
        (Some(text), false) => read_action(table, &text).map(Rule::L4),
        (None, true) => {
            if destination == Some(&Party::Any) {
                let why = "need one service as destination: requests to \"*\" have no common protocol";
                table.refuse("Permissions", why);
            }
            Some(Rule::L7(permissions))
        }
        (None, false) => {
            table.refuse("Action", "is required: \"allow\" or \"deny\"");
            None
        }
    }
}

fn read_action(table: &Table<'_>, text: &str) -> Option<Action> {
    match text {
        "allow" => Some(Action::Allow),
        "deny" => Some(Action::Deny),
        other => {
            table.refuse("Action", format!("{other:?} is not an action; use \"allow\" or \"deny\""));
            None
        }
    }
}

fn read_permissions(table: &Table<'_>) -> Vec<Permission> {
    let children = table.children("Permissions");
    if children.len() > limit::PERMISSIONS {
        let why = format!("{} permissions are too many; the limit is {}", children.len(), limit::PERMISSIONS);
        table.refuse("Permissions", why);
    }
    children.iter().filter_map(read_permission).collect()
}

fn read_permission(table: &Table<'_>) -> Option<Permission> {
    table.unsupported(&["JWT"]);
    let action = match table.filled("Action") {
        Some(text) => read_action(table, &text),
        None => {
            table.refuse("Action", "is required: \"allow\" or \"deny\"");
            None
        }
    };
    let Some(http) = table.child("HTTP") else {
        table.refuse("HTTP", "is required: what the permission matches");
        table.finish();
        return None;
    };
    let path = read_path(&http);
    let methods = http.texts("Methods");
    let token =
        |method: &String| !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
    if !methods.iter().all(token) || methods.len() > 32 {
        http.refuse("Methods", "must be a list of HTTP methods such as [\"GET\", \"POST\"]");
    }
    let methods: Vec<String> = methods.iter().map(|method| method.to_ascii_uppercase()).collect();
    if methods.iter().collect::<BTreeSet<_>>().len() != methods.len() {
        http.refuse("Methods", "has one method more than once");
    }
    let headers: Vec<HeaderMatch> = http.children("Header").iter().filter_map(read_header).collect();
    if headers.len() > limit::PERMISSIONS {
        http.refuse("Header", format!("has more than {} matches", limit::PERMISSIONS));
    }
    if path == PathForm::Any && methods.is_empty() && headers.is_empty() && !table.problems().has_faults() {
        table.refuse("HTTP", "is empty: match at least a path, a method or a header");
    }
    http.finish();
    table.finish();
    Some(Permission { action: action?, path, headers, methods })
}

fn read_path(http: &Table<'_>) -> PathForm {
    let forms = [
        http.filled("PathExact").map(|text| ("PathExact", PathForm::Exact(text))),
        http.filled("PathPrefix").map(|text| ("PathPrefix", PathForm::Prefix(text))),
        http.filled("PathRegex").map(|text| ("PathRegex", PathForm::Regex(text))),
    ];
    let mut given = forms.into_iter().flatten();
    let Some((key, form)) = given.next() else { return PathForm::Any };
    if let Some((other, _)) = given.next() {
        http.refuse(other, format!("cannot stand beside {key:?}: a permission has one form of path"));
    }
    match &form {
        PathForm::Exact(text) | PathForm::Prefix(text) if !text.starts_with('/') => {
            http.refuse(key, format!("{text:?} must begin with '/'"));
        }
        PathForm::Regex(text) => refuse_regex(http, key, text),
        _ => {}
    }
    form
}

fn read_header(table: &Table<'_>) -> Option<HeaderMatch> {
    let name = table.filled("Name");
    if name.is_none() {
        table.refuse("Name", "is required");
    }
    let forms = [
        table.flag("Present").filter(|on| *on).map(|_| ("Present", HeaderForm::Present)),
        table.filled("Exact").map(|text| ("Exact", HeaderForm::Exact(text))),
        table.filled("Prefix").map(|text| ("Prefix", HeaderForm::Prefix(text))),
        table.filled("Suffix").map(|text| ("Suffix", HeaderForm::Suffix(text))),
        table.filled("Contains").map(|text| ("Contains", HeaderForm::Contains(text))),
        table.filled("Regex").map(|text| ("Regex", HeaderForm::Regex(text))),
    ];
    let invert = table.flag("Invert").unwrap_or(false);
    let ignore_case = table.flag("IgnoreCase").unwrap_or(false);
    let mut given: Vec<(&'static str, HeaderForm)> = forms.into_iter().flatten().collect();
    if given.len() != 1 {
        table.refuse("", "needs exactly one of Present, Exact, Prefix, Suffix, Contains and Regex");
    }
    if let Some((key, HeaderForm::Regex(text))) = given.first() {
        refuse_regex(table, key, text);
    }
    let takes_no_case = matches!(given.first(), Some((_, HeaderForm::Present | HeaderForm::Regex(_))));
    if ignore_case && takes_no_case {
        table.refuse(
            "IgnoreCase",
            "has no meaning with \"Present\" or \"Regex\"; write (?i) into the pattern",
        );
    }
    table.finish();
    let (_, form) = given.pop()?;
    Some(HeaderMatch { name: name?, form, invert, ignore_case })
}

/// A pattern that cannot be compiled could not be enforced either.
fn refuse_regex(table: &Table<'_>, key: &str, text: &str) {
    if let Err(error) = regex::RegexBuilder::new(text).size_limit(1 << 20).build() {
        let why = error.to_string();
        let last = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        table.refuse(key, format!("{text:?} is not a regular expression: {last}"));
    }
}
