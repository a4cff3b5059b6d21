//! Text into tokens, each with the column where it began.

use super::FilterError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word; keywords are words too, told apart by where they stand.
    Word(String),
    Number(String),
    Quoted(String),
    Equal,
    NotEqual,
    Open,
    Close,
    Dot,
    OpenIndex,
    CloseIndex,
}

#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) column: usize,
    /// Whether white space stands before it; `a.b` is a selector, `a .b` is not.
    pub(super) spaced: bool,
}

pub(super) fn lex(text: &str) -> Result<Vec<Placed>, FilterError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut spaced = false;
    while let Some(&c) = chars.get(at) {
        if c.is_whitespace() {
            spaced = true;
            at += 1;
            continue;
        }
        let column = at + 1;
        let (token, next) = one(&chars, at)?;
        tokens.push(Placed { token, column, spaced });
        spaced = false;
        at = next;
    }
    Ok(tokens)
}

fn one(chars: &[char], at: usize) -> Result<(Token, usize), FilterError> {
    let refuse = |why: String| FilterError::new(at + 1, why);
    let Some(&c) = chars.get(at) else {
        return Err(refuse("unexpected end".into()));
    };
    let following = chars.get(at + 1).copied();
    Ok(match c {
        '(' => (Token::Open, at + 1),
        ')' => (Token::Close, at + 1),
        '[' => (Token::OpenIndex, at + 1),
        ']' => (Token::CloseIndex, at + 1),
        '.' => (Token::Dot, at + 1),
        '=' if following == Some('=') => (Token::Equal, at + 2),
        '!' if following == Some('=') => (Token::NotEqual, at + 2),
        '"' | '`' => quoted(chars, at, c)?,
        '-' if following.is_some_and(|d| d.is_ascii_digit()) => number(chars, at),
        _ if c.is_ascii_digit() => number(chars, at),
        _ if c.is_alphabetic() || c == '_' => word(chars, at),
        _ => return Err(refuse(format!("{c:?} has no meaning here; quote values that are not plain words"))),
    })
}

fn quoted(chars: &[char], start: usize, quote: char) -> Result<(Token, usize), FilterError> {
    let mut text = String::new();
    let mut at = start + 1;
    while let Some(&c) = chars.get(at) {
        if c == quote {
            return Ok((Token::Quoted(text), at + 1));
        }
        if c == '\\' && quote == '"' {
            let escaped = match chars.get(at + 1) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(&c @ ('"' | '\\')) => c,
                // A regular expression in double quotes keeps its backslashes: `"\d+"`.
                _ => {
                    text.push('\\');
                    at += 1;
                    continue;
                }
            };
            text.push(escaped);
            at += 2;
            continue;
        }
        text.push(c);
        at += 1;
    }
    Err(FilterError::new(start + 1, format!("the text that begins with {quote} has no end")))
}

fn number(chars: &[char], start: usize) -> (Token, usize) {
    let mut at = start + 1;
    // A word may begin with digits where a value is asked for, as in `10ms` or `1.2.3`.
    while chars.get(at).is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        at += 1;
    }
    let text: String = chars.get(start..at).unwrap_or_default().iter().collect();
    (Token::Number(text), at)
}

fn word(chars: &[char], start: usize) -> (Token, usize) {
    let mut at = start + 1;
    while chars.get(at).is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '/' | '-')) {
        at += 1;
    }
    let text: String = chars.get(start..at).unwrap_or_default().iter().collect();
    (Token::Word(text), at)
}
