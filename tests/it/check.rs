//! `procwire check`: what it compares, what it says, and what it records.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::command_line::{PROCWIRE, procwire, text};
use crate::harness::{Client, Mode, Scratch, apply, binary, is_alive, test, wait_until};

const HELLO: &str = r#"
# one
--> {"id":1,"method":"process/spawn","params":{"command":["sh","-c","echo hi; echo ho; exit 3"],"processHandle":"a","streamStdoutStderr":true}}
<-- {"id":1,"result":{"pid":"{...}"}}
<-- {"method":"process/outputDelta","params":{"processHandle":"a","stream":"stdout","deltaBase64":"aGkK","capReached":false,"offset":0}}
<-- {"method":"process/outputDelta","params":{"processHandle":"a","stream":"stdout","deltaBase64":"aG8K","capReached":false,"offset":3}}
<-- {"method":"process/exited","params":{"processHandle":"a","exitCode":3,"stdout":"","stdoutCapReached":false,"stderr":"","stderrCapReached":false,"outputDrainTimedOut":false,"pid":"{...}","signal":null,"coreDumped":false,"timedOut":false,"durationMs":"{...}","usage":"{...}","stdoutBytes":6,"stderrBytes":0}}
--> nonsense
<-- {"id":null,"error":{"code":-32700,"message":"[..]JSON[..]"}}
"#;

/// Runs it with this input.
fn fed(arguments: &[&str], input: &str) -> Output {
    let mut child = binary()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[apply(test)]
fn says_what_differs() {
    let scratch = Scratch::new();
    let good = scratch.file("good.txt", 0o644, HELLO);
    let output = procwire(&["check", &good]);
    assert_eq!(text(&output.stdout), format!("ok        {good}:1  one\n1 ok\n"));
    assert_eq!(output.status.code(), Some(0));

    for (from, to, expected) in [
        (
            "\"exitCode\":3",
            "\"exitCode\":4",
            "  line 7: process/exited \"a\"\n    .params.exitCode: expected 4, got 3\n",
        ),
        (
            "aG8K",
            "aGEK",
            ".params.deltaBase64, decoded: expected \"ha\\n\", got \"ho\\n\"\n",
        ),
        (
            "\"timedOut\":false,",
            "",
            "line 7: process/exited \"a\"\n    .params.timedOut: not expected, got false\n",
        ),
        (
            "\"signal\":null,",
            "\"signal\":null,\"sygnal\":null,",
            ".params.sygnal: missing, expected null\n",
        ),
        (
            "[..]JSON[..]",
            "[..]YAML[..]",
            "line 9: answer null\n    .error.message:\n      expected \"[..]YAML[..]\"\n      got      \"the message is not JSON: ",
        ),
        (
            "<-- {\"id\":null",
            "<-- {\"id\":9",
            "line 9: answer 9 did not come within 2s\n    expected {",
        ),
        // What is not shown is a difference, too.
        (
            "--> nonsense\n",
            "--> nonsense\n--> {\"id\":2,\"method\":\"no\"}\n",
            "at the end: the session does not show answer 2\n    {\"error\":{\"code\":-32601",
        ),
    ] {
        let bad = scratch.file(
            "bad.md",
            0o644,
            format!("# x\n```session{}```\n", HELLO.replace(from, to)),
        );
        let junit = scratch.path("report.xml");
        let output = procwire(&["check", &good, &bad, "--deadline", "2s", "--junit", &junit]);
        let printed = text(&output.stdout);
        // In Markdown it stands one line further down.
        let expected = expected.replace("line 7", "line 8").replace("line 9", "line 10");
        assert!(
            printed.contains(&format!("DIFFERS   {bad}:3  one\n")),
            "{printed}"
        );
        assert!(printed.contains(&expected), "{expected:?} is not in:\n{printed}");
        assert!(printed.ends_with("1 ok, 1 differ\n"), "{printed}");
        assert_eq!(output.status.code(), Some(1));
        let report = std::fs::read_to_string(&junit).expect("the report is written");
        assert!(
            report.contains("tests=\"2\" failures=\"1\" errors=\"0\""),
            "{report}"
        );
        assert_eq!(report.matches("<failure ").count(), 1);
    }
}

#[apply(test)]
fn shows_every_member_and_every_difference() {
    let scratch = Scratch::new();
    let wrong = HELLO
        .replace("\"exitCode\":3", "\"exitCode\":4")
        .replace("\"coreDumped\":false", "\"coreDumped\":true")
        .replace("\"stdoutBytes\":6", "\"stdoutBytes\":7")
        .replace("aGkK", "aGEK")
        .replace("-32700", "-32701")
        .replace("<-- {\"id\":1", "<-- {\"id\":7");
    let file = scratch.file("wrong.txt", 0o644, wrong);
    let printed = differs(
        &["--deadline", "3s", &file],
        "line 4: answer 7 did not come within 3s\n",
    );
    for shown in [
        "line 5: process/outputDelta \"a\" \"stdout\"\n    .params.deltaBase64, decoded: expected \"ha\\n\", got \"hi\\n\"\n",
        "line 7: process/exited \"a\"\n    .params.coreDumped: expected true, got false\n    \
         .params.exitCode: expected 4, got 3\n    .params.stdoutBytes: expected 7, got 6\n",
        "line 9: answer null\n    .error.code: expected -32701, got -32700\n",
        "at the end: the session does not show answer 1\n",
    ] {
        assert!(printed.contains(shown), "{shown:?} is not in:\n{printed}");
    }
    assert_eq!(printed.matches("\n  line ").count(), 4, "{printed}");
}

#[apply(test)]
fn differences_fit_100_columns() {
    let scratch = Scratch::new();
    let long = |middle: &str| format!("{}{middle}{}", "a".repeat(3000), "z".repeat(3000));
    let answer = |id: u32, text: &str| json!({"id": id, "result": {"text": text, &long("k"): text}});
    let sent = format!(
        "{}\n{}\n",
        answer(1, &long("\u{1b}\u{202e}right")),
        answer(3, &long("x"))
    );
    let server = scratch.file("answers", 0o644, sent);
    let transcript = format!(
        "<-- {}\n<-- {}\n",
        answer(1, &long("wrong")),
        answer(2, &long("y"))
    );
    let file = scratch.file("long.txt", 0o644, transcript);
    let server = format!("cat {server}; sleep 1000");
    let printed = differs(&["--server", &server, "--deadline", "2s", &file], "right");
    for shown in [
        "got      \"…aaa",
        "aaawrongzzz",
        "did not come within 2s",
        "instead  {\"id\":3",
    ] {
        let shown = shown.replace("\"…", "…");
        assert!(printed.contains(&shown), "{shown:?} is not in:\n{printed}");
    }
    for line in printed.lines().filter(|line| !line.contains("long.txt")) {
        assert!(
            line.chars().count() <= 100,
            "{} columns: {line}",
            line.chars().count()
        );
    }
}

/// Checks what differs, and why it says so; all it prints.
#[track_caller]
fn differs(arguments: &[&str], why: &str) -> String {
    let output = procwire(&[&["check"], arguments].concat());
    let printed = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{arguments:?}: {printed}{}",
        text(&output.stderr)
    );
    assert!(printed.contains(why), "{arguments:?}: {printed}");
    printed
}

