//! The protocol as a machine reads it: JSON Schema of every message, and OpenRPC of every method.
//!
//! **Thread:** the caller's; pure functions.
//! **Owns:** the documents; what the types alone do not say is in `members.rs`.
//! **Never:** describes by hand a method that has a row in `methods.rs`, or a member that a type has.
//!
//! Two contracts meet here. What a client sends is described as the server reads it: a member that
//! may be left out is optional. What the server sends is described as it is written: a member that
//! is always there is required. A test sends the server what stands on either side of every border,
//! and compares.

mod members;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

pub(crate) use members::*;

use crate::wire::methods::METHODS;
use crate::wire::notifications::{ExitedForm, OutputDeltaForm};
use crate::wire::protocol::{RequestId, RpcError, code, notification};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
const OPENRPC: &str = "1.3.2";

/// Every error code, with when it is sent.
const CODES: [(i64, &str); 6] = [
    (
        code::PARSE_ERROR,
        "The message is not JSON or not UTF-8, or its headers are malformed.",
    ),
    (
        code::INVALID_REQUEST,
        "Not a request, or one that cannot be carried out now: a handle in use or not live, stdin closed.",
    ),
    (code::METHOD_NOT_FOUND, "The method is unknown."),
    (
        code::INVALID_PARAMS,
        "The params do not fit; the message names the member.",
    ),
    (
        code::INTERNAL_ERROR,
        "The operating system refused; for a spawn, data says why.",
    ),
    (
        code::OVERLOADED,
        "Too much stdin is pending already, or too many waits are.",
    ),
];

pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of the server, from its row in `methods.rs`.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    /// What its definitions are called.
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) params: SchemaOf,
    /// Whether a request without params is refused.
    pub(crate) has_params: bool,
    pub(crate) result: SchemaOf,
    /// The errors it can be answered with, beyond those of every method.
    pub(crate) errors: &'static [i64],
}

pub(crate) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// One notification of the server.
struct Notification {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    params: SchemaOf,
}

const NOTIFICATIONS: [Notification; 2] = [
    Notification {
        name: notification::OUTPUT_DELTA,
        title: "OutputDelta",
        about: "The next bytes of a stream, in order and without a gap.",
        params: of::<OutputDeltaForm<'_>>,
    },
    Notification {
        name: notification::EXITED,
        title: "Exited",
        about: "The last message on a handle: how its process exited.",
        params: of::<ExitedForm<'_>>,
    },
];

