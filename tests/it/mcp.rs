//! `procwire mcp`, line by line: the versions, each tool, what is wrong with a call, and its ends.
//!
//! Every result of a tool is checked against that tool's output schema.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::ends::{marked, marker, must_die, must_sleep};
use crate::harness::{
    Client, HungProgram, Scratch, apply, children_of, encode, is_alive, kill_stray, test, wait_until,
};

/// An agent's client.
struct Agent {
    client: Client,
    outputs: HashMap<String, Validator>,
}

impl Agent {
    fn new() -> Agent {
        Agent::with(&[])
    }

    fn with(options: &[&str]) -> Agent {
        let mut client = Client::binary(&[&["mcp"], options].concat());
        let listed = client.call("tools/list", json!({}));
        let tools = listed["tools"].as_array().expect("a list of tools");
        let outputs = tools.iter().map(|tool| {
            let validator = jsonschema::draft202012::new(&tool["outputSchema"]);
            (
                string(&tool["name"]),
                validator.expect("its output schema is one"),
            )
        });
        Agent {
            outputs: outputs.collect(),
            client,
        }
    }

    /// Calls a tool without waiting; the id of the request.
    fn begin(&mut self, tool: &str, arguments: Value) -> i64 {
        self.client
            .request("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// The result of such a call.
    #[track_caller]
    fn end(&mut self, tool: &str, id: i64) -> Value {
        let result = self.client.result(id);
        assert_eq!(result["isError"], false, "{result}");
        let errors: Vec<String> = self.outputs[tool]
            .iter_errors(&result["structuredContent"])
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{result}\n{errors:?}");
        result
    }

    /// What a call is answered with, as data.
    #[track_caller]
    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.begin(tool, arguments);
        self.end(tool, id)["structuredContent"].clone()
    }

    /// The same as text.
    #[track_caller]
    fn text(&mut self, tool: &str, arguments: Value) -> String {
        let id = self.begin(tool, arguments);
        string(&self.end(tool, id)["content"][0]["text"])
    }

    /// What is wrong with a call.
    #[track_caller]
    fn wrong(&mut self, tool: &str, arguments: Value) -> String {
        let id = self.begin(tool, arguments);
        let result = self.client.result(id);
        assert_eq!(result["isError"], true, "{result}");
        string(&result["content"][0]["text"])
    }

    /// Ends the connection; the server must end well.
    fn finish(self) {
        let (left, status) = self.client.finish();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(status.and_then(|s| s.code()), Some(0));
    }
}

#[track_caller]
fn string(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
        .to_owned()
}

#[apply(test)]
fn versions_are_negotiated() {
    let mut client = Client::binary(&["mcp"]);
    let newest = "2025-11-25";
    for (asked, answered) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        (newest, newest),
        ("2026-07-28", newest),
        ("2031-01-01", newest),
        ("", newest),
    ] {
        let params = json!({
            "protocolVersion": asked,
            "capabilities": {"roots": {"listChanged": true}},
            "clientInfo": {"name": "test", "version": "1"},
        });
        let result = client.call("initialize", params);
        assert_eq!(result["protocolVersion"], answered, "{asked}");
        assert_eq!(result["capabilities"], json!({"tools": {}}));
        assert_eq!(result["serverInfo"]["name"], "procwire");
        assert_eq!(result["serverInfo"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(string(&result["instructions"]).contains("untilText"));
        // What later versions have is not there.
        assert!(result.get("resultType").is_none() && result.get("_meta").is_none());
    }
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    for params in [json!({}), json!({"protocolVersion": 20250618})] {
        let (code, message) = client.refuse("initialize", params);
        assert!(code == -32602 && message.contains("protocolVersion"), "{message}");
    }
    assert_eq!(client.call("ping", json!({})), json!({}));
    client.finish();
}

#[apply(test)]
fn requests_that_carry_their_version_need_no_handshake() {
    let mut client = Client::binary(&["mcp"]);
    let meta = |version: Value| {
        json!({
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        })
    };
    let known = meta(json!("2026-07-28"));
    let discovered = client.call("server/discover", json!({"_meta": known}));
    assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(discovered["capabilities"], json!({"tools": {}}));
    let listed = client.call("tools/list", json!({"_meta": known}));
    let called = client.call(
        "tools/call",
        json!({"_meta": known, "name": "run", "arguments": {"argv": ["echo", "hi"]}}),
    );
    assert_eq!(called["structuredContent"]["stdout"], "hi\n");
    for result in [&discovered, &listed, &called] {
        assert_eq!(result["resultType"], "complete");
        let server = &result["_meta"]["io.modelcontextprotocol/serverInfo"];
        assert_eq!(server["name"], "procwire");
    }
    for result in [&discovered, &listed] {
        assert!(
            result["ttlMs"].is_u64() && result["cacheScope"] == "public",
            "{result}"
        );
    }
    for version in [json!("1900-01-01"), json!("2025-11-25"), json!(7)] {
        let id = client.request("tools/list", json!({"_meta": meta(version.clone())}));
        let error = client.response(id)["error"].clone();
        assert_eq!(error["code"], -32022, "{error}");
        assert_eq!(error["data"]["requested"], version);
        let supported = error["data"]["supported"].as_array().expect("versions");
        assert!(supported.contains(&json!("2026-07-28")), "{error}");
    }
    let bare = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let (code, message) = client.refuse("tools/list", json!({"_meta": bare}));
    assert!(
        code == -32602 && message.contains("clientCapabilities"),
        "{message}"
    );
    // Each era has its own beginning.
    assert_eq!(client.refuse("server/discover", json!({})).0, -32601);
    let params = json!({"_meta": known, "protocolVersion": "2025-11-25"});
    assert_eq!(client.refuse("initialize", params).0, -32601);
    client.finish();
}

#[apply(test)]
fn what_is_not_a_request_is_refused_and_changes_nothing() {
    let mut client = Client::binary(&["mcp"]);
    for (line, code) in [
        ("nonsense", -32700),
        ("{\"id\":1", -32700),
        ("\u{fffd}", -32700),
        ("[]", -32600),
        ("[{\"id\":1,\"method\":\"ping\"}]", -32600),
        ("7", -32600),
        ("null", -32600),
        ("{}", -32600),
        ("{\"id\":null,\"method\":\"ping\"}", -32600),
        ("{\"id\":1.5,\"method\":\"ping\"}", -32600),
        ("{\"id\":{},\"method\":\"ping\"}", -32600),
        ("{\"method\":7}", -32600),
        ("Content-Length: 40", -32700),
    ] {
        client.send_raw(format!("{line}\n").as_bytes());
        let error = client.response(Value::Null)["error"].clone();
        assert_eq!(error["code"], code, "{line}: {error}");
    }
    client.send_raw(b"\xff\xfe\n");
    assert_eq!(client.response(Value::Null)["error"]["code"], -32700);
    for (request, code) in [
        (json!({"method": "ping", "jsonrpc": "1.0"}), -32600),
        (json!({"method": 7}), -32600),
        (json!({"method": "ping", "params": [1]}), -32602),
        (json!({"method": "ping", "params": "x"}), -32602),
        (json!({"method": "resources/list"}), -32601),
        (json!({"method": "prompts/list"}), -32601),
        (json!({"method": "process/spawn"}), -32601),
        (json!({"method": "tools/list", "params": {"cursor": "x"}}), -32602),
        (json!({"method": "tools/call"}), -32602),
        (json!({"method": "tools/call", "params": {"name": 7}}), -32602),
        (
            json!({"method": "tools/call", "params": {"name": "frob"}}),
            -32602,
        ),
        (
            json!({"method": "tools/call", "params": {"name": "list", "arguments": []}}),
            -32602,
        ),
    ] {
        let mut request = request;
        request["id"] = json!("an id");
        client.send(&request);
        let error = client.response("an id")["error"].clone();
        assert_eq!(error["code"], code, "{request}: {error}");
        assert!(!string(&error["message"]).is_empty());
    }
    // Nothing is answered to these.
    for message in [
        json!({"id": 1, "result": {}}),
        json!({"id": 1, "error": {"code": 1, "message": "x"}}),
        json!({"method": "notifications/initialized"}),
        json!({"method": "notifications/unknown", "params": [1]}),
        json!({"method": "notifications/cancelled"}),
        json!({"method": "notifications/cancelled", "params": {"requestId": 99}}),
        json!({"method": "notifications/cancelled", "params": {"requestId": {}}}),
    ] {
        client.send(&message);
    }
    client.send_raw(b"\n\r\n   \n{\"id\":\"last\",\"method\":\"ping\"}\r\n");
    assert_eq!(client.response("last")["result"], json!({}));
    for id in [json!(-1), json!(u64::MAX), json!("grüße \"x\"")] {
        client.send(&json!({"id": id, "method": "ping"}));
        assert_eq!(client.response(id)["jsonrpc"], "2.0");
    }
    // A line that is too long is skipped to its end.
    client.send_raw(&vec![b'x'; 17 * 1024 * 1024]);
    client.send_raw(b"\n");
    assert_eq!(client.response(Value::Null)["error"]["code"], -32600);
    assert_eq!(client.call("ping", json!({})), json!({}));
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}

#[apply(test)]
fn arrays_of_messages_are_served_in_the_version_that_has_them() {
    let mut client = Client::binary(&["mcp"]);
    client.call("initialize", json!({"protocolVersion": "2025-03-26"}));
    client.send(&json!([
        {"id": "a", "method": "ping"},
        {"method": "notifications/initialized"},
        {"id": "b", "method": "tools/call", "params": {"name": "run", "arguments": {"argv": ["true"]}}},
        7,
    ]));
    assert_eq!(client.response("a")["result"], json!({}));
    assert_eq!(client.response("b")["result"]["structuredContent"]["exitCode"], 0);
    assert_eq!(client.response(Value::Null)["error"]["code"], -32600);
    client.call("initialize", json!({"protocolVersion": "2025-06-18"}));
    client.send(&json!([{"id": "c", "method": "ping"}]));
    assert_eq!(client.response(Value::Null)["error"]["code"], -32600);
    client.finish();
}

#[apply(test)]
fn every_tool_is_described() {
    let mut client = Client::binary(&["mcp"]);
    let listed = client.call("tools/list", json!({}));
    assert!(listed.get("nextCursor").is_none());
    let mut names = Vec::new();
    for tool in listed["tools"].as_array().expect("tools") {
        let name = string(&tool["name"]);
        for schema in ["inputSchema", "outputSchema"] {
            let schema = &tool[schema];
            assert_eq!(schema["type"], "object");
            assert!(jsonschema::meta::is_valid(schema), "{schema}");
        }
        assert_eq!(tool["inputSchema"]["additionalProperties"], false);
        let described = tool["inputSchema"]["properties"].as_object().expect("properties");
        for (parameter, schema) in described {
            assert!(schema["description"].is_string(), "{name}: {parameter}");
        }
        for hint in [
            "readOnlyHint",
            "destructiveHint",
            "idempotentHint",
            "openWorldHint",
        ] {
            assert!(tool["annotations"][hint].is_boolean(), "{name}: {hint}");
        }
        let reads = tool["annotations"]["readOnlyHint"] == true;
        assert_eq!(reads, ["read", "inspect", "list"].contains(&&*name), "{name}");
        assert!(!string(&tool["description"]).contains("  "), "{name}");
        names.push(name);
    }
    let again = client.call("tools/list", json!({}));
    assert_eq!(again, listed, "the order is always the same");
    assert_eq!(
        names,
        [
            "run", "start", "write", "read", "kill", "resize", "inspect", "list"
        ]
    );
    client.finish();
}

#[apply(test)]
fn wrong_arguments_are_results_that_say_what_is_wrong() {
    let mut agent = Agent::new();
    agent.call("start", json!({"argv": ["cat"], "handle": "cat"}));
    agent.call("run", json!({"argv": ["true"], "handle": "over"}));
    for (tool, arguments, expected) in [
        ("run", json!({}), "give either command"),
        ("run", json!({"command": "true", "argv": ["true"]}), "not both"),
        (
            "run",
            json!({"command": ""}),
            "command must be a string that is not empty",
        ),
        ("run", json!({"command": ["true"]}), "command must be a string"),
        ("run", json!({"argv": "true"}), "argv must be an array of strings"),
        ("run", json!({"argv": []}), "argv must be an array of strings"),
        ("run", json!({"argv": [""]}), "argv must be an array of strings"),
        (
            "run",
            json!({"argv": ["echo", 7]}),
            "argv must be an array of strings",
        ),
        ("run", json!({"argv": ["a\u{0}b"]}), "NUL"),
        (
            "run",
            json!({"argv": ["true"], "timeout": 5}),
            "unknown argument \"timeout\"; there are command",
        ),
        (
            "run",
            json!({"argv": ["true"], "untilText": "x"}),
            "unknown argument \"untilText\"",
        ),
        (
            "run",
            json!({"argv": ["true"], "timeoutMs": "5"}),
            "timeoutMs must be a number of milliseconds",
        ),
        ("run", json!({"argv": ["true"], "timeoutMs": -1}), "got -1"),
        (
            "run",
            json!({"argv": ["true"], "timeoutMs": 0}),
            "an integer from 1 on, got 0",
        ),
        ("run", json!({"argv": ["true"], "timeoutMs": 1.5}), "got 1.5"),
        (
            "run",
            json!({"argv": ["true"], "waitMs": u64::MAX}),
            "waitMs must be",
        ),
        (
            "run",
            json!({"argv": ["true"], "maxBytes": 1 << 30}),
            "maxBytes must be an integer from 0 to 262144",
        ),
        (
            "run",
            json!({"argv": ["true"], "tty": "yes"}),
            "tty must be true or false",
        ),
        ("run", json!({"argv": ["true"], "rows": 5}), "give tty as well"),
        (
            "run",
            json!({"argv": ["true"], "tty": true, "rows": 0}),
            "rows must be an integer from 1 to 65535",
        ),
        (
            "run",
            json!({"argv": ["true"], "env": ["A=b"]}),
            "env must be an object",
        ),
        (
            "run",
            json!({"argv": ["true"], "env": {"A": 7}}),
            "env must be an object",
        ),
        (
            "run",
            json!({"argv": ["true"], "env": {"A=B": "c"}}),
            "cannot be the name of a variable",
        ),
        (
            "run",
            json!({"argv": ["true"], "env": {"": "c"}}),
            "cannot be the name of a variable",
        ),
        ("run", json!({"argv": ["true"], "cwd": "/no/such"}), "/no/such"),
        ("run", json!({"argv": ["no-such-program"]}), "no-such-program"),
        ("run", json!({"argv": ["/etc/passwd"]}), "Permission denied"),
        (
            "start",
            json!({"argv": ["true"], "handle": ""}),
            "handle must be a string of 1 to 200 characters",
        ),
        (
            "start",
            json!({"argv": ["true"], "handle": "a\nb"}),
            "control character",
        ),
        (
            "start",
            json!({"argv": ["true"], "handle": "cat"}),
            "cat is running",
        ),
        (
            "start",
            json!({"argv": ["true"], "untilText": ""}),
            "untilText must be a string of 1 to",
        ),
        (
            "start",
            json!({"argv": ["true"], "stdin": "x"}),
            "unknown argument \"stdin\"",
        ),
        ("write", json!({"text": "x"}), "handle is missing"),
        (
            "write",
            json!({"handle": 7, "text": "x"}),
            "handle must be a string",
        ),
        ("write", json!({"handle": "cat"}), "give text, base64 or eof"),
        (
            "write",
            json!({"handle": "cat", "text": "a", "base64": "YQ=="}),
            "not both",
        ),
        ("write", json!({"handle": "cat", "base64": "YQ"}), "base64 is not"),
        (
            "write",
            json!({"handle": "none", "text": "x"}),
            "no process \"none\"; there are cat, over",
        ),
        ("write", json!({"handle": "over", "text": "x"}), "over has ended"),
        ("read", json!({}), "handle is missing: which process"),
        ("read", json!({"handle": "none"}), "no process \"none\""),
        (
            "read",
            json!({"handle": "cat", "offset": 1}),
            "offset 1 is beyond the end of stdout of cat, which has 0 bytes",
        ),
        (
            "read",
            json!({"handle": "cat", "offset": "0"}),
            "offset must be an integer, got \"0\"",
        ),
        (
            "read",
            json!({"handle": "cat", "stream": "stdout"}),
            "stream requires offset",
        ),
        (
            "read",
            json!({"handle": "cat", "stream": "stdin", "offset": 0}),
            "stream must be stdout or stderr",
        ),
        ("resize", json!({"handle": "cat", "rows": 5}), "cols is missing"),
        (
            "resize",
            json!({"handle": "cat", "rows": 5, "cols": 5}),
            "cat has no terminal",
        ),
        (
            "resize",
            json!({"handle": "over", "rows": 5, "cols": 5}),
            "over has ended",
        ),
        ("kill", json!({"handle": "cat", "signal": "NOPE"}), "NOPE"),
        ("kill", json!({"handle": "cat", "signal": 99}), "99"),
        (
            "kill",
            json!({"handle": "cat", "signal": []}),
            "signal must be the name or the number",
        ),
        ("kill", json!({"handle": "none"}), "no process"),
        ("list", json!({"handle": "cat"}), "takes no arguments"),
    ] {
        let why = agent.wrong(tool, arguments.clone());
        assert!(why.contains(expected), "{tool} {arguments}: {why}");
    }
    // What is null is left out, as many clients write it.
    let arguments = json!({"argv": ["true"], "command": null, "cwd": null, "tty": null, "waitMs": null});
    assert_eq!(agent.call("run", arguments)["exitCode"], 0);
    // Nothing of all that has started or ended anything.
    let listed = agent.call("list", json!({}));
    let processes = listed["processes"].as_array().expect("a list");
    let running: Vec<&Value> = processes.iter().filter(|p| p["running"] == true).collect();
    assert!(running.len() == 1 && running[0]["handle"] == "cat", "{listed}");
    agent.finish();
}

#[apply(test)]
fn a_run_tells_how_its_program_ended() {
    let scratch = Scratch::new();
    let mut agent = Agent::new();
    let ended = agent.call("run", json!({"command": "echo out; echo err >&2; exit 3"}));
    assert_eq!(ended["exitCode"], 3);
    assert_eq!(ended["stdout"], "out\n");
    assert_eq!(ended["stderr"], "err\n");
    assert_eq!(ended["running"], false);
    assert_eq!(ended["reason"], "exit");
    assert_eq!(ended["timedOut"], false);
    assert!(
        ended["usage"]["maxRssBytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0)
    );
    assert!(ended.get("signal").is_none());
    let ended = agent.call("run", json!({"command": "kill -TERM $$"}));
    assert_eq!(
        (&ended["exitCode"], &ended["signal"]),
        (&json!(143), &json!("SIGTERM"))
    );
    let ended = agent.call("run", json!({"argv": ["sleep", "1000"], "timeoutMs": 10}));
    assert_eq!(
        (&ended["exitCode"], &ended["timedOut"]),
        (&json!(124), &json!(true))
    );
    let ended = agent.call("run", json!({"argv": ["tr", "a-z", "A-Z"], "stdin": "grüße\n"}));
    assert_eq!(ended["stdout"], "GRüßE\n");
    let big = "x".repeat(9_000_000);
    let ended = agent.call("run", json!({"argv": ["wc", "-c"], "stdin": big}));
    assert_eq!(ended["stdout"], "9000000\n");
    let ended = agent.call("run", json!({"argv": ["cat"]}));
    assert_eq!(ended["stdout"], "", "without stdin there is none");
    let directory = scratch.directory("a directory");
    let arguments = json!({
        "command": "pwd; echo $PWD; echo $GREETING ${HOME-none}",
        "cwd": directory,
        "env": {"GREETING": "hi", "HOME": null},
    });
    let ended = agent.call("run", arguments);
    assert_eq!(ended["stdout"], format!("{directory}\n{directory}\nhi none\n"));
    let text = agent.text(
        "run",
        json!({"command": "echo out; echo err >&2; exit 3", "handle": "t"}),
    );
    assert!(text.starts_with("t: exit code 3 after 0."), "{text}");
    assert!(text.ends_with(" s\n[stdout]\nout\n[stderr]\nerr\n"), "{text}");
    agent.finish();
}

#[apply(test)]
fn a_run_that_takes_long_goes_on() {
    let mut agent = Agent::new();
    let script = "echo one; read line </dev/fd/3; echo two; exit 4";
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    let command = format!("mkfifo '{fifo}'; exec 3<>'{fifo}'; {script}");
    let run = agent.call(
        "run",
        json!({"command": command, "waitMs": 300, "handle": "long"}),
    );
    assert_eq!((&run["running"], &run["reason"]), (&json!(true), &json!("time")));
    assert!(run.get("exitCode").is_none());
    let pid = u32::try_from(run["pid"].as_u64().expect("it runs")).expect("a pid");
    assert!(is_alive(pid));
    // Whether that was printed within the time is not said.
    let shown = match &run["stdout"] {
        shown if shown == "" => agent.call("read", json!({"handle": "long"}))["stdout"].clone(),
        shown => shown.clone(),
    };
    assert_eq!(shown, "one\n");
    let why = agent.wrong("write", json!({"handle": "long", "text": "x"}));
    assert!(why.contains("use start"), "{why}");
    std::fs::write(&fifo, "go on\n").expect("the program has it open");
    let ended = agent.call("read", json!({"handle": "long", "untilExit": true}));
    assert_eq!(
        (&ended["exitCode"], &ended["stdout"]),
        (&json!(4), &json!("two\n"))
    );
    // It can be read again, and there is nothing new.
    let again = agent.call("read", json!({"handle": "long"}));
    assert_eq!((&again["exitCode"], &again["stdout"]), (&json!(4), &json!("")));
    agent.finish();
}

#[apply(test)]
fn patience_and_directory_are_those_of_the_command_line() {
    let scratch = Scratch::new();
    let base = scratch.directory("base");
    let below = scratch.directory("base/below");
    let mut agent = Agent::with(&["--patience", "50ms", "--cwd", &base]);
    assert_eq!(
        agent.call("run", json!({"argv": ["pwd"], "waitMs": 20_000}))["stdout"],
        format!("{base}\n")
    );
    let arguments = json!({"argv": ["pwd"], "waitMs": 20_000, "cwd": "below"});
    assert_eq!(agent.call("run", arguments)["stdout"], format!("{below}\n"));
    let arguments = json!({"argv": ["pwd"], "waitMs": 20_000, "cwd": "/"});
    assert_eq!(agent.call("run", arguments)["stdout"], "/\n");
    let run = agent.call("run", json!({"argv": ["sleep", "1000"], "handle": "s"}));
    assert_eq!(run["reason"], "time");
    let read = agent.call("read", json!({"handle": "s"}));
    assert_eq!(
        (&read["reason"], &read["running"]),
        (&json!("time"), &json!(true))
    );
    let read = agent.call("read", json!({"handle": "s", "waitMs": 0, "untilText": "x"}));
    assert_eq!(read["reason"], "time");
    agent.finish();
}

/// With no time to wait at all, what was asked is still answered.
#[apply(test)]
fn a_call_that_does_not_wait_is_told_whether_it_worked() {
    let mut agent = Agent::with(&["--patience", "0s"]);
    let started = agent.call("start", json!({"argv": ["cat"], "handle": "cat"}));
    assert_eq!(started["reason"], "started");
    assert!(started["pid"].is_u64(), "{started}");
    for tool in ["start", "run"] {
        let why = agent.wrong(tool, json!({"argv": ["no-such-program"], "waitMs": 0}));
        assert!(why.contains("no-such-program"), "{why}");
    }
    let run = agent.call(
        "run",
        json!({"argv": ["sleep", "1000"], "waitMs": 0, "handle": "s"}),
    );
    assert_eq!(run["reason"], "time");
    assert!(run["pid"].is_u64(), "{run}");
    let written = agent.call("write", json!({"handle": "cat", "text": "x", "waitMs": 0}));
    assert_eq!(written["reason"], "done");
    // Its schema has what a process does, which takes a moment to find out.
    assert!(agent.call("inspect", json!({"handle": "cat"}))["processes"].is_array());
    agent.call("kill", json!({"handle": "cat", "waitMs": 20_000}));
    let why = agent.wrong("inspect", json!({"handle": "cat"}));
    assert_eq!(why, "cat has ended: there is nothing to inspect");
    agent.finish();
}

/// JSON Schema takes 5.0 for an integer, and some clients write it so.
#[apply(test)]
fn integers_may_be_written_with_a_fraction() {
    let mut agent = Agent::new();
    let arguments = json!({"argv": ["stty", "size"], "tty": true, "rows": 5.0, "cols": 1e2, "waitMs": 2e4,
        "limits": {"openFiles": 64.0}});
    assert_eq!(agent.call("run", arguments)["stdout"], "5 100\n");
    for rows in [json!(5.5), json!(-0.5), json!(1e300)] {
        let why = agent.wrong("run", json!({"argv": ["true"], "tty": true, "rows": rows}));
        assert!(
            why.contains("rows must be an integer from 1 to 65535, got "),
            "{why}"
        );
    }
    agent.finish();
}

#[apply(test)]
fn stderr_is_merged_and_limits_are_kept() {
    let mut agent = Agent::new();
    for tool in ["run", "start"] {
        let arguments = json!({"command": "echo a; echo b >&2; echo c; ulimit -n; nice", "mergeStderr": true,
            "limits": {"openFiles": 77, "nice": 9}, "handle": tool});
        let mut result = agent.call(tool, arguments);
        if tool == "start" {
            result = agent.call("read", json!({"handle": "start", "untilExit": true}));
        }
        assert_eq!(result["stdout"], "a\nb\nc\n77\n9\n");
        assert_eq!(result["stderr"], "");
    }
    // A terminal is one stream anyway.
    let arguments = json!({"command": "echo a; echo b >&2", "tty": true, "mergeStderr": true});
    assert_eq!(agent.call("run", arguments)["stdout"], "a\nb\n");
    for limits in [
        json!({"memory": 1}),
        json!({"openFiles": -1}),
        json!({"nice": 20}),
        json!({"oomScoreAdj": -1001}),
        json!({"openFiles": "64"}),
        json!(64),
        json!([]),
    ] {
        let why = agent.wrong("run", json!({"argv": ["true"], "limits": limits}));
        assert!(
            why.starts_with("run: limits must be an object of integers"),
            "{why}"
        );
        assert!(why.contains("cpuSeconds, fileBytes"), "{why}");
    }
    // What the machine refuses is told with the name of the limit.
    let why = agent.wrong(
        "run",
        json!({"argv": ["true"], "limits": {"openFiles": i64::MAX}}),
    );
    assert!(why.contains("openFiles"), "{why}");
    agent.finish();
}

#[apply(test)]
fn errors_quote_little_of_what_was_sent() {
    let mut agent = Agent::new();
    let long = "y".repeat(1 << 20);
    for (tool, arguments) in [
        ("run", json!({long.clone(): 1})),
        ("list", json!({long.clone(): 1})),
        ("run", json!({"argv": ["true"], "env": {format!("{long}="): "x"}})),
        ("run", json!({"argv": ["true"], "cwd": long})),
        ("run", json!({"argv": [long]})),
        ("read", json!({"handle": long})),
        ("kill", json!({"handle": "x", "signal": long})),
    ] {
        let why = agent.wrong(tool, arguments);
        assert!(why.len() < 1000, "{} bytes: {}", why.len(), &why[..200]);
    }
    for (method, params) in [
        (&*long, json!({})),
        ("tools/call", json!({"name": long})),
        ("tools/call", json!({"name": "run", "arguments": long})),
        ("initialize", json!({"protocolVersion": 1})),
    ] {
        let id = agent.client.request(method, params);
        let message = agent.client.error(id).1;
        assert!(
            message.len() < 1000,
            "{} bytes: {}",
            message.len(),
            &message[..200]
        );
    }
    agent.finish();
}

/// Its messages are served one by one, so the answer to the first does not wait for the last.
#[apply(test)]
fn a_long_array_holds_up_nothing() {
    const COUNT: i64 = 200;
    const FIRST: i64 = 1_000_000;
    let mut agent = Agent::new();
    let params = json!({"protocolVersion": "2025-03-26", "capabilities": {}});
    agent.client.call("initialize", params);
    let started = agent.call("start", json!({"argv": ["cat"], "handle": "cat"}));
    let cat = u32::try_from(started["pid"].as_u64().expect("a pid")).expect("it is small");
    let write = json!({"handle": "cat", "text": "hi\n", "untilText": "hi"});
    let params = json!({"name": "write", "arguments": write});
    let mut batch = vec![json!({"jsonrpc": "2.0", "id": FIRST, "method": "tools/call", "params": params})];
    batch.extend((1..COUNT).map(|n| json!({"jsonrpc": "2.0", "id": FIRST + n, "method": "tools/list"})));
    // The answers are more than the pipe holds, so that the array is not done before this side reads.
    agent.client.stop_reading();
    agent.client.send(&Value::Array(batch));
    wait_until("the text has been written", || {
        let io = std::fs::read_to_string(format!("/proc/{cat}/io")).expect("it lives");
        io.lines().any(|line| line == "wchar: 3")
    });
    agent.client.read_again();
    assert_eq!(agent.end("write", FIRST)["structuredContent"]["reason"], "text");
    assert!(
        !agent.client.is_answered(FIRST + COUNT - 1),
        "the whole array came first"
    );
    for n in 1..COUNT {
        assert!(agent.client.result(FIRST + n)["tools"].is_array());
    }
    agent.finish();
}

#[apply(test)]
fn a_server_is_waited_for_until_it_is_ready() {
    let mut agent = Agent::new();
    // It says so on stderr, in two pieces.
    let script = "printf 'listening ' >&2; sleep 0.1; printf 'on 8080\\n' >&2; exec sleep 1000";
    let started = agent.call(
        "start",
        json!({"command": script, "untilText": "listening on 8080", "handle": "web"}),
    );
    assert_eq!(
        (&started["reason"], &started["running"]),
        (&json!("text"), &json!(true))
    );
    assert!(string(&started["stderr"]).contains("listening on 8080"));
    // One that ends before that is not waited for.
    let failed = agent.call(
        "start",
        json!({"command": "echo 'port in use' >&2; exit 1", "untilText": "listening"}),
    );
    assert_eq!(
        (&failed["reason"], &failed["exitCode"]),
        (&json!("exit"), &json!(1))
    );
    assert_eq!(failed["stderr"], "port in use\n");
    let late = agent.call(
        "start",
        json!({"argv": ["sleep", "1000"], "untilText": "listening", "waitMs": 50}),
    );
    assert_eq!(
        (&late["reason"], &late["running"]),
        (&json!("time"), &json!(true))
    );
    let started = agent.call("start", json!({"argv": ["sleep", "1000"]}));
    assert_eq!(started["reason"], "started");
    assert!(started["pid"].is_u64());
    agent.finish();
}

#[apply(test)]
fn a_dialogue_shows_what_each_line_brings() {
    let mut agent = Agent::new();
    for tty in [false, true] {
        let script = "printf '> '; while read line; do echo \"got $line\"; printf '> '; done; exit 5";
        let handle = format!("tty {tty}");
        let arguments = json!({"command": script, "tty": tty, "handle": handle, "untilText": "> "});
        assert_eq!(agent.call("start", arguments)["stdout"], "> ");
        for word in ["one", "two"] {
            let arguments = json!({"handle": handle, "text": format!("{word}\n"), "untilText": "> "});
            let shown = string(&agent.call("write", arguments)["stdout"]);
            // A terminal shows what is typed, too, and its line ends are CR LF.
            let echo = if tty { format!("{word}\n") } else { String::new() };
            assert_eq!(shown, format!("{echo}got {word}\n> "));
        }
        // Without conditions it only writes, and shows nothing.
        let written = agent.call("write", json!({"handle": handle, "text": "three\n"}));
        assert_eq!(written["reason"], "done");
        assert!(written.get("stdout").is_none(), "{written}");
        let read = agent.call("read", json!({"handle": handle, "untilText": "got three"}));
        assert!(string(&read["stdout"]).contains("got three"), "{read}");
        let ended = agent.call("write", json!({"handle": handle, "eof": true, "untilExit": true}));
        assert_eq!(
            (&ended["reason"], &ended["exitCode"]),
            (&json!("exit"), &json!(5))
        );
    }
    agent.finish();
}

#[apply(test)]
fn a_read_shows_each_byte_once() {
    let mut agent = Agent::new();
    let script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; read go; echo end";
    agent.call("start", json!({"command": script, "handle": "s"}));
    let (mut seen, mut position) = (String::new(), 0);
    while !seen.ends_with("line 499\n") {
        let read = agent.call("read", json!({"handle": "s"}));
        assert_eq!(read["stdoutOffset"], position);
        seen.push_str(&string(&read["stdout"]));
        position = seen.len() as u64;
    }
    let read = agent.call("read", json!({"handle": "s", "waitMs": 0}));
    assert_eq!((&read["stdout"], &read["reason"]), (&json!(""), &json!("time")));
    agent.call("write", json!({"handle": "s", "text": "go\n"}));
    let read = agent.call("read", json!({"handle": "s", "untilExit": true}));
    assert_eq!(read["stdout"], "end\n");
    let expected: String = (0..500).map(|i| format!("line {i}\n")).collect();
    assert_eq!(seen, expected);
    agent.finish();
}

#[apply(test)]
fn a_read_from_an_offset_shows_what_is_kept() {
    let mut agent = Agent::new();
    // 588,895 bytes, of which the first 65,536 and the last 196,608 are kept.
    let all: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let run = agent.call("run", json!({"argv": ["seq", "100000"], "handle": "seq"}));
    assert_eq!(run["stdout"], all[..16_384]);
    assert_eq!(run["stdoutTail"], all[all.len() - 16_384..]);
    assert_eq!(run["stdoutOmittedBytes"], all.len() - 32_768);
    assert_eq!(run["stdoutLostBytes"], all.len() - 65_536 - 196_608);
    assert_eq!(run["stdoutBytes"], all.len());
    let read = agent.call("read", json!({"handle": "seq", "offset": 0, "maxBytes": 200_000}));
    assert_eq!(read["stdout"], all[..65_536]);
    let read = agent.call(
        "read",
        json!({"handle": "seq", "offset": 60_000, "maxBytes": 1000}),
    );
    assert_eq!(read["stdout"], all[60_000..60_500]);
    assert_eq!(read["stdoutTail"], all[all.len() - 500..]);
    let read = agent.call("read", json!({"handle": "seq", "offset": -100}));
    assert_eq!(read["stdout"], all[all.len() - 100..]);
    assert!(read.get("stdoutOmittedBytes").is_none(), "{read}");
    let read = agent.call("read", json!({"handle": "seq", "offset": all.len()}));
    assert_eq!(read["stdout"], "");
    let read = agent.call(
        "read",
        json!({"handle": "seq", "offset": -1_000_000, "maxBytes": 4}),
    );
    assert_eq!(
        (&read["stdout"], &read["stdoutTail"]),
        (&json!("1\n"), &json!("0\n"))
    );
    // From within what is lost, only what is after it can be shown.
    let read = agent.call(
        "read",
        json!({"handle": "seq", "offset": 100_000, "maxBytes": 262_144}),
    );
    assert_eq!(read["stdout"], "");
    assert_eq!(read["stdoutTail"].as_str().map(str::len), Some(131_072));
    let why = agent.wrong("read", json!({"handle": "seq", "offset": all.len() + 1}));
    assert!(why.contains("beyond the end"), "{why}");
    let text = agent.text("read", json!({"handle": "seq", "offset": 0, "maxBytes": 4}));
    assert!(
        text.contains("[588891 bytes are left out here, from 2 to 588893, 326751 of which are not kept"),
        "{text}"
    );
    let run = agent.call("run", json!({"argv": ["echo", "hi"], "maxBytes": 0}));
    assert_eq!(
        (&run["stdout"], &run["stdoutOmittedBytes"]),
        (&json!(""), &json!(3))
    );
    agent.finish();
}

#[apply(test)]
fn text_is_found_wherever_it_was_printed_since_the_last_result() {
    let mut agent = Agent::new();
    let script = "echo early; read go; head -c 1000000 /dev/zero | tr '\\0' x; echo 'the end'; \
                  exec sleep 1000";
    agent.call(
        "start",
        json!({"command": script, "handle": "s", "untilText": "early"}),
    );
    // Shown already, so it is not found again.
    let read = agent.call("read", json!({"handle": "s", "untilText": "early", "waitMs": 50}));
    assert_eq!(read["reason"], "time");
    let read = agent.call("read", json!({"handle": "s", "offset": 0, "untilText": "early"}));
    assert_eq!(
        (&read["reason"], &read["stdout"]),
        (&json!("text"), &json!("early\n"))
    );
    agent.call("write", json!({"handle": "s", "text": "go\n"}));
    wait_until("all is printed", || {
        agent.call("list", json!({}))["processes"][0]["stdoutBytes"] == 1_000_014
    });
    // It is there before it is asked for, after more than is kept.
    let read = agent.call("read", json!({"handle": "s", "untilText": "xthe end"}));
    assert_eq!(read["reason"], "text");
    assert!(string(&read["stdoutTail"]).ends_with("xthe end\n"), "{read}");
    agent.finish();
}

#[apply(test)]
fn quiet_counts_from_the_last_output() {
    let mut agent = Agent::new();
    let script = "while read line; do for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; done";
    agent.call("start", json!({"command": script, "handle": "s"}));
    let began = Instant::now();
    let arguments = json!({"handle": "s", "text": "go\n", "untilQuietMs": 1000});
    let written = agent.call("write", arguments);
    assert_eq!(
        (&written["reason"], &written["stdout"]),
        (&json!("quiet"), &json!("1\n2\n3\n4\n5\n"))
    );
    assert!(
        began.elapsed() >= Duration::from_millis(1200),
        "{:?}",
        began.elapsed()
    );
    // The first of two conditions counts.
    let arguments = json!({"handle": "s", "untilQuietMs": 10, "untilText": "never"});
    assert_eq!(agent.call("read", arguments)["reason"], "quiet");
    agent.finish();
}

#[apply(test)]
fn escape_sequences_are_shown_only_if_asked_for() {
    let mut agent = Agent::new();
    let script = r"printf '\033[1;31mred\033[0m \033]0;title\007plain\r\n'";
    for (arguments, expected) in [
        (json!({"command": script}), "red plain\r\n"),
        (json!({"command": script, "tty": true}), "red plain\r\n"),
        (
            json!({"command": script, "raw": true}),
            "\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}plain\r\n",
        ),
        (
            json!({"command": script, "raw": true, "tty": true}),
            "\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}plain\r\r\n",
        ),
    ] {
        assert_eq!(
            agent.call("run", arguments.clone())["stdout"],
            expected,
            "{arguments}"
        );
    }
    // Text is found as it is shown, also where a colour ends in it.
    let script = r"printf '\033[1m>\033[32m>> \033[0m'; exec sleep 1000";
    let started = agent.call("start", json!({"command": script, "untilText": ">>> "}));
    assert_eq!(started["stdout"], ">>> ");
    agent.finish();
}

#[apply(test)]
fn characters_are_whole_and_other_bytes_are_said() {
    let mut agent = Agent::new();
    // Half a character, and half an escape sequence, are shown when the other half has come.
    let script = r"printf 'a\303'; read go; printf '\274b\033[3'; read go; printf '1mc'; exec sleep 1000";
    agent.call("start", json!({"command": script, "handle": "s"}));
    let read = agent.call("read", json!({"handle": "s"}));
    assert_eq!((&read["stdout"], &read["stdoutBytes"]), (&json!("a"), &json!(2)));
    let read = agent.call("read", json!({"handle": "s", "waitMs": 100}));
    assert_eq!((&read["stdout"], &read["reason"]), (&json!(""), &json!("time")));
    let arguments = json!({"handle": "s", "text": "go\n", "untilText": "üb"});
    assert_eq!(agent.call("write", arguments)["stdout"], "üb");
    let arguments = json!({"handle": "s", "text": "go\n", "untilText": "c"});
    assert_eq!(agent.call("write", arguments)["stdout"], "c");
    let run = agent.call("run", json!({"command": r"printf 'a\377b'"}));
    assert_eq!(
        (&run["stdout"], &run["stdoutLossy"]),
        (&json!("a\u{fffd}b"), &json!(true))
    );
    let text = agent.text("run", json!({"command": r"printf 'a\377b'"}));
    assert!(text.contains("not UTF-8"), "{text}");
    // Where the middle is left out, no character is cut.
    let run = agent.call("run", json!({"command": "printf 'üüüüüü'", "maxBytes": 6}));
    assert_eq!((&run["stdout"], &run["stdoutTail"]), (&json!("ü"), &json!("ü")));
    assert_eq!(run["stdoutOmittedBytes"], 8);
    assert!(run.get("stdoutLossy").is_none(), "{run}");
    agent.finish();
}

#[apply(test)]
fn bytes_are_written_as_they_are() {
    let mut agent = Agent::new();
    agent.call("start", json!({"argv": ["od", "-An", "-tx1"], "handle": "od"}));
    let bytes = [0, 255, 10, 195];
    let arguments = json!({"handle": "od", "base64": encode(&bytes), "eof": true, "untilExit": true});
    assert_eq!(agent.call("write", arguments)["stdout"], " 00 ff 0a c3\n");
    // What a program does not read is said, and does not hold up the session.
    agent.call("start", json!({"argv": ["sleep", "1000"], "handle": "deaf"}));
    let text = "x".repeat(4_000_000);
    let written = agent.call("write", json!({"handle": "deaf", "text": text, "waitMs": 50}));
    assert_eq!(
        (&written["reason"], &written["running"]),
        (&json!("time"), &json!(true))
    );
    assert_eq!(agent.call("kill", json!({"handle": "deaf"}))["signal"], "SIGKILL");
    agent.finish();
}

#[apply(test)]
fn a_terminal_has_its_size() {
    let mut agent = Agent::new();
    let script = "stty size; test -t 0 && echo terminal; trap 'stty size; exit 0' WINCH; \
                  echo ready; while :; do sleep 0.01; done";
    let arguments = json!({"command": script, "tty": true, "handle": "t", "rows": 30, "cols": 100,
                           "untilText": "ready"});
    let started = agent.call("start", arguments);
    assert!(
        string(&started["stdout"]).starts_with("30 100\nterminal\n"),
        "{started}"
    );
    let resized = agent.call("resize", json!({"handle": "t", "rows": 50, "cols": 132}));
    assert_eq!(resized["reason"], "done");
    let ended = agent.call("read", json!({"handle": "t", "untilExit": true}));
    assert!(string(&ended["stdout"]).contains("50 132"), "{ended}");
    assert_eq!(
        agent.call("run", json!({"command": "stty size", "tty": true}))["stdout"],
        "24 80\n"
    );
    agent.finish();
}

#[apply(test)]
fn a_prompt_is_waited_for_whatever_it_says() {
    let mut agent = Agent::new();
    for tty in [false, true] {
        let handle = format!("tty {tty}");
        // It computes before each of its prompts, and says nothing meanwhile.
        let script = "printf 'name? '; read name; sleep 0.3; printf \"$name, age? \"; read age; \
                      sleep 0.3; echo $age; exit 6";
        let arguments = json!({"command": script, "tty": tty, "handle": handle, "untilInput": true});
        let started = agent.call("start", arguments);
        assert_eq!(
            (&started["reason"], &started["stdout"]),
            (&json!("input"), &json!("name? "))
        );
        let arguments = json!({"handle": handle, "text": "ann\n", "untilInput": true});
        let written = agent.call("write", arguments);
        assert_eq!(written["reason"], "input");
        assert!(string(&written["stdout"]).ends_with("ann, age? "), "{written}");
        // It waits already, which a read is told as well.
        let read = agent.call("read", json!({"handle": handle, "untilInput": true}));
        assert_eq!((&read["reason"], &read["stdout"]), (&json!("input"), &json!("")));
        let arguments = json!({"handle": handle, "text": "7\n", "untilInput": true});
        let ended = agent.call("write", arguments);
        assert_eq!(
            (&ended["reason"], &ended["exitCode"]),
            (&json!("exit"), &json!(6))
        );
    }
    // One that never does is waited for until the time is up.
    let sleep = agent.call("start", json!({"argv": ["sleep", "1000"]}))["handle"].clone();
    let read = agent.call(
        "read",
        json!({"handle": sleep, "untilInput": true, "waitMs": 300}),
    );
    assert_eq!(read["reason"], "time");
    agent.finish();
}

#[apply(test)]
fn what_a_program_does_is_shown() {
    let mut agent = Agent::new();
    let script = "stty -echo; echo ready; read secret; sleep 1000";
    let arguments = json!({"command": script, "tty": true, "handle": "t", "rows": 30, "cols": 100,
                           "untilText": "ready"});
    agent.call("start", arguments);
    agent.call("read", json!({"handle": "t", "untilInput": true}));
    let shown = agent.call("inspect", json!({"handle": "t"}));
    assert_eq!(shown["waitsForInput"], true);
    let terminal = json!({"canonical": true, "echo": false, "rows": 30, "cols": 100});
    assert_eq!(shown["terminal"], terminal);
    assert_eq!(shown["processes"][0]["pid"], shown["pid"]);
    let text = agent.text("inspect", json!({"handle": "t"}));
    assert!(
        text.starts_with("t: waits for input\nterminal: 30 x 100, echo off"),
        "{text}"
    );
    agent.call("write", json!({"handle": "t", "text": "x\n"}));
    wait_until("it sleeps", || {
        let shown = agent.call("inspect", json!({"handle": "t"}));
        shown["waitsForInput"] == false && shown["processes"].as_array().map(Vec::len) == Some(2)
    });
    agent.call("kill", json!({"handle": "t"}));
    let why = agent.wrong("inspect", json!({"handle": "t"}));
    assert_eq!(why, "t has ended: there is nothing to inspect");
    agent.finish();
}

#[apply(test)]
fn a_kill_reaches_all_and_waits_for_the_end() {
    let mut agent = Agent::new();
    let marker = marker();
    let script = format!("(sleep 1000.{marker}; :) & setsid sleep 1001.{marker} & wait");
    agent.call("start", json!({"command": script, "handle": "tree"}));
    must_sleep(&marker, 2);
    let killed = agent.call("kill", json!({"handle": "tree"}));
    assert_eq!(
        (&killed["signal"], &killed["running"]),
        (&json!("SIGKILL"), &json!(false))
    );
    must_die(&marker, "kill");
    // One that has ended is not an error.
    assert_eq!(agent.call("kill", json!({"handle": "tree"}))["signal"], "SIGKILL");
    let starts = |trap: &str| {
        let script = format!("trap {trap}; echo ready; while :; do sleep 0.01; done");
        json!({"command": script, "untilText": "ready\n"})
    };
    let handle = agent.call("start", starts("'' TERM"))["handle"].clone();
    let told = agent.call("kill", json!({"handle": handle, "signal": "TERM", "waitMs": 50}));
    assert_eq!(
        (&told["running"], &told["reason"]),
        (&json!(true), &json!("time"))
    );
    let killed = agent.call("kill", json!({"handle": handle, "signal": 15, "graceMs": 10}));
    assert_eq!(killed["signal"], "SIGKILL");
    let handle = agent.call("start", starts("'echo bye; exit 9' INT"))["handle"].clone();
    let ended = agent.call(
        "kill",
        json!({"handle": handle, "signal": "INT", "waitMs": 20_000}),
    );
    assert_eq!(
        (&ended["exitCode"], &ended["stdout"]),
        (&json!(9), &json!("bye\n"))
    );
    agent.finish();
}

#[apply(test)]
fn handles_are_reused_once_their_process_has_ended() {
    let mut agent = Agent::new();
    for round in 0..5 {
        let run = agent.call(
            "run",
            json!({"command": format!("echo {round}"), "handle": "same"}),
        );
        assert_eq!(
            (&run["stdout"], &run["stdoutOffset"]),
            (&json!(format!("{round}\n")), &json!(0))
        );
    }
    let listed = agent.call("list", json!({}));
    assert_eq!(listed["processes"].as_array().map(Vec::len), Some(1), "{listed}");
    // Names of ours keep away from those that were chosen.
    agent.call("run", json!({"argv": ["true"], "handle": "p1"}));
    let run = agent.call("run", json!({"argv": ["true"]}));
    assert_eq!(run["handle"], "p2");
    agent.call("start", json!({"argv": ["sleep", "1000"], "handle": "same"}));
    let why = agent.wrong("run", json!({"argv": ["true"], "handle": "same"}));
    assert!(why.contains("same is running"), "{why}");
    agent.finish();
}

#[apply(test)]
fn what_runs_and_what_is_kept_are_bounded() {
    let mut agent = Agent::with(&["--max-handles", "3"]);
    for number in 1..=3 {
        agent.call(
            "start",
            json!({"argv": ["cat"], "handle": format!("cat {number}")}),
        );
    }
    let why = agent.wrong("run", json!({"argv": ["true"]}));
    assert!(why.contains("3 processes run already"), "{why}");
    agent.call("kill", json!({"handle": "cat 1"}));
    for number in 1..=3 {
        agent.call(
            "run",
            json!({"argv": ["true"], "handle": format!("run {number}")}),
        );
    }
    // The oldest of four was dropped.
    let why = agent.wrong("read", json!({"handle": "cat 1"}));
    assert!(
        why.contains("cat 1 has ended, and its output was dropped"),
        "{why}"
    );
    let listed = agent.call("list", json!({}));
    let names: Vec<String> = listed["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|process| string(&process["handle"]))
        .collect();
    assert_eq!(names, ["cat 2", "cat 3", "run 1", "run 2", "run 3"]);
    // Calls that wait are bounded as well, and refused where they are too many.
    let reads: Vec<i64> = (0..70)
        .map(|_| agent.begin("read", json!({"handle": "cat 2"})))
        .collect();
    let mut refused = 0;
    agent.call("list", json!({}));
    for &id in &reads {
        refused += usize::from(agent.client.is_answered(id));
    }
    assert_eq!(refused, 6);
    agent.call("kill", json!({"handle": "cat 2"}));
    for id in reads {
        agent.client.result(id);
    }
    agent.finish();
}

#[apply(test)]
fn a_long_call_does_not_delay_another() {
    let mut agent = Agent::new();
    let long = agent.begin("run", json!({"argv": ["sleep", "1000"], "handle": "long"}));
    let reading = agent.begin("read", json!({"handle": "long"}));
    assert_eq!(agent.client.call("ping", json!({})), json!({}));
    assert_eq!(
        agent.call("run", json!({"argv": ["echo", "hi"]}))["stdout"],
        "hi\n"
    );
    let listed = agent.call("list", json!({}));
    assert_eq!(listed["processes"].as_array().map(Vec::len), Some(2));
    assert!(!agent.client.is_answered(long) && !agent.client.is_answered(reading));
    // The id of a call that waits cannot be used for another, and is not taken from it.
    let again = json!({"id": "x", "method": "tools/call", "params": {"name": "read", "arguments": {"handle": "long"}}});
    agent.client.send(&again);
    agent.client.send(&again);
    assert_eq!(agent.client.response("x")["error"]["code"], -32600);
    agent.call("kill", json!({"handle": "long"}));
    assert_eq!(agent.end("run", long)["structuredContent"]["signal"], "SIGKILL");
    assert_eq!(
        agent.end("read", reading)["structuredContent"]["signal"],
        "SIGKILL"
    );
    let answer = agent.client.response("x");
    assert_eq!(answer["result"]["structuredContent"]["signal"], "SIGKILL");
    agent.finish();
}

#[apply(test)]
fn what_was_cancelled_is_not_answered_and_ends() {
    let mut agent = Agent::new();
    let cancel = |agent: &mut Agent, id: i64| {
        let params = json!({"requestId": id, "reason": "the user has pressed Esc"});
        agent
            .client
            .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}));
    };
    for (tool, script) in [
        ("run", "setsid sleep 1000.% & sleep 1001.%"),
        ("start", "setsid sleep 1000.% & sleep 1001.%"),
    ] {
        let marker = marker();
        let mut arguments = json!({"command": script.replace('%', &marker), "handle": tool});
        if tool == "start" {
            arguments["untilText"] = json!("never");
        }
        let id = agent.begin(tool, arguments);
        must_sleep(&marker, 2);
        cancel(&mut agent, id);
        must_die(&marker, "a cancelled call");
        wait_until("it is forgotten", || {
            agent.call("list", json!({}))["processes"] == json!([])
        });
        // The same one right after its request, and twice.
        let mut arguments = json!({"command": format!("sleep 1002.{marker}")});
        if tool == "start" {
            // Otherwise it may be answered before it is cancelled, and goes on.
            arguments["untilText"] = json!("never");
        }
        let id = agent.begin(tool, arguments);
        cancel(&mut agent, id);
        cancel(&mut agent, id);
        must_die(&marker, "a call that was cancelled at once");
        wait_until("it is forgotten", || {
            agent.call("list", json!({}))["processes"] == json!([])
        });
    }
    // A read only stops waiting.
    agent.call("start", json!({"argv": ["cat"], "handle": "cat"}));
    let id = agent.begin("read", json!({"handle": "cat"}));
    cancel(&mut agent, id);
    agent.call("write", json!({"handle": "cat", "text": "hello\n"}));
    assert_eq!(agent.call("read", json!({"handle": "cat"}))["stdout"], "hello\n");
    let (left, status) = agent.client.finish();
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    // A start that was answered before it was cancelled is the only answer that may be there.
    assert!(left.len() <= 1, "{left:?}");
}

#[apply(test)]
fn a_program_that_does_not_start_delays_only_its_own_call() {
    let scratch = Scratch::new();
    let Some(hung) = HungProgram::new(&scratch) else {
        return;
    };
    let mut agent = Agent::new();
    let run = agent.call(
        "run",
        json!({"argv": [hung.path], "waitMs": 100, "handle": "hung"}),
    );
    assert_eq!((&run["running"], &run["reason"]), (&json!(true), &json!("time")));
    assert!(run.get("pid").is_none());
    assert_eq!(agent.call("run", json!({"argv": ["true"]}))["exitCode"], 0);
    agent.finish();
}

/// The most memory the server below this guard has had, in bytes.
fn peak_memory(guard: u32) -> u64 {
    let server = children_of(guard).first().expect("a server").pid;
    crate::proc::peak_resident(server).expect("it lives")
}

#[apply(test)]
fn a_flood_is_kept_within_bounds() {
    let mut agent = Agent::new();
    let before = peak_memory(agent.client.pid());
    let flood = "head -c 200000000 /dev/zero | tr '\\0' y; echo; echo done; exec sleep 1000";
    agent.call("start", json!({"command": flood, "handle": "flood"}));
    let read = loop {
        // A slow machine takes longer than any one call may.
        let arguments = json!({"handle": "flood", "untilText": "\ndone\n", "waitMs": 5000});
        let read = agent.call("read", arguments);
        if read["reason"] != "time" {
            break read;
        }
    };
    assert_eq!(
        (&read["reason"], &read["stdoutBytes"]),
        (&json!("text"), &json!(200_000_006))
    );
    assert!(string(&read["stdoutTail"]).ends_with("y\ndone\n"));
    // Many at once share what there is.
    for number in 0..20 {
        agent.call(
            "start",
            json!({"argv": ["yes"], "handle": format!("yes {number}")}),
        );
    }
    wait_until("each has printed much", || {
        let listed = agent.call("list", json!({}));
        let processes = listed["processes"].as_array().expect("a list");
        processes
            .iter()
            .all(|p| p["stdoutBytes"].as_u64() > Some(2_000_000))
    });
    let grown = peak_memory(agent.client.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "it has grown by {grown} bytes");
    agent.finish();
}

#[apply(test)]
fn nothing_outlives_any_end() {
    for end in ["input", "SIGTERM", "server killed", "guard killed", "output"] {
        let marker = marker();
        let mut agent = Agent::new();
        let daemon = "setsid sh -c 'sleep 1000.% </dev/null >/dev/null 2>&1 &'; sleep 1001.%";
        agent.call("start", json!({"command": daemon.replace('%', &marker)}));
        let run = agent.begin(
            "run",
            json!({"argv": ["sleep", format!("1002.{marker}")], "tty": true}),
        );
        must_sleep(&marker, 3);
        let guard = agent.client.pid();
        let status = match end {
            "input" => agent.client.finish().1,
            "output" => {
                // Its reader is gone with the client's process, as after a SIGKILL.
                drop(agent.client);
                must_die(&marker, end);
                continue;
            }
            _ => {
                let server = children_of(guard).first().expect("a server").pid;
                match end {
                    // SAFETY: no memory is involved; the process is a child of this test.
                    "SIGTERM" => drop(unsafe { libc::kill(guard.cast_signed(), libc::SIGTERM) }),
                    "server killed" => kill_stray(server),
                    _ => kill_stray(guard),
                }
                agent.client.finish_anyhow().1
            }
        };
        must_die(&marker, end);
        let status = status.expect("it is a binary");
        match end {
            "input" => assert_eq!(status.code(), Some(0)),
            "SIGTERM" => assert_eq!(status.code(), Some(143)),
            "server killed" => assert_eq!(status.code(), Some(137)),
            _ => assert_eq!(status.signal(), Some(libc::SIGKILL)),
        }
        let _ = run;
        assert!(marked(&marker).is_empty());
    }
}

#[apply(test)]
fn a_client_that_does_not_read_can_still_leave() {
    let mut agent = Agent::new();
    let marker = marker();
    agent.call("start", json!({"argv": ["sleep", format!("1000.{marker}")]}));
    agent.call("run", json!({"argv": ["seq", "100000"], "handle": "much"}));
    agent.client.stop_reading();
    // Some 4 MB of answers, which neither the pipe nor the queue holds.
    for _ in 0..100 {
        agent.begin("read", json!({"handle": "much", "offset": 0, "maxBytes": 20_000}));
    }
    agent.client.end_input();
    must_die(&marker, "the end of input");
    agent.client.read_again();
    let (_, status) = agent.client.finish_anyhow();
    assert_eq!(status.and_then(|s| s.code()), Some(0));
}

#[apply(test)]
fn calls_that_are_under_way_at_the_end_are_answered() {
    let mut agent = Agent::new();
    let run = agent.begin("run", json!({"argv": ["sleep", "1000"], "handle": "s"}));
    let read = agent.begin("read", json!({"handle": "s"}));
    agent.call("list", json!({}));
    let (left, _) = agent.client.finish();
    assert_eq!(left.len(), 2, "{left:?}");
    for answer in &left {
        assert!([json!(run), json!(read)].contains(&answer["id"]), "{answer}");
        assert_eq!(
            answer["result"]["structuredContent"]["signal"], "SIGKILL",
            "{answer}"
        );
    }
}
