//! Tests of the envelope, on both sides.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::wire::client::{FromServer, encode_request, parse_server};
use crate::wire::protocol::{
    Capabilities, ClientInfo, CloseOutputParams, Collected, CollectedTail, Condition, Exited, Guarantees,
    InheritEnv, InitializeParams, InitializeReply, InspectParams, KillParams, Limit, LimitName, Limits,
    ListReply, OutputDelta, OutputKeep, PtySize, Redirect, Reply, ResizePtyParams, ResourceLimits,
    ServerInfo, SignalName, SpawnFailure, SpawnParams, SpawnReply, Stage, Stream, Usage, WaitParams,
    WaitReply, WriteStdinParams,
};

#[test]
fn what_a_client_encodes_the_server_understands() {
    let spawn = SpawnParams {
        command: vec!["a".into(), "ü \"b\"\n".into()],
        process_handle: "h".into(),
        cwd: Some("/".into()),
        env: Some([("A".into(), Some("1".into())), ("B".into(), None)].into()),
        tty: true,
        size: Some(PtySize { rows: 3, cols: 4 }),
        terminal_modes: Some([("erase".into(), 8), ("ixon".into(), 0)].into()),
        stream_stdin: true,
        stream_stdout_stderr: true,
        stdin: Some(Redirect::Null),
        stdout: Some(Redirect::append("/a")),
        stderr: Some(Redirect::Stdout),
        inherit_env: InheritEnv::Only(vec!["LC_*".into()]),
        output_bytes_cap: Limit::Unlimited,
        timeout_ms: Limit::Of(7),
        timeout_grace_ms: Some(8),
        limits: Some(Box::new(ResourceLimits {
            open_files: Some(u64::MAX),
            nice: Some(-20),
            ..ResourceLimits::default()
        })),
        detach: true,
        output_keep: Some(OutputKeep::HeadTail { head: 1, tail: 2 }),
    };
    let keeps = [OutputKeep::Head, OutputKeep::Tail].map(|keep| {
        Request::Spawn(Box::new(SpawnParams {
            output_keep: Some(keep),
            ..SpawnParams::default()
        }))
    });
    let wait = WaitParams {
        process_handle: "h".into(),
        until: vec![
            "$ ".into(),
            Condition::Bytes(vec![0, 255]),
            Condition::Quiet(3),
            Condition::Eof,
            Condition::Exit,
            Condition::Input,
        ],
        stream: Some(Stream::Stderr),
        timeout_ms: Some(0),
    };
    let kill = KillParams {
        process_handle: "h".into(),
        signal: Some(SignalName::Name("TERM".into())),
        grace_ms: Some(5),
    };
    let requests = [
        Request::Initialize(InitializeParams {
            client_info: ClientInfo {
                name: "c".into(),
                ..ClientInfo::default()
            },
            capabilities: Some(Capabilities::default()),
        }),
        Request::Spawn(Box::new(spawn)),
        Request::Spawn(Box::default()),
        Request::WriteStdin(WriteStdinParams {
            process_handle: "h".into(),
            delta: Some(vec![0, 255, 10]),
            close_stdin: true,
        }),
        Request::ResizePty(ResizePtyParams {
            process_handle: "h".into(),
            size: PtySize::default(),
        }),
        Request::Kill(kill),
        Request::CloseOutput(CloseOutputParams {
            process_handle: "h".into(),
            stream: Some(Stream::Stdout),
        }),
        Request::Wait(wait),
        Request::List,
        Request::Inspect(InspectParams {
            process_handle: "h".into(),
        }),
    ];
    for request in requests.into_iter().chain(keeps) {
        let mut line = Vec::new();
        encode_request(&mut line, &RequestId::Signed(9), &request);
        assert_eq!(line.pop(), Some(b'\n'));
        let id = RequestId::Signed(9);
        assert_eq!(parse(&line).message, ClientMessage::Request { id, request });
    }
}

