//! The schema says what the server does: what it accepts, and what it sends.

use std::process::Stdio;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::harness::{Client, PATIENCE, PROCWIRE, Scratch, apply, binary, test, wait};

fn printed(arguments: &[&str]) -> String {
    let output = binary().arg("schema").args(arguments).output();
    let output = output.expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("JSON is UTF-8")
}

fn document(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(arguments)).expect("it is JSON")
}

/// A validator of one definition of the schema.
fn validator(schema: &Value, definition: &str) -> Validator {
    let mut schema = schema.clone();
    let root = schema.as_object_mut().expect("a schema is an object");
    root.remove("anyOf").expect("the whole is any message");
    root.insert("$ref".to_owned(), json!(format!("#/$defs/{definition}")));
    jsonschema::draft202012::new(&schema).expect("the schema is one")
}

/// The same schema, in which an object has no member but those that are described.
fn closed(schema: &Value) -> Value {
    let mut schema = schema.clone();
    for definition in schema["$defs"].as_object_mut().expect("definitions").values_mut() {
        if definition["type"] == "object" && definition.get("additionalProperties").is_none() {
            definition["additionalProperties"] = json!(false);
        }
    }
    schema
}

fn check(validator: &Validator, message: &Value) {
    let errors: Vec<String> = validator.iter_errors(message).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{message}\n{errors:?}");
}

/// What `procwire schema` prints is in the binary as text. `PROCWIRE_RECORD_SCHEMA=1` writes the text anew.
#[apply(test)]
fn copies_are_what_the_types_say_and_the_binary_prints() {
    let (schema, openrpc) = (procwire::schema::json_schema(), procwire::schema::openrpc());
    let mut messages = schema.clone();
    let definitions = messages["$defs"].as_object_mut().expect("definitions");
    definitions.retain(|name, _| openrpc["components"]["schemas"].get(name).is_none());
    for (path, document, arguments) in [
        ("docs/schema/procwire.schema.json", schema, Some(&[][..])),
        ("docs/schema/openrpc.json", openrpc, Some(&["--openrpc"])),
        ("src/cli/messages.schema.json", messages, None),
    ] {
        let file = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
        let document = format!("{document:#}\n");
        if std::env::var_os("PROCWIRE_RECORD_SCHEMA").is_some() {
            std::fs::write(&file, document).expect("the copy can be written");
            continue;
        }
        let copy = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            copy == document,
            "{path} is not what the types say: PROCWIRE_RECORD_SCHEMA=1 cargo test --test it copies_are"
        );
        if let Some(arguments) = arguments {
            assert!(copy == printed(arguments), "{path} is not what the binary prints");
        }
    }
}

