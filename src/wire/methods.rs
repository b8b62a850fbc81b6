//! The methods, one row each, and all that follows from a row.
//!
//! **Thread:** none of its own.
//! **Owns:** the name of every method, and which params and which result belong to it.
//! **Never:** knows what a member means, or what a method does.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::ser::{Serialize, Serializer};

use crate::wire::message::params;
use crate::wire::protocol::{
    CloseOutputParams, InitializeParams, InitializeReply, InspectParams, Inspection, KillParams, ListReply,
    NoParams, ResizePtyParams, RpcError, SpawnParams, SpawnReply, WaitParams, WaitReply, WriteStdinParams,
    code, shortened,
};
use crate::wire::results::Done;

/// What is asked of the params of every method.
pub(crate) trait Params: Serialize + DeserializeOwned {
    /// The process that the request is for. Requests for one process are done in their order.
    fn handle(&self) -> Option<&str> {
        None
    }

    /// How many bytes they hold while the request waits. The bytes of a write do not count here: they are
    /// pending stdin already.
    fn cost(&self) -> usize {
        self.handle().map_or(0, str::len)
    }
}

/// What is larger than all others, so that a request that is handed on is small.
impl<P: Params> Params for Box<P> {
    fn handle(&self) -> Option<&str> {
        P::handle(self)
    }

    fn cost(&self) -> usize {
        P::cost(self)
    }
}

/// One method, as its row says.
pub(crate) trait Method {
    /// Its name on the wire.
    const NAME: &'static str;
    type Params: Params;
    /// What it is answered with, as a client reads it.
    type Result: DeserializeOwned;

    fn request(params: Self::Params) -> Request;

    /// `None` if this is the reply to a method with another result.
    fn result(reply: Reply) -> Option<Self::Result>;
}

/// What a row has, or else what is meant where it has nothing.
macro_rules! or {
    (type [$given:ty] $default:ty) => {
        $given
    };
    (type [] $default:ty) => {
        $default
    };
    ([$given:expr] $default:expr) => {
        $given
    };
    ([] $default:expr) => {
        $default
    };
}

/// A row is `NAME VARIANT(params: PARAMS) -> RESULT, or ERROR;`, where the params, the result and the errors
/// that only this method has may be left out.
macro_rules! methods {
    ($(
        $(#[doc = $about:literal])+
        $name:literal $variant:ident $(($params:ident: $form:ty))? $(-> $result:ty)? $(, or $error:ident)*;
    )+) => {
        /// A request of the client, one variant for each method.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Request {
            $(
                #[doc = concat!("`", $name, "`:")]
                $(#[doc = $about])+
                $variant $(($form))?,
            )+
        }

        /// What a request that succeeded is answered with.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Reply {
            $($(
                #[doc = concat!("To `", $name, "`.")]
                $variant($result),
            )?)+
            /// To every method whose answer has nothing to tell, `process/kill` for example: it is done.
            Done,
        }

        impl Serialize for Reply {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $($(Reply::$variant(reply) => <$result>::serialize(reply, serializer),)?)+
                    Reply::Done => Done {}.serialize(serializer),
                }
            }
        }

        impl Request {
            /// The request of a method with these params, which are one value of JSON.
            pub(crate) fn parse(method: &str, raw: Option<&str>) -> Result<Request, RpcError> {
                match method {
                    $($name => params(method, raw).map(<method::$variant as Method>::request),)+
                    _ => Err(RpcError::new(
                        code::METHOD_NOT_FOUND,
                        format!("unknown method {:?}", shortened(method)),
                    )),
                }
            }

            /// The name of its method.
            ///
            /// ```
            /// # use procwire::protocol::Request;
            /// assert_eq!(Request::List.method(), "process/list");
            /// ```
            #[must_use]
            pub fn method(&self) -> &'static str {
                match self {
                    $(Request::$variant { .. } => $name,)+
                }
            }

            /// The process that it is for.
            pub(crate) fn handle(&self) -> Option<&str> {
                match self {
                    $(Request::$variant $(($params))? => or!([$($params.handle())?] None),)+
                }
            }

            /// How many bytes its params hold: see [`Params::cost`].
            pub(crate) fn cost(&self) -> usize {
                match self {
                    $(Request::$variant $(($params))? => or!([$($params.cost())?] 0),)+
                }
            }
        }

        /// The params of a request in their wire form.
        pub(crate) struct ParamsOf<'a>(pub(crate) &'a Request);

        impl Serialize for ParamsOf<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    $(Request::$variant $(($params))? => {
                        or!([$($params)?] &NoParams {}).serialize(serializer)
                    })+
                }
            }
        }

        /// Each method as a type.
        pub(crate) mod method {
            $(
                #[derive(Debug)]
                pub(crate) struct $variant;
            )+
        }

        $(
            impl Method for method::$variant {
                const NAME: &'static str = $name;
                type Params = or!(type [$($form)?] NoParams);
                type Result = or!(type [$($result)?] Done);

                fn request(given: Self::Params) -> Request {
                    or!(
                        [$({ let $params = given; Request::$variant($params) })?]
                        { let NoParams {} = given; Request::$variant }
                    )
                }

                fn result(reply: Reply) -> Option<Self::Result> {
                    or!(
                        [$(match reply { Reply::$variant(reply) => Some::<$result>(reply), _ => None })?]
                        matches!(reply, Reply::Done).then_some(Done {})
                    )
                }
            }
        )+

        /// Each method for the schema.
        #[cfg(feature = "schema")]
        pub(crate) const METHODS: &[crate::wire::schema::Method] = &[$(
            crate::wire::schema::Method {
                name: $name,
                title: stringify!($variant),
                about: concat!($($about),+),
                params: crate::wire::schema::of::<or!(type [$($form)?] Option<NoParams>)>,
                has_params: !stringify!($($form)?).is_empty(),
                result: crate::wire::schema::of::<or!(type [$($result)?] Done)>,
                errors: &[$(code::$error),*],
            },
        )+];
    };
}

methods! {
    /// Optional handshake. The answer names the server, and every default and limit in force.
    "initialize" Initialize(params: InitializeParams) -> Box<InitializeReply>;
    /// Starts a program. Answered once it runs; process/exited follows when it has exited.
    "process/spawn" Spawn(params: Box<SpawnParams>) -> SpawnReply, or INTERNAL_ERROR;
    /// Writes to the stdin of a program, or closes it. Answered at once while little is pending.
    "process/writeStdin" WriteStdin(params: WriteStdinParams), or OVERLOADED;
    /// Changes the size of a terminal.
    "process/resizePty" ResizePty(params: ResizePtyParams), or INTERNAL_ERROR;
    /// Signals a process, or kills it with everything it has started.
    "process/kill" Kill(params: KillParams);
    /// Closes the reading end of a program's output.
    "process/closeOutput" CloseOutput(params: CloseOutputParams);
    /// Answered when the first of some conditions holds.
    "process/wait" Wait(params: WaitParams) -> WaitReply, or OVERLOADED;
    /// Lists the running processes.
    "process/list" List -> ListReply;
    /// Shows what a process does, and whether it waits for input.
    "process/inspect" Inspect(params: InspectParams) -> Arc<Inspection>, or INTERNAL_ERROR;
}
