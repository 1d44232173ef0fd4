//! Processes that are measured: started, watched through `/proc`, and ended with their handle.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::Outcome;

/// `/proc` counts CPU time in ticks of this rate; it is 100 on every Linux, whatever the kernel's own clock.
const TICKS_PER_SECOND: u64 = 100;

/// How every process is started. A thousand callers cost a hub two sockets each, and shells give 1,024 files; and a
/// benchmark that is killed takes its processes with it (setpriv is in Debian's util-linux).
const START: &str = "ulimit -n 65536 2>/dev/null || ulimit -n \"$(ulimit -Hn)\"
if command -v setpriv >/dev/null; then exec setpriv --pdeathsig KILL \"$@\"; fi
exec \"$@\"";

/// A process of its own, killed when this is dropped.
pub(crate) struct Process {
    /// What tables call it.
    pub(crate) name: &'static str,
    child: Child,
    /// What a role says; `None` for programs, which write into a file.
    says: Option<BufReader<ChildStdout>>,
    log: Option<PathBuf>,
}

/// What a process has used until now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time, to 10 ms.
    pub(crate) cpu: Duration,
    /// Resident memory now, in bytes.
    pub(crate) resident: u64,
    /// The most that was resident since the start or [`Process::forget_peak`], in bytes.
    pub(crate) peak: u64,
}

impl Process {
    /// Starts this program again in one of its roles, and waits until it says where it listens.
    pub(crate) fn role(name: &'static str, arguments: &[&str]) -> Outcome<(Self, SocketAddr)> {
        let mut command = command(&std::env::current_exe()?);
        let mut child =
            command.arg(name).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let says = child.stdout.take().map(BufReader::new);
        let mut process = Self { name, child, says, log: None };
        let line = process.hear()?;
        let address = line.strip_prefix("ready ").ok_or_else(|| format!("{name} did not start"))?;
        Ok((process, address.parse()?))
    }

    /// Sends a role one line, which is its sign to go on.
    pub(crate) fn tell(&mut self) -> Outcome<()> {
        let mut stdin = self.child.stdin.take().ok_or("it was told already")?;
        Ok(stdin.write_all(b"\n")?)
    }

    /// The next line that a role says.
    pub(crate) fn hear(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.says.as_mut().ok_or("only roles speak")?.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Starts a program, with its output in a file.
    pub(crate) fn program(name: &'static str, path: &Path, arguments: &[&str], log: &Path) -> Outcome<Self> {
        let file = File::create(log)?;
        let child = command(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("can't start {}: {error}", path.display()))?;
        Ok(Self { name, child, says: None, log: Some(log.to_owned()) })
    }

    /// What it has used until now.
    pub(crate) fn usage(&self) -> Outcome<Usage> {
        let stat = fs::read_to_string(self.file("stat"))?;
        // The name in parentheses may hold anything; what follows the last one is fixed (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| -> Outcome<u64> { Ok(fields.get(at).ok_or("a short stat file")?.parse()?) };
        let cpu = Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_SECOND);
        let status = fs::read_to_string(self.file("status"))?;
        let bytes = |key: &str| -> Outcome<u64> {
            // A process that has ended has no memory.
            let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or_else(|| self.ended())?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Usage { cpu, resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    /// Lets the peak start anew from what is resident now.
    pub(crate) fn forget_peak(&self) -> Outcome<()> {
        Ok(fs::write(self.file("clear_refs"), "5")?)
    }

    /// Says that it ended, and what it wrote last.
    fn ended(&self) -> String {
        let log = self.log.as_ref().and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{} has ended:\n{}", self.name, lines.join("\n"))
    }

    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.child.id()).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", START, "sh"]).arg(program);
    command
}

/// A role's first line: where it listens.
pub(crate) fn say_ready(address: SocketAddr) {
    println!("ready {address}");
}

/// A TCP port that is free now, for programs that can't be asked which one they took.
pub(crate) fn free_tcp_port() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// A UDP port that is free now.
pub(crate) fn free_udp_port() -> Outcome<SocketAddr> {
    Ok(UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?)
}
