//! `limits`: what a program may use, as it sees it itself, and what the machine refuses.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::{Client, Mode, Scratch, apply, binary, both, test};
use crate::resources::leave_root;
use crate::spawn::silent_to_the_end;
use serde_json::{Value, json};

fn limited(command: &[&str], limits: Value) -> Value {
    json!({"processHandle": "a", "command": command, "limits": limits, "timeoutMs": null})
}

/// The lines of a `/proc/PID/limits`: soft and hard, by name.
fn limits_in(text: &str) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for line in text.lines().skip(1) {
        // The name has spaces in it, and is as wide as the widest.
        let (name, rest) = line.split_at(26);
        let mut fields = rest.split_ascii_whitespace().map(str::to_owned);
        let soft = fields.next().expect(line);
        all.insert(name.trim().to_owned(), (soft, fields.next().expect(line)));
    }
    all
}

const NAMES: [(&str, &str); 7] = [
    ("cpuSeconds", "Max cpu time"),
    ("fileBytes", "Max file size"),
    ("dataBytes", "Max data size"),
    ("coreBytes", "Max core file size"),
    ("openFiles", "Max open files"),
    ("processes", "Max processes"),
    ("stackBytes", "Max stack size"),
];

/// Soft and hard alike, each alone and all together, and the others as they were.
#[apply(both)]
fn each_limit_is_seen_by_the_program(mode: Mode) {
    let mut client = Client::in_process();
    let mut run = |script: &str, limits: Value| {
        let mut params = mode.params("a", &["sh", "-c", script]);
        params["limits"] = limits;
        client.spawn(params);
        let (stdout, _, exited) = client.streamed("a");
        assert_eq!(exited["exitCode"], 0, "{}", String::from_utf8_lossy(&stdout));
        String::from_utf8(stdout).expect("text").replace('\r', "")
    };
    let show = "exec cat /proc/self/limits";
    let usual = limits_in(&run(show, json!({})));
    // Not above what this user may have.
    let value = |index: usize| {
        let (member, name) = NAMES[index];
        let few = matches!(member, "openFiles" | "processes");
        let wanted = if few { 60 } else { 300_000_000 } + index as u64;
        usual[name].1.parse().map_or(wanted, |most: u64| most.min(wanted))
    };
    let mut all = json!({});
    for (index, (member, name)) in NAMES.into_iter().enumerate() {
        all[member] = json!(value(index));
        let mut expected = usual.clone();
        let wanted = value(index).to_string();
        expected.insert(name.to_owned(), (wanted.clone(), wanted));
        assert_eq!(
            limits_in(&run(show, json!({member: value(index)}))),
            expected,
            "{member}"
        );
    }
    let together = limits_in(&run(show, all));
    for (index, (_, name)) in NAMES.into_iter().enumerate() {
        let wanted = value(index).to_string();
        assert_eq!(together[name], (wanted.clone(), wanted), "{name}");
    }
    let own: i32 = run("nice", json!({})).trim().parse().expect("a number");
    for nice in [own, 19] {
        assert_eq!(run("nice", json!({"nice": nice})).trim(), nice.to_string());
    }
    for score in [1_000, 500] {
        let seen = run("cat /proc/self/oom_score_adj", json!({"oomScoreAdj": score}));
        assert_eq!(seen.trim(), score.to_string());
    }
    assert_eq!(
        limits_in(&run(show, json!(null)))["Max open files"],
        usual["Max open files"]
    );
    client.finish();
}

/// The child sets them while it shares the memory of the server.
#[apply(test)]
fn limits_are_of_the_program_alone() {
    let own = || {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).expect("it is there");
        // SAFETY: no memory is involved.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        (read("limits"), read("oom_score_adj"), nice)
    };
    let mut client = Client::in_process();
    client.call("process/list", json!({}));
    let before = own();
    let limits = json!({
        "cpuSeconds": 5, "fileBytes": 5_000, "dataBytes": 50_000_000, "coreBytes": 0, "openFiles": 10,
        "processes": 50, "stackBytes": 1_000_000, "nice": 10, "oomScoreAdj": 900
    });
    assert_eq!(client.run_with(limited(&["true"], limits))["exitCode"], 0);
    assert_eq!(own(), before);
    // Nor are they the next program's.
    let exited = client.run_with(limited(&["cat", "/proc/self/oom_score_adj"], Value::Null));
    assert_eq!(exited["stdout"], before.1);
    client.finish();
}

