//! What may happen in a sequence: the steps, the programs, how often each is drawn, and how a
//! sequence reads in a report.

use std::fmt;

use proptest::prelude::*;
use serde_json::{Value, json};

/// Handles that a sequence uses, so that they are used again and fought over.
pub const SLOTS: usize = 3;

/// One sequence.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The real binary; otherwise a server in this process.
    pub binary: bool,
    /// Messages carry `"jsonrpc":"2.0"`.
    pub jsonrpc: bool,
    pub handshake: bool,
    pub steps: Vec<Step>,
    pub end: End,
}

/// How the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every process is brought to its end, and then the input ends.
    Settled,
    /// The input ends, whatever is going on.
    Input,
    /// SIGTERM for the binary, `Stopper::stop` in this process.
    Stop,
    /// The client closes its end of the output; in this process that of the input as well.
    HangUp,
    /// The server is killed below its guard; in this process the same as [`End::Stop`].
    Murder,
}

#[derive(Debug, Clone)]
pub enum Step {
    Spawn {
        slot: usize,
        program: Program,
        shape: Shape,
    },
    BadSpawn {
        slot: usize,
        fault: Fault,
        tty: bool,
    },
    Write {
        slot: usize,
        size: usize,
        unfinished: bool,
        close: bool,
    },
    /// One line of one word.
    Line {
        slot: usize,
    },
    Close {
        slot: usize,
    },
    /// More than may be pending, without awaiting an answer.
    Stuff {
        slot: usize,
    },
    /// Bytes that are not base64, or none at all.
    BadWrite {
        slot: usize,
        base64: bool,
    },
    Resize {
        slot: usize,
        rows: u16,
    },
    Inspect {
        slot: usize,
    },
    /// Closes the reading end of one stream, or of both.
    CloseOutput {
        slot: usize,
        stream: Option<usize>,
    },
    Wait {
        slot: usize,
        until: Until,
        timeout: Option<u64>,
    },
    Kill {
        slot: usize,
        signal: Signal,
        grace: Option<u64>,
        /// Looks for the death with its own eyes, not in what the server says.
        watch: bool,
    },
    BadKill {
        slot: usize,
    },
    List,
    Odd(Odd),
    /// Requests in one go, nothing awaited.
    Burst {
        count: usize,
    },
    /// The client stops reading for a while, and goes on with the steps.
    Pause {
        ms: u64,
    },
    /// The client reads and sends nothing.
    Idle {
        ms: u64,
    },
    /// Waits for the exit of what will end.
    Await {
        slot: usize,
    },
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Text(&'static str),
    Quiet(u64),
    Eof,
    Exit,
    Input,
}

impl Until {
    pub fn condition(self) -> Value {
        match self {
            Until::Text(text) => json!({"text": text}),
            Until::Quiet(ms) => json!({"quietMs": ms}),
            Until::Eof => json!({"eof": true}),
            Until::Exit => json!({"exit": true}),
            Until::Input => json!({"input": true}),
        }
    }
}

/// How a program is spawned.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub tty: bool,
    pub stdin: bool,
    pub streamed: bool,
    pub cap: Cap,
    pub keep: Keep,
    pub timeout: Option<u64>,
    /// Milliseconds between the SIGTERM of a timeout and its kill.
    pub grace: Option<u64>,
    /// Its stdout goes to the client; otherwise to `/dev/null`.
    pub stdout: bool,
    pub stderr: Errors,
    /// Inherits part of the environment, and has limits that it does not meet.
    pub confined: bool,
}

/// Where stderr goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    Pipe,
    Null,
    /// To where stdout goes.
    Merged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    LeftOut,
    None,
    At(u64),
}

impl Cap {
    /// Bytes that are kept.
    pub fn limit(self) -> u64 {
        match self {
            Cap::LeftOut => 1024 * 1024,
            Cap::None => u64::MAX,
            Cap::At(n) => n,
        }
    }
}

/// What is kept of a stream that outgrows its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    LeftOut,
    Head,
    Tail,
    /// In place of a cap.
    Both {
        head: u64,
        tail: u64,
    },
}

