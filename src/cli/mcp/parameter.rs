//! One parameter of a tool: its schema, and whether a value fits.
//!
//! **Thread:** `mcp`.
//! **Owns:** nothing.
//! **Never:** accepts a value that its schema refuses, or the reverse.

use serde_json::{Map, Value, json};

use crate::wire::message;
use crate::wire::protocol::LimitName;

/// The longest time that is taken, so that every clock can count it: ten years.
pub(super) const MAX_MS: i64 = 10 * 365 * 24 * 3600 * 1000;

/// One parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

/// What a parameter may be.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    /// With at least and at most so many characters.
    Text(usize, usize),
    Texts,
    Flag,
    Integer(i64, i64),
    /// Names and values, of which null unsets.
    Environment,
    OneOf(&'static [&'static str]),
    /// Names of limits, and integers.
    Limits,
    /// A name or a number.
    Signal,
}

pub(super) const fn optional(name: &'static str, takes: Takes, about: &'static str) -> Parameter {
    Parameter {
        name,
        takes,
        required: false,
        about,
    }
}

pub(super) const fn required(name: &'static str, takes: Takes, about: &'static str) -> Parameter {
    Parameter {
        name,
        takes,
        required: true,
        about,
    }
}

impl Parameter {
    /// As JSON Schema.
    pub(super) fn schema(&self) -> Value {
        let mut schema = self.takes.schema();
        schema["description"] = json!(self.about);
        schema
    }

    /// A whole number that is written with a fraction, as some clients do, is an integer.
    pub(super) fn normalize(&self, value: &mut Value) {
        match (self.takes, value) {
            (Takes::Integer(..) | Takes::Signal, value) => normalize_integer(value),
            (Takes::Limits, Value::Object(limits)) => limits.values_mut().for_each(normalize_integer),
            _ => {}
        }
    }

    /// What the value should have been, if it is not.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match self.takes {
            Takes::Text(least, most) => value
                .as_str()
                .is_some_and(|text| (least..=most).contains(&text.chars().count())),
            Takes::Texts => value.as_array().is_some_and(|texts| {
                texts.iter().all(Value::is_string) && texts.first().is_some_and(|program| program != "")
            }),
            Takes::Flag => value.is_boolean(),
            Takes::Integer(least, most) => is_integer(value, least, most),
            Takes::Limits => value.as_object().is_some_and(|limits| {
                limits.iter().all(|(name, value)| {
                    let limit = LimitName::ALL.into_iter().find(|limit| limit.name() == name);
                    let (least, most) = limit.map_or((0, -1), limit_range);
                    is_integer(value, least, most)
                })
            }),
            Takes::Environment => value
                .as_object()
                .is_some_and(|env| env.values().all(|value| value.is_string() || value.is_null())),
            Takes::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Takes::Signal => {
                value.is_string() || value.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
            }
        };
        match fits {
            true => Ok(()),
            false => Err(format!("{}, got {}", self.expected(), shortened(value))),
        }
    }

    fn expected(&self) -> String {
        match self.takes {
            Takes::Text(0, _) => "a string".to_owned(),
            Takes::Text(_, usize::MAX) => "a string that is not empty".to_owned(),
            Takes::Text(least, most) => format!("a string of {least} to {most} characters"),
            Takes::Texts => "an array of strings, the program first".to_owned(),
            Takes::Flag => "true or false".to_owned(),
            Takes::Integer(least, MAX_MS) => {
                format!("a number of milliseconds, an integer from {least} on")
            }
            Takes::Integer(least, i64::MAX) if least < 0 => "an integer".to_owned(),
            Takes::Integer(least, most) => format!("an integer from {least} to {most}"),
            Takes::Environment => "an object of strings, or null to unset".to_owned(),
            Takes::OneOf(words) => words.join(" or "),
            Takes::Limits => {
                let names = LimitName::ALL.map(LimitName::name).join(", ");
                format!("an object of integers that are in the range of their limit, by these names: {names}")
            }
            Takes::Signal => "the name or the number of a signal".to_owned(),
        }
    }
}

impl Takes {
    fn schema(self) -> Value {
        match self {
            Takes::Text(least, most) => {
                let mut schema = json!({"type": "string"});
                if least > 0 {
                    schema["minLength"] = json!(least);
                }
                if most < usize::MAX {
                    schema["maxLength"] = json!(most);
                }
                schema
            }
            Takes::Texts => json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            Takes::Flag => json!({"type": "boolean"}),
            Takes::Integer(least, most) => {
                let mut schema = json!({"type": "integer"});
                // Beyond that is what no client can write.
                if least > -i64::MAX {
                    schema["minimum"] = json!(least);
                }
                if most < MAX_MS {
                    schema["maximum"] = json!(most);
                }
                schema
            }
            Takes::Environment => {
                json!({"type": "object", "additionalProperties": {"type": ["string", "null"]}})
            }
            Takes::OneOf(words) => json!({"type": "string", "enum": words}),
            Takes::Limits => {
                let limits = LimitName::ALL.map(|limit| {
                    let (least, most) = limit_range(limit);
                    (limit.name().to_owned(), Takes::Integer(least, most).schema())
                });
                let limits: Map<String, Value> = limits.into_iter().collect();
                json!({"type": "object", "properties": limits, "additionalProperties": false})
            }
            Takes::Signal => json!({"type": ["string", "integer"]}),
        }
    }
}

/// The least and the most a limit may be.
fn limit_range(limit: LimitName) -> (i64, i64) {
    match limit {
        LimitName::Nice => (-20, 19),
        LimitName::OomScoreAdj => (-1000, 1000),
        _ => (0, i64::MAX),
    }
}

fn is_integer(value: &Value, least: i64, most: i64) -> bool {
    value.as_i64().is_some_and(|n| (least..=most).contains(&n))
}

/// To JSON Schema, 5.0 is an integer.
fn normalize_integer(value: &mut Value) {
    // All integers up to here are floating-point numbers as well.
    const MOST: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = value.as_f64()
        && value.is_f64()
        && number.fract() == 0.0
        && number.abs() <= MOST
    {
        *value = json!(number as i64);
    }
}

/// What a client has written, as an error quotes it.
pub(super) fn quoted(text: &str) -> String {
    shortened(&json!(text))
}

/// A value as an error quotes it.
fn shortened(value: &Value) -> String {
    const MOST: usize = 200;
    let text = message::json(value);
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
