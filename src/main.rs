//! The `chapar` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    chapar::cli::main()
}