const ANY_EXIT: &str = r#"<-- {"method":"process/exited","params":"{...}"}"#;

#[apply(test)]
fn takes_wildcards_for_any_value() {
    let scratch = Scratch::new();
    let (first, exit) = HELLO
        .split_once("<-- {\"method\":\"process/exited\"")
        .expect("an exit");
    let (exit, rest) = exit.split_once('\n').expect("more lines");
    let some_handle = exit.replace("\"processHandle\":\"a\"", "\"processHandle\":\"[..]\"");
    for exit in [
        ANY_EXIT.to_owned(),
        format!("<-- {{\"method\":\"process/exited\"{some_handle}"),
    ] {
        let file = scratch.file("any.txt", 0o644, format!("{first}{exit}\n{rest}"));
        let output = procwire(&["check", "--deadline", "5s", &file]);
        assert_eq!(output.status.code(), Some(0), "{exit}: {}", text(&output.stdout));
    }
}

/// Two answers and two processes may come in any order; the end of a process may not come before its output.
#[apply(test)]
fn holds_the_order_and_no_other() {
    let scratch = Scratch::new();
    let any_order = r#"
--> {"id":1,"method":"process/list"}
--> {"id":2,"method":"no/such"}
<-- {"id":2,"error":{"code":-32601,"message":"[..]"}}
<-- {"id":1,"result":{"processes":[]}}
"#;
    let file = scratch.file("any.txt", 0o644, any_order);
    assert_eq!(procwire(&["check", &file]).status.code(), Some(0));

    let mut lines: Vec<&str> = HELLO.lines().collect();
    let exit = lines.remove(6);
    lines.insert(4, exit);
    for exit in [exit, ANY_EXIT] {
        lines[4] = exit;
        let file = scratch.file("order.txt", 0o644, lines.join("\n"));
        differs(&[&file], "output that is not expected came before it");
    }
}