/// The JSON Schema (draft 2020-12) of every message, as one document. Point a validator at
/// `#/$defs/ClientMessage` for what a client sends, and at `#/$defs/ServerMessage` for what it gets.
///
/// ```
/// let schema = procwire::schema::json_schema();
/// assert!(schema["$defs"]["SpawnParams"]["properties"]["command"].is_object());
/// ```
#[must_use]
pub fn json_schema() -> Value {
    let mut sent = generator("/$defs", SchemaSettings::for_deserialize);
    let mut got = generator("/$defs", SchemaSettings::for_serialize);
    let mut messages = Map::new();

    let mut requests = Vec::new();
    let mut results = Vec::new();
    for method in METHODS {
        let mut required = vec!["id", "method"];
        if method.has_params {
            required.push("params");
        }
        let request = json!({
            "description": method.about.trim(),
            "type": "object",
            "properties": {
                "jsonrpc": { "$ref": "#/$defs/Version" },
                "id": sent.subschema_for::<RequestId>(),
                "method": { "const": method.name },
                "params": (method.params)(&mut sent),
            },
            "required": required,
        });
        define(
            &mut messages,
            &format!("{}Request", method.title),
            request,
            &mut requests,
        );
        let result = json!((method.result)(&mut got));
        if !results.contains(&result) {
            results.push(result);
        }
    }
    let ignored = json!({
        "description": "initialized is accepted and ignored, as is any other notification of a client.",
        "type": "object",
        "properties": {
            "jsonrpc": { "$ref": "#/$defs/Version" },
            "method": { "type": "string" },
        },
        "required": ["method"],
        "not": { "required": ["id"] },
    });
    define(&mut messages, "ClientNotification", ignored, &mut requests);

    let mut answers = Vec::new();
    let response = json!({
        "description": "The one answer to a request that succeeded.",
        "type": "object",
        "properties": {
            "jsonrpc": { "$ref": "#/$defs/Version" },
            "id": got.subschema_for::<RequestId>(),
            "result": { "anyOf": results },
        },
        "required": ["id", "result"],
    });
    define(&mut messages, "Response", response, &mut answers);
    let failure = json!({
        "description": "The one answer to a request that failed; the id is null where none could be read.",
        "type": "object",
        "properties": {
            "jsonrpc": { "$ref": "#/$defs/Version" },
            "id": got.subschema_for::<Option<RequestId>>(),
            "error": got.subschema_for::<RpcError>(),
        },
        "required": ["id", "error"],
    });
    define(&mut messages, "ErrorResponse", failure, &mut answers);
    for notification in &NOTIFICATIONS {
        let message = json!({
            "description": notification.about,
            "type": "object",
            "properties": {
                "jsonrpc": { "$ref": "#/$defs/Version" },
                "method": { "const": notification.name },
                "params": (notification.params)(&mut got),
            },
            "required": ["method", "params"],
        });
        let name = format!("{}Notification", notification.title);
        define(&mut messages, &name, message, &mut answers);
    }
    messages.insert(
        "Version".to_owned(),
        json!({
            "description": "May be left out. The server writes it exactly if the connection's first message carried it.",
            "const": "2.0",
        }),
    );
    messages.insert(
        "ClientMessage".to_owned(),
        json!({ "description": "What a client sends.", "anyOf": requests }),
    );
    messages.insert(
        "ServerMessage".to_owned(),
        json!({ "description": "What a client receives.", "anyOf": answers }),
    );
    messages.extend(definitions(sent));
    messages.extend(definitions(got));
    tell_ranges(json!({
        "$schema": DIALECT,
        "title": "procwire",
        "description": "Every message of procwire's protocol: ClientMessage is what a client sends, ServerMessage what it receives.",
        "anyOf": [{ "$ref": "#/$defs/ClientMessage" }, { "$ref": "#/$defs/ServerMessage" }],
        "$defs": messages,
    }))
}

