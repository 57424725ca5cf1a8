//! The program that holds one container; see [`launcher::shim`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = launcher::shim::main(std::env::args_os().skip(1));
    // Codes above 255 do not exist.
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
