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
    cols: usize,
    rows: usize,
    /// What the terminal showed, each with its time in seconds.
    events: Vec<(f64, String)>,
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
            // Keys, markers and changes of the size show nothing.
            if kind == "o" {
                events.push((now, data));
            }
        }
        Ok(Cast { cols, rows, events })
    }

    fn to_text(&self) -> String {
        let header = serde_json::json!({"version": 2, "width": self.cols, "height": self.rows});
        let mut text = format!("{header}\n");
        for (time, data) in &self.events {
            let millis = (time * 1000.0).round() / 1000.0;
            text.push_str(&format!("{}\n", serde_json::json!([millis, "o", data])));
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