#[test]
fn what_the_server_encodes_a_client_understands() {
    let answer = |outcome| ServerMessage::Response {
        id: Some(RequestId::Text("x".into())),
        outcome,
    };
    let mut exited = Exited {
        process_handle: "h".into(),
        exit_code: 137,
        stdout: Collected::default(),
        stderr: Collected::default(),
        output_drain_timed_out: true,
        pid: 42,
        signal: Some("SIGKILL".into()),
        core_dumped: true,
        timed_out: true,
        duration: Duration::from_millis(12),
        usage: Usage {
            user: Duration::from_millis(3),
            system: Duration::from_millis(4),
            max_rss_bytes: 5,
        },
        stdout_bytes: 6,
        stderr_bytes: 7,
    };
    let plain = exited.clone();
    exited.stdout.bytes = b"caf\xc3\xa9\n".to_vec();
    exited.stderr.bytes = vec![0xff, 0, b'x'];
    exited.stderr.cap_reached = true;
    let mut kept = exited.clone();
    kept.stdout.tail = Some(CollectedTail::default());
    kept.stderr.tail = Some(CollectedTail {
        bytes: vec![0xff, b'y'],
        omitted_bytes: 5,
    });
    let error = RpcError {
        code: code::INTERNAL_ERROR,
        message: "no".into(),
        data: Some(SpawnFailure {
            errno: 2,
            code: "ENOENT".into(),
            stage: Stage::Lookup,
            program: "p".into(),
            limit: Some(LimitName::Nice),
        }),
    };
    let initialize = InitializeReply {
        user_agent: "u".into(),
        codex_home: "/c".into(),
        platform_family: "unix".into(),
        platform_os: "linux".into(),
        server_info: ServerInfo {
            name: "n".into(),
            version: "v".into(),
        },
        limits: Limits {
            max_message_bytes: 1,
            max_process_handle_bytes: 8,
            default_timeout_ms: None,
            default_output_bytes_cap: Some(2),
            free_pending_stdin_bytes: 3,
            max_pending_stdin_bytes: 4,
            output_drain_ms: 5,
            max_delta_bytes: 6,
            max_in_flight: 7,
            default_pty_size: PtySize::default(),
        },
        guarantees: Guarantees::default(),
    };
    for message in [
        answer(Ok(Reply::Spawn(SpawnReply { pid: 7 }))),
        answer(Ok(Reply::Done)),
        answer(Ok(Reply::Wait(WaitReply::default()))),
        answer(Ok(Reply::List(ListReply::default()))),
        answer(Ok(Reply::Inspect(Arc::default()))),
        answer(Ok(Reply::Initialize(Box::new(initialize)))),
        answer(Err(error)),
        answer(Err(RpcError::invalid_request("why"))),
        ServerMessage::Response {
            id: None,
            outcome: Err(RpcError::invalid_params("what")),
        },
        ServerMessage::OutputDelta(OutputDelta {
            process_handle: "\u{1}\"".into(),
            stream: Stream::Stderr,
            bytes: vec![0, 255],
            cap_reached: true,
            offset: u64::MAX,
            eof: false,
        }),
        ServerMessage::OutputDelta(OutputDelta {
            process_handle: "h".into(),
            eof: true,
            offset: 9,
            ..OutputDelta::default()
        }),
        ServerMessage::Exited(Box::new(kept)),
        ServerMessage::Exited(Box::new(plain)),
        ServerMessage::Exited(Box::new(exited)),
    ] {
        for jsonrpc in [false, true] {
            let mut line = Vec::new();
            encode(&mut line, &message, jsonrpc);
            assert_understood(line.trim_ascii_end(), &message);
        }
    }
}

fn assert_understood(line: &[u8], message: &ServerMessage) {
    match (parse_server(line).expect("it is a message"), message) {
        (
            FromServer::Answer { id, outcome },
            ServerMessage::Response {
                id: sent,
                outcome: reply,
            },
        ) => {
            assert_eq!(&id, sent);
            match (outcome, reply) {
                (Err(error), Err(sent)) => assert_eq!(&error, sent),
                // What a result means is for the one who asked.
                (Ok(result), Ok(reply)) => {
                    assert_eq!(result.get(), serde_json::to_string(reply).unwrap());
                }
                (outcome, reply) => panic!("{reply:?} was taken for {outcome:?}"),
            }
        }
        (FromServer::OutputDelta(delta), ServerMessage::OutputDelta(sent)) => assert_eq!(&delta, sent),
        (FromServer::Exited(exited), ServerMessage::Exited(sent)) => assert_eq!(&exited, sent),
        (understood, message) => panic!("{message:?} was taken for {understood:?}"),
    }
}

#[test]
fn a_client_passes_over_what_it_does_not_know() {
    let unknown = br#"{"method":"process/new","params":[1]}"#;
    assert!(matches!(parse_server(unknown), Ok(FromServer::Notification)));
    let request = br#"{"id":7,"method":"process/exited","params":{}}"#;
    assert!(matches!(parse_server(request), Ok(FromServer::Request(method)) if method == "process/exited"));
    let minimal =
        br#"{"method":"process/exited","params":{"processHandle":"h","exitCode":1,"stdout":"","more":{}}}"#;
    let Ok(FromServer::Exited(exited)) = parse_server(minimal) else {
        panic!("an exit with the least members is one");
    };
    assert_eq!((exited.exit_code, exited.pid), (1, 0));
    for bad in ["Welcome!", "[]", "{}", r#"{"id":1}"#, r#"{"id":{},"result":{}}"#] {
        assert!(parse_server(bad.as_bytes()).is_err(), "{bad}");
    }
}

fn invalid(line: &[u8]) -> (Option<RequestId>, i64, String) {
    match parse(line).message {
        ClientMessage::Invalid { id, error } => (id, error.code, error.message),
        other => panic!("{:?} was taken for {other:?}", String::from_utf8_lossy(line)),
    }
}