#[apply(test)]
fn the_largest_number_means_no_limit() {
    let mut client = Client::in_process();
    let limits = json!({"cpuSeconds": u64::MAX, "fileBytes": u64::MAX, "dataBytes": u64::MAX});
    let exited = client.run_with(limited(&["cat", "/proc/self/limits"], limits));
    let seen = limits_in(exited["stdout"].as_str().expect("text"));
    for name in ["Max cpu time", "Max file size", "Max data size"] {
        assert_eq!(seen[name], ("unlimited".to_owned(), "unlimited".to_owned()));
    }
    client.finish();
}

/// What each does to a program that goes beyond.
#[apply(test)]
fn limits_strike() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    let mut client = Client::in_process();
    let mut run = |script: &str, limits: Value| client.run_with(limited(&["sh", "-c", script], limits));
    for seconds in [0, 1] {
        let exited = run("while :; do :; done", json!({"cpuSeconds": seconds}));
        assert_eq!(
            (&exited["signal"], &exited["timedOut"]),
            (&json!("SIGKILL"), &json!(false)),
            "{exited}"
        );
    }
    let exited = run(
        &format!("exec head -c 5000 /dev/zero > {file}"),
        json!({"fileBytes": 3_000}),
    );
    assert_eq!(exited["signal"], "SIGXFSZ", "{exited}");
    assert_eq!(fs::metadata(&file).expect("it was made").len(), 3_000);
    let exited = run("kill -SEGV $$", json!({"coreBytes": 0}));
    assert_eq!(
        (&exited["signal"], &exited["coreDumped"]),
        (&json!("SIGSEGV"), &json!(false))
    );
    let three = "exec 3</dev/null 4</dev/null 5</dev/null && echo three";
    assert_eq!(run(three, json!({"openFiles": 5}))["stdout"], "");
    assert_eq!(run(three, json!({"openFiles": 20}))["stdout"], "three\n");
    let hungry = "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c";
    let exited = run(hungry, json!({"dataBytes": 20_000_000}));
    assert_ne!(exited["stdout"], "90000000\n");
    assert_eq!(run(hungry, json!({}))["stdout"], "90000000\n");
    client.finish();
}

/// The kernel executes a program without one, and the word of a failure needs none either.
#[apply(test)]
fn few_descriptors_are_enough_to_start() {
    let mut client = Client::in_process();
    for files in [0, 1, 2, 3] {
        // The dynamic loader may find none for its libraries: that is the program's own end.
        let exited = client.run_with(limited(&["true"], json!({"openFiles": files})));
        assert!(exited["exitCode"].is_i64(), "{exited}");
        let params = limited(
            &["/no/such/program"],
            json!({"openFiles": files, "oomScoreAdj": 1_000}),
        );
        let id = client.request("process/spawn", params);
        let error = &client.response(id)["error"];
        assert_eq!(
            (&error["data"]["stage"], &error["data"]["code"]),
            (&json!("exec"), &json!("ENOENT")),
            "{error}"
        );
    }
    silent_to_the_end(client);
}

/// The binary has raised its own soft limit, and gives its programs the one it was started with.
#[apply(test)]
fn a_limit_of_descriptors_is_laid_over_the_servers() {
    let mut client = Client::command(binary());
    let show = ["sh", "-c", "ulimit -Sn; ulimit -Hn"];
    let usual = client.run_with(limited(&show, Value::Null))["stdout"].clone();
    let hard = usual
        .as_str()
        .and_then(|text| text.lines().nth(1))
        .expect("two lines")
        .to_owned();
    for files in ["33", &hard] {
        let number: u64 = files.parse().expect("the hard limit is a number");
        let exited = client.run_with(limited(&show, json!({"openFiles": number})));
        assert_eq!(exited["stdout"], format!("{files}\n{files}\n"));
    }
    assert_eq!(client.run_with(limited(&show, json!({})))["stdout"], usual);
    silent_to_the_end(client);
}

#[apply(test)]
fn limits_hold_for_scripts_and_programs_on_the_path() {
    let scratch = Scratch::new();
    let unusable = scratch.directory("first");
    scratch.file("first/shown", 0o700, "#!/no/such/interpreter\n");
    let second = scratch.directory("second");
    // No interpreter line: the kernel refuses it, and the shell is started after that.
    scratch.file("second/shown", 0o700, "ulimit -n; cat /proc/$$/oom_score_adj\n");
    let mut client = Client::in_process();
    let mut params = limited(&["shown"], json!({"openFiles": 21, "oomScoreAdj": 999}));
    params["env"] = json!({"PATH": format!("{unusable}:{second}:/usr/bin:/bin")});
    assert_eq!(client.run_with(params)["stdout"], "21\n999\n");
    client.finish();
}

