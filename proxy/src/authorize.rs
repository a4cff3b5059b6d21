//! May this source call this destination: a policy, parsed once, and the verdict on a connection or a request. Pure.
//!
//! Fails closed: no policy, a rule that cannot be read, or a condition whose facts are not at hand mean denied.

mod header;
mod path;

use std::sync::Arc;

use http::{HeaderMap, Method};
use purlin_model::ServiceKey;
use purlin_model::intention::{Action, Intention, Party, PathForm, Permission, Policy, Rule};
use regex::Regex;

use header::HeaderRule;

/// A policy in the form that requests are held against.
#[derive(Debug)]
pub(crate) struct Guard {
    destination: ServiceKey,
    default: Action,
    default_text: Arc<str>,
    rules: Vec<Compiled>,
    needs_headers: bool,
}

#[derive(Debug)]
struct Compiled {
    intention: Intention,
    text: Arc<str>,
    verdict: CompiledRule,
}

#[derive(Debug)]
enum CompiledRule {
    L4(Action),
    L7(Vec<CompiledPermission>),
    Unreadable(String),
}

#[derive(Debug)]
struct CompiledPermission {
    action: Action,
    path: PathRule,
    headers: Vec<HeaderRule>,
    methods: Vec<String>,
}

#[derive(Debug)]
enum PathRule {
    Any,
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    Connection,
    Request(Facts<'a>),
}

/// Of a request, what rules may speak of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) method: &'a Method,
    /// Without the query.
    pub(crate) path: &'a str,
    /// Absent: no longer at hand, so a rule that needs them denies.
    pub(crate) headers: Option<&'a HeaderMap>,
}

/// Who was denied and by what; its text is for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) source: ServiceKey,
    pub(crate) destination: ServiceKey,
    /// The deciding intention, or the default: from a small set, so fit for a metric's label.
    pub(crate) rule: Arc<str>,
    /// Which part of the rule decided, where it has several.
    pub(crate) detail: Option<String>,
    /// An intention of exactly this pair is there and must be replaced.
    replace: bool,
}

impl Denial {
    /// The command that would allow the call.
    pub(crate) fn remedy(&self) -> String {
        let replace = if self.replace { "-replace " } else { "" };
        format!("purlin intention create {replace}{} {}", self.source, self.destination)
    }

    pub(crate) fn reason(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.rule),
            None => self.rule.to_string(),
        }
    }

    /// The body of a 403.
    pub(crate) fn body(&self) -> String {
        let (source, destination, reason) = (&self.source, &self.destination, self.reason());
        format!("{source} may not call {destination}: {reason}\nto allow it: {}\n", self.remedy())
    }

    fn no_policy(source: &ServiceKey, destination: &ServiceKey) -> Self {
        Self {
            source: source.clone(),
            destination: destination.clone(),
            rule: "no policy is known for the destination; policy deny".into(),
            detail: None,
            replace: false,
        }
    }
}

/// The verdict of a policy that may be missing.
pub(crate) fn authorize(
    guard: Option<&Guard>,
    source: &ServiceKey,
    destination: &ServiceKey,
    call: Call<'_>,
) -> Result<(), Denial> {
    match guard {
        Some(guard) => guard.verdict(source, call),
        None => Err(Denial::no_policy(source, destination)),
    }
}

impl Guard {
    pub(crate) fn new(policy: &Policy) -> Self {
        let rules: Vec<Compiled> = policy.intentions.iter().map(Compiled::new).collect();
        let default_text = format!("no intention matches; default policy {}", policy.default.as_str());
        Self {
            destination: policy.destination.clone(),
            default: policy.default,
            default_text: default_text.into(),
            needs_headers: rules.iter().any(Compiled::needs_headers),
            rules,
        }
    }

    /// Whether some rule speaks of headers, so that they must be kept to judge a request again later.
    pub(crate) fn needs_headers(&self) -> bool {
        self.needs_headers
    }

    pub(crate) fn verdict(&self, source: &ServiceKey, call: Call<'_>) -> Result<(), Denial> {
        let deciding = self.rules.iter().find(|rule| {
            rule.intention.source_namespace == source.namespace && rule.intention.source.matches(&source.name)
        });
        let Some(rule) = deciding else {
            return match self.default {
                Action::Allow => Ok(()),
                Action::Deny => Err(self.denial(source, self.default_text.clone(), None, false)),
            };
        };
        rule.decide(call).map_err(|detail| {
            let exact = rule.intention.precedence() == 9;
            debug_assert!(!exact || matches!(rule.intention.source, Party::Service(_)));
            self.denial(source, rule.text.clone(), detail, exact)
        })
    }

