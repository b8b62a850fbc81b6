//! What every test stands on: a client of the wire, its transcript, deadlines, and the check that
//! nothing is left.
//!
//! A test talks JSON lines to a server, in this process over a socket pair ([`Client::in_process`])
//! or to the real binary ([`Client::binary`]). Every wait has a deadline, and a test that fails
//! prints the whole conversation. After a test its process must be as it was before it: no thread,
//! no descriptor, no child, and, because it is a child subreaper, no grandchild either.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, LazyLock, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64_simd::STANDARD;
use serde_json::{Value, json};

/// How long any single thing may take. Generous: it is for the slowest machine, and only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a test may take in all, before its process is ended with what it has said so far.
const WHOLE_TEST: Duration = Duration::from_secs(300);
/// How many seconds the random sequences of `model.rs` are to last.
pub const MODEL_SECONDS: &str = "PROCWIRE_MODEL_SECONDS";
/// The binary to test, where it is not the one that was built with the tests.
pub const BINARY: &str = "PROCWIRE_BIN";
/// Makes a process of this program do what a test needs a program for; see [`help`].
pub const HELPER: &str = "PROCWIRE_TEST_HELPER";
/// A value of [`HELPER`]: the main thread ends, and another prints `ready`, reads a line and exits with 7.
pub const MAIN_THREAD_EXITS: &str = "main_thread_exits";
/// Names the test to run to a process of its own.
pub const RUN_ONE: &str = "PROCWIRE_RUN_ONE_TEST";

/// One test. Made by [`test!`] and [`both!`], which stand above its function and put it into the list of
/// all; a function without either is unused, which the compiler says.
pub struct Test {
    /// The path of its function.
    pub path: &'static str,
    pub body: Body,
}

inventory::collect!(Test);

impl Test {
    /// The path within this crate.
    pub fn name(&self) -> &'static str {
        let (_, name) = self.path.split_once("::").expect("a test is in a module");
        name
    }
}

/// What a test runs.
pub enum Body {
    Once(fn()),
    /// Once with pipes and once with a PTY.
    Both(fn(Mode)),
}

/// How the program under test is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pipe,
    Tty,
}

impl Mode {
    /// Spawn params for this mode, streamed both ways, with no timeout.
    pub fn params(self, handle: &str, command: &[&str]) -> Value {
        json!({
            "processHandle": handle,
            "command": command,
            "tty": self == Mode::Tty,
            "streamStdin": true,
            "streamStdoutStderr": true,
            "timeoutMs": null,
        })
    }

    /// What `text` is after the terminal's output processing: there, lines end in CR LF.
    pub fn printed(self, text: &str) -> String {
        match self {
            Mode::Pipe => text.to_owned(),
            Mode::Tty => text.replace('\n', "\r\n"),
        }
    }
}

/// `#[apply(test)]`: a test that runs once.
macro_rules! test {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident() $body:block) => {
        $(#[$attribute])*
        $visibility fn $name() $body

        inventory::submit! {
            $crate::harness::Test {
                path: concat!(module_path!(), "::", stringify!($name)),
                body: $crate::harness::Body::Once($name),
            }
        }
    };
}
/// `#[apply(both)]`: a test that runs with pipes and with a PTY.
macro_rules! both {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($mode:ident: $type:ty) $body:block) => {
        $(#[$attribute])*
        $visibility fn $name($mode: $type) $body

        inventory::submit! {
            $crate::harness::Test {
                path: concat!(module_path!(), "::", stringify!($name)),
                body: $crate::harness::Body::Both($name),
            }
        }
    };
}
pub(crate) use macro_rules_attribute::apply;
pub(crate) use {both, test};

/// How often a race is run: `count`, times what the environment asks for.
pub fn times(count: usize) -> usize {
    let factor = std::env::var("PROCWIRE_TEST_FACTOR")
        .ok()
        .and_then(|f| f.parse::<f64>().ok());
    (count as f64 * factor.unwrap_or(1.0)).max(1.0) as usize
}

/// What the environment says in [`MODEL_SECONDS`].
pub fn model_seconds() -> Option<u64> {
    std::env::var(MODEL_SECONDS).ok()?.parse().ok()
}

// ---- one process a test ----

