//! C1 and C4: what a listener and a local target may speak.

use std::{convert::Infallible, fs};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    partners::curl,
    raw,
    world::{ECHO, Plan},
};

/// Says in what it was called: version, host and target.
async fn describe(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    let path = request.uri().path().to_owned();
    let text = format!("{:?} {host} {path}", request.version());
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(text.into())))
}

fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    tokio::spawn(async move {
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(describe)).await;
    });
}

/// A certificate for `name`, as its PEM and as a TLS acceptor that also speaks h2.
fn tls(name: &str, alpn: &[&[u8]]) -> (String, String, tokio_rustls::TlsAcceptor) {
    let pair = rcgen::generate_simple_self_signed([name.to_owned(), "127.0.0.1".to_owned()]).expect("a pair");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    (pair.cert.pem(), pair.signing_key.serialize_pem(), acceptor)
}

#[tokio::test]
async fn local_targets_speak_http_h2c_https_and_unix_sockets() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain_port = plain.local_addr().expect("an address").port();
    let _plain = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            serve(stream);
        }
    }));
    let socket = directory.path().join("service.sock");
    let unix = UnixListener::bind(&socket).expect("a socket");
    let _unix = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = unix.accept().await {
            serve(stream);
        }
    }));
    let mut secure = Vec::new();
    let mut tasks = Vec::new();
    for (file, alpn) in [("h1.crt", &[&b"http/1.1"[..]][..]), ("h2.crt", &[b"h2", b"http/1.1"])] {
        let (certificate, _, acceptor) = tls("localhost", alpn);
        fs::write(directory.path().join(file), certificate).expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        secure.push(listener.local_addr().expect("an address").port());
        tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream);
                    }
                });
            }
        })));
    }
    let at = directory.path().display();
    let services = format!(
        "- {{name: plain, http: {{url: \"http://127.0.0.1:{plain_port}\"}}}}
- {{name: rewritten, http: {{url: \"http://127.0.0.1:{plain_port}\", host: inner.test}}}}
- {{name: h2c, http: {{url: \"h2c://127.0.0.1:{plain_port}\"}}}}
- {{name: unix, http: {{url: \"http://inner.test\", unixSocket: {socket}}}}}
- {{name: https, http: {{url: \"https://localhost:{h1}\", tls: {{ca: {at}/h1.crt}}}}}}
- {{name: https2, http: {{url: \"https://localhost:{h2}\", tls: {{ca: {at}/h2.crt}}}}}}
- {{name: foreign, http: {{url: \"https://localhost:{h1}\", tls: {{ca: {at}/h2.crt}}}}}}
",
        socket = socket.display(),
        h1 = secure[0],
        h2 = secure[1],
    );
    let world = Plan::default().node("berlin-1", services).start().await;
    for (service, version, host) in [
        ("plain", "HTTP/1.1", "e2e"),
        ("rewritten", "HTTP/1.1", "inner.test"),
        ("h2c", "HTTP/2.0", "e2e"),
        ("unix", "HTTP/1.1", "e2e"),
        ("https", "HTTP/1.1", "e2e"),
        ("https2", "HTTP/2.0", "e2e"),
    ] {
        for _ in 0..3 {
            let answer = raw::post(world.rest, &format!("/any/{service}/p"), b"body").await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, format!("{version} {host} /p").as_str()),
                "{service}"
            );
        }
    }
    let untrusted = raw::get(world.rest, "/any/foreign").await;
    assert_eq!(untrusted.status, 502, "{untrusted:?}");
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_may_speak_http_1_and_2_with_and_without_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key, _) = tls("localhost", &[]);
    let (certificate_file, key_file) = (directory.path().join("rest.crt"), directory.path().join("rest.key"));
    fs::write(&certificate_file, certificate).expect("written");
    fs::write(&key_file, key).expect("written");
    let listener =
        format!("tls: {{certificate: {}, key: {}}}", certificate_file.display(), key_file.display());
    let secure = Plan { listener, ..Plan::default() }.node("berlin-1", ECHO).start().await;
    let plain = Plan::default().node("berlin-1", ECHO).start().await;
    let ca = certificate_file.to_str().expect("UTF-8");
    let (secure_url, plain_url) = (
        format!("https://localhost:{}/any/echo", secure.rest.port()),
        format!("http://localhost:{}/any/echo", plain.rest.port()),
    );
    for (arguments, url, version) in [
        (&["--http1.1", "--cacert", ca][..], &secure_url, "1.1"),
        (&["--http2", "--cacert", ca], &secure_url, "2"),
        (&["--http1.1"], &plain_url, "1.1"),
        (&["--http2-prior-knowledge"], &plain_url, "2"),
        (&["--http1.0"], &plain_url, "1.0"),
    ] {
        let common = ["--data-binary", "hello", "--write-out", " %{http_version} %{http_code}", url];
        let said = curl(&[arguments, &common].concat()).await;
        // HTTP/1.0 may be answered with 1.1 (RFC 9110, section 2.5).
        let versions = if version == "1.0" { &["1", "1.0", "1.1"][..] } else { &[version] };
        assert!(
            versions.iter().any(|version| said == format!("hello {version} 200")),
            "{arguments:?}: {said}"
        );
    }
    secure.shutdown().await;
    plain.shutdown().await;
}
