//! HCL as Consul's files use it, old form and new: attributes and blocks with plain values, on as many lines as
//! their writer liked. Expressions are refused, not guessed.
//!
//! A library for HCL 2 refuses much of what Consul, whose HCL is the first, takes: nested blocks on one line, quoted
//! keys in blocks. Here one block is an object and several of a name are a list; labels nest, except that the label of
//! a service or a check is its name.

use serde_json::{Map, Value};

/// Brackets that may stand in each other; the parser works on the stack.
const DEPTH: usize = 64;

/// Blocks whose label is a name, not one more level.
const NAMED: [&str; 4] = ["service", "services", "check", "checks"];

/// A text that begins with a brace is JSON, which Consul takes under this name, too.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        return super::files::parse_json(text);
    }
    let mut parser = Parser { rest: text, line: 1, depth: 0 };
    parser.body(None).map_err(|why| format!("line {}: is not HCL: {why}", parser.line))
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    depth: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.skip(wanted.len_utf8());
        }
        found
    }

    /// What stands here, for messages.
    fn here(&self) -> String {
        match self.rest.split_whitespace().next() {
            Some(word) => format!("{:?}", word.chars().take(20).collect::<String>()),
            None => "the end of the file".into(),
        }
    }

    /// Blanks, line ends and comments.
    fn blanks(&mut self) -> Parsed<()> {
        loop {
            let trimmed = self.rest.trim_start();
            self.skip(self.rest.len() - trimmed.len());
            if trimmed.starts_with('#') || trimmed.starts_with("//") {
                self.skip(trimmed.find('\n').unwrap_or(trimmed.len()));
            } else if trimmed.starts_with("/*") {
                let end = trimmed.find("*/").ok_or("a comment that begins with /* has no end")?;
                self.skip(end + 2);
            } else {
                return Ok(());
            }
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("nests deeper than {DEPTH} levels"));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Items up to `end`, or up to the end of the file.
    fn body(&mut self, end: Option<char>) -> Parsed<Value> {
        let mut map = Map::new();
        loop {
            self.blanks()?;
            match (self.peek(), end) {
                (None, None) => return Ok(Value::Object(map)),
                (None, Some(end)) => return Err(format!("{end:?} is missing at the end")),
                (Some(c), Some(end)) if c == end => {
                    self.skip(1);
                    return Ok(Value::Object(map));
                }
                _ => self.item(&mut map)?,
            }
            self.blanks()?;
            if self.accept(',') {
                self.blanks()?;
            }
        }
    }

    fn item(&mut self, map: &mut Map<String, Value>) -> Parsed<()> {
        let key = self.key()?;
        self.blanks()?;
        if self.accept('=') || self.accept(':') {
            self.blanks()?;
            let value = self.value(&key)?;
            if map.insert(key.clone(), value).is_some() {
                return Err(format!("{key} is given twice; keep one"));
            }
            return Ok(());
        }
        let mut labels = Vec::new();
        while self.peek() != Some('{') {
            if !self.peek().is_some_and(|c| c == '"' || is_word(c)) {
                return Err(format!(
                    "after {key} there must be '=' with a value or a block in braces, not {}",
                    self.here()
                ));
            }
            labels.push(self.key()?);
            self.blanks()?;
        }
        self.skip(1);
        let value = self.deeper(|inner| inner.body(Some('}')))?;
        append(map, labelled(value, labels, &key), key);
        Ok(())
    }

    fn key(&mut self) -> Parsed<String> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some(c) if is_word(c) => {
                let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
                Ok(self.skip(end).to_owned())
            }
            _ => Err(format!("there must be a key, not {}", self.here())),
        }
    }

    fn value(&mut self, key: &str) -> Parsed<Value> {
        match self.peek() {
            Some('"') => self.quoted().map(Value::String),
            Some('[') => {
                self.skip(1);
                self.deeper(|inner| inner.list(key))
            }
            Some('{') => {
                self.skip(1);
                self.deeper(|inner| inner.body(Some('}')))
            }
            Some('<') if self.rest.starts_with("<<") => self.heredoc().map(Value::String),
            Some(c) if c == '-' || is_word(c) => {
                let end = self.rest.find(|c| !is_word(c) && c != '+').unwrap_or(self.rest.len());
                let word = self.skip(end);
                bare(word).ok_or_else(|| {
                    format!("the value of {key}, {word}, is neither a number nor true or false; put texts in double quotes")
                })
            }
            _ => Err(format!("{key} must have a value, not {}", self.here())),
        }
    }

    fn list(&mut self, key: &str) -> Parsed<Value> {
        let mut items = Vec::new();
        loop {
            self.blanks()?;
            if self.accept(']') {
                return Ok(Value::Array(items));
            }
            if self.peek().is_none() {
                return Err(format!("the list of {key} has no ']'"));
            }
            items.push(self.value(key)?);
            self.blanks()?;
            if !self.accept(',') && self.peek() != Some(']') {
                return Err(format!("in the list of {key} there must be ',' or ']', not {}", self.here()));
            }
        }
    }

    /// Text such as `${NODE}` stays as it is: nothing is filled in.
    fn quoted(&mut self) -> Parsed<String> {
        self.skip(1);
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return Err("a text in double quotes has no end on its line".into()),
                Some('"') => {
                    self.skip(1);
                    return Ok(text);
                }
                Some('\\') => {
                    self.skip(1);
                    text.push(self.escape()?);
                }
                Some(c) => {
                    self.skip(c.len_utf8());
                    text.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Parsed<char> {
        let letter = self.peek().unwrap_or(' ');
        self.skip(letter.len_utf8());
        let digits = match letter {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            '"' | '\\' | '/' => return Ok(letter),
            'u' => 4,
            'U' => 8,
            _ => return Err(format!("\\{letter} means nothing in a text; write \\\\ for a backslash")),
        };
        let code = self
            .rest
            .get(..digits)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32);
        self.skip(if code.is_some() { digits } else { 0 });
        code.ok_or_else(|| format!("\\{letter} needs {digits} hexadecimal digits of a character"))
    }

    /// `<<END`, or `<<-END` whose lines lose the indentation that they share.
    fn heredoc(&mut self) -> Parsed<String> {
        self.skip(2);
        let indented = self.accept('-');
        let head = self.rest.find('\n').ok_or("a text that begins with << has no lines")?;
        let mark = self.skip(head + 1).trim();
        if mark.is_empty() || !mark.chars().all(is_word) {
            return Err("<< must be followed by the word that ends the text".into());
        }
        let mut lines = Vec::new();
        loop {
            if self.rest.is_empty() {
                return Err(format!("the text that begins with <<{mark} has no line {mark} at its end"));
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            let line = self.rest.get(..end).unwrap_or_default();
            if line.trim() == mark {
                self.skip(end);
                break;
            }
            lines.push(line);
            self.skip(end + 1);
        }
        let indent = |line: &&str| line.len() - line.trim_start().len();
        let shared = lines.iter().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
        let cut = if indented { shared } else { 0 };
        Ok(lines.iter().flat_map(|line| [line.get(cut..).unwrap_or_default(), "\n"]).collect())
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn bare(word: &str) -> Option<Value> {
    match word {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "null" => Some(Value::Null),
        number => {
            let whole = number.parse::<i64>().ok().map(Value::from);
            let digits = number.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
            whole.or_else(|| {
                number.parse::<f64>().ok().filter(|real| digits && real.is_finite()).map(Value::from)
            })
        }
    }
}

fn labelled(mut value: Value, labels: Vec<String>, key: &str) -> Value {
    let named = NAMED.contains(&key);
    for label in labels.into_iter().rev() {
        match value.as_object_mut() {
            Some(object) if named => {
                object.entry("name").or_insert_with(|| label.into());
            }
            _ => value = Value::Object(Map::from_iter([(label, value)])),
        }
    }
    value
}

/// The second block of a name makes a list of both.
fn append(map: &mut Map<String, Value>, value: Value, key: String) {
    match map.get_mut(&key) {
        None => {
            map.insert(key, value);
        }
        Some(Value::Array(items)) => items.push(value),
        Some(first) => {
            let earlier = first.take();
            *first = Value::Array(vec![earlier, value]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    #[test]
    fn attributes_and_blocks_become_values() {
        let text = r#"
            # comment
            a = "x\n\"\u00e9" // another
            b = [1, -2.5, true, null, ["y"],]
            c = { d = 1, "e f" = 2
              g : 3 }
            /* long
               comment */
            h { i = 1 }
            h { i = 2 }
            "quoted" { "*" = "5s" }
            outer "one" "two" { deep = true }
        "#;
        let expected = json!({
            "a": "x\n\"é", "b": [1, -2.5, true, null, ["y"]], "c": {"d": 1, "e f": 2, "g": 3},
            "h": [{"i": 1}, {"i": 2}], "quoted": {"*": "5s"}, "outer": {"one": {"two": {"deep": true}}},
        });
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn old_habits_are_read() {
        let text = "ports { http = 8500 dns = 8600 }\nservice \"web\" { connect { sidecar_service {} } }";
        let expected = json!({
            "ports": {"http": 8500, "dns": 8600},
            "service": {"name": "web", "connect": {"sidecar_service": {}}},
        });
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(json!({})));
        assert_eq!(parse(" {\"a\": 1}"), Ok(json!({"a": 1})));
    }

    #[test]
    fn long_texts_keep_their_lines() {
        assert_eq!(parse("a = <<EOF\n  x\n\ty\nEOF\nb = 1"), Ok(json!({"a": "  x\n\ty\n", "b": 1})));
        assert_eq!(parse("a = <<-EOF\n    x\n      y\n  EOF"), Ok(json!({"a": "x\n  y\n"})));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, why) in [
            ("a = hostname", 1, "put texts in double quotes"),
            ("\na = \"x", 2, "has no end on its line"),
            ("a = 1\na = 2", 2, "a is given twice"),
            ("a {\n b = 1\n", 3, "'}' is missing at the end"),
            ("a = [1 2]", 1, "',' or ']'"),
            ("a = [1,", 1, "has no ']'"),
            ("a ! 1", 1, "after a there must be '='"),
            ("}", 1, "there must be a key"),
            ("a =\n", 2, "must have a value, not the end of the file"),
            ("a = \"\\x\"", 1, "means nothing in a text"),
            ("a = <<EOF\nx", 2, "has no line EOF"),
            ("/* x", 1, "has no end"),
            ("a = f(1)", 1, "put texts in double quotes"),
        ] {
            let found = parse(text).expect_err(text);
            assert!(found.starts_with(&format!("line {line}: ")) && found.contains(why), "{text:?}: {found}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |levels: usize| format!("{}{}", "a {".repeat(levels), "}".repeat(levels));
        assert!(parse(&deep(super::DEPTH)).is_ok());
        assert!(parse(&deep(super::DEPTH + 1)).is_err_and(|why| why.contains("nests deeper")));
        assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[a-z0-9\"{}\\[\\]=,<>#/*\\\\\n ${}é-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
