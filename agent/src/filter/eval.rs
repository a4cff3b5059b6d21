//! Whether a checked expression holds for an item.

use serde_json::Value;

use super::parser::{Expression, Match, Operand, Test, Typed};

pub(super) fn holds(expression: &Expression, item: &Value) -> bool {
    match expression {
        Expression::Or(parts) => parts.iter().any(|part| holds(part, item)),
        Expression::And(parts) => parts.iter().all(|part| holds(part, item)),
        Expression::Not(inner) => !holds(inner, item),
        Expression::Match(one) => follow(one, &one.path, item),
    }
}

/// Follows the path; through a list, the comparison holds if it does for any element.
fn follow(one: &Match, path: &[String], at: &Value) -> bool {
    let Some((step, rest)) = path.split_first() else {
        return compare(&one.test, at) != one.negated;
    };
    match at {
        Value::Array(elements) => elements.iter().any(|element| follow(one, path, element)),
        Value::Object(fields) => match fields.get(step) {
            Some(next) => follow(one, rest, next),
            None => missing(one),
        },
        _ => missing(one),
    }
}

/// A key that is not there, or a field that is left out when empty: empty, equal to the empty value, nothing else.
fn missing(one: &Match) -> bool {
    let found = match &one.test {
        Test::Empty => true,
        Test::Equal(Operand { typed: Typed::Text, text, .. }) => text.is_empty() && !one.in_map,
        Test::Equal(Operand { typed, .. }) => *typed == Typed::Bool(false) || *typed == Typed::Number(0.0),
        Test::Contains(_) | Test::Matches(_) => false,
    };
    found != one.negated
}

fn compare(test: &Test, value: &Value) -> bool {
    match test {
        Test::Equal(operand) => equal(operand, value),
        Test::Contains(operand) => match value {
            Value::Array(elements) => elements.iter().any(|element| equal(operand, element)),
            Value::Object(fields) => fields.contains_key(&operand.text),
            Value::String(text) => text.contains(&operand.text),
            _ => false,
        },
        Test::Empty => match value {
            Value::Null => true,
            Value::Array(elements) => elements.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        },
        Test::Matches(regex) => value.as_str().is_some_and(|text| regex.is_match(text)),
    }
}

fn equal(operand: &Operand, value: &Value) -> bool {
    match (operand.typed, value) {
        (Typed::Number(wanted), value) => value.as_f64() == Some(wanted),
        (Typed::Bool(wanted), value) => value.as_bool() == Some(wanted),
        (Typed::Text, Value::String(text)) => *text == operand.text,
        (Typed::Text, _) => false,
    }
}
