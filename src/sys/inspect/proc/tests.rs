//! Tests of what is read from the text of `/proc`.

use super::*;

#[test]
fn a_name_cannot_confuse_the_fields() {
    let line = b"42 (a) Z 1 (b)) S 7 8 9 34817 9 4194304 1 0 0 0 150 50 0 0 20 0 3 0 12345 9000 2 18";
    let facts = parse_stat(line).expect("well-formed");
    assert_eq!((facts.name.as_str(), facts.state), ("a) Z 1 (b)", 'S'));
    assert_eq!((facts.terminal, facts.threads), (34817, 3));
    assert!(facts.cpu > Duration::ZERO);
    assert!(facts.rss_bytes.is_some_and(|bytes| bytes >= 2 * 4096));
}

#[test]
fn no_memory_is_not_zero_bytes() {
    let line = b"42 (a) Z 7 8 9 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0 18";
    assert_eq!(parse_stat(line).expect("well-formed").rss_bytes, None);
}

#[test]
fn a_line_that_is_cut_is_nothing() {
    for line in [
        &b""[..],
        b"42",
        b"42 (a",
        b"42 (a)",
        b"42 (a) S 7 8 9 0 -1 4194304",
    ] {
        assert_eq!(parse_stat(line), None, "{line:?}");
    }
}

#[test]
fn only_a_call_with_its_arguments_is_one() {
    let parsed = |text: &[u8]| match Call::parse(text) {
        Parsed::Call(call) => format!("{} {:?}", call.number, call.arguments),
        Parsed::None => "none".to_owned(),
        Parsed::Unknown => "unknown".to_owned(),
    };
    assert_eq!(
        parsed(b"0 0x3 0xffffffffffffffff 0x1 0x0 0x0 0x0 0x7ffd 0x7fc3\n"),
        format!("0 {:?}", [3, u64::MAX, 1, 0, 0, 0])
    );
    assert_eq!(parsed(b"running\n"), "none");
    assert_eq!(parsed(b"-1 0x7ffd 0x7fc3\n"), "none");
    for odd in [
        &b""[..],
        b"walking",
        b"0 0x3",
        b"0 3 0 0 0 0 0",
        b"0 0x3 0xzz 0x0 0x0 0x0 0x0",
    ] {
        assert_eq!(parsed(odd), "unknown", "{odd:?}");
    }
}

#[test]
fn a_set_has_the_numbers_of_its_bits_below_the_count() {
    assert_eq!(descriptors(&[0b0000_0101, 0b1000_0000], 16), [0, 2, 15].into());
    assert_eq!(descriptors(&[0b0000_0101, 0b1000_0000], 15), [0, 2].into());
    assert_eq!(descriptors(&[], 0), [].into());
}

#[test]
fn the_number_of_a_terminal_is_the_one_of_stat() {
    for (number, expected) in [(0, 34816), (3, 34819), (256, 1_083_392), (1000, 3_180_776)] {
        let slave = Slave {
            number,
            device: libc::makedev(UNIX98_SLAVES, number),
            file: None,
        };
        assert_eq!(slave.number_in_stat(), expected, "/dev/pts/{number}");
    }
}

#[test]
fn the_auxiliary_vector_tells_how_long_words_are() {
    let vector = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    // AT_SYSINFO_EHDR with an address; AT_HWCAP with bits.
    assert_eq!(word_bits(&vector(&[33, 0, 0xf7fc_9000, 0x7ffd])), Some(64));
    assert_eq!(word_bits(&vector(&[32, 0xf7f1_8570, 33, 0xf7f1_8000])), Some(32));
    assert_eq!(word_bits(&vector(&[16, 0x178b_fbff, 6, 4096])), Some(32));
    assert_eq!(word_bits(&vector(&[33])), None);
    assert_eq!(word_bits(&[]), None);
    assert_eq!(
        word_bits(&fs::read("/proc/self/auxv").expect("it is there")),
        Some(usize::BITS)
    );
}
