//! The tunnel: one authenticated connection of an agent to a hub, and the calls on it.
//!
//! ```text
//!   hub                                                   agent
//!   Listener::accept ─▶ Handshake ─▶ accept_session ◀──── Dialler::dial ─▶ open_session
//!                                        │  control stream: Hello, Welcome, Drain
//!   call / open_pipe ── one bidirectional stream each ──▶ accept_call ─▶ IncomingCall
//! ```
//!
//! - [`identity`]: the certificate authority, certificates, and who a verified certificate says its holder is.
//! - [`transport`]: listening and dialling; [`link::Link`] is the one type behind which a transport hides.
//! - [`session`]: the control stream.
//! - [`call`] and [`serve`]: both ends of a call stream; [`body`] and [`pipe`] what runs on it.
//!
//! What it does not do: it knows no route, no plugin and no service, keeps no list of sessions, and never reconnects.
//! Nothing here is spawned without an owner: tasks belong to their link, and end with it.

pub mod body;
pub mod call;
pub mod identity;
pub mod link;
pub mod pipe;
pub mod serve;
pub mod session;
mod tls;
pub mod transport;

mod runtime;

pub use edgeway_proto::head::{CallInfo, HeadLimits};
