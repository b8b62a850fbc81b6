//! Feeds a compressor: bytes go in at one end while they come out at the other. One thread writes
//! and one reads, as with any pipe; a compressor that is slow slows the writer.
//!
//! `cargo run --example compress -- gzip -9 < Cargo.lock > Cargo.lock.gz`

use std::io::{self, Write};

use procwire::Config;
use procwire::client::{Client, Command};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::in_process(Config::default())?;
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: compress PROGRAM [ARGUMENT…]")?;
    let mut compressor = client.spawn(Command::new(program).args(arguments).wait_when_unread())?;
    let (Some(mut input), Some(mut output)) = (compressor.stdin.take(), compressor.stdout.take()) else {
        unreachable!("both are connected unless the command says otherwise");
    };

    // Dropped at its end, which closes the stdin of the compressor.
    let feeder = std::thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut input));
    let mut stdout = io::stdout().lock();
    let written = io::copy(&mut output, &mut stdout)?;
    stdout.flush()?;
    let read = feeder.join().expect("copying does not panic")?;

    let mut complaints = compressor.stderr.take().expect("it is streamed as well");
    io::copy(&mut complaints, &mut io::stderr())?;
    let status = compressor.wait()?;
    eprintln!("{read} bytes in, {written} out, {status}");
    std::process::exit(status.code().unwrap_or(1));
}
