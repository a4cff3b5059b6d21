//! Reads tables of loosely spelled keys and collects every problem with its place.
//!
//! A `Table` remembers which keys were asked for; what is left at `finish` is unknown and refused. So the code that
//! reads a key is also the schema.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::{Fault, duration};

/// Problems of one input that are kept; the rest would only repeat them.
const PROBLEMS: usize = 100;

/// What is wrong, and what is only worth saying. Shared by all tables of one input.
#[derive(Debug, Default)]
pub struct Problems {
    faults: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

/// A message, and the key as its writer spelled it, by which whoever has the text can find the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub key: String,
    pub text: String,
}

impl Problems {
    /// `at` is the path of the key, empty for the whole.
    pub fn refuse(&self, at: &str, text: String) {
        keep(&self.faults, at, text);
    }

    pub fn warn(&self, at: &str, text: String) {
        keep(&self.warnings, at, text);
    }

    pub fn has_faults(&self) -> bool {
        !self.faults.borrow().is_empty()
    }

    /// What was refused, and what was only said.
    pub fn into_findings(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.faults.into_inner(), self.warnings.into_inner())
    }

    pub fn into_parts(self) -> (Vec<Fault>, Vec<String>) {
        let (faults, warnings) = self.into_findings();
        let faults = faults.into_iter().map(|one| Fault::invalid(one.text)).collect();
        (faults, warnings.into_iter().map(|one| one.text).collect())
    }
}

fn keep(list: &RefCell<Vec<Finding>>, at: &str, text: String) {
    let mut list = list.borrow_mut();
    if list.len() < PROBLEMS {
        let key = at.rsplit('.').next().unwrap_or_default();
        let key = key.split('[').next().unwrap_or_default().to_owned();
        list.push(Finding { key, text });
    }
}

/// A key without case and underscores: `LocalBindPort`, `local_bind_port` and `localbindport` are one.
pub fn plain(key: &str) -> String {
    key.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// The candidate that `key` was probably meant to be.
pub fn nearest<'a>(key: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(key);
    let limit = (wanted.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted, &plain(candidate)), candidate))
        .filter(|(far, _)| *far <= limit)
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// Single-letter edits, swaps of neighbours among them, that make one text of the other.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let width = right.len() + 1;
    let mut before: Vec<usize> = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for (row, a) in left.iter().enumerate() {
        let mut line = Vec::with_capacity(width);
        line.push(row + 1);
        for (column, b) in right.iter().enumerate() {
            let mut best =
                (last[column] + usize::from(a != b)).min(last[column + 1] + 1).min(line[column] + 1);
            let swapped = row > 0 && column > 0 && *a == right[column - 1] && left[row - 1] == *b;
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut last, line);
    }
    last.last().copied().unwrap_or_default()
}

#[derive(Debug)]
struct Field<'a> {
    plain: String,
    written: &'a str,
    value: &'a Value,
    asked: bool,
}

/// One object of the input at its place. Getters answer `None` both for what is absent and for what they refused.
#[derive(Debug)]
pub struct Table<'a> {
    /// `service "web"`, or empty.
    root: String,
    /// `checks[1]`, or empty at the root.
    at: String,
    fields: RefCell<Vec<Field<'a>>>,
    known: RefCell<Vec<&'static str>>,
    problems: &'a Problems,
}

impl<'a> Table<'a> {
    /// The table that `value` is; a list of exactly one table, which HCL makes of some blocks, counts as it.
    pub fn open(value: &'a Value, root: &str, problems: &'a Problems) -> Option<Self> {
        Self::at(value, root, "", problems)
    }

    fn at(value: &'a Value, root: &str, at: &str, problems: &'a Problems) -> Option<Self> {
        let object = match value {
            Value::Object(object) => object,
            Value::Array(items) => match items.as_slice() {
                [Value::Object(object)] => object,
                _ => return refuse_kind(value, root, at, "a block of keys", problems),
            },
            _ => return refuse_kind(value, root, at, "a block of keys", problems),
        };
        let mut fields: Vec<Field<'a>> = Vec::with_capacity(object.len());
        for (written, value) in object {
            let plain = plain(written);
            if let Some(twin) = fields.iter().find(|field| field.plain == plain && !value.is_null()) {
                let text = format!("given twice, as {:?} and as {written:?}; keep one", twin.written);
                let at = join(at, written);
                problems.refuse(&at, place(root, &at, &text));
                continue;
            }
            fields.push(Field { plain, written, value, asked: false });
        }
        Some(Self {
            root: root.into(),
            at: at.into(),
            fields: RefCell::new(fields),
            known: RefCell::new(Vec::new()),
            problems,
        })
    }

    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    /// The keys that say something, without case and underscores.
    pub fn given(&self) -> Vec<String> {
        let fields = self.fields.borrow();
        fields.iter().filter(|field| !field.value.is_null()).map(|field| field.plain.clone()).collect()
    }

