//! A session with a server to which one system call is refused, as a sandbox refuses it: with a seccomp
//! filter that was there before the server was started, and that its programs inherit.
//!
//! The program that includes this file starts itself once more to put the filter in place; so its
//! `main` begins with [`launch_if_asked`].

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

// What is refused together.
#[path = "profile.rs"]
pub mod profile;

/// The rules of the filter for the program that the arguments name.
const REFUSE: &str = "PROCWIRE_REFUSE";
/// In the environment of everything that a session starts.
const MARK: &str = "PROCWIRE_REFUSED_SESSION";

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the end may take. Three seconds are promised; the rest is for a machine with much to do.
const END: Duration = Duration::from_secs(15);

/// A system call that guard, server or child make, now and then.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub name: &'static str,
    number: libc::c_long,
    /// Refused only if the first argument has one of these bits; any argument where it is 0.
    mask: u32,
    /// Nothing can be done without it: the C library, the loader or the program itself needs it.
    pub vital: bool,
}

mod number {
    macro_rules! numbers {
        ($($name:ident = $number:ident)*) => {
            /// Name and number.
            pub const ALL: &[(&str, libc::c_long)] = &[$((stringify!($name), libc::$number)),*];
        };
    }
    // Found with `strace -ff` of the session below, of each of its processes up to its program's exec,
    // with and without `close_range`, `eventfd2`, `pipe2`, `faccessat2`, `ppoll`, `wait4`, `clone3` and
    // the pidfd calls, whose fallbacks make others.
    numbers! {
        access = SYS_access
        arch_prctl = SYS_arch_prctl
        brk = SYS_brk
        clone = SYS_clone
        clone3 = SYS_clone3
        close = SYS_close
        close_range = SYS_close_range
        dup2 = SYS_dup2
        dup3 = SYS_dup3
        eventfd2 = SYS_eventfd2
        execve = SYS_execve
        exit = SYS_exit
        exit_group = SYS_exit_group
        faccessat = SYS_faccessat
        faccessat2 = SYS_faccessat2
        fchdir = SYS_fchdir
        fcntl = SYS_fcntl
        fstat = SYS_fstat
        futex = SYS_futex
        getdents64 = SYS_getdents64
        getegid = SYS_getegid
        geteuid = SYS_geteuid
        getgid = SYS_getgid
        getpgrp = SYS_getpgrp
        getpid = SYS_getpid
        getppid = SYS_getppid
        getrandom = SYS_getrandom
        gettid = SYS_gettid
        getuid = SYS_getuid
        ioctl = SYS_ioctl
        kill = SYS_kill
        lseek = SYS_lseek
        madvise = SYS_madvise
        membarrier = SYS_membarrier
        mmap = SYS_mmap
        mprotect = SYS_mprotect
        mremap = SYS_mremap
        munmap = SYS_munmap
        newfstatat = SYS_newfstatat
        openat = SYS_openat
        openat2 = SYS_openat2
        pidfd_open = SYS_pidfd_open
        pidfd_send_signal = SYS_pidfd_send_signal
        pipe = SYS_pipe
        pipe2 = SYS_pipe2
        poll = SYS_poll
        ppoll = SYS_ppoll
        prctl = SYS_prctl
        pread64 = SYS_pread64
        prlimit64 = SYS_prlimit64
        read = SYS_read
        readlink = SYS_readlink
        recvfrom = SYS_recvfrom
        rseq = SYS_rseq
        rt_sigaction = SYS_rt_sigaction
        rt_sigprocmask = SYS_rt_sigprocmask
        rt_sigtimedwait = SYS_rt_sigtimedwait
        sched_getaffinity = SYS_sched_getaffinity
        sched_yield = SYS_sched_yield
        sendto = SYS_sendto
        set_robust_list = SYS_set_robust_list
        set_tid_address = SYS_set_tid_address
        setpgid = SYS_setpgid
        setsid = SYS_setsid
        sigaltstack = SYS_sigaltstack
        signalfd4 = SYS_signalfd4
        socketpair = SYS_socketpair
        statx = SYS_statx
        tgkill = SYS_tgkill
        unshare = SYS_unshare
        wait4 = SYS_wait4
        waitid = SYS_waitid
        write = SYS_write
    }
}

/// What the C library, its loader, the standard library or the kernel's own way of ending a process
/// cannot do without. `rt_sigreturn` is not even tried: it has no way to fail.
const VITAL: &[&str] = &[
    "arch_prctl",
    "brk",
    "clone3",
    "execve",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "kill",
    "mmap",
    "mprotect",
    "munmap",
    "newfstatat",
    "openat",
    "poll",
    "pread64",
    "read",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "write",
];

