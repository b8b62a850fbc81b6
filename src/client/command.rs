//! What to start, and how: the client's counterpart of [`std::process::Command`].
//!
//! **Thread:** whichever calls; plain data.
//! **Owns:** what was asked for, as it was given; `params.rs` makes the params of a spawn of it.
//! **Never:** starts anything; [`Client::spawn`](super::Client::spawn) does.

mod params;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::params::milliseconds;
use super::stdio::Stdio;
use crate::wire::modes;
use crate::wire::protocol::{InheritEnv, Limit, OutputKeep, PtySize, ResourceLimits};

/// The default limit on unread output of a process.
const MAX_UNREAD_BYTES: usize = 64 * 1024 * 1024;

/// A program to start, with the shape of [`std::process::Command`].
///
/// A client starts it: [`spawn`](super::Client::spawn), [`status`](super::Client::status),
/// [`output`](super::Client::output), [`output_with_input`](super::Client::output_with_input). A
/// command can be started any number of times.
///
/// By default, a process has its stdin, stdout and stderr connected to
/// [`Process`](super::Process) (std inherits them); the environment and working directory
/// that the server had when it started; no timeout, and no cap on its output.
///
/// Text is UTF-8 on the wire. A program, an argument, a variable or a directory that is not UTF-8, or
/// contains a NUL, is accepted here, and refused with [`Error::Invalid`](super::Error::Invalid) where the command is started.
///
/// # What differs from std
///
/// A [`Stdio`] is a pipe, `/dev/null` or a file on the server's machine; streams are not inherited, and
/// neither are descriptors. There is no `arg0`, `uid`, `pre_exec` or `exec`. `TERM` is the server's, if it has one.
/// With a terminal, `COLUMNS` and `LINES` are removed, and with a directory `PWD` is set, unless the
/// command names them. An empty program is `InvalidInput` and not `NotFound`.
///
/// ```
/// # use procwire::client::{Client, Command};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::in_process(procwire::Config::default())?;
/// let mut list = Command::new("ls");
/// list.arg("-d").args(["/", "/usr"]).env("LC_ALL", "C").current_dir("/");
/// assert_eq!(client.output(&list)?.stdout, b"/\n/usr\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, Option<OsString>>,
    directory: Option<PathBuf>,
    size: Option<PtySize>,
    modes: Option<BTreeMap<String, u8>>,
    inherited: InheritEnv,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    stderr_merged: bool,
    limits: ResourceLimits,
    timeout: Limit,
    timeout_grace: Option<Duration>,
    output_cap: Limit,
    keep: Option<OutputKeep>,
    detach: bool,
    pub(super) unread_limit: usize,
    pub(super) wait_when_unread: bool,
    pub(super) kill_on_drop: bool,
}

