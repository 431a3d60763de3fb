//! Every failpoint once on real servers. What happens there, in which form and between which engines rotates with the commit, so that in the course of time all
//! cells of the matrix come up; `make chaos` carries out as many as one likes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drover_tests::chaos::{Fault, Kind, POINTS, Phase, Run, Stage, allowed, carry_out};
use drover_tests::{Form, Pair, Random, Role, pairs, scripts};

/// Follows from the commit, or is what `DROVER_TURN` says. Printed, so that a failure can be repeated.
fn turn() -> u64 {
    let given = std::env::var("DROVER_TURN").ok().and_then(|turn| turn.parse().ok());
    let turn = given.unwrap_or_else(|| {
        let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(scripts::repository()).output();
        let head = head.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        head.and_then(|text| u64::from_str_radix(text.get(..12)?, 16).ok()).unwrap_or(1)
    });
    println!("DROVER_TURN={turn}");
    turn
}

/// Carries out what comes of drawing `faults`, between engines between which a migration comes by all of these phases.
async fn once(phases: &[Phase], form: u64, salt: u64, faults: impl FnOnce(&mut Random) -> Vec<Fault>) -> Result<()> {
    let turn = turn();
    let mut random = Random::new(turn ^ salt);
    let fits: Vec<(&str, Pair)> =
        pairs::all().into_iter().filter(|(_, pair)| phases.iter().all(|phase| allowed(*phase, *pair))).collect();
    let (name, pair) = *random.pick(&fits);
    let form = if (turn + form).is_multiple_of(2) { Form::InProcess } else { Form::Cluster };
    let run = Run { seed: turn, name, pair, form, faults: faults(&mut random), large: false };
    println!("{run}");
    let keep = scripts::repository().join("target/chaos").join(format!("turn-{turn}-{salt}"));
    let (_, seen, outcome) = carry_out(Stage::new(pair).await?, &run, &keep).await;
    outcome?;
    println!("{:.1} s, {} readings, at most {:?} KiB", seen.took.as_secs_f64(), seen.readings, seen.peaks);
    let missed: Vec<String> = seen.missed.iter().map(Fault::to_string).collect();
    ensure!(missed.is_empty(), "not reached: {}", missed.join(", "));
    Ok(())
}

/// All failpoints of these phases, and one of the cutover.
fn each(phases: &[Phase], cutover: &str, random: &mut Random) -> Vec<Fault> {
    let shift = random.below(4) as usize;
    let points = POINTS.into_iter().filter(|p| phases.contains(&p.phase) || p.name == cutover);
    points.enumerate().map(|(n, p)| Fault::at(p, Kind::ALL[(n + shift) % Kind::ALL.len()], random)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_copy_and_in_the_changes() -> Result<()> {
    let phases = [Phase::Copy, Phase::Changes];
    once(&phases, 0, 1, |random| each(&phases, "marked-not-reported", random)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_rows_are_fetched() -> Result<()> {
    once(&[Phase::Owed], 1, 2, |random| each(&[Phase::Owed], "sequences-set-not-reported", random)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_schema_changes() -> Result<()> {
    once(&[Phase::Schema], 0, 3, |random| each(&[Phase::Schema], "digested-not-reported", random)).await
}

/// The plainest fault, at all places of copy and changes and at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_everywhere() -> Result<()> {
    once(&[Phase::Copy, Phase::Changes], 1, 4, |random| {
        let mut faults = Vec::new();
        for phase in [Phase::Copy, Phase::Changes] {
            let points = POINTS.into_iter().filter(|p| p.phase == phase);
            faults.extend(points.map(|p| Fault::at(p, Kind::Kill, random)).collect::<Vec<_>>());
            for role in [Role::Extractor, Role::Applier, Role::Coordinator] {
                faults.push(Fault::anywhere(role, phase, Kind::Kill, random));
            }
        }
        faults
    })
    .await
}

/// Names in calls of `failpoint` below a folder.
fn named(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            named(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path)?;
            found
                .extend(text.split("failpoint(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    Ok(())
}

#[test]
fn the_matrix_has_every_failpoint() -> Result<()> {
    let mut found = BTreeSet::new();
    for folder in ["applier", "cli", "connectors", "coordinator", "extractor", "log", "proto", "runtime", "validate"] {
        named(&scripts::repository().join(folder), &mut found)?;
    }
    let known: BTreeSet<String> = POINTS.iter().map(|p| p.name.to_owned()).collect();
    ensure!(found == known, "in drover's text: {found:?}; in the matrix: {known:?}");
    Ok(())
}
