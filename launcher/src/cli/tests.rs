use super::*;

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
    usage::lenient(Cli::command()).debug_assert();
}

fn parsed(line: &str) -> Command {
    let words = line.split_whitespace();
    let words: Vec<OsString> = words.map(OsString::from).collect();
    Cli::read(&words).map(|cli| cli.command).unwrap()
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

/// What a command line that cannot be understood says, and its exit code.
fn refusal(line: &str) -> (String, i32) {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let error = Cli::read(&words).unwrap_err();
    let path = usage::path(&Cli::command(), &words);
    let code = usage::report(Cli::command(), &words, &error);
    (usage::line(&path, &error), code)
}

#[test]
fn scripts_that_speak_of_content_trust_go_on() {
    for verb in ["run", "create", "pull", "push"] {
        for value in ["", "=true", "=false"] {
            let line = format!("hawser {verb} --disable-content-trust{value} img");
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(Cli::read(&words).is_ok(), "{line}");
        }
    }
}

#[test]
fn bad_command_lines_are_one_line_with_dockers_exit_codes() {
    for (line, code, expected) in [
        (
            "hawser run --bogus img",
            125,
            "unknown flag --bogus for \"run\": see 'hawser run --help'",
        ),
        (
            "hawser network create --subnt 10.0.0.0/8 n",
            125,
            "unknown flag --subnt for \"network create\", did you mean --subnet? \
             see 'hawser network create --help'",
        ),
        (
            "hawser run --network",
            125,
            "flag --network needs a value for \"run\": see 'hawser run --help'",
        ),
        (
            "hawser run --rm=maybe img",
            125,
            "invalid value \"maybe\" for --rm for \"run\": expected true or false: \
             see 'hawser run --help'",
        ),
        (
            "hawser inspect --type x a",
            125,
            "invalid value \"x\" for --type for \"inspect\": expected container, image, network, \
             volume, service, node: see 'hawser inspect --help'",
        ),
        (
            "hawser volume prune -a --anonymous",
            125,
            "--all does not go with --anonymous for \"volume prune\": \
             see 'hawser volume prune --help'",
        ),
        (
            "hawser run",
            1,
            "missing IMAGE for \"run\": see 'hawser run --help'",
        ),
        (
            "hawser network create",
            1,
            "missing NAME for \"network create\": see 'hawser network create --help'",
        ),
        (
            "hawser network connect",
            1,
            "missing NETWORK and CONTAINER for \"network connect\": \
             see 'hawser network connect --help'",
        ),
        (
            "hawser ps extra",
            1,
            "unexpected argument \"extra\" for \"ps\": see 'hawser ps --help'",
        ),
        (
            "hawser netwrk ls",
            1,
            "unknown command \"netwrk\", did you mean network? see 'hawser --help'",
        ),
        (
            "hawser network inspct",
            1,
            "unknown command \"inspct\" for \"network\", did you mean inspect? \
             see 'hawser network --help'",
        ),
    ] {
        assert_eq!(refusal(line), (expected.to_owned(), code), "{line}");
    }
}

#[test]
fn switches_take_a_value_and_the_last_one_counts() {
    let Command::Run(flags) =
        parsed("hawser run --rm -dit=false --rm=false --name a --name b img --rm")
    else {
        panic!("no run");
    };
    assert!(flags.detach && flags.create.interactive);
    assert!(!flags.create.rm && !flags.create.tty);
    assert_eq!(flags.create.name.as_deref(), Some("b"));
    assert_eq!(flags.create.command(), ["--rm"]);
}

#[test]
fn help_is_found_by_either_way() {
    for line in [
        "hawser help network create",
        "hawser network create --help",
        "hawser network help create",
    ] {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        assert_eq!(usage::path(&Cli::command(), &words), ["network", "create"]);
        assert_eq!(refusal(line).1, 0, "{line}");
    }
}

#[test]
fn what_docker_has_and_cannot_be_is_refused_with_the_way_out() {
    for (line, code, way) in [
        ("hawser build .", 1, "build is not supported: buildah"),
        ("hawser image build .", 1, "hawser load takes them"),
        ("hawser stack deploy -c f s", 1, "hawser service create"),
        ("hawser secret ls", 1, "--mount type=bind"),
        (
            "hawser service create --secret s img",
            125,
            "--secret is not supported: keep it in a file",
        ),
        (
            "hawser service update --config-rm=c web",
            125,
            "--config-rm is not supported: keep it in a file",
        ),
        (
            "hawser service create --generic-resource gpu=1 img",
            125,
            "--constraint node.labels.NAME==VALUE",
        ),
        (
            "hawser service create --mode replicated-job img",
            125,
            "--restart-condition none",
        ),
        (
            "hawser swarm ca --rotate --external-ca protocol=cfssl",
            125,
            "--ca-cert FILE --ca-key FILE",
        ),
        (
            "hawser swarm init --force-new-cluster",
            125,
            "hawser swarm restore --force FILE",
        ),
        (
            "hawser swarm update --dispatcher-heartbeat 5s",
            125,
            "hawser swarm init --dispatcher-heartbeat",
        ),
        ("hawser run --gpus all img", 125, "--device"),
        ("hawser create --isolation hyperv img", 125, "leave it out"),
    ] {
        let (said, exit_code) = refusal(line);
        assert!(said.contains(way) && !said.contains('\n'), "{line}: {said}");
        assert_eq!(exit_code, code, "{line}");
    }
}

#[test]
fn a_service_has_hosts_and_a_command_line_a_daemon() {
    let words = [
        "hawser",
        "--host",
        "unix:///d",
        "service",
        "create",
        "--host",
        "db:::1",
        "img",
    ];
    let words = words.map(OsString::from);
    let cli = Cli::read(&words).unwrap();
    assert_eq!(cli.host.as_deref(), Some("unix:///d"));
    let Command::Service(service::ServiceCommand::Create(flags)) = cli.command else {
        panic!("no service create");
    };
    assert_eq!(flags.new.add_host, ["db:::1"]);
    let after = ["hawser", "ps", "-H", "unix:///d"].map(OsString::from);
    assert_eq!(
        Cli::read(&after).unwrap().daemon.as_deref(),
        Some("unix:///d")
    );
}