impl Command {
    /// A program without arguments, run without a shell. A name without a slash is looked up on the `PATH`
    /// of the environment that the program gets.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::new("uname"))?;
    /// assert_eq!(output.stdout, b"Linux\n");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
            size: None,
            modes: None,
            inherited: InheritEnv::All,
            stdin: Stdio::pipe(),
            stdout: Stdio::pipe(),
            stderr: Stdio::pipe(),
            stderr_merged: false,
            limits: ResourceLimits::default(),
            timeout: Limit::Unlimited,
            timeout_grace: None,
            output_cap: Limit::Unlimited,
            keep: None,
            detach: false,
            unread_limit: MAX_UNREAD_BYTES,
            wait_when_unread: false,
            kill_on_drop: true,
        }
    }

    /// A line for `/bin/sh -c`.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::shell("echo hello | tr a-z A-Z"))?;
    /// assert_eq!(output.stdout, b"HELLO\n");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shell(text: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(text);
        command
    }

    /// Adds an argument.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::new("echo").arg("one argument, $HOME"))?;
    /// assert_eq!(output.stdout, b"one argument, $HOME\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Command {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::new("printf").args(["%s-%s", "a", "b"]))?;
    /// assert_eq!(output.stdout, b"a-b");
    /// # Ok(())
    /// # }
    /// ```
    pub fn args<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Command {
        for argument in arguments {
            self.arg(argument);
        }
        self
    }

    /// Sets a variable of its environment.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut show = Command::shell("echo $GREETING ${HOME-none}");
    /// show.env("GREETING", "hello").env_remove("HOME");
    /// assert_eq!(client.output(&show)?.stdout, b"hello none\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Command {
        let value = value.as_ref().to_owned();
        self.environment.insert(name.as_ref().to_owned(), Some(value));
        self
    }

    /// Sets variables of its environment.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut show = Command::shell("echo $A$B");
    /// show.envs([("A", "1"), ("B", "2")]);
    /// assert_eq!(client.output(&show)?.stdout, b"12\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> &mut Command {
        for (name, value) in variables {
            self.env(name, value);
        }
        self
    }

    /// Removes a variable from its environment, also one that the server has.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut show = Command::shell("echo ${HOME-none}");
    /// assert_eq!(client.output(show.env_remove("HOME"))?.stdout, b"none\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Command {
        self.environment.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Starts from an empty environment, with only the variables that the command sets after this, as with
    /// [`std::process::Command::env_clear`].
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut show = Command::new("/usr/bin/env");
    /// show.env_clear().env("GREETING", "hello");
    /// assert_eq!(client.output(&show)?.stdout, b"GREETING=hello\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn env_clear(&mut self) -> &mut Command {
        self.environment.clear();
        self.inherited = InheritEnv::Nothing;
        self
    }

    /// Inherits these of the server's variables and no others. A name that ends in `*` stands for all names
    /// with that beginning.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut show = Command::shell("echo ${HOME-none}");
    /// show.inherit_env(["PATH", "LC_*"]);
    /// assert_eq!(client.output(&show)?.stdout, b"none\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn inherit_env<N: Into<String>>(&mut self, names: impl IntoIterator<Item = N>) -> &mut Command {
        self.inherited = InheritEnv::Only(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets its working directory: an absolute path on the server's machine. Its `PWD` is the same,
    /// unless the command sets or removes that.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::new("pwd").current_dir("/usr"))?;
    /// assert_eq!(output.stdout, b"/usr\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Command {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Gives it a terminal of this size in character cells. Everything it prints there is stdout.
    /// `COLUMNS` and `LINES`, which would contradict the size, are removed from its environment, unless
    /// the command sets them.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::new("stty").arg("size").tty(30, 100))?;
    /// assert_eq!(output.stdout, b"30 100\r\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn tty(&mut self, rows: u16, cols: u16) -> &mut Command {
        self.size = Some(PtySize { rows, cols });
        self
    }

    /// Gives its terminal the modes of another one, as ssh does: keys, echo, line ends and so on. Only
    /// with [`tty`](Self::tty).
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut shell = Command::new("sh");
    /// shell.tty(24, 80);
    /// let error = shell.modes_of(std::fs::File::open("/dev/null")?).expect_err("not a terminal");
    /// assert_eq!(error.raw_os_error(), Some(25)); // ENOTTY; std::io::stdin() is one where people type
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What the system says if `terminal` is not one.
    pub fn modes_of(&mut self, terminal: impl AsFd) -> io::Result<&mut Command> {
        self.modes = Some(modes::of(terminal.as_fd())?);
        Ok(self)
    }

    /// Gives it `/dev/null` as stdin. A process with a terminal still has the terminal as stdin.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("cat").no_stdin())?;
    /// assert!(process.stdin.is_none());
    /// assert!(process.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn no_stdin(&mut self) -> &mut Command {
        self.stdin = Stdio::null();
        self
    }

    /// Where its stdin comes from. If that is not a pipe, [`Process::stdin`](super::Process::stdin) is
    /// `None`.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Stdio};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut count = Command::new("wc");
    /// let output = client.output(count.arg("-c").stdin(Stdio::null()))?;
    /// assert_eq!(output.stdout.trim_ascii(), b"0");
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdin(&mut self, stdin: Stdio) -> &mut Command {
        self.stdin = stdin;
        self
    }

    /// Where its stdout goes. If that is not a pipe, [`Process::stdout`](super::Process::stdout) is
    /// `None`. Not with [`tty`](Self::tty), which allows no redirection but a stdin of `/dev/null`.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Stdio};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut noise = Command::shell("yes | head -c 1000000; exit 3");
    /// let mut process = client.spawn(noise.stdout(Stdio::null()))?;
    /// assert!(process.stdout.is_none());
    /// assert_eq!(process.wait()?.code(), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdout(&mut self, stdout: Stdio) -> &mut Command {
        self.stdout = stdout;
        self
    }

    /// Where its stderr goes, as [`stdout`](Self::stdout).
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Stdio};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut noise = Command::shell("echo result; echo noise >&2");
    /// let output = client.output(noise.stderr(Stdio::null()))?;
    /// assert_eq!((output.stdout, output.stderr), (b"result\n".to_vec(), Vec::new()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stderr(&mut self, stderr: Stdio) -> &mut Command {
        self.stderr = stderr;
        self.stderr_merged = false;
        self
    }

    /// Sends its stderr to where its stdout goes, in the order of the writes;
    /// [`Process::stderr`](super::Process::stderr) is `None`.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::shell("echo a; echo b >&2; echo c").merge_stderr())?;
    /// assert_eq!(output.stdout, b"a\nb\nc\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge_stderr(&mut self) -> &mut Command {
        self.stderr_merged = true;
        self
    }

    /// Limits of what it may use. A member that is `None` stays as the server has it.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use procwire::protocol::ResourceLimits;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut limited = Command::shell("ulimit -n");
    /// limited.limits(ResourceLimits { open_files: Some(40), ..ResourceLimits::default() });
    /// assert_eq!(client.output(&limited)?.stdout, b"40\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn limits(&mut self, limits: ResourceLimits) -> &mut Command {
        self.limits = limits;
        self
    }

    /// Kills it after this long, in whole milliseconds; [`ExitStatus::timed_out`](super::ExitStatus::timed_out)
    /// is then true.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut sleep = Command::new("sleep");
    /// sleep.arg("1000").timeout(Duration::from_millis(10));
    /// assert!(client.status(&sleep)?.timed_out());
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout(&mut self, timeout: Duration) -> &mut Command {
        self.timeout = Limit::Of(milliseconds(timeout));
        self
    }

    /// At its [`timeout`](Self::timeout), sends SIGTERM to its group first, and kills what is left after
    /// this long.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut sleep = Command::new("sleep");
    /// sleep.arg("1000").timeout(Duration::from_millis(10)).timeout_grace(Duration::from_secs(5));
    /// let status = client.status(&sleep)?;
    /// assert!(status.timed_out());
    /// assert_eq!(status.signal(), Some("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout_grace(&mut self, grace: Duration) -> &mut Command {
        self.timeout_grace = Some(grace);
        self
    }

    /// Bytes of each stream after which the server drops its output. The program runs on.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let output = client.output(Command::new("seq").arg("1000").output_cap(4))?;
    /// assert_eq!(output.stdout, b"1\n2\n");
    /// assert!(output.status.details().stdout.cap_reached);
    /// # Ok(())
    /// # }
    /// ```
    pub fn output_cap(&mut self, bytes: u64) -> &mut Command {
        self.output_cap = Limit::Of(bytes);
        self
    }

    /// The part that the server keeps of a stream that outgrows its [cap](Self::output_cap): its beginning,
    /// which is the default, its end, or so many bytes of both, which replace the cap. The end is sent when
    /// the stream has ended.
    ///
    /// ```
    /// # use procwire::client::{Client, Command, Keep};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut seq = Command::new("seq");
    /// seq.arg("1000").keep(Keep::HeadTail { head: 4, tail: 5 });
    /// let output = client.output(&seq)?;
    /// assert_eq!((&*output.stdout, &*output.stdout_tail), (&b"1\n2\n"[..], &b"1000\n"[..]));
    /// assert_eq!(output.stdout_omitted_bytes, 3884);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep(&mut self, keep: OutputKeep) -> &mut Command {
        self.keep = Some(keep);
        self
    }

    /// Lets it and what it starts outlive the connection. Its pipes and its terminal do not.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let daemon = client.spawn(Command::new("sleep").arg("1000").detach().kill_on_drop(false))?;
    /// let id = daemon.id().expect("this server reports it").to_string();
    /// client.close()?;
    /// // It still runs, until something kills it.
    /// assert!(std::process::Command::new("kill").arg(id).status()?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn detach(&mut self) -> &mut Command {
        self.detach = true;
        self
    }

    /// Whether it is killed when its [`Process`](super::Process) is dropped before it has ended
    /// (yes; std's is not). If not, it runs on until the connection ends.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// drop(client.spawn(Command::new("sleep").arg("1000").kill_on_drop(false))?);
    /// assert_eq!(client.list()?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Command {
        self.kill_on_drop = kill;
        self
    }

    /// Bytes of its output, both streams together, that may wait here to be read (64 MiB). Output
    /// beyond that is lost, which reading reports as [`OutputLost`](super::OutputLost).
    ///
    /// ```
    /// # use procwire::client::{Client, Command, OutputLost};
    /// # use std::io::Read;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::shell("printf 123456789").unread_limit(4))?;
    /// process.wait()?;
    /// let error = process.stdout.take().expect("not taken yet").read_to_end(&mut Vec::new());
    /// assert!(OutputLost::is(&error.expect_err("some of it is lost")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn unread_limit(&mut self, bytes: usize) -> &mut Command {
        self.unread_limit = bytes;
        self
    }

    /// At that limit, loses nothing and reads nothing more from the server until output is read here:
    /// every other process and every answer of this client waits as well. For a client with one
    /// process. [`Process::wait`](super::Process::wait) reads nothing.
    ///
    /// ```
    /// # use procwire::client::{Client, Command};
    /// # use std::io::Read;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::in_process(procwire::Config::default())?;
    /// let mut process = client.spawn(Command::new("seq").arg("100000").unread_limit(4096).wait_when_unread())?;
    /// let mut numbers = String::new();
    /// process.stdout.take().expect("not taken yet").read_to_string(&mut numbers)?;
    /// assert_eq!(numbers.lines().count(), 100_000); // nothing is lost
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_when_unread(&mut self) -> &mut Command {
        self.wait_when_unread = true;
        self
    }
}
