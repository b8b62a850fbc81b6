//! A recording as an SVG: each piece of text is drawn once, and an animation shows it as long as it was
//! on the screen.

use std::collections::BTreeMap;
use std::fmt::Write;

use avt::{Color, Pen, Terminal};

use crate::{Cast, Event};

/// Of one character, in user units.
const CELL_WIDTH: f64 = 8.4;
const CELL_HEIGHT: f64 = 20.0;
const BASELINE: f64 = 15.0;
const FONT_SIZE: u32 = 14;
const MARGIN: f64 = 14.0;
/// What happens within one frame is shown at its end.
const FRAME_SECONDS: f64 = 1.0 / 30.0;
/// How long the last frame stays before everything begins anew.
const END_SECONDS: f64 = 5.0;

/// Foreground, background, border, and the sixteen colours of a terminal.
const LIGHT: [&str; 19] = [
    "#1f2328", "#ffffff", "#d1d9e0", "#24292f", "#cf222e", "#116329", "#7d4e00", "#0969da", "#8250df",
    "#1b7c83", "#59636e", "#57606a", "#a40e26", "#1a7f37", "#633c01", "#218bff", "#a475f9", "#3192aa",
    "#818b98",
];
const DARK: [&str; 19] = [
    "#e6edf3", "#0d1117", "#30363d", "#6e7681", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff",
    "#39c5cf", "#b1bac4", "#8b949e", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd",
    "#ffffff",
];

/// What one cell shows. The default is an empty one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Look {
    character: char,
    /// How many columns it takes.
    width: usize,
    style: Style,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Style {
    fill: Option<Paint>,
    behind: Option<Paint>,
    classes: String,
}

/// A colour of the page, by its place in `LIGHT` and `DARK`, or one that is always the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Paint {
    Page(usize),
    Fixed(String),
}

const FOREGROUND: usize = 0;
const BACKGROUND: usize = 1;
const BORDER: usize = 2;
/// Of the first of the sixteen.
const INDEXED: usize = 3;

