//! The one list of connectors, and of what else a database can do for drover. A new database is one folder beside this one and one line here.

use drover_connectors_api::Connector;
use drover_connectors_mysql::connector::MySqlFamily;
use drover_connectors_mysql::flavor::Flavor;
use drover_connectors_postgres_store as postgres_store;
use drover_coordinator::store::Opened;
use drover_model::Result;
use std::path::Path;
use std::sync::Arc;

/// All connectors of this build.
pub fn all() -> Vec<Arc<dyn Connector>> {
    vec![
        Arc::new(drover_connectors_postgres::connector::Postgres::default()),
        Arc::new(MySqlFamily::new(Flavor::MySql)),
        Arc::new(MySqlFamily::new(Flavor::MariaDb)),
    ]
}

/// The connector of a kind, as migration files name it.
pub fn find(kind: &str) -> Option<Arc<dyn Connector>> {
    all().into_iter().find(|c| c.about().kind == kind)
}

/// The kinds that a migration file may name.
pub fn kinds() -> Vec<&'static str> {
    all().iter().map(|c| c.about().kind).collect()
}

/// What names a store in a database, for the help of `--store`; it takes a folder as well.
pub const STORE_FORM: &str = postgres_store::FORM;
/// Where such a store lies, for people.
pub const STORE_PLACE: &str = postgres_store::PLACE;

/// Waits until this process may lead in the store that `text` names, and opens it; nothing if `text` names a folder. `key`: the file that
/// seals secrets, the same for all coordinators of a store.
///
/// # Errors
/// As [`PgStore::open`](postgres_store::PgStore::open).
pub async fn open_store(text: &str, key: &Path) -> Result<Option<Opened>> {
    if postgres_store::is_url(text) { postgres_store::open(text, key).await.map(Some) } else { Ok(None) }
}
