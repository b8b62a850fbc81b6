//! The envelope: framing, ids, lines that are not requests, the handshake. After each bad line the next one is served.

use crate::harness::{Client, Mode, apply, both, encode, private_bytes, test};
use procwire::Config;
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

/// Whatever came before it, the server still answers.
fn assert_serving(client: &mut Client) {
    assert_eq!(client.call("process/list", json!({})), json!({"processes": []}));
}

/// Sends a line that must be refused; the whole answer, whose id is null.
fn refused(client: &mut Client, line: &[u8]) -> Value {
    let mut line = line.to_vec();
    line.push(b'\n');
    client.send_raw(&line);
    let response = client.response(Value::Null);
    assert_eq!(response["id"], Value::Null);
    assert!(response.get("result").is_none(), "{response}");
    assert!(
        response["error"]["message"]
            .as_str()
            .is_some_and(|m| !m.is_empty()),
        "{response}"
    );
    response
}

fn code_of(response: &Value) -> i64 {
    response["error"]["code"]
        .as_i64()
        .unwrap_or_else(|| panic!("no error: {response}"))
}

/// Requests separated by every kind of line end and blank line are all understood.
#[apply(test)]
fn crlf_blank_lines_and_spaces_are_tolerated() {
    let mut client = Client::in_process();
    client.send_raw(b"\n\r\n   \n\t\r\n");
    client.send_raw(b"{\"id\":101,\"method\":\"process/list\"}\r\n");
    client.send_raw(b"  \t {\"id\":102, \"method\" : \"process/list\" }  \t\r\n\r\n\n");
    client.send_raw(b"{\"id\":103,\"method\":\"process/list\",\"params\":null}\n");
    for id in 101..=103 {
        assert_eq!(client.result(id), json!({"processes": []}));
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "blank lines are not answered: {left:?}");
}

/// A request that the end of input cuts off before its line end is carried out.
#[apply(test)]
fn last_line_needs_no_end() {
    let mut client = Client::in_process();
    client.send_raw(b"{\"id\":1,\"method\":\"process/list\"}\n{\"id\":2,\"method\":\"process/list\"}");
    let (left, _) = client.finish();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left.contains(&json!({"id": 2, "result": {"processes": []}})),
        "{left:?}"
    );

    // What was cut off in the middle is told to be so.
    let mut client = Client::in_process();
    client.send_raw(b"{\"id\":1,\"method\":\"proc");
    let (left, _) = client.finish();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(code_of(&left[0]), -32700);
}

/// The order of members and the spelling of their names in JSON carry no meaning.
#[apply(test)]
fn members_may_come_in_any_order_and_escaped() {
    let mut client = Client::in_process();
    client.send_raw(
        b"{\"params\":{\"processHandl\\u0065\":\"h\\u00e9\\ud83d\\ude00\",\"command\":[\"printf\",\"\\u0061\\n\"]},\
          \"meth\\u006fd\":\"process\\/spawn\",\"id\":\"\\u0078\",\"jsonrpc\":\"2.0\"}\n",
    );
    let response = client.response("x");
    assert!(response["result"]["pid"].is_u64(), "{response}");
    assert_eq!(client.exited("hé😀")["stdout"], "a\n");
    client.finish();
}

/// However the bytes are cut into writes, the answers are the same.
#[apply(test)]
fn pieces_of_any_size_make_the_same_lines() {
    let mut input = Vec::new();
    for id in 0..200 {
        let line = match id % 4 {
            0 => json!({"id": id, "method": "process/list"}),
            1 => json!({"id": id, "method": "no/such"}),
            2 => json!({"id": id, "method": "process/kill", "params": {"processHandle": "ü".repeat(id)}}),
            _ => json!({"id": id, "method": "process/kill"}),
        };
        input.extend(line.to_string().into_bytes());
        input.extend(if id % 3 == 0 { &b"\r\n"[..] } else { b"\n" });
    }
    let mut seen: Vec<Vec<String>> = Vec::new();
    for piece in [1, 7, 4096, input.len()] {
        let mut client = Client::in_process();
        for bytes in input.chunks(piece) {
            client.send_raw(bytes);
        }
        seen.push((0..200).map(|id| client.response(id).to_string()).collect());
        let (left, _) = client.finish();
        assert!(left.is_empty(), "{left:?}");
    }
    for other in &seen[1..] {
        assert_eq!(*other, seen[0]);
    }
}

