//! `procwire run --record`: what is in an asciicast, and what is not.

use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{PROCWIRE, Scratch, apply, binary, test};
use crate::run::in_terminal;

/// A recording: its header and its events.
fn read(path: &str) -> (Value, Vec<(f64, String, String)>) {
    let text = std::fs::read_to_string(path).expect("a recording");
    assert!(text.ends_with('\n'), "{text:?}");
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next().expect("a header")).expect("an object");
    let events: Vec<(f64, String, String)> = lines
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect();
    assert!(events.is_sorted_by_key(|event| event.0), "{events:?}");
    (header, events)
}

fn output(events: &[(f64, String, String)]) -> String {
    let output = events.iter().filter(|event| event.1 == "o");
    output.map(|event| event.2.as_str()).collect()
}

fn run(arguments: &[&str]) -> Output {
    let output = binary().arg("run").args(arguments).stdin(Stdio::null()).output();
    output.expect("the binary starts")
}

#[apply(test)]
fn recording_holds_what_was_shown() {
    let scratch = Scratch::new();
    let path = scratch.path("a.cast");
    let script = "echo out; sleep 0.3; echo err >&2; printf 'a\\r\\nb'; exit 7";
    let shown = run(&["--record", &path, "--", "sh", "-c", script]);
    assert_eq!(shown.status.code(), Some(7), "{shown:?}");
    assert_eq!(shown.stdout, b"out\na\r\nb");
    assert_eq!(shown.stderr, b"err\n");
    let (header, events) = read(&path);
    assert_eq!(header["version"], 2);
    assert_eq!((&header["width"], &header["height"]), (&json!(80), &json!(24)));
    assert_eq!(header["command"], format!("sh -c {script}"));
    assert!(
        header["timestamp"].as_u64().is_some_and(|t| t > 1_500_000_000),
        "{header}"
    );
    // A line feed alone would not take a player back to the beginning of the line.
    let text = output(&events);
    assert!(text.starts_with("out\r\n"), "{text:?}");
    let mut parts = [text["out\r\n".len()..].replacen("err\r\n", "", 1), text];
    parts.sort();
    assert_eq!(parts[0], "a\r\nb");
    let time = |data: &str| {
        let event = events.iter().find(|event| event.2.contains(data));
        event.map(|event| event.0).expect("the event")
    };
    // However late the first line was read.
    assert!(time("err") >= 0.3, "{events:?}");
    // A second recording takes the place of the first.
    run(&["--record", &path, "--", "echo", "again"]);
    assert_eq!(output(&read(&path).1), "again\r\n");
}

#[apply(test)]
fn recording_of_a_terminal_has_its_sizes_and_not_what_was_typed_unseen() {
    let scratch = Scratch::new();
    let path = scratch.path("a.cast");
    let script = "stty -echo; echo 'Password:'; read -r word; stty echo; echo; \
                  echo 'Name:'; read -r name; echo \"hello $name\"; read -r rest; echo ended";
    let (mut screen, _) = in_terminal(&format!("$PW --record {path} -- sh -c '{script}'"));
    screen.until("Password:");
    screen.write("se''cret\n");
    screen.until("Name:");
    screen.write("ann\n");
    screen.until("hello ann");
    screen.resize(40, 132);
    screen.write("\n");
    screen.until("ended");
    let (_, exited) = screen.ended();
    assert_eq!(exited["exitCode"], 0);
    let (header, events) = read(&path);
    assert_eq!((&header["width"], &header["height"]), (&json!(80), &json!(24)));
    assert_eq!(header["env"]["TERM"], "xterm");
    let text = output(&events);
    assert!(
        text.contains("Name:\r\n") && text.contains("ann\r\nhello ann\r\n"),
        "{text:?}"
    );
    assert!(!events.iter().any(|event| event.2.contains("cret")), "{events:?}");
    let sizes: Vec<&str> = events
        .iter()
        .filter(|e| e.1 == "r")
        .map(|e| e.2.as_str())
        .collect();
    assert_eq!(sizes, ["132x40"]);
}

#[apply(test)]
fn characters_are_whole_in_a_recording() {
    let scratch = Scratch::new();
    let path = scratch.path("a.cast");
    // Each byte by itself; then one that never becomes a character, and one that is not finished.
    let script = "for byte in 360 237 230 200 12 377 101 342 202; do printf \"\\\\$byte\"; sleep 0.02; done";
    let shown = run(&["--record", &path, "--", "sh", "-c", script]);
    assert_eq!(shown.stdout, b"\xf0\x9f\x98\x80\n\xffA\xe2\x82");
    assert_eq!(output(&read(&path).1), "😀\r\n\u{fffd}A\u{fffd}");
}

#[apply(test)]
fn recording_that_cannot_be_written_is_told() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing/a.cast");
    let marker = scratch.path("ran");
    let refused = run(&["--record", &missing, "--", "touch", &marker]);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    let told = format!("procwire: --record {missing}: No such file or directory");
    assert!(stderr.starts_with(&told), "{stderr}");
    assert!(!std::path::Path::new(&marker).exists(), "nothing was started");
    let full = run(&["--record", "/dev/full", "--", "touch", &marker]);
    assert_eq!(full.status.code(), Some(125), "{full:?}");
    assert!(!std::path::Path::new(&marker).exists(), "nothing was started");
    // A file that takes no more while the program runs: what is shown is shown all the same.
    let reader = "mkfifo $FIFO; head -n 1 $FIFO >header & reader=$!; \
                  $PW run --record $FIFO -- sh -c \"while kill -0 $reader; do sleep 0.01; done 2>/dev/null; \
                  echo shown\"; exit $?";
    let broken = std::process::Command::new("bash")
        .args(["--norc", "-c", reader])
        .current_dir(scratch.path("."))
        .env("PW", PROCWIRE)
        .env("FIFO", scratch.path("fifo"))
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    assert_eq!(broken.stdout, b"shown\n", "{broken:?}");
    assert_eq!(broken.status.code(), Some(125), "{broken:?}");
    let stderr = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(stderr.contains("fifo: Broken pipe"), "{stderr}");
}

#[apply(test)]
fn recording_needs_something_that_is_shown() {
    for flag in ["--json", "--detach"] {
        let refused = run(&["--record", "/dev/null", flag, "--", "true"]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(stderr.contains("--record"), "{stderr}");
    }
}
