//! What sandboxes and older kernels refuse together, as far as a filter can imitate it.
//!
//! A filter can answer an error to a call, and look at the arguments that are numbers. It cannot ignore a
//! flag, as kernels before 5.2 ignore `CLONE_PIDFD`, so that is refused where it would be ignored; and
//! `/proc` is as the machine has it.

use std::ffi::OsStr;
use std::process::Command;

use super::{Rule, When, under};

/// A sandbox or a kernel by what it refuses.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    pub name: &'static str,
    /// What it is, for the table.
    pub about: &'static str,
    rules: &'static [Rule],
    /// The backend that is chosen under it.
    pub backend: &'static str,
    /// The members of `guarantees` that are false under it.
    pub not_guaranteed: &'static [&'static str],
}

/// The last call of Linux 4.18, `io_pgetevents` or `rseq`; the next one is `pidfd_send_signal`, and has come
/// with 5.1.
const FIRST_NEWER: u32 = 335;

const LINUX: &str = "linux";

const CLONE: u32 = libc::SYS_clone as u32;
const CLONE3: u32 = libc::SYS_clone3 as u32;
const WAITID: u32 = libc::SYS_waitid as u32;
const PRCTL: u32 = libc::SYS_prctl as u32;

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;
const EINVAL: u32 = libc::EINVAL as u32;

const fn calls(first: u32, last: u32, errno: u32) -> Rule {
    Rule {
        first,
        last,
        argument: 0,
        when: When::Always,
        errno,
    }
}

const fn call(number: libc::c_long, errno: u32) -> Rule {
    calls(number as u32, number as u32, errno)
}

const fn flag(number: u32, argument: u32, when: When) -> Rule {
    Rule {
        first: number,
        last: number,
        argument,
        when,
        errno: EINVAL,
    }
}

/// Not known, so refused and not ignored.
const CLONE_PIDFD: Rule = flag(CLONE, 0, When::HasBits(libc::CLONE_PIDFD.cast_unsigned()));
const WAIT_FOR_PIDFD: Rule = flag(WAITID, 0, When::Is(libc::P_PIDFD));

/// Every profile.
pub const ALL: &[Profile] = &[
    Profile {
        name: "four-enosys",
        about: "`clone3`, `pidfd_open`, `pidfd_send_signal` and `close_range` answered with `ENOSYS`",
        rules: &[
            call(libc::SYS_clone3, ENOSYS),
            call(libc::SYS_pidfd_open, ENOSYS),
            call(libc::SYS_pidfd_send_signal, ENOSYS),
            call(libc::SYS_close_range, ENOSYS),
        ],
        backend: LINUX,
        not_guaranteed: &[],
    },
    Profile {
        name: "four-eperm",
        about: "the same with `EPERM`",
        rules: &[
            call(libc::SYS_clone3, EPERM),
            call(libc::SYS_pidfd_open, EPERM),
            call(libc::SYS_pidfd_send_signal, EPERM),
            call(libc::SYS_close_range, EPERM),
        ],
        backend: LINUX,
        not_guaranteed: &[],
    },
    Profile {
        name: "docker-old",
        about: "Docker's profile before 20.10.10: `EPERM` for every call that Linux 4.18 did not have",
        rules: &[calls(FIRST_NEWER, u32::MAX, EPERM)],
        backend: LINUX,
        not_guaranteed: &[],
    },
    Profile {
        name: "linux-4.18",
        about: "the kernel of RHEL 8: every newer call answered with `ENOSYS`, newer flags with `EINVAL`",
        rules: &[
            calls(FIRST_NEWER, u32::MAX, ENOSYS),
            CLONE_PIDFD,
            WAIT_FOR_PIDFD,
            flag(PRCTL, 0, When::From(54)),
            flag(libc::SYS_madvise as u32, 2, When::From(20)),
            flag(libc::SYS_mremap as u32, 3, When::HasBits(4)),
        ],
        backend: LINUX,
        not_guaranteed: &[],
    },
    Profile {
        name: "gvisor",
        about: "gVisor before it had pidfds: `ENOSYS` for these and what it lacks besides, `EINVAL` for the flags",
        rules: &[
            call(libc::SYS_pidfd_send_signal, ENOSYS),
            call(libc::SYS_pidfd_open, ENOSYS),
            call(libc::SYS_pidfd_getfd, ENOSYS),
            call(libc::SYS_process_madvise, ENOSYS),
            calls(libc::SYS_epoll_pwait2 as u32 + 1, u32::MAX, ENOSYS),
            CLONE_PIDFD,
            WAIT_FOR_PIDFD,
            call(libc::SYS_rseq, ENOSYS),
            call(libc::SYS_membarrier, ENOSYS),
            call(libc::SYS_copy_file_range, ENOSYS),
            call(libc::SYS_vmsplice, ENOSYS),
            call(libc::SYS_userfaultfd, ENOSYS),
            call(libc::SYS_kcmp, EPERM),
        ],
        backend: LINUX,
        not_guaranteed: &[],
    },
    Profile {
        name: "gvisor-old",
        about: "gVisor of 2019: none of the newer calls, and no child subreaper",
        rules: &[
            calls(FIRST_NEWER, u32::MAX, ENOSYS),
            CLONE_PIDFD,
            WAIT_FOR_PIDFD,
            call(libc::SYS_rseq, ENOSYS),
            call(libc::SYS_membarrier, ENOSYS),
            call(libc::SYS_copy_file_range, ENOSYS),
            call(libc::SYS_vmsplice, ENOSYS),
            flag(PRCTL, 0, When::Is(libc::PR_SET_CHILD_SUBREAPER as u32)),
        ],
        backend: LINUX,
        not_guaranteed: &["killsDaemonsAtEnd", "survivesServerKill"],
    },
    Profile {
        name: "no-vfork",
        about: "a child that shares memory: `EPERM` for `clone` with `CLONE_VFORK`, and no `clone3`",
        rules: &[
            call(libc::SYS_clone3, ENOSYS),
            Rule {
                errno: EPERM,
                ..flag(CLONE, 0, When::HasBits(libc::CLONE_VFORK.cast_unsigned()))
            },
        ],
        backend: "portable",
        not_guaranteed: &[],
    },
];

/// Behind the name of a profile: for programs of glibc; see [`Profile::command`].
pub const GLIBC: &str = ":glibc";

impl Profile {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Profile> {
        ALL.iter().find(|profile| profile.name == name).copied()
    }

    /// A program under it. For glibc `clone3` is answered with `ENOSYS`: with any other error it does not
    /// start its threads by `clone`.
    pub fn command(&self, program: impl AsRef<OsStr>, for_glibc: bool) -> Command {
        let clone3: &[Rule] = if for_glibc {
            &[calls(CLONE3, CLONE3, ENOSYS)]
        } else {
            &[]
        };
        under(&[clone3, self.rules].concat(), program)
    }

    /// Whether no program of glibc can start a thread under it.
    pub fn refuses_threads_of_glibc(&self) -> bool {
        let first = self
            .rules
            .iter()
            .find(|rule| (rule.first..=rule.last).contains(&CLONE3));
        first.is_some_and(|rule| rule.errno != ENOSYS)
    }
}