/// The first message decides for answers, errors and notifications alike; later ones change nothing.
#[apply(both)]
fn jsonrpc_is_written_exactly_when_the_first_message_had_it(mode: Mode) {
    let request = |with: bool, id: i64, method: &str, params: Value| {
        let mut message = json!({"id": id, "method": method, "params": params});
        if with {
            message["jsonrpc"] = json!("2.0");
        }
        message
    };
    // A notification is a message, too; another version is not this one.
    let firsts = [
        (request(true, 1, "process/list", json!({})), true),
        (request(false, 1, "process/list", json!({})), false),
        (json!({"jsonrpc": "2.0", "method": "initialized"}), true),
        (json!({"method": "initialized"}), false),
        (
            json!({"jsonrpc": "1.0", "id": 1, "method": "process/list"}),
            false,
        ),
        (json!({"jsonrpc": 2.0, "id": 1, "method": "process/list"}), false),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "no/such"}), true),
    ];
    for (first, expected) in firsts {
        let mut client = Client::in_process();
        client.send(&first);
        let mut seen = Vec::new();
        if first.get("id").is_some() {
            seen.push(client.response(1));
        }
        // The other way round from now on.
        client.send(&request(
            !expected,
            2,
            "process/spawn",
            mode.params("a", &["echo", "x"]),
        ));
        seen.push(client.response(2));
        client.send(&request(!expected, 3, "no/such", json!({})));
        seen.push(client.response(3));
        client.send_raw(b"nonsense\n");
        seen.push(client.response(Value::Null));
        loop {
            let notification = client.notification();
            let over = notification["method"] == "process/exited";
            seen.push(notification);
            if over {
                break;
            }
        }
        for message in seen {
            let version = message.get("jsonrpc");
            assert_eq!(
                version,
                expected.then(|| json!("2.0")).as_ref(),
                "{first} then {message}"
            );
        }
        client.finish();
    }
}

/// A line that is not a message decides nothing for those after it, the version included.
#[apply(test)]
fn the_first_message_that_can_be_read_decides() {
    let unreadable: [&[u8]; 5] = [
        b"nonsense\n",
        b"5\n",
        b"[{\"jsonrpc\":\"2.0\"}]\n",
        b"\xff\n",
        b"{\"jsonrpc\":\"2.0\"\n",
    ];
    for first in unreadable {
        for with in [true, false] {
            let mut client = Client::in_process();
            client.send_raw(first);
            let error = client.response(Value::Null);
            assert_eq!(error.get("jsonrpc"), None, "{error}");
            let mut message = json!({"id": 1, "method": "process/list"});
            if with {
                message["jsonrpc"] = json!("2.0");
            }
            client.send(&message);
            assert_eq!(client.response(1).get("jsonrpc").is_some(), with, "{first:?}");
            client.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "process/list"}));
            assert_eq!(client.response(2).get("jsonrpc").is_some(), with, "{first:?}");
            client.finish();
        }
    }
    // One that is refused can still be read.
    let mut client = Client::in_process();
    client.send_raw(
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"process/list\",\"method\":\"process/list\"}\n",
    );
    assert_eq!(client.response(1)["jsonrpc"], "2.0");
    client.send(&json!({"id": 2, "method": "process/list"}));
    assert_eq!(client.response(2)["jsonrpc"], "2.0");
    client.finish();
}

/// In every kind of message; nothing of it is done.
#[apply(test)]
fn another_version_is_refused() {
    let mut client = Client::in_process();
    client.spawn(json!({"processHandle": "a", "command": ["cat"], "streamStdin": true, "timeoutMs": null}));
    let versions = [
        json!(null),
        json!("1.0"),
        json!("2"),
        json!("2.0 "),
        json!(""),
        json!(2.0),
        json!(2),
        json!(true),
        json!(["2.0"]),
        json!({}),
    ];
    for version in versions {
        for (method, params) in [
            ("process/list", json!({})),
            ("process/kill", json!({"processHandle": "a"})),
            (
                "process/writeStdin",
                json!({"processHandle": "a", "deltaBase64": "aGkK", "closeStdin": true}),
            ),
            (
                "process/spawn",
                json!({"processHandle": "b", "command": ["true"]}),
            ),
            ("no/such", json!({})),
        ] {
            client.send(&json!({"jsonrpc": version, "id": "x", "method": method, "params": params}));
            let error = client.response("x")["error"].clone();
            assert_eq!(error["code"], -32600, "{version} {method}: {error}");
            assert!(
                error["message"].as_str().is_some_and(|m| m.contains("jsonrpc")),
                "{error}"
            );
        }
        // One that asks for no answer cannot be told apart from one whose id is missing.
        client.send(&json!({"jsonrpc": version, "method": "initialized"}));
        assert_eq!(client.response(Value::Null)["error"]["code"], -32600);
    }
    client.send_raw(b"{\"jsonrpc\":\"2\\u002e0\",\"id\":1,\"method\":\"process/list\"}\n");
    let live = client.response(1)["result"]["processes"].clone();
    assert_eq!(live.as_array().map(Vec::len), Some(1), "{live}");
    assert_eq!(live[0]["stdinPendingBytes"], 0);
    client.kill("a");
    assert_eq!(client.exited("a")["stdout"], "");
    client.finish();
}

