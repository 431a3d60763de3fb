//! Places in a server's binary log, as positions.
//!
//! The order key is the number of the log file and the offset in it, so that byte order is log order within one server. A server that takes over
//! (see [`crate::changes::open`]) has a lineage of its own, one higher. What one resumes with is [`Resume`], as JSON. A position is the *end*
//! of a commit's last event: everything up to and including that transaction is behind it.

use crate::connect::Session;
use crate::flavor::Flavor;
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};
use mysql_async::Row;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Resume data beyond this is compressed; [`Position::to_bytes`] has room for 64 KiB.
const PLAIN: usize = 16 << 10;

/// A file of the binary log and an offset in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub offset: u64,
}

impl Place {
    pub fn new(file: impl Into<String>, offset: u64) -> Self {
        Place { file: file.into(), offset }
    }

    /// The number at the end of the file's name; `None` where there is none.
    pub fn number(&self) -> Option<u64> {
        file_number(&self.file)
    }

    /// The order key.
    pub fn order(&self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.number().unwrap_or(0).to_be_bytes());
        key[8..].copy_from_slice(&self.offset.to_be_bytes());
        key
    }
}

/// `binlog.000012` → 12.
pub fn file_number(file: &str) -> Option<u64> {
    file.rsplit_once('.')?.1.parse().ok()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// What a stream goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    pub flavor: Flavor,
    /// `server_uuid`, or `id:<server_id>` where a server has none (MariaDB, MySQL before 5.6).
    pub server: String,
    #[serde(flatten)]
    pub place: Place,
    /// When the file was begun, seconds since the Unix epoch: a file of the same name after RESET is another one. `None` where it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<u32>,
    /// All transactions up to the place: a GTID set of MySQL, or MariaDB's last GTID of each domain. `None` where the server has none, or
    /// where it is too long to be carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtids: Option<String>,
    /// Where reading begins, if earlier than the place: there a transaction was prepared (XA) that is still open at the place. What
    /// ended between the two is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reread: Option<Place>,
    /// The GTIDs of these preparations, as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
    /// After another MariaDB took over: ids of `gtids` that stand behind the place and have to be passed over, one for each domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<String>,
}

impl Resume {
    fn encode(&self) -> Result<Vec<u8>> {
        let failed = |e: &dyn fmt::Display| Error::internal(format!("cannot encode a position: {e}"));
        let plain = serde_json::to_vec(self).map_err(|e| failed(&e))?;
        if plain.len() <= PLAIN {
            return Ok(plain);
        }
        let packed = zstd::bulk::compress(&plain, 3).map_err(|e| failed(&e))?;
        if packed.len() <= usize::from(u16::MAX) {
            return Ok(packed);
        }
        // Too many gaps: the place alone is enough on this server, only a failover to another one needs the set.
        let without = Resume { gtids: None, held: Vec::new(), ..self.clone() };
        serde_json::to_vec(&without).map_err(|e| failed(&e))
    }
}

/// A position with all that is needed to resume from it.
pub fn position(lineage: u32, resume: &Resume) -> Result<Position> {
    let text = resume.place.to_string();
    Ok(Position { lineage, order: resume.place.order().to_vec(), resume: resume.encode()?, text })
}

/// The reverse of [`position`].
pub fn resume_of(position: &Position) -> Result<Resume> {
    let bad = |why: String| Error::internal(format!("{position:?} is no place in a binary log: {why}"));
    if position.resume.first() == Some(&b'{') {
        return serde_json::from_slice(&position.resume).map_err(|e| bad(e.to_string()));
    }
    let plain = zstd::bulk::decompress(&position.resume, 64 << 20).map_err(|e| bad(e.to_string()))?;
    serde_json::from_slice(&plain).map_err(|e| bad(e.to_string()))
}

/// Where a server's log stands.
#[derive(Debug, Clone)]
pub struct Status {
    pub place: Place,
    pub gtids: Option<String>,
    /// Databases that alone are logged, and ones that are not: empty as a rule.
    pub only: Vec<String>,
    pub never: Vec<String>,
}

