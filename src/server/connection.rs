//! A connection: where requests come from and answers go to.
//!
//! **Thread:** built by the caller; `serve` takes it apart.
//! **Owns:** the two ends of an in-memory connection, or the reader and writer of any other.
//! **Never:** reads or writes by itself; that is the work of `transport.rs`.

use std::fmt;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::outbox::costs::INBOX_MESSAGES;
use crate::outbox::{NoMessage, Notice, Outbox, OutboxReceiver, outbox};
use crate::server::transport::{Inbound, Io};
use crate::wire::message::ClientMessage;
use crate::wire::protocol::{Request, RequestId, ServerMessage};

/// One client's connection, to be given to [`serve`](crate::serve).
pub struct Connection {
    pub(crate) kind: Kind,
    pub(crate) notices: Receiver<Notice>,
    pub(crate) notify: Sender<Notice>,
}

pub(crate) enum Kind {
    Memory {
        inbox: Receiver<Inbound>,
        outbox: Outbox,
    },
    /// Bytes on both ways, which two threads make messages of.
    Lines(Io),
}

impl Connection {
    /// A connection inside this program: typed messages that carry raw bytes, with neither JSON nor
    /// base64 in between. Give the first half to [`serve`](crate::serve) on a thread of its own and
    /// keep the other.
    ///
    /// ```
    /// # use procwire::protocol::{Request, ServerMessage};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, mut client) = Connection::memory();
    /// let server = std::thread::spawn(move || serve(connection, Config::default()));
    /// client.send(1, Request::List)?;
    /// assert!(matches!(client.recv()?, ServerMessage::Response { .. }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory() -> (Connection, ClientEnd) {
        let (notify, notices) = unbounded();
        let (sender, inbox) = bounded(INBOX_MESSAGES);
        let (outbox, receiver) = outbox(notify.clone());
        let connection = Connection {
            kind: Kind::Memory { inbox, outbox },
            notices,
            notify,
        };
        let client = ClientEnd {
            sender: ClientSender(sender),
            receiver: ClientReceiver(receiver),
        };
        (connection, client)
    }

    /// JSON-RPC over any reader and writer, as lines or with headers: the client's first bytes decide.
    ///
    /// `serve` starts a thread for each. They end with their ends: the reader's at end of input, the
    /// writer's when everything is written. Where a connection is stopped from inside and the reader
    /// keeps waiting, its thread waits on after `serve` has returned, until the reader ends.
    ///
    /// ```
    /// # use procwire::{Config, Connection, End, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let requests = &b"{\"id\":1,\"method\":\"process/list\"}\n"[..];
    /// assert_eq!(serve(Connection::from_io(requests, std::io::sink()), Config::default())?, End::InputEnded);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_io(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Connection {
        let (notify, notices) = unbounded();
        Connection {
            kind: Kind::Lines(Io::Any {
                reader: Box::new(reader),
                writer: Box::new(writer),
            }),
            notices,
            notify,
        }
    }

    /// The same over this program's stdin and stdout, which nothing else may use meanwhile.
    ///
    /// Reads and writes descriptors 0 and 1 themselves, in blocking or non-blocking mode as they
    /// are, and notices a client that has closed its end even while nothing is written.
    ///
    /// ```no_run
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), procwire::Error> {
    /// serve(Connection::stdio(), Config::default())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdio() -> Connection {
        let (notify, notices) = unbounded();
        Connection {
            kind: Kind::Lines(Io::Stdio),
            notices,
            notify,
        }
    }

    /// Something that ends this connection from another thread, for example at a signal.
    ///
    /// ```
    /// # use procwire::{Config, Connection, End, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, _client) = Connection::memory();
    /// let stopper = connection.stopper();
    /// let server = std::thread::spawn(move || serve(connection, Config::default()));
    /// stopper.stop();
    /// assert_eq!(server.join().expect("serve does not panic")?, End::Stopped);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stopper(&self) -> Stopper {
        Stopper(self.notify.clone())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Memory { .. } => "Connection(memory)",
            Kind::Lines(Io::Any { .. }) => "Connection(io)",
            Kind::Lines(Io::Stdio) => "Connection(stdio)",
        })
    }
}

/// Ends a connection: see [`Connection::stopper`].
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Notice>);

impl Stopper {
    /// Asks for the end of the connection: every process is killed, what is known is sent, and
    /// `serve` returns. Returns at once; a second call changes nothing.
    ///
    /// ```
    /// # use procwire::{Config, Connection, End, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, _client) = Connection::memory();
    /// let stopper = connection.stopper();
    /// stopper.stop();
    /// stopper.stop(); // changes nothing
    /// assert_eq!(serve(connection, Config::default())?, End::Stopped);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self) {
        let _ = self.0.send(Notice::Stop);
    }
}

/// The client's end of a connection in memory. Dropping it ends the connection.
#[derive(Debug)]
pub struct ClientEnd {
    sender: ClientSender,
    receiver: ClientReceiver,
}

impl ClientEnd {
    /// Sends a request: see [`ClientSender::send`].
    ///
    /// ```
    /// # use procwire::protocol::{Request, ServerMessage, SpawnParams};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, mut client) = Connection::memory();
    /// let server = std::thread::spawn(move || serve(connection, Config::default()));
    /// client.send(1, Request::Spawn(Box::new(SpawnParams {
    ///     command: vec!["echo".into(), "hi".into()],
    ///     process_handle: "a".into(),
    ///     ..SpawnParams::default()
    /// })))?;
    /// assert!(matches!(client.recv()?, ServerMessage::Response { outcome: Ok(_), .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionEnded`] if the server has ended the connection.
    pub fn send(&self, id: impl Into<RequestId>, request: Request) -> Result<(), ConnectionEnded> {
        self.sender.send(id, request)
    }

