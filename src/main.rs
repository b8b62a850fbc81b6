//! The program `procwire`: the module `cli` of the library, and what a program alone decides.
//!
//! **Thread:** main.
//! **Owns:** the allocator.
//! **Never:** does anything else; `cli/mod.rs` does.

/// Nothing but a thread that is to be started is refused for want of memory: everything else is needed
/// to answer, and to kill what runs.
#[global_allocator]
static ALLOCATOR: procwire::cli::Allocator = procwire::cli::Allocator;

fn main() -> std::process::ExitCode {
    procwire::cli::main()
}
