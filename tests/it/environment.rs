//! What a program is given beside its arguments: variables, the directory, and how its name is found.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::harness::{Client, Mode, Scratch, apply, binary, both, test};
use crate::spawn::{refused, silent_to_the_end, still_serves};
use serde_json::{Value, json};

/// Runs a program streamed and returns what it printed to stdout; it must succeed and print no errors.
fn output(client: &mut Client, params: Value) -> Vec<u8> {
    let handle = params["processHandle"].as_str().expect("a handle").to_owned();
    client.spawn(params);
    let (stdout, stderr, exited) = client.streamed(&handle);
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    assert_eq!(exited["exitCode"], 0, "{}", String::from_utf8_lossy(&stdout));
    stdout
}

fn text(client: &mut Client, params: Value) -> String {
    String::from_utf8(output(client, params)).expect("the program prints text")
}

/// What `env -0` printed, sorted.
fn variables(output: &[u8]) -> Vec<&[u8]> {
    let mut all: Vec<&[u8]> = output.split(|&b| b == 0).collect();
    assert_eq!(all.pop(), Some(&b""[..]), "each ends in NUL");
    all.sort();
    all
}

/// `params` with one more member.
fn with(mut params: Value, member: &str, value: Value) -> Value {
    params[member] = value;
    params
}

// ---- variables ----

/// Set, replaced, unset, and set to nothing; the whole environment is compared.
#[apply(both)]
fn variables_are_the_servers_with_the_given_ones_laid_over(mode: Mode) {
    let mut server = binary();
    server.env_clear().envs([
        ("KEPT", "kept"),
        ("REPLACED", "old"),
        ("REMOVED", "x"),
        ("EMPTY", "x"),
        ("EMPTY_KEPT", ""),
    ]);
    let mut client = Client::command(server);
    let env = json!({
        "REPLACED": "new",
        "REMOVED": null,
        "EMPTY": "",
        "ADDED": "added",
        "NEVER_THERE": null,
    });
    let printed = output(&mut client, with(mode.params("a", &["env", "-0"]), "env", env));
    let expected: [&[u8]; 5] = [
        b"ADDED=added",
        b"EMPTY=",
        b"EMPTY_KEPT=",
        b"KEPT=kept",
        b"REPLACED=new",
    ];
    assert_eq!(variables(&printed), expected);

    // The next one starts from the server's again.
    let printed = output(&mut client, mode.params("a", &["env", "-0"]));
    let expected: [&[u8]; 5] = [
        b"EMPTY=x",
        b"EMPTY_KEPT=",
        b"KEPT=kept",
        b"REMOVED=x",
        b"REPLACED=old",
    ];
    assert_eq!(variables(&printed), expected);
    silent_to_the_end(client);
}