/// The OpenRPC document of every method. OpenRPC has no notifications of a server; they stand under
/// `x-notifications`, in the form of methods.
///
/// ```
/// let document = procwire::schema::openrpc();
/// assert_eq!(document["openrpc"].as_str().map(|version| &version[..2]), Some("1."));
/// ```
#[must_use]
pub fn openrpc() -> Value {
    let mut sent = generator("/components/schemas", SchemaSettings::for_deserialize);
    let mut got = generator("/components/schemas", SchemaSettings::for_serialize);
    let methods: Vec<Value> = METHODS
        .iter()
        .map(|method| {
            let params = (method.params)(&mut sent);
            let errors = [code::INVALID_REQUEST, code::INVALID_PARAMS];
            let errors: Vec<Value> = CODES
                .iter()
                .filter(|(code, _)| errors.contains(code) || method.errors.contains(code))
                .map(|(code, message)| json!({ "code": code, "message": message }))
                .collect();
            json!({
                "name": method.name,
                "summary": method.about.trim(),
                "paramStructure": "by-name",
                "params": by_name(&params, sent.definitions(), tell_defaults),
                "x-params": params,
                "result": {
                    "name": format!("{}Result", method.title),
                    "schema": (method.result)(&mut got),
                },
                "errors": errors,
            })
        })
        .chain([json!({
            "name": "initialized",
            "summary": "A notification; accepted and ignored.",
            "params": [],
        })])
        .collect();
    let notifications: Vec<Value> = NOTIFICATIONS
        .iter()
        .map(|notification| {
            let params = (notification.params)(&mut got);
            json!({
                "name": notification.name,
                "summary": notification.about,
                "paramStructure": "by-name",
                "params": by_name(&params, got.definitions(), forget_defaults),
                "x-params": params,
            })
        })
        .collect();
    // What an error carries is in no method's result.
    got.subschema_for::<RpcError>();
    let mut schemas = definitions(sent);
    schemas.extend(definitions(got));
    tell_ranges(json!({
        "openrpc": OPENRPC,
        "info": {
            "title": "procwire",
            "version": env!("CARGO_PKG_VERSION"),
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "methods": methods,
        "x-notifications": notifications,
        "components": { "schemas": schemas },
    }))
}

/// What the width of a number means, as numbers: validators do not know its name, and some stop at it.
fn tell_ranges(mut schema: Value) -> Value {
    fn tell(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(tell),
            Value::Object(members) => {
                members.values_mut().for_each(tell);
                let range = match members.get("format").and_then(Value::as_str) {
                    Some("int32") => (json!(i32::MIN), json!(i32::MAX)),
                    Some("int64") => (json!(i64::MIN), json!(i64::MAX)),
                    Some("uint16") => (json!(u16::MIN), json!(u16::MAX)),
                    Some("uint32") => (json!(u32::MIN), json!(u32::MAX)),
                    Some("uint64") => (json!(u64::MIN), json!(u64::MAX)),
                    _ => return,
                };
                members.remove("format");
                members.entry("minimum").or_insert(range.0);
                members.entry("maximum").or_insert(range.1);
            }
            _ => {}
        }
    }
    tell(&mut schema);
    schema
}

fn generator(definitions: &'static str, contract: fn(SchemaSettings) -> SchemaSettings) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = definitions.into());
    contract(settings).into_generator()
}

fn definitions(mut generator: SchemaGenerator) -> Map<String, Value> {
    let mut definitions = generator.take_definitions(true);
    if generator.contract().is_deserialize() {
        definitions.values_mut().for_each(tell_defaults);
    } else {
        definitions.values_mut().for_each(forget_defaults);
    }
    definitions
}

/// A flag that is left out is false; all flags of the protocol are so.
fn tell_defaults(definition: &mut Value) {
    let required = definition.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|r| r.iter().any(|n| n == name));
    let Some(Value::Object(properties)) = definition.get_mut("properties") else {
        return;
    };
    for (name, property) in properties {
        if property["type"] == "boolean" && !is_required(name) {
            property["default"] = json!(false);
        }
    }
}

/// What the server sends is there; that our own client does without some of it does not matter here.
fn forget_defaults(definition: &mut Value) {
    if let Some(Value::Object(properties)) = definition.get_mut("properties") {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("default");
        }
    }
}

/// Adds a definition, and a reference to it to `list`.
fn define(definitions: &mut Map<String, Value>, name: &str, schema: Value, list: &mut Vec<Value>) {
    list.push(json!({ "$ref": format!("#/$defs/{name}") }));
    definitions.insert(name.to_owned(), schema);
}

/// The members of an object as OpenRPC lists the params of a method.
fn by_name(params: &Schema, definitions: &Map<String, Value>, put_defaults: fn(&mut Value)) -> Vec<Value> {
    let name = params.get("$ref").and_then(Value::as_str).unwrap_or_default();
    let object = name.rsplit('/').next().and_then(|name| definitions.get(name));
    let mut object = object.cloned().unwrap_or_default();
    put_defaults(&mut object);
    let required = object["required"].as_array().cloned().unwrap_or_default();
    let members = object["properties"].as_object().cloned().unwrap_or_default();
    let mut list: Vec<Value> = members
        .into_iter()
        .map(|(name, schema)| {
            json!({
                "name": name,
                "required": required.contains(&json!(name)),
                "schema": schema,
            })
        })
        .collect();
    // What must be there comes first, as OpenRPC wants it.
    list.sort_by_key(|member| member["required"] != json!(true));
    list
}
