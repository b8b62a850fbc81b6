//! Records the first minute of procwire, and draws recordings:
//!
//!     cargo run --example cast -- record docs/first-minute.cast
//!     cargo run --example cast -- draw docs/first-minute.cast > docs/first-minute.svg
//!
//! A recording is an asciicast, version 2, of this or any other program. The drawing is an SVG with
//! nothing but text and CSS animations, in the colours of a light or a dark page.

mod draw;
mod record;

use std::error::Error;

/// What was recorded.
struct Cast {
    /// At the beginning.
    cols: usize,
    rows: usize,
    /// Each with its time in seconds.
    events: Vec<(f64, Event)>,
}

enum Event {
    Output(String),
    /// Columns and rows from now on.
    Size(usize, usize),
}

impl Cast {
    fn parse(text: &str) -> Result<Cast, Box<dyn Error>> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let header: serde_json::Value = serde_json::from_str(lines.next().ok_or("it is empty")?)?;
        let number = |name: &str| header[name].as_u64().and_then(|n| usize::try_from(n).ok());
        if header["version"] != 2 {
            return Err("not an asciicast of version 2".into());
        }
        let (Some(cols), Some(rows)) = (number("width"), number("height")) else {
            return Err("it has no size".into());
        };
        let idle_limit = header["idle_time_limit"].as_f64().unwrap_or(f64::INFINITY);
        let (mut events, mut last, mut now) = (Vec::new(), 0.0, 0.0);
        for line in lines {
            let (time, kind, data): (f64, String, String) = serde_json::from_str(line)?;
            now += (time - last).clamp(0.0, idle_limit);
            last = time;
            match kind.as_str() {
                "o" => events.push((now, Event::Output(data))),
                "r" => {
                    let size = data
                        .split_once('x')
                        .and_then(|(cols, rows)| Some((cols.parse().ok()?, rows.parse().ok()?)));
                    let (cols, rows) = size.ok_or_else(|| format!("not a size: {data:?}"))?;
                    events.push((now, Event::Size(cols, rows)));
                }
                // Keys and markers show nothing.
                _ => {}
            }
        }
        Ok(Cast { cols, rows, events })
    }

    fn to_text(&self) -> String {
        let header = serde_json::json!({"version": 2, "width": self.cols, "height": self.rows});
        let mut text = format!("{header}\n");
        for (time, event) in &self.events {
            let time = (time * 1000.0).round() / 1000.0;
            let event = match event {
                Event::Output(text) => serde_json::json!([time, "o", text]),
                Event::Size(cols, rows) => serde_json::json!([time, "r", format!("{cols}x{rows}")]),
            };
            text.push_str(&format!("{event}\n"));
        }
        text
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["record", file] => std::fs::write(file, record::first_minute()?.to_text())?,
        ["draw", file] => {
            let text = std::fs::read_to_string(file)?;
            let svg = Cast::parse(&text).and_then(|cast| draw::svg(&cast));
            print!("{}", svg.map_err(|e| format!("{file}: {e}"))?);
        }
        _ => return Err("usage: cast record FILE | cast draw FILE".into()),
    }
    Ok(())
}
