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
            let next = level.find_subcommand(text);
            let runs = level.get_arguments().any(Arg::is_trailing_var_arg_set);
            let is_last = runs && next.is_none() && !text.starts_with('-');
            value_follows = is_short_with_value(level, text);
            level = next.unwrap_or(level);
            out.push(word);
            if is_last {
                // What follows belongs to the command that is to be run.
                break;
            }
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
            // The parser shall complain of the whole word, not of its first letter.
            None if has_short(root, level, name) => out.push(word),
            None => out.push(format!("--{}", text.trim_start_matches('-')).into()),
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

/// Whether the word may be short flags, or one with its value behind it.
fn has_short(root: &Command, level: &Command, name: &str) -> bool {
    let global = root.get_arguments().filter(|arg| arg.is_global_set());
    let known = level.get_arguments().chain(global).filter_map(Arg::get_short);
    known.chain(['h', 'V']).any(|short| name.starts_with(short))
}

fn is_short_with_value(level: &Command, text: &str) -> bool {
    let short = text.strip_prefix('-').and_then(|rest| rest.parse::<char>().ok());
    let named = |arg: &Arg| arg.get_short().is_some() && arg.get_short() == short;
    level.get_arguments().any(|arg| named(arg) && arg.get_action().takes_values() && !is_optional(arg))
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
            // Of no command, or of another one.
            ("purlin intention create -unknown a b", "purlin intention create --unknown a b"),
            ("purlin members -deny", "purlin members --deny"),
            ("purlin lock -shell=false -n 2 a b -try", "purlin lock --shell=false -n 2 a b -try"),
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
            // Flags of the command that is run.
            "purlin lock jobs sleep -name x",
            "purlin agent -c x",
            "purlin agent -cx.hcl",
        ] {
            assert_eq!(rewritten(line), line);
        }
    }
}
