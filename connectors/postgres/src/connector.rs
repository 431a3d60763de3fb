//! What this kind of database states about itself, and how its two sides are opened.

use crate::connect::{Dialer, Settings};
use crate::destination::PgDestination;
use crate::source::PgSource;
use async_trait::async_trait;
use drover_connectors_api::{Abilities, About, Connector, Destination, Source, Target};
use drover_model::{Fault, Result};

/// The `kind` of migration files, and the origin of catalogues.
pub const KIND: &str = "postgres";

/// The connector.
pub struct Postgres {
    about: About,
}

impl Default for Postgres {
    fn default() -> Self {
        let abilities = Abilities {
            exact_snapshot: true,
            shared_snapshot: true,
            new_snapshot: true,
            transactions: true,
            transactional_ddl: true,
            rounds_floats: false,
        };
        Postgres {
            about: About {
                kind: KIND,
                title: "PostgreSQL",
                default_port: 5432,
                source: Some(abilities.clone()),
                destination: Some(abilities),
            },
        }
    }
}

fn dialer(target: &Target, fault: Fault, default_port: u16) -> Result<Dialer> {
    let endpoint = &target.endpoint;
    let url = &endpoint.url;
    let user = url.user.clone().unwrap_or_else(|| "postgres".into());
    Dialer::new(Settings {
        host: url.host.clone(),
        port: url.port.unwrap_or(default_port),
        database: url.database.clone().unwrap_or_else(|| user.clone()),
        user,
        password: target.password.clone(),
        tls: endpoint.tls.clone(),
        migration: target.migration,
        fault,
    })
}

#[async_trait]
impl Connector for Postgres {
    fn about(&self) -> &About {
        &self.about
    }
    async fn source(&self, target: Target) -> Result<Box<dyn Source>> {
        let dialer = dialer(&target, Fault::Source, self.about.default_port)?;
        Ok(Box::new(PgSource::open(dialer, target.name).await?))
    }
    async fn destination(&self, target: Target) -> Result<Box<dyn Destination>> {
        let dialer = dialer(&target, Fault::Destination, self.about.default_port)?;
        Ok(Box::new(PgDestination::open(dialer, target.name).await?))
    }
}
