//! `hawser`: containers, networks and volumes from the command line.

fn main() {
    std::process::exit(launcher::cli::main(std::env::args_os()));
}