/// Does what [`HELPER`] says.
pub fn help(what: &str) {
    assert_eq!(what, MAIN_THREAD_EXITS, "a helper of that name");
    std::thread::spawn(|| {
        print!("ready");
        let _ = std::io::stdout().flush();
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        std::process::exit(7);
    });
    // SAFETY: ends this thread alone, which holds nothing that the other one needs.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Runs one test in a process of its own; what it printed is the error if it failed.
pub fn run_in_own_process(name: &str) -> Result<(), String> {
    let output = Command::new(std::env::current_exe().expect("a running program has a file"))
        .env(RUN_ONE, name)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("the test's process could not be started: {e}"))?;
    if output.status.success() {
        // What a test tells though it passes.
        print!("{}", String::from_utf8_lossy(&output.stdout));
        return Ok(());
    }
    Err(format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// The body of such a process.
pub fn run_alone(body: impl FnOnce()) {
    // A run under nohup ignores it, and programs that honour that would not hear it.
    // SAFETY: gives a signal its default meaning; installs no code.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    become_subreaper();
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(|| {
            let patience = WHOLE_TEST + Duration::from_secs(model_seconds().unwrap_or(0));
            std::thread::sleep(patience);
            eprintln!("the test took more than {patience:?}");
            print_transcript();
            kill_descendants();
            std::process::exit(101);
        })
        .expect("a thread for the watchdog");
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default_hook(info);
        print_transcript();
        kill_descendants();
        std::process::exit(101);
    }));
    let before = Footprint::take();
    body();
    before.check();
}

/// What this process holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Footprint {
    threads: usize,
    descriptors: Vec<String>,
}

impl Footprint {
    pub fn take() -> Self {
        Footprint {
            threads: std::fs::read_dir("/proc/self/task")
                .expect("/proc is mounted")
                .count(),
            descriptors: descriptors("self"),
        }
    }

    /// Waits until all is as it was, and fails if it does not become so.
    pub fn check(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Footprint::take();
            let children = children_of(std::process::id());
            if now == *self && children.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "something is left behind.\nbefore: {self:#?}\nnow: {now:#?}\nprocesses: {children:#?}"
            );
            // An adopted grandchild that has died is reaped here; one that lives is a failure.
            reap_adopted();
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The open descriptors of a process and what they are; the one that lists them is left out.
pub fn descriptors(pid: &str) -> Vec<String> {
    let directory = format!("/proc/{pid}/fd");
    let mut all: Vec<String> = std::fs::read_dir(&directory)
        .expect("the process is there")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy().into_owned();
            (!target.contains("/proc/"))
                .then(|| format!("{} -> {target}", entry.file_name().to_string_lossy()))
        })
        .collect();
    all.sort();
    all
}

pub use crate::proc::{Proc, Waiting, processes, waiting};

/// The children of `pid`, zombies included.
pub fn children_of(pid: u32) -> Vec<Proc> {
    processes().into_iter().filter(|p| p.parent == pid).collect()
}

/// Whether `pid` is there and at least one thread of it runs.
pub fn is_alive(pid: u32) -> bool {
    Proc::of(pid).is_some_and(|p| !p.is_dead())
}

/// Waits until `condition` holds; fails with `what` if it does not.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Tells when nothing moves any more in some processes.
#[derive(Default)]
pub struct Rest {
    last: Option<Waiting>,
    same: u32,
}

impl Rest {
    const PAUSE: Duration = Duration::from_millis(20);
    const PAUSES: u32 = 5;
    /// In a pause: a timer may wake a thread that then waits on.
    const MAX_SWITCHES: u64 = 2;

    /// Whether each thread of these processes but the calling one waits for something, and has not worked
    /// between this look and the ones before. Pauses, and is to be asked again.
    pub fn has_come(&mut self, pids: &[u32]) -> bool {
        let now = waiting(pids);
        let rests = match (&self.last, &now) {
            (Some(last), Some(now)) => {
                last.threads == now.threads && now.switches - last.switches <= Self::MAX_SWITCHES
            }
            _ => false,
        };
        self.same = if rests { self.same + 1 } else { 0 };
        self.last = now;
        std::thread::sleep(Self::PAUSE);
        self.same >= Self::PAUSES
    }
}

