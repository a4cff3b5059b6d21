//! Consul writes long flags with one dash (`-deny`, `-format=json`); here those become what the parser expects.
//!
//! Only words that are a long flag of the command at hand change. What a flag takes as its value stays untouched, and
//! so does everything behind `--`.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// The arguments as the parser wants them. `root` is the whole command tree.
pub(super) fn rewrite(root: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = arguments.into_iter();
    let mut out: Vec<OsString> = words.next().into_iter().collect();
    let mut level = root;
    let mut value_follows = false;
    for word in words.by_ref() {
        if std::mem::take(&mut value_follows) {
            out.push(word);
            continue;
        }
        let Some(text) = word.to_str() else {
            out.push(word);
            continue;
        };
        if text == "--" {
            out.push(word);
            break;
        }
        let Some((name, value)) = flag(text) else {
            if let Some(next) = level.find_subcommand(text) {
                level = next;
            }
            out.push(word);
            continue;
        };
        match find(root, level, name) {
            Some(arg) if is_switch(arg) => match value {
                None | Some("true") => out.push(format!("--{name}").into()),
                // Off is how it stands without the flag.
                Some("false") => {}
                Some(_) => out.push(word),
            },
            Some(arg) => {
                value_follows = value.is_none() && arg.get_action().takes_values() && !is_optional(arg);
                out.push(format!("--{}", text.trim_start_matches('-')).into());
            }
            // The parser makes this one itself, so it is not among the arguments yet.
            None if name == "version" && value.is_none() && std::ptr::eq(level, root) => {
                out.push("--version".into());
            }
            None => out.push(word),
        }
    }
    out.extend(words);
    out
}

/// The name of a long flag in either spelling, and the value that it carries.
fn flag(text: &str) -> Option<(&str, Option<&str>)> {
    let body = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    };
    // One letter is a short flag, a digit a negative number.
    let long = name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic());
    long.then_some((name, value))
}

fn find<'a>(root: &'a Command, level: &'a Command, name: &str) -> Option<&'a Arg> {
    let named = |arg: &&Arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    let global = root.get_arguments().filter(|arg| arg.is_global_set());
    level.get_arguments().chain(global).find(named)
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

fn is_optional(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|range| range.min_values() == 0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::rewrite;
    use crate::cli::Cli;

    fn rewritten(line: &str) -> String {
        let words = line.split_whitespace().map(Into::into);
        let out = rewrite(&Cli::command(), words);
        out.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn single_dash_long_flags_of_the_command_get_their_second_dash() {
        for (typed, meant) in [
            ("purlin intention create -deny web api", "purlin intention create --deny web api"),
            ("purlin version -format=json", "purlin version --format=json"),
            ("purlin -version", "purlin --version"),
            ("purlin members -http-addr=10.0.0.1:8500", "purlin members --http-addr=10.0.0.1:8500"),
            (
                "purlin members -http-addr 10.0.0.1:8500 -detailed",
                "purlin members --http-addr 10.0.0.1:8500 --detailed",
            ),
            (
                "purlin config read -kind proxy-defaults -name global",
                "purlin config read --kind proxy-defaults --name global",
            ),
            ("purlin intention create -deny=true a b", "purlin intention create --deny a b"),
            ("purlin intention create -deny=false a b", "purlin intention create a b"),
            ("purlin agent -config-dir=/etc/x", "purlin agent --config-dir=/etc/x"),
        ] {
            assert_eq!(rewritten(typed), meant);
        }
    }

    #[test]
    fn everything_else_stays_as_typed() {
        for line in [
            "purlin intention create --deny web api",
            "purlin services register --name -deny",
            "purlin services register -- -name",
            "purlin -h",
            "purlin config write -",
            "purlin intention create -unknown a b",
            // A flag of another command.
            "purlin members -deny",
            "purlin agent -c x",
        ] {
            assert_eq!(rewritten(line), line);
        }
    }
}
