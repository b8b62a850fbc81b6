//! What sandboxes and older kernels refuse together: under each of these profiles the server does what it
//! does without, but for what `guarantees` says.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::ends::{self, End, marked, marker, must_die, must_sleep, start_tricks};
use crate::harness::{Mode, PROCWIRE, apply, kill_stray, reap_adopted, test, wait};
use crate::refused::session::{
    self,
    profile::{self, Profile},
};

#[apply(test)]
fn four_enosys() {
    serves_under("four-enosys");
}

#[apply(test)]
fn four_eperm() {
    serves_under("four-eperm");
}

#[apply(test)]
fn docker_old() {
    serves_under("docker-old");
}

#[apply(test)]
fn linux_4_18() {
    serves_under("linux-4.18");
}

#[apply(test)]
fn gvisor() {
    serves_under("gvisor");
}

#[apply(test)]
fn gvisor_old() {
    serves_under("gvisor-old");
}

#[apply(test)]
fn no_vfork() {
    serves_under("no-vfork");
}

#[apply(test)]
fn every_profile_is_tested_and_in_the_table() {
    let file = format!("{}/docs/platforms.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&file).expect("the page is there");
    for Profile { name, about, .. } in profile::ALL {
        let function = name.replace(['-', '.'], "_");
        assert!(
            crate::all().contains_key(&format!("sandbox::{function}")),
            "no test {function}"
        );
        assert!(
            page.contains(&format!("\n| `{name}` | {about} |")),
            "{name} is not in docs/platforms.md: cargo run --release --example refused -- --profiles"
        );
    }
}

/// Whether the binary under test is of a C library that starts threads by `clone3` alone where that is
/// refused with another error than `ENOSYS`.
fn is_of_glibc() -> bool {
    let outcome = session::run(server(), &session::named(&["clone3"]), libc::EPERM);
    assert!(outcome.works || outcome.did_not_start, "{outcome:?}");
    outcome.did_not_start
}

fn server() -> &'static Path {
    Path::new(&*PROCWIRE)
}

#[apply(test)]
fn a_thread_that_glibc_cannot_start_is_named() {
    let outcome = session::run(server(), &session::named(&["clone3"]), libc::EPERM);
    if outcome.did_not_start {
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("pthread_create"), "{outcome:?}");
    } else {
        assert!(outcome.works, "{outcome:?}");
    }
}

fn serves_under(name: &str) {
    let profile = Profile::named(name).expect("a profile of that name");
    let for_glibc = profile.refuses_threads_of_glibc() && is_of_glibc();
    let command = || profile.command(PROCWIRE, for_glibc);
    let is_guaranteed = |guarantee: &str| !profile.not_guaranteed.contains(&guarantee);
    let (adopts, has_guard) = (
        is_guaranteed("killsDaemonsAtEnd"),
        is_guaranteed("survivesServerKill"),
    );

    let mut expected = session::played(Command::new(PROCWIRE));
    for member in profile.not_guaranteed {
        let guarantee = &mut expected["guarantees"][member];
        assert_eq!(*guarantee, true, "{member} without a profile");
        *guarantee = json!(false);
    }
    assert_eq!(
        session::played(command()),
        expected,
        "docs/examples/hello.jsonl under {name}"
    );
    let outcome = session::run_command(command(), server());
    assert!(
        outcome.works && outcome.status == Some(0) && outcome.survivors.is_empty(),
        "a session under {name}: {outcome:?}"
    );
    let backend = std::env::var("PROCWIRE_BACKEND").unwrap_or(profile.backend.to_owned());
    let log = logged(command());
    assert!(log.contains(&format!("backend {backend}: ")), "{log}");
    kills_and_timeouts_leave_daemons_alone(command(), adopts);
    a_client_that_dies_leaves_nothing(command());
    if has_guard {
        for (end, mode) in [
            (End::Guard(libc::SIGKILL), Mode::Pipe),
            (End::Server(libc::SIGKILL), Mode::Tty),
        ] {
            let mut server = ends::Server::of(command());
            let tricks = start_tricks(&mut server.client, mode);
            server.end(end);
            for (trick, _, marker) in tricks {
                must_die(&marker, &format!("{end:?} under {name}: {trick}"));
            }
        }
    }
}

/// What is logged at level info by a server whose client says nothing.
fn logged(mut command: Command) -> String {
    command.env("RUST_LOG", "info").stdin(Stdio::null());
    let output = command.output().expect("the server starts");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Nothing lives but so many daemons, which are ended here.
fn must_leave(daemons: usize, marker: &str, after: &str) {
    if daemons == 0 {
        return must_die(marker, after);
    }
    let left = marked(marker);
    assert!(left.len() <= daemons, "after {after}: {left:?}");
    for (pid, _) in left {
        kill_stray(pid);
    }
    must_die(marker, after);
    reap_adopted();
}

fn kills_and_timeouts_leave_daemons_alone(command: Command, adopts: bool) {
    let mut server = ends::Server::of(command);
    let tricks = start_tricks(&mut server.client, Mode::Pipe);
    for (name, daemons, marker) in &tricks {
        server.client.kill(name);
        assert_eq!(server.client.exited(name)["exitCode"], 137, "{name}");
        let left = marked(marker);
        assert_eq!(
            left.len(),
            *daemons,
            "alive after the kill of {name:?}: {left:#?}"
        );
    }
    let slow = marker();
    let script = "setsid sleep 1000.% & trap '' TERM HUP INT; sleep 1001.% & kill -STOP $!; echo ready; wait";
    let mut params = Mode::Pipe.params("slow", &["sh", "-c", &script.replace('%', &slow)]);
    params["timeoutMs"] = json!(2_000);
    server.client.spawn_ready(params);
    must_sleep(&slow, 1);
    let exited = server.client.exited("slow");
    assert_eq!(
        (&exited["exitCode"], &exited["timedOut"]),
        (&json!(124), &json!(true))
    );
    assert_eq!(marked(&slow), []);
    server.end(End::Input);
    for (name, daemons, marker) in tricks {
        let daemons = if adopts { 0 } else { daemons };
        must_leave(daemons, &marker, &format!("the end of input: {name}"));
    }
}

/// It reads no answer, and both its pipes go at once.
fn a_client_that_dies_leaves_nothing(mut command: Command) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let marker = marker();
    let script = "setsid sleep 1000.% & trap '' TERM HUP INT; sleep 1001.% & sleep 1002.%; :";
    let params = Mode::Pipe.params("a", &["sh", "-c", &script.replace('%', &marker)]);
    let request = json!({"id": 1, "method": "process/spawn", "params": params});
    writeln!(stdin, "{request}").expect("the server reads");
    must_sleep(&marker, 3);
    drop((stdin, child.stdout.take()));
    wait(&mut child);
    must_die(&marker, "the death of its client");
}
