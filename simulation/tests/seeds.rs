//! Runs of the simulation that belong to the tests: that a seed can be replayed, that the checker bites, and seeds that found something once.
//! Each run is a process of its own. Fresh seeds are tried by `make test` after the tests, where what they print is seen.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use serde_json::Value;
use std::process::Command;

fn one(seed: u64, more: &[&str]) -> Value {
    let seed = seed.to_string();
    let arguments: Vec<&str> = ["--one", &seed].into_iter().chain(more.iter().copied()).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("seed {seed}: {e}: {text}"))
}

#[test]
fn the_same_seed_gives_the_same_run_step_by_step() {
    let mut hashes = Vec::new();
    for seed in [3, 17, 92, 1_000_003] {
        let (a, b) = (one(seed, &[]), one(seed, &[]));
        assert_eq!(a, b, "seed {seed}");
        hashes.push(a["hash"].as_str().unwrap().to_owned());
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 4, "different seeds give different runs");
}

#[test]
fn without_faults_all_comes_to_its_end() {
    for seed in 1..6 {
        let run = one(seed, &["--calm"]);
        assert!(run["broken"].is_null() && run["faults"].as_object().unwrap().is_empty(), "seed {seed}: {run}");
        assert!(run["comparisons"].as_u64().unwrap() > 3, "seed {seed}: {run}");
    }
}

/// A promise is broken on purpose, in one place: within so many seeds the checker says so, in these words. (In other seeds drover itself may stop
/// at what came of it before.)
#[test]
fn each_broken_promise_is_seen() {
    for (sabotage, words, seeds) in [
        ("epoch", "a commit of epoch", 200),
        ("order", "a commit goes on from", 40),
        ("marks", "was loaded twice", 60),
        ("outcome", "", 200),
        ("halves", "is not what the source had", 20),
        ("loses", "gap", 20),
        ("reorders", "gap", 20),
        ("early", "", 200),
        ("blind", "rows changed between its marks", 200),
        ("blur", "pair", 60),
    ] {
        let seen = (1..=seeds).find_map(|seed| {
            let broken = one(seed, &["--sabotage", sabotage])["broken"].as_str()?.to_owned();
            broken.contains(words).then_some((seed, broken))
        });
        let (seed, broken) = seen.unwrap_or_else(|| panic!("{sabotage} is not seen within {seeds} seeds"));
        println!("{sabotage} is seen by seed {seed}: {broken}");
    }
}

/// Seeds that found something once.
#[test]
fn seeds_that_found_something_stay_well() {
    for line in include_str!("../regressions.txt").lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        if seed.is_empty() {
            continue;
        }
        let run = one(seed.parse().unwrap(), &[]);
        assert!(run["broken"].is_null(), "{line}: {run}");
    }
}