    fn denial(&self, source: &ServiceKey, rule: Arc<str>, detail: Option<String>, replace: bool) -> Denial {
        Denial { source: source.clone(), destination: self.destination.clone(), rule, detail, replace }
    }
}

impl Compiled {
    fn new(intention: &Intention) -> Self {
        let verdict = match &intention.rule {
            Rule::L4(action) => CompiledRule::L4(*action),
            Rule::L7(permissions) => permissions
                .iter()
                .map(CompiledPermission::new)
                .collect::<Result<_, _>>()
                .map_or_else(CompiledRule::Unreadable, CompiledRule::L7),
        };
        Self { intention: intention.clone(), text: format!("intention {intention}").into(), verdict }
    }

    fn needs_headers(&self) -> bool {
        match &self.verdict {
            CompiledRule::L7(permissions) => permissions.iter().any(|one| !one.headers.is_empty()),
            CompiledRule::L4(_) | CompiledRule::Unreadable(_) => false,
        }
    }

    /// `Err` says, where there is something to say, which part of the rule denied.
    fn decide(&self, call: Call<'_>) -> Result<(), Option<String>> {
        let permissions = match &self.verdict {
            CompiledRule::L4(Action::Allow) => return Ok(()),
            CompiledRule::L4(Action::Deny) => return Err(None),
            CompiledRule::Unreadable(why) => {
                return Err(Some(format!("its permissions cannot be read: {why}")));
            }
            CompiledRule::L7(permissions) => permissions,
        };
        let Call::Request(facts) = call else {
            return Err(Some("it has rules for requests, and this is a TCP connection".into()));
        };
        decide_request(permissions, facts, facts.path)?;
        // An application may read `/a/../b` as `/b`: every reading must be allowed.
        path::readings(facts.path).iter().try_for_each(|reading| decide_request(permissions, facts, reading))
    }
}

fn decide_request(
    permissions: &[CompiledPermission],
    facts: Facts<'_>,
    path: &str,
) -> Result<(), Option<String>> {
    let shown = || format!("{} {}", facts.method, path.chars().take(200).collect::<String>());
    for (index, permission) in permissions.iter().enumerate() {
        let matches = permission
            .matches(facts, path)
            .ok_or_else(|| Some("the request's headers are no longer known".to_owned()))?;
        match (matches, permission.action) {
            (false, _) => {}
            (true, Action::Allow) => return Ok(()),
            (true, Action::Deny) => return Err(Some(format!("permission {} denies {}", index + 1, shown()))),
        }
    }
    Err(Some(format!("no permission allows {}", shown())))
}

impl CompiledPermission {
    fn new(permission: &Permission) -> Result<Self, String> {
        Ok(Self {
            action: permission.action,
            path: match &permission.path {
                PathForm::Any => PathRule::Any,
                PathForm::Exact(text) => PathRule::Exact(text.clone()),
                PathForm::Prefix(text) => PathRule::Prefix(text.clone()),
                PathForm::Regex(text) => PathRule::Regex(whole_match(text, false)?),
            },
            headers: permission.headers.iter().map(HeaderRule::new).collect::<Result<_, _>>()?,
            methods: permission.methods.clone(),
        })
    }

    /// `None`: cannot be told without headers.
    fn matches(&self, facts: Facts<'_>, path: &str) -> Option<bool> {
        let path_matches = match &self.path {
            PathRule::Any => true,
            PathRule::Exact(text) => path == text,
            PathRule::Prefix(text) => path.starts_with(text.as_str()),
            PathRule::Regex(regex) => regex.is_match(path),
        };
        let method = facts.method.as_str();
        let method_matches =
            self.methods.is_empty() || self.methods.iter().any(|one| one.eq_ignore_ascii_case(method));
        if !path_matches || !method_matches {
            return Some(false);
        }
        if self.headers.is_empty() {
            return Some(true);
        }
        let headers = facts.headers?;
        Some(self.headers.iter().all(|rule| rule.matches(headers)))
    }
}

/// A pattern that must cover the whole text, as in Consul; bounded, because it comes from outside.
fn whole_match(pattern: &str, ignore_case: bool) -> Result<Regex, String> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .case_insensitive(ignore_case)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| {
            let line = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            format!("regular expression {pattern:?}: {line}")
        })
}

#[cfg(test)]
mod tests;
