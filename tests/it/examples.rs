//! Every example of docs/examples does what it says, run as a person would run it.
//!
//! Those in Python and TypeScript are run where their clients are: by `tests/clients/run`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::harness::{PROCWIRE, Scratch, apply, binary, example, is_alive, test};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn script(name: &str) -> Command {
    let mut command = Command::new(folder().join(name));
    command.env("PROCWIRE", PROCWIRE);
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

#[apply(test)]
fn each_is_listed_and_run() {
    let listed = std::fs::read_to_string(folder().join("README.md")).expect("the list is there");
    let here = include_str!("examples.rs");
    let documents = include_str!("documents.rs");
    let clients = include_str!("../clients/test_examples.py");
    let mut count = 0;
    for file in std::fs::read_dir(folder()).expect("the folder is there") {
        let name = file.expect("it can be listed").file_name();
        let name = name.to_str().expect("names are ASCII").to_owned();
        if name == "README.md" {
            continue;
        }
        assert!(
            listed.contains(&format!("[{name}]({name})")),
            "{name} is not in the list"
        );
        let stem = name.strip_suffix(".rs").unwrap_or(&name);
        let quoted = format!("\"{stem}\"");
        assert!(
            here.contains(&quoted)
                || clients.contains(&quoted)
                || documents.contains(&format!("examples/{name}")),
            "no test runs {name}"
        );
        count += 1;
    }
    assert!(count >= 10, "{count} examples");
}

