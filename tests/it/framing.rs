//! Messages with headers, as editors send them: answered in kind, bounded, and found again after
//! headers that are none. Lines have their tests with the rest of the envelope.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread::JoinHandle;

use procwire::Config;
use serde_json::{Value, json};

use crate::harness::{
    Mode, PATIENCE, apply, binary, both, decoded, encode, pattern, private_bytes, test, wait,
};

/// A client that sends and gets headers, and takes nothing between one message and the next.
struct Editor {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    server: JoinHandle<Result<procwire::End, procwire::Error>>,
}

impl Editor {
    fn new() -> Editor {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Editor {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let input = theirs.try_clone().expect("a descriptor");
        let connection = procwire::Connection::from_io(input, theirs);
        ours.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        Editor {
            writer: ours.try_clone().expect("a descriptor"),
            reader: BufReader::new(ours),
            server: std::thread::spawn(move || procwire::serve(connection, config)),
        }
    }

    fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.writer.write_all(bytes.as_ref()).expect("the server reads");
    }

    fn send(&mut self, message: &Value) {
        self.send_raw(with_header(message.to_string()));
    }

    fn request(&mut self, id: i64, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
    }

    fn next(&mut self) -> Value {
        next_message(&mut self.reader).expect("the server has more to say")
    }

    /// The code of the next message, which is an error that names no request.
    fn refusal(&mut self) -> i64 {
        let message = self.next();
        assert_eq!(message["id"], Value::Null, "{message}");
        message["error"]["code"]
            .as_i64()
            .unwrap_or_else(|| panic!("no error: {message}"))
    }

    /// Whatever came before it, the server still answers.
    #[track_caller]
    fn assert_serving(&mut self, id: i64) {
        self.request(id, "process/list", json!({}));
        let answer = self.next();
        assert_eq!(answer["id"], id, "{answer}");
        assert_eq!(answer["result"], json!({"processes": []}));
    }

    /// Ends the input; what the server still says.
    fn finish(mut self) -> Vec<Value> {
        self.writer.shutdown(Shutdown::Write).expect("a socket");
        let mut left = Vec::new();
        while let Some(message) = next_message(&mut self.reader) {
            left.push(message);
        }
        let end = self.server.join().expect("the server does not panic");
        end.expect("the server serves");
        left
    }
}

fn with_header(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut message = format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    message.extend_from_slice(body);
    message
}

/// Exactly a header, a blank line and a body; `None` at the end.
fn next_message(reader: &mut impl BufRead) -> Option<Value> {
    let mut header = String::new();
    if reader.read_line(&mut header).expect("the server answers in time") == 0 {
        return None;
    }
    let length = header
        .strip_prefix("Content-Length: ")
        .and_then(|rest| rest.strip_suffix("\r\n"))
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .unwrap_or_else(|| panic!("not a header: {header:?}"));
    let mut body = vec![0; 2 + length.parse::<usize>().expect("a length")];
    reader.read_exact(&mut body).expect("as much as was announced");
    assert_eq!(&body[..2], b"\r\n", "a blank line behind the header");
    assert_eq!(body.last(), Some(&b'}'), "a body ends with its JSON");
    Some(serde_json::from_slice(&body[2..]).expect("a body is JSON"))
}

/// Answers, deltas and exits have headers, and carry the version that the client's have.
#[apply(both)]
fn headers_are_answered_with_headers(mode: Mode) {
    for version in [true, false] {
        let mut editor = Editor::new();
        let mut spawn = json!({"id": 1, "method": "process/spawn", "params": mode.params("a", &["cat"])});
        let eof = json!({"id": 2, "method": "process/writeStdin", "params":
            {"processHandle": "a", "deltaBase64": encode("grüße\n".as_bytes()), "closeStdin": true}});
        if version {
            spawn["jsonrpc"] = json!("2.0");
        }
        editor.send(&spawn);
        let answer = editor.next();
        assert!(answer["result"]["pid"].is_u64(), "{answer}");
        editor.send(&eof);
        let mut seen = vec![answer];
        while seen.last().is_none_or(|m| m["method"] != "process/exited") {
            seen.push(editor.next());
        }
        for message in &seen {
            assert_eq!(message.get("jsonrpc").is_some(), version, "{message}");
        }
        let output: Vec<u8> = seen
            .iter()
            .filter(|m| m["method"] == "process/outputDelta")
            .flat_map(|m| decoded(&m["params"]))
            .collect();
        let echoed = if mode == Mode::Tty { "grüße\r\n" } else { "" };
        let printed = mode.printed("grüße\n");
        assert_eq!(String::from_utf8_lossy(&output), format!("{echoed}{printed}"));
        assert_eq!(seen.last().expect("an exit")["params"]["exitCode"], 0);
        assert_eq!(editor.finish(), [] as [Value; 0]);
    }
}

