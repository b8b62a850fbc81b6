//! What a child may use: limits that it sets for itself between its birth and its exec.
//!
//! **Thread:** [`apply`] runs in the child, in the memory of its parent, whose thread waits.
//! **Owns:** nothing.
//! **Never:** allocates or locks in the child: it makes system calls and nothing else.

use std::ffi::CStr;

use super::child::{Step, child_errno};
use super::descriptors::at_most;

/// The file that holds how readily the kernel kills a process when memory runs out.
const OOM_SCORE_ADJ: &CStr = c"/proc/self/oom_score_adj";

/// One limit of a child.
#[derive(Debug)]
pub(crate) struct ChildLimit {
    /// What the caller calls it: an error gives it back.
    pub(crate) name: &'static str,
    pub(crate) setting: Setting,
}

#[derive(Debug)]
pub(crate) enum Setting {
    /// A resource of setrlimit(2), soft and hard alike.
    Resource(Resource, u64),
    /// The nice value.
    Nice(i32),
    /// A number as text, which a child cannot make.
    OomScoreAdj(String),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Resource {
    Cpu,
    FileSize,
    Data,
    Core,
    OpenFiles,
    Processes,
    Stack,
}

impl Resource {
    fn number(self) -> libc::c_int {
        let number = match self {
            Resource::Cpu => libc::RLIMIT_CPU,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::Stack => libc::RLIMIT_STACK,
        };
        // Of another type with each C library.
        number as libc::c_int
    }
}

/// Sets one limit for the calling process. Fails with the step and the number of the error.
pub(super) fn apply(setting: &Setting) -> Result<(), (Step, libc::c_int)> {
    match setting {
        Setting::Resource(resource, value) => {
            let limit = libc::rlimit {
                rlim_cur: at_most(*value, libc::RLIM_INFINITY),
                rlim_max: at_most(*value, libc::RLIM_INFINITY),
            };
            // SAFETY: an initialised struct.
            match unsafe { libc::setrlimit(resource.number() as _, &limit) } {
                0 => Ok(()),
                _ => Err((Step::SetLimit, child_errno())),
            }
        }
        Setting::Nice(nice) => {
            // SAFETY: no memory is involved.
            match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, *nice) } {
                0 => Ok(()),
                _ => Err((Step::SetPriority, child_errno())),
            }
        }
        Setting::OomScoreAdj(score) => write_oom_score_adj(score.as_bytes()),
    }
}

fn write_oom_score_adj(score: &[u8]) -> Result<(), (Step, libc::c_int)> {
    // SAFETY: a NUL-terminated string.
    let file = unsafe { libc::open(OOM_SCORE_ADJ.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Err((Step::OpenOomScore, child_errno()));
    }
    // SAFETY: valid for reads of that many bytes.
    let written = unsafe { libc::write(file, score.as_ptr().cast(), score.len()) };
    let result = match usize::try_from(written) {
        Ok(_) => Ok(()),
        Err(_) => Err((Step::WriteOomScore, child_errno())),
    };
    // SAFETY: opened here, in a table that is the child's own.
    unsafe { libc::close(file) };
    result
}
