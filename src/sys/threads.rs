//! Threads that fail to start with an error, and never with a panic.
//!
//! **Thread:** starts them.
//! **Owns:** what a thread leaves, until it is joined.
//! **Never:** starts one with the memory that is kept for what cannot do without.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::panic::AssertUnwindSafe;
use std::ptr;
#[cfg(feature = "cli")]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};

use super::lock::{lock, wait};
#[cfg(feature = "cli")]
use super::memory::spare_memory;

/// The stack of a thread of which there are few: what the standard library gives one.
pub(crate) const THREAD_STACK_BYTES: usize = 2 * 1024 * 1024;
/// A stack for a thread that makes a system call or two.
#[cfg(target_os = "linux")]
pub(super) const SMALL_STACK: usize = 64 * 1024;

/// One of our threads. Dropped, it runs on by itself.
///
/// Not one of the standard library's: those map a stack for signals when they begin, and panic where
/// there is no memory for it. Of these, whatever is refused is an error of the start.
pub(crate) struct Thread<T>(Arc<Outcome<T>>);

/// What a thread leaves.
struct Outcome<T> {
    value: Mutex<Option<std::thread::Result<T>>>,
    left: Condvar,
}

type Body = Box<dyn FnOnce() + Send>;

/// What a thread begins with; a pointer to it has to fit into one word.
struct Beginning {
    name: [u8; 16],
    body: Body,
}

/// Starts a thread with a stack of so many bytes.
///
/// # Errors
///
/// Those of `pthread_create`, and `ENOMEM` where it would take the memory that is kept for what
/// cannot do without.
pub(crate) fn start_thread<T: Send + 'static>(
    name: &str,
    stack: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    // SAFETY: what it borrows lives for ever.
    unsafe { start_borrowing_thread(name, stack, body) }
}

/// Runs `body` on a thread of its own, and waits for it; the outer error is that of the start, the
/// inner one a panic.
pub(crate) fn on_thread<T: Send>(
    name: &str,
    stack: usize,
    body: impl FnOnce() -> T + Send,
) -> io::Result<std::thread::Result<T>> {
    // SAFETY: it is joined before anything it borrows can end.
    unsafe { start_borrowing_thread(name, stack, body) }.map(Thread::join)
}

/// The same for a thread that nothing waits for.
///
/// # Errors
///
/// As of [`start_thread`].
pub(crate) fn start_thread_unjoined(
    name: &str,
    stack: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let body = Box::new(move || drop(std::panic::catch_unwind(AssertUnwindSafe(body))));
    start(name, stack, body)
}

/// # Safety
///
/// What `body` borrows, and what it returns, lives until the thread has ended.
unsafe fn start_borrowing_thread<'a, T: Send + 'a>(
    name: &str,
    stack: usize,
    body: impl FnOnce() -> T + Send + 'a,
) -> io::Result<Thread<T>> {
    let outcome = Arc::new(Outcome {
        value: Mutex::new(None),
        left: Condvar::new(),
    });
    let its_outcome = Arc::clone(&outcome);
    let body: Box<dyn FnOnce() + Send + 'a> = Box::new(move || {
        let result = std::panic::catch_unwind(AssertUnwindSafe(body));
        *lock(&its_outcome.value) = Some(result);
        its_outcome.left.notify_all();
    });
    // SAFETY: only the lifetime changes, for which the caller answers.
    let body: Body = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + 'a>, Body>(body) };
    start(name, stack, body)?;
    Ok(Thread(outcome))
}

fn start(name: &str, stack: usize, body: Body) -> io::Result<()> {
    spare_memory()?;
    let beginning = Beginning {
        name: short_name(name),
        body,
    };
    let beginning = Box::into_raw(Box::new(beginning));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut id = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are made before they are used and destroyed once; `run_thread` takes the
    // beginning over if it is called, which it is exactly if the call succeeds.
    let error = unsafe {
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error == 0 {
            libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
            error =
                libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack.max(libc::PTHREAD_STACK_MIN));
            if error == 0 {
                error =
                    libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), run_thread, beginning.cast());
            }
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        error
    };
    if error != 0 {
        // SAFETY: from `into_raw` above, and it has not been taken.
        drop(unsafe { Box::from_raw(beginning) });
        return Err(io::Error::from_raw_os_error(error));
    }
    #[cfg(feature = "cli")]
    STARTED_ONE.store(true, Relaxed);
    Ok(())
}

/// The kernel keeps fifteen bytes of a name, and what is behind them is a NUL.
fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    short
}

/// Whether a thread was started here.
#[cfg(feature = "cli")]
static STARTED_ONE: AtomicBool = AtomicBool::new(false);

/// Whether there may be another thread than the main one.
#[cfg(feature = "cli")]
pub(super) fn has_started_one() -> bool {
    STARTED_ONE.load(Relaxed)
}

extern "C" fn run_thread(beginning: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `start` has made it for this call alone.
    let Beginning { name, body } = *unsafe { Box::from_raw(beginning.cast::<Beginning>()) };
    if let Ok(name) = CStr::from_bytes_until_nul(&name) {
        name_this_thread(name);
    }
    // It catches its panics. What the end of the thread's own values does may not unwind from here.
    body();
    ptr::null_mut()
}

impl<T> Thread<T> {
    /// Waits until it has done its work; an error is a panic. What the system still does to end it is
    /// not waited for, which may be refused.
    pub(crate) fn join(self) -> std::thread::Result<T> {
        let mut value = lock(&self.0.value);
        loop {
            match value.take() {
                Some(outcome) => return outcome,
                None => value = wait(&self.0.left, value),
            }
        }
    }
}

#[cfg(not(feature = "cli"))]
fn spare_memory() -> io::Result<()> {
    Ok(())
}

/// The name that `ps` shows; of the main thread, it is the process's. Started by way of `/proc`, it would
/// be `exe`. The kernel keeps fifteen bytes.
pub(crate) fn name_this_thread(name: &CStr) {
    // SAFETY: the calling thread's own name, a NUL-terminated string.
    #[cfg(not(target_vendor = "apple"))]
    unsafe {
        libc::pthread_setname_np(libc::pthread_self(), name.as_ptr())
    };
    // SAFETY: as above.
    #[cfg(target_vendor = "apple")]
    unsafe {
        libc::pthread_setname_np(name.as_ptr())
    };
}
