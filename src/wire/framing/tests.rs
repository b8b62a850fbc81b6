//! Tests of the framing: whatever the reader cuts the input into, the messages are the same.

use super::*;

/// Gives its bytes in pieces of every small size.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(self.0.len()).min(buffer.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

/// What is seen of `input`: messages as they are, errors by their code.
fn split(input: &[u8], piece: usize, limit: usize) -> Vec<String> {
    let mut frames = Frames::new(Pieces(input, piece), limit);
    let mut seen = Vec::new();
    loop {
        match frames.next().expect("a slice does not fail") {
            Frame::Headers => seen.push("HEADERS".into()),
            Frame::Message(message) => seen.push(String::from_utf8_lossy(message).into_owned()),
            Frame::Invalid(error) => seen.push(error.code.to_string()),
            Frame::End => return seen,
        }
    }
}

/// The same however it is cut.
#[track_caller]
fn assert_split(input: impl AsRef<[u8]>, limit: usize, expected: &[&str]) {
    // Each begins with a buffer that Miri clears byte by byte.
    let sizes = (1..40).step_by(if cfg!(miri) { 13 } else { 1 });
    for piece in sizes.chain([input.as_ref().len().max(1)]) {
        assert_eq!(
            split(input.as_ref(), piece, limit),
            expected,
            "in pieces of {piece}"
        );
    }
}

#[test]
fn lines_come_whole_however_they_are_cut() {
    assert_split(
        "one\n\ntwo two\r\n \t\r\n\r\nlast",
        100,
        &["one", "two two", "last"],
    );
    assert_split("", 100, &[]);
    assert_split("\n", 100, &[]);
    assert_split("  \r\n one \n", 100, &[" one "]);
}

#[test]
fn a_line_over_the_limit_is_told_once_and_skipped() {
    assert_split(
        "12345\n123456\n1234567890123456789\nok\n123456",
        5,
        &["12345", "-32600", "-32600", "ok", "-32600"],
    );
    assert_split("\n     \n      \nok", 5, &["-32600", "ok"]);
}

#[test]
fn what_only_begins_like_a_header_is_a_line() {
    assert_split("content", 100, &["content"]);
    assert_split("Content Length: 2\nCo", 100, &["Content Length: 2", "Co"]);
    assert_split("{}\nContent-Length: 2\n", 100, &["{}", "Content-Length: 2"]);
}

#[test]
fn bodies_come_whole_however_they_are_cut() {
    assert_split(
        "Content-Length: 3\r\n\r\noneContent-Length: 0\r\n\r\ncOnTeNt-LENGTH:4  \r\n\r\nt\nwo",
        100,
        &["HEADERS", "one", "", "t\nwo"],
    );
    assert_split(
        "\r\n\nContent-Type: x; Charset=\"UTF-8\"\nX-Y:\nContent-Length: 3\nContent-Length: 03\n\none\r\n\r\n",
        100,
        &["HEADERS", "one"],
    );
    assert_split(
        "Content-Length: 1\r\nContent-Type: application/vscode-jsonrpc; charset=utf8\r\n\r\n1",
        100,
        &["HEADERS", "1"],
    );
}

#[test]
fn a_body_that_is_refused_is_told_once_and_skipped() {
    assert_split(
        "Content-Length: 6\r\n\r\n123456Content-Length: 5\r\n\r\n12345\nContent-Length: 6\r\n\r\n1",
        5,
        &["HEADERS", "-32600", "12345", "-32600"],
    );
    assert_split(
        "Content-Type: text; charset=utf-16\r\nContent-Length: 4\r\n\r\n1234Content-Length: 2\r\n\r\nok",
        5,
        &["HEADERS", "-32600", "ok"],
    );
    assert_split(
        "Content-Length: 18446744073709551615\r\n\r\n123",
        5,
        &["HEADERS", "-32600"],
    );
}

#[test]
fn an_input_that_ends_too_early_is_told() {
    assert_split("Content-Length: 6\r\n\r\n12345", 9, &["HEADERS", "-32700"]);
    assert_split("Content-Length: 6\r\n\r\n", 9, &["HEADERS", "-32700"]);
    assert_split("Content-Length: 6\r\n", 9, &["HEADERS", "-32700"]);
    assert_split("Content-Length: 6", 9, &["HEADERS", "-32700"]);
}

#[test]
fn behind_headers_that_are_none_the_next_length_counts() {
    let good = "Content-Length: 2\r\n\r\nok";
    for bad in [
        "Content-Type: x\r\n\r\n{}",
        "Content-Length\r\n\r\n{}",
        "Content-Length: \r\n\r\n{}",
        "Content-Length: -2\r\n\r\n{}",
        "Content-Length: 2x\r\n\r\n{}",
        "Content-Length: 18446744073709551616\r\n\r\n{}",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "Content-Length : 2\r\n\r\n{}",
        "Content-Length: 2\r\n folded\r\n\r\n{}",
        "Content-Ä: 2\r\n\r\n{}",
        // A body that is shorter than it is.
        "Content-Length: 0\r\n\r\n{}",
        "Content-Length: 0\r\n\r\n{\"a\":\"Content-Length: 2\"}",
    ] {
        let expected = match bad.contains(": 0") {
            true => &["HEADERS", "", "-32700", "ok", "ok"][..],
            false => &["HEADERS", "-32700", "ok", "ok"],
        };
        assert_split(format!("{bad}{good}{good}"), 100, expected);
    }
    // One that is longer swallows the next message, and no more.
    assert_split(
        format!("Content-Length: 7\r\n\r\n{{}}{good}{good}"),
        100,
        &["HEADERS", "{}Conte", "-32700", "ok"],
    );
}

#[test]
#[cfg_attr(miri, ignore = "megabytes take minutes there")]
fn endless_headers_are_not_stored() {
    let good = "Content-Length: 2\r\n\r\nok";
    for bad in [
        format!("Content-X: {}", "x".repeat(300_000)),
        format!("Content-X: {}\r\n", "x".repeat(300_000)),
        "Content-X: x\r\n".repeat(30_000),
    ] {
        let input = format!("{bad}{good}");
        for piece in [100, 5000, 1_000_000] {
            assert_eq!(
                split(input.as_bytes(), piece, 1 << 20),
                ["HEADERS", "-32700", "ok"]
            );
            let mut frames = Frames::new(Pieces(input.as_bytes(), piece), 1 << 20);
            while !matches!(frames.next(), Ok(Frame::End)) {}
            assert!(frames.buffer.len() <= 2 * READ_BYTES, "{}", frames.buffer.len());
        }
    }
}

#[test]
fn a_header_counts_the_bytes_of_its_message_alone() {
    for message in ["", "1", &"ü".repeat(5), &"x".repeat(1234)] {
        let mut out = b"before".to_vec();
        let start = out.len();
        out.extend_from_slice(message.as_bytes());
        put_header(&mut out, start);
        let expected = format!("beforeContent-Length: {}\r\n\r\n{message}", message.len());
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