impl Paint {
    fn on<'a>(&'a self, page: &[&'a str; 19]) -> &'a str {
        match self {
            Paint::Page(place) => page[*place],
            Paint::Fixed(color) => color,
        }
    }
}

/// From one frame to another.
type Span = (u32, u32);

/// Text of one style on one row.
struct Run {
    row: usize,
    column: usize,
    columns: usize,
    text: String,
    style: Style,
}

fn paint(color: Color) -> Paint {
    Paint::Fixed(match color {
        Color::Indexed(index @ 0..16) => return Paint::Page(INDEXED + usize::from(index)),
        Color::Indexed(index @ 16..232) => {
            let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            let index = index - 16;
            format!(
                "#{:02x}{:02x}{:02x}",
                level(index / 36),
                level(index / 6 % 6),
                level(index % 6)
            )
        }
        Color::Indexed(index) => {
            let grey = 8 + 10 * (index - 232);
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
        Color::RGB(rgb) => format!("#{:02x}{:02x}{:02x}", rgb.r, rgb.g, rgb.b),
    })
}

fn style(pen: &Pen) -> Style {
    let (mut fill, mut behind) = (pen.foreground().map(paint), pen.background().map(paint));
    if pen.is_inverse() {
        let front = behind.unwrap_or(Paint::Page(BACKGROUND));
        behind = Some(fill.unwrap_or(Paint::Page(FOREGROUND)));
        fill = Some(front);
    }
    let classes = [
        (pen.is_bold(), "b"),
        (pen.is_faint(), "f"),
        (pen.is_italic(), "i"),
        (pen.is_underline(), "u"),
        (pen.is_strikethrough(), "s"),
    ];
    let classes: Vec<&str> = classes
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect();
    Style {
        fill,
        behind,
        classes: classes.join(" "),
    }
}

/// What is on the screen, row by row.
fn screen(terminal: &Terminal) -> Vec<Vec<Look>> {
    let lines = terminal.screen();
    let lines = lines.visible_lines().map(|line| {
        let cells = line.cells().iter().map(|cell| {
            let style = style(cell.pen());
            match cell.char() {
                // The second half of a wide one, or nothing to see.
                _ if cell.width() == 0 => Look::default(),
                ' ' if style.behind.is_none() => Look::default(),
                character => Look {
                    character,
                    width: cell.width().into(),
                    style,
                },
            }
        });
        cells.collect()
    });
    lines.collect()
}

/// Everything that was on the screen, by when it was, and where the cursor was from which frame on.
struct Frames {
    /// The most there were.
    cols: usize,
    rows: usize,
    frames: u32,
    runs: BTreeMap<Span, Vec<Run>>,
    cursor: Vec<(u32, Option<(usize, usize)>)>,
}

fn frames_of(cast: &Cast) -> Result<Frames, avt::InvalidSize> {
    let mut terminal = Terminal::new(cast.cols, cast.rows)?;
    let (mut cols, mut rows) = (cast.cols, cast.rows);
    for (_, event) in &cast.events {
        if let Event::Size(wide, high) = event {
            (cols, rows) = (cols.max(*wide), rows.max(*high));
        }
    }
    let mut shown = vec![vec![(Look::default(), 0); cols]; rows];
    let mut cells: BTreeMap<(Span, usize, usize), Look> = BTreeMap::new();
    let mut cursor = vec![(0, terminal.cursor().position())];
    let frame_of = |time: f64| (time / FRAME_SECONDS).ceil() as u32;
    let mut events = cast.events.iter().peekable();
    let mut last = 0;
    while let Some((time, event)) = events.next() {
        match event {
            Event::Output(text) => terminal.feed(text.as_str()),
            Event::Size(cols, rows) => terminal.resize(*cols, *rows),
        }
        let frame = frame_of(*time);
        if events.peek().is_some_and(|(next, _)| frame_of(*next) == frame) {
            continue;
        }
        last = frame;
        let screen = screen(&terminal);
        for (row, cells_of_row) in shown.iter_mut().enumerate() {
            for (column, (before, since)) in cells_of_row.iter_mut().enumerate() {
                // Where the terminal is smaller there is nothing.
                let look = screen
                    .get(row)
                    .and_then(|looks| looks.get(column))
                    .cloned()
                    .unwrap_or_default();
                if *before != look {
                    if *before != Look::default() && *since < frame {
                        cells.insert(((*since, frame), row, column), before.clone());
                    }
                    (*before, *since) = (look, frame);
                }
            }
        }
        let position = terminal.cursor().position();
        if cursor.last().is_none_or(|(_, before)| *before != position) {
            cursor.push((frame, position));
        }
    }
    let frames = last + (END_SECONDS / FRAME_SECONDS) as u32;
    for (row, looks) in shown.into_iter().enumerate() {
        for (column, (look, since)) in looks.into_iter().enumerate() {
            if look != Look::default() {
                cells.insert(((since, frames), row, column), look);
            }
        }
    }
    let mut runs: BTreeMap<Span, Vec<Run>> = BTreeMap::new();
    for ((span, row, column), look) in cells {
        let of_span = runs.entry(span).or_default();
        // A cell that stayed empty between words is part of the text.
        let joined = of_span.last_mut().filter(|run| {
            let gap = column.wrapping_sub(run.column + run.columns);
            run.row == row && run.style == look.style && (gap == 0 || gap == 1 && run.style.behind.is_none())
        });
        match joined {
            Some(run) => {
                if run.column + run.columns < column {
                    run.text.push(' ');
                    run.columns += 1;
                }
                run.text.push(look.character);
                run.columns += look.width;
            }
            None => of_span.push(Run {
                row,
                column,
                columns: look.width,
                text: look.character.to_string(),
                style: look.style,
            }),
        }
    }
    Ok(Frames {
        cols,
        rows,
        frames,
        runs,
        cursor,
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A number without what does not matter.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The rules for the colours of a page. Every renderer understands them, also one without variables.
fn rules(page: &[&str; 19], paints: &[Paint]) -> String {
    let (front, back, border) = (page[FOREGROUND], page[BACKGROUND], page[BORDER]);
    let mut rules = format!("text,.c{{fill:{front}}}.w{{fill:{back};stroke:{border}}}");
    for (number, paint) in paints.iter().enumerate() {
        rules.push_str(&format!(".p{number}{{fill:{}}}", paint.on(page)));
    }
    rules
}

/// The class of a paint; each that is used has one.
fn class_of(paint: &Paint, paints: &mut Vec<Paint>) -> String {
    let known = paints.iter().position(|known| known == paint);
    let number = known.unwrap_or_else(|| {
        paints.push(paint.clone());
        paints.len() - 1
    });
    format!("p{number}")
}

/// The recording as it goes by, again and again; where animations are not wanted, its last frame.
pub fn svg(cast: &Cast) -> Result<String, Box<dyn std::error::Error>> {
    let frames = frames_of(cast)?;
    let width = short(frames.cols as f64 * CELL_WIDTH + 2.0 * MARGIN);
    let height = short(frames.rows as f64 * CELL_HEIGHT + 2.0 * MARGIN);
    let percent = |frame: u32| short(100.0 * f64::from(frame) / f64::from(frames.frames));
    let left = |column: usize| short(MARGIN + column as f64 * CELL_WIDTH);
    let seconds = short(f64::from(frames.frames) * FRAME_SECONDS);

    let mut paints = Vec::new();
    let (mut keyframes, mut drawn) = (String::new(), String::new());
    for (number, ((from, to), runs)) in frames.runs.iter().enumerate() {
        let to_the_end = *to == frames.frames;
        if *from > 0 || !to_the_end {
            write!(
                keyframes,
                "@keyframes k{number}{{0%{{opacity:0}}{}%{{opacity:1}}",
                percent(*from)
            )?;
            if !to_the_end {
                write!(keyframes, "{}%{{opacity:0}}", percent(*to))?;
            }
            keyframes.push('}');
        }
        let shown = if to_the_end { "a z" } else { "a" };
        let name = format!(" style=\"animation-name:k{number}\"");
        // A piece of its own, as most keys are, needs nothing around it.
        let alone = matches!(runs.as_slice(), [run] if run.style.behind.is_none());
        if !alone {
            write!(drawn, "<g class=\"{shown}\"{name}>")?;
        }
        for run in runs {
            let run_width = short(run.columns as f64 * CELL_WIDTH);
            let (x, top) = (left(run.column), MARGIN + run.row as f64 * CELL_HEIGHT);
            if let Some(behind) = &run.style.behind {
                let (y, height) = (short(top), short(CELL_HEIGHT));
                let behind = class_of(behind, &mut paints);
                write!(
                    drawn,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{run_width}\" height=\"{height}\" class=\"{behind}\"/>"
                )?;
            }
            let mut classes = match alone {
                true => format!("{shown} {}", run.style.classes),
                false => run.style.classes.clone(),
            };
            if let Some(fill) = &run.style.fill {
                write!(classes, " {}", class_of(fill, &mut paints))?;
            }
            let class = match classes.trim() {
                "" => String::new(),
                classes => format!(" class=\"{classes}\""),
            };
            let name = if alone { name.as_str() } else { "" };
            // The columns stand below one another whatever font there is.
            let length = match run.columns {
                1 => String::new(),
                _ => format!(" textLength=\"{run_width}\""),
            };
            let y = short(top + BASELINE);
            let text = escaped(&run.text);
            write!(
                drawn,
                "<text{class}{name} x=\"{x}\" y=\"{y}\"{length}>{text}</text>"
            )?;
        }
        if !alone {
            drawn.push_str("</g>");
        }
    }
    keyframes.push_str("@keyframes c{");
    let place = |position: Option<(usize, usize)>| match position {
        Some((column, row)) => {
            let (x, y) = (short(column as f64 * CELL_WIDTH), short(row as f64 * CELL_HEIGHT));
            format!("transform:translate({x}px,{y}px)")
        }
        None => format!("transform:translate(-{width}px,0)"),
    };
    for (frame, position) in &frames.cursor {
        write!(keyframes, "{}%{{{}}}", percent(*frame), place(*position))?;
    }
    keyframes.push('}');
    let last_place = place(frames.cursor.last().and_then(|(_, position)| *position));

    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>A recording of a terminal</title>\n\
         <style>\n\
         {light}\n\
         @media(prefers-color-scheme:dark){{{dark}}}\n\
         text{{font:{FONT_SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace;\
         white-space:pre}}\n\
         .b{{font-weight:bold}}.f{{fill-opacity:.6}}.i{{font-style:italic}}\
         .u{{text-decoration:underline}}.s{{text-decoration:line-through}}\n\
         .a,.c{{animation:{seconds}s step-end infinite}}\
         .a{{opacity:0}}.z{{opacity:1}}.c{{animation-name:c;opacity:.5;{last_place}}}\n\
         @media(prefers-reduced-motion:reduce){{.a,.c{{animation:none}}}}\n\
         {keyframes}\n\
         </style>\n\
         <rect x=\".5\" y=\".5\" width=\"{inner_width}\" height=\"{inner_height}\" rx=\"8\" \
         class=\"w\"/>\n\
         {drawn}\n\
         <rect class=\"c\" x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{CELL_WIDTH}\" height=\"{CELL_HEIGHT}\"/>\n\
         </svg>\n",
        light = rules(&LIGHT, &paints),
        dark = rules(&DARK, &paints),
        inner_width = short(frames.cols as f64 * CELL_WIDTH + 2.0 * MARGIN - 1.0),
        inner_height = short(frames.rows as f64 * CELL_HEIGHT + 2.0 * MARGIN - 1.0),
    ))
}