/// Waits until nothing moves any more in these processes; this one may be among them.
pub fn wait_until_at_rest(what: &str, pids: impl Fn() -> Vec<u32>) {
    let mut rest = Rest::default();
    wait_until(what, || rest.has_come(&pids()));
}

/// Fails if anything else in this process runs for more than a moment, or is woken again and again, while
/// this thread uses a tenth of a second of processor time: what spins gets its share in the meantime, however
/// busy the machine is. What spins does so every time; a late wake-up does not, so it is looked at again.
pub fn must_idle() {
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match idles() {
            Ok(()) => return,
            Err(what) => seen.push(what),
        }
    }
    panic!("something does not rest: {seen:?}");
}

fn idles() -> Result<(), String> {
    const MEANWHILE: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_millis(20);
    /// A timer of its own may wake a thread a hundred times a second.
    const MAX_SWITCHES_PER_MS: f64 = 0.1;
    let others =
        || clock(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(clock(libc::CLOCK_THREAD_CPUTIME_ID));
    let own = std::process::id();
    wait_until_at_rest("what has been asked for is done", || vec![own]);
    let switches = || {
        let mut seen = None;
        wait_until("all threads wait", || {
            seen = waiting(&[own]);
            seen.is_some()
        });
        seen.expect("it has been seen").switches
    };
    let (ran, switched, began) = (others(), switches(), Instant::now());
    let end = clock(libc::CLOCK_THREAD_CPUTIME_ID) + MEANWHILE;
    while clock(libc::CLOCK_THREAD_CPUTIME_ID) < end {}
    // The two clocks are not read at the same moment, so that a difference of nothing may come out below it.
    let ran = others().saturating_sub(ran);
    if ran >= MOST {
        return Err(format!("{ran:?} of processor time in {MEANWHILE:?}"));
    }
    let (switched, took) = (switches().saturating_sub(switched), began.elapsed());
    let most = 20.0 + MAX_SWITCHES_PER_MS * took.as_secs_f64() * 1000.0;
    if switched as f64 >= most {
        return Err(format!("woken {switched} times in {took:?}"));
    }
    Ok(())
}

/// What a clock says.
fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is written to a value of ours.
    let result = unsafe { libc::clock_gettime(id, &mut time) };
    assert_eq!(result, 0, "there is such a clock");
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

fn become_subreaper() {
    // SAFETY: no memory is involved; the process is this test's own.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    assert_eq!(result, 0, "a child subreaper");
}

/// Reaps the orphans that this process has adopted as subreaper.
pub fn reap_adopted() {
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// At a failure: what the test has started must not outlive it.
pub fn kill_descendants() {
    let own = std::process::id();
    for _ in 0..100 {
        let all = processes();
        let mut known = vec![own];
        let mut i = 0;
        while i < known.len() {
            let parent = known[i];
            known.extend(all.iter().filter(|p| p.parent == parent).map(|p| p.pid));
            i += 1;
        }
        if known.len() == 1 {
            return;
        }
        for pid in &known[1..] {
            // SAFETY: no memory is involved; these are descendants of this very process.
            unsafe { libc::kill(*pid as libc::pid_t, libc::SIGKILL) };
        }
        reap_adopted();
    }
}

/// A directory of the test's own, gone with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // One that failed has left its own behind, and its pid may have come round.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a directory for the test");
        // As `pwd -P` prints it.
        Scratch(path.canonicalize().expect("the directory is there"))
    }

    /// The path of `name` in here.
    pub fn path(&self, name: &str) -> String {
        let path = self.0.join(name);
        path.to_str()
            .expect("the test names its files in UTF-8")
            .to_owned()
    }

    /// Writes a file with these permissions; its path.
    pub fn file(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("the file is written");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the file is ours");
        path
    }

    /// Makes a directory; its path.
    pub fn directory(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("the directory is made");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program whose exec does not return while this lives, as on a disk that does not answer: the
/// kernel asks this process whether it may be executed, and gets no answer.
pub struct HungProgram {
    pub path: String,
    _questions: std::os::fd::OwnedFd,
}

impl HungProgram {
    /// A copy of `sleep`; `None` where this user may not be asked, which is said.
    pub fn new(scratch: &Scratch) -> Option<HungProgram> {
        let path = scratch.path("hung");
        std::fs::copy("/bin/sleep", &path).expect("a copy of sleep");
        let file = std::ffi::CString::new(path.as_str()).expect("a path");
        // SAFETY: the path is NUL-terminated, and the descriptor is checked before it is taken.
        let questions = unsafe {
            let fd = libc::fanotify_init(
                libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK,
                libc::O_RDONLY as u32,
            );
            let marked = fd >= 0
                && libc::fanotify_mark(
                    fd,
                    libc::FAN_MARK_ADD,
                    libc::FAN_OPEN_EXEC_PERM,
                    libc::AT_FDCWD,
                    file.as_ptr(),
                ) == 0;
            if !marked {
                println!(
                    "not run: no exec can be made to hang here: {}",
                    std::io::Error::last_os_error()
                );
                return None;
            }
            std::os::fd::FromRawFd::from_raw_fd(fd)
        };
        Some(HungProgram {
            path,
            _questions: questions,
        })
    }
}

fn is_root() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() == 0 }
}

