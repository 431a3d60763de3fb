//! Keeps what holds secrets unreadable for whoever has the store, but not its key file.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Retry};
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// AES-256-GCM with the key of a file; the migration's id is bound to what is sealed.
pub struct Seal {
    key: RandomizedNonceKey,
}

fn failed(what: String, cause: impl std::error::Error) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Never, what).cause(cause)
}

fn damaged(what: String) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Never, what)
        .remedy("put the key file back that the store was begun with")
}

impl Seal {
    /// Reads the key file, or makes it on first use, readable for its owner only.
    ///
    /// # Errors
    /// It cannot be read or made, or is no key.
    pub fn open(path: &Path) -> Result<Seal, Error> {
        let name = path.display();
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => {
                file.read_to_end(&mut bytes).map_err(|e| failed(format!("{name} cannot be read"), e))?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                bytes = vec![0; 32];
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| damaged(format!("there is no randomness for {name}")))?;
                make(path, &bytes).map_err(|e| failed(format!("{name} cannot be made"), e))?;
            }
            Err(e) => return Err(failed(format!("{name} cannot be opened"), e)),
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes);
        Ok(Seal { key: key.map_err(|_| damaged(format!("{name} is not 32 bytes long")))? })
    }

    /// # Errors
    /// The library refuses.
    pub fn seal(&self, id: MigrationId, plain: Vec<u8>) -> Result<Vec<u8>, Error> {
        let mut sealed = plain;
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(id.as_bytes()), &mut sealed)
            .map_err(|_| damaged("a migration cannot be encrypted".into()))?;
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut sealed);
        Ok(out)
    }

    /// # Errors
    /// It was sealed with another key, or is damaged.
    pub fn unseal(&self, id: MigrationId, mut sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
        let bad =
            || damaged("a migration cannot be decrypted: secret.key is not the one that it was stored with".into());
        if sealed.len() < NONCE_LEN {
            return Err(bad());
        }
        let mut body = sealed.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| bad())?;
        let plain = self.key.open_in_place(nonce, Aad::from(id.as_bytes()), &mut body).map_err(|_| bad())?;
        Ok(plain.to_vec())
    }
}

/// Written whole under another name first: a crash leaves no half key behind.
fn make(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
