//! What Docker's grammar has and cannot be here, with what does the work instead.

const BUILD: &str = "buildah or podman builds images, and hawser load takes them";
const STACK: &str = "give each service its own hawser service create; networks and volumes stay";
const SECRET: &str = "keep it in a file of each host and give that with --mount \
                      type=bind,source=FILE,target=/run/secrets/NAME,readonly";
const CONFIG: &str = "keep it in a file of each host, or a volume, and give that with --mount \
                      type=bind,source=FILE,target=/NAME,readonly";
const RESOURCE: &str = "label the hosts that have it (hawser node update --label-add) and use \
                        --constraint node.labels.NAME==VALUE";
const JOB: &str = "a service whose replicas end by themselves is one with --restart-condition none";
const WINDOWS: &str = "it is for containers of Windows: leave it out";

/// Commands, by their names, and flags, by their command's or any.
const COMMANDS: [(&str, &str); 10] = [
    ("build", BUILD),
    ("builder", BUILD),
    ("buildx", BUILD),
    ("compose", STACK),
    ("stack", STACK),
    ("secret", SECRET),
    ("config", CONFIG),
    (
        "plugin",
        "a plugin is a program with a socket in /run/docker/plugins; start it as its maker says",
    ),
    (
        "trust",
        "signatures are not looked at: name images by digest, NAME@sha256:…",
    ),
    ("context", "name the daemon with -H or HAWSER_HOST"),
];
const FLAGS: [(&str, &str, &str); 18] = [
    ("service", "--secret", SECRET),
    ("service", "--secret-add", SECRET),
    ("service", "--secret-rm", SECRET),
    ("service", "--config", CONFIG),
    ("service", "--config-add", CONFIG),
    ("service", "--config-rm", CONFIG),
    ("service", "--generic-resource", RESOURCE),
    ("service", "--generic-resource-add", RESOURCE),
    ("service", "--generic-resource-rm", RESOURCE),
    ("service", "--max-concurrent", JOB),
    ("service", "--mode replicated-job", JOB),
    ("service", "--mode global-job", JOB),
    (
        "swarm",
        "--external-ca",
        "managers give the certificates, as an authority of yours with hawser swarm ca --rotate \
         --ca-cert FILE --ca-key FILE",
    ),
    (
        "swarm",
        "--force-new-cluster",
        "hawser swarm restore --force FILE begins a cluster again from a backup, with this host as its \
         only manager",
    ),
    (
        "swarm",
        "--dispatcher-heartbeat",
        "nodes are told it when the cluster begins: hawser swarm init --dispatcher-heartbeat",
    ),
    ("", "--credential-spec", WINDOWS),
    ("", "--isolation", WINDOWS),
    (
        "",
        "--gpus",
        "give the devices with --device, or all that their maker's runtime adds with --runtime",
    ),
];

/// Why the command line of `path` cannot have a `word`: a command, a flag, or a flag with its value.
pub(super) fn way_out(path: &[String], word: &str) -> Option<String> {
    let area = path.first().map_or("", String::as_str);
    let flags = FLAGS.iter();
    let mut flags = flags.filter(|(of, flag, _)| *flag == word && (of.is_empty() || *of == area));
    let mut commands = COMMANDS.iter();
    let way = match flags.next() {
        Some((_, _, way)) => way,
        None if path.is_empty() || path == ["image"] => {
            &commands.find(|(command, _)| *command == word)?.1
        }
        None => return None,
    };
    Some(format!("{word} is not supported: {way}"))
}