    /// Where `key` stands, spelled as its writer did: `service "web": checks[1].interval`.
    pub fn path(&self, key: &str) -> String {
        let text = place(&self.root, &self.below(key), "");
        text.trim_end_matches(": ").into()
    }

    fn below(&self, key: &str) -> String {
        let wanted = plain(key);
        let fields = self.fields.borrow();
        let written = fields.iter().find(|field| field.plain == wanted).map_or(key, |field| field.written);
        join(&self.at, written)
    }

    /// Refuses what stands under `key` (or the table itself, for an empty key).
    pub fn refuse(&self, key: &str, why: impl AsRef<str>) {
        let at = if key.is_empty() { self.at.clone() } else { self.below(key) };
        let first = plain(key.split(['.', '[']).next().unwrap_or_default());
        let is_written = self.fields.borrow().iter().any(|field| field.plain == first);
        // What is missing has no line of its own; that of its block is the nearest.
        self.problems.refuse(if is_written { &at } else { &self.at }, place(&self.root, &at, why.as_ref()));
    }

    pub fn warn(&self, key: &str, why: impl AsRef<str>) {
        let at = self.below(key);
        self.problems.warn(&at, place(&self.root, &at, why.as_ref()));
    }

    /// The value of `key` as it stands; null counts as absent.
    pub fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(key);
        let wanted = plain(key);
        let mut fields = self.fields.borrow_mut();
        let field = fields.iter_mut().find(|field| field.plain == wanted)?;
        field.asked = true;
        (!field.value.is_null()).then_some(field.value)
    }

    fn wrong<T>(&self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        self.refuse(key, format!("must be {wanted}, not {}", kind_of(value)));
        None
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text.clone()),
            other => self.wrong(key, other, "a text"),
        }
    }

    /// A text that is not empty: an empty one says as much as none, as clients with fixed structures send it.
    pub fn filled(&self, key: &'static str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// As [`Table::filled`], of at most `most` bytes.
    pub fn short(&self, key: &'static str, most: usize) -> Option<String> {
        let text = self.filled(key)?;
        if text.len() > most {
            self.refuse(key, format!("has {} bytes; the limit is {most}", text.len()));
            return None;
        }
        Some(text)
    }

    pub fn flag(&self, key: &'static str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            other => self.wrong(key, other, "true or false"),
        }
    }

    pub fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let Value::Number(number) = value else {
            return self.wrong(key, value, "a number");
        };
        // Languages without integers write 8080.0.
        let whole = number.as_f64().filter(|real| real.fract() == 0.0 && *real >= 0.0 && *real < 9e15);
        match number.as_u64().or(whole.map(|real| real as u64)) {
            Some(whole) if range.contains(&whole) => Some(whole),
            _ => {
                let (low, high) = (range.start(), range.end());
                self.refuse(
                    key,
                    format!("{number} is out of range: it must be a whole number from {low} to {high}"),
                );
                None
            }
        }
    }

    /// A port; zero counts as absent.
    pub fn port(&self, key: &'static str) -> Option<u16> {
        self.number(key, 0..=65_535).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
    }

    /// A duration as Go writes it, or nanoseconds as Go's JSON has them. Zero counts as absent.
    pub fn span(&self, key: &'static str) -> Option<Duration> {
        let read = match self.value(key)? {
            Value::String(text) if text.is_empty() => return None,
            Value::String(text) => match duration::parse(text) {
                Ok(span) => Some(span),
                Err(error) => {
                    self.refuse(key, error.to_string());
                    None
                }
            },
            Value::Number(number) if number.as_u64().is_some() => number.as_u64().map(Duration::from_nanos),
            other => self.wrong(key, other, "a duration such as \"10s\""),
        };
        read.filter(|span| !span.is_zero())
    }

    pub fn child(&self, key: &'static str) -> Option<Table<'a>> {
        let value = self.value(key)?;
        if matches!(value, Value::Array(items) if items.is_empty()) {
            return None;
        }
        Self::at(value, &self.root, &self.below(key), self.problems)
    }

    /// The tables of a list; one table alone is a list of one.
    pub fn children(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let at = self.below(key);
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .filter_map(|(n, item)| Self::at(item, &self.root, &format!("{at}[{n}]"), self.problems))
                .collect(),
            one => Self::at(one, &self.root, &at, self.problems).into_iter().collect(),
        }
    }

    pub fn texts(&self, key: &'static str) -> Vec<String> {
        match self.value(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let texts: Vec<String> =
                    items.iter().filter_map(|one| one.as_str().map(Into::into)).collect();
                if texts.len() != items.len() {
                    self.refuse(key, "must be a list of texts");
                }
                texts
            }
            Some(other) => self.wrong::<Vec<String>>(key, other, "a list of texts").unwrap_or_default(),
        }
    }

    pub fn text_map(&self, key: &'static str) -> BTreeMap<String, String> {
        let Some(object) = self.object(key) else { return BTreeMap::new() };
        let mut map = BTreeMap::new();
        for (name, value) in object {
            match value {
                Value::String(text) => {
                    map.insert(name.clone(), text.clone());
                }
                other => self.refuse(key, format!("{name:?} must be a text, not {}", kind_of(other))),
            }
        }
        map
    }

    /// An object whose keys are data, not schema: as written.
    pub fn object(&self, key: &'static str) -> Option<&'a serde_json::Map<String, Value>> {
        match self.value(key)? {
            Value::Object(object) => Some(object),
            Value::Array(items) if items.is_empty() => None,
            Value::Array(items) => match items.as_slice() {
                [Value::Object(object)] => Some(object),
                _ => {
                    self.refuse(key, "must be a block of keys, not a list");
                    None
                }
            },
            other => self.wrong(key, other, "a block of keys"),
        }
    }

    /// Known, and without meaning here.
    pub fn ignore(&self, keys: &[&'static str]) {
        for key in keys {
            let _ = self.value(key);
        }
    }

    /// Consul has it and this version would not enforce it: refused unless it says nothing.
    pub fn unsupported(&self, keys: &[&'static str]) {
        for key in keys {
            if self.value(key).is_some_and(|value| !says_nothing(value)) {
                self.refuse(key, "is not supported by this version");
            }
        }
    }

    /// Consul has more values, and this version has one: any other is refused.
    pub fn only(&self, keys: &[&'static str], supported: &str) {
        for key in keys {
            if self.filled(key).is_some_and(|text| text != supported) {
                self.refuse(key, format!("only {supported:?} is supported by this version"));
            }
        }
    }

    /// Refuses every key that nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for field in self.fields.borrow().iter().filter(|field| !field.asked) {
            let hint = match nearest(field.written, known.iter().copied()) {
                Some(near) => format!("unknown key; did you mean {near:?}?"),
                None => "unknown key".into(),
            };
            let at = join(&self.at, field.written);
            self.problems.refuse(&at, place(&self.root, &at, &hint));
        }
    }
}

fn refuse_kind<T>(value: &Value, root: &str, at: &str, wanted: &str, problems: &Problems) -> Option<T> {
    problems.refuse(at, place(root, at, &format!("must be {wanted}, not {}", kind_of(value))));
    None
}

fn join(at: &str, key: &str) -> String {
    let key: String = key.chars().take(80).collect();
    match at {
        "" => key,
        at => format!("{at}.{key}"),
    }
}

fn place(root: &str, at: &str, why: &str) -> String {
    match (root, at) {
        ("", "") => why.into(),
        ("", at) => format!("{at}: {why}"),
        (root, "") => format!("{root}: {why}"),
        (root, at) => format!("{root}: {at}: {why}"),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a block",
    }
}

/// Empty all the way down, as clients with fixed structures send what they do not use.
pub fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(says_nothing),
        Value::Object(object) => object.values().all(says_nothing),
    }
}