    /// Waits for the next message: see [`ClientReceiver::recv`].
    ///
    /// ```
    /// # use procwire::protocol::{Request, ServerMessage};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, mut client) = Connection::memory();
    /// let server = std::thread::spawn(move || serve(connection, Config::default()));
    /// client.send(7, Request::List)?;
    /// let ServerMessage::Response { id, outcome } = client.recv()? else { panic!("nothing else was asked for") };
    /// assert_eq!((id, outcome.is_ok()), (Some(7.into()), true));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionEnded`] if the server has ended the connection.
    pub fn recv(&mut self) -> Result<ServerMessage, ConnectionEnded> {
        self.receiver.recv()
    }

    /// Waits no longer than `timeout`: see [`ClientReceiver::recv_timeout`].
    ///
    /// ```
    /// # use procwire::{Config, Connection, serve};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, mut client) = Connection::memory();
    /// let server = std::thread::spawn(move || serve(connection, Config::default()));
    /// assert!(client.recv_timeout(Duration::from_millis(1))?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionEnded`] if the server has ended the connection.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<ServerMessage>, ConnectionEnded> {
        self.receiver.recv_timeout(timeout)
    }

    /// The two halves, for two threads. Dropping the sender is the end of input.
    ///
    /// ```
    /// # use procwire::protocol::{Request, ServerMessage};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, client) = Connection::memory();
    /// std::thread::spawn(move || serve(connection, Config::default()));
    /// let (sender, mut receiver) = client.split();
    /// let sending = std::thread::spawn(move || sender.send(1, Request::List));
    /// assert!(matches!(receiver.recv()?, ServerMessage::Response { .. }));
    /// sending.join().expect("it does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(self) -> (ClientSender, ClientReceiver) {
        (self.sender, self.receiver)
    }
}

/// The half of a [`ClientEnd`] that sends requests.
#[derive(Debug, Clone)]
pub struct ClientSender(Sender<Inbound>);

impl ClientSender {
    /// Sends a request. Waits while the server is busy with earlier ones, which it is only for long
    /// if answers are not received: receive on another thread, or before sending tens of thousands.
    ///
    /// ```
    /// # use procwire::protocol::{Request};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, client) = Connection::memory();
    /// std::thread::spawn(move || serve(connection, Config::default()));
    /// let (sender, receiver) = client.split();
    /// let other = sender.clone();
    /// sender.send(1, Request::List)?;
    /// other.send(2, Request::List)?;
    /// drop((sender, other)); // the end of input
    /// assert_eq!(receiver.count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionEnded`] if the server has ended the connection.
    pub fn send(&self, id: impl Into<RequestId>, request: Request) -> Result<(), ConnectionEnded> {
        let message = ClientMessage::Request {
            id: id.into(),
            request,
        };
        self.0
            .send(Inbound::Message(message, None))
            .map_err(|_| ConnectionEnded)
    }
}

/// The half of a [`ClientEnd`] that receives what the server sends.
pub struct ClientReceiver(OutboxReceiver);

impl ClientReceiver {
    /// Waits for the next message.
    ///
    /// ```
    /// # use procwire::protocol::{Request, ServerMessage};
    /// # use procwire::{Config, Connection, serve};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, client) = Connection::memory();
    /// std::thread::spawn(move || serve(connection, Config::default()));
    /// let (sender, mut receiver) = client.split();
    /// sender.send(1, Request::List)?;
    /// assert!(matches!(receiver.recv()?, ServerMessage::Response { .. }));
    /// drop(sender); // the end of input
    /// assert!(receiver.recv().is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionEnded`] if the server has ended the connection.
    pub fn recv(&mut self) -> Result<ServerMessage, ConnectionEnded> {
        match self.0.next(None) {
            Ok(outgoing) => Ok(outgoing.into_message()),
            Err(NoMessage::Ended | NoMessage::NotYet) => Err(ConnectionEnded),
        }
    }

    /// Waits for the next message, but no longer than `timeout`; `None` if there was none.
    ///
    /// ```
    /// # use procwire::{Config, Connection, serve};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (connection, client) = Connection::memory();
    /// std::thread::spawn(move || serve(connection, Config::default()));
    /// let (sender, mut receiver) = client.split();
    /// assert!(receiver.recv_timeout(Duration::from_millis(1))?.is_none());
    /// drop(sender); // the end of input
    /// assert!(receiver.recv_timeout(Duration::from_secs(10)).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionEnded`] if the server has ended the connection.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<ServerMessage>, ConnectionEnded> {
        let deadline = Instant::now().checked_add(timeout);
        match self.0.next(deadline) {
            Ok(outgoing) => Ok(Some(outgoing.into_message())),
            Err(NoMessage::NotYet) => Ok(None),
            Err(NoMessage::Ended) => Err(ConnectionEnded),
        }
    }
}

impl Iterator for ClientReceiver {
    type Item = ServerMessage;

    fn next(&mut self) -> Option<ServerMessage> {
        self.recv().ok()
    }
}

impl fmt::Debug for ClientReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientReceiver")
    }
}

/// The server has ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionEnded;

impl fmt::Display for ConnectionEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server has ended the connection")
    }
}

impl std::error::Error for ConnectionEnded {}
