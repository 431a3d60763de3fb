//! What the two kinds of the family state about themselves, and how their sides are opened. They are one connector under two names: whichever a
//! migration file has, the server's own answer decides what it is.

use crate::connect::{Dialer, Settings};
use crate::destination::MyDestination;
use crate::flavor::Flavor;
use crate::source::MySource;
use async_trait::async_trait;
use drover_connectors_api::{Abilities, About, Connector, Destination, Source, Target};
use drover_model::{Fault, Result};

/// The connector of one kind.
pub struct MySqlFamily {
    about: About,
}

impl MySqlFamily {
    /// `mysql` or `mariadb`.
    pub fn new(flavor: Flavor) -> Self {
        let source = Abilities {
            exact_snapshot: true,
            // A transaction on a snapshot belongs to its session.
            shared_snapshot: false,
            new_snapshot: true,
            transactions: true,
            transactional_ddl: false,
            rounds_floats: true,
        };
        MySqlFamily {
            about: About {
                kind: flavor.kind(),
                title: flavor.title(),
                default_port: 3306,
                destination: Some(source.clone()),
                source: Some(source),
            },
        }
    }
}

/// An endpoint as this crate takes it.
pub(crate) fn dialer(target: &Target, fault: Fault, default_port: u16) -> Dialer {
    let url = &target.endpoint.url;
    Dialer::new(Settings {
        host: url.host.clone(),
        port: url.port.unwrap_or(default_port),
        user: url.user.clone().unwrap_or_else(|| "root".into()),
        password: target.password.clone(),
        database: url.database.clone(),
        tls: target.endpoint.tls.clone(),
        migration: target.migration,
        fault,
    })
}

#[async_trait]
impl Connector for MySqlFamily {
    fn about(&self) -> &About {
        &self.about
    }
    async fn source(&self, target: Target) -> Result<Box<dyn Source>> {
        let dialer = dialer(&target, Fault::Source, self.about.default_port);
        Ok(Box::new(MySource::open(dialer, target.readers).await?))
    }
    async fn destination(&self, target: Target) -> Result<Box<dyn Destination>> {
        let dialer = dialer(&target, Fault::Destination, self.about.default_port);
        Ok(Box::new(MyDestination::open(dialer).await?))
    }
}