#[apply(test)]
fn one_file_does_not_stop_the_others() {
    let scratch = Scratch::new();
    let good = scratch.file("good.txt", 0o644, HELLO);
    let malformed = scratch.file("malformed.txt", 0o644, "--> {}\nwhat?\n<-- {\"id\":\n");
    let markdown = scratch.file("empty.md", 0o644, "# x\n```sh\nls\n```\n");
    let empty = scratch.file("empty.txt", 0o644, "# nothing\n");
    for (file, code, printed, said) in [
        ("/no/such/file", 2, "", "procwire: /no/such/file: No such file"),
        (
            &malformed,
            2,
            "",
            "malformed.txt:2: expected a line starting with",
        ),
        (
            &malformed,
            2,
            "",
            "malformed.txt:3:10: the expected message is not JSON: EOF",
        ),
        (&empty, 2, "", "empty.txt: no line is sent or expected"),
        // Of Markdown files, only some have sessions.
        (&markdown, 0, "empty.md: no ```session block found\n", ""),
    ] {
        let junit = scratch.path("report.xml");
        let output = procwire(&["check", file, &good, "--junit", &junit]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{file}: {stderr}");
        assert!(
            stdout.contains(&format!("ok        {good}:1")),
            "{file}: {stdout}"
        );
        assert!(
            stdout.contains(printed) && stderr.contains(said),
            "{file}: {stdout}{stderr}"
        );
        let report = std::fs::read_to_string(&junit).expect("the report is written");
        assert!(report.contains(&format!("errors=\"{}\"", code / 2)), "{report}");
    }
    // Success would claim that something was checked.
    let output = procwire(&["check", &markdown, &markdown]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("no file has a session"),
        "{}",
        text(&output.stderr)
    );
}

#[apply(test)]
fn sessions_have_titles() {
    let scratch = Scratch::new();
    let list = "--> {\"id\":1,\"method\":\"process/list\"}\n<-- {\"id\":1,\"result\":{\"processes\":[]}}\n";
    let block = |title: &str| format!("```session\n{title}{list}```\n");
    let document = format!(
        "# First\n{}{}## Second `x`\n{}",
        block(""),
        block("# It is <its own>\n"),
        block("")
    );
    let file = scratch.file("titles.md", 0o644, &document);
    let junit = scratch.path("report.xml");
    let output = procwire(&["check", &file, "--junit", &junit]);
    let printed = text(&output.stdout);
    for (line, title) in [(3, "First"), (7, "It is <its own>"), (13, "Second `x`")] {
        assert!(
            printed.contains(&format!("ok        {file}:{line}  {title}\n")),
            "{printed}"
        );
    }
    let report = std::fs::read_to_string(&junit).expect("the report is written");
    assert!(
        report.contains(&format!("classname=\"{file}\" name=\"It is &lt;its own&gt;\"")),
        "{report}"
    );
}

#[apply(test)]
fn a_server_that_does_not_start_is_an_error_of_its_own() {
    let scratch = Scratch::new();
    let hello = scratch.file("hello.txt", 0o644, HELLO);
    let silent = scratch.file("silent.txt", 0o644, "--> {\"method\":\"initialized\"}\n");
    for (server, why) in [
        ("no-such-server", "exited with status 127 before it sent anything"),
        ("exit 3", "exited with status 3 before it sent anything"),
        ("kill -9 $$", "was killed by signal 9 before it sent anything"),
        ("exec false\u{1b}[2J", "exited with status 127"),
    ] {
        for file in [&hello, &silent] {
            let junit = scratch.path("report.xml");
            // One that does not start for the first session does not for the others.
            let output = procwire(&["check", "--server", server, "--junit", &junit, file, &hello]);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{server}: {stderr}");
            let server = server.replace('\u{1b}', "\\u{1b}");
            let said = format!("procwire: the server '{server}' {why}");
            assert!(stderr.contains(&said), "{said:?} is not in {stderr:?}");
            assert_eq!(stderr.matches("procwire: ").count(), 1, "{stderr}");
            assert!(!text(&output.stdout).contains("DIFFERS"));
            let report = std::fs::read_to_string(&junit).expect("the report is written");
            assert!(
                report.contains("tests=\"1\" failures=\"0\" errors=\"1\""),
                "{report}"
            );
        }
    }
}

#[apply(test)]
fn a_server_that_never_answers_is_an_error_of_its_own() {
    let scratch = Scratch::new();
    let hello = scratch.file("hello.txt", 0o644, HELLO);
    // More than a pipe holds.
    let long = format!("--> \"{}\"\n", "x".repeat(1 << 20));
    let long = scratch.file("long.txt", 0o644, long);
    for (server, file, deadline, why) in [
        ("exec sleep 1000", &hello, "100ms", "sent nothing within 100ms"),
        ("sleep 1000; true", &hello, "100ms", "sent nothing within 100ms"),
        (
            "while read line; do :; done",
            &hello,
            "100ms",
            "sent nothing within 100ms",
        ),
        ("yes ''", &hello, "100ms", "sent nothing within 100ms"),
        ("exec sleep 1000", &long, "100ms", "sent nothing within 100ms"),
        (
            "exec >&-; exec sleep 1000",
            &hello,
            "5s",
            "closed its output before it sent anything",
        ),
        (
            "read line; sleep 1000 & setsid sleep 1000 & exit 3",
            &hello,
            "2s",
            "exited with status 3 before it sent anything",
        ),
    ] {
        let output = procwire(&["check", "--deadline", deadline, "--server", server, file]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{server}: {stderr}");
        let said = format!("procwire: the server '{server}' {why}\n");
        assert!(stderr.ends_with(&said), "{said:?} is not in {stderr:?}");
    }
}

/// Whatever the server does instead of going on, and whatever it has started; that nothing is left of
/// it, the harness checks.
#[apply(test)]
fn ends_a_server_that_hangs() {
    let scratch = Scratch::new();
    let hello = scratch.file("hello.txt", 0o644, HELLO);
    let answer = "echo '{\"id\":1,\"result\":{\"pid\":1}}'";
    for (server, why) in [
        (
            format!("{answer}; exec sleep 1000"),
            "line 5: process/outputDelta \"a\" \"stdout\" did not come within 2s",
        ),
        (
            format!("{answer}; read line; sleep 1000 & setsid sleep 1000 & exit 3"),
            "did not come within 2s",
        ),
        (
            "echo garbage; exec sleep 1000".to_owned(),
            "the server sent a line that is not JSON: garbage",
        ),
        (
            format!("{answer}; exec >&-; exec sleep 1000"),
            "did not come: the server's output has ended",
        ),
    ] {
        differs(&["--deadline", "2s", "--server", &server, &hello], why);
    }
}

#[apply(test)]
fn a_server_cannot_control_the_terminal() {
    let scratch = Scratch::new();
    let list = "# \u{9b}31mtitle\n--> {\"id\":1,\"method\":\"process/list\"}\n<-- {\"id\":1,\"result\":{}}\n";
    let file = scratch.file("\u{1b}[2Jlist.txt", 0o644, list);
    let controls = "\u{1b}]0;pwned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\u{7f}\r";
    let in_json = serde_json::to_string(controls).expect("text is JSON");
    let messages = [
        format!("{{\"id\":1,\"result\":{in_json}}}"),
        format!("{{\"id\":1,\"result\":{{{in_json}:1}}}}"),
        format!("{{\"id\":1,\"result\":{{}}}}\n{{\"method\":{in_json}}}"),
        format!("{{\"id\":{in_json},\"result\":1}}"),
        controls.to_owned(),
    ];
    for (index, message) in messages.iter().enumerate() {
        let sent = scratch.file("sent", 0o644, format!("{message}\n"));
        let junit = scratch.path("report.xml");
        let server = format!("cat {sent}; read line; read end; true '\u{1b}[2J'");
        let output = procwire(&[
            "check",
            "--deadline",
            "2s",
            "--server",
            &server,
            "--junit",
            &junit,
            &file,
        ]);
        let report = std::fs::read_to_string(&junit).expect("the report is written");
        let all = format!("{}{}{report}", text(&output.stdout), text(&output.stderr));
        let control = all
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || controls.contains(*c) && !c.is_ascii());
        assert_eq!(control, None, "{index}: {all}");
        assert!(all.contains("u{1b}") || all.contains("u001b"), "{index}: {all}");
    }
    // What is recorded says the same, without them.
    let sent = scratch.file("sent", 0o644, format!("{}\n", messages[0]));
    let output = fed(
        &[
            "check",
            "--record",
            "-",
            "--server",
            &format!("cat {sent}; cat > /dev/null"),
        ],
        "--> {\"id\":1,\"method\":\"x\"}\n",
    );
    let recorded = text(&output.stdout);
    let line = recorded.lines().nth(1).expect("a line that was received");
    assert!(line.is_ascii(), "{line}");
    let value: Value = serde_json::from_str(&line["<-- ".len()..]).expect("JSON");
    assert_eq!(value["result"], controls);
}

/// A server that is started, waited for, talked to and killed. What else it prints is not shown.
const SMOKE: &str = include_str!("../../docs/examples/server.session");

#[apply(test)]
fn waits_for_text_in_the_output() {
    let scratch = Scratch::new();
    let good = scratch.file("smoke.txt", 0o644, SMOKE);
    let output = procwire(&["check", &good]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    for (from, to, expected) in [
        (
            "<~ listening",
            "<~ listening at",
            "  line 7: output with \"listening at\" did not come within 2s\n",
        ),
        // What was waited for has been taken.
        (
            "<~  on port",
            "<~ listening",
            "  line 8: output with \"listening\" did not come within 2s\n",
        ),
        ("Lgo=", "IQo=", "decoded: expected \"!\\n\", got \".\\n\"\n"),
        (
            "<~ listening\n",
            "<~ \n",
            ":7:3: '<~' needs the text that it waits for\n",
        ),
    ] {
        let bad = scratch.file("bad.txt", 0o644, SMOKE.replace(from, to));
        let output = procwire(&["check", &bad, "--deadline", "2s"]);
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(printed.contains(expected), "{expected:?} is not in:\n{printed}");
    }
    // Of a process that is not waited for, all must be shown.
    let strict = SMOKE
        .replace("<~ listening\n<~  on port\n", "")
        .replace("<~ you said hi\n", "");
    let strict = scratch.file("strict.txt", 0o644, strict);
    let output = procwire(&["check", &strict, "--deadline", "2s"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    // What came instead is shown.
    let ended = r#"--> {"id":1,"method":"process/spawn","params":{"command":["echo","no"],"processHandle":"a","streamStdoutStderr":true}}
<~ yes
"#;
    let output = fed(&["check", "--deadline", "1s", "-"], ended);
    let printed = text(&output.stdout);
    assert!(printed.contains("output with \"yes\" did not come"), "{printed}");
    assert!(
        printed.contains("instead  stdout of \"a\": \"no\\n\""),
        "what came instead: {printed}"
    );
    // That it cannot come any more is told at once, and not when the time is up.
    for command in [
        r#"["echo","no"]"#,
        r#"["no-such-program"]"#,
        r#"["sh","-c","echo no >&2; exit 3"]"#,
    ] {
        let ended = ended.replace(r#"["echo","no"]"#, command);
        let output = fed(&["check", "--deadline", "1h", "-"], &ended);
        let why = "output with \"yes\" did not come: no process is left that could print it\n";
        assert!(text(&output.stdout).contains(why), "{}", text(&output.stdout));
        let output = fed(&["check", "--record", "--deadline", "1h", "-"], &ended);
        assert!(text(&output.stderr).contains(why.trim_end()), "{output:?}");
    }
    // A recording keeps the lines that wait, and writes no output that they take.
    let asked: String = SMOKE
        .lines()
        .filter(|l| !l.starts_with("<--"))
        .map(|l| format!("{l}\n"))
        .collect();
    let output = fed(&["check", "--record", "-"], &asked);
    let recorded = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{recorded}");
    let again = fed(&["check", "-"], &recorded);
    assert_eq!(again.status.code(), Some(0), "{recorded}{}", text(&again.stdout));
    assert_eq!(recorded.matches("\n<~ ").count(), 3, "{recorded}");
    assert!(!recorded.contains("outputDelta"), "{recorded}");
}

/// The same text in pieces, on both streams, of several processes, with a space at its end.
#[apply(test)]
fn waits_for_text_of_any_process() {
    let spawn = |id: u32, script: &str| {
        let params = json!({"command": ["sh", "-c", script], "processHandle": format!("p{id}"),
            "streamStdin": true, "streamStdoutStderr": true, "timeoutMs": null});
        format!(
            "--> {}\n<-- {}\n",
            json!({"id": id, "method": "process/spawn", "params": params}),
            json!({"id": id, "result": {"pid": "{...}"}})
        )
    };
    // The first ends without it; of the second each character comes by itself, and on stderr.
    let slow = "for c in r e a d y; do printf $c >&2; sleep 0.02; done; printf ': '; printf ' > '; read x";
    let session = format!(
        "{}{}<~ ready\n<~ : \n<~  > \n",
        spawn(1, "echo rea"),
        spawn(2, slow)
    );
    let output = fed(&["check", "--deadline", "20s", "-"], &session);
    let printed = text(&output.stdout);
    // What the first has printed is not shown anywhere.
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("process/outputDelta") && !printed.contains("did not come"),
        "{printed}"
    );
    let session = session.replace("echo rea\"", "true\"");
    let output = fed(&["check", "--deadline", "20s", "-"], &session);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

/// Of a process whose text has come, any amount of output may follow.
#[apply(test)]
fn forgets_what_need_not_be_shown() {
    let params = json!({"command": ["sh", "-c", "echo ready; yes | head -c 60000000; echo; echo end >&2; read x"],
        "processHandle": "a", "streamStdin": true, "streamStdoutStderr": true, "timeoutMs": null,
        "outputBytesCap": null});
    let spawn = json!({"id": 1, "method": "process/spawn", "params": params});
    let answer = json!({"id": 1, "result": {"pid": "{...}"}});
    let session = format!("--> {spawn}\n<-- {answer}\n<~ ready\n<~ end\n");
    let output = fed(&["check", "--deadline", "200s", "-"], &session);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[apply(test)]
fn tells_of_an_offset_that_cannot_be() {
    let scratch = Scratch::new();
    let delta = |offset: u64, bytes: &str| {
        json!({"method": "process/outputDelta", "params": {"processHandle": "a", "stream": "stdout",
            "offset": offset, "deltaBase64": bytes, "capReached": false}})
    };
    // One byte is expected, and three come.
    let file = scratch.file("delta.txt", 0o644, format!("<-- {}\n", delta(0, "YQ==")));
    let server = format!("echo '{}'", delta(u64::MAX, "YWJj"));
    differs(&["--server", &server, &file], "beyond the largest offset");
}

#[apply(test)]
fn keeps_little_of_a_flood() {
    let scratch = Scratch::new();
    let file = scratch.file("hello.txt", 0o644, HELLO);
    let flood = r#"yes '{"method":"x"}'"#;
    // The deadline is not what ends it.
    let printed = differs(
        &["--deadline", "60s", "--server", flood, &file],
        "the server sent too much that is not expected",
    );
    assert!(printed.lines().count() < 40, "{} lines", printed.lines().count());
}

/// One that answers while it reads waits for its answer to be read.
#[apply(test)]
fn reads_while_it_sends() {
    let scratch = Scratch::new();
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let file = scratch.file("echo.txt", 0o644, format!("--> {long}\n<-- {long}\n"));
    let output = procwire(&["check", "--server", "cat", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[apply(test)]
fn can_be_interrupted_with_its_server() {
    let scratch = Scratch::new();
    let file = scratch.file("hello.txt", 0o644, HELLO);
    // It shows what it gets, and outlives its input. A shell could miss the signal while it forks.
    let server = "echo pid $$. >&2; exec cat - /dev/tty >&2";
    let typed = format!("trap : INT; {PROCWIRE} check --server '{server}' {file}; echo ended; read line");
    let mut client = Client::in_process();
    client.spawn(Mode::Tty.params("p", &["sh", "-c", &typed]));
    let seen = client.until("p", "process/spawn");
    let pid = seen.split(['.', ' ']).nth(1).and_then(|pid| pid.parse().ok());
    let pid = pid.unwrap_or_else(|| panic!("no pid: {seen:?}"));
    client.write("p", b"\x03");
    client.until("p", "ended\r\n");
    wait_until("the server is gone", || !is_alive(pid));
    client.write("p", b"\r");
    client.exited("p");
    client.finish();
}

#[apply(test)]
fn a_closed_pipe_ends_it_without_a_word() {
    let scratch = Scratch::new();
    let file = scratch.file("hello.txt", 0o644, HELLO);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = binary().args(["check", &file, &file]).stdout(writer).output();
    let output = output.expect("the binary starts");
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
    assert_eq!(text(&output.stderr), "");
    // As it is typed.
    let typed = format!("set -o pipefail; {PROCWIRE} check {file} {file} | head -1");
    let output = Command::new("bash")
        .args(["-c", &typed])
        .output()
        .expect("bash starts");
    assert_eq!(text(&output.stdout), format!("ok        {file}:1  one\n"));
    assert_eq!(text(&output.stderr), "");
}

/// What is recorded is what is then found to be the same.
#[apply(test)]
fn records_what_the_server_sends() {
    let scratch = Scratch::new();
    let spawn = |id: u32, script: &str, more: &str| {
        let command = json!(["sh", "-c", script]);
        format!(
            "--> {{\"id\":{id},\"method\":\"process/spawn\",\"params\":{{\"command\":{command},\"processHandle\":\"p{id}\"{more}}}}}\n"
        )
    };
    let sent = [
        "# What is sent\n".to_owned(),
        spawn(1, "echo out; echo err >&2; exit 3", ""),
        "\n# and answers\n".to_owned(),
        spawn(2, "read x; echo got $x", ",\"streamStdin\":true,\"streamStdoutStderr\":true"),
        "--> {\"id\":3,\"method\":\"process/list\"}\n".to_owned(),
        "--> {\"id\":4,\"method\":\"process/writeStdin\",\"params\":{\"processHandle\":\"p2\",\"deltaBase64\":\"eAo=\"}}\n".to_owned(),
        "--> {\"id\":\"five\",\"method\":\"process/fly\"}\n".to_owned(),
        // It ends a while after the last line.
        spawn(6, "sleep 0.5; echo end", ",\"streamStdoutStderr\":true"),
        "# the end\n".to_owned(),
    ]
    .concat();
    let document = format!("# x\n\n```session\n{sent}```\n\ntext\n");
    let file = scratch.file("new.md", 0o600, &document);
    let output = procwire(&["check", "--record", &file]);
    let printed = text(&output.stdout);
    assert_eq!(
        printed,
        format!("recorded  {file}:4  What is sent\n0 ok, 1 recorded\n")
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let recorded = std::fs::read_to_string(&file).expect("it is there");
    // Nothing that was there is changed.
    let kept: Vec<&str> = recorded
        .lines()
        .filter(|line| !line.starts_with("<-- "))
        .collect();
    assert_eq!(kept, document.lines().collect::<Vec<_>>());
    // Each answer stands below what it answers, in the order of its members.
    let below = |sent: &str| {
        let mut lines = recorded.lines().skip_while(|line| !line.contains(sent));
        let answer = lines.find(|line| line.starts_with("<-- {\"id\""));
        answer.unwrap_or_else(|| panic!("no answer below {sent}"))
    };
    assert_eq!(below("\"id\":1,"), r#"<-- {"id":1,"result":{"pid":"{...}"}}"#);
    assert!(
        below("\"id\":3,").starts_with(
            r#"<-- {"id":3,"result":{"processes":[{"processHandle":"p2","pid":"{...}","command":["sh","-c","read x; echo got $x"],"cwd":null,"tty":false,"startedAtMs":"{...}""#
        ),
        "{recorded}"
    );
    assert!(below("\"five\"").contains("-32601"), "{recorded}");
    for expected in [
        r#""exitCode":3,"stdout":"out\n""#,
        r#""durationMs":"{...}","usage":"{...}""#,
        r#""deltaBase64":"Z290IHgK""#,
        "\"processHandle\":\"p6\",\"exitCode\":0",
    ] {
        assert!(recorded.contains(expected), "{expected} is not in:\n{recorded}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let output = procwire(&["check", &file]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}\n{recorded}",
        text(&output.stdout)
    );
    // And once more changes nothing.
    let output = procwire(&["check", "--record", &file]);
    assert_eq!(
        text(&output.stdout),
        format!("ok        {file}:4  What is sent\n1 ok\n")
    );
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), recorded);
}

#[apply(test)]
fn records_again_and_keeps_what_fits() {
    let scratch = Scratch::new();
    let wrong = HELLO
        .replace("\"exitCode\":3", "\"exitCode\":4")
        .replace("\"stdout\":\"\"", "\"stdout\":\"[..]\"")
        .replace(
            "\"usage\":\"{...}\"",
            "\"usage\":{\"userMs\":77777,\"systemMs\":\"{...}\",\"maxRssBytes\":-1}",
        )
        .replace("\"durationMs\":\"{...}\"", "\"durationMs\":77777")
        // Output that is longer and other than expected, once more than there is.
        .replace("aG8K", "aGEK")
        .replace(
            "--> nonsense",
            "<-- {\"method\":\"process/more\"}\n--> nonsense\n# kept",
        );
    let file = scratch.file("wrong.txt", 0o644, &wrong);
    let output = procwire(&["check", "--record", "--deadline", "2s", &file]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let expected = HELLO
        .replace("\"stdout\":\"\"", "\"stdout\":\"[..]\"")
        .replace(
            "\"usage\":\"{...}\"",
            "\"usage\":{\"userMs\":\"{...}\",\"systemMs\":\"{...}\",\"maxRssBytes\":\"{...}\"}",
        )
        .replace("--> nonsense", "--> nonsense\n# kept");
    let recorded = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(recorded, expected);
    // New lines to send get their answers where they stand, and output that is not shown yet as well.
    let fewer: String = HELLO
        .lines()
        .filter(|line| !line.contains("aG8K"))
        .map(|line| format!("{line}\n"))
        .collect();
    let file = scratch.file(
        "more.txt",
        0o644,
        format!("{fewer}--> {{\"id\":8,\"method\":\"process/list\"}}\n"),
    );
    let output = procwire(&["check", "--record", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let recorded = std::fs::read_to_string(&file).expect("it is there");
    let expected = format!(
        "{HELLO}--> {{\"id\":8,\"method\":\"process/list\"}}\n<-- {{\"id\":8,\"result\":{{\"processes\":[]}}}}\n"
    );
    assert_eq!(recorded, expected);
}

#[apply(test)]
fn records_lines_of_json_from_stdin() {
    let scratch = Scratch::new();
    let sent = "{\"id\":1,\"method\":\"process/list\"}\n--> {\"method\":\"initialized\"}\n";
    let output = fed(&["check", "--record", "-"], sent);
    let recorded = "--> {\"id\":1,\"method\":\"process/list\"}\n<-- {\"id\":1,\"result\":{\"processes\":[]}}\n\
                    --> {\"method\":\"initialized\"}\n";
    assert_eq!(text(&output.stdout), recorded);
    assert_eq!(text(&output.stderr), "recorded  stdin:1\n0 ok, 1 recorded\n");
    assert_eq!(output.status.code(), Some(0));
    let output = fed(&["check", "-"], recorded);
    assert_eq!(text(&output.stdout), "ok        stdin:1\n1 ok\n");
    // Without --record it must be a transcript.
    assert_eq!(fed(&["check", "-"], sent).status.code(), Some(2));
    // A process that goes on is not waited for longer than for a message.
    let sleeper = r#"{"id":1,"method":"process/spawn","params":{"command":["sleep","1000"],"processHandle":"s","timeoutMs":null}}"#;
    let output = fed(&["check", "--record", "--deadline", "2s", "-"], sleeper);
    assert_eq!(
        text(&output.stdout),
        format!("--> {sleeper}\n<-- {{\"id\":1,\"result\":{{\"pid\":\"{{...}}\"}}}}\n")
    );
    drop(scratch);
}

#[apply(test)]
fn a_failed_recording_changes_nothing() {
    let scratch = Scratch::new();
    let answer = "echo '{\"id\":1,\"result\":{\"pid\":1}}'";
    for (server, deadline, code, why) in [
        ("exit 3".to_owned(), "10s", 2, "exited with status 3"),
        (
            "exec sleep 1000".to_owned(),
            "200ms",
            2,
            "sent nothing within 200ms",
        ),
        (
            "while read line; do :; done".to_owned(),
            "200ms",
            2,
            "sent nothing within 200ms",
        ),
        // It answers the first request only.
        (
            format!("{answer}; exec cat > /dev/null"),
            "3s",
            1,
            "line 10: the request was not answered",
        ),
        (
            format!("{answer}; echo garbage; exec cat > /dev/null"),
            "3s",
            1,
            "not JSON: garbage",
        ),
    ] {
        let transcript = format!("{HELLO}--> {{\"id\":2,\"method\":\"process/list\"}}\n");
        let file = scratch.file("hello.txt", 0o644, &transcript);
        let output = procwire(&[
            "check",
            "--record",
            "--deadline",
            deadline,
            "--server",
            &server,
            &file,
        ]);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{server}: {said}");
        assert!(said.contains(why), "{server}: {said}");
        assert_eq!(
            std::fs::read_to_string(&file).expect("it is there"),
            transcript,
            "{server}"
        );
    }
    let left = std::fs::read_dir(scratch.path("")).expect("it is there").count();
    assert_eq!(left, 1, "no temporary file is left");
}