/// Whether `script` can be run here; if not, this says that `what` is not tried.
pub fn can(what: &str, script: &str) -> bool {
    let output = Command::new("sh")
        .args(["-c", script])
        .output()
        .expect("sh is there");
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let user = if is_root() { "" } else { "without root, " };
        println!("{what}: not tried, because {user}this fails: {script}: {why}");
    }
    output.status.success()
}

/// The ways in which `/proc` can be unusable and that a test can produce: what each is, and the line
/// of a shell in a mount namespace of its own that does it.
pub fn without_a_usable_proc(scratch: &Scratch) -> Vec<(&'static str, String)> {
    let other = scratch.directory("proc");
    let mut ways = vec![
        ("no /proc", "umount -l /proc".to_owned()),
        (
            "another namespace's /proc",
            format!("unshare --pid --fork mount -t proc proc {other} && mount --bind {other} /proc"),
        ),
    ];
    ways.retain(|(what, hide)| can(what, &format!("unshare -m sh -c '{hide}'")));
    ways
}

// ---- the transcript ----

static TRANSCRIPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub fn record(direction: &str, line: &[u8]) {
    let mut text = String::from_utf8_lossy(&line[..line.len().min(600)]).into_owned();
    if line.len() > 600 {
        text.push_str(&format!("… ({} bytes)", line.len()));
    }
    if let Ok(mut transcript) = TRANSCRIPT.lock() {
        transcript.push(format!("{direction} {}", text.trim_end()));
    }
}

/// Begins a new conversation.
pub fn forget_transcript() {
    if let Ok(mut transcript) = TRANSCRIPT.lock() {
        transcript.clear();
    }
}

fn print_transcript() {
    if let Ok(transcript) = TRANSCRIPT.lock() {
        let skipped = transcript.len().saturating_sub(400);
        eprintln!("---- the conversation ({skipped} lines before it left out) ----");
        for line in &transcript[skipped..] {
            eprintln!("{line}");
        }
    }
}

// ---- the client ----

/// A client of one server.
pub struct Client {
    writer: Option<Box<dyn Write + Send>>,
    incoming: mpsc::Receiver<Value>,
    reader: Option<JoinHandle<()>>,
    pause: Arc<Pause>,
    server: Server,
    next_id: i64,
    responses: HashMap<String, Value>,
    notifications: VecDeque<Value>,
}

/// Keeps a client's reader from reading.
#[derive(Default)]
struct Pause {
    paused: Mutex<bool>,
    changed: Condvar,
}

impl Pause {
    fn set(&self, paused: bool) {
        *self.paused.lock().expect("not poisoned") = paused;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let paused = self.paused.lock().expect("not poisoned");
        drop(self.changed.wait_while(paused, |paused| *paused));
    }
}

enum Server {
    InProcess(JoinHandle<Result<procwire::End, procwire::Error>>),
    Binary(Child),
}