#[apply(test)]
fn sessions_pass_and_would_fail() {
    let scratch = Scratch::new();
    // A program that does otherwise is found out.
    for (name, from, to) in [
        ("smoke.session", "a + b", "a - b"),
        ("server.session", "you said $line", "you say $line"),
    ] {
        let session = folder().join(name);
        let output = run(binary().arg("check").arg(&session));
        assert!(output.status.success(), "{output:?}");
        let wrong = std::fs::read_to_string(session)
            .expect("it is there")
            .replace(from, to);
        let wrong = scratch.file("wrong.session", 0o600, wrong);
        let output = run(binary().args(["check", "--deadline", "2s", &wrong]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[apply(test)]
fn timeout_tries_three_times_and_keeps_the_exit_code() {
    let output =
        run(script("timeout.sh").args(["2s", "sh", "-c", "echo try; setsid sleep 1000 & sleep 1000"]));
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert_eq!(text(&output.stdout), "try\ntry\ntry\n");
    let stderr = text(&output.stderr);
    for attempt in 1..=3 {
        let said =
            format!("procwire: sh: timed out after 2s, killed by SIGTERM\nattempt {attempt} of 3 is over\n");
        assert!(stderr.contains(&said), "{output:?}");
    }
    let output = run(script("timeout.sh").args(["10s", "sh", "-c", "echo once; exit 4"]));
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(4), "once\n".to_owned())
    );
    assert_eq!(run(&mut script("timeout.sh")).status.code(), Some(2));
}

#[apply(test)]
fn server_ready_tests_a_server_and_ends_it() {
    let scratch = Scratch::new();
    let file = scratch.path("child");
    let server = format!("sleep 1000 & echo $! > {file}; echo \"it says \\\"ready\\\"\" >&2; wait");
    for (test, code) in [("cat \"$FILE\"", 0), ("exit 6", 6)] {
        let mut command = script("server_ready.sh");
        command.env("FILE", &file).args(["says \"ready\"", &server, test]);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let child = std::fs::read_to_string(&file).expect("the server has written it");
        let printed = if code == 0 { &*child } else { "" };
        assert_eq!(text(&output.stdout), printed);
        assert!(!is_alive(child.trim().parse().expect("a pid")), "{output:?}");
    }
    // One that ends first is not waited for.
    let output = run(script("server_ready.sh").args(["ready", "exit 3", "true"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("\"exited\":true"), "{output:?}");
    assert_eq!(run(&mut script("server_ready.sh")).status.code(), Some(2));
}

#[apply(test)]
fn log_ends_shows_the_beginning_and_the_end() {
    let output = run(script("log_ends.sh").args(["sh", "-c", "seq 200000; echo last >&2; exit 5"]));
    assert_eq!(output.status.code(), Some(5), "{:?}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.starts_with("1\n2\n3\n") && printed.ends_with("\n200000\nlast\n"));
    assert_eq!(printed.len(), (2 + 8) * 1024);
    let all: usize = (1..=200_000).map(|n: u32| n.to_string().len() + 1).sum();
    let left_out = all + "last\n".len() - printed.len();
    assert_eq!(
        text(&output.stderr),
        format!("procwire: {left_out} bytes of stdout left out\n")
    );
    assert_eq!(run(&mut script("log_ends.sh")).status.code(), Some(2));
}

#[apply(test)]
fn password_answers_one_prompt() {
    let ask = "printf 'Secret? '; stty -echo; read word; stty echo; echo; \
               if [ \"$word\" = right ]; then echo welcome; exit 7; fi; \
               printf 'Again: '; stty -echo; read word; exit 1";
    for (password, asks, code, shown, said) in [
        (
            "right",
            ask,
            7,
            "Secret? \r\nwelcome\r\n",
            "asked 1 times, exit code 7\n",
        ),
        (
            "wrong",
            ask,
            1,
            "Secret? \r\nAgain: ",
            "asked 2 times, killed by SIGKILL\n",
        ),
        (
            "right",
            "printf 'Go on? '; read word",
            1,
            "Go on? ",
            "asked 1 times, killed by SIGKILL\n",
        ),
        (
            "right",
            "echo done",
            0,
            "done\r\n",
            "asked 0 times, exit code 0\n",
        ),
    ] {
        let output = run(example("password")
            .env("PASSWORD", password)
            .args(["sh", "-c", asks]));
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!((&*text(&output.stdout), &*text(&output.stderr)), (shown, said));
    }
}

#[apply(test)]
fn repl_shows_every_answer() {
    let lines = [
        "6 * 7",
        "import sys",
        "sys.stdout.isatty()",
        "print('two\\nlines')",
    ];
    let output = run(example("repl").args(lines));
    assert!(output.status.success(), "{output:?}");
    let shown =
        "6 * 7 -> 42\nimport sys -> \nsys.stdout.isatty() -> True\nprint('two\\nlines') -> two\nlines\n";
    assert_eq!(text(&output.stdout), shown);
    let output = run(example("repl").arg("exit(3)"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("the REPL has ended: exit code 3"),
        "{output:?}"
    );
}

#[apply(test)]
fn kill_tree_leaves_nothing() {
    let output = run(&mut script("kill_tree.sh"));
    assert!(output.status.success(), "{output:?}");
    let printed = text(&output.stdout);
    assert!(printed.starts_with("running: 4 processes in group "), "{printed}");
    assert!(printed.ends_with("\nended by SIGKILL: 0 left\n"), "{printed}");
}

/// What stands for ssh here is a shell that sets the host's name; `remote.rs` has the real one.
#[apply(test)]
fn remote_reaches_every_host_and_tells_which_failed() {
    let via = format!("HOST=%s exec '{}'", PROCWIRE);
    let work = "echo \"I am $HOST\"; [ $HOST != web2 ] || exit 3";
    let output = run(script("remote.sh")
        .env("VIA", via)
        .args(["web1 web2 web3", "sh", "-c", work]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stdout);
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["web1: I am web1", "web2: I am web2", "web3: I am web3"]);
    assert_eq!(text(&output.stderr), "web2: failed with exit code 3\n");
}

#[apply(test)]
fn build_log_shows_every_line_with_its_stream() {
    let build = "echo compiling; echo warning >&2; printf 'no end'; exit 2";
    let output = run(example("build_log").args(["sh", "-c", build]));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let printed = text(&output.stdout);
    let mut lines: Vec<String> = printed
        .lines()
        .map(|line| match line.trim_start().split_once(' ') {
            Some((second, rest)) if second.parse::<f64>().is_ok() => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    assert_eq!(lines.pop().as_deref(), Some("exit code 2"), "{printed}");
    lines.sort_unstable();
    assert_eq!(lines, ["err warning", "out compiling", "out no end"]);
}

#[apply(test)]
fn compress_feeds_a_compressor() {
    // Far more than the pipes on the way hold.
    let input: Vec<u8> = (0..400_000)
        .flat_map(|n: u32| format!("{n}\n").into_bytes())
        .collect();
    let mut child = example("compress")
        .args(["gzip", "-1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo starts");
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn({
        let input = input.clone();
        move || stdin.write_all(&input).expect("it is read to its end")
    });
    let compressed = child.wait_with_output().expect("it ends");
    writer.join().expect("it was written");
    assert!(compressed.status.success(), "{:?}", text(&compressed.stderr));
    assert!(text(&compressed.stderr).starts_with(&format!("{} bytes in, ", input.len())));
    let scratch = Scratch::new();
    let file = scratch.file("numbers.gz", 0o600, &compressed.stdout);
    let output = run(Command::new("gzip").args(["-dc", &file]));
    assert!(
        output.stdout == input,
        "{} of {} bytes",
        output.stdout.len(),
        input.len()
    );
    assert!(compressed.stdout.len() * 2 < input.len());
}

#[apply(test)]
fn embed_serves_in_a_thread() {
    let output = run(&mut example("embed"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "answer to Some(Signed(1)): true\nit says: ready\nanswer to Some(Signed(2)): true\n\
         ended by SIGKILL\nthe server: InputEnded\n"
    );
}
