//! Answers a password prompt, whatever it says: waits until the program reads its terminal with the echo
//! off, and types what the variable PASSWORD has.
//!
//! `PASSWORD=… cargo run --example password -- ssh build.example uptime`

use std::io::{self, Write};
use std::time::Duration;

use procwire::Config;
use procwire::client::{Client, Command, Condition};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let password = std::env::var("PASSWORD")?;
    let client = Client::in_process(Config::default())?;
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: password PROGRAM [ARGUMENT…]")?;
    let mut process = client.spawn(Command::new(program).args(arguments).tty(24, 80))?;
    let (Some(mut keyboard), Some(mut screen)) = (process.stdin.take(), process.stdout.take()) else {
        unreachable!("both are connected unless the command says otherwise");
    };
    let shown = std::thread::spawn(move || io::copy(&mut screen, &mut io::stdout()));

    let mut asked = 0;
    let until = [Condition::Input, Condition::Exit];
    while process.wait_until(until.clone(), Duration::from_secs(60))?.index == Some(0) {
        let terminal = process.inspect()?.terminal;
        asked += 1;
        // A second prompt says that it was wrong; one with the echo on is about something else.
        if asked > 1 || terminal.is_none_or(|terminal| terminal.echo) {
            break;
        }
        writeln!(keyboard, "{password}")?;
    }
    // What has not ended by now waits for an answer that is not here.
    let status = match process.wait_timeout(Duration::ZERO)? {
        Some(status) => status,
        None => {
            process.kill()?;
            process.wait()?
        }
    };
    shown.join().expect("copying does not panic")?;
    eprintln!("asked {asked} times, {status}");
    std::process::exit(status.code().unwrap_or(1));
}