/// An example of this package as a command: the executable beside this one.
///
/// `cargo test` and `cargo nextest run` build the examples with the tests. `cargo test --test it` does
/// not: what is missing then, or older than a file it is made of, is built here.
pub fn example(name: &str) -> Command {
    let own = std::env::current_exe().expect("a running program has a file");
    let profile = own.ancestors().nth(2).expect("it is in PROFILE/deps");
    let program = profile.join("examples").join(name);
    if !is_up_to_date(&program) {
        let target = profile.file_name().expect("the profile has a name");
        let target = if target == "debug" {
            OsStr::new("dev")
        } else {
            target
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", name, "--profile"])
            .arg(target)
            .arg("--target-dir")
            .arg(profile.parent().expect("a profile is in a target directory"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .status()
            .expect("cargo starts");
        assert!(status.success(), "{name} is not built: {status}");
    }
    let mut command = Command::new(&program);
    command
        .env("PROCWIRE", PROCWIRE)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    command
}

/// Whether a program that Cargo has built is newer than all that the list beside it says it is made of.
fn is_up_to_date(program: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let (Some(built), Ok(list)) = (
        changed(program),
        std::fs::read_to_string(program.with_extension("d")),
    ) else {
        return false;
    };
    let (_, sources) = list.split_once(": ").expect("a list of Cargo has a colon");
    // A space in a path has a backslash before it.
    let sources = sources.trim_end().replace("\\ ", "\n");
    let mut sources = sources.split(' ').map(|source| source.replace('\n', " "));
    sources.all(|source| changed(Path::new(&source)).is_some_and(|at| at <= built))
}

/// The path of the binary under test: the one that was built with the tests, or what the environment
/// says in [`BINARY`]. A server in this process ([`Client::in_process`]) is of the library that the tests
/// were built with all the same.
pub const PROCWIRE: Binary = Binary;

/// See [`PROCWIRE`].
#[derive(Clone, Copy)]
pub struct Binary;

impl std::ops::Deref for Binary {
    type Target = str;

    fn deref(&self) -> &'static str {
        static PATH: LazyLock<String> = LazyLock::new(|| match std::env::var(BINARY) {
            Ok(path) => Path::new(&path).canonicalize().map_or_else(
                |error| panic!("{BINARY}={path}: {error}"),
                |path| path.into_os_string().into_string().expect("a path in UTF-8"),
            ),
            Err(_) => env!("CARGO_BIN_EXE_procwire").to_owned(),
        });
        &PATH
    }
}

impl AsRef<OsStr> for Binary {
    fn as_ref(&self) -> &OsStr {
        (**self).as_ref()
    }
}

impl std::fmt::Display for Binary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self)
    }
}

/// How a [`Client::binary`] is started.
pub fn binary() -> Command {
    Command::new(PROCWIRE)
}

impl Client {
    /// A server on a thread of this process, with the defaults.
    pub fn in_process() -> Client {
        Self::in_process_with(procwire::Config::default())
    }

    /// A server on a thread of this process.
    pub fn in_process_with(config: procwire::Config) -> Client {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let input = theirs.try_clone().expect("a descriptor");
        let connection = procwire::Connection::from_io(input, theirs);
        let server = std::thread::Builder::new()
            .name("dispatch".into())
            .spawn(move || procwire::serve(connection, config))
            .expect("a thread for the server");
        let writer = ours.try_clone().expect("a descriptor");
        Self::over(ours, Box::new(SocketWriter(writer)), Server::InProcess(server))
    }

    /// The real binary with `arguments`.
    pub fn binary(arguments: &[&str]) -> Client {
        let mut command = binary();
        command.args(arguments);
        Self::command(command)
    }

    /// Any command that serves stdio; its stderr is the test's.
    pub fn command(mut command: Command) -> Client {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stdin = child.stdin.take().expect("stdin was piped");
        let stdout = child.stdout.take().expect("stdout was piped");
        Self::over(stdout, Box::new(stdin), Server::Binary(child))
    }

