//! How the command line and workers reach a coordinator, and how a coordinator protects itself: address, certificates, token.

use clap::Args;
use drover_coordinator::Access;
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::control::Remote;
use std::path::{Path, PathBuf};

/// Where the token stands, if not in a file.
const TOKEN: &str = "DROVER_TOKEN";

#[derive(Args, Clone)]
pub struct ToCoordinator {
    /// Address of the coordinator, http://HOST:PORT or https://HOST:PORT. Its token, if it has one, is taken from --token-file or from
    /// the environment variable DROVER_TOKEN.
    #[arg(long, env = "DROVER_COORDINATOR", default_value = "http://127.0.0.1:7440", global = true)]
    coordinator: String,
    /// Certificates that sign the coordinator's (default: those of the system).
    #[arg(long, env = "DROVER_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// File with the coordinator's token.
    #[arg(long, env = "DROVER_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct Protection {
    /// Certificate to show, its chain behind it. Needed, with a token, to listen off the loopback interface.
    #[arg(long, env = "DROVER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, env = "DROVER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File with the token that workers and verbs have to bring (or the environment variable DROVER_TOKEN).
    #[arg(long, env = "DROVER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

fn token(file: Option<&Path>) -> Result<Option<String>> {
    let wrong = |text: String| Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text);
    match file {
        Some(path) => std::fs::read_to_string(path)
            .map(|text| Some(text.trim().to_owned()))
            .map_err(|e| wrong(format!("cannot read the token from {}", path.display())).cause(e)),
        None => Ok(std::env::var(TOKEN).ok().filter(|token| !token.is_empty())),
    }
}

impl ToCoordinator {
    /// The address, for people.
    pub fn address(&self) -> &str {
        &self.coordinator
    }

    /// A client; it connects when it is used.
    ///
    /// # Errors
    /// Exit status 2: the address is none, a file cannot be read, or the token would travel readable for others.
    pub fn remote(&self) -> Result<Remote> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| {
                let text = format!("cannot read the certificates in {}", path.display());
                Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text).cause(e)
            })
        };
        let ca = self.ca.as_ref().map(read).transpose()?;
        Remote::protected(&self.coordinator, ca, token(self.token_file.as_deref())?)
    }
}

impl Protection {
    /// What the coordinator asks for.
    pub fn access(&self) -> Result<Access> {
        let mut access = Access::open();
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            access = access.with_tls(cert, key)?;
        }
        match token(self.token_file.as_deref())? {
            Some(token) => access.with_token(&token),
            None => Ok(access),
        }
    }
}
