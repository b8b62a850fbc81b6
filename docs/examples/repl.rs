//! Drives a REPL on a terminal with `expect`: waits for its prompt, types a line, shows the answer.
//!
//! `cargo run --example repl -- '6 * 7' 'import sys' 'sys.stdout.isatty()'`

use std::io::Write;
use std::time::Duration;

use procwire::Config;
use procwire::client::{Client, Command, Condition, Event};

const PROMPT: &str = ">>> ";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::in_process(Config::default())?;
    // PYTHON_BASIC_REPL: a line editor would paint the prompt in colours.
    let mut python = Command::new("python3");
    python
        .args(["-q", "-i"])
        .tty(24, 200)
        .timeout(Duration::from_secs(60));
    python.env("PYTHON_BASIC_REPL", "1").env("TERM", "dumb");
    let mut repl = client.spawn(python)?;
    let control = repl.control();
    let mut keyboard = repl
        .stdin
        .take()
        .expect("it has one unless the command says otherwise");
    let mut output = repl.events();

    // Its first prompt may have been there before anything was waited for; that it reads is seen at any time.
    repl.wait_until([Condition::Input], None)?;
    while output.next_timeout(Duration::ZERO).is_some() {}
    for line in std::env::args().skip(1) {
        // The wait begins before the line is typed, so no answer is too fast for it.
        let found = control.expect_after(&[PROMPT], || writeln!(keyboard, "{line}"))?;
        // All up to the prompt is here by now: the echo of the line, and the answer.
        let mut shown = Vec::new();
        while let Some(Some(Event::Stdout(bytes))) = output.next_timeout(Duration::ZERO).transpose()? {
            shown.extend(bytes);
        }
        let shown = String::from_utf8_lossy(&shown).replace("\r\n", "\n");
        let (_, answer) = shown.split_once('\n').unwrap_or_default();
        println!("{line} -> {}", answer.trim_end_matches(PROMPT).trim_end());
        if found.is_none() {
            return Err(format!("the REPL has ended: {}", control.wait()?).into());
        }
    }
    drop(keyboard); // types end-of-file
    std::process::exit(control.wait()?.code().unwrap_or(1));
}