    fn over(reader: impl Read + Send + 'static, writer: Box<dyn Write + Send>, server: Server) -> Client {
        let (sender, incoming) = mpsc::channel();
        let pause = Arc::new(Pause::default());
        let its_pause = Arc::clone(&pause);
        let reader = std::thread::Builder::new()
            .name("client-read".into())
            .spawn(move || {
                let mut reader = BufReader::with_capacity(256 * 1024, reader);
                let mut line = Vec::new();
                loop {
                    its_pause.wait();
                    line.clear();
                    match reader.read_until(b'\n', &mut line) {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                    record("<--", &line);
                    // Purity: whatever the server prints must be one JSON object a line.
                    let value: Value = serde_json::from_slice(&line)
                        .unwrap_or_else(|e| panic!("the server printed a line that is not JSON: {e}"));
                    assert_eq!(line.last(), Some(&b'\n'), "a line ends in LF");
                    if sender.send(value).is_err() {
                        return;
                    }
                }
            })
            .expect("a thread for the client");
        Client {
            writer: Some(writer),
            incoming,
            reader: Some(reader),
            pause,
            server,
            next_id: 1,
            responses: HashMap::new(),
            notifications: VecDeque::new(),
        }
    }

    /// The server's pid, if it is a binary.
    pub fn pid(&self) -> u32 {
        match &self.server {
            Server::Binary(child) => child.id(),
            Server::InProcess(_) => std::process::id(),
        }
    }

    // -- sending --

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        record("-->", bytes);
        let writer = self.writer.as_mut().expect("input is still open");
        writer
            .write_all(bytes)
            .and_then(|()| writer.flush())
            .expect("the server reads");
    }

    /// Sends a message as a line.
    pub fn send(&mut self, message: &Value) {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        self.send_raw(&line);
    }