/// Replays every session of the documents with both directions recorded.
#[apply(test)]
fn documented_sessions_follow_the_schema() {
    let scratch = Scratch::new();
    let (sent, got) = (scratch.path("sent"), scratch.path("got"));
    let server = format!("tee -a '{sent}' | '{}' | tee -a '{got}'", &*PROCWIRE);
    let mut child = binary()
        .args(["check", "--server", &server, "README.md", "docs/protocol.md"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    assert_eq!(wait(&mut child).code(), Some(0), "within {PATIENCE:?}");

    let schema = document(&[]);
    let server_message = validator(&closed(&schema), "ServerMessage");
    let lines = std::fs::read_to_string(&got).expect("tee has written it");
    for line in lines.lines() {
        check(&server_message, &serde_json::from_str(line).expect(line));
    }
    // How output is cut into deltas is the machine's business.
    assert!(lines.lines().count() > 25, "{lines}");

    let client_message = validator(&schema, "ClientMessage");
    let lines = std::fs::read_to_string(&sent).expect("tee has written it");
    let bad: Vec<&str> = lines
        .lines()
        .filter(|line| !serde_json::from_str(line).is_ok_and(|message| client_message.is_valid(&message)))
        .collect();
    // The page on the protocol shows four that are refused for what they are.
    assert_eq!(bad.len(), 4, "{bad:#?}");
    assert!(bad[0].contains("\"timeoutMs\":-5"), "{bad:?}");
    assert_eq!(bad[1], "nonsense");
    assert!(bad[2].contains("process/fly"), "{bad:?}");
    assert!(bad[3].contains("\"nice\":20"), "{bad:?}");
    assert!(lines.lines().count() > 15, "{lines}");
}

/// The table of what stands on either side of a border: a method, and params that fit but for one.
fn borders() -> Vec<Value> {
    let mut messages = Vec::new();
    let mut with = |method: &str, base: Value, member: &str, values: Vec<Value>| {
        for value in values {
            let mut params = base.clone();
            params[member] = value;
            messages.push(json!({ "method": method, "params": params }));
        }
        let mut params = base.clone();
        params.as_object_mut().expect("an object").remove(member);
        messages.push(json!({ "method": method, "params": params }));
    };
    let odd = || {
        vec![
            json!(null),
            json!(0),
            json!(""),
            json!([]),
            json!({}),
            json!(true),
            json!(1.5),
        ]
    };
    let and = |more: Value| {
        let mut values = odd();
        values.extend(more.as_array().expect("an array").iter().cloned());
        values
    };
    let text_of = |character: char| format!("a{character}b");

    let spawn = json!({ "command": ["true"], "processHandle": "h", "tty": true });
    let mut spawned = |member: &str, values| with("process/spawn", spawn.clone(), member, values);
    spawned(
        "command",
        and(json!([
            ["true"],
            ["true", ""],
            [""],
            ["true", 1],
            ["true", null],
            ["a\0"],
            ["true", text_of('\0')],
            "true"
        ])),
    );
    let longest = "x".repeat(4_096);
    let too_long = format!("{longest}x");
    spawned("processHandle", and(json!(["x", "\0", " ", longest, too_long])));
    spawned(
        "cwd",
        and(json!(["/", "relative", "/\0", "/no/such/directory", "/\n"])),
    );
    spawned(
        "env",
        and(
            json!([{"A": "b"}, {"A": null}, {"": "b"}, {"A=B": "c"}, {"A\0": "b"}, {"A": "\0"}, {"A": 1}, {"A": "\n"}, {"A\n": ""}]),
        ),
    );
    spawned("tty", and(json!([false, "true"])));
    spawned("streamStdin", and(json!([false])));
    spawned("streamStdoutStderr", and(json!([false])));
    spawned("detach", and(json!([false])));
    spawned("outputBytesCap", and(json!([1, -1, u64::MAX, "1"])));
    spawned("timeoutMs", and(json!([1, -1, u64::MAX, "1"])));
    spawned(
        "outputKeep",
        and(json!([
            "head", "tail", "Head", {"head": 0, "tail": 0}, {"head": 1}, {"tail": 1}, {"head": -1, "tail": 1},
            {"head": null, "tail": 1}, {"head": u64::MAX, "tail": u64::MAX, "more": 1}, {"head": 1, "tail": 1.5}, [1, 1]
        ])),
    );
    spawned(
        "size",
        and(json!([
            {"rows": 1, "cols": 1}, {"rows": 65535, "cols": 65535}, {"rows": 0, "cols": 1}, {"rows": 1, "cols": 0},
            {"rows": 65536, "cols": 1}, {"rows": -1, "cols": 1}, {"rows": 1}, {"cols": 1}, {"rows": null, "cols": 1},
            {"rows": 1, "cols": 1, "pixels": 3}, [1, 1]
        ])),
    );
    spawned(
        "terminalModes",
        and(json!([
            {}, {"erase": 8, "ixon": 0}, {"erase": 255}, {"erase": 256}, {"erase": -1}, {"erase": null}, {"ixon": 1},
            {"ixon": 2}, {"ixon": true}, {"fly": 1}, {"": 1}, [["erase", 8]]
        ])),
    );
    spawned("unknown", odd());
    let piped = json!({ "command": ["true"], "processHandle": "h" });
    with(
        "process/spawn",
        piped.clone(),
        "size",
        vec![json!(null), json!({"rows": 1, "cols": 1})],
    );
    with(
        "process/spawn",
        piped.clone(),
        "terminalModes",
        vec![json!(null), json!({}), json!({"echo": 0})],
    );
    with(
        "process/spawn",
        json!({ "command": ["true"], "processHandle": "h", "size": {"rows": 1, "cols": 1} }),
        "tty",
        vec![json!(true), json!(false)],
    );

    // What has pipes may have other streams instead.
    let paths = json!([
        {"file": "/dev/null"}, {"file": "/dev/null", "append": true}, {"file": "/dev/null", "append": false},
        {"file": "/dev/null", "append": null}, {"file": "/dev/null", "append": 1}, {"file": "/dev/null", "mode": 1},
        {"file": "/no/such/file"}, {"file": "/no/such/\n"}, {"file": "relative"}, {"file": ""}, {"file": "/\0"},
        {"file": null}, {"file": 1}, {"append": true}, ["/dev/null"], "/dev/null", "nul", "NULL", "pipe", "null",
        "stdout", "stderr", "stdin", "inherit", false
    ]);
    for stream in ["stdin", "stdout", "stderr"] {
        with("process/spawn", piped.clone(), stream, and(paths.clone()));
        for flag in ["tty", "streamStdin", "streamStdoutStderr", "detach"] {
            for set in [true, false] {
                let mut base = piped.clone();
                base[flag] = json!(set);
                let values = vec![json!(null), json!("null"), json!({"file": "/dev/null"})];
                with("process/spawn", base, stream, values);
            }
        }
    }
    with(
        "process/spawn",
        piped.clone(),
        "inheritEnv",
        and(json!([
            false,
            ["PATH"],
            ["PATH", "LC_*"],
            ["*"],
            ["A\n"],
            ["é*"],
            [" "],
            [""],
            ["PATH", ""],
            ["A=B"],
            ["="],
            ["A=*"],
            ["*A"],
            ["A*B"],
            ["**"],
            ["A**"],
            ["\0"],
            ["A\0*"],
            [1],
            [null],
            [["PATH"]],
            "PATH"
        ])),
    );
    with(
        "process/spawn",
        piped.clone(),
        "timeoutGraceMs",
        and(json!([1, -1, u64::MAX, "1"])),
    );
    let mut limits = vec![
        json!({"unknown": 1}),
        json!({"cpuSeconds": 1, "nice": 19}),
        json!([1]),
        json!("1"),
    ];
    for name in [
        "cpuSeconds",
        "fileBytes",
        "dataBytes",
        "coreBytes",
        "openFiles",
        "processes",
        "stackBytes",
    ] {
        limits.extend(
            and(json!([1, -1, u64::MAX, "1"]))
                .into_iter()
                .map(|value| json!({name: value})),
        );
    }
    for (name, most) in [("nice", 19), ("oomScoreAdj", 1_000)] {
        limits.extend(odd().into_iter().map(|value| json!({name: value})));
        limits.extend([most, most + 1, -21, -1_001, i64::MAX].map(|value| json!({name: value})));
    }
    with("process/spawn", piped.clone(), "limits", and(json!(limits)));

    let write = json!({ "processHandle": "h", "deltaBase64": "aGk=" });
    with(
        "process/writeStdin",
        write.clone(),
        "processHandle",
        and(json!(["x"])),
    );
    with(
        "process/writeStdin",
        write.clone(),
        "closeStdin",
        and(json!([false])),
    );
    with(
        "process/writeStdin",
        write,
        "deltaBase64",
        and(json!([
            "aGk=", "aGk", "aGk==", "aG k=", "aGk=\n", "-_-_", "aGl=", "aB==", "aA==", "a===", "AAAA", "A",
            "====", "AAAA====",
        ])),
    );
    let close = json!({ "processHandle": "h", "closeStdin": true });
    with(
        "process/writeStdin",
        close.clone(),
        "deltaBase64",
        and(json!(["aGk="])),
    );
    with("process/writeStdin", close, "closeStdin", odd());

    let resize = json!({ "processHandle": "h", "size": {"rows": 1, "cols": 1} });
    with(
        "process/resizePty",
        resize.clone(),
        "processHandle",
        and(json!(["x"])),
    );
    with(
        "process/resizePty",
        resize,
        "size",
        and(json!([{"rows": 0, "cols": 1}, {"rows": 65536, "cols": 1}, {"rows": 2, "cols": 3}])),
    );

    let kill = json!({ "processHandle": "h", "signal": "INT" });
    with(
        "process/kill",
        kill.clone(),
        "processHandle",
        and(json!(["x", "x".repeat(4_096), "x".repeat(4_097)])),
    );
    with(
        "process/kill",
        kill.clone(),
        "signal",
        and(json!([
            0,
            1,
            64,
            65,
            -1,
            "0",
            "00",
            "SIG0",
            "SIGINT",
            "SIGSIGINT",
            "sigint",
            "SIG",
            "SIGIO",
            "SIGRTMIN",
            "SIGRTMIN+0",
            "RTMIN+30",
            "SIGRTMIN+31",
            "RTMAX-9",
            "RTMAX+1",
            "INT ",
            " INT",
            "2",
        ])),
    );
    with("process/kill", kill, "graceMs", and(json!([1, -1, u64::MAX])));

    for keep in [json!("tail"), json!({"head": 1, "tail": 1})] {
        let params = json!({ "command": ["true"], "processHandle": "h", "outputKeep": keep });
        with(
            "process/spawn",
            params,
            "outputBytesCap",
            vec![json!(null), json!(1)],
        );
    }

    let close = json!({ "processHandle": "h", "stream": "stdout" });
    with(
        "process/closeOutput",
        close.clone(),
        "processHandle",
        and(json!(["x"])),
    );
    with(
        "process/closeOutput",
        close,
        "stream",
        and(json!(["stderr", "stdin", "Stdout"])),
    );

    let wait = json!({ "processHandle": "h", "until": [{"exit": true}] });
    with("process/wait", wait.clone(), "processHandle", and(json!(["x"])));
    with(
        "process/wait",
        wait.clone(),
        "stream",
        and(json!(["stdout", "stderr", "stdin"])),
    );
    with(
        "process/wait",
        wait.clone(),
        "timeoutMs",
        and(json!([1, -1, u64::MAX])),
    );
    let mut conditions = vec![
        json!(null),
        json!(vec![json!({"eof": true}); 64]),
        json!(vec![json!({"eof": true}); 65]),
    ];
    for condition in json!([
        {}, {"exit": false}, {"exit": null}, {"exit": 1}, {"exit": true, "eof": true}, {"exit": true, "eof": null},
        {"exit": true, "more": 1}, {"eof": true}, {"input": true}, {"input": "yes"}, {"quietMs": 0}, {"quietMs": -1},
        {"quietMs": 1.5}, {"quietMs": u64::MAX}, {"quietMs": null}, {"text": ""}, {"text": "a"}, {"text": 1},
        {"text": "a", "bytesBase64": "AA=="}, {"bytesBase64": ""}, {"bytesBase64": "AA=="}, {"bytesBase64": "AA"},
        {"bytesBase64": "AB=="}, {"text": "a", "quietMs": 5}
    ])
    .as_array()
    .expect("an array")
    {
        conditions.push(json!([condition]));
    }
    for condition in odd() {
        conditions.push(json!([condition]));
    }
    conditions.extend(odd());
    with("process/wait", wait, "until", conditions);

    let hello = json!({ "clientInfo": { "name": "t" } });
    with(
        "initialize",
        hello.clone(),
        "clientInfo",
        and(json!([
            {"name": "x", "title": null, "version": "1"}, {"name": null}, {"title": "x"}, {"name": "x", "version": 1}, ["x"],
        ])),
    );
    with(
        "initialize",
        hello,
        "capabilities",
        and(json!([
            {"experimentalApi": true}, {"experimentalApi": 1}, {"experimentalApi": null},
            {"optOutNotificationMethods": ["x"]}, {"optOutNotificationMethods": [1]}, {"optOutNotificationMethods": null},
        ])),
    );

    for params in odd() {
        for method in [
            "process/spawn",
            "process/writeStdin",
            "process/resizePty",
            "process/kill",
            "process/closeOutput",
            "process/wait",
            "process/list",
            "process/inspect",
            "initialize",
        ] {
            messages.push(json!({ "method": method, "params": params }));
        }
    }
    for message in [
        json!({ "method": "process/list" }),
        json!({ "method": "process/spawn" }),
        json!({ "method": "process/fly" }),
        json!({ "method": 1 }),
        json!({ "method": null }),
        json!({}),
        json!({ "result": {} }),
        json!({ "method": "process/list", "jsonrpc": "2.0" }),
    ] {
        messages.push(message);
    }
    messages
}

/// Whether the server refused a message for what it is, and not for what is going on.
fn refused_for_its_shape(response: &Value) -> bool {
    let message = response["error"]["message"].as_str().unwrap_or_default();
    match response["error"]["code"].as_i64() {
        Some(-32602 | -32601) => true,
        Some(-32600) => [
            "must not be empty",
            "no method",
            "method must be",
            "sends no requests",
        ]
        .iter()
        .any(|reason| message.contains(reason)),
        _ => false,
    }
}

#[apply(test)]
fn it_accepts_exactly_what_the_server_accepts() {
    let schema = document(&[]);
    let client_message = validator(&schema, "ClientMessage");
    let server_message = validator(&closed(&schema), "ServerMessage");
    let mut client = Client::binary(&[]);
    let (mut accepted, mut refused) = (0, 0);
    for (id, mut message) in borders().into_iter().enumerate() {
        let id = id as i64;
        message["id"] = json!(id);
        client.send(&message);
        let response = client.response(id);
        check(&server_message, &response);
        let shape = !refused_for_its_shape(&response);
        assert_eq!(
            client_message.is_valid(&message),
            shape,
            "the schema and the server disagree on {message}, which was answered {response}"
        );
        *(if shape { &mut accepted } else { &mut refused }) += 1;
        if let Some(handle) = response["result"]["pid"]
            .as_u64()
            .map(|_| &message["params"]["processHandle"])
        {
            let exited = client.exited(handle.as_str().expect("a handle is a string"));
            check(
                &server_message,
                &json!({ "method": "process/exited", "params": exited }),
            );
        }
    }
    assert!(
        accepted > 70 && refused > 120,
        "{accepted} accepted and {refused} refused"
    );
    for id in [json!("text"), json!(i64::MIN), json!(u64::MAX)] {
        let message = json!({ "id": id, "method": "process/list" });
        check(&client_message, &message);
        client.send(&message);
        check(&server_message, &client.response(id));
    }
    for id in [json!(null), json!(1.5), json!([]), json!({}), json!(true)] {
        let message = json!({ "id": id, "method": "process/list" });
        assert!(!client_message.is_valid(&message), "{message}");
        client.send(&message);
        let response = client.response(Value::Null);
        assert_eq!(response["error"]["code"], -32600, "{message}");
        check(&server_message, &response);
    }
    client.finish();
}

/// A number of a request: where it is in there, and its range.
struct Ranged {
    path: String,
    least: i128,
    most: i128,
}

/// Finds every integer below `schema`, and fails at one without a range.
fn integers(document: &Value, schema: &Value, path: &str, found: &mut Vec<Ranged>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = reference.strip_prefix('#').expect("references are local");
        integers(document, document.pointer(target).expect(reference), path, found);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for option in schema[key].as_array().into_iter().flatten() {
            integers(document, option, path, found);
        }
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    assert!(
        !kinds.contains(&json!("number")),
        "{path}: a number that is not an integer"
    );
    if kinds.contains(&json!("integer")) {
        let limit = |name: &str| {
            let limit = &schema[name];
            let wide = limit.as_i64().map(i128::from).or(limit.as_u64().map(i128::from));
            wide.unwrap_or_else(|| panic!("{path} has no {name}: {schema}"))
        };
        found.push(Ranged {
            path: path.to_owned(),
            least: limit("minimum"),
            most: limit("maximum"),
        });
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        integers(document, member, &format!("{path}/{name}"), found);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            integers(document, &schema[name], &format!("{path}/*"), found);
        }
    }
}

/// Both sides of both ends of every number, as the schema has them, sent to the server.
#[apply(test)]
fn every_number_has_the_range_that_the_server_takes() {
    let schema = document(&[]);
    let client_message = validator(&schema, "ClientMessage");
    let mut client = Client::binary(&[]);
    client.spawn(json!({"processHandle": "h", "command": ["sleep", "1000"], "tty": true, "timeoutMs": null}));
    let bases = [
        (
            "SpawnRequest",
            json!({ "method": "process/spawn", "params": {
                "processHandle": "new", "command": ["true"], "tty": true, "size": {"rows": 1, "cols": 1},
                "terminalModes": {}, "outputBytesCap": 1, "timeoutMs": 1, "timeoutGraceMs": 1, "limits": {} } }),
        ),
        (
            "ResizePtyRequest",
            json!({ "method": "process/resizePty", "params": {
                "processHandle": "h", "size": {"rows": 1, "cols": 1} } }),
        ),
        (
            "KillRequest",
            json!({ "method": "process/kill", "params": {
                "processHandle": "gone", "signal": 1, "graceMs": 1 } }),
        ),
        (
            "CloseOutputRequest",
            json!({ "method": "process/closeOutput", "params": { "processHandle": "gone" } }),
        ),
        (
            "WaitRequest",
            json!({ "method": "process/wait", "params": {
                "processHandle": "gone", "until": [{"quietMs": 1}], "timeoutMs": 1 } }),
        ),
        (
            "WriteStdinRequest",
            json!({ "method": "process/writeStdin", "params": {
                "processHandle": "gone", "closeStdin": true } }),
        ),
        (
            "InspectRequest",
            json!({ "method": "process/inspect", "params": { "processHandle": "gone" } }),
        ),
        ("ListRequest", json!({ "method": "process/list" })),
        (
            "InitializeRequest",
            json!({ "method": "initialize", "params": { "clientInfo": { "name": "t" } } }),
        ),
    ];
    let definitions = schema["$defs"].as_object().expect("definitions");
    let requests = definitions.keys().filter(|name| name.ends_with("Request"));
    assert_eq!(requests.count(), bases.len(), "a request that is not tried");
    let mut tried = 0;
    for (name, base) in bases {
        let mut found = Vec::new();
        integers(&schema, &schema["$defs"][name], "", &mut found);
        assert!(found.iter().any(|ranged| ranged.path == "/id"), "{name}");
        for Ranged { path, least, most } in found {
            // A number that no integer of this program holds is read as the double next to it.
            let below = match least <= i128::from(i64::MIN) {
                true => least - 2_048,
                false => least - 1,
            };
            for number in [below, least, least + 1, most - 1, most, most + 1] {
                let mut message = base.clone();
                message["id"] = json!("tried");
                if path.starts_with("/params/outputKeep") {
                    let params = message["params"].as_object_mut().expect("an object");
                    params.remove("outputBytesCap");
                    params.insert("outputKeep".to_owned(), json!({"head": 1, "tail": 1}));
                }
                let (parent, member) = path.rsplit_once('/').expect("a path");
                // Of an array, its first.
                let parent = &parent.replace('*', "0");
                let parent = message
                    .pointer_mut(parent)
                    .unwrap_or_else(|| panic!("{name} has no {parent} in which to try {member}"));
                parent[member] = json!("THE NUMBER");
                let line = message.to_string().replace("\"THE NUMBER\"", &number.to_string());
                let as_read: Value = serde_json::from_str(&line).expect("it is JSON");
                client.send_raw(format!("{line}\n").as_bytes());
                let is_id = path == "/id";
                // It may be one of two kinds of integer, and a number beyond one is of the other.
                let range = match is_id {
                    true => i128::from(i64::MIN)..=i128::from(u64::MAX),
                    false => least..=most,
                };
                let inside = range.contains(&number);
                let response = match is_id {
                    true if inside => client.response(as_read["id"].clone()),
                    true => client.response(Value::Null),
                    false => client.response("tried"),
                };
                // The id that was refused, or params that were.
                let code = response["error"]["code"].as_i64();
                let taken = if is_id {
                    !response["id"].is_null()
                } else {
                    code != Some(-32602)
                };
                let valid = client_message.is_valid(&as_read);
                assert_eq!(valid, inside, "{name}{path} = {number}: the schema says {valid}");
                assert_eq!(valid, taken, "{name}{path} = {number} was answered {response}");
                tried += 1;
                if !response["result"]["pid"].is_null() {
                    client.exited("new");
                }
            }
        }
    }
    assert!(tried > 60, "{tried}");
    client.finish();
}

/// Ajv stops at a keyword or a format that it does not know.
#[apply(test)]
fn it_says_nothing_that_a_strict_validator_does_not_know() {
    const KEYWORDS: &[&str] = &[
        "$schema",
        "$ref",
        "$defs",
        "title",
        "description",
        "default",
        "type",
        "const",
        "enum",
        "properties",
        "required",
        "additionalProperties",
        "propertyNames",
        "maxProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "contentEncoding",
        "minimum",
        "maximum",
        "anyOf",
        "oneOf",
        "if",
        "then",
        "not",
    ];
    fn check(schema: &Value, path: &str) {
        let Some(members) = schema.as_object() else {
            assert!(schema.is_boolean(), "{path}: {schema} is not a schema");
            return;
        };
        for (keyword, value) in members {
            assert!(KEYWORDS.contains(&keyword.as_str()), "{path}: {keyword}");
            let path = format!("{path}/{keyword}");
            match keyword.as_str() {
                "properties" | "$defs" => {
                    for (name, schema) in value.as_object().expect(&path) {
                        check(schema, &format!("{path}/{name}"));
                    }
                }
                "anyOf" | "oneOf" | "prefixItems" => {
                    value
                        .as_array()
                        .expect(&path)
                        .iter()
                        .for_each(|schema| check(schema, &path));
                }
                "items" | "additionalProperties" | "propertyNames" | "if" | "then" | "not" => {
                    check(value, &path)
                }
                _ => {}
            }
        }
    }
    check(&document(&[]), "");
    let openrpc = document(&["--openrpc"]);
    for (name, schema) in openrpc["components"]["schemas"].as_object().expect("schemas") {
        check(schema, name);
    }
    // And whatever the server sends has a range as well.
    let schema = document(&[]);
    for definition in schema["$defs"].as_object().expect("definitions").values() {
        integers(&schema, definition, "", &mut Vec::new());
    }
}

#[apply(test)]
fn openrpc_names_exactly_the_methods_of_the_server() {
    let document = document(&["--openrpc"]);
    let mut client = Client::binary(&[]);
    let mut names = Vec::new();
    for method in document["methods"].as_array().expect("methods") {
        let name = method["name"].as_str().expect("a name");
        names.push(name);
        let params = method["params"].as_array().expect("params");
        let required = params.iter().take_while(|p| p["required"] == true).count();
        assert!(
            params[required..].iter().all(|p| p["required"] == false),
            "what is required comes first: {name}"
        );
        if method.get("result").is_none() {
            assert_eq!(name, "initialized", "a method without a result is a notification");
            continue;
        }
        // Without params each is refused exactly if one of them is required.
        let id = client.request(name, json!({}));
        let response = client.response(id);
        assert_ne!(response["error"]["code"], -32601, "{name}");
        let at_least_one = required > 0;
        assert_eq!(response["error"]["code"] == -32602, at_least_one, "{response}");
    }
    assert_eq!(
        names,
        [
            "initialize",
            "process/spawn",
            "process/writeStdin",
            "process/resizePty",
            "process/kill",
            "process/closeOutput",
            "process/wait",
            "process/list",
            "process/inspect",
            "initialized"
        ]
    );
    let notifications = document["x-notifications"].as_array().expect("notifications");
    let names: Vec<&Value> = notifications.iter().map(|n| &n["name"]).collect();
    assert_eq!(names, ["process/outputDelta", "process/exited"]);
    client.finish();
}

#[apply(test)]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    for (arguments, definitions) in [(&[][..], "/$defs"), (&["--openrpc"][..], "/components/schemas")] {
        let document = document(arguments);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in &found {
            let pointer = reference.strip_prefix('#').expect("references are local");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        // And nothing is defined in vain.
        let all = document
            .pointer(definitions)
            .and_then(Value::as_object)
            .expect("definitions");
        for name in all.keys() {
            let reference = format!("#{definitions}/{name}");
            let exception = arguments == ["--openrpc"] && name == "Error";
            assert!(
                exception || found.contains(&reference.as_str()),
                "{name} is not used"
            );
        }
    }
}
