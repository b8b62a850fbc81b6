//! Pictures of the results: the table as bars, the growth as curves.

use crate::growth::{FIGURES, Growth, Point};
use crate::results::{Figure, Results, Spread, digits};
use crate::stats::median;
use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};
use std::collections::BTreeSet;
use std::path::Path;

const INK: RGBColor = RGBColor(34, 34, 34);
const FADED: RGBColor = RGBColor(110, 110, 110);
const GRID: RGBColor = RGBColor(226, 226, 226);
const BETTER: RGBColor = RGBColor(20, 120, 130);
const WORSE: RGBColor = RGBColor(200, 85, 61);
const OTHER: RGBColor = RGBColor(176, 176, 176);

const WIDTH: i32 = 1270;

/// Draws the table: how many times better than the reference, how near to the floor.
pub fn table(results: &Results, path: &Path) -> Result<(), String> {
    const TOP: i32 = 118;
    const STEP: i32 = 42;
    let figures: Vec<&Figure> = results.figures.iter().filter(|figure| figure.drawn).collect();
    let bottom = TOP + STEP * figures.len() as i32;
    let canvas = Canvas::new(path, bottom + 44)?;
    let times = results.reference.is_some().then(|| Times::new(&figures));
    let shares = Shares {
        left: if times.is_some() { 850 } else { 440 },
        right: 1160,
    };

    canvas.bold(24, 32, &headline(results), 21)?;
    canvas.small(24, 56, &results.machine)?;
    if let (Some(times), Some(reference)) = (&times, &results.reference) {
        times.grid(&canvas, reference, TOP, bottom)?;
    }
    shares.grid(&canvas, results, TOP, bottom)?;
    for (index, figure) in figures.iter().enumerate() {
        let middle = TOP + STEP * index as i32 + STEP / 2;
        if index > 0 && figures[index - 1].row != figure.row {
            let y = middle - STEP / 2;
            canvas.line(&[(24, y), (WIDTH - 24, y)], GRID, 1)?;
        }
        let title = format!("{}: {}", figure.title.replace('`', ""), figure.metric);
        canvas.text(24, middle - 8, &title, 14, INK, HPos::Left)?;
        canvas.small(24, middle + 10, &absolute(results, figure))?;
        if let Some(times) = &times {
            times.bar(&canvas, figure, middle)?;
        }
        shares.bars(&canvas, figure, middle)?;
    }
    let foot =
        "Bars are medians of pairs measured in turn; whiskers reach from the lowest pair to the highest.";
    canvas.small(24, bottom + 24, foot)?;
    canvas.finish()
}

fn headline(results: &Results) -> String {
    match &results.reference {
        Some(reference) => format!(
            "{} next to {reference}, and next to no server at all",
            results.server
        ),
        None => format!("{} next to no server at all", results.server),
    }
}

/// The figures themselves, in words.
fn absolute(results: &Results, figure: &Figure) -> String {
    let mut parts = Vec::new();
    let sides = [
        (results.server.as_str(), &figure.server),
        (
            results.reference.as_deref().unwrap_or_default(),
            &figure.reference,
        ),
        ("floor", &figure.floor),
    ];
    for (name, values) in sides {
        let value = median(values);
        if value.is_finite() {
            parts.push(format!("{name} {} {}", digits(value), figure.unit));
        } else if values.is_empty() && !name.is_empty() && name != "floor" {
            parts.push(format!("{name} n/a"));
        }
    }
    parts.join(" · ")
}

/// The column of ratios to the reference, on a logarithmic scale.
struct Times {
    left: i32,
    right: i32,
    low: f64,
    high: f64,
}

impl Times {
    fn new(figures: &[&Figure]) -> Self {
        let mut scale = Self {
            left: 440,
            right: 750,
            low: 0.8,
            high: 2.0,
        };
        for spread in figures.iter().filter_map(|figure| figure.against_reference()) {
            scale.low = scale.low.min(spread.low * 0.9);
            scale.high = scale.high.max(spread.high * 1.1);
        }
        scale
    }

    fn x(&self, ratio: f64) -> i32 {
        let share = (ratio / self.low).ln() / (self.high / self.low).ln();
        self.left + (share * f64::from(self.right - self.left)).round() as i32
    }

