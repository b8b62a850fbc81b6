//! `process/spawn`: what starts a program, and what is refused.

use crate::harness::{Client, Mode, Test, both, test};
use serde_json::json;

pub const TESTS: &[Test] = &[
    test!(answered_before_exit),
    both!(missing_program_is_an_error_and_frees_the_handle),
];

/// The answer comes first, then the exit, every time.
fn answered_before_exit() {
    let mut client = Client::in_process();
    for i in 0..crate::harness::times(200) {
        let handle = format!("h{i}");
        let id = client.request(
            "process/spawn",
            json!({"command": ["/bin/true"], "processHandle": handle}),
        );
        let exited = client.exited(&handle);
        assert!(client.is_answered(id), "the exit came before the answer");
        assert_eq!(client.result(id)["pid"], exited["pid"]);
        assert_eq!(exited["exitCode"], 0);
    }
    client.finish();
}

fn missing_program_is_an_error_and_frees_the_handle(mode: Mode) {
    let mut client = Client::in_process();
    let id = client.request("process/spawn", mode.params("a", &["/nonexistent/program"]));
    let response = client.response(id);
    assert_eq!(response["error"]["code"], -32603);
    assert_eq!(
        response["error"]["data"],
        json!({"errno": 2, "code": "ENOENT", "stage": "exec", "program": "/nonexistent/program"})
    );
    client.spawn(mode.params("a", &["echo", "hi"]));
    let (stdout, _, exited) = client.streamed("a");
    assert_eq!(String::from_utf8_lossy(&stdout), mode.printed("hi\n"));
    assert_eq!(exited["exitCode"], 0);
    let (left, _) = client.finish();
    assert!(left.is_empty(), "{left:?}");
}
