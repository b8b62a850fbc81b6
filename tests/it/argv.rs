//! Arguments and handles: bytes that are not interpreted on the way.

use crate::harness::{Client, Mode, Scratch, apply, both, children_of, test};
use crate::spawn::{silent_to_the_end, still_serves};
use serde_json::{Value, json};

/// The arguments, the shell's own left out, as the kernel has them.
const SHOW: [&str; 4] = ["sh", "-c", "cat /proc/$$/cmdline; exit 0", "sh"];

fn arguments_of(client: &mut Client, mode: Mode, arguments: &[&str]) -> String {
    client.spawn(mode.params("a", &[&SHOW[..], arguments].concat()));
    let (stdout, _, exited) = client.streamed("a");
    assert_eq!(exited["exitCode"], 0);
    let printed = String::from_utf8(stdout).expect("the arguments were text");
    let own = SHOW.map(|a| format!("{a}\0")).concat();
    let own = printed.strip_prefix(&own);
    own.unwrap_or_else(|| panic!("{printed:?}")).to_owned()
}

#[apply(both)]
fn arguments_arrive_verbatim(mode: Mode) {
    let arguments = [
        "",
        " ",
        "a b",
        "  a  ",
        "\"double\" 'single' `back`",
        "* ? [a-z] {a,b} ~",
        "$HOME ${HOME} $(id) ; & | < > # !",
        "back\\slash \\n \\0",
        "new\nline\n",
        "tab\t",
        "-n",
        "--",
        "--help",
        "%s %d %%",
        "é ü 日本語 😀",
        "e\u{301} \u{202e} \u{feff}",
        "",
    ];
    let mut client = Client::in_process();
    let expected: String = arguments.iter().map(|a| format!("{a}\0")).collect();
    assert_eq!(
        arguments_of(&mut client, mode, &arguments),
        mode.printed(&expected)
    );
    assert_eq!(arguments_of(&mut client, mode, &[]), "");
    silent_to_the_end(client);
}

/// All of ASCII but NUL, and the edges of every length of UTF-8.
#[apply(test)]
fn every_character_arrives() {
    let ascii: String = (1..=0x7fu8).map(char::from).collect();
    let edges = "\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{fffd}\u{ffff}\u{10000}\u{10ffff}";
    let mut client = Client::in_process();
    assert_eq!(
        arguments_of(&mut client, Mode::Pipe, &[&ascii, edges]),
        format!("{ascii}\0{edges}\0")
    );
    silent_to_the_end(client);
}

/// What a client writes as an escape is the character, a pair of surrogates included.
#[apply(test)]
fn escapes_of_json_are_undone() {
    let mut client = Client::in_process();
    client.send_raw(
        br#"{"id":"x","method":"process/spawn","params":{"command":["printf","%s|","\u00e9\n\t\"\\\/","\ud83d\ude00","\u001b"],"processHandle":"\u0061"}}"#,
    );
    client.send_raw(b"\n");
    assert_eq!(client.response("x")["error"], Value::Null);
    assert_eq!(client.exited("a")["stdout"], "é\n\t\"\\/|😀|\u{1b}|");
    silent_to_the_end(client);
}

#[apply(test)]
fn nul_is_refused() {
    let mut client = Client::in_process();
    for (command, named) in [(["a\0b", "x"], "command[0]"), (["true", "a\0"], "command[1]")] {
        for tty in [false, true] {
            let (code, message) = client.refuse(
                "process/spawn",
                json!({"command": command, "processHandle": "a", "tty": tty}),
            );
            assert_eq!(code, -32602);
            assert!(
                message.contains(named) && message.contains("nul byte"),
                "{message}"
            );
        }
    }
    assert!(children_of(std::process::id()).is_empty(), "nothing was started");
    still_serves(client, Mode::Pipe);
}

/// It is not a character, so it cannot be an argument.
#[apply(test)]
fn half_a_surrogate_pair_is_refused() {
    let mut client = Client::in_process();
    for (id, half) in ["\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800"]
        .iter()
        .enumerate()
    {
        for (member, params) in [
            (
                "command",
                format!(r#"{{"command":["echo","{half}"],"processHandle":"a"}}"#),
            ),
            (
                "processHandle",
                format!(r#"{{"command":["echo"],"processHandle":"{half}"}}"#),
            ),
        ] {
            let id = format!("{id} {member}");
            let line = format!(r#"{{"id":"{id}","method":"process/spawn","params":{params}}}"#);
            client.send_raw(format!("{line}\n").as_bytes());
            let response = client.response(id);
            assert_eq!(response["error"]["code"], -32602, "{response}");
        }
    }
    still_serves(client, Mode::Pipe);
}

#[apply(both)]
fn ten_thousand_arguments_arrive(mode: Mode) {
    let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let arguments: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let mut client = Client::in_process();
    let expected: String = numbers.iter().map(|n| format!("{n}\0")).collect();
    assert_eq!(arguments_of(&mut client, mode, &arguments), expected);
    silent_to_the_end(client);
}

#[apply(both)]
fn program_that_looks_like_an_option_runs(mode: Mode) {
    let scratch = Scratch::new();
    let mut client = Client::in_process();
    for name in ["-x", "--help", "--", "-"] {
        // With an interpreter line and without one.
        for interpreter in ["#!/bin/sh\n", ""] {
            scratch.file(name, 0o755, format!("{interpreter}echo \"ran $1\"\n"));
            let mut params = mode.params("a", &[name, "--version"]);
            params["env"] = json!({"PATH": scratch.path("")});
            client.spawn(params);
            let (stdout, stderr, exited) = client.streamed("a");
            let printed = String::from_utf8_lossy(&stdout);
            assert_eq!(printed, mode.printed("ran --version\n"), "{name}");
            assert_eq!((stderr.len(), exited["exitCode"].as_i64()), (0, Some(0)));
            std::fs::remove_file(scratch.path(name)).expect("the file is ours");
        }
    }
    silent_to_the_end(client);
}

/// A handle is any text that is not empty, and comes back as it was sent.
#[apply(test)]
fn handles_are_not_interpreted() {
    let long = "h".repeat(4_096);
    let handles = [
        "--help",
        "-1",
        "0",
        " ",
        "a b",
        "\"",
        "\\",
        "\n",
        "\0",
        "null",
        "../x",
        "é😀",
        "\u{7f}\u{1b}[0m",
        "a",
        "A",
        &long,
    ];
    let mut client = Client::in_process();
    for handle in handles {
        client.spawn(Mode::Pipe.params(handle, &["cat"]));
    }
    let list = client.call("process/list", json!({}));
    let listed: Vec<&str> = list["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| p["processHandle"].as_str().expect("a handle"))
        .collect();
    assert_eq!(listed, handles);
    for handle in handles {
        client.call(
            "process/writeStdin",
            json!({"processHandle": handle, "deltaBase64": crate::harness::encode(handle.as_bytes()), "closeStdin": true}),
        );
        let (stdout, _, exited) = client.streamed(handle);
        assert_eq!(String::from_utf8_lossy(&stdout), handle);
        assert_eq!(exited["processHandle"], handle);
    }
    silent_to_the_end(client);
}