/// Small messages share writes, but no headers.
#[apply(test)]
fn every_message_has_a_header_of_its_own() {
    let mut editor = Editor::new();
    let mut requests = Vec::new();
    for id in 0..1000 {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": "process/list"});
        requests.extend(with_header(request.to_string()));
    }
    editor.send_raw(&requests);
    for id in 0..1000 {
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"processes": []}});
        assert_eq!(editor.next(), answer);
    }
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// What is said does not depend on how it is framed.
#[apply(test)]
fn headers_and_lines_carry_the_same_messages() {
    let requests = [
        json!({"id": 1, "method": "process/spawn", "params": {"command": ["no-such-program"], "processHandle": "n"}}),
        json!({"id": "ü", "method": "process/kill", "params": {"processHandle": "a\nb"}}),
        json!({"id": 3, "method": "process/fly"}),
        json!({"method": "initialized"}),
        json!({"id": 4}),
        json!([{"id": 5, "method": "process/list"}]),
        json!({"id": 6, "method": "process/list"}),
    ];
    let mut seen = Vec::new();
    for headers in [true, false] {
        let mut editor = Editor::new();
        for request in &requests {
            match headers {
                true => editor.send(request),
                false => editor.send_raw(format!("{request}\n")),
            }
        }
        editor.writer.shutdown(Shutdown::Write).expect("a socket");
        seen.push(match headers {
            true => editor.finish(),
            false => {
                let lines = (&mut editor.reader).lines();
                let all = lines.map(|l| serde_json::from_str(&l.expect("a line")).expect("JSON"));
                let all = all.collect();
                assert_eq!(editor.finish(), [] as [Value; 0]);
                all
            }
        });
        seen.last_mut().expect("two").sort_by_key(Value::to_string);
    }
    assert_eq!(seen[0].len(), 6);
    assert_eq!(seen[0], seen[1]);
}

/// Headers among lines are a bad line, and a line among headers is a bad header.
#[apply(test)]
fn first_bytes_decide_for_good() {
    let list = r#"{"id":7,"method":"process/list"}"#;
    let mut editor = Editor::new();
    editor.send_raw(format!("\n{list}\nContent-Length: 32\n{list}\n"));
    let mut lines = (&mut editor.reader).lines();
    let mut next =
        || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("in time")).expect("JSON") };
    assert_eq!(next(), json!({"id": 7, "result": {"processes": []}}));
    assert_eq!(next()["error"]["code"], -32700);
    assert_eq!(next(), json!({"id": 7, "result": {"processes": []}}));
    assert_eq!(editor.finish(), [] as [Value; 0]);

    let mut editor = Editor::new();
    editor.assert_serving(1);
    editor.send_raw(format!("{list}\n"));
    assert_eq!(editor.refusal(), -32700);
    editor.assert_serving(2);
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// What other libraries may put around a body.
#[apply(test)]
fn names_case_order_and_other_headers_do_not_matter() {
    let body = r#"{"id":1,"method":"process/list"}"#;
    for head in [
        "Content-Length: 32\r\n\r\n",
        "content-length:32\r\n\r\n",
        "CONTENT-LENGTH: \t 32 \r\n\r\n",
        "\r\n\r\nContent-Length: 32\r\n\r\n",
        "Content-Length: 32\n\n",
        "Content-Length: 32\r\nContent-Length: 32\r\n\r\n",
        "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 32\r\n\r\n",
        "Content-Length: 32\r\nContent-Type: application/vscode-jsonrpc; charset=utf8\r\n\r\n",
        "content-type: application/json;profile=\"x\"; CHARSET=\"UTF-8\"\r\nX-Else: \r\nContent-Length: 32\r\n\r\n",
    ] {
        let mut editor = Editor::new();
        for _ in 0..2 {
            editor.send_raw(format!("{head}{body}"));
            assert_eq!(
                editor.next(),
                json!({"id": 1, "result": {"processes": []}}),
                "{head:?}"
            );
        }
        assert_eq!(editor.finish(), [] as [Value; 0], "{head:?}");
    }
}

