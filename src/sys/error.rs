//! What a system call answers: errors, refusals, and their names.
//!
//! **Thread:** the caller's.
//! **Owns:** nothing.
//! **Never:** decides what to do about an error.

use std::io;

pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(super) fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the system does not have a call, or a sandbox does not allow it, whatever its arguments:
/// only then another way of doing the same is taken.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))
}

/// [`is_refused`], and also where a sandbox answers with an error that it chose itself. Only for calls
/// that the kernel answers so to nothing that is asked here, or where to ask in another way is harmless.
pub(crate) fn may_be_refused(error: &io::Error) -> bool {
    is_refused(error)
        || matches!(
            error.raw_os_error(),
            Some(libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP)
        )
}

/// The error of what this system does not have.
pub(super) fn unsupported() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSYS)
}

/// An error that says which call it is of. It no longer has its number.
pub(crate) fn named(call: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{call}: {error}"))
}

#[cfg(any(target_os = "linux", target_vendor = "apple", feature = "cli"))]
/// The spawn functions return the error instead of setting errno.
pub(super) fn spawn_check(error: libc::c_int) -> io::Result<()> {
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

macro_rules! names {
    ($($name:ident)*) => {
        [$((libc::$name, stringify!($name))),*]
    };
}

/// The symbolic name of an error number, such as `"ENOENT"`. Not every C library has them.
pub(crate) fn errno_name(errno: i32) -> String {
    let common = names! {
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK
        EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE
        EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM
        EREMOTE ENOLINK EPROTO EMULTIHOP EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE
        EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
        EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN
        ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS
        ESTALE EDQUOT ECANCELED EOWNERDEAD ENOTRECOVERABLE
    };
    #[cfg(target_os = "linux")]
    let others = names! {
        ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC
        EBADSLT EBFONT ENONET ENOPKG EADV ESRMNT ECOMM EDOTDOT ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD
        ELIBSCN ELIBMAX ELIBEXEC ERESTART ESTRPIPE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO ENOMEDIUM
        EMEDIUMTYPE ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED ERFKILL EHWPOISON ENOSTR ENODATA ETIME
        ENOSR
    };
    #[cfg(target_vendor = "apple")]
    let others = names! {
        ENOSTR ENODATA ETIME ENOSR ENOTSUP EPROCLIM EBADRPC ERPCMISMATCH EPROGUNAVAIL EPROGMISMATCH
        EPROCUNAVAIL EFTYPE EAUTH ENEEDAUTH EPWROFF EDEVERR EBADEXEC EBADARCH ESHLIBVERS EBADMACHO ENOATTR
        ENOPOLICY EQFULL
    };
    #[cfg(target_os = "freebsd")]
    let others = names! {
        EPROCLIM EBADRPC ERPCMISMATCH EPROGUNAVAIL EPROGMISMATCH EPROCUNAVAIL EFTYPE EAUTH ENEEDAUTH
        ENOATTR EDOOFUS ENOTCAPABLE ECAPMODE EINTEGRITY
    };
    let mut names = common.into_iter().chain(others);
    let name = names.find(|(number, _)| *number == errno);
    name.map_or_else(|| format!("E{errno}"), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod names {
    #[test]
    #[cfg(target_os = "linux")]
    fn every_error_of_linux_has_a_name() {
        let names: std::collections::HashSet<String> = (1..=133).map(super::errno_name).collect();
        // Two numbers mean nothing.
        assert_eq!(names.len(), 133);
        let unnamed = names.iter().filter(|name| name[1..].parse::<i32>().is_ok());
        assert_eq!(unnamed.count(), 2);
        assert_eq!(
            (super::errno_name(2), super::errno_name(41)),
            ("ENOENT".into(), "E41".into())
        );
    }
}
