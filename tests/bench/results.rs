//! What was measured, as a Markdown table and as JSON.

use crate::growth::Growth;
use crate::stats::median;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Everything one run measured.
pub struct Results {
    pub machine: String,
    /// The name of the server that the ratios speak for.
    pub server: String,
    /// The name of the server it is compared with.
    pub reference: Option<String>,
    /// What else has to be said, a sentence each.
    pub notes: Vec<String>,
    pub figures: Vec<Figure>,
    pub growth: Vec<Growth>,
}

/// One line of the table.
pub struct Figure {
    pub row: String,
    pub title: String,
    pub metric: String,
    pub unit: String,
    pub more_is_better: bool,
    /// Whether the picture shows it too.
    pub drawn: bool,
    /// A value for each pair; none where the row failed.
    pub server: Vec<f64>,
    pub reference: Vec<f64>,
    pub floor: Vec<f64>,
}

/// Ratios of pairs: their median, and the lowest and highest.
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Figure {
    /// How many times better the server is than the reference.
    pub fn against_reference(&self) -> Option<Spread> {
        self.compare(&self.server, &self.reference)
    }

    /// How near the server comes to the floor, where 1 is as good as no server at all.
    pub fn against_floor(&self) -> Option<Spread> {
        self.compare(&self.server, &self.floor)
    }

    /// How near the reference comes to the floor.
    pub fn reference_against_floor(&self) -> Option<Spread> {
        self.compare(&self.reference, &self.floor)
    }

    fn compare(&self, these: &[f64], others: &[f64]) -> Option<Spread> {
        let ratios: Vec<f64> = these
            .iter()
            .zip(others)
            .map(|(own, other)| {
                if self.more_is_better {
                    own / other
                } else {
                    other / own
                }
            })
            .filter(|ratio| ratio.is_finite())
            .collect();
        if ratios.is_empty() {
            return None;
        }
        Some(Spread {
            median: median(&ratios),
            low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            high: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

impl Results {
    pub fn markdown(&self) -> String {
        let mut text = format!("Measured on {}.\n", self.machine);
        if !self.figures.is_empty() {
            self.table(&mut text);
        }
        for growth in &self.growth {
            growth.markdown(&mut text);
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    fn table(&self, text: &mut String) {
        let server = &self.server;
        let mut head = format!("\n| what | figure | {server} |");
        let mut rule = "| --- | --- | ---: |".to_owned();
        if let Some(reference) = &self.reference {
            let _ = write!(head, " {reference} | times better (spread) |");
            rule.push_str(" ---: | ---: |");
        }
        head.push_str(" floor | share of floor (spread) |");
        rule.push_str(" ---: | ---: |");
        let _ = writeln!(text, "{head}\n{rule}");
        for figure in &self.figures {
            let _ = write!(
                text,
                "| {} | {}, {} | {} |",
                figure.title,
                figure.metric,
                figure.unit,
                value(median(&figure.server), !figure.server.is_empty())
            );
            if self.reference.is_some() {
                let _ = write!(
                    text,
                    " {} | {} |",
                    value(median(&figure.reference), !figure.reference.is_empty()),
                    figure
                        .against_reference()
                        .map_or("n/a".to_owned(), |spread| format!(
                            "**{}** ({}–{})",
                            digits(spread.median),
                            digits(spread.low),
                            digits(spread.high)
                        ))
                );
            }
            // A figure without a floor has NaN for one.
            let floor = median(&figure.floor);
            let share = figure.against_floor();
            let _ = writeln!(
                text,
                " {} | {} |",
                if floor.is_finite() {
                    digits(floor)
                } else {
                    "—".to_owned()
                },
                share.map_or("—".to_owned(), |spread| format!(
                    "{} % ({}–{})",
                    digits(spread.median * 100.0),
                    digits(spread.low * 100.0),
                    digits(spread.high * 100.0)
                ))
            );
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "machine": self.machine,
            "server": self.server,
            "reference": self.reference,
            "notes": self.notes,
            "figures": self.figures.iter().map(|figure| json!({
                "row": figure.row,
                "title": figure.title,
                "metric": figure.metric,
                "unit": figure.unit,
                "moreIsBetter": figure.more_is_better,
                "drawn": figure.drawn,
                "server": figure.server,
                "reference": figure.reference,
                "floor": figure.floor,
            })).collect::<Vec<Value>>(),
            "growth": self.growth.iter().map(Growth::to_json).collect::<Vec<Value>>(),
        })
    }

    pub fn from_json(value: &Value) -> Self {
        Self {
            machine: text(&value["machine"]),
            server: text(&value["server"]),
            reference: value["reference"].as_str().map(str::to_owned),
            notes: list(&value["notes"], text),
            figures: list(&value["figures"], |figure| Figure {
                row: text(&figure["row"]),
                title: text(&figure["title"]),
                metric: text(&figure["metric"]),
                unit: text(&figure["unit"]),
                more_is_better: figure["moreIsBetter"].as_bool().unwrap_or(true),
                drawn: figure["drawn"].as_bool().unwrap_or(true),
                server: list(&figure["server"], number),
                reference: list(&figure["reference"], number),
                floor: list(&figure["floor"], number),
            }),
            growth: list(&value["growth"], Growth::from_json),
        }
    }
}

/// A number with three digits that matter, and thousands apart.
pub fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    if decimals > 0 || plain.len() <= 3 {
        return plain;
    }
    let mut apart = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at) % 3 == 0 && !apart.ends_with('-') {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

pub fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(item).collect()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A number; JSON has none for NaN and writes null.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn value(median: f64, measured: bool) -> String {
    if measured {
        digits(median)
    } else {
        "n/a".to_owned()
    }
}
