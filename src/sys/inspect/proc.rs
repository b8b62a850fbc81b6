//! What `/proc` shows of a process: its state, its command, and what its threads wait for.
//!
//! **Thread:** the caller's, which should be one that may wait: a file in `/proc` may not answer as long as
//! the process holds its memory.
//! **Owns:** nothing.
//! **Never:** concludes anything. What cannot be read is `None`, or [`Wait::Unknown`].

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;

use super::{Facts, Wait};
use crate::sys::{Pid, PollFd, poll, readable_bytes};

/// How much of one file in `/proc` is read. The longest are the interests of an epoll.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// How many descriptors of one `poll` or `select` are looked at; with more it is not known what is waited
/// for.
const MAX_POLLED: usize = 4_096;
/// The number of `io_pgetevents`, which the C library's bindings do not have.
#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: libc::c_long = 333;
#[cfg(target_arch = "x86")]
const IO_PGETEVENTS: libc::c_long = 385;
#[cfg(target_arch = "arm")]
const IO_PGETEVENTS: libc::c_long = 399;
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm")))]
const IO_PGETEVENTS: libc::c_long = 292;
/// The major number of the slaves of Unix98 terminals, all of which Linux has under one.
const UNIX98_SLAVES: u32 = 136;
/// The bits of a page in `/proc/PID/pagemap` that say that it is there.
const IN_MEMORY_OR_SWAP: u64 = 0b11 << 62;
/// How deep an epoll may be in another one. The kernel allows five.
const MAX_NESTED_EPOLLS: usize = 5;

/// The slave of a terminal.
#[derive(Debug, Clone)]
pub(crate) struct Slave {
    number: u32,
    device: u64,
    /// Device and number of its file, where this program sees that.
    file: Option<(u64, u64)>,
}

impl Slave {
    /// The number that the `stat` of a process has for its controlling terminal.
    pub(crate) fn number_in_stat(&self) -> u32 {
        let (major, minor) = (libc::major(self.device), libc::minor(self.device));
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }
}

/// What bytes for a program go to.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Pipe {
        /// The number by which the kernel calls it, `pipe:[…]`.
        inode: u64,
        /// It holds nothing that the program could have read.
        empty: bool,
    },
    Terminal(Slave),
}

/// The pipe behind its writing end.
///
/// # Errors
///
/// Where it cannot be asked.
pub(crate) fn pipe_input(writer: &OwnedFd) -> io::Result<Input> {
    Ok(Input::Pipe {
        inode: rustix::fs::fstat(writer)?.st_ino,
        empty: readable_bytes(writer)? == 0,
    })
}

// ---- the terminal ----

pub(crate) fn slave(master: BorrowedFd<'_>) -> Option<Slave> {
    let name = rustix::pty::ptsname(master, Vec::new())
        .ok()?
        .into_string()
        .ok()?;
    let number = name.strip_prefix("/dev/pts/")?.parse().ok()?;
    let file = fs::metadata(name).ok();
    Some(Slave {
        number,
        device: libc::makedev(UNIX98_SLAVES, number),
        file: file.map(|file| (file.dev(), file.ino())),
    })
}

/// Waits until the kernel has handed over what was written to the master, which it does on a thread of its
/// own: until then a program that has been sent a line still looks as if it waited for one. That takes
/// microseconds. Asking the other end does it, which is opened for that, if a process has it open.
pub(crate) fn hand_over_typed(master: BorrowedFd<'_>) {
    let mut slave = [PollFd::hangup(master.as_raw_fd())];
    if poll(&mut slave, Some(Duration::ZERO)).is_err() || slave[0].hung_up() {
        return;
    }
    let nonblocking = OpenptFlags::from_bits_retain(OFlags::NONBLOCK.bits());
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC | nonblocking;
    let Ok(peer) = rustix::pty::ioctl_tiocgptpeer(master, flags) else {
        return;
    };
    let _ = poll(&mut [PollFd::read(peer.as_raw_fd())], Some(Duration::ZERO));
}

