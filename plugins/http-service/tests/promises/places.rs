//! Where services are: Unix sockets, https, h2c.

use std::{path::Path, sync::Arc};

use edgeway_plugin::{Connector as _, FaultCode, Health};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::*;

#[tokio::test]
async fn a_unix_socket_is_reached() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let service = connector(json!({"url": "http://orders", "unixSocket": path}));
    assert_eq!(service.probe().await, Health::Ready);
    in_time(listener.accept()).await.unwrap();

    let call = call(&service, get("/a"));
    let mut peer = Peer::new(in_time(listener.accept()).await.unwrap().0);
    assert!(peer.head().await.starts_with("GET /a "));
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(text(joined(call).await.unwrap()).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_refused_by_its_path() {
    let service = connector(json!({"url": "http://orders", "unixSocket": "/nowhere/orders.sock"}));
    let fault = answer(&service, get("/")).await.unwrap_err();
    assert_eq!(fault.code(), FaultCode::ServiceRefused);
    assert!(fault.detail().contains("/nowhere/orders.sock"), "{fault}");
}

/// A CA in a file, and what it certifies for `name`.
fn certified(directory: &Path, name: &str, alpn: &[&[u8]]) -> TlsAcceptor {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(directory.join("ca.crt"), authority.as_ref().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn tls_peer(listener: &TcpListener, acceptor: &TlsAcceptor) -> Peer<TlsStream<tokio::net::TcpStream>> {
    let (stream, _) = in_time(listener.accept()).await.unwrap();
    Peer::new(in_time(acceptor.accept(stream)).await.unwrap())
}

#[tokio::test]
async fn https_without_alpn_is_http_1_1() {
    let directory = tempfile::tempdir().unwrap();
    let acceptor = certified(directory.path(), "127.0.0.1", &[]);
    let (listener, service) =
        listening("https", json!({"tls": {"ca": directory.path().join("ca.crt")}})).await;
    let first = call(&service, get("/a"));
    let mut peer = tls_peer(&listener, &acceptor).await;
    assert!(peer.head().await.starts_with("GET /a "));
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(text(joined(first).await.unwrap()).await.unwrap(), "ok");
    let second = call(&service, get("/b"));
    assert!(peer.head().await.starts_with("GET /b "));
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(second).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let acceptor = certified(directory.path(), "orders.internal", &[b"h2", b"http/1.1"]);
    let ca = directory.path().join("ca.crt");
    let (listener, by_url) = listening("https", json!({"tls": {"ca": ca}})).await;
    let url = format!("https://{}", listener.local_addr().unwrap());
    let by_name = connector(json!({"url": url, "tls": {"ca": ca, "serverName": "orders.internal"}}));
    let other = tempfile::tempdir().unwrap();
    certified(other.path(), "orders.internal", &[]);
    let stranger = json!({"ca": other.path().join("ca.crt"), "serverName": "orders.internal"});
    let by_stranger = connector(json!({"url": url, "tls": stranger}));

    for service in [by_url, by_stranger] {
        let call = call(&service, get("/"));
        let (stream, _) = in_time(listener.accept()).await.unwrap();
        assert!(in_time(acceptor.accept(stream)).await.is_err());
        let fault = joined(call).await.unwrap_err();
        assert_eq!(fault.code(), FaultCode::ServiceRefused);
        assert!(fault.detail().contains("TLS") && fault.detail().contains("certificate"), "{fault}");
    }
    let call = call(&by_name, get("/"));
    assert!(in_time(listener.accept()).await.is_ok());
    call.abort();
}

#[tokio::test]
async fn a_plain_service_at_an_https_url_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    certified(directory.path(), "127.0.0.1", &[]);
    let (listener, service) =
        listening("https", json!({"tls": {"ca": directory.path().join("ca.crt")}})).await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(joined(call).await.unwrap_err().code(), FaultCode::ServiceRefused);
}

#[tokio::test]
async fn an_upgrade_over_https_gets_a_connection_of_http_1_1() {
    let directory = tempfile::tempdir().unwrap();
    let acceptor = certified(directory.path(), "127.0.0.1", &[b"h2", b"http/1.1"]);
    let (listener, service) =
        listening("https", json!({"tls": {"ca": directory.path().join("ca.crt")}})).await;
    let mut request = get("/chat");
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let (feeder, body) = fed();
    *request.body_mut() = body;
    let call = call(&service, request);
    let mut peer = tls_peer(&listener, &acceptor).await;
    assert_eq!(peer.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    peer.head().await;
    peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi")
        .await;
    let mut body = joined(call).await.unwrap().into_body();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "hi");
    feeder.send(piece("ping")).await.unwrap();
    assert_eq!(peer.exactly(4).await, b"ping");
    drop(feeder);
    assert_eq!(peer.rest().await, (Vec::new(), Ended::Closed));
}

#[tokio::test]
async fn https_speaks_http_2_where_the_service_does() {
    let directory = tempfile::tempdir().unwrap();
    let acceptor = certified(directory.path(), "127.0.0.1", &[b"h2", b"http/1.1"]);
    let (listener, service) =
        listening("https", json!({"tls": {"ca": directory.path().join("ca.crt")}})).await;
    let calls = [call(&service, get("/a")), call(&service, get("/b"))];
    let (stream, _) = in_time(listener.accept()).await.unwrap();
    let stream = in_time(acceptor.accept(stream)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let serve = tokio::spawn(crate::http2::serve_echo(stream));
    let mut answers = Vec::new();
    for call in calls {
        answers.push(text(joined(call).await.unwrap()).await.unwrap());
    }
    answers.sort();
    assert_eq!(answers, ["GET https://api.example.com/a ", "GET https://api.example.com/b "]);
    serve.abort();
}

#[tokio::test]
async fn an_h2c_service_cannot_switch_protocols() {
    let (_listener, service) = listening("h2c", json!({})).await;
    let mut request = get("/chat");
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    assert_eq!(answer(&service, request).await.unwrap_err().code(), FaultCode::Unsupported);
}
