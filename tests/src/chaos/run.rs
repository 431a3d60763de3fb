//! Carries a run out: a fresh migration under the workload, its faults one after the other, and the verdict.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::plan::{Fault, Kind, Phase, Place, Point, Run};
use super::{BOUND_KIB, Stage};
use crate::{Dialect, Form, Kafka, Observer, Process, Relay, Role, Scene, owed, scene, wait};

/// How long drover may take for what is waited for.
const SOON: Duration = Duration::from_secs(90);
/// A run that takes longer hangs.
const WHOLE: Duration = Duration::from_secs(420);

/// What came of a run.
#[derive(Debug, Default)]
pub struct Seen {
    /// Faults that struck.
    pub struck: Vec<Fault>,
    /// Faults whose failpoint was not passed before its phase was over.
    pub missed: Vec<Fault>,
    /// The most memory of each kind of process, in KiB.
    pub peaks: BTreeMap<String, u64>,
    /// Transactions of the application.
    pub transactions: u64,
    /// Readings of the observer.
    pub readings: u64,
    pub took: Duration,
}

/// Carries `run` out on `stage`. If a promise is broken the stage is given up, what all processes have logged lies in `keep`, and the error says so.
pub async fn carry_out(mut stage: Stage, run: &Run, keep: &Path) -> (Option<Stage>, Seen, Result<()>) {
    let begin = Instant::now();
    let mut seen = Seen::default();
    let (scene, coordinator) = match stage.set(run).await {
        Ok(Some(set)) => set,
        Ok(None) => return (None, seen, Err(anyhow::anyhow!("the servers are gone"))),
        Err(error) => return (None, seen, Err(error.context("setting the stage"))),
    };
    let mut crew = Crew {
        run,
        scene,
        source: &stage.source,
        destination: &stage.destination,
        coordinator: coordinator.as_ref(),
        broker: stage.broker.as_mut().map(|(kafka, relay)| (kafka, &*relay)),
        observer: None,
        created: false,
        rounds: 0,
        seen: &mut seen,
        now: String::from("the copy"),
    };
    let outcome = match tokio::time::timeout(WHOLE, crew.whole()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("not within {WHOLE:?}")),
    };
    let outcome = outcome.with_context(|| format!("{run}; at {}", crew.now));
    let Crew { mut scene, observer, .. } = crew;
    drop(observer);
    let outcome = outcome.and(scene.drover.kill9_all()).and(no_panic(&scene)).and(bounded(&seen));
    seen.took = begin.elapsed();
    if let Err(error) = outcome {
        let kept = stage.keep(&scene, keep).with_context(|| "logs could not be kept");
        let kept = kept.map_or_else(|e| format!("{e:#}"), |()| format!("logs: {}", keep.display()));
        return (None, seen, Err(error.context(kept)));
    }
    stage.clear(scene);
    (Some(stage), seen, Ok(()))
}

fn bounded(seen: &Seen) -> Result<()> {
    ensure!(seen.peaks.values().all(|peak| *peak <= BOUND_KIB), "more than {BOUND_KIB} KiB: {:?}", seen.peaks);
    Ok(())
}

fn no_panic(scene: &Scene) -> Result<()> {
    for entry in std::fs::read_dir(scene.drover.drover.folder())?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "err") {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
            if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
                bail!("{}: {line}", entry.path().display());
            }
        }
    }
    Ok(())
}

/// drover in a run, and all that may befall it.
struct Crew<'a> {
    run: &'a Run,
    scene: Scene,
    source: &'a Relay,
    destination: &'a Relay,
    coordinator: Option<&'a Relay>,
    broker: Option<(&'a mut Kafka, &'a Relay)>,
    observer: Option<Observer>,
    created: bool,
    /// Rounds of changes that hit the copied tables, and of schema changes.
    rounds: u64,
    seen: &'a mut Seen,
    /// What is being done, for messages.
    now: String,
}

