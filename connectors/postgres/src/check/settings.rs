//! The source's settings for incremental: log level, slots, senders, managed kin, long transactions (K25–K29, K34).

use drover_model::check::CheckItem;
use tokio_postgres::{Client, Error};

pub(super) async fn source(client: &Client, items: &mut Vec<CheckItem>) -> Result<(), Error> {
    let row = client
        .query_one(
            "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int, current_setting('max_wal_senders')::int, \
             (SELECT count(*) FROM pg_replication_slots), \
             (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'), \
             current_setting('rds.logical_replication', true), pg_is_in_recovery(), \
             EXISTS (SELECT FROM pg_proc WHERE proname = 'aurora_version'), current_setting('synchronous_commit')",
            &[],
        )
        .await?;
    let level: String = row.try_get(0)?;
    let managed: Option<String> = row.try_get(5)?;
    if level == "logical" {
        items.push(CheckItem::passed("K25", "wal_level"));
    } else {
        let remedy = if managed.is_some() {
            "set rds.logical_replication = 1 in the parameter group and restart the server"
        } else {
            "ALTER SYSTEM SET wal_level = logical, then restart the server: the restart interrupts every application"
        };
        items.push(CheckItem::failed(
            "K25",
            "wal_level",
            format!("wal_level is {level}; changes can be read with logical only"),
            remedy,
        ));
    }
    // One slot for the stream, one for a moment when a snapshot is taken again.
    for (name, limit, used) in [
        ("max_replication_slots", row.try_get::<_, i32>(1)? as i64, row.try_get::<_, i64>(3)?),
        ("max_wal_senders", row.try_get::<_, i32>(2)? as i64, row.try_get::<_, i64>(4)?),
    ] {
        let free = limit - used;
        let cause = format!("{name} is {limit}, {used} in use");
        let remedy = format!(
            "ALTER SYSTEM SET {name} = {}, then restart the server; or drop what is not needed",
            limit.max(used) + 5
        );
        items.push(if limit <= 1 || free < 1 {
            CheckItem::failed("K26", name, cause, remedy)
        } else if free < 2 {
            CheckItem::warning("K26", name, format!("{cause}: a snapshot that is lost could not be replaced"), remedy)
        } else {
            CheckItem { cause, ..CheckItem::passed("K26", name) }
        });
    }
    if let Some(on) = managed {
        items.push(if on == "1" || on == "on" {
            CheckItem::passed("K28", "rds.logical_replication")
        } else {
            let cause = format!("rds.logical_replication is {on}");
            CheckItem::failed(
                "K28",
                "rds.logical_replication",
                cause,
                "set it to 1 in the parameter group and restart the server",
            )
        });
    }
    if row.try_get(7)? {
        let commit: String = row.try_get(8)?;
        items.push(if commit == "on" {
            CheckItem::passed("K29", "synchronous_commit")
        } else {
            CheckItem::failed(
                "K29",
                "synchronous_commit",
                format!("it is {commit}"),
                "set synchronous_commit = on in the parameter group",
            )
        });
    }
    if row.try_get(6)? {
        let remedy = "point `url` at the primary server";
        items.push(CheckItem::failed(
            "K7",
            "source",
            "the server is a standby: neither publication nor marks can be written there",
            remedy,
        ));
    }
    Ok(())
}

/// K34: transactions that a slot has to wait for, and which keep the log from being recycled.
pub(super) async fn long_transactions(client: &Client, items: &mut Vec<CheckItem>) -> Result<(), Error> {
    let rows = client
        .query(
            "SELECT pid, coalesce(usename, ''), coalesce(state, ''), extract(epoch FROM clock_timestamp() - xact_start)::bigint \
               FROM pg_stat_activity \
              WHERE pid <> pg_backend_pid() AND datname IS NOT NULL AND xact_start IS NOT NULL \
                AND (backend_xid IS NOT NULL AND xact_start < clock_timestamp() - interval '10 s' OR xact_start < clock_timestamp() - interval '5 min') \
              ORDER BY xact_start LIMIT 20",
            &[],
        )
        .await?;
    let before = items.len();
    for r in &rows {
        let (pid, user, state, age): (i32, &str, &str, i64) =
            (r.try_get(0)?, r.try_get(1)?, r.try_get(2)?, r.try_get(3)?);
        items.push(CheckItem::warning(
            "K34",
            format!("session {pid}"),
            format!("its transaction ({state}, account {user}) is open for {age} s: the start waits for it to end, and the log cannot be recycled"),
            format!("let it end, or SELECT pg_terminate_backend({pid})"),
        ));
    }
    let sql = "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::bigint FROM pg_prepared_xacts ORDER BY prepared LIMIT 20";
    for r in client.query(sql, &[]).await? {
        let (gid, age): (String, i64) = (r.try_get(0)?, r.try_get(1)?);
        items.push(CheckItem::warning(
            "K34",
            format!("prepared transaction {gid}"),
            format!("it is open for {age} s: the start waits for it to end, and the log cannot be recycled"),
            format!("COMMIT PREPARED {0} or ROLLBACK PREPARED {0}", crate::sql::literal(&gid)),
        ));
    }
    if items.len() == before {
        items.push(CheckItem::passed("K34", "long transactions"));
    }
    Ok(())
}
