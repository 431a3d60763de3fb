//! The one list of connectors. A new database is one folder beside this one and one line here.

use drover_connectors_api::Connector;
use drover_connectors_mysql::connector::MySqlFamily;
use drover_connectors_mysql::flavor::Flavor;
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
