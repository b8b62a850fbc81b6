//! A server in a thread of your own program, without a client library in between: typed messages go
//! in, typed messages come out, bytes are bytes.
//!
//! `cargo run --example embed`

use procwire::protocol::{KillParams, Request, ServerMessage, SpawnParams};
use procwire::{Config, Connection, serve};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (connection, mut client) = Connection::memory();
    let server = std::thread::spawn(move || serve(connection, Config::default()));

    client.send(
        1,
        Request::Spawn(Box::new(SpawnParams {
            command: vec!["sh".into(), "-c".into(), "echo ready; exec sleep 1000".into()],
            process_handle: "sleeper".into(),
            stream_stdout_stderr: true,
            ..SpawnParams::default()
        })),
    )?;
    loop {
        match client.recv()? {
            ServerMessage::Response { id, outcome } => println!("answer to {id:?}: {}", outcome.is_ok()),
            ServerMessage::OutputDelta(delta) => {
                print!("it says: {}", String::from_utf8_lossy(&delta.bytes));
                client.send(
                    2,
                    Request::Kill(KillParams {
                        process_handle: "sleeper".into(),
                        ..KillParams::default()
                    }),
                )?;
            }
            ServerMessage::Exited(exited) => {
                println!("ended by {}", exited.signal.as_deref().unwrap_or("itself"));
                break;
            }
            _ => {} // what later versions may send
        }
    }
    drop(client); // the end of the connection: whatever still ran would be killed now
    println!("the server: {:?}", server.join().expect("serve does not panic")?);
    Ok(())
}