/// As codex finds it; a client that was written for that insists on it.
#[apply(test)]
fn handshake_tells_a_home_for_codex() {
    for (codex, home, told) in [
        (Some("/over/there"), Some("/home/me"), "/over/there"),
        (Some("relative"), Some("/home/me"), "/home/me/.codex"),
        (Some(""), Some("/home/me/"), "/home/me/.codex"),
        (None, Some("/"), "/.codex"),
        (None, Some("relative"), "/"),
        (None, None, "/"),
    ] {
        let mut command = crate::harness::binary();
        for (name, value) in [("CODEX_HOME", codex), ("HOME", home)] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut client = Client::command(command);
        let reply = client.call("initialize", json!({"clientInfo": {"name": "t", "version": "1"}}));
        assert_eq!(reply["codexHome"], told, "{codex:?} {home:?}");
        client.finish();
    }
}

/// Strings of any kind and integers of the whole 64-bit range.
#[apply(test)]
fn ids_come_back_as_sent() {
    let mut client = Client::in_process();
    let ids = [
        json!(0),
        json!(-1),
        json!(9_007_199_254_740_993_i64),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(""),
        json!("1"),
        json!("a \"quoted\"\\\n\u{0}é😀"),
        json!("x".repeat(100_000)),
    ];
    for id in &ids {
        client.send(&json!({"id": id, "method": "process/list"}));
        assert_eq!(
            client.response(id.clone()),
            json!({"id": id, "result": {"processes": []}})
        );
        // Errors carry it as well, wherever they are found.
        client.send(&json!({"id": id, "method": "no/such"}));
        assert_eq!(code_of(&client.response(id.clone())), -32601);
        client.send(&json!({"id": id, "method": "process/list", "params": 1}));
        assert_eq!(code_of(&client.response(id.clone())), -32602);
    }
    client.finish();
}

/// An id that is neither a string nor such an integer cannot be given back, and is told so.
#[apply(test)]
fn other_ids_are_refused() {
    let mut client = Client::in_process();
    for id in [
        "null",
        "1.0",
        "1.5",
        "1e3",
        "true",
        "{}",
        "[1]",
        "18446744073709551616",
        "-9223372036854775809",
    ] {
        let line = format!("{{\"id\":{id},\"method\":\"process/list\"}}");
        assert_eq!(code_of(&refused(&mut client, line.as_bytes())), -32600, "{id}");
    }
    assert_serving(&mut client);
    client.finish();
}

/// An id is the client's business: used twice at once, it is answered twice.
#[apply(test)]
fn same_id_twice_is_answered_twice() {
    let mut client = Client::in_process();
    client.send_raw(
        b"{\"id\":7,\"method\":\"process/list\"}\n{\"id\":7,\"method\":\"no/such\"}\n\
          {\"id\":\"7\",\"method\":\"process/list\"}\n",
    );
    let answers = [client.response(7), client.response(7)];
    assert!(
        answers.contains(&json!({"id": 7, "result": {"processes": []}})),
        "{answers:?}"
    );
    assert!(
        answers.iter().any(|a| a["error"]["code"] == -32601),
        "{answers:?}"
    );
    // The string and the number are different ids.
    assert_eq!(client.response("7")["id"], "7");
    client.finish();
}

#[apply(test)]
fn invalid_json_is_a_parse_error() {
    let mut client = Client::in_process();
    for line in [
        &b"nonsense"[..],
        b"{",
        b"}",
        b"{\"id\":1,\"method\":\"process/list\"",
        b"{\"id\":1,\"method\":\"process/list\"} x",
        b"{\"id\":1,\"method\":\"process/list\"}{\"id\":2,\"method\":\"process/list\"}",
        b"{\"id\":1,\"method\":\"process/list\",}",
        b"{'id':1}",
        b"{\"id\":01,\"method\":\"process/list\"}",
        b"{\"id\":1,\"method\":\"process/\x01list\"}",
        b"{\"id\":1,\"method\":\"process/\\xlist\"}",
        b"{\"id\":1 \"method\":\"process/list\"}",
        b"\xef\xbb\xbf{\"id\":1,\"method\":\"process/list\"}",
        b"[1,2",
        b"\"open",
        b"NaN",
        b"\0",
    ] {
        let response = refused(&mut client, line);
        assert_eq!(code_of(&response), -32700, "{}", String::from_utf8_lossy(line));
        assert_serving(&mut client);
    }
    client.finish();
}

#[apply(test)]
fn invalid_utf8_is_a_parse_error() {
    let mut client = Client::in_process();
    for line in [
        &b"\xff"[..],
        b"{\"id\":1,\"method\":\"process/list\xff\"}",
        b"{\"id\":1,\"method\":\"process/list\",\"x\":\"\xc3\"}",
        // A surrogate, an overlong form, and a character that is cut by the line's end.
        b"{\"id\":1,\"method\":\"\xed\xa0\x80\"}",
        b"{\"id\":1,\"method\":\"\xc0\xaf\"}",
        b"{\"id\":1,\"method\":\"\xe2\x82",
    ] {
        assert_eq!(code_of(&refused(&mut client, line)), -32700);
        assert_serving(&mut client);
    }
    client.finish();
}

