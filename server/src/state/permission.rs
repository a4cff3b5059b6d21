//! The shape of intentions: what a proxy could not enforce is refused here, before it is written.

use std::collections::BTreeSet;

use purlin_model::intention::{HeaderForm, Party, PathForm, Permission, Rule, SourceIntention};
use purlin_model::{Fault, limit};

use super::validate;

/// Consul's limit of a description.
const DESCRIPTION_BYTES: usize = 512;
const PATTERN_BYTES: usize = 4096;
/// Memory that one compiled pattern may take.
const REGEX_BYTES: usize = 1 << 20;
const METHODS: usize = 32;
const HEADERS: usize = 64;

pub(super) fn check_sources(of: &str, destination: &Party, sources: &[SourceIntention]) -> Result<(), Fault> {
    if sources.is_empty() {
        return Err(Fault::invalid(format!(
            "{of}: at least one source is required; delete the entry instead"
        )));
    }
    if sources.len() > limit::INTENTION_SOURCES {
        return Err(validate::too_many(&format!("sources of {of}"), sources.len(), limit::INTENTION_SOURCES));
    }
    let mut seen = BTreeSet::new();
    for source in sources {
        if !seen.insert((&source.source_namespace, &source.source)) {
            return Err(Fault::invalid(format!("{of}: source {} is there twice", source.source)));
        }
        check_source(&format!("{of}: source {}", source.source), destination, source)?;
    }
    Ok(())
}

fn check_source(of: &str, destination: &Party, source: &SourceIntention) -> Result<(), Fault> {
    validate::text(&format!("{of}: the description"), &source.description, DESCRIPTION_BYTES)?;
    validate::meta(of, &source.legacy_meta)?;
    let Rule::L7(permissions) = &source.rule else { return Ok(()) };
    if *destination == Party::Any {
        return Err(Fault::invalid(format!("{of}: permissions need a destination of their own, not \"*\"")));
    }
    if permissions.is_empty() {
        return Err(Fault::invalid(format!("{of}: an action or at least one permission is required")));
    }
    if permissions.len() > limit::PERMISSIONS {
        return Err(validate::too_many(
            &format!("permissions ({of})"),
            permissions.len(),
            limit::PERMISSIONS,
        ));
    }
    for (n, permission) in permissions.iter().enumerate() {
        check_permission(&format!("{of}: permission {}", n + 1), permission)?;
    }
    Ok(())
}

fn check_permission(of: &str, permission: &Permission) -> Result<(), Fault> {
    match &permission.path {
        PathForm::Any => {}
        PathForm::Exact(path) | PathForm::Prefix(path) => {
            validate::text(&format!("{of}: the path"), path, PATTERN_BYTES)?;
            if !path.starts_with('/') {
                return Err(Fault::invalid(format!("{of}: path {path:?} does not start with \"/\"")));
            }
        }
        PathForm::Regex(pattern) => check_regex(of, pattern)?,
    }
    if permission.methods.len() > METHODS {
        return Err(validate::too_many(&format!("methods ({of})"), permission.methods.len(), METHODS));
    }
    for method in &permission.methods {
        let token = !method.is_empty() && method.len() <= 32 && method.bytes().all(is_token);
        if !token || method.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(Fault::invalid(format!(
                "{of}: {:?} is not an HTTP method in capital letters",
                method.chars().take(32).collect::<String>()
            )));
        }
    }
    if permission.headers.len() > HEADERS {
        return Err(validate::too_many(&format!("headers ({of})"), permission.headers.len(), HEADERS));
    }
    for header in &permission.headers {
        if header.name.is_empty() || header.name.len() > 256 || !header.name.bytes().all(is_token) {
            return Err(Fault::invalid(format!("{of}: a header needs a name, without spaces or colons")));
        }
        match &header.form {
            HeaderForm::Present => {}
            HeaderForm::Regex(pattern) => check_regex(of, pattern)?,
            HeaderForm::Exact(text)
            | HeaderForm::Prefix(text)
            | HeaderForm::Suffix(text)
            | HeaderForm::Contains(text) => {
                validate::text(&format!("{of}: a header value"), text, PATTERN_BYTES)?
            }
        }
    }
    Ok(())
}

fn check_regex(of: &str, pattern: &str) -> Result<(), Fault> {
    validate::text(&format!("{of}: the pattern"), pattern, PATTERN_BYTES)?;
    match regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build() {
        Ok(_) => Ok(()),
        Err(why) => {
            let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            Err(Fault::invalid(format!("{of}: {pattern:?} is not a regular expression: {why}")))
        }
    }
}

/// A character of an HTTP token (RFC 9110).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