impl Keep {
    pub fn param(self) -> Value {
        match self {
            Keep::LeftOut => Value::Null,
            Keep::Head => json!("head"),
            Keep::Tail => json!("tail"),
            Keep::Both { head, tail } => json!({"head": head, "tail": tail}),
        }
    }
}

/// The names of the streams.
pub const STREAMS: [&str; 2] = ["stdout", "stderr"];

impl Shape {
    /// How many bytes of its beginning and of its end are kept of a stream.
    pub fn kept(&self) -> (u64, u64) {
        match (self.keep, self.cap) {
            (Keep::LeftOut | Keep::Head, cap) => (cap.limit(), 0),
            (Keep::Tail, Cap::None) => (u64::MAX, 0),
            (Keep::Tail, cap) => (0, cap.limit()),
            (Keep::Both { head, tail }, _) => (head, tail),
        }
    }

    /// A terminal implies both.
    pub fn has_stdin(&self) -> bool {
        self.stdin || self.tty
    }

    pub fn is_streamed(&self) -> bool {
        self.streamed || self.tty
    }

    /// Whether the stream is a pipe to the client.
    pub fn has_pipe(&self, stream: usize) -> bool {
        match stream {
            0 => self.stdout,
            _ => self.stderr == Errors::Pipe,
        }
    }

    /// Collecting for ever, with no cap, would be what was asked for; and the word that a terminal is
    /// ready must be heard.
    fn bounded_for(mut self, program: Program) -> Shape {
        if let Keep::Both { .. } = self.keep {
            self.cap = Cap::LeftOut;
        }
        if program == Program::Yes && !self.is_streamed() && self.cap == Cap::None {
            self.cap = Cap::LeftOut;
        }
        if matches!(program, Program::Cat { .. }) && self.tty && self.kept().0 < 6 {
            (self.keep, self.cap) = (Keep::LeftOut, Cap::At(6));
        }
        if self.tty {
            self.stdout = true;
            self.stderr = Errors::Pipe;
        }
        // It prints to both at once, in no order that is known.
        if matches!(program, Program::Seq { .. }) && self.stderr == Errors::Merged {
            self.stderr = Errors::Null;
        }
        self
    }
}

/// Programs of known behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Prints what it reads. On a terminal it says `ready` once the terminal neither echoes nor
    /// translates; a raw one reads no end of file.
    Cat {
        raw: bool,
    },
    /// Prints numbers to both streams at once.
    Seq {
        lines: usize,
        errors: usize,
        code: i32,
    },
    /// Prints that many zero bytes.
    Zeros {
        bytes: usize,
    },
    /// Prints for ever.
    Yes,
    /// Neither reads nor prints nor ends.
    Sleep,
    /// Says `ready`, and from then on only SIGKILL or a rarer signal ends it.
    IgnoresTerm,
    /// Says `ready`, and from then on exits with `code` at SIGTERM.
    TrapsTerm {
        code: i32,
    },
    /// Reads a line, prints it and exits.
    Liner {
        code: i32,
    },
    /// Leaves a child in its group, which holds its output open or not.
    LeavesChild {
        holds: bool,
        code: i32,
    },
    /// Waits beside a child in a session of its own.
    KeepsSession,
    /// Leaves a child in a session of its own.
    LeavesSession {
        code: i32,
    },
    Exit {
        code: i32,
    },
    KillsItself {
        signal: &'static str,
    },
    /// Closes its stdin, says `ready` and stays.
    ClosesStdin,
}

