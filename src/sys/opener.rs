//! Opening a file by a child with memory and descriptors of its own, which hands it over: for what waits in
//! `open` until another process has come, where no child can share our table of descriptors.
//!
//! **Thread:** the process thread of the child that the file is for, which waits at most until a deadline.
//! **Owns:** the child that opens.
//! **Never:** leaves it behind: it has ended and is reaped when a call returns. The end of the connection
//! kills it, and the end of the server does.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Instant;

use super::child::child_errno;
use super::close::close_all_above;
use super::descriptors::{above_stdio, set_close_on_exec};
use super::error::{check, check_size};
use super::exit::reap;
use super::open::{OPEN, OPEN_IN_TIME};
use super::poll::{PollFd, poll, readable_by};
use super::portable::fork_in_turn;
use super::signals::kill;
use super::spawn::{Birth, SpawnError};

/// Room for what comes along with a message, of which one descriptor takes a part.
type Control = [u64; 8];

/// Where the child has its end of the socket.
const SOCKET: RawFd = 3;

/// Two sockets, what is sent on one of which is received on the other.
pub(super) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so both are open, and nothing else owns them.
    let (ours, childs) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    for end in [&ours, &childs] {
        set_close_on_exec(end)?;
    }
    Ok((above_stdio(ours)?, above_stdio(childs)?))
}

/// Opens the file at `path`, as soon as that can be done, but not past `deadline`.
pub(super) fn open_by_child(
    path: &CStr,
    flags: libc::c_int,
    deadline: Option<Instant>,
    (ours, childs): (OwnedFd, OwnedFd),
    birth: &Birth,
) -> Result<OwnedFd, SpawnError> {
    let pid = match fork_in_turn(birth)? {
        0 => {
            open_in_child(path, flags, childs.as_raw_fd());
            // SAFETY: ends the child alone, and runs nothing of ours.
            unsafe { libc::_exit(0) }
        }
        pid => pid,
    };
    drop(childs);
    let waited = match deadline {
        Some(deadline) => readable_by(&ours, deadline),
        None => poll(&mut [PollFd::read(ours.as_raw_fd())], None).map(|()| true),
    };
    let in_time = waited.unwrap_or(false);
    if !in_time {
        let _ = kill(pid, libc::SIGKILL);
    }
    // From here on its pid is this thread's alone. It has been killed, or has nothing left to do.
    birth.runs();
    let _ = reap(pid);
    match receive(&ours) {
        Ok(Ok(fd)) => above_stdio(fd).map_err(|e| SpawnError::new("fcntl", e)),
        Ok(Err(error)) => Err(SpawnError::new(OPEN, error)),
        Err(_) if !in_time => {
            let late = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            Err(SpawnError::new(OPEN_IN_TIME, late))
        }
        Err(_) if birth.is_given_up() => {
            let given_up = io::Error::from_raw_os_error(libc::ECANCELED);
            Err(SpawnError::new(OPEN, given_up))
        }
        Err(error) => Err(SpawnError::new("recvmsg", error)),
    }
}

/// What the child does. It may only make system calls: no allocation, no lock, no panic.
fn open_in_child(path: &CStr, flags: libc::c_int, socket: RawFd) {
    // So that it does not wait on where this process is killed; macOS has no such call, and the guard does
    // it.
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is involved.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
    #[cfg(target_os = "freebsd")]
    let _ = super::freebsd::signal_at_parents_death(libc::SIGKILL);
    // No other descriptor of the server stays open meanwhile.
    // SAFETY: the table is the child's own.
    unsafe {
        if socket != SOCKET {
            libc::dup2(socket, SOCKET);
        }
        for fd in 0..SOCKET {
            libc::close(fd);
        }
    }
    close_all_above(SOCKET);
    // SAFETY: `path` is a NUL-terminated string, and a mode is given.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o666 as libc::c_uint) };
    send(if fd < 0 { Err(child_errno()) } else { Ok(fd) });
}

/// Sends the number of an error, which is 0 where a descriptor comes along.
fn send(opened: Result<RawFd, libc::c_int>) {
    let mut error = opened.err().unwrap_or(0);
    with_message(&mut error, |message| {
        match opened {
            // SAFETY: the message has room for what comes along, and more of it than this takes.
            Ok(fd) => unsafe {
                message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as libc::c_uint) as _;
                let header = libc::CMSG_FIRSTHDR(message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) as _;
                libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
            },
            Err(_) => {
                message.msg_control = ptr::null_mut();
                message.msg_controllen = 0;
            }
        }
        // SAFETY: a message whose parts live here.
        unsafe { libc::sendmsg(SOCKET, message, 0) };
    });
}

/// What the child has sent. The outer error says that it has sent nothing.
fn receive(ours: &OwnedFd) -> io::Result<io::Result<OwnedFd>> {
    let mut error = 0;
    let fd = with_message(&mut error, |message| -> io::Result<Option<RawFd>> {
        // SAFETY: a message whose parts live here.
        let n = check_size(unsafe { libc::recvmsg(ours.as_raw_fd(), message, libc::MSG_DONTWAIT) })?;
        if n != size_of::<libc::c_int>() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the kernel has filled the message; a header that is there is within it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            let has_fd = !header.is_null()
                && (*header).cmsg_level == libc::SOL_SOCKET
                && (*header).cmsg_type == libc::SCM_RIGHTS;
            Ok(has_fd.then(|| libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()))
        }
    })?;
    let Some(fd) = fd else {
        return Ok(Err(io::Error::from_raw_os_error(error)));
    };
    // SAFETY: the kernel has made it for this process, and nothing else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(set_close_on_exec(&fd).map(|()| fd))
}

/// A message with this number in it, and room for a descriptor.
fn with_message<T>(number: &mut libc::c_int, body: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let mut control: Control = [0; 8];
    let mut part = libc::iovec {
        iov_base: ptr::from_mut(number).cast(),
        iov_len: size_of::<libc::c_int>(),
    };
    let mut message = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: null pointers and zero lengths are valid.
    let message = unsafe { message.assume_init_mut() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    body(message)
}
