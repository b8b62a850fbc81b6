//! What the machine itself allows: the same work as the rows, with no server in between.

use crate::client::poll;
use crate::stats::{mib_per_second, micros, percentile, sized};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

/// How long a program may say nothing while something is due.
const SILENCE: Duration = Duration::from_secs(10);

/// Programs a second, and the median of one, in microseconds.
pub fn spawn(seconds: f64) -> Result<(f64, f64)> {
    timed(seconds, || {
        let output = Command::new("/bin/true").output()?;
        expect(output.status.success(), "/bin/true failed")
    })
}

/// Programs a second from two threads.
pub fn spawn_from_two(seconds: f64) -> Result<f64> {
    let one = || spawn(seconds);
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(one);
        (one(), other.join())
    });
    let b = b.unwrap_or_else(|_| Err(Error::other("a thread panicked")));
    Ok(a?.0 + b?.0)
}

/// The same as `spawn` while `live` other programs wait for input.
pub fn spawn_among(live: u64, seconds: f64) -> Result<(f64, f64)> {
    let mut idle = Vec::new();
    for _ in 0..live {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => idle.push(child),
            Err(error) => {
                end(idle)?;
                return Err(error);
            }
        }
    }
    let result = spawn(seconds);
    end(idle)?;
    result
}

/// The same as `spawn` with a PTY for each.
pub fn spawn_on_pty(seconds: f64) -> Result<(f64, f64)> {
    let mut buffer = vec![0; 4096];
    timed(seconds, || {
        let mut child = Pty::spawn(&["/bin/true"])?;
        while child.read(&mut buffer)? > 0 {}
        expect(child.wait()? == 0, "/bin/true failed on a PTY")
    })
}

/// MiB/s of `count` programs' output at once, each read by a thread of its own.
pub fn stdout(count: u64, seconds: f64) -> Result<f64> {
    sized(seconds, |bytes| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count)
                .map(|_| scope.spawn(move || read_zeros(bytes / count)))
                .collect();
            for thread in threads {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::other("a thread panicked")))?;
            }
            Ok(mib_per_second(bytes, start))
        })
    })
}

/// MiB/s of a program's output on a PTY.
pub fn pty_output(seconds: f64) -> Result<f64> {
    let mut buffer = vec![0; 64 * 1024];
    sized(seconds, |bytes| {
        let start = Instant::now();
        let mut child = Pty::spawn(&["head", "-c", &bytes.to_string(), "/dev/zero"])?;
        let mut total = 0;
        loop {
            match child.read(&mut buffer)? {
                0 => break,
                count => total += count as u64,
            }
        }
        expect(child.wait()? == 0 && total == bytes, "output was lost")?;
        Ok(mib_per_second(total, start))
    })
}

