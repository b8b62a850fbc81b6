//! Streams a build as it happens: each line with the second it came in and the stream it came on,
//! and at the end how it ended and what it used. Both streams, in the order they arrived.
//!
//! `cargo run --example build_log -- make -j8`

use std::time::Instant;

use procwire::client::{Client, Command, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The binary, and not a server in this program: Ctrl-C kills the build and all it has started.
    let server = std::env::var_os("PROCWIRE").unwrap_or_else(|| "procwire".into());
    let client = Client::launch([server])?;
    let begun = Instant::now();
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: build_log PROGRAM [ARGUMENT…]")?;
    let mut build = client.spawn(Command::new(program).args(arguments).no_stdin())?;

    let show = |name: &str, line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        println!("{:7.3} {name} {}", begun.elapsed().as_secs_f64(), text.trim_end());
    };
    let mut unfinished = [("out", Vec::new()), ("err", Vec::new())];
    for event in build.events() {
        let (bytes, (name, line)) = match event? {
            Event::Stdout(bytes) => (bytes, &mut unfinished[0]),
            Event::Stderr(bytes) => (bytes, &mut unfinished[1]),
            _ => continue,
        };
        // Output is cut anywhere, so what is after the last line end waits for the rest of its line.
        line.extend_from_slice(&bytes);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            show(name, &line[..end]);
            line.drain(..=end);
        }
    }
    for (name, line) in unfinished.iter().filter(|(_, line)| !line.is_empty()) {
        show(name, line);
    }
    let status = build.wait()?;
    println!("{status}");
    std::process::exit(status.code().unwrap_or(1));
}
