//! What selectors may lead to. The schema is an example of the item with every field; `"*"` in it is any key.

use serde_json::Value;

use super::FilterError;
use super::parser::{Expression, Match, Operand, Test, Typed};

/// Refuses selectors that lead nowhere and values of the wrong kind; notes the kind of each value.
pub(super) fn check(expression: &mut Expression, schema: &Value) -> Result<(), FilterError> {
    match expression {
        Expression::Or(parts) | Expression::And(parts) => {
            parts.iter_mut().try_for_each(|part| check(part, schema))
        }
        Expression::Not(inner) => check(inner, schema),
        Expression::Match(one) => check_match(one, schema),
    }
}

fn check_match(one: &mut Match, schema: &Value) -> Result<(), FilterError> {
    let (target, in_map) = lead(&one.path, schema).ok_or_else(|| {
        FilterError::new(one.column, format!("Selector {:?} is not valid", one.path.join(".")))
    })?;
    one.in_map = in_map;
    let unfit = |operator: &str| {
        let selector = one.path.join(".");
        FilterError::new(one.column, format!("{operator} cannot be applied to selector {selector:?}"))
    };
    match &mut one.test {
        Test::Equal(operand) => {
            operand.typed = typed(operand, target).ok_or_else(|| unfit("== with that value"))?;
        }
        Test::Contains(operand) => match target {
            Value::Array(elements) => {
                let element = elements.first().unwrap_or(&Value::Null);
                operand.typed = typed(operand, element).ok_or_else(|| unfit("in"))?;
            }
            Value::Object(fields) if fields.contains_key("*") => {}
            Value::String(_) => {}
            _ => return Err(unfit("in")),
        },
        Test::Empty => match target {
            Value::Array(_) | Value::String(_) => {}
            Value::Object(fields) if fields.contains_key("*") => {}
            _ => return Err(unfit("is empty")),
        },
        Test::Matches(_) => {
            if !target.is_string() {
                return Err(unfit("matches"));
            }
        }
    }
    Ok(())
}

/// Where a path ends in the schema, and whether it leads through a map. Going through a list leads to its elements.
fn lead<'a>(path: &[String], schema: &'a Value) -> Option<(&'a Value, bool)> {
    path.iter().try_fold((schema, false), |(at, in_map), step| {
        let at = match at {
            Value::Array(elements) => elements.first()?,
            other => other,
        };
        let fields = at.as_object()?;
        match fields.get(step).filter(|_| step != "*") {
            Some(field) => Some((field, in_map)),
            None => fields.get("*").map(|any| (any, true)),
        }
    })
}

fn typed(operand: &Operand, target: &Value) -> Option<Typed> {
    match target {
        Value::String(_) => Some(Typed::Text),
        Value::Number(_) => {
            let number: f64 = operand.text.parse().ok()?;
            number.is_finite().then_some(Typed::Number(number))
        }
        // What Go's ParseBool takes.
        Value::Bool(_) => match operand.text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(Typed::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(Typed::Bool(false)),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