/// MiB/s into a program's stdin, 64 KiB at a time.
pub fn stdin(seconds: f64) -> Result<f64> {
    let chunk = vec![b'x'; 64 * 1024];
    sized(seconds, |bytes| {
        let start = Instant::now();
        let (mut child, mut stdin, mut stdout) = piped(&["wc", "-c"])?;
        for _ in 0..bytes / chunk.len() as u64 {
            stdin.write_all(&chunk)?;
        }
        drop(stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        child.wait()?;
        expect(text.trim() == bytes.to_string(), "wc counted otherwise")?;
        Ok(mib_per_second(bytes, start))
    })
}

/// Round trips of 16 bytes through `cat`, in microseconds.
pub fn echo(count: usize) -> Result<Vec<f64>> {
    let (mut child, mut stdin, mut stdout) = piped(&["cat"])?;
    let times = round_trips(count, |message, answer| {
        stdin.write_all(message)?;
        read_exact(&mut stdout, answer)
    });
    drop(stdin);
    child.wait()?;
    times
}

/// The same through a `cat` on a PTY.
pub fn echo_on_pty(count: usize) -> Result<Vec<f64>> {
    let mut child = Pty::spawn(&["sh", "-c", "stty raw -echo; printf ready; exec cat"])?;
    read_exact(&mut child, &mut [0; 5])?;
    let times = round_trips(count, |message, answer| {
        child.master.write_all(message)?;
        read_exact(&mut child, answer)
    });
    child.kill();
    child.wait()?;
    times
}

/// The same through `cat`, while another program's output is read as well.
pub fn echo_in_flood(count: usize) -> Result<Vec<f64>> {
    let (mut child, mut stdin, mut stdout) = piped(&["cat"])?;
    let (mut flood, _, mut zeros) = piped(&["cat", "/dev/zero"])?;
    let mut buffer = vec![0; 64 * 1024];
    let times = round_trips(count, |message, answer| {
        stdin.write_all(message)?;
        let mut have = 0;
        while have < answer.len() {
            let wanted = [
                (stdout.as_raw_fd(), libc::POLLIN),
                (zeros.as_raw_fd(), libc::POLLIN),
            ];
            match poll(wanted, SILENCE)? {
                [false, false] => return Err(silence()),
                [true, _] => have += stdout.read(&mut answer[have..])?,
                [false, true] => {
                    // How much it is does not matter.
                    let _ = zeros.read(&mut buffer)?;
                }
            }
        }
        Ok(())
    });
    flood.kill()?;
    flood.wait()?;
    drop(stdin);
    child.wait()?;
    times
}

/// From the start of a program that answers lines to its first answer, in milliseconds.
pub fn first_answer(count: usize) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let (mut child, mut stdin, mut stdout) = piped(&["cat"])?;
        stdin.write_all(b"{\"id\":0}\n")?;
        read_exact(&mut stdout, &mut [0; 9])?;
        times.push(micros(start.elapsed()) / 1e3);
        drop(stdin);
        child.wait()?;
    }
    Ok(percentile(&times, 0.5))
}

fn timed(seconds: f64, mut once: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    for _ in 0..10 {
        once()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        let began = Instant::now();
        once()?;
        times.push(micros(began.elapsed()));
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    Ok((rate, percentile(&times, 0.5)))
}

fn round_trips(count: usize, mut once: impl FnMut(&[u8], &mut [u8]) -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for number in 0..count + count / 10 {
        let message = format!("{number:016}");
        let mut answer = [0; 16];
        let start = Instant::now();
        once(message.as_bytes(), &mut answer)?;
        let time = micros(start.elapsed());
        expect(answer == message.as_bytes(), "the echo differs")?;
        // The first tenth warms up.
        if number >= count / 10 {
            times.push(time);
        }
    }
    Ok(times)
}

fn read_zeros(bytes: u64) -> Result<()> {
    let (mut child, _, mut stdout) = piped(&["head", "-c", &bytes.to_string(), "/dev/zero"])?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stdout.read(&mut buffer)? {
            0 => break,
            count => total += count as u64,
        }
    }
    child.wait()?;
    expect(total == bytes, "output was lost")
}

fn read_exact(from: &mut (impl Read + AsRawFd), into: &mut [u8]) -> Result<()> {
    let mut have = 0;
    while have < into.len() {
        if poll([(from.as_raw_fd(), libc::POLLIN)], SILENCE)? == [false] {
            return Err(silence());
        }
        match from.read(&mut into[have..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
    }
    Ok(())
}

fn piped(command: &[&str]) -> Result<(Child, ChildStdin, ChildStdout)> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
        _ => Err(Error::other("a child without pipes")),
    }
}

/// Closes every child's stdin and reaps it.
fn end(mut children: Vec<Child>) -> Result<()> {
    for child in &mut children {
        child.stdin = None;
    }
    for mut child in children {
        child.wait()?;
    }
    Ok(())
}

fn expect(met: bool, otherwise: &'static str) -> Result<()> {
    if met { Ok(()) } else { Err(Error::other(otherwise)) }
}

fn silence() -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!("no word from a program for {} s", SILENCE.as_secs()),
    )
}