// ---- /proc ----

/// A number of sysconf(3) that is not 0. rustix would read it from `/proc`, and panic where it cannot.
fn constant(name: libc::c_int) -> Option<u64> {
    // SAFETY: no memory is involved.
    let number = unsafe { libc::sysconf(name) };
    u64::try_from(number).ok().filter(|&number| number > 0)
}

fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What `/proc` says of the process `entry`; `None` if nothing.
pub(crate) fn facts(entry: Pid) -> Option<Facts> {
    let facts = parse_stat(&read(&format!("/proc/{entry}/stat")).ok()?)?;
    if facts.state != 'Z' || facts.threads <= 1 {
        return Some(facts);
    }
    // The state is that of the main thread, and so is the memory; another goes on.
    let others = threads(entry).into_iter().filter(|&thread| thread != entry);
    let mut others = others.filter_map(|thread| thread_facts(entry, thread));
    let other = others.find(|other| !matches!(other.state, 'Z' | 'X'));
    Some(match other {
        Some(other) => Facts {
            state: other.state,
            rss_bytes: other.rss_bytes,
            ..facts
        },
        None => facts,
    })
}

/// The same of one thread; the times are its own.
pub(crate) fn thread_facts(entry: Pid, thread: Pid) -> Option<Facts> {
    parse_stat(&read(&format!("/proc/{entry}/task/{thread}/stat")).ok()?)
}

