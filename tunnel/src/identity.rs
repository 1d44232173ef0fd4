//! Certificates: the authority that issues them, the files they live in, and whom they name.
//!
//! Every certificate carries exactly one URI SAN, a SPIFFE ID (SPIFFE ID specification, section 2):
//! `spiffe://<trust-domain>/hub/<name>` or `spiffe://<trust-domain>/node/<name>`. A hub's certificate also carries the DNS
//! names and addresses at which agents dial it, and is good for server authentication only; a node's is good for client
//! authentication only. So a node can't pose as a hub, though the same authority vouches for both.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use edgeway_proto::{HubName, NodeName, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long an authority's own certificate lasts: ten years. It is replaced with an overlap, not by expiry.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long a certificate from a file lasts: a year, as nothing renews it.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far back validity starts, so that a node whose clock is late can connect.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Why an identity could not be made, read or accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("can't {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no valid PEM of the expected kind.
    #[error("{path} holds no valid {kind}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was expected.
        kind: &'static str,
    },
    /// The key does not belong to the certificate, or is of a kind that TLS can't use.
    #[error("key {path} does not fit its certificate")]
    KeyMismatch {
        /// The key's file.
        path: PathBuf,
        /// What TLS says.
        source: rustls::Error,
    },
    /// The certificate does not parse.
    #[error("certificate does not parse")]
    Unparsable,
    /// Not exactly one URI among the alternative names.
    #[error("certificate names {0} URIs, exactly one is allowed")]
    NotOneUri(usize),
    /// A URI that is no SPIFFE ID of this trust domain and role.
    #[error("certificate names '{uri}', expected 'spiffe://{trust_domain}/{role}/<name>'")]
    Foreign {
        /// What it says, cut to a readable length.
        uri: String,
        /// The trust domain that is accepted here.
        trust_domain: TrustDomain,
        /// The role that is accepted here.
        role: &'static str,
    },
    /// Making a certificate failed.
    #[error("can't make a certificate")]
    Issue(#[from] rcgen::Error),
}

/// A certificate with its key, both in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8). Secret.
    pub key_pem: String,
}