    fn grid(&self, canvas: &Canvas<'_>, reference: &str, top: i32, bottom: i32) -> Result<(), String> {
        let title = format!("times better than {reference}");
        canvas.bold(self.left, top - 36, &title, 14)?;
        for tick in ticks(self.low, self.high) {
            let x = self.x(tick);
            canvas.line(&[(x, top), (x, bottom)], GRID, 1)?;
            let label = format!("{tick}×");
            canvas.text(x, top - 12, &label, 12, FADED, HPos::Center)?;
        }
        let one = self.x(1.0);
        canvas.line(&[(one, top), (one, bottom)], INK, 1)
    }

    fn bar(&self, canvas: &Canvas<'_>, figure: &Figure, middle: i32) -> Result<(), String> {
        let Some(Spread { median, low, high }) = figure.against_reference() else {
            return canvas.text(self.x(1.0) + 8, middle, "n/a", 13, FADED, HPos::Left);
        };
        let colour = if median >= 1.0 { BETTER } else { WORSE };
        let (from, to) = (self.x(median.min(1.0)), self.x(median.max(1.0)));
        canvas.rectangle((from, middle - 9), (to, middle + 9), colour)?;
        canvas.whisker(self.x(low), self.x(high), middle)?;
        let label = format!("{}×", digits(median));
        let x = self.x(high.max(1.0)) + 8;
        canvas.text(x, middle, &label, 14, INK, HPos::Left)
    }
}

/// The column of shares of the floor, from nothing to all of it.
struct Shares {
    left: i32,
    right: i32,
}

impl Shares {
    /// What is better than the floor ends a little behind it.
    fn x(&self, share: f64) -> i32 {
        self.left + (share.min(1.1) * f64::from(self.right - self.left)).round() as i32
    }

    fn grid(&self, canvas: &Canvas<'_>, results: &Results, top: i32, bottom: i32) -> Result<(), String> {
        let title = "share of what the machine does with no server";
        canvas.bold(self.left, top - 54, title, 14)?;
        let mut x = self.left;
        for (name, colour) in [
            (Some(&results.server), BETTER),
            (results.reference.as_ref(), OTHER),
        ] {
            let Some(name) = name else { continue };
            canvas.rectangle((x, top - 41), (x + 12, top - 29), colour)?;
            canvas.text(x + 18, top - 35, name, 12, FADED, HPos::Left)?;
            x += 44 + 8 * name.chars().count() as i32;
        }
        for percent in [0, 25, 50, 75, 100] {
            let x = self.x(f64::from(percent) / 100.0);
            let colour = if percent % 100 == 0 { INK } else { GRID };
            canvas.line(&[(x, top), (x, bottom)], colour, 1)?;
            let label = format!("{percent} %");
            canvas.text(x, top - 12, &label, 12, FADED, HPos::Center)?;
        }
        Ok(())
    }

    fn bars(&self, canvas: &Canvas<'_>, figure: &Figure, middle: i32) -> Result<(), String> {
        let Some(Spread { median, low, high }) = figure.against_floor() else {
            let why = if figure.server.is_empty() {
                "n/a"
            } else {
                "no floor"
            };
            return canvas.text(self.left + 8, middle, why, 13, FADED, HPos::Left);
        };
        let reference = figure.reference_against_floor();
        let (top, bottom) = match reference {
            Some(_) => (middle - 12, middle + 4),
            None => (middle - 9, middle + 9),
        };
        canvas.rectangle((self.left, top), (self.x(median), bottom), BETTER)?;
        if let Some(reference) = &reference {
            let end = (self.x(reference.median), middle + 13);
            canvas.rectangle((self.left, middle + 6), end, OTHER)?;
        }
        let centre = top + (bottom - top) / 2;
        canvas.whisker(self.x(low), self.x(high), centre)?;
        let label = format!("{} %", digits(median * 100.0));
        let x = self.x(high) + 8;
        canvas.text(x, centre, &label, 14, INK, HPos::Left)
    }
}