impl Program {
    pub fn command(self, tty: bool) -> Vec<String> {
        let plain = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
        let sessions = r#"setsid sh -c "echo TAG\$\$; exec sleep 1000 >/dev/null 2>&1 </dev/null" &"#;
        match self {
            Program::Cat { raw } => match (tty, raw) {
                (false, _) => plain(&["cat"]),
                (true, false) => shell("stty -echo -opost -icrnl -ixon -isig; echo ready; exec cat".into()),
                (true, true) => shell("stty raw -echo; echo ready; exec cat".into()),
            },
            Program::Seq { lines, errors, code } => match tty {
                // Only one stream: one after the other.
                true => shell(format!("seq {lines}; seq {errors} >&2; exit {code}")),
                false => shell(format!("seq {errors} >&2 & seq {lines}; wait; exit {code}")),
            },
            Program::Zeros { bytes } => plain(&["head", "-c", &bytes.to_string(), "/dev/zero"]),
            Program::Yes => plain(&["yes"]),
            Program::Sleep => plain(&["sleep", "1000"]),
            Program::IgnoresTerm => shell("trap '' TERM INT HUP; echo ready; exec sleep 1000".into()),
            Program::TrapsTerm { code } => shell(format!(
                "trap 'exit {code}' TERM; echo ready; while :; do sleep 1 >/dev/null 2>&1 & wait; done"
            )),
            Program::Liner { code } => shell(format!("read x; echo got:$x; exit {code}")),
            Program::LeavesChild { holds, code } => {
                let output = if holds { "" } else { ">/dev/null 2>&1" };
                shell(format!("sleep 1000 {output} & echo child $!; exit {code}"))
            }
            Program::KeepsSession => shell(sessions.replace("TAG", "session ") + " wait"),
            Program::LeavesSession { code } => shell(format!(
                "x=$({}); echo session $x; exit {code}",
                sessions.replace("TAG", "")
            )),
            Program::Exit { code: 0 } => plain(&["true"]),
            Program::Exit { code } => shell(format!("exit {code}")),
            Program::KillsItself { signal } => shell(format!("kill -{signal} $$; exec sleep 1000")),
            Program::ClosesStdin => shell("exec 0<&-; echo ready; exec sleep 1000".into()),
        }
    }
}

/// What is wrong with a spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NoFile,
    NotOnPath,
    Directory,
    NoCwd,
    NoCommand,
    RelativeCwd,
    SizeWithoutTty,
    NulInArgument,
    NegativeTimeout,
    NoStreamFile,
    StdoutIntoItself,
    StdinTwice,
    NiceOutOfRange,
    TooManyFiles,
    NoNameToInherit,
}

