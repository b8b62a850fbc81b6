//! What `serve` can fail with.
//!
//! Three kinds of error are never mixed: the wire's ([`crate::wire::protocol::RpcError`]), which a client
//! gets; this one, which an embedder gets; and a channel whose other end is gone, which is an
//! end and not an error.

use std::fmt;
use std::io;

/// Why a connection could not be served at all.
///
/// Once it is served, whatever goes wrong with a process is reported to the client.
#[derive(Debug)]
pub struct Error(Box<Kind>);

#[derive(Debug)]
enum Kind {
    ChildrenIgnored,
    Thread { name: &'static str, source: io::Error },
    Stdio { source: io::Error },
}

impl Error {
    pub(crate) fn children_ignored() -> Self {
        Error(Box::new(Kind::ChildrenIgnored))
    }

    pub(crate) fn thread(name: &'static str, source: io::Error) -> Self {
        Error(Box::new(Kind::Thread { name, source }))
    }

    pub(crate) fn stdio(source: io::Error) -> Self {
        Error(Box::new(Kind::Stdio { source }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::ChildrenIgnored => f.write_str(
                "SIGCHLD is ignored in this program, so the kernel throws away how its children end; \
                 set it to its default before serving",
            ),
            Kind::Thread { name, .. } => {
                write!(f, "the thread {name} could not be started by pthread_create")
            }
            Kind::Stdio { .. } => f.write_str("standard input and output could not be taken over"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::ChildrenIgnored => None,
            Kind::Thread { source, .. } | Kind::Stdio { source } => Some(source),
        }
    }
}
