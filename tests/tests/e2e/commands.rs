//! The processes themselves: configs that are refused, signals, a crash, and a hub of a third party.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use edgeway_proto::{HubName, NodeName, TrustDomain};
use edgeway_tunnel::identity::Authority;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command},
};

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{TRUST_DOMAIN, eventually, within, write_identity},
};

/// Hub and agent as processes, with their files.
struct Site {
    directory: TempDir,
    rest: SocketAddr,
    finger: SocketAddr,
    admin: SocketAddr,
    tunnel: SocketAddr,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority =
            Authority::generate(&TrustDomain::new(TRUST_DOMAIN).expect("a domain")).expect("an authority");
        let hub = authority
            .issue_hub(&HubName::new("hub-1").expect("a name"), &["127.0.0.1".into()])
            .expect("issued");
        let node = authority.issue_node(&NodeName::new("berlin-1").expect("a name")).expect("issued");
        for (role, issued) in [("hub", hub), ("node", node)] {
            let identity = directory.path().join(role);
            write_identity(&identity, role, &authority, &issued.certificate_pem, &issued.key_pem);
        }
        // Processes can't be asked which port they took; these are free now.
        let tunnel = UdpSocket::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        Self { directory, rest: free().await, finger: free().await, admin: free().await, tunnel }
    }

    fn hub_config(&self) -> String {
        format!(
            "apiVersion: edgeway.dev/v1alpha1
kind: HubConfig
tunnel: {{listen: \"{}\", keepAlive: 200ms, idleTimeout: 1s}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {}/hub}}
admin: {{listen: \"{}\"}}
drain: 20s
plugins:
  rest: {{listeners: [{{address: \"{}\"}}]}}
  finger: {{listen: \"{}\"}}
routes:
- {{name: all, plugin: rest, to: {{service: s}}}}
- {{name: finger, plugin: finger, to: {{service: s}}}}
",
            self.tunnel,
            self.directory.path().display(),
            self.admin,
            self.rest,
            self.finger,
        )
    }

    fn agent_config(&self, service: SocketAddr) -> String {
        format!(
            "apiVersion: edgeway.dev/v1alpha1
kind: AgentConfig
hubs: [\"{}\"]
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {}/node}}
admin: {{enabled: false}}
uplink: {{keepAlive: 200ms, idleTimeout: 1s, backoff: {{min: 50ms, max: 200ms}}}}
services: [{{name: s, http: {{url: \"http://{service}\"}}}}]
",
            self.tunnel,
            self.directory.path().display(),
        )
    }

    fn hub(&self) -> Child {
        self.run(env!("CARGO_BIN_EXE_third-party-hub"), "hub.yaml", &self.hub_config())
    }

    fn agent(&self, service: SocketAddr) -> Child {
        self.run(env!("CARGO_BIN_EXE_stock-agent"), "agent.yaml", &self.agent_config(service))
    }

    fn run(&self, program: &str, file: &str, config: &str) -> Child {
        let file = self.directory.path().join(file);
        fs::write(&file, config).expect("written");
        let mut command = Command::new(program);
        command.args(["run", "--config"]).arg(file).kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }

    async fn until_served(&self) {
        within("calls pass", async {
            loop {
                if TcpStream::connect(self.rest).await.is_ok() && raw::get(self.rest, "/").await.status == 200
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status().await.expect("kill is there");
    assert!(sent.success());
}

async fn ended(mut child: Child) -> ExitStatus {
    within("the process ends", child.wait()).await.expect("it was started")
}

/// Exit code and everything said.
async fn outcome(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output();
    let output = within("the process ends", output).await.expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

const HUB: &str = env!("CARGO_BIN_EXE_third-party-hub");
const AGENT: &str = env!("CARGO_BIN_EXE_stock-agent");

async fn refused(program: &str, directory: &Path, config: &[u8], expected: &[&str]) {
    let file = directory.join("bad.yaml");
    fs::write(&file, config).expect("written");
    let file = file.to_str().expect("UTF-8");
    for verb in ["check", "run"] {
        let (code, said) = outcome(program, &[verb, "--config", file]).await;
        assert_eq!(code, Some(64), "{verb}: {said}");
        for expected in expected {
            assert!(said.contains(expected), "{verb} does not say {expected:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[tokio::test]
async fn a_bad_hub_config_is_refused_with_all_its_problems_and_nothing_starts() {
    let site = Site::new().await;
    fs::write(site.directory.path().join("hub/hub.key"), "no key").expect("written");
    let config = format!(
        "apiVersion: edgeway.dev/v1alpha1
kind: HubConfig
tunnel: {{listen: nowhere, colour: blue}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {}/hub}}
plugins:
  rest: {{listeners: [{{address: \"127.0.0.1:0\"}}], limits: {{connections: many}}}}
  telegraph: {{}}
routes:
- {{name: one, plugin: rest, matches: [{{path: {{type: Exact, value: /a}}}}], to: {{service: s}}}}
- {{name: two, plugin: rest, matches: [{{path: {{type: Exact, value: /a}}}}], to: {{service: s}}}}
- {{name: three, plugin: rest, to: {{}}}}
",
        site.directory.path().display()
    );
    let expected = ["tunnel.listen", "colour", "plugins.rest", "telegraph", "routes[2].to"];
    refused(HUB, site.directory.path(), config.as_bytes(), &expected).await;

    let collide = site.hub_config().replace(
        "- {name: all, plugin: rest, to: {service: s}}",
        "- {name: all, plugin: rest, to: {service: s}}\n- {name: also, plugin: rest, to: {service: t}}",
    );
    refused(HUB, site.directory.path(), collide.as_bytes(), &["routes[0]", "routes[1]"]).await;
    refused(HUB, site.directory.path(), site.hub_config().as_bytes(), &["hub.key"]).await;
}

#[tokio::test]
async fn a_bad_agent_config_is_refused_with_all_its_problems() {
    let site = Site::new().await;
    let config = format!(
        "apiVersion: edgeway.dev/v1alpha1
kind: AgentConfig
hubs: []
node: {{name: Berlin 1}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {}/nothing}}
services:
- {{name: empty}}
- {{name: both, http: {{url: \"http://127.0.0.1:1\"}}, echo: {{}}}}
- {{name: wrong, http: {{url: \"gopher://127.0.0.1:1\"}}}}
- {{name: wrong, echo: {{}}}}
",
        site.directory.path().display()
    );
    let expected = ["hubs", "node.name", "services[0]", "services[1]", "services[2].http.url", "services[3]"];
    refused(AGENT, site.directory.path(), config.as_bytes(), &expected).await;
}

#[tokio::test]
async fn files_that_are_no_config_at_all_are_refused_clearly() {
    let site = Site::new().await;
    for (config, expected) in [
        (&b""[..], "apiVersion"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"kind: [", "line"),
        (b"- a list", "bad.yaml"),
        (b"apiVersion: v9\nkind: HubConfig\n", "apiVersion"),
        (b"apiVersion: edgeway.dev/v1alpha1\nkind: AgentConfig\n", "kind"),
    ] {
        let file = site.directory.path().join("bad.yaml");
        fs::write(&file, config).expect("written");
        let (code, said) = outcome(HUB, &["check", "--config", file.to_str().expect("UTF-8")]).await;
        assert_eq!(code, Some(64), "{said}");
        let text = String::from_utf8_lossy(config);
        assert!(
            said.contains(expected) || said.contains("bad.yaml"),
            "{text:?} does not say {expected:?}: {said}"
        );
    }
    for arguments in
        [&["check", "--config", "/nowhere/hub.yaml"][..], &["run"], &["fly"], &["run", "--colour"], &[]]
    {
        let (code, said) = outcome(HUB, arguments).await;
        assert_eq!(code, Some(64), "{arguments:?}: {said}");
        assert!(!said.is_empty());
    }
    let file = site.directory.path().join("good.yaml");
    fs::write(&file, site.hub_config()).expect("written");
    let (code, said) = outcome(HUB, &["check", "--config", file.to_str().expect("UTF-8")]).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_plugin_of_a_third_party_calls_services_like_any_other() {
    let service = Service::mirror().await;
    let site = Site::new().await;
    let (_hub, _agent) = (site.hub(), site.agent(service.address));
    site.until_served().await;
    let mut caller = Caller::connect(site.finger).await;
    caller.send("alice\r\n").await;
    let said = String::from_utf8(caller.rest().await).expect("text");
    assert!(said.starts_with("GET /alice HTTP/1.1\r\nhost: finger\r\n"), "{said}");
}

#[tokio::test]
async fn one_signal_lets_calls_finish_and_a_second_ends_the_process_at_once() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let service = Service::start(move |mut connection| {
        let mut gone = gone.clone();
        async move {
            while let Some(request) = connection.request().await {
                if request.head.contains("/held ") {
                    let _ = gone.wait_for(|gone| *gone).await;
                }
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
            }
        }
    })
    .await;
    for again in [false, true] {
        go.send_replace(false);
        let site = Site::new().await;
        let (hub, _agent) = (site.hub(), site.agent(service.address));
        site.until_served().await;
        let before = service.requests();
        let mut caller = Caller::connect(site.rest).await;
        caller.send("GET /held HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
        eventually("the call is at the service", || service.requests() == before + 1).await;
        signal(&hub, "TERM").await;
        within("readiness goes false", async {
            while raw::get(site.admin, "/readyz").await.status != 503 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if again {
            signal(&hub, "INT").await;
            assert_eq!(ended(hub).await.code(), Some(130));
        } else {
            go.send_replace(true);
            assert_eq!(caller.answer().await.expect("an answer").text(), "done");
            assert_eq!(ended(hub).await.code(), Some(0));
        }
    }
}

#[tokio::test]
async fn killed_processes_are_noticed_and_replaced_unattended() {
    let service = Service::mirror().await;
    let site = Site::new().await;
    let (mut hub, mut agent) = (site.hub(), site.agent(service.address));
    site.until_served().await;
    // No word of farewell: only silence tells.
    agent.kill().await.expect("it ran");
    within("the hub notices", async {
        while !matches!(
            raw::get(site.rest, "/").await.header("edgeway-fault"),
            "node_offline" | "no_healthy_node"
        ) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let _agent = site.agent(service.address);
    site.until_served().await;
    hub.kill().await.expect("it ran");
    let _hub = site.hub();
    site.until_served().await;
}
