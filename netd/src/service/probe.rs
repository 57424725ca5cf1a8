//! Looks after members from the host: one task a member, so that a slow one keeps nobody waiting.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::id::Id;
use api::service::{Health, Probe, ProbeResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::model::desired::Desired;
use crate::model::endpoint::EndpointKey;
use crate::model::service::{Service, Verdict, health};
use crate::netd::Netd;

/// Longer than any status line has to be.
const MAX_STATUS: usize = 64;

/// Whom to probe, and how. One that changes is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    service: Arc<Service>,
    health: Health,
    endpoint: Id,
    key: EndpointKey,
    address: SocketAddr,
}

/// Ends with it.
struct Watch {
    target: Target,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netd {
    /// Probes the members of services for as long as it is polled.
    pub(crate) async fn watch_health(self: Arc<Self>) {
        let mut watches: HashMap<(Id, Id), Watch> = HashMap::new();
        loop {
            let view = self.view();
            let targets = targets(&view);
            self.health_notes.keep(|(service, endpoint)| {
                let members = &mut view.endpoints.in_service(service);
                members.any(|member| member.attachment.endpoint_id == *endpoint)
            });
            watches.retain(|which, watch| targets.get(which) == Some(&watch.target));
            for (which, target) in targets {
                watches.entry(which).or_insert_with(|| Watch {
                    target: target.clone(),
                    task: tokio::spawn(Arc::clone(&self).watch_member(target)),
                });
            }
            self.health_notes.changed.notified().await;
        }
    }

    async fn watch_member(self: Arc<Self>, target: Target) {
        loop {
            let result = probe(&target).await;
            let (netd, whom) = (Arc::clone(&self), target.clone());
            let taken = tokio::task::spawn_blocking(move || {
                netd.probed(&whom.service, &whom.health, &whom.key, &result)
            });
            let verdict = match taken.await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => {
                    let service = &target.service.spec.name;
                    tracing::warn!(%service, %error, "the verdict on a member is not noted yet");
                    Verdict::Up
                }
                Err(_ended) => return,
            };
            tokio::time::sleep(health::pause(&target.health, verdict)).await;
        }
    }
}

fn targets(view: &Desired) -> HashMap<(Id, Id), Target> {
    let mut targets = HashMap::new();
    for service in view.services.values() {
        let Some(health) = &service.spec.health else {
            continue;
        };
        let port = match &health.probe {
            Probe::Tcp { port } | Probe::Http { port, .. } => *port,
            Probe::Command { .. } => continue,
        };
        for endpoint in view.members_here(&service.id) {
            let Some(address) = endpoint.addresses().next() else {
                continue;
            };
            let id = endpoint.attachment.endpoint_id.clone();
            let target = Target {
                service: Arc::clone(service),
                health: health.clone(),
                endpoint: id.clone(),
                key: endpoint.key(),
                address: SocketAddr::new(address, port),
            };
            targets.insert((service.id.clone(), id), target);
        }
    }
    targets
}

async fn probe(target: &Target) -> ProbeResult {
    let Health { probe, timeout, .. } = &target.health;
    let asked = async {
        match probe {
            Probe::Tcp { .. } => connect(target.address).await.map(drop),
            Probe::Http { path, .. } => get(target.address, path).await,
            // Whoever runs the container reports.
            Probe::Command { .. } => std::future::pending().await,
        }
    };
    let outcome = tokio::time::timeout(*timeout, asked).await;
    let outcome = outcome.unwrap_or_else(|_elapsed| Err(no_answer(target.address, *timeout)));
    ProbeResult {
        healthy: outcome.is_ok(),
        error: outcome.err().unwrap_or_default(),
    }
}

fn no_answer(address: SocketAddr, timeout: Duration) -> String {
    format!("{address}: no answer within {timeout:?}")
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| format!("{address}: {error}"))
}

async fn get(address: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: hawser\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    let mut limited = stream.take(MAX_STATUS as u64);
    while !head.contains(&b'\n') {
        let read = limited.read_buf(&mut head).await.map_err(failed)?;
        if read == 0 {
            break;
        }
    }
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!(
            "{address}: GET {path} is answered with status {status}"
        )),
        None => Err(format!("{address}: not an HTTP answer")),
    }
}

/// The code of `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let text = str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    text.split(' ').nth(1)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_and_nothing_else() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\nA: b\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in [
            &b"SSH-2.0-OpenSSH\r\n"[..],
            b"HTTP/1.1\r\n",
            b"",
            b"\xff 200",
        ] {
            assert_eq!(status(bad), None);
        }
    }
}