/// A certificate authority: what vouches for the hubs and nodes of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl Authority {
    /// Makes an authority with a new key (ECDSA P-256).
    ///
    /// # Errors
    /// [`IdentityError::Issue`] if the crypto library fails.
    pub fn generate(trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("Edgeway CA of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, AUTHORITY_LIFE);
        let key = KeyPair::generate()?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { trust_domain: trust_domain.clone(), issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The authority's certificate: what hubs and agents trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key (PKCS #8). Secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a hub's certificate for the DNS names and IP addresses at which agents dial it.
    ///
    /// # Errors
    /// [`IdentityError::Issue`], also for a text in `addresses` that is neither a DNS name nor an address.
    pub fn issue_hub(&self, name: &HubName, addresses: &[String]) -> Result<Issued, IdentityError> {
        let mut names = Vec::with_capacity(addresses.len());
        for address in addresses {
            names.push(match IpAddr::from_str(address) {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(address.as_str().try_into()?),
            });
        }
        self.issue("hub", name.as_str(), names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Issues a node's certificate.
    ///
    /// # Errors
    /// [`IdentityError::Issue`] if the crypto library fails.
    pub fn issue_node(&self, name: &NodeName) -> Result<Issued, IdentityError> {
        self.issue("node", name.as_str(), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        role: &str,
        name: &str,
        mut names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Issued, IdentityError> {
        let uri = format!("spiffe://{}/{role}/{name}", self.trust_domain);
        names.push(SanType::URI(uri.as_str().try_into()?));
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        // A common name has at most 64 characters (RFC 5280, appendix A.1); the identity is the URI, this is for people.
        params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, LEAF_LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + life).into();
}

/// What a process shows and trusts: its certificate and key, and the authorities of its peers.
#[derive(Debug)]
pub struct Identity {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Reads `ca.crt`, `hub.crt` and `hub.key` of a directory, and the name in the certificate.
    ///
    /// # Errors
    /// A file that can't be read or does not hold what it should, or a certificate that names no hub of `trust_domain`.
    pub fn load_hub(directory: &Path, trust_domain: &TrustDomain) -> Result<(Self, HubName), IdentityError> {
        let identity = Self::load(directory, "hub", trust_domain)?;
        let name = hub_name(&identity.chain[0], trust_domain)?;
        Ok((identity, name))
    }

    /// Reads `ca.crt`, `node.crt` and `node.key` of a directory, and the name in the certificate.
    ///
    /// # Errors
    /// A file that can't be read or does not hold what it should, or a certificate that names no node of `trust_domain`.
    pub fn load_node(
        directory: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<(Self, NodeName), IdentityError> {
        let identity = Self::load(directory, "node", trust_domain)?;
        let name = node_name(&identity.chain[0], trust_domain)?;
        Ok((identity, name))
    }

    fn load(directory: &Path, role: &str, trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let authorities = read_certificates(&directory.join("ca.crt"))?;
        let chain = read_certificates(&directory.join(format!("{role}.crt")))?;
        let key_path = directory.join(format!("{role}.key"));
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
            .map_err(|_| IdentityError::Pem { path: key_path.clone(), kind: "private key" })?;
        let identity = Self { trust_domain: trust_domain.clone(), chain, key, authorities };
        identity.certified_key().map_err(|source| IdentityError::KeyMismatch { path: key_path, source })?;
        Ok(identity)
    }

    pub(crate) fn certified_key(&self) -> Result<rustls::sign::CertifiedKey, rustls::Error> {
        let provider = crate::tls::provider();
        rustls::sign::CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::File { action: "read", path: path.into(), source })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| IdentityError::Pem { path: path.into(), kind: "certificate" })
}

/// The hub that a verified leaf certificate names.
///
/// # Errors
/// A certificate without exactly one URI SAN, or one that names no hub of `trust_domain`.
pub fn hub_name(leaf: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<HubName, IdentityError> {
    name_of(leaf, trust_domain, "hub", |name| HubName::new(name).ok())
}

/// The node that a verified leaf certificate names. The only source of a node's identity.
///
/// # Errors
/// A certificate without exactly one URI SAN, or one that names no node of `trust_domain`.
pub fn node_name(leaf: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<NodeName, IdentityError> {
    name_of(leaf, trust_domain, "node", |name| NodeName::new(name).ok())
}

fn name_of<N>(
    leaf: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
    role: &'static str,
    parse: impl Fn(&str) -> Option<N>,
) -> Result<N, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| IdentityError::Unparsable)?;
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unparsable)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        let count = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count();
        return Err(IdentityError::NotOneUri(count));
    };
    uri.strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(trust_domain.as_str()))
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|rest| rest.strip_prefix(role))
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(parse)
        .ok_or_else(|| IdentityError::Foreign {
            uri: uri.chars().take(128).flat_map(char::escape_debug).collect(),
            trust_domain: trust_domain.clone(),
            role,
        })
}

/// Writes a file that only its owner may read (0600), in a directory that only its owner may enter (0700).
///
/// # Errors
/// [`IdentityError::File`], also if the file exists: nothing is overwritten.
pub fn write_secret(path: &Path, content: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { action: "write", path: path.into(), source };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(issued: &Issued) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).expect("a certificate")
    }

    #[test]
    fn identity_comes_from_the_leaf_of_the_right_domain_and_role() {
        let domain = TrustDomain::new("example.com").expect("a domain");
        let other = TrustDomain::new("example.org").expect("a domain");
        let authority = Authority::generate(&domain).expect("an authority");
        let berlin = NodeName::new("berlin-1").expect("a name");
        let node = der(&authority.issue_node(&berlin).expect("a certificate"));
        let hub = HubName::new("hub-1").expect("a name");
        let hub = der(&authority
            .issue_hub(&hub, &["localhost".into(), "127.0.0.1".into()])
            .expect("a certificate"));
        assert_eq!(node_name(&node, &domain).expect("a node"), berlin);
        assert_eq!(hub_name(&hub, &domain).expect("a hub").as_str(), "hub-1");
        assert!(matches!(node_name(&node, &other), Err(IdentityError::Foreign { .. })));
        assert!(matches!(node_name(&hub, &domain), Err(IdentityError::Foreign { .. })));
        assert!(matches!(hub_name(&node, &domain), Err(IdentityError::Foreign { .. })));
    }

    #[test]
    fn certificates_with_no_or_two_uris_name_nobody() {
        let domain = TrustDomain::new("example.com").expect("a domain");
        for uris in [vec![], vec!["spiffe://example.com/node/a", "spiffe://example.com/node/b"]] {
            let mut params = CertificateParams::default();
            params.subject_alt_names =
                uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            let error = node_name(certificate.der(), &domain).expect_err("not exactly one URI");
            assert!(matches!(error, IdentityError::NotOneUri(count) if count == uris.len()), "{error}");
        }
        assert!(matches!(
            node_name(&CertificateDer::from(vec![0x30, 0x03]), &domain),
            Err(IdentityError::Unparsable)
        ));
    }

    #[test]
    fn keys_are_for_their_owner_alone_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("identity/node.key");
        write_secret(&path, "secret").expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a parent"))), (0o600, 0o700));
        assert!(matches!(write_secret(&path, "other"), Err(IdentityError::File { .. })));
        assert_eq!(fs::read_to_string(&path).expect("readable"), "secret");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let domain = TrustDomain::new("example.com").expect("a domain");
        let authority = Authority::generate(&domain).expect("an authority");
        let name = NodeName::new("berlin-1").expect("a name");
        let directory = tempfile::tempdir().expect("a directory");
        let put = |file: &str, text: &str| fs::write(directory.path().join(file), text).expect("written");
        put("ca.crt", authority.certificate_pem());
        put("node.crt", &authority.issue_node(&name).expect("a certificate").certificate_pem);
        put("node.key", &authority.issue_node(&name).expect("a certificate").key_pem);
        let error = Identity::load_node(directory.path(), &domain).expect_err("a foreign key");
        assert!(matches!(error, IdentityError::KeyMismatch { .. }), "{error}");
    }
}
