//! Conditions on a request's headers.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use purlin_model::intention::{HeaderForm, HeaderMatch};
use regex::Regex;

use super::whole_match;

#[derive(Debug)]
pub(super) struct HeaderRule {
    name: HeaderName,
    form: Form,
    invert: bool,
    ignore_case: bool,
}

/// Texts are in lower case already where case does not count.
#[derive(Debug)]
enum Form {
    Present,
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl HeaderRule {
    pub(super) fn new(rule: &HeaderMatch) -> Result<Self, String> {
        let name = HeaderName::from_bytes(rule.name.as_bytes())
            .map_err(|_| format!("{:?} is not the name of a header", rule.name))?;
        let cased = |text: &String| if rule.ignore_case { text.to_lowercase() } else { text.clone() };
        let form = match &rule.form {
            HeaderForm::Present => Form::Present,
            HeaderForm::Exact(text) => Form::Exact(cased(text)),
            HeaderForm::Prefix(text) => Form::Prefix(cased(text)),
            HeaderForm::Suffix(text) => Form::Suffix(cased(text)),
            HeaderForm::Contains(text) => Form::Contains(cased(text)),
            HeaderForm::Regex(text) => Form::Regex(whole_match(text, rule.ignore_case)?),
        };
        Ok(Self { name, form, invert: rule.invert, ignore_case: rule.ignore_case })
    }

    /// A header that is not there matches no form; inverted, it matches.
    pub(super) fn matches(&self, headers: &HeaderMap) -> bool {
        let Some(value) = joined(headers, &self.name) else {
            return self.invert;
        };
        let value = if self.ignore_case { Cow::Owned(value.to_lowercase()) } else { value };
        let matches = match &self.form {
            Form::Present => true,
            Form::Exact(text) => value == text.as_str(),
            Form::Prefix(text) => value.starts_with(text.as_str()),
            Form::Suffix(text) => value.ends_with(text.as_str()),
            Form::Contains(text) => value.contains(text.as_str()),
            Form::Regex(regex) => regex.is_match(&value),
        };
        matches != self.invert
    }
}

/// Several values read as one, with commas between (RFC 9110, 5.3), so that a second one cannot hide.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    Some(values.fold(first, |all, next| Cow::Owned(format!("{all},{next}"))))
}
