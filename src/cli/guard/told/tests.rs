//! Tests of what is told: the latest word for a pid counts, and a guard that does not read holds up nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::*;

fn record(what: What, pid: Pid, started: u64) -> Record {
    Record { what, pid, started }
}

fn told(detached: &[(Pid, u64)], leaders: &[(Pid, u64)]) -> Told {
    Told {
        detached: detached.iter().copied().collect(),
        leaders: leaders.iter().copied().collect(),
    }
}

/// A pipe that takes no more, and how many records it took: what a guard that has stopped leaves.
fn full_pipe() -> (OwnedFd, Teller, usize) {
    let (reader, writer) = sys::pipe().unwrap();
    sys::set_nonblocking(&reader).unwrap();
    let teller = Teller::new(writer).unwrap();
    let mut count = 0;
    let filler = record(What::Leads, 1, 1).to_bytes();
    while sys::write(teller.pipe.as_fd(), &filler).is_ok() {
        count += 1;
    }
    (reader, teller, count)
}

#[test]
fn a_record_survives_its_bytes() {
    for what in [What::Detached, What::Leads, What::Reaped] {
        let record = record(what, Pid::MAX, u64::MAX - 1);
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
    }
    assert_eq!(Record::from_bytes(&[0; RECORD_BYTES]), None);
}

#[test]
fn the_last_word_about_a_number_counts() {
    let mut all = Told::default();
    all.take(record(What::Leads, 20, 5));
    all.take(record(What::Leads, 30, 6));
    all.take(record(What::Detached, 40, 7));
    assert_eq!(all, told(&[(40, 7)], &[(20, 5), (30, 6)]));
    all.take(record(What::Reaped, 20, 5));
    // Recycled, each as the other.
    all.take(record(What::Detached, 30, 8));
    all.take(record(What::Leads, 40, 9));
    assert_eq!(all, told(&[(30, 8)], &[(40, 9)]));
}

#[test]
fn what_is_told_is_read() {
    let (reader, writer) = sys::pipe().unwrap();
    sys::set_nonblocking(&reader).unwrap();
    let teller = Teller::new(writer).unwrap();
    for pid in 2..500 {
        teller.tell(record(What::Leads, pid, 1));
    }
    for pid in 2..490 {
        teller.tell(record(What::Reaped, pid, 1));
    }
    let mut all = Told::default();
    all.read_from(&reader);
    assert_eq!(
        all.leaders.keys().copied().collect::<Vec<_>>(),
        Vec::from_iter(490..500)
    );
}

#[test]
fn a_guard_that_does_not_read_holds_no_thread_up_and_learns_it_later() {
    let (reader, teller, _) = full_pipe();
    teller.tell(record(What::Leads, 2, 1));
    // Far more than the pipe holds comes and goes, and none of it is kept.
    for pid in 10..100_000 {
        teller.tell(record(What::Leads, pid, 1));
        teller.tell(record(What::Reaped, pid, 1));
    }
    teller.tell(record(What::Detached, 3, 1));
    assert_eq!(sys::lock(&teller.ledger).pending.len(), 2);
    let mut all = Told::default();
    all.read_from(&reader);
    assert_eq!(all, told(&[], &[(1, 1)]));
    // The next one takes along what is left.
    teller.tell(record(What::Leads, 4, 1));
    all.read_from(&reader);
    assert_eq!(all, told(&[(3, 1)], &[(1, 1), (2, 1), (4, 1)]));
}

#[test]
fn a_leader_that_is_known_is_taken_back_when_there_is_room() {
    let (reader, writer) = sys::pipe().unwrap();
    sys::set_nonblocking(&reader).unwrap();
    let teller = Teller::new(writer).unwrap();
    teller.tell(record(What::Leads, 2, 1));
    while sys::write(teller.pipe.as_fd(), &record(What::Leads, 1, 1).to_bytes()).is_ok() {}
    teller.tell(record(What::Reaped, 2, 1));
    // Its number is given to another, which is reaped as well.
    teller.tell(record(What::Leads, 2, 9));
    teller.tell(record(What::Reaped, 2, 9));
    let mut all = Told::default();
    all.read_from(&reader);
    assert_eq!(all, told(&[], &[(1, 1), (2, 1)]));
    teller.tell(record(What::Leads, 3, 1));
    all.read_from(&reader);
    assert_eq!(all, told(&[], &[(1, 1), (3, 1)]));
}

#[test]
fn what_there_was_no_room_for_is_written_without_another_word_and_the_end_is_heard() {
    let (reader, teller, _) = full_pipe();
    let teller = Arc::new(teller);
    let heard = Arc::new(AtomicBool::new(false));
    let waiting = std::thread::spawn({
        let (teller, heard) = (Arc::clone(&teller), Arc::clone(&heard));
        move || {
            teller.until_guard_ends().unwrap();
            heard.store(true, SeqCst);
        }
    });
    teller.tell(record(What::Leads, 2, 7));
    let mut all = Told::default();
    while all.leaders.get(&2) != Some(&7) {
        assert!(!heard.load(SeqCst));
        sys::poll(&mut [PollFd::read(reader.as_raw_fd())], None).unwrap();
        all.read_from(&reader);
    }
    drop(reader);
    waiting.join().unwrap();
    // With no guard there is nothing to keep.
    teller.tell(record(What::Leads, 3, 1));
    assert!(sys::lock(&teller.ledger).pending.is_empty());
}
