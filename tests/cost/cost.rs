//! Counts the instructions of what is done for every message, and compares with what is recorded.
//!
//! Time is too noisy to fail a build; instructions are not. Each task is run under callgrind twice,
//! with a number of rounds and with twice as many, so that what remains is the cost of a round.
//!
//! ```sh
//! RUSTFLAGS='--cfg fuzzing' cargo run --release --target-dir target/cost --example cost
//! ```
//!
//! compares with `tests/cost/recorded` and exits with 1 if something costs a quarter more; with
//! `--record` it writes that file. The flag opens the library's door for fuzzers, through which one
//! message can be parsed or framed alone, and starts `cat` whatever is asked for. Of a spawn, what the
//! server does is counted, from the request to the exit, its threads included; `cat` is not. It is
//! started as where `close_range` is refused, because callgrind cannot follow what is done elsewhere.

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("build it with RUSTFLAGS='--cfg fuzzing', so that single messages can be reached");
    std::process::exit(2);
}

#[cfg(fuzzing)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--task", name, rounds] => tasks::run(name, rounds.parse()?),
        [] => driver::compare(),
        ["--record"] => driver::record(),
        _ => Err("usage: cost [--record]".into()),
    }
}

/// The work itself, in the process that is counted.
#[cfg(fuzzing)]
mod tasks {
    use std::hint::black_box;
    use std::time::Duration;

    use procwire::fuzzing;
    use procwire::protocol::{Exited, OutputDelta, Request, ServerMessage, SpawnParams, Stream};
    use procwire::{Config, Connection, serve};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// Each task with the rounds it is counted over.
    pub const ALL: [(&str, u32); 8] = [
        ("parse process/kill", 2_000),
        ("parse process/spawn", 2_000),
        ("parse process/writeStdin of 64 KiB", 100),
        ("frame a delta of 16 bytes", 2_000),
        ("frame a delta of 64 KiB", 100),
        ("frame process/exited", 2_000),
        ("process/list over lines", 500),
        ("a spawn in memory, to its exit", 100),
    ];

    pub fn run(name: &str, rounds: u32) -> Outcome {
        match name {
            "parse process/kill" => parse(
                rounds,
                r#"{"id":7,"method":"process/kill","params":{"processHandle":"build-17","signal":"SIGINT"}}"#,
            ),
            "parse process/spawn" => parse(
                rounds,
                r#"{"id":7,"method":"process/spawn","params":{"command":["sh","-c","exit 3"],"processHandle":"build-17","cwd":"/","env":{"LANG":"C","DEBUG":null},"streamStdin":true,"timeoutMs":null}}"#,
            ),
            "parse process/writeStdin of 64 KiB" => {
                let base64 = "QUJD".repeat(65_536 / 3);
                parse(
                    rounds,
                    &format!(
                        r#"{{"id":7,"method":"process/writeStdin","params":{{"processHandle":"build-17","deltaBase64":"{base64}"}}}}"#
                    ),
                )
            }
            "frame a delta of 16 bytes" => frame(rounds, &delta(16)),
            "frame a delta of 64 KiB" => frame(rounds, &delta(65_536)),
            "frame process/exited" => frame(rounds, &exited()),
            "process/list over lines" => list(rounds),
            "a spawn in memory, to its exit" => spawn(rounds),
            _ => Err(format!("no task {name:?}").into()),
        }
    }

    fn parse(rounds: u32, line: &str) -> Outcome {
        for _ in 0..rounds {
            black_box(fuzzing::parse(black_box(line.as_bytes())));
        }
        match fuzzing::parse(line.as_bytes()) {
            (fuzzing::ClientMessage::Request { .. }, _) => Ok(()),
            (other, _) => Err(format!("it should be understood: {other:?}").into()),
        }
    }

    fn frame(rounds: u32, message: &ServerMessage) -> Outcome {
        for _ in 0..rounds {
            black_box(fuzzing::encode(black_box(message), false));
        }
        Ok(())
    }

    fn delta(size: usize) -> ServerMessage {
        let mut delta = OutputDelta::default();
        delta.process_handle = "build-17".into();
        delta.stream = Stream::Stdout;
        delta.bytes = (0..size).map(|n| n as u8).collect();
        delta.offset = 123_456;
        ServerMessage::OutputDelta(delta)
    }