impl Fault {
    /// The params' own part, the error's code, and its errno and stage if the machine refuses.
    pub fn params(self) -> (Value, i64, Option<(i64, &'static str)>) {
        match self {
            Fault::NoFile => (json!({"command": ["/nonexistent/x"]}), -32603, Some((2, "exec"))),
            Fault::NotOnPath => (
                json!({"command": ["no-such-program"]}),
                -32603,
                Some((2, "lookup")),
            ),
            Fault::Directory => (json!({"command": ["/"]}), -32603, Some((13, "exec"))),
            Fault::NoCwd => (
                json!({"command": ["true"], "cwd": "/nonexistent"}),
                -32603,
                Some((2, "cwd")),
            ),
            Fault::NoCommand => (json!({"command": []}), -32600, None),
            Fault::RelativeCwd => (json!({"command": ["true"], "cwd": "tmp"}), -32602, None),
            Fault::SizeWithoutTty => (
                json!({"command": ["true"], "tty": false, "size": {"rows": 9, "cols": 9}}),
                -32602,
                None,
            ),
            Fault::NulInArgument => (json!({"command": ["echo", "a\0b"]}), -32602, None),
            Fault::NegativeTimeout => (json!({"command": ["true"], "timeoutMs": -1}), -32602, None),
            Fault::NoStreamFile => (
                json!({"command": ["true"], "tty": false, "stderr": {"file": "/nonexistent/x"}}),
                -32603,
                Some((2, "stderr")),
            ),
            Fault::StdoutIntoItself => (json!({"command": ["true"], "stdout": "stdout"}), -32602, None),
            Fault::StdinTwice => (
                json!({"command": ["true"], "streamStdin": true, "stdin": "null"}),
                -32602,
                None,
            ),
            Fault::NiceOutOfRange => (json!({"command": ["true"], "limits": {"nice": 20}}), -32602, None),
            Fault::TooManyFiles => (
                json!({"command": ["true"], "limits": {"openFiles": u64::MAX}}),
                -32603,
                Some((1, "limits")),
            ),
            Fault::NoNameToInherit => (json!({"command": ["true"], "inheritEnv": [""]}), -32602, None),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The parameter is left out: SIGKILL.
    LeftOut,
    Kill,
    Term,
    Int,
    Hup,
    Usr1,
    Stop,
    Cont,
    Winch,
    /// Nothing is sent.
    Null,
}

impl Signal {
    /// The parameter: with prefix, without, or a number.
    pub fn param(self) -> Value {
        match self {
            Signal::LeftOut => Value::Null,
            Signal::Kill => json!("SIGKILL"),
            Signal::Term => json!("TERM"),
            Signal::Int => json!(libc::SIGINT),
            Signal::Hup => json!("SIGHUP"),
            Signal::Usr1 => json!("USR1"),
            Signal::Stop => json!("SIGSTOP"),
            Signal::Cont => json!("CONT"),
            Signal::Winch => json!(libc::SIGWINCH),
            Signal::Null => json!(0),
        }
    }

    /// The name of one whose default is death.
    pub fn deadly(self) -> Option<&'static str> {
        match self {
            Signal::LeftOut | Signal::Kill => Some("SIGKILL"),
            Signal::Term => Some("SIGTERM"),
            Signal::Int => Some("SIGINT"),
            Signal::Hup => Some("SIGHUP"),
            Signal::Usr1 => Some("SIGUSR1"),
            Signal::Stop | Signal::Cont | Signal::Winch | Signal::Null => None,
        }
    }
}

/// Lines that are not a request of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    UnknownMethod,
    WrongParams,
    LongHandle,
    NotJson,
    NotUtf8,
    Number,
    Batch,
    ResponseShaped,
    Notification,
    BlankLine,
}

// ---- how they are drawn ----

pub fn plan() -> impl Strategy<Value = Plan> {
    let end = prop_oneof![
        8 => Just(End::Settled),
        5 => Just(End::Input),
        2 => Just(End::Stop),
        2 => Just(End::HangUp),
        2 => Just(End::Murder),
    ];
    (
        prop::bool::weighted(0.3),
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(step(), 1..45),
        end,
    )
        .prop_map(|(binary, jsonrpc, handshake, steps, end)| Plan {
            binary,
            jsonrpc,
            handshake,
            steps,
            end,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    let size = prop_oneof![12 => 0..200_usize, 7 => 1_000..70_000_usize, 1 => 200_000..1_400_000_usize];
    prop_oneof![
        110 => (slot(), program(), shape()).prop_map(|(slot, program, shape)| {
            let shape = shape.bounded_for(program);
            Step::Spawn { slot, program, shape }
        }),
        10 => (slot(), fault(), any::<bool>()).prop_map(|(slot, fault, tty)| Step::BadSpawn { slot, fault, tty }),
        56 => (slot(), size, any::<bool>(), prop::bool::weighted(0.15)).prop_map(
            |(slot, size, unfinished, close)| Step::Write { slot, size, unfinished, close }
        ),
        20 => slot().prop_map(|slot| Step::Line { slot }),
        20 => slot().prop_map(|slot| Step::Close { slot }),
        1 => slot().prop_map(|slot| Step::Stuff { slot }),
        4 => (slot(), any::<bool>()).prop_map(|(slot, base64)| Step::BadWrite { slot, base64 }),
        14 => (slot(), 0..200_u16).prop_map(|(slot, rows)| Step::Resize { slot, rows }),
        14 => slot().prop_map(|slot| Step::Inspect { slot }),
        24 => (slot(), prop::option::of(0..2_usize)).prop_map(
            |(slot, stream)| Step::CloseOutput { slot, stream }
        ),
        24 => (slot(), until(), prop::option::weighted(0.5, 0..300_u64)).prop_map(
            |(slot, until, timeout)| Step::Wait { slot, until, timeout }
        ),
        52 => (slot(), signal(), prop::option::weighted(0.2, 0..150_u64), any::<bool>()).prop_map(
            |(slot, signal, grace, watch)| Step::Kill { slot, signal, grace, watch }
        ),
        3 => slot().prop_map(|slot| Step::BadKill { slot }),
        14 => Just(Step::List),
        8 => odd().prop_map(Step::Odd),
        2 => (50..400_usize).prop_map(|count| Step::Burst { count }),
        14 => pause().prop_map(|ms| Step::Pause { ms }),
        10 => (0..60_u64).prop_map(|ms| Step::Idle { ms }),
        34 => slot().prop_map(|slot| Step::Await { slot }),
    ]
}

fn until() -> impl Strategy<Value = Until> {
    let words = vec!["ready", "word", "1\n", "99", "y\ny", "\0\0", "child", "got:"];
    prop_oneof![
        6 => prop::sample::select(words).prop_map(Until::Text),
        2 => (0..100_u64).prop_map(Until::Quiet),
        1 => Just(Until::Eof),
        2 => Just(Until::Exit),
        1 => Just(Until::Input),
    ]
}

fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 5..250_u64, 1 => 2_050..2_400_u64]
}

fn code() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), 1..256_i32]
}

