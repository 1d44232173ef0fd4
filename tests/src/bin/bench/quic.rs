//! Roles `quic-accept` and `quic-transfer`: one raw quinn stream between two processes, without frames, HTTP or routes.
//! The yardstick for bulk.
//!
//! The dialling side opens a stream for each transfer and writes a direction and a size; the other side sends that many
//! bytes, or takes them and answers with one.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use edgeway_tunnel::transport::Budgets;
use quinn::{
    ClientConfig, Connection, Endpoint, ReadExactError, RecvStream, SendStream, ServerConfig,
    TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};

use crate::{Outcome, bulk::Direction, process};

const PIECE: usize = 64 * 1024;
static ZEROS: [u8; PIECE] = [0; PIECE];
const NAME: &str = "localhost";

/// Writes a certificate and its key for both roles.
pub(crate) fn write_certificate(directory: &Path) -> Outcome<()> {
    let pair = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(directory.join("quic.crt"), pair.cert.pem())?;
    std::fs::write(directory.join("quic.key"), pair.signing_key.serialize_pem())?;
    Ok(())
}

/// The windows that the tunnel has, so that the comparison is of the same transport.
fn transport() -> Arc<TransportConfig> {
    let budgets = Budgets::default();
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(budgets.stream_window))
        .receive_window(VarInt::from_u32(512 * 1024 * 1024))
        .send_window(8 * 1024 * 1024);
    Arc::new(config)
}

/// Takes connections until it is killed.
pub(crate) async fn accept(directory: &Path) -> Outcome<()> {
    let certificate = CertificateDer::from_pem_file(directory.join("quic.crt"))?;
    let key = PrivateKeyDer::from_pem_file(directory.join("quic.key"))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![b"bench".into()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    process::say_ready(endpoint.local_addr()?);
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        tokio::spawn(async move {
            while let Ok((send, recv)) = connection.accept_bi().await {
                if let Err(error) = serve(send, recv).await {
                    eprintln!("quic-accept: {error}");
                }
            }
        });
    }
    Ok(())
}

async fn serve(mut send: SendStream, mut recv: RecvStream) -> Outcome<()> {
    let mut head = [0; 9];
    recv.read_exact(&mut head).await.map_err(|error: ReadExactError| error.to_string())?;
    let size = u64::from_be_bytes(head[1..].try_into()?);
    if head[0] == b'd' {
        write(&mut send, size).await?;
    } else {
        let read = drain(&mut recv).await?;
        send.write_all(&[u8::from(read == size)]).await?;
    }
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

/// One transfer after the other, each printed as its nanoseconds.
pub(crate) async fn transfer(
    directory: &Path,
    peer: SocketAddr,
    direction: Direction,
    size: u64,
    times: u32,
) -> Outcome<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("quic.crt"))?)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"bench".into()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let connection = endpoint.connect_with(config, peer, NAME)?.await?;
    for _ in 0..times {
        println!("{}", once(&connection, direction, size).await?.as_nanos());
    }
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn once(connection: &Connection, direction: Direction, size: u64) -> Outcome<Duration> {
    let began = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[if direction == Direction::Down { b'd' } else { b'u' }]).await?;
    send.write_all(&size.to_be_bytes()).await?;
    let whole = match direction {
        Direction::Down => drain(&mut recv).await? == size,
        Direction::Up => {
            write(&mut send, size).await?;
            send.finish()?;
            recv.read_to_end(1).await? == [1]
        }
    };
    if whole { Ok(began.elapsed()) } else { Err("the stream was not whole".into()) }
}

async fn write(send: &mut SendStream, size: u64) -> Outcome<()> {
    let mut left = size;
    while left > 0 {
        let piece = left.min(PIECE as u64) as usize;
        send.write_chunk(Bytes::from_static(&ZEROS[..piece])).await?;
        left -= piece as u64;
    }
    Ok(())
}

async fn drain(recv: &mut RecvStream) -> Outcome<u64> {
    let mut read = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        read += chunk.bytes.len() as u64;
    }
    Ok(read)
}
