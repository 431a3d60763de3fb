//! A coordinator that is protected by TLS and a token: the whole cluster works through it, and nobody gets in without both.

use anyhow::{Context, Result, ensure};
use drover_tests::{Form, Kafka, Scene};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::Path;

const SOON: std::time::Duration = std::time::Duration::from_secs(90);
const TOKEN: &str = "5ee0b5a1f7c94c1d8a3e";

/// A signing certificate, and one for this machine that it signed; as PEM files.
fn certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A name of its own: a certificate whose signer has its name passes for one that signed itself.
    params.distinguished_name.push(DnType::CommonName, "signer");
    let key = KeyPair::generate()?;
    let signer = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate()?;
    let server =
        CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?.signed_by(&own, &issuer)?;
    std::fs::write(folder.join("ca.pem"), signer.pem())?;
    std::fs::write(folder.join("server.pem"), server.pem())?;
    std::fs::write(folder.join("server.key"), own.serialize_pem())?;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(folder.join("other.pem"), other.cert.pem())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_works_over_tls_and_nobody_else_gets_in() -> Result<()> {
    let mut scene = Scene::new(Form::Cluster, "").await?;
    let folder = scene.drover.drover.folder().to_owned();
    certificates(&folder)?;
    let at = |file: &str| folder.join(file).display().to_string();
    let port = scene.drover.name.rsplit('-').next().context("a port in the name")?.to_owned();
    let plain = format!("http://localhost:{port}");
    scene.drover = scene
        .drover
        .env("DROVER_COORDINATOR", &format!("https://localhost:{port}"))
        .env("DROVER_TLS_CERT", &at("server.pem"))
        .env("DROVER_TLS_KEY", &at("server.key"))
        .env("DROVER_TOKEN", TOKEN)
        .env("DROVER_CA", &at("ca.pem"));
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    std::fs::write(folder.join("wrong"), "5ee0b5a1f7c94c1d8a3f\n")?;
    std::fs::write(folder.join("right"), format!("{TOKEN}\n"))?;
    let list = async |more: &[&str]| scene.drover.call(&[&["migration", "list", "--json"], more].concat()).await;
    list(&["--token-file", &at("right")]).await?.expect(0)?;
    let refused = list(&["--token-file", &at("wrong")]).await?.expect(2)?;
    ensure!(refused.stderr.contains("DROVER_TOKEN") && refused.stdout.is_empty(), "{}", refused.stderr);
    // Another's certificate, and no encryption at all.
    list(&["--ca", &at("other.pem")]).await?.expect(4)?;
    list(&["--coordinator", &plain]).await?.expect(4)?;
    scene.advance(30).await?;
    scene.finish().await
}

#[tokio::test]
async fn off_the_loopback_interface_both_are_demanded() -> Result<()> {
    let drover = drover_tests::Drover::new()?;
    let soon = std::time::Duration::from_secs(30);
    certificates(drover.folder())?;
    std::fs::write(drover.folder().join("token"), TOKEN)?;
    let listen = ["coordinator", "--listen", "192.0.2.7:7440", "--store", "s"];
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
    let token = ["--token-file", "token"];
    for (more, said) in
        [(vec![], "TLS and a token"), (token.to_vec(), "without TLS"), (tls.to_vec(), "without a token")]
    {
        let refused = drover.run(&[&listen[..], &more].concat(), soon).await?.expect(2)?;
        ensure!(refused.stderr.contains(said), "{}", refused.stderr);
        // The address of the other door counts as well.
        let http = ["coordinator", "--http", "192.0.2.7:7441", "--store", "s"];
        let refused = drover.run(&[&http[..], &more].concat(), soon).await?.expect(2)?;
        ensure!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    // With both it tries: the address is none of this machine's.
    let tried = drover.run(&[&listen[..], &tls, &token].concat(), soon).await?.expect(2)?;
    ensure!(tried.stderr.contains("cannot listen on 192.0.2.7"), "{}", tried.stderr);
    let half = drover.run(&[&listen[..], &tls[..2]].concat(), soon).await?.expect(2)?;
    ensure!(half.stderr.contains("--tls-key"), "{}", half.stderr);
    // Workers and verbs don't let the token out unencrypted.
    let open = ["migration", "list", "--coordinator", "http://192.0.2.7:7440", "--token-file", "token"];
    let kept = drover.run(&open, soon).await?.expect(2)?;
    ensure!(kept.stderr.contains("https"), "{}", kept.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_kafka_behind_scram_tls_and_certificates() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    let folder = scene.drover.drover.folder().to_owned();
    certificates(&folder)?;
    let (_kafka, port) = Kafka::start_secured(&folder, "drover", TOKEN).await?;
    let file = std::fs::read_to_string(&scene.drover.file)?;
    let path = scene.drover.file.clone();
    let with = |sasl: &str, tls: &str| {
        let brokers = format!("brokers = [\"127.0.0.1:{}\"]", port.number());
        std::fs::write(&path, format!("{file}\n[log]\nkafka = {{ {brokers}, {sasl}, {tls} }}\n"))
    };
    let sasl = "sasl = \"scram-sha-512\", user = \"drover\", password = { env = \"KAFKA_PASSWORD\" }";
    let tls = "tls = { mode = \"verify-full\", ca = \"ca.pem\", cert = \"server.pem\", key = \"server.key\" }";
    scene.drover = scene.drover.env("KAFKA_PASSWORD", TOKEN);
    with(sasl, tls)?;
    scene.load().await?;
    scene.drover.start().await?;
    let consistent = scene.drover.wait_consistent().await;
    consistent.with_context(|| scene.drover.tails(20))?;
    scene.advance(30).await?;
    scene.finish().await?;
    // A certificate of another signer is not believed; without one of our own nobody is let in.
    for wrong in [
        "tls = { mode = \"verify-full\", ca = \"other.pem\", cert = \"server.pem\", key = \"server.key\" }",
        "tls = { mode = \"verify-full\", ca = \"ca.pem\" }",
    ] {
        with(sasl, wrong)?;
        scene.drover.start().await?;
        let main = scene.drover.main()?;
        let said = || std::future::ready(Ok(main.stderr().contains("trying again").then_some(())));
        drover_tests::wait::until("it cannot reach the log", SOON, said).await?;
        scene.drover.kill9_all()?;
    }
    // Without looking who it is, the operator's own decision, it works again.
    with(sasl, "tls = { mode = \"require\", unverified = true, cert = \"server.pem\", key = \"server.key\" }")?;
    scene.source.exec("drover", "UPDATE accounts SET note = 'later' WHERE id = 3").await?;
    scene.drover.wait_caught_up().await?;
    scene.equal().await
}
