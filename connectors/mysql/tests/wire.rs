//! The reading session's own protocol against real servers: ways to log in, encryption, long answers, errors.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod reading;

use drover_connectors_mysql::connect::{Dialer, Settings, Tls, TlsMode};
use drover_connectors_mysql::wire::{Flow, Wire, text};
use drover_harness::{MySql, Release};
use drover_model::Fault;
use drover_model::error::codes;
use mysql_async::prelude::Queryable;
use reading::{Place, dialer};

async fn who(dialer: &Dialer) -> String {
    let mut wire = Wire::connect(dialer, "test").await.unwrap_or_else(|e| panic!("{e}"));
    let rows = wire.all("SELECT CURRENT_USER()", "cannot ask").await.unwrap();
    text(&rows[0], 0).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_log_in_by_each_plugin() {
    let place = Place::start(Release::MySql9, &[]).await;
    // The first time the server does not know the password by heart and wants it whole, under its own key; then it does.
    place.exec("CREATE USER sha2@'%' IDENTIFIED WITH caching_sha2_password BY 'päss wörd'; CREATE USER nobody@'%' IDENTIFIED BY '';").await;
    for _ in 0..2 {
        assert_eq!(who(&dialer(&place.server, "sha2", Some("päss wörd"))).await, "sha2@%");
    }
    assert_eq!(who(&dialer(&place.server, "nobody", None)).await, "nobody@%");
    for (user, password) in [("sha2", Some("wrong")), ("sha2", None), ("stranger", Some("x"))] {
        let error = Wire::connect(&dialer(&place.server, user, password), "test").await.unwrap_err();
        assert_eq!(error.code, codes::PERMISSION, "{error}");
        let Err(error) = dialer(&place.server, user, password).session("test").await else { panic!("{user} got in") };
        assert_eq!(error.code, codes::PERMISSION, "{error}");
    }
    let place = Place::start(Release::MariaDb10, &[]).await;
    place.exec("CREATE USER native@'%' IDENTIFIED BY 'secret';").await;
    assert_eq!(who(&dialer(&place.server, "native", Some("secret"))).await, "native@%");
    // Where the plugin is there; distributions pack it apart.
    let mut session = place.server.connect("mysql").await.unwrap();
    if session.query_drop("INSTALL SONAME 'auth_ed25519'").await.is_ok() {
        place.exec("CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret');").await;
        assert_eq!(who(&dialer(&place.server, "ed", Some("secret"))).await, "ed@%");
        // The client library's sessions know the same plugins.
        dialer(&place.server, "ed", Some("secret")).session("test").await.unwrap();
    }
}

fn with_tls(server: &MySql, tls: Tls) -> Dialer {
    Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: "drover".into(),
        password: None,
        database: None,
        tls,
        migration: uuid::Uuid::new_v4(),
        fault: Fault::Source,
    })
}

