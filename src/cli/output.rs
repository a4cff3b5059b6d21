//! What commands print: aligned tables or the API's JSON on standard output, and nothing else there.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// How answers are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    // For people.
    #[default]
    #[value(alias = "pretty")]
    Table,
    // The API's answer, for programs.
    Json,
}

/// Standard output, or a buffer in tests.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    colours: bool,
}

impl Screen {
    pub(super) fn stdout() -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { out: Box::new(io::stdout()), colours }
    }

    #[cfg(test)]
    pub(super) fn into(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), colours: false }
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Indented by four, as Consul prints it.
    pub(super) fn json(&mut self, value: &Value) -> io::Result<()> {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        serde::Serialize::serialize(value, &mut serializer).map_err(io::Error::other)?;
        bytes.push(b'\n');
        self.raw(&bytes)
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        let text = table.render(self.colours);
        self.raw(text.as_bytes())
    }
}

/// Columns as wide as their widest cell, two blanks between them.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A control character in a name must not reach the terminal.
        let clean = |cell: String| match cell.as_str() {
            "" => "-".to_owned(),
            _ => cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Lines of name and value, without a head.
    pub(super) fn pairs() -> Self {
        Self::default()
    }

    fn render(&self, colours: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let blanks = width.saturating_sub(cell.chars().count()) + 2;
                line.push_str(&paint(cell, colours));
                line.extend(std::iter::repeat_n(' ', blanks));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Words that say good or bad stand out on a terminal.
fn paint(cell: &str, colours: bool) -> String {
    let code = match cell {
        "passing" | "alive" | "allow" | "Allowed" => 32,
        "warning" | "leaving" => 33,
        "critical" | "failed" | "deny" | "Denied" => 31,
        _ => return cell.to_owned(),
    };
    if colours { format!("\u{1b}[{code}m{cell}\u{1b}[0m") } else { cell.to_owned() }
}

/// The text of a field, numbers and flags as they are, empty where there is none.
pub(super) fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), Into::into));
            texts.collect::<Vec<_>>().join(",")
        }
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Table, field};

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let mut table = Table::new(&["Node", "Status", "DC"]);
        table.row(["a-long-name".into(), "alive".into(), "dc1".into()]);
        table.row(["é".into(), String::new(), "x\u{1b}[2J".into()]);
        let expected = "Node         Status  DC\na-long-name  alive   dc1\né            -       x?[2J\n";
        assert_eq!(table.render(false), expected);
        assert!(table.render(true).contains("\u{1b}[32malive\u{1b}[0m   dc1"));
    }

    #[test]
    fn fields_of_any_kind_become_text() {
        let value = json!({"a": "x", "b": 7, "c": ["p", "q"], "d": {"k": "v"}, "e": null});
        let texts = ["a", "b", "c", "d", "e", "f"].map(|name| field(&value, name));
        assert_eq!(texts, ["x", "7", "p,q", "k=v", "", ""]);
    }
}