#[test]
fn ids_come_back_as_they_were_sent() {
    for id in [
        "0",
        "-1",
        "9007199254740993",
        "18446744073709551615",
        "-9223372036854775808",
        "\"a b\"",
        "\"\"",
    ] {
        let line = format!(r#"{{"id":{id},"method":"process/list"}}"#);
        let ClientMessage::Request { id: parsed, .. } = parse(line.as_bytes()).message else {
            panic!("{line} is a request");
        };
        assert_eq!(serde_json::to_string(&parsed).unwrap(), id);
    }
    for id in ["null", "1.0", "1e3", "{}", "[1]", "true", "18446744073709551616"] {
        let line = format!(r#"{{"id":{id},"method":"process/list"}}"#);
        let (id, code, message) = invalid(line.as_bytes());
        assert_eq!((id, code), (None, code::INVALID_REQUEST));
        assert!(message.contains("id"));
    }
}

#[test]
fn what_is_not_a_request_says_why() {
    for (line, expected) in [
        (&b"nonsense"[..], code::PARSE_ERROR),
        (b"{\"id\":1", code::PARSE_ERROR),
        (b"{\"id\":1} x", code::PARSE_ERROR),
        (b"\xef\xbb\xbf{}", code::PARSE_ERROR),
        (b"{\"id\":\"\xff\"}", code::PARSE_ERROR),
        (b"12", code::INVALID_REQUEST),
        (b"\"x\"", code::INVALID_REQUEST),
        (b"null", code::INVALID_REQUEST),
        (b"[]", code::INVALID_REQUEST),
        (b"[\"2.0\",1,\"process/list\"]", code::INVALID_REQUEST),
        (b"{}", code::INVALID_REQUEST),
        (b"{\"id\":1,\"method\":3}", code::INVALID_REQUEST),
        (b"{\"id\":1,\"result\":{}}", code::INVALID_REQUEST),
        (
            b"{\"id\":1,\"id\":2,\"method\":\"process/list\"}",
            code::INVALID_REQUEST,
        ),
        (b"{\"id\":1,\"method\":\"no/such\"}", code::METHOD_NOT_FOUND),
        (
            b"{\"id\":1,\"method\":\"process/list\",\"params\":[]}",
            code::INVALID_PARAMS,
        ),
        (b"{\"id\":1,\"method\":\"process/spawn\"}", code::INVALID_PARAMS),
    ] {
        assert_eq!(invalid(line).1, expected, "{}", String::from_utf8_lossy(line));
    }
    assert_eq!(invalid(b"{\"id\":7,\"method\":3}").0, Some(RequestId::Signed(7)));
}

#[test]
#[cfg_attr(miri, ignore = "megabytes take minutes there")]
fn nesting_costs_no_stack() {
    let mut line = vec![b'['; 1_000_000];
    assert_eq!(invalid(&line).1, code::PARSE_ERROR);
    line.extend(vec![b']'; 1_000_000]);
    assert_eq!(invalid(&line).1, code::INVALID_REQUEST);
    let mut line = br#"{"id":1,"method":"process/list","params":"#.to_vec();
    line.extend(vec![b'['; 1_000_000]);
    line.extend(vec![b']'; 1_000_000]);
    line.push(b'}');
    assert_eq!(invalid(&line).1, code::INVALID_PARAMS);
}

#[test]
fn params_that_do_not_fit_are_named() {
    for (params, member) in [
        (r#"{"command":["a",3],"processHandle":"h"}"#, "command[1]"),
        (
            r#"{"command":["a"],"processHandle":"h","timeoutMs":-1}"#,
            "timeoutMs",
        ),
        (
            r#"{"command":["a"],"processHandle":"h","timeoutMs":"5"}"#,
            "timeoutMs",
        ),
        (
            r#"{"command":["a"],"processHandle":"h","timeoutMs":1e30}"#,
            "timeoutMs",
        ),
        (
            r#"{"command":["a"],"processHandle":"h","size":{"rows":65536,"cols":1}}"#,
            "size.rows",
        ),
        (
            r#"{"command":["a"],"processHandle":"h","size":{"rows":1,"cols":1.5}}"#,
            "size.cols",
        ),
        (r#"{"command":["a"],"processHandle":"h","size":[1,2]}"#, "size"),
        (r#"{"command":["a"],"processHandle":"h","env":{"A":1}}"#, "env.A"),
        (r#"{"command":["a"]}"#, "processHandle"),
    ] {
        let line = format!(r#"{{"id":1,"method":"process/spawn","params":{params}}}"#);
        let (_, code, message) = invalid(line.as_bytes());
        assert_eq!(code, code::INVALID_PARAMS);
        assert!(message.contains(member), "{message:?} names {member}");
    }
}

#[test]
fn base64_is_strict() {
    for bad in ["YQ", "YQ=", "-_-_", "Y Q=", "YR==", "YQ==\\n"] {
        let line = format!(
            r#"{{"id":1,"method":"process/writeStdin","params":{{"processHandle":"h","deltaBase64":"{bad}"}}}}"#
        );
        let (_, code, message) = invalid(line.as_bytes());
        assert_eq!(code, code::INVALID_PARAMS, "{bad}");
        assert!(message.contains("deltaBase64: invalid base64"), "{message}");
    }
}