/// JSON, and no request: the id comes back wherever one can be read.
#[apply(test)]
fn what_is_not_a_request_is_refused_with_its_id() {
    let mut client = Client::in_process();
    for line in [
        "12",
        "-0.5",
        "\"process/list\"",
        "null",
        "true",
        "{}",
        "{\"method\":3}",
        "{\"params\":{}}",
    ] {
        assert_eq!(code_of(&refused(&mut client, line.as_bytes())), -32600, "{line}");
    }
    for (line, id) in [
        ("{\"id\":71}", json!(71)),
        ("{\"id\":72,\"method\":3}", json!(72)),
        ("{\"id\":73,\"method\":null}", json!(73)),
        ("{\"id\":\"74\",\"method\":[\"process/list\"]}", json!("74")),
        ("{\"id\":75,\"methods\":\"process/list\"}", json!(75)),
    ] {
        client.send_raw(format!("{line}\n").as_bytes());
        let response = client.response(id.clone());
        assert_eq!((code_of(&response), &response["id"]), (-32600, &id), "{line}");
    }
    assert_serving(&mut client);
    client.finish();
}

/// A batch is one refusal, not several answers.
#[apply(test)]
fn batches_are_refused_and_nothing_in_them_runs() {
    let mut client = Client::in_process();
    let spawn =
        r#"{"id":1,"method":"process/spawn","params":{"command":["sleep","100"],"processHandle":"a"}}"#;
    for line in [
        "[]".to_owned(),
        format!("[{spawn}]"),
        format!("[{spawn},{{\"id\":2,\"method\":\"process/list\"}}]"),
        // In the order of a message's members.
        r#"["2.0",1,"process/list",{}]"#.to_owned(),
    ] {
        let response = refused(&mut client, line.as_bytes());
        assert_eq!(code_of(&response), -32600, "{line}");
        assert_serving(&mut client);
    }
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

/// Millions of brackets are an error or are skipped, wherever they are.
#[apply(test)]
fn nesting_costs_no_stack() {
    let mut client = Client::in_process();
    assert_eq!(code_of(&refused(&mut client, &vec![b'['; 2_000_000])), -32700);
    assert_eq!(
        code_of(&refused(&mut client, &b"{\"a\":".repeat(300_000))),
        -32700
    );
    let nested = "[".repeat(300_000) + &"]".repeat(300_000);
    assert_eq!(code_of(&refused(&mut client, nested.as_bytes())), -32600);
    let nested = "[".repeat(100_000) + &"]".repeat(100_000);
    let id_nested = format!("{{\"id\":{nested},\"method\":\"process/list\"}}");
    assert_eq!(code_of(&refused(&mut client, id_nested.as_bytes())), -32600);

    // Where the method never looks, it does not matter.
    client.send_raw(format!("{{\"id\":1,\"method\":\"process/list\",\"x\":{nested}}}\n").as_bytes());
    assert_eq!(client.response(1)["result"], json!({"processes": []}));
    client.send_raw(
        format!("{{\"id\":2,\"method\":\"process/list\",\"params\":{{\"x\":{nested}}}}}\n").as_bytes(),
    );
    assert_eq!(client.response(2)["result"], json!({"processes": []}));
    // Where it looks, it is a value of the wrong kind.
    for (id, method, params) in [
        (3, "process/list", nested.clone()),
        (
            4,
            "process/spawn",
            format!("{{\"processHandle\":\"a\",\"command\":{nested}}}"),
        ),
        (
            5,
            "process/spawn",
            format!("{{\"processHandle\":\"a\",\"command\":[\"true\"],\"size\":{nested}}}"),
        ),
        (
            6,
            "process/spawn",
            format!("{{\"processHandle\":\"a\",\"command\":[\"true\"],\"timeoutMs\":{nested}}}"),
        ),
        (
            7,
            "process/kill",
            format!("{{\"processHandle\":\"a\",\"signal\":{nested}}}"),
        ),
        (8, "initialize", format!("{{\"clientInfo\":{nested}}}")),
    ] {
        let line = format!("{{\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n");
        client.send_raw(line.as_bytes());
        assert_eq!(code_of(&client.response(id)), -32602, "{method}");
    }
    assert_serving(&mut client);
    client.finish();
}

/// Neither known nor unknown ones, nor requests that leave out their id; none of these does anything.
#[apply(test)]
fn notifications_are_never_answered() {
    let mut client = Client::in_process();
    client.send(&json!({"method": "initialized"}));
    client.send(&json!({"method": "initialized", "params": {"x": 1}}));
    client.send(&json!({"method": "no/such", "params": [1, 2]}));
    client.send(&json!({"method": ""}));
    client.send(&json!({"method": "process/kill", "params": 3}));
    client.send(&json!({"method": "process/spawn",
        "params": {"command": ["sleep", "100"], "processHandle": "a"}}));
    client.send(&json!({"method": "process/list"}));
    assert_serving(&mut client);
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

#[apply(test)]
fn responses_from_a_client_are_refused() {
    let mut client = Client::in_process();
    for message in [
        json!({"id": 41, "result": {}}),
        json!({"id": 41, "result": null}),
        json!({"id": 41, "error": {"code": 1, "message": "x"}}),
        json!({"jsonrpc": "2.0", "id": 41, "error": null}),
    ] {
        client.send(&message);
        let response = client.response(41);
        assert_eq!(code_of(&response), -32600, "{message}");
    }
    assert_eq!(code_of(&refused(&mut client, b"{\"result\":{}}")), -32600);
    assert_eq!(
        code_of(&refused(&mut client, b"{\"id\":null,\"error\":{}}")),
        -32600
    );
    assert_serving(&mut client);
    client.finish();
}

#[apply(test)]
fn unknown_methods_are_told_apart_from_bad_params() {
    let mut client = Client::in_process();
    for method in [
        "",
        "no/such",
        "process/",
        "process/Spawn",
        " process/list",
        "process/list ",
        "initialized",
    ] {
        let (code, message) = client.refuse(method, json!({}));
        assert_eq!(code, -32601, "{method:?}");
        assert!(message.contains(method), "{message:?} names {method:?}");
    }
    for method in [
        "process/spawn",
        "process/writeStdin",
        "process/kill",
        "process/resizePty",
        "process/list",
        "initialize",
    ] {
        for params in [json!([]), json!("x"), json!(1), json!(true), json!(["a", ["b"]])] {
            assert_eq!(
                client.refuse(method, params.clone()).0,
                -32602,
                "{method} {params}"
            );
        }
    }
    // What is wrong is named.
    for (method, params, member) in [
        (
            "process/spawn",
            json!({"command": "true", "processHandle": "a"}),
            "command",
        ),
        (
            "process/spawn",
            json!({"command": ["true", 1], "processHandle": "a"}),
            "command[1]",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": 1}),
            "processHandle",
        ),
        ("process/spawn", json!({"command": ["true"]}), "processHandle"),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "tty": "yes"}),
            "tty",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "env": ["A=1"]}),
            "env",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "outputBytesCap": 1.5}),
            "outputBytesCap",
        ),
        (
            "process/writeStdin",
            json!({"processHandle": "a", "deltaBase64": 1}),
            "deltaBase64",
        ),
        (
            "process/writeStdin",
            json!({"processHandle": "a", "closeStdin": 1}),
            "closeStdin",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "tty": true, "terminalModes": {"erase": 256}}),
            "terminalModes.erase",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "tty": true, "terminalModes": {"ixon": 2}}),
            "ixon",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "tty": true, "terminalModes": {"fly": 1}}),
            "fly",
        ),
        (
            "process/spawn",
            json!({"command": ["true"], "processHandle": "a", "terminalModes": {"ixon": 1}}),
            "tty",
        ),
        ("process/resizePty", json!({"processHandle": "a"}), "size"),
        (
            "process/resizePty",
            json!({"processHandle": "a", "size": {"rows": 1}}),
            "cols",
        ),
        ("process/kill", json!({}), "processHandle"),
        ("initialize", json!({}), "clientInfo"),
        (
            "initialize",
            json!({"clientInfo": {"name": 1}}),
            "clientInfo.name",
        ),
    ] {
        let (code, message) = client.refuse(method, params.clone());
        assert_eq!(code, -32602, "{method} {params}");
        assert!(message.contains(member), "{message:?} names {member}");
    }
    assert_serving(&mut client);
    client.finish();
}