/// However the bytes are cut into writes, the answers are the same.
#[apply(test)]
fn pieces_of_any_size_make_the_same_messages() {
    let mut input = Vec::new();
    for id in 0..60 {
        let handle = "ü\r\n".repeat(id);
        let request = json!({"id": id, "method": "process/kill", "params": {"processHandle": handle}});
        input.extend(with_header(serde_json::to_string_pretty(&request).expect("JSON")));
    }
    let mut seen = Vec::new();
    for piece in [1, 7, 4096, input.len()] {
        let mut editor = Editor::new();
        for bytes in input.chunks(piece) {
            editor.send_raw(bytes);
        }
        seen.push((0..60).map(|_| editor.next()).collect::<Vec<_>>());
        assert_eq!(editor.finish(), [] as [Value; 0]);
    }
    for other in &seen[1..] {
        assert_eq!(*other, seen[0]);
    }
}

/// As with lines: one answer to each, and the connection goes on.
#[apply(test)]
fn what_is_wrong_in_a_body_is_told_and_the_next_one_is_served() {
    let mut editor = Editor::new();
    for (body, code) in [
        (&b""[..], -32700),
        (b"  ", -32700),
        (b"nonsense", -32700),
        (b"{\"id\":1,\"method\":\"process/list\"} {}", -32700),
        (b"{\"id\":\"\xff\"}", -32700),
        (b"12", -32600),
        (b"[{\"id\":1,\"method\":\"process/list\"}]", -32600),
    ] {
        editor.send_raw(with_header(body));
        assert_eq!(editor.refusal(), code, "{}", String::from_utf8_lossy(body));
        editor.assert_serving(1);
    }
    // Line ends inside of a body and around it are white space.
    editor.send_raw(with_header("\n{\"id\":\r\n2,\"method\":\n\"process/list\"}\r\n"));
    assert_eq!(editor.next()["id"], 2);
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// The limit counts the body, not its header.
#[apply(test)]
fn body_of_the_limit_passes_and_one_byte_more_does_not() {
    let config = Config::default().max_message_bytes(100);
    let mut editor = Editor::with(config);
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"process/list"}"#;
    for (length, passes) in [(100, true), (101, false), (99, true), (60_000, false)] {
        editor.send_raw(with_header(format!("{list:<length$}")));
        match passes {
            true => assert_eq!(editor.next()["id"], 1),
            false => assert_eq!(editor.refusal(), -32600),
        }
    }
    editor.assert_serving(2);
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// It is refused when it is announced, before any of it is sent.
#[apply(test)]
fn endless_body_is_skipped_and_never_stored() {
    let mut editor = Editor::new();
    editor.assert_serving(1);
    let before = private_bytes();
    let length = 200 << 20;
    editor.send_raw(format!("Content-Length: {length}\r\n\r\n"));
    assert_eq!(editor.refusal(), -32600);
    let piece = vec![b'{'; 1 << 20];
    for _ in 0..length / piece.len() {
        editor.send_raw(&piece);
    }
    editor.assert_serving(2);
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more are in memory");
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// Nothing is guessed about bytes that are not said to be UTF-8.
#[apply(test)]
fn bodies_in_another_charset_are_refused() {
    let mut editor = Editor::new();
    let body = r#"{"id":1,"method":"process/list"}"#;
    for charset in ["utf-16", "\"latin1\"", ""] {
        editor.send_raw(format!(
            "Content-Type: application/json; charset={charset}\r\nContent-Length: 32\r\n\r\n{body}"
        ));
        assert_eq!(editor.refusal(), -32600, "{charset}");
    }
    editor.assert_serving(2);
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// One error for each loss, nothing is run that only looks like a message, and what runs lives on.
#[apply(test)]
fn bad_headers_are_told_and_the_next_good_ones_are_served() {
    let mut editor = Editor::new();
    editor.request(
        1,
        "process/spawn",
        json!({"command": ["cat"], "processHandle": "c", "streamStdin": true, "timeoutMs": null}),
    );
    let pid = editor.next()["result"]["pid"].clone();
    // Such a body would do harm if a part of it were taken for a message.
    let hidden = r#"Content-Length: 67\r\n\r\n{\"id\":9,\"method\":\"process/kill\",\"params\":{\"processHandle\":\"c\"}}"#;
    let body = format!(r#"{{"id":8,"method":"no/such","params":{{"x":"{hidden}"}}}}"#);
    for head in [
        "Content-Type: x\r\n\r\n".to_owned(),
        "Content-Length: -1\r\n\r\n".to_owned(),
        "Content-Length: 99999999999999999999\r\n\r\n".to_owned(),
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
        "Content-Length 10\r\n\r\n".to_owned(),
        format!("Content-X: {}\r\n", "x".repeat(100_000)),
        "Content-X: x\r\n".repeat(10_000),
    ] {
        editor.send_raw(format!("{head}{body}"));
        assert_eq!(editor.refusal(), -32700, "{head:.60}");
        editor.request(2, "process/list", json!({}));
        let answer = editor.next();
        assert_eq!(answer["id"], 2, "{answer}");
        assert_eq!(answer["result"]["processes"][0]["pid"], pid);
    }
    // A body that is longer than announced, as when characters are counted for bytes.
    let list = r#"{"id":"ü","method":"process/list"}"#;
    editor.send_raw(format!("Content-Length: {}\r\n\r\n{list}", list.chars().count()));
    assert_eq!(editor.refusal(), -32700, "the body lacks its end");
    editor.request(2, "process/list", json!({}));
    assert_eq!(editor.refusal(), -32700, "its end is not the name of a header");
    assert_eq!(editor.next()["id"], 2);

    let left = editor.finish();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["params"]["signal"], "SIGKILL");
}

/// A message that is cut off is not a message.
#[apply(test)]
fn input_that_ends_inside_of_a_message_is_told() {
    let whole = with_header(r#"{"id":1,"method":"process/list"}"#);
    for cut in 1..whole.len() {
        let mut editor = Editor::new();
        editor.send_raw(&whole[..cut]);
        if cut < "Content-".len() {
            // Not enough to be headers: that is a line, and not JSON.
            let mut line = String::new();
            editor.writer.shutdown(Shutdown::Write).expect("a socket");
            editor.reader.read_line(&mut line).expect("in time");
            assert!(line.contains("-32700"), "{line:?}");
            assert_eq!(editor.finish(), [] as [Value; 0]);
            continue;
        }
        let left = editor.finish();
        assert_eq!(left.len(), 1, "cut at {cut}: {left:?}");
        assert_eq!(left[0]["error"]["code"], -32700, "cut at {cut}");
    }
}

/// Large bodies in, deltas out, exactly.
#[apply(test)]
fn megabytes_go_both_ways() {
    let mut editor = Editor::new();
    editor.request(1, "process/spawn", {
        let mut params = Mode::Pipe.params("a", &["cat"]);
        params["outputBytesCap"] = Value::Null;
        params
    });
    assert!(editor.next()["result"]["pid"].is_u64());
    let bytes = pattern(0, 12 << 20);
    let writer = {
        let mut writer = editor.writer.try_clone().expect("a descriptor");
        let mut requests = Vec::new();
        for (id, part) in (2..).zip(bytes.chunks(1 << 20)) {
            let params = json!({"processHandle": "a", "deltaBase64": encode(part), "closeStdin": id == 13});
            let request = json!({"id": id, "method": "process/writeStdin", "params": params});
            requests.push(with_header(request.to_string()));
        }
        // The next one is sent when this one is answered, so that none is refused.
        let (answered, next) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            for request in requests {
                writer.write_all(&request).expect("the server reads");
                next.recv().expect("it is answered");
            }
        });
        (thread, answered)
    };
    let mut output = Vec::with_capacity(bytes.len());
    loop {
        let message = editor.next();
        if message.get("result").is_some() {
            writer.1.send(()).expect("the writer waits");
            continue;
        }
        assert!(message.get("error").is_none(), "{message}");
        if message["method"] == "process/exited" {
            break;
        }
        assert_eq!(message["params"]["offset"], output.len());
        output.extend(decoded(&message["params"]));
    }
    writer.0.join().expect("everything was sent");
    assert!(output == bytes, "{} bytes came back", output.len());
    assert_eq!(editor.finish(), [] as [Value; 0]);
}

/// On stdio as well, and to the end.
#[apply(test)]
fn binary_speaks_headers_on_stdio() {
    let mut child = binary()
        .arg("--drain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut stdin = child.stdin.take().expect("stdin was piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout was piped"));
    let spawn = json!({"jsonrpc": "2.0", "id": 1, "method": "process/spawn",
        "params": {"command": ["echo", "hi"], "processHandle": "a"}});
    stdin
        .write_all(&with_header(spawn.to_string()))
        .expect("the server reads");
    drop(stdin);
    let answer = next_message(&mut stdout).expect("an answer");
    assert_eq!(answer["jsonrpc"], "2.0");
    assert!(answer["result"]["pid"].is_u64(), "{answer}");
    let exit = next_message(&mut stdout).expect("an exit");
    assert_eq!(exit["params"]["stdout"], "hi\n");
    assert_eq!(next_message(&mut stdout), None);
    assert_eq!(wait(&mut child).code(), Some(0));
}
