//! Two coordinators over one store in PostgreSQL: when the one that leads dies, the other takes over, and the migration goes on
//! as if nothing had been. (One that stands still: the store's own tests.)

use anyhow::Result;
use drover_tests::{Form, Pair, Postgres, Scene, wait};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_coordinator_takes_over() -> Result<()> {
    let keeper = Postgres::start_default().await?;
    let mut scene = Scene::of(Pair::POSTGRES, Form::Cluster, "").await?;
    scene.drover = scene.drover.store(keeper.url("drover"));
    scene.load().await?;
    scene.drover.start().await?;
    let second = scene.drover.second_coordinator()?;
    wait::until("the second one waits", SOON, async || {
        Ok(second.stderr().contains("waits to take over").then_some(()))
    })
    .await?;
    scene.drover.main()?.kill9()?;
    let begun = std::time::Instant::now();
    drop(scene.drover.led_by(second));
    scene.drover.wait_consistent().await?;
    println!("the second coordinator led, and the destination was consistent, after {:?}", begun.elapsed());
    scene.advance(40).await?;
    scene.finish().await
}
