//! `files`: `GET /10MiB` sends so many bytes with their checksum; `POST` and `PUT` count and hash what comes.
//!
//! Memory stays the same whatever the size. The checksum (SHA-256, hexadecimal) is in the header [`CHECKSUM_HEADER`] up
//! to [`MAX_CHECKSUM_AHEAD`] bytes; a caller that says `te: trailers` gets it as a trailer too, at any size.

use edgeway_host::units::parse_size;
use edgeway_proto::NodeName;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};

use super::{
    Answer,
    download::{checksum, download, hexadecimal},
    json, text,
};

/// Header and trailer with the checksum of a download.
pub const CHECKSUM_HEADER: &str = "content-sha256";

/// Largest download whose checksum is sent ahead of it, in bytes. The whole has to be made and hashed before the first
/// byte can go, about 50 ms at this size.
pub const MAX_CHECKSUM_AHEAD: u64 = 64 << 20;

/// Largest download, in bytes: 1 TiB, more than anybody waits for.
const MAX_DOWNLOAD: u64 = 1 << 40;

const USAGE: &str = "GET /10MiB (or any number, with KiB, MiB or GiB; up to 1024GiB) sends so many bytes; POST and PUT \
                     count and hash what comes\n";

pub(super) async fn answer(request: Request<Incoming>, node: &NodeName) -> Response<Answer> {
    let allowed = [Method::GET, Method::HEAD, Method::POST, Method::PUT];
    if !allowed.contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, USAGE);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT"));
        return response;
    }
    if matches!(*request.method(), Method::POST | Method::PUT) {
        return upload(request.into_body(), node).await;
    }
    match request.uri().path().strip_prefix('/').and_then(wanted) {
        Some(bytes) => send(bytes, &request).await,
        None => text(StatusCode::BAD_REQUEST, USAGE),
    }
}

async fn upload(body: Incoming, node: &NodeName) -> Response<Answer> {
    match Intake::read(body).await {
        Ok(intake) => json(format!(
            "{{\n  \"node\": \"{node}\",\n  \"service\": \"files\",\n  \"bytes\": {},\n  \"sha256\": \"{}\"\n}}\n",
            intake.bytes, intake.sha256
        )),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("the upload broke off: {error}\n")),
    }
}

async fn send(bytes: u64, request: &Request<Incoming>) -> Response<Answer> {
    let name = HeaderName::from_static(CHECKSUM_HEADER);
    let head_only = request.method() == Method::HEAD;
    let trailer = (!head_only && wants_trailers(request.headers())).then(|| name.clone());
    let mut response = Response::new(match head_only {
        true => Empty::new().boxed_unsync(),
        false => download(bytes, trailer.clone()).boxed_unsync(),
    });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    match trailer {
        Some(name) => headers.insert(header::TRAILER, name.into()),
        None => headers.insert(header::CONTENT_LENGTH, bytes.into()),
    };
    if bytes <= MAX_CHECKSUM_AHEAD {
        // Off the runtime: on its only thread the other services would wait.
        match tokio::task::spawn_blocking(move || checksum(bytes)).await {
            Ok(sum) => {
                headers.insert(name, HeaderValue::from_str(&sum).expect("digits are a header value"));
            }
            Err(_) => return text(StatusCode::SERVICE_UNAVAILABLE, "the service is stopping\n"),
        }
    }
    response
}

/// The size that a path names, if it is one and no more than [`MAX_DOWNLOAD`].
fn wanted(text: &str) -> Option<u64> {
    parse_size(text).ok().filter(|bytes| *bytes <= MAX_DOWNLOAD)
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::TE).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

/// What a request's body was: counted and hashed as it came, not kept.
pub(super) struct Intake {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) trailers: HeaderMap,
}

impl Intake {
    /// Reads a body to its end. An early end is an error, never a shorter body.
    pub(super) async fn read(mut body: Incoming) -> Result<Self, hyper::Error> {
        let (mut bytes, mut hash, mut trailers) = (0, Sha256::new(), HeaderMap::new());
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    bytes += data.len() as u64;
                    hash.update(&data);
                }
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        Ok(Self { bytes, sha256: hexadecimal(&hash.finalize()), trailers })
    }
}
