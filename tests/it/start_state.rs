//! What a child starts with: its own session, three descriptors, no signal touched, and for the rest what
//! the server was started with, however odd that was.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::harness::{Client, Mode, apply, binary, both, descriptors, test, times};
use crate::spawn::silent_to_the_end;
use serde_json::{Value, json};

fn text(client: &mut Client, params: Value) -> String {
    let handle = params["processHandle"].as_str().expect("a handle").to_owned();
    client.spawn(params);
    let (stdout, stderr, exited) = client.streamed(&handle);
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    let stdout = String::from_utf8(stdout).expect("the program prints text");
    assert_eq!(exited["exitCode"], 0, "{stdout}");
    stdout
}

/// The server, started by a shell that has run `script` before.
fn server_behind(script: &str) -> Command {
    let server = binary();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{script}\nexec \"$0\"")])
        .arg(server.get_program());
    shell
}

// ---- signals ----

fn assert_signals_untouched(client: &mut Client, mode: Mode, started: &str) {
    let status = text(client, mode.params("a", &["cat", "/proc/self/status"]));
    let of = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        let mask = line
            .and_then(|l| l.strip_prefix(":"))
            .expect("the kernel shows it")
            .trim();
        u64::from_str_radix(mask, 16).expect("a mask in hex")
    };
    for set in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(
            of(set),
            0,
            "{set} of a child of a server started {started}: {:x}",
            of(set)
        );
    }
}

/// Ignores `signal`, whatever the C library thinks of it.
fn ignore(signal: i32) {
    // The kernel's own struct: handler, flags, restorer, mask.
    let action = [libc::SIG_IGN, 0, 0, 0];
    // SAFETY: the array has the layout that the kernel reads, and lives through the call.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            std::ptr::null::<usize>(),
            8,
        )
    };
}

/// Blocks all signals of the calling thread.
fn block_all() {
    let all = u64::MAX;
    // SAFETY: the kernel reads the 8 bytes of the set.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            std::ptr::null::<u64>(),
            8,
        )
    };
}

#[apply(both)]
fn signals_are_default_and_unblocked(mode: Mode) {
    type Condition = fn() -> std::io::Result<()>;
    let conditions: [(&str, Condition); 5] = [
        ("plainly", || Ok(())),
        ("under nohup", || {
            ignore(libc::SIGHUP);
            Ok(())
        }),
        ("with every signal blocked", || {
            block_all();
            Ok(())
        }),
        ("as a shell's background job", || {
            ignore(libc::SIGINT);
            ignore(libc::SIGQUIT);
            ignore(libc::SIGTSTP);
            ignore(libc::SIGTTIN);
            ignore(libc::SIGTTOU);
            Ok(())
        }),
        ("with every signal blocked and ignored", || {
            (1..=64).for_each(ignore);
            block_all();
            Ok(())
        }),
    ];
    for (started, condition) in conditions {
        let mut server = binary();
        // SAFETY: the conditions make system calls and nothing else.
        unsafe { server.pre_exec(condition) };
        let mut client = Client::command(server);
        assert_signals_untouched(&mut client, mode, started);
        let (left, status) = client.finish();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(status.and_then(|s| s.code()), Some(0), "started {started}");
    }
}

/// The library's callers do with their signals what they like.
#[apply(both)]
fn signals_are_so_below_a_program_that_blocks_and_ignores_them(mode: Mode) {
    for signal in (1..=64).filter(|s| *s != libc::SIGCHLD) {
        ignore(signal);
    }
    block_all();
    let mut client = Client::in_process();
    assert_signals_untouched(&mut client, mode, "inside such a program");
    silent_to_the_end(client);
}

/// A writer whose reader has gone dies silently of SIGPIPE, as in any shell.
#[apply(both)]
fn broken_pipe_kills_as_usual(mode: Mode) {
    let mut client = Client::in_process();
    let script = "exec 3>&1; (yes; echo $? >&3) | head -n 1";
    let printed = text(&mut client, mode.params("a", &["sh", "-c", script]));
    let lines: BTreeSet<&str> = printed.lines().collect();
    assert_eq!(lines, ["y", "141"].into());
    silent_to_the_end(client);
}

