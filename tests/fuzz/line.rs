//! Fuzzes the envelope: whatever the bytes of a line, it is understood or refused and never more,
//! what was understood means the same when it is written again, and whatever a message of the
//! server holds, it is one line of JSON that says exactly that.

#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use procwire::fuzzing::{ClientMessage, encode, parse};
use procwire::protocol::{
    Collected, CollectedTail, Exited, ListReply, OutputDelta, ProcessInfo, Reply, Request, RequestId, RpcError,
    ServerMessage, SpawnReply, Stream, code,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    way_in(data);
    let mut source = Unstructured::new(data);
    while !source.is_empty()
        && let Ok(message) = message(&mut source)
    {
        way_out(&message, source.arbitrary().unwrap_or(false));
    }
});

// ---- the way in ----

fn way_in(line: &[u8]) {
    let (understood, jsonrpc) = parse(line);
    // Not the same: numbers out of range, lone surrogates and deep nesting are JSON, and no `Value`.
    let is_json = str::from_utf8(line).is_ok() && serde_json::from_slice::<IgnoredAny>(line).is_ok();
    let value = serde_json::from_slice::<Value>(line).ok();
    if jsonrpc == Some(true)
        && let Some(value) = &value
    {
        assert_eq!(value["jsonrpc"], "2.0");
    }
    match understood {
        ClientMessage::Request { id, request } => {
            assert!(is_json);
            let (method, params) = parts(&request);
            if let Some(value) = &value {
                assert_eq!(value["method"], method);
                same_id(&id, value);
            }
            let again = json!({"id": id, "method": method, "params": params}).to_string();
            let (again, jsonrpc) = parse(again.as_bytes());
            assert_eq!(again, ClientMessage::Request { id, request });
            assert_eq!(jsonrpc, Some(false));
        }
        ClientMessage::Notification => {
            assert!(is_json);
            if let Some(value) = &value {
                assert!(value["method"].is_string() && value.get("id").is_none());
            }
        }
        ClientMessage::Invalid { id, error } => {
            assert_ne!(error.message, "");
            match error.code {
                code::PARSE_ERROR => assert!(id.is_none() && (!is_json || value.is_none())),
                code::INVALID_REQUEST | code::METHOD_NOT_FOUND | code::INVALID_PARAMS => assert!(is_json),
                code => panic!("a line is refused with {code}"),
            }
            if let (Some(id), Some(value)) = (&id, &value) {
                same_id(id, value);
            }
            let outcome = Err(error);
            way_out(&ServerMessage::Response { id, outcome }, jsonrpc == Some(true));
        }
    }
}

fn same_id(id: &RequestId, value: &Value) {
    assert_eq!(json!(id), value["id"]);
}

/// A request as the wire has it.
fn parts(request: &Request) -> (&'static str, Value) {
    let params = match request {
        Request::Initialize(params) => json!(params),
        Request::Spawn(params) => json!(params),
        Request::WriteStdin(params) => json!(params),
        Request::ResizePty(params) => json!(params),
        Request::Kill(params) => json!(params),
        Request::Inspect(params) => json!(params),
        Request::List => json!({}),
        other => panic!("a method that is not fuzzed: {other:?}"),
    };
    (request.method(), params)
}

// ---- the way out ----

