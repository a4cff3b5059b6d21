//! The command line as a whole: every command explains itself, and what is typed is what is meant.

use clap::{Command, CommandFactory, Parser};

use super::Cli;

mod talk;

/// Calls `visit` with each command below `command` and the words that lead to it.
fn walk(command: &Command, path: &str, visit: &mut impl FnMut(&str, &Command)) {
    visit(path, command);
    for inner in command.get_subcommands() {
        walk(inner, &format!("{path} {}", inner.get_name()), visit);
    }
}

#[test]
fn every_command_has_an_example_and_says_what_it_does() {
    let mut seen = 0;
    walk(&Cli::command(), "purlin", &mut |path, command| {
        let help = command.clone().render_long_help().to_string();
        let example = help.split("Example").nth(1).unwrap_or_default();
        assert!(example.contains(path), "{path}: its help has no example of it");
        assert!(command.get_about().is_some(), "{path}: its help does not say what it does");
        seen += 1;
    });
    assert!(seen > 35, "only {seen} commands were seen");
}

#[test]
fn every_example_can_be_typed() {
    walk(&Cli::command(), "purlin", &mut |path, command| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter_map(|line| line.strip_prefix("  ")) {
            let typed = line.split("                ").next().unwrap_or_default();
            let typed = typed.split(" && ").next().unwrap_or_default();
            let typed = typed
                .split(" > ")
                .next()
                .unwrap_or_default()
                .trim_start_matches("TOKEN=$(")
                .trim_end_matches(')');
            let typed = typed.split(" | ").last().unwrap_or_default().split("  ").next().unwrap_or_default();
            let words = words(typed);
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{path}: {line}: {error}");
            }
        }
    });
}

/// Splits as a shell does, as far as the examples need it.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn an_error_says_each_cause_once() {
    let full = || anyhow::anyhow!("the disk is full");
    assert_eq!(super::told(&full().context("cannot start")), "cannot start: the disk is full");
    let said = full().context("cannot start: the disk is full");
    assert_eq!(super::told(&said), "cannot start: the disk is full");
}

#[test]
fn the_tree_of_commands_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "purlin",
        "purlin members --nonsense",
        "purlin intention create --allow --deny a b",
        "purlin intention create a",
        "purlin server --bootstrap --join x",
        "purlin join-token create --ttl soon",
        "purlin join-token create --uses 0",
        "purlin services register",
        "purlin config write --cas x",
        "purlin validate",
        "purlin log-level loud",
        "purlin maint --enable --disable",
        "purlin operator raft remove-peer",
        "purlin operator raft remove-peer --id x --address y",
        "purlin operator autopilot set-config --cleanup-dead-servers=perhaps",
        "purlin operator autopilot set-config --last-contact-threshold soon",
    ] {
        let code = Cli::try_parse_from(words(line)).map_err(|error| error.exit_code());
        assert_eq!(code.err(), Some(2), "{line}");
    }
}
