use clap::CommandFactory;

use super::*;

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

fn parsed(line: &str) -> Command {
    let words = line.split_whitespace();
    Cli::try_parse_from(words).map(|cli| cli.command).unwrap()
}

#[test]
fn short_and_long_spellings_are_the_same() {
    for (short, long) in [
        (
            "hawser run -dit --name a img sh",
            "hawser container run -dit --name a img sh",
        ),
        ("hawser create img", "hawser container create img"),
        ("hawser ps -aq", "hawser container ls -aq"),
        ("hawser stop -t 1 a", "hawser container stop -t 1 a"),
        ("hawser rm -fv a", "hawser container rm a -f -v"),
        (
            "hawser exec -it a sh -c ls",
            "hawser container exec -it a sh -c ls",
        ),
        ("hawser images", "hawser image ls"),
        ("hawser rmi -f a", "hawser image rm a -f"),
        ("hawser load -i x", "hawser image load --input x"),
        ("hawser import - img", "hawser image import - img"),
        ("hawser info", "hawser system info"),
    ] {
        let text = |line| {
            let text = format!("{:?}", parsed(line));
            // The innermost flags are what counts, not the path to them.
            text[text.find("Flags").unwrap()..]
                .trim_end_matches(')')
                .to_owned()
        };
        assert_eq!(text(short), text(long), "{short}");
    }
}

#[test]
fn every_word_after_the_container_is_the_command() {
    let Command::Short(ShortContainerCommand::Exec(flags)) =
        parsed("hawser exec -e A=1 c ls -l -t")
    else {
        panic!("no exec");
    };
    assert_eq!(flags.container_and_command, ["c", "ls", "-l", "-t"]);
    assert!(!flags.tty);
}

#[test]
fn bad_command_lines_have_dockers_exit_codes() {
    let code = |line: &str| {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        usage(&error)
    };
    assert_eq!(code("hawser run --bogus img"), 125);
    assert_eq!(code("hawser ps --bogus"), 125);
    assert_eq!(code("hawser run"), 1);
    assert_eq!(code("hawser rm"), 1);
    assert_eq!(code("hawser bogus"), 1);
    assert_eq!(code("hawser run --help"), 0);
}
