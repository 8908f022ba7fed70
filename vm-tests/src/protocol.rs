//! QEMU's two control channels: the monitor (QMP) and the guest agent. Both are
//! lines of JSON over a socket.
//!
//! Only a dozen commands are needed, so they are written as JSON values; a crate
//! with QEMU's whole schema would be most of this program's build time.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::HANG;

struct Lines {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Lines {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("sending {command}"))
    }

    /// The next line, or nothing if none came before the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                // The agent puts a byte 0xff before its answer to
                // guest-sync-delimited; it is nowhere else in JSON.
                let start = line
                    .iter()
                    .rposition(|&byte| byte == 0xff)
                    .map_or(0, |position| position + 1);
                match serde_json::from_slice(&line[start..]) {
                    Ok(value) => return Ok(Some(value)),
                    // The rest of an answer from before the last reset.
                    Err(_) => continue,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("QEMU closed the connection"),
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn result(command: &str, mut answer: Value) -> Result<Value> {
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(anyhow!("{command}: {}", answer["error"]["desc"])),
    }
}

/// QEMU's monitor.
pub struct Monitor(Lines);

impl Monitor {
    /// Greets a QEMU.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let mut monitor = Self(Lines::new(stream));
        monitor
            .0
            .receive(Instant::now() + HANG)?
            .context("QEMU's monitor does not greet")?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.0.send(command, &arguments)?;
        let deadline = Instant::now() + HANG;
        loop {
            let answer = self
                .0
                .receive(deadline)?
                .with_context(|| format!("{command}: no answer from QEMU's monitor"))?;
            if answer.get("event").is_none() {
                return result(command, answer);
            }
        }
    }

    /// Waits for an event that has not come yet.
    pub fn wait_for_event(&mut self, event: &str) -> Result<()> {
        let deadline = Instant::now() + HANG;
        while let Some(message) = self.0.receive(deadline)? {
            if message["event"] == event {
                return Ok(());
            }
        }
        bail!("QEMU did not tell of {event} within {HANG:?}")
    }
}

/// The agent in the guest.
pub struct Agent {
    lines: Lines,
    synchronisations: u64,
}

impl Agent {
    /// For the agent's socket; the agent itself may come later.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            lines: Lines::new(stream),
            synchronisations: 0,
        }
    }

    /// Waits until the agent answers, and drops what is left of earlier
    /// requests.
    pub fn synchronise(&mut self) -> Result<()> {
        let deadline = Instant::now() + HANG;
        let mut patience = Duration::from_secs(5);
        while Instant::now() < deadline {
            self.synchronisations += 1;
            let id = u64::from(std::process::id()) << 20 | self.synchronisations;
            self.lines
                .send("guest-sync-delimited", &json!({ "id": id }))?;
            let wait = Instant::now() + patience;
            // What was sent before the agent was there may be lost, so it is sent again; but an agent
            // that is slow answers the last one in the end.
            patience += Duration::from_secs(5);
            while let Some(answer) = self.lines.receive(wait.min(deadline))? {
                if answer["return"] == json!(id) {
                    return Ok(());
                }
            }
        }
        bail!("the guest agent did not answer within {HANG:?}")
    }

    /// Executes a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.lines.send(command, &arguments)?;
        let answer = self
            .lines
            .receive(Instant::now() + HANG)?
            .with_context(|| format!("{command}: no answer from the guest agent"))?;
        result(command, answer)
    }
}