fn program() -> impl Strategy<Value = Program> {
    let many = || prop_oneof![4 => 0..50_usize, 3 => 1_000..20_000_usize, 1 => 50_000..200_000_usize];
    let bytes = prop_oneof![3 => 0..5_000_usize, 3 => 60_000..140_000_usize, 1 => 1_000_000..3_000_000_usize];
    let signal = prop::sample::select(vec!["TERM", "KILL", "USR1", "SEGV"]);
    prop_oneof![
        8 => any::<bool>().prop_map(|raw| Program::Cat { raw }),
        6 => (many(), many(), code()).prop_map(|(lines, errors, code)| Program::Seq { lines, errors, code }),
        3 => bytes.prop_map(|bytes| Program::Zeros { bytes }),
        2 => Just(Program::Yes),
        4 => Just(Program::Sleep),
        3 => Just(Program::IgnoresTerm),
        3 => code().prop_map(|code| Program::TrapsTerm { code }),
        5 => code().prop_map(|code| Program::Liner { code }),
        3 => (prop::bool::weighted(0.25), code()).prop_map(|(holds, code)| Program::LeavesChild { holds, code }),
        2 => Just(Program::KeepsSession),
        2 => code().prop_map(|code| Program::LeavesSession { code }),
        6 => code().prop_map(|code| Program::Exit { code }),
        2 => signal.prop_map(|signal| Program::KillsItself { signal }),
        2 => Just(Program::ClosesStdin),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let cap = prop_oneof![
        4 => Just(Cap::LeftOut),
        4 => Just(Cap::None),
        1 => (0..100_u64).prop_map(Cap::At),
        1 => (60_000..140_000_u64).prop_map(Cap::At),
    ];
    let length = || prop_oneof![1 => Just(0), 3 => 0..100_u64, 3 => 1_000..140_000_u64];
    let keep = prop_oneof![
        6 => Just(Keep::LeftOut),
        1 => Just(Keep::Head),
        3 => Just(Keep::Tail),
        4 => (length(), length()).prop_map(|(head, tail)| Keep::Both { head, tail }),
    ];
    let errors = prop_oneof![8 => Just(Errors::Pipe), 1 => Just(Errors::Null), 2 => Just(Errors::Merged)];
    (
        prop::bool::weighted(0.35),
        prop::bool::weighted(0.85),
        prop::bool::weighted(0.75),
        (cap, keep),
        prop::option::weighted(0.15, 30..400_u64),
        prop::option::weighted(0.5, 0..400_u64),
        prop::bool::weighted(0.9),
        errors,
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(tty, stdin, streamed, (cap, keep), timeout, grace, stdout, stderr, confined)| Shape {
                tty,
                stdin,
                streamed,
                cap,
                keep,
                timeout,
                grace,
                stdout,
                stderr,
                confined,
            },
        )
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::NoFile,
        Fault::NotOnPath,
        Fault::Directory,
        Fault::NoCwd,
        Fault::NoCommand,
        Fault::RelativeCwd,
        Fault::SizeWithoutTty,
        Fault::NulInArgument,
        Fault::NegativeTimeout,
        Fault::NoStreamFile,
        Fault::StdoutIntoItself,
        Fault::StdinTwice,
        Fault::NiceOutOfRange,
        Fault::TooManyFiles,
        Fault::NoNameToInherit,
    ])
}

fn signal() -> impl Strategy<Value = Signal> {
    prop_oneof![
        4 => Just(Signal::LeftOut),
        2 => Just(Signal::Kill),
        5 => Just(Signal::Term),
        2 => Just(Signal::Int),
        2 => Just(Signal::Hup),
        1 => Just(Signal::Usr1),
        1 => Just(Signal::Stop),
        1 => Just(Signal::Cont),
        1 => Just(Signal::Winch),
        1 => Just(Signal::Null),
    ]
}