/// A client of a later version can say more than this server knows.
#[apply(test)]
fn unknown_members_are_ignored() {
    let mut client = Client::in_process();
    client.send(&json!({
        "id": 1, "method": "process/spawn", "trace": {"a": [1]}, "auth": null,
        "params": {"command": ["echo", "x"], "processHandle": "a", "shiny": {"new": true}, "z": null},
    }));
    assert!(client.response(1)["result"]["pid"].is_u64());
    assert_eq!(client.exited("a")["stdout"], "x\n");
    client.finish();
}

/// Which of the two would be meant is not known, so neither is taken.
#[apply(test)]
fn members_given_twice_are_refused() {
    let mut client = Client::in_process();
    for line in [
        r#"{"id":1,"id":2,"method":"process/list"}"#,
        r#"{"id":[],"method":"process/list","method":"process/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"jsonrpc":"2.0","method":"process/list"}"#,
    ] {
        assert_eq!(code_of(&refused(&mut client, line.as_bytes())), -32600, "{line}");
    }
    // The client waits for the answer to an id that can be read.
    for line in [
        r#"{"id":"twice","method":"process/list","method":"no/such"}"#,
        r#"{"id":"twice","method":"process/list","params":{},"params":{}}"#,
    ] {
        client.send_raw(format!("{line}\n").as_bytes());
        assert_eq!(code_of(&client.response("twice")), -32600, "{line}");
    }
    client.send_raw(
        b"{\"id\":1,\"method\":\"process/spawn\",\"params\":{\"command\":[\"true\"],\"processHandle\":\"a\",\
          \"command\":[\"false\"]}}\n",
    );
    assert_eq!(code_of(&client.response(1)), -32602);
    assert_serving(&mut client);
    client.finish();
}