    /// Sends a request without waiting; its id.
    pub fn request(&mut self, method: &str, params: Value) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"id": id, "method": method, "params": params}));
        id
    }

    // -- receiving --

    /// Reads nothing from now on, but for one message that may have begun.
    pub fn stop_reading(&self) {
        self.pause.set(true);
    }

    /// Reads again.
    pub fn read_again(&self) {
        self.pause.set(false);
    }

    fn receive(&mut self, deadline: Instant, what: &str) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.incoming.recv_timeout(left) {
            Ok(message) => {
                match message.get("id") {
                    Some(id) if message.get("method").is_none() => {
                        let earlier = self.responses.insert(id.to_string(), message.clone());
                        assert!(
                            earlier.is_none() || id.is_null(),
                            "two answers to {id}: {message}"
                        );
                    }
                    _ => self.notifications.push_back(message),
                }
                true
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("waited in vain for {what}"),
        }
    }

    /// The answer to `id`, whole. Answers and notifications that come before it are kept.
    pub fn response(&mut self, id: impl Into<Value>) -> Value {
        let id: Value = id.into();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(response) = self.responses.remove(&id.to_string()) {
                return response;
            }
            let what = format!("the answer to {id}");
            assert!(self.receive(deadline, &what), "the server ended before {what}");
        }
    }

    /// Whether the answer to `id` has come before what was received last.
    pub fn is_answered(&self, id: i64) -> bool {
        self.responses.contains_key(&id.to_string())
    }

    /// The result of `id`, which must have succeeded.
    pub fn result(&mut self, id: i64) -> Value {
        let response = self.response(id);
        assert!(response.get("error").is_none(), "request {id} failed: {response}");
        response["result"].clone()
    }

    /// The error of `id`, which must have failed: its code and message.
    pub fn error(&mut self, id: i64) -> (i64, String) {
        let response = self.response(id);
        let error = &response["error"];
        let code = error["code"]
            .as_i64()
            .unwrap_or_else(|| panic!("request {id} succeeded: {response}"));
        (
            code,
            error["message"]
                .as_str()
                .expect("an error has a message")
                .to_owned(),
        )
    }

    /// Sends a request that must succeed, and waits for its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        self.result(id)
    }

    /// Sends a request that must fail, and waits for its error's code and message.
    pub fn refuse(&mut self, method: &str, params: Value) -> (i64, String) {
        let id = self.request(method, params);
        self.error(id)
    }

    /// The next notification, in the order the server sent them.
    pub fn notification(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(notification) = self.notifications.pop_front() {
                return notification;
            }
            assert!(
                self.receive(deadline, "a notification"),
                "the server ended before a notification"
            );
        }
    }

    /// The notifications that were received and not taken.
    pub fn take_notifications(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.notifications).into()
    }

    /// Takes notifications until `wanted` takes one; those it does not take stay in order.
    pub fn find<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut looked_at = 0;
        loop {
            while looked_at < self.notifications.len() {
                if let Some(found) = wanted(&self.notifications[looked_at]) {
                    self.notifications.remove(looked_at);
                    return found;
                }
                looked_at += 1;
            }
            assert!(self.receive(deadline, what), "the server ended before {what}");
        }
    }

    /// The params of `process/exited` for `handle`. Deltas of that handle are left for [`Client::streamed`].
    pub fn exited(&mut self, handle: &str) -> Value {
        self.find(&format!("the exit of {handle:?}"), |n| {
            let ours = n["method"] == "process/exited" && n["params"]["processHandle"] == handle;
            ours.then(|| n["params"].clone())
        })
    }

    /// The next delta of `handle`: its bytes and the whole params.
    pub fn delta(&mut self, handle: &str) -> (Vec<u8>, Value) {
        self.find(&format!("output of {handle:?}"), |n| {
            let ours = n["method"] == "process/outputDelta" && n["params"]["processHandle"] == handle;
            ours.then(|| (decoded(&n["params"]), n["params"].clone()))
        })
    }

    /// Takes output of `handle` until it holds `text`; everything taken so far.
    pub fn until(&mut self, handle: &str, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            seen.extend(self.delta(handle).0);
            let so_far = String::from_utf8_lossy(&seen);
            if so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    }

    /// Waits for the exit of a streamed process; its stdout, stderr and exit. Checks what every
    /// stream must keep: offsets without a gap, the cap's flag on the last delta only, nothing behind the exit.
    pub fn streamed(&mut self, handle: &str) -> (Vec<u8>, Vec<u8>, Value) {
        let mut streams = [(Vec::new(), false), (Vec::new(), false)];
        let mut first = [None, None];
        loop {
            let notification = self.find(&format!("output or exit of {handle:?}"), |n| {
                (n["params"]["processHandle"] == handle).then(|| n.clone())
            });
            let params = &notification["params"];
            if notification["method"] == "process/exited" {
                let [(stdout, _), (stderr, _)] = streams;
                return (stdout, stderr, params.clone());
            }
            if params["eof"] == true {
                // On a busy machine a process ends late after its streams.
                continue;
            }
            let index = usize::from(params["stream"] == "stderr");
            let (bytes, capped) = &mut streams[index];
            assert!(!*capped, "a delta after the one that said capReached: {params}");
            let offset = params["offset"].as_u64().expect("a delta has an offset");
            // A test may have taken the beginning of the stream already.
            let base = *first[index].get_or_insert(offset);
            assert_eq!(offset - base, bytes.len() as u64, "a gap in {handle:?}");
            bytes.extend(decoded(params));
            *capped = params["capReached"] == true;
        }
    }

    // -- common requests --

    /// Spawns and waits for the answer; the pid.
    pub fn spawn(&mut self, params: Value) -> u32 {
        let result = self.call("process/spawn", params);
        u32::try_from(result["pid"].as_u64().expect("a pid")).expect("a pid is small")
    }

    /// Spawns and waits until the program has printed `ready`.
    pub fn spawn_ready(&mut self, params: Value) -> u32 {
        let handle = params["processHandle"].as_str().expect("a handle").to_owned();
        let pid = self.spawn(params);
        self.until(&handle, "ready");
        pid
    }

    /// Runs a program with its output collected; its exit.
    pub fn run(&mut self, command: &[&str]) -> Value {
        // The default would be a deadline of ten seconds.
        self.run_with(json!({"processHandle": "run", "command": command, "timeoutMs": null}))
    }

    /// Runs a program with its output collected and these params; its exit.
    pub fn run_with(&mut self, params: Value) -> Value {
        let handle = params["processHandle"].as_str().expect("a handle").to_owned();
        self.spawn(params);
        self.exited(&handle)
    }

    /// Spawns, and waits for each of these right after it, in one piece; the ids of the waits.
    pub fn spawn_and_wait(&mut self, params: Value, waits: &[Value]) -> Vec<i64> {
        let handle = params["processHandle"].clone();
        let mut lines = String::new();
        let mut ids = Vec::new();
        let waits = waits
            .iter()
            .map(|until| ("process/wait", json!({"processHandle": handle, "until": until})));
        for (method, params) in std::iter::once(("process/spawn", params)).chain(waits) {
            let message = json!({"id": self.next_id, "method": method, "params": params});
            lines += &format!("{message}\n");
            ids.push(self.next_id);
            self.next_id += 1;
        }
        self.send_raw(lines.as_bytes());
        ids.split_off(1)
    }

    /// Everything up to the exit of `handle`, in the order it came; nothing may have been received before.
    pub fn order_until_exit(&mut self, handle: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let message = self.incoming.recv_timeout(PATIENCE).expect("the server goes on");
            let params = &message["params"];
            let last = message["method"] == "process/exited" && params["processHandle"] == handle;
            all.push(message);
            if last {
                return all;
            }
        }
    }

    /// Writes to stdin without waiting; the request's id.
    pub fn write(&mut self, handle: &str, bytes: &[u8]) -> i64 {
        self.request(
            "process/writeStdin",
            json!({"processHandle": handle, "deltaBase64": encode(bytes)}),
        )
    }

    /// Closes stdin; must succeed.
    pub fn close_stdin(&mut self, handle: &str) {
        self.call(
            "process/writeStdin",
            json!({"processHandle": handle, "closeStdin": true}),
        );
    }

    /// Kills; must succeed.
    pub fn kill(&mut self, handle: &str) {
        self.call("process/kill", json!({"processHandle": handle}));
    }

    // -- the end --

    /// Ends the server's input.
    pub fn end_input(&mut self) {
        self.writer = None;
    }

    /// Ends the input and waits for the server: all it still sent, and its exit status if it is a binary.
    pub fn finish(mut self) -> (Vec<Value>, Option<ExitStatus>) {
        self.end_input();
        self.finish_anyhow()
    }

    /// Waits for the server without ending its input.
    pub fn finish_anyhow(mut self) -> (Vec<Value>, Option<ExitStatus>) {
        let deadline = Instant::now() + PATIENCE;
        while self.receive(deadline, "the end of the server's output") {}
        let status = match self.server {
            Server::InProcess(thread) => {
                thread
                    .join()
                    .expect("the server does not panic")
                    .expect("the server serves");
                None
            }
            Server::Binary(mut child) => Some(wait(&mut child)),
        };
        self.writer = None;
        let reader = self.reader.take().expect("the reader is joined once");
        reader.join().expect("the server printed only JSON");
        let mut left: Vec<Value> = self.notifications.into();
        left.extend(self.responses.into_values());
        (left, status)
    }
}

