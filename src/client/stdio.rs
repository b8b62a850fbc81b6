//! Where the streams of a command go: the client's counterpart of [`std::process::Stdio`].
//!
//! **Thread:** whichever calls; plain data.
//! **Owns:** what was asked for.
//! **Never:** opens anything: the server does.

use std::path::{Path, PathBuf};

use super::Error;
use super::error::text;
use crate::wire::protocol::Redirect;

/// Where a stream of a process comes from or goes to, with the shape of [`std::process::Stdio`]. Files are
/// those of the server's machine, and their paths are absolute.
///
/// ```
/// # use procwire::client::{Client, Command, Stdio};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Client::in_process(procwire::Config::default())?;
/// # let directory = std::env::temp_dir().join(format!("procwire-stdio-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let log = directory.join("log");
/// let mut sort = Command::new("sort");
/// sort.stdin(Stdio::file("/etc/passwd")).stdout(Stdio::file(&log)).stderr(Stdio::null());
/// assert!(client.status(&sort)?.success());
/// assert!(std::fs::read_to_string(&log)?.contains("root:"));
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stdio(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Pipe,
    Null,
    File { path: PathBuf, append: bool },
}

impl Stdio {
    /// A pipe, whose other end is in [`Process`](super::Process). The default.
    ///
    /// ```
    /// # use procwire::client::{Command, Stdio};
    /// let mut command = Command::new("cat");
    /// command.stdout(Stdio::null()).stdout(Stdio::pipe()); // as it was
    /// ```
    #[must_use]
    pub fn pipe() -> Stdio {
        Stdio(Kind::Pipe)
    }

    /// `/dev/null`: an input without bytes, or an output that is discarded.
    ///
    /// ```
    /// # use procwire::client::{Command, Stdio};
    /// let mut command = Command::new("make");
    /// command.stdin(Stdio::null()).stdout(Stdio::null());
    /// ```
    #[must_use]
    pub fn null() -> Stdio {
        Stdio(Kind::Null)
    }

    /// The file at this path: as stdin it is read, and output replaces what is in it. It is made where
    /// there is none.
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Stdio {
        let path = path.as_ref().to_owned();
        let append = false;
        Stdio(Kind::File { path, append })
    }

    /// The file at this path, after whose end output goes. It is made where there is none.
    #[must_use]
    pub fn append(path: impl AsRef<Path>) -> Stdio {
        let path = path.as_ref().to_owned();
        let append = true;
        Stdio(Kind::File { path, append })
    }

    pub(super) fn is_pipe(&self) -> bool {
        self.0 == Kind::Pipe
    }

    /// What it is on the wire; `None` for a pipe, which is left out.
    pub(super) fn redirect(&self) -> Result<Option<Redirect>, Error> {
        Ok(match &self.0 {
            Kind::Pipe => None,
            Kind::Null => Some(Redirect::Null),
            Kind::File { path, append } => {
                let path = text("the path of a stream", path.as_os_str())?;
                Some(match append {
                    false => Redirect::file(path),
                    true => Redirect::append(path),
                })
            }
        })
    }
}