/// A `process/list` request of exactly `length` bytes, its line end not counted.
fn padded(id: i64, length: usize) -> Vec<u8> {
    let mut line = format!("{{\"id\":{id},\"method\":\"process/list\",\"x\":\"").into_bytes();
    line.resize(length - 2, b'x');
    line.extend(b"\"}");
    line
}

#[apply(test)]
fn line_of_the_limit_passes_and_one_byte_more_does_not() {
    let config = Config::default().max_message_bytes(1000);
    let mut client = Client::in_process_with(config);
    for (id, end) in [(1, &b"\n"[..]), (2, b"\r\n")] {
        // A CR is a byte of its line.
        let fits = 1000 + 1 - end.len();
        client.send_raw(&[&padded(id, fits), end].concat());
        assert_eq!(client.response(id)["result"], json!({"processes": []}));
        client.send_raw(&[&padded(id, fits + 1), end].concat());
        let response = client.response(Value::Null);
        assert_eq!(code_of(&response), -32600);
        assert!(
            response["error"]["message"]
                .as_str()
                .unwrap_or_default()
                .contains("1000"),
            "{response}"
        );
    }
    // Each is told once, in its place.
    client.send_raw(&[vec![b'x'; 5000], b"\n".to_vec(), padded(3, 100), b"\n".to_vec()].concat());
    client.send_raw(
        &[
            vec![b'{'; 1001],
            b"\n\n".to_vec(),
            vec![b'y'; 300_000],
            b"\n".to_vec(),
        ]
        .concat(),
    );
    for _ in 0..3 {
        assert_eq!(code_of(&client.response(Value::Null)), -32600);
    }
    assert_eq!(client.response(3)["id"], 3);
    assert_serving(&mut client);
    // One that the end of input cuts off.
    client.send_raw(&[b'x'; 2000]);
    let (left, _) = client.finish();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(code_of(&left[0]), -32600);
}

/// A long line is carried out as any other, up to the limit that `initialize` reports.
#[apply(test)]
fn default_limit_is_16_mib() {
    let mut client = Client::in_process();
    let limit = client.call("initialize", json!({"clientInfo": {"name": "t"}}))["limits"]["maxMessageBytes"]
        .as_u64()
        .expect("a limit");
    assert_eq!(limit, 16 << 20);
    let limit = usize::try_from(limit).expect("it fits");
    client.send_raw(&[padded(901, limit), b"\n".to_vec()].concat());
    assert_eq!(client.response(901)["result"], json!({"processes": []}));
    client.send_raw(&[padded(902, limit + 1), b"\n".to_vec()].concat());
    assert_eq!(code_of(&client.response(Value::Null)), -32600);
    // All of it is used: nearly 8 MiB of stdin in one request.
    client.spawn(
        json!({"processHandle": "a", "command": ["wc", "-c"], "streamStdin": true, "timeoutMs": null}),
    );
    client.call(
        "process/writeStdin",
        json!({"processHandle": "a", "deltaBase64": encode(&vec![b'x'; 8 << 20]), "closeStdin": true}),
    );
    assert_eq!(
        client.exited("a")["stdout"].as_str().map(str::trim),
        Some("8388608")
    );
    client.finish();
}

/// The refusal comes as soon as the limit is passed, and the rest of the line costs no memory.
#[apply(test)]
fn endless_line_is_skipped_and_never_stored() {
    let config = Config::default().max_message_bytes(64 * 1024);
    let mut client = Client::in_process_with(config);
    let piece = vec![b'x'; 64 * 1024 + 1];
    client.send_raw(&piece);
    assert_eq!(code_of(&client.response(Value::Null)), -32600);
    let before = private_bytes();
    for _ in 0..2000 {
        client.send_raw(&piece);
    }
    let grown = private_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for a line that is skipped");
    client.send_raw(b"\n");
    assert_serving(&mut client);
    let (left, _) = client.finish();
    assert!(left.is_empty(), "one line, one answer: {left:?}");
}

/// Before it and without it everything works; a second one is refused and changes nothing.
#[apply(test)]
fn handshake_is_optional_and_comes_once() {
    let mut client = Client::in_process();
    assert_eq!(client.run(&["echo", "before"])["stdout"], "before\n");
    let params = json!({"clientInfo": {"name": "tester", "title": "The Tester", "version": "1.2"},
        "capabilities": {"experimentalApi": true}});
    let reply = client.call("initialize", params.clone());
    client.send(&json!({"method": "initialized"}));
    assert_eq!(reply["platformFamily"], "unix");
    assert_eq!(reply["platformOs"], "linux");
    assert_eq!(
        reply["serverInfo"],
        json!({"name": "procwire", "version": env!("CARGO_PKG_VERSION")})
    );
    let agent = reply["userAgent"].as_str().expect("a user agent");
    let prefix = concat!("procwire/", env!("CARGO_PKG_VERSION"), " (");
    assert!(agent.starts_with(prefix) && agent.contains("tester"), "{agent}");

    let mut second = params;
    second["capabilities"]["optOutNotificationMethods"] = json!(["process/exited"]);
    assert_eq!(client.refuse("initialize", second).0, -32600);
    assert_eq!(client.run(&["echo", "after"])["stdout"], "after\n");
    client.finish();
}