/// The descriptors are closed in every program, and some programs end at once where they are told of them.
#[apply(both)]
fn variables_that_name_the_servers_descriptors_are_not_inherited(mode: Mode) {
    let named = [
        ("NODE_CHANNEL_FD", "3"),
        ("NODE_CHANNEL_SERIALIZATION_MODE", "json"),
        ("NODE_UNIQUE_ID", "1"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDNAMES", "web"),
        ("LISTEN_PIDFDID", "1"),
        ("UPSTART_FDS", "3"),
        ("WAYLAND_SOCKET", "4"),
        ("BASH_XTRACEFD", "5"),
    ];
    let mut server = binary();
    server.env_clear().envs(named).envs([
        ("LISTEN", "kept"),
        ("MAKEFLAGS", "-j4 --jobserver-auth=3,4"),
        ("NOTIFY_SOCKET", "/run/notify"),
    ]);
    let mut client = Client::command(server);
    let printed = output(&mut client, mode.params("a", &["env", "-0"]));
    let kept: [&[u8]; 3] = [
        b"LISTEN=kept",
        b"MAKEFLAGS=-j4 --jobserver-auth=3,4",
        b"NOTIFY_SOCKET=/run/notify",
    ];
    assert_eq!(variables(&printed), kept);

    // What a spawn sets is its own.
    let own: std::collections::BTreeMap<_, _> = named.map(|(name, _)| (name, "own")).into();
    let params = with(mode.params("a", &["env", "-0"]), "env", json!(own));
    let printed = output(&mut client, params);
    for (name, _) in named {
        let definition = format!("{name}=own").into_bytes();
        assert!(variables(&printed).contains(&definition.as_slice()), "{name}");
    }
    silent_to_the_end(client);
}

/// No TERM, no SHELL, no PATH, no PWD, in a terminal as little as without one.
#[apply(both)]
fn nothing_is_added_to_an_empty_environment(mode: Mode) {
    let mut server = binary();
    server.env_clear();
    let mut client = Client::command(server);
    assert_eq!(
        output(&mut client, mode.params("a", &["/usr/bin/env", "-0"])),
        b""
    );
    let params = with(mode.params("a", &["/usr/bin/env", "-0"]), "cwd", json!("/tmp"));
    assert_eq!(output(&mut client, params), b"");
    silent_to_the_end(client);
}

#[apply(both)]
fn variables_that_are_not_utf8_arrive_byte_for_byte(mode: Mode) {
    let bytes = OsStr::from_bytes;
    let mut server = binary();
    server
        .env_clear()
        .env("BAD", bytes(b"\xff\xfe"))
        .env(bytes(b"N\xc3"), "x")
        .env("LINES", "one\ntwo");
    let mut client = Client::command(server);
    let params = with(mode.params("a", &["env", "-0"]), "env", json!({"MORE": "é"}));
    let printed = output(&mut client, params);
    let lines = mode.printed("LINES=one\ntwo");
    let expected: [&[u8]; 4] = [b"BAD=\xff\xfe", lines.as_bytes(), "MORE=é".as_bytes(), b"N\xc3=x"];
    assert_eq!(variables(&printed), expected);

    // Such a one can be replaced and unset like any other.
    let env = json!({"BAD": null, "LINES": "1"});
    let printed = output(&mut client, with(mode.params("a", &["env", "-0"]), "env", env));
    let expected: [&[u8]; 2] = [b"LINES=1", b"N\xc3=x"];
    assert_eq!(variables(&printed), expected);
    silent_to_the_end(client);
}

/// Only an empty name, `=` in a name, and NUL are refused; everything else goes through.
#[apply(both)]
fn names_and_values_are_not_interpreted(mode: Mode) {
    let mut server = binary();
    server.env_clear();
    let mut client = Client::command(server);
    let env = json!({
        " ": "space",
        "1": "digit",
        "a-b.c": "$HOME `x` \"y\" 'z' \\ *",
        "lower": "=a=b=",
        "é😀": "ü\t\u{1}\u{7f}",
    });
    let printed = output(&mut client, with(mode.params("a", &["env", "-0"]), "env", env));
    // A terminal sends tabs as they are.
    let expected = [
        " =space",
        "1=digit",
        "a-b.c=$HOME `x` \"y\" 'z' \\ *",
        "lower==a=b=",
        "é😀=ü\t\u{1}\u{7f}",
    ];
    assert_eq!(variables(&printed), expected.map(str::as_bytes));
    silent_to_the_end(client);
}

// ---- how a program is found ----

fn script(text: &str) -> String {
    format!("#!/bin/sh\necho {text}\n")
}

#[apply(both)]
fn programs_are_found_along_the_childs_path(mode: Mode) {
    let scratch = Scratch::new();
    let (first, second) = (scratch.directory("first"), scratch.directory("second"));
    scratch.file("first/both-have-it", 0o755, script("first"));
    scratch.file("second/both-have-it", 0o755, script("second"));
    scratch.file("second/one-has-it", 0o755, script("one"));
    // Without an interpreter line the shell gets the path it was found at.
    scratch.file("second/bare", 0o755, "echo \"$0 $1\"\n");
    let env = json!({"PATH": format!("/nonexistent:{first}:{second}")});
    let mut client = Client::in_process();
    let mut run = |command: &[&str]| text(&mut client, with(mode.params("a", command), "env", env.clone()));
    assert_eq!(run(&["both-have-it"]), mode.printed("first\n"));
    assert_eq!(run(&["one-has-it"]), mode.printed("one\n"));
    assert_eq!(run(&["bare", "x"]), mode.printed(&format!("{second}/bare x\n")));
    still_serves(client, mode);
}

#[apply(both)]
fn path_of_the_server_counts_only_where_it_is_inherited(mode: Mode) {
    let scratch = Scratch::new();
    let (servers, childs) = (scratch.directory("server"), scratch.directory("child"));
    scratch.file("server/program", 0o755, script("server"));
    scratch.file("child/other", 0o755, script("child"));
    let mut server = binary();
    server.env("PATH", &servers);
    let mut client = Client::command(server);
    assert_eq!(
        text(&mut client, mode.params("a", &["program"])),
        mode.printed("server\n")
    );
    let unrelated = with(mode.params("a", &["program"]), "env", json!({"X": "y"}));
    assert_eq!(text(&mut client, unrelated), mode.printed("server\n"));
    let own = json!({"PATH": childs});
    let other = with(mode.params("a", &["other"]), "env", own.clone());
    assert_eq!(text(&mut client, other), mode.printed("child\n"));
    let program = with(mode.params("a", &["program"]), "env", own);
    refused(&mut client, program, "lookup", libc::ENOENT, "program");
    silent_to_the_end(client);
}

/// An empty entry is the working directory, too, wherever it stands.
#[apply(both)]
fn relative_path_entries_start_at_the_childs_directory(mode: Mode) {
    let scratch = Scratch::new();
    scratch.directory("bin");
    scratch.file("bin/program", 0o755, script("bin"));
    scratch.file("here", 0o755, script("here"));
    let mut client = Client::in_process();
    for (path, name, printed) in [
        ("bin", "program", "bin\n"),
        ("./bin/", "program", "bin\n"),
        ("bin/../bin", "program", "bin\n"),
        (".", "here", "here\n"),
        ("", "here", "here\n"),
        (":/nonexistent", "here", "here\n"),
        ("/nonexistent::/elsewhere", "here", "here\n"),
        ("/nonexistent:", "here", "here\n"),
    ] {
        let params = with(mode.params("a", &[name]), "env", json!({"PATH": path}));
        let params = with(params, "cwd", json!(scratch.path("")));
        assert_eq!(text(&mut client, params), mode.printed(printed), "PATH={path:?}");
    }
    silent_to_the_end(client);
}

/// As `execvp` does, and never the working directory.
#[apply(both)]
fn without_a_path_the_systems_directories_are_searched(mode: Mode) {
    let scratch = Scratch::new();
    scratch.file("here", 0o755, script("here"));
    let mut client = Client::in_process();
    let unset = |command: &[&str]| {
        let params = with(mode.params("a", command), "env", json!({"PATH": null}));
        with(params, "cwd", json!(scratch.path("")))
    };
    let printed = text(&mut client, unset(&["env"]));
    assert!(!printed.lines().any(|l| l.starts_with("PATH=")), "{printed}");
    refused(&mut client, unset(&["here"]), "lookup", libc::ENOENT, "here");
    silent_to_the_end(client);
}

/// A file that may not be executed, a directory, a dangling link, a file in the place of a directory,
/// and a script whose interpreter is missing: the next one of that name runs.
#[apply(both)]
fn unusable_files_on_the_path_are_passed_over(mode: Mode) {
    let scratch = Scratch::new();
    scratch.directory("plain");
    scratch.file("plain/program", 0o644, script("plain"));
    scratch.directory("directory/program");
    scratch.directory("dangling");
    std::os::unix::fs::symlink("nowhere", scratch.path("dangling/program")).expect("a link");
    scratch.file("file", 0o755, script("file"));
    scratch.directory("script");
    scratch.file("script/program", 0o755, "#!/nonexistent/interpreter\n");
    scratch.directory("good");
    scratch.file("good/program", 0o755, script("good"));
    let mut client = Client::in_process();
    for bad in ["plain", "directory", "dangling", "file", "script"] {
        let path = format!("{}:{}", scratch.path(bad), scratch.path("good"));
        let params = with(mode.params("a", &["program"]), "env", json!({"PATH": path}));
        assert_eq!(text(&mut client, params), mode.printed("good\n"), "behind {bad}");
    }
    silent_to_the_end(client);
}

/// Where nothing behind them runs, the error is that of what was found.
#[apply(both)]
fn only_unusable_files_on_the_path_say_why(mode: Mode) {
    let scratch = Scratch::new();
    scratch.directory("plain");
    scratch.file("plain/program", 0o644, script("plain"));
    scratch.directory("directory/program");
    scratch.directory("script");
    scratch.file("script/program", 0o755, "#!/nonexistent/interpreter\n");
    scratch.directory("empty");
    let mut client = Client::in_process();
    for (entry, stage, errno) in [
        ("plain", "lookup", libc::EACCES),
        ("directory", "lookup", libc::EACCES),
        ("script", "exec", libc::ENOENT),
        ("empty", "lookup", libc::ENOENT),
    ] {
        let path = format!("{}:{}", scratch.path(entry), scratch.path("empty"));
        let params = with(mode.params("a", &["program"]), "env", json!({"PATH": path}));
        refused(&mut client, params, stage, errno, "program");
    }
    still_serves(client, mode);
}

#[apply(both)]
fn relative_programs_start_at_the_childs_directory(mode: Mode) {
    let scratch = Scratch::new();
    scratch.directory("sub");
    scratch.file("program", 0o755, script("top"));
    scratch.file("sub/program", 0o755, script("sub"));
    let mut client = Client::in_process();
    for (cwd, program, printed) in [
        ("", "./program", "top\n"),
        ("", "sub/program", "sub\n"),
        ("sub", "./program", "sub\n"),
        ("sub", "../program", "top\n"),
    ] {
        let params = with(mode.params("a", &[program]), "cwd", json!(scratch.path(cwd)));
        assert_eq!(
            text(&mut client, params),
            mode.printed(printed),
            "{program} in {cwd:?}"
        );
    }
    silent_to_the_end(client);
}

/// The program sees the name it was asked for by, not the path it was found at.
#[apply(both)]
fn name_is_kept_as_sent(mode: Mode) {
    let scratch = Scratch::new();
    for name in ["odd name", "-dash", "é"] {
        std::os::unix::fs::symlink("/bin/sh", scratch.path(name)).expect("a link");
    }
    let absolute = scratch.path("odd name");
    let mut client = Client::in_process();
    for name in ["odd name", "-dash", "é", "./odd name", &absolute] {
        let params = mode.params("a", &[name, "-c", "cat /proc/$$/cmdline"]);
        let params = with(params, "cwd", json!(scratch.path("")));
        let path = format!("{}:/bin:/usr/bin", scratch.path(""));
        let params = with(params, "env", json!({"PATH": path}));
        let expected = format!("{name}\0-c\0cat /proc/$$/cmdline\0");
        assert_eq!(text(&mut client, params), expected);
    }
    silent_to_the_end(client);
}

// ---- the working directory ----

#[apply(both)]
fn any_directory_can_be_the_working_directory(mode: Mode) {
    let scratch = Scratch::new();
    let spaces = scratch.directory("a b  c");
    let odd = scratch.directory("\"quotes\" $HOME *");
    let unicode = scratch.directory("é😀");
    let deep = scratch.directory(&"/d".repeat(100)[1..]);
    let link = scratch.path("link");
    std::os::unix::fs::symlink(&unicode, &link).expect("a link");
    // As long as a path can be, its NUL included.
    let mut long = format!("{}/", scratch.directory("long"));
    while long.len() < 4095 {
        let part = (4095 - long.len() - 1).min(200);
        long += &"x".repeat(part.max(1));
        long.push('/');
    }
    long.truncate(4095);
    std::fs::create_dir_all(&long).expect("a directory with a long path");
    let real_long = long.trim_end_matches('/').to_owned();
    let mut client = Client::in_process();
    for (cwd, real) in [
        (spaces.clone(), spaces.clone()),
        (odd.clone(), odd),
        (unicode.clone(), unicode.clone()),
        (link.clone(), unicode),
        (deep.clone(), deep),
        (long, real_long),
        (format!("{spaces}/"), spaces.clone()),
        (format!("/{spaces}//./../a b  c"), spaces),
        ("/".to_owned(), "/".to_owned()),
    ] {
        let params = with(mode.params("a", &["/bin/pwd", "-P"]), "cwd", json!(cwd));
        assert_eq!(
            text(&mut client, params),
            mode.printed(&format!("{real}\n")),
            "{cwd}"
        );
    }
    silent_to_the_end(client);
}

#[apply(both)]
fn servers_directory_is_the_default(mode: Mode) {
    let scratch = Scratch::new();
    let mut server = binary();
    server.current_dir(&scratch.0);
    let mut client = Client::command(server);
    let expected = mode.printed(&format!("{}\n", scratch.0.display()));
    assert_eq!(text(&mut client, mode.params("a", &["/bin/pwd", "-P"])), expected);
    // One that was given counts for that process alone.
    let elsewhere = with(mode.params("a", &["/bin/pwd", "-P"]), "cwd", json!("/"));
    assert_eq!(text(&mut client, elsewhere), mode.printed("/\n"));
    assert_eq!(text(&mut client, mode.params("a", &["/bin/pwd", "-P"])), expected);
    silent_to_the_end(client);
}

/// Programs start all the same, in a directory of their own or in none.
#[apply(both)]
fn server_may_lose_its_own_directory(mode: Mode) {
    let scratch = Scratch::new();
    let lost = scratch.directory("lost");
    let mut server = binary();
    server.current_dir(&lost);
    let mut client = Client::command(server);
    client.call("process/list", json!({}));
    std::fs::remove_dir(&lost).expect("the directory is empty");
    let params = with(mode.params("a", &["/bin/pwd", "-P"]), "cwd", json!("/"));
    assert_eq!(text(&mut client, params), mode.printed("/\n"));
    let params = with(mode.params("a", &["sh", "-c", "echo ran"]), "cwd", json!("/tmp"));
    assert_eq!(text(&mut client, params), mode.printed("ran\n"));
    assert_eq!(
        text(&mut client, mode.params("a", &["/bin/echo", "ran"])),
        mode.printed("ran\n")
    );
    silent_to_the_end(client);
}

// ---- inheritEnv ----

#[apply(both)]
fn only_what_is_named_is_inherited(mode: Mode) {
    let mut server = binary();
    server.env_clear().envs([
        ("PATH", "/usr/bin:/bin"),
        ("LC_ALL", "C"),
        ("LC_TIME", "x"),
        ("LC", "y"),
        ("HOME", "/root"),
        ("LISTEN_FDS", "3"),
    ]);
    server.env(OsStr::from_bytes(b"LC_\xff"), "odd");
    let mut client = Client::command(server);
    let all: &[&[u8]] = &[
        b"HOME=/root",
        b"LC=y",
        b"LC_ALL=C",
        b"LC_TIME=x",
        b"LC_\xff=odd",
        b"PATH=/usr/bin:/bin",
    ];
    let cases: [(Value, &[&[u8]]); 12] = [
        (json!(true), all),
        (json!(null), all),
        (json!(["*"]), all),
        (json!(false), &[]),
        (json!([]), &[]),
        (json!(["HOME"]), &[b"HOME=/root"]),
        (json!(["HOME", "HOME", "HOM", "home"]), &[b"HOME=/root"]),
        (json!(["LC_*"]), &[b"LC_ALL=C", b"LC_TIME=x", b"LC_\xff=odd"]),
        (
            json!(["LC*", "NOT_THERE"]),
            &[b"LC=y", b"LC_ALL=C", b"LC_TIME=x", b"LC_\xff=odd"],
        ),
        (json!(["HOME*"]), &[b"HOME=/root"]),
        (json!(["PATH", "LC_ALL"]), &[b"LC_ALL=C", b"PATH=/usr/bin:/bin"]),
        // What names a descriptor of the server is not given to the program, also where it is asked for.
        (json!(["LISTEN_FDS", "LISTEN*"]), &[]),
    ];
    for (inherited, expected) in cases {
        let params = with(mode.params("a", &["env", "-0"]), "inheritEnv", inherited.clone());
        let printed = output(&mut client, params);
        assert_eq!(variables(&printed), expected, "{inherited}");
    }
    // `env` is laid over it: it sets, replaces and unsets.
    let mut params = with(mode.params("a", &["env", "-0"]), "inheritEnv", json!(["LC_*"]));
    params["env"] = json!({"LC_ALL": "new", "LC_TIME": null, "HOME": "/", "LISTEN_FDS": "1"});
    let printed = output(&mut client, params);
    let expected: [&[u8]; 4] = [b"HOME=/", b"LC_ALL=new", b"LC_\xff=odd", b"LISTEN_FDS=1"];
    assert_eq!(variables(&printed), expected);
    // The next one starts from the server's again.
    let printed = output(&mut client, mode.params("a", &["env", "-0"]));
    assert_eq!(variables(&printed), all);
    silent_to_the_end(client);
}

#[apply(both)]
fn the_path_counts_only_if_it_is_inherited(mode: Mode) {
    let scratch = Scratch::new();
    scratch.file("own", 0o700, "#!/bin/sh\nprintf own\n");
    let directory = scratch.path("");
    let mut server = binary();
    server.env_clear().env("PATH", &directory);
    let mut client = Client::command(server);
    for inherited in [json!(true), json!(["PATH"]), json!(["P*"])] {
        let params = with(mode.params("a", &["own"]), "inheritEnv", inherited);
        assert_eq!(output(&mut client, params), b"own");
    }
    for inherited in [json!(false), json!(["HOME", "PATHS", "PAT"])] {
        let params = with(mode.params("a", &["own"]), "inheritEnv", inherited.clone());
        refused(&mut client, params, "lookup", libc::ENOENT, "own");
        // Then the system's directories are searched, and an own PATH counts as ever.
        let params = with(
            mode.params("a", &["printf", "x"]),
            "inheritEnv",
            inherited.clone(),
        );
        assert_eq!(output(&mut client, params), b"x");
        let mut params = with(mode.params("a", &["own"]), "inheritEnv", inherited);
        params["env"] = json!({"PATH": directory});
        assert_eq!(output(&mut client, params), b"own");
    }
    silent_to_the_end(client);
}

#[apply(test)]
fn malformed_names_to_inherit_start_nothing() {
    let mut client = Client::in_process();
    for (inherited, why) in [
        (json!([""]), "inheritEnv: a name must not be empty"),
        (json!(["PATH", "A=B"]), "inheritEnv: a name must not be empty"),
        (json!(["="]), "inheritEnv: a name must not be empty"),
        (json!(["A=*"]), "inheritEnv: a name must not be empty"),
        (json!(["A\0"]), "inheritEnv: a name must not be empty"),
        (json!(["*A"]), "inheritEnv: a name must not be empty"),
        (json!(["A*B"]), "inheritEnv: a name must not be empty"),
        (json!(["A**"]), "inheritEnv: a name must not be empty"),
        (json!(["**"]), "inheritEnv: a name must not be empty"),
        (json!([1]), "inheritEnv[0]: "),
        (json!([null]), "inheritEnv[0]: "),
        (json!(0), "inheritEnv: "),
        (json!("PATH"), "inheritEnv: "),
        (json!({"PATH": true}), "inheritEnv: "),
    ] {
        let params = json!({"processHandle": "a", "command": ["true"], "inheritEnv": inherited});
        let (code, message) = client.refuse("process/spawn", params);
        assert_eq!(code, -32602, "{inherited}: {message}");
        assert!(message.starts_with(&format!("process/spawn: {why}")), "{message}");
    }
    silent_to_the_end(client);
}
