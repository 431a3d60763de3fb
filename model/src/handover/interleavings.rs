//! Exact snapshots, exhaustively: every small history, every way in which the snapshot is lost between its chunks (each key
//! a chunk of its own, read at any position), batches of one and of two changes that are committed together with what they owe, and
//! the loss of the snapshot on which owed rows were to be fetched, before the first of them and between two. From `consistent_from` on the
//! destination must equal the source at every single position.
//!
//! Between two batches nothing is remembered but the destination and the position: an applier that is killed goes on from there.
//!
//! Transactions of several changes are among these: the rules look at positions only where a snapshot lies, so a transaction of
//! two changes is a history in which no snapshot lies between them.

use super::exact::{Reshape, Span, Verdict, consistent_from};
use super::history::*;
use super::loss::{Chunk, Decision, Stage, Table, decide};
use super::tolerant::{Change, Owed};

/// Ways to get it wrong, each of which the check has to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    No,
    /// Changes up to the newest snapshot are dropped.
    DropAll,
    /// What a batch owes is not paid.
    ForgetOwed,
    /// A row that moves takes the unknown cells of whatever stands at its old key.
    TrustOldKey,
    /// Owed rows are fetched as they are by now, and the span is not widened.
    FetchLater,
    /// Owed rows are paid once changes after their snapshot are applied.
    PayLate,
    /// The newest commit up to the snapshot's position is in the log but cannot be seen yet.
    LateVisibility,
}

/// How owed rows are paid.
#[derive(Debug, Clone, Copy)]
struct Paying {
    /// Changes in a batch.
    batch: usize,
    /// So many payments are made before the snapshot is found to be lost and a new one is taken, at the history's end.
    lost_after: usize,
    /// Keys that are not owed are fetched and written as well.
    more: bool,
}

const AT_ONCE: Paying = Paying { batch: 1, lost_after: usize::MAX, more: false };

/// One run; `read[k]` is where key k was read. False: the sides differ.
fn run(h: &History, read: [usize; KEYS], paying: Paying, broken: Broken) -> bool {
    let Some(mut span) = Span::over(read) else { return false };
    let seen = |at: usize| if broken == Broken::LateVisibility { at.saturating_sub(1) } else { at };
    let mut dest: State = std::array::from_fn(|k| h.states[seen(read[k])][k]);
    let mut owed = Owed::<u8, usize>::default();
    let mut payments = 0;
    for at in 1..=h.len() + 1 {
        if consistent_from([&span]).is_some_and(|from| at > from) && dest != h.states[at - 1] {
            return false;
        }
        let Some(change) = h.changes.get(at - 1) else { break };
        let Some(change) = change else {
            match span.reshape(&at) {
                Reshape::Drop | Reshape::Barrier => continue,
                // From empty, on one new snapshot: nothing of what stood there counts.
                Reshape::BeginAgain => return run(h, [h.len(); KEYS], paying, Broken::No),
            }
        };
        match span.verdict(&at) {
            Verdict::Drop => {}
            Verdict::Tolerant if broken == Broken::DropAll => {}
            Verdict::Tolerant => {
                if let (Broken::TrustOldKey, Change::Update { old: Some(old), .. }) = (broken, change)
                    && let Some(base) = dest[usize::from(*old)]
                {
                    let told = Change::Update {
                        old: Some(*old),
                        key: if let Change::Update { key, .. } = change { *key } else { 0 },
                        row: vec![Some(9 + at as u8), None],
                        before: Some(base.map(Some).to_vec()),
                    };
                    tolerant(&mut dest, owed.apply(&at, &told));
                } else {
                    tolerant(&mut dest, owed.apply(&at, change));
                }
            }
            Verdict::Strict => {
                if !strict(&mut dest, change) {
                    return false;
                }
            }
        }
        // The batch ends: it is full, or the stretch ends here.
        let late = usize::from(broken == Broken::PayLate);
        let ends = if late == 0 { at % paying.batch == 0 || at == span.high } else { at == span.high + late };
        if paying.more && at <= span.high {
            (0..KEYS as u8).for_each(|key| owed.owe(key, &at));
        }
        if !ends || owed.is_empty() {
            continue;
        }
        if broken == Broken::ForgetOwed {
            owed.clear();
            continue;
        }
        if payments >= paying.lost_after {
            span.widen(&h.len());
        }
        payments += 1;
        let from = h.states[if broken == Broken::FetchLater { h.len() } else { span.high }];
        tolerant(&mut dest, owed.pay(|k| from[usize::from(*k)].map(|r| r.to_vec())));
    }
    true
}

