//! `?filter`: Consul's boolean expressions over an item as the API shows it.
//!
//! An expression is read and checked against a schema (an example of the item with every field) before any item is
//! looked at, so that a misspelt selector is an error even where the list is empty. Text, depth and size are bounded;
//! no input panics.

mod eval;
mod lexer;
mod parser;
mod schema;

#[cfg(test)]
mod tests;

use serde_json::Value;

/// Longest expression, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;
/// Deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 32;
/// Most comparisons of one expression.
pub const MAX_MATCHES: usize = 256;

/// Why an expression is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Failed to create boolean expression evaluator: {at}: {why}", at = Position(*column))]
pub struct FilterError {
    /// Of the offending character, counted from 1.
    pub column: usize,
    pub why: String,
}

struct Position(usize);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1:{}", self.0)
    }
}

impl FilterError {
    fn new(column: usize, why: impl Into<String>) -> Self {
        Self { column, why: why.into() }
    }
}

/// A checked expression.
#[derive(Debug)]
pub struct Filter {
    root: parser::Expression,
}

impl Filter {
    /// Reads `text` and checks it against `schema`: an item with every field, in which a map is written
    /// `{"*": value}` and a list holds one element.
    pub fn parse(text: &str, schema: &Value) -> Result<Self, FilterError> {
        if text.len() > MAX_TEXT {
            return Err(FilterError::new(
                MAX_TEXT,
                format!("the expression is longer than {MAX_TEXT} bytes"),
            ));
        }
        let mut root = parser::parse(&lexer::lex(text)?, text.chars().count() + 1)?;
        schema::check(&mut root, schema)?;
        Ok(Self { root })
    }

    /// Whether `item` stays.
    pub fn keeps(&self, item: &Value) -> bool {
        eval::holds(&self.root, item)
    }
}