/// Ends its side of the connection when it is dropped, though the socket has other owners.
struct SocketWriter(UnixStream);

impl Write for SocketWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for SocketWriter {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}

/// Waits for a child of the test with a deadline.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return status;
        }
        assert!(Instant::now() < deadline, "process {} does not end", child.id());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a descriptor's reads and writes return at once.
pub fn set_nonblocking(fd: &impl AsRawFd) {
    // SAFETY: plain fcntl on an open descriptor.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
    assert_eq!(result, 0, "fcntl");
}

pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode_to_string(bytes)
}

/// The bytes of a delta's params.
pub fn decoded(params: &Value) -> Vec<u8> {
    let text = params["deltaBase64"].as_str().expect("a delta has bytes");
    STANDARD.decode_to_vec(text).expect("a delta decodes alone")
}

/// `length` bytes of a sequence without a period, from position `from` on, so that every shift,
/// loss and repetition shows.
pub fn pattern(from: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 16);
    let first = from / 8;
    let mut word = first;
    while bytes.len() < length + 8 {
        let mut mixed = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
        word += 1;
    }
    bytes.drain(..(from % 8) as usize);
    bytes.truncate(length);
    bytes
}

/// What this process has in memory that is of no file, the server in it included, in bytes.
pub fn private_bytes() -> u64 {
    private_bytes_of(std::process::id())
}

/// The same of another process.
pub fn private_bytes_of(pid: u32) -> u64 {
    crate::proc::private_bytes(pid).expect("the process runs")
}

/// What all threads of this process have used of the processor.
pub fn cpu_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Ends a process that the server is not meant to end.
pub fn kill_stray(pid: u32) {
    // SAFETY: no memory is involved; the test has started it, and only the test can reap it.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
}