fn way_out(message: &ServerMessage, jsonrpc: bool) {
    let line = encode(message, jsonrpc);
    assert_eq!(
        line.iter().position(|&b| b == b'\n'),
        Some(line.len() - 1),
        "one line"
    );
    let value: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!(value.get("jsonrpc").is_some(), jsonrpc);
    let params = &value["params"];
    match message {
        ServerMessage::Response { id, outcome } => {
            assert_eq!(value["id"], id.as_ref().map_or(Value::Null, |id| json!(id)));
            assert!(value.get("result").is_some() != value.get("error").is_some());
            match outcome {
                Ok(Reply::Spawn(reply)) => assert_eq!(value["result"], json!({ "pid": reply.pid })),
                Ok(Reply::Done) => assert_eq!(value["result"], json!({})),
                Ok(Reply::List(list)) => assert_eq!(value["result"], json!({ "processes": list.processes })),
                Ok(Reply::Wait(reply)) => assert_eq!(value["result"], json!(reply)),
                Ok(Reply::Inspect(inspection)) => assert_eq!(value["result"], json!(inspection)),
                Ok(Reply::Initialize(reply)) => assert_eq!(value["result"], json!(reply)),
                Ok(other) => panic!("a reply that is not fuzzed: {other:?}"),
                Err(error) => {
                    let mut expected = json!({"code": error.code, "message": error.message});
                    if let Some(data) = &error.data {
                        expected["data"] = json!(data);
                    }
                    assert_eq!(value["error"], expected);
                }
            }
        }
        ServerMessage::OutputDelta(delta) => {
            assert_eq!(value["method"], json!("process/outputDelta"));
            assert_eq!(params["processHandle"], json!(&*delta.process_handle));
            assert_eq!(params["stream"], json!(delta.stream));
            assert_eq!(params["capReached"], json!(delta.cap_reached));
            assert_eq!(params["offset"], json!(delta.offset));
            assert_eq!(params.get("eof").is_some(), delta.eof);
            assert_eq!(bytes(&params["deltaBase64"]), delta.bytes);
        }
        ServerMessage::Exited(exited) => {
            assert_eq!(value["method"], json!("process/exited"));
            assert_eq!(params["processHandle"], json!(&*exited.process_handle));
            assert_eq!(params["exitCode"], json!(exited.exit_code));
            assert_eq!(params["signal"], json!(exited.signal));
            assert_eq!(params["stdoutBytes"], json!(exited.stdout_bytes));
            assert_eq!(params["stderrBytes"], json!(exited.stderr_bytes));
            collected(&exited.stdout, params, "stdout");
            collected(&exited.stderr, params, "stderr");
        }
        other => panic!("a message that is not fuzzed: {other:?}"),
    }
}

/// Text that was collected is the bytes, or the bytes are there as well.
fn collected(collected: &Collected, params: &Value, name: &str) {
    let text = params[name].as_str().expect("text");
    assert_eq!(params[format!("{name}CapReached")], collected.cap_reached);
    match params.get(format!("{name}Base64")) {
        Some(base64) => {
            assert!(str::from_utf8(&collected.bytes).is_err());
            assert!(text.contains('\u{fffd}'));
            assert_eq!(bytes(base64), collected.bytes);
        }
        None if collected.cap_reached => {
            let cut = collected
                .bytes
                .strip_prefix(text.as_bytes())
                .expect("a beginning");
            assert!(cut.len() < 4, "no more than the beginning of a character is cut");
            assert!(cut.is_empty() || str::from_utf8(cut).is_err());
        }
        None => assert_eq!(text.as_bytes(), collected.bytes),
    }
    let tail = params.get(format!("{name}Tail")).and_then(Value::as_str);
    assert_eq!(tail.is_some(), collected.tail.is_some());
    if let (Some(text), Some(tail)) = (tail, &collected.tail) {
        match params.get(format!("{name}TailBase64")) {
            Some(base64) => assert_eq!(bytes(base64), tail.bytes),
            None => {
                let cut = tail.bytes.strip_suffix(text.as_bytes()).expect("an end");
                assert!(cut.len() < 4, "no more than the rest of a character is cut");
                assert!(cut.is_empty() || tail.omitted_bytes > 0);
            }
        }
    }
}

/// Decodes base64, slowly and by itself.
fn bytes(text: &Value) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.as_str().expect("text");
    assert_eq!(text.len() % 4, 0);
    let mut decoded = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for b in text.trim_end_matches('=').bytes() {
        let digit = ALPHABET
            .iter()
            .position(|&a| a == b)
            .expect("the standard alphabet");
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    decoded
}