// ---- session and terminal ----

/// The fields of `/proc/PID/stat` after the name, the state first.
fn stat_of(text: &str) -> Vec<i64> {
    let (_, fields) = text.trim().rsplit_once(") ").expect("the name is in parentheses");
    let numbers = fields.split(' ').skip(1);
    numbers.map(|f| f.parse().unwrap_or(-1)).collect()
}

/// Leader of its session and its group; with a terminal, in the foreground of that one, else without any.
#[apply(both)]
fn session_is_its_own(mode: Mode) {
    let mut client = Client::in_process();
    let pid = client.spawn(mode.params("a", &["cat", "/proc/self/stat"]));
    let (stdout, _, _) = client.streamed("a");
    let stat = stat_of(&String::from_utf8_lossy(&stdout));
    let [parent, group, session, terminal, foreground] = stat[..5] else {
        panic!("too few fields: {stat:?}")
    };
    assert_eq!(parent, i64::from(std::process::id()));
    assert_eq!((group, session), (pid.into(), pid.into()));
    match mode {
        Mode::Pipe => assert_eq!((terminal, foreground), (0, -1)),
        Mode::Tty => {
            assert_ne!(terminal, 0);
            assert_eq!(foreground, i64::from(pid));
        }
    }
    silent_to_the_end(client);
}

const ASK_FOR_TERMINAL: &str = "if (: </dev/tty) 2>/dev/null; then echo reached >/dev/tty; else echo none; fi; \
                                tty </dev/tty || :";