/// Every assignment of keys to positions, and every way to pay.
fn everywhere(h: &History, broken: Broken, wrong: &mut usize) -> usize {
    let (n, mut cases) = (h.len() + 1, 0);
    // Only where a row can be owed at all there is something to pay.
    let owes = h.ops.iter().any(|op| matches!(op, Op::Move(..)));
    for code in 0..n.pow(KEYS as u32) {
        let read = [code % n, code / n % n, code / n / n];
        for batch in if owes { 1..=2 } else { 1..=1 } {
            for lost_after in if owes { &[usize::MAX, 0, 1][..] } else { &[usize::MAX] } {
                cases += 1;
                let paying = Paying { batch, lost_after: *lost_after, more: false };
                *wrong += usize::from(!run(h, read, paying, broken));
            }
        }
        cases += 1;
        *wrong += usize::from(!run(h, read, Paying { more: true, ..AT_ONCE }, broken));
    }
    cases
}

#[test]
fn every_history_of_three_changes_read_at_any_positions_comes_out_right() {
    let mut cases = 0;
    let count = histories(3, 3, &mut |h| {
        let mut wrong = 0;
        cases += everywhere(h, Broken::No, &mut wrong);
        assert_eq!(wrong, 0, "{:?} from {:?}", h.ops, h.states[0]);
    });
    println!("exact snapshots: {count} histories, {cases} cases");
    assert_eq!((count, cases), (10_696, 2_624_768));
}

#[test]
fn every_history_of_four_changes_with_two_chunks_at_their_ends_comes_out_right() {
    let mut cases = 0;
    let count = histories(3, 4, &mut |h| {
        for read in [[0, 0, 4], [4, 4, 0]] {
            cases += 1;
            assert!(run(h, read, AT_ONCE, Broken::No), "{:?} from {:?} read {read:?}", h.ops, h.states[0]);
        }
        // The span ends before the history, so that it can grow.
        for read in [[0, 0, 3], [3, 3, 0]] {
            cases += 1;
            let paying = Paying { lost_after: 1, ..AT_ONCE };
            assert!(run(h, read, paying, Broken::No), "{:?} from {:?} read {read:?}", h.ops, h.states[0]);
        }
    });
    println!("exact snapshots, two chunks: {count} histories, {cases} cases");
    assert_eq!((count, cases), (118_520, 474_080));
}

#[test]
fn every_broken_rule_is_noticed() {
    for broken in [
        Broken::DropAll,
        Broken::ForgetOwed,
        Broken::TrustOldKey,
        Broken::FetchLater,
        Broken::PayLate,
        Broken::LateVisibility,
    ] {
        let mut wrong = 0;
        histories(2, 2, &mut |h| {
            everywhere(h, broken, &mut wrong);
        });
        println!("{broken:?}: {wrong} cases differ");
        assert!(wrong > 0, "{broken:?} went unnoticed");
    }
}

#[test]
fn without_the_precondition_an_inserted_row_is_lost() {
    let mut lost = 0;
    histories(1, 1, &mut |h| {
        if h.ops == [Op::Insert(0)] {
            assert!(run(h, [1; KEYS], AT_ONCE, Broken::No));
            lost += usize::from(!run(h, [1; KEYS], AT_ONCE, Broken::LateVisibility));
        }
    });
    assert_eq!(lost, 1);
}

#[test]
fn a_table_goes_through_its_losses_as_decided() {
    // Chunk 0 read at 1, lost; chunk 1 read at 2, lost; chunk 2 read at 3: the span is (1, 3].
    let mut chunks = vec![Chunk { by_key: true, stage: Stage::Unread, snapshot: None::<usize> }; KEYS];
    let ask = |chunks: &[Chunk<usize>]| {
        let table = Table { has_key: true, chunks, secondary_unique: false, same_shape: true, incremental: true };
        decide(&table)
    };
    assert_eq!(ask(&chunks), Decision::PlanAnew);
    for (index, at) in [1, 2, 3].into_iter().enumerate() {
        chunks[index] = Chunk { by_key: true, stage: Stage::Loaded, snapshot: Some(at) };
        let remaining = (index + 1..KEYS).collect();
        assert_eq!(ask(&chunks), Decision::Keep { remaining, low: Some(1) });
    }
    let span = Span::over(chunks.iter().filter_map(|c| c.snapshot));
    assert_eq!(span, Some(Span { low: 1, high: 3 }));
}
