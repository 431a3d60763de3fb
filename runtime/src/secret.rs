//! Resolving secrets: in the process that opens the connection, and only there.

use drover_model::error::codes;
use drover_model::migration::SecretSource;
use drover_model::{Error, Fault, Result, Retry};

/// The secret's text, from wherever it is kept. Trailing line ends of a file do not belong to it.
pub fn resolve(source: &SecretSource) -> Result<String> {
    let missing = |what: String| Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, what);
    match source {
        SecretSource::Inline(secret) => Ok(secret.expose().to_owned()),
        SecretSource::Env(name) => std::env::var(name).map_err(|_| {
            missing(format!("the password is to be taken from the environment variable {name}, which is not set"))
                .remedy(format!("set {name} for this process"))
        }),
        SecretSource::File(path) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            // Whoever changes it may be about to put the new one there.
            .map_err(|e| {
                missing(format!("cannot read the password from {}", path.display())).cause(e).with_retry(Retry::Other)
            }),
    }
}