#[apply(test)]
fn handshake_tells_every_limit_in_force() {
    let hello = json!({"clientInfo": {"name": "t"}});
    let defaults = json!({
        "maxMessageBytes": 16_777_216,
        "maxProcessHandleBytes": 4_096,
        "defaultTimeoutMs": 10_000,
        "defaultOutputBytesCap": 1_048_576,
        "freePendingStdinBytes": 1_048_576,
        "maxPendingStdinBytes": 8_388_608,
        "outputDrainMs": 2_000,
        "maxDeltaBytes": 65_536,
        "maxInFlight": 65_536,
        "defaultPtySize": {"rows": 24, "cols": 80},
    });
    let mut client = Client::in_process();
    assert_eq!(client.call("initialize", hello.clone())["limits"], defaults);
    client.finish();

    let config = Config::default()
        .max_message_bytes(12_345)
        .default_timeout(None)
        .default_output_cap(7)
        .max_pending_stdin_bytes(99);
    let mut client = Client::in_process_with(config);
    let mut expected = defaults;
    expected["maxMessageBytes"] = json!(12_345);
    expected["defaultTimeoutMs"] = Value::Null;
    expected["defaultOutputBytesCap"] = json!(7);
    expected["maxPendingStdinBytes"] = json!(99);
    assert_eq!(client.call("initialize", hello)["limits"], expected);
    // And they are in force.
    let exited = client.run(&["echo", "0123456789"]);
    assert_eq!(
        (&exited["stdout"], &exited["stdoutCapReached"]),
        (&json!("0123456"), &json!(true))
    );
    client.finish();
}

#[apply(test)]
fn malformed_handshake_does_not_count() {
    let mut client = Client::in_process();
    for params in [
        json!({}),
        json!({"clientInfo": "t"}),
        json!({"clientInfo": {"name": "t"}, "capabilities": []}),
        json!({"clientInfo": {"name": "t"}, "capabilities": {"optOutNotificationMethods": "process/exited"}}),
        json!({"clientInfo": {"name": "t"}, "capabilities": {"optOutNotificationMethods": [1]}}),
    ] {
        assert_eq!(client.refuse("initialize", params).0, -32602);
    }
    client.call(
        "initialize",
        json!({"clientInfo": {"name": "t"}, "capabilities": null}),
    );
    client.finish();
}

fn opting_out(methods: &[&str]) -> Client {
    let mut client = Client::in_process();
    client.call(
        "initialize",
        json!({"clientInfo": {"name": "t"}, "capabilities": {"optOutNotificationMethods": methods}}),
    );
    client
}