/// What a server's administrator set for the application's sessions does not hold for drover's, of either form, also of an account without
/// a right to set more than its own session: results come whole, statements commit, nobody is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_settings_for_applications_do_not_hold() {
    for release in Release::ALL {
        let place = Place::start(release, &[]).await;
        let rows: Vec<String> = (0..50).map(|n| format!("({n})")).collect();
        place
            .exec(&format!(
                "CREATE TABLE many (id int PRIMARY KEY, n int); INSERT INTO many (id) VALUES {}; CREATE TABLE written (who varchar(9)); \
                 CREATE USER plain@'%' IDENTIFIED BY 'x'; GRANT ALL ON shop.* TO plain@'%'",
                rows.join(", ")
            ))
            .await;
        let slow = if release.is_mariadb() { "max_statement_time = 0.2" } else { "max_execution_time = 200" };
        let isolation = if release == Release::MariaDb10 { "tx_isolation" } else { "transaction_isolation" };
        // The last: this session is bound by it.
        place
            .exec(&format!(
                "SET GLOBAL autocommit = 0, GLOBAL completion_type = 1, GLOBAL sql_safe_updates = 1, GLOBAL sql_quote_show_create = 0, \
                 GLOBAL {isolation} = 'READ-UNCOMMITTED', GLOBAL {slow}, GLOBAL max_join_size = 3, GLOBAL sql_select_limit = 10, \
                 GLOBAL init_connect = 'SET autocommit = 0, sql_select_limit = 1, sql_mode = ''ANSI_QUOTES'', NAMES latin1'"
            ))
            .await;
        // The account without rights is the one for which init_connect runs.
        for (user, password) in [("drover", None), ("plain", Some("x"))] {
            let dialer = dialer(&place.server, user, password);
            let mut session = dialer.session("test").await.unwrap_or_else(|e| panic!("{release:?} {user}: {e}"));
            let mut wire = Wire::connect(&dialer, "test").await.unwrap_or_else(|e| panic!("{release:?} {user}: {e}"));
            session.run("USE shop", "x").await.unwrap();
            wire.run("USE shop", "x").await.unwrap();
            let found: Vec<i32> = session.all("SELECT a.id FROM many a, many b WHERE b.id < 2", "x").await.unwrap();
            let read = wire.all("SELECT a.id FROM many a, many b WHERE b.id < 2", "x").await.unwrap();
            assert_eq!((found.len(), read.len()), (100, 100), "{release:?} {user}: a part of the result");
            let shown: (String, String) = session.first("SHOW CREATE TABLE many", "x").await.unwrap().unwrap();
            assert!(shown.1.contains("`id`"), "{release:?} {user}: {}", shown.1);
            session.run("UPDATE many SET n = 1", "x").await.unwrap_or_else(|e| panic!("{release:?} {user}: {e}"));
            // Longer than a statement may take.
            let slow: Option<i32> = session.first("SELECT SLEEP(0.5) FROM many WHERE id = 1", "x").await.unwrap();
            assert_eq!(slow, Some(0), "{release:?} {user}: broken off");
            session.run(format!("INSERT INTO written VALUES ('{user}')"), "x").await.unwrap();
            wire.run("BEGIN; INSERT INTO written VALUES ('wire'); COMMIT", "x").await.unwrap();
            assert!(!wire.in_transaction(), "{release:?} {user}: a commit began another transaction");
            let uncommitted = "BEGIN; INSERT INTO written VALUES ('open')";
            wire.run(uncommitted, "x").await.unwrap();
            let seen: Option<u64> =
                session.first("SELECT COUNT(*) FROM written WHERE who = 'open'", "x").await.unwrap();
            assert_eq!(seen, Some(0), "{release:?} {user}: what nobody committed is seen");
            wire.run("ROLLBACK", "x").await.unwrap();
        }
        let count = "SELECT GROUP_CONCAT(who ORDER BY who) FROM shop.written";
        let mut other = dialer(&place.server, "drover", None).session("test").await.unwrap();
        let written: Option<String> = other.first(count, "x").await.unwrap();
        assert_eq!(written.as_deref(), Some("drover,plain,wire,wire"), "{release:?}: statements that nobody committed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_as_asked() {
    // It makes itself a certificate and who signs it.
    let place = Place::start(Release::MySql9, &[]).await;
    let ca = place.server.folder().join("data/ca.pem");
    let cipher = async |mode, ca: Option<std::path::PathBuf>| {
        let mut wire = Wire::connect(&with_tls(&place.server, Tls { mode, ca, cert: None, key: None }), "test").await?;
        let rows = wire.all("SHOW SESSION STATUS LIKE 'Ssl_cipher'", "cannot ask").await?;
        Ok::<_, drover_model::Error>(text(&rows[0], 1).unwrap_or_default().to_owned())
    };
    assert_eq!(cipher(TlsMode::Off, None).await.unwrap(), "");
    assert!(!cipher(TlsMode::Require, None).await.unwrap().is_empty());
    assert!(!cipher(TlsMode::VerifyCa, Some(ca.clone())).await.unwrap().is_empty());
    // It is not made out for this address, and another one's signature is none.
    assert!(cipher(TlsMode::VerifyFull, Some(ca)).await.is_err());
    assert!(cipher(TlsMode::VerifyCa, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_encryption_is_not_spoken_to_in_clear() {
    let place = Place::start(Release::MariaDb10, &[]).await;
    let error = Wire::connect(&with_tls(&place.server, Tls { mode: TlsMode::Require, ..Tls::default() }), "test")
        .await
        .unwrap_err();
    assert_eq!(error.code, codes::CONFIGURATION, "{error}");
    assert!(error.remedy.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_any_length_and_errors_in_the_middle() {
    for release in [Release::MySql9, Release::MariaDb10] {
        let place = Place::start(release, &[("max-allowed-packet", "64M")]).await;
        let mut wire = Wire::connect(&place.dialer, "test").await.unwrap();
        // Around the length at which a payload goes on in the next packet, with an empty last packet as well.
        for length in [16_777_215 - 6, 16_777_215 - 5, 16_777_215 - 4, 16_777_216, 33_554_430 - 5, 40_000_000] {
            let statement = wire.prepare(&format!("SELECT REPEAT('x', {length})"), "long").await.unwrap();
            wire.execute(&statement, "long").await.unwrap();
            let mut lengths = Vec::new();
            while wire
                .rows(
                    &mut |row| {
                        lengths.push(row.iter().filter(|b| **b == b'x').count());
                        Ok(())
                    },
                    "long",
                )
                .await
                .unwrap()
                == Flow::More
            {}
            wire.close(&statement).await.unwrap();
            assert_eq!(lengths, [length], "{release:?}");
            assert!(!wire.is_busy());
        }
        // An error after some rows ends the answer, not the session.
        place.exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);").await;
        let failing = "SELECT id, IF(id = 3, (SELECT id FROM shop.t UNION ALL SELECT 1), 7) FROM shop.t ORDER BY id";
        let statement = wire.prepare(failing, "failing").await.unwrap();
        wire.execute(&statement, "failing").await.unwrap();
        let error = loop {
            match wire.rows(&mut |_| Ok(()), "failing").await {
                Ok(Flow::More) => {}
                Ok(Flow::End) => panic!("no error came"),
                Err(error) => break error,
            }
        };
        assert_eq!((error.code.as_str(), wire.last_error()), (codes::STATEMENT, Some(1242)), "{error}");
        assert!(!wire.is_busy());
        assert_eq!(wire.all("SELECT 1; SELECT 2, 3", "several").await.unwrap().len(), 2);
        // What was left unread is drained.
        let statement = wire
            .prepare(
                "SELECT a.id, REPEAT('x', 9999) FROM shop.t a, shop.t b, shop.t c, shop.t d, shop.t e, shop.t f",
                "left",
            )
            .await
            .unwrap();
        wire.execute(&statement, "left").await.unwrap();
        wire.rows(&mut |_| Ok(()), "left").await.unwrap();
        assert!(wire.is_busy());
        assert!(wire.ping().await.is_err(), "a busy session takes no command");
        wire.drain().await.unwrap();
        wire.ping().await.unwrap();
    }
}
