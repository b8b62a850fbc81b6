//! A guard against getting slower that a noisy machine cannot break: it counts instructions.
//!
//! `instructions WORK TIMES` does one kind of work so many times and ends. Run under callgrind with
//! two counts, the difference is what the work costs, without the start and the end:
//! `tests/instructions/check` does that for every kind, and compares with what is recorded.
//!
//! | work | what is done once |
//! | --- | --- |
//! | `request` | a `process/list` line is read, parsed, dispatched, answered and encoded |
//! | `write` | a `process/writeStdin` line of 64 KiB is read, parsed and decoded, and refused |
//! | `delta` | 1 MiB of a program's output is read, framed and written |
//! | `spawn` | a program is started, reaped and told, on a connection in memory |

use std::io::{Cursor, Read, Write};
use std::sync::mpsc;

use procwire::protocol::{Limit, Request, ServerMessage, SpawnParams};
use procwire::{Config, Connection, serve};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let work = arguments.next().ok_or("usage: instructions WORK TIMES")?;
    let times: usize = arguments
        .next()
        .ok_or("usage: instructions WORK TIMES")?
        .parse()?;
    match work.as_str() {
        "request" => lines(r#"{"id":1,"method":"process/list"}"#.to_owned(), times),
        "write" => {
            let bytes = base64_simd::STANDARD.encode_to_string(vec![b'x'; 64 * 1024]);
            let params = format!(r#"{{"processHandle":"nobody","deltaBase64":"{bytes}"}}"#);
            lines(
                format!(r#"{{"id":1,"method":"process/writeStdin","params":{params}}}"#),
                times,
            )
        }
        "delta" => delta(times),
        "spawn" => spawn(times),
        other => Err(format!("no such work: {other}").into()),
    }
}

/// Sends a line so many times, to a server that answers into nothing.
fn lines(line: String, times: usize) -> Result<(), Box<dyn std::error::Error>> {
    let input = (line + "\n").repeat(times);
    serve(
        Connection::from_io(Cursor::new(input), std::io::sink()),
        Config::default(),
    )?;
    Ok(())
}

/// Gives its bytes, and then waits until it is told that there is no more.
struct Held(Cursor<String>, mpsc::Receiver<()>);

impl Read for Held {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => {
                let _ = self.1.recv();
                Ok(0)
            }
            n => Ok(n),
        }
    }
}

/// Throws away what it is given, until it has seen an exit.
struct UntilExit(mpsc::Sender<()>);

impl Write for UntilExit {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // An exit is the last line there is, so it is at the end of some write.
        let tail = &bytes[bytes.len().saturating_sub(1024)..];
        if tail.windows(14).any(|w| w == b"process/exited") {
            let _ = self.0.send(());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn delta(mebibytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = mebibytes * 1024 * 1024;
    let params = format!(
        r#"{{"processHandle":"a","command":["head","-c","{bytes}","/dev/zero"],"streamStdoutStderr":true,"outputBytesCap":null,"timeoutMs":null}}"#
    );
    let line = format!("{{\"id\":1,\"method\":\"process/spawn\",\"params\":{params}}}\n");
    let (exited, end) = mpsc::channel();
    serve(
        Connection::from_io(Held(Cursor::new(line), end), UntilExit(exited)),
        Config::default(),
    )?;
    Ok(())
}

fn spawn(times: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (connection, mut client) = Connection::memory();
    let server = std::thread::spawn(move || serve(connection, Config::default()));
    for id in 0..times {
        let params = SpawnParams {
            command: vec!["/bin/true".into()],
            process_handle: "a".into(),
            timeout_ms: Limit::Unlimited,
            ..SpawnParams::default()
        };
        client.send(i64::try_from(id)?, Request::Spawn(params))?;
        while !matches!(client.recv()?, ServerMessage::Exited(_)) {}
    }
    drop(client);
    server.join().map_err(|_| "serve has panicked")??;
    Ok(())
}