impl Call {
    fn refused_with(&self, errno: i32) -> Rule {
        Rule {
            first: self.number as u32,
            last: self.number as u32,
            argument: 0,
            when: match self.mask {
                0 => When::Always,
                bits => When::HasBits(bits),
            },
            errno: errno.unsigned_abs(),
        }
    }
}

/// Every call.
pub fn calls() -> Vec<Call> {
    let whole = number::ALL.iter().map(|&(name, number)| Call {
        name,
        number,
        mask: 0,
        vital: VITAL.contains(&name),
    });
    let flag = Call {
        name: "clone with CLONE_PIDFD",
        number: libc::SYS_clone,
        mask: libc::CLONE_PIDFD.cast_unsigned(),
        vital: false,
    };
    whole.chain([flag]).collect()
}

// ---- the filter ----

/// If this program was started to start another one to which calls are refused, does that, and never
/// returns.
pub fn launch_if_asked() {
    let Some(rules) = std::env::var_os(REFUSE) else {
        return;
    };
    let rules: Vec<Rule> = rules
        .to_str()
        .expect("rules")
        .split(',')
        .map(Rule::read)
        .collect();
    let text = |text: &[u8]| CString::new(text).expect("the system has given it to us");
    let arguments: Vec<CString> = std::env::args_os()
        .skip(1)
        .map(|argument| text(argument.as_bytes()))
        .collect();
    let variables = std::env::vars_os().filter(|(name, _)| name != REFUSE);
    let environment: Vec<CString> = variables
        .map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect();
    let list = |texts: &[CString]| {
        let pointers = texts.iter().map(|text| text.as_ptr());
        pointers.chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, environment) = (list(&arguments), list(&environment));
    let program = arguments.first().expect("what to start").as_ptr();
    let filter = filter(&rules, program.addr() as u32);
    let filter = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: a filter, a path and two lists that end in null; all live until the exec.
    unsafe {
        let set = || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter);
        // With privileges programs can still gain some by their exec, as in a container.
        if set() != 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if set() != 0 {
                libc::_exit(97)
            }
        }
        libc::execvpe(program, argv.as_ptr(), environment.as_ptr());
        libc::_exit(98)
    }
}

/// Which calls are refused, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The numbers from this one to that one.
    first: u32,
    last: u32,
    /// Of which argument it depends.
    argument: u32,
    when: When,
    errno: u32,
}

#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// The argument has one of these bits.
    HasBits(u32),
    Is(u32),
    /// The argument is no less than this.
    From(u32),
}

impl Rule {
    fn write(&self) -> String {
        let (when, value) = match self.when {
            When::Always => (0, 0),
            When::HasBits(bits) => (1, bits),
            When::Is(value) => (2, value),
            When::From(value) => (3, value),
        };
        let Rule {
            first,
            last,
            argument,
            errno,
            ..
        } = self;
        format!("{first}/{last}/{argument}/{when}/{value}/{errno}")
    }

    fn read(text: &str) -> Rule {
        let numbers: Vec<u32> = text.split('/').map(|n| n.parse().expect("a number")).collect();
        let [first, last, argument, when, value, errno] = numbers[..] else {
            panic!("six numbers: {text}");
        };
        let when = match when {
            0 => When::Always,
            1 => When::HasBits(value),
            2 => When::Is(value),
            _ => When::From(value),
        };
        Rule {
            first,
            last,
            argument,
            when,
            errno,
        }
    }
}

/// A program under these rules.
fn under(rules: &[Rule], program: impl AsRef<OsStr>) -> Command {
    let rules: Vec<String> = rules.iter().map(Rule::write).collect();
    let mut command = Command::new(std::env::current_exe().expect("a running program has a file"));
    command.env(REFUSE, rules.join(",")).arg(program);
    command
}