/// Reads where the log stands now. Exact under a lock that keeps commits out; otherwise everything that was committed before
/// the call lies at or before the place, and GTIDs may lag behind it.
pub async fn status(session: &mut Session) -> Result<Status> {
    let what = "cannot read where the binary log stands";
    let mariadb = session.version.is_mariadb();
    let gtids: Option<String> =
        if mariadb { session.first("SELECT @@GLOBAL.gtid_binlog_pos", what).await? } else { None };
    let sql = if session.version.mysql(80_200) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let row: Option<Row> = session.first(sql, what).await?;
    let Some(row) = row else {
        return Err(Error::new(codes::CONFIGURATION, Fault::Source, Retry::Other, "the source writes no binary log")
            .remedy("set log_bin in its configuration and restart it"));
    };
    let text = |name: &str| -> Option<String> {
        let at = row.columns_ref().iter().position(|c| c.name_str().eq_ignore_ascii_case(name))?;
        row.get_opt::<Option<String>, _>(at)?.ok()?
    };
    let names = |name: &str| -> Vec<String> {
        let list = text(name).unwrap_or_default();
        list.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    let file = text("File").unwrap_or_default();
    let offset = text("Position").and_then(|p| p.parse().ok());
    let (Some(offset), Some(_)) = (offset, file_number(&file)) else {
        return Err(Error::new(codes::STATEMENT, Fault::Source, Retry::Other, format!("{what}: {sql} gives {file:?}")));
    };
    let gtids = if mariadb { gtids } else { text("Executed_Gtid_Set") };
    // MySQL breaks long sets into lines.
    let gtids = gtids.map(|set| set.split_whitespace().collect::<String>()).filter(|set| !set.is_empty());
    Ok(Status { place: Place { file, offset }, gtids, only: names("Binlog_Do_DB"), never: names("Binlog_Ignore_DB") })
}

/// How this server is told from others.
pub async fn server(session: &mut Session) -> Result<String> {
    let what = "cannot ask which server this is";
    if session.version.mysql(50_600) {
        let uuid: Option<String> = session.first("SELECT @@GLOBAL.server_uuid", what).await?;
        if let Some(uuid) = uuid {
            return Ok(uuid);
        }
    }
    let id: Option<u64> = session.first("SELECT @@GLOBAL.server_id", what).await?;
    Ok(format!("id:{}", id.unwrap_or(0)))
}

/// The log and the prepared transactions at a moment before a snapshot.
#[derive(Debug, Clone)]
pub struct Before {
    place: Place,
    prepared: Vec<Vec<u8>>,
}

impl Before {
    /// Where the log stood.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// To be called before the lock under which a snapshot's transactions are opened: XA transactions that are prepared by then, and commit after the
/// snapshot, lie before it in the log. A stream that starts at [`here`] reads them from this place on.
pub async fn before(session: &mut Session) -> Result<Before> {
    let prepared = prepared(session).await?.unwrap_or_default();
    Ok(Before { place: status(session).await?.place, prepared })
}

/// The position of this moment; exact under a lock that keeps commits out. With `before`, a stream can be resumed from it: it reads from there on, for an XA
/// transaction that has been prepared since then may still be open; one that is older makes an error worth another try.
pub async fn here(session: &mut Session, before: Option<&Before>, lineage: u32) -> Result<Position> {
    let status = status(session).await?;
    let mut reread = None;
    if let Some(before) = before {
        let open = prepared(session).await?.unwrap_or_default();
        let old: Vec<String> = open
            .iter()
            .filter(|x| before.prepared.contains(x))
            .map(|x| String::from_utf8_lossy(x).into_owned())
            .collect();
        if !old.is_empty() {
            let what = format!("XA transactions are prepared and wait for their end: {}", old.join(", "));
            return Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what)
                .remedy("end them: XA RECOVER lists them, XA COMMIT or XA ROLLBACK ends one"));
        }
        // Whether one is open now or not: the account may not be allowed to see them, and the caller may know of an earlier moment.
        reread = Some(before.place.clone()).filter(|place| *place != status.place);
    }
    let resume = Resume {
        flavor: session.version.flavor,
        server: server(session).await?,
        place: status.place,
        born: None,
        gtids: status.gtids,
        reread,
        held: Vec::new(),
        passing: None,
    };
    position(lineage, &resume)
}