/// A program on a PTY of its own, spawned without a fork.
struct Pty {
    master: File,
    id: libc::pid_t,
    reaped: bool,
}

#[cfg(target_os = "macos")]
const SETSID: i32 = 0x0400;
#[cfg(not(target_os = "macos"))]
const SETSID: i32 = libc::POSIX_SPAWN_SETSID as i32;

unsafe extern "C" {
    static environ: *const *mut libc::c_char;
}

impl Pty {
    fn spawn(command: &[&str]) -> Result<Self> {
        let words = command
            .iter()
            .map(|word| CString::new(*word))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let mut arguments: Vec<*mut libc::c_char> =
            words.iter().map(|word| word.as_ptr().cast_mut()).collect();
        arguments.push(ptr::null_mut());
        let (master, slave) = open()?;
        let mut id = 0;
        // SAFETY: the attributes and actions are initialised before they are used and destroyed
        // once; every pointer is to something that lives until the end of the block.
        let error = unsafe {
            let mut actions = std::mem::zeroed();
            let mut attributes = std::mem::zeroed();
            let mut signals = std::mem::zeroed();
            libc::posix_spawn_file_actions_init(&raw mut actions);
            libc::posix_spawnattr_init(&raw mut attributes);
            // The first terminal that a session leader opens becomes its controlling one.
            libc::posix_spawn_file_actions_addopen(&raw mut actions, 0, slave.as_ptr(), libc::O_RDWR, 0);
            libc::posix_spawn_file_actions_adddup2(&raw mut actions, 0, 1);
            libc::posix_spawn_file_actions_adddup2(&raw mut actions, 0, 2);
            // This program ignores SIGPIPE, and its children should not.
            libc::sigemptyset(&raw mut signals);
            libc::sigaddset(&raw mut signals, libc::SIGPIPE);
            libc::posix_spawnattr_setsigdefault(&raw mut attributes, &raw const signals);
            let flags = SETSID | libc::POSIX_SPAWN_SETSIGDEF;
            libc::posix_spawnattr_setflags(&raw mut attributes, flags as libc::c_short);
            let error = libc::posix_spawnp(
                &raw mut id,
                words[0].as_ptr(),
                &raw const actions,
                &raw const attributes,
                arguments.as_ptr(),
                environ,
            );
            libc::posix_spawnattr_destroy(&raw mut attributes);
            libc::posix_spawn_file_actions_destroy(&raw mut actions);
            error
        };
        if error != 0 {
            return Err(Error::from_raw_os_error(error));
        }
        Ok(Self {
            master,
            id,
            reaped: false,
        })
    }

    fn kill(&self) {
        // SAFETY: the call takes integers only, and the child has not been reaped.
        unsafe { libc::kill(self.id, libc::SIGKILL) };
    }

    fn wait(&mut self) -> Result<i32> {
        let mut status = 0;
        // SAFETY: the pointer is to the local above.
        if unsafe { libc::waitpid(self.id, &raw mut status, 0) } < 0 {
            return Err(Error::last_os_error());
        }
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.wait();
        }
    }
}

impl AsRawFd for Pty {
    fn as_raw_fd(&self) -> i32 {
        self.master.as_raw_fd()
    }
}

impl Read for Pty {
    /// Linux reports the end of a PTY as an error; here it is an end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.master.read(buffer) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }
}

/// A new PTY's master, and the path of its slave.
fn open() -> Result<(File, CString)> {
    // SAFETY: the calls take the integer that the first one returned; the name is copied before
    // another call could overwrite it, and no other thread asks for one.
    unsafe {
        let fd = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        let master = File::from_raw_fd(fd);
        if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) < 0
            || libc::grantpt(fd) < 0
            || libc::unlockpt(fd) < 0
        {
            return Err(Error::last_os_error());
        }
        let name = libc::ptsname(fd);
        if name.is_null() {
            return Err(Error::last_os_error());
        }
        Ok((master, CStr::from_ptr(name).to_owned()))
    }
}
