//! What it was measured on.

use std::fs;
use std::process::Command;

/// The processor, its cores, the kernel, the compiler and the commit, as far as they are known.
pub fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unnamed processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parts = vec![model.to_owned(), format!("{cores} cores")];
    let directory = option_env!("CARGO_MANIFEST_DIR").unwrap_or(".");
    parts.extend(output(&["uname", "-sr"]));
    parts.extend(output(&["rustc", "--version"]));
    let commit = ["git", "-C", directory, "rev-parse", "--short", "HEAD"];
    parts.extend(output(&commit).map(|commit| format!("commit {commit}")));
    parts.join(", ")
}

/// Lets the servers have as many open files as this program may give them.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are to the local above.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn output(command: &[&str]) -> Option<String> {
    let output = Command::new(command[0]).args(&command[1..]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