/// The position of this moment, in the history that `seen` belongs to: the last position that the stream has given out.
///
/// # Errors
/// As [`same_server`].
pub async fn mark(session: &mut Session, seen: &Position) -> Result<Position> {
    same_server(session, seen).await?;
    here(session, None, seen.lineage).await
}

/// Sees that this is the server that the stream was at when it gave out `seen`.
///
/// # Errors
/// Worth another try if it is another one: positions of the two cannot be compared before the stream has followed.
pub async fn same_server(session: &mut Session, seen: &Position) -> Result<()> {
    must_be(&server(session).await?, seen)
}

/// The same of a server by its name.
pub(crate) fn must_be(server: &str, seen: &Position) -> Result<()> {
    let resume = resume_of(seen)?;
    if resume.server == server {
        return Ok(());
    }
    let what = format!("the change stream is at the server {} still, this one is {server}", resume.server);
    Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what)
        .remedy("wait until the stream has followed to the server that took over"))
}

/// Ids of prepared XA transactions; `None` where the account may not see them. The stream stops loudly when one of them commits
/// whose preparation it has not read.
async fn prepared(session: &mut Session) -> Result<Option<Vec<Vec<u8>>>> {
    let rows: Result<Vec<(i64, i64, i64, Vec<u8>)>> =
        session.all("XA RECOVER", "cannot list prepared transactions").await;
    match rows {
        Ok(rows) => Ok(Some(rows.into_iter().map(|r| r.3).collect())),
        Err(e) if e.code == codes::PERMISSION || e.code == codes::STATEMENT => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume(gtids: Option<String>) -> Resume {
        Resume {
            flavor: Flavor::MySql,
            server: "u".into(),
            place: Place::new("binlog.000012", 4567),
            born: Some(7),
            gtids,
            reread: Some(Place::new("binlog.000011", 4)),
            held: vec!["u:7".into()],
            passing: None,
        }
    }

    #[test]
    fn order_is_file_number_then_offset() {
        let at = |file: &str, offset| Place::new(file, offset).order();
        assert!(at("binlog.000009", 900) < at("binlog.000010", 4));
        assert!(at("binlog.999999", 900) < at("binlog.1000000", 4));
        assert!(at("b.000001", 255) < at("b.000001", 256));
        assert_eq!(Place::new("host-bin.000012", 4567).to_string(), "host-bin.000012:4567");
        assert_eq!(file_number("binlog"), None);
    }

    #[test]
    fn resume_data_comes_back_however_long() {
        let long: String = (0..20_000u64).map(|n| format!(":{}", n * 7)).collect();
        for gtids in [None, Some("u:1-5".to_owned()), Some(format!("u{long}"))] {
            let wanted = resume(gtids);
            let position = position(3, &wanted).unwrap();
            assert_eq!((position.lineage, position.text.as_str()), (3, "binlog.000012:4567"));
            let back = Position::from_bytes(&position.to_bytes()).unwrap();
            assert_eq!(resume_of(&back).unwrap(), wanted);
        }
        // Digits without any pattern do not fit: the place still does.
        let mut state = 1u64;
        let mut noise = String::from("u");
        for _ in 0..40_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.push_str(&format!(":{}", state >> 20));
        }
        let position = position(0, &resume(Some(noise))).unwrap();
        let back = resume_of(&Position::from_bytes(&position.to_bytes()).unwrap()).unwrap();
        assert_eq!((back.gtids, back.place), (None, Place::new("binlog.000012", 4567)));
    }
}
