//! What is measured: the service, and one hop each of nginx, a bare hyper proxy and Edgeway before it, all as processes
//! of their own with their configs in a temporary directory.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use edgeway_proto::{HubName, NodeName, TrustDomain};
use edgeway_tunnel::identity::{Authority, Issued, write_secret};

use crate::{
    Outcome,
    process::{Process, free_tcp_port, free_udp_port},
};

/// The trust domain of all certificates here.
pub(crate) const TRUST_DOMAIN: &str = "bench.test";

/// How long a process may take until it answers.
const START: Duration = Duration::from_secs(15);

/// One way to the service.
pub(crate) struct Way {
    /// What tables call it.
    pub(crate) name: &'static str,
    /// Where callers go.
    pub(crate) address: SocketAddr,
    /// The processes on the way, without the service.
    pub(crate) hops: Vec<Process>,
}

/// nginx with one worker and kept connections to the service.
pub(crate) fn nginx(directory: &Path, service: SocketAddr) -> Outcome<Way> {
    let address = free_tcp_port()?;
    let home = directory.join("nginx");
    fs::create_dir_all(&home)?;
    // One process, no log per call, bodies streamed through: what Edgeway does, and the best that nginx can do.
    let config = format!(
        "daemon off;
master_process off;
pid {home}/pid;
error_log {home}/error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    upstream service {{ server {service}; keepalive 512; keepalive_requests 1000000000; }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
",
        home = home.display()
    );
    let file = home.join("nginx.conf");
    fs::write(&file, config)?;
    let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].iter().find(|path| Path::new(path).exists());
    let program = Path::new(program.copied().unwrap_or("nginx"));
    let arguments = ["-p", text(&home)?, "-e", "stderr", "-c", text(&file)?];
    let hop = Process::program("nginx", program, &arguments, &home.join("output.log"))?;
    wait_until_answered(address, &home.join("output.log"))?;
    Ok(Way { name: "nginx", address, hops: vec![hop] })
}

/// The minimal proxy of [`crate::proxy`].
pub(crate) fn hyper(service: SocketAddr) -> Outcome<Way> {
    let (hop, address) = Process::role("proxy", &["--service", &service.to_string()])?;
    Ok(Way { name: "hyper", address, hops: vec![hop] })
}

/// A hub and its certificates, and where to find it.
pub(crate) struct Hub {
    pub(crate) process: Process,
    pub(crate) rest: SocketAddr,
    pub(crate) tunnel: SocketAddr,
    authority: Authority,
    home: PathBuf,
}

/// Calls in flight that hub and agent allow. The default of both holds 512 of one service; a thousand slow readers are
/// let in by raising it, and only where they are measured: budgets have a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    Default,
    AtMost(u32),
}

impl Hub {
    /// Starts a hub with one route, everything to service `bench`.
    pub(crate) fn start(directory: &Path, name: &str, calls: Calls) -> Outcome<Self> {
        let home = directory.join(name);
        let identity = home.join("identity");
        let authority = Authority::generate(&TrustDomain::new(TRUST_DOMAIN)?)?;
        let issued =
            authority.issue_hub(&HubName::new("bench")?, &["localhost".into(), "127.0.0.1".into()])?;
        write_identity(&identity, "hub", &authority, &issued)?;
        let (rest, tunnel) = (free_tcp_port()?, free_udp_port()?);
        let (limits, route) = match calls {
            Calls::Default => (String::new(), String::new()),
            Calls::AtMost(calls) => {
                (format!(", limits: {{callsPerNode: {calls}}}"), format!("  limits: {{calls: {calls}}}\n"))
            }
        };
        let config = format!(
            "apiVersion: edgeway.dev/v1alpha1
kind: HubConfig
tunnel: {{listen: \"{tunnel}\"{limits}}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {identity}}}
admin: {{listen: \"{admin}\"}}
plugins:
  rest: {{listeners: [{{address: \"{rest}\"}}]}}
routes:
- name: bench
  plugin: rest
  matches: [{{path: {{type: PathPrefix, value: /}}}}]
  to: {{service: bench}}
{route}",
            identity = identity.display(),
            admin = free_tcp_port()?,
        );
        let process = start("hub", "cloud-hub", &home, &config)?;
        Ok(Self { process, rest, tunnel, authority, home })
    }

    /// Writes the identity of a node.
    pub(crate) fn issue_node(&self, directory: &Path, name: &str) -> Outcome<()> {
        write_identity(directory, "node", &self.authority, &self.authority.issue_node(&NodeName::new(name)?)?)
    }

    /// Starts an agent before the service, and waits until calls get there.
    pub(crate) fn with_agent(self, service: SocketAddr, calls: Calls) -> Outcome<Way> {
        let home = self.home.join("agent");
        let identity = home.join("identity");
        self.issue_node(&identity, "bench-1")?;
        let (limits, connections) = match calls {
            Calls::Default => (String::new(), String::new()),
            Calls::AtMost(calls) => (
                format!("limits: {{calls: {calls}, callsPerService: {calls}}}\n"),
                format!(", limits: {{connections: {calls}}}"),
            ),
        };
        let config = format!(
            "apiVersion: edgeway.dev/v1alpha1
kind: AgentConfig
hubs: [\"localhost:{port}\"]
node: {{name: bench-1}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {identity}}}
admin: {{listen: \"{admin}\"}}
{limits}services:
- name: bench
  http: {{url: \"http://{service}\"{connections}}}
",
            port = self.tunnel.port(),
            identity = identity.display(),
            admin = free_tcp_port()?,
        );
        let agent = start("agent", "edge-agent", &home, &config)?;
        wait_until_answered(self.rest, &self.home.join("output.log"))?;
        Ok(Way { name: "edgeway", address: self.rest, hops: vec![self.process, agent] })
    }
}

fn write_identity(directory: &Path, role: &str, authority: &Authority, issued: &Issued) -> Outcome<()> {
    write_secret(&directory.join("ca.crt"), authority.certificate_pem())?;
    write_secret(&directory.join(format!("{role}.crt")), &issued.certificate_pem)?;
    write_secret(&directory.join(format!("{role}.key")), &issued.key_pem)?;
    Ok(())
}

/// Starts one of our binaries, which lie beside this one.
fn start(name: &'static str, binary: &str, home: &Path, config: &str) -> Outcome<Process> {
    let file = home.join("config.yaml");
    fs::write(&file, config)?;
    let program = std::env::current_exe()?.with_file_name(binary);
    Process::program(name, &program, &["run", "--config", text(&file)?], &home.join("output.log"))
}

/// Asks until the service answers through `address`.
fn wait_until_answered(address: SocketAddr, log: &Path) -> Outcome<()> {
    let began = Instant::now();
    while !answers(address) {
        if began.elapsed() > START {
            let log = fs::read_to_string(log).unwrap_or_default();
            return Err(format!("nothing answers at {address} after {START:?}:\n{log}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /0 HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

pub(crate) fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