/// The line is `pid (name) state …`, and the name may hold anything, `)` included.
fn parse_stat(line: &[u8]) -> Option<Facts> {
    let begin = line.iter().position(|&b| b == b'(')? + 1;
    let end = line.iter().rposition(|&b| b == b')')?;
    let name = String::from_utf8_lossy(line.get(begin..end)?).into_owned();
    let rest = str::from_utf8(&line[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let (ticks, page) = (constant(libc::_SC_CLK_TCK)?, constant(libc::_SC_PAGESIZE)?);
    let used = number(11)? + number(12)?;
    let pages = number(21)?;
    Some(Facts {
        name,
        state: fields.first()?.chars().next()?,
        terminal: fields.get(4)?.parse::<i32>().ok()?.cast_unsigned(),
        threads: number(17)?,
        cpu: Duration::from_millis(used.saturating_mul(1_000) / ticks),
        rss_bytes: (pages > 0).then_some(pages * page),
    })
}

/// The threads of the process `entry`; none if they cannot be listed.
pub(crate) fn threads(entry: Pid) -> Vec<Pid> {
    let entries = fs::read_dir(format!("/proc/{entry}/task"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The first `limit` bytes of the arguments of the process `entry`, each with a NUL after it; nothing of a
/// dead one. May wait as long as the process holds its memory.
pub(crate) fn arguments(entry: Pid, limit: u64) -> Vec<u8> {
    let read = |path: String| {
        let mut bytes = Vec::new();
        let file = File::open(path).ok()?;
        file.take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes).filter(|bytes| !bytes.is_empty())
    };
    read(format!("/proc/{entry}/cmdline"))
        .or_else(|| {
            // Where the main thread has ended, another still knows.
            let mut others = threads(entry).into_iter().filter(|&thread| thread != entry);
            others.find_map(|thread| read(format!("/proc/{entry}/task/{thread}/cmdline")))
        })
        .unwrap_or_default()
}

/// Whether the system shows what its own threads wait for, and lets this program see that of others.
pub(crate) fn waits_are_shown() -> bool {
    if read("/proc/thread-self/syscall").is_err() {
        return false;
    }
    // 0 and 1 allow what is asked of a descendant, 2 only the privileged, 3 no process.
    match read("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) => match scope.trim_ascii() {
            b"0" | b"1" => true,
            b"2" => may_trace_all(),
            _ => false,
        },
        Err(_) => true,
    }
}

fn may_trace_all() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let status = read("/proc/self/status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    capabilities.is_some_and(|capabilities| capabilities & CAP_SYS_PTRACE != 0)
}

// ---- what a thread waits for ----

/// What the thread is blocked in. May wait as long as the process holds its memory.
pub(crate) fn wait_of(entry: Pid, thread: Pid) -> Wait {
    let Some(facts) = thread_facts(entry, thread) else {
        // It has ended; where the whole process is hidden, there was no thread to ask about.
        return if fs::exists(format!("/proc/{entry}/task/{thread}")).unwrap_or(true) {
            Wait::Unknown
        } else {
            Wait::Not
        };
    };
    // One that is stopped still shows the call that it was in.
    if facts.state != 'S' {
        return Wait::Not;
    }
    let call = match read(&format!("/proc/{entry}/task/{thread}/syscall")) {
        Ok(call) => call,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Wait::Not,
        Err(e) if e.kind() == io::ErrorKind::NotFound && thread_facts(entry, thread).is_none() => {
            return Wait::Not;
        }
        Err(_) => return Wait::Unknown,
    };
    match Call::parse(&call) {
        Parsed::Call(call) if is_of_this_machine(entry, thread) => call.wait(entry, thread),
        Parsed::Call(_) | Parsed::Unknown => Wait::Unknown,
        Parsed::None => Wait::Not,
    }
}

/// Whether the system calls of the process have the numbers of this program's. On a machine of 64 bits,
/// those of a program of 32 bits are others.
fn is_of_this_machine(entry: Pid, thread: Pid) -> bool {
    let vector = read(&format!("/proc/{entry}/task/{thread}/auxv")).unwrap_or_default();
    word_bits(&vector) == Some(usize::BITS)
}

/// How long the words of a program are, by its auxiliary vector. That begins with a small number, the upper
/// half of which is 0 in 64 bits, and a value, which is not 0.
fn word_bits(vector: &[u8]) -> Option<u32> {
    match vector.as_chunks::<4>().0 {
        [[0, 0, 0, 0], _, ..] | [_, [0, 0, 0, 0], ..] => Some(64),
        [_, _, ..] => Some(32),
        _ => None,
    }
}

struct Call {
    number: libc::c_long,
    arguments: [u64; 6],
}

enum Parsed {
    Call(Call),
    /// It is not blocked, or not in a call.
    None,
    Unknown,
}

impl Call {
    /// The text is `number argument … stack-pointer program-counter`, `-1 …` outside of a call, or
    /// `running`.
    fn parse(text: &[u8]) -> Parsed {
        let text = String::from_utf8_lossy(text);
        let mut words = text.split_ascii_whitespace();
        let Some(number) = words.next() else {
            return Parsed::Unknown;
        };
        let Ok(number) = number.parse::<libc::c_long>() else {
            return match number {
                "running" => Parsed::None,
                _ => Parsed::Unknown,
            };
        };
        if number < 0 {
            return Parsed::None;
        }
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            let word = words.next().and_then(|word| word.strip_prefix("0x"));
            match word.and_then(|word| u64::from_str_radix(word, 16).ok()) {
                Some(value) => *argument = value,
                None => return Parsed::Unknown,
            }
        }
        Parsed::Call(Call { number, arguments })
    }

    fn wait(&self, entry: Pid, thread: Pid) -> Wait {
        let [first, second, ..] = self.arguments;
        // The upper half of a register that holds an int means nothing.
        let fd = first as RawFd;
        match self.number {
            libc::SYS_read | libc::SYS_readv | libc::SYS_preadv2 => Wait::Read(fd),
            libc::SYS_splice | libc::SYS_tee | libc::SYS_vmsplice => Wait::Move(fd),
            libc::SYS_sendfile => Wait::Move(second as RawFd),
            libc::SYS_ppoll => self.wait_of_poll(entry, thread),
            libc::SYS_pselect6 => self.wait_of_select(entry, thread),
            libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => wait_of_epoll(entry, thread, fd),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => self.wait_of_poll(entry, thread),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => self.wait_of_select(entry, thread),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => wait_of_epoll(entry, thread, fd),
            // They may wait for any descriptor, and nothing shows for which.
            libc::SYS_io_uring_enter | libc::SYS_io_getevents | IO_PGETEVENTS => Wait::Unknown,
            // What a stop has interrupted goes on under this number, with the arguments of before: a poll,
            // or a wait for time or for another thread.
            libc::SYS_restart_syscall => {
                let place = read(&format!("/proc/{entry}/task/{thread}/wchan")).unwrap_or_default();
                match String::from_utf8_lossy(&place) {
                    place if place.contains("poll") => self.wait_of_poll(entry, thread),
                    place if place.len() > 1 => Wait::Not,
                    // Where is not shown, which is written as 0.
                    _ => Wait::Unknown,
                }
            }
            // The other numbers of x86-64, those of x32, begin here.
            0x4000_0000.. => Wait::Unknown,
            _ => Wait::Not,
        }
    }

    fn wait_of_poll(&self, entry: Pid, thread: Pid) -> Wait {
        let [address, count, ..] = self.arguments;
        let count = count as u32 as usize;
        let Some(polled) = memory(entry, thread, address, count, size_of::<libc::pollfd>()) else {
            return Wait::Unknown;
        };
        let (mut inputs, mut others) = (BTreeSet::new(), false);
        for polled in polled.as_chunks::<{ size_of::<libc::pollfd>() }>().0 {
            let [a, b, c, d, e, f, ..] = *polled;
            let fd = RawFd::from_ne_bytes([a, b, c, d]);
            let events = libc::c_short::from_ne_bytes([e, f]);
            if fd < 0 {
                continue;
            }
            if events & (libc::POLLIN | libc::POLLRDNORM) != 0 {
                inputs.insert(fd);
            } else {
                // A hang-up is waited for even if nothing is named.
                others = true;
            }
        }
        Wait::Poll { inputs, others }
    }

    fn wait_of_select(&self, entry: Pid, thread: Pid) -> Wait {
        let [count, readable, writable, exceptional, ..] = self.arguments;
        let Ok(count) = usize::try_from(count as i32) else {
            return Wait::Unknown;
        };
        let set = |address| match address {
            0 => Some(BTreeSet::new()),
            _ => memory(entry, thread, address, count.div_ceil(8), 1).map(|bytes| descriptors(&bytes, count)),
        };
        match [readable, writable, exceptional].map(set) {
            [Some(inputs), Some(writable), Some(exceptional)] => Wait::Poll {
                others: !writable.is_empty() || !exceptional.is_subset(&inputs),
                inputs,
            },
            _ => Wait::Unknown,
        }
    }
}

/// The numbers below `count` in the set of a `select`.
fn descriptors(set: &[u8], count: usize) -> BTreeSet<RawFd> {
    let is_in = |fd: &usize| set.get(fd / 8).is_some_and(|byte| byte & (1 << (fd % 8)) != 0);
    let numbers = (0..count).filter(is_in);
    // Not collected, which would bring a sort of its own into the program.
    let mut descriptors = BTreeSet::new();
    descriptors.extend(numbers.filter_map(|fd| RawFd::try_from(fd).ok()));
    descriptors
}

/// Memory of the process `entry`, which may wait as long as that holds it; `None` if it cannot be read, or
/// is not there: a page of a file on a disk that does not answer would be waited for, and the wait for it
/// cannot be killed, not even by SIGKILL.
fn memory(entry: Pid, thread: Pid, address: u64, count: usize, size: usize) -> Option<Vec<u8>> {
    if count > MAX_POLLED {
        return None;
    }
    let mut bytes = vec![0; count * size];
    if bytes.is_empty() {
        return Some(bytes);
    }
    let page = constant(libc::_SC_PAGESIZE)?;
    let first = address / page;
    let last = address.checked_add(bytes.len() as u64 - 1)? / page;
    let pages = File::open(format!("/proc/{entry}/task/{thread}/pagemap"))
        .or_else(|_| File::open(format!("/proc/{entry}/pagemap")))
        .ok()?;
    for page in first..=last {
        let mut state = [0; size_of::<u64>()];
        pages.read_exact_at(&mut state, page.checked_mul(8)?).ok()?;
        if u64::from_ne_bytes(state) & IN_MEMORY_OR_SWAP == 0 {
            return None;
        }
    }
    let memory = File::open(format!("/proc/{entry}/task/{thread}/mem")).ok()?;
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}

fn wait_of_epoll(entry: Pid, thread: Pid, epoll: RawFd) -> Wait {
    let (mut inputs, mut others) = (BTreeSet::new(), false);
    match add_interests(entry, thread, epoll, MAX_NESTED_EPOLLS, &mut inputs, &mut others) {
        Some(()) => Wait::Poll { inputs, others },
        None => Wait::Unknown,
    }
}

/// The lines are `tfd: N events: HEX data: HEX …`, one a descriptor.
fn add_interests(
    entry: Pid,
    thread: Pid,
    epoll: RawFd,
    depth: usize,
    inputs: &mut BTreeSet<RawFd>,
    others: &mut bool,
) -> Option<()> {
    let text = read(&format!("/proc/{entry}/task/{thread}/fdinfo/{epoll}")).ok()?;
    if depth == 0 || text.len() as u64 == MAX_FILE_BYTES {
        return None;
    }
    for line in String::from_utf8_lossy(&text).lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("tfd:") {
            continue;
        }
        let fd: RawFd = words.next()?.parse().ok()?;
        let events = words.nth(1).map(|hex| u32::from_str_radix(hex, 16))?.ok()?;
        let about = |mask: libc::c_int| events & mask.cast_unsigned() != 0;
        let link = link_of(entry, thread, fd)?;
        if link.ends_with(b"[eventpoll]") {
            add_interests(entry, thread, fd, depth - 1, inputs, others)?;
        } else if about(libc::EPOLLIN | libc::EPOLLRDNORM) {
            inputs.insert(fd);
        } else {
            *others = true;
        }
    }
    Some(())
}

/// What the name of a descriptor in `/proc` points to.
fn link_of(entry: Pid, thread: Pid, fd: RawFd) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let link = fs::read_link(format!("/proc/{entry}/task/{thread}/fd/{fd}")).ok()?;
    Some(link.into_os_string().into_vec())
}