impl Crew<'_> {
    async fn whole(&mut self) -> Result<()> {
        self.scene.load().await?;
        let run = self.run;
        let mut large = run.large;
        for fault in run.faults.iter().filter(|f| f.phase != Phase::Cutover) {
            self.now = fault.to_string();
            if fault.phase >= Phase::Changes {
                self.consistent().await?;
                if std::mem::take(&mut large) {
                    self.large().await?;
                }
            }
            self.strike(fault).await?;
        }
        "the end".clone_into(&mut self.now);
        self.consistent().await?;
        if large {
            self.large().await?;
        }
        self.scene.passes().await.with_context(|| self.scene.drover.tails(8))?;
        self.seen.transactions = self.scene.quiet().await?;
        self.scene.reaches().await.with_context(|| self.scene.drover.tails(8))?;
        if let Some(fault) = run.faults.iter().find(|f| f.phase == Phase::Cutover) {
            self.switch_over(fault).await?;
        }
        if let Some(observer) = self.observer.take() {
            observer.reads(5).await?;
            self.seen.readings = observer.stop().await?;
        }
        self.measure();
        self.scene.equal().await
    }

    /// Both forms; every process that was killed is replaced, and drover says that the destination is consistent. From then on it is observed.
    async fn consistent(&mut self) -> Result<()> {
        self.man().await?;
        if self.observer.is_none() {
            self.scene.drover.wait_consistent().await?;
            self.observer = Some(self.scene.observe().await?);
        }
        Ok(())
    }

    /// Starts what does not run. What has ended by itself is an error.
    async fn man(&mut self) -> Result<()> {
        let drover = &mut self.scene.drover;
        if self.run.form == Form::InProcess {
            if let Ok(main) = drover.main() {
                ensure!(main.running(), "it ended by itself\n{}", main.tail(30));
                return Ok(());
            }
            return drover.start().await;
        }
        drover.start_role(Role::Coordinator, &[]).await?;
        for role in [Role::Extractor, Role::Applier] {
            alive(drover.workers(role)?)?;
            while drover.workers(role)?.len() < 2 {
                drover.start_role(role, &[]).await?;
            }
        }
        self.create().await
    }

    async fn create(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.created, true) {
            self.scene.drover.create().await?;
        }
        Ok(())
    }

    fn measure(&mut self) {
        for process in self.scene.drover.processes() {
            if let Ok(peak) = process.peak_kib() {
                let most = self.seen.peaks.entry(process.name().to_owned()).or_default();
                *most = peak.max(*most);
            }
        }
    }

    /// A transaction larger than any batch, of which a part is taken back; and one that is taken back as a whole.
    async fn large(&self) -> Result<()> {
        let dialect = self.run.pair.source.dialect();
        let filler = match dialect {
            Dialect::Postgres => "repeat(md5(i::text), 3)",
            Dialect::MySql => "left(repeat(sha2(i, 256), 2), 96)",
        };
        let rows = dialect.series(40_000);
        let several =
            "UPDATE big SET v = v + 1; SAVEPOINT s; DELETE FROM big WHERE id % 2 = 0; ROLLBACK TO SAVEPOINT s;
            DELETE FROM big WHERE id % 9 = 1";
        self.scene.exec(&format!("INSERT INTO big SELECT i, i, {filler} FROM {rows} i")).await?;
        self.scene.exec(&format!("BEGIN; {several}; ROLLBACK")).await?;
        self.scene.exec(&format!("BEGIN; {several}; COMMIT")).await
    }

    async fn strike(&mut self, fault: &Fault) -> Result<()> {
        match fault.place {
            Place::At(point) => {
                self.rounds += 1;
                match fault.phase {
                    Phase::Owed => self.owe().await?,
                    Phase::Copy => scene::touch(&self.scene, self.rounds).await?,
                    _ => {}
                }
                self.arm(point, fault).await?;
                if fault.phase == Phase::Schema {
                    self.change_schema().await?;
                }
                if !self.stands(fault, None).await? {
                    self.seen.missed.push(*fault);
                    return Ok(());
                }
                self.befall(fault).await?;
            }
            Place::Anywhere(role) => {
                self.man().await?;
                self.scene.advance(fault.hit * 10).await?;
                self.victim(role)?.freeze()?;
                self.befall(fault).await?;
            }
            Place::Broker => {
                self.man().await?;
                self.scene.advance(fault.hit * 10).await?;
                self.broker(fault).await?;
            }
        }
        self.seen.struck.push(*fault);
        // It goes on by itself, whatever it was.
        if fault.phase >= Phase::Changes && fault.kind != Kind::Kill {
            self.man().await?;
            self.scene.passes().await.with_context(|| self.scene.drover.tails(8))?;
        }
        Ok(())
    }

    /// Behind the fault of now come more for which something must be left to copy: whoever went on beside a frozen process would finish that.
    fn owes_more(&self) -> bool {
        let count = |faults: &[Fault]| faults.iter().filter(|f| f.phase == Phase::Owed).count();
        count(&self.run.faults) > count(&self.seen.struck) + count(&self.seen.missed) + 1
    }

    /// Half of the tables is loaded when every snapshot dies, and rows move.
    async fn owe(&mut self) -> Result<()> {
        if self.seen.struck.iter().chain(&self.seen.missed).all(|f| f.phase != Phase::Owed) {
            self.man().await?;
            self.scene.wait_chunks(25).await?;
        }
        self.measure();
        let drover = &mut self.scene.drover;
        if self.run.form == Form::InProcess {
            drover.kill9_all()?;
        } else {
            for role in [Role::Extractor, Role::Applier] {
                drover.workers(role)?.drain(..).try_for_each(|mut p| p.kill9())?;
            }
        }
        owed::moves(&self.scene, self.rounds as i64).await
    }

    /// Somebody stands still when he comes to the failpoint. In a cluster he gets the work, for the others of his role are killed before.
    async fn arm(&mut self, point: Point, fault: &Fault) -> Result<()> {
        let spec = format!("{}:{}:stop", point.name, fault.hit);
        let environment = [("DROVER_FAILPOINT", spec.as_str())];
        self.measure();
        let drover = &mut self.scene.drover;
        if self.run.form == Form::InProcess {
            if let Ok(main) = drover.main() {
                ensure!(main.running(), "it ended by itself\n{}", main.tail(30));
            }
            return drover.start_with(&environment).await;
        }
        drover.start_role(Role::Coordinator, &[]).await?;
        for role in [Role::Extractor, Role::Applier] {
            alive(drover.workers(role)?)?;
        }
        drover.workers(point.role)?.drain(..).try_for_each(|mut p| p.kill9())?;
        drover.start_role(point.role, &environment).await?;
        // A snapshot of MySQL's is read by the one who made it.
        if fault.beside && fault.phase == Phase::Copy && self.run.pair.source.dialect() == Dialect::Postgres {
            drover.start_role(point.role, &[]).await?;
        }
        let other = if point.role == Role::Applier { Role::Extractor } else { Role::Applier };
        if drover.workers(other)?.is_empty() {
            drover.start_role(other, &[]).await?;
        }
        self.create().await
    }

    /// Statements before, between and behind which rows change.
    async fn change_schema(&self) -> Result<()> {
        let n = self.rounds;
        self.scene
            .exec(&format!(
                "INSERT INTO side (id, v) VALUES ({n}00 + 20, 1); ALTER TABLE side ADD COLUMN c{n} INT DEFAULT {n};
                INSERT INTO side (id, v, c{n}) VALUES ({n}00 + 21, 2, 77); CREATE TABLE n{n} (a INT PRIMARY KEY, b INT, KEY (b));
                INSERT INTO n{n} VALUES (1, 2); ALTER TABLE side MODIFY c{n} BIGINT FIRST; UPDATE side SET c{n} = c{n} + 1"
            ))
            .await
    }

    /// Waits until the armed process stands still at its failpoint; `false` if it cannot come there any more: all is copied, or the cutover that was
    /// asked for has ended.
    async fn stands(&mut self, fault: &Fault, mut asking: Option<&mut Process>) -> Result<bool> {
        let (form, role) = (self.run.form, fault.place.role().unwrap_or(Role::Coordinator));
        let begin = Instant::now();
        let mut asked = begin;
        loop {
            let process = self.victim(role)?;
            if process.frozen() {
                return Ok(true);
            }
            if !process.running() && fault.phase != Phase::Cutover {
                bail!("it ended by itself\n{}", process.tail(30));
            }
            let consistent = process.stderr().contains("the destination is consistent");
            if let Some(asking) = &mut asking
                && !asking.running()
            {
                return Ok(false);
            }
            if matches!(fault.phase, Phase::Copy | Phase::Owed) {
                let mut over = form == Form::InProcess && consistent;
                if form == Form::Cluster && asked.elapsed() > Duration::from_secs(1) {
                    asked = Instant::now();
                    let view = self.scene.drover.show().await?;
                    ensure!(view["state"] != "failed", "the migration failed: {view:#}");
                    over = view["stages"]["incremental"]["consistent"] == true;
                }
                if over {
                    return Ok(false);
                }
            }
            ensure!(begin.elapsed() < SOON, "not reached within {SOON:?}\n{}", self.scene.drover.tails(10));
            wait::pause().await;
        }
    }

    /// The process of a role that is struck: the armed one is the first.
    fn victim(&mut self, role: Role) -> Result<&mut Process> {
        match (self.run.form, role) {
            (Form::InProcess, _) | (_, Role::Coordinator) => self.scene.drover.main(),
            _ => self.scene.drover.workers(role)?.first_mut().context("nobody to strike"),
        }
    }

    /// The fault itself. The process stands still.
    async fn befall(&mut self, fault: &Fault) -> Result<()> {
        self.measure();
        let role = fault.place.role().context("a process")?;
        let lasts = Duration::from_millis(fault.millis);
        match fault.kind {
            Kind::Kill if self.run.form == Form::InProcess => self.scene.drover.kill9_all(),
            Kind::Kill => self.scene.drover.kill9(role, 0),
            Kind::Freeze => {
                let beside = fault.beside && !(fault.phase == Phase::Owed && self.owes_more());
                if self.run.form == Form::Cluster && role != Role::Coordinator && beside {
                    self.scene.drover.start_role(role, &[]).await?;
                }
                wait::lapse(lasts).await;
                self.victim(role)?.thaw()
            }
            Kind::Cut => {
                self.peers(fault).into_iter().for_each(Relay::cut);
                self.victim(role)?.thaw()
            }
            Kind::Deafen => {
                self.peers(fault).into_iter().for_each(Relay::deafen);
                self.victim(role)?.thaw()?;
                wait::lapse(lasts).await;
                self.peers(fault).into_iter().for_each(Relay::cut);
                Ok(())
            }
        }
    }

    /// Who is cut off: at least a peer of the process that is struck.
    fn peers(&self, fault: &Fault) -> Vec<&Relay> {
        let mut bits = fault.peers;
        match (self.run.form, fault.place.role()) {
            (Form::InProcess, _) if bits & 0b11 == 0 => bits |= 0b11,
            (_, Some(Role::Extractor)) if bits & 0b1101 == 0 => bits |= 0b0001,
            (_, Some(Role::Applier)) if bits & 0b1110 == 0 => bits |= 0b0010,
            (_, Some(Role::Coordinator)) => bits |= 0b0100,
            _ => {}
        }
        let broker = self.broker.as_ref().map(|(_, relay)| *relay);
        let all = [Some(self.source), Some(self.destination), self.coordinator, broker];
        all.into_iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).filter_map(|(_, relay)| relay).collect()
    }

    async fn broker(&mut self, fault: &Fault) -> Result<()> {
        let (kafka, relay) = self.broker.as_mut().context("no broker")?;
        let lasts = Duration::from_millis(fault.millis);
        match fault.kind {
            Kind::Kill => {
                kafka.kill9().await?;
                kafka.restart().await
            }
            Kind::Freeze => {
                kafka.process_mut()?.freeze()?;
                wait::lapse(lasts).await;
                kafka.process_mut()?.thaw()
            }
            Kind::Cut => {
                relay.cut();
                Ok(())
            }
            Kind::Deafen => {
                relay.deafen();
                wait::lapse(lasts).await;
                relay.cut();
                Ok(())
            }
        }
    }

    /// The cutover with a fault in it. Now and then the source is written to while the process stands still: either the cutover brings that over
    /// or it is refused.
    async fn switch_over(&mut self, fault: &Fault) -> Result<()> {
        self.now = fault.to_string();
        let Place::At(point) = fault.place else { bail!("no failpoint: {fault}") };
        self.arm(point, fault).await?;
        self.scene.drover.wait_consistent().await?;
        self.scene.reaches().await?;
        let mut asking = self.asking()?;
        if self.stands(fault, Some(&mut asking)).await? {
            if fault.beside {
                self.scene.exec("UPDATE accounts SET note = 'late' WHERE id = 5").await?;
            }
            self.befall(fault).await?;
            self.seen.struck.push(*fault);
        } else {
            self.seen.missed.push(*fault);
        }
        let mut over = self.answered(asking).await?;
        for _ in 0..5 {
            if over {
                break;
            }
            "the cutover without faults".clone_into(&mut self.now);
            self.man().await?;
            self.scene.drover.wait_consistent().await?;
            let asking = self.asking()?;
            over = self.answered(asking).await?;
        }
        ensure!(over, "the cutover is not done");
        if self.run.form == Form::InProcess
            && let Ok(main) = self.scene.drover.main()
        {
            main.expect_exit(SOON, 0).await?;
        }
        Ok(())
    }

    fn asking(&self) -> Result<Process> {
        let drover = &self.scene.drover;
        let which =
            if drover.form == Form::InProcess { drover.file.display().to_string() } else { drover.name.clone() };
        drover.drover.spawn(&["cutover", &which, "--json"])
    }

    /// Where the migration stands, and what the servers are busy with.
    async fn standing(&self) -> String {
        let drover = &self.scene.drover;
        let which =
            if drover.form == Form::InProcess { drover.file.display().to_string() } else { drover.name.clone() };
        let mut out = match drover.call(&["migration", "show", &which, "--json"]).await {
            Ok(shown) => format!("{}{}", shown.stdout, shown.stderr),
            Err(error) => format!("{error:#}"),
        };
        for server in [&self.scene.source, &self.scene.destination] {
            let sql = match server.dialect() {
                Dialect::MySql => "SHOW FULL PROCESSLIST",
                Dialect::Postgres => {
                    "SELECT pid, application_name, state, wait_event_type, wait_event, query FROM pg_stat_activity WHERE datname IS NOT NULL"
                }
            };
            let rows = async { server.admin().await?.rows(sql).await };
            match rows.await {
                Ok(rows) => rows.iter().for_each(|row| out.push_str(&format!("\n{row:?}"))),
                Err(error) => out.push_str(&format!("\n{error:#}")),
            }
        }
        out
    }

    /// Whether the cutover is done; that it was called off, and may be asked for again, is no mistake.
    async fn answered(&mut self, mut asking: Process) -> Result<bool> {
        if self.run.form == Form::Cluster {
            self.man().await?;
        }
        let ended = asking.wait_exit(SOON).await;
        let status = match ended {
            Ok(status) => status,
            Err(error) => return Err(error.context(self.standing().await)),
        };
        match status.code() {
            Some(0) => Ok(true),
            Some(4) => Ok(false),
            _ => bail!("the cutover: {status}\n{}\n{}", asking.tail(20), self.scene.drover.tails(12)),
        }
    }
}

/// None has ended by itself.
fn alive(workers: &mut [Process]) -> Result<()> {
    for process in workers {
        ensure!(process.running(), "it ended by itself\n{}", process.tail(30));
    }
    Ok(())
}
