//! TLS 1.3 on both sides, mutual, one ALPN, no early data and no resumption.

use std::sync::Arc;

use edgeway_proto::ALPN;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use crate::identity::Identity;

/// The one crypto provider of the tree, handed over explicitly: no process default is installed or needed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use std::sync::OnceLock;
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Why an identity makes no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificates, key or authorities that TLS does not take.
    #[error("identity is not usable for TLS")]
    Rustls(#[from] rustls::Error),
    /// Authorities that can't vouch for anybody.
    #[error("certificate authority is not usable")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The cipher suites lack what QUIC needs.
    #[error("crypto provider lacks the initial cipher suite of QUIC")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

fn roots(identity: &Identity) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &identity.authorities {
        roots.add(authority.clone())?;
    }
    Ok(roots)
}

pub(crate) fn server(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(identity)?), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Resumption would let a session outlive a change of trust, and early data could be replayed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

pub(crate) fn client(identity: &Identity) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(identity)?)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}