/// Refuses what the first rule that fits says, but for the exec of `program`, which is this launcher's.
fn filter(rules: &[Rule], program: u32) -> Vec<libc::sock_filter> {
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let jump = |test, value, yes, no| step(libc::BPF_JMP | test | libc::BPF_K, value, yes, no);
    let result = |value| step(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    const NUMBER: u32 = 0;
    // The lower half, on a machine that begins with it.
    const FIRST_ARGUMENT: u32 = 16;
    let mut steps = Vec::new();
    for rule in rules {
        steps.push(load(NUMBER));
        steps.push(jump(libc::BPF_JGE, rule.first, 0, 4));
        steps.push(jump(libc::BPF_JGT, rule.last, 3, 0));
        steps.push(load(FIRST_ARGUMENT + 8 * rule.argument));
        steps.push(match (rule.when, libc::c_long::from(rule.first)) {
            (When::Always, libc::SYS_execve) => jump(libc::BPF_JEQ, program, 1, 0),
            (When::Always, _) => jump(libc::BPF_JA, 0, 0, 0),
            (When::HasBits(bits), _) => jump(libc::BPF_JSET, bits, 0, 1),
            (When::Is(value), _) => jump(libc::BPF_JEQ, value, 0, 1),
            (When::From(value), _) => jump(libc::BPF_JGE, value, 0, 1),
        });
        steps.push(result(libc::SECCOMP_RET_ERRNO | rule.errno));
    }
    steps.push(result(libc::SECCOMP_RET_ALLOW));
    steps
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

// ---- the session ----

/// What came of a session.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything was as without the filter.
    pub works: bool,
    /// The server ended before its first answer.
    pub did_not_start: bool,
    /// The server's exit status, as a shell has it; `None` if it had to be killed.
    pub status: Option<i32>,
    /// The errors that were answered.
    pub errors: Vec<String>,
    /// What was not as expected, and is not an error of the wire.
    pub oddities: Vec<String>,
    /// Requests that were not answered though the server went on.
    pub lost: Vec<String>,
    /// What was left alive.
    pub survivors: Vec<u32>,
    pub stderr: String,
    /// From the end of the input to the end of the server.
    pub end: Duration,
}

impl Outcome {
    /// What must not be, whatever is refused.
    pub fn faults(&self, call: &Call) -> Vec<String> {
        let mut faults = Vec::new();
        if self.status.is_none() {
            faults.push("the server does not end".to_owned());
        }
        if !self.survivors.is_empty() {
            faults.push(format!("{:?} are left alive", self.survivors));
        }
        if !self.lost.is_empty() {
            faults.push(format!("not answered: {:?}", self.lost));
        }
        for text in self.errors.iter().chain([&self.stderr]) {
            // Each program of the session is there.
            if text.contains("No such file") || text.contains("ENOENT") {
                faults.push(format!("not true: {text}"));
            }
        }
        for error in &self.errors {
            let blamed = [
                "\"sh\": Oper",
                "\"sh\": Func",
                "\"sleep\": Oper",
                "\"sleep\": Func",
            ];
            if blamed.iter().any(|blamed| error.contains(blamed)) {
                faults.push(format!("blames the program: {error}"));
            }
        }
        if !call.vital && !self.works && self.errors.is_empty() && !self.did_not_start {
            faults.push(format!("neither works nor says why: {:?}", self.oddities));
        }
        if !call.vital && self.did_not_start && !self.stderr.contains("procwire") {
            faults.push(format!("does not start, and does not say why: {:?}", self.stderr));
        }
        faults
    }

    /// The same in a few words, for the table.
    pub fn in_words(&self) -> String {
        let stderr: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let said = |line: &&str| {
            let line = line.rsplit_once("] ").map_or(*line, |(_, text)| text);
            line.to_owned()
        };
        let mut words = String::new();
        match (self.works, self.did_not_start) {
            (true, _) => words.push_str("works"),
            (_, true) => words.push_str("does not start"),
            _ if self.errors.is_empty() => words.push_str("ends"),
            _ => words.push_str("error"),
        }
        let mut told: Vec<String> = self.errors.clone();
        told.extend(stderr.iter().map(said));
        if told.is_empty() && !self.works {
            told.extend(self.oddities.iter().cloned());
        }
        told.dedup();
        // What ended a start is said last.
        let told = if self.did_not_start {
            told.last()
        } else {
            told.first()
        };
        if let Some(told) = told {
            let _ = write!(words, ": {told}");
        }
        if let (false, Some(status @ 1..)) = (self.works, self.status) {
            let _ = write!(words, " (exit {status})");
        }
        words
    }
}

/// The command that starts `server`, to which `calls` are refused with `errno`.
pub fn command(server: &Path, calls: &[Call], errno: i32) -> Command {
    let rules: Vec<Rule> = calls.iter().map(|call| call.refused_with(errno)).collect();
    let mut command = under(&rules, server);
    command.env_remove("RUST_LOG");
    command
}

/// The calls of these names.
pub fn named(names: &[&str]) -> Vec<Call> {
    let calls = calls();
    let find = |name: &&str| *calls.iter().find(|call| call.name == *name).expect(name);
    names.iter().map(find).collect()
}

/// Runs a session with `server`, to which `calls` are refused with `errno`.
pub fn run(server: &Path, calls: &[Call], errno: i32) -> Outcome {
    run_command(command(server, calls, errno), server)
}

/// Runs a session with `server`, which `command` starts.
pub fn run_command(mut command: Command, server: &Path) -> Outcome {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
    let child = command
        .env(MARK, &mark)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program starts once more");
    let mut session = Session::new(child);
    session.talk();
    let mut outcome = session.finish();
    outcome.stderr = outcome.stderr.replace(&*server.to_string_lossy(), "procwire");
    outcome.survivors = survivors(&mark);
    for pid in &outcome.survivors {
        // SAFETY: no memory is involved; it was started by this session.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    }
    outcome
}

/// What a server says to the first example: its guarantees, each answer, and each process's output and exit.
/// The order of what concerns different processes, pids and times may differ, and are left out.
pub fn played(mut command: Command) -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/hello.jsonl");
    let script = std::fs::read(file).expect("the example is there");
    let mut child = command
        .arg("--drain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    // What it did not read is missed below.
    let _ = stdin.write_all(&script);
    drop(stdin);
    let output = child.wait_with_output().expect("the server ends");
    let mut told = json!({ "status": output.status.code() });
    let mut streams: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for line in output
        .stdout
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
    {
        let mut message: Value = serde_json::from_slice(line).expect("each line is JSON");
        let handle = message["params"]["processHandle"].to_string();
        if message["method"] == "process/outputDelta" {
            let delta = message["params"]["deltaBase64"].as_str().unwrap_or_default();
            let bytes = base64_simd::STANDARD.decode_to_vec(delta).unwrap_or_default();
            streams.entry(handle).or_default().extend(bytes);
            continue;
        }
        let member = if message["method"].is_null() {
            "result"
        } else {
            "params"
        };
        if let Some(content) = message[member].as_object_mut() {
            for volatile in ["pid", "durationMs", "usage"] {
                content.remove(volatile);
            }
            if let Some(guarantees) = content.remove("guarantees") {
                told["guarantees"] = guarantees;
            }
        }
        let what = format!("{}, {handle}", message["id"]);
        told[what] = message;
    }
    for (handle, bytes) in streams {
        // What is typed is shown before or behind what the program prints.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.sort_unstable();
        told[format!("output of {handle}")] = json!(lines);
    }
    told
}

struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    messages: Receiver<Value>,
    stderr: JoinHandle<String>,
    seen: VecDeque<Value>,
    outcome: Outcome,
    next: i64,
    gone: bool,
}

impl Session {
    fn new(mut child: Child) -> Session {
        let (sender, messages) = channel();
        let stdout = child.stdout.take().expect("it is a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let message = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "garbage": line }));
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("it is a pipe");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Session {
            stdin: child.stdin.take(),
            child,
            messages,
            stderr,
            seen: VecDeque::new(),
            outcome: Outcome::default(),
            next: 0,
            gone: false,
        }
    }

    /// Everything a client does.
    fn talk(&mut self) {
        self.outcome.works = true;
        let hello = json!({ "clientInfo": { "name": "refused" } });
        if self.request("initialize", hello).is_none() && self.gone {
            self.outcome.did_not_start = true;
            self.outcome.works = false;
            return;
        }
        let script = "setsid sleep 1000 & echo ready; read line; echo got $line; exec sleep 1000";
        let piped = json!({
            "command": ["sh", "-c", script], "processHandle": "pipe", "cwd": "/", "streamStdin": true,
            "streamStdoutStderr": true, "timeoutMs": null,
        });
        let piped = self.spawn(piped);
        if piped {
            self.request(
                "process/writeStdin",
                json!({ "processHandle": "pipe", "deltaBase64": "aGkK" }),
            );
            self.printed("pipe", b"got hi");
        }
        let script = "echo ready; exec sleep 1000";
        let terminal = json!({
            "command": ["sh", "-c", script], "processHandle": "tty", "tty": true, "timeoutMs": null,
        });
        let terminal = self.spawn(terminal);
        if terminal {
            let size = json!({ "processHandle": "tty", "size": { "rows": 10, "cols": 20 } });
            self.request("process/resizePty", size);
            self.printed("tty", b"ready");
        }
        if self.spawn(json!({ "command": ["sleep", "1000"], "processHandle": "timeout", "timeoutMs": 100 })) {
            self.exited("timeout", 124);
        }
        self.request("process/list", json!({}));
        for (handle, lives) in [("pipe", piped), ("tty", terminal)] {
            if lives {
                self.request("process/kill", json!({ "processHandle": handle }));
                self.exited(handle, 137);
            }
        }
        let script = "setsid sh -c 'setsid sleep 1000 & exec sleep 1000' & echo ready; exec sleep 1000";
        let left = json!({
            "command": ["sh", "-c", script], "processHandle": "left", "timeoutMs": null, "streamStdoutStderr": true,
        });
        if self.spawn(left) {
            self.printed("left", b"ready");
        }
    }

    fn odd(&mut self, what: String) {
        self.outcome.works = false;
        self.outcome.oddities.push(what);
    }

    /// Whether it runs.
    fn spawn(&mut self, params: Value) -> bool {
        self.request("process/spawn", params)
            .is_some_and(|response| !response["result"].is_null())
    }

    fn request(&mut self, method: &str, params: Value) -> Option<Value> {
        if self.gone {
            return None;
        }
        self.next += 1;
        let id = self.next;
        let mut line = json!({ "id": id, "method": method, "params": params }).to_string();
        line.push('\n');
        let sent = self
            .stdin
            .as_mut()
            .is_some_and(|stdin| stdin.write_all(line.as_bytes()).is_ok());
        let response = match sent {
            true => self.find(|message| message["id"] == id),
            // What it has still said is waited for.
            false => self.find(|_| false),
        };
        match &response {
            Some(response) => {
                if let Some(error) = response["error"]["message"].as_str() {
                    self.outcome.works = false;
                    self.outcome.errors.push(error.to_owned());
                }
            }
            None if self.gone => self.odd(format!("the server ended before it answered {method}")),
            None => {
                self.outcome.works = false;
                self.outcome.lost.push(method.to_owned());
            }
        }
        response
    }

    fn exited(&mut self, handle: &str, code: i32) {
        let exited = self.find(|message| {
            message["method"] == "process/exited" && message["params"]["processHandle"] == handle
        });
        match exited {
            Some(exited) if exited["params"]["exitCode"] == code => {}
            Some(exited) => self.odd(format!("{handle} exited with {}", exited["params"]["exitCode"])),
            None if self.gone => self.odd(format!("the server ended before the exit of {handle}")),
            None => {
                self.outcome.works = false;
                self.outcome.lost.push(format!("the exit of {handle}"));
            }
        }
    }

    /// Takes output of `handle` until it holds `text`, or the program has ended.
    fn printed(&mut self, handle: &str, text: &[u8]) {
        let mut output = Vec::new();
        let found = self.find(|message| {
            if message["params"]["processHandle"] != handle {
                return false;
            }
            let delta = message["params"]["deltaBase64"].as_str().unwrap_or_default();
            output.extend(base64_simd::STANDARD.decode_to_vec(delta).unwrap_or_default());
            let holds = output.windows(text.len()).any(|window| window == text);
            holds || message["method"] == "process/exited"
        });
        match found {
            Some(message) if message["method"] == "process/exited" => {
                // A program has its own needs, and the filter is its as well.
                let exit = message["params"]["exitCode"].to_string();
                self.odd(format!("{handle} exited with {exit}"));
                self.seen.push_back(message);
            }
            Some(_) => {}
            None if self.gone => self.odd(format!("the server ended before {handle} printed")),
            None => {
                self.outcome.works = false;
                self.outcome.lost.push(format!("output of {handle}"));
            }
        }
    }

    /// The next message that is wanted; `None` if it does not come, or the server is gone.
    fn find(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Option<Value> {
        let place = self.seen.iter().position(&mut wanted);
        if let Some(place) = place {
            return self.seen.remove(place);
        }
        let deadline = Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) if wanted(&message) => return Some(message),
                Ok(message) => self.seen.push_back(message),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.gone = true;
                    return None;
                }
            }
        }
    }

    fn finish(mut self) -> Outcome {
        self.stdin = None;
        let begun = Instant::now();
        self.outcome.status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                use std::os::unix::process::ExitStatusExt;
                break status
                    .code()
                    .or_else(|| status.signal().map(|signal| 128 + signal));
            }
            if begun.elapsed() > END {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.outcome.end = begun.elapsed();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What is left has it open as well; it is ended by the caller.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.stderr.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.stderr.is_finished() {
            self.outcome.stderr = self.stderr.join().unwrap_or_default();
        }
        self.outcome
    }
}

/// What has the mark in its environment and lives on; what is dying has a moment for it.
fn survivors(mark: &str) -> Vec<u32> {
    let variable = format!("{MARK}={mark}");
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let mut alive = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|&b| b == 0).any(|v| v == variable.as_bytes()) {
                alive.push(pid);
            }
        }
        if alive.is_empty() || Instant::now() > deadline {
            return alive;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