/// Draws the growth: a panel for each figure, a curve for each server.
pub fn growth(results: &Results, path: &Path) -> Result<(), String> {
    const TOP: i32 = 110;
    const PANEL: (i32, i32) = (400, 290);
    let canvas = Canvas::new(path, TOP + 2 * PANEL.1 + 30)?;
    let title = "What many live processes cost: each figure over the number of idle processes, logarithmic";
    canvas.bold(24, 32, title, 20)?;
    canvas.small(24, 56, &results.machine)?;
    let mut x = 24;
    for (series, colour) in coloured(&results.growth) {
        canvas.rectangle((x, 74), (x + 22, 78), colour)?;
        let name = if series.is_floor() {
            "no server"
        } else {
            &series.name
        };
        canvas.text(x + 30, 76, name, 14, INK, HPos::Left)?;
        x += 60 + 9 * name.chars().count() as i32;
    }
    for (index, (name, unit)) in FIGURES.iter().enumerate() {
        let (column, row) = ((index % 3) as i32, (index / 3) as i32);
        let left = 24 + column * PANEL.0;
        let top = TOP + row * PANEL.1;
        let comma = if unit.is_empty() { "" } else { ", " };
        canvas.bold(left, top, &format!("{name}{comma}{unit}"), 14)?;
        let frame = (left + 52, top + 18, left + PANEL.0 - 30, top + PANEL.1 - 52);
        match Panel::new(&results.growth, index, frame) {
            Some(panel) => panel.draw(&canvas, &results.growth, index)?,
            None => canvas.text(left + 52, top + 40, "n/a", 13, FADED, HPos::Left)?,
        }
    }
    canvas.finish()
}

fn coloured(growth: &[Growth]) -> impl Iterator<Item = (&Growth, RGBColor)> {
    let mut colours = [BETTER, WORSE].into_iter().cycle();
    growth.iter().map(move |series| {
        let colour = if series.is_floor() {
            FADED
        } else {
            colours.next().unwrap_or(INK)
        };
        (series, colour)
    })
}

/// One figure over the number of live processes, both logarithmic.
struct Panel {
    frame: (i32, i32, i32, i32),
    live: (f64, f64),
    values: (f64, f64),
}

impl Panel {
    fn new(growth: &[Growth], index: usize, frame: (i32, i32, i32, i32)) -> Option<Self> {
        let points = || growth.iter().flat_map(|series| &series.points);
        let values: Vec<f64> = points()
            .map(|point| point.values[index])
            .filter(|value| *value > 0.0)
            .collect();
        let live: Vec<f64> = points()
            .map(|point| point.live as f64)
            .filter(|live| *live > 0.0)
            .collect();
        let range = |values: &[f64]| {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(0.0, f64::max);
            (low, high)
        };
        if values.is_empty() || live.is_empty() {
            return None;
        }
        let (low, high) = range(&values);
        let (fewest, most) = range(&live);
        Some(Self {
            frame,
            live: (fewest, most.max(fewest * 10.0)),
            // At least a decade, so that noise does not look like a slope.
            values: (low.min(high / 10.0) * 0.8, high * 1.25),
        })
    }

    fn x(&self, live: f64) -> i32 {
        let share = (live / self.live.0).ln() / (self.live.1 / self.live.0).ln();
        self.frame.0 + (share * f64::from(self.frame.2 - self.frame.0)).round() as i32
    }

    fn y(&self, value: f64) -> i32 {
        let share = (value / self.values.0).ln() / (self.values.1 / self.values.0).ln();
        self.frame.3 - (share * f64::from(self.frame.3 - self.frame.1)).round() as i32
    }

    fn draw(&self, canvas: &Canvas<'_>, growth: &[Growth], index: usize) -> Result<(), String> {
        let (left, top, right, bottom) = self.frame;
        for tick in ticks(self.values.0, self.values.1) {
            let y = self.y(tick);
            canvas.line(&[(left, y), (right, y)], GRID, 1)?;
            let label = short(tick);
            canvas.text(left - 6, y, &label, 12, FADED, HPos::Right)?;
        }
        let measured: BTreeSet<u64> = growth
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.live))
            .filter(|live| *live > 0)
            .collect();
        for live in measured {
            let x = self.x(live as f64);
            canvas.line(&[(x, top), (x, bottom)], GRID, 1)?;
            let label = short(live as f64);
            canvas.text(x, bottom + 12, &label, 12, FADED, HPos::Center)?;
        }
        canvas.line(&[(left, bottom), (right, bottom)], FADED, 1)?;
        for (series, colour) in coloured(growth) {
            let value = |point: &Point| Some(point.values[index]).filter(|value| *value > 0.0);
            if series.is_floor() {
                // A floor has no number of live processes: it is a level.
                for floor in series.points.iter().filter_map(value) {
                    let y = self.y(floor);
                    for x in (left..right).step_by(12) {
                        canvas.line(&[(x, y), ((x + 6).min(right), y)], colour, 2)?;
                    }
                }
                continue;
            }
            let points: Vec<(i32, i32)> = series
                .points
                .iter()
                .filter_map(|point| Some((self.x(point.live as f64), self.y(value(point)?))))
                .collect();
            canvas.line(&points, colour, 3)?;
            for point in points {
                canvas.dot(point, colour)?;
            }
        }
        Ok(())
    }
}

