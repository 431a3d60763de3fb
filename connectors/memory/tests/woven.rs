//! Woven windows, driven by the database in memory: real marks in its log, its real change stream, chunks read from the rows of now in
//! pages while the application writes, readers that die anywhere. Whenever the table is settled, and at the end, the destination is
//! compared with the source in both directions.
//!
//! `WOVEN_SEEDS` says how many random histories are tried, `WOVEN_SEED` from which one on.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

#[path = "woven/exhaustive.rs"]
mod exhaustive;
#[path = "woven/seen.rs"]
mod seen;
#[path = "woven/world.rs"]
mod world;

use drover_connectors_memory::Broken;
use seen::Seen;
use world::{Habit, Rng, World};

/// One random history. `Err` says what is wrong with it.
fn random(seed: u64, habit: Habit) -> Result<Seen, String> {
    let mut rng = Rng(seed);
    let mut world = World::new(&mut rng, habit, 3);
    for _ in 0..40 + rng.below(60) {
        match rng.below(24) {
            0..8 => world.write(&mut rng),
            8..10 => world.show_one(&mut rng),
            10..12 => world.begin(&mut rng),
            12..18 => world.read_on(&mut rng)?,
            18..22 => drop(world.take()?),
            22 => world.confirm()?,
            _ => match rng.below(4) {
                0 => world.give_up(&mut rng),
                1 | 2 => world.restart()?,
                _ => world.add_column(),
            },
        }
    }
    world.finish(&mut rng)?;
    Ok(world.seen)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn random_histories_come_out_right() {
    let (first, seeds) = (number("WOVEN_SEED", 1), number("WOVEN_SEEDS", 1_500));
    let mut all = Seen::default();
    for seed in first..first + seeds {
        match random(seed, Habit::default()) {
            Ok(seen) => all.add(seen),
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    println!("{seeds} random histories: {all:?}");
    if seeds >= 1_000 {
        all.each_happened();
    }
}

/// How many of so many seeds a broken variant is noticed in, and the first thing that was said.
fn noticed(seeds: u64, habit: Habit) -> (u64, String) {
    let wrong: Vec<String> = (1..=seeds).filter_map(|seed| random(seed, habit).err()).collect();
    (wrong.len() as u64, wrong.first().cloned().unwrap_or_default())
}

#[test]
fn every_broken_variant_is_noticed() {
    let broken = [
        (
            "a chunk that does not wait until commits of before its low mark can be seen",
            Habit { source: Some(Broken::Sight), ..Habit::default() },
        ),
        ("beginning anew where it is applied", Habit { destination: Some(Broken::Resume), ..Habit::default() }),
        ("a high mark before the records are durable", Habit { early_high: true, ..Habit::default() }),
        ("a record that is not the one that was read", Habit { other_record: true, ..Habit::default() }),
        ("a high mark under another attempt's name", Habit { mixed: true, ..Habit::default() }),
    ];
    for (what, habit) in broken {
        let (times, first) = noticed(300, habit);
        println!("{what}: noticed in {times} of 300 histories, first: {first}");
        assert!(times > 0, "{what}: it should be noticed");
    }
}

#[test]
fn without_the_precondition_a_committed_row_is_lost() {
    for waits in [true, false] {
        let mut rng = Rng(1);
        let source = (!waits).then_some(Broken::Sight);
        let mut world = World::new(&mut rng, Habit { source, ..Habit::default() }, 1);
        // In the log, before the low mark, and seen only after the chunk is read.
        let late = world.insert_unseen("5");
        world.begin_chunk(0);
        world.read_to_end().unwrap();
        if waits {
            assert_eq!(world.seen.unseen, 1, "it had to wait");
            world.show(late);
            world.read_to_end().unwrap();
        }
        world.show(late);
        let done = world.take_all().and_then(|()| world.compare());
        assert_eq!(done.is_ok(), waits, "{done:?}");
        if let Err(what) = done {
            assert!(what.contains("missing"), "{what}");
        }
    }
}

#[tokio::test]
async fn a_window_waits_for_sight() {
    let mut rng = Rng(1);
    let mut world = World::new(&mut rng, Habit::default(), 1);
    let late = world.insert_unseen("5");
    world.begin_chunk(0);
    let window = &world.windows[0].window;
    let mut sighted = std::pin::pin!(window.sighted());
    assert!(futures::poll!(&mut sighted).is_pending());
    world.source.show(late);
    assert!(futures::poll!(&mut sighted).is_ready());
}