    fn exited() -> ServerMessage {
        let mut exited = Exited::default();
        exited.process_handle = "build-17".into();
        exited.exit_code = 3;
        exited.stdout.bytes = b"compiling\nlinking\n".to_vec();
        exited.stderr.bytes = b"warning: unused\n".to_vec();
        exited.pid = 4_711;
        exited.duration = Duration::from_millis(1_234);
        exited.stdout_bytes = 18;
        exited.stderr_bytes = 16;
        ServerMessage::Exited(Box::new(exited))
    }

    /// The whole way of a request over lines: read, parse, dispatch, frame, write.
    fn list(rounds: u32) -> Outcome {
        let line = b"{\"id\":1,\"method\":\"process/list\"}\n";
        let input = std::io::Cursor::new(line.repeat(rounds as usize));
        serve(Connection::from_io(input, std::io::sink()), Config::default())?;
        Ok(())
    }

    fn spawn(rounds: u32) -> Outcome {
        fuzzing::copy_descriptor_tables();
        let (connection, mut client) = Connection::memory();
        let server = std::thread::spawn(move || serve(connection, Config::default()));
        for id in 0..rounds {
            let params = SpawnParams {
                command: vec!["cat".into()],
                process_handle: "a".into(),
                ..SpawnParams::default()
            };
            client.send(i64::from(id), Request::Spawn(params))?;
            loop {
                match client.recv()? {
                    ServerMessage::Response { outcome: Ok(_), .. } => {}
                    ServerMessage::Exited(exited) if exited.exit_code == 0 => break,
                    other => return Err(format!("it should run and end: {other:?}").into()),
                }
            }
        }
        drop(client);
        server.join().map_err(|_| "the server has panicked")??;
        Ok(())
    }
}

/// Runs the tasks under callgrind, and compares.
#[cfg(fuzzing)]
mod driver {
    use std::collections::BTreeMap;
    use std::process::{Command, Stdio};

    type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

    const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cost/recorded");
    /// In percent: more than compilers and processors differ by, less than a second copy costs.
    const MARGIN: u64 = 25;

    /// Instructions of the whole process for so many rounds.
    fn count(name: &str, rounds: u32) -> Outcome<u64> {
        let valgrind = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["--task", name, &rounds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("valgrind: {e}"))?;
        // A child that it forks says how much it has done as well.
        let own = format!("=={}== Collected : ", valgrind.id());
        let output = valgrind.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let collected = said.lines().find_map(|line| line.strip_prefix(&own));
        match collected {
            Some(number) if output.status.success() => Ok(number.trim().parse()?),
            _ => Err(format!("{name}: {}\n{said}", output.status).into()),
        }
    }

    fn measure() -> Outcome<Vec<(&'static str, u64)>> {
        super::tasks::ALL
            .iter()
            .map(|&(name, rounds)| {
                let (once, twice) = (count(name, rounds)?, count(name, 2 * rounds)?);
                Ok((name, twice.saturating_sub(once) / u64::from(rounds)))
            })
            .collect()
    }

    pub fn record() -> Outcome<()> {
        let mut text =
            "# Instructions for each round, on x86-64 with AVX2; written by the example `cost`.\n".to_owned();
        for (name, cost) in measure()? {
            text.push_str(&format!("{cost} {name}\n"));
        }
        print!("{text}");
        Ok(std::fs::write(RECORDED, text)?)
    }

    pub fn compare() -> Outcome<()> {
        let recorded = std::fs::read_to_string(RECORDED)?;
        let recorded: BTreeMap<&str, u64> = recorded
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(' '))
            .map(|(cost, name)| Ok((name, cost.parse()?)))
            .collect::<Outcome<_>>()?;
        let mut slower = Vec::new();
        println!("{:>9} {:>9}  instructions for each round", "recorded", "now");
        for (name, now) in measure()? {
            let before = *recorded
                .get(name)
                .ok_or_else(|| format!("{name} is not recorded"))?;
            println!("{before:>9} {now:>9}  {name}");
            if now * 100 > before * (100 + MARGIN) {
                slower.push(name);
            }
        }
        match slower.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "more than {MARGIN} % above what is recorded: {}",
                slower.join(", ")
            )
            .into()),
        }
    }
}