/// The round numbers within a range; fewer of each decade where there are many decades.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = match (high / low).log10() {
        decades if decades <= 1.4 => &[1.0, 2.0, 5.0],
        decades if decades <= 2.2 => &[1.0, 3.0],
        _ => &[1.0],
    };
    (-3..10)
        .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)))
        // Powers of ten below one are not exact, and their labels should be.
        .map(|tick| (tick * 1000.0).round() / 1000.0)
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

fn short(tick: f64) -> String {
    if tick >= 1000.0 {
        format!("{}k", tick / 1000.0)
    } else {
        tick.to_string()
    }
}

/// The size that makes the SVG backend write `size`: it takes a size for a font's whole height.
fn em(size: i32) -> f64 {
    f64::from(size) * 1.24
}

/// An SVG file and the few things that are drawn in it.
struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl<'a> Canvas<'a> {
    fn new(path: &'a Path, height: i32) -> Result<Self, String> {
        let size = (WIDTH as u32, height.unsigned_abs());
        let area = SVGBackend::new(path, size).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        Ok(Self { area })
    }

    fn finish(&self) -> Result<(), String> {
        self.area.present().map_err(|error| error.to_string())
    }

    fn text(
        &self,
        x: i32,
        y: i32,
        text: &str,
        size: i32,
        colour: RGBColor,
        side: HPos,
    ) -> Result<(), String> {
        let style = TextStyle::from(("sans-serif", em(size)).into_font()).color(&colour);
        self.write(x, y, text, style.pos(Pos::new(side, VPos::Center)))
    }

    fn small(&self, x: i32, y: i32, text: &str) -> Result<(), String> {
        self.text(x, y, text, 12, FADED, HPos::Left)
    }

    fn bold(&self, x: i32, y: i32, text: &str, size: i32) -> Result<(), String> {
        let font = ("sans-serif", em(size)).into_font().style(FontStyle::Bold);
        let style = TextStyle::from(font).color(&INK);
        self.write(x, y, text, style.pos(Pos::new(HPos::Left, VPos::Center)))
    }

    fn write(&self, x: i32, y: i32, text: &str, style: TextStyle<'_>) -> Result<(), String> {
        self.area
            .draw(&Text::new(text.to_owned(), (x, y), style))
            .map_err(|error| error.to_string())
    }

    fn rectangle(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<(), String> {
        let style = ShapeStyle::from(&colour).filled();
        self.area
            .draw(&Rectangle::new([from, to], style))
            .map_err(|error| error.to_string())
    }

    fn line(&self, points: &[(i32, i32)], colour: RGBColor, width: u32) -> Result<(), String> {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        self.area
            .draw(&PathElement::new(points.to_vec(), style))
            .map_err(|error| error.to_string())
    }

    fn dot(&self, at: (i32, i32), colour: RGBColor) -> Result<(), String> {
        let style = ShapeStyle::from(&colour).filled();
        self.area
            .draw(&Circle::new(at, 4, style))
            .map_err(|error| error.to_string())
    }

    /// From the lowest to the highest, with an end at either side.
    fn whisker(&self, low: i32, high: i32, y: i32) -> Result<(), String> {
        self.line(&[(low, y), (high, y)], INK, 1)?;
        self.line(&[(low, y - 3), (low, y + 3)], INK, 1)?;
        self.line(&[(high, y - 3), (high, y + 3)], INK, 1)
    }
}
