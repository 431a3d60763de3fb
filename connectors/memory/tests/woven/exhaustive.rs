//! Every interleaving of a few statements of the application with the steps of a chunk's reader, which reads one row after the other; the
//! weaver dies after every step, or each statement in turn is seen only later.

use crate::world::{Rng, World};
use drover_connectors_memory::{Transaction, Value};
use drover_model::schema::TableName;

/// What the application does in one transaction, on keys of which `1` is there at first and `2` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Insert(u8),
    /// All cells but the large one, which is left out of the log.
    Part(u8),
    Delete(u8),
    /// With the large value left out: the row is owed.
    Move(u8, u8),
    Truncate,
    AddColumn,
}

const OPS: [Op; 8] = [
    Op::Insert(2),
    Op::Part(1),
    Op::Part(2),
    Op::Delete(1),
    Op::Move(1, 2),
    Op::Move(2, 1),
    Op::Truncate,
    Op::AddColumn,
];

fn key(k: u8) -> Value {
    Some(k.to_string().into_bytes())
}

fn execute(world: &mut World, op: Op, number: usize, unseen: bool) {
    let (stamp, width) = (Some(format!("{number}").into_bytes()), world.width());
    let work = |t: &mut Transaction, table: &TableName| match op {
        Op::Insert(k) => {
            let mut row = vec![key(k), stamp.clone(), Some(format!("large {number}").into_bytes())];
            row.resize(width, None);
            t.insert(table, row)
        }
        Op::Part(k) => t.update(table, &[key(k)], &[("a", stamp.clone())]),
        Op::Delete(k) => t.delete(table, &[key(k)]),
        Op::Move(from, to) => t.update(table, &[key(from)], &[("k", key(to)), ("a", stamp.clone())]),
        Op::Truncate => t.truncate(std::slice::from_ref(table)),
        Op::AddColumn => Ok(()),
    };
    if op == Op::AddColumn { world.add_column() } else { world.write_one(unseen, work) }
}

/// Every order of `ops` statements among `steps` steps of the reader: true is a statement.
fn orders(ops: usize, steps: usize) -> Vec<Vec<bool>> {
    if ops == 0 || steps == 0 {
        return vec![[vec![true; ops], vec![false; steps]].concat()];
    }
    let with = |first: bool, rest: Vec<Vec<bool>>| rest.into_iter().map(move |o| [vec![first], o].concat());
    with(true, orders(ops - 1, steps)).chain(with(false, orders(ops, steps - 1))).collect()
}

/// Those of which three are tried.
const FEWER: [Op; 6] = [Op::Insert(2), Op::Part(1), Op::Delete(1), Op::Move(1, 2), Op::Truncate, Op::AddColumn];

/// What is done beside statements and reading.
#[derive(Debug, Clone, Copy)]
struct Fault {
    /// The weaver dies after this step.
    dies: Option<usize>,
    /// This statement is seen only after the statement behind it and the next step of the reader.
    late: Option<usize>,
    /// A second attempt at the chunk begins after this step; both are brought to their ends.
    again: Option<usize>,
}

const NONE: Fault = Fault { dies: None, late: None, again: None };

fn play(ops: &[Op], order: &[bool], fault: Fault) -> Result<World, String> {
    let mut world = World::few();
    let (mut op, mut begun, mut late) = (0, false, None);
    for (step, statement) in order.iter().enumerate() {
        if *statement {
            let unseen = fault.late == Some(op);
            execute(&mut world, ops[op], op, unseen);
            if unseen {
                late = Some(step);
            }
            op += 1;
        } else if begun {
            world.read_one()?;
        } else {
            world.begin_chunk(0);
            begun = true;
        }
        if late.is_some_and(|since| step > since + 1) {
            world.show_all();
        }
        if fault.again == Some(step) {
            world.begin_chunk(0);
        }
        world.take_all()?;
        if fault.dies == Some(step) {
            world.restart()?;
            world.take_all()?;
        }
    }
    world.finish(&mut Rng(0))?;
    Ok(world)
}

fn right(ops: &[Op], order: &[bool], fault: Fault) -> World {
    match play(ops, order, fault) {
        Ok(world) => world,
        Err(what) => panic!("{ops:?} as {order:?} with {fault:?}: {what}"),
    }
}

#[test]
fn two_statements_among_the_steps_of_a_chunk_with_a_fault_at_every_step() {
    // Low mark, two rows at most, the end of reading with the high mark, and one to spare.
    let orders = orders(2, 5);
    let (mut cases, mut refused, mut inside, mut owed, mut void, mut passed) = (0, 0, 0, 0, 0, 0);
    for a in OPS {
        for b in OPS {
            for (number, order) in orders.iter().enumerate() {
                let at_steps = |make: fn(Option<usize>) -> Fault| (0..order.len()).map(move |n| make(Some(n)));
                let dying = at_steps(|dies| Fault { dies, ..NONE });
                // Over all orders the second attempt begins after every step.
                let again = Fault { again: Some((cases + number) % order.len()), ..NONE };
                let late = (0..2).map(|n| Fault { late: Some(n), ..NONE });
                for fault in [NONE, again].into_iter().chain(dying).chain(late) {
                    let world = right(&[a, b], order, fault);
                    cases += 1;
                    refused += world.seen.unseen;
                    inside += world.seen.inside;
                    owed += world.seen.owed_chunks;
                    void += world.seen.void;
                    passed += world.seen.passed_over;
                }
            }
        }
    }
    println!(
        "two statements: {cases} cases; {refused} pages that had to wait, {inside} readers that died inside a window, {owed} chunks of owed \
         rows, {void} windows that a schema change discarded, {passed} high marks that came second"
    );
    assert_eq!(cases, 64 * 21 * 11);
    assert!([refused, inside, owed, void, passed].iter().all(|n| *n > 0));
}

#[test]
fn three_statements_among_the_steps_of_a_chunk() {
    let orders = orders(3, 4);
    let mut cases = 0;
    for a in FEWER {
        for b in FEWER {
            for c in FEWER {
                for order in &orders {
                    right(&[a, b, c], order, NONE);
                    cases += 1;
                }
            }
        }
    }
    println!("three statements: {cases} cases");
    assert_eq!(cases, 216 * 35);
}