fn message(source: &mut Unstructured<'_>) -> Result<ServerMessage> {
    Ok(match source.int_in_range(0..=6)? {
        0 => response(source, |source| {
            let mut reply = SpawnReply::default();
            reply.pid = source.arbitrary()?;
            Ok(Ok(Reply::Spawn(reply)))
        })?,
        1 => response(source, |_| Ok(Ok(Reply::Done)))?,
        2 => response(source, |source| {
            let mut list = ListReply::default();
            for _ in 0..source.int_in_range(0..=3)? {
                let mut process = ProcessInfo::default();
                process.process_handle = source.arbitrary()?;
                process.pid = source.arbitrary()?;
                process.command = source.arbitrary()?;
                process.cwd = source.arbitrary()?;
                process.tty = source.arbitrary()?;
                process.started_at_ms = source.arbitrary()?;
                process.stdout_bytes = source.arbitrary()?;
                process.stderr_bytes = source.arbitrary()?;
                process.stdin_pending_bytes = source.arbitrary()?;
                list.processes.push(process);
            }
            Ok(Ok(Reply::List(list)))
        })?,
        3 => response(source, |source| {
            let mut error = RpcError::new(source.arbitrary()?, source.arbitrary::<String>()?);
            if source.arbitrary()? {
                let data = json!({
                    "errno": source.arbitrary::<i32>()?,
                    "code": source.arbitrary::<String>()?,
                    "stage": "exec",
                    "program": source.arbitrary::<String>()?,
                });
                error.data = Some(serde_json::from_value(data).expect("why a spawn failed"));
            }
            Ok(Err(error))
        })?,
        4 | 5 => {
            let mut delta = OutputDelta::default();
            delta.process_handle = handle(source)?;
            if source.arbitrary()? {
                delta.stream = Stream::Stderr;
            }
            delta.cap_reached = source.arbitrary()?;
            delta.offset = source.arbitrary()?;
            delta.eof = source.arbitrary()?;
            delta.bytes = source.arbitrary()?;
            ServerMessage::OutputDelta(delta)
        }
        _ => {
            let mut exited = Exited::default();
            exited.process_handle = handle(source)?;
            exited.exit_code = source.arbitrary()?;
            exited.output_drain_timed_out = source.arbitrary()?;
            exited.pid = source.arbitrary()?;
            exited.signal = source.arbitrary()?;
            exited.core_dumped = source.arbitrary()?;
            exited.timed_out = source.arbitrary()?;
            exited.duration = Duration::from_millis(source.arbitrary()?);
            exited.stdout_bytes = source.arbitrary()?;
            exited.stderr_bytes = source.arbitrary()?;
            for collected in [&mut exited.stdout, &mut exited.stderr] {
                collected.cap_reached = source.arbitrary()?;
                collected.bytes = source.arbitrary()?;
                if source.arbitrary()? {
                    let mut tail = CollectedTail::default();
                    tail.bytes = source.arbitrary()?;
                    tail.omitted_bytes = source.arbitrary()?;
                    collected.tail = Some(tail);
                }
            }
            ServerMessage::Exited(Box::new(exited))
        }
    })
}

fn handle(source: &mut Unstructured<'_>) -> Result<Arc<str>> {
    Ok(source.arbitrary::<&str>()?.into())
}

fn response<'a>(
    source: &mut Unstructured<'a>,
    outcome: impl FnOnce(&mut Unstructured<'a>) -> Result<std::result::Result<Reply, RpcError>>,
) -> Result<ServerMessage> {
    let id = match source.int_in_range(0..=3)? {
        0 => None,
        1 => Some(RequestId::Signed(source.arbitrary()?)),
        2 => Some(RequestId::Unsigned(source.arbitrary()?)),
        _ => Some(RequestId::Text(source.arbitrary()?)),
    };
    let outcome = outcome(source)?;
    Ok(ServerMessage::Response { id, outcome })
}
