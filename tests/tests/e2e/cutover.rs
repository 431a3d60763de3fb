//! The cutover, in both forms: it is refused while the source is written to, finds differences, sets sequences, ends the migration, may be
//! repeated, and survives the death of whoever carries it out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::drover::Finished;
use drover_tests::{Deployment, Dialect, Form, Pair, Role, Scene, compare, scene, suite, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// Sequences of all kinds: free, owned, of an identity; one whose schema is renamed.
const POSTGRES: &str = "CREATE SEQUENCE free START 100; SELECT setval('free', 5000);
    CREATE TABLE ticket (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
    INSERT INTO ticket (note) SELECT 'n' || i FROM generate_series(1, 500) i;
    CREATE SCHEMA old; CREATE TABLE old.bill (id serial PRIMARY KEY, note text);
    INSERT INTO old.bill (note) SELECT 'b' || i FROM generate_series(1, 300) i;";
const RENAMED: &str = "[[objects]]\ninclude = \"public.*\"\n[[objects]]\ninclude = \"old.*\"\nrename = \"fresh.*\"\n";

/// A counter, and a trigger that must not act on what is applied, but be there in the end.
fn mysql() -> String {
    format!(
        "CREATE TABLE ticket (id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, note varchar(60));
        CREATE TABLE old_bill (id integer NOT NULL AUTO_INCREMENT PRIMARY KEY, note text);
        CREATE TRIGGER ticket_new BEFORE INSERT ON ticket FOR EACH ROW SET NEW.note = concat(NEW.note, '!');
        INSERT INTO ticket (note) SELECT concat('n', i) FROM {} i;",
        Dialect::MySql.series(500)
    )
}

fn named(drover: &Deployment) -> String {
    match drover.form {
        Form::InProcess => drover.file.display().to_string(),
        Form::Cluster => drover.name.clone(),
    }
}

async fn cutover(drover: &Deployment, more: &[&str]) -> Result<Finished> {
    let which = named(drover);
    drover.call(&[&["cutover", &which], more].concat()).await
}

async fn shown(drover: &Deployment) -> Result<Value> {
    drover.call(&["migration", "show", &named(drover), "--json"]).await?.expect(0)?.json()
}

/// How many slots drover has at the source. A MySQL source keeps nothing of it.
async fn slots(scene: &Scene) -> Result<i64> {
    match scene.source.dialect() {
        Dialect::Postgres => scene.from().await?.number("SELECT count(*) FROM pg_replication_slots").await,
        Dialect::MySql => Ok(0),
    }
}

async fn switched(pair: Pair, form: Form) -> Result<()> {
    let postgres = pair.source.dialect() == Dialect::Postgres;
    let consent = scene::consent(pair.source);
    let mut scene = if postgres {
        Scene::of_with(pair, form, POSTGRES, consent, RENAMED).await?
    } else {
        Scene::of_with(pair, form, &mysql(), consent, "").await?
    };
    let schema = if postgres { "public" } else { scene.database };
    let ticket = format!("{schema}.ticket");
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;

    let refused = cutover(&scene.drover, &["--json"]).await?.expect(4)?;
    let json = refused.json()?;
    ensure!(json["cut_over"] == false && json["error"]["code"] == "DR0018", "{json:#}");
    let said = json["error"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains("still written to") && said.contains(&format!("{schema}.")), "{said}");
    scene.advance(40).await?;
    ensure!(shown(&scene.drover).await?["state"] == "migrating");

    // A difference is found, and named, and the migration goes on.
    scene.quiet().await?;
    if postgres {
        scene.exec("SELECT nextval('free') FROM generate_series(1, 7)").await?;
    }
    let mut to = scene.to().await?;
    let note = to.text("SELECT note FROM ticket WHERE id = 7").await?.context("a note")?;
    to.run("UPDATE ticket SET note = 'x' WHERE id = 7").await?;
    let differs = cutover(&scene.drover, &[]).await?.expect(1)?;
    ensure!(differs.stderr.contains(&ticket) && !differs.stderr.contains("bill"), "{}", differs.stderr);
    ensure!(shown(&scene.drover).await?["state"] == "migrating" && slots(&scene).await? == i64::from(postgres));
    to.run(&format!("UPDATE ticket SET note = '{note}' WHERE id = 7")).await?;
    scene.exec("INSERT INTO ticket (note) VALUES ('the last one')").await?;
    // How an operator keeps writers away: drover has to do with it as well.
    if postgres {
        scene.exec("ALTER DATABASE drover SET default_transaction_read_only = on").await?;
    } else {
        scene.exec("SET GLOBAL read_only = 1").await?;
    }

    let (before, _) = scene.progress().await?;
    let done = cutover(&scene.drover, &["--json"]).await?.expect(0)?.json()?;
    let (after, _) = scene.progress().await?;
    ensure!(after > before, "epoch {before}, then {after}: who applied before could commit after the switch");
    ensure!(done["cut_over"] == true && done["equal"] == true && done["error"].is_null(), "{done:#}");
    ensure!(!postgres || done["sequences"].as_u64() >= Some(3), "{done:#}");
    ensure!(done["position"].is_string(), "{done:#}");
    let tables = done["tables"].as_array().context("tables")?;
    ensure!(tables.iter().all(|t| t["equal"] == true && t["rows"] == t["destination_rows"]), "{done:#}");
    ensure!(tables.iter().any(|t| t["source"] == ticket.as_str() && t["rows"] == 501), "{done:#}");
    if form == Form::InProcess {
        scene.drover.main()?.expect_exit(SOON, 0).await?;
    }
    ensure!(shown(&scene.drover).await?["state"] == "completed");
    ensure!(slots(&scene).await? == 0, "the slot is left");
    if postgres {
        let next = "SELECT concat_ws(' ', nextval('free'), nextval(pg_get_serial_sequence('ticket', 'id')), nextval('fresh.bill_id_seq'))";
        let next = to.text(next).await?;
        ensure!(next.as_deref() == Some("5008 502 301"), "{next:?}");
    } else {
        let mut from = scene.from().await?;
        compare::expect_equal(&mut from, &mut to).await?;
        compare::same_structure(&mut from, &mut to).await?;
        to.run("INSERT INTO ticket (note) VALUES ('next')").await?;
        let next = to.row("SELECT id, note FROM ticket WHERE note LIKE 'next%'").await?;
        let highest = from.number("SELECT max(id) FROM ticket").await?;
        ensure!(next == [Some((highest + 1).to_string()), Some("next!".to_owned())], "{next:?} after {highest}");
    }

    let again = cutover(&scene.drover, &["--json"]).await?.expect(0)?.json()?;
    ensure!(again == done, "{again:#}");
    if form == Form::InProcess {
        let file = scene.drover.file.display().to_string();
        scene.drover.call(&["run", &file]).await?.expect(0)?;
        scene.drover.call(&["cleanup", &file]).await?.expect(0)?;
        cutover(&scene.drover, &[]).await?.expect(2)?;
    }
    Ok(())
}

suite! {
    wide switched_over_in_process;
    both switched_over_in_a_cluster;
}

async fn switched_over_in_process(pair: Pair) -> Result<()> {
    switched(pair, Form::InProcess).await
}

async fn switched_over_in_a_cluster(pair: Pair) -> Result<()> {
    switched(pair, Form::Cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_process_the_cutover_carries_itself_out() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.drover.interrupt().await?;
    scene.source.exec("drover", "UPDATE accounts SET note = 'late' WHERE id = 3").await?;
    let done = cutover(&scene.drover, &[]).await?.expect(0)?;
    ensure!(done.stdout.contains("equal on both sides"), "{}", done.stdout);
    ensure!(slots(&scene).await? == 0, "the slot is left");
    cutover(&scene.drover, &[]).await?.expect(0)?;
    scene.equal().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_alone_has_nothing_to_cut_over() -> Result<()> {
    let mut scene = Scene::with(Form::InProcess, "", "stages = [\"schema\", \"full\"]", "").await?;
    scene.drover.start().await?;
    scene.drover.main()?.expect_exit(SOON, 0).await?;
    let refused = cutover(&scene.drover, &[]).await?.expect(2)?;
    ensure!(refused.stderr.contains("ends by itself"), "{}", refused.stderr);
    Ok(())
}

/// Whatever dies in the middle: called again, the cutover gets to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_and_called_again() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    for point in [
        "marked-not-reported:1",
        "marked-not-reported:2",
        "sequences-set-not-reported:1",
        "digested-not-reported:2",
        "marked-not-reported:3",
    ] {
        scene.drover.start_with(&[("DROVER_FAILPOINT", point)]).await?;
        scene.drover.wait_consistent().await?;
        let ended = cutover(&scene.drover, &[]).await?.expect(4)?;
        ensure!(ended.stderr.contains("call `drover cutover` again"), "{point}: {}", ended.stderr);
        scene.drover.main()?.wait_exit(SOON).await.context(point)?;
        ensure!(slots(&scene).await? == 1, "{point}: the migration is over");
        scene.source.exec("drover", &format!("UPDATE accounts SET note = '{point}' WHERE id = 5")).await?;
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    cutover(&scene.drover, &[]).await?.expect(0)?;
    scene.drover.main()?.expect_exit(SOON, 0).await?;
    scene.equal().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_applier_and_a_dead_coordinator_do_not_stop_it() -> Result<()> {
    let mut scene = Scene::new(Form::Cluster, "").await?;
    scene.drover.start_role(Role::Coordinator, &[]).await?;
    scene.drover.start_role(Role::Extractor, &[]).await?;
    scene.drover.start_role(Role::Applier, &[("DROVER_FAILPOINT", "sequences-set-not-reported")]).await?;
    scene.drover.create().await?;
    scene.drover.wait_consistent().await?;
    let name = named(&scene.drover);
    let mut asking = scene.drover.drover.spawn(&["cutover", &name, "--json"])?;
    let applier = &mut scene.drover.workers(Role::Applier)?[0];
    wait::until("the applier dies", SOON, || std::future::ready(Ok((!applier.running()).then_some(())))).await?;
    scene.drover.kill9(Role::Coordinator, 0)?;
    scene.drover.start_role(Role::Coordinator, &[]).await?;
    scene.drover.start_role(Role::Applier, &[]).await?;
    asking.expect_exit(SOON, 0).await?;
    let done: Value = serde_json::from_str(&asking.stdout())?;
    ensure!(done["cut_over"] == true && done["equal"] == true, "{done:#}");
    scene.equal().await
}

/// A cutover whose caller was killed is called off; the migration follows on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_call_calls_it_off() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    // An applier that stands behind a lock: zero lag does not come.
    let mut holder = scene.destination.connect("drover").await?;
    holder.run("BEGIN; LOCK TABLE drover.drover_progress").await?;
    let file = named(&scene.drover);
    let short = cutover(&scene.drover, &["--wait", "1s"]).await?.expect(4)?;
    ensure!(short.stderr.contains("--wait"), "{}", short.stderr);
    let mut asking = scene.drover.drover.spawn(&["cutover", &file])?;
    wait::until("it waits", SOON, async || {
        Ok((shown(&scene.drover).await?["cutover"]["state"] == "zero_lag").then_some(()))
    })
    .await?;
    asking.interrupt()?;
    asking.expect_exit(SOON, 4).await?;
    let view = shown(&scene.drover).await?;
    ensure!(view["cutover"]["state"] == "failed" && view["state"] != "completed", "{view:#}");
    holder.run("ROLLBACK").await?;
    scene.finish().await
}