/// Nothing is sent of the output, nothing of it holds the program up, and all of it is counted.
#[apply(both)]
fn deltas_can_be_opted_out_of(mode: Mode) {
    let mut client = opting_out(&["process/outputDelta"]);
    let mut params = mode.params("a", &["head", "-c", "4000000", "/dev/zero"]);
    params["outputBytesCap"] = Value::Null;
    client.spawn(params);
    let exited = client.exited("a");
    assert_eq!(exited["stdoutBytes"], 4_000_000);
    assert_eq!((&exited["stdout"], &exited["exitCode"]), (&json!(""), &json!(0)));
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

/// The output still comes, and the handle is free again without a word.
#[apply(both)]
fn exits_can_be_opted_out_of(mode: Mode) {
    let mut client = opting_out(&["process/exited", "no/such"]);
    for round in 0..3 {
        let text = format!("round {round}");
        loop {
            let id = client.request("process/spawn", mode.params("a", &["echo", &text]));
            let response = client.response(id);
            if response.get("result").is_some() {
                break;
            }
            assert!(
                response["error"]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("duplicate"),
                "{response}"
            );
            std::thread::yield_now();
        }
        client.until("a", &text);
    }
    let (left, _) = client.finish();
    assert!(
        left.iter().all(|n| n["method"] == "process/outputDelta"),
        "{left:?}"
    );
}

#[apply(test)]
fn only_exact_names_opt_out() {
    let mut client = opting_out(&[
        "process/",
        "process",
        "*",
        "process/Exited",
        "process/outputDelta ",
        "",
        "exited",
    ]);
    client.spawn(Mode::Pipe.params("a", &["echo", "x"]));
    let (stdout, _, exited) = client.streamed("a");
    assert_eq!((&stdout[..], &exited["exitCode"]), (&b"x\n"[..], &json!(0)));
    client.finish();
}

/// A writer whose bytes can be looked at afterwards.
#[derive(Clone, Default)]
struct Sheet(Arc<Mutex<Vec<u8>>>);

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Good and bad lines in one go: as many answers as questions, each to its own, in their order.
#[apply(test)]
fn every_line_gets_exactly_one_answer() {
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for id in 0..3000 {
        let (line, code) = match id % 6 {
            0 => (json!({"id": id, "method": "process/list"}).to_string(), None),
            1 => (json!({"id": id, "method": "no/such"}).to_string(), Some(-32601)),
            2 => {
                let params = json!({"processHandle": "x"});
                (
                    json!({"id": id, "method": "process/kill", "params": params}).to_string(),
                    Some(-32600),
                )
            }
            3 => (json!({"id": id, "result": 1}).to_string(), Some(-32600)),
            4 => (
                json!({"id": id, "method": "process/kill", "params": {}}).to_string(),
                Some(-32602),
            ),
            _ => ("[".to_owned(), Some(-32700)),
        };
        input.extend(line.into_bytes());
        input.push(b'\n');
        expected.push((if id % 6 == 5 { Value::Null } else { json!(id) }, code));
    }
    let sheet = Sheet::default();
    let connection = procwire::Connection::from_io(Cursor::new(input), sheet.clone());
    let end = procwire::serve(connection, Config::default()).expect("a connection like any other");
    assert_eq!(end, procwire::End::InputEnded);
    let output = sheet.0.lock().expect("not poisoned");
    let output = std::str::from_utf8(&output).expect("UTF-8");
    let answers = output.lines().map(|line| {
        let answer: Value = serde_json::from_str(line).expect("one JSON value a line");
        (answer["id"].clone(), answer["error"]["code"].as_i64())
    });
    assert_eq!(answers.collect::<Vec<_>>(), expected);
}

/// 4 KiB of UTF-8, for every method that names one.
#[apply(test)]
fn handles_have_a_limit() {
    let mut client = Client::in_process();
    let longest = "é".repeat(2_048);
    let too_long = format!("{longest}x");
    client.spawn(Mode::Pipe.params(&longest, &["cat"]));
    for (method, mut params) in [
        ("process/spawn", json!({"command": ["cat"]})),
        ("process/writeStdin", json!({"deltaBase64": "aGk="})),
        ("process/resizePty", json!({"size": {"rows": 1, "cols": 1}})),
        ("process/kill", json!({})),
    ] {
        params["processHandle"] = json!(too_long);
        let (code, message) = client.refuse(method, params);
        assert_eq!(code, -32602, "{method}: {message}");
        assert!(
            message.contains("processHandle") && message.contains("4096"),
            "{message}"
        );
    }
    let list = client.call("process/list", json!({}));
    assert_eq!(list["processes"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["processes"][0]["processHandle"], longest);
    client.kill(&longest);
    assert_eq!(client.exited(&longest)["processHandle"], longest);
    client.finish();
}

/// A megabyte that comes back in an error would be sent and held for nothing.
#[apply(test)]
fn errors_quote_two_hundred_characters_at_most() {
    let mut client = Client::in_process();
    let long = "é".repeat(100_000);
    let spawn = |member: &str, value: Value| {
        let mut params = json!({"command": ["true"], "processHandle": "a"});
        params[member] = value;
        if member == "terminalModes" {
            params["tty"] = json!(true);
        }
        ("process/spawn".to_owned(), params)
    };
    let handle: String = "é".repeat(2_000);
    client.spawn(json!({"command": ["sleep", "1000"], "processHandle": handle, "timeoutMs": null}));
    let cases = [
        (long.clone(), json!({})),
        spawn("command", json!([long])),
        spawn("command", json!([format!("/{long}")])),
        spawn("command", json!(long)),
        spawn("cwd", json!(long)),
        spawn("cwd", json!(format!("/{long}"))),
        spawn("env", json!({(long.clone()): 7})),
        spawn("env", json!({(format!("{long}=")): "x"})),
        spawn("env", json!({(long.clone()): "\0"})),
        spawn("terminalModes", json!({(long.clone()): 1})),
        spawn("terminalModes", json!({(long.clone()): "x"})),
        spawn("timeoutMs", json!(long)),
        spawn("tty", json!(format!("{long}, expected {long}"))),
        spawn("processHandle", json!(handle)),
        ("process/kill".to_owned(), json!({"processHandle": long})),
        (
            "process/kill".to_owned(),
            json!({"processHandle": format!("x{}", "é".repeat(2_000))}),
        ),
        (
            "process/kill".to_owned(),
            json!({"processHandle": handle, "signal": long}),
        ),
        (
            "process/resizePty".to_owned(),
            json!({"processHandle": handle, "size": long}),
        ),
        (
            "process/writeStdin".to_owned(),
            json!({"processHandle": handle, "closeStdin": long}),
        ),
    ];
    for (index, (method, params)) in cases.into_iter().enumerate() {
        let id = client.request(&method, params);
        let response = client.response(id);
        let error = response["error"].to_string();
        assert!(response["error"]["code"].is_i64(), "case {index} is an error");
        // The program is in the message and in its data.
        let data = response["error"]["data"]["program"].as_str().unwrap_or_default();
        assert!(data.chars().count() <= 201, "case {index}: {error}");
        let message = response["error"]["message"].as_str().expect("a message");
        let quoted = message.chars().filter(|c| *c == 'é').count();
        assert!(
            quoted <= 400 && message.chars().count() < 600,
            "case {index}: {message}"
        );
    }
    client.kill(&handle);
    client.exited(&handle);
    client.finish();
}