/// A server in a user's terminal: its children have their own or none, and never that one.
#[apply(both)]
fn servers_terminal_is_out_of_reach(mode: Mode) {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both integers have room for a descriptor, and nothing else is asked for.
    let opened = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(opened, 0, "a terminal for the server");
    // SAFETY: openpty succeeded, so both are open, and nothing else owns them.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let mut server = binary();
    let terminal = slave.as_raw_fd();
    // SAFETY: two system calls; the descriptor is open until the server has been started.
    unsafe {
        server.pre_exec(move || {
            if libc::setsid() < 0 || libc::ioctl(terminal, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    };
    let servers = std::fs::read_link(format!("/proc/self/fd/{terminal}")).expect("it is open");
    let servers = servers.to_str().expect("a path in ASCII").to_owned();
    let mut client = Client::command(server);
    client.spawn(mode.params("a", &["sh", "-c", ASK_FOR_TERMINAL]));
    let (stdout, _, _) = client.streamed("a");
    let printed = String::from_utf8_lossy(&stdout);
    match mode {
        Mode::Pipe => assert_eq!(printed, "none\n"),
        Mode::Tty => {
            let own = printed
                .strip_prefix("reached\r\n")
                .expect("it has one of its own");
            assert!(own.starts_with("/dev/"), "{own}");
            assert_ne!(own.trim(), servers);
        }
    }
    silent_to_the_end(client);
    drop((master, slave));
}

// ---- descriptors ----

/// A program that has nothing open but what it was started with, once it has said so.
const READY: [&str; 3] = ["sh", "-c", "echo ready; read line"];

/// Checks that exactly 0, 1 and 2 are open, are of the right kind, and block; what they are.
fn three_descriptors(pid: u32, mode: Mode) -> Vec<String> {
    let open = descriptors(&pid.to_string());
    let (numbers, targets): (Vec<&str>, Vec<&str>) =
        open.iter().filter_map(|line| line.split_once(" -> ")).unzip();
    assert_eq!(numbers, ["0", "1", "2"], "{open:?}");
    let kind = match mode {
        Mode::Pipe => "pipe:[",
        Mode::Tty => "/dev/pts/",
    };
    assert!(targets.iter().all(|t| t.starts_with(kind)), "{open:?}");
    let different: BTreeSet<&&str> = targets.iter().collect();
    assert_eq!(
        different.len(),
        if mode == Mode::Pipe { 3 } else { 1 },
        "{open:?}"
    );
    for number in numbers {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("it is open");
        let flags = info
            .lines()
            .find_map(|l| l.strip_prefix("flags:"))
            .expect("its flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("flags in octal");
        assert_eq!(
            flags & libc::O_NONBLOCK,
            0,
            "reads and writes must wait: {number} {flags:o}"
        );
        let access = match (mode, number) {
            (Mode::Tty, _) => libc::O_RDWR,
            (Mode::Pipe, "0") => libc::O_RDONLY,
            (Mode::Pipe, _) => libc::O_WRONLY,
        };
        assert_eq!(flags & libc::O_ACCMODE, access, "{number} {flags:o}");
    }
    targets.into_iter().map(str::to_owned).collect()
}

/// However many others there are at the same time.
#[apply(both)]
fn descriptors_are_three(mode: Mode) {
    let mut client = Client::in_process();
    let handles: Vec<String> = (0..20).map(|i| format!("{i}")).collect();
    for handle in &handles {
        for (other, mode) in [("pipe", Mode::Pipe), ("tty", Mode::Tty)] {
            client.request("process/spawn", mode.params(&format!("{other} {handle}"), &READY));
        }
        client.request("process/spawn", mode.params(handle, &READY));
    }
    let list = client.call("process/list", json!({}));
    let pids: BTreeMap<&str, u64> = list["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|p| Some((p["processHandle"].as_str()?, p["pid"].as_u64()?)))
        .collect();
    for handle in &handles {
        client.until(handle, "ready");
        let pid = u32::try_from(pids[handle.as_str()]).expect("a pid is small");
        three_descriptors(pid, mode);
    }

    // One that is not streamed to reads from nowhere.
    let mut params = Mode::Pipe.params("nowhere", &["sh", "-c", "echo ready; sleep 1000 & wait"]);
    params["streamStdin"] = json!(false);
    let pid = client.spawn_ready(params);
    assert_eq!(descriptors(&pid.to_string())[0], "0 -> /dev/null");
    client.finish();
}

#[apply(both)]
fn inherited_and_missing_descriptors_of_the_server_do_not_matter(mode: Mode) {
    for script in [
        "exec 3</dev/null 9</dev/zero",
        "exec 2>&-",
        "exec 2>&- 3</dev/null 5>/dev/null",
    ] {
        let mut client = Client::command(server_behind(script));
        let pid = client.spawn_ready(mode.params("a", &READY));
        three_descriptors(pid, mode);
        client.spawn(mode.params("b", &["sh", "-c", "echo out; echo err >&2"]));
        let (stdout, stderr, _) = client.streamed("b");
        let expected = match mode {
            Mode::Pipe => ("out\n", "err\n"),
            Mode::Tty => ("out\r\nerr\r\n", ""),
        };
        assert_eq!(String::from_utf8_lossy(&stdout), expected.0);
        assert_eq!(String::from_utf8_lossy(&stderr), expected.1);
        let (_, status) = client.finish();
        assert_eq!(status.and_then(|s| s.code()), Some(0), "after {script}");
    }
}

/// Started all at once, each ends alone when its own stdin is closed, which it would not if another held it.
#[apply(test)]
fn no_process_holds_pipes_of_another() {
    let mut client = Client::in_process();
    let handles: Vec<String> = (0..times(40)).map(|i| format!("{i}")).collect();
    for handle in &handles {
        client.request("process/spawn", Mode::Pipe.params(handle, &["cat"]));
    }
    for handle in handles.iter().rev() {
        client.close_stdin(handle);
        let (_, _, exited) = client.streamed(handle);
        assert_eq!(exited["exitCode"], 0);
        assert_eq!(exited["outputDrainTimedOut"], false);
    }
    client.finish();
}

// ---- the rest ----

/// Compared with a program that the same shell starts without a server in between.
#[apply(both)]
fn limits_and_priorities_are_the_servers(mode: Mode) {
    const CONDITION: &str = "umask 027; ulimit -S -n 300; ulimit -S -c 0; ulimit -S -s 4096; \
                             echo 300 >/proc/self/oom_score_adj; renice -n 5 -p $$ >/dev/null";
    const SHOW: &str = "umask; ulimit -n; cat /proc/self/limits /proc/self/oom_score_adj \
                        /proc/self/coredump_filter /proc/self/cgroup; cut -d' ' -f19 /proc/self/stat; \
                        grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Cpus_allowed|Mems_allowed|THP)' \
                        /proc/self/status";
    let without = Command::new("sh")
        .args(["-c", &format!("{CONDITION}; exec sh -c \"$0\""), SHOW])
        .output()
        .expect("a shell");
    assert!(without.status.success(), "{without:?}");
    let expected = String::from_utf8(without.stdout).expect("text");
    assert!(expected.starts_with("0027\n300\n"), "{expected}");

    let mut client = Client::command(server_behind(CONDITION));
    let printed = text(&mut client, mode.params("a", &["sh", "-c", SHOW]));
    assert_eq!(printed, mode.printed(&expected));
    silent_to_the_end(client);
}

/// A process takes five descriptors of the server, and a usual soft limit is 1,024.
#[apply(test)]
fn soft_limit_of_descriptors_is_for_programs_only() {
    let mut client = Client::command(server_behind("ulimit -S -n 64"));
    for i in 0..100 {
        client.spawn(Mode::Pipe.params(&format!("h{i}"), &["sh", "-c", "ulimit -S -n; read line; exit 3"]));
    }
    for i in 0..100 {
        assert_eq!(client.until(&format!("h{i}"), "\n"), "64\n");
        let write = client.write(&format!("h{i}"), b"go\n");
        client.result(write);
    }
    for i in 0..100 {
        assert_eq!(client.exited(&format!("h{i}"))["exitCode"], 3);
    }
    silent_to_the_end(client);
}

/// A fork would run the handlers that programs register for it, and copy the page tables of all threads.
#[apply(test)]
fn nothing_is_forked() {
    static FORKS: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn count() {
        FORKS.fetch_add(1, Relaxed);
    }
    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<unsafe extern "C" fn()>,
            parent: Option<unsafe extern "C" fn()>,
            child: Option<unsafe extern "C" fn()>,
        ) -> libc::c_int;
    }
    // SAFETY: the handler may run at any time, and lives as long as the program.
    let registered = unsafe { pthread_atfork(Some(count), None, None) };
    assert_eq!(registered, 0);
    let mut client = Client::in_process();
    for mode in [Mode::Pipe, Mode::Tty] {
        let mut params = mode.params("a", &["sh", "-c", "sh -c 'exit 3'; exit $?"]);
        params["cwd"] = json!("/");
        client.spawn(params);
        assert_eq!(client.streamed("a").2["exitCode"], 3);
        client.spawn_ready(mode.params("a", &READY));
        client.kill("a");
        client.exited("a");
    }
    silent_to_the_end(client);
    assert_eq!(FORKS.load(Relaxed), 0);
}

/// A child that had to allocate before its exec could wait forever for a lock that another thread held.
#[apply(test)]
fn terminals_start_while_threads_allocate() {
    let over = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                while !over.load(Relaxed) {
                    kept.push(vec![0u8; 1 + kept.len() * 37 % 5_000]);
                    kept.truncate(500);
                }
            })
        })
        .collect();
    let mut client = Client::in_process();
    let handles: Vec<String> = (0..times(200)).map(|i| format!("{i}")).collect();
    for batch in handles.chunks(50) {
        for handle in batch {
            client.request("process/spawn", Mode::Tty.params(handle, &["true"]));
        }
        for handle in batch {
            assert_eq!(client.streamed(handle).2["exitCode"], 0);
        }
    }
    client.finish();
    over.store(true, Relaxed);
    for thread in busy {
        thread.join().expect("it only allocates");
    }
}