impl Input {
    /// Whether the descriptor `fd` of the thread is this input; `None` if that is not shown. `terminal` is the
    /// controlling terminal of the process.
    pub(crate) fn is(&self, entry: Pid, thread: Pid, fd: RawFd, terminal: u32) -> Option<bool> {
        let link = link_of(entry, thread, fd)?;
        let slave = match self {
            Input::Pipe { inode, .. } => return Some(link == format!("pipe:[{inode}]").as_bytes()),
            Input::Terminal(slave) => slave,
        };
        // Only what may be it is looked at: on a disk that does not answer, that would wait.
        let name = link.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let may_be = name == b"tty" || name == b"console" || name == slave.number.to_string().as_bytes();
        if !link.starts_with(b"/") || !may_be {
            return Some(false);
        }
        let file = fs::metadata(format!("/proc/{entry}/task/{thread}/fd/{fd}")).ok()?;
        if !file.file_type().is_char_device() {
            return Some(false);
        }
        // /dev/tty is the controlling terminal of the process that has opened it, which is not shown: another
        // process may have left the session since.
        if file.rdev() == libc::makedev(5, 0) {
            return (terminal == slave.number_in_stat()).then_some(true);
        }
        let is_slave =
            file.rdev() == slave.device && slave.file.is_none_or(|slave| slave == (file.dev(), file.ino()));
        Some(is_slave)
    }
}

#[cfg(test)]
mod tests;
