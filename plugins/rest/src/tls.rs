//! Certificate and key of a listener, read and checked when the plugin is built.

use std::{fs, io, path::Path, sync::Arc};

use edgeway_plugin::ConfigError;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use crate::config::TlsConfig;

/// Largest file that is read. Chains are a few KiB; anything above this is the wrong file.
const LARGEST_FILE: u64 = 1 << 20;

/// The TLS settings of a listener, or problems under `path` and `None`.
pub(crate) fn load(config: &TlsConfig, path: &str, problems: &mut ConfigError) -> Option<Arc<ServerConfig>> {
    let chain = certificates(&config.certificate)
        .map_err(|message| problems.push(format!("{path}.certificate"), message));
    let key = key(&config.key).map_err(|message| problems.push(format!("{path}.key"), message));
    // The provider is named: a process default would be whichever crate came first.
    let built = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions")
        .with_no_client_auth()
        .with_single_cert(chain.ok()?, key.ok()?);
    match built {
        Ok(mut tls) => {
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            // Early data could be replayed, and then a service would run twice for one call.
            tls.max_early_data_size = 0;
            Some(Arc::new(tls))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!(
                "the key in {} does not belong to the certificate in {}",
                config.key.display(),
                config.certificate.display()
            );
            problems.push(format!("{path}.key"), message);
            None
        }
        Err(error) => {
            let message = format!("can't use {}: {error}", config.certificate.display());
            problems.push(format!("{path}.certificate"), message);
            None
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(format!("{} holds no certificate in PEM", file.display())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("{} is no valid PEM: {error}", file.display())),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    match PrivateKeyDer::from_pem_slice(&read(file)?) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(format!("{} holds no private key in PEM", file.display())),
        // The parser's error may quote the line it stumbled over, and this file is a secret.
        Err(_) => Err(format!("{} is no valid PEM", file.display())),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("can't read {}: {error}", file.display());
    let length = fs::metadata(file).map_err(failed)?.len();
    if length > LARGEST_FILE {
        return Err(format!("{} has {length} bytes, at most {LARGEST_FILE} are read", file.display()));
    }
    fs::read(file).map_err(failed)
}
