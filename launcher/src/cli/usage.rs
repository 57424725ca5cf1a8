//! Command lines that cannot be understood: one line each, with the way out and Docker's exit
//! code.
//!
//! Help is rendered from the grammar as it is written; command lines are read with
//! [`lenient`] grammar, where a switch also takes a value as Docker's do (`--ipv4=false`).

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::{foreign, output};

/// Exit code of a flag that cannot be understood, as Docker's.
const EXIT_FLAG: i32 = 125;

/// The grammar in which a switch may be given a value, and the last of several values counts.
pub(super) fn lenient(command: Command) -> Command {
    let command = command.args_override_self(true).mut_args(|arg| {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            with_value(arg)
        } else {
            arg
        }
    });
    command.mut_subcommands(lenient)
}

fn with_value(switch: Arg) -> Arg {
    switch
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .value_parser(truth)
}

/// The texts that Go's `strconv.ParseBool` knows, which Docker's switches take.
pub(super) fn truth(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Says what is wrong with the command line, or prints the help it asks for; returns the exit code.
pub(super) fn report(grammar: Command, arguments: &[OsString], error: &clap::Error) -> i32 {
    let path = path(&grammar, arguments);
    match error.kind() {
        ErrorKind::DisplayHelp => {
            print_help(grammar, &path, false);
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print_help(grammar, &path, true);
            1
        }
        ErrorKind::DisplayVersion => {
            // Nobody is left to be told if this fails.
            drop(error.print());
            0
        }
        _ => {
            output::warn(format_args!("hawser: {}", line(&path, error)));
            exit_code(error)
        }
    }
}

/// What is wrong, and where to read on.
pub(super) fn line(path: &[String], error: &clap::Error) -> String {
    let mut words = vec!["hawser".to_owned()];
    words.extend_from_slice(path);
    let place = if path.is_empty() {
        String::new()
    } else {
        format!(" for {:?}", path.join(" "))
    };
    if let Some(refusal) = foreign(path, error) {
        return refusal;
    }
    let (wrong, meant) = cause(error, &place);
    let meant = match meant {
        Some(meant) => format!(", did you mean {meant}?"),
        None => ":".to_owned(),
    };
    format!("{wrong}{meant} see '{} --help'", words.join(" "))
}

/// What is wrong only here, and right for Docker.
fn foreign(path: &[String], error: &clap::Error) -> Option<String> {
    let argument = text(error, ContextKind::InvalidArg);
    let word = match error.kind() {
        ErrorKind::UnknownArgument => name(&argument).to_owned(),
        ErrorKind::InvalidSubcommand => text(error, ContextKind::InvalidSubcommand),
        ErrorKind::InvalidValue => {
            let value = text(error, ContextKind::InvalidValue);
            format!("{} {value}", name(&argument))
        }
        _ => return None,
    };
    foreign::way_out(path, &word)
}

fn exit_code(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::TooFewValues
        | ErrorKind::InvalidSubcommand => 1,
        ErrorKind::UnknownArgument if !text(error, ContextKind::InvalidArg).starts_with('-') => 1,
        _ => EXIT_FLAG,
    }
}

/// The error in words, and what may have been meant.
fn cause(error: &clap::Error, place: &str) -> (String, Option<String>) {
    let argument = text(error, ContextKind::InvalidArg);
    let flag = name(&argument);
    let value = text(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let meant = best(error, ContextKind::SuggestedArg);
            (format!("unknown flag {argument}{place}"), meant)
        }
        ErrorKind::UnknownArgument => (format!("unexpected argument {argument:?}{place}"), None),
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand);
            let meant = best(error, ContextKind::SuggestedSubcommand);
            (format!("unknown command {name:?}{place}"), meant)
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(error, ContextKind::InvalidArg);
            let missing: Vec<String> = missing.iter().map(|argument| bare(argument)).collect();
            (format!("missing {}{place}", missing.join(" and ")), None)
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::NoEquals
            if value.is_empty() =>
        {
            (format!("flag {flag} needs a value{place}"), None)
        }
        ErrorKind::InvalidValue => {
            let expected = list(error, ContextKind::ValidValue).join(", ");
            let meant = best(error, ContextKind::SuggestedValue);
            let wrong = format!("invalid value {value:?} for {flag}{place}: expected {expected}");
            (wrong, meant)
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map_or_else(String::new, ToString::to_string);
            (
                format!("invalid value {value:?} for {flag}{place}: {why}"),
                None,
            )
        }
        ErrorKind::TooManyValues => (format!("flag {flag} takes no value {value:?}{place}"), None),
        ErrorKind::ArgumentConflict => {
            let others = list(error, ContextKind::PriorArg);
            let others: Vec<&str> = others.iter().map(|other| name(other)).collect();
            let wrong = format!("{flag} does not go with {}{place}", others.join(", "));
            (wrong, None)
        }
        _ => {
            let rendered = error.to_string();
            let first = rendered.lines().next().unwrap_or_default();
            (first.trim_start_matches("error: ").to_owned(), None)
        }
    }
}

/// `--name <NAME>`, `--all[=<ALL>]` without the value.
fn name(argument: &str) -> &str {
    argument.split([' ', '=', '[']).next().unwrap_or_default()
}

/// `<IMAGE> [COMMAND]...` without the marks and what may follow.
fn bare(placeholder: &str) -> String {
    let first = placeholder.split(' ').next().unwrap_or_default();
    first.replace(['<', '>'], "").replace("...", "")
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    list(error, kind).join(" ")
}

/// Suggestions ascend by their likeness.
fn best(error: &clap::Error, kind: ContextKind) -> Option<String> {
    list(error, kind).pop()
}

fn list(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// The subcommands that `arguments` name, as far as the grammar knows them.
pub(super) fn path(grammar: &Command, arguments: &[OsString]) -> Vec<String> {
    let mut path = Vec::new();
    let mut command = grammar;
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        if matches!(word, "-H" | "--host") {
            words.next();
        } else if word == "help" {
            // `hawser help network create` is about the words that follow.
        } else if !word.starts_with('-') {
            let Some(next) = command.find_subcommand(word) else {
                break;
            };
            path.push(next.get_name().to_owned());
            command = next;
        }
    }
    path
}

fn print_help(mut grammar: Command, path: &[String], to_stderr: bool) {
    grammar.build();
    let mut command = &mut grammar;
    for name in path {
        if command.find_subcommand(name).is_none() {
            break;
        }
        let found = command.find_subcommand_mut(name);
        let Some(next) = found else { return };
        command = next;
    }
    let help = command.render_help();
    if to_stderr {
        output::warn(help);
    } else {
        // A reader that has gone, such as `head`, has seen enough.
        drop(output::write(help));
    }
}