#[apply(test)]
fn what_the_machine_refuses_is_named() {
    let scratch = Scratch::new();
    let mark = scratch.path("mark");
    leave_root();
    let mut client = Client::in_process();
    // SAFETY: no memory is involved.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let mut cases = vec![("openFiles", json!(u64::MAX), "EPERM", "prlimit64")];
    assert!(nice > -20, "there is something to refuse");
    cases.push(("nice", json!(-20), "EACCES", "setpriority"));
    cases.push(("oomScoreAdj", json!(-1_000), "EACCES", "oom_score_adj"));
    for (name, value, code, call) in cases {
        // Beside others that are granted, before and after it.
        let mut params = limited(&["touch", &mark], json!({"coreBytes": 0, "fileBytes": 1_000_000}));
        params["limits"][name] = value;
        let id = client.request("process/spawn", params);
        let error = client.response(id)["error"].clone();
        assert_eq!(error["code"], -32603, "{error}");
        let data = &error["data"];
        assert_eq!(
            (&data["stage"], &data["limit"], &data["code"], &data["program"]),
            (&json!("limits"), &json!(name), &json!(code), &json!("touch")),
            "{error}"
        );
        let message = error["message"].as_str().expect("a message");
        let begin = format!("failed to spawn process: limits.{name}: ");
        assert!(message.starts_with(&begin) && message.contains(call), "{message}");
    }
    assert!(!fs::exists(&mark).expect("it can be looked for"));
    assert_eq!(
        client.run_with(limited(&["true"], json!({"nice": 19})))["exitCode"],
        0
    );
    silent_to_the_end(client);
}

/// Arguments take a quarter of the stack at most, whatever the limit is.
#[apply(test)]
fn what_starves_the_start_is_told() {
    let mut client = Client::in_process();
    let long = "x".repeat(100_000);
    let command = ["true", &long, &long, &long];
    let id = client.request(
        "process/spawn",
        limited(&command, json!({"stackBytes": 1_000_000})),
    );
    let data = client.response(id)["error"]["data"].clone();
    assert_eq!(
        (&data["stage"], &data["code"]),
        (&json!("exec"), &json!("E2BIG")),
        "{data}"
    );
    assert!(data.get("limit").is_none(), "{data}");
    silent_to_the_end(client);
}

#[apply(test)]
fn malformed_limits_start_nothing() {
    let mut client = Client::in_process();
    for (limits, why) in [
        (json!([]), "limits: "),
        (json!(1), "limits: "),
        (json!({"cpuSeconds": -1}), "limits.cpuSeconds: "),
        (json!({"fileBytes": 1.5}), "limits.fileBytes: "),
        (json!({"dataBytes": "1"}), "limits.dataBytes: "),
        (json!({"openFiles": true}), "limits.openFiles: "),
        (
            json!({"nice": -21}),
            "limits.nice must be from -20 to 19, got -21",
        ),
        (json!({"nice": 20}), "limits.nice must be from -20 to 19, got 20"),
        (json!({"nice": 1_i64 << 40}), "limits.nice: "),
        (
            json!({"oomScoreAdj": -1_001}),
            "limits.oomScoreAdj must be from -1000 to 1000, got -1001",
        ),
        (
            json!({"oomScoreAdj": 1_001}),
            "limits.oomScoreAdj must be from -1000 to 1000, got 1001",
        ),
    ] {
        let (code, message) = client.refuse("process/spawn", limited(&["true"], limits.clone()));
        assert_eq!(code, -32602, "{limits}");
        assert!(message.starts_with(&format!("process/spawn: {why}")), "{message}");
    }
    // What is not known is ignored, and null is as left out.
    let limits = json!({"addressBytes": 1, "cpuSeconds": null, "nice": null});
    assert_eq!(client.run_with(limited(&["true"], limits))["exitCode"], 0);
    silent_to_the_end(client);
}

#[apply(test)]
fn the_rust_client_sets_limits() {
    use procwire::client::{Client, Command, Error};
    use procwire::protocol::{LimitName, ResourceLimits, Stage};
    let client = Client::in_process(procwire::Config::default()).expect("it starts");
    let mut show = Command::shell("ulimit -n; nice");
    show.limits(ResourceLimits {
        open_files: Some(31),
        nice: Some(19),
        ..ResourceLimits::default()
    });
    assert_eq!(client.output(&show).expect("it runs").stdout, b"31\n19\n");
    show.limits(ResourceLimits {
        open_files: Some(u64::MAX),
        ..ResourceLimits::default()
    });
    let Err(Error::Refused(error)) = client.output(&show) else {
        panic!("no machine has so many descriptors");
    };
    let data = error.data.expect("the operating system refused");
    assert_eq!(
        (data.stage, data.limit),
        (Stage::Limits, Some(LimitName::OpenFiles))
    );
}