fn odd() -> impl Strategy<Value = Odd> {
    prop::sample::select(vec![
        Odd::UnknownMethod,
        Odd::WrongParams,
        Odd::LongHandle,
        Odd::NotJson,
        Odd::NotUtf8,
        Odd::Number,
        Odd::Batch,
        Odd::ResponseShaped,
        Odd::Notification,
        Odd::BlankLine,
    ])
}

// ---- how they read ----

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self.binary {
            true => "the binary",
            false => "a server in this process",
        };
        let jsonrpc = if self.jsonrpc { ", with jsonrpc" } else { "" };
        let handshake = if self.handshake { ", with handshake" } else { "" };
        writeln!(f, "     on {server}{jsonrpc}{handshake}")?;
        for (i, step) in self.steps.iter().enumerate() {
            writeln!(f, "{i:4} {step}")?;
        }
        writeln!(f, "     end: {:?}", self.end)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Spawn { slot, program, shape } => write!(f, "h{slot} spawn {program:?}, {shape}"),
            Step::BadSpawn { slot, fault, tty } => write!(f, "h{slot} spawn with {fault:?}, tty {tty}"),
            Step::Write {
                slot,
                size,
                unfinished,
                close,
            } => {
                let end = if *unfinished { ", last line unfinished" } else { "" };
                let close = if *close { ", then close" } else { "" };
                write!(f, "h{slot} write {size} bytes{end}{close}")
            }
            Step::Line { slot } => write!(f, "h{slot} write a line"),
            Step::Close { slot } => write!(f, "h{slot} close stdin"),
            Step::Stuff { slot } => write!(f, "h{slot} write 10 x 1 MiB without awaiting"),
            Step::BadWrite { slot, base64: true } => write!(f, "h{slot} write what is not base64"),
            Step::BadWrite { slot, base64: false } => write!(f, "h{slot} write nothing and close nothing"),
            Step::Resize { slot, rows } => write!(f, "h{slot} resize to {rows} rows"),
            Step::Inspect { slot } => write!(f, "h{slot} inspect"),
            Step::CloseOutput { slot, stream } => {
                let what = stream.map_or("all output", |stream| STREAMS[stream]);
                write!(f, "h{slot} close {what}")
            }
            Step::Wait { slot, until, timeout } => write!(f, "h{slot} wait for {until:?}, {timeout:?} ms"),
            Step::Kill {
                slot,
                signal,
                grace,
                watch,
            } => {
                write!(f, "h{slot} kill with {signal:?}")?;
                if let Some(grace) = grace {
                    write!(f, ", grace {grace} ms")?;
                }
                match watch {
                    true => write!(f, ", and watch it die"),
                    false => Ok(()),
                }
            }
            Step::BadKill { slot } => write!(f, "h{slot} kill with a signal there is not"),
            Step::List => write!(f, "list"),
            Step::Odd(odd) => write!(f, "send {odd:?}"),
            Step::Burst { count } => write!(f, "send {count} requests in one go"),
            Step::Pause { ms } => write!(f, "stop reading for {ms} ms"),
            Step::Idle { ms } => write!(f, "only read for {ms} ms"),
            Step::Await { slot } => write!(f, "h{slot} await the exit, if it must come"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
        write!(
            f,
            "{}, {}, {}, cap {:?}",
            word(self.tty, "tty", "pipes"),
            word(self.has_stdin(), "stdin", "no stdin"),
            word(self.is_streamed(), "streamed", "collected"),
            self.cap
        )?;
        if self.keep != Keep::LeftOut {
            write!(f, ", keep {:?}", self.keep)?;
        }
        if !self.stdout || self.stderr != Errors::Pipe {
            let stdout = word(self.stdout, "pipe", "null");
            write!(f, ", stdout {stdout}, stderr {:?}", self.stderr)?;
        }
        if self.confined {
            write!(f, ", confined")?;
        }
        match (self.timeout, self.grace) {
            (Some(ms), None) => write!(f, ", timeout {ms} ms"),
            (Some(ms), Some(grace)) => write!(f, ", timeout {ms} ms, grace {grace} ms"),
            (None, _) => Ok(()),
        }
    }
}
