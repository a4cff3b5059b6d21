//! Tokens into a tree: `or` binds weakest, then `and`, then `not`, then a comparison or parentheses.

use regex::Regex;

use super::lexer::{Placed, Token};
use super::{FilterError, MAX_DEPTH, MAX_MATCHES};

#[derive(Debug)]
pub(super) enum Expression {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Match(Match),
}

/// One comparison of what a selector leads to.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) path: Vec<String>,
    /// Where the selector begins.
    pub(super) column: usize,
    pub(super) test: Test,
    /// `!=`, `not in`, `not contains`, `is not empty`, `not matches`.
    pub(super) negated: bool,
    /// The path leads through the keys of a map, which may not be there; fields always are.
    pub(super) in_map: bool,
}

#[derive(Debug)]
pub(super) enum Test {
    Equal(Operand),
    /// `value in selector` and `selector contains value` are one test.
    Contains(Operand),
    Empty,
    Matches(Regex),
}

/// A value as written, and as what the schema says it is compared with.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) text: String,
    pub(super) column: usize,
    pub(super) typed: Typed,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Typed {
    Text,
    Number(f64),
    Bool(bool),
}

/// `end` is the column behind the text.
pub(super) fn parse(tokens: &[Placed], end: usize) -> Result<Expression, FilterError> {
    let mut parser = Parser { tokens, at: 0, end, matches: 0 };
    let root = parser.or(0)?;
    match parser.peek() {
        None => Ok(root),
        Some(extra) => Err(FilterError::new(extra.column, "expected \"and\", \"or\" or the end")),
    }
}

struct Parser<'a> {
    tokens: &'a [Placed],
    at: usize,
    end: usize,
    matches: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Placed> {
        self.tokens.get(self.at)
    }

    fn column(&self) -> usize {
        self.peek().map_or(self.end, |placed| placed.column)
    }

    fn refuse<T>(&self, why: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError::new(self.column(), why))
    }

    fn eat(&mut self, token: &Token) -> bool {
        let found = self.peek().is_some_and(|placed| placed.token == *token);
        self.at += usize::from(found);
        found
    }

    fn keyword(&mut self, word: &str) -> bool {
        let found = self.is_keyword(self.at, word);
        self.at += usize::from(found);
        found
    }

    fn is_keyword(&self, at: usize, word: &str) -> bool {
        matches!(self.tokens.get(at), Some(Placed { token: Token::Word(text), .. }) if text == word)
    }

    fn or(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut parts = vec![self.and(depth)?];
        while self.keyword("or") {
            parts.push(self.and(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Or(parts) })
    }

    fn and(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut parts = vec![self.not(depth)?];
        while self.keyword("and") {
            parts.push(self.not(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::And(parts) })
    }

    fn not(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth >= MAX_DEPTH {
            return self.refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if self.keyword("not") {
            return Ok(Expression::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.eat(&Token::Open) {
            let inner = self.or(depth + 1)?;
            if !self.eat(&Token::Close) {
                return self.refuse("expected \")\"");
            }
            return Ok(inner);
        }
        self.matches += 1;
        if self.matches > MAX_MATCHES {
            return self.refuse(format!("more than {MAX_MATCHES} comparisons"));
        }
        self.comparison().map(Expression::Match)
    }

    /// `value [not] in selector`, or a selector with an operator behind it.
    fn comparison(&mut self) -> Result<Match, FilterError> {
        let start = self.at;
        let value = self.value()?;
        let negated = self.keyword("not");
        if self.keyword("in") {
            let column = self.column();
            let path = self.selector()?;
            return Ok(Match { path, column, test: Test::Contains(value), negated, in_map: false });
        }
        self.at = start;
        let column = self.column();
        let path = self.selector()?;
        let (test, negated) = self.operator()?;
        Ok(Match { path, column, test, negated, in_map: false })
    }

    fn operator(&mut self) -> Result<(Test, bool), FilterError> {
        if self.eat(&Token::Equal) {
            return Ok((Test::Equal(self.value()?), false));
        }
        if self.eat(&Token::NotEqual) {
            return Ok((Test::Equal(self.value()?), true));
        }
        if self.keyword("is") {
            let negated = self.keyword("not");
            if self.keyword("empty") {
                return Ok((Test::Empty, negated));
            }
            return self.refuse("expected \"empty\" after \"is\"");
        }
        let negated = self.keyword("not");
        if self.keyword("contains") {
            return Ok((Test::Contains(self.value()?), negated));
        }
        if self.keyword("matches") {
            let pattern = self.value()?;
            let regex =
                regex::RegexBuilder::new(&pattern.text).size_limit(1 << 20).build().map_err(|error| {
                    FilterError::new(pattern.column, format!("bad regular expression: {error}"))
                })?;
            return Ok((Test::Matches(regex), negated));
        }
        self.refuse(
            "expected an operator: ==, !=, in, not in, contains, not contains, is empty, is not empty, matches, \
             not matches",
        )
    }

    fn selector(&mut self) -> Result<Vec<String>, FilterError> {
        let Some(Token::Word(first)) = self.peek().map(|placed| placed.token.clone()) else {
            return self.refuse("expected the name of a field");
        };
        self.at += 1;
        let mut path = vec![first];
        loop {
            let joined = self.peek().is_some_and(|placed| !placed.spaced);
            if joined && self.eat(&Token::Dot) {
                path.push(self.step()?);
            } else if joined && self.eat(&Token::OpenIndex) {
                path.push(self.step()?);
                if !self.eat(&Token::CloseIndex) {
                    return self.refuse("expected \"]\"");
                }
            } else {
                return Ok(path);
            }
        }
    }

    fn step(&mut self) -> Result<String, FilterError> {
        match self.peek().map(|placed| placed.token.clone()) {
            Some(Token::Word(text) | Token::Quoted(text) | Token::Number(text)) => {
                self.at += 1;
                Ok(text)
            }
            _ => self.refuse("expected the name of a field or a quoted key"),
        }
    }

    fn value(&mut self) -> Result<Operand, FilterError> {
        let column = self.column();
        let text = match self.peek().map(|placed| placed.token.clone()) {
            Some(Token::Quoted(text) | Token::Number(text)) => {
                self.at += 1;
                text
            }
            // A dotted word without quotes is a value too, as in `Node.Meta.os == debian.12`.
            Some(Token::Word(_)) => self.selector()?.join("."),
            _ => return self.refuse("expected a value"),
        };
        Ok(Operand { text, column, typed: Typed::Text })
    }
}
